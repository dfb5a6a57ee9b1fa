"""The daemon's composition: from a configuration to a worker with all that belongs to it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from aurora import api, clock
from aurora.api.common import state_directory
from aurora.api.overview import schedule_of
from aurora.config.secrets import SecretRef
from aurora.config.settings import PingSettings
from aurora.events import EventSink, Warned, discard
from aurora.notify.deliver import Target
from aurora.notify.desk import Desk
from aurora.notify.notices import Notice, Severity
from aurora.notify.pings import Pings
from aurora.notify.templates import Templates
from aurora.operations.findings import Level
from aurora.operations.status import StatusReport
from aurora.postgres.advisory import advisory_lock
from aurora.repository.claims import Claims, Timing
from aurora.repository.door import Repository
from aurora.repository.mirror import MirrorView
from aurora.schedule import Rule
from aurora.scheduler.jobs import AFTER_BACKUP, JOBS, Job, Retries
from aurora.scheduler.lease import Gate
from aurora.scheduler.runner import Runner, RunnerOptions
from aurora.scheduler.state import State
from aurora.scheduler.streaming import StreamKeeper
from aurora.scheduler.telling import Teller, digest, observe
from aurora.scheduler.worker import Worker, seed
from aurora.wiring import Aurora

Known = Callable[[Sequence[str]], bool]
"""Whether this version has a command of these words."""
_HELD_SECONDS = 3600.0
_FLUSH_SECONDS = 10.0
_DIGEST_SECONDS = 30.0


class LongLived(Aurora):
    """Opens the repositories once an hour: each opening derives a key, which is slow on purpose."""

    def open_primary(self) -> Repository:
        found = self._held("primary", super().open_primary)
        assert isinstance(found, Repository)
        return found

    def open_secondary_view(self) -> MirrorView:
        found = self._held("secondary", super().open_secondary_view)
        assert isinstance(found, MirrorView)
        return found

    def open_secondary(self, *, sink: EventSink = discard) -> Repository:
        found = self._held("mirror", lambda: super(LongLived, self).open_secondary(sink=sink))
        assert isinstance(found, Repository)
        return found

    def _held(
        self, name: str, opening: Callable[[], Repository | MirrorView]
    ) -> Repository | MirrorView:
        with self._lock:
            held = self.__dict__.setdefault("_opened", {})
            lock = self.__dict__.setdefault("_opening", {}).setdefault(name, threading.Lock())
        # One that does not answer must keep nobody from the other.
        with lock:
            if name not in held or time.monotonic() - held[name][0] > _HELD_SECONDS:
                held[name] = (time.monotonic(), opening())
            found: Repository | MirrorView = held[name][1]
            return found


class Board:
    """The last look at everything, for metrics, notices and the digest. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._report: StatusReport | None = None

    @property
    def report(self) -> StatusReport | None:
        with self._lock:
            return self._report

    def show(self, report: StatusReport) -> None:
        with self._lock:
            self._report = report


@dataclass(slots=True)
class Daemon:
    """Everything that ``aurora run`` is made of."""

    aurora: Aurora
    state: State
    runner: Runner
    worker: Worker
    desk: Desk
    pings: Pings
    board: Board
    rules: Mapping[str, Rule]
    retries: Retries
    keeper: StreamKeeper | None  # where the settings want a stream

    def start(self) -> None:
        """Begin in the background. Raises AuroraError where nothing can be remembered."""
        seed(self.state, self.rules, lambda: _newest(self.aurora), clock.now())
        self._tell("the daemon began", f"It runs what is due: {', '.join(self.rules)}.")
        self.worker.start()
        if self.keeper is not None:
            self.keeper.start()

    def stop(self) -> None:
        """Stop in order: what runs ends, nothing begins, what is to be told is sent."""
        stopping = []
        if self.keeper is not None:
            stopping.append(threading.Thread(target=self.keeper.stop))
        stopping.append(threading.Thread(target=self.worker.stop))
        for one in stopping:
            one.start()
        for one in stopping:
            one.join()
        self._tell("the daemon ended", "It was told to; nothing runs until it is started again.")
        self.close()

    def _tell(self, subject: str, message: str) -> None:
        facts = {"message": message}
        self.desk.tell(Notice("daemon", "daemon", Severity.INFO, subject, facts), clock.now())

    def look(self) -> None:
        """Look at everything; tell what is wrong or right again."""
        report = api.status(self.aurora)
        self.board.show(report)
        observe(self.desk, report, clock.now())
        api.remind_of_stopped_writes(self.aurora)

    def ping(self) -> None:
        """Tell the switch of the daemon that all is well, or that it is not."""
        report = self.board.report
        if report is None:
            return
        if report.level is Level.ERROR:
            self.pings.failed("daemon", report.verdict)
        else:
            self.pings.succeeded("daemon", report.verdict)

    def flush(self) -> None:
        self.desk.flush(clock.now())

    def send_digest(self) -> None:
        """If it is due and was not sent."""
        now, report = clock.now(), self.board.report
        due = self.aurora.settings.notify.digest.latest_until(now)
        if report is None or due is None or not self.desk.digest_due(due):
            return
        states = {job.name: self.state[job.name] for job in JOBS if job.name in self.rules}
        self.desk.tell(digest(report, states, self.desk.undelivered), now)
        self.desk.digest_sent(due)

    def close(self) -> None:
        """After the worker has stopped: what is to be told is sent."""
        try:
            self.flush()
        finally:
            self.pings.close()


