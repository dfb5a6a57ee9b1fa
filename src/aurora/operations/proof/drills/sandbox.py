"""The sandbox of a drill: copies of the storages, a server, a configuration; all thrown away.

The source is never connected to, and the real storages are only read. What a person would type
is run as a process of its own, with nothing of this process's environment but what a new
machine would have.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aurora.errors import EnvironmentUnfit, RepositoryNotFound
from aurora.events import EventSink, PhaseBegun, PhaseEnded
from aurora.operations.content import Backup
from aurora.operations.proof.last import process_start
from aurora.operations.proof.server import TestServer
from aurora.operations.restore import run_restore
from aurora.operations.restore_plan import RestoreOptions, plan_restore
from aurora.postgres.conninfo import ConnInfo, redact
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import Repository
from aurora.repository.layout import CONFIG, ObjectType
from aurora.repository.mirror import MirrorView
from aurora.storage.base import Storage
from aurora.storage.local import LocalStorage
from aurora.units import format_size

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "AURORA_PG_BIN", "SSL_CERT_FILE")
_COPIERS = 8
_COMMAND_SECONDS = 6 * 3600.0
PREFIX = "aurora-drill-"
_OWNER = "owner"  # which process a sandbox belongs to
_NEW_SECONDS = 60.0
CONFIGURATION = """[source]
dsn = {dsn}
name = {name}

[primary]
url = {primary}
passphrase = {{file = "passphrase"}}
"""
SECONDARY = """
[secondary]
url = {secondary}
passphrase = {{file = "secondary-passphrase"}}
"""


class StepFailed(Exception):
    """A step did not do what it must; the words say what it did instead."""


@dataclass(frozen=True, slots=True)
class Materials:
    """What a drill may read of the real thing, and the secrets that open it.

    Passphrases are None where nobody gave one; recovery codes are from the recovery sheet.
    """

    database: str
    repository: Repository  # on the primary, or as the secondary holds it
    primary: Storage | None
    secondary: Storage | None
    view: MirrorView | None
    passphrase: str | None = field(default=None, repr=False)
    secondary_passphrase: str | None = field(default=None, repr=False)
    code: str | None = field(default=None, repr=False)
    secondary_code: str | None = field(default=None, repr=False)
    jobs: int = 2

    def newest(self) -> tuple[BackupEntry, list[BackupEntry]]:
        """The newest full, and all backups from it on. Raises RepositoryNotFound."""
        entries = self.repository.backups(self.database)
        fulls = [entry for entry in entries if entry.type == "full"]
        if not fulls:
            raise RepositoryNotFound(
                f"there is no full backup of {self.database} to play with",
                hint="Run `aurora backup create`.",
            )
        newest = fulls[-1]
        later = [e for e in entries if e.id >= newest.id and e.type in ("full", "incremental")]
        return newest, later


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    lines: tuple[dict[str, Any], ...]
    error: dict[str, Any]
    seconds: float

    @property
    def summary(self) -> dict[str, Any]:
        """The report of a success; empty where there is none."""
        last = self.lines[-1] if self.lines else {}
        return last if last.get("message_type") == "summary" else {}

    @property
    def message(self) -> str:
        return str(self.error.get("message", ""))


@dataclass(slots=True)
class Sandbox:
    """One drill's own world below *directory* (mode 0700).

    Attributes:
        words: what stands in a runbook -> what it is here.
        facts: what steps leave for later ones, and for the report.
    """

    directory: Path
    materials: Materials
    server: TestServer
    sink: EventSink
    words: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def machine(self) -> Path:
        """The working directory of the machine that runs Aurora."""
        return self.directory / "machine"

    @property
    def primary(self) -> LocalStorage:
        return LocalStorage(self.directory / "primary")

    @property
    def secondary(self) -> LocalStorage:
        return LocalStorage(self.directory / "secondary")

    @property
    def source(self) -> str:
        """The DSN of the database that plays the source."""
        return str(self.facts["source"])

    def run(self, command: str, extra: Iterable[str] = ()) -> Ran:
        """Run a command line as it stands in a runbook, and *extra* options."""
        words = [self.words.get(word, word) for word in shlex.split(command)]
        assert words[0] == "aurora", command
        kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "aurora", *words[1:], *extra, "--json"],
            cwd=self.machine, env={**kept, **self.environment}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS,
        )  # fmt: skip
        return Ran(
            done.returncode,
            tuple(_json_lines(done.stdout)),
            next(reversed([*_json_lines(done.stderr)]), {}),
            time.monotonic() - begun,
        )

    def write_secret(self, name: str, text: str) -> Path:
        """A file of mode 0600 on the machine."""
        path = self.machine / name
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"{text}\n")
        return path

    def configure(self, *, secondary: bool) -> None:
        """Write aurora.toml as a person would: addresses, and where the secrets are."""
        info = ConnInfo.parse(self.source)
        text = CONFIGURATION.format(
            dsn=json.dumps(info.without_secrets().uri()),
            name=json.dumps(self.materials.database),
            primary=json.dumps(str(self.primary.directory)),
        )
        if secondary:
            text += SECONDARY.format(secondary=json.dumps(str(self.secondary.directory)))
        (self.machine / "aurora.toml").write_text(text)
        self.environment["PGPASSWORD"] = info.password or ""

    def give_passphrases(self) -> None:
        """Put the passphrases on the machine, or the recovery codes where those are given."""
        given = self.materials
        for name, prefix, passphrase, code in (
            ("passphrase", "AURORA", given.passphrase, given.code),
            ("secondary-passphrase", "AURORA_SECONDARY",
             given.secondary_passphrase, given.secondary_code),
        ):  # fmt: skip
            if code is not None:
                path = self.write_secret(f"{name}-code", code)
                self.environment[f"{prefix}_RECOVERY_CODE_FILE"] = str(path)
            if passphrase is not None:
                self.write_secret(name, passphrase)

    def copy_primary(self) -> None:
        """Copy what the newest backups need from the real primary."""
        primary = self.materials.primary
        assert primary is not None
        entry, entries = self.materials.newest()
        names = [CONFIG, *(info.name for info in primary.list(ObjectType.SLOT.prefix))]
        self._copy("copying the primary", primary, self.primary, [*names, *self._needed(entries)])
        self.facts["backup"] = entry.id

    def copy_secondary(self) -> None:
        """Copy the secondary's own objects, as they are stored, for the newest backups."""
        raw, view = self.materials.secondary, self.materials.view
        assert raw is not None
        assert view is not None
        entry, entries = self.materials.newest()
        own = [
            info.name
            for prefix in (ObjectType.SLOT.prefix, ObjectType.OUTER.prefix)
            for info in raw.list(prefix)
        ]
        inner = [CONFIG, *(info.name for info in view.list(ObjectType.SLOT.prefix))]
        stored = [view.stored_name(name) for name in [*inner, *self._needed(entries)]]
        self._copy("copying the secondary", raw, self.secondary, [CONFIG, *own, *stored])
        self.facts["backup"] = entry.id

    def restore_source(self) -> None:
        """Let the newest backup play the source: a database on the sandbox's server."""
        entry, _ = self.materials.newest()
        backup = Backup(self.materials.repository, entry)
        dsn = self.server.new_database()
        plan = plan_restore(
            backup,
            dsn,
            RestoreOptions(
                jobs=self.materials.jobs, safety=False, accept_refusals=True, with_roles=True
            ),
        )
        done = run_restore(plan, make_safety_backup=None, sink=self.sink)
        self.facts |= {"source": dsn, "rows": done.rows, "backup": entry.id}

    def use_newest(self) -> None:
        """Let the runbook's example of a backup stand for the newest full."""
        entry, _ = self.materials.newest()
        backup = Backup(self.materials.repository, entry)
        rows = backup.body.figures.get("rows")
        self.words["bbyvf"] = entry.id
        self.facts |= {"backup": entry.id, "rows_expected": rows}

    def new_target(self) -> str:
        """A database that is not there yet, as an option."""
        dsn = self.server.new_database()
        self.facts["target"] = dsn
        return dsn

    def _needed(self, entries: Iterable[BackupEntry]) -> list[str]:
        names: dict[str, int] = {}
        for entry in entries:
            refs = self.materials.repository.refs(entry)
            names[entry.refs_name] = 0
            names |= {one.name: one.size for one in refs.all_objects()}
        self.facts["bytes_copied"] = sum(names.values())
        return list(names)

    def _copy(self, phase: str, source: Storage, target: Storage, names: list[str]) -> None:
        free = shutil.disk_usage(self.directory).free
        wanted = int(self.facts.get("bytes_copied", 0)) * 5 // 4
        if free < wanted:
            raise EnvironmentUnfit(
                f"the drill needs {format_size(wanted)} below {self.directory.parent} for copies, "
                f"there are {format_size(free)}",
                hint="Nothing was started. Point TMPDIR at a larger disk.",
            )
        self.sink(PhaseBegun(phase, len(names), "objects"))
        with ThreadPoolExecutor(_COPIERS, thread_name_prefix="copy") as pool:
            for _ in pool.map(lambda name: target.put(name, source.get(name)), names):
                pass
        self.sink(PhaseEnded(phase, f"{len(names)} objects"))


