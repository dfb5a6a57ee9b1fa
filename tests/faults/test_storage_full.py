"""A disk that is really full, or really read-only."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora.errors import StorageDenied, StorageFull
from aurora.storage.local import LocalStorage

LIMITED = """
import resource, signal, sys
from aurora.errors import StorageFull
from aurora.storage.local import LocalStorage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
storage = LocalStorage(sys.argv[1])
storage.put("chunks/small", b"x" * 100_000)
try:
    storage.put("chunks/large", b"x" * 100_001)
except StorageFull as error:
    print(error.code, sorted(info.name for info in storage.list("")))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB and 40 files, where mounting is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = "size=2m,nr_inodes=40"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        # The test with a limit on file sizes covers the same code, if not the same kernel path.
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(storage: LocalStorage, stored: list[str], size: int) -> None:
    """Put until it fails; *stored* gets the names that were acknowledged."""
    for i in range(200):
        storage.put(f"chunks/{i}", bytes([i]) * size)
        stored.append(f"chunks/{i}")


def test_no_room_for_bytes(small_disk: Path) -> None:
    """The put that does not fit fails as full and leaves nothing; the others stay whole."""
    storage = LocalStorage(small_disk / "r")
    stored: list[str] = []
    with pytest.raises(StorageFull) as caught:
        fill(storage, stored, 300_000)
    assert not caught.value.retryable
    assert caught.value.hint
    assert 3 <= len(stored) <= 6
    assert {info.name for info in storage.list("")} == set(stored)
    for i, name in enumerate(stored):
        assert storage.get(name) == bytes([i]) * 300_000
    files = {path.name for path in small_disk.rglob("*") if path.is_file()}
    assert files == {name.removeprefix("chunks/") for name in stored}, "a half file takes room"
    storage.delete(stored[:1])
    storage.put("chunks/again", b"x" * 300_000)


def test_no_room_for_names(small_disk: Path) -> None:
    """A file system out of inodes is full as well, for files and for directories."""
    storage = LocalStorage(small_disk)
    stored: list[str] = []
    with pytest.raises(StorageFull):
        fill(storage, stored, 1)
    with pytest.raises(StorageFull):
        storage.put("another/directory", b"1")
    assert {info.name for info in storage.list("")} == set(stored)


def test_read_only_disk(small_disk: Path) -> None:
    """A disk that the kernel turned read-only is denied, and still read."""
    storage = LocalStorage(small_disk)
    storage.put("a", b"1")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageDenied):
        storage.put("b", b"1")
    with pytest.raises(StorageDenied):
        storage.delete(["a"])
    assert storage.get("a") == b"1"


def test_file_size_limit(tmp_path: Path) -> None:
    """A limit of the process, or of the file system, on a file's size is full too."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "storage-full ['chunks/small']", done.stderr
    assert [path.name for path in (tmp_path / "chunks").iterdir()] == ["small"]
