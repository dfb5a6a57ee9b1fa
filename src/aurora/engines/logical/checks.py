"""Whether a restored database holds what the backup says: every row, every sequence.

The target is read back the way the source was read, under a snapshot of its own, and
each table's rows and order-independent checksum are compared with the backup's.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aurora.engines.base import (
    Buffer,
    Progress,
    RowsSum,
    Sequence_,
    Snapshot,
    Stored,
    Table,
    TableData,
)
from aurora.engines.logical.catalog import read_not_valid, read_sequences
from aurora.engines.logical.copyout import Reading, read_tables
from aurora.engines.logical.names import Connection, shown
from aurora.engines.logical.ranges import plan_work
from aurora.engines.logical.snapshot import hold_snapshot
from aurora.postgres.errors import translated


@dataclass(frozen=True, slots=True)
class TableCheck:
    """One table's comparison."""

    table: str
    rows_expected: int
    rows_found: int | None  # None: the table is not there
    same: bool


@dataclass(slots=True)
class CheckReport:
    """All that was compared. ``problems`` empty means: the same."""

    tables: list[TableCheck] = field(default_factory=list)
    sequences: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(check.rows_found or 0 for check in self.tables)

    @property
    def passed(self) -> bool:
        return not self.problems


class _Nowhere:
    """Counts rows and keeps nothing."""

    def put(self, data: Buffer) -> Stored:
        return Stored("", len(data))

    def put_rows(self, data: Buffer, count: Callable[[Buffer], RowsSum]) -> tuple[Stored, RowsSum]:
        return Stored("", len(data)), count(data)


def check_database(
    dsn: str,
    expected: Snapshot,
    data: Sequence[TableData],
    *,
    jobs: int,
    chunk_bytes: int,
    progress: Progress,
    cancel: threading.Event,
) -> CheckReport:
    """Compare the whole database at *dsn* with a backup.

    Raises:
        TargetError, SourceError: the database cannot be read.
    """
    report = CheckReport()
    by_oid = {table.oid: table for table in expected.tables}
    wanted = {(by_oid[d.oid].schema, by_oid[d.oid].name): d for d in data if d.oid in by_oid}
    with hold_snapshot(dsn) as held:
        there = {(t.schema, t.name): t for t in held.tables}
        tables = [table for key, table in there.items() if key in wanted]
        found = _sums(dsn, held.exported, held.facts.version_num, tables, jobs, chunk_bytes,
                      progress, cancel)  # fmt: skip
        for key, data_expected in sorted(wanted.items()):
            table = there.get(key)
            report.tables.append(
                _compare(shown(*key), data_expected, found.get(table.oid) if table else None)
            )
        report.problems += [_words(check) for check in report.tables if not check.same]
        report.problems += check_sequences(held.connection, expected.sequences)
        report.sequences = len(expected.sequences)
        report.problems += _check_valid(held.connection, expected)
    return report


def check_tables(
    dsn: str, exported: str, version_num: int, pairs: Sequence[tuple[Table, TableData]], *,
    jobs: int, chunk_bytes: int, progress: Progress, cancel: threading.Event,
) -> CheckReport:  # fmt: skip
    """Compare some tables, each with the data it should hold, under an exported snapshot."""
    report = CheckReport()
    found = _sums(
        dsn, exported, version_num, [t for t, _ in pairs], jobs, chunk_bytes, progress, cancel
    )
    for table, expected in pairs:
        check = _compare(shown(table.schema, table.name), expected, found.get(table.oid))
        report.tables.append(check)
        if not check.same:
            report.problems.append(_words(check))
    return report


def _sums(
    dsn: str, exported: str, version_num: int, tables: Sequence[Table], jobs: int,
    chunk_bytes: int, progress: Progress, cancel: threading.Event,
) -> dict[int, TableData]:  # fmt: skip
    work, lengths = plan_work(tables, chunk_bytes=chunk_bytes)
    reading = Reading(
        dsn, exported, version_num, _Nowhere(), chunk_bytes, lengths, progress, cancel
    )
    return {found.oid: found for found in read_tables(reading, work, jobs=jobs)}


def _compare(name: str, expected: TableData, found: TableData | None) -> TableCheck:
    same = found is not None and (found.rows, found.sum) == (expected.rows, expected.sum)
    return TableCheck(name, expected.rows, found.rows if found else None, same)


def _words(check: TableCheck) -> str:
    if check.rows_found is None:
        return f"{check.table} is not there"
    if check.rows_found != check.rows_expected:
        return f"{check.table} holds {check.rows_found} rows, the backup {check.rows_expected}"
    return f"{check.table} holds rows that differ from the backup's"


def check_sequences(conn: Connection, expected: Sequence[Sequence_]) -> list[str]:
    """Sequences that are missing or behind the backup's position."""
    with translated("target", doing="reading the sequences"):
        found = {(s.schema, s.name): s for s in read_sequences(conn)}
    problems = []
    for wanted in expected:
        name = shown(wanted.schema, wanted.name)
        there = found.get((wanted.schema, wanted.name))
        if there is None:
            problems.append(f"sequence {name} is not there")
        elif (there.last_value, there.is_called) != (wanted.last_value, wanted.is_called):
            problems.append(
                f"sequence {name} stands at {there.last_value}, the backup says {wanted.last_value}"
            )
    return problems


def _check_valid(conn: Connection, expected: Snapshot) -> list[str]:
    with translated("target", doing="looking at constraints and indexes"):
        invalid = conn.execute(
            "SELECT i.indexrelid::regclass::text FROM pg_catalog.pg_index i"
            " JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid"
            " WHERE NOT i.indisvalid AND c.relkind = 'i' ORDER BY 1"
        ).fetchall()
        not_valid = read_not_valid(conn)
    problems = [f"index {name} is not valid" for (name,) in invalid]
    return problems + [
        f"constraint not validated: {name}" for name in not_valid if name not in expected.not_valid
    ]
