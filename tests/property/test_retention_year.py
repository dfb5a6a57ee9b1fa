"""A year of backups, in a second: what retention keeps, against what a slow and naive look says.

The source commits all the time. Fulls, incrementals, pieces of a stream and sealed backups are
made by schedule; runs fail, clocks of clients are wrong, the log breaks off, restores leave
safety backups. After each round the plan is carried out in two steps as `prune` does, and the
oracle, which knows every commit, asks: can every moment of the window still be recovered?
"""

import bisect
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from aurora.repository.retention import Item, LogRange, Policy, Verdict, decide, removes_too_much

HOUR = timedelta(hours=1)
START = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Made:
    """A backup, and what the oracle knows of it that retention does not."""

    item: Item
    seen_to: int  # the last commit that its snapshot or its log holds
    epoch: int = 0  # of the log that it belongs to; a break begins a new one
    begins: int = 0  # a log part's: the first commit that it lacks is before


@dataclass(slots=True)
class Year:
    """The source, its backups, and what was announced as removed."""

    chance: random.Random
    policy: Policy
    failing: float
    commits: list[datetime] = field(default_factory=list)  # when, by number
    made: dict[str, Made] = field(default_factory=dict)
    removed: dict[str, datetime] = field(default_factory=dict)  # announced at
    gone: list[Made] = field(default_factory=list)
    epoch: int = 0
    base: str = ""
    reached: int = 0
    number: int = 0
    refused: int = 0

    def add(self, kind: str, now: datetime, seen_to: int, log: LogRange | None = None) -> Made:
        self.number += 1
        # The client's clock goes into the id, and is anything.
        wrong = timedelta(days=self.chance.choice([0, 0, 0, -900, 900]))
        name = f"{(now + wrong):%Y%m%dT%H%M%SZ}-{kind}-{self.number}"
        if log is not None and kind == "full":
            log = LogRange(log.history, name, log.from_lsn, log.to_lsn)
        # What was lost on the storage, and not healed.
        whole = self.chance.random() > self.failing / 10
        made = Made(
            Item(name, kind, now, self.number, log, is_whole=whole), seen_to, self.epoch,
            log.from_lsn if log else 0,
        )  # fmt: skip
        self.made[name] = made
        return made

    def history(self) -> tuple[object, ...]:
        return ("server", self.epoch)

    def full(self, now: datetime) -> None:
        """Its snapshot sees everything; its place is where the log was read to."""
        place = None
        if self.chance.random() > self.failing / 4:  # else: not anchored
            place = LogRange(self.history(), "", self.reached, self.reached)
        made = self.add("full", now, len(self.commits), place)
        if place is not None:
            self.base = made.item.id

    def log(self, now: datetime, kind: str) -> None:
        """What was committed since the log was read last; without a full there is none."""
        if not self.base:
            return
        begin, self.reached = self.reached, len(self.commits)
        place = LogRange(self.history(), self.base, begin, self.reached)
        self.add(kind, now, self.reached, place)

    def break_log(self) -> None:
        """A failover, or a lost slot: another log begins, with the next full."""
        self.epoch += 1
        self.base = ""
        self.reached = len(self.commits)

    def hour(self, now: datetime) -> None:
        """What happens in an hour."""
        works = self.chance.random
        self.commits += [now - HOUR + HOUR * n / 3 for n in range(self.chance.randrange(3))]
        if works() < 0.002:
            self.break_log()
        if now.hour == 0 and works() > self.failing:
            self.full(now)
        if now.hour == 0 and now.weekday() == 6 and works() > self.failing:
            self.add("sealed", now, len(self.commits))
        if works() < 0.01:
            self.add("safety", now, 0)
        if works() < 0.3:
            self.log(now + timedelta(minutes=1), "stream")
        if works() > self.failing:
            self.log(now + timedelta(minutes=2), "incremental")

    def prune(self, now: datetime) -> list[Verdict]:
        """Announce, and delete what was announced two days ago and still goes."""
        # The clock of whoever prunes is wrong at times as well.
        looked_at = now + timedelta(days=self.chance.choice([0, 0, 0, 0, 400, -400]))
        verdicts = decide((one.item for one in self.made.values()), self.policy, now=looked_at)
        standing = [v for v in verdicts if v.item.id not in self.removed or v.keep]
        if removes_too_much(standing) and self.refused < 5:
            self.refused += 1  # until somebody looks, and says --allow-many
            return verdicts
        self.refused = 0
        for verdict in verdicts:
            name = verdict.item.id
            if verdict.keep:
                if looked_at >= now:  # a clock that is behind keeps all, and undoes nothing
                    self.removed.pop(name, None)
            elif now - self.removed.setdefault(name, now) >= timedelta(hours=48):
                self.gone.append(self.made.pop(name))
                del self.removed[name]
        return verdicts

    def reach(self, among: list[Made]) -> list[tuple[int, int]]:
        """Naively, for each full: its snapshot's last commit, and how far the log leads on."""
        found = []
        for base in among:
            if base.item.type != "full" or not base.item.is_whole:
                continue
            reached = base.seen_to
            if base.item.log is not None:
                end = base.item.log.to_lsn
                for part in sorted(among, key=lambda m: m.begins):
                    is_on = part.item.is_part and part.item.is_whole and part.epoch == base.epoch
                    if is_on and part.begins <= end:
                        end = max(end, part.seen_to)
                reached = max(reached, end)
            found.append((base.seen_to, reached))
        return found


