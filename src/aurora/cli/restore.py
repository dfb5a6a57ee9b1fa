"""`aurora backup restore`, `restore-full` and `restore-table`."""

from pathlib import Path
from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.moments import At, BeforeXid, Latest, Lsn, Name, Xid, named_target
from aurora.cli.prompts import confirm_by_typing
from aurora.cli.render import Surface, plan, surface
from aurora.engines.logical.targets import Target as Moment
from aurora.errors import Incomplete, UsageError
from aurora.operations.recover import RecoveryPlan
from aurora.operations.reports import RestoreReport
from aurora.operations.restore_plan import RestoreOptions, RestorePlan
from aurora.operations.restore_table_plan import TableOptions, TablePlan
from aurora.units import format_count, format_duration, format_size
from aurora.wiring import Aurora

BackupId = Annotated[str, typer.Argument(help="A backup's id, a unique part of it, or latest.")]
OptionalId = Annotated[
    str | None, typer.Argument(help="A backup's id, a unique part of it, or latest.")
]
Target = Annotated[
    str | None, typer.Option(help="Connection string to restore to; by default the source.")
]
Jobs = Annotated[int | None, typer.Option(help="Connections that load side by side.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan, do nothing.")]
InPlace = Annotated[
    bool, typer.Option("--in-place", help="Replace a database that holds something.")
]
Identity = Annotated[
    list[Path] | None,
    typer.Option("--identity", help="The age identity file that opens a sealed backup."),
]
Storage = Annotated[str, typer.Option(help="Read from: primary or secondary.")]
NoSafety = Annotated[
    bool, typer.Option("--no-safety-backup", help="Do not back up what is replaced.")
]
AcceptRefusals = Annotated[
    bool,
    typer.Option("--accept-refusals", help="Finish although the target refuses statements."),
]


