"""The commands as a user types them, on a real S3 server and a real Azure Blob server."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.postgres import NewDatabase
from tests.fixtures.stores import AzureServer, S3Server


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs `aurora` in a directory with the environment of one user."""

    directory: Path
    environment: dict[str, str]

    def __call__(self, *words: str, expect: int = 0) -> list[dict[str, Any]]:
        """The JSON lines of one command; fails when it ends otherwise than expected."""
        done = subprocess.run(
            [sys.executable, "-m", "aurora", *words, "--json"],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def shell(
    tmp_path: Path, seaweedfs: S3Server, azurite: AzureServer, new_database: NewDatabase
) -> tuple[Shell, str]:
    """A configured project: primary on S3, secondary on Azure; and its source."""
    dsn = new_database()
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"a passphrase for storage {name}\n")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AURORA_PG_BIN": os.environ.get("AURORA_PG_BIN", ""),
        "AURORA_PASSPHRASE_FILE": str(tmp_path / "one"),
        "AURORA_SECONDARY_PASSPHRASE_FILE": str(tmp_path / "two"),
        "AURORA_PRIMARY_ACCESS_KEY_ID": seaweedfs.access_key,
        "AURORA_PRIMARY_SECRET_ACCESS_KEY": seaweedfs.secret_key,
        "AURORA_SECONDARY_ACCOUNT_KEY": azurite.key,
    }
    run = Shell(tmp_path, environment)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE public.notes (id int PRIMARY KEY, body text)")
        conn.execute(
            "INSERT INTO notes SELECT g, repeat(md5(g::text), 40) FROM generate_series(1, 9000) g"
        )
    run(
        "init", "--yes", "--source", dsn,
        "--primary", f"s3://{seaweedfs.new_bucket()}/aurora?endpoint={seaweedfs.endpoint}"
                     f"&region={seaweedfs.region}",
        "--secondary", f"az://{azurite.new_container()}/aurora?account={azurite.account}"
                       f"&endpoint={azurite.endpoint}",
    )  # fmt: skip
    return run, dsn


def test_backup_and_restores_on_s3_and_azure(shell: tuple[Shell, str]) -> None:
    """Backup, list, both verifications and both restores give the same rows back."""
    run, dsn = shell
    made = run("backup", "create")[-1]
    assert made["message_type"] == "summary"
    assert (made["complete"], made["replicated"], made["rows"]) == (True, True, 9000)
    again = run("backup", "create")[-1]
    assert again["bytes_new"] < 200_000 < made["bytes_new"]
    listed = run("backup", "list")[-1]["backups"]
    assert [made["backup_id"], again["backup_id"]] == [entry["id"] for entry in listed]
    for storage in ("primary", "secondary"):
        found = run("backup", "verify", made["backup_id"], "--storage", storage)[-1]
        assert (found["ok"], found["level"]) == (True, "full")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("DELETE FROM notes WHERE id > 10")
        run("backup", "restore-table", "notes", "latest", "--replace", "--yes")
        restored = conn.execute("SELECT count(*), min(length(body)) FROM notes").fetchone()
    assert restored == (9000, 1280)


def test_secondary_alone_restores(shell: tuple[Shell, str], seaweedfs: S3Server) -> None:
    """With the primary's account gone, everything still comes back from the secondary."""
    run, dsn = shell
    made = run("backup", "create")[-1]
    gone = Shell(run.directory, {**run.environment, "AURORA_PRIMARY_SECRET_ACCESS_KEY": "revoked"})
    gone("backup", "list", expect=31)
    assert gone("backup", "list", "--storage", "secondary")[-1]["backups"]
    target = dsn.rpartition("/")[0] + "/from_secondary"
    gone(
        "backup", "restore", made["backup_id"], "--storage", "secondary", "--target", target,
    )  # fmt: skip
    with psycopg.connect(target, autocommit=True) as conn:
        assert conn.execute("SELECT count(*) FROM notes").fetchone() == (9000,)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("DROP DATABASE from_secondary")
