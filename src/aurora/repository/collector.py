"""The collector: deletes what no backup needs, beside writers that it cannot stop.

Whatever no refs with a manifest name is garbage: the leavings of runs that died, and what
removed backups alone needed. In this order, and the order is what makes it safe:

1. mark what is named by nothing, and put the list of it as ``gc/<id>``: from now on no
   writer that begins reuses any of it;
2. *then* look at the leases: writers that began before may have seen it, and are waited for;
3. read all refs again and take out what they name by now; is the list still there?
4. delete what is left;
5. and only then delete the list.

Nothing is kept in memory between runs: a list that is there is gone on with, by whichever
collector comes next, so a run may end (or die) at any point and none ever waits idly. Time is a
second net: nothing younger than 48 hours by the storage's clock is deleted.

On a secondary a content that is copied again gets the name it had, so two collectors at once
could take what was just put. There a collector claims the storage by a lease, and gives way.
docs/format.md, "Leases and collection", is normative.
"""

import secrets
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aurora.errors import IntegrityError, ObjectDamaged, RepositoryLocked
from aurora.events import Advanced, EventSink, PhaseBegun, PhaseEnded, Warned, discard
from aurora.repository.candidates import read_candidates, write_candidates
from aurora.repository.catalog import Catalog
from aurora.repository.ground import Ground
from aurora.repository.layout import (
    CONTENT_TYPES,
    PROBE,
    ObjectType,
    backup_name,
    parse_content,
    parse_dated,
    parse_lease,
    parse_part,
    parse_session,
    refs_name,
    sid8,
)
from aurora.repository.leases import TTL_SECONDS, Lease
from aurora.repository.presence import stored_size
from aurora.repository.refs import Refs
from aurora.repository.removals import FLOOR
from aurora.storage.base import ObjectInfo, Storage
from aurora.units import format_count, format_size, plural

PHASE = "collecting"
SLACK = timedelta(minutes=10)
"""A writer whose lease is so much younger than a candidate list has read the list."""

CLAIM = "collect"
"""The purpose of a collector's lease; no other run is waited for because of one."""

_CLAIM_SECONDS = 3600.0
_BATCH = 1000
_MOST = 500_000  # names of one list; the rest is for the next run
_LISTED = (*CONTENT_TYPES, ObjectType.SEALED, ObjectType.SESSION, ObjectType.REFS)


@dataclass(slots=True)
class Collected:
    """What a run did, and what it left to the next one."""

    backups: list[str] = field(default_factory=list)  # removed: ``<database>/<id>``
    objects: int = 0  # deleted
    stored_bytes: int = 0  # of them
    waiting: int = 0  # objects that runs under way may still name
    leases: int = 0  # of such runs


@dataclass(frozen=True, slots=True)
class _Needed:
    """What the refs of all backups name at one look, and which backups there are."""

    names: frozenset[str]
    backups: frozenset[tuple[str, str]]


def collect(
    ground: Ground,
    catalog: Catalog,
    *,
    expired: Collection[tuple[str, str]] = (),
    min_age: timedelta = FLOOR,
    sink: EventSink = discard,
) -> Collected:
    """Go on with what is begun, remove the backups *expired* (database, id), collect.

    Two at once, or one after another that died, do no harm.

    Args:
        catalog: of ``ground.view`` alone, with the MAC key.
        min_age: below 48 hours only in tests: it takes the second net away.

    Raises:
        ObjectDamaged: a manifest without readable refs; nothing may be collected then.
        RepositoryLocked: another collector is at work on a secondary, or this one fell asleep.
        StorageDenied: the credentials may not delete.
        StorageError.
    """
    sink(PhaseBegun(PHASE, None, "objects"))
    with _claimed(ground) as claim:
        run = _Run(ground, catalog, min_age, claim, sink)
        run.collect(expired)
    done = run.report
    told = f"{plural(len(done.backups), 'backup')} and {plural(done.objects, 'object')} removed"
    sink(PhaseEnded(PHASE, f"{told}, {format_size(done.stored_bytes)}"))
    return done


@contextmanager
def _claimed(ground: Ground) -> Iterator[Lease | None]:
    """A lease that no other collector has beside it; None where none is needed.

    Of two that claim at once at most one sees no other: both may give way.
    """
    if not ground.names_are_fixed:
        yield None
        return
    claim = ground.lease(CLAIM, ttl_seconds=_CLAIM_SECONDS)
    claim.begin()
    try:
        now = ground.clock()
        others = [one for one in _leases(ground, now)
                  if one.is_alive and one.is_claim and one.sid != claim.sid]  # fmt: skip
        if others:
            raise RepositoryLocked(
                f"another prune is at work on {ground.own.url}, or died less than an hour ago",
                hint="Nothing was deleted. Run it again later.",
            )
        yield claim
    finally:
        claim.end()


