"""The rows of a table that lives, swapped for others: what hangs on it put aside, and back.

The table stays what it is, with its grants, policies, triggers and foreign keys.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg

from aurora.engines.base import (
    Table,
    TableData,
)
from aurora.engines.logical.foreignkeys import dangling
from aurora.engines.logical.names import Connection, literal, quoted, shown
from aurora.engines.logical.tablerows import Rows, check_tree, through
from aurora.errors import TargetRefused
from aurora.postgres.errors import translated

_LOCK_TRIES = 60
_LOCK_TRY_MS = 400  # below deadlock_timeout: it is we who give way
_LOCK_PAUSE = 0.6  # seconds
_ROW_LOCK_TIMEOUT = "60s"  # for what COPY waits for: rows that others are changing


@dataclass(frozen=True, slots=True)
class Existing:
    """The table that is there, and what a swap of its rows has to put aside and back."""

    table: Table
    partitioned: bool
    incoming: tuple[tuple[str, str, str], ...]  # (table as SQL, constraint, definition)
    involved: tuple[str, ...]  # the other tables of those keys, as SQL
    triggers: tuple[tuple[str, str, str], ...]  # (table as SQL, trigger, tgenabled)
    rules: tuple[tuple[str, str, str], ...]
    forced_security: tuple[str, ...]  # tables as SQL
    comments: tuple[tuple[str, str, str], ...] = ()  # (table as SQL, constraint, comment)
    as_replica: bool = False  # others own some of it: nothing is altered, keys are looked at

    @property
    def relation(self) -> str:
        """Its own rows as SQL: with its partitions', without those of tables that inherit."""
        return relation_of(self.table, partitioned=self.partitioned)


def relation_of(table: Table, *, partitioned: bool) -> str:
    """The rows of *table* as SQL names them."""
    name = quoted(table.schema, table.name)
    return name if partitioned else f"ONLY {name}"


# A key that refers to a partition's parent guards the partition too; it is dropped and made
# at its root, where it was made.
_INCOMING = """
WITH RECURSIVE up AS (
    SELECT oid, conparentid FROM pg_catalog.pg_constraint
    WHERE contype = 'f' AND confrelid = ANY (%s::oid[])
  UNION
    SELECT p.oid, p.conparentid FROM pg_catalog.pg_constraint p JOIN up ON p.oid = up.conparentid
)
SELECT c.conrelid::regclass::text, c.conname, pg_catalog.pg_get_constraintdef(c.oid),
       COALESCE(pg_catalog.obj_description(c.oid, 'pg_constraint'), ''), c.confrelid::regclass::text
FROM pg_catalog.pg_constraint c JOIN up USING (oid) WHERE c.conparentid = 0 ORDER BY c.oid
"""
# Parents first, and disabled ones too: what is done to a parent's trigger reaches its
# partitions, whose own state is then set again.
_TRIGGERS = """
SELECT t.tgrelid::regclass::text, t.tgname, t.tgenabled::text FROM pg_catalog.pg_trigger t
WHERE NOT t.tgisinternal AND t.tgrelid = ANY (%s::oid[])
ORDER BY pg_catalog.array_position(%s::oid[], t.tgrelid), t.tgname
"""
_RULES = """
SELECT r.ev_class::regclass::text, r.rulename, r.ev_enabled::text FROM pg_catalog.pg_rewrite r
WHERE r.rulename <> '_RETURN' AND r.ev_enabled <> 'D' AND r.ev_class = ANY (%s::oid[])
"""
_FORCED = """
SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
WHERE c.relforcerowsecurity AND c.oid = ANY (%s::oid[])
"""


