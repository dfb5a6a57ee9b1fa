"""A crash at any call of a run: the last good backup restores, the next run succeeds."""

import contextlib
from collections.abc import Callable

import pytest

from aurora.errors import AuroraError
from aurora.repository.door import BackupEntry, Repository
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import MirrorView, replicate
from aurora.repository.verify import Level, verify
from aurora.storage.base import Storage
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Killed, Kind
from tests.unit.test_repository_kit import (
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

OLD = payloads(1)
NEW = [*payloads(1)[:2], *payloads(2)]


def _seeded() -> tuple[MemoryStorage, BackupEntry]:
    """A repository with one backup and one key slot, so that every run makes equal calls."""
    storage = MemoryStorage()
    repository = create(storage)
    for slot in repository.slots():
        if slot.kind != "passphrase":
            repository.remove_slot(slot.id)
    return storage, backup(repository, OLD, day=1)


def _run(storage: Storage) -> BackupEntry:
    """One backup of four chunks (two held already) and a table, one upload at a time."""
    with reopen(storage).write("db", workers=1, in_flight=1) as writer:
        refs = [writer.put(ObjectType.CHUNK, content) for content in NEW]
        writer.put(ObjectType.TABLE, b"{}")
        return commit(writer, refs, day=2)


def _count() -> int:
    storage, _ = _seeded()
    counter = FaultyStorage(storage)
    _run(counter)
    return len(counter.calls)


CALLS = range(1, _count() + 1)


def _check_all_is_well(storage: MemoryStorage, before: BackupEntry) -> None:
    """The earlier backup is whole, whatever is listed restores, a new run succeeds."""
    repository = reopen(storage)
    entries = {entry.id: entry for entry in repository.backups()}
    assert restore(repository, entries.pop(before.id)) == OLD
    for entry in entries.values():
        assert restore(repository, entry) == NEW
    assert verify(repository, repository.backups(), Level.FULL).ok
    after = backup(reopen(storage), [*NEW, b"one more"], day=3)
    assert restore(reopen(storage), after) == [*NEW, b"one more"]
    assert reopen(storage).chain("db").faults == ()


@pytest.mark.parametrize("nth", CALLS)
@pytest.mark.parametrize("kind", [Kind.DIE, Kind.DIE_AFTER])
def test_death_at_every_call(kind: Kind, nth: int) -> None:
    """Before and after its effect, at each call of the run in turn."""
    storage, before = _seeded()
    faulty = FaultyStorage(storage, [Fault(kind, nth=nth)])
    with pytest.raises(Killed):
        _run(faulty)
    faulty.assert_all_used()
    _check_all_is_well(storage, before)


@pytest.mark.parametrize("nth", CALLS)
@pytest.mark.parametrize("kind", [Kind.BEFORE, Kind.AFTER, Kind.FULL])
def test_an_error_at_every_call(kind: Kind, nth: int) -> None:
    """Whether it was done or not: committed or not, never half."""
    storage, before = _seeded()
    faulty = FaultyStorage(storage, [Fault(kind, nth=nth)])
    try:
        entry = _run(faulty)
    except AuroraError:
        pass
    else:
        assert restore(reopen(storage), entry) == NEW
    _check_all_is_well(storage, before)


def _puts() -> range:
    storage, _ = _seeded()
    counter = FaultyStorage(storage)
    _run(counter)
    return counter.nths("put")


@pytest.mark.parametrize("nth", _puts())
def test_a_torn_put(nth: int) -> None:
    """A part of an object under its name and an error: never a backup that looks good."""
    storage, before = _seeded()
    faulty = FaultyStorage(storage, [Fault(Kind.TORN, "put", nth)])
    with contextlib.suppress(AuroraError):
        _run(faulty)
    faulty.assert_all_used()
    repository = reopen(storage)
    assert restore(repository, repository.resolve(before.id)) == OLD
    for entry in repository.backups():
        # A torn manifest is listed as damaged: it was never committed, and is not hidden.
        good = verify(repository, entry, Level.FULL).ok
        assert good is (entry.damage is None)
    after = backup(reopen(storage), NEW, day=3)
    assert restore(reopen(storage), after) == NEW


@pytest.mark.parametrize("nth", _puts())
def test_a_put_that_stores_something_else(nth: int) -> None:
    """One bit wrong and no error: a verification finds it, another run does without it."""
    storage, before = _seeded()
    faulty = FaultyStorage(storage, [Fault(Kind.FLIP, "put", nth)], seed=nth)
    with contextlib.suppress(AuroraError):
        _run(faulty)
    faulty.assert_all_used()
    struck = next(call.name for call in faulty.calls if call.struck)
    repository = reopen(storage)
    report = verify(repository, repository.backups(), Level.FULL)
    expected = [] if struck.startswith(("leases/", "tables/")) else [struck]
    assert [bad.name for bad in report.bad] == expected
    with reopen(storage).write("db", distrusted=set(expected)) as writer:
        after = commit(writer, [writer.put(ObjectType.CHUNK, one) for one in NEW], day=3)
    assert restore(reopen(storage), after) == NEW
    assert restore(reopen(storage), before) == OLD


@pytest.mark.parametrize("seed", range(15))
def test_a_storage_that_fails_at_random(seed: int) -> None:
    """One call in ten fails; runs are repeated until one gets through."""
    storage, before = _seeded()
    for attempt in range(60):
        faulty = FaultyStorage(storage, seed=seed * 1000 + attempt, rate=0.1)
        try:
            _run(faulty)
        except AuroraError:
            continue
        break
    else:
        pytest.fail("no run got through")
    _check_all_is_well(storage, before)


@pytest.mark.parametrize("hidden", [1, 4, 100])
def test_a_listing_that_lags(hidden: int) -> None:
    """What a listing hides is uploaded again, never referred to by hope."""
    inner = MemoryStorage()
    create(inner)
    faulty = FaultyStorage(inner, [Fault(Kind.LAG, "list", hidden=hidden, times=999)])
    backup(reopen(faulty), OLD, day=1)
    with reopen(faulty).write("db") as writer:
        refs = [writer.put(ObjectType.CHUNK, content) for content in OLD]
        writer.flush()
    assert {ref.name for ref in refs} <= set(inner.objects)


def _restore_or_error(storage: MemoryStorage, entry: BackupEntry) -> list[bytes] | int:
    """The contents of the backup, or the exit code of the error."""
    try:
        repository = reopen(storage)
        return restore(repository, repository.resolve(entry.id))
    except AuroraError as error:
        return error.exit_code


def _damages() -> list[tuple[str, Callable[[MemoryStorage, str], None]]]:
    return [
        ("flip", lambda storage, name: flip(storage, name, len(storage.get(name)) // 2, 3)),
        ("cut", lambda storage, name: storage.put(name, storage.get(name)[:-1])),
        ("grow", lambda storage, name: storage.put(name, storage.get(name) + b"\0")),
        ("lose", lambda storage, name: storage.delete([name])),
        ("empty", lambda storage, name: storage.put(name, b"\0")),
    ]


@pytest.mark.parametrize("damage", [damage for _, damage in _damages()], ids=lambda _: "")
def test_no_damage_gives_wrong_rows(damage: Callable[[MemoryStorage, str], None]) -> None:
    """Each object of a repository in turn: right contents or an error, nothing between."""
    storage, _ = _seeded()
    entry = _run(storage)
    for name in names(storage):
        kept = storage.objects[name]
        damage(storage, name)
        found = _restore_or_error(storage, entry)
        assert found in (NEW, 10, 12, 40, 41, 42)
        storage.objects[name] = kept


def test_every_pair_of_objects_exchanged() -> None:
    """Two good objects in each other's place: noticed, or harmless."""
    storage, _ = _seeded()
    entry = _run(storage)
    listed = names(storage)
    for at, one in enumerate(listed):
        for other in listed[at + 1 :]:
            first, second = storage.objects[one], storage.objects[other]
            storage.objects[one], storage.objects[other] = second, first
            assert _restore_or_error(storage, entry) in (NEW, 10, 12, 40, 41, 42)
            storage.objects[one], storage.objects[other] = first, second


def test_a_foreign_repositorys_objects_are_refused() -> None:
    """Even with the same passphrase, contents and names."""
    storage, entry = _seeded()
    other = MemoryStorage()
    backup(create(other), OLD, day=1)
    mine, theirs = names(storage, "chunks/"), names(other, "chunks/")
    for name in mine:
        storage.put(name, other.get(theirs[0]))
    for name in names(other, "sessions/"):
        storage.put(name, other.get(name))
    with pytest.raises(AuroraError) as info:
        restore(reopen(storage), entry)
    assert info.value.context["name"] in mine


def test_a_crash_of_the_mirror_run_leaves_the_primary_alone() -> None:
    """Copying reads, and nothing else."""
    storage, _ = _seeded()
    before = dict(storage.objects)
    secondary = MemoryStorage()
    mirror = create_mirror(secondary)
    counter = FaultyStorage(storage)
    replicate(counter, mirror)
    assert {call.operation for call in counter.calls} <= {"get", "list", "head"}
    assert storage.objects == before
    assert isinstance(mirror, MirrorView)
    assert [Repository.backups(reopen(mirror))[0].id] == [reopen(storage).backups()[0].id]
