"""Restoring: a system, a database, a table, a point in time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aurora.api.audit import Recording, recorded
from aurora.api.common import back_up_first, held, keyed, memory_of, opened, reported
from aurora.api.proof import remember_restore
from aurora.engines.logical.targets import Target, shown_lsn
from aurora.errors import UsageError
from aurora.events import EventSink, discard
from aurora.operations import restore_plan
from aurora.operations.content import Backup
from aurora.operations.point import find_point
from aurora.operations.recover import RecoveryPlan, plan_recovery, run_recovery
from aurora.operations.reports import RestoreReport
from aurora.operations.restore import run_restore
from aurora.operations.restore_objects import around, restore_with_rows
from aurora.operations.restore_plan import RestoreOptions, RestorePlan
from aurora.operations.restore_table import run_restore_table
from aurora.operations.restore_table_plan import TableOptions, TablePlan, plan_restore_table
from aurora.postgres.conninfo import ConnInfo
from aurora.wiring import Aurora


def plan_restore(
    aurora: Aurora,
    backup_id: str,
    *,
    target: str | None = None,
    options: RestoreOptions | None = None,
    storage: str = "primary",
    identity: Sequence[Path] = (),
    sink: EventSink = discard,
) -> RestorePlan:
    """What :func:`restore` would do. Changes nothing.

    Raises: see :func:`aurora.operations.restore_plan.plan_restore`.
    """
    _, backup = opened(aurora, backup_id, storage, sink, identity)
    return restore_plan.plan_restore(
        backup, target or aurora.source_dsn(), options or restore_options(aurora)
    )


def restore(
    aurora: Aurora,
    backup_id: str,
    *,
    target: str | None = None,
    options: RestoreOptions | None = None,
    storage: str = "primary",
    identity: Sequence[Path] = (),
    confirm: Callable[[RestorePlan], None] | None = None,
    sink: EventSink = discard,
) -> RestoreReport:
    """Restore a whole database; with ``options.with_roles`` the complete system.

    Args:
        target: connection string; the source by default.
        identity: age identity files, for a sealed backup.
        confirm: gets the plan before anything is changed, and may raise.

    Raises: see :func:`aurora.operations.restore.run_restore`.
    """
    dsn = target or aurora.source_dsn()
    plan = plan_restore(
        aurora, backup_id, target=dsn, options=options, storage=storage, identity=identity,
        sink=sink,
    )  # fmt: skip
    if confirm is not None:
        confirm(plan)

    def safety() -> str:
        label = f"safety before restore {plan.restore_id}"
        return back_up_first(aurora, dsn, plan.state.name, label, None, sink)

    def work() -> RestoreReport:
        report = run_restore(plan, make_safety_backup=safety, sink=sink)
        _bring_objects(aurora, [plan.backup], target, report, sink)
        return report

    operation = "backup restore-full" if plan.options.with_roles else "backup restore"
    with recorded(aurora, "restore", operation, sink, **_asked(plan, storage)) as note:
        note.repository = keyed(plan.backup.repository)
        with held(plan.backup.repository):
            report = reported(aurora, work)
        _tell(note, report)
        remember_restore(aurora, dsn, report, storage=storage)
    return report


def plan_point(
    aurora: Aurora,
    moment: Target,
    *,
    target: str | None = None,
    options: RestoreOptions | None = None,
    full: str | None = None,
    storage: str = "primary",
    notices: Sequence[str] = (),
    sink: EventSink = discard,
) -> RecoveryPlan:
    """What :func:`restore_point` would do. Changes nothing.

    Raises: see :func:`aurora.operations.recover.plan_recovery`.
    """
    repository = aurora.open_for_reading(storage, sink=sink)
    memory_of(aurora).warn(repository, aurora.database, sink)
    return plan_recovery(
        repository,
        aurora.database,
        moment,
        target or aurora.source_dsn(),
        options or restore_options(aurora),
        full=repository.resolve(full, aurora.database).id if full else "",
        notices=notices,
        sink=sink,
    )


def restore_point(
    aurora: Aurora,
    moment: Target,
    *,
    target: str | None = None,
    options: RestoreOptions | None = None,
    full: str | None = None,
    storage: str = "primary",
    notices: Sequence[str] = (),
    confirm: Callable[[RecoveryPlan], None] | None = None,
    sink: EventSink = discard,
) -> RestoreReport:
    """Recover the whole database to *moment*: a full, and the change log up to there.

    Args:
        target: connection string; the source by default.
        full: the full backup to start from; by default the newest that serves.
        notices: sentences for the plan and the report.
        confirm: gets the plan before anything is changed, and may raise.

    Raises: see :func:`aurora.operations.recover.run_recovery`.
    """
    dsn = target or aurora.source_dsn()
    plan = plan_point(
        aurora, moment, target=dsn, options=options, full=full, storage=storage, notices=notices,
        sink=sink,
    )  # fmt: skip
    if confirm is not None:
        confirm(plan)

    def safety() -> str:
        label = f"safety before recovery {plan.restore.restore_id}"
        return back_up_first(aurora, dsn, plan.restore.state.name, label, None, sink)

    def work() -> RestoreReport:
        report = run_recovery(plan, make_safety_backup=safety, sink=sink)
        _bring_objects(aurora, around(plan.point), target, report, sink)
        return report

    asked = {**_asked(plan.restore, storage), "point": plan.document()}
    with recorded(aurora, "restore", f"backup {plan.kind}", sink, **asked) as note:
        repository = plan.restore.backup.repository
        note.repository = keyed(repository)
        with held(repository):
            report = reported(aurora, work)
        _tell(note, report)
        cut = plan.resolution.cut
        lsn = shown_lsn(cut.commit_lsn) if cut is not None else ""
        remember_restore(aurora, dsn, report, storage=storage, lsn=lsn)
    return report


def _bring_objects(
    aurora: Aurora,
    backups: Sequence[Backup],
    target: str | None,
    report: RestoreReport,
    sink: EventSink,
) -> None:
    """The objects of the Storage, once the database that has their rows is there."""
    settings = aurora.settings.objects
    restore_with_rows(
        backups,
        aurora.target_storage(target) if settings.include else None,
        target or aurora.source_dsn(),
        report,
        jobs=settings.jobs,
        max_rate=settings.max_rate,
        sink=sink,
    )


def restore_options(
    aurora: Aurora,
    *,
    in_place: bool = False,
    safety: bool = True,
    accept_refusals: bool = False,
    with_roles: bool = False,
) -> RestoreOptions:
    """Options with the settings of *aurora*."""
    return RestoreOptions(
        in_place=in_place,
        jobs=aurora.settings.restore.jobs,
        chunk_bytes=aurora.settings.backup.chunk_size,
        safety=safety,
        accept_refusals=accept_refusals or with_roles,
        with_roles=with_roles,
    )


def plan_table(
    aurora: Aurora,
    table: str,
    backup_id: str | None = None,
    *,
    moment: Target | None = None,
    target: str | None = None,
    options: TableOptions | None = None,
    storage: str = "primary",
    identity: Sequence[Path] = (),
    notices: Sequence[str] = (),
    sink: EventSink = discard,
) -> TablePlan:
    """What :func:`restore_table` would do. Changes nothing.

    Raises: see :func:`aurora.operations.restore_table_plan.plan_restore_table`.
    """
    dsn, chosen = target or aurora.source_dsn(), options or TableOptions()
    if moment is None:
        if backup_id is None:
            raise UsageError("name a backup or a point in time", hint="Nothing was changed.")
        _, backup = opened(aurora, backup_id, storage, sink, identity)
        return plan_restore_table(backup, table, dsn, chosen)
    if identity:
        raise UsageError(
            "a sealed backup has no place in the change log",
            hint="Leave out --identity for a point in time, or the point for a sealed backup.",
        )
    repository = aurora.open_for_reading(storage, sink=sink)
    memory_of(aurora).warn(repository, aurora.database, sink)
    full = repository.resolve(backup_id, aurora.database).id if backup_id else ""
    point = find_point(repository, aurora.database, moment, full=full, notices=notices, sink=sink)
    return plan_restore_table(point, table, dsn, chosen)


def restore_table(
    aurora: Aurora,
    table: str,
    backup_id: str | None = None,
    *,
    moment: Target | None = None,
    target: str | None = None,
    options: TableOptions | None = None,
    storage: str = "primary",
    identity: Sequence[Path] = (),
    notices: Sequence[str] = (),
    confirm: Callable[[TablePlan], None] | None = None,
    before_commit: Callable[[str], None] | None = None,
    sink: EventSink = discard,
) -> RestoreReport:
    """Restore one table or partition tree: as a backup holds it, or to a point in time.

    A program that wants the rows of that moment without touching the table takes
    ``TableOptions(as_name="scratch.name")``: a plain copy of them, with the columns that the
    table had, in a schema of its own choice (which must be there), made in one transaction
    and readable by its owner alone. It compares or copies them by SQL and drops the table.

    Args:
        backup_id: the backup; with *moment* the full to start from, by default the newest
            that serves.
        moment: the point in time.
        identity: age identity files, for a sealed backup.
        notices: sentences for the plan and the report.
        confirm: gets the plan before anything is changed, and may raise.
        before_commit: gets the number of the transaction that does it all, just before its
            commit; ``pg_xact_status`` tells later whether that came. May raise.

    Raises: see :func:`aurora.operations.restore_table.run_restore_table`.
    """
    dsn = target or aurora.source_dsn()
    plan = plan_table(
        aurora, table, backup_id, moment=moment, target=dsn, options=options, storage=storage,
        identity=identity, notices=notices, sink=sink,
    )  # fmt: skip
    if confirm is not None:
        confirm(plan)

    def safety(chosen: TablePlan) -> str:
        label = f"safety before restore {chosen.restore_id} of {chosen.name}"
        names = frozenset(chosen.there)
        return back_up_first(aurora, dsn, chosen.database, label, names, sink)

    with recorded(
        aurora,
        "restore",
        "backup restore-table",
        sink,
        backup=plan.backup.entry.id,
        storage=storage,
        target=ConnInfo.parse(dsn).with_dbname(plan.database).redacted(),
        table=plan.name,
        **({"point": plan.document()} if plan.point else {}),
    ) as note:
        note.repository = keyed(plan.backup.repository)
        with held(plan.backup.repository):
            report = reported(
                aurora,
                lambda: run_restore_table(
                    plan, make_safety_backup=safety, before_commit=before_commit, sink=sink
                ),
            )
        _tell(note, report)
    return report


def _asked(plan: RestorePlan, storage: str) -> dict[str, Any]:
    """What the audit trail says of a restore before it is over."""
    return {
        "restore": plan.restore_id,
        "backup": plan.backup.entry.id,
        "storage": storage,
        "target": plan.state.info.redacted(),
        "mode": plan.mode,
    }


def _tell(note: Recording, report: RestoreReport) -> None:
    document = report.document()
    tables = document.pop("tables")
    note.facts |= {**document, "tables": len(tables), "same": sum(one["same"] for one in tables)}
    note.outcome = note.outcome if report.is_complete else "incomplete"
    note.attachments["report.md"] = report.markdown()