def set_up(aurora: Aurora, config: Path, known: Known, sink: EventSink) -> Daemon:
    """Build everything; nothing is begun. Raises UsageError, AuroraError."""
    settings = aurora.settings
    state = State(
        state_directory(aurora), lambda error: sink(Warned(error.code, error.message, error.hint))
    )
    retries = Retries(settings.schedule.retries, settings.schedule.retry_delay)
    rules = rules_of(aurora)
    desk, pings = set_up_desk(aurora, sink), Pings(switches(aurora), sink)
    options = RunnerOptions(
        config=config.absolute(),
        retries=retries,
        stop_timeout=settings.schedule.stop_timeout,
        prune=settings.schedule.prune,
        unavailable=_Availability(aurora, known),
        words=lambda job: _more_words(aurora, job),
    )
    gate = Gate(state.directory / "jobs", _claims(aurora, state), _source_lock(aurora))
    teller = Teller(desk, pings)
    runner = Runner(state, gate, options, [teller], sink)
    worker = Worker(state, runner, rules, retries, sink)
    keeper = None
    if settings.stream.enabled:
        keeper = StreamKeeper(
            config.absolute(), state.directory / "jobs", teller, sink,
            stop_timeout=settings.schedule.stop_timeout,
            # Without a full to lean on it makes one: not beside the schedule's very first.
            may_begin=lambda: state["full"].ok_at is not None or not worker.is_at("full"),
        )  # fmt: skip
    daemon = Daemon(aurora, state, runner, worker, desk, pings, Board(), rules, retries, keeper)
    daemon.worker.chores = [
        (settings.metrics.refresh, daemon.look),
        (_FLUSH_SECONDS, daemon.flush),
        (_DIGEST_SECONDS, daemon.send_digest),
    ]
    if "daemon" in pings:
        daemon.worker.chores.append((settings.ping.daemon_every, daemon.ping))
    return daemon


def rules_of(aurora: Aurora) -> dict[str, Rule]:
    """Job -> when it is due; retention has no times of its own."""
    rules = dict(schedule_of(aurora))
    if aurora.settings.schedule.prune:
        rules[AFTER_BACKUP] = Rule("after each backup", "")
    return rules


def set_up_desk(aurora: Aurora, sink: EventSink) -> Desk:
    """The notices desk of one configuration."""
    settings, base = aurora.settings.notify, aurora.settings.base
    common = {"database": aurora.database, "host": socket.gethostname()}
    return Desk(
        state_directory(aurora) / "notices.json",
        targets_of(aurora),
        Templates(base / settings.templates),
        common,
        sink,
        remind=settings.remind,
    )


def targets_of(aurora: Aurora) -> list[Target]:
    """Where notices go; addresses are resolved when something is sent."""
    settings, base = aurora.settings.notify, aurora.settings.base
    return [
        Target(
            name=str(one.url),
            address=_resolver(one.url, "the address for notices", base),
            severity=Severity.of(one.severity),
            events=one.events,
            digest=one.digest,
        )
        for one in settings.targets
    ]


def switches(aurora: Aurora) -> dict[str, Callable[[], str]]:
    """Job, or ``daemon`` -> what resolves the address of its dead man's switch."""
    settings, base = aurora.settings.ping, aurora.settings.base
    return {
        name: _resolver(reference, f"the address of the switch of {name}", base)
        for name in PingSettings.model_fields
        if isinstance(reference := getattr(settings, name), SecretRef)
    }


def _resolver(reference: SecretRef, what: str, base: Path) -> Callable[[], str]:
    return lambda: reference.resolve(what, base=base)


def _claims(aurora: Aurora, state: State) -> Callable[[], Claims]:
    made: list[Claims] = []
    lock = threading.Lock()
    timing = Timing(settle=aurora.settings.schedule.claim_settle)

    def claims() -> Claims:
        # One for the whole life: it remembers what it has seen of other hosts.
        with lock:
            if not made:
                repository = aurora.open_primary()
                made.append(repository.claims(aurora.database, state.host(), timing=timing))
            return made[0]

    return claims


def _source_lock(aurora: Aurora) -> Callable[[str], AbstractContextManager[bool]]:
    @contextmanager
    def lock(name: str) -> Iterator[bool]:
        with advisory_lock(aurora.source(), f"{aurora.storage().url} {name}") as free:
            yield free

    return lock


def _newest(aurora: Aurora) -> dict[str, datetime]:
    entries = aurora.open_primary().backups(aurora.database)
    return {entry.type: entry.created_at for entry in entries}


def _more_words(aurora: Aurora, job: Job) -> list[str]:
    if job.name == "verify":
        budget = f"{aurora.settings.schedule.verify_budget:g} s"
        return ["--storage", "both", "--budget", budget]
    return []


class _Availability:
    """Why a job cannot be run here; "" where it can."""

    def __init__(self, aurora: Aurora, known: Known) -> None:
        self._aurora = aurora
        self._known = known

    def __call__(self, job: Job) -> str:
        if not self._known(job.words):
            return f"this version has no `aurora {' '.join(job.words)}`"
        if job.name == "sealed" and not self._aurora.settings.sealed.recipients:
            return "nobody is named under [sealed] recipients to seal it for"
        return ""


def check_secrets(aurora: Aurora) -> None:
    """Resolve what a daemon cannot ask for, so that it fails when it starts. Raises UsageError."""
    aurora.secret("primary")
    if aurora.has_secondary:
        aurora.secret("secondary")
    aurora.source()
