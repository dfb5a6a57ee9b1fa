"""Patience: a storage that tries again what may pass, and nothing else.

Only errors that say so (``retryable``) are tried again, with exponential back-off and
full jitter, until a budget of time is spent. A put whose answer was lost may have
happened; its second try then meets its own object, which a comparison recognises.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from aurora.errors import ObjectMissing, StorageError
from aurora.events import EventSink, Warned, discard
from aurora.storage.base import Buffer, ObjectExists, ObjectInfo, Storage
from aurora.storage.names import check_prefix

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try. All in seconds; a request under way may overrun the budget."""

    budget: float = 120.0  # no further try begins after this
    first: float = 0.5  # the longest first pause; it doubles each time
    longest: float = 15.0


RETRY_AFTER = "retry_after"
"""In the context of an error: the seconds after which the server wants to be asked again."""


class RetryingStorage:
    """*inner*, tried again. Threads may share it."""

    def __init__(
        self,
        inner: Storage,
        patience: Patience | None = None,
        *,
        sink: EventSink = discard,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._inner = inner
        self._patience = patience or Patience()
        self._sink = sink
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"RetryingStorage({self._inner!r})"

    @property
    def url(self) -> str:
        """The inner storage's."""
        return self._inner.url

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """As the inner storage; an object that an earlier try of this put left is success."""
        tries = 0

        def attempt() -> None:
            nonlocal tries
            tries += 1
            try:
                self._inner.put(name, data, create_only=create_only)
            except ObjectExists:
                if tries == 1 or not self._holds(name, data):
                    raise

        self._again(attempt)

    def get(self, name: str) -> bytes:
        """As the inner storage."""
        return self._again(lambda: self._inner.get(name))

    def head(self, name: str) -> ObjectInfo:
        """As the inner storage."""
        return self._again(lambda: self._inner.head(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As the inner storage; a listing that broke off begins anew, without repetitions."""
        return self._listing(check_prefix(prefix))

    def delete(self, names: Iterable[str]) -> None:
        """As the inner storage."""
        whole = list(names)
        self._again(lambda: self._inner.delete(whole))

    def _holds(self, name: str, data: Buffer) -> bool:
        try:
            return self._inner.get(name) == memoryview(data)
        except ObjectMissing:
            return False

    def _listing(self, prefix: str) -> Iterator[ObjectInfo]:
        # Names are remembered, since no order is promised that a position could be kept in.
        told: set[str] = set()
        current: Iterator[ObjectInfo] | None = None

        def fetch() -> ObjectInfo | None:
            nonlocal current
            if current is None:
                current = self._inner.list(prefix)
            try:
                return next((found for found in current if found.name not in told), None)
            except StorageError:
                current = None
                raise

        while (found := self._again(fetch)) is not None:
            told.add(found.name)
            yield found

    def _again(self, attempt: Callable[[], T]) -> T:
        return again(attempt, self._patience, sink=self._sink, sleep=self._sleep)


def again(
    attempt: Callable[[], T],
    patience: Patience,
    *,
    sink: EventSink = discard,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call *attempt* until it works, or fails for good, or *patience* is at its end.

    A pause that the server asked for is kept, if it ends within the budget.
    """
    backoff = tenacity.wait_random_exponential(multiplier=patience.first, max=patience.longest)

    def pause(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        wanted = error.context.get(RETRY_AFTER) if isinstance(error, StorageError) else None
        return max(backoff(state), float(wanted) if isinstance(wanted, int) else 0.0)

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, StorageError):
            sink(Warned("storage-retry", f"trying again: {error.message}"))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        stop=tenacity.stop_before_delay(patience.budget),
        wait=pause,
        before_sleep=tell,
        sleep=sleep,
        reraise=True,
    )
    return retrying(attempt)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, StorageError) and error.retryable
