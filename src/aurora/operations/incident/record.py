"""The record of an incident: what happened, who did what, when. It becomes the report.

One directory an incident below ``aurora.state/incidents``, with ``record.json`` in it. The
record is written whole and atomically after every step, so a run that dies leaves the last
step that was finished; what a step needs to go on with is written before it acts. A step
that is being done stands in it too, and its run holds a lock: whoever opens the record and
finds the lock free knows that the run died, and says so in the timeline.
"""

import contextlib
import fcntl
import getpass
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import msgspec

from aurora import clock
from aurora.errors import AuroraError, Cancelled, RepositoryLocked, UsageError

DRAFT, OPEN, CLOSED = "draft", "open", "closed"
SEVERITIES = ("critical", "major", "minor")
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_RECORD = "record.json"
_LOCK = ".lock"
_PATIENCE = 600.0  # seconds that a step which did its work waits to write it down


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the timeline."""

    at: str  # ISO 8601, UTC
    by: str
    step: str  # the step's name, or "note"
    text: str
    facts: dict[str, Any] = {}


class Running(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step that is being done, or that was when its run died."""

    run: str
    step: str
    by: str
    begun_at: str
    facts: dict[str, Any] = {}  # what tells later whether it took effect


class Incident(msgspec.Struct, omit_defaults=True):
    """Everything known of one incident. Times are ISO 8601 in UTC."""

    id: str
    title: str
    severity: str
    database: str
    opened_at: str
    opened_by: str
    state: str = OPEN
    closed_at: str = ""
    source: str = ""  # how the incident was noticed
    format: int = 1
    timeline: list[Entry] = []
    before: dict[str, Any] = {}  # backups and checks as they stood when it was opened
    writes: dict[str, Any] = {}  # stop-writes and resume-writes
    assessment: dict[str, Any] = {}
    point: dict[str, Any] = {}
    recoveries: list[dict[str, Any]] = []
    updates: list[dict[str, Any]] = []  # what was told to people
    status_page: dict[str, Any] = {}
    answers: dict[str, Any] = {}  # what people wrote: causes, what went well, follow-ups
    files: list[str] = []  # made on the way, relative to the incident's directory
    holds: dict[str, str] = {}  # storage -> the hold on retention that was placed there
    running: list[Running] = []
    unsettled: list[Running] = []  # of dead runs: whether they took effect is not known yet
    unfinished: str = ""  # start or close, from when it begins until it is through

    def note(self, step: str, text: str, *, by: str, **facts: Any) -> Entry:
        """Add a line to the timeline."""
        entry = Entry(clock.isoformat(clock.now()), by, step, text, facts)
        self.timeline.append(entry)
        return entry

    def first(self, step: str) -> Entry | None:
        """The first line of *step*."""
        return next((one for one in self.timeline if one.step == step), None)

    def document(self) -> dict[str, Any]:
        """For ``--json`` and the report: every member, also those without a value."""
        return {name: msgspec.to_builtins(getattr(self, name)) for name in self.__struct_fields__}


