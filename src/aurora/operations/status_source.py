"""How far the source is ahead of the backups: RPO now, lag and health of the slot."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from aurora import clock
from aurora.engines.logical import slot as slots
from aurora.engines.logical.names import Connection
from aurora.engines.logical.slot import LogNames, SlotState
from aurora.engines.logical.unread import Unread, first_unread
from aurora.operations.slot_health import SlotHealth, read_slot_facts, slot_health
from aurora.operations.window import Window
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.units import plural

CONNECT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class SourceLook:
    """The source at one look. LSNs are numbers, times are the source's clock."""

    at: datetime
    flush_lsn: int
    slot: SlotState | None
    health: SlotHealth | None
    unread: Unread | None  # None: not known


@dataclass(frozen=True, slots=True)
class Rpo:
    """What would be lost if the source vanished now: at most so much.

    ``exact`` says that ``seconds`` counts from the first commit that is not backed up.
    """

    seconds: float | None  # None: nothing can be recovered, or nobody knows
    bytes: int | None
    exact: bool
    why: str


def look_at_source(info: ConnInfo, label: str, window: Window, *, max_wal: int) -> SourceLook:
    """Ask the source; *max_wal*: bytes that its slot may keep. Changes nothing.

    Raises SourceError.
    """
    names = LogNames.of(label)
    with open_control(info, connect_timeout=CONNECT_SECONDS) as conn:
        with translated("source", doing="looking at the change log"):
            facts = read_slot_facts(conn, names.slot)
            flush_lsn, at = slots.flush_position(conn)
        slot = facts.slot if facts is not None else None
        health = slot_health(facts, user_limit=max_wal) if facts is not None else None
        unread = None
        if slot is not None and window.newest is not None and slot.database == conn.info.dbname:
            unread = _peek(conn, names, slot, window.newest.log.to_lsn)
    return SourceLook(at, flush_lsn, slot, health, unread)


def _peek(conn: Connection, names: LogNames, slot: SlotState, after: int) -> Unread | None:
    try:
        return first_unread(conn, names, slot, after)
    except psycopg.Error:
        return None  # taken meanwhile, or too slow: the bound must do


def rpo_now(window: Window, look: SourceLook | None, now: datetime) -> Rpo:
    """Data lost at most; *look* None: the source cannot be asked, *now* is this machine's time."""
    newest = window.to_at
    if newest is None:
        return Rpo(None, None, exact=False, why="nothing can be recovered yet")
    if look is None:
        return Rpo(
            _age(newest, now),
            None,
            exact=False,
            why="the source cannot be asked; counted from the newest moment that can be recovered",
        )
    bound = _age(newest, look.at)
    log = window.newest.log if window.newest is not None else None
    if log is None or clock.parse(log.to_at) < newest - timedelta(seconds=1):
        kept = "its change log is read by the next incremental"
        after = kept if log is not None and look.slot is not None else "no change log is kept"
        return Rpo(bound, None, exact=False, why=f"since the newest full; {after}")
    ahead = max(look.flush_lsn - log.to_lsn, 0)
    if ahead == 0:
        return Rpo(0.0, 0, exact=True, why="the source has written nothing since")
    if look.unread is not None and not log.unkeyed:
        if look.unread.first_at is None:
            return Rpo(0.0, 0, exact=True, why="no change is waiting to be backed up")
        return Rpo(
            _age(look.unread.first_at, look.at),
            ahead,
            exact=True,
            why=f"since the commit of {clock.isoformat(look.unread.first_at)}",
        )
    return Rpo(
        bound,
        ahead,
        exact=False,
        why=f"since the newest backup; {plural(len(log.unkeyed), 'table')} not in the log"
        if log.unkeyed
        else "since the end of the log that is backed up",
    )


def _age(then: datetime, now: datetime) -> float:
    return max((now - then).total_seconds(), 0.0)
