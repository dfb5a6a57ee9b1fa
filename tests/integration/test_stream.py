"""`aurora stream` against real servers: what it stores, and how it lives with backups."""

import contextlib

import pytest

from aurora.engines.logical.targets import Target
from aurora.errors import UnsupportedRepository
from aurora.operations.log_chain import read_log
from aurora.operations.recover import plan_recovery, run_recovery
from aurora.operations.restore_plan import RestoreOptions
from aurora.operations.stream_lock import StreamRunning
from aurora.operations.verify import verify_backup
from aurora.postgres.embedded import EmbeddedServer
from aurora.repository.ids import STREAM
from aurora.repository.verify import Level, verify
from tests.fixtures.changelog import full, incremental, log_of, logged, prepare
from tests.fixtures.faults import eventually
from tests.fixtures.looks import run_script, run_sql
from tests.fixtures.postgres import NewDatabase, drop_database
from tests.fixtures.projects import LABEL, NewTarget, Project
from tests.fixtures.streaming import streaming

pytest_plugins = ["tests.fixtures.backups"]

SCHEMA = """
CREATE TABLE item (id serial PRIMARY KEY, v text);
CREATE TABLE bare (x int);
INSERT INTO item (v) SELECT 'old ' || i FROM generate_series(1, 20) i;
"""


@pytest.fixture
def dsn(new_database: NewDatabase) -> str:
    """A prepared source."""
    found = new_database()
    run_script(found, SCHEMA)
    prepare(found)
    return found


def pieces(project: Project) -> list[str]:
    """Ids of the pieces that are listed."""
    return [one.id for one in project.repository.backups(LABEL) if one.type == STREAM]


def insert(dsn: str, *values: str) -> None:
    """One transaction each."""
    for value in values:
        run_sql(dsn, f"INSERT INTO item (v) VALUES ('{value}') RETURNING id")


def recovered(project: Project, dsn: str, target: Target) -> list[str]:
    """The new items after a recovery."""
    plan = plan_recovery(
        project.repository, LABEL, target, dsn, RestoreOptions(), sink=project.events.append
    )
    report = run_recovery(plan, make_safety_backup=None, sink=project.events.append)
    assert (report.outcome, report.problems) == ("restored", [])
    return [v for (v,) in run_sql(dsn, "SELECT v FROM item WHERE v NOT LIKE 'old%' ORDER BY id")]


def test_what_is_committed_is_kept_within_the_interval_and_recovered(
    project: Project, dsn: str, new_target: NewTarget
) -> None:
    full(project, dsn)
    with streaming(project, dsn) as running:
        running.streams()
        insert(dsn, "a", "b")
        running.keeps(dsn)
        insert(dsn, "c")
        running.keeps(dsn)
        running.reaches(lambda state: state.rpo_seconds is not None and state.rpo_seconds < 3)
        running.end()

    assert [len(one.tables) for one in logged(project)] == [1, 1, 1]
    repository = project.repository
    assert verify(repository, repository.backups(), Level.FULL).ok
    third = logged(project)[2]
    assert recovered(project, new_target(), Target(before_xid=third.xid)) == ["a", "b"]
    target = new_target()
    assert recovered(project, target, Target(latest=True)) == ["a", "b", "c"]
    insert(target, "next")  # the sequence is not behind
    assert repository.resolve("latest", LABEL).type == "full"


def test_pieces_are_gathered_and_an_idle_stream_writes_next_to_nothing(
    project: Project, dsn: str
) -> None:
    full(project, dsn)
    with streaming(project, dsn, gather_pieces=4, interval=0.1) as running:
        running.streams()
        for number in range(9):
            insert(dsn, f"row {number}")
            running.keeps(dsn)
        eventually(lambda: len(pieces(project)) <= 4)
        held = len(list(project.primary.list("")))
        beats = running.state.received_lsn
        running.reaches(lambda state: state.received_lsn > beats)
        running.reaches(lambda state: state.rpo_seconds is not None and state.rpo_seconds < 2)
        assert len(list(project.primary.list(""))) == held
        running.end()

    found = read_log(project.repository, LABEL, project.events.append)
    assert sum(len(one.log.segments) for one in found) <= 4, "small segments are joined"
    assert len(logged(project)) == 9
    repository = project.repository
    assert verify(repository, repository.backups(), Level.FULL).ok


def test_an_incremental_beside_a_stream_gathers_what_it_stored(
    project: Project, dsn: str, new_target: NewTarget
) -> None:
    full(project, dsn)
    with streaming(project, dsn, interval=600.0) as running:
        running.streams()
        insert(dsn, "a", "b")
        run_sql(dsn, "INSERT INTO bare VALUES (1) RETURNING x")
        made = incremental(project, dsn)
        assert (made.type, made.reason) == ("incremental", "")
        assert pieces(project) == []
        assert made.log is not None
        assert made.log.transactions == 4  # with the full's own mark
        insert(dsn, "c")
        full(project, dsn)
        insert(dsn, "d")
        again = incremental(project, dsn)
        assert again.type == "incremental", again.reason
        running.end()

    assert len(logged(project)) == 5
    assert log_of(project).parent == project.repository.resolve("latest:full", LABEL).id
    assert recovered(project, new_target(), Target(latest=True)) == ["a", "b", "c", "d"]
    last = [one for one in logged(project) if "public.item" in one.tables][-1]
    assert recovered(project, new_target(), Target(before_xid=last.xid)) == ["a", "b", "c"]


