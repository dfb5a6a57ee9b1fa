"""A bounded pool of uploads: flat memory, and no error is ever lost."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

DEFAULT_WORKERS = 8
DEFAULT_BYTES_IN_FLIGHT = 128 * 2**20


class UploadPool:
    """Runs jobs in threads and holds back whoever submits faster than they finish.

    At most *in_flight* jobs and *bytes_in_flight* bytes are accepted and unfinished at any
    time (a single larger job is let in alone). After the first error nothing more is
    accepted, and every call raises that error.
    """

    def __init__(
        self,
        *,
        workers: int = DEFAULT_WORKERS,
        in_flight: int | None = None,
        bytes_in_flight: int = DEFAULT_BYTES_IN_FLIGHT,
    ) -> None:
        self._limit = in_flight if in_flight is not None else workers + 2
        self._byte_limit = bytes_in_flight
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="aurora-upload")
        self._change = threading.Condition()
        self._accepted = 0  # jobs so far: the next one's number
        self._jobs: set[int] = set()  # numbers of those unfinished
        self._bytes = 0
        self._error: BaseException | None = None
        self._closed = False
        # Compression by more threads than cores only adds memory and starves the reader.
        self.cpu = threading.BoundedSemaphore(os.cpu_count() or 1)

    def submit(self, size: int, job: Callable[[], None]) -> None:
        """Run *job*, which holds *size* bytes, as soon as there is room.

        Raises:
            BaseException: whatever an earlier job raised; *job* is not run then.
        """
        with self._change:
            self._change.wait_for(lambda: self._is_over() or self._has_room(size))
            self._raise_if_over()
            number = self._accepted
            self._accepted += 1
            self._jobs.add(number)
            self._bytes += size
        self._pool.submit(self._run, number, size, job)

    def drain(self) -> None:
        """Wait until every job that was accepted so far is done. Raises what any of them raised.

        Others may go on submitting meanwhile.
        """
        with self._change:
            last = self._accepted
            self._change.wait_for(
                lambda: self._is_over() or all(number >= last for number in self._jobs)
            )
            self._raise_if_over()

    def check(self) -> None:
        """Raise what an earlier job raised, if any."""
        with self._change:
            self._raise_if_over()

    def close(self) -> None:
        """Accept nothing more, drop what has not begun, wait for what has."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, number: int, size: int, job: Callable[[], None]) -> None:
        try:
            if self._error is None and not self._closed:
                job()
        except BaseException as error:  # noqa: BLE001 - it is kept and raised by the next call
            with self._change:
                self._error = self._error or error
        finally:
            with self._change:
                self._jobs.discard(number)
                self._bytes -= size
                self._change.notify_all()

    def _has_room(self, size: int) -> bool:
        return not self._jobs or (
            len(self._jobs) < self._limit and self._bytes + size <= self._byte_limit
        )

    def _is_over(self) -> bool:
        return self._closed or self._error is not None

    def _raise_if_over(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise RuntimeError("the writer is closed")
