"""The restore commands as a user types them: exit codes, JSON lines, reports, confirmations."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aurora.postgres.embedded import EmbeddedServer
from tests.fixtures.looks import compare, look, name_of, run_script, run_sql
from tests.fixtures.projects import NewTarget

pytest_plugins = ["tests.fixtures.backups"]

APP = """
CREATE TABLE users (id serial PRIMARY KEY, name text NOT NULL);
CREATE SCHEMA other; CREATE TABLE other.users (id int); CREATE TABLE "Odd Name" (id int);
INSERT INTO users (name) SELECT 'u' || i FROM generate_series(1, 100) i;
INSERT INTO other.users VALUES (1); INSERT INTO "Odd Name" VALUES (2);
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one command ended."""

    status: int
    lines: list[dict[str, Any]]
    error: dict[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        """The last line."""
        assert self.lines[-1]["message_type"] == "summary"
        return self.lines[-1]


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs ``aurora`` in a directory, for a database."""

    directory: Path
    environment: dict[str, str]
    dsn: str

    def __call__(self, *words: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "aurora", *words, "--json"],
            cwd=self.directory, env=self.environment, capture_output=True, text=True,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        errors = [line for line in done.stderr.splitlines() if line.startswith("{")]
        told = [json.loads(line) for line in errors]
        return Ended(
            done.returncode,
            [json.loads(line) for line in done.stdout.splitlines()],
            told[-1] if told and told[-1].get("message_type") == "exit_error" else {},
        )


@pytest.fixture
def shell(tmp_path: Path, pg: EmbeddedServer, new_target: NewTarget) -> Shell:
    """A configured project in two directories, its source and one backup of it."""
    dsn = new_target()
    run_sql(pg.dsn(), f'CREATE DATABASE "{name_of(dsn)}"')
    run_script(dsn, APP)
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"a passphrase for storage {name}\n")
        (tmp_path / name).chmod(0o600)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AURORA_PG_BIN": os.environ.get("AURORA_PG_BIN", ""),
        "AURORA_PASSPHRASE_FILE": str(tmp_path / "one"),
        "AURORA_SECONDARY_PASSPHRASE_FILE": str(tmp_path / "two"),
    }
    run = Shell(tmp_path, environment, dsn)
    made = run(
        "init", "--yes", "--source", dsn, "--primary", f"file://{tmp_path}/primary",
        "--secondary", f"file://{tmp_path}/secondary",
    )  # fmt: skip
    assert made.status == 0, made.error
    assert run("backup", "create").status == 0
    return run


def test_whole_database(shell: Shell, new_target: NewTarget) -> None:
    """New, refused, in place: each with its exit code, and a report of what was done."""
    before = look(shell.dsn)
    target = new_target()

    done = shell("backup", "restore", "latest", "--target", target)
    assert (done.status, done.summary["outcome"], done.summary["rows"]) == (0, "restored", 102)
    compare(before, target)

    refused = shell("backup", "restore", "latest")
    assert (refused.status, refused.error["code"]) == (51, "target-not-empty")
    assert "--in-place" in refused.error["hint"]
    unsure = shell("backup", "restore", "latest", "--in-place")
    assert (unsure.status, unsure.error["code"]) == (2, "usage")
    run_sql(shell.dsn, "DROP TABLE users")
    done = shell("backup", "restore", "latest", "--in-place", "--yes")
    assert (done.status, done.summary["outcome"]) == (0, "restored")
    compare(before, shell.dsn)

    report = Path(done.summary["path"])
    assert done.summary["safety_backup"] in report.read_text()
    assert json.loads(report.with_suffix(".json").read_text())["rows"] == 102
    password = shell.dsn.split(":")[2].split("@")[0]
    kept = list((shell.directory / "aurora.reports").iterdir())
    assert len(kept) == 4
    assert not [path for path in kept if password in path.read_text()]
    missing = shell("backup", "restore", "zzzzz", "--target", target)
    assert (missing.status, missing.error["exit_code"]) == (10, 10)


def test_full_restore_onto_an_empty_database(shell: Shell, new_target: NewTarget) -> None:
    """Roles that are there are noted; the database comes with its own settings."""
    run_sql(shell.dsn, f"ALTER DATABASE \"{name_of(shell.dsn)}\" SET work_mem = '9MB'")
    shell("backup", "create")
    target = new_target()

    done = shell("backup", "restore-full", "latest", "--target", target)

    assert (done.status, done.summary["kind"]) == (0, "restore-full")
    assert any("postgres" in note for note in done.summary["notes"])
    compare(shell.dsn, target)
    assert run_sql(target, "SHOW work_mem") == [("9MB",)]


def test_one_table(shell: Shell) -> None:
    """Ambiguous, existing, beside, replaced, dropped."""
    ambiguous = shell("backup", "restore-table", "users", "latest")
    assert ambiguous.status == 2
    assert "other.users" in ambiguous.error["message"]
    there = shell("backup", "restore-table", "public.users", "latest")
    assert there.status == 51
    beside = shell("backup", "restore-table", "public.users", "latest", "--as", "users_old")
    assert (beside.status, beside.summary["restored_as"]) == (0, "public.users_old")
    both = shell("backup", "restore-table", "x", "latest", "--as", "y", "--replace")
    assert both.status in (2, 10)
    run_sql(shell.dsn, "DROP TABLE users_old")
    before = look(shell.dsn)

    run_sql(shell.dsn, "DELETE FROM users WHERE id > 50", 'DROP TABLE "Odd Name"')
    unsure = shell("backup", "restore-table", "public.users", "latest", "--replace")
    assert unsure.status == 2
    done = shell("backup", "restore-table", "public.users", "latest", "--replace", "--yes")
    assert (done.status, done.summary["rows"]) == (0, 100)
    assert done.summary["safety_backup"]
    assert shell("backup", "restore-table", "Odd Name", "latest").status == 0
    compare(before, shell.dsn)
    missing = shell("backup", "restore-table", "nothing", "latest")
    assert missing.status == 10
