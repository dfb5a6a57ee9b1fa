"""What became of one table's rows: the last writer of each key, or a count of equal rows.

A row is compared as COPY text, byte for byte. Only where in the log a last row lies is
remembered; it is parsed when it is loaded.
"""

import re
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec

from aurora.engines.base import Table
from aurora.engines.logical import pgoutput
from aurora.engines.logical.names import shown
from aurora.engines.logical.pgoutput import UNCHANGED, Unchanged, Values, read_values
from aurora.engines.logical.spill import DiskMap
from aurora.errors import ObjectDamaged

GONE = 0  # in place of a position
_NEW, _OLD, _TEXT = ord("N"), ord("O"), ord("t")

# Types whose text holds nothing that COPY escapes: bool, integers, oid, floats, numeric, date,
# time, timestamp, interval, uuid and the like.
_PLAIN = frozenset(
    (16, 20, 21, 23, 26, 28, 700, 701, 1082, 1083, 1114, 1184, 1186, 1266, 1700, 2950)
)
# Of those, the ones that are never stored outside of the row.
_NEVER_TOASTED = _PLAIN - {1700}
_ESCAPES = {
    8: rb"\b", 9: rb"\t", 10: rb"\n", 11: rb"\v", 12: rb"\f", 13: rb"\r", 92: rb"\\",
}  # fmt: skip
_SPECIAL = re.compile(rb"[\x08-\x0d\\]")


def escape(value: bytes) -> bytes:
    """*value* as COPY writes it in text format."""
    if _SPECIAL.search(value) is None:
        return value
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0][0]], value)


class Filled(msgspec.Struct, frozen=True, array_like=True):
    """A last row with unchanged TOAST columns: where each of them is to be found.

    A source is a position in the log whose row holds the column, or the key of a base row.
    Columns are counted as they are in the base.
    """

    position: int
    sources: dict[int, int | bytes]


Last = int | Filled
"""The position of a key's last row in the log, or GONE."""
Count = tuple[int, int]
"""How many rows more than in the base, and where in the log one such row lies."""
_LAST: msgspec.msgpack.Decoder[Last] = msgspec.msgpack.Decoder(Last)
_COUNT: msgspec.msgpack.Decoder[Count] = msgspec.msgpack.Decoder(Count)
Log = Callable[[int], bytes]
"""The message at a position."""
BaseColumn = Callable[[bytes, int], bytes]
"""A column of a base row as COPY text, by the row's key and the column's number."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A table's columns as the log has them."""

    name: str
    identity: str  # replica identity: d, i, f, n
    columns: tuple[str, ...]
    keys: tuple[int, ...]
    plain: tuple[bool, ...]  # never needs escaping
    toastable: bool

    @classmethod
    def of(cls, message: bytes) -> "Shape":
        """The shape that a Relation message tells."""
        found = pgoutput.read_relation(message)
        types = [column.type for column in found.columns]
        return cls(
            shown(found.schema, found.name),
            found.identity,
            tuple(column.name for column in found.columns),
            tuple(i for i, column in enumerate(found.columns) if column.is_key),
            tuple(type_ in _PLAIN for type_ in types),
            not all(type_ in _NEVER_TOASTED for type_ in types),
        )


def new_row(message: bytes, offset: int = 0) -> Values:
    """The new row of the Insert or Update at *offset*, filled from the old one as far as it goes.

    An old key has no values but the key's; a whole old row has all.
    """
    if message[offset] == pgoutput.INSERT or message[offset + 5] == _NEW:
        return read_values(message, offset + 6)[0]
    whole = message[offset + 5] == _OLD
    old, at = read_values(message, offset + 6)
    row, _ = read_values(message, at + 1)
    if UNCHANGED in row:
        return [
            before if mine is UNCHANGED and (whole or before is not None) else mine
            for mine, before in zip(row, old, strict=True)
        ]
    return row


def copy_fields(shape: Shape, row: Values) -> list[bytes]:
    """The columns as COPY writes them; for unchanged TOAST nothing, to be filled in afterwards."""
    return [
        b"" if isinstance(value, Unchanged) else
        rb"\N" if value is None else value if plain else escape(value)
        for value, plain in zip(row, shape.plain, strict=True)
    ]  # fmt: skip


