"""A storage that only looks: for restores, verification and dry runs."""

from collections.abc import Iterable, Iterator

from aurora.errors import StorageDenied
from aurora.storage.base import Buffer, ObjectInfo, Storage


class ReadOnlyStorage:
    """*inner* without its writes: put and delete raise StorageDenied."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return f"ReadOnlyStorage({self._inner!r})"

    @property
    def url(self) -> str:
        """The inner storage's."""
        return self._inner.url

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """Refused."""
        del data, create_only
        raise _refusal(f"write {name}")

    def get(self, name: str) -> bytes:
        """As the inner storage."""
        return self._inner.get(name)

    def head(self, name: str) -> ObjectInfo:
        """As the inner storage."""
        return self._inner.head(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As the inner storage."""
        return self._inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        """Refused."""
        del names
        raise _refusal("delete objects")


def _refusal(what: str) -> StorageDenied:
    return StorageDenied(f"cannot {what}: the storage was opened for reading only")
