"""Storing what a stream receives: segments, and the small pieces that commit them.

One thread uploads and commits, so that the receiver never waits. A piece names whole
transactions and is durable before its position may be acknowledged. Pieces of a while are
gathered into one, with their small segments joined, and removed: what is listed and read
later stays small, however long the stream runs. Nothing is written while nothing changes,
but for a position now and then.

Whatever fails here ends the session that it belongs to. The next one begins where the
repository says that the log ends, so nothing has to be undone.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from aurora import clock
from aurora.engines.base import LogPart, Segment, Sequence_
from aurora.engines.logical.segments import CUT_BYTES, joined
from aurora.errors import StorageError
from aurora.operations.content import ENGINE, Body, moved_on
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import Ref, Repository
from aurora.repository.ids import STREAM, new_backup_id
from aurora.repository.layout import ObjectType
from aurora.repository.removal import remove_backups
from aurora.repository.writer import Writer
from aurora.version import __version__

_SMALL_BYTES = 1 << 20  # segments below are joined when their pieces are gathered
_WAITING_BYTES = 2 * CUT_BYTES  # sealed and not yet handed to the writer
_UPLOADS = 4
_TTL_SECONDS = 2 * 3600.0  # so long a collector waits for a stream that was killed
_IN_FLIGHT_BYTES = 4 * CUT_BYTES


@dataclass(frozen=True, slots=True)
class Schema:
    """What a look at the source says of its schema; ``fingerprint`` "" where it cannot be asked."""

    fingerprint: str = ""
    keyed: dict[str, str] = field(default_factory=dict)
    sequences: tuple[Sequence_, ...] = ()
    markers: str = ""
    snapshot: str = ""

    @property
    def state(self) -> tuple[str, str]:
        """What pieces that are gathered have in common."""
        return self.fingerprint, self.markers


@dataclass(frozen=True, slots=True)
class Cut:
    """Everything handed over before it are whole transactions up to *position*."""

    position: int
    to_at: str  # the source's clock at some position up to there; "" where none is known


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece that this session committed, and the payloads of its small segments."""

    entry: BackupEntry
    log: LogPart
    payloads: tuple[bytes | None, ...]
    sequences: tuple[Sequence_, ...]


@dataclass(slots=True)
class Figures:
    """What was stored, in all sessions of a stream."""

    pieces: int = 0
    transactions: int = 0
    log_bytes: int = 0  # before compression
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class KeeperOptions:
    """How pieces are gathered: after so many, or so many seconds."""

    database: str
    level: int = 1
    gather_pieces: int = 64
    gather_seconds: float = 900.0
    observe: Callable[[bytes], None] = lambda _: None  # sees every segment before it is stored


