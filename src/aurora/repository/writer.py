"""One run that writes a backup: lease, contents, refs, manifest.

The order is what makes a crash harmless. The lease is put before anything is listed; refs
name only what is durable; the manifest is the last put and the commit. Whatever a crash
leaves behind before that is garbage, and nothing else.
docs/format.md, "Write order", is normative.
"""

import hashlib
import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

from aurora import clock
from aurora.errors import ObjectMissing, StorageError, UsageError
from aurora.events import EventSink, discard
from aurora.repository import canonical, envelope, ids
from aurora.repository.catalog import BackupEntry, Catalog, entry_of
from aurora.repository.damage import missing
from aurora.repository.derive import MasterKey
from aurora.repository.holdings import Holdings
from aurora.repository.layout import (
    CONTENT_TYPES,
    FORMAT,
    ObjectType,
    backup_name,
    check_database,
    content_name,
    parse_content,
    refs_name,
    session_name,
    sid8,
)
from aurora.repository.leases import TTL_SECONDS, Lease
from aurora.repository.once import put_once
from aurora.repository.presence import stored_size, stored_sizes
from aurora.repository.reader import ObjectReader
from aurora.repository.refs import Previous, RefObject, Refs, write_refs
from aurora.repository.sessions import Sessions, new_session, write_session
from aurora.repository.structure import find_refs
from aurora.repository.uploads import DEFAULT_BYTES_IN_FLIGHT, DEFAULT_WORKERS, UploadPool
from aurora.storage.base import Buffer, Storage

_FEW = 12  # objects of a small backup: fewer questions than pages of a listing

COMMIT = "commit"
"""The member of a manifest that the repository writes; all others are the caller's."""


@dataclass(frozen=True, slots=True)
class Ref:
    """How a manifest names a sealed, content-addressed object."""

    name: str  # full object name
    raw: int  # bytes before compression


