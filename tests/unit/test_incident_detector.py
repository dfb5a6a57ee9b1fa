"""The detector on hand-made histories: what it tells, what it leaves alone, what it holds."""

import random
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from aurora.operations.incident.detector import Detector, Limits, Suspicion
from aurora.operations.log import Changes, Transaction

_BEGIN = datetime(2026, 11, 23, 12, tzinfo=UTC)


def transaction(
    xid: int, tables: dict[str, Changes], *, at: float = 0.0, messages: tuple[str, ...] = ()
) -> Transaction:
    """One that commits *at* seconds after the beginning."""
    moment = _BEGIN + timedelta(seconds=at)
    return Transaction(xid, moment, xid * 100, xid * 100 + 50, tables, list(messages))


def ordinary(count: int, seed: int = 1) -> Iterator[Transaction]:
    """A shop's day: inserts, small updates, now and then a few rows deleted."""
    chance = random.Random(seed)
    for number in range(count):
        tables = {"public.orders": Changes(chance.randint(1, 3), chance.randint(0, 4), 0)}
        if chance.random() < 0.1:
            tables["public.sessions"] = Changes(5, 0, chance.randint(1, 9))
        yield transaction(1000 + number, tables, at=number * 0.5)


SIZES = {"public.orders": 50_000, "public.sessions": 2_000, "public.settings": 12}


def found(detector: Detector, *more: Transaction, after: int = 2000) -> list[Suspicion]:
    """What is told of *more*, after an ordinary day."""
    quiet = [told for one in ordinary(after) for told in detector.see(one)]
    assert quiet == []
    told = [one for transaction in more for one in detector.see(transaction)]
    return told + detector.finish()


@pytest.mark.parametrize(
    "changes, severity, words",
    [
        ({"public.orders": Changes(0, 0, 49_000)}, "critical", "49,000 of 5"),
        ({"public.orders": Changes(0, 0, 15_000)}, "medium", "rows of public.orders deleted"),
        ({"public.orders": Changes(truncated=True)}, "critical", "was truncated, which held"),
        ({"public.orders": Changes(0, 53_000, 0)}, "critical", "UPDATE without WHERE"),
        ({"public.settings": Changes(0, 0, 12)}, "medium", "12 of 12 rows"),
        ({"public.sessions": Changes(0, 0, 900)}, "high", "as a rule"),
    ],
)
def test_accidents_are_told(changes: dict[str, Changes], severity: str, words: str) -> None:
    """With a reason that a person understands."""
    (told,) = found(Detector(SIZES), transaction(9999, changes, at=2000))
    assert told.xid == 9999
    assert words in "; ".join(told.reasons)
    order = ["medium", "high", "critical"]
    assert order.index(told.severity) >= order.index(severity)


@pytest.mark.parametrize(
    "changes",
    [
        {"public.orders": Changes(80_000, 0, 0)},  # a bulk load
        {"public.orders": Changes(0, 40, 0)},
        {"public.sessions": Changes(0, 0, 12)},
        {"public.orders": Changes(500, 0, 500)},  # rows replaced
        {"public.fresh": Changes(10, 0, 10)},
    ],
)
def test_the_ordinary_is_left_alone(changes: dict[str, Changes]) -> None:
    assert found(Detector(SIZES), transaction(9999, changes, at=2000)) == []


def test_a_nightly_clean_up_is_usual_after_a_while() -> None:
    """Told while there is no history of it; not any more when it has come thirty times."""
    detector = Detector({"public.events": 10_000_000})
    told = []
    for day in range(40):
        changes = {"public.events": Changes(100_000, 0, 100_000 + day)}
        told.append(detector.see(transaction(100 + day, changes, at=day * 86_400)))
    assert all(told[day] for day in range(20))
    assert not any(told[20:])


def test_a_canary_is_an_alarm_whatever_changes() -> None:
    detector = Detector(SIZES, Limits(canaries=frozenset({"public.settings"})))
    (told,) = found(detector, transaction(9, {"public.settings": Changes(0, 1, 0)}, at=2000))
    assert (told.severity, told.score >= 100) == ("critical", True)


def test_many_small_deletes_within_a_minute_are_one_suspicion() -> None:
    """A loop that deletes row by row, each committed by itself."""
    loop = [
        transaction(20_000 + n, {"public.orders": Changes(0, 0, 10)}, at=2000 + n * 0.01)
        for n in range(2000)
    ]
    (told,) = found(Detector(SIZES), *loop)
    assert (told.xid, told.last_xid, told.transactions) == (20_000, 21_999, 2000)
    assert told.rows_lost == 20_000
    assert "within a minute" in told.reasons[0]


def test_sizes_follow_what_is_seen() -> None:
    detector = Detector({"public.a": 100})
    detector.see(transaction(1, {"public.a": Changes(50, 0, 0)}))
    detector.see(transaction(2, {"public.a": Changes(0, 0, 30)}))
    assert detector.size("public.a") == 120
    detector.see(transaction(3, {"public.a": Changes(5, 0, 0, truncated=True)}))
    assert detector.size("public.a") == 5
    detector.know({"public.a": 7})
    assert detector.size("public.a") == 7
    assert detector.size("public.unknown") is None


def test_the_damage_of_several_tables_is_one_suspicion() -> None:
    changes = {"public.orders": Changes(0, 0, 50_000), "public.sessions": Changes(0, 0, 1500)}
    (told,) = found(Detector(SIZES), transaction(9999, changes, at=2000))
    assert {"public.orders", "public.sessions"} <= set(told.tables)
    assert told.document()["rows_lost"] == 51_500


def test_a_dropped_table_in_a_mark_is_told() -> None:
    (told,) = found(
        Detector(SIZES), transaction(5, {}, at=2000, messages=("ddl DROP TABLE public.orders",))
    )
    assert told.severity == "critical"
    assert "DROP TABLE" in told.reasons[0]


def test_memory_does_not_grow_with_the_log() -> None:
    """Twenty thousand transactions cost no more than the tables they touch."""
    detector = Detector(SIZES)
    for one in ordinary(5000):
        detector.see(one)
    tracemalloc.start()
    for one in ordinary(20_000, seed=2):
        detector.see(one)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
