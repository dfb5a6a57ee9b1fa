"""Objects of a backup into a project: bytes, rows, buckets, and once more after a stop."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from aurora.errors import Cancelled, UsageError
from aurora.operations.backup import BackupOptions
from aurora.operations.content import Backup
from aurora.operations.reports import ObjectsRestored
from aurora.operations.restore_objects import ObjectsPlan, plan_objects, run_objects
from aurora.operations.seal import create_sealed
from aurora.repository.sealed import Identities, Recipients, new_identity
from aurora.repository.sealed_door import SealedRepository
from tests.fixtures.projects import Project
from tests.fixtures.storage_projects import NewStorageProject, StorageProject
from tests.fixtures.storage_server import Answer, Request

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.hosted", "tests.fixtures.objects"]


def restored(project: Project, target: StorageProject, **options: Any) -> ObjectsRestored:
    """Restore objects of the newest backup; *options* are those of ObjectsPlan."""
    plan = ObjectsPlan(project.opened(), target.client, **{"dsn": target.dsn, "jobs": 4, **options})
    return run_objects(plan_objects(plan), sink=project.events.append)


def age(source: StorageProject) -> None:
    """Rows as they are in a project that has lived: owners, and times of long ago."""
    source.sql(
        "SET session_replication_role = replica; UPDATE storage.objects SET"
        " owner = gen_random_uuid(), owner_id = 'user-' || left(id::text, 4),"
        " created_at = '2024-01-02 03:04:05.678901+00',"
        " updated_at = '2024-02-03 04:05:06.789+00',"
        " last_accessed_at = '2024-03-04 05:06:07+00' WHERE name < '5'"
    )


def test_round_trip(project: Project, new_storage_project: NewStorageProject) -> None:
    """Every object's bytes, and its row but for the version; buckets with their settings."""
    source, target = new_storage_project(), new_storage_project()
    source.fill(150)
    age(source)
    project.backup(source.dsn, objects=source.source())
    report = restored(project, target)
    assert report.is_complete, report
    assert (report.uploaded, report.already_right) == (150, 0)
    assert sorted(report.buckets_made) == ["avatars", "documents"]
    assert target.contents() == source.sums()
    assert target.rows() == source.rows()
    settings = "SELECT id, public, file_size_limit, allowed_mime_types FROM storage.buckets"
    assert sorted(target.sql(settings)) == sorted(source.sql(settings))
    again = restored(project, target)
    assert (again.uploaded, again.already_right) == (0, 150)
    assert target.rows() == source.rows()


