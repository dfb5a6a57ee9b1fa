"""The memory storage, and the wrappers that must change nothing, pass the suite."""

import pytest

from aurora.errors import StorageDenied, UsageError
from aurora.storage.base import Storage
from aurora.storage.limit import LimitedStorage
from aurora.storage.memory import MemoryStorage
from aurora.storage.readonly import ReadOnlyStorage
from aurora.storage.retry import RetryingStorage
from aurora.testing.faulty_storage import FaultyStorage
from aurora.testing.storage_conformance import StorageConformance


class TestMemory(StorageConformance):
    """The plain one."""

    @pytest.fixture
    def storage(self) -> Storage:
        """An empty one."""
        return MemoryStorage()


class TestWrapped(StorageConformance):
    """Retry over a limit over a FaultyStorage without faults is as good as none of them."""

    @pytest.fixture
    def storage(self) -> Storage:
        """An empty one."""
        return RetryingStorage(
            LimitedStorage(FaultyStorage(MemoryStorage()), bytes_per_second=10**12, connections=3)
        )


def test_read_only_reads_and_refuses_writes() -> None:
    """Looking passes through; put and delete are refused and change nothing."""
    inner = MemoryStorage()
    inner.put("a", b"1")
    storage = ReadOnlyStorage(inner)
    assert storage.get("a") == b"1"
    assert storage.head("a").size == 1
    assert [info.name for info in storage.list("")] == ["a"]
    with pytest.raises(StorageDenied):
        storage.put("b", b"1")
    with pytest.raises(StorageDenied):
        storage.delete(["a"])
    assert list(inner.objects) == ["a"]


def test_limit_spreads_bytes_over_time() -> None:
    """At 1000 bytes a second, 5000 bytes take 5 seconds less the one that was saved up."""
    now = 100.0
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        pauses.append(seconds)
        now += seconds

    storage = LimitedStorage(MemoryStorage(), bytes_per_second=1000, clock=lambda: now, sleep=sleep)
    now += 60
    for i in range(4):
        storage.put(f"a/{i}", b"x" * 1000)
    storage.get("a/0")
    assert sum(pauses) == pytest.approx(4.0)


def test_limit_of_nothing_is_refused() -> None:
    """A limit of zero would stop all; it is an error, not a wait without end."""
    with pytest.raises(UsageError):
        LimitedStorage(MemoryStorage(), bytes_per_second=0)
    with pytest.raises(UsageError):
        LimitedStorage(MemoryStorage(), connections=0)
