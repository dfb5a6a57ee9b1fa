"""`incident stop-writes`: nobody writes to the source any more, and that is proven.

In this order: the undo file, written and synced off the server before anything is changed;
the brake (new sessions are read-only by default, which well-behaved clients report
kindly); the fence; the end of sessions that still hold uncommitted writes; the proof. Every
step may be repeated: a run that died is simply run again, and goes by the undo file that
the first one wrote.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from aurora import clock
from aurora.engines.logical.names import Connection
from aurora.errors import Incomplete, SourceUnsupported, UsageError
from aurora.events import EventSink, Noted, PhaseBegun, PhaseEnded, Warned
from aurora.operations.incident import fence
from aurora.operations.incident.proof import Proof, prove
from aurora.operations.incident.record import write_durably
from aurora.operations.incident.sessions import (
    end_sessions,
    read_sessions,
    wait_for_writers,
)
from aurora.operations.incident.undo import Sign, TableBefore, UndoFile, read_undo, write_undo
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import ServerFacts, inspect_server, open_control, require_usable
from aurora.units import plural

UNDO, WAY_IN = "undo.json", "way-in"
_PAUSE = 0.5


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


@dataclass(slots=True)
class StopReport:
    """What was done, and what the proof found."""

    stopped_at: str
    brake: bool
    fenced: list[str]
    revoked: list[str]
    failed: dict[str, str]  # table -> why writing was not taken away
    ended: list[dict[str, Any]]
    uncovered: list[str]
    proof: Proof

    @property
    def proven(self) -> bool:
        return not self.failed and self.proof.passed

    def document(self) -> dict[str, Any]:
        return {
            "stopped_at": self.stopped_at,
            "brake": self.brake,
            "fenced": self.fenced,
            "revoked": self.revoked,
            "failed": self.failed,
            "ended_sessions": self.ended,
            "uncovered": self.uncovered,
            "proven": self.proven,
            "proof": self.proof.document(),
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


def run_stop(
    plan: StopPlan,
    directory: Path,
    *,
    sign: Sign | None,
    keep_copy: Callable[[Path], None] = lambda _: None,
    sink: EventSink,
) -> StopReport:
    """Do what the plan says, and prove it.

    Args:
        keep_copy: gets the path of the undo file before anything is changed.

    Raises:
        Incomplete: not all writes are stopped; the report, in its context, says which are not.
            What was done stays, and ``resume-writes`` takes it back.
        SourceError: likewise; run it again, or ``resume-writes``.
    """
    path = directory / UNDO
    if not plan.goes_on:
        write_undo(path, plan.undo, sign)
    keep_copy(path)
    write_durably(directory / WAY_IN, f"{plan.token}\n".encode())
    sink(Noted(f"how everything was is written to {path}"))
    stopped_at = clock.isoformat(clock.now())
    with open_control(plan.dsn) as conn, translated("source", doing="stopping writes"):
        conn.execute("SELECT pg_catalog.set_config(%s, %s, false)", (fence.PASS, plan.token))
        if plan.brake:
            conn.execute(plan.brake.encode())
        for statement in plan.setup:
            conn.execute(statement.encode())
        # Once, then again where somebody's open writes were in the way: those end in between.
        done = _raise_fence(conn, plan, 1, sink)
        ended = _end_writers(conn, plan, sink)
        if done.failed:
            tries = plan.options.tries
            done = _raise_fence(conn, plan, tries, sink, fall_back=not plan.by_revoke)
        if plan.event_trigger and not fence.is_there(conn, "event trigger"):
            _make_event_trigger(conn, plan, done, sink)
        if plan.setup:
            _fence_newcomers(conn, plan, done)
        # Between the first look and the last lock somebody may have begun to write again.
        ended += _end_writers(conn, plan, sink)
    proof = prove(
        plan.dsn, plan.undo.tables, plan.options.roles, owned=plan.owned,
        by_revoke=frozenset(done.revoked_oids), publications=plan.options.publications,
        seconds=plan.options.watch, sink=sink,
    )  # fmt: skip
    report = StopReport(
        stopped_at, bool(plan.brake), done.fenced, done.revoked, done.failed, ended,
        [*plan.uncovered, *done.uncovered], proof,
    )  # fmt: skip
    if not report.proven:
        raise Incomplete(
            "writes are not stopped everywhere: " + _why(report),
            hint="What was done stays. Look at the list, then run it again; `aurora incident "
            "resume-writes` takes everything back.",
            context={"report": report},
        )
    return report


@dataclass(slots=True)
class _Done:
    fenced: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    revoked_oids: set[int] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    uncovered: list[str] = field(default_factory=list)


def _raise_fence(
    conn: Connection, plan: StopPlan, tries: int, sink: EventSink, *, fall_back: bool = False
) -> _Done:
    """One transaction a table, so that none waits for another's lock."""
    done = _Done()
    there = fence.fenced_tables(conn)
    phase = "raising the fence"
    sink(PhaseBegun(phase, len(plan.tables), "tables"))
    for table, statements in plan.tables:
        name = fence.shown_table(table)
        if table.oid in there:
            done.fenced.append(name)
            continue
        reason = _in_transaction(conn, statements, tries, plan.options.lock_timeout)
        if not reason:
            (done.revoked if plan.by_revoke else done.fenced).append(name)
            if plan.by_revoke:
                done.revoked_oids.add(table.oid)
        elif fall_back and not _in_transaction(conn, fence.revoke_statements(table, ()), 1, 2.0):
            done.revoked.append(name)
            done.revoked_oids.add(table.oid)
            done.uncovered.append(
                f"{name} could not be locked ({reason}): writing was revoked from all roles but "
                f"its owner {table.owner}, who can still write it"
            )
        else:
            done.failed[name] = reason
    sink(PhaseEnded(phase, f"{len(done.fenced) + len(done.revoked)} of {len(plan.tables)} tables"))
    return done


