"""`aurora backup restore`, `restore-full` and `restore-table`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from aurora.cli import context as run
from aurora.cli.prompts import confirm_by_typing
from aurora.cli.render import Surface, plan, surface
from aurora.errors import AuroraError, Incomplete, StorageError
from aurora.operations.backup import BackupOptions, create_backup
from aurora.operations.content import Backup
from aurora.operations.reports import RestoreReport, write_report
from aurora.operations.restore import (
    RestoreOptions,
    RestorePlan,
    plan_restore,
    run_restore,
)
from aurora.operations.restore_table import (
    TableOptions,
    TablePlan,
    plan_restore_table,
    run_restore_table,
)
from aurora.repository.door import Repository
from aurora.repository.ids import SAFETY
from aurora.units import format_count, format_duration, format_size
from aurora.wiring import Aurora

BackupId = Annotated[str, typer.Argument(help="A backup's id, a unique part of it, or latest.")]
Target = Annotated[
    str | None, typer.Option(help="Connection string to restore to; by default the source.")
]
Jobs = Annotated[int | None, typer.Option(help="Connections that load side by side.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]
InPlace = Annotated[
    bool, typer.Option("--in-place", help="Replace a database that holds something.")
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
        aurora = run.load(context, {"restore": {"jobs": jobs}})
        options = RestoreOptions(
            in_place=in_place,
            jobs=aurora.settings.restore.jobs,
            chunk_bytes=aurora.settings.backup.chunk_size,
            safety=not no_safety_backup,
            accept_refusals=accept_refusals,
        )
        _whole(shown, aurora, backup_id, target, options, storage, yes=yes)


def restore_full(
    context: typer.Context,
    backup_id: BackupId,
    target: Target = None,
    in_place: InPlace = False,
    jobs: Jobs = None,
    storage: Storage = "primary",
    no_safety_backup: NoSafety = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Restore the complete system onto a server: roles, settings, and the database.

    What the server forbids is listed at the end (exit code 3); the rest is restored.
    """
    with surface(json) as shown:
        aurora = run.load(context, {"restore": {"jobs": jobs}})
        options = RestoreOptions(
            in_place=in_place,
            jobs=aurora.settings.restore.jobs,
            chunk_bytes=aurora.settings.backup.chunk_size,
            safety=not no_safety_backup,
            accept_refusals=True,
            with_roles=True,
        )
        _whole(shown, aurora, backup_id, target, options, storage, yes=yes)


def _whole(
    shown: Surface,
    aurora: Aurora,
    backup_id: str,
    target: str | None,
    options: RestoreOptions,
    storage: str,
    *,
    yes: bool,
) -> None:
    repository = aurora.open_for_reading(storage, sink=shown.sink)
    backup = Backup(repository, repository.resolve(backup_id, aurora.database))
    dsn = target or aurora.source_dsn()
    chosen = plan_restore(backup, dsn, options)
    shown.print(*plan("Restore", chosen.facts()))
    if chosen.mode == "swap":
        confirm_by_typing(
            chosen.state.name, action=f"replace {chosen.state.info.redacted()}", yes=yes
        )
    with held(repository):
        report = _reported(
            aurora,
            lambda: run_restore(
                chosen,
                make_safety_backup=lambda: _safety_backup(aurora, shown, dsn, chosen),
                sink=shown.sink,
            ),
        )
    _finish(shown, aurora, report)


def _safety_backup(aurora: Aurora, shown: Surface, dsn: str, chosen: RestorePlan) -> str:
    return _back_up_first(
        aurora, shown, dsn, chosen.state.name, f"safety before restore {chosen.restore_id}"
    )


def _back_up_first(
    aurora: Aurora,
    shown: Surface,
    dsn: str,
    name: str,
    label: str,
    only: frozenset[tuple[str, str]] | None = None,
) -> str:
    """Back up what is about to be replaced; the backup's id. Never ``latest``."""
    settings = aurora.settings.backup
    report = create_backup(
        dsn,
        aurora.open_primary(),
        BackupOptions(
            database=aurora.safety_database(dsn, name),
            type=SAFETY,
            only=only,
            jobs=settings.jobs,
            chunk_bytes=settings.chunk_size,
            level=settings.compression_level,
            lock_timeout=settings.lock_timeout,
            accept_new_source=True,
            label=label,
        ),
        open_mirror=None,
        sink=shown.sink,
    )
    return report.backup_id


