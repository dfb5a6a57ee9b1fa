"""Where the demo plays: a directory, a server of its own in it, and the `aurora` command.

The directory holds all that a user of Aurora would have: ``aurora.toml``, passphrase files
and two storages. The server's role for Aurora is no superuser: it owns its database, may
make roles and databases and read past row security, as ``postgres`` may on Supabase.
"""

import contextlib
import itertools
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql

from aurora.demo.narrator import Narrator
from aurora.errors import AuroraError, TargetUnfit, UsageError
from aurora.postgres.embedded import EmbeddedServer
from aurora.postgres.unprivileged import check_reachable

ROLE = "shop_owner"
DATABASE = "shop"
_MARKER = ".aurora-demo"
_SERVER_SETTINGS = {
    "max_connections": "50",
    "shared_buffers": "128MB",
    "wal_level": "logical",  # as on Supabase
    "max_slot_wal_keep_size": "4GB",
}


class CommandFailed(AuroraError):
    """A command of the story ended with another code than 0."""

    code = "demo-command-failed"


class Stage:
    """The demo's directory and server; ``with`` begins and ends both.

    Args:
        directory: replaced where an earlier demo made it; refused where it holds other things.
        keep: leave the server's files too, not only the storages.

    Raises:
        UsageError: the directory is somebody else's.
        TargetUnfit: no server can be started.
    """

    def __init__(self, directory: Path, narrator: Narrator, *, keep: bool = False) -> None:
        self.directory = directory.absolute()
        self.primary = self.directory / "primary"
        self.secondary = self.directory / "secondary"
        self._narrator = narrator
        self._keep = keep
        self._password = secrets.token_urlsafe(12)
        _clear(self.directory)
        self._daemon: subprocess.Popen[bytes] | None = None
        self.server = EmbeddedServer(data_dir=self._data_dir(), settings=_SERVER_SETTINGS)

    def __enter__(self) -> Self:
        try:
            self.server.start()
            self._make_role()
            self._write_secrets()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def dsn(self, database: str = DATABASE) -> str:
        """How the demo itself connects, with the password."""
        return self.server.dsn(database, user=ROLE, password=self._password)

    def shown_dsn(self, database: str = DATABASE) -> str:
        """The same for a command line: the password comes from PGPASSFILE."""
        return f"postgresql://{ROLE}@127.0.0.1:{self.server.port}/{database}"

    def make_database(self, name: str) -> None:
        """An empty database of the role's own."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))

    @property
    def environment(self) -> dict[str, str]:
        """What a user would export before the commands."""
        return {"PGPASSFILE": str(self.directory / "pgpass"), **self.passphrases}

    @property
    def passphrases(self) -> dict[str, str]:
        """Where the passphrases of the two storages are."""
        return {
            "AURORA_PASSPHRASE_FILE": str(self.directory / "passphrase"),
            "AURORA_SECONDARY_PASSPHRASE_FILE": str(self.directory / "secondary-passphrase"),
        }

    def aurora(self, *words: str) -> float:
        """Run ``aurora`` with these words in the directory, output and all; returns seconds.

        Raises CommandFailed when it ends with another code than 0.
        """
        self._narrator.command(shlex.join(("aurora", *words)))
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "aurora", *words],
            cwd=self.directory,
            env={**_plain_environment(), **self.environment},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != 0:
            verb = " ".join(itertools.takewhile(lambda word: word[0] != "-", words[:2]))
            raise CommandFailed(
                f"aurora {verb} ended with exit code {done.returncode}",
                hint=f"What it said is above. Everything is still in {self.directory}.",
            )
        return time.monotonic() - began

    def told(self, *words: str) -> dict[str, Any]:
        """The summary that a command gives with ``--json``, run without showing it."""
        done = subprocess.run(
            [sys.executable, "-m", "aurora", *words, "--json"],
            cwd=self.directory,
            env={**_plain_environment(), **self.environment},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        if not lines:
            raise CommandFailed(f"aurora {words[0]} said nothing", hint=done.stderr[-500:])
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    def begin(self, *words: str) -> None:
        """Run ``aurora`` with these words beside the story, its output in a log, until the end."""
        self._narrator.command(f"{shlex.join(('aurora', *words))} &")
        with (self.directory / "daemon.log").open("wb") as log:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "aurora", *words],
                cwd=self.directory,
                env={**_plain_environment(), **self.environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def end(self) -> int:
        """Ask what was begun to end, and wait for it; its exit code."""
        if self._daemon is None:
            return 0
        process, self._daemon = self._daemon, None
        process.terminate()
        return process.wait(60)

    def configure(self, text: str) -> None:
        """Add sections to aurora.toml."""
        with (self.directory / "aurora.toml").open("a") as file:
            file.write(text)

    def stored(self) -> tuple[int, int]:
        """Bytes in the primary and in the secondary storage."""
        return _bytes_below(self.primary), _bytes_below(self.secondary)

    def _data_dir(self) -> Path | None:
        try:
            check_reachable(self.directory)
        except TargetUnfit:  # root's own home, for example: the server gets a temporary directory
            return None
        return self.directory / "postgres"

    def _make_role(self) -> None:
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            connection.execute(
                sql.SQL(
                    "create role {role} login password {password}"
                    " nosuperuser createdb createrole replication bypassrls"
                ).format(role=sql.Identifier(ROLE), password=sql.Literal(self._password))
            )
            connection.execute(
                sql.SQL("grant pg_read_all_data, pg_monitor, pg_signal_backend to {}").format(
                    sql.Identifier(ROLE)
                )
            )
            connection.execute(
                sql.SQL("create database {} owner {}").format(
                    sql.Identifier(DATABASE), sql.Identifier(ROLE)
                )
            )

    def _write_secrets(self) -> None:
        files = {
            "pgpass": f"127.0.0.1:{self.server.port}:*:{ROLE}:{self._password}\n",
            "passphrase": secrets.token_urlsafe(24) + "\n",
            "secondary-passphrase": secrets.token_urlsafe(24) + "\n",
        }
        for name, text in files.items():
            path = self.directory / name
            path.touch(mode=0o600)
            path.write_text(text)

    def _close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.end()
        self.server.close()
        if not self._keep:
            shutil.rmtree(self.directory / "postgres", ignore_errors=True)


def _clear(directory: Path) -> None:
    """An empty directory of ours, whatever an earlier demo left."""
    if directory.exists() and not (directory / _MARKER).exists():
        if not directory.is_dir() or any(directory.iterdir()):
            raise UsageError(
                f"{directory} is there already and no demo made it",
                hint="Nothing was changed. Name another place with --directory.",
            )
    elif directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _MARKER).write_text("made by `make demo`, which removes it at its next start\n")


def _plain_environment() -> dict[str, str]:
    """Ours, without what would send the commands to another server or configuration."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "AURORA_")) or name == "AURORA_PG_BIN"
    }


def _bytes_below(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total
