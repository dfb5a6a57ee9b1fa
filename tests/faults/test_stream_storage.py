"""A stream whose storage fails or stalls, or that is killed: nothing lost, nothing twice."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aurora.engines.logical.pgoutput import parse_lsn
from aurora.engines.logical.segments import read_frames
from aurora.operations.log_chain import read_log
from aurora.repository.door import Ref
from aurora.storage.local import LocalStorage
from aurora.storage.memory import MemoryStorage
from tests.fixtures.changelog import full, incremental, logged, prepare
from tests.fixtures.faults import Line
from tests.fixtures.looks import run_script, run_sql
from tests.fixtures.policy import ROOT
from tests.fixtures.postgres import NewDatabase, NewServer
from tests.fixtures.projects import LABEL, Project
from tests.fixtures.streaming import Unplugged, stream_process, streaming

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

TABLE = "CREATE TABLE keyed (id int PRIMARY KEY, v text)"

# A stream that kills itself once it has stored something: {before} the manifest is put, or
# after it and before the acknowledgement.
KILLED = """
import os, signal, sys, threading
sys.path.insert(0, {root!r})
from aurora.operations.stream_keeper import Keeper
from aurora.storage.local import LocalStorage
from aurora.storage.memory import MemoryStorage
from tests.fixtures.projects import Project
from tests.fixtures.streaming import Unplugged, stream_process, streaming

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

put = Keeper._put
def put_and_die(self, writer, log, *rest, **more):
    if log.segments and {before}:
        writer.flush()
        die()
    put(self, writer, log, *rest, **more)
    if log.segments:
        die()

Keeper._put = put_and_die
project = Project(LocalStorage({storage!r}), MemoryStorage("s"))
with streaming(project, {dsn!r}) as running:
    running.thread.join(60)
    print(running.error)
"""


@pytest.fixture
def dsn(new_database: NewDatabase) -> str:
    """A prepared source."""
    found = new_database()
    run_script(found, TABLE)
    prepare(found)
    return found


@pytest.fixture
def stored(open_dir: Path) -> Project:
    """A repository that another process can open too."""
    return Project.create(LocalStorage(open_dir / "primary"), MemoryStorage("s"))


@pytest.fixture
def unplugged() -> Unplugged:
    return Unplugged(MemoryStorage("primary"))


def insert(dsn: str, first: int, last: int) -> None:
    """One transaction for each number."""
    run_sql(dsn, *(f"INSERT INTO keyed VALUES ({number})" for number in range(first, last + 1)))


def rows_in_log(project: Project) -> list[int]:
    """How often each transaction's row stands in what is not superseded, without any dedupe."""
    repository = project.repository
    found: list[int] = []
    for one in sorted(read_log(repository, LABEL, print), key=lambda one: one.log.from_lsn):
        payloads = [repository.read(Ref(s.object, s.raw)) for s in one.log.segments]
        for message in read_frames(payloads):
            if message[0:1] == b"I":
                length = int.from_bytes(message[9:13], "big")
                found.append(int(message[13 : 13 + length]))
    return found


def held_from(dsn: str) -> int:
    """The position that the slot was told is kept."""
    (row,) = run_sql(dsn, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots"
                     " WHERE slot_name = 'aurora_app'")  # fmt: skip
    return parse_lsn(row[0])


@pytest.mark.parametrize("before", [True, False], ids=["before the commit", "after it"])
def test_killed_between_put_and_acknowledgement(dsn: str, stored: Project, before: bool) -> None:
    full(stored, dsn)
    stood = held_from(dsn)
    insert(dsn, 1, 20)
    script = KILLED.format(
        root=str(ROOT), before=before, dsn=dsn, storage=str(Path(stored.primary.url[7:]))
    )
    run = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode() + run.stdout.decode()
    assert held_from(dsn) == stood, "it was not acknowledged"
    assert rows_in_log(stored) == ([] if before else list(range(1, 21)))
    insert(dsn, 21, 40)

    with streaming(stored, dsn) as running:
        running.keeps(dsn)
        running.end()

    assert rows_in_log(stored) == list(range(1, 41))
    assert held_from(dsn) > stood
    assert incremental(stored, dsn).type == "incremental"
    assert rows_in_log(stored) == list(range(1, 41))
    assert len(logged(stored, table="public.keyed")) == 40


