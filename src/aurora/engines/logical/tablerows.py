"""Rows of one table or partition tree, loaded and compared inside a transaction."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aurora.engines.base import (
    BufferSource,
    Column,
    RowsSum,
    Table,
    TableData,
    total_rows,
)
from aurora.engines.logical.checksum import row_hash, rows_sum, sum_query
from aurora.engines.logical.copyin import Load, copy_rows
from aurora.engines.logical.names import Connection, quoted, shown
from aurora.engines.logical.partitions import gated, gates, units
from aurora.errors import CheckFailed
from aurora.postgres.errors import translated

Rows = Callable[[Connection, Sequence[Table], threading.Event], Sequence[TableData]]
"""Loads rows into tables, in the transaction that the connection is in; what each must hold
then, ``sum`` "" where only the number is known."""


def stored_rows(data: Sequence[TableData], source: BufferSource) -> Rows:
    """The rows that a backup holds."""

    def load(
        conn: Connection, tables: Sequence[Table], cancel: threading.Event
    ) -> Sequence[TableData]:
        through = gates(tables)
        by_oid = {table.oid: gated(table, through.get(table.oid)) for table in tables}
        with ThreadPoolExecutor(3, thread_name_prefix="fetch") as fetchers:
            for found in data:
                if not found.extents:
                    continue
                load = Load(by_oid[found.oid], found.extents)
                doing = f"loading {shown(load.table.schema, load.table.name)}"
                with translated("target", doing=doing):
                    copy_rows(conn, load, source, fetchers, cancel)
        return data

    return load


def check_rows(conn: Connection, tables: Sequence[Table], data: Sequence[TableData]) -> None:
    """Compare what the transaction sees in *tables* with *data*. Raises CheckFailed."""
    for unit in units(tables, data):
        found = [
            read_sum(conn, f"ONLY {quoted(table.schema, table.name)}", table.columns)
            for table in unit.members
        ]
        if not unit.matches(found):
            raise CheckFailed(
                f"the rows loaded into {shown(unit.table.schema, unit.table.name)} are not the "
                f"backup's ({total_rows(found).rows} rows, expected {unit.rows})",
                hint="Nothing was changed.",
            )


def read_sum(conn: Connection, relation: str, columns: Sequence[Column]) -> RowsSum:
    """Rows and checksum of a relation as this transaction sees it."""
    with translated("target", doing="reading the rows back"):
        row = conn.execute(sum_query(relation, columns).encode()).fetchone()
    return rows_sum(*row) if row else RowsSum()


def through(root: Table, table: Table) -> Table:
    """Rows of a partition go in by the root: the target may be partitioned otherwise."""
    return Table(table.oid, root.schema, root.name, table.kind, table.owner, table.columns)


def check_tree(
    conn: Connection, root: Table, relation: str, tables: Sequence[Table], data: Sequence[TableData]
) -> None:
    """The whole tree at once: rows may lie in other partitions than in the backup."""
    by_oid = {table.oid: table for table in tables}
    columns = by_oid[data[0].oid].columns if data else root.columns
    # Partitions whose columns stand in different orders hash equal rows differently.
    comparable = len({row_hash(by_oid[found.oid].columns) for found in data}) <= 1
    comparable = comparable and all(found.sum for found in data)
    expected = total_rows([RowsSum(found.rows, found.sum or "0") for found in data])
    found = read_sum(conn, relation, columns)
    if found.rows != expected.rows or (comparable and found.sum != expected.sum):
        raise CheckFailed(
            f"the rows loaded into {shown(root.schema, root.name)} are not the backup's "
            f"({found.rows} rows, expected {expected.rows})",
            hint="Nothing was changed. A column's type may have changed since the backup: "
            "restore the table beside the existing one with --as NAME.",
        )
