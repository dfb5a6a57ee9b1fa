"""Object lock on a real S3 server: what is put stays, what is kept is extended, prune copes."""

import itertools
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aurora import clock
from aurora.errors import StorageDenied, StorageUnfit, UsageError
from aurora.events import Event, Warned
from aurora.operations.lock_checks import check_locked_until, check_object_lock, locked
from aurora.operations.locks import (
    LockReport,
    delete_old_versions,
    extend_locks,
    extend_or_warn,
)
from aurora.operations.rewind import plan_rewind, run_rewind
from aurora.repository.collector import collect
from aurora.repository.door import BackupEntry, Repository
from aurora.repository.layout import UNLOCKED
from aurora.repository.lock_table import COMMON, read_lock_table
from aurora.repository.mirror import replicate
from aurora.repository.verify import Level as VerifyLevel
from aurora.repository.verify import verify
from aurora.storage.base import ObjectExists, Storage
from aurora.storage.memory import MemoryStorage
from aurora.storage.object_lock import LockRule, Mode, ObjectLock
from aurora.storage.open import open_storage
from aurora.storage.probe import Finding, Level, probe
from aurora.storage.s3_requests import Retention, Version
from tests.fixtures.faults import run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.stores import S3Server
from tests.integration.test_cli_object_stores import Shell
from tests.unit.test_repository_kit import backup, create, create_mirror, payloads, reopen, restore

pytestmark = pytest.mark.s3

_numbers = itertools.count(1)
_MONTH = timedelta(days=30)


@pytest.fixture(scope="module")
def bucket(seaweedfs: S3Server) -> str:
    """One bucket with object lock for all tests, each below a prefix of its own."""
    return seaweedfs.new_locked_bucket()


class Place:
    """A prefix of a bucket by an account that may lift no lock, at a time of our choice."""

    def __init__(
        self,
        server: S3Server,
        bucket: str,
        *,
        period: timedelta = _MONTH,
        mode: Mode = "governance",
        prefix: str = "",
        ahead: timedelta = timedelta(0),
        admin: bool = False,
    ) -> None:
        self.prefix = prefix or f"p{next(_numbers)}"
        url = f"s3://{bucket}/{self.prefix}?endpoint={server.endpoint}&region={server.region}"
        credentials = {
            "access_key_id": server.access_key if admin else server.keeper_access_key,
            "secret_access_key": server.secret_key,
        }
        self.lock = ObjectLock(
            url, credentials, LockRule(period, mode, UNLOCKED), now=lambda: clock.now() + ahead
        )
        self.storage: Storage = open_storage(url, credentials, lock=self.lock, retries=False)
        self.events: list[Event] = []

    def until(self, name: str) -> datetime:
        """When the lock of the newest version of *name* ends."""
        found = self.lock.requests.retention(name)
        assert found is not None, name
        return found.until

    def extend(self, repository: Repository, **options: object) -> LockReport:
        """One run for all backups of *repository*."""
        ground, catalog = repository.ground(), repository.catalog_alone()
        return extend_locks(
            self.lock,
            ground,
            catalog,
            sink=self.events.append,
            **options,  # type: ignore[arg-type]
        )

    @property
    def warnings(self) -> list[str]:
        """The codes of what was warned of."""
        return [one.code for one in self.events if isinstance(one, Warned)]


@pytest.fixture
def place(seaweedfs: S3Server, bucket: str) -> Callable[..., Place]:
    """``place(period=…, prefix=…)``: a place on the bucket."""
    return lambda **options: Place(seaweedfs, bucket, **options)


def test_a_put_is_locked_and_the_server_refuses_to_delete_it(place: Callable[..., Place]) -> None:
    """In one request; a plain delete hides it only, and the name can be put again."""
    here = place()
    here.storage.put("chunks/a", b"one", create_only=True)
    assert abs(here.until("chunks/a") - clock.now() - _MONTH) < timedelta(minutes=1)
    with pytest.raises(ObjectExists):
        here.storage.put("chunks/a", b"two", create_only=True)
    (version,) = here.lock.requests.versions("chunks/")
    for bypass in (False, True):
        with pytest.raises(StorageDenied):
            here.lock.requests.delete_version("chunks/a", version.id, bypass=bypass)
    assert here.lock.requests.delete_versions([version]) == [version]
    here.storage.delete(["chunks/a"])
    assert list(here.storage.list("")) == []
    here.storage.put("chunks/a", b"two", create_only=True)
    assert here.storage.get("chunks/a") == b"two"
    assert version.id in {one.id for one in here.lock.requests.versions("chunks/")}


