"""The collector: garbage goes, what any backup needs stays, and runs under way are waited for."""

import contextlib
import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from aurora.errors import AuroraError, ObjectDamaged, RepositoryLocked
from aurora.events import Event, Warned
from aurora.repository.candidates import write_candidates
from aurora.repository.catalog import BackupEntry
from aurora.repository.collector import CLAIM, Collected, collect
from aurora.repository.door import Repository
from aurora.repository.keys import Passphrase
from aurora.repository.layout import ObjectType
from aurora.repository.leases import Lease
from aurora.repository.mirror import MirrorView, replicate
from aurora.repository.verify import Level, verify
from aurora.storage.base import ObjectInfo, Storage
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Killed, Kind
from tests.fixtures.clocks import TestClock, timed_storage
from tests.unit.test_repository_kit import (
    OUTER_PASSPHRASE,
    backup,
    commit,
    create,
    create_mirror,
    names,
    payloads,
    reopen,
    restore,
)


def collected(
    repository: Repository, *expired: BackupEntry, events: list[Event] | None = None
) -> Collected:
    """One run of the collector, which removes *expired*."""
    return collect(
        repository.ground(),
        repository.catalog_alone(),
        expired=[(entry.database, entry.id) for entry in expired],
        sink=(events if events is not None else []).append,
    )


def contents(storage: MemoryStorage) -> list[str]:
    """What backups are made of."""
    kinds = ("chunks/", "sessions/", "backups/", "refs/")
    return [name for name in names(storage) if name.startswith(kinds)]


def _old_and_new() -> tuple[MemoryStorage, TestClock, Repository, BackupEntry, BackupEntry]:
    """Two backups that share a chunk, three days ago."""
    storage, clock = timed_storage()
    repository = create(storage)
    old = backup(repository, payloads(1), day=1)
    new = backup(repository, [payloads(1)[0], *payloads(2)], day=2)
    clock.turn(days=3)
    return storage, clock, repository, old, new


def test_a_removed_backup_leaves_nothing_but_what_others_need() -> None:
    """Its own chunks, refs and manifest go; the shared chunk and its session stay."""
    storage, _, repository, old, new = _old_and_new()
    done = collected(repository, old)
    assert (done.backups, done.objects, done.waiting) == ([f"db/{old.id}"], 2, 0)
    assert restore(reopen(storage), new) == [payloads(1)[0], *payloads(2)]
    assert [entry.id for entry in reopen(storage).backups()] == [new.id]
    needed = {one.name for one in repository.refs(new).objects}
    assert set(contents(storage)) == needed | {new.manifest_name, new.refs_name}
    assert names(storage, "gc/") == []
    assert names(storage, "probe/") == []
    again = collected(repository)
    assert (again.backups, again.objects) == ([], 0)


def test_the_leavings_of_a_dead_run_go_once_they_are_old() -> None:
    """Nothing younger than 48 hours by the storage's clock is deleted, whatever it is."""
    storage, clock, repository, old, new = _old_and_new()
    before = contents(storage)
    with repository.write("db") as writer:
        writer.put(ObjectType.CHUNK, b"never committed")
    assert len(contents(storage)) == len(before) + 2
    clock.turn(hours=47.9)
    assert collected(repository).objects == 0
    clock.turn(hours=0.1)
    assert collected(repository).objects == 2
    assert contents(storage) == before
    for entry in (old, new):
        assert verify(reopen(storage), entry, Level.FULL).ok


def test_a_run_under_way_is_waited_for() -> None:
    """What it reused before the candidates were published stays until it has committed."""
    storage, _, repository, old, new = _old_and_new()
    writer = repository.write("db")
    refs = [writer.put(ObjectType.CHUNK, content) for content in payloads(1)]
    assert (writer.stats.new_objects, writer.stats.reused_objects) == (0, 3)
    done = collected(repository, old)
    assert (done.backups, done.objects, done.waiting, done.leases) == ([f"db/{old.id}"], 0, 2, 1)
    late = commit(writer, refs, day=3)
    assert collected(repository).objects == 0
    assert names(storage, "gc/") == []
    assert restore(reopen(storage), late) == payloads(1)
    assert restore(reopen(storage), new) == [payloads(1)[0], *payloads(2)]


