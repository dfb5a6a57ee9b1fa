"""A restore is killed, loses its connections, or finds no room: the live database serves on."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora.errors import TargetError, TargetUnfit, TargetUnreachable
from aurora.events import Event, PhaseBegun, Warned
from aurora.operations.restore import run_restore
from aurora.operations.restore_plan import RestoreOptions, plan_restore
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.unprivileged import give
from aurora.storage.local import LocalStorage
from tests.fixtures.faults import (
    KILLED,
    Stand,
    eventually,
    refused,
    require_clear,
    rows_of,
    run_program,
    run_sql,
)
from tests.fixtures.postgres import NewServer
from tests.fixtures.projects import NewTarget, Project

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

# Dies when a phase begins, or just before or after the nth statement that holds some words.
PROGRAM = """
import json, os, signal, sys
import psycopg
from aurora.events import PhaseBegun
from aurora.operations.content import Backup
from aurora.operations.restore import run_restore
from aurora.operations.restore_plan import RestoreOptions, plan_restore
from aurora.storage.local import LocalStorage
from tests.fixtures.projects import Project

given = json.load(sys.stdin)
words, when = given["words"], given["when"]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def listen(event):
    if isinstance(event, PhaseBegun) and event.phase.startswith(words) and when == "phase":
        die()

real = psycopg.Cursor.execute
def execute(self, query, *args, **named):
    text = query.decode() if isinstance(query, bytes) else str(query)
    struck = when != "phase" and words in text
    if struck and when == "before":
        die()
    done = real(self, query, *args, **named)
    if struck and when == "after":
        die()
    return done
psycopg.Cursor.execute = execute