class _Run:
    def __init__(
        self,
        ground: Ground,
        catalog: Catalog,
        min_age: timedelta,
        claim: Lease | None,
        sink: EventSink,
    ) -> None:
        self._ground = ground
        self._view = ground.view
        self._catalog = catalog
        self._min_age = min_age
        self._claim = claim
        self._sink = sink
        self._now = ground.clock()  # before anything is looked at: all ages err to the young side
        self.report = Collected()

    def collect(self, expired: Collection[tuple[str, str]]) -> None:
        held: set[str] = set()
        for info in list(self._lists()):
            held |= self._go_on(info)
        self._remove(expired)
        garbage = self._mark(held)
        if garbage:
            self._go_on(self._publish(garbage))
        self._tidy()

    def _remove(self, expired: Iterable[tuple[str, str]]) -> None:
        """Delete manifests, then refs: in the other order a crash would leave damage."""
        chosen = sorted(set(expired))
        if not chosen:
            return
        self._view.delete([backup_name(*one) for one in chosen])
        self._view.delete([refs_name(*one) for one in chosen])
        self.report.backups += [f"{database}/{backup}" for database, backup in chosen]

    def _mark(self, held: Collection[str]) -> list[str]:
        """What nothing names and is old enough; what a list that waits has (*held*) not again."""
        needed = self._needed()
        found = self._garbage(needed, self._listing())
        names = [self._ground.stored_name(info.name) for info in found]
        return sorted(name for name in names if name not in held)[:_MOST]

    def _needed(self) -> _Needed:
        """Raises ObjectDamaged where a backup's refs cannot be read: anything may be in them."""
        backups = self._catalog.names()
        names: set[str] = set()
        for (database, backup), refs in self._catalog.read_all(backups):
            if not isinstance(refs, Refs):
                if stored_size(self._view, backup_name(database, backup)) is None:
                    continue  # removed meanwhile, by another collector
                raise ObjectDamaged(
                    f"nothing was collected: the refs of {database}/{backup} cannot be read: "
                    f"{refs.message}",
                    hint=f"What that backup needs is not known, so nothing may be deleted. Run "
                    f"`aurora backup heal {backup}`, then prune again.",
                    context={"backup": backup},
                )
            names.update(one.name for one in refs.objects)
        return _Needed(frozenset(names), frozenset(backups))

    def _listing(self) -> Iterator[ObjectInfo]:
        """Begins when it is read: after the refs were."""
        for kind in _LISTED:
            yield from self._view.list(kind.prefix)

    def _garbage(self, needed: _Needed, listing: Iterable[ObjectInfo]) -> list[ObjectInfo]:
        """Contents first, then sessions and refs, which a content or manifest still needs."""
        contents: list[ObjectInfo] = []
        later: list[ObjectInfo] = []
        in_use: set[str] = set()  # sid8 of what stays
        sessions: list[tuple[str, ObjectInfo]] = []
        for info in listing:
            content, sid = parse_content(info.name), parse_session(info.name)
            dated = parse_dated(info.name)
            if content is not None:
                if info.name in needed.names or not self._is_old(info):
                    in_use.add(content.sid8)
                else:
                    contents.append(info)
            elif sid is not None:
                sessions.append((sid8(sid), info))
            elif parse_part(info.name) is not None:
                if info.name not in needed.names and self._is_old(info):
                    contents.append(info)
            elif dated is not None and dated not in needed.backups and self._is_old(info):
                later.append(info)
        later += [
            info
            for first, info in sessions
            if info.name not in needed.names and first not in in_use and self._is_old(info)
        ]
        return contents + later

    def _is_old(self, info: ObjectInfo) -> bool:
        return self._now - info.modified_at >= self._min_age

    def _publish(self, names: Iterable[str]) -> ObjectInfo:
        name = f"{ObjectType.CANDIDATES.prefix}{secrets.token_hex(16)}"
        signer = self._ground.signer
        stored = write_candidates(
            names, name=name, repository_id=signer.repository_id, mac_key=signer.mac_key
        )
        self._ground.own.put(name, stored)
        return self._ground.own.head(name)

    def _lists(self) -> Iterator[ObjectInfo]:
        return self._ground.own.list(ObjectType.CANDIDATES.prefix)

    def _go_on(self, published: ObjectInfo) -> frozenset[str]:
        """Delete what a published list names, if that may be; the names it still holds if not."""
        try:
            names = self._read(published)
        except IntegrityError as error:
            self._drop_damaged(published, error)
            return frozenset()
        waited_for = self._leases_before(published)
        if waited_for:
            self.report.waiting += len(names)
            self.report.leases = max(self.report.leases, len(waited_for))
            return names
        garbage = self._second_look(names)
        # Gone meanwhile: another collector finished with it. It keeps no writer off any more,
        # and what was named at that one's look, and is not at ours, may be in use again.
        if stored_size(self._ground.own, published.name) is not None:
            self._delete(garbage)
            self._ground.own.delete([published.name])
        return frozenset()

    def _read(self, published: ObjectInfo) -> frozenset[str]:
        signer = self._ground.signer
        return frozenset(
            read_candidates(
                self._ground.own.get(published.name),
                name=published.name,
                repository_id=signer.repository_id,
                mac_key=signer.mac_key,
            )
        )

    def _drop_damaged(self, published: ObjectInfo, error: IntegrityError) -> None:
        """While such a list is there no writer reuses anything; an old one has no collector."""
        if self._is_old(published):
            self._ground.own.delete([published.name])
            return
        told = f"a candidate list cannot be read: {error.message}"
        self._sink(Warned("candidates-unreadable", told, "It is removed when it is 48 hours old."))

    def _leases_before(self, published: ObjectInfo) -> list[bytes]:
        """Runs under way that may not have read the list."""
        return [
            lease.sid
            for lease in _leases(self._ground, self._now)
            if lease.is_alive
            and not lease.is_claim
            and lease.begun_at <= published.modified_at + SLACK
        ]

    def _second_look(self, names: Collection[str]) -> list[ObjectInfo]:
        garbage = self._garbage(self._needed(), self._listing())
        return [info for info in garbage if self._ground.stored_name(info.name) in names]

    def _delete(self, garbage: list[ObjectInfo]) -> None:
        for at in range(0, len(garbage), _BATCH):
            batch = garbage[at : at + _BATCH]
            if self._claim is not None:
                self._claim.require_fresh()
            self._view.delete([info.name for info in batch])
            self.report.objects += len(batch)
            self.report.stored_bytes += sum(info.size for info in batch)
            told = f"{format_count(self.report.objects)} deleted"
            self._sink(Advanced(PHASE, self.report.objects, told))

    def _tidy(self) -> None:
        """Leases that are over, and what trials of the storage left."""
        for place in self._ground.lease_places():
            over = [lease for lease in _leases_in(place, self._ground, self._now)
                    if not lease.is_alive and all(map(self._is_old, lease.objects))]  # fmt: skip
            names = [info.name for lease in over for info in lease.objects]
            names += [info.name for info in place.list(PROBE) if self._is_old(info)]
            if names:
                place.delete(names)