def restore_table(
    context: typer.Context,
    table: Annotated[str, typer.Argument(help='schema.table or table; "Quoted" as in SQL.')],
    backup_id: BackupId,
    target: Target = None,
    as_name: Annotated[
        str | None, typer.Option("--as", help="Restore under this name, beside the existing one.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Swap the rows of the existing table.")
    ] = False,
    jobs: Jobs = None,
    storage: Storage = "primary",
    no_safety_backup: NoSafety = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Restore one table, or a partition tree, reading only its chunks.

    A table that is missing is made with its indexes, constraints, policies and grants.
    One that exists is left alone unless --as or --replace says otherwise.
    """
    with surface(json) as shown:
        aurora = run.load(context, {"restore": {"jobs": jobs}})
        repository = aurora.open_for_reading(storage, sink=shown.sink)
        backup = Backup(repository, repository.resolve(backup_id, aurora.database))
        dsn = target or aurora.source_dsn()
        options = TableOptions(
            as_name=as_name,
            replace=replace,
            jobs=aurora.settings.restore.jobs,
            chunk_bytes=aurora.settings.backup.chunk_size,
            safety=not no_safety_backup,
        )
        chosen = plan_restore_table(backup, table, dsn, options)
        shown.print(*plan("Restore table", chosen.facts()))
        if chosen.replaces:
            confirm_by_typing(chosen.name, action=f"replace the rows of {chosen.name}", yes=yes)

        def take_safety_backup(only: TablePlan) -> str:
            label = f"safety before restore {only.restore_id} of {only.name}"
            names = frozenset((t.schema, t.name) for t in only.tables)
            return _back_up_first(aurora, shown, dsn, only.database, label, names)

        with held(repository):
            report = _reported(
                aurora,
                lambda: run_restore_table(
                    chosen, make_safety_backup=take_safety_backup, sink=shown.sink
                ),
            )
        _finish(shown, aurora, report)


@contextmanager
def held(repository: Repository) -> Iterator[None]:
    """A lease that keeps the collector from removing what is being read.

    A storage that may only be read, or the secondary's view, gives none: then the
    48 hours that nothing is deleted for must do.
    """
    lease = repository.lease("restore")
    try:
        lease.begin()
    except StorageError:
        yield
        return
    try:
        yield
    finally:
        lease.end()


def _reported(aurora: Aurora, work: Callable[[], RestoreReport]) -> RestoreReport:
    """Run *work*; a report that an error carries is written down too."""
    try:
        return work()
    except AuroraError as error:
        report = error.context.pop("report", None)
        if isinstance(report, RestoreReport):
            report.problems.append(error.message)
            path = write_report(report, reports_directory(aurora))
            error.hint = f"{error.hint} Report: {path}".strip()
        raise


def reports_directory(aurora: Aurora) -> Path:
    """Where reports go: beside aurora.toml."""
    return aurora.settings.base / "aurora.reports"


def _finish(shown: Surface, aurora: Aurora, report: RestoreReport) -> None:
    path = write_report(report, reports_directory(aurora))
    same = sum(1 for found in report.tables if found.same)
    lines = []
    if report.refusals:
        lines.append(f"the target refused {len(report.refusals)} statements:")
        lines += [f"  {refusal}" for refusal in report.refusals[:50]]
    lines += [f"note: {note}" for note in report.notes]
    lines += [
        f"checked: {same} of {len(report.tables)} tables equal to the backup, "
        f"{report.sequences} sequences; report {path}",
        f"{report.kind} {report.restore_id} of {report.backup_id}: {report.outcome}, "
        f"{format_count(report.rows)} rows, {format_size(report.bytes)} in "
        f"{format_duration(report.seconds)}",
    ]
    shown.summary({"operation": report.kind, **report.document(), "report": str(path)}, lines)
    if report.refusals:
        raise typer.Exit(Incomplete.exit_code)
