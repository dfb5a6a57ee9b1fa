"""Recovery tests: green where all is well, and red in the right colour where it is not."""

from pathlib import Path

import pytest

from aurora.engines.logical.targets import Target
from aurora.errors import RepositoryNotFound, UsageError
from aurora.events import discard
from aurora.operations.point import find_point
from aurora.operations.proof import server as proof_server
from aurora.operations.proof.assertions import Assertion
from aurora.operations.proof.canary import canaries
from aurora.operations.proof.checks import Check, Outcome, Status
from aurora.operations.proof.recovery_report import TestReport
from aurora.operations.recover import plan_recovery, run_recovery
from aurora.operations.restore_plan import RestoreOptions
from aurora.postgres.embedded import EmbeddedServer, find_embedded
from aurora.postgres.tools import inspect_tools
from aurora.storage.memory import MemoryStorage
from tests.fixtures.changelog import logged
from tests.fixtures.faults import run_sql
from tests.fixtures.projects import LABEL, NewTarget
from tests.fixtures.proving import ProvingGround

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.proof"]


def _check(report: TestReport, name: str, trial: int = 0) -> Check:
    found = [check for check in report.trials[trial].checks if check.name == name]
    assert found, [check.name for check in report.trials[trial].checks]
    return found[0]


def _work(ground: ProvingGround, times: int = 6) -> None:
    """Transactions that each change keyed rows."""
    for n in range(1, times + 1):
        run_sql(
            ground.dsn,
            f"BEGIN; UPDATE orders SET note = 'n{n}' WHERE id BETWEEN {n * 10} AND {n * 10 + 5};"
            f" INSERT INTO customers (name) VALUES ('new {n}');"
            f" DELETE FROM orders WHERE id = {8000 - n}; COMMIT",
        )


