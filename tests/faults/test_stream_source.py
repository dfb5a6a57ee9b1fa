"""A stream whose source fails it: restarts, a failover, slots that are lost, schema changes."""

import subprocess
import time
from pathlib import Path

import pytest

from aurora.engines.logical.targets import Target
from aurora.errors import SourceError
from aurora.operations.recover import plan_recovery, run_recovery
from aurora.operations.restore_plan import RestoreOptions
from aurora.postgres.embedded import EmbeddedServer
from aurora.storage.memory import MemoryStorage
from tests.fixtures.changelog import full, incremental, logged, prepare
from tests.fixtures.faults import Line
from tests.fixtures.looks import run_script, run_sql
from tests.fixtures.postgres import NewDatabase, NewServer
from tests.fixtures.projects import LABEL, NewTarget, Project
from tests.fixtures.streaming import Streaming, Unplugged, streaming

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

TABLE = "CREATE TABLE keyed (id int PRIMARY KEY, v text)"


def insert(dsn: str, first: int, last: int) -> None:
    """One transaction for each number."""
    run_sql(dsn, *(f"INSERT INTO keyed VALUES ({number})" for number in range(first, last + 1)))


def fulls(project: Project) -> int:
    return sum(one.type == "full" for one in project.repository.backups(LABEL))


def has_fulls(running: Streaming, project: Project, count: int) -> None:
    """Wait for so many fulls, and until none is being made."""
    running.reaches(lambda state: fulls(project) == count and not state.full)


def recovered(project: Project, target: str) -> list[int]:
    """The rows after a recovery to the log's end."""
    plan = plan_recovery(
        project.repository, LABEL, Target(latest=True), target, RestoreOptions(),
        sink=project.events.append,
    )  # fmt: skip
    report = run_recovery(plan, make_safety_backup=None, sink=project.events.append)
    assert (report.outcome, report.problems) == ("restored", [])
    return [number for (number,) in run_sql(target, "SELECT id FROM keyed ORDER BY id")]


def prepared(dsn: str) -> str:
    run_script(dsn, TABLE)
    prepare(dsn)
    return dsn


@pytest.mark.parametrize("how", ["restart", "kill9"])
def test_a_server_that_starts_again(
    how: str, new_server: NewServer, project: Project, new_target: NewTarget
) -> None:
    server = new_server()
    dsn = prepared(server.dsn())
    full(project, dsn)
    with streaming(project, dsn) as running:
        insert(dsn, 1, 10)
        running.keeps(dsn)
        insert(dsn, 11, 15)
        getattr(server, how)()
        server.start()
        insert(dsn, 16, 20)
        running.keeps(dsn)
        assert len(running.warned("stream-source-down")) == 1
        running.end()
    assert len(logged(project)) == 20
    assert fulls(project) == 1
    assert recovered(project, new_target(server)) == list(range(1, 21))


