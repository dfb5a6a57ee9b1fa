"""A storage that is opened when it is first needed."""

from collections.abc import Callable, Iterable, Iterator
from threading import RLock

from aurora.errors import AuroraError
from aurora.storage.base import Buffer, ObjectInfo, Storage


class Later:
    """A storage that is opened when it is first needed, and only then; a failure stays."""

    def __init__(self, opening: Callable[[], Storage]) -> None:
        self._opening = opening
        self._opened: Storage | AuroraError | None = None
        self._lock = RLock()

    def _storage(self) -> Storage:
        with self._lock:
            if self._opened is None:
                try:
                    self._opened = self._opening()
                except AuroraError as error:
                    self._opened = error  # each try would take a slow key derivation
            if isinstance(self._opened, AuroraError):
                raise self._opened
            return self._opened

    @property
    def url(self) -> str:
        return self._storage().url

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        self._storage().put(name, data, create_only=create_only)

    def get(self, name: str) -> bytes:
        return self._storage().get(name)

    def head(self, name: str) -> ObjectInfo:
        return self._storage().head(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._storage().list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        self._storage().delete(names)
