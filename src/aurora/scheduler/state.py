"""What the daemon remembers between its runs: ``aurora.state/schedule.json``.

Losing the file loses history: what the repository holds says what was done, and nothing is
done twice that a claim in it tells of.
"""

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from aurora.errors import AuroraError

Outcome = Literal["", "ok", "partly", "failed", "stopped", "interrupted", "elsewhere", "skipped"]


@dataclass(frozen=True, slots=True)
class JobState:
    """One job's past. Times are aware, in UTC."""

    handled: datetime | None = None  # the newest due time that needs nothing more
    running: datetime | None = None  # the due time that is being run
    begun_at: datetime | None = None
    ended_at: datetime | None = None
    ok_at: datetime | None = None  # when it last ended well
    outcome: Outcome = ""
    exit_code: int | None = None
    message: str = ""
    hint: str = ""
    attempts: int = 0  # failed ones of the due time in ``retry_due``
    retry_at: datetime | None = None
    retry_due: datetime | None = None
    wanted_at: datetime | None = None  # of a job that follows others
    seconds: float = 0.0
    runs: int = 0
    failures: int = 0


class State:
    """The jobs' states in one directory. Threads may share it."""

    def __init__(
        self, directory: Path, trouble: Callable[[AuroraError], None] = lambda _: None
    ) -> None:
        """*trouble* hears when the disk takes no more: what is to be remembered stays in memory.

        Backups to a storage elsewhere go on then; a restart may do something again.
        """
        self.directory = directory
        self._trouble = trouble
        self._stored = True
        self._path = directory / "schedule.json"
        self._lock = threading.RLock()
        self._jobs: dict[str, JobState] = self._load()

    def __getitem__(self, job: str) -> JobState:
        with self._lock:
            return self._jobs.get(job, JobState())

    def __contains__(self, job: str) -> bool:
        with self._lock:
            return job in self._jobs

    def update(
        self, job: str, change: Callable[[JobState], JobState] | None = None, **fields: Any
    ) -> JobState:
        """Change a job's state, durably where the disk takes it."""
        with self._lock:
            before = self._jobs.get(job, JobState())
            after = replace(change(before) if change else before, **fields)
            if after != before or job not in self._jobs or not self._stored:
                self._jobs[job] = after
                self._keep()
            return after

    def _keep(self) -> None:
        try:
            self._store()
            self._stored = True
        except AuroraError as error:
            if self._stored:
                self._trouble(error)  # once, until it works again
            self._stored = False

    def host(self) -> str:
        """This installation's id in claims: 16 hex digits, made once.

        A copied directory on another machine gets another one.
        """
        path = self.directory / "host.json"
        name = socket.gethostname()
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["name"] == name and len(bytes.fromhex(known["id"])) == 8:
                return str(known["id"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        made = secrets.token_hex(8)
        write_durably(path, json.dumps({"id": made, "name": name}) + "\n")
        return made

    def _load(self) -> dict[str, JobState]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, JobState])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError):
            # Better to begin anew than not to back up; the old one is kept to be looked at.
            if self._path.exists():
                self._path.replace(self._path.with_suffix(".unreadable"))
            return {}

    def _store(self) -> None:
        text = msgspec.json.format(msgspec.json.encode(self._jobs), indent=1)
        write_durably(self._path, text.decode() + "\n")


def write_durably(path: Path, text: str) -> None:
    """Replace *path* whole, synced. Raises AuroraError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise AuroraError(
            f"cannot write {path}: {(error.strerror or 'failed').lower()}",
            hint="Give it room and permissions; no backup is touched.",
        ) from error