class Incidents:
    """The incidents of one ``aurora.state`` directory."""

    def __init__(self, state: Path) -> None:
        self.root = state / "incidents"

    def open(
        self,
        title: str,
        severity: str,
        database: str,
        *,
        by: str,
        state: str = OPEN,
        incident_id: str = "",
    ) -> Incident:
        """A new incident, written. Raises UsageError, OSError."""
        if severity not in SEVERITIES:
            raise UsageError(
                f"no severity is called {severity[:40]!r}", hint=f"One of {', '.join(SEVERITIES)}."
            )
        if not title.strip():
            raise UsageError("an incident needs a title", hint="A few words: what is wrong?")
        now = clock.now()
        made = Incident(
            incident_id or new_id(now), title.strip()[:200], severity, database,
            clock.isoformat(now), by, state,
        )  # fmt: skip
        made.unfinished = "start" if state == OPEN else ""
        made.note("start", f"incident opened: {made.title} ({severity})", by=by)
        self.save(made)
        return made

    def adopt(self, text: str, title: str, severity: str, *, by: str) -> Incident:
        """Make a draft, by a part of its id, an incident that is open. Raises UsageError."""
        found = self.find(text)
        if found.state != DRAFT:
            raise UsageError(f"incident {found.id} is no draft: it is {found.state}")
        if severity not in SEVERITIES or not title.strip():
            raise UsageError("an incident needs a title and a severity")
        found.state, found.title, found.severity = OPEN, title.strip()[:200], severity
        found.unfinished = "start"
        found.note("start", f"the draft was opened: {found.title} ({severity})", by=by)
        self.save(found)
        return found

    def directory(self, incident: Incident | str) -> Path:
        """Where an incident's files are."""
        return self.root / (incident if isinstance(incident, str) else incident.id)

    def save(self, incident: Incident) -> None:
        """Write the record, durably. Raises OSError."""
        text = json.dumps(incident.document(), indent=2, ensure_ascii=False, default=str) + "\n"
        write_durably(self.directory(incident) / _RECORD, text.encode())

    def all(self) -> list[Incident]:
        """Oldest first. A directory without a record that reads is left out."""
        found = []
        for path in sorted(self.root.glob(f"*/{_RECORD}")):
            with contextlib.suppress(UsageError):
                found.append(self._read(path))
        return sorted(found, key=lambda one: (one.opened_at, one.id))

    def current(self) -> Incident | None:
        """The newest that is open."""
        return next((one for one in reversed(self.all()) if one.state == OPEN), None)

    def with_title(self, title: str) -> Incident | None:
        """The newest open one of this title."""
        wanted = title.strip()[:200]
        fitting = (one for one in reversed(self.all()) if one.title == wanted)
        return next((one for one in fitting if one.state == OPEN), None)

    def half_closed(self) -> Incident | None:
        """The newest whose close began and did not end."""
        return next((one for one in reversed(self.all()) if one.unfinished == "close"), None)

    def newest(self) -> Incident:
        """The newest of all, open or closed. Raises UsageError where there is none."""
        found = self.all()
        if not found:
            raise UsageError("there is no incident", hint='Open one: aurora incident start "…".')
        return found[-1]

    def find(self, text: str | None) -> Incident:
        """The incident that *text* is a part of the id of; without, the newest open one.

        Raises UsageError.
        """
        if text is None:
            found = self.current()
            if found is None:
                raise UsageError(
                    "no incident is open",
                    hint='Open one: aurora incident start "what is wrong". Closed ones are in '
                    "`aurora incident list`; name one with --incident.",
                )
            return found
        fitting = [one for one in self.all() if text in one.id]
        if len(fitting) != 1:
            told = ", ".join(one.id for one in fitting[:10])
            raise UsageError(
                f"{len(fitting)} incidents fit {text[:60]!r}",
                hint=f"They are {told}." if told else "See `aurora incident list`.",
            )
        return fitting[0]

    @contextlib.contextmanager
    def held(self, incident: Incident, *, patience: float = 0.0) -> Iterator[Incident]:
        """Nobody else on this machine works on the incident meanwhile; the record read anew.

        What steps of dead runs left behind is told in it and tidied. *patience* is how many
        seconds to wait for others.

        Raises RepositoryLocked. The lock ends with the process.
        """
        directory = self.directory(incident)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + patience
        with (directory / _LOCK).open("w") as file:
            while not _locked(file):
                if time.monotonic() >= deadline:
                    raise RepositoryLocked(
                        f"another run works on incident {incident.id}",
                        hint="Wait until it ends. Nothing was changed.",
                    )
                time.sleep(0.05)
            found = self._read(directory / _RECORD)
            if self._bury(found):
                self.save(found)
            yield found

    def begin(
        self, held: Incident, step: str, *, by: str, alone: bool = False, **facts: Any
    ) -> "Doing":
        """Write down that *step* begins; *held* is saved. See :meth:`doing`."""
        if alone and any(one.step == step for one in held.running):
            raise RepositoryLocked(
                f"another run does {step} for incident {held.id}",
                hint="Wait until it ends. Nothing was changed.",
            )
        run = secrets.token_hex(4)
        file = (self.directory(held) / f".run-{run}").open("w")
        _locked(file)
        held.running.append(Running(run, step, by, clock.isoformat(clock.now()), facts))
        self.save(held)
        return Doing(self, held, run, step, by, file)

    @contextlib.contextmanager
    def step(self, incident: Incident, step: str, *, by: str, **facts: Any) -> Iterator[Incident]:
        """A step that keeps the incident to itself: :meth:`held`, and in the record while it runs.

        Raises RepositoryLocked.
        """
        with self.held(incident) as held:
            doing = self.begin(held, step, by=by, **facts)
            try:
                yield held
            finally:
                doing.over(held)
                self.save(held)
                doing.close()

    @contextlib.contextmanager
    def doing(
        self, incident: Incident | None, step: str, *, by: str, alone: bool = False, **facts: Any
    ) -> Iterator["Doing"]:
        """A long step, beside which others may go on; with *alone* not one of the same name.

        How it failed is told in the record.

        Raises RepositoryLocked.
        """
        if incident is None:
            yield Doing(self, None, "", step, by, None)
            return
        with self.held(incident, patience=_PATIENCE) as held:
            doing = self.begin(held, step, by=by, alone=alone, **facts)
        try:
            yield doing
            if not doing.is_over:  # it had nothing to write down
                with doing.record():
                    pass
        except BaseException as error:
            # The error is the one to tell; who finds this run in the record knows that it ended.
            with contextlib.suppress(AuroraError, OSError), doing.record() as mine:
                if doing.stands_in(mine) and not isinstance(error, UsageError):
                    assert mine is not None
                    gave_up = isinstance(error, Cancelled | KeyboardInterrupt)
                    told = f"{step} was given up" if gave_up else f"{step} failed: {_said(error)}"
                    mine.note("failed", told, by=by)
            raise
        finally:
            doing.close()

    def _bury(self, held: Incident) -> bool:
        """Tell of the steps whose runs died, and remove what they left; whether there were any."""
        directory = self.directory(held)
        for torn in directory.glob(f".{_RECORD}.*.new"):
            torn.unlink(missing_ok=True)
        written = {one.run for one in held.running}
        for file in directory.glob(".run-*"):
            if file.name.removeprefix(".run-") not in written:
                _lives(file)  # removes what died before, or after, it was in the record
        dead = [one for one in held.running if not _lives(directory / f".run-{one.run}")]
        for one in dead:
            held.running.remove(one)
            told = f"{one.step} of {one.begun_at[:19]} did not finish: its run died"
            held.note("interrupted", told, by=one.by)
            if "effect" in one.facts:
                held.unsettled.append(one)
            shutil.rmtree(directory / f"scratch-{one.run}", ignore_errors=True)
        return bool(dead)

    def _read(self, path: Path) -> Incident:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Incident)
        except (msgspec.MsgspecError, OSError) as error:
            raise UsageError(
                f"{path} does not read as the record of an incident",
                hint="It may be of a newer Aurora. A copy is in the repository's audit trail.",
            ) from error


