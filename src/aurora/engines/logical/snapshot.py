"""One consistent state of the source, held open while workers read it.

The order is what makes it exact: list the tables, LOCK them ``ACCESS SHARE``, *then* take
the snapshot, list again. A snapshot taken before the locks can read a table that was
rewritten or truncated in between as empty, because those are not MVCC-safe (measured on
PostgreSQL 15). ``LOCK TABLE`` itself takes no snapshot.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from aurora import clock
from aurora.engines.base import Sequence_, Source, Table
from aurora.engines.logical.catalog import Catalog, read_catalog, read_database, read_sequences
from aurora.engines.logical.names import Connection, pin_output, quoted, shown
from aurora.errors import SourceChanged, SourcePrivilege, SourceUnsupported, UsageError
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import Side, translated
from aurora.postgres.server import ServerFacts, inspect_server, open_control, require_usable
from aurora.units import listed, plural

_LOCK_BATCH = 200
_ATTEMPTS = 5
# What locking says of a table that was dropped, or moved, since it was listed, and where two
# sessions lock in different order: the next look does without it.
_GONE = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.WrongObjectType,
    psycopg.errors.DeadlockDetected,
)


@dataclass(frozen=True, slots=True)
class HeldSnapshot:
    """An open snapshot. Valid while the context that gave it is open."""

    connection: Connection
    exported: str  # the name that workers import
    source: Source
    facts: ServerFacts
    catalog: Catalog
    tables: tuple[Table, ...]  # without the skipped ones
    skipped: tuple[str, ...]

    def sequences(self) -> list[Sequence_]:
        """Every sequence's position now; call it after the rows were read."""
        with translated("source", doing="reading the sequences"):
            return read_sequences(self.connection, left_out=self.left_out)

    @property
    def left_out(self) -> set[int]:
        """The oids of the skipped tables."""
        return {table.oid for table in self.catalog.tables} - {table.oid for table in self.tables}


@contextmanager
def hold_snapshot(
    dsn: str, *, lock_timeout: float = 10.0, skip: Sequence[str] = (), side: Side = "source"
) -> Iterator[HeldSnapshot]:
    """Lock every table against DDL, take one snapshot, export it.

    Args:
        lock_timeout: seconds to wait for a table that somebody has locked; while we wait,
            others queue behind us, so it is short.
        skip: ``schema.table`` names to leave out, with the tables below them.
        side: which end this is, for the words of errors. Tables that the role may not read
            are refused at the source; on a target they stay in ``catalog.unreadable``.

    Raises:
        SourcePrivilege: tables that the role may not read, all of them named at once.
        SourceChanged: a table is locked exclusively, or the schema keeps changing.
        SourceUnsupported: a standby, a pooler, an old server.
        SourceUnreachable: no connection.
    """
    with open_control(dsn, what=side) as conn, translated(side, doing="taking the snapshot"):
        facts = inspect_server(conn)
        require_usable(facts, side)
        pin_output(conn)
        for _ in range(_ATTEMPTS):
            before = read_catalog(conn)
            wanted, skipped = _choose(before, skip)
            if side == "source":
                _refuse_unreadable(before, wanted)
            conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            locked = [t for t in wanted if t.kind in ("r", "p") and t.oid not in before.unreadable]
            try:
                _lock(conn, locked, lock_timeout)
            except _GONE:
                conn.execute("ROLLBACK")
                continue
            exported, snapshot, lsn, at = _take(conn)
            after = read_catalog(conn, measure=[t.oid for t in locked if t.kind == "r"])
            if after.fingerprint == before.fingerprint:
                wanted, skipped = _choose(after, skip)
                break
            conn.execute("ROLLBACK")
        else:
            raise SourceChanged(
                "the schema of the source keeps changing",
                hint="No snapshot was taken. Run the backup again when the migration is done.",
            )
        source = Source(
            version_num=facts.version_num,
            system_identifier=str(facts.system_identifier or ""),
            database=read_database(conn),
            snapshot=snapshot,
            snapshot_at=at,
            lsn=lsn,
            role=facts.role.name,
            address=ConnInfo.parse(dsn).redacted(),
            timeline=facts.timeline or 0,
        )
        yield HeldSnapshot(conn, exported, source, facts, after, wanted, skipped)


