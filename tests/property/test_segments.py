"""Segments: however a log is cut, it joins again, and each piece stands on its own."""

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurora.engines.base import Segment, Stored
from aurora.engines.logical import pgoutput
from aurora.engines.logical.segments import (
    FrameReader,
    SegmentBuilder,
    SegmentUploads,
    precedes,
    read_frames,
)

Frames = list[tuple[int, bytes]]

_ENUM = 70_000


def relation(oid: int) -> bytes:
    column = b"\x01id\0" + struct.pack(">Ii", _ENUM + oid, -1)
    return b"R" + struct.pack(">I", oid) + b"public\0t\0d" + struct.pack(">H", 1) + column


def type_of(oid: int) -> bytes:
    return b"Y" + struct.pack(">I", _ENUM + oid) + b"public\0e\0"


def insert(oid: int, value: bytes) -> bytes:
    head = b"I" + struct.pack(">I", oid) + b"N" + struct.pack(">H", 1)
    return head + b"t" + struct.pack(">i", len(value)) + value


@st.composite
def logs(draw: st.DrawFn) -> Frames:
    """Whole transactions; relations sent once, before their first use, as a server does."""
    frames: Frames = []
    known: set[int] = set()
    lsn, xid = 1000, draw(st.sampled_from([700, 2**32 - 2]))
    for _ in range(draw(st.integers(1, 8))):
        frames.append((lsn, b"B" + struct.pack(">QqI", lsn + 50, lsn, xid or 3)))
        for oid, size in draw(
            st.lists(st.tuples(st.integers(1, 4), st.integers(0, 300)), max_size=6)
        ):
            if oid not in known:
                known.add(oid)
                frames += [(0, type_of(oid)), (0, relation(oid))]
            lsn += 10
            frames.append((lsn, insert(oid, b"x" * size)))
        lsn += 100
        frames.append((lsn, b"C" + struct.pack(">BQQq", 0, lsn, lsn + 8, lsn)))
        xid = (xid + 1) & 0xFFFFFFFF
    return frames


def built(frames: Frames, cut: int) -> list[tuple[bytes, Segment]]:
    sealed: list[tuple[bytes, Segment]] = []
    builder = SegmentBuilder(lambda payload, one: sealed.append((payload, one)), cut_bytes=cut)
    for lsn, message in frames:
        builder.add(lsn, memoryview(message))
    builder.finish()
    return sealed


def changes(messages: Iterable[bytes]) -> list[bytes]:
    """Without relations and types, which may come again."""
    return [one for one in messages if one[0] not in (pgoutput.RELATION, pgoutput.TYPE)]


@settings(max_examples=150, deadline=None)
@given(logs(), st.integers(1, 2000))
def test_any_cut_joins_again(frames: Frames, cut: int) -> None:
    sealed = built(frames, cut)

    joined = list(read_frames(payload for payload, _ in sealed))

    assert changes(joined) == changes(message for _, message in frames)
    assert sum(one.transactions for _, one in sealed) == sum(m[0] == 0x43 for _, m in frames)
    assert [one.raw for _, one in sealed] == [len(payload) for payload, _ in sealed]
    ends = [one.end_lsn for _, one in sealed if one.end_lsn]
    assert ends == sorted(ends)
    assert ends[-1] == frames[-1][0] + 8


@settings(max_examples=150, deadline=None)
@given(logs(), st.integers(400, 2000))
def test_each_segment_tells_what_its_rows_are(frames: Frames, cut: int) -> None:
    """Every row's relation, and its type, stand before it in the same segment."""
    for payload, segment in built(frames, cut):
        known: set[int] = set()
        xids: list[int] = []
        for message in FrameReader().read(payload):
            if message[0] in (pgoutput.RELATION, pgoutput.TYPE):
                known.add(pgoutput.relation_of(message))
            elif message[0] == pgoutput.INSERT:
                oid = pgoutput.relation_of(message)
                assert {oid, _ENUM + oid} <= known
            elif message[0] == pgoutput.BEGIN:
                xids.append(pgoutput.read_begin(message).xid)
        for xid in xids:
            assert not precedes(xid, segment.min_xid)
            assert not precedes(segment.max_xid, xid)


def test_a_segment_that_goes_on_knows_its_transaction() -> None:
    frames = [(1, b"B" + struct.pack(">QqI", 9, 9, 42)), (0, type_of(1)), (0, relation(1))]
    frames += [(lsn, insert(1, b"y" * 100)) for lsn in range(2, 12)]
    frames.append((20, b"C" + struct.pack(">BQQq", 0, 20, 28, 20)))

    sealed = built(frames, 400)

    assert len(sealed) > 2
    assert {(one.min_xid, one.max_xid) for _, one in sealed} == {(42, 42)}
    assert [bool(one.end_lsn) for _, one in sealed] == [False] * (len(sealed) - 1) + [True]


@pytest.mark.parametrize("lost", [1, 5, 13])
def test_a_segment_cut_short_is_noticed(lost: int) -> None:
    payload, _ = built([(1, insert(1, b"abc"))], 1000)[0]
    with pytest.raises(ValueError, match="ends inside a frame"):
        list(FrameReader().read(payload[:-lost]))


def test_uploads_keep_the_order_and_raise_what_failed() -> None:
    taken: list[bytes] = []

    def put(data: object) -> Stored:
        taken.append(bytes(data))  # type: ignore[call-overload]
        if len(taken) == 3:
            raise RuntimeError("full")
        return Stored(f"log/{len(taken)}", len(taken[-1]))

    segment = Segment("", 0, 0, 0)
    good = SegmentUploads(put)
    good.take(b"1", segment)
    good.take(b"22", segment)
    assert [(one.object, one.raw) for one in good.finish()] == [("log/1", 1), ("log/2", 2)]
    bad = SegmentUploads(put)
    bad.take(b"3", segment)
    with pytest.raises(RuntimeError, match="full"):
        bad.finish()