def test_a_run_that_begins_later_is_not_waited_for() -> None:
    """It has read the list and reuses nothing of it; without that, hourly runs would starve us."""
    storage, clock, repository, old, _ = _old_and_new()
    first = repository.write("db")
    assert collected(repository, old).waiting == 2
    clock.turn(minutes=11)
    second = repository.write("db")
    refs = [second.put(ObjectType.CHUNK, content) for content in payloads(1)]
    assert second.stats.new_objects == 2
    assert collected(repository).leases == 1
    first.abandon()
    assert collected(repository).objects == 2
    late = commit(second, refs, day=3)
    assert restore(reopen(storage), late) == payloads(1)


def test_a_dead_run_is_waited_for_no_longer_than_its_lease() -> None:
    """24 hours after its newest heartbeat, by the storage's clock."""
    _, clock, repository, old, _ = _old_and_new()
    writer = repository.write("db")
    writer._lease.stop()
    clock.turn(hours=20)
    writer._lease.beat()
    assert collected(repository, old).waiting == 2
    clock.turn(hours=24)
    assert collected(repository).waiting == 2
    clock.turn(minutes=1)
    assert collected(repository).objects == 2
    writer._lease.stop()


def test_a_forged_end_of_a_lease_ends_nothing() -> None:
    """Only who has the key can say that a run is over."""
    storage, _, repository, old, _ = _old_and_new()
    with repository.write("db") as writer:
        beat = next(name for name in names(storage, "leases/") if writer._session.sid.hex() in name)
        stored = storage.get(beat)
        storage.put(beat.replace(".0", ".done"), stored)
        assert collected(repository, old).leases == 1


def test_a_restore_keeps_what_it_reads() -> None:
    """Its lease was there before the list."""
    storage, _, repository, old, _ = _old_and_new()
    lease = repository.lease("restore")
    lease.begin()
    manifest = repository.manifest(old)
    assert collected(repository, old).waiting == 2
    assert all(name["name"] in storage.objects for name in manifest["chunks"])
    lease.end()
    assert collected(repository).objects == 2


@pytest.mark.parametrize("kind", ["lost", "damaged"])
def test_a_manifest_without_its_refs_stops_everything(kind: str) -> None:
    """What that backup needs is not known, so nothing is deleted."""
    storage, _, repository, old, new = _old_and_new()
    if kind == "lost":
        storage.delete([new.refs_name])
    else:
        storage.put(new.refs_name, b"nonsense")
    before = contents(storage)
    with pytest.raises(ObjectDamaged, match=new.id):
        collected(repository, old)
    gone = {old.manifest_name, old.refs_name}
    assert set(contents(storage)) == set(before) - gone


def test_refs_without_a_manifest_are_garbage() -> None:
    """A removal, or a run, that died between the two."""
    storage, clock, repository, old, _ = _old_and_new()
    storage.delete([old.manifest_name])
    assert collected(repository).objects == 3  # two chunks, and the refs
    assert old.refs_name not in storage.objects
    clock.turn(days=3)
    assert collected(repository).objects == 0


def test_an_unreadable_list_goes_when_it_is_old() -> None:
    """Until then no writer reuses anything, and whose list it was may be at work."""
    storage, clock, repository, _, _ = _old_and_new()
    storage.put("gc/broken", b"nonsense")
    events: list[Event] = []
    collected(repository, events=events)
    assert [one.code for one in events if isinstance(one, Warned)] == ["candidates-unreadable"]
    assert "gc/broken" in storage.objects
    clock.turn(days=2)
    collected(repository)
    assert names(storage, "gc/") == []


def test_strangers_things_are_left_alone() -> None:
    """Only what a repository's names can be is ever deleted."""
    storage, clock, repository, _, _ = _old_and_new()
    strangers = ["chunks/notes.txt", "sessions/readme", "refs/x", "backups/db/.DS_Store", "other"]
    for name in strangers:
        storage.put(name, b"mine")
    clock.turn(days=100)
    collected(repository)
    assert set(strangers) <= set(storage.objects)


