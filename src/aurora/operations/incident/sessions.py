"""The sessions of a database: who writes, waiting for them, ending them."""

import time
from collections.abc import Sequence

import psycopg

from aurora.engines.logical.names import Connection
from aurora.operations.incident.undo import Session

# A transaction that has written holds a lock on its own number; that is shown to everybody,
# where pg_stat_activity hides other roles' columns.
_SESSIONS = """
SELECT a.pid, COALESCE(a.usename::text, ''), COALESCE(a.application_name, ''),
       COALESCE(host(a.client_addr), 'local'), COALESCE(a.state, 'hidden'),
       COALESCE(a.xact_start::text, ''),
       EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND l.granted
               AND l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock')
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
  AND a.backend_type = 'client backend'
  AND NOT (a.usename = current_user AND a.application_name ~ '^aurora')
ORDER BY a.pid
"""
_POLL = 0.1


def read_sessions(conn: Connection) -> list[Session]:
    """Everybody's but Aurora's own."""
    return [
        Session(int(str(pid)), str(role), str(application), str(address), str(state), str(since),
                bool(writes))
        for pid, role, application, address, state, since, writes
        in conn.execute(_SESSIONS.encode()).fetchall()
    ]  # fmt: skip


def open_writers(conn: Connection, roles: Sequence[str]) -> list[Session]:
    """Those whose open transaction has written, of *roles* or of all."""
    return [one for one in read_sessions(conn) if one.writes and (not roles or one.role in roles)]


def wait_for_writers(conn: Connection, roles: Sequence[str], seconds: float) -> list[Session]:
    """Wait until none writes any more; those that still do after *seconds*."""
    deadline = time.monotonic() + seconds
    while (left := open_writers(conn, roles)) and time.monotonic() < deadline:
        time.sleep(_POLL)
    return left


def end_sessions(
    conn: Connection, sessions: Sequence[Session]
) -> tuple[list[Session], list[tuple[Session, str]]]:
    """End each, if it is still the same one; those that were ended, and those refused."""
    ended, refused = [], []
    for one in sessions:
        try:
            row = conn.execute(
                "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
                " WHERE pid = %s AND COALESCE(usename::text, '') = %s"
                " AND COALESCE(xact_start::text, '') = %s",
                (one.pid, one.role, one.since),
            ).fetchone()
        except psycopg.errors.InsufficientPrivilege as error:
            refused.append((one, str(error.diag.message_primary)))
            continue
        if row and row[0]:
            ended.append(one)
    return ended, refused
