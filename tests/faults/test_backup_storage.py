"""A storage fails while a backup is written: errors, stalls, fills up, dies, has another clock."""

import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aurora.errors import StorageError, StorageFull, StorageUnavailable
from aurora.events import Event, Warned
from aurora.operations.backup import BackupOptions, BackupReport, create_backup
from aurora.operations.findings import Level as Found
from aurora.operations.storage_checks import check_storage
from aurora.repository.mirror import replicate
from aurora.repository.verify import Level, verify
from aurora.storage.base import Buffer, ObjectInfo, Storage
from aurora.storage.local import LocalStorage
from aurora.storage.memory import MemoryStorage
from aurora.storage.open import Patience, open_storage
from aurora.storage.retry import RetryingStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Kind
from tests.fixtures.faults import CHANGE, CHUNK, Line, Stand, refused, rows_of, run_sql
from tests.fixtures.projects import NewTarget, Project
from tests.fixtures.stores import S3Server

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

QUICK = Patience(budget=30, first=0.01, longest=0.05)


def through(stand: Stand, primary: Storage, secondary: Storage | None = None) -> Project:
    """The stand's project with other ways to its storages."""
    return Project(primary, secondary or stand.project.secondary, stand.project.events)


def back_up(project: Project, dsn: str) -> BackupReport:
    """A backup onto both storages in small chunks."""
    return project.backup(dsn, mirrored=True, chunk_bytes=CHUNK)


@pytest.mark.parametrize("seed", range(3))
def test_one_request_in_five_fails(stand: Stand, seed: int) -> None:
    """On both storages, with and without effect: retries get through, and all is right."""
    both = (stand.project.primary, stand.project.secondary)
    flaky = [FaultyStorage(inner, seed=seed + n, rate=0.2) for n, inner in enumerate(both)]
    bad = through(stand, *(RetryingStorage(one, QUICK) for one in flaky))
    rows = rows_of(stand.dsn)
    report = back_up(bad, stand.dsn)
    assert (report.complete, report.replicated) == (True, True)
    for one in flaky:
        assert sum(1 for call in one.calls if call.struck) >= 3
    target = stand.new_target()
    assert bad.restore(target, report.backup_id).problems == []
    assert rows_of(target) == rows
    assert verify(bad.repository, bad.repository.backups(), Level.FULL).ok
    stand.all_is_well()


def test_without_retries_one_failure_in_five_is_an_error(stand: Stand) -> None:
    """Then the run ends with it, and what was there stays."""
    bad = through(stand, FaultyStorage(stand.project.primary, [Fault(Kind.BEFORE, "put", 5)]))
    with refused_storage(StorageUnavailable, 30):
        back_up(bad, stand.dsn)
    assert stand.listed() == [stand.good]
    stand.all_is_well()


def refused_storage(kind: type[StorageError], code: int) -> Any:
    """A FaultyStorage's own errors have no hint."""

    def check(error: Exception) -> bool:
        return getattr(error, "exit_code", 0) == code

    return pytest.raises(kind, check=check)


def test_a_storage_that_stalls(stand: Stand) -> None:
    """It takes long, and is waited for."""
    stalls = [Fault(Kind.STALL, operation, nth, seconds=0.4) for operation in ("put", "get", "list")
              for nth in (1, 4)]  # fmt: skip
    slow = FaultyStorage(stand.project.primary, stalls)
    report = back_up(through(stand, slow), stand.dsn)
    assert (report.complete, report.replicated) == (True, True)
    stand.all_is_well()


