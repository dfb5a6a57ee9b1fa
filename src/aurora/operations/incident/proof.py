"""Proof that nobody writes: attempts as each role, and a change stream that stays silent.

An attempt is a statement that touches no row (``DELETE … WHERE false``), in a transaction
opened READ WRITE as PostgREST opens them, after SET LOCAL ROLE, and rolled back: the
server's answer is what an application would get.
"""

import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from aurora.engines.logical import pgoutput
from aurora.engines.logical.names import Connection, literal, quoted, shown
from aurora.errors import SourceError
from aurora.events import EventSink, PhaseBegun, PhaseEnded
from aurora.operations.incident.undo import TableBefore
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.units import format_duration

REFUSED = ("25006", "42501")  # read-only, no privilege
_TABLES_A_ROLE = 25
_SLOT_TIMEOUT_MS = 10_000
_POLL = 0.2


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to write."""

    role: str  # "" as the connected role
    table: str
    statement: str
    sqlstate: str  # "" where it was let through
    message: str = ""

    @property
    def refused(self) -> bool:
        return self.sqlstate in REFUSED


@dataclass(slots=True)
class Proof:
    """What the attempts and the stream showed."""

    attempts: list[Attempt] = field(default_factory=list)
    not_tried: list[str] = field(default_factory=list)  # roles that could not be taken on
    stream: str = ""  # how it was watched, or why not
    seconds: float = 0.0
    changes: int = 0  # rows changed in the stream meanwhile
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "refused": sum(one.refused for one in self.attempts)}


def prove(
    dsn: str,
    tables: Sequence[TableBefore],
    roles: Sequence[str],
    *,
    owned: Collection[int],
    by_revoke: Collection[int],
    publications: Sequence[str],
    seconds: float,
    sink: EventSink,
) -> Proof:
    """Try to write as each role, and watch the stream for *seconds*.

    Args:
        roles: those that must be refused; none: everybody.
        owned: tables that were to be closed; others are not covered, and not tried.
        by_revoke: tables whose owner can still write.
    """
    proof = Proof()
    phase = "proving that writes are refused"
    sink(PhaseBegun(phase))
    covered = [table for table in tables if table.oid in owned]
    with open_control(dsn) as conn, translated("source", doing=phase):
        _try_all(conn, covered, roles, by_revoke, proof)
    sink(PhaseEnded(phase, f"{len(proof.attempts)} attempts"))
    for one in proof.attempts:
        if not one.refused:
            who = one.role or "the connected role"
            what = one.message or "it was let through"
            proof.problems.append(f"{who} on {one.table}: {what}")
    if seconds > 0:
        _watch(dsn, publications, seconds, proof, sink)
    return proof


def attempts_let_through(
    dsn: str, tables: Sequence[TableBefore], owned: Collection[int]
) -> list[Attempt]:
    """The same attempts when writes have been resumed: those that are still refused."""
    proof = Proof()
    covered = [table for table in tables if table.oid in owned]
    with open_control(dsn) as conn, translated("source", doing="proving that writes work"):
        _try_all(conn, covered, (), (), proof)
    return proof.attempts


def _try_all(
    conn: Connection,
    tables: Sequence[TableBefore],
    roles: Sequence[str],
    by_revoke: Collection[int],
    proof: Proof,
) -> None:
    there = {int(str(oid)) for (oid,) in conn.execute(b"SELECT oid::bigint FROM pg_class")}
    tables = [table for table in tables if table.oid in there]
    if not roles:
        with _transaction(conn, ""):
            for table in tables:
                if table.oid not in by_revoke:
                    proof.attempts.append(_attempt(conn, "", table))
    writers = sorted({role for table in tables for role in table.writers})
    for role in [one for one in writers if not roles or one in roles]:
        mine = [
            table for table in tables
            if role in table.writers and not (table.oid in by_revoke and role == table.owner)
        ][:_TABLES_A_ROLE]  # fmt: skip
        superuser = _is_superuser(conn, role)
        mine = [table for table in mine if not (superuser and table.oid in by_revoke)]
        if not mine:
            continue
        try:
            with _transaction(conn, role):
                proof.attempts += [_attempt(conn, role, table) for table in mine]
        except psycopg.errors.InsufficientPrivilege:
            proof.not_tried.append(role)


def _is_superuser(conn: Connection, role: str) -> bool:
    row = conn.execute("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = %s", (role,))
    found = row.fetchone()
    return bool(found and found[0])


class _transaction:  # noqa: N801 - used as a function
    """READ WRITE, as *role*, rolled back whatever happens."""

    def __init__(self, conn: Connection, role: str) -> None:
        self._conn, self._role = conn, role

    def __enter__(self) -> None:
        self._conn.execute(b"BEGIN READ WRITE")
        try:
            self._conn.execute(b"SET LOCAL lock_timeout = '2s'")
            if self._role:
                self._conn.execute(f"SET LOCAL ROLE {quoted(self._role)}".encode())
        except BaseException:
            self._conn.execute(b"ROLLBACK")
            raise

    def __exit__(self, *_: object) -> None:
        self._conn.execute(b"ROLLBACK")


def _attempt(conn: Connection, role: str, table: TableBefore) -> Attempt:
    """The first statement that the role had a right to, touching no row."""
    name = quoted(table.schema, table.name)
    last = Attempt(role, shown(table.schema, table.name), "", "42501")
    for statement in _statements(conn, name, table):
        conn.execute(b"SAVEPOINT attempt")
        state, message = "", ""
        try:
            conn.execute(statement.encode())
        except psycopg.Error as error:
            state, message = error.sqlstate or "?", str(error.diag.message_primary or "")
        conn.execute(b"ROLLBACK TO SAVEPOINT attempt")
        last = Attempt(role, shown(table.schema, table.name), statement, state, message)
        if state != "42501":  # another kind of write may still be granted
            return last
    return last


def _statements(conn: Connection, name: str, table: TableBefore) -> Iterator[str]:
    yield f"DELETE FROM {name} WHERE false"
    yield f"INSERT INTO {name} SELECT WHERE false"
    rows = conn.execute(
        "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attnum > 0"
        " AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        (table.oid,),
    ).fetchall()
    for (column,) in rows:
        yield f"UPDATE {name} SET {quoted(str(column))} = DEFAULT WHERE false"


def _watch(
    dsn: str, publications: Sequence[str], seconds: float, proof: Proof, sink: EventSink
) -> None:
    """Count changes of rows in a stream of its own, which ends with the session."""
    phase = f"watching the change stream for {format_duration(seconds)}"
    sink(PhaseBegun(phase))
    try:
        with open_control(dsn) as conn:
            proof.changes, proof.stream = _changes(conn, publications, seconds)
    except SourceError as error:
        proof.stream = f"not watched: {error.message}"
    proof.seconds = seconds
    sink(PhaseEnded(phase, proof.stream))
    if proof.changes:
        proof.problems.append(
            f"{proof.changes} changes of rows came through the change stream in "
            f"{format_duration(seconds)}"
        )


def _changes(conn: Connection, publications: Sequence[str], seconds: float) -> tuple[int, str]:
    there = conn.execute(
        "SELECT count(*) FROM pg_catalog.pg_publication WHERE pubname = ANY (%s)",
        (list(publications),),
    ).fetchone()
    if not publications or not there or int(str(there[0])) < len(publications):
        return 0, "not watched: the source has no change log (aurora source prepare)"
    name = f"aurora_proof_{secrets.token_hex(4)}"
    try:
        # Making a slot waits for open transactions.
        conn.execute(f"SET statement_timeout = {_SLOT_TIMEOUT_MS}".encode())
        conn.execute(
            "SELECT pg_catalog.pg_create_logical_replication_slot(%s, 'pgoutput', true)", (name,)
        )
    except psycopg.Error as error:
        return 0, f"not watched: no slot for it: {error.diag.message_primary}"
    finally:
        conn.execute(b"SET statement_timeout = 0")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(_POLL, max(deadline - time.monotonic(), 0)))
    names = ",".join(quoted(one) for one in publications)
    rows = conn.execute(
        "SELECT get_byte(data, 0) FROM pg_catalog.pg_logical_slot_get_binary_changes("
        f"{literal(name)}, NULL, NULL, 'proto_version', '1', 'publication_names', "
        f"{literal(names)})".encode()
    ).fetchall()
    kinds = (*pgoutput.ROW_KINDS, pgoutput.TRUNCATE)
    found = sum(1 for (kind,) in rows if kind in kinds)
    return found, f"{found} changes of rows in {format_duration(seconds)}"
