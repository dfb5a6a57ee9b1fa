"""Object lock kept up: what kept backups need stays locked, what is over goes when it may.

Every put is locked by itself. Here locks are extended before they run out, whole backups at
a time: a table on the storage remembers until when each backup is safe, so most runs ask
nothing. At any time all that a kept backup needs is locked for half the period at least.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from aurora import clock
from aurora.errors import AuroraError, IntegrityError, ObjectMissing
from aurora.events import Advanced, EventSink, PhaseBegun, PhaseEnded, Warned
from aurora.repository.catalog import Catalog
from aurora.repository.ground import Ground
from aurora.repository.layout import CONFIG, UNLOCKED, ObjectType, refs_name
from aurora.repository.lock_table import COMMON, read_lock_table, write_lock_table
from aurora.repository.refs import Refs
from aurora.repository.removals import FLOOR
from aurora.storage.object_lock import ObjectLock
from aurora.storage.s3_requests import CONNECTIONS, Version
from aurora.units import plural

PHASE = "extending locks"
_BATCH = 2000
_NEVER = datetime.min.replace(tzinfo=UTC)
# What belongs to no backup. On a secondary the primary's config and key slots are below primary/.
_COMMON = (
    CONFIG, ObjectType.SLOT.prefix, ObjectType.OUTER.prefix, "primary/", ObjectType.AUDIT.prefix,
    ObjectType.HOLD.prefix,
)  # fmt: skip


@dataclass(slots=True)
class LockReport:
    """What a run did about the locks of one storage."""

    backups: int = 0  # kept, and locked for half the period at least
    extended: int = 0  # versions of objects
    until: datetime | None = None  # of what was extended
    lacking: list[str] = field(default_factory=list)  # backups that miss an object
    hidden: int = 0  # objects that are there only under a delete marker or another version

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "backups": self.backups,
            "extended": self.extended,
            "until": self.until and clock.isoformat(self.until),
            "lacking": self.lacking,
            "hidden": self.hidden,
        }


def extend_locks(
    lock: ObjectLock,
    ground: Ground,
    catalog: Catalog,
    *,
    leaving: Collection[tuple[str, str]] = (),
    sink: EventSink,
) -> LockReport:
    """Extend what is locked for less than half the period, of all backups but those *leaving*.

    May be killed anywhere and run again. *catalog* is of ``ground.view`` alone.

    Raises:
        StorageUnfit: the bucket has no object lock.
        StorageDenied: the credentials may not lock (s3:PutObjectRetention), or list versions.
        StorageError.
    """
    lock.require()
    return _Extension(lock, ground, catalog, sink).run(set(leaving))


def extend_or_warn(
    place: str,
    lock: ObjectLock,
    ground: Ground,
    catalog: Catalog,
    *,
    leaving: Collection[tuple[str, str]] = (),
    sink: EventSink,
) -> LockReport | None:
    """As :func:`extend_locks`, beside other work: a failure is told, and None returned."""
    try:
        return extend_locks(lock, ground, catalog, leaving=leaving, sink=sink)
    except AuroraError as error:
        sink(
            Warned(
                "locks-not-extended",
                f"the locks on the {place} were not extended: {error.message}",
                f"{error.hint} What is locked stays so until its time; `aurora doctor` tells how "
                "long that is.".strip(),
            )
        )
        return None


class _Extension:
    def __init__(self, lock: ObjectLock, ground: Ground, catalog: Catalog, sink: EventSink) -> None:
        self._lock = lock
        self._ground = ground
        self._catalog = catalog
        self._sink = sink
        self._until = lock.until()
        self._enough = self._until - lock.rule.margin
        self._floor = self._until  # the earliest end of what was found to be locked
        self._pending: dict[str, int | None] = {}  # name on the storage -> its size, if known
        self.report = LockReport()

    def run(self, leaving: set[tuple[str, str]]) -> LockReport:
        table = read_lock_table(self._ground)
        there = self._catalog.names()
        kept = [one for one in there if one not in leaving]
        safe = {one: at for one in kept if (at := table.get(_key(one), _NEVER)) >= self._enough}
        due = [one for one in kept if one not in safe]
        unread = self._gather(due)
        self._leave_out_safe(safe)
        common_is_due = table.get(COMMON, _NEVER) < self._enough
        missing = self._extend(common=common_is_due)
        lacking = self._that_need(due, missing) | unread
        done = dict(safe)
        done |= {one: self._floor for one in due if one not in lacking}
        now = {_key(one): at for one, at in done.items()}
        # Still true of what is leaving: a run that knows of no removal need not ask again.
        now |= {key: table[key] for key in map(_key, there) if key in table and key not in now}
        now[COMMON] = self._until if common_is_due else table[COMMON]
        if now != table:
            write_lock_table(self._ground, now)
        self.report.backups = len(done)
        self.report.lacking = sorted(map(_key, lacking))
        self._tell()
        return self.report

    def _gather(self, due: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Note what the backups *due* need; those whose refs cannot be read."""
        unread: set[tuple[str, str]] = set()
        stored = self._ground.stored_name
        for name, refs in self._catalog.read_all(due):
            if isinstance(refs, IntegrityError):
                unread.add(name)
                continue
            for one in refs.all_objects():
                self._note(stored(one.name), one.size + self._ground.overhead)
            self._note(stored(refs_name(*name)), None)
        return unread

    def _note(self, name: str, size: int | None) -> None:
        until = self._lock.put_until(name)
        if until is not None and until >= self._enough:
            self._floor = min(self._floor, until)
        else:
            self._pending[name] = size

    def _leave_out_safe(self, safe: dict[tuple[str, str], datetime]) -> None:
        """What a backup needs that is locked for long enough is itself; the newest share most."""
        newest = sorted(safe, key=lambda one: one[1], reverse=True)
        for at in range(0, len(newest), 4):
            if not self._pending:
                return
            for name, refs in self._catalog.read_all(newest[at : at + 4]):
                if isinstance(refs, Refs):
                    self._leave_out(refs, safe[name])

    def _leave_out(self, refs: Refs, until: datetime) -> None:
        for one in refs.all_objects():
            if self._pending.pop(self._ground.stored_name(one.name), None) is not None:
                self._floor = min(self._floor, until)

    def _extend(self, *, common: bool) -> set[str]:
        """Extend what is pending, and what is *common*; the names that are not there."""
        if not self._pending and not common:
            return set()
        self._sink(PhaseBegun(PHASE, len(self._pending) or None, "objects"))
        missing = set(self._pending)
        firsts = {f"{name.partition('/')[0]}/" for name in self._pending}
        if common:
            firsts |= set(_COMMON)
        versions = (
            one
            for prefix in sorted(firsts)
            for one in self._lock.requests.versions(prefix)
            if self._is_wanted(one, missing, common=common)
        )
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="aurora-lock") as pool:
            while batch := list(itertools.islice(versions, _BATCH)):
                for gone in pool.map(self._extend_one, batch):
                    missing |= gone
                    self.report.extended += 1 - len(gone)
                self._sink(Advanced(PHASE, self.report.extended))
        self.report.until = self._until
        ends = f"until {clock.isoformat(self._until)}"
        self._sink(PhaseEnded(PHASE, f"{plural(self.report.extended, 'object')} {ends}"))
        return missing

    def _is_wanted(self, one: Version, missing: set[str], *, common: bool) -> bool:
        """Every version that may be the good one; somebody may have put another over it."""
        if one.name not in self._pending:
            return common and not one.is_marker and one.name.startswith(_COMMON)
        size = self._pending[one.name]
        is_right = not one.is_marker and size in (None, one.size)
        if is_right:
            missing.discard(one.name)
        elif one.is_latest:
            self.report.hidden += 1
        return is_right

    def _extend_one(self, one: Version) -> set[str]:
        try:
            self._lock.extend(one.name, one.id, self._until)
        except ObjectMissing:
            return {one.name}  # deleted since the listing
        return set()

    def _that_need(self, due: list[tuple[str, str]], missing: set[str]) -> set[tuple[str, str]]:
        if not missing:
            return set()
        stored = self._ground.stored_name
        return {
            name
            for name, refs in self._catalog.read_all(due)
            if isinstance(refs, Refs)
            and any(stored(one.name) in missing for one in refs.all_objects())
        }

    def _tell(self) -> None:
        if self.report.hidden:
            self._sink(
                Warned(
                    "objects-hidden",
                    f"{plural(self.report.hidden, 'object')} that backups need were deleted or "
                    "overwritten on the storage; the locked versions are there",
                    "Somebody with the storage's credentials may have done it. Change them, then "
                    "see docs/runbooks/ransomware.md.",
                )
            )
        if self.report.lacking:
            self._sink(
                Warned(
                    "locks-lacking",
                    f"objects of {', '.join(self.report.lacking[:5])} are damaged or not on the "
                    "storage, so not all locks were extended",
                    "Run `aurora backup verify` and `aurora backup heal` for it.",
                )
            )


