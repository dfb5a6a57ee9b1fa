"""Verification names what is bad and who needs it; healing mends it from the other side."""

import pytest

from aurora.errors import UsageError
from aurora.repository.door import ClosedRepository, Ref, Repository
from aurora.repository.heal import heal
from aurora.repository.keys import WEAK_KDF_FOR_TESTS, Passphrase
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import MirrorView, replicate
from aurora.repository.verify import Level, verify
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Kind
from tests.unit.test_repository_kit import (
    PASSPHRASE,
    backup,
    commit,
    create,
    create_mirror,
    flip,
    names,
    payloads,
    reopen,
    restore,
    swap,
)

LEVELS = list(Level)
DEEP = [Level.CIPHERTEXT, Level.FULL]


def _two() -> tuple[MemoryStorage, Repository]:
    storage = MemoryStorage()
    repository = create(storage)
    backup(repository, payloads(1), day=1)
    backup(repository, [*payloads(1), *payloads(2)], day=2)
    return storage, repository


def _labels(repository: ClosedRepository) -> list[str]:
    return [f"{entry.database}/{entry.id}" for entry in repository.backups()]


@pytest.mark.parametrize("level", LEVELS)
def test_a_good_repository(level: Level) -> None:
    """Nothing bad, and the counts are those of the refs."""
    _, repository = _two()
    report = verify(repository, repository.backups(), level)
    assert report.ok
    assert report.touched_backups() == []
    assert report.checked_objects == report.needed_objects == 6 + 2 + 2
    assert (report.checked_bytes > 0) is (level is not Level.NAMES)


@pytest.mark.parametrize("level", [Level.NAMES, Level.CIPHERTEXT])
def test_no_key_is_needed(level: Level) -> None:
    """A host without any secret finds a flipped or lost object."""
    storage, repository = _two()
    bad = names(storage, "chunks/")[0]
    closed = ClosedRepository(storage)
    if level is Level.NAMES:
        storage.delete([bad])
    else:
        flip(storage, bad)
    report = verify(closed, closed.resolve("latest"), level)
    assert [one.name for one in report.bad] == [bad]
    assert set(report.bad[0].backups) == set(report.touched_backups()) <= set(_labels(repository))
    with pytest.raises(UsageError):
        verify(closed, closed.backups(), Level.FULL)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("prefix", ["chunks/", "sessions/", "backups/", "refs/"])
def test_a_lost_object_is_named(level: Level, prefix: str) -> None:
    """At every level, with every backup that needs it."""
    storage, repository = _two()
    oldest, newest = _labels(repository)
    entries = repository.backups()
    name = next(
        name
        for name in names(storage, prefix)
        if prefix in ("backups/", "refs/") or name in _names_of(repository, 0)
    )
    storage.delete([name])
    report = verify(reopen(storage), entries, level)
    assert [(one.name, one.problem) for one in report.bad] == [(name, "missing")]
    needed = {"backups/": {oldest}, "refs/": set()}.get(prefix, {oldest, newest})
    assert set(report.touched_backups()) >= needed - ({oldest} if prefix == "backups/" else set())


