"""Restoring: a system, a database, a table, a point in time."""

from collections.abc import Callable, Sequence

from aurora.api.common import back_up_first, held, opened, reported
from aurora.engines.logical.targets import Target
from aurora.events import EventSink, discard
from aurora.operations.recover import RecoveryPlan, plan_recovery, run_recovery
from aurora.operations.reports import RestoreReport
from aurora.operations.restore import RestoreOptions, RestorePlan, plan_restore, run_restore
from aurora.operations.restore_table import (
    TableOptions,
    TablePlan,
    plan_restore_table,
    run_restore_table,
)
from aurora.wiring import Aurora


def restore(
    aurora: Aurora,
    backup_id: str,
    *,
    target: str | None = None,
    options: RestoreOptions | None = None,
    storage: str = "primary",
    confirm: Callable[[RestorePlan], None] | None = None,
    sink: EventSink = discard,
) -> RestoreReport:
    """Restore a whole database; with ``options.with_roles`` the complete system.

    Args:
        target: connection string; the source by default.
        confirm: gets the plan before anything is changed, and may raise.

    Raises: see :func:`aurora.operations.restore.run_restore`.
    """
    repository, backup = opened(aurora, backup_id, storage, sink)
    dsn = target or aurora.source_dsn()
    plan = plan_restore(backup, dsn, options or restore_options(aurora))
    if confirm is not None:
        confirm(plan)

    def safety() -> str:
        label = f"safety before restore {plan.restore_id}"
        return back_up_first(aurora, dsn, plan.state.name, label, None, sink)

    with held(repository):
        return reported(aurora, lambda: run_restore(plan, make_safety_backup=safety, sink=sink))


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

    with held(plan.restore.backup.repository):
        return reported(aurora, lambda: run_recovery(plan, make_safety_backup=safety, sink=sink))


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


def restore_table(
    aurora: Aurora,
    table: str,
    backup_id: str,
    *,
    target: str | None = None,
    options: TableOptions | None = None,
    storage: str = "primary",
    confirm: Callable[[TablePlan], None] | None = None,
    sink: EventSink = discard,
) -> RestoreReport:
    """Restore one table or partition tree.

    Raises: see :func:`aurora.operations.restore_table.run_restore_table`.
    """
    repository, backup = opened(aurora, backup_id, storage, sink)
    dsn = target or aurora.source_dsn()
    plan = plan_restore_table(backup, table, dsn, options or TableOptions())
    if confirm is not None:
        confirm(plan)

    def safety(chosen: TablePlan) -> str:
        label = f"safety before restore {chosen.restore_id} of {chosen.name}"
        names = frozenset(chosen.there)
        return back_up_first(aurora, dsn, chosen.database, label, names, sink)

    with held(repository):
        return reported(
            aurora, lambda: run_restore_table(plan, make_safety_backup=safety, sink=sink)
        )