def test_what_was_before_a_full_stays_when_its_piece_reaches_over_it(
    project: Project, dsn: str, new_target: NewTarget
) -> None:
    """A stream gathers pieces from both sides of a full's place; an incremental has one side."""
    full(project, dsn)
    with streaming(project, dsn, interval=0.1) as running:
        running.streams()
        insert(dsn, "a", "b")
        running.keeps(dsn)
        full(project, dsn)
        insert(dsn, "c")
        running.keeps(dsn)
        running.end()
    (over,) = pieces(project)
    assert incremental(project, dsn).type == "incremental"

    assert pieces(project) == [over]
    b, c = [one for one in logged(project) if "public.item" in one.tables][-2:]
    assert recovered(project, new_target(), Target(before_xid=b.xid)) == ["a"]
    assert recovered(project, new_target(), Target(before_xid=c.xid)) == ["a", "b"]
    assert recovered(project, new_target(), Target(latest=True)) == ["a", "b", "c"]


def test_one_stream_a_source(project: Project, dsn: str) -> None:
    full(project, dsn)
    with streaming(project, dsn) as first:
        first.streams()
        with streaming(project, dsn) as second:
            second.thread.join(60)
        assert isinstance(second.error, StreamRunning)
        assert second.error.exit_code == 11
        assert "process" in second.error.message
        first.end()


def test_a_damaged_piece_is_found_with_the_backup_before_it(project: Project, dsn: str) -> None:
    full(project, dsn)
    with streaming(project, dsn) as running:
        insert(dsn, "a")
        running.keeps(dsn)
        running.end()
    repository = project.repository
    latest = repository.resolve("latest", LABEL)
    (first, *_) = [
        one.object
        for part in read_log(repository, LABEL, project.events.append)
        for one in part.log.segments
    ]
    project.primary.delete([first])

    found = verify_backup(
        project.repository, latest, Level.FULL, subset=None, budget_seconds=None,
        sink=project.events.append,
    )  # fmt: skip

    assert [one.name for one in found.report.bad] == [first]
    piece = project.repository.resolve("latest:stream", LABEL)
    with pytest.raises(UnsupportedRepository, match="a piece of the change log"):
        project.plan(dsn, piece.id)


def test_a_piece_whose_segment_is_lost_is_told_and_a_full_begins_anew(
    project: Project, dsn: str, new_target: NewTarget
) -> None:
    """No incremental can be made of what is lost; the next hour has one again."""
    full(project, dsn)
    with streaming(project, dsn) as running:
        insert(dsn, "a")
        running.keeps(dsn)
        running.end()
    (piece,) = (one for one in read_log(project.repository, LABEL, project.events.append)
                if one.is_piece)  # fmt: skip
    project.primary.delete([piece.log.segments[0].object])
    made = incremental(project, dsn)
    assert made.type == "full"
    assert piece.log.segments[0].object in made.reason
    insert(dsn, "b")
    assert incremental(project, dsn).type == "incremental"
    assert recovered(project, new_target(), Target(latest=True)) == ["a", "b"]


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a stream"])
def test_after_a_recovery_in_place_the_log_begins_anew(
    project: Project, dsn: str, new_target: NewTarget, pg: EmbeddedServer, beside: bool
) -> None:
    """The slot stayed with the replaced database; a stream that ran goes on in the new one."""
    options, sink = RestoreOptions(in_place=True), project.events.append
    full(project, dsn)
    insert(dsn, "a")
    assert incremental(project, dsn).type == "incremental"
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(streaming(project, dsn, new_slot=True)) if beside else None
        if running:
            running.streams()
        plan = plan_recovery(
            project.repository, LABEL, Target(latest=True), dsn, options, sink=sink
        )
        assert plan.restore.has_log
        report = run_recovery(plan, make_safety_backup=None, sink=sink)
        stack.callback(drop_database, pg, report.old_database)
        assert any("begins anew" in note for note in report.notes)
        insert(dsn, "b")
        if running:
            running.reaches(lambda state: state.state == "streaming" and state.full == "")
            insert(dsn, "c")
            running.keeps(dsn)
            running.end()
        else:
            assert incremental(project, dsn).type == "full"
            insert(dsn, "c")
            assert incremental(project, dsn).type == "incremental"
    assert recovered(project, new_target(), Target(latest=True)) == ["a", "b", "c"]


def test_an_idle_database_holds_no_wal_back(
    project: Project, dsn: str, new_database: NewDatabase
) -> None:
    other = new_database()
    full(project, dsn)
    with streaming(project, dsn, idle=0.5) as running:
        running.streams()
        for _ in range(3):
            run_sql(other, "CREATE TABLE IF NOT EXISTS busy AS SELECT 1 AS x")
            run_sql(other, "SELECT pg_switch_wal()::text")
        (row,) = run_sql(other, "SELECT pg_current_wal_insert_lsn()::text")
        eventually(
            lambda: run_sql(
                dsn,
                "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'aurora_app'"
                f" AND confirmed_flush_lsn >= '{row[0]}'::pg_lsn",
            ),
            within=60,
        )
        assert len(pieces(project)) <= 2, "positions take the place of positions"
        running.end()
    assert logged(project) == []
    again = incremental(project, dsn)
    assert (again.type, again.reason) == ("incremental", "")
    assert pieces(project) == []
