"""The faulty storage itself: each fault does what it says, where and as often as it says."""

import signal
import subprocess
import sys

import pytest

from aurora.errors import StorageDenied, StorageFull, StorageUnavailable
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Killed, Kind


def made(*faults: Fault) -> tuple[MemoryStorage, FaultyStorage]:
    """An inner storage holding ``a`` and ``b``, and a faulty one around it."""
    inner = MemoryStorage()
    inner.put("a", b"a" * 100)
    inner.put("b", b"b" * 100)
    return inner, FaultyStorage(inner, faults, seed=1)


def test_before_and_after() -> None:
    """The caller sees the same error; only the storage knows whether it happened."""
    inner, faulty = made(Fault(Kind.BEFORE, "put", 1), Fault(Kind.AFTER, "put", 2))
    for name in ("c", "d"):
        with pytest.raises(StorageUnavailable):
            faulty.put(name, b"1")
    assert "c" not in inner.objects
    assert "d" in inner.objects
    faulty.put("e", b"1")
    faulty.assert_all_used()


def test_own_error_and_full() -> None:
    """A fault may bring its own error; FULL brings StorageFull."""
    _, faulty = made(Fault(Kind.BEFORE, "get", error=StorageDenied("no")), Fault(Kind.FULL, "put"))
    with pytest.raises(StorageDenied):
        faulty.get("a")
    with pytest.raises(StorageFull):
        faulty.put("c", b"1")


def test_damage_on_reading() -> None:
    """SHORT loses an end, FLIP changes one bit; the stored object is as it was."""
    inner, faulty = made(Fault(Kind.SHORT, "get", 1), Fault(Kind.FLIP, "get", 2))
    short, flipped = faulty.get("a"), faulty.get("a")
    assert len(short) < 100
    assert short == b"a" * len(short)
    differing = int.from_bytes(flipped, "big") ^ int.from_bytes(b"a" * 100, "big")
    assert differing.bit_count() == 1
    assert inner.get("a") == faulty.get("a") == b"a" * 100


def test_damage_on_writing() -> None:
    """TORN leaves a part under the name, FLIP stores a wrong bit without an error."""
    inner, faulty = made(Fault(Kind.TORN, "put", 1), Fault(Kind.FLIP, "put", 2))
    with pytest.raises(StorageUnavailable):
        faulty.put("c", b"c" * 100)
    faulty.put("d", b"d" * 100)
    assert inner.get("c") == b"c" * 50
    assert inner.get("d") != b"d" * 100
    assert len(inner.get("d")) == 100


def test_lag_and_break() -> None:
    """LAG hides what was put last; BREAK ends a listing after one object with an error."""
    _, faulty = made(Fault(Kind.LAG, "list", 1, hidden=2), Fault(Kind.BREAK, "list", 2))
    for name in ("c", "d", "e"):
        faulty.put(name, b"1")
    assert [info.name for info in faulty.list("")] == ["a", "b", "c"]
    listing = faulty.list("")
    assert next(listing).name == "a"
    with pytest.raises(StorageUnavailable):
        next(listing)
    assert len(list(faulty.list(""))) == 5


def test_death_is_for_ever() -> None:
    """After DIE no call gets through, not even from an except clause."""
    for kind, stored in ((Kind.DIE, False), (Kind.DIE_AFTER, True)):
        inner, faulty = made(Fault(kind, "put", 2))
        faulty.put("c", b"1")
        with pytest.raises(Killed):
            faulty.put("d", b"1")
        assert ("d" in inner.objects) == stored
        with pytest.raises(Killed):
            faulty.delete(["a"])
        assert "a" in inner.objects
        assert len(faulty.calls) == 2


def test_sigkill_kills() -> None:
    """SIGKILL ends the process as kill -9 does: no finally, no atexit."""
    program = """
import sys
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import *
faulty = FaultyStorage(MemoryStorage(), [Fault(Kind.SIGKILL, "put", 2)])
try:
    faulty.put("a", b"1"); print("first", flush=True); faulty.put("b", b"1")
finally:
    print("finally", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "first\n"


def test_prefix_nth_and_times() -> None:
    """A fault counts only the calls that match, and strikes as often as it says."""
    _, faulty = made(Fault(Kind.BEFORE, "put", 2, prefix="refs/", times=2))
    outcomes = []
    for name in ("refs/1", "chunks/1", "refs/2", "chunks/2", "refs/3", "refs/4"):
        try:
            faulty.put(name, b"1")
            outcomes.append(name)
        except StorageUnavailable:
            outcomes.append("-")
    assert outcomes == ["refs/1", "chunks/1", "-", "chunks/2", "-", "refs/4"]
    assert list(faulty.nths("put")) == [1, 2, 3, 4, 5, 6]
    assert list(faulty.nths("put", "refs/")) == [1, 2, 3, 4]
    assert list(faulty.nths("get")) == []


def test_unused_faults_fail_the_test() -> None:
    """A fault that never struck, or not as often as scripted, is told."""
    _, faulty = made(Fault(Kind.BEFORE, "get", times=2), Fault(Kind.BEFORE, "delete"))
    with pytest.raises(StorageUnavailable):
        faulty.get("a")
    with pytest.raises(AssertionError) as caught:
        faulty.assert_all_used()
    assert "delete" in str(caught.value)
    assert "get" in str(caught.value)


def test_random_faults_repeat() -> None:
    """The same seed strikes the same calls; the rate is about the one asked for."""

    def struck(seed: int) -> list[Kind | None]:
        faulty = FaultyStorage(MemoryStorage(), seed=seed, rate=0.1)
        for i in range(500):
            try:
                faulty.put(f"x/{i}", b"1")
            except StorageUnavailable:
                continue
        return [call.struck for call in faulty.calls]

    assert struck(1) == struck(1)
    assert struck(1) != struck(2)
    assert 25 <= sum(kind is not None for kind in struck(3)) <= 80


def test_stall_waits() -> None:
    """STALL takes its time and then works."""
    pauses: list[float] = []
    inner = MemoryStorage()
    faulty = FaultyStorage(inner, [Fault(Kind.STALL, "put", seconds=9)], sleep=pauses.append)
    faulty.put("a", b"1")
    assert pauses == [9]
    assert inner.get("a") == b"1"
