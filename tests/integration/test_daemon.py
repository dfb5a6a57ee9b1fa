"""`aurora run` and `aurora schedule run`, as processes, on a real server and real directories."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.daemons import ONLY_FULL, QUIET, Host, end, small_source, wait_until
from tests.fixtures.listeners import Listener, listening_server
from tests.fixtures.postgres import NewDatabase

NewHost = Callable[..., Host]


@pytest.fixture
def source(new_database: NewDatabase) -> str:
    return small_source(new_database())


@pytest.fixture
def new_host(source: str, tmp_path: Path) -> Iterator[NewHost]:
    """``new_host("a", more)``: one of several hosts of the same repositories."""
    made: list[Host] = []

    def make(name: str = "a", more: str = ONLY_FULL + QUIET) -> Host:
        host = Host.make(tmp_path / name, tmp_path, source, more)
        made.append(host)
        return host

    yield make
    end(made)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening_server() as heard:
        yield heard


@pytest.fixture
def locked(source: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The table is locked: a backup waits for it, however long a test takes."""
    with psycopg.connect(source) as conn:
        conn.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        yield conn
        conn.rollback()


def test_first_start_metrics_and_sigterm(new_host: NewHost) -> None:
    """A first full at once; figures for Prometheus; SIGTERM ends it with 0; one at a time."""
    host = new_host("a", ONLY_FULL + '[metrics]\nlisten = "127.0.0.1:0"\nrefresh = "5 s"\n')
    host.start()
    host.wait_for("full ended ok")
    assert host.jobs["full"]["outcome"] == "ok"
    wait_until(
        lambda: (
            'aurora_last_backup_age_seconds{database="app",type="full"}' in host.get("/metrics")
        ),
        lambda: host.get("/metrics"),
    )
    figures = host.get("/metrics")
    assert 'aurora_job_runs_total{database="app",job_name="full"} 1.0' in figures
    assert 'aurora_recoverable{database="app"} 1.0' in figures
    health = json.loads(host.get("/healthz"))
    assert health["alive"]
    assert health["verdict"].startswith("recoverable to ")
    second = host.aurora("run")
    assert second.returncode == 11
    assert "another `aurora run` is at work" in second.stderr
    assert host.stop() == 0
    assert "stopped in order" in host.log
    assert host.backups() == ["full"]


def test_two_daemons_on_two_hosts_make_one_backup(new_host: NewHost) -> None:
    """Both find it due at the same moment; each has a state of its own."""
    hosts = [new_host("a"), new_host("b")]
    for host in hosts:
        host.start()
    for host in hosts:
        host.wait_for("aurora runs for app")
    wait_until(
        lambda: all(
            one.jobs.get("full", {}).get("outcome") in ("ok", "elsewhere") for one in hosts
        ),
        lambda: "\n".join(host.log for host in hosts),
    )
    assert sorted(host.jobs["full"]["outcome"] for host in hosts) == ["elsewhere", "ok"]
    assert [host.stop() for host in hosts] == [0, 0]
    assert hosts[0].backups() == ["full"]


_CONTENDER = """
import sys, json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from aurora.repository.claims import Answer, Timing
from aurora.repository.door import Repository
from aurora.repository.keys import Passphrase
from aurora.storage.local import LocalStorage

repository = Repository.open(LocalStorage(Path(sys.argv[1])), Passphrase("a passphrase for tests"))
claims = repository.claims("app", sys.argv[2] * 16, timing=Timing(settle=0.05, poll=0.02))
due = datetime(2026, 1, 1, tzinfo=UTC)
sys.stdin.readline()
won = []
for number in range(30):
    moment = due + timedelta(hours=number)
    while True:
        answer, claim = claims.acquire("full", moment)
        if answer is Answer.MINE:
            won.append(number)
            claim.end(done=True)
        if answer is not Answer.ELSEWHERE:
            break
print(json.dumps(won))
"""


def test_two_processes_claim_each_due_time_once(new_host: NewHost, tmp_path: Path) -> None:
    """By the storage alone, thirty times, as fast as they can."""
    new_host()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _CONTENDER, str(tmp_path / "one"), letter],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for letter in "abc"
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert sorted(number for numbers in won for number in numbers) == list(range(30))


def test_killed_in_the_middle_of_a_job(
    new_host: NewHost, locked: psycopg.Connection[tuple[object, ...]]
) -> None:
    """The child ends with its daemon; the next daemon catches up, once."""
    host = new_host()
    host.start()
    host.wait_for("full begins")
    (child,) = wait_until(host.children, lambda: host.log)
    assert host.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: child not in host.children(), lambda: "the child outlives its daemon")
    assert host.jobs["full"]["running"] is not None
    locked.rollback()
    host.start()
    host.wait_for("full was cut off when the daemon ended")
    host.wait_for("full ended ok")
    assert host.stop() == 0
    assert host.backups() == ["full"]
    assert host.jobs["full"]["runs"] == 1