def test_old_leases_and_probes_are_tidied() -> None:
    """Those of runs under way stay, however old their first heartbeat is."""
    storage, clock, repository, _, _ = _old_and_new()
    storage.put("probe/abc-x", b"x")
    lease = repository.lease("restore")
    lease.begin()
    lease.stop()
    clock.turn(days=3)
    lease.beat()
    collected(repository)
    mine = lease._sid.hex()
    assert names(storage, "leases/") == [f"leases/{mine}.0", f"leases/{mine}.1"]
    assert names(storage, "probe/") == []


def test_a_list_of_another_repository_is_no_list() -> None:
    """Nobody but the owner can have things deleted."""
    storage, clock, repository, old, new = _old_and_new()
    victim = repository.refs(new).objects[0].name
    forged = write_candidates(
        [victim], name="gc/f", repository_id=repository.repository_id, mac_key=b"x" * 32
    )
    storage.put("gc/f", forged)
    clock.turn(days=3)
    collected(repository)
    assert victim in storage.objects
    assert old.manifest_name in storage.objects


@pytest.mark.parametrize("kind", [Kind.DIE, Kind.DIE_AFTER, Kind.BEFORE, Kind.AFTER])
def test_death_or_failure_at_every_call(kind: Kind) -> None:
    """The kept backup is whole at once, and the next run finishes the work."""
    for nth in itertools.count(1):
        if not _survives(kind, nth):
            break
    assert nth > 20


def _survives(kind: Kind, nth: int) -> bool:
    """Let the *nth* call fail; False where there are not so many."""
    storage, _, _, old, new = _old_and_new()
    faulty = FaultyStorage(storage, [Fault(kind, nth=nth)])
    with contextlib.suppress(AuroraError, Killed):
        collected(reopen(faulty), old)
    repository = reopen(storage)
    assert restore(repository, repository.resolve(new.id)) == [payloads(1)[0], *payloads(2)]
    with repository.write("db") as writer:
        again = commit(writer, [writer.put(ObjectType.CHUNK, one) for one in payloads(1)], day=4)
    assert restore(reopen(storage), again) == payloads(1)
    collected(repository, old)
    collected(repository)
    assert verify(reopen(storage), reopen(storage).backups(), Level.FULL).ok
    assert [entry.id for entry in repository.backups()] == [new.id, again.id]
    assert names(storage, "gc/") == []
    return len(faulty.calls) >= nth


def _pair() -> tuple[MemoryStorage, MemoryStorage, TestClock, Repository, MirrorView]:
    clock = TestClock()
    primary = MemoryStorage("primary", now=clock)
    secondary = MemoryStorage("secondary", now=clock)
    return primary, secondary, clock, create(primary), create_mirror(secondary)


def _on_mirror(secondary: Storage) -> Repository:
    return reopen(MirrorView.open(secondary, Passphrase(OUTER_PASSPHRASE)))


def test_the_secondary_is_collected_by_itself() -> None:
    """What is removed from the primary stays there until its own time has come."""
    primary, secondary, clock, repository, mirror = _pair()
    old = backup(repository, payloads(1), day=1)
    new = backup(repository, [payloads(1)[0], *payloads(2)], day=2)
    assert replicate(primary, mirror).is_complete
    clock.turn(days=3)
    collected(repository, old)
    there = _on_mirror(secondary)
    assert collected(there).objects == 0
    assert [entry.id for entry in there.backups()] == [old.id, new.id]
    assert restore(there, old) == payloads(1)
    done = collected(there, old)
    assert (done.backups, done.objects) == ([f"db/{old.id}"], 2)
    assert restore(_on_mirror(secondary), new) == [payloads(1)[0], *payloads(2)]
    assert replicate(primary, mirror).copied_objects == 0
    listed = "\n".join(secondary.objects)
    assert old.id not in listed


def test_the_secondarys_lists_name_nothing_in_clear() -> None:
    """A candidate list is read by whoever reads the storage."""
    primary, secondary, clock, repository, mirror = _pair()
    old = backup(repository, payloads(1), day=1)
    replicate(primary, mirror)
    clock.turn(days=3)
    lease = mirror.ground().lease("replicate")
    lease.begin()
    assert collected(_on_mirror(secondary), old).waiting == 4
    stored = mirror.ground().candidates()
    lease.end()
    assert stored <= set(secondary.objects)
    assert not any(name in text for text in stored for name in primary.objects)


