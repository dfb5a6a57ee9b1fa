"""Objects of a project's Storage in a backup: all of them, once, and told where not."""

import os
from pathlib import Path

import pytest

from aurora.engines.logical.snapshot import HeldSnapshot
from aurora.engines.supabase.documents import NEWER
from aurora.errors import StorageFull, UsageError
from aurora.operations.backup import BackupReport
from aurora.operations.objects import ObjectsReport, ObjectsRun, pages
from aurora.operations.objects_read import Packs, find_object, save_object
from aurora.repository.verify import Level, verify
from aurora.storage.base import Buffer
from aurora.storage.limit import Rate
from aurora.storage.memory import MemoryStorage
from aurora.storage.retry import Patience
from aurora.storage.supabase_rest import SupabaseRest
from tests.fixtures.changelog import full, incremental, prepare
from tests.fixtures.projects import Project
from tests.fixtures.storage_projects import NewStorageProject, StorageProject
from tests.fixtures.storage_server import Answer, Request

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.hosted", "tests.fixtures.objects"]


def contents_of(project: Project, backup_id: str = "latest") -> dict[tuple[str, str], bytes]:
    """Every object of a backup with its bytes."""
    backup = project.opened(backup_id)
    packs = Packs(project.repository, keep=4)
    return {
        (entry.bucket, entry.name): b"".join(packs.chunks(page, entry))
        for page in pages(backup)
        for entry in page.entries
        if not entry.is_lost
    }


def backed_up(project: Project, source: StorageProject, **changes: object) -> ObjectsReport:
    """A backup with objects; what it told of them."""
    report: BackupReport = project.backup(source.dsn, objects=source.source(**changes))
    assert report.objects is not None
    return report.objects


