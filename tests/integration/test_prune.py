"""`prune` on real backups: what is removed, what still restores, and the commands around it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aurora.api.retention import policy_of
from aurora.engines.logical.targets import Target, to_micros
from aurora.errors import UsageError
from aurora.operations.holds import hold, release, undelete
from aurora.operations.prune import PruneOptions, PrunePlan, PruneReport, plan_prune, run_prune
from aurora.operations.recover import plan_recovery, run_recovery
from aurora.operations.restore_plan import RestoreOptions
from aurora.repository.mirror import replicate
from aurora.repository.retention import Policy
from aurora.repository.verify import Level, verify
from aurora.storage.memory import MemoryStorage
from aurora.wiring import Aurora
from tests.fixtures.changelog import full, incremental, prepare
from tests.fixtures.clocks import TestClock
from tests.fixtures.faults import Workplace, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import LABEL, NewTarget, Project

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]


@dataclass(slots=True)
class House:
    """A source with a change log, on storages whose clock the test turns."""

    project: Project
    dsn: str
    clock: TestClock

    def plan(self, place: str = "primary", **options: Any) -> PrunePlan:
        on_primary = place == "primary"
        repository = self.project.repository if on_primary else self.project.repository_on_mirror
        chosen = PruneOptions(**{"database": LABEL, **options})
        return plan_prune(repository, place, chosen, sink=self.project.events.append)

    def prune(self, place: str = "primary", **options: Any) -> PruneReport:
        return run_prune(self.plan(place, **options), sink=self.project.events.append)

    def ids(self, kind: str = "") -> list[str]:
        entries = self.project.repository.backups(LABEL)
        return [e.id for e in sorted(entries, key=lambda e: e.sequence or 0) if kind in e.id]

    def sql(self, statement: str) -> datetime:
        """Run it; a moment between it and whatever comes next."""
        run_sql(self.dsn, statement)
        [[at]] = run_sql(self.dsn, "SELECT clock_timestamp()")
        run_sql(self.dsn, "SELECT pg_sleep(0.002)")
        assert isinstance(at, datetime)
        return at

    def rows_at(self, target: str, moment: datetime) -> list[tuple[Any, ...]]:
        plan = plan_recovery(
            self.project.repository, LABEL, Target(at=to_micros(moment)), target,
            RestoreOptions(), sink=self.project.events.append,
        )  # fmt: skip
        run_recovery(plan, make_safety_backup=None, sink=self.project.events.append)
        return run_sql(target, "SELECT v FROM t ORDER BY v")


@pytest.fixture
def house(new_database: NewDatabase) -> Iterator[House]:
    clock = TestClock()
    project = Project.create(
        MemoryStorage("primary", now=clock), MemoryStorage("secondary", now=clock)
    )
    dsn = new_database()
    run_sql(dsn, "CREATE TABLE t (v int PRIMARY KEY)")
    prepare(dsn)
    yield House(project, dsn, clock)
    run_sql(dsn, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                 " WHERE database = current_database()")  # fmt: skip


def test_every_point_of_the_window_restores_after_days_of_pruning(
    house: House, new_target: NewTarget
) -> None:
    """A full a day, incrementals in between, and `prune` after each: the window holds."""
    policy = Policy(full=timedelta(days=2))
    moments: list[tuple[datetime, int]] = []
    value = 0
    for _ in range(6):
        full(house.project, house.dsn)
        house.prune(policy=policy)
        for _ in range(2):
            house.clock.turn(hours=9)
            value += 1
            moments.append((house.sql(f"INSERT INTO t VALUES ({value})"), value))
            incremental(house.project, house.dsn)
            house.prune(policy=policy)
        house.clock.turn(hours=6)
    kept = [row for row in house.plan(policy=policy).rows if row.decision == "keep"]
    assert len([row for row in kept if row.verdict.item.type == "full"]) == 2
    assert len(house.ids("full")) == 4  # and two that can still be had back
    repository = house.project.repository
    assert verify(repository, repository.backups(), Level.FULL).ok
    for moment, inserted in moments[-3:]:
        assert house.rows_at(new_target(), moment) == [(n,) for n in range(1, inserted + 1)]
    with pytest.raises(UsageError):
        house.rows_at(new_target(), moments[0][0])


def test_a_removed_backup_can_be_had_back(house: House) -> None:
    """Until it is deleted; and a held one is never removed."""
    for _ in range(11):
        full(house.project, house.dsn)
        house.clock.turn(days=1)
    ids = house.ids()
    hold(house.project.repository, LABEL, ids[0], "evidence")
    report = house.prune()
    assert sorted(report.announced) == sorted(ids[1:4])
    assert report.collected is not None
    assert report.collected.backups == []
    house.clock.turn(hours=47)
    assert house.prune().announced == []
    assert undelete(house.project.repository, LABEL, ids[2]) == ids[2]
    with pytest.raises(UsageError, match="is not removed"):
        undelete(house.project.repository, LABEL, ids[2])
    house.clock.turn(hours=1)
    done = house.prune()
    assert done.collected is not None
    assert sorted(done.collected.backups) == sorted([f"{LABEL}/{ids[1]}", f"{LABEL}/{ids[3]}"])
    assert house.ids() == [ids[0], ids[2], *ids[4:]]
    # Released, its time begins anew: nobody loses it at once.
    release(house.project.repository, LABEL, ids[2])
    release(house.project.repository, LABEL, ids[0])
    again = house.prune()
    assert sorted(again.announced) == sorted([ids[0], ids[2]])
    assert ids[2] in house.ids()
    house.clock.turn(hours=48)
    house.prune()
    assert house.ids() == ids[4:]
    primary = house.project.primary
    assert isinstance(primary, MemoryStorage)
    assert [name for name in primary.objects if name.startswith("removals/")] == []


def test_a_hold_that_comes_late_still_keeps(house: House) -> None:
    """A removal that was announced long ago is void once the backup is held, and begins anew."""
    for _ in range(10):
        full(house.project, house.dsn)
        house.clock.turn(days=1)
    ids = house.ids()
    assert sorted(house.prune().announced) == sorted(ids[:3])
    house.clock.turn(days=5)
    plan = house.plan()
    hold(house.project.repository, LABEL, ids[0], "just in time")
    done = run_prune(plan, sink=house.project.events.append)
    assert done.collected is not None
    assert sorted(done.collected.backups) == sorted([f"{LABEL}/{one}" for one in ids[1:3]])
    assert house.prune().undone == [ids[0]]
    release(house.project.repository, LABEL, ids[0])
    assert house.prune().announced == [ids[0]]
    assert ids[0] in house.ids()


def test_nothing_goes_while_everything_is_held(house: House) -> None:
    """An anomaly is open: no removal, no deletion, not even of what was announced."""
    for _ in range(10):
        full(house.project, house.dsn)
        house.clock.turn(days=1)
    ids = house.ids()
    house.prune()
    hold(house.project.repository, LABEL, "all", "anomaly 7")
    full(house.project, house.dsn)
    house.clock.turn(days=3)
    report = house.prune()
    assert (report.collected, report.announced) == (None, [])
    assert report.frozen == [f"{LABEL}: anomaly 7"]
    assert house.ids()[:10] == ids
    release(house.project.repository, LABEL, "all")
    assert house.prune().collected is not None
    assert house.ids()[0] == ids[3]


def test_the_secondary_keeps_for_longer(house: House) -> None:
    """Each storage decides by itself, and a copying run brings nothing back."""
    longer = Policy(full=timedelta(days=14))
    for _ in range(6):
        full(house.project, house.dsn)
        replicate(house.project.primary, house.project.mirror)
        house.clock.turn(days=2)
        house.prune()
        house.prune("secondary", policy=longer)
    assert len(house.ids()) == 5
    there = house.project.repository_on_mirror
    assert len(there.backups(LABEL)) == 6
    assert replicate(house.project.primary, house.project.mirror).copied_objects == 0
    house.clock.turn(days=30)
    full(house.project, house.dsn)
    replicate(house.project.primary, house.project.mirror)
    report = house.prune("secondary", policy=longer, allow_many=True)
    assert len(report.announced) == 5
    house.clock.turn(days=2)
    house.prune("secondary", policy=longer)
    there = house.project.repository_on_mirror
    assert len(there.backups(LABEL)) == 2
    assert verify(there, there.backups(), Level.FULL).ok


def test_more_than_half_at_once_is_refused(house: House) -> None:
    """A clock that jumped, or a setting that was mistyped."""
    for _ in range(5):
        full(house.project, house.dsn)
        house.clock.turn(days=1)
    house.clock.turn(days=400)
    full(house.project, house.dsn)
    with pytest.raises(UsageError, match="more than half"):
        house.prune()
    assert len(house.ids()) == 6
    plan = house.plan(allow_many=True)
    assert len(run_prune(plan, sink=house.project.events.append).announced) == 4


def test_a_broken_newest_full_saves_the_last_whole_one(house: House) -> None:
    """What is stored is looked at before anything is removed."""
    full(house.project, house.dsn)
    house.clock.turn(days=30)
    house.sql("INSERT INTO t SELECT generate_series(1, 1000)")
    full(house.project, house.dsn)
    primary = house.project.primary
    old, new = house.ids()
    repository = house.project.repository
    assert house.plan().rows[0].verdict.reasons == ("the recovery window begins with it",)
    house.clock.turn(days=2)
    full(house.project, house.dsn)
    assert house.plan().rows[0].decision == "remove"
    newest = repository.backups()[-1]
    shared = {one.name for one in repository.refs(repository.resolve(old)).objects}
    lost = next(one.name for one in repository.refs(newest).objects if one.name not in shared
                and one.name.startswith("chunks/"))  # fmt: skip
    primary.delete([lost])
    rows = {row.id: row for row in house.plan().rows}
    assert "the newest full of which nothing is missing" in rows[old].reasons
    assert rows[new].decision == "keep"


def _age(directory: Path, **by: float) -> None:
    """Make everything below *directory* older."""
    seconds = timedelta(**by).total_seconds()
    for path in directory.rglob("*"):
        if path.is_file():
            found = path.stat()
            os.utime(path, (found.st_atime, found.st_mtime - seconds))


def _listed(workplace: Workplace) -> dict[str, dict[str, Any]]:
    backups = workplace.run("backup", "list", "--json").lines[-1]["backups"]
    return {one["backup_id"]: one for one in backups}


def test_the_commands(workplace: Workplace) -> None:
    """As a user types them, on directories whose files are made old."""
    for _ in range(4):
        done = workplace.run("backup", "create", "--json")
        assert done.code == 0, done.err
        for place in ("a", "b"):
            _age(workplace.directory / place, days=4)
    dry = workplace.run("backup", "prune", "--dry-run", "--json")
    assert dry.code == 0, dry.err
    primary, secondary = dry.lines[-1]["storages"]
    assert [one["decision"] for one in primary["backups"]] == ["remove", "remove", "keep", "keep"]
    assert [one["decision"] for one in secondary["backups"]] == ["keep"] * 4
    first, second, third, _ = [one["backup_id"] for one in primary["backups"]]
    shown = workplace.run("backup", "prune", "--dry-run")
    assert "primary: would keep 2 and remove 2" in shown.out
    assert "older than the newest, kept for 7 days" in " ".join(shown.out.split())
    refused = workplace.run("backup", "prune")
    assert refused.code == 2
    assert "needs a confirmation" in refused.err

    held = workplace.run("backup", "hold", first[-5:], "--why", "ask Eva")
    assert (held.code, held.out) == (0, f"{first} is held on the primary and the secondary\n")
    assert workplace.run("backup", "hold", first).code == 2
    done = workplace.run("backup", "prune", "--yes", "--json")
    assert done.code == 0, done.err
    assert done.lines[-1]["storages"][0]["announced"] == [second]
    listed = _listed(workplace)
    assert listed[first]["held"] == ["ask Eva"]
    assert listed[second]["removed_at"]
    assert listed[third]["removed_at"] is None
    assert "held: ask Eva" in workplace.run("backup", "list").out
    back = workplace.run("backup", "undelete", second)
    assert (back.code, back.out.split()[:3]) == (0, [second, "is", "kept,"])
    assert workplace.run("backup", "undelete", second).code == 2
    assert workplace.run("backup", "release", second).code == 0
    assert workplace.run("backup", "release", second).code == 10
    assert workplace.run("backup", "prune", "--yes").code == 0
    for place in ("a", "b"):
        _age(workplace.directory / place, hours=49)
    done = workplace.run("backup", "prune", "--yes", "--json")
    assert done.lines[-1]["storages"][0]["collected"]["backups"] == [f"app/{second}"]
    assert workplace.run("backup", "verify", first).code == 0
    healed = workplace.run("backup", "heal", "all", "--json")
    assert healed.code == 0
    left = {name: one["elsewhere"] for name, one in _listed(workplace).items()}
    assert (left[first], left[second], left[third]) == (False, True, False)
    assert "on the secondary only" in workplace.run("backup", "list").out
    trail = workplace.run("audit", "show", "--json")
    told = [one["operation"] for one in trail.lines if "operation" in one]
    assert {"backup prune", "backup hold", "backup release", "backup undelete"} <= set(told)


@pytest.mark.parametrize(
    "line, words",
    [
        ('[retention]\nfull = "0"\nsealed = "0"\nincremental = "0"\nwindow = "0"', "keeps nothing"),
        ('[retention]\nundelete = "1 h"', "undelete"),
        ('[retention.secondary]\nfull = "1 d"', "secondary.full is shorter"),
        ('[retention]\nfull = "a week"', "not a duration"),
        ('[retention.secondary]\nfulls = "30 d"', "unknown key retention.secondary.fulls"),
        ('[primary.collector_credentials]\nsecret_access_key = "abc"', "holds a secret"),
    ],
)
def test_settings_that_cannot_be_meant(workplace: Workplace, line: str, words: str) -> None:
    """Refused with the place, and nothing is removed."""
    path = workplace.directory / "aurora.toml"
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = workplace.run("backup", "prune", "--yes")
    assert done.code == 2
    assert words in done.err


def test_the_environment_sets_retention(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As any other section, the secondary's table too."""
    monkeypatch.setenv("AURORA_RETENTION_FULL", "10 d")
    monkeypatch.setenv("AURORA_RETENTION_SECONDARY_FULL", "60 d")
    aurora = Aurora.load(workplace.directory / "aurora.toml")
    assert policy_of(aurora, "primary").full == timedelta(days=10)
    assert policy_of(aurora, "secondary").full == timedelta(days=60)
    assert policy_of(aurora, "secondary").sealed == timedelta(days=60)
