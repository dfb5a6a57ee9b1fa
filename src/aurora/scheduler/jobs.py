"""The jobs, and the pure decision what of them is to be run now."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from aurora.schedule import Rule
from aurora.scheduler.state import JobState

Lane = Literal["source", "storage", "test"]
"""Jobs of one lane run one after another: two backups at once would only hinder each other."""
LANES: tuple[Lane, ...] = ("source", "storage", "test")


@dataclass(frozen=True, slots=True)
class Job:
    """Something that is done regularly. ``words`` are those of the command."""

    name: str
    lane: Lane
    words: tuple[str, ...]
    label: str

    @property
    def shown(self) -> str:
        return self.name.replace("_", "-")


# In the order in which those that are due at once are run: first what loses least time.
JOBS: tuple[Job, ...] = (
    Job("incremental", "source", ("backup", "create", "--type", "incremental"), "incremental"),
    Job("full", "source", ("backup", "create", "--type", "full"), "full backup"),
    Job("sealed", "source", ("backup", "create", "--type", "sealed"), "sealed backup"),
    Job("replicate", "storage", ("backup", "replicate"), "replication"),
    Job("prune", "storage", ("backup", "prune", "--yes"), "retention"),
    Job("verify", "storage", ("backup", "verify", "all"), "verification"),
    Job("recovery_test", "test", ("backup", "test-recovery"), "recovery test"),
    Job("restore_test", "test", ("backup", "test-recovery", "--full"), "full restore test"),
    Job("drill", "test", ("drill", "run"), "drill"),
)
BY_NAME: Mapping[str, Job] = {job.name: job for job in JOBS}
BACKUPS = ("incremental", "full", "sealed")
AFTER_BACKUP = "prune"
"""Has no times of its own: it is wanted after each backup."""


@dataclass(frozen=True, slots=True)
class Retries:
    """What happens after a failure that may pass. ``delay`` is in seconds."""

    count: int
    delay: float

    def wait(self, attempts: int) -> timedelta:
        """Before try *attempts* + 1: the delay, then four times as long each time."""
        return timedelta(seconds=self.delay * 4 ** (attempts - 1))

    @property
    def longest(self) -> timedelta:
        return self.wait(max(self.count, 1))


def due_now(rule: Rule, state: JobState, now: datetime, retries: Retries) -> datetime | None:
    """The due time that is to be run now, or None.

    Of several that were missed only the newest is run. A clock that was turned back by less
    than one period runs nothing twice; one that was turned back further begins anew.
    """
    latest = rule.latest_until(now)
    if state.wanted_at is not None and (state.handled is None or state.handled < state.wanted_at):
        latest = max(latest, state.wanted_at) if latest is not None else state.wanted_at
    if latest is None:
        return None
    handled = state.handled
    if handled is not None and handled >= latest:
        following = rule.next_after(now)
        # Handled lies ahead: the clock was turned back.
        if handled <= now or following is None or handled <= following:
            return None
    if state.retry_at is not None and state.retry_due == latest:
        ahead = state.retry_at - now
        return latest if ahead <= timedelta(0) or ahead > retries.longest else None
    return latest


def in_order(jobs: Iterable[str]) -> list[str]:
    """The jobs in the order of :data:`JOBS`."""
    wanted = set(jobs)
    return [job.name for job in JOBS if job.name in wanted]
