"""`aurora key …` and `--type sealed` as a user types them: one story on two directories."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.looks import run_script
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import NewTarget

pytest_plugins = ["tests.fixtures.backups"]

APP = """
CREATE TABLE users (id serial PRIMARY KEY, name text NOT NULL);
INSERT INTO users (name) SELECT 'u' || i FROM generate_series(1, 100) i;
"""
Shell = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def shell(tmp_path: Path, new_database: NewDatabase) -> Shell:
    """``shell(words…, **variables)`` -> exit code, the last JSON line, everything printed."""
    dsn = new_database()
    run_script(dsn, APP)
    for place in ("primary", "secondary"):
        (tmp_path / f"{place}.pass").write_text(f"the {place} passphrase\n")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("AURORA_")},
        "AURORA_SOURCE_DSN": dsn,
        "AURORA_PASSPHRASE_FILE": str(tmp_path / "primary.pass"),
        "AURORA_SECONDARY_PASSPHRASE_FILE": str(tmp_path / "secondary.pass"),
    }

    def run(*words: str, **variables: str) -> tuple[int, dict[str, Any], str]:
        done = subprocess.run(
            [sys.executable, "-m", "aurora", *words, "--json"],
            cwd=tmp_path, env={**environment, **variables}, capture_output=True, text=True,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        lines = (done.stdout if done.returncode == 0 else done.stderr).splitlines()
        return done.returncode, json.loads(lines[-1]), done.stdout + done.stderr

    status, made, printed = run(
        "init", "--source", dsn, "--primary", "first", "--secondary", "second", "--yes",
        "--recovery-code-file", "codes.txt",
    )  # fmt: skip
    assert status == 0, printed
    assert made["recovery_code_file"]
    return run


def codes(directory: Path) -> dict[str, str]:
    """The recovery codes that `init` wrote."""
    lines = (directory / "codes.txt").read_text().splitlines()
    return dict(line.split(": ") for line in lines)


def by_kind(shell: Shell, place: str) -> dict[str, dict[str, Any]]:
    """The slots of a storage; of each kind the newest."""
    status, found, printed = shell("key", "list")
    assert status == 0, printed
    return {one["kind"]: one for one in found["slots"] if one["storage"] == place}


def test_slots_are_proven_added_changed_and_removed(shell: Shell, tmp_path: Path) -> None:
    """Each step is told, and what was changed no longer opens."""
    slots = by_kind(shell, "secondary")
    assert slots["passphrase"]["proven_at"]
    assert slots["recovery-code"]["proven_at"] is None

    (tmp_path / "code").write_text(codes(tmp_path)["secondary"])
    proof = {"AURORA_SECONDARY_RECOVERY_CODE_FILE": str(tmp_path / "code")}
    assert shell("key", "test", "--storage", "secondary", **proof)[0] == 0
    assert by_kind(shell, "secondary")["recovery-code"]["proven_at"]

    status, told, _ = shell("key", "rotate", "recovery-code", "--storage", "secondary", "--yes")
    assert (status, len(told["removed"])) == (0, 1)
    status, error, _ = shell("key", "test", "--storage", "secondary", **proof)
    assert (status, error["code"]) == (12, "wrong-key")
    (tmp_path / "code").write_text(told["recovery_code"])
    assert shell("key", "test", "--storage", "secondary", **proof)[0] == 0

    (tmp_path / "new.pass").write_text("a better passphrase\n")
    new = {"AURORA_NEW_PASSPHRASE_FILE": str(tmp_path / "new.pass")}
    assert shell("key", "rotate", "passphrase", "--yes", **new)[0] == 0
    assert shell("backup", "list")[0] == 12
    (tmp_path / "primary.pass").write_text("a better passphrase\n")
    assert shell("backup", "list")[0] == 0

    (tmp_path / "file.key").write_bytes(os.urandom(32))
    added = shell("key", "add", "key-file", "--key-file", "file.key")
    assert added[0] == 0
    assert shell("key", "test", "key-file", "--key-file", "file.key")[0] == 0
    assert shell("key", "remove", added[1]["slot"][:6], "--yes")[0] == 0
    assert shell("key", "test", "key-file", "--key-file", "file.key")[0] == 12


def test_the_last_slot_stays(shell: Shell) -> None:
    """Nobody locks themselves out."""
    slots = by_kind(shell, "primary")
    assert shell("key", "remove", slots["recovery-code"]["id"], "--yes")[0] == 0
    status, error, _ = shell("key", "remove", slots["passphrase"]["id"], "--yes")
    assert (status, error["message"]) == (2, "the last key slot cannot be removed")
    assert shell("key", "remove", "zz", "--yes")[0] == 2
    assert shell("key", "remove", slots["passphrase"]["id"])[0] == 2  # nobody to confirm


def test_the_sheet_is_enough(shell: Shell, tmp_path: Path) -> None:
    """The codes printed on the recovery sheet open both storages."""
    status, _, printed = shell("key", "sheet", "--new-codes", "--output", "sheet.txt")
    assert status == 0, printed
    sheet = tmp_path / "sheet.txt"
    assert stat.S_IMODE(sheet.stat().st_mode) == 0o600
    text = sheet.read_text()
    found = [line.split()[-1] for line in text.splitlines() if line.startswith("  recovery code")]
    assert len(found) == 2
    assert "passphrase\n" not in text  # of the secrets, only the codes
    for name, code in zip(("primary.code", "secondary.code"), found, strict=True):
        (tmp_path / name).write_text(code)
    by_code = {
        "AURORA_PASSPHRASE_FILE": "", "AURORA_SECONDARY_PASSPHRASE_FILE": "",
        "AURORA_RECOVERY_CODE_FILE": str(tmp_path / "primary.code"),
        "AURORA_SECONDARY_RECOVERY_CODE_FILE": str(tmp_path / "secondary.code"),
    }  # fmt: skip
    assert shell("backup", "list", "--storage", "secondary", **by_code)[0] == 0
    assert shell("key", "sheet", "--output", "sheet.txt")[0] == 2  # never over an old one


def test_a_sealed_backup_from_end_to_end(
    shell: Shell, tmp_path: Path, new_target: NewTarget
) -> None:
    """Made with a public key; restored without a passphrase; refused where nobody is named."""
    status, error, _ = shell("backup", "create", "--type", "sealed")
    assert (status, error["code"]) == (2, "usage")
    assert "recipients" in error["hint"]

    made = shell("key", "new-identity", "identity.txt")[1]
    assert shell("key", "new-identity", "identity.txt")[0] == 2
    with (tmp_path / "aurora.toml").open("a") as file:
        file.write(f'\n[sealed]\nrecipients = ["{made["recipient"]}"]\n')
    status, backup, printed = shell("backup", "create", "--type", "sealed")
    assert (status, backup["type"], backup["replicated"]) == (0, "sealed", True), printed
    assert shell("backup", "create")[0] == 0

    status, found, _ = shell("backup", "verify", "latest:sealed")
    assert (status, found["recipients"]) == (0, [made["recipient"]])
    assert shell("backup", "verify", "latest:sealed", "--identity", "identity.txt")[0] == 0
    status, error, _ = shell("backup", "restore", backup["backup_id"], "--target", new_target())
    assert (status, "--identity" in error["hint"]) == (2, True)

    (tmp_path / "primary.pass").unlink()
    (tmp_path / "secondary.pass").unlink()
    status, restored, printed = shell(
        "backup", "restore", "latest", "--identity", "identity.txt", "--target", new_target()
    )
    assert (status, restored["backup_id"]) == (0, backup["backup_id"]), printed
    assert "origin-unproven" in printed
    (tmp_path / "other.txt").write_text("nonsense\n")
    words = ("backup", "restore", "latest", "--target", new_target(), "--identity")
    assert shell(*words, "other.txt")[0] == 2
    shell("key", "new-identity", "stranger.txt")
    assert shell(*words, "stranger.txt")[0] == 12


def test_a_private_key_is_no_recipient(shell: Shell, tmp_path: Path) -> None:
    """It is refused in words, and not repeated."""
    shell("key", "new-identity", "identity.txt")
    secret = (tmp_path / "identity.txt").read_text().splitlines()[1]
    with (tmp_path / "aurora.toml").open("a") as file:
        file.write(f'\n[sealed]\nrecipients = ["{secret}"]\n')
    status, error, printed = shell("backup", "create", "--type", "sealed")
    assert (status, secret in printed) == (2, False)
    assert "private key" in error["message"]
