"""Whether a restored database holds what the backup says: every row, every sequence.

The target is read back the way the source was read, under a snapshot of its own, and
each table's rows and order-independent checksum are compared with the backup's.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from aurora.engines.base import (
    Progress,
    RowsSum,
    Sequence_,
    Snapshot,
    Table,
    TableData,
    total_rows,
)
from aurora.engines.logical.catalog import read_not_valid, read_sequences
from aurora.engines.logical.copyout import count_rows, where_of, work_name
from aurora.engines.logical.names import Connection as ControlConnection
from aurora.engines.logical.names import shown
from aurora.engines.logical.partitions import Unit, units
from aurora.engines.logical.ranges import Group, Work, plan_work
from aurora.engines.logical.snapshot import hold_snapshot
from aurora.engines.logical.workers import Connection, Shared, run_workers
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
    with hold_snapshot(dsn, side="target") as held:
        hidden = held.catalog.unreadable
        there = {(t.schema, t.name): t for t in held.tables if t.oid not in hidden}
        report.problems += [
            f"{shown(t.schema, t.name)} cannot be read: {hidden[t.oid]}"
            for t in held.tables
            if t.oid in hidden and (t.schema, t.name) in wanted
        ]
        tables = [table for key, table in there.items() if key in wanted]
        shared = Shared(dsn, held.exported, held.facts.version_num, cancel, side="target")
        found = _sums(shared, tables, chunk_bytes, jobs, progress)
        oids = {key: table.oid for key, table in there.items()}
        for unit in units(expected.tables, data):
            keys = [oids.get((t.schema, t.name)) for t in unit.members]
            report.tables.append(_compare(unit, [found[oid] for oid in keys if oid in found]))
        report.tables.sort(key=lambda check: check.table)
        report.problems += [_words(check) for check in report.tables if not check.same]
        report.problems += check_sequences(held.connection, expected.sequences)
        report.sequences = len(expected.sequences)
        report.problems += _check_valid(held.connection, expected)
    return report


def _sums(
    shared: Shared, tables: Sequence[Table], chunk_bytes: int, jobs: int, progress: Progress
) -> dict[int, RowsSum]:
    """Rows and checksum of each table, by oid."""
    work, _ = plan_work(tables, chunk_bytes=2 * chunk_bytes)

    async def count(connection: Connection, item: Work) -> list[tuple[int, RowsSum]]:
        if isinstance(item, Group):
            found = [(t.oid, await count_rows(connection, t, t.condition)) for t in item.tables]
        else:
            found = [(item.table.oid, await count_rows(connection, item.table, where_of(item)))]
        progress(item.disk_bytes, work_name(item))
        return found

    sums: dict[int, list[RowsSum]] = {table.oid: [] for table in tables}
    for found in run_workers(shared, work, count, jobs=jobs, name=work_name):
        for oid, one in found:
            sums[oid].append(one)
    return {oid: total_rows(parts) for oid, parts in sums.items()}


def _compare(unit: Unit, found: Sequence[RowsSum]) -> TableCheck:
    name = shown(unit.table.schema, unit.table.name)
    if len(found) < len(unit.members):
        return TableCheck(name, unit.rows, None, same=False)
    return TableCheck(name, unit.rows, total_rows(found).rows, unit.matches(found))


def _words(check: TableCheck) -> str:
    if check.rows_found is None:
        return f"{check.table} is not there"
    if check.rows_found != check.rows_expected:
        return f"{check.table} holds {check.rows_found} rows, the backup {check.rows_expected}"
    return f"{check.table} holds rows that differ from the backup's"


def check_sequences(conn: ControlConnection, expected: Sequence[Sequence_]) -> list[str]:
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


def _check_valid(conn: ControlConnection, expected: Snapshot) -> list[str]:
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