def restore(
    context: typer.Context,
    backup_id: BackupId,
    target: Target = None,
    in_place: InPlace = False,
    jobs: Jobs = None,
    storage: Storage = "primary",
    identity: Identity = None,
    no_safety_backup: NoSafety = False,
    accept_refusals: AcceptRefusals = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Restore schema and data of the database, checked before it is called done.

    Over a database that holds something only with --in-place: a safety backup is taken,
    the restored database is built beside it and takes its place in one step.
    """
    with surface(json) as shown:
        aurora = run.load(context, {"restore": {"jobs": jobs}}, sink=shown.sink)
        report = api.restore(
            aurora,
            backup_id,
            target=target,
            options=api.restore_options(
                aurora,
                in_place=in_place,
                safety=not no_safety_backup,
                accept_refusals=accept_refusals,
            ),
            storage=storage,
            identity=identity or (),
            confirm=lambda chosen: _confirm(shown, chosen, yes=yes),
            sink=shown.sink,
        )
        finish(shown, report)


def restore_full(
    context: typer.Context,
    backup_id: OptionalId = None,
    at: At = None,
    lsn: Lsn = None,
    xid: Xid = None,
    before_xid: BeforeXid = None,
    name: Name = None,
    latest: Latest = False,
    target: Target = None,
    in_place: InPlace = False,
    dry_run: DryRun = False,
    jobs: Jobs = None,
    storage: Storage = "primary",
    identity: Identity = None,
    no_safety_backup: NoSafety = False,
    accept_refusals: AcceptRefusals = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Restore the complete system onto a server: roles, settings, and the database.

    As a backup holds it, or with --at and its like as of a point in time; then a backup that
    is named is the full to start from. What the server forbids is listed at the end (exit
    code 3); the rest is restored.
    """
    with surface(json) as shown:
        moment, notices = named_target(
            at, lsn, xid, before_xid, name, latest=latest, yes=yes or dry_run
        )
        aurora = run.load(context, {"restore": {"jobs": jobs}}, sink=shown.sink)
        options = api.restore_options(
            aurora,
            in_place=in_place or dry_run,
            safety=not no_safety_backup,
            with_roles=True,
            accept_refusals=accept_refusals,
        )
        if moment is not None:
            if identity:
                raise UsageError(
                    "a sealed backup has no place in the change log",
                    hint="Leave out --identity for a point in time.",
                )
            recover_to(
                shown, aurora, "restore-full", moment, notices, target=target, options=options,
                full=backup_id, storage=storage, dry_run=dry_run, yes=yes,
            )  # fmt: skip
            return
        backup_id = _need_id(backup_id)
        if dry_run:
            chosen = api.plan_restore(
                aurora, backup_id, target=target, options=options, storage=storage,
                identity=identity or (), sink=shown.sink,
            )  # fmt: skip
            tell_plan(shown, "restore-full", "Restore", chosen.facts(), chosen.document())
            return
        report = api.restore(
            aurora,
            backup_id,
            target=target,
            options=options,
            storage=storage,
            identity=identity or (),
            confirm=lambda chosen: _confirm(shown, chosen, yes=yes),
            sink=shown.sink,
        )
        finish(shown, report)


def _need_id(backup_id: str | None) -> str:
    if backup_id is None:
        raise UsageError(
            "name a backup, or a point in time",
            hint="Nothing was changed. Give a backup's id or latest; or --at "
            '"2024-01-09T12:00:00Z", --lsn, --xid, --before-xid, --name, --latest.',
        )
    return backup_id


def recover_to(
    shown: Surface,
    aurora: Aurora,
    verb: str,
    moment: Moment,
    notices: list[str],
    *,
    target: str | None,
    options: RestoreOptions,
    full: str | None,
    storage: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Recover a database or a system to a point in time, or show how."""
    title = verb.replace("-", " ").capitalize()
    if dry_run:
        planned = api.plan_point(
            aurora, moment, target=target, options=options, full=full, storage=storage,
            notices=notices, sink=shown.sink,
        )  # fmt: skip
        tell_plan(shown, verb, title, planned.facts(), planned.document())
        return

    def confirm(chosen: RecoveryPlan) -> None:
        shown.print(*plan(title, chosen.facts()))
        _confirm_swap(chosen.restore, yes=yes)

    report = api.restore_point(
        aurora, moment, target=target, options=options, full=full, storage=storage,
        notices=notices, confirm=confirm, sink=shown.sink,
    )  # fmt: skip
    finish(shown, report)


def tell_plan(
    shown: Surface,
    verb: str,
    title: str,
    facts: list[tuple[str, str]],
    document: dict[str, object],
) -> None:
    """The end of a dry run."""
    shown.print(*plan(title, facts))
    shown.summary(
        {"operation": f"backup {verb}", "dry_run": True, **document},
        ["dry run: nothing was changed"],
    )


def _confirm(shown: Surface, chosen: RestorePlan, *, yes: bool) -> None:
    shown.print(*plan("Restore", chosen.facts()))
    _confirm_swap(chosen, yes=yes)


def _confirm_swap(chosen: RestorePlan, *, yes: bool) -> None:
    if chosen.mode == "swap":
        name = chosen.state.name
        confirm_by_typing(name, action=f"replace {chosen.state.info.redacted()}", yes=yes)
    elif chosen.project is not None and chosen.project.project.unfinished:
        action = f"remove what an unfinished restore left in {chosen.state.info.redacted()}"
        confirm_by_typing(chosen.state.name, action=action, yes=yes)


def restore_table(
    context: typer.Context,
    table: Annotated[str, typer.Argument(help='schema.table or table; "Quoted" as in SQL.')],
    backup_id: OptionalId = None,
    at: At = None,
    lsn: Lsn = None,
    xid: Xid = None,
    before_xid: BeforeXid = None,
    name: Name = None,
    latest: Latest = False,
    target: Target = None,
    as_name: Annotated[
        str | None, typer.Option("--as", help="Restore under this name, beside the existing one.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Swap the rows of the existing table.")
    ] = False,
    dry_run: DryRun = False,
    storage: Storage = "primary",
    identity: Identity = None,
    no_safety_backup: NoSafety = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Restore one table, or a partition tree, reading only its chunks.

    As a backup holds it, or with --at and its like as of a point in time; then a backup that
    is named is the full to start from. A table that is missing is made with its indexes,
    constraints, policies and grants. One that exists is left alone unless --as or --replace
    says otherwise.
    """
    with surface(json) as shown:
        moment, notices = named_target(
            at, lsn, xid, before_xid, name, latest=latest, yes=yes or dry_run
        )
        if moment is None:
            backup_id = _need_id(backup_id)
        aurora = run.load(context, sink=shown.sink)
        options = TableOptions(as_name=as_name, replace=replace, safety=not no_safety_backup)
        if dry_run:
            planned = api.plan_table(
                aurora, table, backup_id, moment=moment, target=target, options=options,
                storage=storage, identity=identity or (), notices=notices, sink=shown.sink,
            )  # fmt: skip
            tell_plan(shown, "restore-table", "Restore table", planned.facts(), planned.document())
            return
        report = api.restore_table(
            aurora,
            table,
            backup_id,
            moment=moment,
            target=target,
            options=options,
            storage=storage,
            identity=identity or (),
            notices=notices,
            confirm=lambda chosen: _confirm_table(shown, chosen, yes=yes),
            sink=shown.sink,
        )
        finish(shown, report)


def _confirm_table(shown: Surface, chosen: TablePlan, *, yes: bool) -> None:
    shown.print(*plan("Restore table", chosen.facts()))
    if chosen.replaces:
        confirm_by_typing(chosen.name, action=f"replace the rows of {chosen.name}", yes=yes)


def _together(refusals: list[str]) -> list[str]:
    """Refusals for the same reason as one line: a role that may not own refuses hundreds."""
    by_reason: dict[str, list[str]] = {}
    for refusal in refusals:
        subject, _, reason = refusal.rpartition(": ")
        by_reason.setdefault(reason, []).append(subject)
    return [
        f"{subjects[0]}: {reason}"
        + (f" (and {len(subjects) - 1} more, all in the report)" if len(subjects) > 1 else "")
        for reason, subjects in by_reason.items()
    ]


def finish(shown: Surface, report: RestoreReport) -> None:
    """Tell how it ended. Raises typer.Exit where the target refused something."""
    same = sum(1 for found in report.tables if found.same)
    lines = []
    if report.refusals:
        lines.append(f"the target refused {len(report.refusals)} statements:")
        lines += [f"  {line}" for line in _together(report.refusals)[:50]]
    lines += [f"note: {note}" for note in report.notes]
    lines += report.objects.told() if report.objects is not None else []
    for outcome in dict.fromkeys(part.outcome for part in report.parts):
        lines.append(f"{outcome}:")
        lines += [
            f"  {part.part}" + (f": {part.detail}" if part.detail else "")
            for part in report.parts
            if part.outcome == outcome
        ]
    lines += [
        f"checked: {same} of {len(report.tables)} tables {report.equal_to}, "
        f"{report.sequences} sequences; report {report.path}",
        f"{report.kind} {report.restore_id} of {report.backup_id}: {report.outcome}, "
        f"{format_count(report.rows)} rows, {format_size(report.bytes)} in "
        f"{format_duration(report.seconds)}",
    ]
    shown.summary({"operation": f"backup {report.kind}", **report.document()}, lines)
    if not report.is_complete:
        raise typer.Exit(Incomplete.exit_code)