@dataclass(slots=True)
class OldVersions:
    """What lay below delete markers on one storage."""

    deleted: int = 0
    deleted_bytes: int = 0
    kept: int = 0  # deleted less than a period ago, or still locked
    kept_bytes: int = 0
    until: datetime | None = None  # when the last of them may go, as far as is known

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self) | {"until": self.until and clock.isoformat(self.until)}


def delete_old_versions(lock: ObjectLock, ground: Ground, catalog: Catalog) -> OldVersions:
    """Delete for good what was deleted a whole period ago, and what no backup needs.

    Not sooner, also where no lock is left: whoever deletes everything with stolen credentials
    must not have our own prune finish it. What the server does not let go stays for a later run.

    Raises StorageDenied: the credentials may not list or delete versions. StorageError.
    """
    return _Cleaning(lock, ground, catalog).run()


class _Cleaning:
    def __init__(self, lock: ObjectLock, ground: Ground, catalog: Catalog) -> None:
        self._lock = lock
        self._ground = ground
        self._catalog = catalog
        self._now = ground.clock()
        self._needed: set[str] | None = None
        self.report = OldVersions()

    def run(self) -> OldVersions:
        ripe = self._ripe()
        while batch := list(itertools.islice(ripe, _BATCH)):
            self._delete(batch)
        return self.report

    def _ripe(self) -> Iterator[list[Version]]:
        """For each name that is gone for long enough all its versions."""
        listing = self._lock.requests.versions("")
        for name, found in itertools.groupby(listing, key=lambda one: one.name):
            versions = list(found)
            top = next((one for one in versions if one.is_latest), None)
            if top is None or not top.is_marker or name.startswith(_COMMON):
                continue
            period = self._lock.rule.period
            ends = top.modified_at + (min(FLOOR, period) if name.startswith(UNLOCKED) else period)
            if ends > self._now:
                self._keep(versions, ends)
            elif name not in self._all_needed():
                yield versions

    def _delete(self, batch: list[list[Version]]) -> None:
        """Versions first: without its marker an object would be back."""
        below = [one for versions in batch for one in versions if not one.is_marker]
        left = self._lock.requests.delete_versions(below)
        held = {one.name for one in left}
        markers = [one for versions in batch for one in versions if one.is_marker]
        self._lock.requests.delete_versions(one for one in markers if one.name not in held)
        self._keep(left, None)
        gone = set(below) - set(left)
        self.report.deleted += len(gone)
        self.report.deleted_bytes += sum(one.size for one in gone)

    def _keep(self, versions: Iterable[Version], until: datetime | None) -> None:
        for one in versions:
            if not one.is_marker:
                self.report.kept += 1
                self.report.kept_bytes += one.size
        if until is not None:
            self.report.until = max(until, self.report.until or until)

    def _all_needed(self) -> set[str]:
        """Raises ObjectDamaged where a backup's refs cannot be read: anything may be in them."""
        if self._needed is None:
            self._needed = set()
            names = self._catalog.names()
            for name, refs in self._catalog.read_all(names):
                if isinstance(refs, IntegrityError):
                    raise refs
                self._needed.add(self._ground.stored_name(refs_name(*name)))
                stored = (self._ground.stored_name(one.name) for one in refs.all_objects())
                self._needed.update(stored)
        return self._needed


def _key(name: tuple[str, str]) -> str:
    return "/".join(name)