def look_at_existing(
    conn: Connection, table: Table, tree: Sequence[int], *, partitioned: bool
) -> Existing:
    """What hangs on *table*, which is locked: nothing more may come to hang on it.

    *tree* are the oids of it and of its partitions on the target, parents first.
    """

    def rows(query: str) -> list[tuple[str, ...]]:
        oids = [list(tree)] * query.count("%s")
        return [tuple(map(str, row)) for row in conn.execute(query.encode(), oids)]

    with translated("target", doing=f"looking at {shown(table.schema, table.name)}"):
        incoming = rows(_INCOMING)
        return Existing(
            table,
            partitioned,
            incoming=tuple((a, b, c) for a, b, c, _, _ in incoming),
            involved=tuple(dict.fromkeys(t for a, _, _, _, e in incoming for t in (e, a))),
            triggers=tuple((a, b, c) for a, b, c in rows(_TRIGGERS)),
            rules=tuple((a, b, c) for a, b, c in rows(_RULES)),
            forced_security=tuple(a for (a,) in rows(_FORCED)),
            comments=tuple((a, b, d) for a, b, _, d, _ in incoming if d),
            as_replica=is_in_others_hands(conn, table.schema, table.name),
        )


# Its owner alone may put triggers and rules aside; that of who refers to it, the keys.
_ALTERED_BY_OTHERS = """
WITH tree AS (
    SELECT %(table)s::regclass::oid AS oid
    UNION SELECT relid FROM pg_catalog.pg_partition_tree(%(table)s::regclass)
), altered AS (
    SELECT tgrelid AS oid FROM pg_catalog.pg_trigger
     WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgrelid IN (SELECT oid FROM tree)
    UNION SELECT ev_class FROM pg_catalog.pg_rewrite
     WHERE rulename <> '_RETURN' AND ev_enabled <> 'D' AND ev_class IN (SELECT oid FROM tree)
    UNION SELECT oid FROM pg_catalog.pg_class
     WHERE relforcerowsecurity AND oid IN (SELECT oid FROM tree)
    UNION SELECT unnest(ARRAY[conrelid, confrelid]) FROM pg_catalog.pg_constraint
     WHERE contype = 'f' AND confrelid IN (SELECT oid FROM tree)
)
SELECT EXISTS (SELECT FROM altered JOIN pg_catalog.pg_class c USING (oid)
               WHERE NOT pg_catalog.pg_has_role(c.relowner, 'USAGE'))
"""


def is_in_others_hands(conn: Connection, schema: str, name: str) -> bool:
    """Whether others own what a swap of the table's rows would have to alter."""
    row = conn.execute(_ALTERED_BY_OTHERS.encode(), {"table": quoted(schema, name)}).fetchone()
    return bool(row and row[0])


_ENABLE = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS", "D": "DISABLE"}


def replace_rows(
    conn: Connection,
    existing: Existing,
    tables: Sequence[Table],
    rows: Rows,
    cancel: threading.Event,
) -> Sequence[TableData]:
    """Swap the table's rows for the backup's, in the transaction *conn* is in.

    Since :func:`lock_for_replacing` nobody else writes. Readers see the old rows until the
    commit (they wait only where foreign keys refer to the table). Triggers and rules do not
    fire; foreign keys of others are put aside and back, which checks them.

    Returns: what was loaded.

    Raises:
        TargetRefused: a foreign key of another table does not hold with the backup's rows.
        CheckFailed.
    """
    name = quoted(existing.table.schema, existing.table.name)
    if existing.as_replica:
        return _replace_as_replica(conn, existing, tables, rows, cancel)
    aside = existing.incoming or existing.rules or existing.forced_security
    with translated("target", doing=f"replacing the rows of {name}"):
        if aside:
            locked = (existing.relation, *existing.involved)
            insist(conn, *(f"LOCK TABLE {one} IN ACCESS EXCLUSIVE MODE" for one in locked))
        _execute(conn, _put_aside(existing))
        conn.execute(f"DELETE FROM {existing.relation}".encode())
        loading = [through(existing.table, table) for table in tables]
        data = rows(conn, loading, cancel)
        check_tree(conn, existing.table, existing.relation, tables, data)
        conn.execute("SET CONSTRAINTS ALL IMMEDIATE")  # no table with a check ahead is altered
        _put_back(conn, existing)
    return data


