"""When a slot is warned of, drained and given up; and how pieces of a log lie together."""

from dataclasses import replace
from typing import Any

import pytest

from aurora.engines.logical.slot import SlotState
from aurora.operations.slot_health import Danger, SlotFacts, slot_health

GIB = 1 << 30
SLOT = SlotState("aurora_app", "pgoutput", "app", 0, 50, 100, "reserved", None, 0, 0, False, "")  # noqa: FBT003
FACTS = SlotFacts(SLOT, None, hosted=False, catalog_xmin_age=5, oldest_seconds=None)


def facts(held: int, **more: Any) -> SlotFacts:
    """A slot that keeps so much WAL."""
    return replace(FACTS, slot=replace(SLOT, held_bytes=held, **more.pop("slot", {})), **more)


@pytest.mark.parametrize(
    "held, danger",
    [
        (0, Danger.NONE),
        (GIB, Danger.NONE),
        (GIB * 5 // 4, Danger.WARN),
        (GIB * 5 // 2, Danger.DRAIN),
        (GIB * 4, Danger.DROP),
        (GIB * 9, Danger.DROP),
    ],
)
def test_shares_of_five_gibibytes(held: int, danger: Danger) -> None:
    assert slot_health(facts(held)).danger is danger


def test_the_least_limit_counts() -> None:
    assert slot_health(facts(GIB, hosted=True)).limit == 4 * GIB
    assert slot_health(facts(GIB, keep_size=2 * GIB)).limit == 2 * GIB
    assert slot_health(facts(GIB, keep_size=2 * GIB), user_limit=GIB).danger is Danger.DROP
    assert slot_health(facts(GIB, keep_size=9 * GIB)).limit == 5 * GIB


def test_drains_that_do_not_help_give_it_up_and_only_where_it_is_dangerous() -> None:
    assert slot_health(facts(3 * GIB), stalled_drains=1).danger is Danger.DRAIN
    assert slot_health(facts(3 * GIB), stalled_drains=2).danger is Danger.DROP
    assert slot_health(facts(GIB), stalled_drains=9).danger is Danger.NONE


def test_what_the_server_says_counts_first() -> None:
    assert slot_health(facts(0, slot={"wal_status": "lost"})).danger is Danger.LOST
    assert slot_health(facts(0, slot={"invalid": "idle_timeout"})).danger is Danger.LOST
    health = slot_health(facts(0, slot={"wal_status": "unreserved"}))
    assert health.danger is Danger.DRAIN
    assert "checkpoint" in health.reasons[0]


def test_what_holds_it_back_is_named() -> None:
    old = slot_health(facts(0, oldest_seconds=7200.0, oldest="process 7 of shop"))
    assert old.danger is Danger.WARN
    assert "process 7 of shop" in old.reasons[0]
    bloat = slot_health(facts(0, catalog_xmin_age=200_000_000))
    assert "200,000,000 transactions" in bloat.reasons[0]