class KeyedTable:
    """A table with a key: the last writer of each key wins."""

    def __init__(self, table: Table, shape: Shape) -> None:
        self.table = table
        self.shape = shape
        self.last: MutableMapping[bytes, Last] = {}
        self.truncated = False
        self.base_keys = shape.keys  # places of the key in lines of the base
        self.base_columns = len(shape.columns)
        self._take(shape, range(len(shape.columns)))

    def _take(self, shape: Shape, slots: Sequence[int]) -> None:
        """Rows are of this shape from now on; *slots* name their columns."""
        self.shape = shape
        self._keys = shape.keys
        self._until = max(shape.keys, default=-1) + 1
        self._lone = shape.keys == (0,) and shape.plain[0]  # the first column is the key
        self._toastable = shape.toastable
        self._slots = slots

    @property
    def touched(self) -> bool:
        return self.truncated or bool(self.last)

    @property
    def in_memory(self) -> int:
        """Keys held in memory."""
        return 0 if isinstance(self.last, DiskMap) else len(self.last)

    def spill(self, path: Path) -> None:
        """Move the state to a file."""
        moved = DiskMap(path, _LAST)
        moved.take(self.last)
        self.last = moved

    def close(self) -> None:
        """Let go of files."""
        if isinstance(self.last, DiskMap):
            self.last.close()

    def truncate(self) -> None:
        """Forget everything so far, the base too."""
        self.last.clear()
        self.truncated = True

    def see(self, kind: int, data: bytes, offset: int, end: int, position: int) -> None:
        """Take in a change; *offset* is behind the relation's oid."""
        # A byte "u" may be anything; without one nothing is unchanged TOAST.
        if kind == pgoutput.UPDATE and (
            data[offset] != _NEW or (self._toastable and data.find(b"u", offset, end) >= 0)
        ):
            self._update(data, offset, position)
            return
        if self._lone and data[offset + 3] == _TEXT:
            begin = offset + 8
            key = data[begin : begin + int.from_bytes(data[offset + 4 : begin], "big")]
        else:
            key = self._key(data, offset + 1)
        self.last[key] = GONE if kind == pgoutput.DELETE else position

    def _update(self, data: bytes, offset: int, position: int) -> None:
        """An update that changes the key, or that may leave TOAST out."""
        old: Values | None = None
        if data[offset] != _NEW:
            old, offset = read_values(data, offset + 1)
        row, _ = read_values(data, offset + 1)
        if UNCHANGED in row:
            self._partly(row, old, position)
            return
        key = self._key_of(row)
        if old is not None:
            was = self._key_of(old)
            if was != key:
                self.last[was] = GONE
        self.last[key] = position

    def _partly(self, row: Values, old: Values | None, position: int) -> None:
        """An update that leaves TOAST out: find where each column's value lies."""
        if old is not None:  # a key that is TOASTed itself comes with the old key alone
            row = [
                old[i] if value is UNCHANGED and i in self._keys else value
                for i, value in enumerate(row)
            ]
        key = self._key_of(row)
        was = key if old is None else self._key_of(old)
        before = self.last.get(was)
        sources: dict[int, int | bytes] = {}
        for slot in (self._slots[i] for i, value in enumerate(row) if value is UNCHANGED):
            if before is None and not self.truncated:
                sources[slot] = was
            elif isinstance(before, Filled):
                sources[slot] = before.sources.get(slot, before.position)
            elif before:
                sources[slot] = before
            else:
                raise _lost_row(self.shape.name)
        if was != key:
            self.last[was] = GONE
        self.last[key] = Filled(position, sources) if sources else position

    def _key(self, data: bytes, offset: int) -> bytes:
        fields, at = [], offset + 2
        for _ in range(self._until):
            if data[at] == _TEXT:
                begin = at + 5
                at = begin + int.from_bytes(data[at + 1 : begin], "big")
                fields.append(data[begin:at])
            else:
                fields.append(b"")
                at += 1
        return b"\t".join([escape(fields[i]) for i in self._keys])

    def _key_of(self, row: Values) -> bytes:
        return b"\t".join([escape(value) for i in self._keys if isinstance(value := row[i], bytes)])

    def needed(self) -> dict[bytes, set[int]]:
        """Base rows whose columns fill final rows: their keys, and which columns."""
        found: dict[bytes, set[int]] = {}
        for last in self.last.values():
            if isinstance(last, Filled):
                for number, source in last.sources.items():
                    if isinstance(source, bytes):
                        found.setdefault(source, set()).add(number)
        return found

    def lines(self, log: Log, base: BaseColumn) -> Iterator[bytes]:
        """The final rows as COPY text.

        Args:
            log: gives the message at a position.
            base: gives a column of a base row.
        """
        for last in self.last.values():
            if isinstance(last, int):
                if last:
                    yield b"\t".join(copy_fields(self.shape, new_row(log(last))))
                continue
            fields = copy_fields(self.shape, new_row(log(last.position)))
            for number, source in last.sources.items():
                if isinstance(source, bytes):
                    fields[number] = base(source, number)
                else:
                    fields[number] = copy_fields(self.shape, new_row(log(source)))[number]
            yield b"\t".join(fields)


