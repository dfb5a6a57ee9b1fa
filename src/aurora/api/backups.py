"""Making, listing, copying, verifying and healing backups."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from aurora import clock
from aurora.api.audit import recorded
from aurora.api.common import backup_options, memory_of, secondary_view, state_directory
from aurora.api.retention import policy_of
from aurora.errors import AuroraError, UsageError
from aurora.events import EventSink, discard
from aurora.operations import incremental
from aurora.operations import verify as verify_operation
from aurora.operations.backup import BackupReport
from aurora.operations.coverage import Coverage
from aurora.operations.holds import Marks, marks_of
from aurora.operations.locks import extend_or_warn
from aurora.operations.log_state import INCREMENTAL
from aurora.operations.seal import create_sealed
from aurora.operations.verify import Healed, Verified
from aurora.repository import mirror
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import ClosedRepository, Repository
from aurora.repository.ids import SEALED, STREAM
from aurora.repository.mirror import ReplicationReport
from aurora.repository.verify import Level, VerifyReport, verify
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
        kind: ``full``; ``incremental`` (which becomes a full, with ``report.reason``, where
            the change log does not lead on from the newest backup); or ``sealed``.

    Raises: see :func:`aurora.operations.backup.create_backup`.
    """
    makers: dict[str, Callable[..., BackupReport]] = {
        "full": incremental.create_full,
        INCREMENTAL: incremental.create_incremental,
        SEALED: lambda *args, **more: create_sealed(*args, recipients=aurora.recipients(), **more),
    }
    if kind not in makers:
        raise UsageError(
            f"backups of type {kind[:20]} cannot be made",
            hint=f"Use --type {', '.join(makers)}.",
        )
    if kind == SEALED:
        aurora.recipients()  # nobody to seal for: said before the storages are asked
    with recorded(aurora, "run", "backup create", sink, asked_for=kind) as note:
        repository = note.repository = aurora.open_primary()
        memory = memory_of(aurora)
        memory.check(repository, aurora.database)
        report = makers[kind](
            aurora.source_dsn(),
            repository,
            backup_options(
                aurora,
                skip=skip,
                accept_new_source=accept_new_source,
                distrusted=memory.distrusted(),
                chunk_bytes=aurora.settings.sealed.chunk_size if kind == SEALED else None,
            ),
            open_mirror=aurora.open_secondary_view if aurora.has_secondary else None,
            sink=sink,
        )
        memory.remember(repository, repository.resolve(report.backup_id, aurora.database))
        note.facts |= report.document()
        note.outcome = note.outcome if report.is_complete else "incomplete"
    return report


def list_backups(
    aurora: Aurora,
    *,
    storage: str = "primary",
    all_databases: bool = False,
    sink: EventSink = discard,
) -> list[BackupEntry]:
    """The backups on a storage, oldest first, without the pieces of log that a stream stored."""
    return list_with_marks(aurora, storage=storage, all_databases=all_databases, sink=sink)[0]


def list_with_marks(
    aurora: Aurora,
    *,
    storage: str = "primary",
    all_databases: bool = False,
    sink: EventSink = discard,
) -> tuple[list[BackupEntry], dict[str, Marks]]:
    """The backups on a storage, and by their ids what is held or removed.

    Under ``all`` stands what holds every backup of the database.
    """
    repository = aurora.open_for_reading(storage, sink=sink)
    database = None if all_databases else aurora.database
    marks = marks_of(repository, database)
    found = repository.backups(database)
    with contextlib.suppress(AuroraError):  # a secondary that does not answer tells of none
        for entry in repository.elsewhere(database):
            marks.setdefault(entry.id, Marks()).elsewhere = True
            found.append(entry)
    entries = [entry for entry in found if entry.type != STREAM]
    return sorted(entries, key=lambda entry: (entry.created_at, entry.id)), marks


def replicate(aurora: Aurora, *, sink: EventSink = discard) -> ReplicationReport:
    """Copy to the secondary what it lacks. Raises UsageError where there is none."""
    view = secondary_view(aurora)
    with recorded(aurora, "run", "backup replicate", sink) as note:
        report = mirror.replicate(aurora.storage("primary"), view, sink=sink)
        if (lock := aurora.object_lock("secondary")) is not None:
            catalog = ClosedRepository(view).catalog_alone()
            locks = extend_or_warn("secondary", lock, view.ground(), catalog, sink=sink)
            note.facts["locks"] = locks and locks.document()
        lacking = sorted(backup for (_, backup), names in report.lacking.items() if names)
        note.facts |= {
            "copied_objects": report.copied_objects,
            "copied_bytes": report.copied_bytes,
            "bad": report.bad,
            "lacking": lacking,
        }
        note.outcome = note.outcome if report.is_complete else "incomplete"
    return report


