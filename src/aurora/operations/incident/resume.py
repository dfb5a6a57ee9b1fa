"""`incident resume-writes`: everything as it was, by the undo file, and proven.

Writes go on with the second statement: the fence's functions are told to refuse nobody.
Then the triggers go, table by table, the grants come back, and are compared with the undo
file byte for byte. It may be repeated, and finds nothing to do then.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from aurora import clock
from aurora.engines.logical.names import Connection, quoted
from aurora.errors import Incomplete, SourceUnsupported
from aurora.events import EventSink, Noted, PhaseBegun, PhaseEnded
from aurora.operations.incident import fence
from aurora.operations.incident.proof import attempts_let_through
from aurora.operations.incident.stop_plan import database_settings
from aurora.operations.incident.undo import TableBefore, UndoFile
from aurora.postgres.errors import translated
from aurora.postgres.server import ServerFacts, inspect_server, open_control
from aurora.units import plural

_LOCK_MS = 2000
_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """What takes the stop back. ``statements`` in their order, without those for order alone."""

    dsn: str = field(repr=False)
    undo: UndoFile
    event_trigger: str
    opening: tuple[str, ...]
    release: str
    triggers: tuple[str, ...]
    grants: tuple[tuple[TableBefore, tuple[str, ...]], ...]
    schema: str
    replaced: bool  # the database is another one than the undo file's
    keep_sessions: bool = False
    tries: int = 20

    def statements(self) -> list[str]:
        found = [*([self.event_trigger] if self.event_trigger else []), *self.opening]
        found += [self.release] if self.release else []
        found += self.triggers
        for _, statements in self.grants:
            found += statements
        return [*found, *([self.schema] if self.schema else [])]

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "database": self.undo.database,
            "stopped_at": self.undo.made_at,
            "statements": self.statements(),
            "replaced": self.replaced,
        }


@dataclass(slots=True)
class ResumeReport:
    """What was taken back, and how it compares."""

    resumed_at: str
    statements: int
    replaced: bool
    differences: list[str] = field(default_factory=list)
    probes: int = 0
    refused: list[str] = field(default_factory=list)
    recycled: int = 0  # idle sessions that had begun read-only

    @property
    def exact(self) -> bool:
        return not self.differences and not self.refused

    def document(self) -> dict[str, Any]:
        return {
            "resumed_at": self.resumed_at,
            "statements": self.statements,
            "database_replaced": self.replaced,
            "differences": self.differences,
            "probes": self.probes,
            "refused": self.refused,
            "recycled_sessions": self.recycled,
            "exact": self.exact,
        }


def plan_resume(dsn: str, undo: UndoFile, *, keep_sessions: bool = False) -> ResumePlan:
    """What is to be taken back still. Changes nothing. Raises SourceError."""
    with open_control(dsn) as conn, translated("source", doing="looking at the source"):
        facts = inspect_server(conn)
        _require_same(facts, undo)
        replaced = facts.database_oid != undo.database_oid
        there = fence.is_there(conn, "schema")
        event = fence.is_there(conn, "event trigger")
        triggers = sorted(fence.fenced_tables(conn).values()) if there else []
        now = {table.oid: table for table in fence.read_tables(conn)[0]}
        settings = database_settings(conn)
    release = ""
    if (f"{fence.READ_ONLY}=on" in settings) != (f"{fence.READ_ONLY}=on" in undo.settings):
        release = fence.release_statement(facts.database, undo.settings)
    grants = []
    for table in () if replaced else undo.tables:
        found = now.get(table.oid)
        if found is not None and not _same(table, found):
            statements = fence.regrant_statements(table, undo.revoke_from)
            grants.append((table, tuple(statements)))
    trigger = quoted(fence.TRIGGER)
    return ResumePlan(
        dsn, undo,
        f"DROP EVENT TRIGGER IF EXISTS {fence.EVENT_TRIGGER}" if event else "",
        tuple(fence.opening_statements()) if there else (),
        release,
        tuple(f"DROP TRIGGER IF EXISTS {trigger} ON {name}" for name in triggers),
        tuple(grants),
        f"DROP SCHEMA {fence.SCHEMA} CASCADE" if there else "",
        replaced, keep_sessions,
    )  # fmt: skip


def run_resume(plan: ResumePlan, *, sink: EventSink) -> ResumeReport:
    """Take the stop back, then compare and probe.

    Raises:
        Incomplete: writes go on, but something is not as it was; the report is in its context.
        SourceError: run it again.
    """
    phase = "resuming writes"
    sink(PhaseBegun(phase))
    report = ResumeReport("", len(plan.statements()), plan.replaced)
    with open_control(plan.dsn) as conn, translated("source", doing=phase):
        first = [plan.event_trigger, *plan.opening, plan.release]
        for statement in filter(None, first):
            conn.execute(statement.encode())
        report.resumed_at = clock.isoformat(clock.now())
        locked = [one for one in plan.triggers if not _locking(conn, one, plan.tries)]
        for table, statements in plan.grants:
            _give_back(conn, table, statements)
        if plan.schema and not locked:
            conn.execute(plan.schema.encode())
        if not plan.keep_sessions and plan.release:
            report.recycled = _recycle(conn, plan.undo.made_at)
        report.differences = [f"{one} waits for a lock: run it again" for one in locked]
        if not plan.replaced:
            report.differences += _differences(conn, plan.undo)
    sink(PhaseEnded(phase, f"{report.statements} statements"))
    if plan.replaced:
        sink(Noted("the database was replaced since: its grants come from the backup"))
    _probe(plan, report)
    if not report.exact:
        raise Incomplete(
            "writes go on, but not everything is as it was: "
            + "; ".join([*report.differences, *report.refused][:10]),
            hint="The undo file says how it was. Somebody may have changed grants meanwhile, "
            "which is left as it is.",
            context={"report": report},
        )
    return report


def _locking(conn: Connection, statement: str, tries: int) -> bool:
    """DROP TRIGGER takes a strong lock: wait for it in short turns, so that readers get by."""
    for attempt in range(tries):
        if attempt:
            time.sleep(_PAUSE)
        try:
            with conn.transaction():
                conn.execute(f"SET LOCAL lock_timeout = {_LOCK_MS}".encode())
                conn.execute(statement.encode())
            return True
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            continue
        except psycopg.errors.UndefinedTable:
            return True
    return False


def _give_back(conn: Connection, table: TableBefore, statements: Sequence[str]) -> None:
    """The grants, and their order in the catalog too."""
    with conn.transaction():
        for statement in statements:
            conn.execute(statement.encode())
        found = _acls(conn, [table]).get(table.oid)
        if found is None or _same(table, found) or not _same_set(table, found):
            return
        for statement in fence.reorder_statements(table):
            conn.execute(statement.encode())


def _acls(conn: Connection, tables: Sequence[TableBefore]) -> dict[int, TableBefore]:
    wanted = {table.oid for table in tables}
    return {one.oid: one for one in fence.read_tables(conn)[0] if one.oid in wanted}


def _same(one: TableBefore, other: TableBefore) -> bool:
    return (one.acl, one.columns) == (other.acl, other.columns)


def _same_set(one: TableBefore, other: TableBefore) -> bool:
    def parts(table: TableBefore) -> object:
        return sorted(table.acl or ()), {k: sorted(v) for k, v in table.columns.items()}

    return parts(one) == parts(other)


def _differences(conn: Connection, undo: UndoFile) -> list[str]:
    """What is not as the undo file says, byte for byte."""
    now = _acls(conn, undo.tables)
    found = []
    for table in undo.tables:
        other = now.get(table.oid)
        if other is not None and not _same(table, other):
            found.append(
                f"the grants of {fence.shown_table(table)} were {_told(table)} and are "
                f"{_told(other)}"
            )
    settings = database_settings(conn)
    if settings != undo.settings:
        found.append(f"the database's settings were {undo.settings} and are {settings}")
    return found


def _told(table: TableBefore) -> str:
    columns = "".join(f", {name}: {acl}" for name, acl in table.columns.items())
    return f"{table.acl if table.acl is not None else 'the default'}{columns}"


def _recycle(conn: Connection, since: str) -> int:
    """End idle sessions that began read-only: pools connect again, and may write then."""
    rows = conn.execute(
        "SELECT pid FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database()"
        " AND pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend'"
        " AND state = 'idle' AND backend_start >= %s::timestamptz"
        " AND NOT (usename = current_user AND application_name ~ '^aurora')",
        (since,),
    ).fetchall()
    ended = 0
    for (pid,) in rows:
        try:
            conn.execute("SELECT pg_catalog.pg_terminate_backend(%s)", (pid,))
            ended += 1
        except psycopg.errors.InsufficientPrivilege:
            continue
    return ended


def _probe(plan: ResumePlan, report: ResumeReport) -> None:
    if plan.replaced:
        return
    with open_control(plan.dsn) as conn:
        _, owned = fence.read_tables(conn)
    attempts = attempts_let_through(plan.dsn, plan.undo.tables, owned)
    report.probes = len(attempts)
    report.refused = [
        f"{one.role or 'the connected role'} is still refused on {one.table}: {one.message}"
        for one in attempts
        if one.sqlstate == "25006" or (one.sqlstate == "42501" and one.role and _had(plan, one))
    ]


def _had(plan: ResumePlan, attempt: Any) -> bool:
    """Whether the role was let through before: its right to the schema may always have lacked."""
    return (
        any(
            fence.shown_table(table) == attempt.table
            and any(grant.grantee == attempt.role for grant in fence.parse_acl(table.acl or ()))
            for table in plan.undo.tables
        )
        and "schema" not in attempt.message
    )


def _require_same(facts: ServerFacts, undo: UndoFile) -> None:
    identifier = str(facts.system_identifier or "")
    other_server = undo.system_identifier and identifier and identifier != undo.system_identifier
    if other_server or facts.database != undo.database:
        raise SourceUnsupported(
            f"the undo file is of the database {undo.database} of {undo.server}, and this is "
            f"{facts.database} of another server" if other_server else
            f"the undo file is of the database {undo.database}, and this is {facts.database}",
            hint="Nothing was changed. Point the source at that database, or take away by hand "
            "what docs/incident.md names.",
        )  # fmt: skip


def told(report: ResumeReport) -> list[str]:
    """Lines for a person."""
    lines = []
    if report.recycled:
        lines.append(
            f"{plural(report.recycled, 'idle session')} that had begun read-only ended; pools "
            "connect again"
        )
    lines.append(
        f"writes go on since {report.resumed_at}: grants and settings are as they were, "
        f"byte for byte; {plural(report.probes, 'probe')} let through and rolled back"
        if not report.replaced
        else f"writes go on since {report.resumed_at}: the database was replaced, and has no fence"
    )
    return lines