def require_room_for_sandbox(path: Path) -> None:
    """Make the directories of a sandbox, and remove those of killed drills.

    They hold copies and passphrases. Raises EnvironmentUnfit.
    """
    for other in path.parent.glob(f"{PREFIX}*"):
        if other != path and not _is_alive(other):
            shutil.rmtree(other, ignore_errors=True)
    try:
        (path / _OWNER).write_text(json.dumps([os.getpid(), process_start(os.getpid())]))
        for name in ("machine", "primary", "secondary"):
            (path / name).mkdir(mode=0o700)
    except OSError as error:
        raise EnvironmentUnfit(
            f"{path} cannot be written: {(error.strerror or '').lower()}",
            hint="Nothing was started.",
        ) from error


def _is_alive(sandbox: Path) -> bool:
    """Whether the process that made it still runs; one that is just being made counts as well."""
    try:
        pid, started = json.loads((sandbox / _OWNER).read_text())
        return process_start(int(pid)) == str(started)
    except FileNotFoundError:
        return time.time() - sandbox.stat().st_mtime < _NEW_SECONDS
    except (OSError, ValueError):
        return True  # another user's


def _json_lines(text: str) -> Iterable[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


def clean(text: str, secrets: Mapping[str, str | None]) -> str:
    """*text* without what opens anything."""
    for secret in secrets.values():
        if secret:
            text = text.replace(secret, "***")
    return redact(text)