def _in_transaction(
    conn: Connection, statements: Sequence[str], tries: int, lock_timeout: float
) -> str:
    """Run *statements* as one; "" or why they failed."""
    reason = ""
    for attempt in range(max(tries, 1)):
        if attempt:
            time.sleep(_PAUSE)
        try:
            with conn.transaction():
                conn.execute(f"SET LOCAL lock_timeout = {round(lock_timeout * 1000)}".encode())
                for statement in statements:
                    conn.execute(statement.encode())
            return ""
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            reason = "somebody holds it locked"
        except psycopg.errors.UndefinedTable:
            return ""  # dropped meanwhile
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.DependentObjectsStillExist,
                psycopg.errors.WrongObjectType) as error:  # fmt: skip
            return str(error.diag.message_primary)
    return reason


def _fence_newcomers(conn: Connection, plan: StopPlan, done: _Done) -> None:
    """Tables that were made since the plan."""
    known = {table.oid for table, _ in plan.tables}
    there = fence.fenced_tables(conn)
    tables, owned = fence.read_tables(conn)
    for table in tables:
        if table.oid in owned - known and table.oid not in there:
            options, name = plan.options, fence.shown_table(table)
            statements = fence.trigger_statements(table)
            reason = _in_transaction(conn, statements, options.tries, options.lock_timeout)
            if reason:
                done.failed[name] = reason
            else:
                done.fenced.append(name)


def _make_event_trigger(conn: Connection, plan: StopPlan, done: _Done, sink: EventSink) -> None:
    options = plan.options
    reason = _in_transaction(conn, plan.event_trigger, options.tries, options.lock_timeout)
    if reason:
        done.uncovered.append(f"DDL is not refused: {reason}")
        sink(Warned("ddl-not-refused", f"DDL is not refused: {reason}"))


def _end_writers(conn: Connection, plan: StopPlan, sink: EventSink) -> list[dict[str, Any]]:
    """Let open transactions that write end by themselves; end the sessions of those that do not."""
    roles = plan.options.roles
    waiting = wait_for_writers(conn, roles, plan.options.grace)
    if not waiting:
        return []
    for one in waiting:
        sink(
            Noted(
                f"ending the session of {one.role} ({one.application or 'no name'}, pid "
                f"{one.pid}): its open transaction has written, and is rolled back"
            )
        )
    ended, refused = end_sessions(conn, waiting)
    for one, why in refused:
        sink(Warned("session-not-ended", f"pid {one.pid} of {one.role} goes on: {why}"))
    left = wait_for_writers(conn, roles, plan.options.grace)
    for one in left:
        sink(Warned("still-writing", f"pid {one.pid} of {one.role} still holds open writes"))
    return [msgspec.to_builtins(one) for one in ended]


def _why(report: StopReport) -> str:
    parts = [f"{name} ({why})" for name, why in list(report.failed.items())[:10]]
    return "; ".join([*parts, *report.proof.problems[:10]])


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
    path = directory / WAY_IN
    return path.read_text().strip() if path.exists() else secrets.token_hex(24)


def way_in(dsn: str, directory: Path) -> str:
    """*dsn* with what lets its sessions through the fence; as it is where there is no fence."""
    path = directory / WAY_IN
    if not path.exists():
        return dsn
    info = ConnInfo.parse(dsn)
    options = f"{info.options.get('options', '')} -c {fence.PASS}={path.read_text().strip()}"
    return info.with_options(options=options.strip()).dsn()


def _may_fence_ddl(facts: ServerFacts) -> bool:
    """Event triggers are a superuser's, and of ``postgres`` on Supabase by its supautils."""
    return facts.role.superuser or (facts.is_supabase and facts.role.name == "postgres")
