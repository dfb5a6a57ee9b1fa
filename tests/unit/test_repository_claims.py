"""Claims: of several hosts exactly one runs a job, whatever the order of their steps."""

import itertools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from aurora.repository.claims import (
    Answer,
    Claim,
    Claims,
    Look,
    Mark,
    Put,
    Seen,
    Timing,
    Wait,
    contend,
)
from aurora.repository.door import Repository
from aurora.repository.keys import WEAK_KDF_FOR_TESTS
from aurora.storage.memory import MemoryStorage

DUE = datetime(2026, 11, 25, 9, tzinfo=UTC)
TIMING = Timing(settle=1, poll=1, patience=5, beat=10, trust=40, dead=100)


@dataclass
class World:
    """A storage and a clock that two or three hosts share."""

    marks: list[Mark] = field(default_factory=list)
    now: float = 0.0


@dataclass
class Host:
    """One try of one host, step by step; it may stop for ever before any step."""

    world: World
    steps: Generator[Put | Look | Wait, tuple[Mark, ...], tuple[Answer, Mark]]
    pending: Put | Look | Wait | None = None
    answer: Answer | None = None

    def step(self) -> None:
        """Do what was asked for, and ask what comes next."""
        reply: tuple[Mark, ...] = ()
        if isinstance(self.pending, Put):
            self.world.marks.append(self.pending.mark)
        elif isinstance(self.pending, Wait):
            self.world.now += self.pending.seconds
        elif isinstance(self.pending, Look):
            reply = tuple(self.world.marks)
        try:
            self.pending = next(self.steps) if self.pending is None else self.steps.send(reply)
        except StopIteration as end:
            self.answer, self.pending = end.value[0], None


def _host(world: World, number: int, seen: Seen | None = None, nonce: str = "0" * 8) -> Host:
    me = Mark(0, f"{number:016x}", nonce)
    return Host(world, contend(me, "full/x", seen or Seen(), TIMING, lambda: world.now))


def _orders(steps: int, hosts: int) -> Iterator[tuple[int, ...]]:
    return itertools.product(range(hosts), repeat=steps)


@pytest.mark.parametrize("hosts, depth", [(2, 14), (3, 8)])
def test_never_two_in_any_order_of_steps(hosts: int, depth: int) -> None:
    """Every interleaving of the first steps, then each host to its end: one at most."""
    winners = 0
    for order in _orders(depth, hosts):
        world = World()
        made = [_host(world, number) for number in range(hosts)]
        for number in (*order, *(number for _ in range(60) for number in range(hosts))):
            if made[number].answer is None:
                made[number].step()
        answers = [one.answer for one in made]
        assert None not in answers
        assert answers.count(Answer.MINE) <= 1, order
        winners += answers.count(Answer.MINE)
    assert winners > hosts**depth * 0.9  # mostly one has it at the first try


@pytest.mark.parametrize("stops", range(1, 7))
def test_one_dies_at_any_step_and_the_other_goes_on(stops: int) -> None:
    """At first it waits; when the first is dead for long enough it takes the job, alone."""
    for order in _orders(8, 2):
        world, seen = World(), Seen()
        first, second = _host(world, 0), _host(world, 1, seen)
        done = 0
        for number in order:
            if number == 0 and done < stops and first.answer is None:
                first.step()
                done += 1
            elif number == 1 and second.answer is None:
                second.step()
        while done < stops and first.answer is None:
            first.step()
            done += 1
        answer = _to_the_end(second)
        took = any(one.kind == "take" and one.host.endswith("0") for one in world.marks)
        assert not (took and answer is Answer.MINE), order
        for again in range(4):
            if answer is Answer.MINE:
                break
            world.now += 101
            answer = _to_the_end(_host(world, 1, seen, f"{again + 1:08x}"))
        assert answer is Answer.MINE, order


def _to_the_end(host: Host) -> Answer:
    while host.answer is None:
        host.step()
    return host.answer