def _take(conn: Connection) -> tuple[str, str, str, str]:
    row = conn.execute(
        "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.pg_current_snapshot()::text, "
        "pg_catalog.pg_current_wal_lsn()::text, pg_catalog.clock_timestamp()"
    ).fetchone()
    if row is None:
        raise SourceUnsupported("the source gives no snapshot")
    exported, snapshot, lsn, at = row
    return str(exported), str(snapshot), str(lsn), clock.isoformat(at)  # type: ignore[arg-type]


def _choose(catalog: Catalog, skip: Sequence[str]) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    """The tables to back up, and the names of those left out on request."""
    if not skip:
        return catalog.tables, ()
    named = {table.oid for table in catalog.tables if _is_named(table, skip)}
    unknown = [s for s in skip if not any(_is_named(t, [s]) for t in catalog.tables)]
    if unknown:
        raise UsageError(
            f"no table of the source is called {unknown[0]}",
            hint="Write --skip schema.table as the table is called in the source.",
        )
    while True:  # whatever stands below a skipped table goes with it
        below = {t.oid for t in catalog.tables if named & set(t.parents)} - named
        if not below:
            break
        named |= below
    return (
        tuple(table for table in catalog.tables if table.oid not in named),
        tuple(shown(t.schema, t.name) for t in catalog.tables if t.oid in named),
    )


def _is_named(table: Table, names: Iterable[str]) -> bool:
    forms = {shown(table.schema, table.name), f"{table.schema}.{table.name}"}
    return any(name in forms for name in names)


def _refuse_unreadable(catalog: Catalog, wanted: Sequence[Table]) -> None:
    bad = [(t, catalog.unreadable[t.oid]) for t in wanted if t.oid in catalog.unreadable]
    if not bad:
        return
    reasons: dict[str, list[str]] = {}
    for table, why in bad:
        reasons.setdefault(why, []).append(shown(table.schema, table.name))
    told = "; ".join(f"{listed(names, at_most=8)} ({why})" for why, names in reasons.items())
    raise SourcePrivilege(
        f"the role may not read {plural(len(bad), 'table')}: {told}",
        hint="Nothing was started. Grant the role SELECT on them (or membership in "
        "pg_read_all_data, and BYPASSRLS for row security), or leave them out with "
        "--skip schema.table.",
        context={"tables": [shown(t.schema, t.name) for t, _ in bad]},
    )


def _lock(conn: Connection, tables: Sequence[Table], timeout: float) -> None:
    # Foreign tables and views hold no rows of ours; pg_dump locks what it needs itself.
    names = [quoted(t.schema, t.name) for t in tables]
    # In force to the end: nothing that is asked later may wait for others without end.
    conn.execute(f"SET LOCAL lock_timeout = '{max(1, int(timeout * 1000))}ms'".encode())
    for start in range(0, len(names), _LOCK_BATCH):
        batch = names[start : start + _LOCK_BATCH]
        # ONLY: every partition and child is in the list itself.
        listed = ", ".join(f"ONLY {name}" for name in batch)
        try:
            conn.execute(f"LOCK TABLE {listed} IN ACCESS SHARE MODE".encode())
        except psycopg.errors.LockNotAvailable as error:
            conn.execute("ROLLBACK")
            raise SourceChanged(
                f"waited {timeout:g} s for a table that another session has locked: "
                + (_who_locks(conn, tables) or "it is free again by now"),
                hint="Nothing was backed up, nothing was changed. Let that session finish, or "
                "raise lock_timeout in aurora.toml, and run the backup again.",
            ) from error
        except psycopg.errors.OutOfMemory as error:
            raise SourceUnsupported(
                f"the source has no room for locks on {len(names)} tables",
                hint="Raise max_locks_per_transaction on the server (it needs a restart) so "
                f"that max_locks_per_transaction times max_connections is above {2 * len(names)}.",
            ) from error


def _who_locks(conn: Connection, tables: Sequence[Table]) -> str:
    rows = conn.execute(
        "SELECT l.relation::bigint, l.pid, COALESCE(a.usename, '?'),"
        " COALESCE(a.application_name, '')"
        " FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)"
        " WHERE l.granted AND l.mode = 'AccessExclusiveLock' AND l.locktype = 'relation'"
        " AND l.relation::bigint = ANY (%s)",
        ([table.oid for table in tables],),
    ).fetchall()
    by_oid = {table.oid: table for table in tables}
    return ", ".join(
        f"{shown(by_oid[int(str(oid))].schema, by_oid[int(str(oid))].name)} "
        f"(process {pid} of {user}{', ' + str(name) if name else ''})"
        for oid, pid, user, name in rows
    )