def test_a_storage_that_is_gone_for_a_while_holds_the_wal_back(
    dsn: str, unplugged: Unplugged
) -> None:
    project = Project.create(unplugged, MemoryStorage("s"))
    full(project, dsn)
    with streaming(project, dsn) as running:
        insert(dsn, 1, 5)
        running.keeps(dsn)
        unplugged.out.set()
        insert(dsn, 6, 6)
        stood = parse_lsn(run_sql(dsn, "SELECT pg_current_wal_insert_lsn()::text")[0][0])
        insert(dsn, 7, 500)
        running.reaches(lambda state: state.state == "storage-down")
        running.reaches(lambda state: state.rpo_seconds is not None and state.rpo_seconds > 2)
        assert held_from(dsn) < stood
        assert len(running.warned("stream-storage-down")) == 1
        assert "the cable is out" in running.state.trouble
        unplugged.out.clear()
        running.keeps(dsn)
        running.reaches(lambda state: state.state == "streaming" and (state.rpo_seconds or 9) < 2)
        running.end()
    assert rows_in_log(project) == list(range(1, 501))
    assert held_from(dsn) > stood


def test_a_slow_storage_does_not_cost_the_session(
    new_server: NewServer, unplugged: Unplugged
) -> None:
    server = new_server(wal_sender_timeout="1s")
    dsn = server.dsn()
    run_script(dsn, TABLE)
    prepare(dsn)
    project = Project.create(unplugged, MemoryStorage("s"))
    full(project, dsn)
    unplugged.seconds = 1.5
    with streaming(project, dsn, interval=0.5, segment_bytes=1 << 20) as running:
        for number in range(4):
            run_sql(dsn, "INSERT INTO keyed SELECT i, repeat(md5(i::text), 60)"
                    f" FROM generate_series({number}001, {number + 1}000) i")  # fmt: skip
        running.keeps(dsn)
        assert running.warned("stream-source-down") == []
        running.end()
    assert len(rows_in_log(project)) == 4000


def test_a_stream_killed_again_and_again_under_load(dsn: str, stored: Project) -> None:
    full(stored, dsn)
    numbers = iter(range(1, 10**6))
    done: list[int] = []
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            number = next(numbers)
            insert(dsn, number, number)
            done.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for chance in (3, 11, 5, 17):
            with stream_process(stored, dsn, interval=0.05, gather_pieces=3) as run:
                assert run.stdout is not None
                assert run.stdout.readline() == b"up\n"
                target = len(done) + chance
                while len(done) < target:
                    time.sleep(0.01)
                run.kill()
    finally:
        over.set()
        writer.join()
    with streaming(stored, dsn) as running:
        running.keeps(dsn)
        running.end()
    assert len(logged(stored, table="public.keyed")) == len(done)
    assert sorted(set(rows_in_log(stored))) == done
    assert incremental(stored, dsn).type == "incremental"
    assert rows_in_log(stored) == done


def test_a_line_that_is_cut_is_made_again(dsn: str, project: Project, line_to: object) -> None:
    line, through = line_to(dsn)  # type: ignore[operator]
    assert isinstance(line, Line)
    full(project, dsn)
    with streaming(project, through) as running:
        insert(dsn, 1, 5)
        running.keeps(dsn)
        line.cut()
        insert(dsn, 6, 10)
        running.keeps(dsn)
        line.cut()
        running.end()
    assert rows_in_log(project) == list(range(1, 11))
