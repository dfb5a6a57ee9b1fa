"""What must be right about the source before a backup: looked at, never changed."""

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

import psycopg

from aurora import clock
from aurora.engines.logical.catalog import read_catalog, unreadable_sequences
from aurora.errors import UsageError
from aurora.operations.findings import Finding, failed, good, warning
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import ServerFacts, inspect_server, open_control, require_usable
from aurora.postgres.tools import find_tools
from aurora.units import format_count, format_duration, format_size, listed, plural

NEWEST_TRIED_MAJOR = 18
TOLERATED_SKEW_S = 5.0
_NAMED = 8  # tables and sequences that a sentence names

_Connection = psycopg.Connection[tuple[object, ...]]

_UNREADABLE_LARGE_OBJECTS = """
    SELECT pg_catalog.count(*), pg_catalog.min(m.oid)::bigint
    FROM pg_catalog.pg_largeobject_metadata m
    WHERE NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
      AND NOT pg_catalog.current_setting('lo_compat_privileges')::bool
      AND NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE')
      AND NOT EXISTS (
          SELECT FROM pg_catalog.aclexplode(m.lomacl) a
          WHERE a.privilege_type = 'SELECT'
            AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))
"""
_ROOM = """
    SELECT pg_catalog.current_setting('max_connections')::int
           - pg_catalog.current_setting('superuser_reserved_connections')::int
           - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
              WHERE backend_type = 'client backend'),
           pg_catalog.current_setting('max_locks_per_transaction')::bigint
           * (pg_catalog.current_setting('max_connections')::bigint
              + pg_catalog.current_setting('max_prepared_transactions')::bigint)
"""


def check_source(info: ConnInfo, *, jobs: int, skip: Collection[str] = ()) -> Iterator[Finding]:
    """All findings about the source; tables named in *skip* need not be readable.

    Raises SourceError where it cannot even be asked.
    """
    with open_control(info) as conn, translated("source", doing="looking at the source"):
        facts = inspect_server(conn)
        require_usable(facts)
        yield _version(facts, info)
        yield _transport(facts, info)
        yield from _role(facts)
        yield from _privileges(conn, facts, skip)
        yield from _room(conn, jobs)
        yield _clock(conn)
        yield _tools(facts)


def source_facts(info: ConnInfo) -> ServerFacts:
    """The facts about a usable source. Raises SourceError."""
    with open_control(info) as conn, translated("source", doing="looking at the source"):
        facts = inspect_server(conn)
    require_usable(facts)
    return facts


def _version(facts: ServerFacts, info: ConnInfo) -> Finding:
    size = "" if facts.database_size is None else f", {format_size(facts.database_size)}"
    kind = " (Supabase)" if facts.is_supabase else ""
    message = f"source {info.redacted()}: PostgreSQL {facts.version}{kind}{size}"
    if facts.major > NEWEST_TRIED_MAJOR:
        return warning(
            "source-version",
            message,
            f"Aurora is tested up to PostgreSQL {NEWEST_TRIED_MAJOR}. Make a backup and a trial "
            "restore before you rely on it.",
        )
    return good("source-version", message)


def _transport(facts: ServerFacts, info: ConnInfo) -> Finding:
    options = info.settled().options
    host = options.get("host", "")
    local = host.startswith(("/", "@")) or host in ("localhost", "127.0.0.1", "::1")
    if facts.tls:
        if options.get("sslmode") == "verify-full" or local:
            return good("source-tls", "the connection to the source uses TLS")
        return warning(
            "source-tls-unverified",
            "the connection to the source uses TLS, but does not check whose certificate it is",
            "Add sslmode=verify-full and sslrootcert=FILE to the connection string (Supabase "
            "offers its root certificate in the dashboard), or sslrootcert=system.",
        )
    if local:
        return good("source-tls", "the source is on this machine; no TLS is needed")
    return warning(
        "source-plain",
        "the connection to the source is not encrypted",
        "Add sslmode=require to the connection string; better, sslmode=verify-full with "
        "sslrootcert=FILE.",
    )


def _role(facts: ServerFacts) -> Iterator[Finding]:
    role = facts.role
    able = [
        word
        for word, has in (
            ("superuser", role.superuser),
            ("pg_read_all_data", role.reads_all_data and not role.superuser),
            ("BYPASSRLS", role.bypasses_row_security and not role.superuser),
            ("REPLICATION", role.replication and not role.superuser),
        )
        if has
    ]
    yield good("source-role", f"role {role.name}" + (f": {', '.join(able)}" if able else ""))
    if facts.system_identifier is None:
        yield warning(
            "source-identity",
            "the role may not read the server's system identifier",
            "Aurora then tells servers apart by their address only. GRANT EXECUTE ON FUNCTION "
            f"pg_control_system() TO {role.name}; as a superuser, if there is one.",
        )


