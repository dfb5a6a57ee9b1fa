"""How object lock stands on a storage: until when what is there cannot be deleted for good.

Two facts: what the last extension remembers of all kept backups, and what the server says of
the newest one, whose lock came with the request that put it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from aurora import clock
from aurora.errors import AuroraError
from aurora.operations.findings import Finding, warning
from aurora.operations.lock_checks import kept_backups, locks_end
from aurora.repository.ground import Ground
from aurora.repository.layout import ObjectType
from aurora.repository.lock_table import read_lock_table
from aurora.storage.object_lock import ObjectLock

_HINT = (
    "Run `aurora backup replicate` (secondary) or `aurora backup prune`: they lock what is kept. "
    "`aurora doctor` tells whether the bucket locks at all, and whether these credentials may look."
)


@dataclass(slots=True)
class LockLook:
    """The locks of one storage at one look. Only where ``object_lock`` is set."""

    period_seconds: float  # as asked for
    mode: str
    until: datetime | None = None  # all kept backups, as far as an extension has told
    newest: str = ""  # the newest backup there, "" for none
    newest_until: datetime | None = None  # None: it is not locked
    error: str = ""

    def words(self) -> str:
        """One line for people."""
        if self.error:
            return f"cannot be told: {self.error}"
        if not self.newest:
            return "nothing is there yet to be locked"
        if self.newest_until is None:
            return f"NOT LOCKED: {self.newest}"
        newest = f"the newest backup until {_shown(self.newest_until)}"
        if self.until is None:
            return f"{newest}, {self.mode}"
        return f"all kept backups until {_shown(self.until)} at least, {newest}, {self.mode}"


def look_at_locks(lock: ObjectLock, open_ground: Callable[[], Ground], database: str) -> LockLook:
    """Ask the storage. Raises nothing: an error is part of the look."""
    look = LockLook(lock.rule.period.total_seconds(), lock.rule.mode)
    try:
        ground = open_ground()
        prefix = f"{ObjectType.BACKUP.prefix}{database}/"
        newest = max((info.name for info in ground.view.list(prefix)), default="")
        look.until = locks_end(read_lock_table(ground), kept_backups(ground))
        if newest:
            look.newest = newest.removeprefix(prefix)
            held = lock.requests.retention(ground.stored_name(newest))
            look.newest_until = held.until if held is not None else None
    except AuroraError as error:
        look.error = error.message
    return look


def judge_locks(place: str, look: LockLook, now: datetime) -> Iterator[Finding]:
    """What is wrong with them, if anything."""
    soon = now + timedelta(seconds=look.period_seconds) / 4
    if look.error or not look.newest:
        if look.error:
            yield warning(f"{place}-lock-not-told", f"{place}: its locks {look.words()}", _HINT)
    elif look.newest_until is None or look.newest_until <= now:
        yield warning(
            f"{place}-not-locked",
            f"{place}: object_lock is set, and the newest backup {look.newest} is not locked",
            _HINT,
        )
    elif (ends := min(look.until or look.newest_until, look.newest_until)) < soon:
        yield warning(
            f"{place}-lock-ends",
            f"{place}: the first locks of kept backups end at {_shown(ends)}",
            f"{_HINT} See that they run on schedule.",
        )


def _shown(moment: datetime) -> str:
    return clock.isoformat(moment.replace(microsecond=0))
