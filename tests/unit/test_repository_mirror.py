"""The secondary: a complete copy under its own keys, whole backups only, never damage."""

import hashlib
import itertools
from dataclasses import replace

import pytest

from aurora.errors import (
    ObjectDamaged,
    ObjectMissing,
    StorageUnavailable,
    UnsupportedRepository,
    WrongKey,
)
from aurora.events import Event, Warned
from aurora.repository import signed
from aurora.repository.door import ClosedRepository, Repository
from aurora.repository.keys import WEAK_KDF_FOR_TESTS, Passphrase, RecoveryCode
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import MirrorView, replicate
from aurora.repository.refs import RefObject, write_refs
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Killed, Kind
from tests.unit.test_repository_kit import (
    OUTER_PASSPHRASE,
    PASSPHRASE,
    Forgetful,
    backup,
    create,
    create_mirror,
    flip,
    names,
    payloads,
    reopen,
    restore,
    swap,
)


def _pair() -> tuple[MemoryStorage, MemoryStorage, MirrorView]:
    primary, secondary = MemoryStorage("primary"), MemoryStorage("secondary")
    repository = create(primary)
    backup(repository, payloads(1), day=1)
    backup(repository, [*payloads(1), *payloads(2)], day=2)
    return primary, secondary, create_mirror(secondary)


def test_a_mirror_is_complete_and_the_second_run_idle() -> None:
    """Every object that a backup needs, and config, key slots and refs."""
    primary, _, mirror = _pair()
    report = replicate(primary, mirror)
    assert report.is_complete
    assert all(report.replicated(entry) for entry in ClosedRepository(primary).backups())
    mirrored = {info.name: info.size for info in mirror.list("")}
    wanted = {
        name: len(stored)
        for name, (stored, _) in primary.objects.items()
        if not name.startswith(("leases/", "gc/"))
    }
    assert mirrored == wanted
    again = replicate(primary, mirror)
    assert (again.copied_objects, again.is_complete) == (0, True)
    assert again.present_objects > 0


def test_everything_restores_from_the_secondary_alone() -> None:
    """With the primary's storage gone: own secret for the outside, old secret for the inside."""
    primary, secondary, mirror = _pair()
    replicate(primary, mirror)
    del primary
    view = MirrorView.open(secondary, Passphrase(OUTER_PASSPHRASE))
    repository = Repository.open(view, Passphrase(PASSPHRASE))
    first, second = repository.backups()
    assert restore(repository, first) == payloads(1)
    assert restore(repository, second) == [*payloads(1), *payloads(2)]
    with pytest.raises(WrongKey):
        MirrorView.open(secondary, Passphrase(PASSPHRASE))


def test_the_secondarys_own_recovery_code() -> None:
    """Printed at its making, like the primary's."""
    storage = MemoryStorage()
    mirror, code = MirrorView.create(storage, OUTER_PASSPHRASE, kdf=WEAK_KDF_FOR_TESTS)
    mirror.put("chunks/x", b"1")
    assert MirrorView.open(storage, RecoveryCode(code)).get("chunks/x") == b"1"


def test_nothing_of_the_primary_shows() -> None:
    """Neither names, nor ids, nor bytes of the primary are on the secondary."""
    primary, secondary, mirror = _pair()
    replicate(primary, mirror)
    stored = b"".join(data for data, _ in secondary.objects.values())
    listed = "\n".join(secondary.objects)
    for name, (data, _) in primary.objects.items():
        assert name == "config" or name not in listed
        assert data not in stored
        assert name.rpartition("/")[2].encode() not in stored or name == "config"
    assert ClosedRepository(primary).repository_id.hex().encode() not in stored
    assert {name.partition("/")[0] for name in secondary.objects} == {
        "config", "keys", "outer", "primary", "sessions", "chunks", "backups", "refs", "leases",
    }  # fmt: skip


def test_names_fit_every_storage() -> None:
    """The longest name of the primary still gives steps that file systems take."""
    mirror = create_mirror(MemoryStorage())
    long = f"refs/{'a' * 64}/20261123T153742Z-incremental-kqzmw"
    stored = mirror.stored_name(long)
    assert max(map(len, stored.split("/"))) <= 180
    mirror.put(long, b"1")
    assert [info.name for info in mirror.list("refs/")] == [long]
    assert mirror.head(long).size == 1
    mirror.delete([long])
    with pytest.raises(ObjectMissing, match=long):
        mirror.get(long)
    with pytest.raises(ObjectMissing, match=long):
        mirror.head(long)


