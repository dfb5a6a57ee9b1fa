"""What became of a table's rows whose shape changed on the way: see ``carry.py``.

Positions in the log carry one bit more: whether the row there is of after the change.
"""

from collections.abc import Iterator

from aurora.engines.base import Table
from aurora.engines.logical.carry import Recast
from aurora.engines.logical.lastrows import (
    BaseColumn,
    CountedTable,
    Filled,
    KeyedTable,
    Log,
    Shape,
    copy_fields,
    new_row,
)
from aurora.engines.logical.pgoutput import Values


class RecastKeyed(KeyedTable):
    """A table with a key; the key's columns are the same before and after."""

    def __init__(self, table: Table, shape: Shape, recast: Recast, *, after: bool) -> None:
        super().__init__(table, shape)
        self.recast = recast
        self.base_columns = len(recast.old.copy_columns)
        self._after = after
        self._shapes = {after: shape}
        self._take(shape, recast.slots(after=after))
        self.base_keys = self._key_slots(shape, after=after)

    def _key_slots(self, shape: Shape, *, after: bool) -> tuple[int, ...]:
        slots = self.recast.slots(after=after)
        return tuple(slots[place] for place in shape.keys)

    @property
    def fits(self) -> bool:
        """Whether the key is one that rows of before have."""
        return all(slot < self.base_columns for slot in self.base_keys)

    def enter(self, shape: Shape, *, after: bool) -> bool:
        """Go on with rows of another shape; whether its key is the same."""
        self._after = after
        self._shapes[after] = shape
        self._take(shape, self.recast.slots(after=after))
        return self._key_slots(shape, after=after) == self.base_keys

    def see(self, kind: int, data: bytes, offset: int, end: int, position: int) -> None:
        super().see(kind, data, offset, end, position << 1 | self._after)

    def lines(self, log: Log, base: BaseColumn) -> Iterator[bytes]:
        for last in self.last.values():
            if not last:
                continue
            filled = last if isinstance(last, Filled) else Filled(last, {})
            fields = self._fields(log, filled.position)
            for slot, source in filled.sources.items():
                if isinstance(source, bytes):
                    fields[slot] = base(source, slot)
                else:
                    fields[slot] = self._fields(log, source).get(slot) or self.recast.added[slot]
            yield self.recast.joined(fields)

    def _fields(self, log: Log, position: int) -> dict[int, bytes]:
        after = bool(position & 1)
        found = copy_fields(self._shapes[after], new_row(log(position >> 1)))
        return dict(zip(self.recast.slots(after=after), found, strict=True))


class RecastCounted(CountedTable):
    """A table without a key: rows are counted as they are after the change."""

    def __init__(self, table: Table, shape: Shape, recast: Recast, *, after: bool) -> None:
        super().__init__(table, shape)
        self.recast = recast
        self._after = after
        self._shapes = {after: shape}

    def enter(self, shape: Shape, *, after: bool) -> bool:
        """Go on with rows of another shape."""
        self.shape, self._after = shape, after
        self._shapes[after] = shape
        return True

    def see(self, kind: int, data: bytes, offset: int, _end: int, position: int) -> None:
        super().see(kind, data, offset, _end, position << 1 | self._after)

    def _line(self, row: Values) -> bytes:
        return self._cast(row, after=self._after)

    def _line_at(self, log: Log, position: int) -> bytes:
        return self._cast(new_row(log(position >> 1)), after=bool(position & 1))

    def _cast(self, row: Values, *, after: bool) -> bytes:
        fields = copy_fields(self._shapes[after], row)
        return self.recast.joined(dict(zip(self.recast.slots(after=after), fields, strict=True)))


RecastTable = RecastKeyed | RecastCounted
