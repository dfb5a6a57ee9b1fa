"""How dangerous a slot is to its source, and what to do about it. Judged here, done elsewhere.

A slot keeps WAL and old catalog rows until it is read. Before that can fill the source's
disk it is given up: the log ends at the last commit that is kept, and a full begins anew.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aurora.engines.logical import slot as slots
from aurora.engines.logical.names import Connection
from aurora.engines.logical.slot import SlotState
from aurora.units import format_duration, format_size

DEFAULT_LIMIT = 5 << 30
HOSTED_LIMIT = 4 << 30  # what hosted Supabase lets a slot keep
WARN_SHARE = 0.25
DRAIN_SHARE = 0.5
DROP_SHARE = 0.8
_STALLED = 2  # drains without progress
_OLD_TRANSACTION = 3600.0  # seconds
_OLD_CATALOG = 100_000_000  # transactions


class Danger(enum.IntEnum):
    """What a slot's state asks for."""

    NONE = 0
    WARN = 1  # somebody should know
    DRAIN = 2  # read it now
    DROP = 3  # give it up before it harms the source
    LOST = 4  # the server gave it up


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """What is to be known of a slot at one look."""

    slot: SlotState
    keep_size: int | None  # max_slot_wal_keep_size in bytes; None: without limit
    hosted: bool  # a Supabase project
    catalog_xmin_age: int | None  # transactions
    oldest_seconds: float | None  # age of the oldest transaction that holds the slot back
    oldest: str = ""  # who that is


@dataclass(frozen=True, slots=True)
class SlotHealth:
    """A judgement. ``held`` and ``limit`` in bytes."""

    danger: Danger
    held: int
    limit: int
    reasons: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Of what it may hold."""
        return self.held / self.limit if self.limit else 0.0

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "danger": self.danger.name.lower(),
            "held_bytes": self.held,
            "limit_bytes": self.limit,
            "share": round(self.share, 4),
            "reasons": list(self.reasons),
        }


def slot_health(
    facts: SlotFacts, *, user_limit: int = DEFAULT_LIMIT, stalled_drains: int = 0
) -> SlotHealth:
    """Judge a slot.

    Args:
        user_limit: bytes of WAL that it may keep by the settings.
        stalled_drains: tries to drain it one after the other that did not move it on.
    """
    slot = facts.slot
    limits = [user_limit, facts.keep_size, HOSTED_LIMIT if facts.hosted else None]
    limit = min(one for one in limits if one is not None)
    held = slot.held_bytes
    if slot.is_lost:
        why = slot.invalid or "it held more WAL than max_slot_wal_keep_size allows"
        return SlotHealth(Danger.LOST, held, limit, (f"the server gave it up: {why}",))
    reasons: list[str] = []
    share = held / limit
    danger = Danger.NONE
    if share >= WARN_SHARE:
        danger = Danger.WARN
        reasons.append(f"it holds {format_size(held)} of {format_size(limit)}")
    if share >= DRAIN_SHARE or slot.wal_status == "unreserved":
        danger = Danger.DRAIN
    if slot.wal_status == "unreserved":
        reasons.append("the server may remove what it needs at its next checkpoint")
    if share >= DROP_SHARE:
        danger = Danger.DROP
    elif danger is Danger.DRAIN and stalled_drains >= _STALLED:
        danger = Danger.DROP
        reasons.append(f"{stalled_drains} drains did not move it on")
    return SlotHealth(max(danger, _held_back(facts, reasons)), held, limit, tuple(reasons))


def _held_back(facts: SlotFacts, reasons: list[str]) -> Danger:
    danger = Danger.NONE
    if facts.oldest_seconds is not None and facts.oldest_seconds > _OLD_TRANSACTION:
        danger = Danger.WARN
        reasons.append(
            f"{facts.oldest} is open for {format_duration(facts.oldest_seconds)}: no slot can let "
            "go of WAL that is younger"
        )
    if facts.catalog_xmin_age is not None and facts.catalog_xmin_age > _OLD_CATALOG:
        danger = Danger.WARN
        reasons.append(
            f"it keeps catalog rows of the last {facts.catalog_xmin_age:,} transactions: the "
            "catalogs grow"
        )
    return danger


_FACTS = """
SELECT (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'),
       (SELECT pg_catalog.count(*) >= 3 FROM pg_catalog.pg_roles
        WHERE rolname IN ('anon', 'authenticated', 'service_role', 'supabase_admin',
                          'supabase_auth_admin', 'supabase_storage_admin')),
       (SELECT age(catalog_xmin) FROM pg_catalog.pg_replication_slots WHERE slot_name = %s)
"""
_OLDEST = """
SELECT seconds, who FROM (
    SELECT extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)::float8 AS seconds,
           'process ' || pid || ' of ' || COALESCE(usename, '?') AS who
    FROM pg_catalog.pg_stat_activity
    WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
    UNION ALL
    SELECT extract(epoch FROM pg_catalog.clock_timestamp() - prepared)::float8,
           'the prepared transaction ' || gid FROM pg_catalog.pg_prepared_xacts
) found ORDER BY seconds DESC NULLS LAST LIMIT 1
"""


def read_slot_facts(conn: Connection, name: str) -> SlotFacts | None:
    """What :func:`slot_health` wants to know; None where there is no such slot.

    Raises psycopg.Error.
    """
    slot = slots.read_slot(conn, name)
    if slot is None:
        return None
    keep, hosted, age = _row(conn, _FACTS, (name,)) or (None, False, None)
    oldest = _row(conn, _OLDEST)
    return SlotFacts(
        slot,
        None if keep is None or keep < 0 else keep << 20,
        hosted,
        age,
        oldest[0] if oldest else None,
        oldest[1] if oldest else "",
    )


def _row(conn: Connection, query: str, values: Sequence[object] = ()) -> Any:
    return conn.execute(query.encode(), values).fetchone()
