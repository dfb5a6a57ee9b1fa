"""The stage of a benchmark: a server of its own, the database on it, and Aurora beside it."""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psycopg
from measure import Command, Phase, Run, process_cpu, run_together, server_cpu

from aurora.postgres.embedded import EmbeddedServer
from aurora.postgres.tools import find_tools
from aurora.postgres.unprivileged import give, server_user

DATABASE = "shop"
SETTINGS = {
    "shared_buffers": "512MB",
    "autovacuum": "off",  # it would run in some rows and not in others
    "wal_level": "replica",  # PostgreSQL's own default
    "max_wal_size": "8GB",  # no checkpoint in the middle of a row; one before each
    "checkpoint_timeout": "30min",
}
_PASSPHRASE = "a passphrase of the benchmark alone"
_MAJOR = 15  # Debian 12's, whose pgBackRest fits it


def find_server() -> Path:
    """The programs of the server: of Debian's PostgreSQL 15, else of any that is there."""
    debian = Path(f"/usr/lib/postgresql/{_MAJOR}/bin")
    if (debian / "postgres").is_file():
        return debian
    ours = Path(__file__).resolve().parent.parent / ".pg" / str(_MAJOR) / "bin"
    if (ours / "postgres").is_file():
        return ours
    return find_tools(
        at_least=_MAJOR, prefer=_MAJOR, programs=("postgres", "initdb", "pg_dump", "psql")
    ).bin_dir


class Stage:
    """A running server with measured commands against it. A context manager."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        # A server without password: it listens on this machine alone, for minutes, and
        # holds made-up rows.
        self.server = EmbeddedServer(
            bin_dir=find_server(), data_dir=scratch / "data", password="", settings=SETTINGS
        )
        self.log = scratch / "command.log"
        self.passphrase = scratch / "passphrase"
        self.passphrase.write_text(_PASSPHRASE)
        self.env = {
            "AURORA_PASSPHRASE_FILE": str(self.passphrase),
            "AURORA_SECONDARY_PASSPHRASE_FILE": str(self.passphrase),
        }

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    def dsn(self, database: str = DATABASE) -> str:
        return self.server.dsn(database)

    def program(self, name: str) -> str:
        return str(self.server.tools.path(name))

    def execute(self, *statements: str, database: str = "postgres") -> None:
        with psycopg.connect(self.dsn(database), autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement)

    def fresh_database(self, name: str) -> None:
        """An empty database *name*."""
        self.drop(name)
        self.execute(f'CREATE DATABASE "{name}"')

    def drop(self, name: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def settle(self) -> None:
        """Nothing of the last row is left to be written during the next one."""
        self.execute("CHECKPOINT")

    def run(self, *commands: Command, settle: bool = True) -> Run:
        """Run commands side by side, measured."""
        if settle:
            self.settle()
        return run_together(commands, postmaster=lambda: self.server.pid, log=self.log)

    def owned(self, name: str) -> Path:
        """A new directory that belongs to the user who runs the server."""
        path = self.scratch / name
        path.mkdir()
        give(path)
        return path

    @property
    def server_user(self) -> str | None:
        user = server_user()
        return user.pw_name if user else None


class AuroraHere:
    """Aurora's command line in a directory of its own, against the stage's database."""

    def __init__(self, stage: Stage, place: str) -> None:
        self.stage = stage
        self.directory = stage.scratch / place
        self.repository = self.directory / "primary"

    def begin(self, *, secondary: bool = False) -> Self:
        """New repositories; what was there before is removed."""
        self.remove()
        self.directory.mkdir()
        other = ["--secondary", str(self.directory / "secondary")] if secondary else []
        args = ["init", "--source", self.stage.dsn(), "--primary", str(self.repository)]
        self.run([*args, *(other or ["--no-secondary"]), "--yes"])
        return self

    def remove(self) -> None:
        """Remove the repositories, if there are any."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def words(self, *args: str) -> list[str]:
        """The command line of one command."""
        program = Path(sys.executable).with_name("aurora")
        return [str(program), "--config", str(self.directory / "aurora.toml"), *args]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.stage.env}

    def run(self, args: Sequence[str]) -> Run:
        """One command with --json: its summary as ``facts``, and its phases."""
        watched = _Watched(self.stage)
        command = Command(self.words(*args, "--json"), env=self.stage.env, watch=watched)
        run = self.stage.run(command)
        run.facts, run.phases = watched.summary, watched.phases
        return run


class _Watched:
    """Takes Aurora's JSON lines as they come; a phase lasts until the next one begins."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._at = (time.monotonic(), 0.0, server_cpu(stage.server.pid))
        self._name = "starting, opening the repository"
        self.phases: list[Phase] = []
        self.summary: dict[str, Any] = {}

    def __call__(self, line: str, pid: int) -> None:
        found = json.loads(line)
        if found["message_type"] == "summary":
            self.summary = found
        elif found["message_type"] != "phase" or found["state"] != "begun":
            return
        now = (time.monotonic(), process_cpu(pid), server_cpu(self._stage.server.pid))
        spent = [after - before for after, before in zip(now, self._at, strict=True)]
        self.phases.append(Phase(self._name, *spent))
        self._at, self._name = now, str(found.get("phase", "ending"))
