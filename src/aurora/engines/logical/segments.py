"""Segments: the change log in pieces that can be stored, found and read on their own.

A segment's payload is a row of frames ``u32 length | u64 WAL position | message``, little
endian. The position is 0: what needs one has it in the message, and positions do not compress
(they were a quarter of what pgbench's transactions took stored). Before everything else stand
the Relation and Type messages that the rest of it needs and that came earlier: a server sends
them once a session. A segment may be cut between any two messages, so a transaction may go on
in the next one. A message too large for one segment is parted: its frames have a position,
every one but the last has the highest bit of its length set, and each stands in a segment of
its own.
"""

import queue
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from aurora import clock
from aurora.engines.base import Buffer, Mark, Segment, Stored
from aurora.engines.logical import marks, pgoutput

CUT_BYTES = 8 << 20
_HEADER = struct.Struct("<IQ")
_CONTINUED = 0x80000000
_OID = struct.Struct(">I")
_ROW_KINDS = pgoutput.ROW_KINDS
_COMMIT = pgoutput.COMMIT
_WAITING = 2  # sealed segments that may wait for their upload

Seal = Callable[[bytes, Segment], None]


class SegmentBuilder:
    """Makes segments of the messages it is given, in order; hands each to *seal*.

    The :class:`Segment` that *seal* gets has no object yet.
    """

    def __init__(self, seal: Seal, *, cut_bytes: int = CUT_BYTES) -> None:
        self._seal = seal
        self._cut = cut_bytes
        self._relations: dict[int, bytes] = {}
        self._types: dict[int, bytes] = {}
        self._begin: pgoutput.Begin | None = None  # of the transaction that is open
        self._prefix, self._body = bytearray(), bytearray()
        self._here: set[int] = set()  # oids of relations, and of types with a minus sign
        self._facts = _Facts()
        self._first_lsn = 0
        self._whole = 0  # where the last transaction in the body ends, 0 where none does
        self._room = cut_bytes

    def add(self, lsn: int, message: Buffer) -> None:
        """Append a message as the server sent it."""
        kind = message[0]
        if kind in _ROW_KINDS:
            oid = _OID.unpack_from(message, 1)[0]
            if oid not in self._here:
                self._need(oid)
        else:
            self._note(kind, message)
        if lsn and not self._first_lsn:
            self._first_lsn = lsn
        size = len(message)
        self._room -= size + _HEADER.size
        if size > self._cut:
            self._part(lsn, message)
            return
        body = self._body
        body += _HEADER.pack(size, 0)
        body += message
        if kind == _COMMIT:
            self._whole = len(body)
        if self._room <= 0:
            self._close()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be sealed."""
        return not self._body

    def finish(self) -> None:
        """Seal what is left, if anything is."""
        if self._body:
            self._close()

    def finish_whole(self) -> bool:
        """Seal what is left without the transaction that is open.

        Returns:
            Whether everything sealed so far are whole transactions. Where not, the last one
            began in a segment before.
        """
        if self._begin is not None and self._whole:
            del self._body[self._whole :]
            self._begin = None
        whole = self._begin is None
        self.finish()
        return whole

    def _note(self, kind: int, message: Buffer) -> None:
        if kind == pgoutput.BEGIN:
            self._begin = pgoutput.read_begin(message)
            self._facts.see_xid(self._begin.xid)
        elif kind == pgoutput.COMMIT:
            self._facts.see_commit(pgoutput.read_commit(message))
            self._begin = None
        elif kind == pgoutput.RELATION:
            oid = pgoutput.relation_of(message)
            self._relations[oid] = bytes(message)
            self._here.add(oid)
            self._need_types(self._relations[oid])
        elif kind == pgoutput.TYPE:
            oid = pgoutput.relation_of(message)
            self._types[oid] = bytes(message)
            self._here.add(-oid)
        elif kind == pgoutput.TRUNCATE:
            for oid in pgoutput.read_truncate(message).relations:
                if oid not in self._here:
                    self._need(oid)
        elif kind == pgoutput.MESSAGE and self._begin is not None:
            self._facts.see_message(pgoutput.read_message(message), self._begin)

    def _need(self, oid: int) -> None:
        """Put what is known of a relation before the segment's own messages."""
        self._here.add(oid)
        relation = self._relations.get(oid)
        if relation is None:
            return
        self._need_types(relation)
        self._before(relation)

    def _need_types(self, relation: bytes) -> None:
        for column in pgoutput.read_relation(relation).columns:
            if column.type in self._types and -column.type not in self._here:
                self._here.add(-column.type)
                self._before(self._types[column.type])

    def _before(self, message: bytes) -> None:
        self._frame(self._prefix, message)
        self._room -= len(message) + _HEADER.size

    @staticmethod
    def _frame(into: bytearray, message: Buffer, length: int = 0, lsn: int = 0) -> None:
        into += _HEADER.pack(length or len(message), lsn)
        into += message

    def _part(self, lsn: int, message: Buffer) -> None:
        pieces = [message[at : at + self._cut] for at in range(0, len(message), self._cut)]
        for piece in pieces[:-1]:
            self._frame(self._body, piece, len(piece) | _CONTINUED, lsn)
            self._close()
        # Nothing else may follow in that segment: what it needed would stand before the piece.
        self._frame(self._body, pieces[-1], lsn=lsn)
        self._close()

    def _close(self) -> None:
        payload = bytes(self._prefix + self._body) if self._prefix else bytes(self._body)
        self._seal(payload, self._facts.segment(len(payload), self._first_lsn))
        self._prefix, self._body = bytearray(), bytearray()
        self._here = set()
        self._facts = _Facts()
        self._first_lsn, self._whole, self._room = 0, 0, self._cut
        if self._begin is not None:
            self._facts.see_xid(self._begin.xid)


