"""Aurora from Python: one function for each command, which the command line itself calls.

::

    from aurora import Aurora, create_backup, restore

    aurora = Aurora.load("aurora.toml")
    report = create_backup(aurora)
    restore(aurora, report.backup_id, target="postgresql://…/new_database")

Each takes an :class:`~aurora.wiring.Aurora` and options, tells an event sink what it does,
returns a report, and raises :class:`~aurora.errors.AuroraError`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from aurora.engines.logical.targets import Target
from aurora.errors import AuroraError, StorageError, UsageError
from aurora.events import EventSink, discard
from aurora.operations import backup as backup_operation
from aurora.operations import incremental
from aurora.operations import log as log_operation
from aurora.operations import source as source_operation
from aurora.operations import verify as verify_operation
from aurora.operations.backup import BackupOptions, BackupReport
from aurora.operations.content import Backup
from aurora.operations.log_state import INCREMENTAL
from aurora.operations.memory import Memory
from aurora.operations.recover import RecoveryPlan, plan_recovery, run_recovery
from aurora.operations.reports import RestoreReport, write_report
from aurora.operations.restore import RestoreOptions, RestorePlan, plan_restore, run_restore
from aurora.operations.restore_table import (
    TableOptions,
    TablePlan,
    plan_restore_table,
    run_restore_table,
)
from aurora.operations.source import PreparePlan
from aurora.operations.verify import Healed, Verified
from aurora.repository import mirror
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import Repository
from aurora.repository.ids import SAFETY
from aurora.repository.mirror import ReplicationReport
from aurora.repository.verify import Level
from aurora.wiring import Aurora


def create_backup(
    aurora: Aurora,
    *,
    kind: str = "full",
    skip: Sequence[str] = (),
    accept_new_source: bool = False,
    sink: EventSink = discard,
) -> BackupReport:
    """Make a backup, then bring the secondary up to date.

    Args:
        kind: ``full``, or ``incremental`` (which becomes a full, with ``report.reason``,
            where the change log does not lead on from the newest backup).

    Raises: see :func:`aurora.operations.backup.create_backup`.
    """
    if kind not in ("full", INCREMENTAL):
        raise UsageError(
            f"backups of type {kind[:20]} cannot be made",
            hint="Use --type full or --type incremental.",
        )
    make = incremental.create_full if kind == "full" else incremental.create_incremental
    repository = aurora.open_primary()
    memory = _memory(aurora)
    memory.check(repository, aurora.database)
    report = make(
        aurora.source_dsn(),
        repository,
        _backup_options(
            aurora,
            skip=skip,
            accept_new_source=accept_new_source,
            distrusted=memory.distrusted(),
        ),
        open_mirror=aurora.open_secondary_view if aurora.has_secondary else None,
        sink=sink,
    )
    memory.remember(repository, repository.resolve(report.backup_id, aurora.database))
    return report


def _memory(aurora: Aurora) -> Memory:
    return Memory(aurora.settings.base / "aurora.state")


def _backup_options(
    aurora: Aurora,
    *,
    skip: Sequence[str] = (),
    accept_new_source: bool = False,
    distrusted: frozenset[str] = frozenset(),
) -> BackupOptions:
    settings = aurora.settings.backup
    return BackupOptions(
        database=aurora.database,
        jobs=settings.jobs,
        chunk_bytes=settings.chunk_size,
        level=settings.compression_level,
        lock_timeout=settings.lock_timeout,
        skip=(*settings.skip, *skip),
        accept_new_source=accept_new_source,
        distrusted=distrusted,
    )


def prepare_source(
    aurora: Aurora,
    *,
    undo: bool = False,
    failover: bool = False,
    confirm: Callable[[PreparePlan], None] | None = None,
    sink: EventSink = discard,
) -> PreparePlan:
    """Make what the change log needs on the source, or with *undo* remove all of it.

    Args:
        confirm: gets the plan before anything is changed, and may raise.

    Raises: see :func:`aurora.operations.source.run_prepare` and ``run_undo``.
    """
    dsn = aurora.source_dsn()
    if undo:
        plan = source_operation.plan_undo(dsn, aurora.database)
    else:
        plan = source_operation.plan_prepare(
            dsn, aurora.database, skip=aurora.settings.backup.skip, failover=failover
        )
    if confirm is not None:
        confirm(plan)
    if undo:
        source_operation.run_undo(plan, sink=sink)
    else:
        source_operation.run_prepare(plan, sink=sink)
    return plan


def transactions(
    aurora: Aurora,
    wanted: log_operation.Filter | None = None,
    *,
    storage: str = "primary",
    sink: EventSink = discard,
) -> Iterator[log_operation.Transaction]:
    """The committed transactions of the change log, oldest first."""
    repository = aurora.open_for_reading(storage, sink=sink)
    return log_operation.transactions(repository, aurora.database, wanted, sink=sink)


def list_backups(
    aurora: Aurora,
    *,
    storage: str = "primary",
    all_databases: bool = False,
    sink: EventSink = discard,
) -> list[BackupEntry]:
    """The backups on a storage, oldest first."""
    repository = aurora.open_for_reading(storage, sink=sink)
    return repository.backups(None if all_databases else aurora.database)


def replicate(aurora: Aurora, *, sink: EventSink = discard) -> ReplicationReport:
    """Copy to the secondary what it lacks. Raises UsageError where there is none."""
    return mirror.replicate(aurora.storage("primary"), _secondary(aurora), sink=sink)


def verify_backup(
    aurora: Aurora,
    backup_id: str,
    *,
    storage: str = "primary",
    level: Level = Level.FULL,
    subset: tuple[int, int] | None = None,
    budget_seconds: float | None = None,
    sink: EventSink = discard,
) -> Verified:
    """Look whether a backup is there, unaltered, and opens; damage is reported, not raised."""
    repository = aurora.open_for_verifying(storage, keys=level is Level.FULL)
    entry = repository.resolve(backup_id, aurora.database)
    found = verify_operation.verify_backup(
        repository, entry, level, subset=subset, budget_seconds=budget_seconds, sink=sink
    )
    if storage == "primary":
        whole = subset is None and not found.report.ended_early and level is not Level.NAMES
        bad = {one.name for one in found.report.bad}
        named = {one.name for one in repository.refs(entry).objects} if whole and not bad else ()
        _memory(aurora).note_checked(bad, good=named)
    return found


def heal_backups(aurora: Aurora, backup_id: str, *, sink: EventSink = discard) -> list[Healed]:
    """Bring bad objects of a backup (or ``all``) back, on either storage, from the other."""
    reports = verify_operation.heal_backups(
        aurora.storage("primary"), _secondary(aurora), backup_id, aurora.database, sink=sink
    )
    _memory(aurora).note_checked((), good={name for one in reports for name in one.primary})
    return reports


def _secondary(aurora: Aurora) -> mirror.MirrorView:
    if not aurora.has_secondary:
        raise UsageError(
            "no secondary storage is configured",
            hint="Set url under [secondary] in aurora.toml. Without one there is nothing to "
            "copy to or to heal from.",
        )
    return aurora.open_secondary_view()


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
    repository, backup = _opened(aurora, backup_id, storage, sink)
    dsn = target or aurora.source_dsn()
    plan = plan_restore(backup, dsn, options or restore_options(aurora))
    if confirm is not None:
        confirm(plan)

    def safety() -> str:
        label = f"safety before restore {plan.restore_id}"
        return _back_up_first(aurora, dsn, plan.state.name, label, None, sink)

    with _held(repository):
        return _reported(aurora, lambda: run_restore(plan, make_safety_backup=safety, sink=sink))


def plan_point(
    aurora: Aurora,
    moment: Target,
    *,
    target: str | None = None,
    options: RestoreOptions | None = None,
    storage: str = "primary",
    notices: Sequence[str] = (),
    sink: EventSink = discard,
) -> RecoveryPlan:
    """What :func:`restore_point` would do. Changes nothing.

    Raises: see :func:`aurora.operations.recover.plan_recovery`.
    """
    return plan_recovery(
        aurora.open_for_reading(storage, sink=sink),
        aurora.database,
        moment,
        target or aurora.source_dsn(),
        options or restore_options(aurora),
        notices=notices,
        sink=sink,
    )


def restore_point(
    aurora: Aurora,
    moment: Target,
    *,
    target: str | None = None,
    options: RestoreOptions | None = None,
    storage: str = "primary",
    notices: Sequence[str] = (),
    confirm: Callable[[RecoveryPlan], None] | None = None,
    sink: EventSink = discard,
) -> RestoreReport:
    """Recover the whole database to *moment*: a full, and the change log up to there.

    Args:
        target: connection string; the source by default.
        notices: sentences for the plan and the report.
        confirm: gets the plan before anything is changed, and may raise.

    Raises: see :func:`aurora.operations.recover.run_recovery`.
    """
    dsn = target or aurora.source_dsn()
    plan = plan_point(
        aurora, moment, target=dsn, options=options, storage=storage, notices=notices, sink=sink
    )
    if confirm is not None:
        confirm(plan)

    def safety() -> str:
        label = f"safety before recovery {plan.restore.restore_id}"
        return _back_up_first(aurora, dsn, plan.restore.state.name, label, None, sink)

    with _held(plan.restore.backup.repository):
        return _reported(aurora, lambda: run_recovery(plan, make_safety_backup=safety, sink=sink))


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
    repository, backup = _opened(aurora, backup_id, storage, sink)
    dsn = target or aurora.source_dsn()
    plan = plan_restore_table(backup, table, dsn, options or TableOptions())
    if confirm is not None:
        confirm(plan)

    def safety(chosen: TablePlan) -> str:
        label = f"safety before restore {chosen.restore_id} of {chosen.name}"
        names = frozenset(chosen.there)
        return _back_up_first(aurora, dsn, chosen.database, label, names, sink)

    with _held(repository):
        return _reported(
            aurora, lambda: run_restore_table(plan, make_safety_backup=safety, sink=sink)
        )


def _opened(
    aurora: Aurora, backup_id: str, storage: str, sink: EventSink
) -> tuple[Repository, Backup]:
    repository = aurora.open_for_reading(storage, sink=sink)
    _memory(aurora).warn(repository, aurora.database, sink)
    return repository, Backup(repository, repository.resolve(backup_id, aurora.database))


def _back_up_first(
    aurora: Aurora,
    dsn: str,
    name: str,
    label: str,
    only: frozenset[tuple[str, str]] | None,
    sink: EventSink,
) -> str:
    """Back up what is about to be replaced; the backup's id. Never ``latest``."""
    options = replace(
        _backup_options(aurora, accept_new_source=True, distrusted=_memory(aurora).distrusted()),
        database=aurora.safety_database(dsn, name),
        type=SAFETY,
        skip=(),
        only=only,
        label=label,
    )
    report = backup_operation.create_backup(
        dsn, aurora.open_primary(), options, open_mirror=None, sink=sink
    )
    return report.backup_id


@contextmanager
def _held(repository: Repository) -> Iterator[None]:
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
    """Run *work* and write its report, also the one that an error carries."""
    try:
        report = work()
    except AuroraError as error:
        failed = error.context.pop("report", None)
        if isinstance(failed, RestoreReport):
            failed.problems.append(error.message)
            path = write_report(failed, reports_directory(aurora))
            error.hint = f"{error.hint} Report: {path}".strip()
        raise
    report.path = str(write_report(report, reports_directory(aurora)))
    return report


def reports_directory(aurora: Aurora) -> Path:
    """Where reports go: beside aurora.toml."""
    return aurora.settings.base / "aurora.reports"
