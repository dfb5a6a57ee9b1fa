"""Objects that somebody with the keys, a bug or bad memory could have made: still refused."""

import hashlib
import os
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from aurora.errors import ObjectDamaged, ObjectMissing, UsageError
from aurora.repository import canonical, envelope, outer, refs, signed
from aurora.repository.door import BackupEntry, ClosedRepository, Ref, Repository
from aurora.repository.envelope import HEADER_BYTES
from aurora.repository.layout import ObjectType
from aurora.repository.verify import verify
from aurora.storage.base import MAX_OBJECT
from aurora.storage.local import LocalStorage
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


def test_a_key_that_opens_is_not_enough(storage: MemoryStorage) -> None:
    """GCM does not commit to its key: the header's commitment must be that of the key."""
    repository = reopen(storage)
    name = names(storage, "chunks/")[0]
    session = repository._sessions.of(storage.get(name), name=name)
    place = (session, ObjectType.CHUNK, repository.repository_id, name)
    key, _ = envelope._object_key(*place)
    header = storage.get(name)[:36] + bytes(32)
    inner = envelope._pack(b"rows", 1, name)
    associated = header + repository.repository_id + name.encode()
    forged = header + AESGCM(key).encrypt(header[24:36], bytes(inner), associated)
    with pytest.raises(ObjectDamaged, match="another key"):
        repository.prove(name, forged)


def test_nor_on_the_secondary() -> None:
    """The same for the second envelope."""
    used = outer.OuterKey(bytes(16), bytes(range(32)))
    place = {"name": "chunks/x", "repository_id": bytes(16)}
    good = bytes(outer.wrap(b"stored", outer=used, **place))  # type: ignore[arg-type]
    key, nonce, _ = outer._body_key(used, good[24:56], bytes(16), "chunks/x")
    header = good[:56] + bytes(32)
    forged = header + ChaCha20Poly1305(key).encrypt(
        nonce, b"stored", header + bytes(16) + b"chunks/x"
    )
    with pytest.raises(ObjectDamaged, match="another key"):
        outer.unwrap(forged, outer=used, **place)  # type: ignore[arg-type]


def test_refs_of_a_later_version_are_read() -> None:
    """Members that this version does not know do not stop it."""
    name, digest = "refs/db/b", "00" * 32
    document = {
        "backup": "b",
        "created_at": "2026-11-01T00:00:00Z",
        "database": "db",
        "later": {"any": "thing"},
        "manifest": ["backups/db/b", 7, digest, "more"],
        "objects": [["chunks/x", 7, digest, "more"]],
        "previous": {"backup": "a", "sequence": 1, "sha256": digest, "more": 1},
        "repository": bytes(16).hex(),
        "sequence": 2,
        "type": "full",
    }
    stored = signed.write_packed(document, name=name, repository_id=bytes(16), mac_key=bytes(32))
    read = refs.read_refs(stored, name=name, repository_id=bytes(16), mac_key=bytes(32))
    assert read.objects == [refs.RefObject("chunks/x", 7, digest)]
    assert read.previous == refs.Previous("a", 1, digest)
    for hostile in ("../x", "a//b", ""):
        document["objects"] = [[hostile, 7, digest]]
        stored = signed.write_packed(
            document, name=name, repository_id=bytes(16), mac_key=bytes(32)
        )
        with pytest.raises(ObjectDamaged, match="impossible"):
            refs.read_refs(stored, name=name, repository_id=bytes(16), mac_key=None)


def test_too_many_objects_are_refused_by_name(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before refs are put that no storage would take."""
    monkeypatch.setattr(refs, "MAX_OBJECTS", 2)
    with pytest.raises(UsageError, match="too many"):
        backup(reopen(storage), payloads(2))
    assert len(names(storage, "refs/")) == 1


def test_a_lost_session_is_named(storage: MemoryStorage) -> None:
    """The chunk is good; what is missing is what opens it."""
    lost = names(storage, "sessions/")[0]
    repository = reopen(storage)
    one = repository.manifest(_latest(repository))["chunks"][0]
    storage.delete([lost])
    with pytest.raises(ObjectMissing, match=lost):
        reopen(storage).read(Ref(**one))


def _packed(text: bytes) -> bytes:
    """*text* as a packed document of somebody who has no key."""
    signed_part = zstandard.ZstdCompressor().compress(text) + bytes(32)
    return signed_part + hashlib.sha256(signed_part).digest()


@pytest.mark.parametrize(
    "old, new",
    [
        (b'"type":"full"', b'"type":' + b"[" * 50_000 + b"]" * 50_000),
        (b'"type":"full"', b'"type":"\\u001b[31m"'),
        (b'"kind":"refs"', b'"kind":' + b"[" * 50_000 + b"]" * 50_000),
        (b'"sequence":1', b'"sequence":1e400'),
        (b'"sequence":1', b'"sequence":0'),
        (b'"created_at":"20', b'"created_at":"0001-01-01T00:00:00+23:59","x":"20'),
        (b'"objects":[[', b'"objects":[[],['),
    ],
)
def test_hostile_refs_are_damage_without_a_key(
    storage: MemoryStorage, old: bytes, new: bytes
) -> None:
    """Whoever can write to the storage can write such; it never stops a listing."""
    name = names(storage, "refs/")[0]
    text = signed.read_packed(storage.get(name), name=name, repository_id=b"", mac_key=None)
    assert old in text
    storage.put(name, _packed(text.replace(old, new)))
    assert [entry.damage for entry in ClosedRepository(storage).backups()] == [
        "its refs cannot be read"
    ]


def test_what_is_too_large_is_damage_and_never_read(tmp_path: Path) -> None:
    """More than 2 GiB would make the cipher panic; all of it would fill the memory."""
    place = LocalStorage(tmp_path)
    repository = create(place)
    entry = backup(repository, payloads(1))
    name = repository.manifest(entry)["chunks"][0]["name"]
    os.truncate(tmp_path / name, 3 * 2**30)
    with pytest.raises(ObjectDamaged, match="none has more"):
        restore(repository, entry)
    assert [bad.name for bad in verify(repository, entry, "full").bad] == [name]


def test_too_long_buffers_are_not_opened() -> None:
    """Whatever storage they come from."""
    long = bytes(MAX_OBJECT + 1)
    with pytest.raises(ObjectDamaged, match="too long"):
        envelope.parse_header(long, name="chunks/x")
    with pytest.raises(ObjectDamaged, match="too long"):
        outer.key_id(long, name="chunks/x")
