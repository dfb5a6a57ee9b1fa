"""The source, or a connection to it, is lost in the middle of a backup."""

import contextlib
import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from aurora.errors import SourceUnreachable
from aurora.events import Advanced, Event, PhaseBegun
from aurora.operations.backup import BackupOptions, BackupReport, create_backup
from aurora.testing.faulty_storage import Fault, FaultyStorage, Kind
from tests.fixtures.faults import CHUNK, SHOP, Line, Stand, eventually, refused, rows_of, run_sql
from tests.fixtures.postgres import NewDatabase, NewServer
from tests.fixtures.projects import NewTarget, Project

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

WORKERS = "query ILIKE '%FROM ONLY %' AND application_name = ''"
COORDINATOR = "application_name = 'aurora' AND state = 'idle in transaction'"
PG_DUMP = "application_name = 'pg_dump'"


def end_sessions(dsn: str, which: str) -> int:
    """End the sessions in the source's database for which *which* is true; their number."""
    ended = run_sql(
        dsn,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = current_database() AND pid <> pg_backend_pid() AND {which}",
    )
    return len(ended)


def interrupted(
    stand: Stand, strike: Callable[[], None], *, at_chunk: int = 3, dsn: str = ""
) -> BackupReport:
    """A backup in the middle of which, with its workers busy, *strike* is called once."""
    lock = threading.Lock()
    seen = 0

    def pause(_seconds: float) -> None:
        nonlocal seen
        with lock:
            seen += 1
            if seen == at_chunk:
                time.sleep(0.3)  # the pool is full by then, and the workers inside a COPY
                strike()

    storage = FaultyStorage(
        stand.project.primary, [Fault(Kind.STALL, "put", prefix="chunks/", times=9999)],
        sleep=pause,
    )  # fmt: skip
    project = Project(storage, stand.project.secondary)
    report = create_backup(
        dsn or stand.dsn, project.repository, BackupOptions(database="app", chunk_bytes=CHUNK),
        open_mirror=None, sink=stand.project.events.append,
    )  # fmt: skip
    assert seen >= at_chunk, "it was over before the strike"
    return report


def test_the_workers_connections_are_killed(stand: Stand) -> None:
    """They connect again to the same snapshot and do their piece anew: the backup is right."""
    before = rows_of(stand.dsn)
    ended: list[int] = []

    def strike() -> None:
        ended.append(end_sessions(stand.dsn, WORKERS))
        run_sql(stand.dsn, "DELETE FROM orders")  # after the snapshot: it is not to be seen

    report = interrupted(stand, strike)
    assert ended == [2]
    stand.restores_as(report.backup_id, before)
    stand.all_is_well()


def test_a_worker_is_killed_again_and_again(stand: Stand) -> None:
    """At each piece of work that is told: whatever happens, never a wrong backup."""
    before = rows_of(stand.dsn)
    strikes = 0

    def listen(event: Event) -> None:
        nonlocal strikes
        if isinstance(event, Advanced) and event.phase == "reading rows" and strikes < 6:
            strikes += end_sessions(stand.dsn, WORKERS)

    options = BackupOptions(database="app", chunk_bytes=CHUNK)
    report = create_backup(
        stand.dsn, stand.project.repository, options, open_mirror=None, sink=listen
    )
    assert strikes >= 6
    stand.restores_as(report.backup_id, before)
    stand.all_is_well()


def test_the_coordinators_connection_is_killed(stand: Stand) -> None:
    """The snapshot and its locks are gone: that is said, and nothing becomes a backup."""
    with refused(SourceUnreachable, exit_code=20) as caught:
        interrupted(stand, lambda: ended.append(end_sessions(stand.dsn, COORDINATOR)))
    assert ended_once(ended)
    assert caught[0].retryable
    assert stand.listed() == [stand.good]
    eventually(lambda: stand.sessions() == [])
    stand.all_is_well()


ended: list[int] = []


def ended_once(found: list[int]) -> bool:
    """Whether one session was ended, and forget it."""
    was = found == [1]
    found.clear()
    return was


def test_everything_is_killed(stand: Stand) -> None:
    """All sessions at once: the workers cannot come back to a snapshot that is gone."""
    with refused(SourceUnreachable, exit_code=20):
        interrupted(stand, lambda: ended.append(end_sessions(stand.dsn, "true")))
    ended.clear()
    assert stand.listed() == [stand.good]
    stand.all_is_well()


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill -9"])
def test_the_source_is_restarted(
    new_server: NewServer, new_database: NewDatabase, project: Project, new_target: NewTarget,
    mode: str,
) -> None:  # fmt: skip
    """In each way that a server can go: unreachable is said, the next run succeeds."""
    server = new_server(fsync="on")
    run_sql(server.dsn(), "CREATE DATABASE shop")
    dsn = server.dsn("shop")
    run_sql(dsn, SHOP)
    stand = Stand(project, dsn, new_target)
    stand.begin()

    def strike() -> None:
        if mode == "kill -9":
            server.kill9()
            server.start()
        else:
            server.restart("fast" if mode == "fast" else "immediate")

    with refused(SourceUnreachable, exit_code=20) as caught:
        interrupted(stand, strike)
    assert caught[0].retryable
    assert stand.listed() == [stand.good]
    stand.all_is_well()


def test_the_line_is_cut(stand: Stand, line_to: Callable[..., tuple[Line, str]]) -> None:
    """Every connection at once, without a word of the server's."""
    line, dsn = line_to(stand.dsn)
    with refused(SourceUnreachable, exit_code=20):
        interrupted(stand, line.cut, dsn=dsn)
    assert stand.listed() == [stand.good]
    stand.all_is_well()


def test_pg_dump_is_killed(stand: Stand, line_to: Callable[..., tuple[Line, str]]) -> None:
    """The schema's reader dies: the run ends at once, with pg_dump's own words."""
    killed = threading.Event()

    def strike() -> None:
        with contextlib.suppress(psycopg.Error):
            while not killed.is_set():
                if end_sessions(stand.dsn, PG_DUMP):
                    killed.set()

    def listen(event: Event) -> None:
        if isinstance(event, PhaseBegun) and event.phase == "reading rows":
            threading.Thread(target=strike, daemon=True).start()

    _, dsn = line_to(stand.dsn, rate=300_000)
    options = BackupOptions(database="app", chunk_bytes=CHUNK)
    with refused(SourceUnreachable, "pg_dump", exit_code=20):
        create_backup(dsn, stand.project.repository, options, open_mirror=None, sink=listen)
    assert killed.is_set()
    assert stand.listed() == [stand.good]
    stand.all_is_well()
