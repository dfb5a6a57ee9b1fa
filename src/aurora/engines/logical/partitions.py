"""Partitions whose rows another database puts elsewhere.

A partition by the hash of an enum takes rows by the oids of the enum's values, and every
database has its own. Such rows are loaded through the parent, and are compared as a whole:
each partition's own rows are not what they were, and nobody may rely on that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from aurora.engines.base import RowsSum, Table, TableData, total_rows
from aurora.engines.logical.checksum import rows_kind


def gates(tables: Iterable[Table]) -> dict[int, Table]:
    """For each partition whose rows may move, by oid: the uppermost parent they go in by."""
    by_oid = {table.oid: table for table in tables}
    found: dict[int, Table] = {}
    for table in by_oid.values():
        above = table
        while above.is_partition and above.parents and above.parents[0] in by_oid:
            above = by_oid[above.parents[0]]
            if above.reshuffles:
                found[table.oid] = above
    return found


def gated(table: Table, gate: Table | None) -> Table:
    """Where *table*'s rows go in: its own columns, by the name of its *gate*."""
    if gate is None:
        return table
    return msgspec.structs.replace(table, schema=gate.schema, name=gate.name)


@dataclass(slots=True)
class Unit:
    """What is compared as one: a table, or all partitions behind one gate."""

    table: Table  # what it is called
    members: list[Table] = field(default_factory=list)
    expected: list[RowsSum] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.expected)

    def matches(self, found: Sequence[RowsSum]) -> bool:
        """Whether the rows of all members together are the expected ones."""
        there = total_rows(found)
        # Columns in different orders hash equal rows differently, and of rows that were
        # merged from the change log only the number is known.
        comparable = len({rows_kind(member.columns) for member in self.members}) <= 1
        if not comparable or not all(part.sum for part in self.expected):
            return there.rows == self.rows
        return there == total_rows(self.expected)


def units(tables: Sequence[Table], data: Sequence[TableData]) -> list[Unit]:
    """What to compare of *data*, in its order."""
    by_oid = {table.oid: table for table in tables}
    through = gates(tables)
    found: dict[int, Unit] = {}
    for one in data:
        table = by_oid.get(one.oid)
        if table is None:
            continue
        head = through.get(one.oid, table)
        unit = found.setdefault(head.oid, Unit(head))
        unit.members.append(table)
        unit.expected.append(RowsSum(one.rows, one.sum))
    return list(found.values())