def test_a_source_that_never_comes_back_has_given_what_it_sent(
    new_server: NewServer, project: Project, new_target: NewTarget
) -> None:
    server = new_server()
    dsn = prepared(server.dsn())
    full(project, dsn)
    with streaming(project, dsn, interval=600.0) as running:
        running.streams()
        insert(dsn, 1, 50)
        running.reaches(lambda state: state.received_lsn > 0)
        (row,) = run_sql(dsn, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        running.reaches(lambda state: state.received_lsn >= int(row[0]))
        server.kill9()
        running.reaches(lambda state: state.state == "source-down")
        running.end()
    assert len(logged(project)) == 50
    plan = plan_recovery(
        project.repository, LABEL, Target(latest=True), new_target(), RestoreOptions(),
        sink=project.events.append,
    )  # fmt: skip
    assert any("could not be asked" in notice for notice in plan.point.notices)
    assert recovered(project, new_target()) == list(range(1, 51))


def test_a_slot_that_somebody_dropped_is_made_anew_with_a_full(
    new_database: NewDatabase, project: Project, new_target: NewTarget
) -> None:
    dsn = prepared(new_database())
    full(project, dsn)
    with streaming(project, dsn) as running:
        insert(dsn, 1, 5)
        running.keeps(dsn)
        run_sql(
            dsn,
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
            " WHERE slot_name = 'aurora_app'",
            "SELECT pg_drop_replication_slot('aurora_app')",
        )
        has_fulls(running, project, 2)
        insert(dsn, 6, 10)
        running.keeps(dsn)
        assert running.warned("slot-lost")
        running.end()
    assert recovered(project, new_target()) == list(range(1, 11))
    assert incremental(project, dsn).type == "incremental"


def test_a_slot_that_somebody_read_begins_a_new_log(
    new_database: NewDatabase, project: Project, new_target: NewTarget
) -> None:
    dsn = prepared(new_database())
    full(project, dsn)
    insert(dsn, 1, 5)
    run_sql(
        dsn, "SELECT pg_replication_slot_advance('aurora_app', pg_current_wal_insert_lsn())::text"
    )
    with streaming(project, dsn) as running:
        has_fulls(running, project, 2)
        insert(dsn, 6, 10)
        running.keeps(dsn)
        running.end()
    told = [getattr(one, "message", "") for one in project.events]
    assert any("somebody else has read the slot" in text for text in told)
    assert recovered(project, new_target()) == list(range(1, 11))


def test_a_schema_change_makes_a_full_by_itself(
    new_database: NewDatabase, project: Project, new_target: NewTarget
) -> None:
    dsn = prepared(new_database())
    full(project, dsn)
    with streaming(project, dsn) as running:
        insert(dsn, 1, 5)
        running.keeps(dsn)
        run_script(dsn, "ALTER TABLE keyed ADD COLUMN more int DEFAULT 7; CREATE TABLE fresh"
                   " (id int PRIMARY KEY); INSERT INTO fresh VALUES (1)")  # fmt: skip
        insert(dsn, 6, 10)
        has_fulls(running, project, 2)
        run_script(dsn, "INSERT INTO fresh VALUES (2)")
        insert(dsn, 11, 15)
        running.keeps(dsn)
        made = incremental(project, dsn)
        assert made.type == "incremental", made.reason
        assert fulls(project) == 2, "one full for the change, not one for each look"
        running.end()
    target = new_target()
    assert recovered(project, target) == list(range(1, 16))
    assert run_sql(target, "SELECT id FROM fresh ORDER BY id") == [(1,), (2,)]
    third = [one for one in logged(project) if "public.keyed" in one.tables][2]
    plan = plan_recovery(
        project.repository, LABEL, Target(xid=third.xid), new_target(), RestoreOptions(),
        sink=project.events.append,
    )  # fmt: skip
    assert plan.resolution.cut is not None
    assert plan.resolution.cut.xid == third.xid


def test_a_slot_that_endangers_its_source_is_given_up(
    new_server: NewServer, new_target: NewTarget
) -> None:
    server = new_server()
    dsn = prepared(server.dsn())
    storage = Unplugged(MemoryStorage("primary"))
    project = Project.create(storage, MemoryStorage("s"))
    full(project, dsn)
    with streaming(project, dsn, max_wal=64 << 20) as running:
        insert(dsn, 1, 5)
        running.keeps(dsn)
        storage.out.set()
        insert(dsn, 6, 10)
        for number in range(5):
            run_sql(dsn, "SELECT pg_switch_wal()::text")
            insert(dsn, 100 + number, 100 + number)
        running.reaches(lambda _: running.warned("slot-dropped"), within=90)
        assert run_sql(dsn, "SELECT FROM pg_replication_slots") == []
        storage.out.clear()
        has_fulls(running, project, 2)
        insert(dsn, 11, 12)
        running.keeps(dsn)
        running.end()
    assert recovered(project, new_target()) == [*range(1, 13), *range(100, 105)]


def test_a_failover_to_a_promoted_standby(
    new_server: NewServer, project: Project, line_to: object, open_dir: Path, new_target: NewTarget
) -> None:
    primary = new_server()
    dsn = prepared(primary.dsn())
    line, through = line_to(dsn)  # type: ignore[operator]
    assert isinstance(line, Line)
    full(project, dsn)
    standby = _standby_of(primary, open_dir / "standby")
    try:
        with streaming(project, through) as running:
            insert(dsn, 1, 10)
            running.keeps(dsn)
            _catches_up(primary, standby)
            primary.kill9()
            run_sql(standby.dsn(), "SELECT pg_promote()")
            line.point(standby.port)
            insert(standby.dsn(), 11, 15)
            has_fulls(running, project, 2)
            insert(standby.dsn(), 16, 20)
            running.keeps(standby.dsn())
            running.end()
        assert recovered(project, new_target(standby)) == list(range(1, 21))
        assert running.warned("slot-lost")
    finally:
        standby.close()


def _standby_of(primary: EmbeddedServer, directory: Path) -> EmbeddedServer:
    """A streaming standby of *primary*, running."""
    subprocess.run(
        [str(primary.tools.path("pg_basebackup")), "-d", primary.dsn(), "-D", str(directory),
         "-X", "stream", "-R", "-c", "fast"],
        check=True, capture_output=True, env=primary._environment(),
    )  # fmt: skip
    made = EmbeddedServer(
        bin_dir=primary.bin_dir, data_dir=directory, password=primary.password,
        settings={**primary.settings, "hot_standby": "on"},
    )  # fmt: skip
    made.start()
    return made


def _catches_up(primary: EmbeddedServer, standby: EmbeddedServer) -> None:
    (row,) = run_sql(primary.dsn(), "SELECT pg_current_wal_insert_lsn()::text")
    end = time.monotonic() + 60
    while not run_sql(
        standby.dsn(), f"SELECT 1 WHERE pg_last_wal_replay_lsn() >= '{row[0]}'::pg_lsn"
    ):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_incrementals_without_a_walsender(
    new_server: NewServer, project: Project, new_target: NewTarget
) -> None:
    """As behind a pooler: ordinary sessions read the slot; a stream says what it needs."""
    server = new_server(max_wal_senders="0")
    dsn = prepared(server.dsn())
    full(project, dsn)
    insert(dsn, 1, 20)
    run_sql(dsn, "INSERT INTO keyed SELECT i, repeat('x', 2000) FROM generate_series(1000, 9000) i")
    first = incremental(project, dsn, jobs=1)
    assert (first.type, first.reason) == ("incremental", "")
    assert first.log is not None
    assert first.log.acknowledged
    insert(dsn, 21, 25)
    assert incremental(project, dsn, jobs=1).type == "incremental"
    (row,) = run_sql(dsn, "SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots")
    assert int(row[0]) >= first.log.to_lsn
    found = logged(project)
    assert len(found) == 26
    assert len({one.xid for one in found}) == 26
    assert recovered(project, new_target()) == [*range(1, 26), *range(1000, 9001)]
    with streaming(project, dsn) as running:
        running.thread.join(30)
    assert isinstance(running.error, SourceError)
    assert "replication" in running.error.message