def _change_one_byte(storage: MemoryStorage, prefix: str = "chunks/") -> str:
    name = next(name for name in sorted(storage.objects) if name.startswith(prefix))
    stored, info = storage.objects[name]
    data = bytearray(stored)
    data[len(data) // 2] ^= 1
    storage.objects[name] = (bytes(data), info)
    return name


def test_all_is_well(ground: ProvingGround) -> None:
    """The newest full, a random point, and from one full to the next: exact, nothing left."""
    first = ground.full()
    _work(ground)
    ground.incremental()
    second = ground.full()
    _work(ground, 2)
    ground.incremental()

    report = ground.run(point=True, full=True, seed=1, rto_goal=3600.0)

    assert (report.outcome, [trial.outcome for trial in report.trials]) == (Outcome.OK, ["ok"] * 3)
    assert report.trials[0].backup_id == second
    assert "equal to the recorded source" in _check(report, "rows and checksums").detail
    assert _check(report, "canaries around the point", 1).status is Status.PASSED
    crossing = _check(report, "checksums at the next full", 2)
    assert (crossing.status, report.trials[2].backup_id) == (Status.PASSED, first)
    assert f"2 of 2 tables equal to what {second} counted" in crossing.detail
    assert _check(report, "assertions").status is Status.SKIPPED
    assert "passed" in report.verdict
    assert "3 skipped" in report.verdict
    assert report.rto is not None
    assert report.rpo is not None
    phases = dict(report.trials[0].phases)
    assert {"loading rows", "checking every row"} <= set(phases)
    assert ground.leftovers() == []
    assert ground.run(point=True, seed=1).trials[1].target == report.trials[1].target


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_bad_chunk_is_the_backups_fault(ground: ProvingGround, harm: str) -> None:
    """Red, and nothing but the backup is blamed."""
    ground.full()
    storage = ground.project.primary
    assert isinstance(storage, MemoryStorage)
    name = _change_one_byte(storage)
    if harm == "missing":
        storage.delete([name])
    report = ground.run()
    assert report.outcome is Outcome.BAD
    assert name in report.verdict
    assert ground.leftovers() == []


def test_an_assertion_that_turned_false(ground: ProvingGround) -> None:
    """Red, named by its first line; one that is no SQL, or takes too long, tells nothing."""
    ground.full()
    right = Assertion("right.sql", "-- There are orders\nSELECT count(*) > 0 FROM orders")
    wrong = Assertion("few.sql", "-- Few customers\nSELECT count(*) < 10 FROM customers")
    report = ground.run(assertions=(right, wrong))
    assert report.outcome is Outcome.BAD
    assert "assertion few.sql: Few customers: not true" in report.verdict
    assert _check(report, "assertion right.sql").status is Status.PASSED

    nonsense = Assertion("nonsense.sql", "SELEKT true")
    endless = Assertion("endless.sql", "SELECT pg_sleep(60) IS NOT NULL")
    insert = "INSERT INTO customers (name) VALUES ('x') RETURNING true"
    writes = Assertion("writes.sql", insert)
    assert ground.run(assertions=(nonsense,)).outcome is Outcome.INCONCLUSIVE
    assert ground.run(assertions=(endless,), timeout=0.05).outcome is Outcome.INCONCLUSIVE
    assert ground.run(assertions=(writes,)).outcome is Outcome.BAD  # it is read-only


def test_only_invariants_are_asked_of_a_point_in_time(ground: ProvingGround) -> None:
    """An assertion about the newest state would be wrong there."""
    ground.full()
    _work(ground, 3)
    ground.incremental()
    now = Assertion("now.sql", "SELECT count(*) = 8000 FROM orders")
    ever = Assertion(
        "ever.sql", "SELECT count(*) = 0 FROM orders WHERE customer IS NULL", invariant=True
    )
    report = ground.run(point=True, assertions=(now, ever))
    assert report.outcome is Outcome.OK
    assert [c.name for c in report.trials[1].checks if c.name.endswith(".sql")] == [
        "invariant ever.sql"
    ]


def test_slower_than_the_goal_is_red(ground: ProvingGround) -> None:
    """Though everything is right; the measured time is told."""
    ground.full()
    report = ground.run(rto_goal=0.001)
    assert report.outcome is Outcome.SLOW
    assert report.rto is not None
    assert "the goal is 0.0 s" in report.verdict


def test_a_missing_extension_is_not_the_backups_fault(
    ground: ProvingGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server of the wheel has no pgcrypto: environment, or skipped where that is accepted."""
    run_sql(ground.dsn, "CREATE EXTENSION pgcrypto")
    ground.full()
    wheel = inspect_tools(find_embedded())
    monkeypatch.setattr(proof_server, "installed_servers", lambda _: [wheel])
    report = ground.run(server_dsn=None)
    assert report.outcome is Outcome.ENVIRONMENT
    assert "lacks the extensions pgcrypto" in report.verdict
    accepted = ground.run(server_dsn=None, without_extensions=("pgcrypto",))
    assert accepted.outcome is Outcome.OK
    assert _check(accepted, "extension versions").status is Status.SKIPPED
    assert "skipped" in accepted.verdict


def test_no_server_of_that_version(ground: ProvingGround, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed that could take the backup, or there is no room for it."""
    ground.full()
    monkeypatch.setattr(proof_server, "installed_servers", lambda _: [])
    report = ground.run(server_dsn=None)
    assert report.outcome is Outcome.ENVIRONMENT
    assert "no PostgreSQL server of version" in report.verdict
    assert report.rto is None


def test_no_room(ground: ProvingGround, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is restored."""
    ground.full()
    monkeypatch.setattr(proof_server, "_LEAST_ROOM", 1 << 60)
    report = ground.run(server_dsn=None)
    assert report.outcome is Outcome.ENVIRONMENT
    assert "of disk" in report.verdict


def test_the_source_is_never_tested_on(ground: ProvingGround, pg: EmbeddedServer) -> None:
    """A test makes roles and databases; not there."""
    ground.full()
    before = run_sql(pg.dsn(), "SELECT count(*) FROM pg_roles")
    with pytest.raises(UsageError, match="the source itself"):
        ground.run(server_dsn=pg.dsn())
    assert run_sql(pg.dsn(), "SELECT count(*) FROM pg_roles") == before


def test_nothing_to_test(ground: ProvingGround) -> None:
    """Without a full backup there is no test."""
    with pytest.raises(RepositoryNotFound):
        ground.run()


def test_what_a_killed_test_left_on_a_given_server_is_swept(ground: ProvingGround) -> None:
    """Databases of tests that nobody is connected to."""
    ground.full()
    run_sql(ground.server.dsn(), "CREATE DATABASE aurora_recovery_test_0badcafe")
    assert ground.run().outcome is Outcome.OK
    assert ground.leftovers() == []


def test_a_lost_log_segment_is_the_backups_fault(ground: ProvingGround) -> None:
    """Red, and the segment is named: a full's verification covers the log streamed since."""
    ground.full()
    _work(ground, 3)
    ground.incremental()
    storage = ground.project.primary
    assert isinstance(storage, MemoryStorage)
    name = _change_one_byte(storage, "log/")
    report = ground.run(point=True)
    assert report.outcome is Outcome.BAD
    assert [trial.outcome for trial in report.trials] == [Outcome.BAD] * len(report.trials)
    assert name in report.verdict


def test_canaries_tell_a_recovery_that_missed_its_point(
    ground: ProvingGround, new_target: NewTarget
) -> None:
    """One transaction too many or too few is seen in the rows beside the point."""
    ground.full()
    _work(ground, 4)
    ground.incremental()
    repository = ground.project.repository
    found = [one.lsn for one in logged(ground.project) if one.tables]
    points = [find_point(repository, LABEL, Target(lsn=lsn), sink=discard) for lsn in found]
    dsn = new_target()
    plan = plan_recovery(
        repository, LABEL, Target(lsn=found[1]), dsn, RestoreOptions(), sink=discard
    )
    run_recovery(plan, make_safety_backup=None, sink=discard)
    assert canaries(dsn, points[1]).status is Status.PASSED
    early, late = canaries(dsn, points[2]), canaries(dsn, points[0])
    assert early.status is Status.FAILED
    assert "is not as that transaction left it" in " ".join(early.problems)
    assert late.status is Status.FAILED
    assert "was inserted and is there" in " ".join(late.problems)


def test_a_source_without_a_log_is_tested_by_its_full_alone(ground: ProvingGround) -> None:
    """The random point is skipped, and said to be."""
    ground.full()
    report = ground.run(point=True, full=True)
    assert report.outcome is Outcome.OK
    assert [trial.left_out for trial in report.trials] == [False, True, True]
    assert "skipped" in report.verdict


def test_the_report_is_readable(ground: ProvingGround, tmp_path: Path) -> None:
    """Markdown and HTML; a name from the database cannot become markup."""
    from aurora.operations.proof import evidence

    run_sql(ground.dsn, 'CREATE TABLE "<b>|`x`" (id int)')
    ground.full()
    wrong = Assertion("<script>.sql", "SELECT false")
    report = ground.run(assertions=(wrong,))
    files = evidence.texts("r", report.document(), report.markdown())
    assert "<script>" not in files["r.html"]
    assert "<table>" in files["r.html"]
    path = evidence.write(tmp_path, files)
    assert path.name == "r.md"
    assert {one.name for one in tmp_path.iterdir()} == {"r.json", "r.md", "r.html"}