def test_what_aurora_deletes_within_days_is_not_locked(place: Callable[..., Place]) -> None:
    """Leases and their like; and a probe of the storage finds nothing wrong, and clears away."""
    here = place()
    for name in ("leases/x", "gc/x", "locks/x"):
        here.storage.put(name, b"1")
        assert here.lock.requests.retention(name) is None
    report = probe(here.storage)
    assert [one for one in report.findings if one.level is not Level.OK] == []
    assert report.create_only is True
    assert [info.name for info in here.storage.list("probe/")] == []


def test_a_large_object_and_compliance(place: Callable[..., Place]) -> None:
    """A body of 20 MB arrives whole; nobody may lift compliance, the administrator neither."""
    here = place(mode="compliance", period=timedelta(seconds=20), admin=True)
    data = bytes(range(256)) * 80_000
    here.storage.put("chunks/a", data)
    assert here.storage.get("chunks/a") == data
    (version,) = here.lock.requests.versions("chunks/")
    with pytest.raises(StorageDenied):
        here.lock.requests.delete_version("chunks/a", version.id, bypass=True)


def test_a_bucket_without_lock_is_refused_before_anything_is_written(
    seaweedfs: S3Server, free_bucket: str
) -> None:
    """By the first put, and by doctor, in words that say what to do."""
    here = Place(seaweedfs, free_bucket, admin=True)
    with pytest.raises(StorageUnfit, match="has no object lock") as caught:
        create(here.storage)
    assert "when a bucket is made" in caught.value.hint
    assert list(here.storage.list("chunks/")) == []
    (finding,) = check_object_lock("secondary", here.lock, longest=_MONTH)
    assert (finding.code, finding.level) == ("secondary-lock-missing", Level.ERROR)


@pytest.fixture(scope="module")
def free_bucket(seaweedfs: S3Server) -> str:
    """A bucket without object lock."""
    return seaweedfs.new_bucket()


def test_what_is_no_s3_has_no_lock() -> None:
    """Said at once, without a network."""
    for url in ("/tmp/x", "gs://bucket-1/x", "supabase://abcdefghijklmnopqrst/bucket"):
        with pytest.raises(UsageError, match="object_lock is for S3"):
            ObjectLock(url, {}, LockRule(_MONTH))


def test_a_key_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the settings or from the environment; without one it says so."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    with pytest.raises(UsageError, match="needs an access key"):
        ObjectLock("s3://bucket-1/x", {}, LockRule(_MONTH))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    ObjectLock("s3://bucket-1/x", {}, LockRule(_MONTH))


def test_locks_are_extended_before_they_run_out(place: Callable[..., Place]) -> None:
    """Nothing while they last; all that a kept backup needs once half the period is over."""
    here = place()
    repository = create(here.storage)
    old = backup(repository, payloads(1), day=1)
    new = backup(repository, [payloads(1)[0], *payloads(2)], day=2)
    first = here.extend(repository)
    # What this very process put needs no request; config and key slots are looked after once.
    assert (first.backups, first.lacking) == (2, [])
    named = [one.name for one in repository.refs(new).all_objects()]
    before = {name: here.until(name) for name in named}
    # Another process, which has put nothing itself, asks nothing either: the table tells.
    other = place(prefix=here.prefix)
    assert other.extend(reopen(other.storage)).extended == 0
    later = place(prefix=here.prefix, ahead=timedelta(days=16))
    done = later.extend(reopen(later.storage), leaving=[("db", old.id)])
    assert done.backups == 1
    assert done.extended >= len(named) + 2
    for name in [*named, new.refs_name, "config"]:
        assert later.until(name) >= clock.now() + timedelta(days=45)
    for name, at in before.items():
        assert later.until(name) > at
    only_old = {one.name for one in repository.refs(old).objects} - set(named)
    assert only_old
    for name in only_old:
        assert later.until(name) < clock.now() + timedelta(days=31)
    table = read_lock_table(reopen(later.storage).ground())
    assert set(table) == {COMMON, f"db/{new.id}", f"db/{old.id}"}
    assert table[f"db/{new.id}"] > clock.now() + timedelta(days=45) > table[f"db/{old.id}"]
    assert later.extend(reopen(later.storage), leaving=[("db", old.id)]).extended == 0
    # A run that knows of no removal asks for the old one once, and not each time.
    assert later.extend(reopen(later.storage)).extended == len(only_old) + 2
    assert later.extend(reopen(later.storage), leaving=[("db", old.id)]).extended == 0
    assert later.extend(reopen(later.storage)).extended == 0