@dataclass(frozen=True, slots=True)
class _LeaseState:
    sid: bytes
    begun_at: datetime  # by the storage's clock
    is_alive: bool
    is_claim: bool  # a collector's
    objects: tuple[ObjectInfo, ...]


def _leases(ground: Ground, now: datetime) -> Iterator[_LeaseState]:
    for place in ground.lease_places():
        yield from _leases_in(place, ground, now)


def _leases_in(place: Storage, ground: Ground, now: datetime) -> Iterator[_LeaseState]:
    by_sid: dict[bytes, dict[str, ObjectInfo]] = {}
    for info in place.list(ObjectType.LEASE.prefix):
        parsed = parse_lease(info.name)
        if parsed is not None:
            by_sid.setdefault(parsed[0], {})[parsed[1]] = info
    for sid, marks in by_sid.items():
        done = marks.get("done")
        beats = [info for mark, info in marks.items() if mark != "done"] or list(marks.values())
        newest = max(beats, key=lambda info: info.modified_at)
        is_over = done is not None and _document(place, ground, done) is not None
        document = {} if is_over else _document(place, ground, newest) or {}
        seconds = document.get("ttl_seconds")
        ttl = timedelta(seconds=seconds if isinstance(seconds, int) else TTL_SECONDS)
        yield _LeaseState(
            sid,
            begun_at=min(info.modified_at for info in beats),
            is_alive=not is_over and now - newest.modified_at <= ttl,
            is_claim=document.get("purpose") == CLAIM,
            objects=tuple(marks.values()),
        )


def _document(place: Storage, ground: Ground, info: ObjectInfo) -> dict[str, object] | None:
    """A lease's document, None where it is nobody's."""
    try:
        stored = place.get(info.name)
    except IntegrityError:
        return None
    for signer in ground.signers:
        try:
            return signer.prove("lease", info.name, stored)
        except IntegrityError:
            continue
    return None