def _check(year: Year, now: datetime, everything: list[Made]) -> None:
    """Whatever could be recovered if nothing had ever been removed still can."""
    left = list(year.made.values())
    newest = max(one.item.stored_at for one in left)
    begin = newest - year.policy.window
    near = [m for m in everything if m.item.stored_at > begin - timedelta(days=4)]
    all_of_them, those_left = year.reach(near), year.reach(left)
    for n in range(8):
        moment = begin + n * year.policy.window / 7
        commits = bisect.bisect_right(year.commits, moment)
        if any(seen <= commits <= reached for seen, reached in all_of_them):
            can = any(seen <= commits <= reached for seen, reached in those_left)
            assert can, f"{moment} of {now} is lost"
    for kind, age in (("full", year.policy.full), ("sealed", year.policy.sealed),
                      ("safety", year.policy.safety)):  # fmt: skip
        missing = [m.item.id for m in year.gone
                   if m.item.type == kind and newest - m.item.stored_at < age]  # fmt: skip
        assert not missing
    fulls = [m for m in everything if m.item.type == "full"]
    whole = [m for m in fulls if m.item.is_whole]
    for one in (fulls, whole):
        assert not one or one[-1].item.id in year.made


@pytest.mark.parametrize("seed", range(4))
def test_a_year_of_runs(seed: int) -> None:
    """The right ones stay, nothing that is needed ever goes, and the storage does not fill up."""
    _live(seed, days=366 if seed == 0 else 60)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 130))
def test_more_years_of_runs(seed: int) -> None:
    """With other policies and more that fails."""
    _live(seed, days=366)


def _live(seed: int, *, days: int) -> None:
    chance = random.Random(seed)
    policy = Policy() if seed == 0 else Policy(
        incremental=HOUR * chance.choice([0, 12, 24, 72]),
        full=timedelta(days=chance.choice([0, 1, 7, 14])),
        sealed=timedelta(days=chance.choice([7, 30])),
        window=HOUR * chance.choice([6, 24, 24, 72]),
    )  # fmt: skip
    year = Year(chance, policy, failing=chance.choice([0.0, 0.05, 0.3]))
    most = 0
    for n in range(days * 24):
        now = START + n * HOUR
        year.hour(now)
        if not year.made or chance.random() < 0.5:
            continue  # a prune that was missed
        year.prune(now + timedelta(minutes=30))
        most = max(most, len(year.made))
        if n % 23 == 0:
            _check(year, now, sorted([*year.made.values(), *year.gone[-3000:]],
                                     key=lambda m: m.item.sequence))  # fmt: skip
    assert year.gone
    assert most < 40 * 24, "nothing was removed for a month"
    left = {m.item.type for m in year.made.values()}
    assert "full" in left
    # At the end: with all clocks right, nothing stays without a reason that is right.
    now = START + days * 24 * HOUR
    for _ in range(2):
        verdicts = decide((m.item for m in year.made.values()), policy, now=now)
        for verdict in verdicts:
            if not verdict.keep:
                year.gone.append(year.made.pop(verdict.item.id))
    _check(year, now, sorted([*year.made.values(), *year.gone[-3000:]],
                             key=lambda m: m.item.sequence))  # fmt: skip
    oldest_needed = max(policy.sealed, policy.full, policy.window) + timedelta(days=8)
    newest = max(m.item.stored_at for m in year.made.values())
    old = [m.item.id for m in year.made.values() if newest - m.item.stored_at > oldest_needed]
    assert len(old) <= 4 + 60 * (year.failing > 0), old
