"""Backups on storages where nothing can be deleted or overwritten; deletion is another role's."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aurora import wiring
from aurora.errors import StorageDenied
from aurora.operations.holds import hold, release, undelete
from aurora.operations.prune import PruneOptions, plan_prune, run_prune
from aurora.repository.mirror import replicate
from aurora.repository.verify import Level, verify
from aurora.storage.base import Buffer
from aurora.storage.memory import MemoryStorage
from aurora.wiring import Aurora
from tests.fixtures.changelog import full, incremental, prepare, undo
from tests.fixtures.clocks import TestClock
from tests.fixtures.faults import run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import LABEL, NewTarget, Project
from tests.fixtures.stores import S3Server
from tests.integration.test_cli_object_stores import Shell

pytest_plugins = ["tests.fixtures.backups"]


class AppendOnly(MemoryStorage):
    """Refuses what a credential without the rights to overwrite and delete is refused."""

    strict = False  # set once the repository is made

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """As MemoryStorage, for a name that is not there."""
        if self.strict and name in self.objects:
            raise StorageDenied(f"may not overwrite {name}")
        super().put(name, data, create_only=create_only)

    def delete(self, names: Iterable[str]) -> None:
        """Refused."""
        if self.strict:
            raise StorageDenied("may not delete", hint="Ask for the right.")
        super().delete(names)


@pytest.fixture
def house(new_database: NewDatabase) -> Any:
    """A prepared source, and a repository on two such storages."""
    clock = TestClock()
    storages = AppendOnly("primary", now=clock), AppendOnly("secondary", now=clock)
    project = Project.create(*storages)
    for storage in storages:
        storage.strict = True
    dsn = new_database()
    run_sql(dsn, "CREATE TABLE t (v int PRIMARY KEY)")
    prepare(dsn)
    yield project, dsn, clock
    undo(dsn)


def test_everything_but_prune_works(house: Any, new_target: NewTarget) -> None:
    """Full, incremental, copy, verification, restore, holds; and prune says who must run it."""
    project, dsn, clock = house
    first = full(project, dsn)
    run_sql(dsn, "INSERT INTO t SELECT generate_series(1, 1000)")
    incremental(project, dsn)
    assert replicate(project.primary, project.mirror).is_complete
    for _ in range(9):
        clock.turn(days=1)
        full(project, dsn)
    assert replicate(project.primary, project.mirror).is_complete
    for repository in (project.repository, project.repository_on_mirror):
        assert verify(repository, repository.backups(), Level.FULL).ok
    hold(project.repository, LABEL, "latest", "a test")
    release(project.repository, LABEL, "latest")
    target = new_target()
    assert project.restore(target, "latest").outcome == "restored"
    assert run_sql(target, "SELECT count(*) FROM t") == [(1000,)]

    options = PruneOptions(database=LABEL)
    plan = plan_prune(project.repository, "primary", options, sink=project.events.append)
    with pytest.raises(StorageDenied, match="does not let these credentials delete"):
        run_prune(plan, sink=project.events.append)
    undelete(project.repository, LABEL, first.backup_id)
    clock.turn(days=3)
    before = dict(project.primary.objects)
    plan = plan_prune(project.repository, "primary", options, sink=project.events.append)
    with pytest.raises(StorageDenied, match="does not let these credentials delete"):
        run_prune(plan, sink=project.events.append)
    # Another credential finishes what that one may not.
    assert before.items() <= project.primary.objects.items()
    project.primary.strict = False
    plan = plan_prune(project.repository, "primary", options, sink=project.events.append)
    done = run_prune(plan, sink=project.events.append)
    assert done.collected is not None
    assert done.collected.backups
    assert first.backup_id in {entry.id for entry in project.repository.backups()}


def _forbid_deletes(server: S3Server, bucket: str) -> None:
    policy = {
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Deny",
            "Principal": "*",
            "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
            "Resource": [f"arn:aws:s3:::{bucket}/*"],
        }],
    }  # fmt: skip
    server.ask("PUT", f"/{bucket}", {"policy": ""}, body=json.dumps(policy).encode())


@pytest.mark.s3
def test_on_an_s3_server_that_refuses_every_delete(
    seaweedfs: S3Server, new_database: NewDatabase, tmp_path: Path
) -> None:
    """The commands as a user types them: init, create, incremental, replicate, verify."""
    dsn = new_database()
    run_sql(dsn, "CREATE TABLE notes (id int PRIMARY KEY, body text)")
    run_sql(dsn, "INSERT INTO notes SELECT g, md5(g::text) FROM generate_series(1, 2000) g")
    buckets = [seaweedfs.new_bucket() for _ in range(2)]
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
        "AURORA_SECONDARY_ACCESS_KEY_ID": seaweedfs.access_key,
        "AURORA_SECONDARY_SECRET_ACCESS_KEY": seaweedfs.secret_key,
    }
    run = Shell(tmp_path, environment)
    urls = [f"s3://{bucket}/aurora?endpoint={seaweedfs.endpoint}&region={seaweedfs.region}"
            for bucket in buckets]  # fmt: skip
    for bucket in buckets:
        _forbid_deletes(seaweedfs, bucket)
    run("init", "--yes", "--source", dsn, "--primary", urls[0], "--secondary", urls[1])
    run("source", "prepare", "--yes")
    made = run("backup", "create")[-1]
    assert (made["complete"], made["replicated"]) == (True, True)
    run_sql(dsn, "UPDATE notes SET body = 'changed' WHERE id < 100")
    again = run("backup", "create", "--type", "incremental")[-1]
    assert (again["type"], again["replicated"]) == ("incremental", True)
    assert run("backup", "replicate")[-1]["lacking"] == []
    for place in ("primary", "secondary"):
        assert run("backup", "verify", again["backup_id"], "--storage", place)[-1]["ok"]
    # Nothing is old enough to be deleted, so a prune has nothing that is refused to it.
    assert len(run("backup", "prune", "--yes")[-1]["storages"]) == 2
    run("source", "prepare", "--undo", "--yes")


def test_prune_uses_credentials_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the collector where there are any; else the ordinary ones."""
    (tmp_path / "aurora.toml").write_text(
        '[primary]\nurl = "s3://bucket/x"\n[primary.credentials]\naccess_key_id = "backup"\n'
        '[primary.collector_credentials]\naccess_key_id = "collector"\n'
        '[secondary]\nurl = "s3://other/x"\n[secondary.credentials]\naccess_key_id = "second"\n'
    )
    used: list[Mapping[str, str]] = []

    def opening(url: str, credentials: Mapping[str, str], **_: Any) -> MemoryStorage:
        used.append(credentials)
        return MemoryStorage(url)

    monkeypatch.setattr(wiring, "open_storage", opening)
    monkeypatch.setenv("AURORA_PRIMARY_COLLECTOR_SECRET_ACCESS_KEY", "s")
    aurora = Aurora.load(tmp_path / "aurora.toml")
    aurora.storage("primary")
    aurora._collector_storage("primary")
    aurora._collector_storage("secondary")
    assert used == [
        {"access_key_id": "backup"},
        {"access_key_id": "collector", "secret_access_key": "s"},
        {"access_key_id": "second"},
    ]