class CountedTable:
    """A table without a key (REPLICA IDENTITY FULL): equal rows are counted."""

    def __init__(self, table: Table, shape: Shape) -> None:
        self.table = table
        self.shape = shape
        self.counts: MutableMapping[bytes, Count] = {}
        self.truncated = False

    @property
    def touched(self) -> bool:
        return self.truncated or bool(self.counts)

    @property
    def in_memory(self) -> int:
        """Keys held in memory."""
        return 0 if isinstance(self.counts, DiskMap) else len(self.counts)

    def spill(self, path: Path) -> None:
        """Move the state to a file."""
        moved = DiskMap(path, _COUNT)
        moved.take(self.counts)
        self.counts = moved

    def close(self) -> None:
        """Let go of files."""
        if isinstance(self.counts, DiskMap):
            self.counts.close()

    def truncate(self) -> None:
        """Forget everything so far, the base too."""
        self.counts.clear()
        self.truncated = True

    def see(self, kind: int, data: bytes, offset: int, _end: int, position: int) -> None:
        """Take in a change; *offset* is behind the relation's oid."""
        if kind != pgoutput.INSERT and data[offset] != _NEW:
            old, _ = read_values(data, offset + 1)
            self._count(old, -1, position)
        if kind != pgoutput.DELETE:
            self._count(new_row(data, offset - 5), 1, position)

    def _count(self, row: Values, step: int, position: int) -> None:
        if UNCHANGED in row:
            raise _lost_row(self.shape.name)
        key = digest(self._line(row))
        count, where = self.counts.get(key, (0, 0))
        if count + step == 0:
            self.counts.pop(key, None)
        else:
            self.counts[key] = (count + step, position if step > 0 else where)

    def _line(self, row: Values) -> bytes:
        return b"\t".join(copy_fields(self.shape, row))

    def _line_at(self, log: Log, position: int) -> bytes:
        return self._line(new_row(log(position)))

    def surplus(self) -> dict[bytes, int]:
        """Rows of the base that are gone, by digest, and how many of each."""
        return {key: -count for key, (count, _) in self.counts.items() if count < 0}

    def lines(self, log: Log) -> Iterator[bytes]:
        """The rows that come to the base's, as COPY text."""
        for count, where in self.counts.values():
            if count > 0:
                line = self._line_at(log, where)
                for _ in range(count):
                    yield line


def digest(line: bytes) -> bytes:
    """What a counted row is known by."""
    return blake2b(line, digest_size=16).digest()


Changed = KeyedTable | CountedTable


def _lost_row(name: str) -> ObjectDamaged:
    return ObjectDamaged(
        f"the change log updates a row of {name} that neither it nor the full holds",
        hint="Nothing was put in place. Recover to a point before, or from another full.",
    )
