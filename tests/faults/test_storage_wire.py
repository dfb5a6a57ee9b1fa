"""A bad line to a real S3 server: cut, stalled and slow connections, lost answers."""

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from aurora.errors import ObjectMissing, StorageUnavailable
from aurora.storage.addresses import parse_address
from aurora.storage.base import Storage
from aurora.storage.objects import ObjectStorage
from aurora.storage.open import Patience
from aurora.storage.retry import RetryingStorage
from tests.fixtures.stores import S3Server

DATA = os.urandom(2_000_000)
_numbers = itertools.count(1)


class BadLine:
    """A TCP relay that lets so many bytes pass in a direction, then cuts or falls silent."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.up: int | None = None  # bytes to the server that pass; None: all
        self.down: int | None = None
        self.stall = False  # fall silent instead of cutting
        self.times = 0  # connections that are still to be treated so
        self.connections = 0
        self._closing = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cut everything."""
        self._closing.set()
        self._listener.close()

    def spoil(self, *, up: int | None = None, down: int | None = None, stall: bool = False,
              times: int = 1) -> None:  # fmt: skip
        """Treat the next *times* connections so."""
        self.up, self.down, self.stall, self.times = up, down, stall, times

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            spoilt = self.times > 0
            self.times -= spoilt
            server = socket.create_connection(("127.0.0.1", self._target))
            limits = (self.up, self.down) if spoilt else (None, None)
            for source, sink, limit in ((client, server, limits[0]), (server, client, limits[1])):
                threading.Thread(
                    target=self._relay, args=(source, sink, limit, self.stall), daemon=True
                ).start()

    def _relay(
        self, source: socket.socket, sink: socket.socket, limit: int | None, stall: bool
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if limit is not None and passed + len(data) > limit:
                    sink.sendall(data[: limit - passed])
                    if stall:
                        self._closing.wait(30)
                    break
                sink.sendall(data)
                passed += len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(scope="module")
def bucket(seaweedfs: S3Server) -> str:
    """One bucket for all."""
    return seaweedfs.new_bucket()


@pytest.fixture
def line(seaweedfs: S3Server) -> Iterator[BadLine]:
    """A relay to the server, good until told otherwise."""
    relay = BadLine(int(seaweedfs.endpoint.rsplit(":", 1)[1]))
    yield relay
    relay.close()


@pytest.fixture
def direct(seaweedfs: S3Server, bucket: str, prefix: str) -> ObjectStorage:
    """The same prefix, by a good line."""
    return opened(seaweedfs, bucket, prefix, int(seaweedfs.endpoint.rsplit(":", 1)[1]))


@pytest.fixture
def prefix() -> str:
    """A prefix that nothing is under."""
    return f"p{next(_numbers)}"


@pytest.fixture
def storage(seaweedfs: S3Server, bucket: str, prefix: str, line: BadLine) -> ObjectStorage:
    """By the bad line, without retries, giving up after a second."""
    return opened(seaweedfs, bucket, prefix, line.port, timeout=1.0)


def opened(
    server: S3Server, bucket: str, prefix: str, port: int, timeout: float = 30
) -> ObjectStorage:
    """A storage at *port*."""
    return ObjectStorage(
        parse_address(f"s3://{bucket}/{prefix}?endpoint=http://127.0.0.1:{port}"),
        {"access_key_id": server.access_key, "secret_access_key": server.secret_key},
        timeout=timeout,
    )


def patient(storage: Storage) -> RetryingStorage:
    """With quick retries."""
    return RetryingStorage(storage, Patience(budget=30, first=0.05, longest=0.2))


@pytest.mark.s3
@pytest.mark.parametrize(
    "passed, stall", [(0, False), (100, False), (500_000, False), (500_000, True)]
)
def test_get_over_a_broken_line(
    storage: ObjectStorage, direct: ObjectStorage, line: BadLine, passed: int, stall: bool
) -> None:
    """An answer cut at any place is unavailable, never short; the next try brings all."""
    direct.put("a", DATA)
    line.spoil(down=passed, stall=stall)
    begun = time.monotonic()
    with pytest.raises(StorageUnavailable):
        storage.get("a")
    assert time.monotonic() - begun < 6
    line.spoil(down=passed, stall=stall, times=2)
    assert patient(storage).get("a") == DATA


@pytest.mark.s3
@pytest.mark.parametrize(
    "passed, stall", [(0, False), (300, False), (1_000_000, False), (1_000_000, True)]
)
def test_put_over_a_broken_line(
    storage: ObjectStorage, direct: ObjectStorage, line: BadLine, passed: int, stall: bool
) -> None:
    """A body cut at any place stores nothing under the name; the next try stores all."""
    line.spoil(up=passed, stall=stall)
    with pytest.raises(StorageUnavailable):
        storage.put("a", DATA)
    with pytest.raises(ObjectMissing):
        direct.get("a")
    line.spoil(up=passed, stall=stall, times=2)
    patient(storage).put("a", DATA, create_only=True)
    assert direct.get("a") == DATA


@pytest.mark.s3
def test_lost_answer_of_a_put(storage: ObjectStorage, direct: ObjectStorage, line: BadLine) -> None:
    """The object arrived, its answer did not: the retried create recognises its own."""
    line.spoil(down=0, times=1)
    with pytest.raises(StorageUnavailable):
        storage.put("a", DATA, create_only=True)
    assert direct.get("a") == DATA
    line.spoil(down=0, times=1)
    patient(storage).put("b", DATA, create_only=True)
    assert direct.get("b") == DATA


@pytest.mark.s3
def test_other_operations_over_a_broken_line(
    storage: ObjectStorage, direct: ObjectStorage, line: BadLine
) -> None:
    """head, list and delete fail as unavailable and succeed when tried again."""
    for i in range(30):
        direct.put(f"l/{i}", b"1")
    for attempt in (
        lambda s: s.head("l/1"),
        lambda s: list(s.list("l/")),
        lambda s: s.delete(["l/1", "l/2"]),
    ):
        line.spoil(down=100, times=1)
        fresh = opened_like(storage)
        with pytest.raises(StorageUnavailable):
            attempt(fresh)
    line.spoil(down=100, times=2)
    patient(opened_like(storage)).delete(["l/3"])
    line.spoil(down=100, times=2)
    found = [info.name for info in patient(opened_like(storage)).list("l/")]
    assert len(found) == len(set(found)) == 27


def opened_like(storage: ObjectStorage) -> ObjectStorage:
    """The same storage with no connection open yet: a relay spoils new connections only."""
    keys = {"access_key_id": "aurora-test", "secret_access_key": "not-a-secret"}
    return ObjectStorage(storage._address, keys, timeout=1.0)


@pytest.mark.s3
def test_slow_upload_is_not_taken_for_silence(
    seaweedfs: S3Server, bucket: str, prefix: str
) -> None:
    """A write may take longer than the silence allowed to a read, as long as it moves."""
    from aurora.storage import objects

    relay = SlowLine(int(seaweedfs.endpoint.rsplit(":", 1)[1]))
    kept = objects._SILENCE
    objects._SILENCE = kept / 60
    try:
        storage = opened(seaweedfs, bucket, prefix, relay.port, timeout=20)
        begun = time.monotonic()
        storage.put("slow", DATA)
        assert time.monotonic() - begun > 1
        assert storage.head("slow").size == len(DATA)
    finally:
        objects._SILENCE = kept
        relay.close()


class SlowLine(BadLine):
    """A relay that lets about 1 MB a second through to the server."""

    def _relay(
        self, source: socket.socket, sink: socket.socket, limit: int | None, stall: bool
    ) -> None:
        slow = sink.getpeername()[1] == self._target
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                if slow:
                    time.sleep(len(data) / 1_000_000)
        for end in (source, sink):
            end.close()
