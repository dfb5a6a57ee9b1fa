"""One job from its due time to its end: asked for, run, retried, remembered, told of."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from aurora import clock
from aurora.errors import AuroraError, Cancelled, GoalMissed, Incomplete
from aurora.events import EventSink, Noted, Warned
from aurora.scheduler.child import ChildResult, FileLock, run_child
from aurora.scheduler.jobs import AFTER_BACKUP, BACKUPS, Job, Retries
from aurora.scheduler.lease import Gate, Grant, Permission
from aurora.scheduler.state import JobState, State
from aurora.units import format_duration

# The main thing is done; a part of it is not, or a recovery was right and slower than the goal.
_PARTLY = (Incomplete.exit_code, GoalMissed.exit_code)


class Watcher(Protocol):
    """Hears of jobs: notices, pings, metrics. What it cannot do must not stop a job."""

    def begun(self, job: Job, due: datetime) -> None: ...

    def ended(self, job: Job, state: JobState, result: ChildResult) -> None:
        """It is over for this due time, or will be tried again (``state.retry_at``)."""


class Start(Protocol):
    """How a child is run; :func:`aurora.scheduler.child.run_child` in earnest."""

    def __call__(
        self,
        words: Sequence[str],
        *,
        config: Path,
        log: Path,
        lock: FileLock,
        stop: threading.Event,
        stop_timeout: float,
        alive: Callable[[], bool],
    ) -> ChildResult: ...


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """``words`` has what settings add to a job's command; times are in seconds."""

    config: Path
    retries: Retries
    stop_timeout: float
    prune: bool
    unavailable: Callable[[Job], str]  # why a job cannot be run here; "" where it can
    words: Callable[[Job], Sequence[str]]