class Keeper:
    """Takes segments and cuts in order; stores them from a thread of its own.

    Attributes:
        durable: everything up to this position is named by a committed manifest.
    """

    def __init__(
        self,
        repository: Repository,
        options: KeeperOptions,
        begin: LogPart,
        look: Callable[[], Schema],
        figures: Figures,
    ) -> None:
        """*begin* is where the log stands: its ``to_lsn`` is kept, ``parent`` its piece's id."""
        self.durable = begin.to_lsn
        self._repository = repository
        self._options = options
        self._log = begin
        self._base = begin.base
        self._look = look
        self._figures = figures
        self._queue: queue.Queue[tuple[bytes, Segment] | Cut | None] = queue.Queue()
        self._lock = threading.Lock()
        self._waiting = 0  # bytes
        self._open: list[tuple[Segment, bytes | None]] = []  # stored, and in no piece yet
        self._group: list[_Piece] = []
        self._empty: _Piece | None = None  # the newest piece, where it only says a position
        self._sequences: dict[int, Sequence_] = {}
        self._group_since = 0.0
        self._writer: Writer | None = None
        self._counted = 0  # bytes stored by this writer that are in the figures
        self._error: BaseException | None = None
        self._abandoned = False
        self._may_delete = True
        self._thread = threading.Thread(target=self._run, name="log-keeper", daemon=True)
        self._thread.start()

    def take(self, payload: bytes, segment: Segment) -> None:
        """Accept a sealed segment; raises what storing an earlier one raised."""
        self.check()
        with self._lock:
            self._waiting += len(payload)
        self._queue.put((payload, segment))

    def cut(self, position: int, to_at: str) -> None:
        """Let everything taken so far be committed."""
        self.check()
        self._queue.put(Cut(position, to_at))

    def has_room(self) -> bool:
        """Whether another segment may be taken."""
        self.check()
        return self._waiting < _WAITING_BYTES

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self._error is not None:
            raise self._error

    def set_base(self, backup_id: str) -> None:
        """Pieces lean on another full from now on."""
        self._base = backup_id

    def finish(self, *, within: float) -> bool:
        """Store what was cut, gather, end the thread; whether that was done in time."""
        self._queue.put(None)
        self._thread.join(within)
        if self._thread.is_alive():
            self._abandoned = True
            return False
        self.check()
        return True

    def abandon(self) -> None:
        """End the thread soon; what is not committed will be read again."""
        self._abandoned = True
        self._queue.put(None)

    # -- the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._abandoned:
                try:
                    item = self._queue.get(timeout=1.0)
                except queue.Empty:
                    self._gather_if_due()
                    continue
                if item is None:
                    break
                if isinstance(item, Cut):
                    self._commit(item)
                    self._gather_if_due()
                else:
                    self._store(*item)
            if not self._abandoned:
                self._gather()
        except BaseException as error:  # noqa: BLE001 - carried to the thread that can tell it
            self._error = error
        finally:
            if self._writer is not None:
                self._writer.abandon()

    def _store(self, payload: bytes, segment: Segment) -> None:
        self._options.observe(payload)
        ref = self._begun().put(ObjectType.LOG, payload)
        kept = msgspec.structs.replace(segment, object=ref.name, raw=ref.raw)
        self._open.append((kept, payload if len(payload) < _SMALL_BYTES else None))
        with self._lock:
            self._waiting -= len(payload)

    def _begun(self) -> Writer:
        if self._writer is None:
            self._writer = self._repository.write(
                self._options.database,
                level=self._options.level,
                workers=_UPLOADS,
                bytes_in_flight=_IN_FLIGHT_BYTES,
                ttl_seconds=_TTL_SECONDS,
                reuse=False,
            )
            self._counted = 0
            self._group_since = time.monotonic()
        return self._writer

    def _commit(self, cut: Cut) -> None:
        segments, self._open = self._open, []
        if cut.position <= self._log.to_lsn and not segments:
            return
        schema = self._look()
        known = {(one.log.fingerprint, one.log.markers) for one in self._group
                 if one.log.fingerprint}  # fmt: skip
        if schema.fingerprint and known - {schema.state}:
            # What is gathered has one schema; the segments just stored are the old writer's.
            self._gather(keep_writer=True)
        writer = self._begun()
        before = self._empty
        if before is not None and (before.log.fingerprint, before.log.markers) != schema.state:
            before = None
        log = msgspec.structs.replace(
            self._log,
            base=self._base,
            from_lsn=before.log.from_lsn if before else self._log.to_lsn,
            to_lsn=max(cut.position, self._log.to_lsn),
            to_at=_later(cut.to_at, self._log.to_at),
            segments=tuple(segment for segment, _ in segments),
            fingerprint=schema.fingerprint,
            markers=schema.markers,
            snapshot=schema.snapshot,
            keyed=schema.keyed or self._log.keyed,
        )
        moved = tuple(one for one in schema.sequences if self._sequences.get(one.oid) != one)
        sequences = moved_on(before.sequences if before else (), moved)
        entry = self._put(writer, log, sequences, last=False)
        self._sequences |= {one.oid: one for one in moved}
        piece = _Piece(entry, log, tuple(payload for _, payload in segments), sequences)
        if before is not None:
            self._remove([before])
        self._group = [one for one in self._group if one is not before] + [piece]
        self._empty = None if segments else piece
        self._log = msgspec.structs.replace(
            log, segments=(), parent=entry.id, fingerprint=log.fingerprint or self._log.fingerprint
        )
        self._figures.pieces += 1
        self._figures.transactions += sum(segment.transactions for segment, _ in segments)
        self._figures.log_bytes += sum(segment.raw for segment, _ in segments)
        self.durable = log.to_lsn

    def _put(
        self, writer: Writer, log: LogPart, sequences: tuple[Sequence_, ...], *, last: bool
    ) -> BackupEntry:
        body = Body(ENGINE, __version__, (), log=log, sequences=sequences)
        created_at = clock.now()
        entry = writer.commit(
            backup_id=new_backup_id(STREAM, created_at),
            type=STREAM,
            created_at=created_at,
            manifest=msgspec.to_builtins(body),
            uses=[Ref(segment.object, segment.raw) for segment in log.segments],
            last=last,
        )
        self._figures.stored_bytes += writer.stats.stored_bytes - self._counted
        self._counted = writer.stats.stored_bytes
        return entry

    def _gather_if_due(self) -> None:
        if self._writer is None or self._open:
            return  # segments of a transaction that goes on are this writer's
        held = sum(len(payload or b"") for one in self._group for payload in one.payloads)
        if (
            len(self._group) >= self._options.gather_pieces
            or held > CUT_BYTES
            or time.monotonic() - self._group_since > self._options.gather_seconds
        ):
            self._gather()

    def _gather(self, *, keep_writer: bool = False) -> None:
        """Make one piece of the group's, and begin a new group."""
        writer = self._writer
        group, self._group = self._still_listed(self._group), []
        if writer is None:
            return
        while group and not group[-1].log.fingerprint:
            group.pop()  # what is known of the schema before it must not be lost
        if len(group) > 1 and self._may_delete:
            whole = _whole(writer, group)
            entry = self._put(writer, whole, _all_sequences(group), last=not keep_writer)
            self._remove(group)
            if self._log.parent == group[-1].entry.id:
                self._log = msgspec.structs.replace(self._log, parent=entry.id)
            self._empty = None
        if keep_writer:
            return
        writer.abandon()
        self._writer = None

    def _still_listed(self, group: list[_Piece]) -> list[_Piece]:
        """Those that no incremental has gathered meanwhile."""
        if len(group) < 2:
            return group
        listed = {entry.id for entry in self._repository.backups(self._options.database)}
        gone = [number for number, one in enumerate(group) if one.entry.id not in listed]
        return group[gone[-1] + 1 :] if gone else group

    def _remove(self, pieces: list[_Piece]) -> None:
        try:
            remove_backups(self._repository.storage, [one.entry for one in pieces])
        except StorageError:
            # They are said twice, which no reader minds; gathering more would only add to it.
            self._may_delete = False