def test_every_object_is_in_the_backup(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """Bytes and what rows say of them, sorted, and a second backup reads nothing again."""
    source = new_storage_project()
    source.fill(120)
    big = os.urandom(9_000_000)
    source.put("documents", "big.bin", big)
    report = backed_up(project, source)
    assert report.is_complete
    assert (report.objects, report.read) == (121, 121)
    assert contents_of(project) == source.truth
    entries = [entry for page in pages(project.opened()) for entry in page.entries]
    keys = [(entry.bucket.encode(), entry.name.encode()) for entry in entries]
    assert keys == sorted(keys)
    rows = source.rows()
    for entry in entries:
        row = rows[entry.bucket, entry.name]
        assert (entry.size, entry.mimetype, entry.cache_control) == (int(row[6]), *row[7:])
    downloads = source.server.requests["GET object/authenticated"]
    again = backed_up(project, source)
    assert again.read == 0
    assert source.server.requests["GET object/authenticated"] == downloads
    assert contents_of(project) == source.truth
    report_of_repository = verify(
        project.repository, project.repository.resolve("latest", "app"), Level.FULL
    )
    assert report_of_repository.ok


def test_only_what_changed_is_read(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """A replaced, a new, a deleted and a renamed object; the rest is named where it lay."""
    source = new_storage_project()
    source.fill(60)
    backed_up(project, source)
    (bucket, name), *_ = [key for key, data in source.truth.items() if len(data) > 100]
    source.put(bucket, name, b"replaced")
    source.put("avatars", "new", b"new")
    source.remove(*list(source.truth)[5])
    report = backed_up(project, source)
    assert report.is_complete
    assert report.read == 2
    assert contents_of(project) == source.truth


def test_same_bytes_are_stored_once(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """Small and large copies under other names cost nothing, in one run and in the next."""
    source = new_storage_project()
    source.bucket("b")
    small, large = os.urandom(50_000), os.urandom(9_500_000)
    for name in ("one", "two"):
        source.put("b", f"small-{name}", small)
        source.put("b", f"large-{name}", large)
    report = project.backup(source.dsn, objects=source.source())
    assert report.bytes_stored < 1.2 * (len(small) + len(large)) + 200_000
    source.put("b", "small-three", small)
    source.put("b", "large-three", large)
    again = project.backup(source.dsn, objects=source.source())
    assert again.bytes_stored < 40_000
    assert contents_of(project) == source.truth


def test_replaced_and_deleted_since_the_snapshot(
    project: Project, new_storage_project: NewStorageProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by name; the replaced one has its later bytes, marked; the others are right."""
    source = new_storage_project()
    source.bucket("b")
    for number in range(6):
        source.put("b", f"o{number}", f"first {number}".encode())
    done: list[str] = []

    def meddle(request: Request) -> Answer | None:
        # The first download happens when the listing is made: then the world moves on.
        if request.path.startswith("/object/authenticated/") and not done:
            done.append("once")
            source.put("b", "o4", b"replaced meanwhile")
            source.remove("b", "o5")
        return None

    source.server.hooks.append(meddle)
    # Nothing is copied ahead: everything is read after the snapshot.
    monkeypatch.setattr(ObjectsRun, "copy_ahead", lambda _: None)
    report = backed_up(project, source, jobs=1)
    monkeypatch.undo()
    assert (report.newer, report.lost) == (1, 1)
    assert not report.is_complete
    assert any("b/o4" in line and "replaced" in line for line in report.problems)
    assert any("b/o5" in line and "deleted" in line for line in report.problems)
    page, entry = find_object(project.opened(), "b/o4")
    assert entry.note == NEWER
    assert b"".join(Packs(project.repository, keep=1).chunks(page, entry)) == b"replaced meanwhile"
    with pytest.raises(UsageError, match="no bytes of b/o5: deleted"):
        save_object(project.opened(), "b/o5", Path("never"))
    source.server.hooks.clear()
    assert backed_up(project, source).is_complete
    assert contents_of(project) == source.truth


def test_copied_ahead_and_deleted_before_the_snapshot_is_read(
    project: Project, new_storage_project: NewStorageProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was copied before the snapshot needs no second look, even when it is gone by then."""
    source = new_storage_project()
    source.bucket("b")
    for number in range(5):
        source.put("b", f"o{number}", b"bytes of %d" % number)
    see = ObjectsRun.see

    def see_then_delete(self: ObjectsRun, held: HeldSnapshot) -> None:
        see(self, held)
        source.client.remove("b", ["o1", "o2"])

    monkeypatch.setattr(ObjectsRun, "see", see_then_delete)
    report = backed_up(project, source)
    assert report.is_complete
    assert contents_of(project) == source.truth


def test_object_that_cannot_be_read(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """A row without bytes, and a name of before: told with the reason, the others are kept."""
    source = new_storage_project()
    source.bucket("b")
    for number in range(4):
        source.put("b", f"o{number}", b"x" * (number + 1))
    version = source.sql("SELECT version FROM storage.objects WHERE name = 'o2'")[0][0]
    source.server.blob(version).unlink()
    source.sql("UPDATE storage.objects SET name = 'odd #% é.txt' WHERE name = 'o3'")
    source.truth["b", "odd #% é.txt"] = source.truth.pop(("b", "o3"))
    report = backed_up(project, source)
    assert report.lost == 1
    assert report.problems == ["b/o2: the project itself has a row and no bytes for it"]
    del source.truth["b", "o2"]
    assert contents_of(project) == source.truth


def test_without_a_key(project: Project, new_storage_project: NewStorageProject) -> None:
    """The database is backed up, and what is lacking is said; not where nothing is there."""
    source = new_storage_project()
    report = backed_up_or_none(project, source, client=None)
    assert report is None
    source.bucket("b")
    source.put("b", "o", b"12345")
    told = backed_up(project, source, client=None)
    assert "1 object" in told.left_out
    assert not told.is_complete
    wrong = SupabaseRest(source.server.url, "sb_secret_wrong")
    told = backed_up(project, source, client=wrong)
    assert told.lost == 1
    assert "refuses" in told.problems[0]
    other = new_storage_project()
    told = backed_up(project, source, client=other.client)
    assert "another project's" in told.problems[0]
    backed_up(project, source)
    assert backed_up(project, source, client=wrong).is_complete  # nothing was to be read
    assert contents_of(project) == source.truth
    wrong.close()
    assert "sb_secret_wrong" not in str(project.events)


def backed_up_or_none(
    project: Project, source: StorageProject, **changes: object
) -> ObjectsReport | None:
    """As backed_up, where there may be nothing to tell."""
    return project.backup(source.dsn, objects=source.source(**changes)).objects


def test_buckets_left_out(project: Project, new_storage_project: NewStorageProject) -> None:
    """By a pattern on request; buckets of another kind because they hold no plain objects."""
    source = new_storage_project()
    for bucket in ("keep", "cache-one", "iceberg"):
        source.bucket(bucket)
        source.put(bucket, "o", bucket.encode())
    source.sql("UPDATE storage.buckets SET type = 'ANALYTICS' WHERE id = 'iceberg'")
    backed_up(project, source, skip=("cache-*",))
    assert contents_of(project) == {("keep", "o"): b"keep"}
    part = project.opened().body.storage
    assert part is not None
    assert [one.partition(":")[0] for one in part.skipped] == ["cache-one", "iceberg"]


def test_rows_without_version(project: Project, new_storage_project: NewStorageProject) -> None:
    """Very old rows have none: an upload is seen by ETag, size and time."""
    source = new_storage_project()
    source.bucket("b")
    source.put("b", "old", b"first")
    blob = source.sql("SELECT version FROM storage.objects")[0][0]
    keep = source.server.blob(blob).read_bytes()
    source.server.blob(None).write_bytes(keep)
    source.sql("UPDATE storage.objects SET version = NULL")
    assert backed_up(project, source).read == 1
    assert backed_up(project, source).read == 0
    source.put("b", "old", b"second")
    assert backed_up(project, source).read == 1
    assert contents_of(project) == source.truth


def test_line_that_breaks_in_a_large_object(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """It goes on where it broke off, and the bytes are whole."""
    source = new_storage_project()
    source.bucket("b")
    source.put("b", "large", os.urandom(20_000_000))
    version = source.sql("SELECT version FROM storage.objects")[0][0]
    asked: list[str] = []

    def cut(request: Request) -> Answer | None:
        if not request.path.startswith("/object/authenticated/") or len(asked) >= 3:
            return None
        asked.append(request.headers.get("range", ""))
        start = int(asked[-1].removeprefix("bytes=").rstrip("-") or 0)
        size = 20_000_000 - start
        headers = {"etag": etag}
        if start:
            headers["content-range"] = f"bytes {start}-19999999/20000000"
        return Answer(206 if start else 200, headers=headers, file=source.server.blob(version),
                      start=start, length=size, cut=6_000_000)  # fmt: skip

    etag = source.sql("SELECT metadata->>'eTag' FROM storage.objects")[0][0]
    source.server.hooks.append(cut)
    assert backed_up(project, source).is_complete
    assert asked[0] == ""
    assert all(one.startswith("bytes=") for one in asked[1:])
    assert contents_of(project) == source.truth


def test_save_object(
    project: Project, new_storage_project: NewStorageProject, tmp_path: Path
) -> None:
    """To a file or into a directory; a wrong name is told with the nearest ones."""
    source = new_storage_project()
    source.bucket("b")
    source.put("b", "a/Photo.PNG", b"picture")
    source.put("b", "empty", b"")
    backed_up(project, source)
    save_object(project.opened(), "b/a/Photo.PNG", tmp_path)
    assert (tmp_path / "Photo.PNG").read_bytes() == b"picture"
    save_object(project.opened(), "b/empty", tmp_path / "e")
    assert (tmp_path / "e").read_bytes() == b""
    with pytest.raises(UsageError, match=r"no object b/photo\.png") as caught:
        save_object(project.opened(), "b/photo.png", tmp_path)
    assert "b/a/Photo.PNG" in caught.value.hint
    with pytest.raises(UsageError, match="cannot write"):
        save_object(project.opened(), "b/empty", tmp_path / "no" / "such" / "directory")
    project.backup(source.dsn)
    with pytest.raises(UsageError, match="holds no Storage objects"):
        save_object(project.opened(), "b/empty", tmp_path)


def cut_short(request: Request, source: StorageProject, name: str) -> Answer | None:
    """A whole answer, by its own word, with half of the bytes."""
    if request.method != "GET" or not request.path.endswith(f"/{name}"):
        return None
    if not request.path.startswith("/object/authenticated/"):
        return None
    data = source.truth["b", name]
    etag = source.sql("SELECT metadata->>'eTag' FROM storage.objects WHERE name = %s", name)[0][0]
    return Answer(200, data[: len(data) // 2], {"etag": etag})


def test_truncated_body_with_status_200(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """Never taken for the object: read again, and told as lost where it does not end."""
    source = new_storage_project()
    source.bucket("b")
    for name in ("small", "other"):
        source.put("b", name, name.encode() * 100)
    times = [0]

    def lie(request: Request) -> Answer | None:
        answer = cut_short(request, source, "small") if times[0] < 2 else None
        times[0] += answer is not None
        return answer

    source.server.hooks.append(lie)
    assert backed_up(project, source).is_complete
    assert times == [2]
    assert contents_of(project) == source.truth
    source.put("b", "small", b"another content")
    source.server.hooks[:] = [lambda request: cut_short(request, source, "small")]
    report = backed_up(project, source)
    assert report.problems == ["b/small: b/small is 15 bytes by its row, 7 came"]
    assert contents_of(project) == {("b", "other"): source.truth["b", "other"]}


def test_storage_that_goes_away_in_the_middle(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """Given up soon, not object by object; what was read is kept, and the next run goes on."""
    source = new_storage_project()
    source.fill(60)
    served, refused = [0], set()

    def die(request: Request) -> Answer | None:
        if request.path.startswith("/object/"):
            served[0] += 1
            if served[0] > 20:
                refused.add(request.path)
                return Answer(503, b"<html>bad gateway</html>")
        return None

    source.server.hooks.append(die)
    quick = Patience(budget=0.2, first=0.01, longest=0.05)
    report = backed_up(project, source, patience=quick)
    assert report.objects == 60
    assert 15 <= report.read <= 20
    assert report.lost == 60 - report.read
    assert len(report.problems) == min(report.lost, 50)
    assert len(refused) < 30
    source.server.hooks.clear()
    again = backed_up(project, source)
    assert again.is_complete
    assert again.read == 60 - report.read
    assert contents_of(project) == source.truth


def test_repository_that_fails_meanwhile(
    project: Project, new_storage_project: NewStorageProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure of the primary fails the run as such: it is no object that could not be read."""
    source = new_storage_project()
    source.fill(20)
    backed_up(project, source)
    source.put("avatars", "large", os.urandom(17_000_000))
    assert isinstance(project.primary, MemoryStorage)
    put = MemoryStorage.put

    def refuse(self: MemoryStorage, name: str, data: Buffer, *, create_only: bool = False) -> None:
        if name.startswith("objects/"):
            raise StorageFull("no room", hint="Make some.")
        put(self, name, data, create_only=create_only)

    monkeypatch.setattr(MemoryStorage, "put", refuse)
    with pytest.raises(StorageFull):
        backed_up(project, source)
    monkeypatch.undo()
    assert len(project.repository.backups("app")) == 1
    assert backed_up(project, source).is_complete
    assert contents_of(project) == source.truth


def test_rate(
    project: Project, new_storage_project: NewStorageProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte that is read waits for its turn."""
    source = new_storage_project()
    source.bucket("b")
    for name in ("one", "two"):
        source.put("b", name, os.urandom(900_000))
    paid: list[int] = []
    monkeypatch.setattr(Rate, "pay", lambda _, count: paid.append(count))
    assert backed_up(project, source, max_rate=600_000).is_complete
    assert sum(paid) == 1_800_000


def test_incrementals_carry_objects(
    project: Project, new_storage_project: NewStorageProject
) -> None:
    """Each backup has them as of its own snapshot, and names what the one before it stored."""
    source = new_storage_project()
    source.fill(30)
    prepare(source.admin_dsn)
    first = full(project, source.admin_dsn, objects=source.source())
    assert first.objects is not None
    assert first.objects.read == 30
    before = dict(source.truth)
    source.put("avatars", "later", b"later")
    source.remove(*next(iter(before)))
    second = incremental(project, source.admin_dsn, objects=source.source())
    assert second.type == "incremental", second.reason
    assert second.objects is not None
    assert second.objects.read == 1
    assert contents_of(project, first.backup_id) == before
    assert contents_of(project, second.backup_id) == source.truth
    entries = project.repository.backups("app")
    assert verify(project.repository, entries, Level.FULL).ok