def test_another_secondary_has_other_names() -> None:
    """Names cannot be compared between storages."""
    one, other = create_mirror(MemoryStorage()), create_mirror(MemoryStorage())
    assert one.stored_name("chunks/x") != other.stored_name("chunks/x")
    assert one.stored_name("chunks/x") == one.stored_name("chunks/x")


def test_foreign_names_are_passed_over() -> None:
    """Junk that somebody put there does not stop a listing."""
    storage = MemoryStorage()
    mirror = create_mirror(storage)
    mirror.put("chunks/x", b"1")
    stored = mirror.stored_name("chunks/x")
    for junk in ("chunks/junk", "chunks/aa/bb", f"tables/{stored.partition('/')[2]}", "a.txt"):
        storage.put(junk, storage.get(stored))
    assert [info.name for info in mirror.list("")] == ["chunks/x"]
    assert list(mirror.list("tables/")) == []


def test_every_bit_of_a_wrapped_object_counts() -> None:
    """And its length, and its place."""
    storage = MemoryStorage()
    mirror = create_mirror(storage)
    mirror.put("chunks/x", b"some ciphertext of the primary")
    mirror.put("chunks/y", b"other ciphertext of it by size")
    name = mirror.stored_name("chunks/x")
    good = storage.objects[name]
    for at, bit in itertools.product(range(len(good[0])), range(8)):
        flip(storage, name, at, bit)
        with pytest.raises(ObjectDamaged, match="chunks/x"):
            mirror.get("chunks/x")
        storage.objects[name] = good
    for length in range(len(good[0])):
        storage.objects[name] = (good[0][:length], good[1])
        with pytest.raises(ObjectDamaged, match="chunks/x"):
            mirror.get("chunks/x")
    storage.objects[name] = good
    swap(storage, name, mirror.stored_name("chunks/y"))
    with pytest.raises(ObjectDamaged, match="chunks/x"):
        mirror.get("chunks/x")


def test_damage_is_never_copied() -> None:
    """It is reported, and the backups that need it are not called replicated."""
    primary, _, mirror = _pair()
    first, second = ClosedRepository(primary).backups()
    only_second = _only_in(primary, second.id)
    flip(primary, only_second)
    report = replicate(primary, mirror)
    assert set(report.bad) == {only_second}
    assert report.replicated(first)
    assert not report.replicated(second)
    assert report.lacking["db", second.id] == [only_second, second.manifest_name]
    with pytest.raises(ObjectMissing):
        mirror.get(only_second)
    assert [entry.id for entry in Repository.open(mirror, Passphrase(PASSPHRASE)).backups()] == [
        first.id
    ]


