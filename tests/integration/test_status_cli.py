"""`aurora backup status`, as a person and a monitor run it: also when things are down."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.looks import run_script
from tests.fixtures.postgres import NewDatabase

Run = subprocess.CompletedProcess[str]
Cli = Callable[..., Run]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(new_database: NewDatabase) -> str:
    dsn = new_database()
    run_script(dsn, "CREATE TABLE keyed (id int PRIMARY KEY); INSERT INTO keyed VALUES (1)")
    return dsn


@pytest.fixture
def cli(source: str, tmp_path: Path) -> Cli:
    """``cli("backup", "status", …)`` in a directory with repositories and no backup."""
    environment = {
        **os.environ,
        "AURORA_PASSPHRASE": "a passphrase for tests",
        "AURORA_SECONDARY_PASSPHRASE": "another passphrase for tests",
        "AURORA_CONFIG": str(tmp_path / "aurora.toml"),
    }

    def run(*words: str, code: int | None = None, **variables: str) -> Run:
        done = subprocess.run(
            [sys.executable, "-m", "aurora", *words], cwd=tmp_path, text=True, check=False,
            env={**environment, **variables}, capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done

    run(
        "init", "--source", source, "--primary", "./one", "--secondary", "./two", "--name", "app",
        "--yes", "--recovery-code-file", "codes", code=0,
    )  # fmt: skip
    return run


def _report(run: Run) -> dict[str, Any]:
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["message_type"] == "summary"
    assert isinstance(found, dict)
    return found


def _codes(report: dict[str, Any]) -> set[str]:
    return {one["code"] for one in report["findings"]}


def test_nothing_yet(cli: Cli) -> None:
    """Exit code 1, and what to do."""
    told = cli("backup", "status", code=1)
    assert "NOT RECOVERABLE: there is no backup yet" in told.stdout.splitlines()[0]
    assert "aurora backup create" in told.stdout


def test_from_backup_to_proven_restore(cli: Cli, source: str, tmp_path: Path) -> None:
    """Verdict, RPO of an idle source and of a busy one, and the figures beside them."""
    cli("source", "prepare", "--yes", code=0)
    cli("backup", "create", code=0)
    made = _report(cli("backup", "create", "--type", "incremental", "--json", code=0))
    idle = _report(cli("backup", "status", "--json", code=3))
    assert idle["schema"] == 1
    assert idle["rpo"] == {**idle["rpo"], "seconds": 0.0, "bytes": 0, "exact": True}
    assert idle["window"]["gaps"] == []
    assert idle["source"]["slot"]["wal_status"] == "reserved"
    assert _codes(idle) == {"never-proven", "keys-unproven"}
    assert len(idle["key_slots_unproven"]) == 2
    assert idle["source"]["slot_health"]["danger"] == "none"
    primary, secondary = idle["storages"]
    assert (primary["reachable"], primary["backups"]) == (True, 2)
    assert (secondary["behind"], secondary["replicated_to"]) == (0, made["backup_id"])
    assert primary["bytes"] == primary["grown_bytes"] > 1000

    run_script(source, "INSERT INTO keyed VALUES (2)")
    busy = _report(cli("backup", "status", "--json"))
    assert busy["rpo"]["exact"]
    assert 0 < busy["rpo"]["seconds"] < 3600
    assert busy["rpo"]["bytes"] > 0

    target = f"{source}_again"
    cli("backup", "restore", "latest:full", "--target", target, "--yes", code=0)
    try:
        codes = (tmp_path / "codes").read_text().splitlines()
        for place, prefix in (("primary", "AURORA"), ("secondary", "AURORA_SECONDARY")):
            code = next(line.split(": ")[1] for line in codes if line.startswith(place))
            cli("key", "test", "--storage", place, code=0, **{f"{prefix}_RECOVERY_CODE": code})
        # Another machine has no reports of this one: the audit trail tells it.
        shutil.rmtree(tmp_path / "aurora.reports")
        done = cli("backup", "status", code=0, AURORA_PRIMARY_PRICE="0.02")
        assert "last proven restore" in done.stdout.splitlines()[0]
        assert "0.00" in done.stdout
    finally:
        run_script(source, f'DROP DATABASE "{target.rpartition("/")[2]}"')


def test_another_label_is_told_from_the_loss_of_all_backups(cli: Cli) -> None:
    """A name that is not the one of before: status and list tell which labels there are."""
    cli("backup", "create", code=0)
    label = _report(cli("backup", "status", "--json"))["database"]
    listed = cli("backup", "list", code=0, AURORA_SOURCE_NAME="renamed")
    assert f"the repository holds those of {label}" in listed.stdout
    told = cli("backup", "status", code=1, AURORA_SOURCE_NAME="renamed")
    assert f"The repository holds backups of {label}" in told.stdout
    assert "no backups yet" not in listed.stdout


def test_the_source_is_down(cli: Cli) -> None:
    """The backups are told of all the same; RPO is a bound. No backup is said to be made."""
    cli("backup", "create", code=0)
    failed = cli("backup", "create", code=20, AURORA_SOURCE_DSN="postgresql://nobody@127.0.0.1:1/x")
    assert "place in the change log" not in failed.stdout + failed.stderr
    report = _report(
        cli("backup", "status", "--json", AURORA_SOURCE_DSN="postgresql://nobody@127.0.0.1:1/x")
    )
    assert report["verdict"].startswith("recoverable to ")
    assert not report["source"]["reachable"]
    assert "source-unreachable" in _codes(report)
    assert not report["rpo"]["exact"]


def test_a_secondary_that_does_not_open_keeps_nobody_from_the_primary(
    cli: Cli, source: str, tmp_path: Path
) -> None:
    """Lost, refused, or its passphrase not at hand: what is whole on the primary restores."""
    cli("backup", "create", code=0)
    target = f"{source}_alone"
    shutil.move(tmp_path / "two", tmp_path / "elsewhere")
    try:
        listed = cli("backup", "list", code=0)
        assert "1 backup" in listed.stdout
        assert "the secondary cannot stand in: no repository at" in listed.stderr
        cli("backup", "verify", "latest", code=0)
        cli("backup", "restore", "latest", "--target", target, "--yes", code=0)
        cli("backup", "restore-table", "keyed", "latest", "--as", "lost_alone", code=0)
        shutil.move(tmp_path / "elsewhere", tmp_path / "two")
        for passphrase in ("", "not the one"):
            away = {"AURORA_SECONDARY_PASSPHRASE": passphrase}
            assert "1 backup" in cli("backup", "list", code=0, **away).stdout
            copy = f"copy_{len(passphrase)}"
            cli("backup", "restore-table", "keyed", "latest", "--as", copy, code=0, **away)
        # What only the secondary could bring back is still an error, and is the primary's.
        shutil.rmtree(tmp_path / "one" / "chunks")
        refused = cli(
            "backup", "restore-table", "keyed", "latest", "--as", "never", code=41,
            AURORA_SECONDARY_PASSPHRASE="",
        )  # fmt: skip
        assert "object chunks/" in refused.stderr
        cli("backup", "restore-table", "keyed", "latest", "--as", "healed", code=0)
    finally:
        run_script(source, f'DROP DATABASE IF EXISTS "{target.rpartition("/")[2]}"')


def test_a_storage_is_gone(cli: Cli, tmp_path: Path) -> None:
    """With the primary gone the secondary answers; with both nothing is recoverable."""
    cli("backup", "create", code=0)
    shutil.move(tmp_path / "one", tmp_path / "elsewhere")
    report = _report(cli("backup", "status", "--json", code=1))
    assert report["verdict"].startswith("recoverable from the secondary to ")
    assert report["window"]["storage"] == "secondary"
    assert "primary-repository-not-found" in _codes(report)
    shutil.move(tmp_path / "two", tmp_path / "elsewhere2")
    lost = _report(cli("backup", "status", "--json", code=1))
    assert lost["verdict"] == "NOT RECOVERABLE: the repository cannot be opened"


def test_the_npm_script(cli: Cli) -> None:
    """`npm run backup:status` runs what package.json says."""
    script = json.loads((ROOT / "package.json").read_text())["scripts"]["backup:status"]
    done = subprocess.run(
        script.split(), cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "AURORA_CONFIG": "/nowhere/aurora.toml"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "no configuration at /nowhere/aurora.toml" in done.stderr