def _replace_as_replica(
    conn: Connection,
    existing: Existing,
    tables: Sequence[Table],
    rows: Rows,
    cancel: threading.Event,
) -> Sequence[TableData]:
    """The same on a table of another owner, such as a service's of Supabase.

    In the replica role no trigger fires, those that keep foreign keys among them: so the keys
    are looked at before the commit, and whoever refers to the table is locked until then.
    """
    name = quoted(existing.table.schema, existing.table.name)
    with translated("target", doing=f"replacing the rows of {name}"):
        others = [one for one in existing.involved if one != name]
        insist(conn, *(f"LOCK TABLE {one} IN SHARE ROW EXCLUSIVE MODE" for one in others))
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute(f"DELETE FROM {existing.relation}".encode())
        data = rows(conn, [through(existing.table, table) for table in tables], cancel)
        conn.execute("SET LOCAL session_replication_role = DEFAULT")
        check_tree(conn, existing.table, existing.relation, tables, data)
        for broken in dangling(conn, [name]):
            raise TargetRefused(
                f"the backup's rows would leave {broken}",
                hint="Nothing was changed. Restore the table beside the existing one with "
                "--as NAME and put rows back by hand, or restore the other table first.",
                context={"constraint": broken.constraint, "table": broken.table},
            )
    return data


def lock_for_replacing(conn: Connection, table: Table, *, partitioned: bool) -> None:
    """Let nobody else write to the table until the end of the transaction; readers go on."""
    with translated("target", doing=f"locking {shown(table.schema, table.name)}"):
        insist(conn, f"LOCK TABLE {relation_of(table, partitioned=partitioned)} IN EXCLUSIVE MODE")


def insist(conn: Connection, *statements: str) -> None:
    """Run statements that need locks, in short tries, as a part of conn's transaction.

    While a lock is waited for, all that come later queue behind, be it only to read: one
    long try would stop the application for as long as an idle transaction lasts. After a
    try that failed its locks are given back. Raises psycopg errors.
    """
    for attempt in range(_LOCK_TRIES):
        try:
            with conn.transaction():
                conn.execute(f"SET LOCAL lock_timeout = '{_LOCK_TRY_MS}ms'".encode())
                for statement in statements:
                    conn.execute(statement.encode(errors="surrogateescape"))
                conn.execute(f"SET LOCAL lock_timeout = '{_ROW_LOCK_TIMEOUT}'".encode())
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if attempt == _LOCK_TRIES - 1:
                raise
        time.sleep(_LOCK_PAUSE)


def _put_aside(existing: Existing) -> list[str]:
    # TRIGGER USER would need no list, but putting back would lose ALWAYS and REPLICA.
    return [
        *(
            f"ALTER TABLE {t} DISABLE TRIGGER {quoted(n)}"
            for t, n, state in existing.triggers
            if state != "D"
        ),
        *(f"ALTER TABLE {t} DISABLE RULE {quoted(n)}" for t, n, _ in existing.rules),
        *(f"ALTER TABLE {t} NO FORCE ROW LEVEL SECURITY" for t in existing.forced_security),
        *(f"ALTER TABLE {t} DROP CONSTRAINT {quoted(n)}" for t, n, _ in existing.incoming),
    ]


def _put_back(conn: Connection, existing: Existing) -> None:
    for table, constraint, definition in existing.incoming:
        try:
            conn.execute(
                f"ALTER TABLE {table} ADD CONSTRAINT {quoted(constraint)} {definition}".encode()
            )
        except psycopg.errors.ForeignKeyViolation as error:
            raise TargetRefused(
                f"rows of {table} refer to rows that the backup does not hold "
                f"(foreign key {constraint})",
                hint="Nothing was changed. Restore the table beside the existing one with "
                "--as NAME and put rows back by hand, or restore both tables.",
                context={"constraint": constraint, "table": table},
            ) from error
    _execute(
        conn,
        [
            *(
                f"COMMENT ON CONSTRAINT {quoted(n)} ON {t} IS {literal(comment)}"
                for t, n, comment in existing.comments
            ),
            *(
                f"ALTER TABLE {t} {_ENABLE[state]} TRIGGER {quoted(n)}"
                for t, n, state in existing.triggers
            ),
            *(
                f"ALTER TABLE {t} {_ENABLE[state]} RULE {quoted(n)}"
                for t, n, state in existing.rules
            ),
            *(f"ALTER TABLE {t} FORCE ROW LEVEL SECURITY" for t in existing.forced_security),
        ],
    )


def _execute(conn: Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        conn.execute(statement.encode())
