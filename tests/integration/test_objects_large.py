"""Many objects, and a large one: minutes each."""

import json
import os
import subprocess
import sys

import pytest

from tests.fixtures.projects import Project
from tests.fixtures.storage_ground import Ground, last
from tests.fixtures.storage_projects import NewStorageProject

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.hosted", "tests.fixtures.objects"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_round_trip_of_ten_thousand(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """Every object's bytes and metadata are equal; a second backup reads none of them."""
    from aurora.operations.restore_objects import ObjectsPlan, plan_objects, run_objects

    source, target = new_storage_project(), new_storage_project()
    source.fill(10_000)
    source.sql(
        "SET session_replication_role = replica; UPDATE storage.objects SET"
        " owner_id = left(id::text, 8), created_at = '2024-01-02 03:04:05.678901+00'"
    )
    first = project.backup(source.dsn, objects=source.source())
    assert first.objects is not None
    assert (first.objects.read, first.objects.is_complete) == (10_000, True)
    second = project.backup(source.dsn, objects=source.source())
    assert second.objects is not None
    assert second.objects.read == 0
    plan = ObjectsPlan(project.opened(), target.client, dsn=target.dsn, jobs=8)
    report = run_objects(plan_objects(plan))
    assert report.is_complete
    assert report.uploaded == 10_000
    assert target.rows() == source.rows()
    assert target.contents() == source.sums()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_large_object_in_flat_memory(depot: Ground) -> None:
    """An object of 2 GiB is backed up and written to a file in much less memory than it has."""
    size = 2 << 30
    depot.source.bucket("b")
    depot.source.put("b", "huge", b"x")
    version = depot.source.sql("SELECT version FROM storage.objects")[0][0]
    with depot.source.server.blob(version).open("r+b") as file:
        file.truncate(size)
    depot.source.sql(
        "UPDATE storage.objects SET metadata = metadata || %s::jsonb",
        json.dumps({"size": size, "contentLength": size}),
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AURORA_")}
    kept["AURORA_PG_BIN"] = os.environ["AURORA_PG_BIN"]
    for words in (
        ("backup", "create", "--json"),
        ("backup", "restore-object", "b/huge", "latest", "--output", "huge", "--json"),
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "aurora", *words], cwd=depot.place.directory, env=kept,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert used.ru_maxrss < 512 << 10  # KiB
    assert (depot.place.directory / "huge").stat().st_size == size
    assert last(depot.run("backup", "list", "--json"))["backups"]
