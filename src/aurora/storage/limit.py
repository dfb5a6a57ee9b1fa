"""A leash: a storage that leaves bandwidth and connections to others."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from aurora.errors import UsageError
from aurora.storage.base import Buffer, ObjectInfo, Storage


class Rate:
    """So many bytes a second at most, whoever sends them. Threads share it."""

    def __init__(
        self,
        bytes_per_second: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock()  # when all that was sent so far is paid for

    def pay(self, count: int) -> None:
        """Wait until *count* bytes fit the rate; a quiet time earns one second's worth."""
        if self._rate is None:
            return
        with self._lock:
            now = self._clock()
            start = max(self._free_at, now - 1.0)
            self._free_at = start + count / self._rate
            pause = self._free_at - now
        if pause > 0:
            self._sleep(pause)


class LimitedStorage:
    """*inner*, at *bytes_per_second* and *connections* at most. Threads share the limits."""

    def __init__(
        self,
        inner: Storage,
        *,
        bytes_per_second: int | None = None,
        connections: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if any(limit is not None and limit < 1 for limit in (bytes_per_second, connections)):
            raise UsageError("a limit of a storage is at least 1")
        self._inner = inner
        self._rate = Rate(bytes_per_second, clock=clock, sleep=sleep)
        self._slots = threading.BoundedSemaphore(connections or 1_000_000)

    def __repr__(self) -> str:
        return f"LimitedStorage({self._inner!r})"

    @property
    def url(self) -> str:
        """The inner storage's."""
        return self._inner.url

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """As the inner storage, after waiting for the bytes' turn."""
        self._rate.pay(memoryview(data).nbytes)
        with self._slots:
            self._inner.put(name, data, create_only=create_only)

    def get(self, name: str) -> bytes:
        """As the inner storage; the next transfer waits for what this one brought."""
        with self._slots:
            data = self._inner.get(name)
        self._rate.pay(len(data))
        return data

    def head(self, name: str) -> ObjectInfo:
        """As the inner storage."""
        with self._slots:
            return self._inner.head(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As the inner storage, unlimited: a listing is small and may stay open for long."""
        return self._inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        """As the inner storage."""
        with self._slots:
            self._inner.delete(names)
