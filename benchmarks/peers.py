"""The peers that a reader would look for: pgBackRest, and restic of a dump.

A peer that is not installed, or fails here, is named with the reason.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from measure import BenchFailed, Command, Run, disk_usage
from results import Results
from stage import DATABASE, SETTINGS, Stage

from aurora.errors import AuroraError
from aurora.postgres.embedded import EmbeddedServer
from aurora.postgres.unprivileged import give

_PASSPHRASE = "a passphrase of the benchmark alone"
_CONFIG = """\
[global]
repo1-path={repo}
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass={passphrase}
repo1-retention-full=9
compress-type=zst
compress-level=1
process-max=2
start-fast=y
log-level-console=warn
log-level-file=off
log-path={top}
lock-path={top}/lock
spool-path={top}/spool

[bench]
pg1-path={data}
pg1-port={port}
pg1-socket-path={socket}
pg1-user=postgres
"""


def measure_peers(stage: Stage, results: Results, repetitions: int) -> None:
    """Every peer that is here, into *results*."""
    peers: list[tuple[str, str, Callable[[Stage, Results, int], None]]] = [
        ("pgbackrest", "pgBackRest", _pgbackrest),
        ("restic", "restic", _restic),
    ]
    for program, name, measure in peers:
        if shutil.which(program) is None:
            results.missing(name, f"{program} is not installed; apt-get install {program}")
            continue
        try:
            measure(stage, results, repetitions)
        except (BenchFailed, AuroraError, OSError) as error:
            results.missing(name, f"it failed here: {error}")


@dataclass(frozen=True, slots=True)
class PgBackRest:
    """pgBackRest with a repository of its own, and the server's log archived to it."""

    stage: Stage
    top: Path
    config: Path

    @property
    def repo(self) -> Path:
        return self.top / "repo"

    def command(self, *args: str) -> Command:
        return Command(
            [_program(), f"--config={self.config}", "--stanza=bench", *args],
            user=self.stage.server_user,
        )

    def backup(self, kind: str) -> tuple[Run, int]:
        """One backup, and the bytes that it added."""
        before = disk_usage(self.repo / "backup")
        run = self.stage.run(self.command(f"--type={kind}", "backup"))
        return run, disk_usage(self.repo / "backup") - before

    def restore(self, number: int, **settings: str) -> Run:
        """Files back, and a server on them that answers: before that nothing is restored."""
        data = self.stage.owned(f"restored-{number}")
        data.chmod(0o700)
        run = self.stage.run(self.command(f"--pg1-path={data}", "restore"))
        begun = time.monotonic()
        server = EmbeddedServer(
            bin_dir=self.stage.server.bin_dir, data_dir=data, password="",
            settings=SETTINGS | settings,
        )  # fmt: skip
        with server:
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                while conn.execute("SELECT pg_is_in_recovery()").fetchone() != (False,):
                    time.sleep(0.02)  # it lets readers in before the log is at its end
            run.facts["seconds_until_it_answers"] = time.monotonic() - begun
            run.facts["log"] = server.log()
        run.wall += float(run.facts["seconds_until_it_answers"])
        shutil.rmtree(data, ignore_errors=True)
        return run


def _program() -> str:
    return shutil.which("pgbackrest") or ""


@contextmanager
def pgbackrest(stage: Stage, **settings: str) -> Iterator[PgBackRest]:
    """The server runs with *settings* and with its log archived, until this is left."""
    top = stage.owned("pgbackrest")
    here = PgBackRest(stage, top, top / "pgbackrest.conf")
    config = here.config
    config.write_text(
        _CONFIG.format(
            repo=here.repo, top=top, passphrase=_PASSPHRASE, data=stage.server.data_dir,
            port=stage.server.port, socket=stage.server.socket_dir,
        )
    )  # fmt: skip
    give(config)

    # Restored from, it needs the archive of the log: this part alone runs with it.
    stage.server.settings |= {
        "archive_mode": "on",
        "archive_command": f"{_program()} --config={config} --stanza=bench archive-push %p",
        **settings,
    }
    stage.server.restart()
    try:
        stage.run(here.command("stanza-create"))
        yield here
    finally:
        stage.server.settings = dict(SETTINGS)
        stage.server.restart()
        shutil.rmtree(top, ignore_errors=True)


def _pgbackrest(stage: Stage, results: Results, repetitions: int) -> None:
    with pgbackrest(stage) as here:
        for _ in range(repetitions):
            run, results.sizes["pgbackrest"] = here.backup("full")
            results.add("pgbackrest", run)
        for number in range(repetitions):
            results.add("pgbackrest_restore", here.restore(number))


def _restic(stage: Stage, results: Results, repetitions: int) -> None:
    repo = stage.scratch / "restic"
    env = {"RESTIC_REPOSITORY": str(repo), "RESTIC_PASSWORD": _PASSPHRASE,
           "RESTIC_CACHE_DIR": str(stage.scratch / "restic-cache")}  # fmt: skip

    def shell(line: str) -> Command:
        return Command(["/bin/bash", "-o", "pipefail", "-c", line], env=env)

    dump = (
        f"{stage.program('pg_dump')} -d '{stage.dsn()}'"
        f" | restic backup -q --stdin --stdin-filename {DATABASE}.sql"
    )
    try:
        for _ in range(repetitions):
            shutil.rmtree(repo, ignore_errors=True)
            stage.run(shell("restic init -q"))
            results.add("restic", stage.run(shell(dump)))
            results.sizes["restic"] = disk_usage(repo)
        for _ in range(repetitions):
            results.add("restic_again", stage.run(shell(dump)))
        stage.fresh_database("from_restic")
        load = f"{stage.program('psql')} -qX -v ON_ERROR_STOP=1 -d '{stage.dsn('from_restic')}'"
        back = f"restic dump -q latest {DATABASE}.sql | {load}"
        # Once: it takes longest of all, and one figure tells.
        results.add("restic_restore", stage.run(shell(back)))
    finally:
        stage.drop("from_restic")
        shutil.rmtree(repo, ignore_errors=True)


def versions() -> dict[str, str]:
    """What the installed peers say that they are."""
    found: dict[str, str] = {}
    for name in ("pgbackrest", "restic"):
        path = shutil.which(name)
        if path:
            said = subprocess.run([path, "version"], capture_output=True, text=True, check=False)
            found[name] = said.stdout.strip().split(" compiled")[0]
    return found