@dataclass(slots=True)
class Doing:
    """A step that is being done; without an incident it is written down nowhere."""

    book: Incidents
    incident: Incident | None
    run: str
    step: str
    by: str
    file: TextIO | None
    is_over: bool = False
    _scratch: Path | None = field(default=None, repr=False)

    @contextlib.contextmanager
    def record(self) -> Iterator[Incident | None]:
        """The record, to write the outcome into; with it the step is over, in one save."""
        if self.incident is None:
            yield None
            return
        with self.book.held(self.incident, patience=_PATIENCE) as mine:
            yield mine
            self.over(mine)
            self.book.save(mine)

    def know(self, **facts: Any) -> None:
        """Write down now what tells later whether the step took effect."""
        if self.incident is None:
            return
        with self.book.held(self.incident, patience=_PATIENCE) as mine:
            mine.running = [
                msgspec.structs.replace(one, facts={**one.facts, **facts})
                if one.run == self.run else one
                for one in mine.running
            ]  # fmt: skip
            self.book.save(mine)

    def scratch(self) -> Path | None:
        """A directory for files of this run, which is removed with it; also after its death."""
        if self.incident is None:
            return None
        self._scratch = self.book.directory(self.incident) / f"scratch-{self.run}"
        self._scratch.mkdir(mode=0o700, exist_ok=True)
        return self._scratch

    def stands_in(self, held: Incident | None) -> bool:
        """Whether the step is still written down as being done."""
        return held is not None and any(one.run == self.run for one in held.running)

    def over(self, held: Incident) -> None:
        """Take the step out of *held*, which the caller saves."""
        held.running = [one for one in held.running if one.run != self.run]
        self.is_over = True

    def close(self) -> None:
        """Let go of what the run holds. Whoever finds it in the record takes it for dead."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        if self.file is not None:
            Path(self.file.name).unlink(missing_ok=True)
            self.file.close()


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(path: Path) -> bool:
    """Whether the run that holds this file's lock lives. The file of a dead one is removed."""
    try:
        with path.open("r") as file:
            if not _locked(file):
                return True
    except FileNotFoundError:
        return False
    path.unlink(missing_ok=True)
    return False


def _said(error: BaseException) -> str:
    return error.message if isinstance(error, AuroraError) else type(error).__name__


def new_id(moment: datetime) -> str:
    """``i20261125T140501Z-k3fp``: sorts by time."""
    letters = "".join(secrets.choice(_ALPHABET) for _ in range(4))
    return f"i{moment.strftime('%Y%m%dT%H%M%SZ')}-{letters}"


def whoami() -> str:
    """Who runs this, for the record: ``anna@backup-host``."""
    return f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}"


def write_durably(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 whole: after it returns, it survives a crash. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    for directory in (path.parent, path.parent.parent):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
