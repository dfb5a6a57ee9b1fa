"""kill -9 in the middle of an incremental: nothing is lost, nothing is kept twice."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aurora.engines.logical.segments import read_frames
from aurora.operations.content import Backup
from aurora.repository.door import Ref
from aurora.storage.local import LocalStorage
from aurora.storage.memory import MemoryStorage
from tests.fixtures.changelog import full, incremental, log_of, logged, prepare
from tests.fixtures.looks import run_script, run_sql
from tests.fixtures.policy import ROOT
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import LABEL, Project

pytest_plugins = ["tests.fixtures.backups"]

# An incremental that kills itself: {before} the manifest is put, or after it.
KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
from aurora.repository import writer
from aurora.storage.local import LocalStorage
from aurora.storage.memory import MemoryStorage
from tests.fixtures.changelog import incremental
from tests.fixtures.projects import Project

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if {before}:
    writer.Writer.commit = die
incremental(Project(LocalStorage({storage!r}), MemoryStorage("s")), {dsn!r}, then=die)
"""


@pytest.fixture
def stored(open_dir: Path) -> Project:
    """A repository that another process can open too."""
    return Project.create(LocalStorage(open_dir / "primary"), MemoryStorage("s"))


def killed_incremental(project: Project, dsn: str, *, before: bool) -> None:
    """Run an incremental in a process of its own that dies by SIGKILL."""
    script = KILLED.format(
        root=str(ROOT), before=before, dsn=dsn, storage=str(Path(project.primary.url[7:]))
    )
    run = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()


def insert(dsn: str, first: int, last: int) -> None:
    """One transaction for each number."""
    run_sql(dsn, *(f"INSERT INTO keyed VALUES ({number})" for number in range(first, last + 1)))


def rows_in_log(project: Project) -> list[int]:
    """How often each transaction's row stands in all segments, read without any dedupe."""
    repository = project.repository
    found: list[int] = []
    for entry in repository.backups(LABEL):
        log = Backup(repository, entry).body.log
        assert log is not None
        payloads = [repository.read(Ref(one.object, one.raw)) for one in log.segments]
        found += [int(m[13:]) for m in read_frames(payloads) if m[0:1] == b"I"]
    return found


@pytest.mark.parametrize("before", [True, False], ids=["before the commit", "after it"])
def test_a_killed_incremental_loses_and_doubles_nothing(
    new_database: NewDatabase, stored: Project, before: bool
) -> None:
    dsn = new_database()
    run_script(dsn, "CREATE TABLE keyed (id int PRIMARY KEY)")
    prepare(dsn)
    first = full(stored, dsn)
    insert(dsn, 1, 20)
    killed_incremental(stored, dsn, before=before)
    assert len(stored.repository.backups(LABEL)) == (1 if before else 2)
    insert(dsn, 21, 40)

    report = incremental(stored, dsn)

    assert (report.type, report.reason) == ("incremental", "")
    assert rows_in_log(stored) == list(range(1, 41))
    assert len(logged(stored, table="public.keyed")) == 40
    assert log_of(stored).base == first.backup_id
    insert(dsn, 41, 50)
    assert incremental(stored, dsn).type == "incremental"
    assert rows_in_log(stored) == list(range(1, 51))


def test_a_full_after_a_lost_acknowledgement_goes_on_where_the_log_ends(
    new_database: NewDatabase, stored: Project
) -> None:
    dsn = new_database()
    run_script(dsn, "CREATE TABLE keyed (id int PRIMARY KEY)")
    prepare(dsn)
    full(stored, dsn)
    insert(dsn, 1, 5)
    killed_incremental(stored, dsn, before=False)
    ended = log_of(stored).to_lsn

    full(stored, dsn)
    insert(dsn, 6, 9)
    incremental(stored, dsn)

    assert log_of(stored).from_lsn == ended
    assert rows_in_log(stored) == list(range(1, 10))


def test_a_server_killed_and_started_again_goes_on(new_server: object, stored: Project) -> None:
    server = new_server()  # type: ignore[operator]
    dsn = server.dsn()
    run_script(dsn, "CREATE TABLE keyed (id int PRIMARY KEY)")
    prepare(dsn)
    full(stored, dsn)
    insert(dsn, 1, 5)
    incremental(stored, dsn)
    insert(dsn, 6, 9)
    server.kill9()
    server.start()

    report = incremental(stored, server.dsn())

    assert (report.type, report.reason) == ("incremental", "")
    assert rows_in_log(stored) == list(range(1, 10))
