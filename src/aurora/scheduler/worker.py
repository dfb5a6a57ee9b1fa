"""The daemon's heart: every few seconds it asks what is due and gives it to its lane.

APScheduler has the clockwork and the threads. What is due is not its jobs' business but
:func:`aurora.scheduler.jobs.due_now`'s, from the state on disk and the time of day: so a
restart, a sleeping machine and a clock that was set are no special cases.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from aurora import clock
from aurora.errors import AuroraError
from aurora.events import EventSink, Warned
from aurora.schedule import Rule
from aurora.scheduler.jobs import BY_NAME, LANES, Retries, due_now, in_order
from aurora.scheduler.runner import Runner
from aurora.scheduler.state import State

TICK_SECONDS = 5.0
AGAIN_SECONDS = 20.0  # after another host was found at it
_STALLED_TICKS = 4
_CHORES = 4  # at once: a slow look at the storages must not hold notices back


class Worker:
    """Runs what is due until it is stopped."""

    def __init__(
        self,
        state: State,
        runner: Runner,
        rules: Mapping[str, Rule],
        retries: Retries,
        sink: EventSink,
        *,
        now: Callable[[], datetime] = clock.now,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        self._state = state
        self._runner = runner
        self._rules = dict(rules)
        self._retries = retries
        self._sink = sink
        self.chores: list[tuple[float, Callable[[], None]]] = []
        """What else is done regularly: seconds between, and what."""
        self._now = now
        self._tick_seconds = tick_seconds
        self._busy: set[str] = set()
        self._not_before: dict[str, float] = {}  # by this machine's monotonic clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ticked_at = time.monotonic()
        self._scheduler: Any = None
        self._broken: Exception | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it still asks what is due."""
        stalled = time.monotonic() - self._ticked_at > _STALLED_TICKS * self._tick_seconds + 30
        return self._broken is None and not stalled

    @property
    def busy(self) -> list[str]:
        """The jobs that run or wait for their lane."""
        with self._lock:
            return sorted(self._busy)

    def is_at(self, name: str) -> bool:
        """Whether a job runs, waits for its lane, or is due."""
        with self._lock:
            if name in self._busy:
                return True
        rule = self._rules.get(name)
        due = rule and due_now(rule, self._state[name], self._now(), self._retries)
        return due is not None

    def start(self) -> None:
        """Begin in the background."""
        from apscheduler.events import EVENT_JOB_ERROR  # noqa: PLC0415 - slow to import
        from apscheduler.executors.pool import ThreadPoolExecutor  # noqa: PLC0415 - slow to import
        from apscheduler.schedulers.background import BackgroundScheduler  # noqa: PLC0415

        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # we tell of it ourselves
        self._recover()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={
                "chores": ThreadPoolExecutor(_CHORES),
                **{name: ThreadPoolExecutor(1) for name in ("default", *LANES)},
            },
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._scheduler.add_job(
            self.tick, "interval", seconds=self._tick_seconds, id="tick",
            next_run_time=datetime.now(UTC),
        )  # fmt: skip
        for number, (seconds, chore) in enumerate(self.chores):
            self._scheduler.add_job(
                self._chore, "interval", args=[chore], seconds=seconds, id=f"chore-{number}",
                executor="chores", next_run_time=datetime.now(UTC),
            )  # fmt: skip
        self._scheduler.add_listener(self._crashed, EVENT_JOB_ERROR)
        self._scheduler.start()

    def wait(self) -> None:
        """Until it is stopped by a signal (KeyboardInterrupt) or by :meth:`stop`.

        Raises what a mistake of ours raised in a thread.
        """
        while not self._stop.wait(self._tick_seconds):
            if self._broken is not None:
                raise self._broken
            if time.monotonic() - self._ticked_at > _STALLED_TICKS * self._tick_seconds:
                # A clock that was turned back: its next tick lies far ahead.
                for job in self._scheduler.get_jobs():
                    job.modify(next_run_time=datetime.now(UTC))

    def stop(self) -> None:
        """Stop in order: running children end, nothing begins; returns when all have ended."""
        self._stop.set()
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=True)

    def tick(self) -> None:
        """Give what is due to its lane."""
        self._ticked_at = time.monotonic()
        moment = self._now()
        for name in in_order(self._rules):
            with self._lock:
                waits = name in self._busy or self._not_before.get(name, 0) > time.monotonic()
            if waits or self._stop.is_set():
                continue
            if due_now(self._rules[name], self._state[name], moment, self._retries) is not None:
                with self._lock:
                    self._busy.add(name)
                self._scheduler.add_job(
                    self.run_due, args=[name], executor=BY_NAME[name].lane, id=f"run-{name}"
                )

    def run_due(self, name: str) -> None:
        """Run a job if it is due still, when its lane has come to it."""
        try:
            due = due_now(self._rules[name], self._state[name], self._now(), self._retries)
            if due is None or self._stop.is_set():
                return
            before = self._state[name]
            after = self._runner.run(BY_NAME[name], due, self._stop)
            if after == before:
                with self._lock:
                    self._not_before[name] = time.monotonic() + AGAIN_SECONDS
        except Exception as error:
            self._broken = error
            raise
        finally:
            with self._lock:
                self._busy.discard(name)

    def _chore(self, chore: Callable[[], None]) -> None:
        try:
            chore()
        except AuroraError as error:
            self._sink(Warned(error.code, error.message, error.hint))

    def _crashed(self, event: Any) -> None:
        """A mistake of ours. Without a tick nothing runs: better to end and be started again."""
        if event.job_id == "tick":
            self._broken = event.exception
        kind = type(event.exception).__name__
        self._sink(Warned("unexpected", f"{event.job_id}: unexpected {kind}: {event.exception}"))

    def _recover(self) -> None:
        """Jobs that were running when an earlier daemon was killed."""
        for name in self._rules:
            if self._state[name].running is not None:
                self._sink(
                    Warned(
                        "job-interrupted",
                        f"{BY_NAME[name].shown} was cut off when the daemon ended",
                        "It is run again now.",
                    )
                )
                self._state.update(
                    name, running=None, outcome="interrupted",
                    message="it was cut off when the daemon ended", hint="",
                )  # fmt: skip


def seed(
    state: State,
    rules: Mapping[str, Rule],
    newest: Callable[[], Mapping[str, datetime]],
    now: datetime,
) -> None:
    """Where no state is known, count what the repository holds as done.

    A first full is made at once; tests and the like wait for their time. *newest*: backup
    type -> when the newest was made. Where it cannot be told, all backups are due.
    """
    unknown = [name for name in rules if name not in state]
    if not unknown:
        return
    made: Mapping[str, datetime] = {}
    with suppress(AuroraError):
        made = newest()
    for name in unknown:
        rule = rules[name]
        latest = rule.latest_until(now)
        if name == "full" or (name == "incremental" and made):
            since = made.get(name)
            handled = rule.latest_until(since) if since is not None else None
            if name == "incremental" and since is None:
                handled = None
            state.update(name, handled=handled, ok_at=since)
        else:
            state.update(name, handled=latest, ok_at=made.get(name))
