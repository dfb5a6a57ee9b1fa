"""`aurora log show`: what happened on the source, from the change log."""

from typing import Annotated

import typer

from aurora import api, clock
from aurora.cli import context as run
from aurora.cli.render import surface
from aurora.engines.logical.ddl import read_change
from aurora.engines.logical.marks import CHANGE, point_of
from aurora.engines.logical.pgoutput import format_lsn
from aurora.operations.log import Changes, Filter, Transaction, parse_time
from aurora.units import format_count, plural

log = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@log.callback()
def group() -> None:
    """Look into the change log."""


@log.command("show")
def show(
    context: typer.Context,
    since: Annotated[
        str | None, typer.Option("--from", help="From this time on (UTC without a zone).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Up to this time.")] = None,
    table: Annotated[str, typer.Option(help="Only what changed this schema.table.")] = "",
    marks: Annotated[
        bool, typer.Option("--marks", help="Also transactions with a mark of Aurora only.")
    ] = False,
    storage: Annotated[str, typer.Option(help="Read from: primary or secondary.")] = "primary",
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """List committed transactions, oldest first: time, xid, LSN, and rows changed by table.

    With --json one line of message_type "transaction" each.
    """
    with surface(json) as shown:
        aurora = run.load(context)
        wanted = Filter(
            since=parse_time(since) if since else None,
            until=parse_time(until) if until else None,
            table=table,
            with_marks=marks,
        )
        count = rows = 0
        last: Transaction | None = None
        for one in api.transactions(aurora, wanted, storage=storage, sink=shown.sink):
            count += 1
            rows += sum(c.inserted + c.updated + c.deleted for c in one.tables.values())
            last = one
            if shown.json:
                shown.record("transaction", one.document())
            else:
                shown.print(_line(one))
        shown.summary(
            {
                "operation": "log show",
                "transactions": count,
                "rows": rows,
                "last": last.document() if last else None,
            },
            [f"{plural(count, 'transaction')}, {format_count(rows)} rows changed"],
        )


def _line(one: Transaction) -> str:
    changed = "; ".join(f"{name} {_changes(found)}" for name, found in one.tables.items())
    said = " ".join(f"[{_told(text)}]" for text in one.messages)
    parts = (clock.isoformat(one.commit_at), f"xid {one.xid}", format_lsn(one.lsn), changed, said)
    return "  ".join(part for part in parts if part)


def _told(mark: str) -> str:
    """A mark of Aurora in words."""
    if name := point_of(mark):
        return f"restore point {name}"
    if mark.startswith(CHANGE):
        return f"schema: {read_change(mark).tag}"
    return mark


def _changes(found: Changes) -> str:
    parts = [
        f"{sign}{format_count(number)}"
        for sign, number in (("+", found.inserted), ("~", found.updated), ("-", found.deleted))
        if number
    ]
    return " ".join([*parts, *(["truncated"] if found.truncated else [])])