project = Project(LocalStorage(given["a"]), LocalStorage(given["b"]))
backup = project.opened(given["backup"])
plan = plan_restore(backup, given["target"], RestoreOptions(in_place=True, safety=False))
run_restore(plan, make_safety_backup=None, sink=listen)
"""

MOMENTS = [
    ("making the schema", "phase"),
    ("loading rows", "phase"),
    ("making indexes", "phase"),
    ("checking", "phase"),
    ("COMMENT ON DATABASE", "after"),
    ("setval", "before"),
    ("ANALYZE", "after"),
    ("OWNER TO", "after"),
    ("RENAME TO", "before"),
    ("RENAME TO", "after"),  # the first of two, in the transaction that swaps
]


@pytest.fixture
def kept(shop: str, tmp_path: Path, new_target: NewTarget) -> Stand:
    """The shop with a good backup in directories, and a live copy of it to restore over."""
    project = Project.create(LocalStorage(tmp_path / "a"), LocalStorage(tmp_path / "b"))
    stand = Stand(project, shop, new_target)
    stand.begin()
    return stand


def beside(dsn: str) -> list[str]:
    """The databases that restores of this one made, and that are not in place."""
    name = ConnInfo.parse(dsn).dbname
    rows = run_sql(dsn, f"SELECT datname FROM pg_database WHERE datname LIKE '{name}\\_aurora%'")
    return [str(row[0]) for row in rows]


def test_killed_at_many_moments(kept: Stand, tmp_path: Path) -> None:
    """After each: the live database is as it was, the next restore sweeps the leftover."""
    live = kept.new_target()
    kept.project.restore(live, kept.good)
    run_sql(live, "UPDATE customers SET name = 'live ' || id; DELETE FROM orders WHERE id % 2 = 0")
    rows = rows_of(live)
    for words, when in MOMENTS:
        done = run_program(
            PROGRAM, a=str(tmp_path / "a"), b=str(tmp_path / "b"), backup=kept.good,
            target=live, words=words, when=when,
        )  # fmt: skip
        assert done.returncode == KILLED, (words, when, done.stderr)
        assert rows_of(live) == rows, (words, when)
        # Its sessions, and pg_restore, end by themselves.
        eventually(lambda: not sessions_beside(live), within=20)
    assert beside(live), "it was killed too early each time"
    report = kept.project.restore(live, kept.good, in_place=True, safety=False)
    assert (report.outcome, report.problems) == ("restored", [])
    assert rows_of(live) == kept.before
    assert beside(live) == []
    kept.all_is_well()


def test_killed_between_making_and_marking(kept: Stand, tmp_path: Path) -> None:
    """PostgreSQL makes no database in a transaction: an empty one without the mark may stay."""
    live = kept.new_target()
    kept.project.restore(live, kept.good)
    done = run_program(
        PROGRAM, a=str(tmp_path / "a"), b=str(tmp_path / "b"), backup=kept.good, target=live,
        words="CREATE DATABASE", when="after",
    )  # fmt: skip
    assert done.returncode == KILLED, done.stderr
    (left,) = beside(live)
    assert rows_of(ConnInfo.parse(live).with_dbname(left).dsn()) == {}
    again = kept.project.restore(live, kept.good, in_place=True, safety=False)
    assert again.outcome == "restored"
    assert rows_of(live) == kept.before


def sessions_beside(dsn: str) -> bool:
    """Whether somebody works in a database that a restore made."""
    name = ConnInfo.parse(dsn).dbname
    query = f"SELECT 1 FROM pg_stat_activity WHERE datname LIKE '{name}\\_aurora%'"
    return bool(run_sql(dsn, query))


def test_killed_after_the_swap(kept: Stand, tmp_path: Path) -> None:
    """The new one is in place and right; the old one is kept as was promised."""
    live = kept.new_target()
    kept.project.restore(live, kept.good)
    run_sql(live, "UPDATE customers SET name = 'live ' || id")
    done = run_program(
        PROGRAM.replace("run_restore(plan", "listen = lambda e: None\nrun_restore(plan")
        + "die()\n",
        a=str(tmp_path / "a"), b=str(tmp_path / "b"), backup=kept.good, target=live,
        words="nothing", when="never",
    )  # fmt: skip
    assert done.returncode == KILLED, done.stderr
    assert rows_of(live) == kept.before
    assert beside(live) == []


PHASES = ("making the schema", "loading rows", "making indexes", "refreshing", "checking")


@pytest.mark.parametrize("phase", PHASES)
def test_connections_to_the_target_are_killed(kept: Stand, phase: str) -> None:
    """In each phase: retried, or an error; never a restore that lacks something unsaid."""
    live = kept.new_target()
    kept.project.restore(live, kept.good)
    rows = rows_of(live)
    name = ConnInfo.parse(live).dbname
    struck: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, PhaseBegun) and event.phase.startswith(phase):

            def strike() -> None:
                for _ in range(400):
                    ended = run_sql(
                        live,
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                        f" datname LIKE '{name}\\_aurora%' AND backend_type = 'client backend'",
                    )
                    if ended:
                        struck.append(len(ended))
                        return

            threading.Thread(target=strike, daemon=True).start()

    backup = kept.project.opened(kept.good)
    plan = plan_restore(backup, live, RestoreOptions(in_place=True, safety=False))
    try:
        report = run_restore(plan, make_safety_backup=None, sink=listen)
    except TargetError as error:
        require_clear(error, 50, 53)
        assert rows_of(live) == rows
        assert beside(live) == []
    else:
        assert (report.outcome, report.problems, report.refusals) == ("restored", [], [])
    again = kept.project.restore(live, kept.good, in_place=True, safety=False)
    assert again.outcome == "restored"
    assert rows_of(live) == kept.before


@pytest.fixture
def small_data(open_dir: Path) -> Iterator[Path]:
    """A file system of 12 MiB that the server user owns, where mounting is allowed."""
    disk = open_dir / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "none", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"only root may mount: {done.stderr.strip()}")
    give(disk)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_the_targets_disk_is_full(kept: Stand, new_server: NewServer, small_data: Path) -> None:
    """53100 is said as the target's lack of room; nothing is left behind; with room it works."""
    run_sql(
        kept.dsn,
        "CREATE TABLE large AS"
        " SELECT i, repeat(md5(i::text), 60) t FROM generate_series(1, 6000) i",
    )
    full = kept.backup()
    server = new_server()
    # A role that may not make databases fills the one that it is given, in its tablespace.
    run_sql(server.dsn(), f"CREATE TABLESPACE small LOCATION '{small_data}'")
    run_sql(server.dsn(), "CREATE ROLE filler LOGIN PASSWORD 'filler' IN ROLE pg_monitor")
    make = "CREATE DATABASE restored OWNER filler TABLESPACE small TEMPLATE template0"
    run_sql(server.dsn(), make)
    target = server.dsn("restored", user="filler", password="filler")
    with refused(TargetUnfit, "No space left|could not extend", exit_code=52) as caught:
        kept.project.restore(target, full.backup_id)
    assert "disk is full" in caught[0].hint
    told = [event for event in kept.project.events if isinstance(event, Warned)]
    assert told[-1].code == "target-half-filled"
    run_sql(server.dsn(), "DROP DATABASE restored")
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_data)], check=True)
    run_sql(server.dsn(), make)
    report = kept.project.restore(target, full.backup_id)
    assert report.problems == []
    assert rows_of(target) == rows_of(kept.dsn)
    server.close()
    kept.all_is_well()


def test_the_target_is_gone(kept: Stand) -> None:
    """From the start: unreachable, 50."""
    dsn = ConnInfo.parse(kept.dsn).with_options(port="1").dsn()
    with refused(TargetUnreachable, exit_code=50):
        kept.project.restore(dsn, kept.good)
