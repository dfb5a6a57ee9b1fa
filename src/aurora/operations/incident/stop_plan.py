"""Stopping the writes: how everything stands, and what would be done. Changes nothing."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from aurora import clock
from aurora.engines.logical.names import Connection
from aurora.errors import SourceUnsupported, UsageError
from aurora.operations.incident import fence
from aurora.operations.incident.sessions import (
    read_sessions,
)
from aurora.operations.incident.undo import UNDO, Sign, TableBefore, UndoFile, read_undo
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import ServerFacts, inspect_server, open_control, require_usable
from aurora.units import plural


@dataclass(frozen=True, slots=True)
class StopOptions:
    """How to stop writes. Durations in seconds."""

    roles: tuple[str, ...] = ()  # revoke from these alone; none: fence off everybody
    grace: float = 5.0  # for open transactions that write to end by themselves
    tries: int = 5  # to lock a table
    lock_timeout: float = 2.0  # of each: meanwhile other clients of the table wait too
    watch: float = 5.0  # how long the change stream must be silent
    publications: tuple[str, ...] = ()  # of the change log, where there is one


@dataclass(frozen=True, slots=True)
class StopPlan:
    """What stopping writes would do. ``undo`` is what is written first."""

    dsn: str = field(repr=False)
    undo: UndoFile
    options: StopOptions
    owned: frozenset[int]
    setup: tuple[str, ...]
    brake: str  # "" where the role may not set it
    tables: tuple[tuple[TableBefore, tuple[str, ...]], ...]
    event_trigger: tuple[str, ...]
    uncovered: tuple[str, ...]
    token: str = field(repr=False)  # what lets Aurora itself through
    goes_on: bool = False  # a run before this one has begun

    @property
    def by_revoke(self) -> bool:
        return bool(self.options.roles) or not self.setup

    def statements(self) -> list[str]:
        """All of them in order, as they would be run."""
        found = [self.brake] if self.brake else []
        found += self.setup
        for _, statements in self.tables:
            found += statements
        return [*found, *self.event_trigger]

    def facts(self) -> list[tuple[str, str]]:
        """Lines for a person."""
        writing = [one for one in self.undo.sessions if one.writes]
        how = "revoked from " + (", ".join(self.options.roles) or "every role but the owners")
        if not self.by_revoke:
            how = "a fence on every table: nobody writes, whatever the role"
        lines = [
            ("database", self.undo.server),
            ("how", how),
            ("tables", f"{len(self.tables)} of {len(self.undo.tables)}"),
            ("DDL", "refused" if self.event_trigger else "not refused: see below"),
            ("sessions", f"{len(self.undo.sessions)}, {len(writing)} of them writing now"),
        ]
        lines += [
            ("may be ended", f"{one.role} {one.application or '-'} {one.address} (pid {one.pid})")
            for one in writing
        ]
        lines += [("not covered", text) for text in self.uncovered]
        if self.goes_on:
            lines.append(("goes on", f"with the undo file of {self.undo.made_at}"))
        return lines

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "server": self.undo.server,
            "database": self.undo.database,
            "lsn": self.undo.lsn,
            "statements": self.statements(),
            "sessions": msgspec.to_builtins(self.undo.sessions),
            "uncovered": list(self.uncovered),
            "goes_on": self.goes_on,
        }


def plan_stop(
    dsn: str,
    incident: str,
    directory: Path,
    options: StopOptions,
    *,
    by: str,
    sign: Sign | None,
) -> StopPlan:
    """Look at the source; what stopping its writes takes. Changes nothing.

    Raises SourceError; ObjectDamaged, UsageError where an undo file is there and is not right.
    """
    with open_control(dsn) as conn, translated("source", doing="looking at the source"):
        facts = inspect_server(conn)
        require_usable(facts)
        undo, goes_on = _undo(conn, facts, incident, directory, options, by, sign, dsn)
        tables, owned = fence.read_tables(conn)
        options = replace(options, roles=tuple(undo.revoke_from))
        _require_roles(conn, options.roles)
        sets_database = _owns_database(conn)
        makes_schema = fence.is_there(conn, "schema") or _may_create(conn)
        uncovered = _uncovered(conn, facts, tables, owned, options, by_trigger=makes_schema)
    token = _token(directory)
    setup: list[str] = []
    if makes_schema and not options.roles:
        setup = fence.setup_statements(incident, token, undo.made_at)
    event_trigger = (
        fence.event_trigger_statements()
        if setup and undo.event_triggers and not options.roles
        else []
    )
    if not sets_database:
        uncovered.append(f"the role {facts.role.name} does not own the database: no brake")
    recorded = {table.oid: table for table in undo.tables}
    known = [recorded.get(table.oid, table) for table in tables if table.oid in owned]
    statements = [
        (table, tuple(fence.trigger_statements(table) if setup else
                      fence.revoke_statements(table, options.roles)))
        for table in known if setup or table.oid in recorded
    ]  # fmt: skip
    return StopPlan(
        dsn, undo, options, frozenset(owned), tuple(setup),
        fence.brake_statement(facts.database) if sets_database and not options.roles else "",
        tuple(statements), tuple(event_trigger), tuple(uncovered), token, goes_on,
    )  # fmt: skip


def _undo(
    conn: Connection,
    facts: ServerFacts,
    incident: str,
    directory: Path,
    options: StopOptions,
    by: str,
    sign: Sign | None,
    dsn: str,
) -> tuple[UndoFile, bool]:
    """What a run before this one wrote, or how everything stands now."""
    path = directory / UNDO
    if path.exists():
        undo = read_undo(path, sign, accept_unsigned=sign is None)
        if (undo.database, undo.database_oid) != (facts.database, facts.database_oid):
            raise UsageError(
                f"the undo file of this incident is of the database {undo.database}, oid "
                f"{undo.database_oid}",
                hint="The source was replaced since. Run `aurora incident resume-writes` first.",
            )
        return undo, True
    if fence.is_there(conn, "schema"):
        raise SourceUnsupported(
            "writes to this database are stopped already, by another incident",
            hint="`aurora incident list` shows it. `aurora incident resume-writes` with its undo "
            "file takes the fence away. Nothing was changed.",
        )
    tables, _ = fence.read_tables(conn)
    return (
        UndoFile(
            incident=incident,
            made_at=clock.isoformat(clock.now().replace(microsecond=0)),
            made_by=by,
            server=ConnInfo.parse(dsn).redacted(),
            system_identifier=str(facts.system_identifier or ""),
            database=facts.database,
            database_oid=facts.database_oid,
            lsn=str(_one(conn, "SELECT pg_catalog.pg_current_wal_flush_lsn()")),
            roles=_roles(conn),
            settings=database_settings(conn),
            role_settings=_json(conn, _ROLE_SETTINGS),
            default_acl=_json(conn, _DEFAULT_ACL),
            tables=tables,
            sessions=read_sessions(conn),
            revoke_from=list(options.roles),
            event_triggers=_may_fence_ddl(facts),
        ),
        False,
    )


_ROLE_SETTINGS = """
SELECT json_build_object('role', r.rolname, 'settings', s.setconfig::text[])
FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
WHERE s.setrole <> 0 AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database
      WHERE datname = pg_catalog.current_database())) ORDER BY r.rolname