class _Facts:
    """What a segment's description says of it."""

    __slots__ = ("_first", "_last", "_marks", "_max", "_min", "_transactions")

    def __init__(self) -> None:
        self._first: pgoutput.Commit | None = None
        self._last: pgoutput.Commit | None = None
        self._min = self._max = 0
        self._transactions = 0
        self._marks: list[Mark] = []

    def see_xid(self, xid: int) -> None:
        if not self._min:
            self._min = self._max = xid
        if precedes(xid, self._min):
            self._min = xid
        if precedes(self._max, xid):
            self._max = xid

    def see_commit(self, commit: pgoutput.Commit) -> None:
        self._first = self._first or commit
        self._last = commit
        self._transactions += 1

    def see_message(self, found: pgoutput.Message, begin: pgoutput.Begin) -> None:
        text = found.content.decode(errors="replace")
        if found.prefix == marks.PREFIX and found.transactional and marks.is_kept(text):
            at = clock.isoformat(pgoutput.moment(begin.at))
            self._marks.append(Mark(text, begin.xid, begin.final_lsn, at, found.lsn))

    def segment(self, raw: int, first_lsn: int) -> Segment:
        return Segment(
            object="",
            raw=raw,
            first_lsn=first_lsn,
            end_lsn=self._last.end_lsn if self._last else 0,
            first_commit_at=_text(self._first),
            last_commit_at=_text(self._last),
            min_xid=self._min,
            max_xid=self._max,
            transactions=self._transactions,
            marks=tuple(self._marks),
        )


def _text(commit: pgoutput.Commit | None) -> str:
    return clock.isoformat(pgoutput.moment(commit.at)) if commit else ""


def joined(parts: Sequence[tuple[bytes, Segment]]) -> tuple[bytes, Segment]:
    """Segments that follow one another as a single one; it has no object yet."""
    payload = b"".join(part for part, _ in parts)
    segments = [segment for _, segment in parts]
    ended = [one for one in segments if one.transactions]
    with_xids = [one for one in segments if one.max_xid]
    low = high = 0
    for one in with_xids:
        low = one.min_xid if not low or precedes(one.min_xid, low) else low
        high = one.max_xid if not high or precedes(high, one.max_xid) else high
    return payload, msgspec.structs.replace(
        segments[0],
        object="",
        raw=len(payload),
        first_lsn=next((one.first_lsn for one in segments if one.first_lsn), 0),
        end_lsn=ended[-1].end_lsn if ended else 0,
        first_commit_at=ended[0].first_commit_at if ended else "",
        last_commit_at=ended[-1].last_commit_at if ended else "",
        min_xid=low,
        max_xid=high,
        transactions=sum(one.transactions for one in segments),
        marks=tuple(mark for one in segments for mark in one.marks),
    )


def precedes(one: int, other: int) -> bool:
    """Whether a 32-bit transaction id is older than another, in the circle's order."""
    return (one - other) & 0xFFFFFFFF > 0x7FFFFFFF


class FrameReader:
    """Reads the frames of segments, one after the other: a message may be parted by them."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def read(self, payload: Buffer) -> Iterator[bytes]:
        """Every message that ends in *payload*.

        Raises ValueError where the payload ends inside a frame.
        """
        data = payload if isinstance(payload, bytes) else bytes(payload)
        at, end = 0, len(data)
        unpack, size = _HEADER.unpack_from, _HEADER.size
        while at < end:
            if at + size > end:
                raise ValueError("a segment ends inside a frame's head")
            length, _ = unpack(data, at)
            at += size
            after = at + (length & ~_CONTINUED)
            if after > end:
                raise ValueError("a segment ends inside a frame")
            message = data[at:after]
            at = after
            if length & _CONTINUED:
                self._parts.append(message)
                continue
            if self._parts:
                message = b"".join((*self._parts, message))
                self._parts.clear()
            yield message


def read_frames(payloads: Iterable[Buffer]) -> Iterator[bytes]:
    """The messages of a row of segments. Raises ValueError."""
    reader = FrameReader()
    for payload in payloads:
        yield from reader.read(payload)


class SegmentUploads:
    """Stores sealed segments from a thread of its own, so that the receiver never waits.

    Give :meth:`take` to a builder; ask :meth:`has_room` before reading on. A failed upload
    is raised by the next call.
    """

    def __init__(self, put: Callable[[Buffer], Stored]) -> None:
        self._put = put
        self._queue: queue.Queue[tuple[bytes, Segment] | None] = queue.Queue()
        self._done: list[Segment] = []
        self._error: BaseException | None = None
        self._dropped = False
        self._thread = threading.Thread(target=self._run, name="log-uploads", daemon=True)
        self._thread.start()

    def take(self, payload: bytes, segment: Segment) -> None:
        self._check()
        self._queue.put((payload, segment))

    def has_room(self) -> bool:
        """Whether fewer than two segments wait."""
        self._check()
        return self._queue.qsize() < _WAITING

    def finish(self) -> tuple[Segment, ...]:
        """All segments in order, each handed over. Raises what storing one raised."""
        self.stop()
        self._check()
        return tuple(self._done)

    def stop(self) -> None:
        """End the thread after what waits."""
        self._queue.put(None)
        self._thread.join()

    def abandon(self) -> None:
        """End the thread; what waits is dropped."""
        self._dropped = True
        self.stop()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None or self._dropped:
                continue
            payload, segment = item
            try:
                stored = self._put(payload)
            except BaseException as error:  # noqa: BLE001 - carried to the thread that can tell it
                self._error = error
                continue
            kept = msgspec.structs.replace(segment, object=stored.object, raw=stored.raw)
            self._done.append(kept)