def test_stopped_in_the_middle_of_a_job(
    new_host: NewHost, locked: psycopg.Connection[tuple[object, ...]]
) -> None:
    """SIGTERM stops the backup in order; another host may go on with it at once."""
    host, other = new_host("a"), new_host("b")
    host.start()
    host.wait_for("full begins")
    wait_until(host.children, lambda: host.log)
    assert host.stop() == 0
    assert host.children() == []
    assert "full was stopped" in host.log
    assert host.jobs["full"]["outcome"] == "stopped"
    assert host.jobs["full"]["failures"] == 0
    locked.rollback()
    other.start()
    other.wait_for("full ended ok")
    assert other.stop() == 0
    assert other.backups() == ["full"]


def test_a_child_that_dies_is_tried_again_then_told_of_then_recovers(
    new_host: NewHost, listener: Listener, locked: psycopg.Connection[tuple[object, ...]]
) -> None:
    """Killed twice with one retry: alarm and failed ping; then it works: recovered, success."""
    told = """
[[notify.targets]]
url = {env = "TEST_NOTICES"}
severity = "warning"
[ping]
full = {env = "TEST_PING"}
"""
    more = ONLY_FULL.replace('retry_delay = "1 s"', 'retry_delay = "1 s"\nretries = 1')
    host = new_host("a", more + QUIET + told)
    host.environment |= {
        "TEST_NOTICES": listener.apprise("s3cret"), "TEST_PING": listener.address("ping/s3cret"),
    }  # fmt: skip
    host.start()
    for number in (1, 2):
        host.wait_for("full begins", number)
        (child,) = wait_until(host.children, lambda: host.log)
        subprocess.run(["kill", "-KILL", str(child)], check=True)
        wait_until(lambda child=child: child not in host.children(), lambda: host.log)  # type: ignore[misc]
    host.wait_for("full ended failed")
    assert "it was ended by SIGKILL" in host.log
    listener.wait_for(lambda: any(one.endswith("/fail") for one in listener.paths))
    listener.wait_for(lambda: bool(listener.messages))
    locked.rollback()
    host.stop()
    done = host.aurora("schedule", "run", "full", "--force")
    assert done.returncode == 0, done.stderr
    listener.wait_for(lambda: len(listener.messages) == 2)
    titles = [one["title"] for one in listener.messages]
    assert titles == ["[app] full backup failed", "[app] recovered: full backup failed"]
    assert listener.paths[-2:].count("/ping/s3cret") + listener.paths.count("/ping/s3cret") >= 1
    state = (host.directory / "aurora.state" / "notices.json").read_text()
    assert "s3cret" not in host.log + done.stdout + done.stderr + state


def test_schedule_run_on_a_host_without_memory(new_host: NewHost) -> None:
    """As on a machine of a CI service: the claim in the repository says what was done."""
    first = new_host("a").aurora("schedule", "run", "full", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout.splitlines()[-1])["ran"]
    again = new_host("b").aurora("schedule", "run", "full", "--json")
    assert again.returncode == 0
    assert not json.loads(again.stdout.splitlines()[-1])["ran"]
    host = new_host("c")
    assert host.backups() == ["full"]
    unknown = host.aurora("schedule", "run", "nothing")
    assert unknown.returncode == 2
    assert "The jobs are incremental, full" in unknown.stderr


def test_a_daemon_that_cannot_know_its_secrets_does_not_start(new_host: NewHost) -> None:
    """Rather than fail in the night."""
    host = new_host()
    host.environment["AURORA_PASSPHRASE"] = ""
    done = host.aurora("run")
    assert done.returncode == 2
    assert "the primary passphrase is not given" in done.stderr


def test_verification_takes_turns(new_host: NewHost) -> None:
    """All of it in time; damage is found, told by status, and gone after healing."""
    host = new_host()
    for _ in range(2):
        assert host.aurora("backup", "create").returncode == 0
    done = host.aurora("backup", "verify", "all", "--storage", "both", "--budget", "1h", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["storages"]["primary"]["checked_objects"] > 3
    chunk = next((host.directory.parent / "one" / "chunks").rglob("*-*"))
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    assert host.aurora("backup", "verify", "all").returncode == 40
    status = json.loads(host.aurora("backup", "status", "--json").stdout.splitlines()[-1])
    assert "primary-damaged" in {one["code"] for one in status["findings"]}
    assert status["verification"]["primary"]["bad"] == 1
    assert host.aurora("backup", "heal", "all").returncode == 0
    status = json.loads(host.aurora("backup", "status", "--json").stdout.splitlines()[-1])
    assert "primary-damaged" not in {one["code"] for one in status["findings"]}