@pytest.mark.parametrize("prefix", ["chunks/", "refs/", "backups/", "sessions/", "keys/"])
def test_what_is_missing_or_damaged_is_named(prefix: str) -> None:
    """For every kind of object."""
    primary, _, mirror = _pair()
    name = names(primary, prefix)[-1]
    flip(primary, name, len(primary.get(name)) // 2)
    assert name in replicate(primary, mirror).bad
    with pytest.raises(ObjectMissing):
        mirror.get(name)


def test_a_copy_that_was_cut_is_made_again() -> None:
    """The next run mends what a listing shows to be wrong on the secondary."""
    primary, secondary, mirror = _pair()
    replicate(primary, mirror)
    lost, cut = names(primary, "chunks/")[:2]
    mirror.delete([lost])
    stored = mirror.stored_name(cut)
    secondary.put(stored, secondary.get(stored)[:-1])
    report = replicate(primary, mirror)
    assert (report.copied_objects, report.is_complete) == (2, True)
    assert mirror.get(cut) == primary.get(cut)


def test_manifests_come_last_and_in_time_order() -> None:
    """A secondary that lists a backup holds all of it, wherever the run stops."""
    primary, secondary, _ = _pair()
    puts = _count_puts(primary)
    for nth in range(1, puts + 1):
        secondary = MemoryStorage()
        create_mirror(secondary)
        faulty = FaultyStorage(secondary, [Fault(Kind.DIE, "put", nth)])
        with pytest.raises(Killed):
            replicate(primary, MirrorView.open(faulty, Passphrase(OUTER_PASSPHRASE)), workers=2)
        view = MirrorView.open(secondary, Passphrase(OUTER_PASSPHRASE))
        if list(view.list("backups/")):
            repository = Repository.open(view, Passphrase(PASSPHRASE))
            for entry in repository.backups():
                assert len(restore(repository, entry)) in (3, 6)
        assert replicate(primary, view).is_complete


def test_a_storage_that_fails_stops_the_run_and_the_next_goes_on() -> None:
    """StorageUnavailable is raised, not noted as damage."""
    primary, _, mirror = _pair()
    faulty = FaultyStorage(primary, [Fault(Kind.BEFORE, "get", 1, prefix="chunks/")])
    with pytest.raises(StorageUnavailable):
        replicate(faulty, mirror)
    assert replicate(primary, mirror).is_complete


def test_only_the_names_that_were_asked_for() -> None:
    """A run may copy just what was written."""
    primary, _, mirror = _pair()
    chosen = names(primary, "chunks/")[:1]
    report = replicate(primary, mirror, names=chosen)
    assert [info.name for info in mirror.list("")] == chosen
    assert not report.is_complete


def test_the_secondary_of_another_repository_is_refused() -> None:
    """Two repositories would mix there."""
    primary, _, mirror = _pair()
    replicate(primary, mirror)
    other = MemoryStorage()
    create(other)
    with pytest.raises(UnsupportedRepository, match="another repository"):
        replicate(other, mirror)


def test_deletions_are_not_copied() -> None:
    """What the primary lost or pruned stays on the secondary."""
    primary, _, mirror = _pair()
    replicate(primary, mirror)
    before = {info.name for info in mirror.list("")}
    primary.delete([*names(primary, "chunks/"), *names(primary, "backups/")])
    replicate(primary, mirror)
    assert {info.name for info in mirror.list("")} == before


def test_a_secondary_without_its_outer_key() -> None:
    """Says what is lost."""
    storage = MemoryStorage()
    create_mirror(storage)
    storage.delete(names(storage, "outer/"))
    with pytest.raises(ObjectMissing, match="outer key"):
        MirrorView.open(storage, Passphrase(OUTER_PASSPHRASE))


@pytest.mark.parametrize("damage", ["flip", "delete", "refuse"])
def test_a_restore_goes_on_from_the_secondary(damage: str) -> None:
    """Any object of the primary may be lost or broken: the fallback has it, and says so."""
    primary, _, mirror = _pair()
    replicate(primary, mirror)
    heard: list[Event] = []
    for name in [name for name in primary.objects if not name.startswith("leases/")]:
        storage: FaultyStorage | MemoryStorage = primary
        kept = primary.objects[name]
        if damage == "flip":
            flip(primary, name, 10)
        elif damage == "delete":
            del primary.objects[name]
        else:
            storage = FaultyStorage(primary, [Fault(Kind.BEFORE, "get", prefix=name, times=99)])
        heard.clear()
        repository = reopen(storage, fallback=mirror, sink=heard.append)
        first, second = repository.backups()
        assert restore(repository, first) == payloads(1)
        assert restore(repository, second) == [*payloads(1), *payloads(2)]
        warned = [event for event in heard if isinstance(event, Warned)]
        if not (name.startswith("backups/") and damage == "delete"):
            assert any(name in event.message for event in warned) or name.startswith("keys/")
        assert all("aurora backup heal" in event.hint for event in warned)
        primary.objects[name] = kept


def test_without_a_good_copy_the_first_error_stands() -> None:
    """Both damaged: the primary's object is named, and nothing wrong is returned."""
    primary, secondary, mirror = _pair()
    replicate(primary, mirror)
    name = names(primary, "chunks/")[0]
    flip(primary, name)
    flip(secondary, mirror.stored_name(name))
    repository = reopen(primary, fallback=mirror)
    with pytest.raises(ObjectDamaged, match=name):
        [restore(repository, entry) for entry in repository.backups()]


def test_audit_is_mirrored() -> None:
    """The trail of runs survives the primary."""
    primary, _, mirror = _pair()
    primary.put(f"{ObjectType.AUDIT.prefix}2026/1", b"{}")
    replicate(primary, mirror)
    assert mirror.get("audit/2026/1") == b"{}"


def _only_in(primary: MemoryStorage, backup_id: str) -> str:
    """A chunk that only this backup needs."""
    closed = ClosedRepository(primary)
    used: dict[str, set[str]] = {}
    for entry in closed.backups():
        for one in closed.refs(entry).objects:
            used.setdefault(one.name, set()).add(entry.id)
    return next(
        name for name, by in used.items() if by == {backup_id} and name.startswith("chunks/")
    )


def _count_puts(primary: MemoryStorage) -> int:
    counter = FaultyStorage(MemoryStorage())
    create_mirror(MemoryStorage())
    mirror = MirrorView.create(counter, OUTER_PASSPHRASE, kdf=WEAK_KDF_FOR_TESTS)[0]
    before = len(counter.nths("put"))
    replicate(primary, mirror)
    return len(counter.nths("put")) - before


def _alter(primary: MemoryStorage) -> tuple[str, str, str]:
    """What somebody does who has the primary and no key: a chunk, its refs, a key slot."""
    closed = ClosedRepository(primary)
    entry = closed.backups()[0]
    refs = closed.refs(entry)
    chunk, slot = refs.objects[0], names(primary, "keys/")[0]
    before = primary.get(entry.refs_name)
    stored = before
    evil = b""
    while len(stored) == len(before):  # what has the same size is not looked at without a key
        evil += b"evil"
        forged = RefObject(chunk.name, len(evil), hashlib.sha256(evil).hexdigest())
        stored = write_refs(
            replace(refs, objects=[forged, *refs.objects[1:]]),
            repository_id=closed.repository_id,
            mac_key=bytes(32),
        )
    primary.put(chunk.name, evil)
    primary.put(entry.refs_name, stored)
    document = signed.read_clear(primary.get(slot), name=slot) | {"label": "x" * 99}
    document.pop("mac")
    primary.put(slot, signed.write_clear(document, name=slot, repository_id=b"", mac_key=b""))
    return chunk.name, entry.refs_name, slot


def test_what_was_altered_on_the_primary_is_not_copied_over_a_good_copy() -> None:
    """Refs to match need no key; the copy that opens on the secondary is the older truth."""
    primary, _, mirror = _pair()
    replicate(primary, mirror)
    kept = {info.name: mirror.get(info.name) for info in mirror.list("")}
    altered = _alter(primary)
    report = replicate(primary, mirror)
    assert set(report.bad) == set(altered)
    assert not report.is_complete
    assert {info.name: mirror.get(info.name) for info in mirror.list("")} == kept
    repository = reopen(mirror)
    assert [len(restore(repository, entry)) for entry in repository.backups()] == [3, 6]


@pytest.mark.parametrize("prefix", ["chunks/", "sessions/", "refs/", "backups/"])
def test_a_secondary_that_keeps_nothing_is_noticed(prefix: str) -> None:
    """Its answers are not believed: no backup is called replicated that is not there."""
    primary, _, _ = _pair()
    secondary = Forgetful()
    mirror = create_mirror(secondary)
    secondary.forgets = prefix
    report = replicate(primary, mirror)
    assert report.bad
    assert not any(report.replicated(entry) for entry in ClosedRepository(primary).backups())
    assert not list(mirror.list("backups/"))
    secondary.forgets = "\n"
    assert replicate(primary, mirror).is_complete


def test_a_stray_object_among_the_outer_keys_locks_nobody_out() -> None:
    """One good key opens the secondary."""
    primary, secondary, mirror = _pair()
    replicate(primary, mirror)
    good = names(secondary, "outer/")[0]
    secondary.put("outer/README.txt", b"hello")
    secondary.put(f"outer/{'00' * 16}", secondary.get(good))
    again = MirrorView.open(secondary, Passphrase(OUTER_PASSPHRASE))
    assert again.get("config") == primary.get("config")
    flip(secondary, good)
    with pytest.raises(ObjectDamaged, match="outer/"):
        MirrorView.open(secondary, Passphrase(OUTER_PASSPHRASE))


def test_the_secondarys_own_slots() -> None:
    """Named, and told from what somebody put there."""
    _, secondary, mirror = _pair()
    assert sorted(slot.kind for slot in mirror.slots()) == ["passphrase", "recovery-code"]
    secondary.put(f"keys/{'00' * 8}", secondary.get(names(secondary, "keys/")[0]))
    assert [slot.genuine for slot in mirror.slots()] == [False, True, True]
