"""Pieces of a change log: which follow, which are superseded, and segments that are joined."""

from types import SimpleNamespace
from typing import cast

import msgspec

from aurora.engines.base import LogPart, Segment
from aurora.engines.logical.segments import SegmentBuilder, joined, read_frames
from aurora.operations.content import Backup
from aurora.operations.log_chain import Logged, covered, follow, uncovered

LOG = LogPart("aurora_app", "77", 1, 5, "full", "", 100, 100, "2026-01-01T00:00:00Z",
              fingerprint="aa")  # fmt: skip


def part(name: str, first: int, last: int, kind: str = "stream", **more: object) -> Logged:
    """A part of the log of one slot."""
    entry = SimpleNamespace(id=name, type=kind)
    log = msgspec.structs.replace(LOG, parent="p", from_lsn=first, to_lsn=last, **more)
    return Logged(cast("Backup", SimpleNamespace(entry=entry)), log)


def names(found: list[Logged]) -> list[str]:
    return [one.id for one in found]


def test_as_few_pieces_as_lead_on_are_followed() -> None:
    pieces = [part("a", 100, 110), part("b", 110, 120), part("ab", 100, 120), part("c", 120, 130)]
    assert names(follow(LOG, 100, pieces)) == ["ab", "c"]
    assert names(follow(LOG, 110, pieces)) == ["b", "c"]
    assert follow(LOG, 130, pieces) == []
    assert follow(LOG, 99, [part("late", 100, 120)]) == []  # a gap


def test_another_slot_or_timeline_is_another_log() -> None:
    assert follow(LOG, 100, [part("a", 100, 110, timeline=2), part("b", 100, 110, slot="x")]) == []
    assert covered([part("a", 100, 110), part("i", 90, 120, "incremental", timeline=2)]) == []


def test_what_lies_inside_another_part_is_superseded() -> None:
    small, other = part("a", 100, 110), part("b", 110, 120)
    assert names(covered([small, other, part("ab", 100, 120)])) == ["a", "b"]
    assert names(covered([small, part("i", 90, 110, "incremental")])) == ["a"]
    assert names(uncovered([small, part("i", 90, 109, "incremental")])) == ["a", "i"]
    twice = [part("a", 100, 110), part("b", 100, 110)]
    assert names(uncovered(twice)) == ["b"], "one of two equal ones stays"


def test_a_piece_that_tells_of_another_schema_stays() -> None:
    other = part("a", 100, 110, fingerprint="bb")
    assert covered([other, part("ab", 100, 120)]) == []
    unseen = part("a", 100, 110, fingerprint="")
    assert names(covered([unseen, part("ab", 100, 120)])) == ["a"]
    assert covered([part("a", 100, 110), part("ab", 100, 120, fingerprint="")]) == []


def test_a_full_supersedes_nothing() -> None:
    full = Logged(
        cast("Backup", SimpleNamespace(entry=SimpleNamespace(id="f", type="full"))),
        msgspec.structs.replace(LOG, from_lsn=100, to_lsn=110),
    )
    assert covered([part("a", 100, 110), full]) == []


def begin(lsn: int, xid: int) -> bytes:
    return b"B" + lsn.to_bytes(8, "big") + bytes(8) + xid.to_bytes(4, "big")


def commit(lsn: int) -> bytes:
    return b"C\0" + lsn.to_bytes(8, "big") + (lsn + 1).to_bytes(8, "big") + bytes(8)


def test_joined_segments_say_what_they_said_apart() -> None:
    made: list[tuple[bytes, Segment]] = []
    builder = SegmentBuilder(lambda payload, segment: made.append((payload, segment)))
    messages = []
    for number in range(1, 5):
        for message in (begin(number * 10, 7 - number), commit(number * 10)):
            builder.add(number * 10, message)
            messages.append(message)
        builder.finish()
    payload, whole = joined(made)
    assert list(read_frames([payload])) == messages
    assert (whole.first_lsn, whole.end_lsn) == (10, 41)
    assert (whole.min_xid, whole.max_xid, whole.transactions) == (3, 6, 4)
    assert whole.raw == len(payload)


def test_what_is_not_whole_is_left_out_when_a_stream_breaks_off() -> None:
    made: list[tuple[bytes, Segment]] = []
    builder = SegmentBuilder(
        lambda payload, segment: made.append((payload, segment)), cut_bytes=120
    )
    builder.add(10, begin(10, 1))
    builder.add(10, commit(10))
    builder.add(20, begin(20, 2))
    assert builder.finish_whole()
    assert list(read_frames([made[0][0]])) == [begin(10, 1), commit(10)]
    builder.add(30, begin(30, 3))
    for _ in range(4):
        builder.add(30, b"M" + bytes(30))
    assert not builder.finish_whole(), "the transaction began in a segment that is sealed"
