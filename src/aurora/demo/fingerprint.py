"""What is in a database, as rows and a checksum for each table, to compare two databases.

The checksum does not depend on the order of the rows. It is PostgreSQL's own hash of each
row's text, summed, and knows nothing of how Aurora checks a restore: the two are
independent witnesses.
"""

from dataclasses import dataclass

import psycopg
from psycopg import sql

_SETTINGS = (
    "set transaction isolation level repeatable read read only",
    "set local timezone = 'UTC'",
    "set local datestyle = 'ISO, MDY'",
    "set local intervalstyle = 'postgres'",
    "set local extra_float_digits = 1",
    "set local bytea_output = 'hex'",
    "set local row_security = off",
    "set local statement_timeout = 0",
    "set local search_path = pg_catalog",
)

# Tables that the user made: not the system's, not an extension's, no view that is empty by intent.
_TABLES = """
select n.nspname, c.relname, format('%I.%I', n.nspname, c.relname)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where (c.relkind = 'r' or (c.relkind = 'm' and c.relispopulated))
  and c.relpersistence <> 't'
  and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'
  and not exists (
      select from pg_depend d
      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
order by pg_table_size(c.oid) desc, 3
"""

_ROW = "aurora fingerprint of a row"  # an alias that no column has: a column's name would win


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A table's rows and the sum of their hashes."""

    rows: int
    checksum: int


def fingerprints(dsn: str) -> dict[str, Fingerprint]:
    """Every table and filled materialized view by its quoted ``schema.name``, in one snapshot.

    The key ``large objects`` stands for those. Raises psycopg.Error when a table cannot be
    read as a whole.
    """
    with psycopg.connect(dsn, autocommit=True) as connection, connection.transaction():
        for setting in _SETTINGS:
            connection.execute(setting)
        found = {}
        for schema, name, quoted in connection.execute(_TABLES).fetchall():
            query = sql.SQL(
                "select count(*), coalesce(sum(hashtextextended({row}::text, 7)), 0)::numeric"
                " from only {table} as {row}"
            ).format(row=sql.Identifier(_ROW), table=sql.Identifier(schema, name))
            found[quoted] = _one(connection, query)
        found["large objects"] = _one(
            connection,
            "select count(*),"
            " coalesce(sum(hashtextextended(encode(lo_get(oid), 'hex'), oid::int8)), 0)"
            " from pg_largeobject_metadata",
        )
    return found


def differences(
    expected: dict[str, Fingerprint],
    actual: dict[str, Fingerprint],
    *,
    ignoring: frozenset[str] = frozenset(),
) -> list[str]:
    """One line for each table that is missing or differs; empty when all are equal."""
    lines = []
    for name, wanted in expected.items():
        got = actual.get(name)
        if name in ignoring or got == wanted:
            continue
        if got is None:
            lines.append(f"{name} is missing")
        elif got.rows != wanted.rows:
            lines.append(f"{name} has {got.rows} rows instead of {wanted.rows}")
        else:
            lines.append(f"{name} has the right number of rows, but other values")
    return lines


def _one(connection: psycopg.Connection, query: sql.Composed | str) -> Fingerprint:
    row = connection.execute(query.encode() if isinstance(query, str) else query).fetchone()
    assert row is not None  # an aggregate always gives a row
    return Fingerprint(rows=int(row[0]), checksum=int(row[1]))
