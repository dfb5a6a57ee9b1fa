"""What is due now, and a simulated year of it: failures, downtime, kills, clocks that step."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aurora.errors import AuroraError, StorageUnavailable
from aurora.events import discard
from aurora.schedule import Rule, parse_rule
from aurora.scheduler import state as state_module
from aurora.scheduler.child import ChildResult, FileLock
from aurora.scheduler.jobs import AFTER_BACKUP, BACKUPS, BY_NAME, Job, Retries, due_now, in_order
from aurora.scheduler.lease import Grant, Permission
from aurora.scheduler.runner import Runner, RunnerOptions
from aurora.scheduler.state import JobState, State
from aurora.scheduler.worker import seed

NOW = datetime(2026, 11, 25, 8, 10, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOURLY = parse_rule("hourly")
RETRIES = Retries(3, 60)
DEFAULTS = {
    "incremental": HOURLY,
    "full": parse_rule("daily at 00:00"),
    "sealed": parse_rule("weekly on sunday at 00:00"),
    "replicate": parse_rule("hourly at :30"),
    "verify": parse_rule("daily at 05:00"),
    "recovery_test": parse_rule("weekly on monday at 03:00"),
    "restore_test": parse_rule("monthly on 2 at 03:00"),
    "drill": parse_rule("quarterly on 3 at 09:00"),
    AFTER_BACKUP: Rule("after each backup", ""),
}


def _at(hour: int, minute: int = 0) -> datetime:
    return NOW.replace(hour=hour, minute=minute, second=0)


@pytest.mark.parametrize(
    "state, due",
    [
        (JobState(), _at(8)),
        (JobState(handled=_at(7)), _at(8)),
        (JobState(handled=_at(8)), None),
        (JobState(handled=_at(1)), _at(8)),  # of seven that were missed the newest
        (JobState(handled=_at(7), retry_at=_at(8, 15), retry_due=_at(8)), None),
        (JobState(handled=_at(7), retry_at=_at(8, 5), retry_due=_at(8)), _at(8)),
        (JobState(handled=_at(6), retry_at=_at(9), retry_due=_at(7)), _at(8)),  # a newer one
        (JobState(handled=_at(9)), None),  # the clock went back by less than an hour
        (JobState(handled=_at(20)), _at(8)),  # by more: it begins anew
        (JobState(handled=_at(7), retry_at=_at(20), retry_due=_at(8)), _at(8)),  # likewise
    ],
)
def test_what_is_due(state: JobState, due: datetime | None) -> None:
    assert due_now(HOURLY, state, NOW, RETRIES) == due


def test_a_job_that_follows_others() -> None:
    """It has no times of its own: it is due once after each time that it is wanted."""
    never = Rule("after each backup", "")
    assert due_now(never, JobState(), NOW, RETRIES) is None
    wanted = JobState(wanted_at=_at(8))
    assert due_now(never, wanted, NOW, RETRIES) == _at(8)
    assert due_now(never, replace(wanted, handled=_at(8)), NOW, RETRIES) is None
    assert due_now(never, replace(wanted, handled=_at(7)), NOW, RETRIES) == _at(8)


def test_retries_wait_longer_each_time() -> None:
    assert [RETRIES.wait(n).total_seconds() for n in (1, 2, 3)] == [60, 240, 960]


def test_jobs_due_at_once_run_shortest_first() -> None:
    """At midnight on Sunday the log is drained before the fulls take their time."""
    assert in_order(["sealed", "full", "verify", "incremental"])[:3] == list(BACKUPS)


@pytest.mark.parametrize(
    "made, handled",
    [
        ({}, {"full": None, "incremental": _at(8), "drill": datetime(2026, 10, 3, 9, tzinfo=UTC)}),
        ({"full": _at(0, 1)}, {"full": _at(0), "incremental": None}),
        ({"full": _at(0, 1) - 24 * HOUR, "incremental": _at(8, 2)},
         {"full": _at(0) - 24 * HOUR, "incremental": _at(8)}),
    ],
)  # fmt: skip
def test_the_first_start(
    tmp_path: Path, made: dict[str, datetime], handled: dict[str, datetime | None]
) -> None:
    """What the repository holds counts as done; without any backup a full is made at once."""
    state = State(tmp_path)
    seed(state, DEFAULTS, lambda: made, NOW)
    assert {name: state[name].handled for name in handled} == handled


def test_the_first_start_without_a_storage(tmp_path: Path) -> None:
    """Nobody knows what was made: a full is due."""

    def unreachable() -> dict[str, datetime]:
        raise StorageUnavailable("no answer")

    state = State(tmp_path)
    seed(state, DEFAULTS, unreachable, NOW)
    assert state["full"].handled is None


# The state on disk ---------------------------------------------------------------------------


def test_state_survives(tmp_path: Path) -> None:
    """All fields, and a host id that a copy on another machine does not keep."""
    state = State(tmp_path)
    made = state.update("full", handled=NOW, outcome="failed", message="x", attempts=2)
    assert State(tmp_path)["full"] == made
    before = state.host()
    assert State(tmp_path).host() == before
    file = tmp_path / "host.json"
    file.write_text(file.read_text().replace('"name": "', '"name": "other-'))
    assert State(tmp_path).host() != before


def test_an_unreadable_state_is_put_aside(tmp_path: Path) -> None:
    """Not backing up would be worse than to begin anew."""
    (tmp_path / "schedule.json").write_text('{"full": {"handled"')
    assert State(tmp_path)["full"] == JobState()
    assert (tmp_path / "schedule.unreadable").exists()


def test_a_disk_that_takes_no_more_stops_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be remembered stays in memory, is told of once, and is stored when it can be."""
    told: list[AuroraError] = []
    state = State(tmp_path, told.append)
    state.update("full", runs=1)

    def full(_path: Path, _text: str) -> None:
        raise AuroraError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "write_durably", full)
        state.update("full", runs=2)
        state.update("full", runs=3)
        assert (state["full"].runs, len(told)) == (3, 1)
        assert State(tmp_path)["full"].runs == 1
    state.update("incremental", runs=1)
    assert State(tmp_path)["full"].runs == 3


