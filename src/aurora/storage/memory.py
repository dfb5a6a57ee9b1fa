"""A storage in memory, for tests and dry runs: nothing of it outlives the process."""

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from aurora import clock
from aurora.errors import ObjectMissing
from aurora.storage.base import Buffer, ObjectExists, ObjectInfo
from aurora.storage.names import check_data, check_name, check_prefix


class MemoryStorage:
    """A dict of objects behind a lock. Threads may share it.

    ``objects`` is the dict itself: a test may look at it and damage it at will.
    """

    def __init__(self, label: str = "test", *, now: Callable[[], datetime] = clock.now) -> None:
        """*now* is the storage's own clock."""
        self._label = label
        self._now = now
        self.objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MemoryStorage({self._label!r}, {len(self.objects)} objects)"

    @property
    def url(self) -> str:
        """``memory://label``."""
        return f"memory://{self._label}"

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """Store a copy of *data*. Raises ObjectExists, StorageError."""
        kept = bytes(check_data(name, data))
        info = ObjectInfo(check_name(name), len(kept), self._now())
        with self._lock:
            if create_only and name in self.objects:
                raise ObjectExists(f"there is an object {name} already", context={"name": name})
            self.objects[name] = (kept, info)

    def get(self, name: str) -> bytes:
        """The whole object. Raises ObjectMissing, StorageError."""
        return self._find(name)[0]

    def head(self, name: str) -> ObjectInfo:
        """Size and time of one object. Raises ObjectMissing, StorageError."""
        return self._find(name)[1]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose name starts with *prefix*, as they are now."""
        check_prefix(prefix)
        with self._lock:
            found = [info for name, (_, info) in self.objects.items() if name.startswith(prefix)]
        return iter(found)

    def delete(self, names: Iterable[str]) -> None:
        """Delete; a name that is not there is no error."""
        for name in names:
            check_name(name)
            with self._lock:
                self.objects.pop(name, None)

    def _find(self, name: str) -> tuple[bytes, ObjectInfo]:
        check_name(name)
        with self._lock:
            if name not in self.objects:
                raise ObjectMissing(f"there is no object {name}", context={"name": name})
            return self.objects[name]