def test_a_copying_run_is_waited_for() -> None:
    """What it found there, and did not copy again, stays until it has put the manifest."""
    primary, secondary, clock, repository, mirror = _pair()
    old = backup(repository, payloads(1), day=1)
    replicate(primary, mirror)
    backup(repository, payloads(1), day=2)
    clock.turn(days=3)
    there = _on_mirror(secondary)
    begun = FaultyStorage(primary, [Fault(Kind.DIE, "get", 1, prefix="refs/")])
    with pytest.raises(Killed):
        replicate(begun, mirror)
    # Its thread of heartbeats is gone with it; the lease itself was ended by nobody.
    secondary.delete([one for one in names(secondary, "leases/") if one.endswith("done")])
    assert collected(there, old).objects == 0
    assert replicate(primary, mirror).lacking  # what may be going is not relied on
    clock.turn(hours=25)
    assert collected(there).objects > 0
    assert replicate(primary, mirror).is_complete
    assert verify(_on_mirror(secondary), there.backups(), Level.FULL).ok


def test_nothing_on_its_way_out_is_copied_or_relied_on() -> None:
    """A name has one form on a secondary: put now, the collector would take it."""
    primary, secondary, clock, repository, mirror = _pair()
    old = backup(repository, payloads(1), day=1)
    replicate(primary, mirror)
    clock.turn(days=3)
    holder = mirror.ground().lease("restore")
    holder.begin()
    there = _on_mirror(secondary)
    assert collected(there, old).waiting > 0
    clock.turn(minutes=11)
    new = backup(repository, payloads(1), day=2)
    report = replicate(primary, mirror)
    assert not report.replicated(new)
    assert not report.replicated(old)
    holder.end()
    assert collected(there).objects > 0
    assert replicate(primary, mirror).is_complete
    assert restore(_on_mirror(secondary), new) == payloads(1)


def test_the_heartbeats_of_a_longer_lease_count() -> None:
    """Its own time to live is what it says in the lease."""
    _, clock, repository, old, _ = _old_and_new()
    long = Lease(
        repository.storage, sid=b"s" * 16, repository_id=repository.repository_id,
        mac_key=repository.signer.mac_key, purpose="backup", ttl_seconds=100 * 3600,
    )  # fmt: skip
    long.beat()
    clock.turn(hours=99)
    assert collected(repository, old).leases == 1
    clock.turn(hours=2)
    assert collected(repository).objects == 2


def test_ages_are_the_storages() -> None:
    """An object with a time in the future is young, and stays."""
    storage, clock, repository, old, _ = _old_and_new()
    chunk = next(one.name for one in repository.refs(old).objects if one.name.startswith("chunks/"))
    stored, info = storage.objects[chunk]
    later = replace(info, modified_at=clock.moment + timedelta(days=300))
    storage.objects[chunk] = (stored, later)
    collected(repository, old)
    assert chunk in storage.objects


def test_on_a_secondary_one_collector_gives_way() -> None:
    """What is copied again there has the name it had: two at once could take it."""
    primary, secondary, clock, repository, mirror = _pair()
    old = backup(repository, payloads(1), day=1)
    replicate(primary, mirror)
    clock.turn(days=3)
    other = mirror.ground().lease(CLAIM, ttl_seconds=3600)
    other.begin()
    other.stop()
    there = _on_mirror(secondary)
    with pytest.raises(RepositoryLocked, match="another prune"):
        collected(there, old)
    assert [entry.id for entry in there.backups()] == [old.id]
    clock.turn(minutes=61)
    assert collected(there, old).objects == 4


def test_a_list_that_is_finished_meanwhile_deletes_nothing_more() -> None:
    """Between the second look and the deletes another collector was done with it."""
    storage, _, repository, old, _ = _old_and_new()
    with repository.write("db"):
        collected(repository, old)
    [published] = names(storage, "gc/")

    class Late(FaultyStorage):
        """Loses the list when it is looked for, as if another collector had been done."""

        def head(self, name: str) -> ObjectInfo:
            if name == published:
                storage.delete([name])
            return super().head(name)

    late = Late(storage)
    assert collected(reopen(late)).objects == 2
    first = [call.operation for call in late.calls if call.name.startswith(("gc/", "chunks/"))]
    # Nothing went before it had a list of its own.
    assert first.index("delete") > first.index("put")
