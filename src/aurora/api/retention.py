"""Pruning by retention, and holding backups against it."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Literal

from aurora.api.audit import recorded
from aurora.errors import AuroraError, Incomplete, RepositoryNotFound, UsageError
from aurora.events import EventSink, discard
from aurora.operations import holds, rewind
from aurora.operations import prune as operation
from aurora.operations.prune import PruneOptions, PrunePlan, PruneReport
from aurora.operations.rewind import Rewind
from aurora.repository.door import Repository
from aurora.repository.retention import Policy
from aurora.wiring import Aurora

Place = Literal["primary", "secondary"]


def prune_places(aurora: Aurora) -> tuple[Place, ...]:
    """The storages that are pruned, each by itself."""
    return ("primary", "secondary") if aurora.has_secondary else ("primary",)


def plan_prune(
    aurora: Aurora,
    *,
    storage: str = "primary",
    allow_many: bool = False,
    sink: EventSink = discard,
) -> PrunePlan:
    """What :func:`prune` would keep and remove on one storage, and why. Changes nothing.

    Raises: see :func:`aurora.operations.prune.plan_prune`.
    """
    place = _place(aurora, storage)
    repository = aurora.open_for_collecting(place)
    options = PruneOptions(
        database=aurora.database,
        policy=policy_of(aurora, place),
        undelete=timedelta(seconds=aurora.settings.retention.undelete),
        allow_many=allow_many,
        verified=operation.newest_verified(repository, aurora.database, place, sink=sink),
    )
    return operation.plan_prune(repository, place, options, sink=sink)


def prune(
    aurora: Aurora,
    *,
    storage: str = "primary",
    allow_many: bool = False,
    confirm: Callable[[PrunePlan], None] | None = None,
    sink: EventSink = discard,
) -> PruneReport:
    """Remove what retention lets go on one storage, and delete what nothing needs.

    Args:
        allow_many: also where more than half of the backups would go at once.
        confirm: gets the plan before anything is changed, and may raise.

    Raises: see :func:`aurora.operations.prune.run_prune`.
    """
    plan = plan_prune(aurora, storage=storage, allow_many=allow_many, sink=sink)
    plan.require_moderate()
    if confirm is not None:
        confirm(plan)
    return run_prune(aurora, plan, sink=sink)


def run_prune(aurora: Aurora, plan: PrunePlan, *, sink: EventSink = discard) -> PruneReport:
    """Do what a plan of :func:`plan_prune` says. Raises as :func:`prune`."""
    with recorded(aurora, "prune", "backup prune", sink, storage=plan.place) as note:
        note.repository = _primary(aurora, plan)
        lock = aurora.lock_for_collecting(_place(aurora, plan.place))
        report = operation.run_prune(plan, lock=lock, sink=sink)
        note.facts |= report.document()
        note.write = report.did_something
    return report


def hold_backup(
    aurora: Aurora, backup_id: str, *, why: str, sink: EventSink = discard
) -> dict[str, str]:
    """Protect a backup, or with ``all`` every one, from removal, on each storage that has it.

    Returns the storages and the backup's id.

    Raises:
        UsageError: no reason. RepositoryNotFound: no storage has the backup.
        Incomplete: it is held on one storage, the other could not be asked.
    """

    def work(repository: Repository) -> str:
        return holds.hold(repository, aurora.database, backup_id, why)

    return _on_each(aurora, "backup hold", work, {"backup": backup_id, "why": why}, sink)


def release_backup(
    aurora: Aurora, backup_id: str, *, why: str = "", sink: EventSink = discard
) -> dict[str, str]:
    """End every hold on a backup, or with ``all`` those on the whole database.

    Returns and raises as :func:`hold_backup`; RepositoryNotFound also where nothing holds it.
    """

    def work(repository: Repository) -> str:
        return holds.release(repository, aurora.database, backup_id, why)[0].backup

    return _on_each(aurora, "backup release", work, {"backup": backup_id, "why": why}, sink)


def undelete_backup(aurora: Aurora, backup_id: str, *, sink: EventSink = discard) -> dict[str, str]:
    """Keep a removed backup, on each storage where it is removed. A hold keeps it from then on.

    Returns and raises as :func:`hold_backup`; UsageError where it is not removed.
    """

    def work(repository: Repository) -> str:
        return holds.undelete(repository, aurora.database, backup_id)

    return _on_each(aurora, "backup undelete", work, {"backup": backup_id}, sink)


def plan_rewind(aurora: Aurora, *, storage: str, to: datetime) -> Rewind:
    """What was deleted or overwritten on an S3 storage with versions since *to*.

    Raises:
        UsageError: no such storage, or it is no S3. StorageDenied, StorageError.
    """
    return rewind.plan_rewind(aurora.versions_of(_place(aurora, storage)), to)


def run_rewind(aurora: Aurora, plan: Rewind, *, storage: str, sink: EventSink = discard) -> None:
    """Bring it back. Raises as :func:`plan_rewind`."""
    place = _place(aurora, storage)
    operation_name = "backup rewind-storage"
    with recorded(aurora, "run", operation_name, sink, storage=place, **plan.document()):
        lock = aurora.lock_for_collecting(place)
        rewind.run_rewind(plan, aurora.versions_of(place), lock, sink=sink)


def policy_of(aurora: Aurora, place: Place) -> Policy:
    """The retention of one storage."""
    settings = aurora.settings.retention

    def of(field: str) -> timedelta:
        return timedelta(seconds=settings.of(place, field))

    return Policy(
        incremental=of("incremental"),
        full=of("full"),
        sealed=of("sealed"),
        safety=of("safety"),
        window=of("window"),
    )


def _place(aurora: Aurora, storage: str) -> Place:
    for place in prune_places(aurora):
        if place == storage:
            return place
    raise UsageError(
        f"there is no {storage[:20]} storage",
        hint=f"Use --storage {' or '.join(prune_places(aurora))}.",
    )


def _primary(aurora: Aurora, plan: PrunePlan) -> Repository | None:
    """Where the record of a run is put; without the primary it waits on this machine."""
    if plan.place == "primary":
        return plan.repository
    try:
        return aurora.open_primary()
    except AuroraError:
        return None


def _on_each(
    aurora: Aurora,
    operation_name: str,
    work: Callable[[Repository], str],
    facts: Mapping[str, str],
    sink: EventSink,
) -> dict[str, str]:
    """Storage -> backup id, where it could be done. One that lacks the backup is passed over."""
    done: dict[str, str] = {}
    failed: dict[str, AuroraError] = {}
    with recorded(aurora, "prune", operation_name, sink, **facts) as note:
        for place in prune_places(aurora):
            try:
                if place == "primary":
                    repository = note.repository = aurora.open_primary()
                else:
                    repository = aurora.open_secondary()
                done[place] = work(repository)
            except AuroraError as why:
                failed[place] = why
        note.facts["done"] = done
        hard = {where: error for where, error in failed.items() if not _lacks(error)}
        if not done:
            raise next(iter((hard or failed).values()))
        for where, error in hard.items():
            raise Incomplete(
                f"done on the {', '.join(done)}, not on the {where}: {error.message}",
                hint=f"{error.hint} Then run it again.".strip(),
            )
    return done


def _lacks(error: AuroraError) -> bool:
    return isinstance(error, RepositoryNotFound | UsageError)
