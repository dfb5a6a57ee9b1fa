"""The demo itself: the whole story at a small size, and that it cleans up after itself."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from aurora.demo.__main__ import main
from aurora.demo.narrator import Narrator
from aurora.demo.stage import ROLE, Stage
from aurora.errors import UsageError


def _demo(directory: Path, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "aurora.demo"),
        *("--megabytes", "4", "--directory", str(directory), *words),
    ]


@pytest.mark.timeout(300)
def test_tells_the_whole_story(open_dir: Path) -> None:
    """Backups by schedule, an accident, the emergency, three recoveries: all good, and said so."""
    directory = open_dir / "demo-run"
    told = subprocess.run(
        _demo(directory), capture_output=True, text=True, check=False, timeout=280
    )

    assert told.returncode == 0, told.stdout + told.stderr
    assert "All is well" in told.stdout
    for command in (
        "aurora init",
        "aurora doctor",
        "aurora source prepare",
        "aurora run &",
        "aurora backup list",
        "aurora backup verify latest",
        "aurora incident stop-writes",
        "aurora incident assess",
        "aurora incident recover ",
        "aurora incident resume-writes",
        "aurora incident close",
        "aurora backup restore-table public.orders latest",
        "aurora backup restore-point --latest --target",
        "aurora backup validate",
    ):
        assert f"$ {command}" in told.stdout
    assert "WRONG" not in told.stdout
    assert "\x1b" not in told.stdout  # plain without a terminal
    for path in ("pgpass", "passphrase", "secondary-passphrase"):
        secret = (directory / path).read_text().strip().split(":")[-1]
        assert secret not in told.stdout + told.stderr
    assert (directory / "aurora.toml").exists()
    assert not (directory / "postgres").exists()


def test_server_stops_on_interrupt(open_dir: Path) -> None:
    """Ctrl-C ends the story with 130, and no server stays."""
    directory = open_dir / "demo-run"
    story = subprocess.Popen(
        _demo(directory, "--keep"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    pid_file = directory / "postgres" / "postmaster.pid"
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and "ready" in pid_file.read_text()):
        assert time.monotonic() < deadline, "the server did not start"
        assert story.poll() is None
        time.sleep(0.02)
    server = int(pid_file.read_text().split()[0])
    os.killpg(story.pid, signal.SIGINT)
    told, _ = story.communicate(timeout=30)

    assert story.returncode == 130, told.decode()
    assert not pid_file.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def test_leaves_foreign_directories_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory that no demo made is not removed."""
    (tmp_path / "thesis.tex").write_text("precious")
    code = main(["--directory", str(tmp_path), "--megabytes", "2"])
    assert code == UsageError.exit_code
    assert "no demo made it" in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_stage_begins_anew_each_time(open_dir: Path) -> None:
    """What an earlier demo left is removed; secrets are closed; the role is no superuser."""
    directory = open_dir / "demo-run"
    with Stage(directory, Narrator()):
        (directory / "primary").mkdir()
    with Stage(directory, Narrator()) as stage:
        assert not stage.primary.exists()
        for path in stage.environment.values():
            assert Path(path).stat().st_mode & 0o077 == 0
        with psycopg.connect(stage.dsn()) as connection:
            role = connection.execute(
                "select current_user::text, rolsuper, rolbypassrls from pg_roles"
                " where rolname = current_user"
            ).fetchone()
    assert role == (ROLE, False, True)
    assert stage.server.running is False
