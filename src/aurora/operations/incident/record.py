"""The record of an incident: what happened, who did what, when. It becomes the report.

One directory an incident below ``aurora.state/incidents``, with ``record.json`` in it. The
record is written whole and atomically after every step, so a run that dies leaves the last
step that was finished; what a step needs to go on with is written before it acts.
"""

import contextlib
import fcntl
import getpass
import json
import os
import secrets
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from aurora import clock
from aurora.errors import RepositoryLocked, UsageError

DRAFT, OPEN, CLOSED = "draft", "open", "closed"
SEVERITIES = ("critical", "major", "minor")
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_RECORD = "record.json"
_LOCK = ".lock"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the timeline."""

    at: str  # ISO 8601, UTC
    by: str
    step: str  # the step's name, or "note"
    text: str
    facts: dict[str, Any] = {}


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
    def held(self, incident: Incident) -> Iterator[Incident]:
        """Nobody else on this machine works on the incident meanwhile; the record read anew.

        Raises RepositoryLocked. The lock ends with the process.
        """
        directory = self.directory(incident)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (directory / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RepositoryLocked(
                    f"another run works on incident {incident.id}",
                    hint="Wait until it ends. Nothing was changed.",
                ) from error
            yield self._read(directory / _RECORD)

    def _read(self, path: Path) -> Incident:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Incident)
        except (msgspec.MsgspecError, OSError) as error:
            raise UsageError(
                f"{path} does not read as the record of an incident",
                hint="It may be of a newer Aurora. A copy is in the repository's audit trail.",
            ) from error


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
