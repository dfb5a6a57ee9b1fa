"""The writer: what it reuses, what it uploads, and when it refuses to commit."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from aurora import clock
from aurora.errors import (
    ObjectMissing,
    RepositoryLocked,
    RepositoryNotFound,
    StorageFull,
    StorageUnavailable,
    UsageError,
)
from aurora.events import Event, Warned
from aurora.repository.candidates import write_candidates
from aurora.repository.door import ClosedRepository, Ref, Repository, Writer
from aurora.repository.ids import new_backup_id
from aurora.repository.layout import ObjectType, parse_content
from aurora.repository.leases import Lease
from aurora.repository.mirror import replicate
from aurora.repository.uploads import UploadPool
from aurora.storage.base import Buffer
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Kind
from tests.unit.test_repository_kit import (
    Forgetful,
    backup,
    commit,
    create,
    create_mirror,
    flip,
    names,
    payloads,
    reopen,
    restore,
)


def test_a_backup_is_read_back() -> None:
    """By another run, byte for byte, with what the manifest said."""
    storage = MemoryStorage()
    contents = [*payloads(1), b"", b"\0" * 70_000]
    entry = backup(create(storage), contents, kind="full")
    again = reopen(storage)
    assert again.backups() == [entry]
    assert (entry.sequence, entry.type, entry.database, entry.damage) == (1, "full", "db", None)
    assert restore(again, again.resolve("latest")) == contents
    commit_part = again.manifest(entry)["commit"]
    assert (commit_part["backup"], commit_part["sequence"]) == (entry.id, 1)


def test_unknown_members_of_a_manifest_are_kept() -> None:
    """Whatever a later version writes there."""
    repository = create(MemoryStorage())
    with repository.write("db") as writer:
        moment = clock.now()
        entry = writer.commit(
            backup_id=new_backup_id("full", moment),
            type="full",
            created_at=moment,
            manifest={"later": {"ünïcode": [None, True, 2**60, "\u2028"]}},
            uses=[],
        )
    assert repository.manifest(entry)["later"] == {"ünïcode": [None, True, 2**60, "\u2028"]}


def test_floats_and_the_commit_member_are_refused() -> None:
    """Before anything is written that could not be signed."""
    storage = MemoryStorage()
    repository = create(storage)
    refused: list[dict[str, Any]] = [{"x": 1.5}, {"commit": {}}]
    for manifest in refused:
        moment = clock.now()
        with repository.write("db") as writer, pytest.raises((ValueError, UsageError)):
            writer.commit(
                backup_id=new_backup_id("full", moment),
                type="full",
                created_at=moment,
                manifest=manifest,
                uses=[],
            )
    assert names(storage, "refs/") == []


def test_nothing_changed_uploads_nothing() -> None:
    """The second full of the same rows, even of another database, costs its description."""
    storage = MemoryStorage()
    repository = create(storage)
    backup(repository, payloads(1))
    before = names(storage, "chunks/")
    with repository.write("other") as writer:
        refs = [writer.put(ObjectType.CHUNK, content) for content in payloads(1)]
        commit(writer, refs)
    assert names(storage, "chunks/") == before
    assert (writer.stats.new_objects, writer.stats.reused_objects) == (0, 3)
    assert writer.stats.new_raw_bytes == 0
    assert writer.stats.raw_bytes == sum(map(len, payloads(1)))
    assert restore(reopen(storage), repository.resolve("latest", "other")) == payloads(1)


def test_types_do_not_share_ids() -> None:
    """The same bytes as a chunk and as a log segment are two contents."""
    repository = create(MemoryStorage())
    with repository.write("db") as writer:
        ids = {writer.identify(kind, b"same") for kind in (ObjectType.CHUNK, ObjectType.LOG)}
        assert len(ids) == 2
        with pytest.raises(UsageError):
            writer.put(ObjectType.BACKUP, b"x")


def test_ids_are_keyed() -> None:
    """Two repositories do not show that they hold the same rows."""
    with create(MemoryStorage()).write("db") as one, create(MemoryStorage()).write("db") as other:
        first = one.identify(ObjectType.CHUNK, b"same")
        assert first != other.identify(ObjectType.CHUNK, b"same")


def test_known_and_reusable() -> None:
    """A caller can look before it computes more."""
    storage = MemoryStorage()
    repository = create(storage)
    entry = backup(repository, payloads(1))
    ref = Ref(**repository.manifest(entry)["chunks"][0])
    with repository.write("db") as writer:
        payload_id = writer.identify(ObjectType.CHUNK, payloads(1)[0])
        assert writer.known(ObjectType.CHUNK, payload_id, ref.raw) == ref
        assert writer.known(ObjectType.CHUNK, "00" * 32, 1) is None
        assert writer.is_reusable(ref)
        assert not writer.is_reusable(Ref(ref.name[:-1] + "x", ref.raw))
        mine = writer.put(ObjectType.CHUNK, b"mine")
        assert writer.is_reusable(mine)


def test_the_same_content_put_at_once_is_uploaded_once() -> None:
    """Thirty threads, one object."""
    counter = FaultyStorage(MemoryStorage())
    repository = create(counter)
    refs: list[Ref] = []
    with repository.write("db", workers=4) as writer:
        content = payloads(1)[0]
        threads = [
            threading.Thread(target=lambda: refs.append(writer.put(ObjectType.CHUNK, content)))
            for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.flush()
    assert len(set(refs)) == 1
    assert [call.name for call in counter.calls].count(refs[0].name) == 1


def test_two_that_find_nothing_at_once_still_upload_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The race made certain: both threads look before either claims the name."""
    counter = FaultyStorage(MemoryStorage())
    repository = create(counter)
    looked = threading.Barrier(2, timeout=10)
    with repository.write("db") as writer:

        def find(*_: object) -> None:
            looked.wait()

        monkeypatch.setattr(writer, "_find", find)
        threads = [
            threading.Thread(target=writer.put, args=(ObjectType.CHUNK, b"rows")) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.flush()
    assert (
        len(
            [
                call
                for call in counter.calls
                if call.name.startswith("chunks/") and call.operation == "put"
            ]
        )
        == 1
    )
    assert (writer.stats.new_objects, writer.stats.reused_objects) == (1, 1)


class _Gate(MemoryStorage):
    """Chunks wait at the gate; how many at most waited is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.inside = self.most = 0
        self._count = threading.Lock()

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """As MemoryStorage, once the gate is open."""
        if parse_content(name):
            with self._count:
                self.inside += 1
                self.most = max(self.most, self.inside)
            self.open.wait(10)
            with self._count:
                self.inside -= 1
        super().put(name, data, create_only=create_only)


@pytest.mark.parametrize(
    "options,limit", [({"workers": 8, "in_flight": 3}, 3), ({"bytes_in_flight": 9000}, 2)]
)
def test_memory_is_bounded(options: dict[str, Any], limit: int) -> None:
    """put() holds the caller back while as much is in flight as was allowed."""
    storage = _Gate()
    repository = create(storage)
    accepted: list[Ref] = []
    with repository.write("db", **options) as writer:
        feeder = threading.Thread(
            target=lambda: accepted.extend(
                writer.put(ObjectType.CHUNK, content) for content in payloads(1, 12)
            )
        )
        feeder.start()
        _wait(lambda: storage.inside == limit)
        time.sleep(0.05)
        assert writer.stats.new_objects <= limit + 1  # one more is waiting to be let in
        storage.open.set()
        feeder.join()
        writer.flush()
        assert storage.most == limit
        assert len(accepted) == 12


def test_one_payload_above_the_byte_limit_is_let_in_alone() -> None:
    """A limit never stops a run for good."""
    repository = create(MemoryStorage())
    with repository.write("db", bytes_in_flight=10) as writer:
        commit(writer, [writer.put(ObjectType.CHUNK, content) for content in payloads(1)])


def test_a_failed_upload_ends_the_run() -> None:
    """The next put or flush raises it, nothing is committed, the earlier backup stands."""
    inner = MemoryStorage()
    entry = backup(create(inner), payloads(1))
    full = StorageFull("no room")
    faulty = FaultyStorage(inner, [Fault(Kind.BEFORE, "put", 2, prefix="chunks/", error=full)])
    with reopen(faulty).write("db") as writer:
        with pytest.raises(StorageFull):
            _put_slowly(writer, payloads(2, 50))
        for call in (
            writer.flush,
            lambda: writer.put(ObjectType.CHUNK, b"more"),
            lambda: commit(writer, []),
        ):
            with pytest.raises(StorageFull):
                call()
    faulty.assert_all_used()
    assert reopen(inner).backups() == [entry]
    assert restore(reopen(inner), entry) == payloads(1)


def test_the_pool_drops_what_had_not_begun() -> None:
    """After an error no queued job is run."""
    pool, ran = UploadPool(workers=1, in_flight=10), []

    def fail() -> None:
        time.sleep(0.05)
        raise StorageUnavailable("gone")

    pool.submit(1, fail)
    for _ in range(5):
        pool.submit(1, lambda: ran.append(1))
    with pytest.raises(StorageUnavailable):
        pool.drain()
    pool.close()
    assert ran == []


def test_draining_waits_for_what_was_there_only() -> None:
    """Others may go on submitting meanwhile, without an end."""
    pool, stop = UploadPool(workers=2, in_flight=10), threading.Event()

    def another() -> None:
        time.sleep(0.001)
        if not stop.is_set():
            pool.submit(1, another)

    pool.submit(1, another)
    thread = threading.Thread(target=pool.drain)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    stop.set()
    pool.drain()
    pool.close()


def test_a_checkpoint_is_no_backup() -> None:
    """It protects what it names, another run reuses it, and neither list nor mirror has it."""
    storage = MemoryStorage()
    repository = create(storage)
    first = backup(repository, payloads(1), day=1)
    with repository.write("db") as writer:
        refs = [writer.put(ObjectType.OBJECT, content) for content in payloads(2)]
        moment = clock.now()
        made = writer.commit(
            backup_id=new_backup_id("checkpoint", moment), type="checkpoint",
            created_at=moment, manifest={}, uses=refs, last=False,
        )  # fmt: skip
        assert all(map(writer.is_reusable, refs))
    again = reopen(storage)
    assert again.backups() == [first]
    assert again.checkpoints("db") == [made]
    assert again.resolve("latest") == first
    with pytest.raises(RepositoryNotFound):
        again.resolve("latest:checkpoint")
    with again.write("db") as writer:
        assert all(map(writer.is_reusable, refs))
        follows = commit(writer, [])
    assert follows.sequence == (made.sequence or 0) + 1
    mirror = create_mirror(MemoryStorage())
    assert replicate(storage, mirror).is_complete
    assert [one.id for one in ClosedRepository(mirror).backups()] == [first.id, follows.id]
    assert not list(mirror.list(ObjectType.OBJECT.prefix))


def test_leaving_without_commit_leaves_garbage_only() -> None:
    """An error in the caller ends the lease and makes no backup."""
    storage = MemoryStorage()
    repository = create(storage)
    writer = repository.write("db")
    with pytest.raises(KeyError):
        _put_and_fail(writer)
    assert repository.backups() == []
    assert names(storage, "refs/") == []
    assert [name for name in names(storage, "leases/") if name.endswith(".done")]
    with pytest.raises(RuntimeError):
        writer.put(ObjectType.CHUNK, b"late")


def test_the_order_of_writes() -> None:
    """Lease first, then listings, then contents; refs before the manifest, which is last."""
    storage = FaultyStorage(MemoryStorage())
    create(storage)
    repository = reopen(storage)
    storage.calls.clear()
    backup(repository, payloads(1))
    firsts = [(call.operation, call.name.partition("/")[0]) for call in storage.calls]
    puts = [first for operation, first in firsts if operation == "put"]
    assert firsts[0] == ("put", "leases")
    assert firsts.index(("list", "gc")) < firsts.index(("list", "backups"))
    assert puts == ["leases", "sessions", *["chunks"] * 3, "refs", "backups", "leases"]


def test_a_lost_chunk_is_uploaded_again() -> None:
    """Reuse trusts a listing, not memory: the next backup heals by itself."""
    storage = MemoryStorage()
    repository = create(storage)
    first = backup(repository, payloads(1))
    lost = names(storage, "chunks/")
    storage.delete(lost[:1])
    storage.put(lost[1], b"short")
    second = backup(repository, payloads(1))
    assert restore(reopen(storage), second) == payloads(1)
    gone = [one for one in repository.manifest(first)["chunks"] if one["name"] == lost[0]]
    with pytest.raises(ObjectMissing, match=lost[0]):
        repository.read(Ref(**gone[0]))


@pytest.mark.parametrize("damage", ["delete", "flip"])
def test_a_lost_session_is_not_relied_on(damage: str) -> None:
    """Its chunks cannot be opened, so they are uploaded again under a new one."""
    storage = MemoryStorage()
    repository = create(storage)
    backup(repository, payloads(1))
    session = names(storage, "sessions/")[0]
    if damage == "delete":
        storage.delete([session])
    else:
        flip(storage, session, 40)
    second = backup(reopen(storage), payloads(1))
    assert restore(reopen(storage), second) == payloads(1)


def test_distrusted_objects_are_not_reused() -> None:
    """What a verification found damaged is uploaded again, though its size is right."""
    storage = MemoryStorage()
    repository = create(storage)
    backup(repository, payloads(1))
    bad = names(storage, "chunks/")[0]
    flip(storage, bad)
    with reopen(storage).write("db", distrusted={bad}) as writer:
        second = commit(writer, [writer.put(ObjectType.CHUNK, one) for one in payloads(1)])
    assert (writer.stats.new_objects, writer.stats.reused_objects) == (1, 2)
    assert restore(reopen(storage), second) == payloads(1)


def test_candidates_are_not_reused() -> None:
    """What a collector is about to delete gets a new name instead."""
    storage = MemoryStorage()
    repository = create(storage)
    backup(repository, payloads(1))
    doomed = names(storage, "chunks/")[0]
    stored = write_candidates(
        [doomed],
        name="gc/one",
        repository_id=repository.repository_id,
        mac_key=repository._mac_key(),
    )
    storage.put("gc/one", stored)
    with repository.write("db") as writer:
        refs = [writer.put(ObjectType.CHUNK, one) for one in payloads(1)]
        assert doomed not in {ref.name for ref in refs}
        assert (writer.stats.new_objects, writer.stats.reused_objects) == (1, 2)
        second = commit(writer, refs)
    storage.delete([doomed])
    assert restore(reopen(storage), second) == payloads(1)


def test_an_unreadable_candidate_list_stops_all_reuse() -> None:
    """It could name anything: the backup is larger, never wrong."""
    storage, heard = MemoryStorage(), list[Event]()
    backup(create(storage), payloads(1))
    storage.put("gc/forged", b"anything at all, and long enough to look like a document" * 3)
    with reopen(storage, sink=heard.append).write("db") as writer:
        commit(writer, [writer.put(ObjectType.CHUNK, one) for one in payloads(1)])
    assert writer.stats.reused_objects == 0
    assert [event.code for event in heard if isinstance(event, Warned)] == ["nothing-reused"]


def test_refs_without_a_manifest_count_for_nothing() -> None:
    """A run that died before its commit is no backup, and nothing of it is reused."""
    inner = MemoryStorage()
    create(inner)
    faulty = FaultyStorage(inner, [Fault(Kind.BEFORE, "put", 1, prefix="backups/")])
    with pytest.raises(StorageUnavailable):
        backup(reopen(faulty), payloads(1))
    assert len(names(inner, "refs/")) == 1
    with reopen(inner).write("db") as writer:
        writer.put(ObjectType.CHUNK, payloads(1)[0])
        assert writer.stats.new_objects == 1
    assert reopen(inner).backups() == []


def test_two_writers_at_once_both_succeed() -> None:
    """Each uploads for itself, both commit, both restore."""
    storage = MemoryStorage()
    repository = create(storage)
    with repository.write("db") as one, reopen(storage).write("db") as other:
        first = [one.put(ObjectType.CHUNK, content) for content in payloads(1)]
        second = [other.put(ObjectType.CHUNK, content) for content in payloads(1)]
        assert {ref.name for ref in first}.isdisjoint({ref.name for ref in second})
        entries = [commit(other, second), commit(one, first)]
    again = reopen(storage)
    assert sorted(again.backups(), key=lambda e: e.id) == sorted(entries, key=lambda e: e.id)
    assert all(restore(again, entry) == payloads(1) for entry in entries)
    assert sorted(entry.sequence or 0 for entry in entries) == [1, 2]


def test_a_lost_answer_to_the_manifest_is_a_commit() -> None:
    """The put was done; saying it failed would make the user run it again for nothing."""
    inner = MemoryStorage()
    create(inner)
    faulty = FaultyStorage(
        inner,
        [
            Fault(Kind.AFTER, "put", 1, prefix="refs/"),
            Fault(Kind.AFTER, "put", 1, prefix="backups/"),
        ],
    )
    entry = backup(reopen(faulty), payloads(1))
    faulty.assert_all_used()
    assert reopen(inner).backups() == [entry]


def test_a_manifest_that_may_still_land_keeps_its_lease() -> None:
    """The put failed, but a delayed one could be stored later: the lease must run out."""
    inner = MemoryStorage()
    create(inner)
    faulty = FaultyStorage(inner, [Fault(Kind.BEFORE, "put", 1, prefix="backups/")])
    with pytest.raises(StorageUnavailable):
        backup(reopen(faulty), payloads(1))
    assert [name for name in names(inner, "leases/") if name.endswith(".done")] == []


def test_a_stale_lease_fences_the_commit() -> None:
    """Half the time to live without a heartbeat: nothing is committed."""
    storage, now = MemoryStorage(), [0.0]
    repository = create(storage)
    with repository.write("db") as writer:
        writer._lease._elapsed = lambda: now[0]
        writer._lease.beat()
        refs = [writer.put(ObjectType.CHUNK, content) for content in payloads(1)]
        now[0] += 12 * 3600 - 1
        writer._lease.require_fresh()
        now[0] += 1
        with pytest.raises(RepositoryLocked, match="lease") as info:
            commit(writer, refs)
        assert info.value.exit_code == 11
    assert repository.backups() == []
    assert names(storage, "refs/") == []


def test_a_lease_that_ends_between_refs_and_manifest_fences_the_commit() -> None:
    """Asked again right before the put that commits."""
    storage, now = _SlowRefs(), [0.0]
    repository = create(storage)
    storage.on_refs = lambda: now.__setitem__(0, 1e6)
    with repository.write("db") as writer:
        writer._lease._elapsed = lambda: now[0]
        writer._lease.beat()
        with pytest.raises(RepositoryLocked):
            commit(writer, [writer.put(ObjectType.CHUNK, b"rows")])
    assert names(storage, "backups/") == []


class _SlowRefs(MemoryStorage):
    """Calls ``on_refs`` while refs are put."""

    on_refs: Callable[[], object] = staticmethod(lambda: None)

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """As MemoryStorage."""
        if name.startswith("refs/"):
            self.on_refs()
        super().put(name, data, create_only=create_only)


def _lease(storage: MemoryStorage, **options: Any) -> Lease:
    return Lease(
        storage,
        sid=bytes(16),
        repository_id=bytes(16),
        mac_key=bytes(32),
        purpose="test",
        **options,
    )


def test_heartbeats_are_new_names() -> None:
    """No name is ever put twice, and the end is a name of its own."""
    storage = MemoryStorage()
    lease = _lease(storage, ttl_seconds=0.24)
    lease.begin()
    _wait(lambda: len(storage.objects) >= 4)
    assert lease.is_fresh()
    lease.end()
    sid = "00" * 16
    assert {f"leases/{sid}.{n}" for n in range(4)} | {f"leases/{sid}.done"} <= set(storage.objects)


def test_a_heartbeat_that_fails_is_tried_again() -> None:
    """The run goes on; only the commit asks whether the lease is fresh."""
    inner = MemoryStorage()
    faulty = FaultyStorage(inner, [Fault(Kind.BEFORE, "put", 2, times=2)])
    lease = Lease(
        faulty,
        sid=bytes(16),
        repository_id=bytes(16),
        mac_key=bytes(32),
        purpose="test",
        ttl_seconds=0.24,
    )
    lease.begin()
    _wait(lambda: len(inner.objects) >= 3)
    lease.end()
    faulty.assert_all_used()


def test_a_machine_that_slept_is_noticed_by_the_wall_clock() -> None:
    """Where the other clock stands still in sleep."""
    lease = _lease(MemoryStorage(), ttl_seconds=0.1, elapsed=lambda: 0.0)
    lease.beat()
    assert lease.is_fresh()
    time.sleep(0.06)
    assert not lease.is_fresh()


def test_a_commit_names_only_what_is_held() -> None:
    """A Ref from anywhere else is refused before anything is written."""
    storage = MemoryStorage()
    repository = create(storage)
    stranger = Ref(f"chunks/ab/{'ab' * 32}-00000000", 5)
    with repository.write("db") as writer, pytest.raises(ObjectMissing, match=stranger.name):
        commit(writer, [stranger])
    assert names(storage, "refs/") == []


def test_a_backup_id_is_used_once() -> None:
    """And must be of the backup's type."""
    repository = create(MemoryStorage())
    entry = backup(repository, payloads(1))
    for taken, kind in ((entry.id, "full"), (entry.id, "sealed")):
        with repository.write("db") as writer, pytest.raises(UsageError):
            writer.commit(backup_id=taken, type=kind, created_at=clock.now(), manifest={}, uses=[])


@pytest.mark.parametrize("level", [-6, 20])
def test_levels_out_of_bounds(level: int) -> None:
    """Refused before a lease is put."""
    storage = MemoryStorage()
    repository = create(storage)
    with pytest.raises(UsageError):
        repository.write("db", level=level)
    with pytest.raises(UsageError):
        repository.write("No/Label")
    assert names(storage, "leases/") == []


def test_a_damaged_refs_object_does_not_stop_the_next_run() -> None:
    """Warned of, its chunks uploaded again, the backup still listed."""
    storage, heard = MemoryStorage(), list[Event]()
    first = backup(create(storage), payloads(1))
    flip(storage, first.refs_name)
    repository = reopen(storage, sink=heard.append)
    second = backup(repository, payloads(1))
    assert [event.code for event in heard if isinstance(event, Warned)] == ["refs-unreadable"]
    damaged, good = Repository.backups(reopen(storage))
    assert (damaged.id, damaged.damage) == (first.id, "its refs cannot be read")
    assert restore(repository, second) == restore(repository, damaged) == payloads(1)
    assert good.damage is None


def _put_slowly(writer: Writer, contents: list[bytes]) -> None:
    for content in contents:
        writer.put(ObjectType.CHUNK, content)
        time.sleep(0.002)


def _put_and_fail(writer: Writer) -> None:
    with writer:
        writer.put(ObjectType.CHUNK, b"rows")
        raise KeyError("the source went away")


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("prefix", ["chunks/", "sessions/", "refs/", "backups/"])
def test_a_storage_that_keeps_nothing_is_noticed(prefix: str) -> None:
    """A put that was answered is no proof: nothing is called a backup that is not there."""
    storage = Forgetful()
    repository = create(storage)
    storage.forgets = prefix
    with pytest.raises(ObjectMissing, match=prefix) as info:
        backup(repository, payloads(1))
    assert "not touched" in info.value.hint
    assert repository.backups() == []
    storage.forgets = "\n"
    assert restore(repository, backup(repository, payloads(1))) == payloads(1)


@pytest.mark.parametrize("damage", ["delete", "cut"])
def test_a_reused_chunk_that_vanishes_before_the_commit(damage: str) -> None:
    """It was listed when the run began; the commit looks again."""
    storage = MemoryStorage()
    repository = create(storage)
    backup(repository, payloads(1))
    lost = names(storage, "chunks/")[0]
    with repository.write("db") as writer:
        refs = [writer.put(ObjectType.CHUNK, content) for content in payloads(1)]
        stored = storage.get(lost)
        storage.delete([lost])
        if damage == "cut":
            storage.put(lost, stored[:-1])
        with pytest.raises(ObjectMissing, match=lost):
            commit(writer, refs)
    assert len(names(storage, "refs/")) == 1
    assert restore(repository, backup(repository, payloads(1))) == payloads(1)


def test_a_lease_that_is_gone_fences_the_commit() -> None:
    """By the clock it is fresh, but no collector would see it."""
    storage = MemoryStorage()
    repository = create(storage)
    with repository.write("db") as writer:
        refs = [writer.put(ObjectType.CHUNK, b"rows")]
        storage.delete(names(storage, "leases/"))
        with pytest.raises(RepositoryLocked, match="no longer on the storage"):
            commit(writer, refs)
    assert names(storage, "refs/") == []


def test_refs_must_name_all_that_the_manifest_names() -> None:
    """Or a collector would take what a restore reads."""
    storage = MemoryStorage()
    moment = clock.now()
    with create(storage).write("db") as writer:
        ref = writer.put(ObjectType.CHUNK, b"rows")
        with pytest.raises(UsageError, match=ref.name):
            writer.commit(
                backup_id=new_backup_id("full", moment),
                type="full",
                created_at=moment,
                manifest={"tables": ({"name": ref.name, "raw": ref.raw},)},
                uses=[],
            )
    assert names(storage, "refs/") == []


def test_a_run_whose_refs_failed_is_over() -> None:
    """A second try would put other bytes under a name that may be there already."""
    inner = MemoryStorage()
    create(inner)
    lost = [Fault(Kind.AFTER, "put", prefix="refs/"), Fault(Kind.BEFORE, "get", prefix="refs/")]
    with reopen(FaultyStorage(inner, lost)).write("db") as writer:
        refs = [writer.put(ObjectType.CHUNK, b"rows")]
        with pytest.raises(StorageUnavailable):
            commit(writer, refs, day=1)
        with pytest.raises(RuntimeError, match="closed"):
            commit(writer, refs, day=1)
    assert len(names(inner, "refs/")) == 1
    assert names(inner, "backups/") == []


def test_options_that_no_pool_takes_leave_no_lease() -> None:
    """Asked before the first heartbeat."""
    storage = MemoryStorage()
    repository = create(storage)
    with pytest.raises(ValueError, match="greater than 0"):
        repository.write("db", workers=0)
    assert names(storage, "leases/") == []
