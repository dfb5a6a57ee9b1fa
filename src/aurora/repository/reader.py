"""Fetching objects with their proof, from a second storage where the first one fails."""

import threading
from collections.abc import Callable
from typing import TypeVar

from aurora.errors import AuroraError, IntegrityError, ObjectMissing, StorageError
from aurora.events import EventSink, Warned, discard
from aurora.repository.damage import missing
from aurora.storage.base import Storage

T = TypeVar("T")

_TOLD = 5
_HINT = (
    "What was read is proven and the run goes on. `aurora backup heal all` brings back what the "
    "primary lacks."
)


class ObjectReader:
    """Fetches and proves objects. Threads may share one.

    With a *fallback* (a second storage with the same names, for example a
    :class:`aurora.repository.mirror.MirrorView`) an object that is missing, damaged or
    unreadable on *storage* is read from there. *sink* is warned once for each of the first few:
    of a storage that is lost as a whole that is enough.
    """

    def __init__(
        self, storage: Storage, *, fallback: Storage | None = None, sink: EventSink = discard
    ) -> None:
        self.storage = storage
        self.fallback = fallback
        self._sink = sink
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def fetch(self, name: str, prove: Callable[[bytes], T]) -> T:
        """What *prove* makes of the object's bytes.

        *prove* raises an IntegrityError for bytes that are not the object's. When both
        storages fail, the first one's error is raised.

        Raises:
            ObjectMissing, ObjectDamaged, StorageError.
        """
        try:
            return prove(self.storage.get(name))
        except (IntegrityError, StorageError) as error:
            if isinstance(error, ObjectMissing) and not error.hint:
                error = missing(name)  # in a repository's words, with what to do
            if self.fallback is None:
                raise error from None
            try:
                value = prove(self.fallback.get(name))
            except AuroraError:
                raise error from None
            self._warn(name, error)
            return value

    def _warn(self, name: str, error: AuroraError) -> None:
        with self._lock:
            if name in self._warned:
                return
            self._warned.add(name)
            told = len(self._warned)
        if told <= _TOLD:
            message = f"{name} was read from the secondary: {error.message}"
        elif told == _TOLD + 1:
            message = "more objects were read from the secondary; they are not told one by one"
        else:
            return
        self._sink(Warned("read-from-secondary", message, _HINT))
