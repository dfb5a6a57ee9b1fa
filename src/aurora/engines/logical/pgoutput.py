"""Messages of ``pgoutput``, protocol 1 in text: what a change log is made of.

The kinds are single bytes, compared as integers (``message[0] == INSERT``), because a log
has millions of them. :func:`relation_of` and the ``read_…`` functions look at one part of
a message; :func:`parse` gives the whole. Column values are the text that COPY would carry
before its escapes: ``bytes``, ``None`` for NULL, :data:`UNCHANGED` for a TOASTed value that
an UPDATE left as it was and that therefore is not in the message.
"""

import struct
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from aurora.engines.base import Buffer

BEGIN: Final = 0x42
COMMIT: Final = 0x43
RELATION: Final = 0x52
TYPE: Final = 0x59
INSERT: Final = 0x49
UPDATE: Final = 0x55
DELETE: Final = 0x44
TRUNCATE: Final = 0x54
MESSAGE: Final = 0x4D
ORIGIN: Final = 0x4F

ROW_KINDS: Final = frozenset((INSERT, UPDATE, DELETE))

_KEY: Final = 0x4B
_OLD: Final = 0x4F
_TEXT: Final = 0x74
_NULL: Final = 0x6E
_UNCHANGED: Final = 0x75

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_COUNT = struct.Struct(">H")
_LENGTH = struct.Struct(">i")
_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")
_COLUMN = struct.Struct(">Ii")
_TRUNCATE = struct.Struct(">iB")
_MESSAGE = struct.Struct(">BQ")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Unchanged:
    """The type of :data:`UNCHANGED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()
Value = bytes | Unchanged | None
Values = list[Value]


class Begin(NamedTuple):
    """``final_lsn`` is where the commit record begins; ``xid`` has 32 bits."""

    final_lsn: int
    at: int  # microseconds since 2000
    xid: int


class Commit(NamedTuple):
    """``end_lsn`` is where the commit record ends: what is acknowledged."""

    lsn: int
    end_lsn: int
    at: int  # microseconds since 2000


class RelationColumn(NamedTuple):
    """One column of a relation as it was when the change was made; no attnum is told."""

    name: str
    type: int
    typmod: int
    is_key: bool


class Relation(NamedTuple):
    """``identity`` is d, n, f or i. Dropped and (below 18) generated columns are left out."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]


class Type(NamedTuple):
    oid: int
    schema: str
    name: str


class Insert(NamedTuple):
    relation: int
    new: Values


class Update(NamedTuple):
    """``old``: None where the key stayed; ``old_is_full`` under REPLICA IDENTITY FULL."""

    relation: int
    old: Values | None
    old_is_full: bool
    new: Values


class Delete(NamedTuple):
    relation: int
    old: Values
    old_is_full: bool


class Truncate(NamedTuple):
    relations: tuple[int, ...]
    cascade: bool
    restart_identity: bool


class Message(NamedTuple):
    """What ``pg_logical_emit_message()`` wrote."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


class Other(NamedTuple):
    """A kind that protocol 1 has and Aurora does not need (the origin)."""

    kind: int


Parsed = Begin | Commit | Relation | Type | Insert | Update | Delete | Truncate | Message | Other


def moment(at: int) -> datetime:
    """The time of a Begin or Commit."""
    return _EPOCH + timedelta(microseconds=at)


def relation_of(message: Buffer) -> int:
    """The relation's oid of an Insert, Update, Delete, Relation, and a Type's own."""
    found: int = _U32.unpack_from(message, 1)[0]
    return found


def read_begin(message: Buffer) -> Begin:
    return Begin(*_BEGIN.unpack_from(message, 1))


def read_commit(message: Buffer) -> Commit:
    _, lsn, end_lsn, at = _COMMIT.unpack_from(message, 1)
    return Commit(lsn, end_lsn, at)


def read_truncate(message: Buffer) -> Truncate:
    count, flags = _TRUNCATE.unpack_from(message, 1)
    oids = struct.unpack_from(f">{count}I", message, 1 + _TRUNCATE.size)
    return Truncate(oids, bool(flags & 1), bool(flags & 2))


def read_relation(message: Buffer) -> Relation:
    text = bytes(message)
    oid = relation_of(text)
    schema, at = _string(text, 5)
    name, at = _string(text, at)
    identity = chr(text[at])
    (count,) = _COUNT.unpack_from(text, at + 1)
    at += 3
    columns: list[RelationColumn] = []
    for _ in range(count):
        is_key = bool(text[at] & 1)
        column, at = _string(text, at + 1)
        type_, typmod = _COLUMN.unpack_from(text, at)
        at += _COLUMN.size
        columns.append(RelationColumn(column, type_, typmod, is_key))
    # An empty schema stands for pg_catalog.
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


def read_message(message: Buffer) -> Message:
    text = bytes(message)
    flags, lsn = _MESSAGE.unpack_from(text, 1)
    prefix, at = _string(text, 1 + _MESSAGE.size)
    (length,) = _LENGTH.unpack_from(text, at)
    return Message(bool(flags & 1), lsn, prefix, text[at + 4 : at + 4 + length])


def read_values(message: bytes, at: int) -> tuple[Values, int]:
    """The tuple that begins at *at*, and where it ends."""
    (count,) = _COUNT.unpack_from(message, at)
    at += 2
    values: Values = []
    append, length_at = values.append, _LENGTH.unpack_from
    for _ in range(count):
        kind = message[at]
        if kind == _TEXT:
            end = at + 5 + length_at(message, at + 1)[0]
            append(message[at + 5 : end])
            at = end
        elif kind == _NULL:
            append(None)
            at += 1
        elif kind == _UNCHANGED:
            append(UNCHANGED)
            at += 1
        else:
            raise ValueError(f"a column value of kind {kind:#x}: not text")
    return values, at


def read_update(message: Buffer) -> Update:
    text = bytes(message)
    kind = text[5]
    old: Values | None = None
    at = 6
    if kind in (_KEY, _OLD):
        old, at = read_values(text, at)
        at += 1  # the N of the new row
    new, _ = read_values(text, at)
    return Update(relation_of(text), old, kind == _OLD, new)


def parse(message: Buffer) -> Parsed:
    """The whole of any message. Raises ValueError or struct.error for what is none."""
    text = bytes(message)
    kind = text[0]
    if kind == INSERT:
        return Insert(relation_of(text), read_values(text, 6)[0])
    if kind == UPDATE:
        return read_update(text)
    if kind == DELETE:
        return Delete(relation_of(text), read_values(text, 6)[0], text[5] == _OLD)
    if kind == BEGIN:
        return read_begin(text)
    if kind == COMMIT:
        return read_commit(text)
    if kind == RELATION:
        return read_relation(text)
    if kind == TRUNCATE:
        return read_truncate(text)
    return _parse_rare(text)


def _parse_rare(text: bytes) -> Parsed:
    kind = text[0]
    if kind == TYPE:
        schema, at = _string(text, 5)
        return Type(relation_of(text), schema or "pg_catalog", _string(text, at)[0])
    if kind == MESSAGE:
        return read_message(text)
    if kind == ORIGIN:
        return Other(kind)
    raise ValueError(f"a message of kind {kind:#x}, which protocol 1 does not have")


def _string(text: bytes, at: int) -> tuple[str, int]:
    end = text.index(0, at)
    return text[at:end].decode(), end + 1


def parse_lsn(text: str) -> int:
    """``16/B374D848`` as a number. Raises ValueError."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: int) -> str:
    """The inverse of :func:`parse_lsn`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
