"""kill -9 while a local storage writes: acknowledged objects are whole, others are absent."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aurora.storage.local import LocalStorage

# The content follows from the name, so whoever finds an object can tell whether it is whole.
WRITER = """
import hashlib, itertools, os, sys
from aurora.storage.local import LocalStorage
storage = LocalStorage(sys.argv[1])
for i in itertools.count():
    name = f"chunks/{i % 4:02x}/{os.getpid()}-{i}"
    storage.put(name, hashlib.sha256(name.encode()).digest() * 20000, create_only=i % 2 == 0)
    print(name, flush=True)
"""

# Dies just before, or just after, the nth call of one function that a put makes.
DIER = """
import os, pathlib, signal, sys
from aurora.storage.local import LocalStorage
directory, step, when, create_only = sys.argv[1:]
storage = LocalStorage(directory)
storage.put("chunks/ab/first", b"1" * 1000)
owner = pathlib.Path if step in ("replace", "unlink") else os
real = getattr(owner, step)
def die(*args, **named):
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    if step == "write":
        real(args[0], args[1][:500])
    else:
        real(*args, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, step, die)
storage.put("chunks/ab/second", b"2" * 1000, create_only=create_only == "yes")
print("not killed")
"""


def expected(name: str) -> bytes:
    """What WRITER puts under *name*."""
    import hashlib

    return hashlib.sha256(name.encode()).digest() * 20000


@pytest.mark.parametrize("turn", range(8))
def test_killed_at_any_moment(tmp_path: Path, turn: int) -> None:
    """What was acknowledged is there and whole; whatever else is listed is whole too."""
    pause = random.Random(turn).uniform(0.02, 0.25)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        acknowledged = {first.strip(), *writer.stdout.read().split("\n")[:-1]}
    assert writer.returncode == -signal.SIGKILL
    storage = LocalStorage(tmp_path)
    listed = {info.name for info in storage.list("")}
    assert acknowledged <= listed
    assert len(listed - acknowledged) <= 1
    for name in listed:
        assert storage.get(name) == expected(name)
    storage.put("chunks/00/next", b"the next run goes on")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "step, create_only",
    [(step, "yes") for step in ("open", "write", "fsync", "close", "link", "unlink")]
    + [(step, "no") for step in ("write", "fsync", "replace")],
)
def test_killed_at_each_step(tmp_path: Path, step: str, create_only: str, when: str) -> None:
    """At each system call of a put: the first object stands, the second is whole or absent."""
    done = subprocess.run(
        [sys.executable, "-c", DIER, str(tmp_path), step, when, create_only],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    storage = LocalStorage(tmp_path)
    found = {info.name: storage.get(info.name) for info in storage.list("")}
    assert found.pop("chunks/ab/first") == b"1" * 1000
    named = step == "unlink" or (step in ("link", "replace") and when == "after")
    assert found == ({"chunks/ab/second": b"2" * 1000} if named else {})
    if not named:
        storage.put("chunks/ab/second", b"2" * 1000, create_only=True)
        assert storage.get("chunks/ab/second") == b"2" * 1000