def test_a_new_backup_asks_for_nothing_that_an_older_one_has(place: Callable[..., Place]) -> None:
    """By another process: only what it itself put newly, however much it shares."""
    here = place()
    repository = create(here.storage)
    backup(repository, payloads(1, count=20), day=1)
    here.extend(repository)
    writer = place(prefix=here.prefix)
    fresh = backup(reopen(writer.storage), [*payloads(1, count=20), b"one more"], day=2)
    other = place(prefix=here.prefix)
    done = other.extend(reopen(other.storage))
    # One chunk, the session, the manifest, the refs.
    assert (done.backups, done.extended, done.lacking) == (2, 4, [])
    assert f"db/{fresh.id}" in read_lock_table(repository.ground())


def test_a_version_put_over_another_does_not_take_its_lock(place: Callable[..., Place]) -> None:
    """The good version below is extended, not what a thief put over it, and it is told."""
    here = place()
    repository = create(here.storage)
    made = backup(repository, payloads(1), day=1)
    victim, hidden, *_ = (one.name for one in repository.refs(made).objects)
    here.storage.put(victim, b"rubbish")
    here.storage.delete([hidden])
    later = place(prefix=here.prefix, ahead=timedelta(days=16))
    done = later.extend(reopen(later.storage))
    assert (done.hidden, done.lacking) == (2, [])
    assert later.warnings == ["objects-hidden"]
    ends = {}
    for version in later.lock.requests.versions(""):
        if version.name in (victim, hidden) and not version.is_marker:
            found = later.lock.requests.retention(version.name, version.id)
            assert found is not None
            ends[version.name, version.size] = found.until
    good = {size: until for (name, size), until in ends.items() if size != len(b"rubbish")}
    assert len(good) >= 1
    assert min(good.values()) > clock.now() + timedelta(days=45)
    assert ends[victim, len(b"rubbish")] < clock.now() + timedelta(days=31)


def test_an_object_that_is_gone_is_told_and_its_backup_not_counted(
    place: Callable[..., Place],
) -> None:
    """Locked is what is there; the other backups are looked after."""
    here = place(period=timedelta(days=2), admin=True)
    repository = create(here.storage)
    bad = backup(repository, payloads(1), day=1)
    good = backup(repository, payloads(2), day=2)
    victim = repository.refs(bad).objects[0].name
    for version in list(here.lock.requests.versions(victim)):
        here.lock.requests.delete_version(victim, version.id, bypass=True)
    later = place(prefix=here.prefix, ahead=timedelta(days=1.5))
    done = later.extend(reopen(later.storage))
    assert (done.backups, done.lacking) == (1, [f"db/{bad.id}"])
    assert "locks-lacking" in later.warnings
    assert f"db/{good.id}" in read_lock_table(repository.ground())


