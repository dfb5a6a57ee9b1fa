"""Messages of pgoutput, as PostgreSQL's own documentation lays them out."""

import struct

import pytest

from aurora.engines.logical import pgoutput
from aurora.engines.logical.pgoutput import UNCHANGED


def text(value: bytes) -> bytes:
    """A column value in text."""
    return b"t" + struct.pack(">i", len(value)) + value


def row(*values: bytes) -> bytes:
    """A tuple of column values, each already encoded."""
    return struct.pack(">H", len(values)) + b"".join(values)


def test_begin_and_commit() -> None:
    begin = b"B" + struct.pack(">QqI", 0x1_0000_0002, 86_400_000_000, 4_000_000_000)
    assert pgoutput.parse(begin) == pgoutput.Begin(0x1_0000_0002, 86_400_000_000, 4_000_000_000)
    commit = b"C" + struct.pack(">BQQq", 0, 10, 20, 1)
    assert pgoutput.parse(commit) == pgoutput.Commit(10, 20, 1)
    assert pgoutput.moment(86_400_000_000).isoformat() == "2000-01-02T00:00:00+00:00"


def test_relation_and_type() -> None:
    columns = b"\x01id\0" + struct.pack(">Ii", 23, -1) + b"\x00" + "grüße".encode() + b"\0"
    columns += struct.pack(">Ii", 1043, 14)
    message = b"R" + struct.pack(">I", 77) + b"public\0a b\0d" + struct.pack(">H", 2) + columns
    assert pgoutput.parse(message) == pgoutput.Relation(
        77, "public", "a b", "d",
        (
            pgoutput.RelationColumn("id", 23, -1, is_key=True),
            pgoutput.RelationColumn("grüße", 1043, 14, is_key=False),
        ),
    )  # fmt: skip
    assert pgoutput.relation_of(message) == 77
    kind = b"Y" + struct.pack(">I", 99) + b"\0mood\0"
    assert pgoutput.parse(kind) == pgoutput.Type(99, "pg_catalog", "mood")


def test_rows() -> None:
    oid = struct.pack(">I", 5)
    new = row(text(b"1"), b"n", b"u", text(b""))
    values = [b"1", None, UNCHANGED, b""]
    assert pgoutput.parse(b"I" + oid + b"N" + new) == pgoutput.Insert(5, values)
    assert pgoutput.parse(b"U" + oid + b"N" + new) == pgoutput.Update(
        5, None, old_is_full=False, new=values
    )
    old = row(text(b"0"), b"n")
    keyed = pgoutput.parse(b"U" + oid + b"K" + old + b"N" + new)
    assert keyed == pgoutput.Update(5, [b"0", None], old_is_full=False, new=values)
    full = pgoutput.parse(memoryview(b"U" + oid + b"O" + old + b"N" + new))
    assert full == pgoutput.Update(5, [b"0", None], old_is_full=True, new=values)
    gone = pgoutput.parse(b"D" + oid + b"K" + old)
    assert gone == pgoutput.Delete(5, [b"0", None], old_is_full=False)


def test_truncate_and_message() -> None:
    truncate = b"T" + struct.pack(">iB2I", 2, 3, 8, 9)
    assert pgoutput.parse(truncate) == pgoutput.Truncate(
        (8, 9), cascade=True, restart_identity=True
    )
    message = b"M" + struct.pack(">BQ", 1, 55) + b"aurora\0" + struct.pack(">i", 3) + b"abc"
    assert pgoutput.parse(message) == pgoutput.Message(
        transactional=True, lsn=55, prefix="aurora", content=b"abc"
    )


@pytest.mark.parametrize(
    "wrong", [b"S\0\0\0\1", b"I" + struct.pack(">I", 5) + b"N" + row(b"b\0\0\0\0")]
)
def test_what_protocol_1_in_text_does_not_have_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="kind"):
        pgoutput.parse(wrong)


def test_lsn() -> None:
    assert pgoutput.parse_lsn("16/B374D848") == 0x16_B374_D848
    assert pgoutput.format_lsn(0x16_B374_D848) == "16/B374D848"
    assert pgoutput.format_lsn(0) == "0/0"
