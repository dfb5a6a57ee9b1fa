"""Reading the objects of a project through its Storage API: in parallel, at a rate, exactly.

Small objects share a stored buffer, large ones are cut into several, and none is held whole.
What is read is compared with the row of the snapshot: an object that was replaced or deleted
since is told by name, never taken for the one that was asked for.

What was read is saved from time to time, so that a run that dies need not be begun anew.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aurora.engines.base import Buffer, Stored
from aurora.engines.logical.threads import run_threads
from aurora.engines.supabase.catalogue import Catalogue, Held, Part
from aurora.engines.supabase.documents import BEGUN, LOST, NEWER
from aurora.engines.supabase.rows import ObjectRow
from aurora.errors import (
    AuroraError,
    Cancelled,
    IntegrityError,
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from aurora.events import Advanced, EventSink, PhaseBegun, PhaseEnded
from aurora.storage.limit import Rate
from aurora.storage.retry import Patience, again
from aurora.storage.supabase_rest import Download, SupabaseRest
from aurora.units import format_size, plural

PHASE = "copying Storage objects"
SMALL = 1 << 20  # bytes: up to here objects share a buffer
PIECE = 8 << 20
_MOST_INSIDE = 4096  # objects in one buffer: their rows wait in memory until it is full
_SLICE = 256 << 10  # bytes that pay for the rate at a time
_GIVE_UP = 8  # objects in a row for which the Storage did not answer at all

_SAVING_SHARE = 20  # of the time at most one in so many parts goes into saving
_LOST_SHARE = 50  # the longer it goes on, the rarer it is saved: so much of it may be lost

Put = Callable[[Buffer], Stored]
Beginnings = Sequence[tuple[ObjectRow, Held]]
Key = tuple[str, str, str]  # bucket, name, identity


@dataclass(slots=True)
class Collected:
    """What one pass read."""

    objects: int = 0
    bytes: int = 0
    newer: int = 0
    lost: int = 0
    gave_up: str = ""  # why reading ended early


@dataclass(slots=True)
class Collector:
    """Reads what a catalogue wants and does not hold."""

    client: SupabaseRest
    catalogue: Catalogue
    put: Put
    jobs: int
    rate: Rate
    sink: EventSink
    cancel: threading.Event
    patience: Patience
    piece_bytes: int = PIECE
    save: Callable[[Beginnings], None] | None = None
    """Called now and then: what the catalogue holds by now, and the beginnings of large objects
    given to it, may be needed by another run. Nothing else of this class waits meanwhile."""
    save_every: float = 60.0  # seconds
    begun: Mapping[Key, Held] = field(default_factory=dict)  # beginnings that another run saved
    fetch: Callable[[Part], bytes] | None = None  # reads a stored buffer of those
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _saving: threading.Lock = field(default_factory=threading.Lock)
    _under_way: dict[int, tuple[ObjectRow, "_Read"]] = field(default_factory=dict)
    _bundle: "Bundle" = field(init=False)
    _failures: int = 0
    _told: int = 0
    _began_at: float = 0.0
    _save_at: float = 0.0

    def __post_init__(self) -> None:
        self._bundle = Bundle(self._store, self.catalogue, self.piece_bytes)

    def run(self) -> Collected:
        """Read them all. What cannot be read is noted in the catalogue with the reason.

        Raises:
            Cancelled, and whatever *put* raises; the Storage's own failures are noted.
        """
        count, size = self.catalogue.missing()
        done = Collected()
        if not count:
            return done
        self.sink(PhaseBegun(PHASE, size))
        self._failures = self._told = 0
        rows = self.catalogue.to_read()
        self._began_at = time.monotonic()
        self._save_at = self._began_at + self.save_every

        def work() -> None:
            while (row := self._next(rows, done)) is not None:
                self._take(row, done)
                self._save_if_due()

        try:
            run_threads(work, min(self.jobs, count), name="objects", cancel=self.cancel)
            self._bundle.flush()
        except _NotStored as failure:
            raise failure.error from None
        self.sink(PhaseEnded(PHASE, f"{plural(done.objects, 'object')}, {format_size(done.bytes)}"))
        return done

    def _store(self, data: Buffer) -> Stored:
        """Put, and let no failure of the repository pass for one of the source."""
        try:
            return self.put(data)
        except AuroraError as error:
            raise _NotStored(error) from error

    def _next(self, rows: Iterator[ObjectRow], done: Collected) -> ObjectRow | None:
        with self._lock:
            if self.cancel.is_set():
                raise Cancelled("stopped while Storage objects were copied")
            return None if done.gave_up else next(rows, None)

    def _save_if_due(self) -> None:
        """Save, in one thread; the others go on reading."""
        if (
            self.save is None
            or time.monotonic() < self._save_at
            or not self._saving.acquire(blocking=False)
        ):
            return
        try:
            begun = time.monotonic()
            self._bundle.flush()
            with self._lock:
                under_way = list(self._under_way.values())
            beginnings = [
                (row, Held(sum(part.length for part in parts), "", parts, BEGUN))
                for row, read in under_way
                if (parts := read.beginning_of(row))
            ]
            try:
                self.save(beginnings)
            except AuroraError as error:
                raise _NotStored(error) from error
            now = time.monotonic()
            pause = ((now - begun) * _SAVING_SHARE, (now - self._began_at) / _LOST_SHARE)
            self._save_at = now + max(self.save_every, *pause)
        finally:
            self._saving.release()

    def _take(self, row: ObjectRow, done: Collected) -> None:
        read = _Read(self.piece_bytes)
        with self._lock:
            self._under_way[id(read)] = row, read
        try:
            self._take_into(read, row, done)
        finally:
            with self._lock:
                del self._under_way[id(read)]

    def _take_into(self, read: "_Read", row: ObjectRow, done: Collected) -> None:
        self._resume(row, read)
        try:
            again(lambda: self._read(row, read), self.patience, sink=self.sink)
        except ObjectMissing:
            self._lose(row, self._why_missing(row), done)
        except (StorageDenied, StorageUnavailable) as error:
            self._lose(row, error.message, done)
            with self._lock:
                self._failures += 1
                if self._failures >= _GIVE_UP and not done.gave_up:
                    done.gave_up = error.message
            return
        except StorageError as error:
            self._lose(row, error.message, done)
        else:
            if read.small is not None:
                self._bundle.add(row, read)
            else:
                held = Held(read.size, read.sha256, tuple(read.parts), read.note)
                self.catalogue.hold(row.bucket, row.name, row.identity, held)
            with self._lock:
                done.objects += 1
                done.bytes += read.size
                done.newer += bool(read.note)
        with self._lock:
            self._failures = 0

    def _resume(self, row: ObjectRow, read: "_Read") -> None:
        """Begin with what another run saved of a large object, as far as it is still there."""
        held = self.begun.get((row.bucket, row.name, row.identity))
        if held is None or self.fetch is None or not row.etag or row.size is None:
            return
        read.etag = row.etag
        for part in held.parts:
            if read.size + part.length >= row.size:
                return  # something is to be asked for: the answer tells whether it is the same
            try:
                data = self.fetch(part)
            except IntegrityError:
                return  # from here on it is read again
            except AuroraError as error:
                raise _NotStored(error) from error
            read.take_over(data, part)

    def _read(self, row: ObjectRow, read: "_Read") -> None:
        """The whole object, gone on with where the line breaks, as long as it is the same one."""
        while True:
            begun = read.size
            try:
                with self.client.download(row.bucket, row.name, start=begun) as answer:
                    if begun and _plain(answer.etag) != _plain(read.etag):
                        read.restart()  # replaced meanwhile: from the start
                        continue
                    read.etag = answer.etag
                    self._read_body(answer, read)
                    if answer.size is not None and read.size != answer.size:
                        raise StorageUnavailable(
                            f"{row.bucket}/{row.name} is {answer.size} bytes, {read.size} came"
                        )
                break
            except StorageUnavailable:
                if read.size == begun:
                    raise  # no progress: patience decides
        read.finish(self._store)
        try:
            read.note = self._compared(row, read)
        except BaseException:
            read.restart()
            raise

    def _read_body(self, answer: Download, read: "_Read") -> None:
        for data in answer.chunks:
            if self.cancel.is_set():
                raise Cancelled("stopped while Storage objects were copied")
            self.rate.pay(len(data))
            read.add(data, self._store)
            with self._lock:
                self._told += len(data)
                told = self._told
            self.sink(Advanced(PHASE, told))
            self._save_if_due()

    def _compared(self, row: ObjectRow, read: "_Read") -> str:
        """ "" where the bytes are those of the row, else what they are."""
        known = [
            same
            for same in (
                _plain(row.etag) == _plain(read.etag) if row.etag and read.etag else None,
                row.size == read.size if row.size is not None else None,
            )
            if same is not None
        ]
        if known and all(known):
            return ""
        try:
            now = self.client.info(row.bucket, row.name)
        except ObjectMissing:
            return "" if not known else NEWER
        if row.version and now.version == row.version:
            if row.size is not None and read.size != row.size:
                raise StorageUnavailable(
                    f"{row.bucket}/{row.name} is {row.size} bytes by its row, {read.size} came"
                )
            return ""  # the row of an odd server, whose ETags are not kept
        if not known and not row.version:
            return ""
        return NEWER

    def _why_missing(self, row: ObjectRow) -> str:
        try:
            now = self.client.info(row.bucket, row.name)
        except ObjectMissing:
            return "deleted since the snapshot"
        except StorageError as error:
            return error.message
        if row.version and now.version != row.version:
            return "replaced while it was read"
        return "the project itself has a row and no bytes for it"

    def _lose(self, row: ObjectRow, why: str, done: Collected) -> None:
        self.catalogue.hold(row.bucket, row.name, row.identity, Held(0, "", (), f"{LOST}: {why}"))
        with self._lock:
            done.lost += 1


class _NotStored(Exception):
    """The repository failed; the Storage did not."""

    def __init__(self, error: AuroraError) -> None:
        super().__init__(error.message)
        self.error = error


class _Read:
    """An object on its way: what was put already, and what waits."""

    def __init__(self, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes
        self.restart()

    def restart(self) -> None:
        """Forget what came so far."""
        self.size = 0
        self.etag = ""
        self.sha256 = ""
        self.note = ""
        self.parts: list[Part] = []
        self.small: bytes | None = None  # the whole object, where it shares a buffer
        self._waiting = bytearray()
        self._sum = hashlib.sha256()

    def beginning_of(self, row: ObjectRow) -> tuple[Part, ...]:
        """What is stored of it so far, if it is the very object of *row*. For other threads."""
        parts = self.parts
        found = tuple(parts)
        is_same = bool(row.etag) and _plain(self.etag) == _plain(row.etag)
        return found if is_same and self.parts is parts else ()  # else it was begun anew meanwhile

    def take_over(self, data: bytes, part: Part) -> None:
        """Begin with, or after, a part that is stored already."""
        self._sum.update(data)
        self.size += len(data)
        self.parts.append(part)

    def add(self, data: bytes, put: Put) -> None:
        self._sum.update(data)
        self.size += len(data)
        self._waiting += data
        while len(self._waiting) >= self._piece_bytes:
            piece = bytes(self._waiting[: self._piece_bytes])
            del self._waiting[: self._piece_bytes]
            self._put(piece, put)

    def finish(self, put: Put) -> None:
        self.sha256 = self._sum.hexdigest()
        if not self.parts and len(self._waiting) <= SMALL:
            self.small = bytes(self._waiting)
        elif self._waiting:
            self._put(bytes(self._waiting), put)

    def _put(self, piece: bytes, put: Put) -> None:
        stored = put(piece)
        self.parts.append(Part(stored.object, stored.raw, 0, len(piece)))


class Bundle:
    """Small objects on their way into one stored buffer. Threads may share it."""

    def __init__(self, put: Put, catalogue: Catalogue, size: int) -> None:
        self._put = put
        self._catalogue = catalogue
        self._size = size
        self._lock = threading.Lock()
        self._data = bytearray()
        self._inside: list[tuple[ObjectRow, _Read, int]] = []
        self._at: dict[str, int] = {}  # where a content is in this buffer, by its sum

    def add(self, row: ObjectRow, read: _Read) -> None:
        """Take a small object; it is held when the buffer is full, or flushed."""
        assert read.small is not None
        if not read.size:
            held = Held(0, read.sha256, (), read.note)
            self._catalogue.hold(row.bucket, row.name, row.identity, held)
            return
        if same := self._catalogue.with_content(read.sha256, read.size):
            held = Held(same.size, same.sha256, same.parts, read.note)
            self._catalogue.hold(row.bucket, row.name, row.identity, held)
            return
        with self._lock:
            at = self._at.get(read.sha256)
            if at is None:
                at = self._at[read.sha256] = len(self._data)
                self._data += read.small
            read.small = b""
            self._inside.append((row, read, at))
            if len(self._data) >= self._size or len(self._inside) >= _MOST_INSIDE:
                self._flush()

    def flush(self) -> None:
        """Put what waits."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if not self._inside:
            return
        stored = self._put(bytes(self._data))
        for row, read, at in self._inside:
            part = Part(stored.object, stored.raw, at, read.size)
            self._catalogue.hold(
                row.bucket, row.name, row.identity, Held(read.size, read.sha256, (part,), read.note)
            )
        self._data, self._inside, self._at = bytearray(), [], {}


def _plain(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')
