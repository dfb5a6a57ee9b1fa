"""How tables are divided into pieces of work. Pure: no connection, no clock.

A large table is read in block ranges; equal blocks give equal bytes, so an unchanged
range is an unchanged chunk, as long as its bounds stay where they were. Therefore the
length of a table's ranges is a power of two, remembered in the manifest and kept until
the chunks it gives are far from the wanted size. Small tables travel together, in groups
whose bounds depend on the tables themselves, so that one table that grows moves only
its own group.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aurora.engines.base import Table, TableData

SMALL_TABLE = 1 << 20  # bytes on disk: below it a table shares a buffer with others
GROUP_BYTES = 4 << 20
GROUP_TABLES = 128
# COPY text is usually somewhat smaller than the pages it comes from.
_TEXT_PER_DISK = 0.8


@dataclass(frozen=True, slots=True)
class BlockRange:
    """Blocks ``first <= block < end`` of one table; ``end`` None: whatever follows too."""

    table: Table
    first: int
    end: int | None
    disk_bytes: int

    @property
    def whole(self) -> bool:
        return self.first == 0 and self.end is None


@dataclass(frozen=True, slots=True)
class Group:
    """Small tables that are read one after the other into one buffer."""

    tables: tuple[Table, ...]
    disk_bytes: int


Work = BlockRange | Group


def plan_work(
    tables: Sequence[Table], *, chunk_bytes: int, before: Mapping[int, TableData] | None = None
) -> tuple[list[Work], dict[int, int]]:
    """The work for the tables that have rows, largest tables first, and the range lengths.

    Args:
        chunk_bytes: wanted bytes of COPY text in a range.
        before: what the previous backup found in each table, by oid.
    """
    small = [t for t in tables if t.has_rows and t.sized < SMALL_TABLE]
    large = [t for t in tables if t.has_rows and t.sized >= SMALL_TABLE]
    work: list[Work] = []
    lengths: dict[int, int] = {}
    for table in sorted(large, key=lambda t: -t.sized):
        length = range_blocks(table, chunk_bytes, (before or {}).get(table.oid))
        lengths[table.oid] = length
        work += _ranges(table, length)
    work += _groups(sorted(small, key=lambda t: t.oid))
    return work, lengths


def range_blocks(table: Table, chunk_bytes: int, before: TableData | None) -> int:
    """Blocks in each range of *table*; the previous length while it still fits."""
    if not table.heap or table.blocks == 0:
        return 0
    text_per_block = max(1.0, table.sized * _TEXT_PER_DISK / table.blocks)
    if before and before.range_blocks:
        ranges = max(1, -(-table.blocks // before.range_blocks))
        if chunk_bytes / 4 <= before.bytes / ranges <= chunk_bytes * 2:
            return before.range_blocks
        if before.bytes:
            text_per_block = max(1.0, before.bytes / max(table.blocks, 1))
    exact = chunk_bytes / text_per_block
    return 1 << max(0, min(20, round(exact).bit_length() - 1))


def _ranges(table: Table, length: int) -> list[Work]:
    # An extension's configuration table has a condition of its own on its rows.
    if length == 0 or table.blocks <= length or table.condition:
        return [BlockRange(table, 0, None, table.sized)]
    starts = list(range(0, table.blocks, length))
    share = table.sized // len(starts)
    return [
        BlockRange(table, start, start + length if start != starts[-1] else None, share)
        for start in starts
    ]


def _groups(tables: Sequence[Table]) -> list[Work]:
    groups: list[Work] = []
    current: list[Table] = []
    for table in tables:
        current.append(table)
        full = sum(t.sized for t in current) >= GROUP_BYTES or len(current) >= GROUP_TABLES
        if full or _is_bound(table):
            groups.append(_group(current))
            current = []
    if current:
        groups.append(_group(current))
    return groups


def _is_bound(table: Table) -> bool:
    """Every 32nd table or so ends its group, whatever stands before it."""
    return zlib.crc32(table.oid.to_bytes(8, "big")) % 32 == 0


def _group(tables: Sequence[Table]) -> Group:
    return Group(tuple(tables), sum(table.sized for table in tables))
