"""What the daemon does besides backups: tests and drills as jobs, and the stream it looks after."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.daemons import ONLY_FULL, QUIET, Host, end, small_source, wait_until
from tests.fixtures.faults import run_sql
from tests.fixtures.listeners import Listener, listening_server
from tests.fixtures.postgres import NewDatabase

TESTS = ("recovery_test", "restore_test", "drill")
NOTICES = '[[notify.targets]]\nurl = {env = "TEST_NOTICES"}\nseverity = "warning"\n'
STREAM = '[stream]\nenabled = true\ninterval = "300 ms"\n'


@pytest.fixture
def source(new_database: NewDatabase) -> str:
    return small_source(new_database())


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening_server() as heard:
        yield heard


@pytest.fixture
def host(source: str, tmp_path: Path, listener: Listener) -> Iterator[Callable[[str], Host]]:
    """``host(more)``: one whose tests are due every minute; it tells *listener*."""
    made: list[Host] = []

    def make(more: str = "") -> Host:
        schedule = ONLY_FULL
        for job in TESTS:
            schedule = schedule.replace(f'{job} = "off"', f'{job} = "* * * * *"')
        found = Host.make(tmp_path / "a", tmp_path, source, schedule + QUIET + NOTICES + more)
        found.environment["TEST_NOTICES"] = listener.apprise("here")
        made.append(found)
        return found

    yield make
    end(made)


def run_job(host: Host, job: str) -> int:
    done = host.aurora("schedule", "run", job, "--force", "--json")
    assert done.stdout, done.stderr
    return done.returncode


def status(host: Host) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(
        host.aurora("backup", "status", "--json").stdout.splitlines()[-1]
    )
    return told


def codes(told: dict[str, Any]) -> set[str]:
    return {one["code"] for one in told["findings"]}


def evidence(host: Host, kind: str) -> list[str]:
    """Outcomes of the records of this kind in the audit trail, oldest first."""
    done = host.aurora("audit", "show", "--kind", kind, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [one["outcome"] for one in lines if one.get("message_type") == "record"]


@pytest.mark.timeout(300)
def test_a_recovery_test_is_a_job_whose_failure_is_told_and_then_taken_back(
    host: Callable[[str], Host], listener: Listener, tmp_path: Path
) -> None:
    """Good: evidence and status. From a secondary that lost its chunks: red, and an alarm."""
    here = host("")
    assert run_job(here, "full") == 0
    assert "never-proven" in codes(status(here))
    assert run_job(here, "recovery_test") == 0
    told = status(here)
    assert told["last_recovery_test"]["kind"] == "test-recovery"
    assert "never-proven" not in codes(told)
    assert evidence(here, "recovery-test") == ["ok"]
    assert list((here.directory / "aurora.reports").glob("test-recovery-*.html"))

    away = tmp_path / "chunks.away"
    (tmp_path / "two" / "chunks").rename(away)
    assert run_job(here, "restore_test") != 0
    listener.wait_for(lambda: bool(listener.messages))
    assert "full restore test" in listener.messages[0]["title"]
    assert "restore-failed" in codes(status(here))
    assert evidence(here, "recovery-test")[0] == "ok"
    assert evidence(here, "recovery-test")[-1] != "ok"

    away.rename(tmp_path / "two" / "chunks")
    assert run_job(here, "restore_test") == 0
    listener.wait_for(lambda: len(listener.messages) == 2)
    assert "recovered" in listener.messages[1]["title"]
    assert "restore-failed" not in codes(status(here))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_tests_and_drills_run_by_themselves(host: Callable[[str], Host]) -> None:
    """Every minute here: one after another, each with its evidence."""
    here = host("")
    here.start()
    here.wait_for("full ended ok")
    for job in TESTS:
        wait_until(
            lambda job=job: here.jobs.get(job, {}).get("outcome") == "ok",  # type: ignore[misc]
            lambda: here.log,
        )
    assert here.stop() == 0
    told = status(here)
    assert told["last_drill"]["ok"]
    assert told["last_recovery_test"]["ok"]
    assert evidence(here, "drill")[0] == "ok"
    assert evidence(here, "recovery-test")[:2] == ["ok", "ok"]


@pytest.mark.timeout(300)
def test_a_stream_that_is_killed_comes_back(host: Callable[[str], Host], source: str) -> None:
    """One at a time; what was committed meanwhile is in the log; it ends with the daemon.

    Schedule and stream both want a first full: one is made.
    """
    here = host(STREAM)
    assert here.aurora("source", "prepare", "--yes").returncode == 0
    here.start()
    here.wait_for("the stream stores changes")
    here.wait_for("full ended ok")
    (child,) = wait_until(lambda: _streams(here), lambda: here.log)
    subprocess.run(["kill", "-KILL", str(child)], check=True)
    run_sql(source, "INSERT INTO t VALUES (1000)")
    here.wait_for("the stream ended: it was ended by SIGKILL")
    here.wait_for("the stream stores changes", 2)
    assert len(_streams(here)) == 1
    wait_until(lambda: _logged(here), lambda: here.log)
    assert here.stop() == 0
    assert _streams(here) == []
    assert here.log.count("the stream stores changes") == 2
    assert [one["type"] for one in _backups(here) if one["type"] != "incremental"] == ["full"]


def _backups(host: Host) -> list[dict[str, Any]]:
    told: dict[str, list[dict[str, Any]]] = json.loads(
        host.aurora("backup", "list", "--json").stdout.splitlines()[-1]
    )
    return told["backups"]


def _logged(host: Host) -> bool:
    return "public.t" in host.aurora("log", "show", "--table", "public.t").stdout


def _streams(host: Host) -> list[int]:
    return [
        one for one in host.children()
        if b"\0stream" in Path(f"/proc/{one}/cmdline").read_bytes()
    ]  # fmt: skip
