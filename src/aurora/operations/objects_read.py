"""Storage objects out of a backup: found by name, their bytes proven, written to a file."""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from aurora.engines.supabase.documents import ObjectEntry, ObjectPage, PageRef, Piece
from aurora.errors import (
    ObjectDamaged,
    UsageError,
)
from aurora.operations.content import Backup, Readable
from aurora.operations.objects import pages
from aurora.repository.door import Ref


class Packs:
    """Stored buffers out of a repository; each is read once while it is in use."""

    def __init__(self, repository: Readable, *, keep: int) -> None:
        self._repository = repository
        self._keep = keep
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Future[bytes]] = OrderedDict()

    def get(self, name: str, raw: int) -> bytes:
        """Raises ObjectMissing, ObjectDamaged, StorageError."""
        with self._lock:
            future = self._held.get(name)
            mine = future is None
            if future is None:
                future = self._held[name] = Future()
                while len(self._held) > self._keep:
                    self._held.popitem(last=False)
            else:
                self._held.move_to_end(name)
        if mine:
            try:
                future.set_result(self._repository.read(Ref(name, raw)))
            except BaseException as error:
                with self._lock:
                    self._held.pop(name, None)
                future.set_exception(error)
                raise
        return future.result()

    def chunks(self, page: ObjectPage, entry: ObjectEntry) -> Iterator[bytes]:
        """An object's bytes, proven at the end. Raises as get, and ObjectDamaged."""
        whole = hashlib.sha256()
        for data in (self._piece(page, piece) for piece in entry.pieces):
            whole.update(data)
            yield data
        if whole.hexdigest() != entry.sha256:
            raise ObjectDamaged(
                f"{entry.bucket}/{entry.name} in the backup is not what was read from the source",
                hint="Run `aurora backup verify` on this backup and report this.",
            )

    def _piece(self, page: ObjectPage, piece: Piece) -> bytes:
        pack = page.packs[piece.pack]
        data = self.get(pack.object, pack.raw)
        if piece.offset == 0 and piece.length == len(data):
            return data
        return data[piece.offset : piece.offset + piece.length]


def require_storage(backup: Backup) -> None:
    """Raise UsageError where the backup holds no objects of a Storage."""
    if backup.body.storage is None:
        raise UsageError(
            f"backup {backup.entry.id} holds no Storage objects",
            hint="It was made without the key of the project's Storage, or of a database "
            "without one. `aurora backup list` shows the others.",
        )


def find_object(backup: Backup, path: str) -> tuple[ObjectPage, ObjectEntry]:
    """The object ``bucket/name``. Raises UsageError where the backup has none of this name."""
    require_storage(backup)
    bucket, _, name = path.partition("/")
    key = (bucket.encode(), name.encode())
    assert backup.body.storage is not None
    before = [ref for ref in backup.body.storage.pages if _first(ref) <= key]
    for page in pages(backup, lambda ref: bool(before) and ref is before[-1]):
        for entry in page.entries:
            if (entry.bucket, entry.name) == (bucket, name):
                return page, entry
    near = _near(backup, name)
    raise UsageError(
        f"backup {backup.entry.id} has no object {path[:200]}",
        hint="Write BUCKET/NAME as the project has it; both know upper and lower case."
        + (f" Nearest: {', '.join(near)}." if near else ""),
    )


def save_object(backup: Backup, path: str, output: Path) -> ObjectEntry:
    """Write an object to a file, which is there whole or not at all.

    Raises UsageError, ObjectMissing, ObjectDamaged, StorageError, OSError as UsageError.
    """
    page, entry = find_object(backup, path)
    require_bytes(entry)
    if output.is_dir():
        output /= Path(entry.name).name
    packs = Packs(backup.repository, keep=1)
    temporary = output.with_name(f".{output.name}.aurora-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            for data in packs.chunks(page, entry):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(output)
    except OSError as error:
        raise UsageError(
            f"cannot write {output}: {(error.strerror or 'failed').lower()}",
            hint="Nothing was changed. Name another file with --output.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return entry


def require_bytes(entry: ObjectEntry) -> None:
    if entry.is_lost:
        raise UsageError(
            f"the backup has no bytes of {entry.bucket}/{entry.name}: "
            f"{entry.note.partition(': ')[2]}",
            hint="Try an earlier or a later backup.",
        )


def _first(ref: PageRef) -> tuple[bytes, bytes]:
    return ref.bucket.encode(), ref.first.encode()


def _near(backup: Backup, name: str) -> list[str]:
    """Objects whose name differs by case or by its folder alone: the first few."""
    tail, found = name.rpartition("/")[2].lower(), []
    for page in pages(backup):
        for entry in page.entries:
            if entry.name.lower().endswith(tail) and tail:
                found.append(f"{entry.bucket}/{entry.name}")
                if len(found) == 3:
                    return found
    return found
