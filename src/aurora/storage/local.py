"""A directory as a storage, durable: what put() returned from survives a power cut.

A put writes a temporary file beside its final place, fsyncs it, links or renames it
there and fsyncs the directory, so a name shows either nothing or the whole object.
Temporary files begin with ``~``, which no object name can hold, so no listing shows
the leavings of a killed run; a later put into the directory clears old ones.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from aurora.errors import (
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
    StorageUnfit,
)
from aurora.storage.base import Buffer, ObjectExists, ObjectInfo
from aurora.storage.names import check_data, check_name, check_prefix, check_size

_TEMPORARY = "~"
_STALE_SECONDS = 48 * 3600  # the age under which nothing is ever deleted
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_SHAPE = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalStorage:
    """Objects as files below one directory. Threads and processes may share it."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        # Lexically: a link in the path is followed at each use, not frozen here.
        self._root = Path(os.path.abspath(directory))  # noqa: PTH100
        self._ready: set[Path] = set()  # directories proven durable by this process
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    @property
    def url(self) -> str:
        """``file:///absolute/path``."""
        return self._root.as_uri()

    @property
    def directory(self) -> Path:
        """The directory itself."""
        return self._root

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """Store *data* under *name*, durable on return.

        Raises:
            ObjectExists: *create_only*, and there is an object of this name.
            StorageFull, StorageDenied, StorageUnfit, StorageUnavailable: nothing
                was stored.
        """
        path = self._path(name)
        view = check_data(name, data)
        try:
            try:
                self._write(path, view, create_only)
            except FileNotFoundError:
                # Somebody removed a directory that was there a moment ago.
                with self._lock:
                    self._ready.clear()
                self._write(path, view, create_only)
        except FileExistsError as error:
            raise ObjectExists(
                f"there is an object {name} already", context={"name": name}
            ) from error
        except OSError as error:
            raise self._translated(error, f"cannot write {name}") from error

    def get(self, name: str) -> bytes:
        """The whole object. Raises ObjectMissing, ObjectDamaged, StorageError."""
        path = self._path(name)
        try:
            with path.open("rb", buffering=0) as file:
                size = check_size(name, os.fstat(file.fileno()).st_size)
                data = file.read(size)
                while len(data) < size and (more := file.read(size - len(data))):
                    data += more
        except OSError as error:
            raise self._missing_or(error, name, f"cannot read {name}") from error
        if len(data) != size:
            raise StorageUnavailable(
                f"{name} is {size} bytes, only {len(data)} could be read", context={"name": name}
            )
        return data

    def head(self, name: str) -> ObjectInfo:
        """Size and time of one object. Raises ObjectMissing, StorageError."""
        path = self._path(name)
        try:
            found = path.stat()
        except OSError as error:
            raise self._missing_or(error, name, f"cannot look at {name}") from error
        if not stat.S_ISREG(found.st_mode):
            raise _missing(name)
        return _info(name, found)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose name starts with *prefix*."""
        return self._walk(check_prefix(prefix))

    def delete(self, names: Iterable[str]) -> None:
        """Delete, and make it durable; empty directories stay.

        Raises StorageError; the names before the one that failed are gone.
        """
        touched: set[Path] = set()
        for name in names:
            path = self._path(name)
            try:
                path.unlink()
                touched.add(path.parent)
            except OSError as error:
                if error.errno in _ABSENT or _is_directory(path):
                    continue
                raise self._translated(error, f"cannot delete {name}") from error
        for directory in touched:
            try:
                _sync_directory(directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._translated(error, "cannot make a deletion durable") from error

    def _path(self, name: str) -> Path:
        return self._root / check_name(name)

    def _write(self, path: Path, view: memoryview, create_only: bool) -> None:
        self._prepare(path.parent)
        temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                written = 0
                while written < len(view):
                    written += os.write(descriptor, view[written:])
                _sync(descriptor)
            finally:
                os.close(descriptor)
            if create_only:
                _link(temporary, path)
            else:
                temporary.replace(path)
        finally:
            # After a rename there is nothing left here; after a link or a failure there is.
            with contextlib.suppress(OSError):
                temporary.unlink()
        _sync_directory(path.parent)

    def _prepare(self, directory: Path) -> None:
        """Make *directory*, with every step down to it durable; once a process.

        A directory found there may have been made by a run that died before its
        fsync, hence the parents are synced even when nothing is new.
        """
        if directory in self._ready:
            return
        inside = directory.is_relative_to(self._root)
        if not inside and _is_directory(directory):
            return  # above the root, what was there before is not ours to sync
        if directory != directory.parent:
            self._prepare(directory.parent)
        _make_directory(directory)
        with contextlib.suppress(PermissionError):  # the root's parent may be unreadable to us
            _sync_directory(directory.parent)
        if inside:
            _clear_stale(directory)
            with self._lock:
                self._ready.add(directory)

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        waiting = [prefix]
        while waiting:
            folder = waiting.pop()
            found: list[ObjectInfo] = []
            try:
                with os.scandir(self._root / folder) as entries:
                    for entry in entries:
                        _sort(entry, folder, waiting, found)
            except OSError as error:
                if error.errno in _ABSENT and (folder or not os.path.lexists(self._root)):
                    continue
                raise self._translated(error, f"cannot list {folder or 'the directory'}") from error
            yield from found

    def _missing_or(self, error: OSError, name: str, what: str) -> StorageError | ObjectMissing:
        if error.errno in _ABSENT or error.errno == errno.EISDIR:
            return _missing(name)
        return self._translated(error, what)

    def _translated(self, error: OSError, what: str) -> StorageError:
        message = f"{what} in {self._root}: {(error.strerror or str(error)).lower()}"
        context = {"directory": str(self._root), "errno": error.errno}
        if error.errno in _FULL:
            return StorageFull(
                message,
                hint="What was stored before is whole. Make room, or move the repository to a "
                "larger disk, and run again.",
                context=context,
            )
        if error.errno in _DENIED:
            return StorageDenied(
                message,
                hint="Let this user read and write the directory, and see that it is not mounted "
                "read-only.",
                context=context,
            )
        if error.errno in _SHAPE:
            return StorageUnfit(
                message, hint="Something that is not Aurora's lies in the way.", context=context
            )
        return StorageUnavailable(
            message, hint="Check the disk and its mount, then run again.", context=context
        )


def _sort(
    entry: os.DirEntry[str], folder: str, waiting: list[str], found: list[ObjectInfo]
) -> None:
    """One directory entry: a directory to look into, an object, or neither."""
    if entry.name.startswith(_TEMPORARY):
        return
    try:
        name = check_name(folder + entry.name)
    except StorageError:
        return  # a stranger's file; it can't be asked for, so it is not an object
    try:
        if entry.is_dir():
            waiting.append(name + "/")
        elif entry.is_file():
            found.append(_info(name, entry.stat()))
    except FileNotFoundError:
        return  # deleted while we looked


def _info(name: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _missing(name: str) -> ObjectMissing:
    return ObjectMissing(f"there is no object {name}", context={"name": name})


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(0o700)
    except FileExistsError:
        if not _is_directory(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if isinstance(error, FileExistsError) or error.errno not in _NO_LINKS:
            raise
        # A file system without hard links (FAT, some network shares): look, then rename.
        # Two writers at the same instant may both win; the repository never relies on it.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        temporary.replace(path)


def _sync(descriptor: int) -> None:
    """fsync down to the platter; macOS's own stops at the drive's cache."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # cannot be synced, e.g. FUSE
            raise
    finally:
        os.close(descriptor)


def _clear_stale(directory: Path) -> None:
    """Remove what killed runs left in *directory*; failing to is no error."""
    oldest = time.time() - _STALE_SECONDS
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMPORARY) and entry.stat().st_mtime < oldest:
                Path(entry.path).unlink()
