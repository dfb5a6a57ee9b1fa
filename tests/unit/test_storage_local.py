"""The local directory: the suite, and what only a file system can do wrong."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aurora.errors import (
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
    StorageUnfit,
)
from aurora.storage.base import ObjectExists, Storage
from aurora.storage.local import LocalStorage
from aurora.testing.storage_conformance import StorageConformance


class TestLocal(StorageConformance):
    """A directory that does not exist yet."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        """An empty one."""
        return LocalStorage(tmp_path / "made" / "on demand")


class TestLocalWithoutLinks(StorageConformance):
    """A file system without hard links; two creators at one instant may both win there."""

    @pytest.fixture
    def storage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
        """An empty one."""

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
        return LocalStorage(tmp_path)

    def test_one_creator_wins(self, storage: Storage) -> None:
        """Not promised here; a later creator still loses."""
        storage.put("a", b"1", create_only=True)
        with pytest.raises(ObjectExists):
            storage.put("a", b"2", create_only=True)


def files(directory: Path) -> set[str]:
    """All files below *directory*."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_files_are_private(tmp_path: Path) -> None:
    """Nobody but the owner may read objects or list the directories made for them."""
    LocalStorage(tmp_path / "r").put("a/b", b"1")
    assert (tmp_path / "r/a/b").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "r/a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o700


def test_strangers_and_leavings_are_not_listed(tmp_path: Path) -> None:
    """Temporary files and names that are none stay unseen; they are not deleted either."""
    storage = LocalStorage(tmp_path)
    storage.put("chunks/a", b"1")
    for name in ("chunks/~0123456789abcdef", "chunks/with space", "~dir/x", "chunks/ä"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "chunks/gone").symlink_to("nowhere")
    assert [info.name for info in storage.list("")] == ["chunks/a"]
    assert len(files(tmp_path)) == 5


def test_stale_leavings_are_cleared_by_a_put(tmp_path: Path) -> None:
    """A temporary file of a killed run goes after 48 hours, a fresh one stays."""
    LocalStorage(tmp_path).put("chunks/a", b"1")
    for name, hours in (("~old", 49), ("~new", 47)):
        path = tmp_path / "chunks" / name
        path.write_bytes(b"x")
        os.utime(path, (time.time() - hours * 3600,) * 2)
    LocalStorage(tmp_path).put("chunks/b", b"1")
    assert files(tmp_path) == {"chunks/a", "chunks/b", "chunks/~new"}


def test_a_linked_directory_is_followed(tmp_path: Path) -> None:
    """An operator may keep chunks/ on another disk behind a link; listings see it."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "r").mkdir()
    (tmp_path / "r/chunks").symlink_to(tmp_path / "disk")
    storage = LocalStorage(tmp_path / "r")
    storage.put("chunks/ab/x", b"1")
    assert files(tmp_path / "disk") == {"ab/x"}
    assert [info.name for info in storage.list("")] == ["chunks/ab/x"]


def test_directory_taken_away_while_in_use(tmp_path: Path) -> None:
    """A put makes its directory again when somebody removed it meanwhile."""
    storage = LocalStorage(tmp_path)
    storage.put("a/b/c", b"1")
    storage.delete(["a/b/c"])
    (tmp_path / "a/b").rmdir()
    (tmp_path / "a").rmdir()
    storage.put("a/b/c", b"2")
    assert storage.get("a/b/c") == b"2"


def test_something_in_the_way(tmp_path: Path) -> None:
    """A file where a directory must be, or the reverse, is unfit, not missing or passing."""
    storage = LocalStorage(tmp_path)
    storage.put("a", b"1")
    storage.put("d/x", b"1")
    for name in ("a/b", "d"):
        with pytest.raises(StorageUnfit):
            storage.put(name, b"1")
    with pytest.raises(StorageError):
        storage.put("d", b"1", create_only=True)
    with pytest.raises(StorageUnfit):
        list(LocalStorage(tmp_path / "a").list(""))
    assert files(tmp_path) == {"a", "d/x"}


@pytest.mark.parametrize(
    "number, kind",
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EACCES, StorageDenied),
        (errno.EROFS, StorageDenied),
        (errno.EIO, StorageUnavailable),
        (errno.ESTALE, StorageUnavailable),
    ],
)
@pytest.mark.parametrize("step", ["write", "fsync", "close", "link", "replace"])
def test_failing_system_calls(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[StorageError],
    step: str,
) -> None:
    """Whichever call of a put fails, the error says its kind and no half object is there."""
    storage = LocalStorage(tmp_path)
    storage.put("chunks/before", b"1")
    real: Callable[..., object] = getattr(os, step)
    failing = True

    def fail(*args: object, **named: object) -> object:
        if not failing:
            return real(*args, **named)
        if step == "close":
            real(*args)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(kind) as caught:
        storage.put("chunks/after", b"x" * 100, create_only=step == "link")
    failing = False
    monkeypatch.undo()
    assert type(caught.value) is kind
    assert str(tmp_path) in caught.value.message
    assert files(tmp_path) == {"chunks/before"}
    storage.put("chunks/after", b"x" * 100)
    assert storage.get("chunks/after") == b"x" * 100


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that takes a few bytes at a time still gets all of them."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    LocalStorage(tmp_path).put("a", bytes(range(100)))
    monkeypatch.undo()
    assert LocalStorage(tmp_path).get("a") == bytes(range(100))


def test_a_put_syncs_file_directory_and_new_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file before it gets its name, then the directory; new parents once, not again."""
    synced: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        target = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        synced.append("file" if "~" in target else os.path.relpath(target, tmp_path))
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        synced.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    storage = LocalStorage(tmp_path / "r")
    storage.put("chunks/ab/x", b"1")
    assert synced == [".", "r", "r/chunks", "file", "rename", "r/chunks/ab"]
    synced.clear()
    storage.put("chunks/ab/y", b"1")
    assert synced == ["file", "rename", "r/chunks/ab"]
    synced.clear()
    storage.delete(["chunks/ab/x", "chunks/ab/y", "chunks/ab/z"])
    assert synced == ["r/chunks/ab"]


def test_reading_needs_no_directory(tmp_path: Path) -> None:
    """Looking at a storage that is not there finds nothing and makes nothing."""
    storage = LocalStorage(tmp_path / "none")
    assert list(storage.list("")) == []
    with pytest.raises(ObjectMissing):
        storage.get("config")
    storage.delete(["config"])
    assert not (tmp_path / "none").exists()
