"""One stream a source, and how a backup beside it asks it to store what it has.

The lock is an advisory one on the source itself, so it holds over machines and ends with
its session. A mark in the log asks: the stream stores everything before it at once, and
the slot's acknowledged position says when that is done.
"""

import hashlib
import time

from aurora import clock
from aurora.engines.logical import slot as slots
from aurora.engines.logical.names import Connection
from aurora.engines.logical.pgoutput import format_lsn
from aurora.engines.logical.receiver import CUT_MARK
from aurora.engines.logical.slot import LogNames
from aurora.errors import RepositoryLocked, SourceUnreachable
from aurora.events import EventSink, Noted
from aurora.postgres.errors import translated

_PATIENCE_SECONDS = 120.0  # while nothing at all is stored
_POLL_SECONDS = 0.05
_HIGH = 0x4155524F  # "AURO": the first half of the lock's key


class StreamRunning(RepositoryLocked):
    """Another `aurora stream` reads this source."""

    code = "stream-running"


def _low(names: LogNames) -> int:
    digest = hashlib.blake2b(names.slot.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big", signed=True)


def lock_stream(conn: Connection, names: LogNames, *, patience: float) -> None:
    """Hold the stream's lock as long as *conn* lives. Raises StreamRunning, SourceError."""
    end = time.monotonic() + patience
    while True:
        with translated("source", doing="looking for another stream"):
            row = conn.execute(
                "SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", (_HIGH, _low(names))
            ).fetchone()
        if row is not None and row[0]:
            return
        if time.monotonic() > end:
            raise StreamRunning(
                f"another stream reads the slot {names.slot}: {_who(conn, names)}",
                hint="One stream a source is enough. Stop that one first, if it is not wanted.",
            )
        time.sleep(0.2)


def stream_runs(conn: Connection, names: LogNames) -> int:
    """The process of the stream on this source, 0 where none runs."""
    row = conn.execute(
        "SELECT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.granted"
        " AND l.database = (SELECT oid FROM pg_catalog.pg_database"
        "                   WHERE datname = pg_catalog.current_database())"
        " AND l.classid::bigint = %s AND l.objid::bigint = %s AND l.objsubid = 2"
        " AND l.pid <> pg_catalog.pg_backend_pid()",
        (_HIGH, _low(names) & 0xFFFFFFFF),
    ).fetchone()
    return int(str(row[0])) if row else 0


def _who(conn: Connection, names: LogNames) -> str:
    pid = stream_runs(conn, names)
    row = conn.execute(
        "SELECT COALESCE(client_addr::text, 'this machine'), date_trunc('second', backend_start)"
        "::text FROM pg_catalog.pg_stat_activity WHERE pid = %s",
        (pid,),
    ).fetchone()
    return f"process {pid} of the source" + (f", from {row[0]} since {row[1]}" if row else "")


def ask_stream(conn: Connection, names: LogNames, sink: EventSink) -> tuple[int, str] | None:
    """Let the stream beside us store everything up to now; None where none runs.

    Returns:
        A position that is stored and acknowledged, and the source's clock before it was asked.

    Raises SourceUnreachable where the stream does not get on.
    """
    with translated("source", doing="looking for a stream"):
        pid = stream_runs(conn, names)
    if not pid:
        return None
    with translated("source", doing="asking the stream"):
        _, at = slots.flush_position(conn)
        _, position, _ = slots.emit_mark(conn, CUT_MARK)
    sink(Noted("a stream runs: it stores what it has, and the backup gathers that"))
    reached, moved = 0, time.monotonic()
    while True:
        with translated("source", doing="waiting for the stream"):
            slot = slots.read_slot(conn, names.slot)
            runs = stream_runs(conn, names)
        if slot is None or not runs:
            return None
        if slot.confirmed_lsn >= position:
            return position, clock.isoformat(at)
        if slot.confirmed_lsn > reached:
            reached, moved = slot.confirmed_lsn, time.monotonic()
        if time.monotonic() - moved > _PATIENCE_SECONDS:
            raise SourceUnreachable(
                f"the stream (process {runs} of the source) has stored nothing for "
                f"{_PATIENCE_SECONDS:g} seconds: it is at {format_lsn(reached)}, asked for "
                f"{format_lsn(position)}",
                hint="Look at its output: its storage may be out of reach. Or stop it: without a "
                "stream an incremental reads the log itself.",
            )
        time.sleep(_POLL_SECONDS)
