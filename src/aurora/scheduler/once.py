"""One job for somebody else's scheduler: the same care as the daemon's, without the clock."""

import threading
from dataclasses import dataclass

from aurora import clock
from aurora.errors import UsageError
from aurora.scheduler.jobs import AFTER_BACKUP, BY_NAME, Job, due_now
from aurora.scheduler.setup import Daemon
from aurora.scheduler.state import JobState


@dataclass(frozen=True, slots=True)
class Done:
    """What became of it."""

    job: str
    ran: bool
    state: JobState
    told: str


def run_once(daemon: Daemon, name: str, *, force: bool = False) -> Done:
    """Run the job *name* with its retries, and retention after a backup.

    Raises:
        UsageError: there is no such job.
    """
    job = _job(daemon, name)
    stop = threading.Event()  # never set: a signal ends the child, see run_child
    try:
        done = _to_the_end(daemon, job, stop, force=force)
        after = daemon.state[AFTER_BACKUP]
        if done.ran and after.wanted_at is not None and after.handled != after.wanted_at:
            _to_the_end(daemon, BY_NAME[AFTER_BACKUP], stop, force=False)
        return done
    finally:
        daemon.close()


def _job(daemon: Daemon, name: str) -> Job:
    job = BY_NAME.get(name.replace("-", "_"))
    if job is None or job.name not in daemon.rules:
        known = ", ".join(BY_NAME[one].shown for one in daemon.rules)
        raise UsageError(f"there is no job {name[:40]!r}", hint=f"The jobs are {known}.")
    return job


def _to_the_end(daemon: Daemon, job: Job, stop: threading.Event, *, force: bool) -> Done:
    rule, retries = daemon.rules[job.name], daemon.retries
    while True:
        now, before = clock.now(), daemon.state[job.name]
        due = now.replace(microsecond=0) if force else due_now(rule, before, now, retries)
        if due is None and before.retry_at is None:
            return Done(job.shown, ran=False, state=before, told="not due, or done already")
        if due is not None:
            after = daemon.runner.run(job, due, stop, claim=not force)
            if after == before:
                told = "it is being run elsewhere, and is not run twice"
                return Done(job.shown, ran=False, state=after, told=told)
            if after.retry_at is None:
                ran = after.outcome not in ("skipped", "elsewhere")
                told = ": ".join(one for one in (after.outcome, after.message) if one)
                return Done(job.shown, ran=ran, state=after, told=told)
        stop.wait(1.0)