def test_a_storage_that_says_it_is_full(stand: Stand) -> None:
    """At a put of each kind: 32, and nothing that was there is lost."""
    listed = stand.listed()
    for prefix in ("leases", "sessions", "chunks", "tables", "refs", "backups"):
        fault = Fault(Kind.FULL, "put", 1, prefix=f"{prefix}/")
        bad = FaultyStorage(stand.project.primary, [fault])
        with refused_storage(StorageFull, 32):
            back_up(through(stand, bad), stand.dsn)
        bad.assert_all_used()
        assert stand.listed() == listed, prefix
    stand.all_is_well()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where mounting is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"only root may mount: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_no_space_left(shop: str, small_disk: Path, new_target: NewTarget) -> None:
    """The primary's disk is really full: 32; with room again the next run succeeds."""
    project = Project.create(LocalStorage(small_disk / "a"), MemoryStorage("secondary"))
    stand = Stand(project, shop, new_target)
    run_sql(shop, "DELETE FROM orders WHERE id > 500")
    stand.begin()
    run_sql(
        shop,
        "INSERT INTO orders (note) SELECT string_agg(md5((i * j)::text), '')"
        " FROM generate_series(1, 3000) i, generate_series(1, 60) j GROUP BY i",
    )
    with refused(StorageFull, exit_code=32):
        stand.backup()
    assert stand.listed() == [stand.good]
    stand.restores_as(stand.good, stand.before)
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    stand.all_is_well()


@pytest.mark.parametrize("operation", ["list", "get", "put"])
def test_a_secondary_out_of_reach(stand: Stand, operation: str) -> None:
    """From the start or half-way: the backup is made, told as not replicated, caught up."""
    down = FaultyStorage(stand.project.secondary, [Fault(Kind.BEFORE, operation, nth=2, times=999)])
    report = back_up(through(stand, stand.project.primary, down), stand.dsn)
    assert (report.complete, report.replicated) == (True, False)
    assert report.warnings
    told = [e for e in stand.project.events if isinstance(e, Warned) and e.code == "not-replicated"]
    assert "replicate" in told[-1].hint
    done = replicate(stand.project.primary, stand.project.mirror)
    assert done.is_complete
    rows = rows_of(stand.dsn)
    stand.restores_as(report.backup_id, rows, from_mirror=True)
    stand.all_is_well()


def test_a_full_secondary(stand: Stand) -> None:
    """As one out of reach; the next run catches up by itself."""
    full = FaultyStorage(stand.project.secondary, [Fault(Kind.FULL, "put", nth=4, times=999)])
    report = back_up(through(stand, stand.project.primary, full), stand.dsn)
    assert (report.complete, report.replicated) == (True, False)
    rows = rows_of(stand.dsn)
    run_sql(stand.dsn, CHANGE)
    assert stand.backup().replicated
    stand.restores_as(report.backup_id, rows, from_mirror=True)
    stand.all_is_well()


@pytest.fixture
def s3_line(seaweedfs: S3Server) -> Iterator[Line]:
    """A relay to the S3 server."""
    line = Line(int(seaweedfs.endpoint.rsplit(":", 1)[1]))
    yield line
    line.close()


def s3(server: S3Server, bucket: str, port: int, budget: float) -> Storage:
    """A bucket at *port*, giving up after *budget* seconds."""
    return open_storage(
        f"s3://{bucket}/r?endpoint=http://127.0.0.1:{port}",
        {"access_key_id": server.access_key, "secret_access_key": server.secret_key},
        patience=Patience(budget=budget, first=0.05, longest=0.3), timeout=1.0,
    )  # fmt: skip


@pytest.mark.s3
@pytest.mark.parametrize("way", ["dies", "stalls"])
def test_a_real_object_store_fails_half_way(
    shop: str, seaweedfs: S3Server, s3_line: Line, new_target: NewTarget, way: str
) -> None:
    """The line to it is dead from the fifth upload on: 30 after the patience is spent; when it
    is back, all is well. A break that is shorter than the patience costs time alone."""
    bucket = seaweedfs.new_bucket()
    near = s3(seaweedfs, bucket, int(seaweedfs.endpoint.rsplit(":", 1)[1]), 30)
    stand = Stand(Project.create(near, MemoryStorage("secondary")), shop, new_target)
    stand.begin()

    def strike(_seconds: float) -> None:
        s3_line.held.set() if way == "stalls" else s3_line.close()

    far = FaultyStorage(
        s3(seaweedfs, bucket, s3_line.port, 1), [Fault(Kind.STALL, "put", 5)], sleep=strike
    )
    with refused(StorageUnavailable, exit_code=30):
        back_up(through(stand, far), shop)
    assert stand.listed() == [stand.good]
    stand.all_is_well()
    if way == "stalls":
        s3_line.held.clear()
        far = FaultyStorage(
            s3(seaweedfs, bucket, s3_line.port, 30), [Fault(Kind.STALL, "put", 5)],
            sleep=lambda _: hold_for_a_while(s3_line),
        )  # fmt: skip
        assert back_up(through(stand, far), shop).complete


