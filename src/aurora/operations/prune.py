"""Pruning: what retention lets go is removed, what nothing needs is deleted.

A backup goes in two steps. First its removal is announced on the storage; it stays whole, and
can be had back. Then, no sooner than 48 hours later by the storage's clock and only if retention
still lets it go, a later run removes it, and the collector deletes what no backup needs.
Primary and secondary are pruned each by itself.
"""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from aurora import clock
from aurora.errors import (
    AuroraError,
    IntegrityError,
    StorageDenied,
    UsageError,
)
from aurora.events import Advanced, EventSink, Noted, PhaseBegun, PhaseEnded, Warned
from aurora.operations import audit
from aurora.operations.content import Backup
from aurora.operations.locks import LockReport, OldVersions, delete_old_versions, extend_or_warn
from aurora.repository import removals as removal_lists
from aurora.repository.catalog import BackupEntry, entry_of
from aurora.repository.collector import Collected, collect
from aurora.repository.door import Repository
from aurora.repository.holds import ALL, Hold, read_holds
from aurora.repository.ids import CHECKPOINT, SAFETY, SEALED, parse_backup_id
from aurora.repository.layout import CONTENT_TYPES, ObjectType, backup_name
from aurora.repository.refs import Refs
from aurora.repository.removals import FLOOR, Removal, read_removals, removed_at
from aurora.repository.retention import Item, LogRange, Policy, Verdict, decide, removes_too_much
from aurora.repository.verify import Level
from aurora.storage.object_lock import ObjectLock
from aurora.units import plural

_LOOKING = "looking at backups"
_READERS = 8
_BEHIND = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """What is kept, and what a run may do."""

    database: str
    policy: Policy = field(default_factory=Policy)
    undelete: timedelta = FLOOR  # how long an announced removal can be undone
    allow_many: bool = False  # more than half of the backups that stand alone at once
    verified: frozenset[str] = frozenset()  # ids of backups that were verified and found good
    min_age: timedelta = FLOOR  # of what is deleted; less only in tests


