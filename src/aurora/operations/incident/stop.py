"""`incident stop-writes`: nobody writes to the source any more, and that is proven.

In this order: the undo file, written and synced off the server before anything is changed;
the brake (new sessions are read-only by default, which well-behaved clients report
kindly); the fence; the end of sessions that still hold uncommitted writes; the proof. Every
step may be repeated: a run that died is simply run again, and goes by the undo file that
the first one wrote.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from aurora import clock
from aurora.engines.logical.names import Connection
from aurora.errors import Incomplete
from aurora.events import EventSink, Noted, PhaseBegun, PhaseEnded, Warned
from aurora.operations.incident import fence
from aurora.operations.incident.proof import Proof, prove
from aurora.operations.incident.record import write_durably
from aurora.operations.incident.sessions import (
    end_sessions,
    wait_for_writers,
)
from aurora.operations.incident.stop_plan import StopPlan
from aurora.operations.incident.undo import UNDO, Sign, write_undo
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control

_PAUSE = 0.5


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
    write_durably(directory / fence.WAY_IN, f"{plan.token}\n".encode())
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
