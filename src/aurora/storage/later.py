"""A storage that is opened when it is first needed."""

from collections.abc import Callable, Iterable, Iterator
from threading import RLock
from typing import TypeVar

from aurora.errors import AuroraError, ObjectMissing
from aurora.storage.base import Buffer, ObjectInfo, Storage

T = TypeVar("T")


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


class StandIn(Later):
    """One that only helps out in reading: where it fails, it is as if it held nothing.

    A secondary that is lost, or whose passphrase is not at hand, must keep nobody from what a
    whole primary holds. *on_failure* hears of the first failure.
    """

    def __init__(
        self, opening: Callable[[], Storage], on_failure: Callable[[AuroraError], None]
    ) -> None:
        super().__init__(opening)
        self._on_failure = on_failure
        self._told = False

    def get(self, name: str) -> bytes:
        return self._asked(super().get, name)

    def head(self, name: str) -> ObjectInfo:
        return self._asked(super().head, name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        try:
            return iter([*super().list(prefix)])
        except AuroraError as error:
            self._tell(error)
            return iter(())

    def _asked(self, ask: Callable[[str], T], name: str) -> T:
        try:
            return ask(name)
        except ObjectMissing:
            raise
        except AuroraError as error:
            self._tell(error)
            raise ObjectMissing(f"object {name} is missing", context={"name": name}) from error

    def _tell(self, error: AuroraError) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            self._on_failure(error)
