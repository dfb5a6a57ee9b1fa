"""What waits in a slot: the first committed transaction that is not backed up yet.

An ordinary session peeks; nothing is consumed or acknowledged.
"""

from dataclasses import dataclass
from datetime import datetime

from aurora.engines.logical import pgoutput
from aurora.engines.logical.names import Connection
from aurora.engines.logical.slot import LogNames, SlotState

PEEK_BYTES = 64 << 20  # decoding more than this for a look would be a load
_ROWS = 200
_PEEK = """
SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes(
    %s, NULL, %s, 'proto_version', '1', 'publication_names', %s)
"""


@dataclass(frozen=True, slots=True)
class Unread:
    """What a peek found. ``first_at`` None: nothing that the log carries was committed since."""

    first_at: datetime | None


def first_unread(
    conn: Connection, names: LogNames, slot: SlotState, after_lsn: int
) -> Unread | None:
    """The first commit after *after_lsn*; None where a peek cannot tell at a small price.

    Raises psycopg.Error: somebody took the slot meanwhile, or it takes longer than 5 seconds.
    """
    # What was backed up and not yet acknowledged comes first: it may fill the answer.
    if slot.active_pid or slot.is_lost or slot.lag_bytes > PEEK_BYTES:
        return None
    conn.execute("SET statement_timeout = '5s'")
    try:
        rows = conn.execute(_PEEK, (names.slot, _ROWS, ",".join(names.publications))).fetchall()
    finally:
        conn.execute("SET statement_timeout = 0")
    begin: pgoutput.Begin | None = None
    changed = False
    for row in rows:
        message = bytes(row[0])  # type: ignore[call-overload]
        if message[0] == pgoutput.BEGIN:
            begin, changed = pgoutput.read_begin(message), False
        elif message[0] == pgoutput.COMMIT:
            commit = pgoutput.read_commit(message)
            # PostgreSQL 14 also shows transactions without a change.
            if changed and begin is not None and commit.end_lsn > after_lsn:
                return Unread(pgoutput.moment(begin.at))
        elif message[0] not in (pgoutput.RELATION, pgoutput.TYPE):
            changed = True
    return Unread(None) if len(rows) < _ROWS else None