class Runner:
    """Runs jobs of one configuration on this host. Threads may share it."""

    def __init__(
        self,
        state: State,
        gate: Gate,
        options: RunnerOptions,
        watchers: Sequence[Watcher],
        sink: EventSink,
        *,
        now: Callable[[], datetime] = clock.now,
        start: Start = run_child,
    ) -> None:
        self._state = state
        self._gate = gate
        self._options = options
        self._watchers = watchers
        self._sink = sink
        self._now = now
        self._start = start

    def run(
        self, job: Job, due: datetime, stop: threading.Event, *, claim: bool = True
    ) -> JobState:
        """Run *job* for *due*, once; what its state is then."""
        if why := self._options.unavailable(job):
            return self._skip(job, due, why)
        try:
            with self._gate.ask(job, due, claim=claim) as grant:
                if grant.permission is Permission.GRANTED:
                    return self._granted(job, due, grant, stop)
        except AuroraError as error:
            return self._settle(job, due, _of_error(error))
        if grant.permission is Permission.BUSY:
            return self._state[job.name]
        self._sink(Noted(f"{job.shown}: {grant.where}"))
        return self._end(job, due, "elsewhere", ChildResult(0, 0.0), message=grant.where)

    def _skip(self, job: Job, due: datetime, why: str) -> JobState:
        if self._state[job.name].message != why:
            self._sink(Noted(f"{job.shown} is skipped: {why}"))
        return self._state.update(
            job.name, handled=due, running=None, outcome="skipped", message=why, hint="",
            ended_at=self._now(), retry_at=None, retry_due=None, attempts=0,
        )  # fmt: skip

    def _granted(self, job: Job, due: datetime, grant: Grant, stop: threading.Event) -> JobState:
        assert grant.lock is not None
        claim = grant.claim
        self._state.update(job.name, running=due, begun_at=self._now())
        self._sink(Noted(f"{job.shown} begins, due {clock.isoformat(due)}"))
        self._tell(lambda one: one.begun(job, due))

        def alive() -> bool:
            if claim is not None:
                claim.beat()
            return claim is None or claim.is_fresh()

        done = False
        try:
            result = self._start(
                [*job.words, *self._options.words(job)],
                config=self._options.config,
                log=self._state.directory / "jobs" / f"{job.name}.log",
                lock=grant.lock,
                stop=stop,
                stop_timeout=self._options.stop_timeout,
                alive=alive,
            )
            if result.stopped and result.exit_code != 0:
                return self._stopped(job, result)
            done = result.exit_code == 0 or result.exit_code in _PARTLY
        except KeyboardInterrupt:
            self._stopped(job, ChildResult(Cancelled.exit_code, 0.0, stopped=True))
            raise
        finally:
            if claim is not None:
                # What failed here may work on another host.
                claim.end(done=done)
        return self._settle(job, due, result)

    def _stopped(self, job: Job, result: ChildResult) -> JobState:
        """Not done and not failed: whoever runs next begins it again."""
        self._sink(Noted(f"{job.shown} was stopped"))
        state = self._state.update(
            job.name, running=None, ended_at=self._now(), outcome="stopped", seconds=result.seconds,
            message="it was stopped before its end", hint="", exit_code=result.exit_code,
        )  # fmt: skip
        self._tell(lambda one: one.ended(job, state, result))
        return state

    def _settle(self, job: Job, due: datetime, result: ChildResult) -> JobState:
        """What a run, or a failure to begin one, means."""
        if result.ok:
            return self._end(job, due, "ok", result)
        if result.exit_code in _PARTLY:
            message = result.message or "a part of it is not done"
            return self._end(job, due, "partly", result, message=message)
        before = self._state[job.name]
        attempts = 1 + (before.attempts if before.retry_due == due else 0)
        if result.may_pass and attempts <= self._options.retries.count:
            return self._try_again(job, due, attempts, result)
        return self._end(job, due, "failed", result, message=result.message, hint=result.hint)

    def _try_again(self, job: Job, due: datetime, attempts: int, result: ChildResult) -> JobState:
        wait = self._options.retries.wait(attempts)
        self._sink(
            Warned(
                "job-retried",
                f"{job.shown} failed: {result.message}",
                f"It is tried again in {format_duration(wait.total_seconds())}.",
            )
        )
        state = self._state.update(
            job.name, running=None, ended_at=self._now(), outcome="failed", seconds=result.seconds,
            exit_code=result.exit_code, message=result.message, hint=result.hint,
            attempts=attempts, retry_at=self._now() + wait, retry_due=due,
        )  # fmt: skip
        self._tell(lambda one: one.ended(job, state, result))
        return state

    def _end(
        self,
        job: Job,
        due: datetime,
        outcome: str,
        result: ChildResult,
        *,
        message: str = "",
        hint: str = "",
    ) -> JobState:
        ended = self._now()
        good = outcome in ("ok", "partly", "elsewhere")

        def change(before: JobState) -> JobState:
            ran = int(outcome != "elsewhere")
            return replace(
                before,
                # A due time that came later was not handled by this run, an earlier one was.
                handled=due if before.handled is None or good else max(due, before.handled),
                running=None, ended_at=ended, ok_at=ended if good else before.ok_at,
                outcome=outcome,  # type: ignore[arg-type]
                exit_code=result.exit_code, message=message, hint=hint, seconds=result.seconds,
                attempts=0, retry_at=None, retry_due=None,
                runs=before.runs + ran, failures=before.failures + int(outcome == "failed"),
            )  # fmt: skip

        state = self._state.update(job.name, change)
        if outcome != "elsewhere":
            told = f": {message}" if message else ""
            line = f"{job.shown} ended {outcome} after {format_duration(result.seconds)}{told}"
            failed = Warned("job-failed", line, hint)
            self._sink(failed if outcome == "failed" else Noted(line))
        self._tell(lambda one: one.ended(job, state, result))
        if outcome in ("ok", "partly") and job.name in BACKUPS and self._options.prune:
            self._state.update(AFTER_BACKUP, wanted_at=ended)
        return state

    def _tell(self, tell: Callable[[Watcher], None]) -> None:
        for watcher in self._watchers:
            with suppress(AuroraError):
                tell(watcher)


def _of_error(error: AuroraError) -> ChildResult:
    """An error before there was a child, as if one had ended with it."""
    fields = {"code": error.code, "message": error.message, "hint": error.hint}
    return ChildResult(error.exit_code, 0.0, error=fields)
