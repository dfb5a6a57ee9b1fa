"""What every storage must do, as one suite: a new driver is done when it passes.

A test module makes a subclass named ``Test...`` and gives it a ``storage`` fixture that
yields an empty storage; pytest then runs every method here against it.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import timedelta

from aurora import clock
from aurora.errors import AuroraError, ObjectMissing, StorageError
from aurora.storage.base import MAX_OBJECT, ObjectExists, Storage

_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
_BAD_NAMES = (
    "", "/", "/a", "a/", "a//b", "../a", "a/../b", "a/..", "./a", ".", "..", "a b", "a\nb", "a\0b",
    "a\\b", "a%2e", "~a", "ä", "a?b", "a#b", "a*", "x" * 600, "y" * 256,
)  # fmt: skip


class StorageConformance:
    """The suite. ``create_only_works`` is False for a storage that ignores the condition."""

    create_only_works = True
    clock_slack = timedelta(seconds=30)

    def test_round_trip(self, storage: Storage) -> None:
        """What was put is got back, byte for byte, at every size that matters."""
        for size in (1, 2, 4095, 4096, 65537, 3_000_000):
            data = os.urandom(size)
            storage.put(f"chunks/ab/{size}", data)
            assert storage.get(f"chunks/ab/{size}") == data
            assert storage.head(f"chunks/ab/{size}").size == size

    def test_buffers(self, storage: Storage) -> None:
        """bytearray and slices of a memoryview are stored as they are at that moment."""
        work = bytearray(b"0123456789")
        storage.put("array", work)
        storage.put("slice", memoryview(work)[3:6])
        work[:] = b"xxxxxxxxxx"
        assert storage.get("array") == b"0123456789"
        assert storage.get("slice") == b"345"

    def test_answers_are_plain_bytes(self, storage: Storage) -> None:
        """Callers hash, compare and slice what they get, so it is bytes and nothing like it."""
        storage.put("a", b"data")
        assert type(storage.get("a")) is bytes

    def test_missing(self, storage: Storage) -> None:
        """A name that is not there is ObjectMissing, naming it; also one that is a prefix."""
        storage.put("a/b/c", b"1")
        for name in ("nothing", "a", "a/b", "a/b/c/d", "a/b/cc"):
            for look in (storage.get, storage.head):
                with _raises(ObjectMissing) as caught:
                    look(name)
                assert name in caught[0].message

    def test_list(self, storage: Storage) -> None:
        """A listing tells each object below the prefix once, with its size."""
        names = {f"chunks/{i % 16:02x}/{i}": i + 1 for i in range(40)} | {"config": 5, "chunksy": 6}
        for name, size in names.items():
            storage.put(name, b"x" * size)
        found = list(storage.list(""))
        assert len(found) == len(names)
        assert {info.name: info.size for info in found} == names
        below = {info.name for info in storage.list("chunks/")}
        assert below == {name for name in names if name.startswith("chunks/")}
        assert {info.name for info in storage.list("chunks/03/")} == {
            f"chunks/03/{i}" for i in range(3, 40, 16)
        }
        assert list(storage.list("nothing/")) == []
        assert list(storage.list("config/")) == []
        assert list(storage.list("chunks/0/")) == []

    def test_empty(self, storage: Storage) -> None:
        """An empty storage lists nothing and is no error."""
        assert list(storage.list("")) == []
        assert list(storage.list("backups/")) == []

    def test_times(self, storage: Storage) -> None:
        """modified_at is aware, in UTC, and about now; head and list agree on it."""
        before = clock.now()
        storage.put("a", b"1")
        told = storage.head("a").modified_at
        assert told.utcoffset() == timedelta(0)
        assert before - self.clock_slack <= told <= clock.now() + self.clock_slack
        (listed,) = storage.list("")
        assert abs(listed.modified_at - told) < timedelta(seconds=1)

    def test_delete(self, storage: Storage) -> None:
        """Deleting takes those names and no others; absent ones are no error."""
        for name in ("a", "b", "c/d", "c/e"):
            storage.put(name, b"1")
        storage.delete(iter(["absent", "a", "c/absent", "c/d", "a/b", "c"]))
        assert {info.name for info in storage.list("")} == {"b", "c/e"}
        storage.delete([])
        storage.delete(["a"])
        with _raises(ObjectMissing):
            storage.get("a")

    def test_delete_many(self, storage: Storage) -> None:
        """More names than one request takes, some of them absent, go in one call."""
        names = [f"gc/{i:04}" for i in range(520)]
        for name in names[::4]:
            storage.put(name, b"1")
        storage.put("kept", b"1")
        storage.delete(names)
        assert [info.name for info in storage.list("")] == ["kept"]

    def test_name_again_after_delete(self, storage: Storage) -> None:
        """A directory that a delete left empty takes objects again."""
        storage.put("a/b/c", b"1")
        storage.delete(["a/b/c"])
        storage.put("a/b/c", b"22")
        assert storage.get("a/b/c") == b"22"

    def test_overwrite(self, storage: Storage) -> None:
        """Without create_only a second put replaces the whole object."""
        storage.put("a", b"first, and longer")
        storage.put("a", b"second")
        assert storage.get("a") == b"second"
        assert storage.head("a").size == 6

    def test_create_only(self, storage: Storage) -> None:
        """create_only stores a new name; an existing one it refuses, untouched, if it can."""
        storage.put("a", b"first", create_only=True)
        if not self.create_only_works:
            storage.put("a", b"second", create_only=True)
            return
        with _raises(ObjectExists) as caught:
            storage.put("a", b"second", create_only=True)
        assert caught[0].code == "storage-object-exists"
        assert not caught[0].retryable
        assert storage.get("a") == b"first"

    def test_one_creator_wins(self, storage: Storage) -> None:
        """Of many that create one name at once, one wins, and its bytes are what is there."""
        if not self.create_only_works:
            return
        won: list[bytes] = []
        lost: list[StorageError] = []

        def create(data: bytes) -> None:
            try:
                storage.put("race/x", data, create_only=True)
                won.append(data)
            except StorageError as error:
                lost.append(error)

        _together([lambda i=i: create(b"%d" % i * 1000) for i in range(8)])
        assert len(won) == 1
        assert len(lost) == 7
        assert storage.get("race/x") == won[0]

    def test_threads(self, storage: Storage) -> None:
        """Puts, gets and listings of many threads do not disturb one another."""
        failures: list[BaseException] = []

        def work(i: int) -> None:
            try:
                for j in range(6):
                    data = bytes([i, j]) * 5000
                    storage.put(f"t/{j}/{i}", data)
                    assert storage.get(f"t/{j}/{i}") == data
                    assert f"t/{j}/{i}" in {info.name for info in storage.list(f"t/{j}/")}
            except (AuroraError, AssertionError) as error:
                failures.append(error)

        _together([lambda i=i: work(i) for i in range(6)])
        assert failures == []
        assert len(list(storage.list("t/"))) == 36

    def test_readers_see_whole_objects(self, storage: Storage) -> None:
        """While a name is written over and over, a reader sees one version or the other."""
        versions = [b"a" * 300_000, b"b" * 300_001]
        storage.put("x", versions[0])
        done = threading.Event()
        torn: list[int] = []

        def read() -> None:
            while not done.is_set():
                data = storage.get("x")
                if data not in versions:
                    torn.append(len(data))

        def write() -> None:
            try:
                for i in range(30):
                    storage.put("x", versions[i % 2])
            finally:
                done.set()

        _together([read, write])
        assert torn == []

    def test_every_character(self, storage: Storage) -> None:
        """Each allowed character makes a round trip through put, get, list and delete."""
        names = {f"n/x{character}y" for character in _ALPHABET} | {f"n/{_ALPHABET}"}
        names |= {"n/.hidden", "n/-", "n/...", "n/a.", "n/deep/" + "/".join("abcdefghij")}
        by_name = {name: name.encode() for name in names}
        for name, data in by_name.items():
            storage.put(name, data)
        assert {info.name for info in storage.list("n/")} == names
        for name, data in by_name.items():
            assert storage.get(name) == data

    def test_bad_names(self, storage: Storage) -> None:
        """A name outside the alphabet is refused at once, by every operation."""
        for name in _BAD_NAMES:
            for attempt in (
                lambda name=name: storage.put(name, b"1"),
                lambda name=name: storage.get(name),
                lambda name=name: storage.head(name),
                lambda name=name: storage.delete([name]),
            ):
                with _raises(StorageError) as caught:
                    attempt()
                assert not caught[0].retryable
        for prefix in ("a", "/", "../", "a//", "ä/"):
            with _raises(StorageError):
                storage.list(prefix)
        assert list(storage.list("")) == []

    def test_sizes(self, storage: Storage) -> None:
        """Nothing empty and nothing over 64 MiB is taken."""
        for data in (b"", memoryview(b""), bytearray(MAX_OBJECT + 1)):
            with _raises(StorageError):
                storage.put("a", data)
        assert list(storage.list("")) == []

    def test_url_is_safe_to_show(self, storage: Storage) -> None:
        """The address holds a scheme and no user part."""
        assert "://" in storage.url
        assert "@" not in storage.url
        assert storage.url in repr(storage) or type(storage).__name__ in repr(storage)


@contextlib.contextmanager
def _raises(kind: type[AuroraError]) -> Iterator[list[AuroraError]]:
    caught: list[AuroraError] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
    assert caught, f"{kind.__name__} was not raised"


def _together(tasks: list) -> None:  # type: ignore[type-arg]
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