def _whole(writer: Writer, group: list[_Piece]) -> LogPart:
    """The group's log as one part; runs of small segments are joined and stored anew."""
    found: list[Segment] = []
    small: list[tuple[bytes, Segment]] = []

    def flush() -> None:
        if len(small) == 1:
            found.append(small[0][1])
        elif small:
            payload, segment = joined(small)
            ref = writer.put(ObjectType.LOG, payload)
            found.append(msgspec.structs.replace(segment, object=ref.name, raw=ref.raw))
        small.clear()

    for piece in group:
        for segment, payload in zip(piece.log.segments, piece.payloads, strict=True):
            if payload is None or sum(len(one) for one, _ in small) + len(payload) > CUT_BYTES:
                flush()
            if payload is None:
                found.append(segment)
            else:
                small.append((payload, segment))
    flush()
    return msgspec.structs.replace(
        group[-1].log,
        parent=group[0].log.parent,
        from_lsn=group[0].log.from_lsn,
        segments=tuple(found),
    )


def _all_sequences(group: list[_Piece]) -> tuple[Sequence_, ...]:
    found: tuple[Sequence_, ...] = ()
    for one in group:
        found = moved_on(found, one.sequences)
    return found


def _later(one: str, other: str) -> str:
    return max((text for text in (one, other) if text), key=clock.parse, default="")