def verify_backup(
    aurora: Aurora,
    backup_id: str,
    *,
    storage: str = "primary",
    level: Level = Level.FULL,
    subset: tuple[int, int] | None = None,
    budget_seconds: float | None = None,
    identity: Sequence[Path] = (),
    sink: EventSink = discard,
) -> Verified:
    """Look whether a backup is there, unaltered, and opens; damage is reported, not raised.

    A sealed backup opens with *identity* files only; without them the bytes of its parts are
    compared with their hashes.
    """
    with recorded(
        aurora, "verify", "backup verify", sink, backup=backup_id, storage=storage, level=str(level)
    ) as note:
        repository = (
            aurora.open_sealed(storage, identity, sink=sink)
            if identity
            else aurora.open_for_verifying(storage, keys=level is Level.FULL)
        )
        if isinstance(repository, Repository):
            note.repository = repository
        entry = repository.resolve(backup_id, aurora.database)
        note.facts["backup"] = entry.id
        found = verify_operation.verify_backup(
            repository, entry, level, subset=subset, budget_seconds=budget_seconds, sink=sink
        )
        note.facts |= {
            "checked_objects": found.report.checked_objects,
            "needed_objects": found.report.needed_objects,
            "checked_bytes": found.report.checked_bytes,
            "subset": f"{subset[0]}/{subset[1]}" if subset else None,
            "ended_early": found.report.ended_early,
            "bad": [one.name for one in found.report.bad],
        }
        note.outcome = note.outcome if found.report.ok else "bad"
    _note_covered(aurora, storage, found.report)
    if storage == "primary":
        whole = subset is None and not found.report.ended_early and level is not Level.NAMES
        bad = {one.name for one in found.report.bad}
        named = {one.name for one in repository.refs(entry).objects} if whole and not bad else ()
        memory_of(aurora).note_checked(bad, good=named)
    return found


def verify_all(
    aurora: Aurora,
    *,
    storage: str = "primary",
    level: Level = Level.FULL,
    budget_seconds: float | None = None,
    sink: EventSink = discard,
) -> VerifyReport:
    """Verify every backup of this source at once, what was verified longest ago first.

    Each object is read once, however many backups need it. Damage is reported, not raised.
    """
    coverage = Coverage(state_directory(aurora))
    with recorded(
        aurora, "verify", "backup verify", sink, backup="all", storage=storage, level=str(level)
    ) as note:
        repository = aurora.open_for_verifying(storage, keys=level is Level.FULL)
        if isinstance(repository, Repository):
            note.repository = repository
        report = verify(
            repository,
            repository.backups(aurora.database),
            level,
            budget_seconds=budget_seconds,
            checked_at=coverage.checked_at(storage),
            sink=sink,
        )
        note.facts |= {
            "checked_objects": report.checked_objects,
            "needed_objects": report.needed_objects,
            "checked_bytes": report.checked_bytes,
            "ended_early": report.ended_early,
            "bad": [one.name for one in report.bad],
        }
        note.outcome = note.outcome if report.ok else "bad"
    _note_covered(aurora, storage, report)
    if level is not Level.NAMES:
        coverage.forget_others(storage, report.needed)
        coverage.note_run(
            storage, level=str(level), checked=report.checked_objects,
            needed=report.needed_objects, bad=len(report.bad), at=clock.now(),
        )  # fmt: skip
    if storage == "primary" and level is not Level.NAMES:
        bad = {one.name for one in report.bad}
        memory_of(aurora).note_checked(bad, good=set(report.looked_at) - bad)
    return report


def _note_covered(aurora: Aurora, storage: str, report: VerifyReport) -> None:
    """Remember what was looked at; objects found missing count as looked at."""
    bad = {one.name for one in report.bad}
    looked_at = {name: name not in bad for name in (*report.looked_at, *(bad & report.needed))}
    Coverage(state_directory(aurora)).note(storage, looked_at, at=clock.now())


def heal_backups(aurora: Aurora, backup_id: str, *, sink: EventSink = discard) -> list[Healed]:
    """Bring bad objects of a backup (or ``all``) back, on either storage, from the other."""
    view = secondary_view(aurora)
    with recorded(aurora, "run", "backup heal", sink, backup=backup_id) as note:
        reports = verify_operation.heal_backups(
            aurora.storage("primary"), view, backup_id, aurora.database,
            policy=policy_of(aurora, "primary"), sink=sink,
        )  # fmt: skip
        note.facts |= {
            "backups": [one.backup_id for one in reports],
            "primary": [name for one in reports for name in one.primary],
            "secondary": [name for one in reports for name in one.secondary],
            "records": [name for one in reports for name in one.records],
            "failed": {name: why for one in reports for name, why in one.failed.items()},
        }
        note.outcome = "incomplete" if note.facts["failed"] else note.outcome
    memory_of(aurora).note_checked((), good={name for one in reports for name in one.primary})
    coverage = Coverage(state_directory(aurora))
    for one in reports:
        for place, names in (("primary", one.primary), ("secondary", one.secondary)):
            # Read back when it was written; a later verification looks again all the same.
            coverage.healed(place, names)
    return reports
