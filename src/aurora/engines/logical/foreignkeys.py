"""The replica role, in which no trigger fires, and the foreign keys that nobody checks in it."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import psycopg

from aurora.engines.logical.names import Connection
from aurora.units import plural

_KEYS = """
SELECT o.conname, o.conrelid::regclass::text, o.confrelid::regclass::text,
       (SELECT pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) ORDER BY k.place)
        FROM unnest(o.conkey) WITH ORDINALITY k(number, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.number),
       (SELECT pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) ORDER BY k.place)
        FROM unnest(o.confkey) WITH ORDINALITY k(number, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.number),
       o.confmatchtype = 'f'
FROM pg_catalog.pg_constraint o
WHERE o.contype = 'f' AND o.conparentid = 0
  AND (o.conrelid = ANY (%(tables)s::regclass[]::oid[])
       OR o.confrelid = ANY (%(tables)s::regclass[]::oid[]))
ORDER BY 2, 1
"""


class Dangling(NamedTuple):
    """Rows that refer to rows that are not there. Tables as SQL names them."""

    constraint: str
    table: str
    referred: str
    rows: int

    def __str__(self) -> str:
        return (
            f"{plural(self.rows, 'row')} of {self.table} without what is referred to in "
            f"{self.referred} ({self.constraint})"
        )


def may_be_replica(conn: Connection) -> bool:
    """Whether the role may set session_replication_role, found out by trying; set back."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def dangling(conn: Connection, tables: Sequence[str]) -> list[Dangling]:
    """Foreign keys of, and to, *tables* (as SQL) that rows do not keep."""
    found = []
    keys = conn.execute(_KEYS, {"tables": list(tables)}).fetchall()
    for name, table, referred, mine, theirs, full in cast("list[tuple[Any, ...]]", keys):
        pairs = list(zip(mine, theirs, strict=True))
        # MATCH SIMPLE: a row with a NULL in its key refers to nothing; MATCH FULL: all or none.
        given = (" OR " if full else " AND ").join(f"m.{column} IS NOT NULL" for column, _ in pairs)
        equal = " AND ".join(f"m.{column} = o.{other}" for column, other in pairs)
        row = conn.execute(
            f"SELECT pg_catalog.count(*) FROM {table} m WHERE ({given})"
            f" AND NOT EXISTS (SELECT FROM {referred} o WHERE {equal})".encode()
        ).fetchone()
        if row and row[0]:
            found.append(Dangling(str(name), str(table), str(referred), int(str(row[0]))))
    return found