"""


_DEFAULT_ACL = """
SELECT json_build_object('role', pg_catalog.pg_get_userbyid(defaclrole), 'schema', n.nspname,
       'objects', defaclobjtype::text, 'acl', defaclacl::text[])
FROM pg_catalog.pg_default_acl d LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
ORDER BY 1::text
"""


_ROLES = """
SELECT json_build_object('name', rolname, 'superuser', rolsuper, 'login', rolcanlogin,
       'bypassrls', rolbypassrls, 'replication', rolreplication)
FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_' ORDER BY rolname
"""


def database_settings(conn: Connection) -> list[str]:
    """The database's own settings, in their order."""
    row = conn.execute(
        b"SELECT s.setconfig::text[] FROM pg_catalog.pg_db_role_setting s"
        b" JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase"
        b" WHERE s.setrole = 0 AND d.datname = pg_catalog.current_database()"
    ).fetchone()
    return [str(one) for one in row[0]] if row and isinstance(row[0], list) else []


def _roles(conn: Connection) -> list[dict[str, Any]]:
    return _json(conn, _ROLES)


def _json(conn: Connection, query: str) -> list[dict[str, Any]]:
    found = [row[0] for row in conn.execute(query.encode()).fetchall()]
    return [one for one in found if isinstance(one, dict)]


