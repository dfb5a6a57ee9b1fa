"""Leases: how a run says that it is at work, so that no collector deletes under it.

A lease is a series of objects, each with a new name: ``leases/<sid>.0``, ``.1``, … are
heartbeats and ``leases/<sid>.done`` is the end. A collector counts a lease as alive until
its newest heartbeat is older than the time to live by the *storage's* clock. The run itself
stops trusting its lease at half that time, by its own clocks, so the two never disagree
about who may act.
"""

import threading
import time
from collections.abc import Callable
from datetime import datetime

from aurora import clock
from aurora.errors import AuroraError, RepositoryLocked
from aurora.repository import signed
from aurora.repository.layout import FORMAT, ObjectType, lease_name
from aurora.repository.presence import stored_size
from aurora.storage.base import Storage

TTL_SECONDS = 24 * 3600.0
_BEATS_PER_TTL = 24
_RETRY_SECONDS = 60.0


def elapsed_clock() -> float:
    """Seconds that also pass while the machine sleeps, as far as it can tell."""
    source = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if source is None else time.clock_gettime(source)


class Lease:
    """The lease of one run. Begin it, ask whether it is fresh, end it."""

    def __init__(
        self,
        storage: Storage,
        *,
        sid: bytes,
        repository_id: bytes,
        mac_key: bytes,
        purpose: str,
        ttl_seconds: float = TTL_SECONDS,
        elapsed: Callable[[], float] = elapsed_clock,
    ) -> None:
        self._storage = storage
        self._sid = sid
        self._repository_id = repository_id
        self._mac_key = mac_key
        self._purpose = purpose
        self._ttl = ttl_seconds
        self._elapsed = elapsed
        self._started_at = clock.now()
        self._beats = 0
        self._beat_at: tuple[float, datetime] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def sid(self) -> bytes:
        """The id that its names begin with."""
        return self._sid

    def begin(self) -> None:
        """Put the first heartbeat and keep putting them from a thread. Raises StorageError."""
        self.beat()
        self._thread = threading.Thread(target=self._run, name="aurora-lease", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Put one heartbeat now. Raises StorageError."""
        # The age counts from before the put: the storage's clock starts no earlier.
        moment = (self._elapsed(), clock.now())
        self._put(self._beats)
        self._beats += 1
        self._beat_at = moment

    def is_fresh(self) -> bool:
        """Whether the newest heartbeat is younger than half the time to live."""
        if self._beat_at is None:
            return False
        elapsed, moment = self._beat_at
        # The wall clock as well: on some systems the other one stands still in sleep.
        age = max(self._elapsed() - elapsed, (clock.now() - moment).total_seconds())
        return age < self._ttl / 2

    def require_fresh(self) -> None:
        """Raise RepositoryLocked unless the lease is fresh, and where a collector looks for it.

        Raises:
            RepositoryLocked, StorageError.
        """
        if not self.is_fresh():
            raise RepositoryLocked(
                "this run's lease on the repository ran out before the backup was committed",
                hint="Nothing was committed and the earlier backups are untouched. The storage "
                "was out of reach, or this machine slept, for half of the lease's "
                f"{self._ttl / 3600:g} hours. Run it again: what was uploaded and is still "
                "needed is uploaded again only if no backup holds it.",
            )
        if stored_size(self._storage, lease_name(self._sid, self._beats - 1)) is None:
            raise RepositoryLocked(
                "this run's lease is no longer on the storage",
                hint="Nothing was committed and the earlier backups are untouched. Somebody "
                f"deleted objects below {ObjectType.LEASE.prefix}, or the storage did not keep "
                "them; a collector could have deleted what this run needs. Run it again.",
            )

    def end(self) -> None:
        """Stop the heartbeats and say that the run is over; failing to say so is harmless."""
        self.stop()
        try:
            self._put("done")
        except AuroraError:
            return  # the lease runs out by itself

    def stop(self) -> None:
        """Stop the heartbeats only: the lease stays until it runs out."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        wait = self._ttl / _BEATS_PER_TTL
        while not self._stop.wait(wait):
            try:
                self.beat()
                wait = self._ttl / _BEATS_PER_TTL
            except AuroraError:
                # A missed beat is no failure of the run: freshness is asked at the commit.
                wait = min(_RETRY_SECONDS, self._ttl / _BEATS_PER_TTL)

    def _put(self, mark: int | str) -> None:
        name = lease_name(self._sid, mark)
        document: signed.Document = {
            "format": FORMAT,
            "kind": "lease",
            "mark": str(mark),
            "purpose": self._purpose,
            "repository": self._repository_id.hex(),
            "sid": self._sid.hex(),
            "started_at": clock.isoformat(self._started_at),
            "ttl_seconds": int(self._ttl),
        }
        stored = signed.write_clear(
            document, name=name, repository_id=self._repository_id, mac_key=self._mac_key
        )
        self._storage.put(name, stored)
