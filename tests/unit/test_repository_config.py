"""The config object and the making of a repository."""

import pytest

from aurora.errors import (
    ObjectDamaged,
    RepositoryNotFound,
    StorageUnavailable,
    UnsupportedRepository,
    UsageError,
)
from aurora.repository import signed
from aurora.repository.door import ClosedRepository, Repository
from aurora.repository.keys import WEAK_KDF_FOR_TESTS, Passphrase
from aurora.repository.mirror import MirrorView
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Kind
from tests.unit.test_repository_kit import (
    OUTER_PASSPHRASE,
    PASSPHRASE,
    backup,
    create,
    create_mirror,
    flip,
    payloads,
    reopen,
)


def test_no_repository() -> None:
    """Exit code 10, and the address in the message."""
    with pytest.raises(RepositoryNotFound, match="memory://test") as info:
        reopen(MemoryStorage())
    assert info.value.exit_code == 10


def test_a_closed_repository_tells_what_it_holds() -> None:
    """Without any key: config, databases, backups, refs."""
    storage = MemoryStorage()
    entry = backup(create(storage), payloads(1))
    closed = ClosedRepository(storage)
    assert closed.config().role == "primary"
    assert closed.databases() == ["db"]
    assert closed.backups() == [entry]
    refs = closed.refs(closed.resolve("latest"))
    assert len(refs.objects) == 3 + 1  # the chunks and their session
    assert refs.stored_bytes == entry.stored_bytes
    assert {one.name for one in refs.all_objects()} <= set(storage.objects)


def test_a_newer_format_is_left_alone() -> None:
    """Even when its config could not be proven by this version."""
    storage = MemoryStorage()
    create(storage)
    storage.put("config", b'{"format":2,"anything":"else"}')
    with pytest.raises(UnsupportedRepository, match="format 2") as info:
        reopen(storage)
    assert info.value.exit_code == 13
    assert "newer" in info.value.hint


def test_exchanged_storages_are_noticed() -> None:
    """Opening a secondary as the primary, and the other way round, says so."""
    one, two = MemoryStorage("one"), MemoryStorage("two")
    create(one)
    create_mirror(two)
    with pytest.raises(UnsupportedRepository, match="secondary") as info:
        Repository.open(two, Passphrase(OUTER_PASSPHRASE))
    assert "exchanged" in info.value.hint
    with pytest.raises(UnsupportedRepository, match="primary"):
        MirrorView.open(one, Passphrase(PASSPHRASE))


def test_every_flip_in_the_config_is_noticed() -> None:
    """Never a repository that opens with an altered config."""
    storage = MemoryStorage()
    create(storage)
    good = storage.objects["config"]
    for at in range(len(good[0])):
        flip(storage, "config", at, at % 8)
        with pytest.raises((ObjectDamaged, UnsupportedRepository)):
            ClosedRepository(storage)
        storage.objects["config"] = good


def test_a_config_that_the_storage_wrote_is_refused() -> None:
    """A right checksum is no signature: only the MAC is."""
    storage, other = MemoryStorage(), MemoryStorage()
    create(storage)
    create(other)
    storage.put("config", other.get("config"))
    with pytest.raises(ObjectDamaged):
        reopen(storage)


@pytest.mark.parametrize("name", ["config", "chunks/aa/x", "notes.txt"])
def test_create_needs_an_empty_place(name: str) -> None:
    """Whatever is there stays as it is."""
    storage = MemoryStorage()
    storage.put(name, b"something")
    before = dict(storage.objects)
    with pytest.raises(UsageError, match="not empty"):
        create(storage)
    assert storage.objects == before


def test_create_twice_is_refused() -> None:
    """The first repository goes on."""
    storage = MemoryStorage()
    create(storage)
    with pytest.raises(UsageError, match="not empty"):
        create(storage)
    reopen(storage)


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_interrupted_creation_is_no_repository_and_can_be_repeated(nth: int) -> None:
    """The config is put last; leftovers of slots are no obstacle."""
    inner = MemoryStorage()
    faulty = FaultyStorage(inner, [Fault(Kind.BEFORE, "put", nth)])
    with pytest.raises(StorageUnavailable):
        create(faulty)
    faulty.assert_all_used()
    with pytest.raises(RepositoryNotFound):
        reopen(inner)
    create(inner)
    reopen(inner)


def test_a_lost_answer_to_the_config_is_no_failure() -> None:
    """A put that was done counts as done."""
    faulty = FaultyStorage(MemoryStorage(), [Fault(Kind.AFTER, "put", 1, prefix="config")])
    create(faulty)
    faulty.assert_all_used()
    reopen(faulty)


def test_a_secondary_needs_an_empty_place_too() -> None:
    """A mirror is not put over a primary."""
    storage = MemoryStorage()
    create(storage)
    with pytest.raises(UsageError, match="not empty"):
        MirrorView.create(storage, OUTER_PASSPHRASE, kdf=WEAK_KDF_FOR_TESTS)


@pytest.mark.parametrize(
    "member",
    [
        {"created_at": "0001-01-01T00:00:00+23:59"},
        {"role": ["primary"]},
        {"role": {}},
        {"role": "third"},
        {"repository": 5},
        {"repository": "00"},
    ],
)
def test_a_hostile_config_is_damage(member: dict[str, object]) -> None:
    """Read before there is any key, so anything may be in it."""
    storage = MemoryStorage()
    create(storage)
    document = signed.read_clear(storage.get("config"), name="config") | member
    document.pop("mac")
    stored = signed.write_clear(document, name="config", repository_id=b"", mac_key=b"")
    storage.put("config", stored)
    with pytest.raises(ObjectDamaged, match="sense"):
        ClosedRepository(storage)


def test_nesting_beyond_all_bounds_is_damage() -> None:
    """In reading and in writing, at whatever depth either gives up."""
    storage = MemoryStorage()
    create(storage)
    for depth in (*range(880, 1010, 2), 30_000):
        text = b'{"a":' + b"[" * depth + b"]" * depth + b"}\n"
        storage.put("config", text)
        with pytest.raises(ObjectDamaged):
            ClosedRepository(storage)


def test_a_config_that_changes_between_two_reads() -> None:
    """The second one is proven like the first."""
    other = MemoryStorage()
    create(other)

    class Turncoat(MemoryStorage):
        reads = -99

        def get(self, name: str) -> bytes:
            self.reads += name == "config"
            return other.get(name) if name == "config" and self.reads > 1 else super().get(name)

    storage = Turncoat()
    create(storage)
    storage.reads = 0
    with pytest.raises(ObjectDamaged, match="config"):
        reopen(storage)


def test_leavings_of_a_trial_do_not_occupy_a_place() -> None:
    """Where deleting is refused they stay."""
    storage = MemoryStorage()
    storage.put("probe/x-large", b"x")
    create(storage)
    assert reopen(storage).backups() == []