@dataclass(slots=True)
class WriterStats:
    """Totals of one writer."""

    raw_bytes: int = 0  # of all payloads put
    new_raw_bytes: int = 0  # of those that were not held already
    stored_bytes: int = 0  # uploaded for them
    new_objects: int = 0
    reused_objects: int = 0


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How a writer works. ``distrusted`` names objects that must not be reused."""

    level: int = envelope.DEFAULT_LEVEL  # zstd, -5 to 19
    workers: int = DEFAULT_WORKERS
    in_flight: int | None = None  # payloads accepted and not yet durable; workers + 2
    bytes_in_flight: int = DEFAULT_BYTES_IN_FLIGHT
    ttl_seconds: float = TTL_SECONDS
    distrusted: Container[str] = ()
    reuse: bool = True  # False: nothing that is held is looked for, so beginning is cheap

    def __post_init__(self) -> None:
        if not -5 <= self.level <= 19:
            raise UsageError(f"compression level {self.level} is not between -5 and 19")


class Writer:
    """Writes one backup, or several small ones. A context manager.

    :meth:`put` may be called from any thread. Leaving the context without :meth:`commit`
    abandons the run.
    """

    def __init__(
        self,
        storage: Storage,
        master: MasterKey,
        database: str,
        options: WriterOptions,
        sink: EventSink = discard,
        catalog: Catalog | None = None,
    ) -> None:
        """Put the lease, then look at what is held, then put the session.

        A *catalog* of the same storage that knows refs already saves reading them.

        Raises:
            StorageError, UsageError.
        """
        self.database = check_database(database)
        self.stats = WriterStats()
        self._storage = storage
        self._master = master
        self._level, self._reuse = options.level, options.reuse
        self._lock = threading.Lock()
        self._claimed: set[str] = set()
        self._stored: dict[str, RefObject] = {}
        reader = ObjectReader(storage)
        self._catalog = catalog or Catalog(reader, master.repository_id, master.mac_key)
        self._session = new_session()
        self._lease = Lease(
            storage,
            sid=self._session.sid,
            repository_id=master.repository_id,
            mac_key=master.mac_key,
            purpose="backup",
            ttl_seconds=options.ttl_seconds,
        )
        self._pool = UploadPool(
            workers=options.workers,
            in_flight=options.in_flight,
            bytes_in_flight=options.bytes_in_flight,
        )
        self._lease.begin()
        try:
            sessions = Sessions(reader, master)
            if options.reuse:
                self._holdings = Holdings.take(
                    reader,
                    sessions,
                    self._catalog,
                    master,
                    distrusted=options.distrusted,
                    sink=sink,
                )
            else:
                self._holdings = Holdings.nothing(reader, sessions)
            if self.sid8 in self._holdings.sid8s:  # one in four billion
                raise UsageError("the random session id is taken", hint="Run it again.")
            stored = write_session(master, self._session, created_at=clock.now())
            self._put_and_note(session_name(self._session.sid), stored)
        except BaseException:
            self._lease.end()
            raise
        self._open = True

    @property
    def sid8(self) -> str:
        """The end of the names of everything that this run uploads."""
        return sid8(self._session.sid)

    def identify(self, type: ObjectType, payload: Buffer) -> str:  # noqa: A002 - the API's word
        """The keyed id of *payload*: 64 hex digits."""
        return envelope.payload_id(self._master.id_key, type, payload)

    def known(self, type: ObjectType, payload_id: str, raw: int) -> Ref | None:  # noqa: A002
        """The Ref under which this content of *raw* bytes may be used without a put, or None."""
        name = self._find(type, payload_id)
        return None if name is None else Ref(name, raw)

    def is_reusable(self, ref: Ref) -> bool:
        """Whether *ref*, for example from an earlier manifest, may be named by this backup."""
        with self._lock:
            claimed = ref.name in self._claimed
        return claimed or self._holdings.get(ref.name) is not None

    def put(self, type: ObjectType, payload: Buffer) -> Ref:  # noqa: A002
        """Store *payload* unless it is held already; it is durable after :meth:`flush`.

        The payload must not be changed until then. Blocks while the pool is full.

        Raises:
            AuroraError: an earlier upload failed; nothing more is accepted.
        """
        if type not in CONTENT_TYPES:
            raise UsageError(f"objects of type {type.value} are not named by content")
        self._pool.check()
        raw = memoryview(payload).nbytes
        payload_id = self.identify(type, payload)
        name = self._find(type, payload_id)
        is_new = False
        if name is None:
            name = content_name(type, payload_id, self.sid8)
            with self._lock:
                is_new = name not in self._claimed
                self._claimed.add(name)
        self._count(raw, is_new=is_new)
        if is_new:
            self._pool.submit(raw, partial(self._upload, type, name, payload))
        return Ref(name, raw)

    def put_part(self, name: str, payload: Buffer, seal: Callable[[Buffer], bytes]) -> Ref:
        """Store *payload* as *seal* makes it, under a name of its own: a sealed backup's part.

        Raises:
            AuroraError: an earlier upload failed; nothing more is accepted.
        """
        raw = memoryview(payload).nbytes

        def upload() -> None:
            with self._pool.cpu:
                stored = seal(payload)
            one = self._put_and_note(name, stored)
            with self._lock:
                self.stats.stored_bytes += one.size

        self._count(raw, is_new=True)
        self._pool.submit(raw, upload)
        return Ref(name, raw)

    def flush(self) -> None:
        """Wait until every put so far is durable. Raises what any upload raised."""
        self._pool.drain()

    def commit(
        self,
        *,
        backup_id: str,
        type: str,  # noqa: A002
        created_at: datetime,
        manifest: Mapping[str, Any],
        uses: Iterable[Ref],
        last: bool = True,
    ) -> BackupEntry:
        """Make the backup: refs, then the manifest. The run is over when this returns.

        Unless it is not the *last* of this run: then it goes on under the same lease, so it
        must end before long. *uses* names every object that a restore of this backup reads,
        apart from sessions and the manifest itself. *manifest* is canonical JSON with any
        members but ``commit``.

        Raises:
            RepositoryLocked: the lease is no longer fresh; nothing was committed.
            ObjectMissing: *uses* names what this writer neither put nor may reuse, or the
                storage does not have what it said it stored.
            UsageError: *manifest* names an object that *uses* does not.
            StorageError: nothing was committed, as far as the storage can be asked.
        """
        if ids.parse_backup_id(backup_id).type != type or COMMIT in manifest:
            raise UsageError("the manifest or the backup id does not fit this commit")
        self.flush()
        self._lease.require_fresh()
        objects = self._objects(uses)
        self._require_all_stored(manifest, objects)
        previous = self._previous(backup_id)
        sequence = previous.sequence + 1 if previous else 1
        head = {
            "backup": backup_id,
            "created_at": clock.isoformat(created_at),
            "database": self.database,
            "format": FORMAT,
            "previous": previous and _previous_document(previous),
            "repository": self._master.repository_id.hex(),
            "sequence": sequence,
            "type": type,
        }
        sealed = self._seal(
            ObjectType.BACKUP,
            backup_name(self.database, backup_id),
            canonical.dumps({**manifest, COMMIT: head}),
        )
        refs = Refs(
            database=self.database,
            backup=backup_id,
            type=type,
            created_at=created_at,
            sequence=sequence,
            previous=previous,
            manifest=_describe(backup_name(self.database, backup_id), sealed),
            objects=objects,
        )
        self._put_commit(refs, sealed)
        self.stats.stored_bytes += len(sealed)
        if last:
            self._close(end_lease=True)
        return entry_of(refs)  # not by a listing: some storages list late

    def abandon(self) -> None:
        """Give up: stop uploads and end the lease. What was uploaded is garbage."""
        if self._open:
            self._close(end_lease=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abandon()

    def _find(self, kind: ObjectType, payload_id: str) -> str | None:
        own = content_name(kind, payload_id, self.sid8)
        with self._lock:
            if own in self._claimed:
                return own
        held = self._holdings.find(kind, payload_id)
        return held.name if held else None

    def _count(self, raw: int, *, is_new: bool) -> None:
        with self._lock:
            self.stats.raw_bytes += raw
            if is_new:
                self.stats.new_raw_bytes += raw
                self.stats.new_objects += 1
            else:
                self.stats.reused_objects += 1

    def _upload(self, kind: ObjectType, name: str, payload: Buffer) -> None:
        with self._pool.cpu:
            sealed = self._seal(kind, name, payload)
        one = self._put_and_note(name, sealed)
        with self._lock:
            self.stats.stored_bytes += one.size

    def _seal(self, kind: ObjectType, name: str, payload: Buffer) -> bytearray:
        return envelope.seal(
            payload,
            kind=kind,
            name=name,
            repository_id=self._master.repository_id,
            session=self._session,
            level=self._level,
        )

    def _put_and_note(self, name: str, stored: Buffer) -> RefObject:
        self._storage.put(name, stored)
        one = _describe(name, stored)
        with self._lock:
            self._stored[name] = one
        return one

    def _objects(self, uses: Iterable[Ref]) -> list[RefObject]:
        found: dict[str, RefObject] = {}
        own = session_name(self._session.sid)
        found[own] = self._stored[own]
        for name in {ref.name for ref in uses}:
            content = parse_content(name)
            one = self._stored.get(name) or self._holdings.get(name)
            if one is None:
                raise missing(name, "this run neither put it nor may reuse it")
            found[name] = one
            if content is not None and content.sid8 != self.sid8:
                session = self._holdings.session_of(content.sid8)
                if session is None:
                    raise missing(name, "its session is missing")
                found[session.name] = session
        return list(found.values())

    def _previous(self, backup_id: str) -> Previous | None:
        entries = self._catalog.everything(self.database)
        if any(entry.id == backup_id for entry in entries):
            raise UsageError(f"there is a backup {backup_id} already")
        known = [entry for entry in entries if entry.sequence and entry.manifest_sha256]
        if not known:
            return None
        newest = max(known, key=lambda entry: (entry.sequence or 0, entry.id))
        return Previous(newest.id, newest.sequence or 0, newest.manifest_sha256 or "")

    def _put_commit(self, refs: Refs, sealed: bytearray) -> None:
        master = self._master
        stored = write_refs(refs, repository_id=master.repository_id, mac_key=master.mac_key)
        may_land = False
        try:
            self._put_surely(refs_name(self.database, refs.backup), stored)
            self._lease.require_fresh()
            may_land = True
            self._put_surely(refs.manifest.name, sealed)
        except BaseException:
            # A put of the manifest may still land: the lease must outlive it, so it is not
            # ended. And the run is over: another try would put other bytes under the names.
            self._close(end_lease=not may_land)
            raise

    def _put_surely(self, name: str, stored: Buffer) -> None:
        put_once(self._storage, name, stored)
        try:
            size = stored_size(self._storage, name)
        except StorageError:
            return  # the answer to the put has to do
        if size != memoryview(stored).nbytes:
            raise _not_stored([name])

    def _require_all_stored(self, manifest: Mapping[str, Any], objects: list[RefObject]) -> None:
        """Raise unless the backup's objects are named by its refs, and on the storage."""
        needed = {one.name: one.size for one in objects}
        if unnamed := {name for name, _ in find_refs(manifest)} - needed.keys():
            raise UsageError(f"the manifest names {min(unnamed)}, which its refs would not")
        listed = self._reuse or len(needed) > _FEW
        sizes = stored_sizes(self._storage, needed, listed=listed)
        if lost := sorted(name for name, size in needed.items() if sizes.get(name) != size):
            raise _not_stored(lost)

    def _close(self, *, end_lease: bool) -> None:
        self._open = False
        self._pool.close()
        if end_lease:
            self._lease.end()
        else:
            self._lease.stop()


def _describe(name: str, stored: Buffer) -> RefObject:
    return RefObject(name, memoryview(stored).nbytes, hashlib.sha256(stored).hexdigest())


def _not_stored(names: Sequence[str]) -> ObjectMissing:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return ObjectMissing(
        f"the storage said that it stored {names[0]}{more}, and does not have it whole",
        hint="This backup is not complete and does not count; the earlier ones were not touched. "
        "The storage loses objects, or somebody deletes them: find out which. Then run it "
        "again: what is missing is uploaded again.",
        context={"name": names[0], "count": len(names)},
    )


def _previous_document(previous: Previous) -> dict[str, object]:
    return {
        "backup": previous.backup,
        "sequence": previous.sequence,
        "sha256": previous.sha256,
    }