def test_an_extension_that_is_cut_off_is_done_again(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is remembered before all of it is done; the failure is told and hinders nothing."""
    here = place()
    repository = create(here.storage)
    made = backup(repository, payloads(1, count=12), day=1)
    here.extend(repository)
    table = read_lock_table(repository.ground())
    later = place(prefix=here.prefix, ahead=timedelta(days=16))
    real, calls = later.lock.requests.retain, itertools.count()

    def broken(name: str, retention: Retention, version: str = "") -> None:
        if next(calls) >= 5:
            raise StorageUnfit("cut off")
        real(name, retention, version)

    monkeypatch.setattr(later.lock.requests, "retain", broken)
    again = reopen(later.storage)
    ground, catalog = again.ground(), again.catalog_alone()
    done = extend_or_warn("primary", later.lock, ground, catalog, sink=later.events.append)
    assert done is None
    assert later.warnings == ["locks-not-extended"]
    assert read_lock_table(ground) == table
    monkeypatch.undo()
    assert later.extend(again).backups == 1
    for one in repository.refs(made).all_objects():
        assert later.until(one.name) > clock.now() + timedelta(days=45)


def test_a_changed_mode_keeps_what_was_compliance(place: Callable[..., Place]) -> None:
    """It never becomes governance again, and is extended as what it is; the other way it turns."""
    strict = place(mode="compliance", period=timedelta(seconds=30))
    strict.storage.put("chunks/a", b"1")
    (version,) = strict.lock.requests.versions("chunks/")
    loose = place(prefix=strict.prefix, period=timedelta(seconds=40))
    until = loose.lock.until()
    loose.lock.extend("chunks/a", version.id, until)
    assert loose.lock.requests.retention("chunks/a") == Retention("COMPLIANCE", until)
    loose.lock.extend("chunks/a", version.id, until - timedelta(seconds=20))
    assert loose.until("chunks/a") == until


def test_the_secondary_is_locked_under_its_own_names(place: Callable[..., Place]) -> None:
    """Copies are locked as they are put, and extended; no key of the primary is needed."""
    primary = MemoryStorage("primary")
    repository = create(primary)
    made = backup(repository, payloads(1), day=1)
    here = place()
    view = create_mirror(here.storage)
    assert replicate(primary, view).is_complete
    later = place(prefix=here.prefix, ahead=timedelta(days=16))
    from aurora.repository.door import ClosedRepository
    from aurora.repository.keys import Passphrase
    from aurora.repository.mirror import MirrorView
    from tests.unit.test_repository_kit import OUTER_PASSPHRASE

    again = MirrorView.open(later.storage, Passphrase(OUTER_PASSPHRASE))
    catalog = ClosedRepository(again).catalog_alone()
    done = extend_locks(later.lock, again.ground(), catalog, sink=later.events.append)
    assert (done.backups, done.lacking, done.hidden) == (1, [], 0)
    for one in repository.refs(made).all_objects():
        assert later.until(again.stored_name(one.name)) > clock.now() + timedelta(days=45)
    assert restore(reopen(again), made) == payloads(1)


def _removed(here: Place) -> tuple[Repository, BackupEntry, BackupEntry]:
    """A repository from which the older of two backups was removed and collected."""
    repository = create(here.storage)
    old = backup(repository, payloads(1), day=1)
    new = backup(repository, payloads(2), day=2)
    done = collect(
        repository.ground(),
        repository.catalog_alone(),
        expired=[("db", old.id)],
        min_age=timedelta(0),
    )
    assert done.backups
    assert done.objects
    return repository, old, new


def test_prune_copes_with_what_is_locked(place: Callable[..., Place]) -> None:
    """It is out of the listing, stays below its marker, and is told with its date."""
    here = place()
    repository, old, new = _removed(here)
    assert [entry.id for entry in reopen(here.storage).backups()] == [new.id]
    left = delete_old_versions(here.lock, repository.ground(), repository.catalog_alone())
    assert left.deleted == 0
    assert left.kept >= 4
    assert left.kept_bytes > 4000
    assert left.until is not None
    assert abs(left.until - clock.now() - _MONTH) < timedelta(minutes=1)
    assert {f"refs/db/{old.id}"} <= {one.name for one in here.lock.requests.versions("refs/")}


def test_what_is_over_for_a_period_goes_for_good(place: Callable[..., Place]) -> None:
    """Versions and markers, of what no backup needs; the rest restores."""
    here = place(period=timedelta(seconds=4))
    repository, old, new = _removed(here)
    needed = repository.refs(new).objects[0].name
    here.storage.delete([needed])  # as a thief would: our own prune must not finish it
    deadline, deleted = time.monotonic() + 120, 0
    while any(old.id in one.name for one in here.lock.requests.versions("backups/")):
        assert time.monotonic() < deadline
        done = delete_old_versions(here.lock, repository.ground(), repository.catalog_alone())
        deleted += done.deleted
        time.sleep(0.3)
    assert deleted >= 4
    below = [one for one in here.lock.requests.versions(needed) if not one.is_marker]
    assert len(below) == 1
    assert below[0].size > 0


def _between(here: Place) -> datetime:
    """A moment after all that was put by now, before all that is put from now on.

    S3 tells whole seconds.
    """
    here.storage.put("probe/clock", b"1")
    then = here.storage.head("probe/clock").modified_at
    deadline = time.monotonic() + 60
    while here.storage.head("probe/clock").modified_at < then + timedelta(seconds=2):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        here.storage.put("probe/clock", b"1")
    return then + timedelta(seconds=1)


def test_an_emptied_storage_is_what_it_was(place: Callable[..., Place]) -> None:
    """Everything deleted, one object overwritten, junk put: the backups restore again."""
    here = place()
    repository = create(here.storage)
    made = backup(repository, payloads(1), day=1)
    before = sorted(info.name for info in here.storage.list(""))
    moment = _between(here)
    victim = repository.refs(made).objects[0].name
    here.storage.put(victim, b"rubbish")
    here.storage.delete([info.name for info in here.storage.list("") if info.name != victim])
    here.storage.put("backups/db/20261103T000000Z-full-bcdfg", b"junk")
    plan = plan_rewind(here.lock.requests, moment)
    assert [one.name for one in plan.replaced] == [victim]
    hidden = sorted(good.name for good, _ in plan.hidden)
    assert hidden == [name for name in before if not name.startswith(UNLOCKED) and name != victim]
    # These credentials may not delete versions of what is locked; markers they may.
    run_rewind(plan, here.lock.requests, here.lock)
    assert restore(reopen(here.storage), made) == payloads(1)
    assert verify(reopen(here.storage), made, VerifyLevel.FULL).ok
    assert here.until(victim) > clock.now() + timedelta(days=29)
    assert plan_rewind(here.lock.requests, moment).is_idle


def test_rewinding_without_the_right_to_delete_copies(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the good version is put on top of its marker, and locked anew."""
    here = place()
    repository = create(here.storage)
    made = backup(repository, payloads(1), day=1)
    moment = _between(here)
    here.storage.delete([info.name for info in here.storage.list("")])

    def refuse(_: object) -> list[Version]:
        raise StorageDenied("may not delete versions")

    monkeypatch.setattr(here.lock.requests, "delete_versions", refuse)
    plan = plan_rewind(here.lock.requests, moment)
    assert plan.hidden
    run_rewind(plan, here.lock.requests, here.lock)
    assert restore(reopen(here.storage), made) == payloads(1)


def test_doctor_tries_the_lock(place: Callable[..., Place]) -> None:
    """Good with an account that cannot lift it; else it says what is wrong."""

    def found(here: Place, longest: timedelta = _MONTH) -> dict[str, Finding]:
        return {one.code: one for one in check_object_lock("primary", here.lock, longest=longest)}

    good = found(place())
    assert list(good) == ["primary-lock"]
    assert "object lock on" in good["primary-lock"].message
    assert "30 d" in good["primary-lock"].message
    assert "primary-lock-bypass" in found(place(admin=True))
    short = found(place(), longest=timedelta(days=60))
    assert short["primary-lock-short"].level is Level.WARNING


def test_doctor_tells_when_locks_are_not_kept_up() -> None:
    """Unknown, good and running out, by the table alone."""
    margin, now = timedelta(days=15), datetime.now(UTC)

    def codes(table: dict[str, datetime], *backups: str) -> list[str]:
        found = locked(table, backups)
        return [one.code for one in check_locked_until("primary", margin, found)]

    assert codes({}) == []
    assert codes({}, "db/a") == ["primary-lock-unknown"]
    fine = {COMMON: now + timedelta(days=30), "db/a": now + timedelta(days=16)}
    assert codes(fine, "db/a", "db/b") == ["primary-locked-until"]
    assert codes({**fine, "db/a": now + timedelta(days=3)}, "db/a") == ["primary-lock-ends"]
    assert codes({**fine, "db/gone": now}, "db/a") == ["primary-locked-until"]


def test_without_the_right_to_ask_the_put_itself_tells(
    seaweedfs: S3Server, free_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that may not look at the bucket's settings get the same sentence."""
    here = Place(seaweedfs, free_bucket)
    monkeypatch.setattr(here.lock, "_is_good", True)
    with pytest.raises(StorageUnfit, match="has no object lock"):
        here.storage.put("chunks/a", b"1")
    assert list(here.storage.list("chunks/")) == []


def test_the_commands_of_a_user(
    seaweedfs: S3Server, bucket: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    """init, then the setting, backup, prune, doctor, a thief who deletes all, a restore."""
    dsn = new_database()
    run_sql(dsn, "CREATE TABLE notes (id int PRIMARY KEY)")
    run_sql(dsn, "INSERT INTO notes SELECT generate_series(1, 2000)")
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"a passphrase for storage {name}\n")
        (tmp_path / name).chmod(0o600)
    run = Shell(tmp_path, {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AURORA_PG_BIN": os.environ.get("AURORA_PG_BIN", ""),
        "AURORA_PASSPHRASE_FILE": str(tmp_path / "one"),
        "AURORA_SECONDARY_PASSPHRASE_FILE": str(tmp_path / "two"),
        "AURORA_SECONDARY_ACCESS_KEY_ID": seaweedfs.keeper_access_key,
        "AURORA_SECONDARY_SECRET_ACCESS_KEY": seaweedfs.secret_key,
    })  # fmt: skip
    url = f"s3://{bucket}/cli?endpoint={seaweedfs.endpoint}&region={seaweedfs.region}"
    run("init", "--yes", "--source", dsn, "--primary", str(tmp_path / "p"), "--secondary", url)
    path = tmp_path / "aurora.toml"
    wrong = path.read_text().replace("[primary]\n", '[primary]\nobject_lock = "30 d"\n')
    path.write_text(
        path.read_text().replace("[secondary]\n", '[secondary]\nobject_lock = "60 d"\n')
    )
    made = run("backup", "create")[-1]
    assert (made["complete"], made["replicated"]) == (True, True)
    assert run("backup", "replicate")[-1]["lacking"] == []
    pruned = run("backup", "prune", "--yes")[-1]["storages"][1]
    assert pruned["locks"]["backups"] == 1
    assert pruned["old_versions"]["deleted"] == 0
    told = {one["code"] for one in run("doctor")[-1]["findings"]}
    assert {"secondary-lock", "secondary-locked-until"} <= told
    primary, secondary = run("backup", "status", expect=3)[-1]["storages"]
    assert primary["locked_until"] is None
    assert clock.parse(secondary["locked_until"]) > clock.now() + timedelta(days=59)
    here = Place(seaweedfs, bucket, prefix="cli")
    versions = list(here.lock.requests.versions(""))
    lasting = [one for one in versions if not one.name.startswith(UNLOCKED) and not one.is_marker]
    assert len(lasting) > 8
    for one in lasting:
        found = here.lock.requests.retention(one.name, one.id)
        assert found is not None, one.name
        assert found.until > clock.now() + timedelta(days=59)

    moment = clock.isoformat(_between(here))
    here.storage.delete([info.name for info in here.storage.list("")])
    run("backup", "list", "--storage", "secondary", expect=10)
    rewind = ("backup", "rewind-storage", "secondary", "--to", moment)
    assert run(*rewind, "--dry-run")[-1]["deleted"] >= len(lasting)
    run("backup", "list", "--storage", "secondary", expect=10)
    assert run(*rewind, "--yes")[-1]["overwritten"] == 0
    assert run("backup", "verify", "latest", "--storage", "secondary")[-1]["ok"]

    path.write_text(wrong)
    run(*rewind[:2], "primary", *rewind[3:], expect=2)
    run("backup", "create", expect=2)  # the primary is a directory