def test_one_bucket_and_one_object(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """Nothing else is touched; what differs is replaced, what is only there stays."""
    source, target = new_storage_project(), new_storage_project()
    for bucket in ("one", "two"):
        source.bucket(bucket)
        for name in ("a", "b"):
            source.put(bucket, name, f"{bucket} {name}".encode())
    project.backup(source.dsn, objects=source.source())
    target.bucket("one", public=True)
    target.put("one", "b", b"something else")
    target.put("one", "c", b"only here")
    report = restored(project, target, bucket="one")
    assert (report.objects, report.uploaded) == (2, 2)
    assert target.contents().keys() == {("one", "a"), ("one", "b"), ("one", "c")}
    assert target.sql("SELECT public FROM storage.buckets WHERE id = 'one'") == [(True,)]
    report = restored(project, target, path="two/b")
    assert report.objects == 1
    assert ("two", "b") in target.contents()
    assert ("two", "a") not in target.contents()
    with pytest.raises(UsageError, match="no bucket three"):
        restored(project, target, bucket="three")


def test_rows_that_were_restored_without_their_bytes(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """A row that looks right is not believed: the bytes are brought, the row keeps its id."""
    source, target = new_storage_project(), new_storage_project()
    source.fill(30)
    age(source)
    project.backup(source.dsn, objects=source.source())
    rows = source.sql(
        "SELECT id, bucket_id, name, version, metadata::text, created_at FROM storage.objects"
    )
    for bucket in ("avatars", "documents"):
        target.bucket(bucket)
    for found in rows:
        target.sql(
            "INSERT INTO storage.objects (id, bucket_id, name, version, metadata, created_at)"
            " VALUES (%s, %s, %s, %s, %s::jsonb, %s)",
            *found,
        )
    target.sql(
        "INSERT INTO storage.objects (bucket_id, name, version, metadata)"
        " VALUES ('avatars', 'in no backup', 'v', '{\"size\": 1}')"
    )
    lacking = rows[0]
    target.sql(
        "SET storage.allow_delete_query = 'true'; DELETE FROM storage.objects WHERE id = '"
        + str(lacking[0])
        + "'"
    )
    report = restored(project, target, rows_decide=True)
    assert report.uploaded == 29
    assert report.rows_without_bytes == [
        "avatars/in no backup: its row is there, the backup has no such object"
    ]
    assert len(report.bytes_without_rows) == 1
    assert lacking[2] in report.bytes_without_rows[0]
    ids = dict(target.sql("SELECT name, id FROM storage.objects WHERE name <> 'in no backup'"))
    assert ids == {found[2]: found[0] for found in rows[1:]}
    target.sql("SET session_replication_role = replica;"
               " DELETE FROM storage.objects WHERE name = 'in no backup'")  # fmt: skip
    wanted = source.sums()
    del wanted[lacking[1], lacking[2]]
    assert target.contents() == wanted


def test_interrupted_restore_goes_on(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """Stopped in the middle and run again: what had arrived is not sent a second time."""
    source, target = new_storage_project(), new_storage_project()
    source.fill(80)
    project.backup(source.dsn, objects=source.source())
    cancel = threading.Event()
    seen: list[str] = []

    def stop(request: Request) -> Answer | None:
        if request.method == "POST" and request.path.startswith(("/object/a", "/object/d")):
            seen.append(request.path)
            if len(seen) == 30:
                cancel.set()
        return None

    target.server.hooks.append(stop)
    plan = plan_objects(ObjectsPlan(project.opened(), target.client, dsn=target.dsn, jobs=2))
    with pytest.raises(Cancelled):
        run_objects(plan, cancel=cancel)
    target.server.hooks.clear()
    arrived = len(target.rows())
    assert 20 < arrived < 80
    report = restored(project, target)
    assert report.is_complete
    assert report.already_right == arrived
    assert target.contents() == source.sums()
    assert target.rows() == source.rows()


def test_limits_of_buckets_are_lifted_and_put_back(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """Objects from before the limits were set; what the project itself refuses is told."""
    source, target = new_storage_project(), new_storage_project()
    source.bucket("b")
    source.put("b", "large", b"x" * 5000, content_type="text/plain")
    source.put("b", "kind", b"x", content_type="application/zip")
    source.put("b", "huge", b"x" * 50_000, content_type="image/png")
    source.client.update_bucket(
        "b", {"public": False, "file_size_limit": 1000, "allowed_mime_types": ["image/*"]}
    )
    project.backup(source.dsn, objects=source.source())
    target.server.size_limit = 20_000
    report = restored(project, target)
    assert report.uploaded == 2
    assert len(report.failed) == 1
    assert "b/huge" in report.failed[0]
    assert "larger than" in report.failed[0]
    assert not report.is_complete
    limits = "SELECT file_size_limit, allowed_mime_types FROM storage.buckets"
    assert target.sql(limits) == [(1000, ["image/*"])]


def test_without_a_database(project: Project, new_storage_project: NewStorageProject) -> None:
    """By the API alone: bytes, types and metadata; owner and times are the target's."""
    source, target = new_storage_project(), new_storage_project()
    source.bucket("b")
    source.put("b", "o", b"x", user_metadata='{"k": "v"}', content_type="text/html")
    age(source)
    project.backup(source.dsn, objects=source.source())
    report = restored(project, target, dsn="")
    assert report.is_complete
    assert report.rows_set == 0
    assert target.rows()["b", "o"][5:] == source.rows()["b", "o"][5:]


def test_sealed_backup_has_the_files_too(
    project: Project, new_storage_project: NewStorageProject, tmp_path: Path
) -> None:
    """Opened with the identity alone, every object is there; it shares nothing."""
    source, target = new_storage_project(), new_storage_project()
    source.fill(40)
    source.put("documents", "large", os.urandom(9_000_000))
    project.backup(source.dsn, objects=source.source())
    identity = tmp_path / "identity.txt"
    public = new_identity(identity)
    made = create_sealed(
        source.dsn,
        project.repository,
        BackupOptions(database="app", objects=source.source()),
        recipients=Recipients.parse([public]),
        open_mirror=None,
        sink=project.events.append,
    )
    assert made.objects is not None
    assert (made.objects.objects, made.objects.read) == (41, 41)
    sealed = SealedRepository(project.primary, Identities.read([identity]))
    backup = Backup(sealed, sealed.resolve("latest", "app"))
    plan = ObjectsPlan(backup, target.client, dsn=target.dsn, jobs=4)
    assert run_objects(plan_objects(plan)).is_complete
    assert target.contents() == source.sums()


def test_buckets_that_were_left_out(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """Told once, not as files that are lacking; a bucket of another kind is not made."""
    source, target = new_storage_project(), new_storage_project()
    for bucket in ("keep", "cache", "lake"):
        source.bucket(bucket)
        source.put(bucket, "o", bucket.encode())
    source.sql("UPDATE storage.buckets SET type = 'ANALYTICS' WHERE id = 'lake'")
    project.backup(source.dsn, objects=source.source(skip=("cache",)))
    for bucket in ("keep", "cache"):
        target.bucket(bucket)
        target.put(bucket, "o", b"a row without the source's bytes")
    report = restored(project, target, rows_decide=True)
    assert report.uploaded == 1
    assert (report.failed, report.lost, report.rows_without_bytes) == ([], [], [])
    assert [note.partition(":")[2].strip() for note in report.notes] == [
        "bucket cache: on request",
        "bucket lake: a bucket of the kind ANALYTICS holds no plain objects",
    ]
    assert target.sql("SELECT id FROM storage.buckets ORDER BY 1") == [("cache",), ("keep",)]
