"""The commands of the change log, as a person runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.looks import run_script
from tests.fixtures.postgres import NewDatabase

Run = subprocess.CompletedProcess[str]


@pytest.fixture
def workplace(new_database: NewDatabase, tmp_path: Path) -> tuple[Path, str]:
    """A directory with an aurora.toml, and its source."""
    dsn = new_database()
    run_script(dsn, "CREATE TABLE keyed (id int PRIMARY KEY); CREATE TABLE bare (x int)")
    made = aurora(
        tmp_path, "init", "--source", dsn, "--primary", "./repo", "--no-secondary", "--name", "app",
        "--yes", "--recovery-code-file", "codes",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return tmp_path, dsn


def aurora(directory: Path, *words: str) -> Run:
    environment = {**os.environ, "AURORA_PASSPHRASE": "a passphrase for tests"}
    return subprocess.run(
        [sys.executable, "-m", "aurora", *words], cwd=directory, env=environment, text=True,
        capture_output=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def summary(run: Run) -> dict[str, object]:
    assert run.returncode == 0, run.stderr + run.stdout
    last = json.loads(run.stdout.splitlines()[-1])
    assert last["message_type"] == "summary"
    assert isinstance(last, dict)
    return last


def test_prepare_backup_show_undo(workplace: tuple[Path, str]) -> None:
    directory, dsn = workplace
    unsure = aurora(directory, "source", "prepare")
    assert unsure.returncode == 2
    assert 'CREATE PUBLICATION "aurora_app_keyed" FOR TABLE ONLY "public"."keyed"' in unsure.stdout
    assert "Nothing was changed" in unsure.stderr

    prepared = summary(aurora(directory, "source", "prepare", "--yes", "--json"))
    assert prepared["streamed"] == ["public.keyed"]
    again = aurora(directory, "source", "prepare")
    assert again.returncode == 0
    assert "was prepared already" in again.stdout

    full = summary(aurora(directory, "backup", "create", "--json"))
    run_script(dsn, "INSERT INTO keyed VALUES (1), (2); INSERT INTO bare VALUES (1)")
    made = summary(aurora(directory, "backup", "create", "--type", "incremental", "--json"))
    assert made["type"] == "incremental"
    log = made["log"]
    assert isinstance(log, dict)
    assert (log["parent"], log["acknowledged"]) == (full["backup_id"], True)

    shown = aurora(directory, "log", "show", "--json", "--from", "2020-01-01T00:00:00Z")
    assert summary(shown)["rows"] == 3
    first = json.loads(shown.stdout.splitlines()[0])
    assert first["message_type"] == "transaction"
    assert first["tables"]["public.keyed"]["inserted"] == 2
    told = aurora(directory, "log", "show", "--table", "public.keyed").stdout
    assert "public.keyed +2; public.bare +1" in told
    assert summary(aurora(directory, "log", "show", "--json", "--to", "2020-01-01"))["rows"] == 0
    assert aurora(directory, "log", "show", "--from", "yesterday").returncode == 2

    assert "1 table streamed" in aurora(directory, "doctor").stdout
    removed = summary(aurora(directory, "source", "prepare", "--undo", "--yes", "--json"))
    assert len(removed["statements"]) == 3  # type: ignore[arg-type]
    became = aurora(directory, "backup", "create", "--type", "incremental")
    assert became.returncode == 0
    assert "a full, not an incremental: the slot aurora_app is not on the source" in became.stdout
