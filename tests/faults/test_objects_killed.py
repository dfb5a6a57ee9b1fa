"""kill -9 while objects are copied or brought back: the next run goes on, nothing is half done."""

import os
import signal
import subprocess
import threading
import time

import pytest

from aurora.repository.verify import Level, verify
from tests.fixtures.storage_ground import Ground, last
from tests.fixtures.storage_server import Answer, Hook, Request

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.hosted", "tests.fixtures.objects"]


def stuck_after(count: int, prefix: tuple[str, ...], method: str) -> tuple[Hook, threading.Event]:
    """A hook that lets so many requests pass and holds all later ones; set when it holds one."""
    held, passed = threading.Event(), [0]
    release = threading.Event()

    def hook(request: Request) -> Answer | None:
        if request.method == method and request.path.startswith(prefix):
            passed[0] += 1
            if passed[0] > count:
                held.set()
                release.wait(20)
        return None

    return hook, held


def kill_when(held: threading.Event, process: "subprocess.Popen[str]") -> None:
    """kill -9 once the hook holds a request."""
    deadline = time.monotonic() + 60
    while not held.wait(0.1):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("count", [3, 25])
def test_backup_killed(depot: Ground, count: int) -> None:
    """The earlier backup stands, and the next one has every object."""
    depot.source.fill(30)
    depot.run("backup", "create")
    for number in range(30):
        depot.source.put("avatars", f"new/{number}", b"x" * (number + 1))
    hook, held = stuck_after(count, ("/object/authenticated/",), "GET")
    depot.source.server.hooks.append(hook)
    kill_when(held, depot.place.start("backup", "create"))
    depot.source.server.hooks.clear()
    assert len(last(depot.run("backup", "list", "--json"))["backups"]) == 1
    made = last(depot.run("backup", "create", "--json"))
    assert (made["objects"]["objects"], made["objects"]["lost"]) == (60, 0)
    repository = depot.place.project.repository
    assert verify(repository, repository.backups("app"), Level.FULL).ok


def test_restore_killed(depot: Ground) -> None:
    """What had arrived is not sent again, and owner and times are set of all."""
    depot.source.fill(60)
    depot.run("backup", "create")
    words = ("backup", "restore-bucket", "*", "latest", "--target", depot.target.dsn, "--yes")
    hook, held = stuck_after(25, ("/object/avatars", "/object/documents"), "POST")
    depot.target.server.hooks.append(hook)
    kill_when(held, depot.place.start(*words))
    depot.target.server.hooks.clear()
    arrived = len(depot.target.rows())
    assert 0 < arrived < 60
    done = last(depot.run(*words, "--json"))
    assert done["already_right"] >= arrived - 8
    assert depot.target.contents() == depot.source.sums()
    assert depot.target.rows() == depot.source.rows()
