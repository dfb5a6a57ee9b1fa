"""Copying a repository to its secondary, whole backups at a time, never damage.

Needs no key of the primary. Every object is compared with the SHA-256 in the refs before
it is wrapped; a backup's manifest is copied last, so a backup that the secondary lists is
complete there. A run that was cut off goes on where it stopped. Neither deletions nor
alterations are copied: the secondary has a retention of its own, and a copy that opens is
never replaced, since refs without their key prove accidents only.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from aurora.errors import IntegrityError, RepositoryNotFound, UnsupportedRepository
from aurora.events import Advanced, EventSink, PhaseBegun, PhaseEnded, discard
from aurora.repository import signed
from aurora.repository.catalog import BackupEntry, Catalog
from aurora.repository.config import read_config
from aurora.repository.damage import damaged
from aurora.repository.door import ClosedRepository
from aurora.repository.ground import Ground
from aurora.repository.ids import CHECKPOINT, parse_backup_id
from aurora.repository.layout import CONFIG, ObjectType, backup_name, refs_name
from aurora.repository.mirror_view import MirrorView
from aurora.repository.reader import ObjectReader
from aurora.repository.refs import RefObject, Refs, read_refs
from aurora.repository.uploads import DEFAULT_BYTES_IN_FLIGHT, DEFAULT_WORKERS, UploadPool
from aurora.storage.base import Storage

__all__ = ["MirrorView", "ReplicationReport", "replicate"]

PHASE = "replicate"


@dataclass(slots=True)
class ReplicationReport:
    """What a run copied, and what the secondary still lacks."""

    copied_objects: int = 0
    copied_bytes: int = 0  # stored bytes of the primary
    present_objects: int = 0  # needed and there already
    bad: dict[str, str] = field(default_factory=dict)  # name on the primary -> what is wrong
    lacking: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """(database, backup id) of every backup of the primary -> names not on the secondary."""

    @property
    def is_complete(self) -> bool:
        """Whether every backup of the primary is whole on the secondary."""
        return not self.bad and not any(self.lacking.values())

    def replicated(self, backup: BackupEntry) -> bool:
        """Whether *backup* can be restored from the secondary alone."""
        return self.lacking.get((backup.database, backup.id)) == []


def replicate(
    primary: Storage,
    mirror: MirrorView,
    *,
    names: Iterable[str] | None = None,
    sink: EventSink = discard,
    workers: int = DEFAULT_WORKERS,
    bytes_in_flight: int = DEFAULT_BYTES_IN_FLIGHT,
) -> ReplicationReport:
    """Copy to *mirror* what it lacks; of *names* only, when they are given.

    Raises:
        RepositoryNotFound: there is no repository on *primary*.
        UnsupportedRepository: *mirror* belongs to another repository.
        StorageError: a storage failed; what was copied stays and the next run goes on.
    """
    run = _Run(primary, mirror, None if names is None else frozenset(names), sink)
    pool = UploadPool(workers=workers, bytes_in_flight=bytes_in_flight)
    try:
        run.copy_all(pool)
    finally:
        pool.close()
        run.end()
    return run.report


class _Run:
    def __init__(
        self, primary: Storage, mirror: MirrorView, only: frozenset[str] | None, sink: EventSink
    ) -> None:
        self.report = ReplicationReport()
        self._primary = primary
        self._mirror = mirror
        self._only = only
        self._sink = sink
        self._closed = ClosedRepository(primary)
        self._require_same_repository()
        ground = mirror.ground()
        self._lease = ground.lease(PHASE)
        # As any writer: first the lease, then the candidates, then what is there.
        self._lease.begin()
        try:
            self._take_stock(ground)
        except BaseException:
            self._lease.end()
            raise
        self._submitted: set[str] = set()
        self._lock = threading.Lock()

    def _take_stock(self, ground: Ground) -> None:
        """What is there to rely on; what a collector may be deleting is not.

        Nor may it be put again: a name has one form, and the collector would take that too.
        """
        candidates = ground.candidates()
        self._present: dict[str, int] = {}
        self._leaving: set[str] = set()
        for info in ground.view.list(""):
            if candidates and ground.stored_name(info.name) in candidates:
                self._leaving.add(info.name)
            else:
                self._present[info.name] = info.size

    def end(self) -> None:
        """The run is over, whichever way."""
        self._lease.end()

    def copy_all(self, pool: UploadPool) -> None:
        self._sink(PhaseBegun(PHASE))
        self._copy_unnamed()
        catalog = Catalog(ObjectReader(self._primary), self._closed.repository_id, None)
        for database, backup in catalog.names():  # oldest first
            if parse_backup_id(backup).type == CHECKPOINT:
                continue  # gone when there is a backup that holds the same
            self._copy_backup(database, backup, pool)
            if self.report.lacking[database, backup] and catalog.is_gone(database, backup):
                self._forget(database, backup)  # removed on the primary while this ran
        self._sink(
            PhaseEnded(
                PHASE, f"{self.report.copied_objects} objects, {self.report.copied_bytes} bytes"
            )
        )

    def _require_same_repository(self) -> None:
        try:
            theirs = read_config(ObjectReader(self._mirror)).repository_id
        except RepositoryNotFound:
            return  # the first run
        if theirs != self._closed.repository_id:
            raise UnsupportedRepository(
                f"{self._mirror.url} is the secondary of another repository",
                hint="Nothing was copied. Every repository needs a secondary of its own: give "
                "another directory or prefix under [secondary].",
            )

    def _copy_unnamed(self) -> None:
        """What no refs name: config, key slots and the audit trail."""
        self._copy_small(CONFIG, 0, _prove_clear)
        for prefix, prove in (
            (ObjectType.SLOT.prefix, _prove_clear),
            (ObjectType.AUDIT.prefix, _take),
        ):
            for info in self._primary.list(prefix):
                self._copy_small(info.name, info.size, prove)

    def _copy_small(self, name: str, size: int, prove: Callable[[str, bytes], None]) -> None:
        held = self._present.get(name)
        if not self._is_wanted(name) or (held is not None and size in (0, held)):
            return
        try:
            stored = self._primary.get(name)
            prove(name, stored)
        except IntegrityError as error:
            self._note_bad(name, error)
            return
        self._mirror_put(name, stored)

    def _copy_backup(self, database: str, backup: str, pool: UploadPool) -> None:
        name = refs_name(database, backup)
        lacking = self.report.lacking.setdefault((database, backup), [])
        try:
            stored = self._primary.get(name)
            refs = read_refs(
                stored, name=name, repository_id=self._closed.repository_id, mac_key=None
            )
        except IntegrityError as error:
            self._note_bad(name, error)
            lacking.append(name)
            return
        for one in refs.objects:
            self._submit(one, pool)
        pool.drain()
        if self._present.get(name) != len(stored) and self._is_wanted(name):
            self._mirror_put(name, stored)
        lacking.extend(one.name for one in refs.objects if not self._has(one))
        if self._present.get(name) != len(stored):
            lacking.append(name)
        self._finish(refs, lacking)

    def _finish(self, refs: Refs, lacking: list[str]) -> None:
        """Copy the manifest if everything else is there."""
        if not lacking and not self._has(refs.manifest) and self._is_wanted(refs.manifest.name):
            self._lease.require_fresh()
            self._copy(refs.manifest)
        if not self._has(refs.manifest):
            lacking.append(refs.manifest.name)

    def _submit(self, one: RefObject, pool: UploadPool) -> None:
        if self._has(one):
            self.report.present_objects += 1
        elif self._is_wanted(one.name) and one.name not in self._submitted:
            self._submitted.add(one.name)
            pool.submit(one.size, lambda: self._copy(one))

    def _copy(self, one: RefObject) -> None:
        try:
            stored = self._primary.get(one.name)
            if hashlib.sha256(stored).hexdigest() != one.sha256:
                raise damaged(one.name, "its bytes are not those that the refs name")
        except IntegrityError as error:
            self._note_bad(one.name, error)
            return
        self._mirror_put(one.name, stored)

    def _mirror_put(self, name: str, stored: bytes) -> None:
        try:
            if name in self._present:
                self._require_broken(name, stored)
            self._mirror.put(name, stored)
            self._require_taken(name, len(stored))
        except IntegrityError as error:
            self._note_bad(name, error)
            return
        with self._lock:
            self._present[name] = len(stored)
            self.report.copied_objects += 1
            self.report.copied_bytes += len(stored)
            done = self.report.copied_bytes
        self._sink(Advanced(PHASE, done, name))

    def _require_broken(self, name: str, stored: bytes) -> None:
        """Raise unless the copy that is there may be replaced by *stored*.

        A copy that opens is what an earlier run took from the primary: then the primary was
        altered since, with refs to match if somebody did it on purpose.
        """
        try:
            held = self._mirror.get(name)
        except IntegrityError:
            return
        if held != stored:
            raise damaged(name, "the secondary keeps another copy, taken before it was altered")

    def _require_taken(self, name: str, size: int) -> None:
        if self._mirror.head(name).size != size:
            raise damaged(name, "the secondary took only a part of it")

    def _forget(self, database: str, backup: str) -> None:
        self.report.lacking.pop((database, backup))
        for name in (refs_name(database, backup), backup_name(database, backup)):
            self.report.bad.pop(name, None)

    def _note_bad(self, name: str, error: IntegrityError) -> None:
        with self._lock:
            self.report.bad[name] = error.message

    def _has(self, one: RefObject) -> bool:
        return self._present.get(one.name) == one.size

    def _is_wanted(self, name: str) -> bool:
        return (self._only is None or name in self._only) and name not in self._leaving


def _prove_clear(name: str, stored: bytes) -> None:
    signed.read_clear(stored, name=name)


def _take(name: str, stored: bytes) -> None:
    """The audit trail proves itself by its own chain."""