@pytest.mark.parametrize("level", DEEP)
@pytest.mark.parametrize("prefix", ["chunks/", "sessions/", "backups/", "refs/", "keys/", "config"])
def test_every_flip_is_named(level: Level, prefix: str) -> None:
    """In every byte of one object of each kind; one bit of each in turn."""
    storage, repository = _two()
    entries = repository.backups()
    name = names(storage, prefix)[0]
    good = storage.objects[name]
    step = max(1, len(good[0]) // 40)
    for at in range(0, len(good[0]), step):
        flip(storage, name, at, at % 8)
        report = verify(repository, entries, level)
        assert [one.name for one in report.bad] == [name]
        assert report.touched_backups() != []
        storage.objects[name] = good


@pytest.mark.parametrize("level", DEEP)
def test_swapped_objects_are_both_named(level: Level) -> None:
    """Each is a good object, in the wrong place."""
    storage, repository = _two()
    one, other = names(storage, "chunks/")[:2]
    swap(storage, one, other)
    report = verify(repository, repository.backups(), level)
    assert sorted(bad.name for bad in report.bad) == [one, other]


def test_a_truncated_object_is_named_by_a_listing() -> None:
    """Sizes alone tell, without reading."""
    storage, repository = _two()
    name = names(storage, "chunks/")[0]
    storage.put(name, storage.get(name)[:-1])
    report = verify(repository, repository.backups(), Level.NAMES)
    assert [(bad.name, bad.problem) for bad in report.bad] == [(name, "damaged")]


def test_a_listing_that_lags_is_asked_again() -> None:
    """An object that the listing does not show yet is looked at before it is called lost."""
    storage, repository = _two()
    entry = repository.resolve("latest")
    refs = repository.refs(entry)
    faulty = FaultyStorage(storage, [Fault(Kind.LAG, "list", hidden=3, prefix="chunks/")])
    for one in [one for one in refs.objects if one.name.startswith("chunks/")][:3]:
        faulty.put(one.name, storage.get(one.name))  # what was put last is hidden
    assert verify(ClosedRepository(faulty), entry, Level.NAMES).ok
    faulty.assert_all_used()


def test_full_follows_the_manifest() -> None:
    """An object that the manifest names and the refs do not is a fault of the manifest."""
    storage = MemoryStorage()
    repository = create(storage)
    with repository.write("db") as writer:
        kept, forgotten = (writer.put(ObjectType.CHUNK, one) for one in payloads(1, 2))
        table = writer.put(
            ObjectType.TABLE,
            f'{{"chunks":[{{"name":"{forgotten.name}","raw":{forgotten.raw}}}]}}'.encode(),
        )
        entry = commit(writer, [kept, table])
    assert verify(repository, entry, Level.CIPHERTEXT).ok
    report = verify(repository, entry, Level.FULL)
    assert [bad.name for bad in report.bad] == [entry.manifest_name]
    assert forgotten.name in report.bad[0].detail


def test_full_compares_the_promised_sizes() -> None:
    """A manifest that promises more bytes than a chunk holds."""
    repository = create(MemoryStorage())
    with repository.write("db") as writer:
        ref = writer.put(ObjectType.CHUNK, b"twelve bytes")
        entry = commit(writer, [Ref(ref.name, 13)])
    report = verify(repository, entry, Level.FULL)
    assert [(bad.name, bad.detail.endswith("12 bytes instead of 13")) for bad in report.bad] == [
        (ref.name, True)
    ]


def test_subsets_are_stable_and_cover_everything() -> None:
    """n of t: together all objects, apart from descriptions none twice."""
    storage = MemoryStorage()
    repository = create(storage)
    entry = backup(repository, payloads(1, 40, 200))
    counts = []
    for bad in names(storage, "chunks/")[:5]:
        flip(storage, bad)
        found = [
            part
            for part in (1, 2, 3)
            if not verify(repository, entry, Level.CIPHERTEXT, subset=(part, 3)).ok
        ]
        again = [
            part
            for part in (1, 2, 3)
            if not verify(repository, entry, Level.CIPHERTEXT, subset=(part, 3)).ok
        ]
        assert found == again
        counts.append(len(found))
        flip(storage, bad)
    assert counts == [1] * 5
    for wrong in ((0, 3), (4, 3)):
        with pytest.raises(UsageError):
            verify(repository, entry, subset=wrong)


def test_a_budget_ends_early_and_says_so() -> None:
    """What was not looked at is not called good."""
    repository = create(MemoryStorage())
    entry = backup(repository, payloads(1, 10))
    report = verify(repository, entry, Level.CIPHERTEXT, budget_seconds=0)
    assert report.ended_early
    assert report.checked_objects < report.needed_objects
    assert not verify(repository, entry, Level.CIPHERTEXT, budget_seconds=60).ended_early


def test_a_fallback_hides_no_damage() -> None:
    """Verification is about one storage."""
    storage, _ = _two()
    mirror = create_mirror(MemoryStorage())
    replicate(storage, mirror)
    bad = [names(storage, "chunks/")[0], names(storage, "refs/")[0]]
    for name in bad:
        flip(storage, name)
    repository = reopen(storage, fallback=mirror)
    report = verify(repository, repository.backups(), Level.FULL)
    assert sorted(one.name for one in report.bad) == bad


def test_a_forged_slot_is_named() -> None:
    """A checksum that fits is no signature."""
    storage, repository = _two()
    name = names(storage, "keys/")[0]
    storage.put("keys/0123456789abcdef", storage.get(name))
    report = verify(repository, repository.backups(), Level.FULL)
    assert [one.name for one in report.bad] == ["keys/0123456789abcdef"]


HEALABLE = ["config", "keys/", "sessions/", "chunks/", "refs/", "backups/"]


@pytest.mark.parametrize("prefix", HEALABLE)
@pytest.mark.parametrize("damage", ["delete", "flip"])
@pytest.mark.parametrize("towards", ["primary", "secondary"])
def test_either_storage_heals_the_other(prefix: str, damage: str, towards: str) -> None:
    """Every kind of object, both ways, proven before it is written."""
    storage, repository = _two()
    secondary = MemoryStorage()
    mirror = create_mirror(secondary)
    replicate(storage, mirror)
    refs = [repository.refs(entry) for entry in repository.backups()]
    name = names(storage, prefix)[0]
    hurt = storage if towards == "primary" else secondary
    hurt_name = name if towards == "primary" else mirror.stored_name(name)
    before = storage.get(name)
    if damage == "delete":
        hurt.delete([hurt_name])
    else:
        flip(hurt, hurt_name)
    if towards == "primary":
        report = heal(mirror, storage, [name], refs)
    else:
        report = heal(storage, mirror, [name], refs)
    assert (report.healed, report.failed, report.ok) == ([name], {}, True)
    assert storage.get(name) == mirror.get(name) == before
    for place in (storage, mirror):
        healed = reopen(place)
        assert verify(healed, healed.backups(), Level.FULL).ok


@pytest.mark.parametrize("prefix", HEALABLE)
def test_a_bad_copy_heals_nothing(prefix: str) -> None:
    """What the other storage holds is proven first; the target stays as it is."""
    storage, repository = _two()
    refs = [repository.refs(entry) for entry in repository.backups()]
    other = MemoryStorage()
    for name in storage.objects:
        other.put(name, storage.get(name))
    name = names(storage, prefix)[0]
    flip(other, name, len(other.get(name)) // 3)
    before = storage.get(name)
    report = heal(other, storage, [name, "notes/unknown"], refs)
    assert set(report.failed) == {name, "notes/unknown"}
    assert not report.ok
    assert storage.get(name) == before


def test_a_storage_that_does_not_take_the_copy_is_noticed() -> None:
    """Read back after it was written."""
    storage, repository = _two()
    refs = [repository.refs(entry) for entry in repository.backups()]
    name = names(storage, "chunks/")[0]
    target = MemoryStorage()
    for other in storage.objects:
        target.put(other, storage.get(other))
    faulty = FaultyStorage(target, [Fault(Kind.FLIP, "put")], seed=1)
    assert list(heal(storage, faulty, [name], refs).failed) == [name]


def test_the_way_back_when_the_primary_is_lost() -> None:
    """Heal an empty place from the secondary, name by name: the repository is back."""
    storage, repository = _two()
    secondary = MemoryStorage()
    mirror = create_mirror(secondary)
    replicate(storage, mirror)
    refs = [repository.refs(entry) for entry in repository.backups()]
    fresh = MemoryStorage("fresh")
    assert heal(mirror, fresh, [info.name for info in mirror.list("")], refs).ok
    back = Repository.open(fresh, Passphrase(PASSPHRASE))
    assert back.repository_id == repository.repository_id
    assert [restore(back, entry) for entry in back.backups()] == [
        payloads(1),
        [*payloads(1), *payloads(2)],
    ]
    assert verify(back, back.backups(), Level.FULL).ok
    assert MirrorView.create(MemoryStorage(), "x", kdf=WEAK_KDF_FOR_TESTS)


def _names_of(repository: Repository, index: int) -> set[str]:
    return {one.name for one in repository.refs(repository.backups()[index]).objects}


def test_another_slot_under_a_slots_name_heals_nothing() -> None:
    """A clear document proves itself, but it must also be the one of that name."""
    storage, repository = _two()
    other, target = MemoryStorage(), MemoryStorage()
    for name in storage.objects:
        other.put(name, storage.get(name))
        target.put(name, storage.get(name))
    first, second = names(storage, "keys/")
    other.put(first, storage.get(second))
    target.delete([first])
    assert list(heal(other, target, [first], []).failed) == [first]
    foreign = MemoryStorage()
    create(foreign)
    stranger = names(foreign, "keys/")[0]
    other.put(stranger, foreign.get(stranger))
    assert list(heal(other, target, [stranger], []).failed) == [stranger]
    assert heal(storage, target, [first], []).ok
    assert verify(repository, repository.backups(), Level.FULL).ok