def test_one_that_slept_gives_back_what_it_took() -> None:
    """Between its last look and its taking, others may have counted it for dead."""
    world = World()
    sleeper = _host(world, 0)
    while not (isinstance(sleeper.pending, Put) and sleeper.pending.mark.kind == "take"):
        sleeper.step()
    world.now += 1000
    assert _to_the_end(sleeper) is Answer.ELSEWHERE
    assert _to_the_end(_host(world, 1)) is Answer.MINE


# On a storage ------------------------------------------------------------------------------


@dataclass
class Time:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def host() -> Callable[..., Claims]:
    """``host("a")``: the claims of one of several hosts on one repository."""
    storage, time = MemoryStorage("primary"), Time()
    repository, _ = Repository.create(
        storage, passphrase="a long passphrase", kdf=WEAK_KDF_FOR_TESTS
    )

    def make(letter: str) -> Any:
        made = repository.claims("app", letter * 16, timing=TIMING)
        made._elapsed, made._sleep = time, time.sleep
        made.time, made.storage = time, storage  # type: ignore[attr-defined]
        return made

    return make


def _won(claims: Claims) -> Claim:
    answer, claim = claims.acquire("full", DUE)
    assert (answer, claim is not None) == (Answer.MINE, True)
    assert claim is not None
    return claim


def test_one_has_it_until_it_is_done(host: Any) -> None:
    first, second = host("a"), host("b")
    claim = _won(first)
    assert second.acquire("full", DUE) == (Answer.ELSEWHERE, None)
    claim.end(done=True)
    assert second.acquire("full", DUE) == (Answer.DONE, None)
    assert first.acquire("full", DUE) == (Answer.DONE, None)
    assert second.acquire("full", DUE.replace(hour=10))[0] is Answer.MINE
    assert second.acquire("incremental", DUE)[0] is Answer.MINE


def test_one_that_beats_is_alive(host: Any) -> None:
    """However long its job takes; it keeps one beat at a time."""
    first, second = host("a"), host("b")
    claim = _won(first)
    for _ in range(30):
        first.time.now += 11
        claim.beat()
        assert claim.is_fresh()
        assert second.acquire("full", DUE)[0] is Answer.ELSEWHERE
    names = [info.name for info in first.storage.list("claims/")]
    assert sum(".beat" in name for name in names) == 1
    claim.end(done=True)
    assert not any(".beat" in info.name for info in first.storage.list("claims/"))


def test_one_that_fell_silent_is_replaced_and_knows_it(host: Any) -> None:
    first, second = host("a"), host("b")
    claim = _won(first)
    assert second.acquire("full", DUE)[0] is Answer.ELSEWHERE
    first.time.now += 50
    assert not claim.is_fresh()
    assert second.acquire("full", DUE)[0] is Answer.ELSEWHERE
    first.time.now += 60
    assert second.acquire("full", DUE)[0] is Answer.MINE


def test_what_was_given_back_may_be_taken_by_anybody(host: Any) -> None:
    first, second = host("a"), host("b")
    _won(first).end(done=False)
    _won(second)


def test_a_host_that_was_killed_takes_its_own_job_again(host: Any) -> None:
    """At once: it knows that it is not running any more."""
    _won(host("a"))
    _won(host("a"))


def test_a_stranger_cannot_keep_a_job_from_running(host: Any) -> None:
    """Marks without the master key's MAC count for nothing."""
    first = host("a")
    claim = _won(first)
    claim.end(done=True)
    name = next(one.name for one in first.storage.list("claims/") if one.name.endswith(".done"))
    forged = name.replace("T090000Z", "T100000Z")
    first.storage.put(forged, first.storage.get(name))
    first.storage.put(forged.replace(".done", ".take"), b"{}")
    assert first.acquire("full", DUE.replace(hour=10))[0] is Answer.MINE
