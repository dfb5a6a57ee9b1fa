"""A storage that fails on command: what a backup must survive, made repeatable.

A script names faults by the call they strike (``Fault(Kind.BEFORE, "put", 3)``: the third
put raises and stores nothing); a seed and a rate strike at random, the same for the same
seed and order of calls. Every call is recorded, so a test can first count the calls of a
run and then kill the run at each of them in turn::

    counter = FaultyStorage(MemoryStorage())
    run(counter)
    for nth in counter.nths("put"):
        faulty = FaultyStorage(MemoryStorage(), [Fault(Kind.DIE, "put", nth)])
        with pytest.raises(Killed):
            run(faulty)
        faulty.assert_all_used()
"""

import enum
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from aurora.errors import StorageError, StorageFull, StorageUnavailable
from aurora.storage.base import Buffer, ObjectInfo, Storage


class Killed(BaseException):
    """The process is dead from here on; no ``except Exception`` may swallow it."""


class Kind(enum.StrEnum):
    """What goes wrong. In brackets the operations it can strike."""

    BEFORE = "before"  # raises, and nothing happened [all]
    AFTER = "after"  # raises, but it happened: the answer was lost [put, delete; others: before]
    FULL = "full"  # StorageFull, and nothing happened [put]
    TORN = "torn"  # raises, and a part of the object is there under its name [put]
    SHORT = "short"  # the last byte, or more, is missing without an error [get]
    FLIP = "flip"  # one bit differs without an error [get; put: stored so]
    STALL = "stall"  # takes ``seconds``, then works [all]
    LAG = "lag"  # hides the newest ``hidden`` objects put through here [list]
    BREAK = "break"  # raises after the first object [list]
    DIE = "die"  # Killed before it happened, and at every later call [all]
    DIE_AFTER = "die-after"  # Killed after it happened, and at every later call [all]
    SIGKILL = "sigkill"  # kill -9 of this very process, before it happens [all]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, striking the calls ``nth`` to ``nth + times - 1`` that match."""

    kind: Kind
    operation: str = ""  # put, get, head, list, delete; empty: every one
    nth: int = 1  # counted from 1 among the calls that match operation and prefix
    prefix: str = ""  # names (or the listed prefix) must start with it
    times: int = 1
    error: StorageError | None = None  # raised instead of StorageUnavailable
    seconds: float = 0.05
    hidden: int = 1

    def matches(self, operation: str, name: str) -> bool:
        """Whether it may strike such a call at all."""
        return self.operation in ("", operation) and name.startswith(self.prefix)


@dataclass(frozen=True, slots=True)
class Call:
    """One recorded call; for delete and list ``name`` is the first name or the prefix."""

    operation: str
    name: str
    struck: Kind | None


