"""`aurora incident recover`: rows put back, one table, or the whole database."""

from typing import Annotated, Any

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.incident_options import BadXid, By, DryRun, Json, Storage, Which, Yes
from aurora.cli.moments import At, BeforeXid, Lsn, Name, Xid, named_target
from aurora.cli.prompts import confirm, confirm_by_typing
from aurora.cli.render import Surface, plan, surface, table
from aurora.errors import UsageError
from aurora.operations.incident.rows import RowsPlan, RowsReport
from aurora.operations.reports import RestoreReport
from aurora.operations.restore_table_plan import TableOptions
from aurora.units import format_count, format_duration, plural
from aurora.wiring import Aurora

_SHOWN = 12  # lines of the SQL


def recover(
    context: typer.Context,
    how: Annotated[
        str, typer.Option(help="rows: put back what was damaged. table. whole: everything.")
    ] = "rows",
    of_table: Annotated[
        list[str] | None,
        typer.Option("--table", help="Only this schema.table; with --how rows it may be repeated."),
    ] = None,
    as_name: Annotated[
        str | None, typer.Option("--as", help="A table beside, with --how table.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Swap the live table's rows, with --how table.")
    ] = False,
    into: Annotated[
        str | None, typer.Option("--target", help="Another database, with --how table or whole.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Replace the live database, with --how whole.")
    ] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Only try it on a throw-away server, and measure.")
    ] = False,
    save_lost: Annotated[
        str | None,
        typer.Option(help="Only save the rows that going back would lose, as csv or sql."),
    ] = None,
    at: At = None,
    lsn: Lsn = None,
    xid: Xid = None,
    before_xid: BeforeXid = None,
    name: Name = None,
    bad_xid: BadXid = None,
    which: Which = None,
    storage: Storage = "primary",
    by: By = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Recover from the damage: to the point of `recovery-point`, or to one named here.

    By default rows that the bad transactions deleted or overwrote come back into the live
    database, and what good ones touched since is left alone and listed.
    """
    with surface(json) as shown:
        aurora = run.load(context)
        target, notices = named_target(at, lsn, xid, before_xid, name, yes=yes or dry_run)
        shown.print(*notices)
        common: dict[str, Any] = {
            "target": target, "incident": which, "storage": storage, "sink": shown.sink,
        }  # fmt: skip
        if rehearse:
            _rehearse(shown, aurora, by, common)
        elif save_lost is not None:
            _save(shown, aurora, save_lost, bad_xid or [], common)
        elif api.require_how(how) == "rows":
            tables = tuple(of_table or ())
            _rows(shown, aurora, tables, bad_xid or [], by, common, dry_run=dry_run, yes=yes)
        elif dry_run:
            raise UsageError(
                "--dry-run shows rows alone",
                hint="For a table or the whole: `aurora backup restore-point --before-xid N "
                "--dry-run`.",
            )
        elif how == "table":
            options = TableOptions(as_name=as_name, replace=replace)
            _table(shown, aurora, of_table or [], options, into, by, common, yes=yes)
        else:
            _whole(shown, aurora, into, by, common, in_place=in_place, yes=yes)


def _rows(
    shown: Surface,
    aurora: Aurora,
    tables: tuple[str, ...],
    bad: list[int],
    by: str,
    common: dict[str, Any],
    *,
    dry_run: bool,
    yes: bool,
) -> None:
    def agreed(chosen: RowsPlan) -> None:
        _show_rows(shown, chosen)
        if chosen.changes:
            confirm("Put these rows back?", action="put rows back", yes=yes)

    made, report = api.recover_rows(
        aurora, tables=tables, bad=bad, by=by, confirm=None if dry_run else agreed, **common
    )
    document = {"operation": "incident recover", "how": "rows", **made.document()}
    if report is None:
        _show_rows(shown, made)
        shown.summary({**document, "dry_run": True}, ["dry run: nothing was changed"])
        return
    shown.summary({**document, **report.document()}, _told(made, report))


def _show_rows(shown: Surface, chosen: RowsPlan) -> None:
    columns = ["table", "insert", "update", "remove", "conflicts", "only added"]
    rows = [
        [one.table, *(format_count(one.counts.get(action, 0))
                      for action in ("insert", "update", "remove", "conflict", "extra"))]
        for one in chosen.tables
    ]  # fmt: skip
    shown.print(table(columns, rows, right="insert update remove conflicts added"))
    for one in chosen.tables:
        shown.print(*(f"{one.table}: {note}" for note in one.notes))
    with chosen.sql.open(errors="replace") as file:
        shown.print(
            *(line.rstrip("\n")[:160] for line, _ in zip(file, range(_SHOWN), strict=False))
        )
    shown.print(f"the whole SQL: {chosen.sql}")
    if chosen.total("conflict") or chosen.total("extra"):
        shown.print(f"left alone, with both images: {chosen.conflicts}")


def _told(made: RowsPlan, report: RowsReport) -> list[str]:
    lines = []
    if report.conflicts:
        lines.append(
            f"{plural(report.conflicts, 'row')} that good transactions touched since are left "
            f"alone: {made.conflicts}"
        )
    if report.left:
        lines.append(f"{plural(report.left, 'row')} changed since the review, and left alone")
    lines.append(
        f"put back in {format_duration(report.seconds)}: {format_count(report.inserted)} rows "
        f"inserted, {format_count(report.updated)} updated, {format_count(report.removed)} "
        "removed; every one checked"
    )
    return lines


def _table(
    shown: Surface,
    aurora: Aurora,
    tables: list[str],
    options: TableOptions,
    into: str | None,
    by: str,
    common: dict[str, Any],
    *,
    yes: bool,
) -> None:
    if len(tables) != 1:
        raise UsageError("--how table takes one --table", hint="Nothing was changed.")

    def agreed(chosen: Any) -> None:
        shown.print(*plan("Recover a table", chosen.facts()))
        if chosen.replaces:
            confirm_by_typing(chosen.name, action=f"swap the rows of {chosen.name}", yes=yes)

    report = api.recover_table(
        aurora, tables[0], options, into=into, by=by, confirm=agreed, **common
    )
    if report.outcome == api.FINISHED_BEFORE:
        _finished_before(shown, "table", report)
        return
    shown.summary(
        {"operation": "incident recover", "how": "table", **report.document()},
        [f"{report.table} recovered to {report.recovered_to}"
         + (f" as {report.restored_as}" if report.restored_as else "")
         + f": {format_count(report.rows)} rows; report {report.path}"],
    )  # fmt: skip


def _whole(
    shown: Surface,
    aurora: Aurora,
    into: str | None,
    by: str,
    common: dict[str, Any],
    *,
    in_place: bool,
    yes: bool,
) -> None:
    def agreed(chosen: Any) -> None:
        shown.print(*plan("Recover the whole database", chosen.facts()))
        if chosen.restore.mode == "swap":
            if into is None:
                shown.print("the new database has no fence: writes to it go on at once")
            name = chosen.restore.state.name
            confirm_by_typing(
                name, action=f"replace {chosen.restore.state.info.redacted()}", yes=yes
            )

    report = api.recover_whole(
        aurora, into=into, in_place=in_place, by=by, confirm=agreed, **common
    )
    if report.outcome == api.FINISHED_BEFORE:
        _finished_before(shown, "whole", report)
        return
    shown.summary(
        {"operation": "incident recover", "how": "whole", **report.document()},
        [f"recovered to {report.recovered_to}: {format_count(report.rows)} rows in "
         f"{format_duration(report.seconds)}, {report.outcome}; report {report.path}"],
    )  # fmt: skip


def _finished_before(shown: Surface, how: str, report: RestoreReport) -> None:
    """The run before this one died, but not before it was through."""
    what = report.restored_as or report.table or "the database"
    old = f"; the replaced one is {report.old_database}" if report.old_database else ""
    shown.summary(
        {"operation": "incident recover", "how": how, **report.document()},
        [f"{what} was recovered to {report.recovered_to} by the run before this one, which died "
         f"afterwards: nothing is left to do{old}. Compare it: aurora backup validate"],
    )  # fmt: skip


def _rehearse(shown: Surface, aurora: Aurora, by: str, common: dict[str, Any]) -> None:
    found = api.rehearse(aurora, by=by, **common)
    shown.summary(
        {"operation": "incident recover", "how": "rehearsal", **found.document()},
        [f"rehearsed: the whole database in {format_duration(found.seconds)}, "
         f"{format_count(found.rows)} rows, {found.outcome}; expect about that, and the way of "
         "the network to the real server"],
    )  # fmt: skip


def _save(
    shown: Surface, aurora: Aurora, form: str, bad: list[int], common: dict[str, Any]
) -> None:
    saved = api.save_lost_rows(aurora, form=form, bad=bad, **common)
    shown.print(*(f"{one.table}: {format_count(one.rows)} rows in {one.path}" for one in saved))
    shown.summary(
        {
            "operation": "incident recover",
            "how": "save-lost",
            "saved": [
                {"table": one.table, "rows": one.rows, "path": str(one.path)} for one in saved
            ],
        },
        [f"{plural(sum(one.rows for one in saved), 'row')} saved aside"],
    )
