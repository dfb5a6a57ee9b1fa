"""kill -9 while objects are copied or brought back: the next run goes on, nothing is half done."""

import os
import signal
import subprocess
import threading
import time

import pytest

from aurora.engines.supabase.documents import BEGUN
from aurora.operations.content import Backup
from aurora.operations.objects import pages
from aurora.repository.verify import Level, verify
from tests.fixtures.faults import eventually
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


def checkpoints_in(depot: Ground) -> list[Backup]:
    """What a copy that did not come to its end left."""
    repository = depot.place.project.repository
    return [Backup(repository, entry) for entry in repository.checkpoints("app")]


def copied_in(depot: Ground) -> int:
    """Objects that checkpoints name as read to their end."""
    return sum(
        not entry.note
        for one in checkpoints_in(depot)
        for page in pages(one)
        for entry in page.entries
    )


def save_often(depot: Ground, *more: str) -> None:
    """A configuration by which copies are saved several times a second."""
    path = depot.place.directory / "aurora.toml"
    lines = "\n".join(("[objects]", 'checkpoint_interval = "200 ms"', *more))
    path.write_text(f"{path.read_text()}\n{lines}\n")


def killed_once_saved(depot: Ground) -> None:
    """A first copy that is killed when something of it was saved; nothing is sent after that."""
    release, saved = threading.Event(), threading.Event()

    def hook(request: Request) -> Answer | None:
        if request.path.startswith("/object/authenticated/"):
            if next(depot.place.directory.glob("a/backups/app/*-checkpoint-*"), None):
                saved.set()
                release.wait(20)
            release.wait(0.01)  # not all at once
        return None

    depot.source.server.hooks.append(hook)
    kill_when(saved, depot.place.start("backup", "create"))
    release.set()
    depot.source.server.hooks.clear()


def test_first_copy_killed(depot: Ground) -> None:
    """Only what was not copied is read again; nothing of the killed run is left in the list."""
    depot.source.fill_directly(800, size=3_000)
    save_often(depot)
    killed_once_saved(depot)
    copied = copied_in(depot)
    assert 0 < copied < 800
    assert last(depot.run("backup", "list", "--json"))["backups"] == []
    depot.source.server.requests.clear()
    made = last(depot.run("backup", "create", "--json"))
    assert depot.source.server.requests["GET object/authenticated"] == 800 - copied
    assert (made["objects"]["objects"], made["objects"]["read"]) == (800, 800 - copied)
    assert (made["objects"]["lost"], made["objects"]["newer"]) == (0, 0)
    assert checkpoints_in(depot) == []
    repository = depot.place.project.repository
    assert verify(repository, repository.backups("app"), Level.FULL).ok
    depot.run("backup", "restore-bucket", "*", "latest", "--target", depot.target.dsn, "--yes")
    assert depot.target.contents() == depot.source.sums()


def test_first_copy_of_a_large_object_killed(depot: Ground) -> None:
    """What was stored of it is not read again."""
    data = os.urandom(40 << 20)
    depot.source.bucket("b")
    depot.source.put("b", "large", data)
    save_often(depot, 'max_rate = "16 MiB"')
    process = depot.place.start("backup", "create")
    eventually(lambda: checkpoints_in(depot), within=60)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (entry,) = {page.entries[0] for page in pages(checkpoints_in(depot)[-1])}
    assert (entry.note, entry.sha256) == (BEGUN, "")
    assert 0 < entry.size < len(data)
    asked: list[str] = []
    depot.source.server.hooks.append(
        lambda request: asked.append(request.headers.get("range", ""))
        if request.path.startswith("/object/authenticated/") else None
    )  # fmt: skip
    made = last(depot.run("backup", "create", "--json"))
    assert asked == [f"bytes={entry.size}-"]
    assert made["objects"]["lost"] == made["objects"]["newer"] == 0
    depot.run("backup", "restore-object", "b/large", "latest", "--output", "large")
    assert (depot.place.directory / "large").read_bytes() == data
    assert checkpoints_in(depot) == []


def test_large_object_replaced_after_the_kill(depot: Ground) -> None:
    """The beginning of another version is not taken for its own."""
    depot.source.bucket("b")
    depot.source.put("b", "large", os.urandom(40 << 20))
    save_often(depot, 'max_rate = "16 MiB"')
    process = depot.place.start("backup", "create")
    eventually(lambda: checkpoints_in(depot), within=60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    data = os.urandom(20 << 20)
    depot.source.put("b", "large", data)
    depot.run("backup", "create")
    depot.run("backup", "restore-object", "b/large", "latest", "--output", "large")
    assert (depot.place.directory / "large").read_bytes() == data


def test_checkpoint_that_is_damaged(depot: Ground) -> None:
    """It costs reading again, and nothing else; nor does its loss stop a collector."""
    depot.source.fill_directly(800, size=3_000)
    save_often(depot)
    killed_once_saved(depot)
    (entry, *_) = depot.place.project.repository.checkpoints("app")
    path = depot.place.directory / "a" / entry.manifest_name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    made = last(depot.run("backup", "create", "--json"))
    assert (made["objects"]["objects"], made["objects"]["lost"]) == (800, 0)
    depot.run("backup", "prune", "--yes")


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