@dataclass(frozen=True, slots=True)
class Row:
    """One backup in a plan."""

    database: str
    verdict: Verdict
    stored_bytes: int | None  # what it needs, also where others need it too
    removed_at: datetime | None = None  # when its removal was announced

    @property
    def id(self) -> str:
        return self.verdict.item.id

    @property
    def decision(self) -> str:
        """``keep``, ``remove`` (is announced now) or ``removed`` (was announced before)."""
        if self.verdict.keep:
            return "keep"
        return "remove" if self.removed_at is None else "removed"

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.verdict.reasons or (self.verdict.against,)

    def document(self) -> dict[str, Any]:
        item = self.verdict.item
        return {
            "backup_id": item.id,
            "database": self.database,
            "type": item.type,
            "stored_at": clock.isoformat(item.stored_at),
            "decision": self.decision,
            "reasons": list(self.reasons),
            "removed_at": self.removed_at and clock.isoformat(self.removed_at),
            "stored_bytes": self.stored_bytes,
        }


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a run is going to do on one storage, to be shown before it does it."""

    place: str
    repository: Repository
    options: PruneOptions
    rows: tuple[Row, ...]
    frozen: tuple[Hold, ...]  # of whole databases: nothing is removed or collected
    removals: tuple[Removal, ...]
    too_much: bool
    clock_behind: bool = False  # ours: everything looks younger than it is

    @property
    def to_announce(self) -> tuple[Row, ...]:
        """Backups that go from kept to removed."""
        return () if self.frozen else tuple(r for r in self.rows if r.decision == "remove")

    @property
    def is_idle(self) -> bool:
        """Whether nothing goes from kept to removed, so that nobody need be asked."""
        return not self.to_announce

    def require_moderate(self) -> None:
        """Raise UsageError where more than half would go, unless that was allowed."""
        if not self.too_much or self.options.allow_many or self.frozen:
            return
        gone = sum(row.verdict.item.stands_alone for row in self.to_announce)
        raise UsageError(
            f"pruning the {self.place} would remove {gone} of its backups, more than half at once",
            hint="Nothing was removed. Look at `aurora backup prune --dry-run`: a clock or a "
            "setting may be wrong. Give --allow-many if you mean it.",
        )

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "storage": self.place,
            "backups": [row.document() for row in self.rows],
            "frozen": [hold.why for hold in self.frozen],
            "too_much": self.too_much,
        }


@dataclass(slots=True)
class PruneReport:
    """What a run did on one storage."""

    place: str
    kept: int = 0
    announced: list[str] = field(default_factory=list)  # from now on removed, can be undone
    undone: list[str] = field(default_factory=list)  # kept after all
    collected: Collected | None = None  # None: frozen
    frozen: list[str] = field(default_factory=list)  # why
    undelete_until: str = ""  # for what was announced now
    locks: LockReport | None = None  # None: no object lock, or it could not be extended
    old_versions: OldVersions | None = None  # None: no object lock, or they could not be deleted
    seconds: float = 0.0

    @property
    def did_something(self) -> bool:
        """Whether anything changed on the storage."""
        collected = self.collected
        deleted = collected is not None and bool(collected.backups or collected.objects)
        return bool(deleted or self.announced or self.undone)

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        collected = asdict(self.collected) if self.collected else None
        return {
            "storage": self.place,
            "kept": self.kept,
            "announced": self.announced,
            "undone": self.undone,
            "undelete_until": self.undelete_until or None,
            "frozen": self.frozen,
            "collected": collected,
            "locks": self.locks and self.locks.document(),
            "old_versions": self.old_versions and self.old_versions.document(),
            "seconds": round(self.seconds, 3),
        }


def plan_prune(
    repository: Repository, place: str, options: PruneOptions, *, sink: EventSink
) -> PrunePlan:
    """What :func:`run_prune` would do on the storage of *repository*. Changes nothing.

    Raises:
        UsageError: the retention keeps nothing.
        StorageError.
    """
    options.policy.require_something()
    holds = read_holds(repository.storage, repository.signer)
    lists = read_removals(repository.storage, repository.signer, sink=sink)
    sizes = _sizes(repository)
    rows: list[Row] = []
    moment = clock.now()
    databases = _databases(repository)
    newest = max((at for stored in databases.values() for at in stored.values()), default=None)
    sink(PhaseBegun(_LOOKING, sum(map(len, databases.values())), "backups"))
    for database, stored in databases.items():
        if not _is_ours(database, stored, options):
            continue
        facts = _Facts(repository, database, stored, sizes, holds, options, sink)
        items, entries = facts.gather(done=len(rows))
        # Safety backups under a label of their own are followed by nothing: they age with the rest.
        beside = newest if database != options.database else None
        verdicts = decide(items, options.policy, now=moment, newest=beside)
        gone = removed_at(lists, database)
        rows += [Row(database, verdict, entries[verdict.item.id].stored_bytes,
                     gone.get(verdict.item.id)) for verdict in verdicts]  # fmt: skip
    sink(PhaseEnded(_LOOKING, plural(len(rows), "backup")))
    clock_behind = newest is not None and newest > moment + _BEHIND
    if clock_behind:
        told = "this machine's clock is behind the storage's: it keeps backups for longer"
        sink(Warned("clock-behind", told, "Set the clock."))
    standing = [row.verdict for row in rows if row.decision != "removed"]
    return PrunePlan(
        place,
        repository,
        options,
        tuple(rows),
        tuple(hold for hold in holds if hold.backup == ALL),
        tuple(lists),
        removes_too_much(standing),
        clock_behind,
    )


def run_prune(plan: PrunePlan, *, lock: ObjectLock | None = None, sink: EventSink) -> PruneReport:
    """Do what the plan says; with *lock* extend the locks of what is kept.

    May be killed anywhere and run again; two at once do no harm.

    Raises:
        UsageError: more than half would go at once.
        ObjectDamaged: a backup's refs cannot be read; announced, but nothing collected.
        StorageDenied: the credentials may not delete.
        StorageError.
    """
    plan.require_moderate()
    begun = time.monotonic()
    report = PruneReport(plan.place, kept=sum(row.verdict.keep for row in plan.rows))
    report.frozen = [f"{hold.database}: {hold.why}" for hold in plan.frozen]
    if lock is not None:
        report.locks = _extend_locks(plan, lock, sink)
    if plan.frozen:
        sink(Noted(f"nothing is removed while a hold is on {', '.join(report.frozen)}"))
        return report
    if not plan.clock_behind:  # else it is kept for a reason that is wrong
        _take_back(plan, report)
    _announce(plan, report)
    repository = plan.repository
    ground = repository.ground()
    try:
        report.collected = collect(
            ground,
            repository.catalog_alone(),
            expired=_expired(plan, ground.clock()),
            min_age=plan.options.min_age,
            sink=sink,
        )
        _tidy(plan)
    except StorageDenied as error:
        raise StorageDenied(
            f"the {plan.place} does not let these credentials delete: {error.message}",
            hint=f"{len(report.announced)} removals were announced, nothing more was done. Run "
            "`aurora backup prune` where the collector's credentials are: [primary.collector_"
            "credentials] or AURORA_PRIMARY_COLLECTOR_…; docs/retention.md tells more.",
            context={"announced": len(report.announced)},
        ) from error
    if lock is not None:
        report.old_versions = _delete_old_versions(plan, lock, sink)
    report.seconds = time.monotonic() - begun
    return report


def newest_verified(
    repository: Repository, database: str, place: str, *, sink: EventSink
) -> frozenset[str]:
    """The newest backup on *place* that was wholly verified or recovered, by the audit trail."""
    there = _databases(repository).get(database, {})
    if not there:
        return frozenset()
    # No record from before the oldest backup tells of one that is still there.
    kinds = ("verify", "recovery-test")
    for entry in audit.entries(repository, kinds=kinds, since=min(there.values()), sink=sink):
        facts = entry.facts
        backup = str(facts.get("backup") or facts.get("backup_id") or "")
        whole = entry.kind != "verify" or (
            facts.get("level") == str(Level.FULL)
            and not facts.get("subset")
            and not facts.get("ended_early")
        )
        on_place = facts.get("storage", "primary") == place
        if entry.outcome == audit.OK and whole and on_place and backup in there:
            return frozenset({backup})
    return frozenset()


class _Facts:
    """What retention must know of the backups of one database."""

    def __init__(
        self,
        repository: Repository,
        database: str,
        stored: Mapping[str, datetime],
        sizes: Mapping[str, int],
        holds: Iterable[Hold],
        options: PruneOptions,
        sink: EventSink,
    ) -> None:
        self._repository = repository
        self._database = database
        self._stored = stored
        self._sizes = sizes
        self._holds = [one for one in holds if one.database == database]
        self._options = options
        self._sink = sink

    def gather(self, *, done: int) -> tuple[list[Item], dict[str, BackupEntry]]:
        entries: dict[str, BackupEntry] = {}
        whole: set[str] = set()
        names = sorted((self._database, backup) for backup in self._stored)
        for (_, backup), refs in self._repository.catalog_alone().read_all(names):
            if isinstance(refs, Refs):
                entries[backup] = entry_of(refs)
                if all(self._sizes.get(one.name) == one.size for one in refs.all_objects()):
                    whole.add(backup)
            else:
                entries[backup] = self._unread(backup, refs)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="aurora-manifests") as pool:
            items = []
            for item in pool.map(lambda entry: self._item(entry, whole), entries.values()):
                items.append(item)
                self._sink(Advanced(_LOOKING, done + len(items)))
        return items, entries

    def _unread(self, backup: str, error: IntegrityError) -> BackupEntry:
        told = f"the refs of {backup} cannot be read: {error.message}"
        self._sink(Warned("refs-unreadable", told, f"Run `aurora backup heal {backup}`."))
        parsed = parse_backup_id(backup)
        return BackupEntry(backup, self._database, parsed.type, parsed.created_at, damage="refs")

    def _item(self, entry: BackupEntry, whole: set[str]) -> Item:
        has_log = entry.type not in (SEALED, SAFETY, CHECKPOINT)
        log, is_readable = self._log_of(entry) if has_log else (None, True)
        return Item(
            id=entry.id,
            type=entry.type,
            stored_at=self._stored[entry.id],
            sequence=entry.sequence or 0,
            log=log,
            is_readable=is_readable,
            is_whole=entry.id in whole,
            is_verified=entry.id in self._options.verified,
            holds=tuple(one.why for one in self._holds if one.backup == entry.id),
        )

    def _log_of(self, entry: BackupEntry) -> tuple[LogRange | None, bool]:
        try:
            log = Backup(self._repository, entry).body.log
        except AuroraError:
            return None, False  # what it would tell is not known: retention is careful then
        if log is None:
            return None, True
        history = (log.system_identifier, log.timeline, log.database_oid, log.slot)
        return LogRange(history, log.base, log.from_lsn, log.to_lsn), True


def _databases(repository: Repository) -> dict[str, dict[str, datetime]]:
    """Database -> backup -> since when its manifest is stored."""
    found: dict[str, dict[str, datetime]] = {}
    times = {i.name: i.modified_at for i in repository.storage.list(ObjectType.BACKUP.prefix)}
    for database, backup in repository.catalog_alone().names():
        if at := times.get(backup_name(database, backup)):
            found.setdefault(database, {})[backup] = at
    return found


def _is_ours(database: str, stored: Iterable[str], options: PruneOptions) -> bool:
    """Our own database; and labels under which restores elsewhere made safety backups only."""
    return database == options.database or all(
        parse_backup_id(backup).type == SAFETY for backup in stored
    )


def _sizes(repository: Repository) -> dict[str, int]:
    kinds = (*CONTENT_TYPES, ObjectType.SEALED, ObjectType.SESSION, ObjectType.BACKUP)
    return {i.name: i.size for kind in kinds for i in repository.storage.list(kind.prefix)}


def _take_back(plan: PrunePlan, report: PruneReport) -> None:
    """Undo removals of what is kept after all, so that a later removal begins its time anew."""
    storage, signer = plan.repository.storage, plan.repository.signer
    for row in plan.rows:
        if row.decision == "keep" and row.removed_at is not None:
            for one in plan.removals:
                if one.database == row.database and row.id in one.backups:
                    removal_lists.take_back(storage, signer, one, row.id)
            report.undone.append(row.id)


def _announce(plan: PrunePlan, report: PruneReport) -> None:
    storage, signer = plan.repository.storage, plan.repository.signer
    by_database: dict[str, dict[str, str]] = {}
    for row in plan.to_announce:
        by_database.setdefault(row.database, {})[row.id] = row.verdict.against
    for database, backups in by_database.items():
        announced = removal_lists.announce(storage, signer, database, backups)
        report.announced += sorted(backups)
        report.undelete_until = clock.isoformat(announced.at + plan.options.undelete)


def _expired(plan: PrunePlan, now: datetime) -> list[tuple[str, str]]:
    """Backups to remove now. Holds are looked at once more: planning took its time."""
    holds = read_holds(plan.repository.storage, plan.repository.signer)
    held = {(one.database, one.backup) for one in holds}
    return [
        (row.database, row.id)
        for row in plan.rows
        if row.removed_at is not None
        and row.decision == "removed"
        and now - row.removed_at >= plan.options.undelete
        and not held & {(row.database, row.id), (row.database, ALL)}
    ]


def _extend_locks(plan: PrunePlan, lock: ObjectLock, sink: EventSink) -> LockReport | None:
    leaving = [(row.database, row.id) for row in plan.rows if row.decision != "keep"]
    ground, catalog = plan.repository.ground(), plan.repository.catalog_alone()
    return extend_or_warn(plan.place, lock, ground, catalog, leaving=leaving, sink=sink)


def _delete_old_versions(plan: PrunePlan, lock: ObjectLock, sink: EventSink) -> OldVersions | None:
    try:
        found = plan.repository
        return delete_old_versions(lock, found.ground(), found.catalog_alone())
    except AuroraError as error:
        sink(
            Warned(
                "old-versions-left",
                f"old versions on the {plan.place} were not deleted: {error.message}",
                "They cost room and nothing else. Allow the collector s3:ListBucketVersions and "
                "s3:DeleteObjectVersion, or let a lifecycle rule of the bucket expire noncurrent "
                "versions.",
            )
        )
        return None


def _tidy(plan: PrunePlan) -> None:
    """Delete removals of which every backup is gone or was taken out."""
    storage = plan.repository.storage
    left = set(plan.repository.catalog_alone().names())
    over = [one.name for one in plan.removals
            if not any((one.database, backup) in left for backup in one.backups)]  # fmt: skip
    if over:
        listed = [info.name for info in storage.list(ObjectType.REMOVAL.prefix)]
        # What was taken out goes after the removal, which would be in force again without it.
        names = [name for name in listed if name in over or name.rpartition(".")[0] in over]
        storage.delete([name for name in names if name in over])
        storage.delete([name for name in names if name not in over])
