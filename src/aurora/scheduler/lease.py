"""May this host run that job now? Asked of this machine, of the repository, of the source.

- A lock on a file: nothing else on this machine runs the job, also no child of a daemon that
  was killed.
- A claim in the repository: no other host runs it, or has run it for this due time.
- For jobs that read the source an advisory lock there, where it answers.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

from aurora.repository.claims import Answer, Claim, Claims
from aurora.scheduler.child import FileLock
from aurora.scheduler.jobs import Job


class Permission(Enum):
    """The answer."""

    GRANTED = "granted"
    DONE = "done"  # for this due time, by another host or by this one
    BUSY = "busy"  # elsewhere; ask again later


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer, and what is held while the job runs. End the claim."""

    permission: Permission
    lock: FileLock | None = None
    claim: Claim | None = None
    where: str = ""  # who is in the way


class Gate:
    """Asks all three."""

    def __init__(
        self,
        directory: Path,
        claims: Callable[[], Claims],
        source_lock: Callable[[str], AbstractContextManager[bool]],
    ) -> None:
        """*claims* opens the repository when it is first called; it may raise AuroraError."""
        self._directory = directory
        self._claims = claims
        self._source_lock = source_lock

    @contextmanager
    def ask(self, job: Job, due: datetime, *, claim: bool = True) -> Iterator[Grant]:
        """The answer for *job* and its due time. Raises AuroraError: nothing is known."""
        lock = FileLock(self._directory / f"{job.name}.lock")
        if not lock.acquire():
            yield Grant(Permission.BUSY, where="another process on this machine runs it")
            return
        try:
            held: Claim | None = None
            if claim:
                answer, held = self._claims().acquire(job.name, due)
                if answer is Answer.DONE:
                    yield Grant(Permission.DONE, where="another host has done it")
                    return
                if held is None:
                    yield Grant(Permission.BUSY, where="another host is at it")
                    return
            with self._lock_on_source(job) as free:
                if free:
                    yield Grant(Permission.GRANTED, lock, held)
                    return
            if held is not None:
                held.end(done=False)
            yield Grant(Permission.BUSY, where="another session on the source does the same")
        finally:
            lock.release()

    def _lock_on_source(self, job: Job) -> AbstractContextManager[bool]:
        # One for the whole lane: two backups at once would read the same slot.
        return (
            self._source_lock("backup") if job.lane == "source" else nullcontext(enter_result=True)
        )
