"""Whether indexes and tables are sound, by PostgreSQL's own ``amcheck``.

Every B-tree is walked, and it must hold every row of its table; every table's pages and TOAST
are looked through.
"""

import psycopg

from aurora.engines.base import Progress
from aurora.engines.logical.names import Connection, quoted, shown
from aurora.postgres.errors import translated

_INDEXES = """
SELECT c.oid::bigint, n.nspname, c.relname, i.indisunique,
       pg_catalog.pg_relation_size(c.oid)::bigint
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_am a ON a.oid = c.relam AND a.amname = 'btree'
WHERE i.indisvalid AND i.indisready AND c.relkind = 'i' AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 1
"""
_TABLES = """
SELECT c.oid::bigint, n.nspname, c.relname, pg_catalog.pg_table_size(c.oid)::bigint
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_am a ON a.oid = c.relam AND a.amname = 'heap'
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY 1
"""


def amcheck_schema(conn: Connection, *, create: bool) -> str:
    """The schema that the extension is in; "" where it is not, or cannot be had.

    Args:
        create: make it where the server has it; for a database that is thrown away.
    """
    with translated("target", doing="looking for amcheck"):
        if create:
            try:
                with conn.transaction():
                    conn.execute("CREATE EXTENSION IF NOT EXISTS amcheck WITH SCHEMA pg_catalog")
            except psycopg.Error:
                if conn.closed:
                    raise
        row = conn.execute(
            "SELECT n.nspname FROM pg_catalog.pg_extension e"
            " JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'amcheck'"
        ).fetchone()
    return str(row[0]) if row else ""


def run_amcheck(conn: Connection, schema: str, progress: Progress) -> tuple[int, list[str]]:
    """Check everything; how many indexes and tables, and what is wrong.

    Raises:
        TargetError: the role may not, or the server was lost.
    """
    problems: list[str] = []
    with translated("target", doing="checking indexes with amcheck"):
        unique = _knows_unique(conn, schema)
        indexes = conn.execute(_INDEXES).fetchall()
        for oid, namespace, name, is_unique, size in indexes:
            extra = f", {'true' if is_unique else 'false'}" if unique else ""
            call = f"SELECT {quoted(schema)}.bt_index_check(%s::oid::regclass, true{extra})"
            problems += _attempt(conn, call, oid, f"index {shown(str(namespace), str(name))}")
            progress(int(str(size)), str(name))
        tables = conn.execute(_TABLES).fetchall()
        for oid, namespace, name, size in tables:
            call = (
                "SELECT pg_catalog.string_agg(DISTINCT msg, '; ') FROM"
                f" {quoted(schema)}.verify_heapam(%s::oid::regclass, check_toast => true)"
            )
            problems += _attempt(conn, call, oid, f"table {shown(str(namespace), str(name))}")
            progress(int(str(size)), str(name))
    return len(indexes) + len(tables), problems


def _knows_unique(conn: Connection, schema: str) -> bool:
    """Since PostgreSQL 17 it also looks whether a unique index is unique."""
    row = conn.execute(
        "SELECT max(pronargs) FROM pg_catalog.pg_proc p"
        " JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace"
        " WHERE proname = 'bt_index_check' AND nspname = %s", [schema],
    ).fetchone()  # fmt: skip
    return bool(row and int(str(row[0] or 0)) >= 3)


def _attempt(conn: Connection, call: str, oid: object, what: str) -> list[str]:
    try:
        row = conn.execute(call.encode(), [oid]).fetchone()
    except (psycopg.errors.IndexCorrupted, psycopg.errors.DataCorrupted) as error:
        return [f"{what}: {error.diag.message_primary}"]
    said = row[0] if row else None
    return [f"{what}: {said}"] if said else []