def _privileges(conn: _Connection, facts: ServerFacts, skip: Collection[str]) -> Iterator[Finding]:
    catalog = read_catalog(conn)
    tables = {table.oid: f"{table.schema}.{table.name}" for table in catalog.tables}
    hidden: list[str] = []
    denied: list[str] = []
    skipped = {oid for oid, name in tables.items() if name in skip}
    for oid, reason in catalog.unreadable.items():
        if oid not in skipped and not skipped & set(catalog.by_oid[oid].parents):
            (hidden if "row security" in reason else denied).append(tables[oid])
    sequences = unreadable_sequences(conn)
    if denied:
        yield failed(
            "source-tables-unreadable",
            f"the role may not read {len(denied)} of {len(tables)} tables: "
            f"{listed(denied, at_most=_NAMED)}",
            f"GRANT pg_read_all_data TO {facts.role.name}; (or SELECT on each, with USAGE on its "
            "schema), or leave them out with [backup] skip.",
            denied,
        )
    if hidden:
        count = plural(len(hidden), "table")
        yield failed(
            "source-row-security",
            f"row security hides rows of {count} from the role: {listed(hidden, at_most=_NAMED)}",
            f"ALTER ROLE {facts.role.name} BYPASSRLS; or use the tables' owner, or leave them out "
            "with [backup] skip.",
            hidden,
        )
    if sequences:
        yield failed(
            "source-sequences-unreadable",
            f"the role may not read {plural(len(sequences), 'sequence')}: "
            f"{listed(sequences, at_most=_NAMED)}",
            f"GRANT pg_read_all_data TO {facts.role.name}; or SELECT on each of them.",
            sequences,
        )
    row = _one(conn, _UNREADABLE_LARGE_OBJECTS)
    if row[0]:
        yield failed(
            "source-large-objects-unreadable",
            f"the role may not read {plural(row[0], 'large object')} (one is {row[1]})",
            "As their owner: GRANT SELECT ON LARGE OBJECT … TO the role. pg_read_all_data does "
            "not cover large objects.",
        )
    if not (denied or hidden or sequences or row[0]):
        yield good(
            "source-privileges", f"the role may read every one of {plural(len(tables), 'table')}"
        )


def _room(conn: _Connection, jobs: int) -> Iterator[Finding]:
    free, locks = _one(conn, _ROOM)
    if free < jobs + 3:
        yield warning(
            "source-connections",
            f"the source has {plural(free, 'free connection')}; a backup uses up to {jobs + 3}",
            "Set [backup] jobs lower, or close idle clients.",
        )
    relations = _one(
        conn,
        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_class "
        "WHERE relkind IN ('r', 'p', 'i', 'I', 'S', 'v', 'm')",
    )[0]
    if relations > locks * 0.8:
        yield warning(
            "source-locks",
            f"{format_count(relations)} relations are many for a lock table of "
            f"{format_count(locks)} entries",
            "Raise max_locks_per_transaction on the source (needs a restart) if a backup ends "
            "with 'out of shared memory'.",
        )


def _clock(conn: _Connection) -> Finding:
    asked = clock.now()
    told: datetime = _one(conn, "SELECT pg_catalog.clock_timestamp()")[0]
    answered = clock.now()
    # The server's time lies between question and answer, so that much is not skew.
    skew = max((asked - told).total_seconds(), (told - answered).total_seconds(), 0.0)
    if skew > TOLERATED_SKEW_S:
        return warning(
            "source-clock",
            f"the clocks of this machine and of the source differ by {format_duration(skew)}",
            "Set both by NTP. Backups are right all the same, but their times, and recovery to "
            "a time, are off by that much.",
        )
    return good("source-clock", "the clocks of this machine and of the source agree")


def _tools(facts: ServerFacts) -> Finding:
    try:
        tools = find_tools(at_least=facts.major, prefer=facts.major, need_tls=facts.tls)
    except UsageError as error:
        return failed("tools-missing", error.message, error.hint)
    return good("tools", f"pg_dump and pg_restore {tools.version} in {tools.bin_dir}")


def _one(conn: _Connection, query: str) -> tuple[Any, ...]:
    row = conn.execute(query.encode()).fetchone()
    if row is None:
        raise AssertionError("a query without FROM gave no row")
    return row