def _one(conn: Connection, query: str, *values: object) -> object:
    row = conn.execute(query.encode(), values or None).fetchone()
    return row[0] if row else None


def _owns_database(conn: Connection) -> bool:
    return bool(
        _one(conn, "SELECT pg_catalog.pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database"
                   " WHERE datname = pg_catalog.current_database()")
    )  # fmt: skip


def _may_create(conn: Connection) -> bool:
    return bool(
        _one(conn, "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(),"
                   " 'CREATE')")
    )  # fmt: skip


def _require_roles(conn: Connection, roles: Sequence[str]) -> None:
    there = {str(name) for (name,) in conn.execute(b"SELECT rolname FROM pg_catalog.pg_roles")}
    unknown = [name for name in roles if name not in there]
    if unknown:
        raise UsageError(f"the source has no role {unknown[0]}", hint="Nothing was changed.")


def _uncovered(
    conn: Connection,
    facts: ServerFacts,
    tables: Sequence[TableBefore],
    owned: set[int],
    options: StopOptions,
    *,
    by_trigger: bool,
) -> list[str]:
    """What goes on being written whatever is done here, in words."""
    found: list[str] = []
    others: dict[str, list[str]] = {}
    for table in tables:
        if table.oid not in owned:
            others.setdefault(table.owner, []).append(fence.shown_table(table))
    found += [
        f"{plural(len(names), 'table')} of {owner}: {', '.join(names[:8])}"
        + (" …" if len(names) > 8 else "")
        for owner, names in sorted(others.items())
    ]
    if options.roles or not by_trigger:
        supers = [one["name"] for one in _roles(conn) if one["superuser"]]
        found.append(f"superusers ({', '.join(supers)}) and the owners of the tables")
        found.append("functions that run with their owner's rights (SECURITY DEFINER)")
        if options.roles:
            found.append(f"roles other than {', '.join(options.roles)}")
    elif not _may_fence_ddl(facts):
        found.append("DDL (DROP, ALTER): only a superuser may make the event trigger")
    if by_trigger and not options.roles:
        found.append("superusers and owners who drop the fence on purpose")
    for what, query in _LOOKS.items():
        count = int(str(_one(conn, query) or 0))
        if count:
            found.append(what.format(count))
    found.append("values drawn from sequences (harmless: a gap in the numbers)")
    return found


_LOOKS = {
    "{} prepared transactions, which somebody may still commit": "SELECT count(*) FROM"
    " pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()",
    "{} foreign tables: their rows lie on other servers": "SELECT count(*) FROM"
    " pg_catalog.pg_class WHERE relkind = 'f'",
    "{} large objects": "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata",
    "{} subscriptions, whose rows arrive from other servers": "SELECT count(*) FROM"
    " pg_catalog.pg_stat_subscription WHERE pid IS NOT NULL",
}


def _token(directory: Path) -> str:
    """What a run before this one made, or a new one."""
    path = directory / fence.WAY_IN
    return path.read_text().strip() if path.exists() else secrets.token_hex(24)


def _may_fence_ddl(facts: ServerFacts) -> bool:
    """Event triggers are a superuser's, and of ``postgres`` on Supabase by its supautils."""
    return facts.role.superuser or (facts.is_supabase and facts.role.name == "postgres")