def hold_for_a_while(line: Line) -> None:
    """Let nothing pass for 1.5 seconds."""
    line.held.set()
    timer = threading.Timer(1.5, line.held.clear)
    timer.daemon = True
    timer.start()


def test_two_backups_at_once(stand: Stand) -> None:
    """Both succeed, both restore, and the next one has both before it."""
    rows = rows_of(stand.dsn)
    made: list[str] = []
    failed: list[BaseException] = []
    together = threading.Barrier(2)

    def one() -> None:
        try:
            together.wait()
            made.append(stand.backup().backup_id)
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(set(made)) == 2
    for backup_id in made:
        stand.restores_as(backup_id, rows)
        stand.restores_as(backup_id, rows, from_mirror=True)
    assert stand.project.repository.chain("app").faults == ()
    stand.all_is_well()


class Shifted:
    """A storage whose clock is off."""

    def __init__(self, inner: Storage, by: timedelta) -> None:
        self._inner, self._by = inner, by

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        self._inner.put(name, data, create_only=create_only)

    def get(self, name: str) -> bytes:
        return self._inner.get(name)

    def head(self, name: str) -> ObjectInfo:
        return self._shifted(self._inner.head(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (self._shifted(info) for info in self._inner.list(prefix))

    def delete(self, names: Iterable[str]) -> None:
        self._inner.delete(names)

    def _shifted(self, info: ObjectInfo) -> ObjectInfo:
        return ObjectInfo(info.name, info.size, info.modified_at + self._by)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_storage_whose_clock_is_off(stand: Stand, tmp_path: Path, minutes: int) -> None:
    """doctor says so; backups go on in their order, and restore."""
    off = timedelta(minutes=minutes)
    (found,) = [
        one for one in check_storage("primary", Shifted(LocalStorage(tmp_path / "p"), off))
        if one.code == "primary-probe-clock"
    ]  # fmt: skip
    assert found.level is Found.WARNING
    assert found.hint
    project = through(stand, Shifted(stand.project.primary, off))
    made = [back_up(project, stand.dsn).backup_id for _ in range(2)]
    repository = project.repository
    assert [entry.id for entry in repository.backups()] == [stand.good, *made]
    assert repository.resolve("latest", "app").id == made[-1]
    stand.all_is_well()


@pytest.mark.parametrize("minutes", [-10, 10])
def test_our_own_clock_is_off(stand: Stand, monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    """For a while, as before a time server was reached: nothing is lost, or called a fault."""
    from aurora import clock

    right: Callable[[], object] = clock.now
    shifted = timedelta(minutes=minutes)
    monkeypatch.setattr(clock, "now", lambda: right() + shifted)  # type: ignore[operator]
    rows = rows_of(stand.dsn)
    report = back_up(stand.project, stand.dsn)
    monkeypatch.setattr(clock, "now", right)
    stand.restores_as(report.backup_id, rows)
    assert stand.project.repository.chain("app").faults == ()
    stand.all_is_well()


def test_events_tell_of_retries(stand: Stand) -> None:
    """A retry is a warning to who listens."""
    told: list[Event] = []
    flaky = FaultyStorage(stand.project.primary, [Fault(Kind.BEFORE, "put", 3, times=2)])
    storage = RetryingStorage(flaky, QUICK, sink=told.append)
    options = BackupOptions(database="app", chunk_bytes=CHUNK)
    project = through(stand, storage)
    create_backup(stand.dsn, project.repository, options, open_mirror=None, sink=told.append)
    flaky.assert_all_used()
    assert [event.code for event in told if isinstance(event, Warned)] == ["storage-retry"] * 2
