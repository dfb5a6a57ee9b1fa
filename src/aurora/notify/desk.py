"""The notices desk: each problem is told once, told again after a while, and told as over.

What is open and what waits to be sent is in ``aurora.state/notices.json``, so a restart
tells nothing twice and loses nothing. What cannot be delivered is tried again for a day.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from aurora import clock
from aurora.errors import AuroraError
from aurora.events import EventSink, Warned
from aurora.notify.deliver import Target, deliver
from aurora.notify.notices import Notice, Severity
from aurora.notify.templates import Message, Templates
from aurora.units import format_duration

KEEP_TRYING = timedelta(days=1)
CONFIRMED = 2  # looks in a row: what comes and goes within a minute is nobody's business
_WAITING_AT_MOST = 500


@dataclass(slots=True)
class Problem:
    """A problem that is open, or about to be."""

    event: str
    severity: int
    subject: str
    facts: dict[str, str]
    since: datetime
    told_at: datetime | None = None
    told_severity: int = -1
    seen: int = 1  # looks in a row that found it
    missed: int = 0  # looks in a row that did not


@dataclass(slots=True)
class Waiting:
    """A message that has not reached a target yet."""

    target: str
    title: str
    body: str
    severity: int
    at: datetime
    tries: int = 0


@dataclass(slots=True)
class _Book:
    problems: dict[str, Problem] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)
    digest_at: datetime | None = None


class Desk:
    """Takes notices, decides who hears what and when. Threads may share it."""

    def __init__(
        self,
        path: Path,
        targets: Sequence[Target],
        templates: Templates,
        common: Mapping[str, str],
        sink: EventSink,
        *,
        remind: float,
    ) -> None:
        """*common*: facts of every message; *remind*: seconds until a problem is told again."""
        self._path = path
        self._targets = {one.name: one for one in targets}
        self._templates = templates
        self._common = dict(common)
        self._sink = sink
        self._remind = timedelta(seconds=remind)
        self._lock = threading.RLock()
        self._sending = threading.Lock()
        self._book = self._load()

    @property
    def undelivered(self) -> int:
        """Messages that wait to be sent again."""
        with self._lock:
            return sum(1 for one in self._book.waiting if one.tries)

    @property
    def open(self) -> list[str]:
        """The keys of the problems that were told and are not over."""
        with self._lock:
            return sorted(k for k, one in self._book.problems.items() if one.told_at is not None)

    def tell(self, notice: Notice, now: datetime) -> None:
        """Tell something that is no problem and has no end."""
        with self._lock:
            self._post(notice.event, notice.severity, self._facts(notice, now), now)
            self._store()

    def problem(self, notice: Notice, now: datetime) -> None:
        """A problem is there: told now unless it was told already, or got worse."""
        with self._lock:
            self._note(notice, now)
            self._tell_if_due(notice.key, now)
            self._store()

    def solved(self, key: str, now: datetime) -> None:
        """A problem is over: told to whoever was told of it."""
        with self._lock:
            problem = self._book.problems.pop(key, None)
            if problem is None:
                return
            if problem.told_at is not None:
                facts = {
                    **problem.facts,
                    "subject": problem.subject,
                    "since": clock.isoformat(problem.since),
                    "lasted": format_duration((now - problem.since).total_seconds()),
                    "at": clock.isoformat(now),
                }
                self._post("recovered", Severity(problem.told_severity), facts, now)
            self._store()

    def observe(self, group: str, found: Iterable[Notice], now: datetime) -> None:
        """Everything of *group* that a look found wrong; what it did not find may be over.

        Only what two looks in a row find, or do not find, counts.
        """
        with self._lock:
            notices = {f"{group}/{one.key}": one for one in found}
            for key, notice in notices.items():
                self._note(notice, now, key=key)
                if self._book.problems[key].seen >= CONFIRMED:
                    self._tell_if_due(key, now)
            gone = [
                key for key in self._book.problems
                if key.startswith(f"{group}/") and key not in notices
            ]  # fmt: skip
            for key in gone:
                problem = self._book.problems[key]
                problem.missed, problem.seen = problem.missed + 1, 0
                if problem.missed >= CONFIRMED or problem.told_at is None:
                    self.solved(key, now)
            self._store()

    def flush(self, now: datetime) -> None:
        """Send what waits. What fails stays, is tried again next time, and dropped after a day."""
        with self._sending:
            with self._lock:
                waiting = list(self._book.waiting)
            for one in waiting:
                sent = self._send(one, now)
                with self._lock:
                    if sent:
                        self._book.waiting.remove(one)
                    self._store()

    def digest_due(self, due: datetime | None) -> bool:
        """Whether the digest of *due* is still to be sent; from the first call on."""
        with self._lock:
            if due is None:
                return False
            before = self._book.digest_at
            if before is None:
                self._book.digest_at = due
                self._store()
            return before is not None and before < due

    def digest_sent(self, due: datetime) -> None:
        with self._lock:
            self._book.digest_at = due
            self._store()

    def _note(self, notice: Notice, now: datetime, *, key: str = "") -> None:
        key = key or notice.key
        problem = self._book.problems.get(key)
        if problem is None:
            problem = Problem(notice.event, notice.severity, notice.subject, {}, now)
            self._book.problems[key] = problem
        else:
            problem.seen += 1
        problem.missed = 0
        problem.event, problem.severity = notice.event, notice.severity
        problem.subject = notice.subject
        problem.facts = dict(notice.facts)

    def _tell_if_due(self, key: str, now: datetime) -> None:
        problem = self._book.problems[key]
        worse = problem.severity > problem.told_severity
        due = problem.told_at is None or now - problem.told_at >= self._remind
        if not (worse or due):
            return
        severity = Severity(problem.severity)
        facts = {
            "since": clock.isoformat(problem.since),
            "at": clock.isoformat(now),
            "severity": severity.word,
            "subject": problem.subject,
            **problem.facts,
        }
        problem.told_at, problem.told_severity = now, problem.severity
        self._post(problem.event, severity, facts, now)

    def _facts(self, notice: Notice, now: datetime) -> dict[str, str]:
        return {
            "subject": notice.subject,
            "severity": notice.severity.word,
            "at": clock.isoformat(now),
            **notice.facts,
        }

    def _post(
        self, event: str, severity: Severity, facts: Mapping[str, str], now: datetime
    ) -> None:
        message = self._templates.fill(event, {**self._common, **facts})
        for target in self._targets.values():
            if target.takes(event, severity):
                self._book.waiting.append(
                    Waiting(target.name, message.title, message.body, severity, now)
                )
        del self._book.waiting[:-_WAITING_AT_MOST]

    def _send(self, one: Waiting, now: datetime) -> bool:
        """Whether nothing more is to be done with it."""
        target = self._targets.get(one.target)
        if target is None:
            return True  # taken out of the configuration meanwhile
        try:
            deliver(target, Message(one.title, one.body), Severity(one.severity))
        except AuroraError as error:
            one.tries += 1
            given_up = now - one.at > KEEP_TRYING
            if one.tries == 1 or given_up:
                end = "It is given up." if given_up else "It is tried again for a day."
                self._sink(Warned(error.code, error.message, f"{error.hint} {end}".strip()))
            return given_up
        return True

    def _load(self) -> _Book:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Book)
        except (OSError, msgspec.MsgspecError):
            return _Book()

    def _store(self) -> None:
        temporary = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(self._book))
            temporary.chmod(0o600)
            temporary.replace(self._path)
        except OSError as error:
            raise AuroraError(
                f"cannot write {self._path}: {(error.strerror or 'failed').lower()}",
                hint="Notices may be told twice after a restart; no backup is touched.",
            ) from error