# A year --------------------------------------------------------------------------------------


class Killed(BaseException):
    """kill -9, in the middle of a job."""


@dataclass
class OpenGate:
    """Nobody else is there."""

    directory: Path

    @contextmanager
    def ask(self, job: Job, due: datetime, *, claim: bool = True) -> Iterator[Grant]:
        lock = FileLock(self.directory / "lock")
        assert lock.acquire()
        try:
            yield Grant(Permission.GRANTED, lock)
        finally:
            lock.release()


@dataclass
class Year:
    """A daemon in a world where a year takes seconds."""

    directory: Path
    random: random.Random
    fail: float = 0.0
    fail_hard: float = 0.0
    kill: float = 0.0
    now: datetime = datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
    runs: list[tuple[str, datetime, datetime, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = State(self.directory)
        options = RunnerOptions(Path("aurora.toml"), RETRIES, 5, prune=True,
                                unavailable=lambda _: "", words=lambda _: ())  # fmt: skip
        gate: Any = OpenGate(self.directory)
        self.runner = Runner(self.state, gate, options, [], discard, now=lambda: self.now,
                             start=self._run)  # fmt: skip
        self.job, self.due = "", self.now

    def _run(self, words: Sequence[str], **_: Any) -> ChildResult:
        self.now += timedelta(seconds=self.random.uniform(1, 300))
        chance = self.random.random()
        outcome = "ok"
        if chance < self.kill:
            outcome = "killed"
        elif chance < self.kill + self.fail:
            outcome = "failed"
        elif chance < self.kill + self.fail + self.fail_hard:
            outcome = "failed hard"
        self.runs.append((self.job, self.due, self.now, outcome))
        if outcome == "killed":
            raise Killed
        if outcome == "ok":
            return ChildResult(0, 1.0)
        code = "source-unreachable" if outcome == "failed" else "wrong-key"
        return ChildResult(20, 1.0, error={"code": code, "message": "no"})

    def tick(self) -> None:
        """What the worker does in its lanes, one after another."""
        for name in in_order(DEFAULTS):
            due = due_now(DEFAULTS[name], self.state[name], self.now, RETRIES)
            if due is None:
                continue
            self.job, self.due = name, due
            try:
                self.runner.run(BY_NAME[name], due, threading.Event())
            except Killed:
                # It is started again, and knows what was running.
                assert self.state[name].running == due
                self.state.update(name, running=None, outcome="interrupted")

    def until(self, end: datetime) -> None:
        while self.now < end:
            self.tick()
            retries = [one.retry_at for name in DEFAULTS if (one := self.state[name]).retry_at]
            coming = [rule.next_after(self.now) for rule in DEFAULTS.values() if rule.is_on]
            following = min(one for one in [*retries, *coming] if one is not None)
            busy = any(
                due_now(rule, self.state[name], self.now, RETRIES)
                for name, rule in DEFAULTS.items()
            )
            if not busy:
                self.now = min(max(following, self.now) + timedelta(seconds=2), end)

    def count(self, *outcomes: str) -> Counter[str]:
        return Counter(job for job, _, _, outcome in self.runs if outcome in outcomes)


@pytest.fixture
def year(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Year]:
    """A year without an fsync: 20,000 runs are remembered."""
    monkeypatch.setattr(state_module, "write_durably", lambda _path, _text: None)

    def make(number: int, **chances: Any) -> Year:
        return Year(tmp_path, random.Random(number), **chances)

    return make


EXPECTED = {"incremental": 8760, "full": 365, "sealed": 52, "replicate": 8760, "verify": 365,
            "recovery_test": 52, "restore_test": 12, "drill": 4}  # fmt: skip
END = datetime(2027, 1, 1, 0, 0, 1, tzinfo=UTC)


def _twice(year: Year) -> list[tuple[str, datetime]]:
    done = Counter((job, due) for job, due, _, outcome in year.runs if outcome == "ok")
    return [key for key, count in done.items() if count > 1]


def test_a_quiet_year(year: Callable[..., Year]) -> None:
    """Each job runs exactly as often as it is due, at the time that it is due."""
    one = year(1)
    seed(one.state, DEFAULTS, lambda: {"full": one.now, "incremental": one.now}, one.now)
    one.until(END)
    made = one.count("ok")
    expected = {name: count - (name in ("incremental", "full")) for name, count in EXPECTED.items()}
    assert {name: made[name] for name in expected} == expected
    assert made[AFTER_BACKUP] >= 8700  # backups that ended together share one
    assert _twice(one) == []
    late = max(at - due for job, due, at, _ in one.runs if job != AFTER_BACKUP)
    assert late < timedelta(minutes=45)  # nine jobs of five minutes, one after another


SEEDS = [1, *(pytest.param(number, marks=pytest.mark.long) for number in range(2, 9))]


@pytest.mark.parametrize("number", SEEDS)
def test_a_year_of_failures_and_kills(year: Callable[..., Year], number: int) -> None:
    """What may pass is tried again and nearly always done; no due time is lost or done twice."""
    one = year(number, fail=0.1, fail_hard=0.01, kill=0.01)
    one.until(END)
    made = one.count("ok")
    for name, count in EXPECTED.items():
        given_up = sum(
            1 for job, _, _, outcome in one.runs if job == name and outcome == "failed hard"
        )
        assert count - given_up - count * 0.02 - 2 <= made[name] <= count + 1, name
    assert _twice(one) == []
    assert one.count("failed").total() > 500


@pytest.mark.parametrize("number", SEEDS)
def test_a_year_with_downtime_and_steps_of_the_clock(
    year: Callable[..., Year], number: int
) -> None:
    """After each time that it was down every job that was missed is caught up once."""
    one = year(number, fail=0.05)
    luck = random.Random(number * 7)
    while one.now < END:
        one.until(min(one.now + timedelta(hours=luck.uniform(1, 300)), END))
        before, runs = one.now, len(one.runs)
        match luck.randrange(3):
            case 0:  # it was down
                one.now += timedelta(hours=luck.uniform(0.1, 120))
                one.tick()
                caught = Counter(job for job, _, _, _ in one.runs[runs:])
                assert all(count == 1 for job, count in caught.items() if job != AFTER_BACKUP)
                for name, rule in DEFAULTS.items():
                    if rule.is_on and rule.missed(before, one.now):
                        assert caught[name] == 1, name
            case 1:  # a clock that was corrected forward: as if it had been down
                one.now += timedelta(seconds=luck.uniform(1, 7200))
            case 2:  # backward, by less than the shortest period
                one.now -= timedelta(seconds=luck.uniform(1, 1500))
    assert _twice(one) == []


def test_a_clock_that_was_a_year_ahead(year: Callable[..., Year]) -> None:
    """When it is set right, jobs are run at their times again, not in a year."""
    one = year(1)
    one.now += timedelta(days=365)
    one.tick()
    one.now -= timedelta(days=365)
    runs = len(one.runs)
    one.until(one.now + timedelta(days=2))
    made = Counter(job for job, _, _, _ in one.runs[runs:])
    assert made["incremental"] in (48, 49)
    assert made["full"] in (2, 3)


def test_after_all_retries_it_has_failed(year: Callable[..., Year]) -> None:
    """Four tries, then the next due time; a wrong key is not tried again at all."""
    one = year(1, fail=1.0)
    one.state.update("full", handled=one.now)
    due = datetime(2026, 1, 2, tzinfo=UTC)
    one.until(due + 2 * HOUR)
    tries = [at for job, of, at, _ in one.runs if (job, of) == ("full", due)]
    assert len(tries) == 4
    assert one.state["full"].outcome == "failed"
    assert (one.state["full"].handled, one.state["full"].failures) == (due, 1)
    hard = year(1, fail_hard=1.0)
    hard.until(hard.now + 5 * HOUR)
    assert max(Counter((job, of) for job, of, _, _ in hard.runs).values()) == 1
