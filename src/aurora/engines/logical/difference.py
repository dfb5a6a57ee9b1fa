"""In which rows a table differs from a backup: found by the server, row by row for people.

The backup's rows of the table go into a temporary table beside it, and the server joins the
two by key; so memory stays flat here whatever the table's size. Nothing of the user's is
changed: the temporary table is gone with the session.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
import psycopg

from aurora.engines.base import BufferSource, Table, TableData
from aurora.engines.logical.checksum import row_hash
from aurora.engines.logical.copyin import copy_rows, open_loader, plan_loads
from aurora.engines.logical.names import Connection, quoted, shown
from aurora.postgres.errors import translated

_COPY = "aurora_expected"
_WIDEST = 120  # letters of one value that are shown
_KEY = """
SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.place)
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = %s::regclass AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
  AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
GROUP BY i.indexrelid, i.indisprimary, i.indnkeyatts
HAVING pg_catalog.bool_and(a.attnotnull AND a.attgenerated = '')
ORDER BY i.indisprimary DESC, i.indnkeyatts LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class RowDifference:
    """One row: only in the backup (``lost``), only in the database (``new``), or ``changed``."""

    kind: str
    key: str  # column=value, …
    backup: str = ""  # the values that differ, or the whole row
    found: str = ""

    def __str__(self) -> str:
        if self.kind == "changed":
            return f"changed {self.key}: {self.backup} in the backup, {self.found} in the database"
        return f"{self.kind} {self.key or 'row'}: {self.backup or self.found}"


@dataclass(frozen=True, slots=True)
class TableDifference:
    """How one table differs."""

    table: str
    rows: tuple[RowDifference, ...]  # up to a limit
    counts: dict[str, int]  # kind -> how many rows
    error: str = ""  # why the rows could not be compared

    @property
    def words(self) -> str:
        """``1 changed, 3 lost``."""
        told = ", ".join(f"{number} {kind}" for kind, number in sorted(self.counts.items()))
        return told or f"not comparable: {self.error}"


def differing_rows(
    dsn: str,
    table: Table,
    members: Sequence[TableData],
    source: BufferSource,
    *,
    limit: int,
    encoding: str,
    cancel: threading.Event,
) -> TableDifference:
    """Compare one table (or partition tree behind *table*) with the backup, row by row.

    Raises:
        TargetError: the role may make no temporary table, or the table's columns are others.
        IntegrityError, StorageError: the backup's rows cannot be read.
    """
    name = shown(table.schema, table.name)
    with open_loader(dsn, encoding) as conn, translated("target", doing=f"comparing {name}"):
        conn.execute(
            f"CREATE TEMPORARY TABLE {_COPY} (LIKE {quoted(table.schema, table.name)})".encode()
        )
        beside = msgspec.structs.replace(table, schema="pg_temp", name=_COPY)
        with ThreadPoolExecutor(2, thread_name_prefix="fetch") as fetchers:
            for one in members:
                moved = msgspec.structs.replace(beside, oid=one.oid)
                for load in plan_loads([moved], [one]):
                    with conn.transaction():
                        copy_rows(conn, load, source, fetchers, cancel)
        conn.execute(f"ANALYZE pg_temp.{_COPY}".encode())
        row = conn.execute(_KEY, [quoted(table.schema, table.name)]).fetchone()
        key = [str(one) for one in row[0]] if row and isinstance(row[0], list) else []
        joined = _joined(table, key)
        counts = {
            str(kind): int(str(number))
            for kind, number in conn.execute(
                f"SELECT kind, count(*) FROM ({joined}) q GROUP BY kind".encode()
            )
        }
        found = tuple(_rows(conn, table, key, joined, limit)) if counts and limit else ()
    return TableDifference(name, found, counts)


# One row of each side; without a key equal rows are paired off one by one.
_SIDE_BY_KEY = "(SELECT *, {hash} AS aurora_hash FROM {table})"
_SIDE = (
    "(SELECT *, row_number() OVER (PARTITION BY aurora_hash) AS aurora_number"
    " FROM (SELECT *, {hash} AS aurora_hash FROM {table}) h)"
)


def _joined(table: Table, key: Sequence[str]) -> str:
    """SQL for every row that differs: its kind, and both rows as records."""
    names = [quoted(name) for name in key] or ["aurora_hash", "aurora_number"]
    side, hashed = _SIDE_BY_KEY if key else _SIDE, row_hash(table.columns)
    only = "ONLY " if table.kind == "r" else ""
    backup = side.format(hash=hashed, table=f"pg_temp.{_COPY}")
    database = side.format(hash=hashed, table=f"{only}{quoted(table.schema, table.name)}")
    match = " AND ".join(f"aurora_b.{name} = aurora_d.{name}" for name in names)
    order = ", ".join(f"COALESCE(aurora_b.{name}, aurora_d.{name})" for name in names)
    return (
        "SELECT CASE WHEN aurora_d.aurora_hash IS NULL THEN 'lost'"
        " WHEN aurora_b.aurora_hash IS NULL THEN 'new' ELSE 'changed' END AS kind,"
        f" aurora_b, aurora_d FROM {backup} aurora_b FULL JOIN {database} aurora_d ON {match}"
        f" WHERE aurora_b.aurora_hash IS DISTINCT FROM aurora_d.aurora_hash ORDER BY {order}"
    )


def _rows(
    conn: Connection, table: Table, key: Sequence[str], joined: str, limit: int
) -> Iterator[RowDifference]:
    names = table.copy_columns
    picked = ", ".join(
        f"(q.{side}).{quoted(name)}" for side in ("aurora_b", "aurora_d") for name in names
    )
    query = f"SELECT kind, {picked} FROM ({joined}) q LIMIT {int(limit)}"
    for values in _texts(conn, query):
        kind, rest = values[0] or "", values[1:]
        backup = dict(zip(names, rest[: len(names)], strict=True))
        found = dict(zip(names, rest[len(names) :], strict=True))
        yield _difference(kind, key, backup, found)


def _difference(
    kind: str, key: Sequence[str], backup: dict[str, str | None], found: dict[str, str | None]
) -> RowDifference:
    named = _words({name: (found if kind == "new" else backup)[name] for name in key})
    if kind == "changed":
        other = [name for name, value in backup.items() if found[name] != value]
        return RowDifference(
            kind,
            named,
            _words({name: backup[name] for name in other}),
            _words({name: found[name] for name in other}),
        )
    whole = _words(found if kind == "new" else backup)
    return RowDifference(kind, named, *((whole, "") if kind == "lost" else ("", whole)))


def _words(values: dict[str, str | None]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in values.items())


def _value(value: str | None) -> str:
    if value is None:
        return "NULL"
    return value if len(value) <= _WIDEST else f"{value[:_WIDEST]}…"


def _texts(conn: Connection, query: str) -> Iterator[tuple[str | None, ...]]:
    """The rows of *query* as the types' own output functions print them."""
    result = conn.pgconn.exec_params(query.encode(), [])
    if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
        raise psycopg.errors.lookup(
            (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"XX000").decode()
        )(result.error_message.decode(errors="replace"))
    for row in range(result.ntuples):
        yield tuple(
            None if value is None else value.decode(errors="replace")
            for value in (result.get_value(row, column) for column in range(result.nfields))
        )
