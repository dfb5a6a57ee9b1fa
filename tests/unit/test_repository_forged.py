"""Objects that somebody with the keys, a bug or bad memory could have made: still refused."""

import pytest

from aurora.errors import ObjectDamaged, ObjectMissing
from aurora.repository import canonical, envelope
from aurora.repository.door import BackupEntry, Ref, Repository
from aurora.repository.envelope import HEADER_BYTES
from aurora.repository.layout import ObjectType
from aurora.storage.memory import MemoryStorage
from tests.unit.test_repository_kit import backup, create, flip, names, payloads, reopen, restore


@pytest.fixture
def storage() -> MemoryStorage:
    """A repository with one backup."""
    made = MemoryStorage()
    backup(create(made), payloads(1))
    return made


def _reseal(repository: Repository, name: str, kind: ObjectType, payload: bytes) -> bytes:
    """*payload* sealed rightly as *name*, with the session that *name* has."""
    stored = repository.storage.get(name)
    return bytes(
        envelope.seal(
            payload,
            kind=kind,
            name=name,
            repository_id=repository.repository_id,
            session=repository._sessions.of(stored, name=name),
        )
    )


def _latest(repository: Repository) -> BackupEntry:
    return repository.resolve("latest")


def test_another_content_under_an_id(storage: MemoryStorage) -> None:
    """The seal is right, the id is not: what is read is what was named, or nothing."""
    repository = reopen(storage)
    one = repository.manifest(_latest(repository))["chunks"][0]
    wrong = b"x" * one["raw"]
    storage.put(one["name"], _reseal(repository, one["name"], ObjectType.CHUNK, wrong))
    with pytest.raises(ObjectDamaged, match="name promises"):
        repository.read(Ref(**one))


def test_another_size_than_the_manifest_promises(storage: MemoryStorage) -> None:
    """The caller's own number is compared."""
    repository = reopen(storage)
    one = repository.manifest(_latest(repository))["chunks"][0]
    with pytest.raises(ObjectDamaged, match="instead of"):
        repository.read(Ref(one["name"], one["raw"] + 1))


def test_a_manifest_that_the_refs_do_not_name(storage: MemoryStorage) -> None:
    """Sealed anew with equal contents, it is another manifest than was committed."""
    repository = reopen(storage)
    entry = _latest(repository)
    text = canonical.dumps(repository.manifest(entry))
    stored = _reseal(repository, entry.manifest_name, ObjectType.BACKUP, text)
    storage.put(entry.manifest_name, stored)
    with pytest.raises(ObjectDamaged, match="refs name"):
        reopen(storage).manifest(entry)
    # With the refs lost the seal alone has to do: a restore still goes on.
    storage.delete([entry.refs_name])
    again = reopen(storage)
    assert restore(again, _latest(again)) == payloads(1)


@pytest.mark.parametrize("text", [b"{}", b"[]", b"no", b'{"commit":{"backup":"a","database":"b"}}'])
def test_a_manifest_that_is_none(storage: MemoryStorage, text: bytes) -> None:
    """Or that of another backup."""
    repository = reopen(storage)
    entry = _latest(repository)
    storage.delete([entry.refs_name])
    stored = _reseal(repository, entry.manifest_name, ObjectType.BACKUP, text)
    storage.put(entry.manifest_name, stored)
    again = reopen(storage)
    with pytest.raises(ObjectDamaged, match=entry.id):
        again.manifest(_latest(again))


@pytest.mark.parametrize("at", range(HEADER_BYTES))
def test_a_flip_in_a_header_is_the_chunks_own_fault(storage: MemoryStorage, at: int) -> None:
    """Also in the session id, where it looks like a session that is lost."""
    repository = reopen(storage)
    one = repository.manifest(_latest(repository))["chunks"][0]
    flip(storage, one["name"], at)
    with pytest.raises(ObjectDamaged, match=one["name"]):
        reopen(storage).read(Ref(**one))


def test_a_lost_session_is_named(storage: MemoryStorage) -> None:
    """The chunk is good; what is missing is what opens it."""
    lost = names(storage, "sessions/")[0]
    repository = reopen(storage)
    one = repository.manifest(_latest(repository))["chunks"][0]
    storage.delete([lost])
    with pytest.raises(ObjectMissing, match=lost):
        reopen(storage).read(Ref(**one))