class FaultyStorage:
    """*inner*, failing by script, or at random by *seed* and *rate* (0 to 1). Thread-safe."""

    def __init__(
        self,
        inner: Storage,
        script: Iterable[Fault] = (),
        *,
        seed: int | None = None,
        rate: float = 0.0,
        kinds: Iterable[Kind] = (Kind.BEFORE, Kind.AFTER),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._inner = inner
        self._script = list(script)
        self._seen = [0] * len(self._script)
        self._used = [0] * len(self._script)
        self._random = random.Random(seed)  # noqa: S311  repeatable on purpose
        self._rate = rate
        self._kinds = tuple(kinds)
        self._sleep = sleep
        self._lock = threading.Lock()
        self._dead = False
        self._newest: list[str] = []
        self.calls: list[Call] = []

    def __repr__(self) -> str:
        return f"FaultyStorage({self._inner!r}, {len(self.calls)} calls)"

    @property
    def url(self) -> str:
        """The inner storage's."""
        return self._inner.url

    def nths(self, operation: str = "", prefix: str = "") -> range:
        """The numbers that a Fault can take to strike each recorded call in turn."""
        pattern = Fault(Kind.BEFORE, operation, prefix=prefix)
        count = sum(1 for call in self.calls if pattern.matches(call.operation, call.name))
        return range(1, count + 1)

    def assert_all_used(self) -> None:
        """Fail when a scripted fault never struck: such a test proves nothing."""
        unused = [
            fault
            for fault, used in zip(self._script, self._used, strict=True)
            if used < fault.times
        ]
        assert not unused, f"faults that never struck: {unused}"

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """As the inner storage, unless a fault strikes."""
        fault = self._begin("put", name)
        if fault and fault.kind is Kind.TORN:
            self._inner.put(name, bytes(memoryview(data)[: max(1, len(data) // 2)]))
            raise _error(fault)
        if fault and fault.kind is Kind.FLIP:
            data = self._flipped(bytes(data))
        self._inner.put(name, data, create_only=create_only)
        with self._lock:
            self._newest.append(name)
        self._end(fault)

    def get(self, name: str) -> bytes:
        """As the inner storage, unless a fault strikes."""
        fault = self._begin("get", name)
        data = self._inner.get(name)
        if fault and fault.kind is Kind.SHORT:
            with self._lock:
                return data[: self._random.randrange(len(data))]
        if fault and fault.kind is Kind.FLIP:
            return self._flipped(data)
        self._end(fault)
        return data

    def head(self, name: str) -> ObjectInfo:
        """As the inner storage, unless a fault strikes."""
        fault = self._begin("head", name)
        found = self._inner.head(name)
        self._end(fault)
        return found

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As the inner storage, unless a fault strikes."""
        fault = self._begin("list", prefix)
        hidden: set[str] = set()
        if fault and fault.kind is Kind.LAG:
            with self._lock:
                hidden = set(self._newest[-fault.hidden :])
        found = [info for info in self._inner.list(prefix) if info.name not in hidden]
        if fault and fault.kind is Kind.BREAK:
            return _broken(found, fault)
        self._end(fault)
        return iter(found)

    def delete(self, names: Iterable[str]) -> None:
        """As the inner storage, unless a fault strikes."""
        whole = list(names)
        fault = self._begin("delete", whole[0] if whole else "")
        self._inner.delete(whole)
        self._end(fault)

    def _begin(self, operation: str, name: str) -> Fault | None:
        """Record the call; raise what must come before its effect."""
        with self._lock:
            if self._dead:
                raise Killed(f"{operation} {name} after death")
            fault = self._choose(operation, name)
            self.calls.append(Call(operation, name, fault.kind if fault else None))
            self._dead = fault is not None and fault.kind in (Kind.DIE, Kind.DIE_AFTER)
        if fault is None:
            return None
        if fault.kind is Kind.SIGKILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind is Kind.DIE:
            raise Killed(f"{operation} {name}")
        if fault.kind is Kind.STALL:
            self._sleep(fault.seconds)
        if fault.kind is Kind.FULL:
            raise fault.error or StorageFull(f"no room left for {name} (made to fail)")
        lost = fault.kind is Kind.AFTER and operation not in ("put", "delete")
        if fault.kind is Kind.BEFORE or lost:
            raise _error(fault)
        return fault

    def _end(self, fault: Fault | None) -> None:
        """Raise what must come after the effect."""
        if fault and fault.kind is Kind.DIE_AFTER:
            raise Killed("after the effect")
        if fault and fault.kind is Kind.AFTER:
            raise _error(fault)

    def _choose(self, operation: str, name: str) -> Fault | None:
        chosen: Fault | None = None
        for index, fault in enumerate(self._script):
            if not fault.matches(operation, name):
                continue
            self._seen[index] += 1
            if chosen is None and 0 <= self._seen[index] - fault.nth < fault.times:
                self._used[index] += 1
                chosen = fault
        if chosen is None and self._rate and self._random.random() < self._rate:
            chosen = Fault(self._random.choice(self._kinds))
        return chosen

    def _flipped(self, data: bytes) -> bytes:
        with self._lock:
            bit = self._random.randrange(len(data) * 8)
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        return bytes(damaged)


def _error(fault: Fault) -> StorageError:
    return fault.error or StorageUnavailable(f"made to fail ({fault.kind.value})")


def _broken(found: list[ObjectInfo], fault: Fault) -> Iterator[ObjectInfo]:
    yield from found[:1]
    raise _error(fault)
