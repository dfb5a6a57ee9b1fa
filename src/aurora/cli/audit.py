"""`aurora audit show`, `verify` and `security`: what was done, and what is weak."""

import json as json_text
from pathlib import Path
from typing import Annotated

import typer

from aurora import api, clock
from aurora.api.security import SAMPLE
from aurora.cli import context as run
from aurora.cli.render import Surface, findings, plan, surface, table
from aurora.errors import IntegrityError, UsageError
from aurora.operations.audit import KINDS, Entry
from aurora.operations.findings import Level
from aurora.operations.log import parse_time
from aurora.units import format_count, plural

audit = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]
Storage = Annotated[str, typer.Option(help="Read from: primary or secondary.")]


@audit.callback()
def group() -> None:
    """The audit trail."""


@audit.command("show")
def show(
    context: typer.Context,
    record: Annotated[
        str | None, typer.Argument(help="A record's number or id: all that it holds.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="From this time on (UTC without a zone).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Up to this time.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help=f"Only these; may be given again: {', '.join(KINDS)}.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="With a record: save its attached reports here.")
    ] = None,
    storage: Storage = "primary",
    json: Json = False,
) -> None:
    """List what was done, oldest first: runs, restores, tests, keys, incidents.

    With --json one line of message_type "record" each.
    """
    with surface(json) as shown:
        aurora = run.load(context, sink=shown.sink)
        if record is not None:
            _show_one(shown, api.audit_entry(aurora, record, storage=storage), save)
            return
        if save is not None:
            raise UsageError("--save needs a record", hint="Give its number, or its id.")
        found = api.audit_entries(
            aurora,
            kinds=kind,
            since=parse_time(since) if since else None,
            until=parse_time(until) if until else None,
            storage=storage,
            newest_first=False,
            sink=shown.sink,
        )
        rows = []
        for one in found:
            shown.record("record", one.document())
            rows.append(
                (one.sequence, clock.isoformat(one.at), one.kind, one.operation, one.outcome,
                 f"{one.user}@{one.host}", _gist(one))
            )  # fmt: skip
        if rows:
            columns = ("no.", "at (UTC)", "kind", "command", "outcome", "by", "")
            shown.print(table(columns, rows, right="no."))
        shown.summary(
            {"operation": "audit show", "records": len(rows)},
            [plural(len(rows), "record") if rows else "nothing is recorded yet"],
        )


def _show_one(shown: Surface, one: Entry, save: Path | None) -> None:
    saved = _save(one, save) if save is not None else []
    facts = [
        ("record", f"{one.sequence}, {one.id}"),
        ("at", clock.isoformat(one.at)),
        ("kind", one.kind),
        ("command", one.operation),
        ("outcome", one.outcome),
        ("database", one.database),
        ("by", f"{one.user}@{one.host}"),
        *((name, _one_line(value)) for name, value in one.facts.items()),
        *(("attached", f"{name}, {len(text)} letters") for name, text in one.attachments.items()),
    ]
    shown.print(*plan("Audit record", facts))
    shown.summary(
        {"operation": "audit show", "record": one.document(), "saved": saved},
        [*(f"saved {path}" for path in saved), one.name],
    )


def _save(one: Entry, directory: Path) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    saved = []
    for name, text in one.attachments.items():
        path = directory / Path(name).name
        path.write_text(text, encoding="utf-8")
        saved.append(str(path))
    return saved


def _gist(one: Entry) -> str:
    """The one or two facts that tell a record from its neighbours."""
    facts = one.facts
    named = [
        str(facts[name])
        for name in ("backup_id", "backup", "scenario", "incident", "title", "table", "what")
        if facts.get(name)
    ]
    told = [str(facts[name]) for name in ("message", "verdict") if facts.get(name)]
    return ": ".join([*named[:1], *told[:1]])


def _one_line(value: object) -> str:
    text = value if isinstance(value, str) else json_text.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}…"


@audit.command("security")
def security(
    context: typer.Context,
    sample: Annotated[
        int, typer.Option(min=1, help="Objects of each storage to look into.")
    ] = SAMPLE,
    json: Json = False,
) -> None:
    """Look for weaknesses: secrets, rights, public buckets, encryption, keys, tests, versions.

    Each finding says what to do. Exit code 1 with an error, 0 with warnings.
    """
    with surface(json) as shown:
        report = api.audit_security(
            run.load(context, sink=shown.sink), sample=sample, sink=shown.sink
        )
        shown.print(*findings(report.findings))
        document = {"operation": "audit security", **report.document(), "path": report.path}
        shown.summary(document, [f"report {report.path}", f"security audit: {report.verdict}"])
    if report.count(Level.ERROR):
        raise typer.Exit(1)


@audit.command("verify")
def verify(context: typer.Context, storage: Storage = "primary", json: Json = False) -> None:
    """Look whether the record is whole: nothing altered, nothing removed. Exit code 40 if not.

    Records name those before them. The newest ones are compared with what this machine
    remembers and with the secondary's copies.
    """
    with surface(json) as shown:
        report = api.verify_audit(
            run.load(context, sink=shown.sink), storage=storage, sink=shown.sink
        )
        shown.summary(
            {
                "operation": "audit verify",
                "ok": report.ok,
                "records": report.records,
                "first_at": report.first_at,
                "last_at": report.last_at,
                "forks": report.forks,
                "altered": report.altered,
                "removed": report.removed,
                "strangers": report.strangers,
                "heads": [head.document() for head in report.heads],
            },
            [
                *(f"ALTERED: {name}: {why}" for name, why in sorted(report.altered.items())),
                *(f"REMOVED: {name}: {by}" for name, by in sorted(report.removed.items())),
                *(f"not a record: {name}" for name in report.strangers),
                *([f"{plural(report.forks, 'fork')}: two runs recorded at once; that is no fault"]
                  if report.forks else []),
                f"{format_count(report.records)} records"
                + (f" from {report.first_at} to {report.last_at}" if report.records else "")
                + f": {'whole' if report.ok else 'NOT whole'}",
            ],
        )  # fmt: skip
    if not report.ok:
        raise IntegrityError(
            f"the audit trail is not whole: {len(report.altered)} records altered, "
            f"{len(report.removed)} removed",
            hint="Somebody wrote to the storage, or it lost objects. Backups are not touched by "
            "this; run `aurora backup verify latest`. `aurora audit show --storage secondary` "
            "reads the secondary's copies, `aurora backup heal all` brings removed ones back.",
            context={"altered": sorted(report.altered), "removed": sorted(report.removed)},
        )
