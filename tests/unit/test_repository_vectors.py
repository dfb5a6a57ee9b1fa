"""The format does not change by accident: exact bytes for fixed keys, from tests/vectors.

``format-1.json`` is computed by :func:`compute` and compared byte for byte, but for what
zstd had a hand in: that is opened. ``repository-1.json`` is a whole repository that was
written once; every later version must open it. Neither file is ever regenerated for
format 1: a difference is a break of the format.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from aurora.repository import candidates, config, envelope, keys, layout, outer, refs, sessions
from aurora.repository.derive import MasterKey
from aurora.repository.door import Ref, Repository
from aurora.repository.keys import KeyFile, Passphrase, RecoveryCode
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import MirrorView
from aurora.repository.slots import write_slot
from aurora.repository.verify import Level, verify
from aurora.storage.memory import MemoryStorage
from tests.unit.test_repository_kit import EPOCH

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
REPOSITORY = bytes(range(16))
MASTER = MasterKey(REPOSITORY, bytes(range(0x40, 0x60)))
SESSION = envelope.SessionKey(bytes(range(0x10, 0x20)), bytes(range(0x60, 0x80)))
OUTER = outer.OuterKey(bytes(range(0x20, 0x30)), bytes(range(0x80, 0xA0)))
SECONDARY = MasterKey(bytes(range(0x30, 0x40)), bytes(range(0xA0, 0xC0)))
NONCE = bytes(range(0xC0, 0xCC))
SALT = bytes(range(0xD0, 0xE0))
CODE_BITS = bytes(range(0xE0, 0xF0))
PAYLOAD = b"1\talpha\n2\tbeta\n"
DIGEST = "00" * 31 + "01"
BACKUP = "20261101T000000Z-full-kqzmw"


def _format() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / "format-1.json").read_text())
    return loaded


def _slot(secret: keys.Secret) -> dict[str, str]:
    name, stored = write_slot(
        MASTER,
        secret,
        kdf=keys.WEAK_KDF_FOR_TESTS,
        label="vector",
        created_at=EPOCH,
        slot_id="0011223344556677",
        salt=SALT,
        nonce=NONCE,
    )
    return {"name": name, "stored": stored.decode()}


def _sealed(kind: ObjectType, payload: bytes) -> dict[str, str]:
    payload_id = envelope.payload_id(MASTER.id_key, kind, payload)
    name = layout.content_name(kind, payload_id, layout.sid8(SESSION.sid))
    stored = envelope.seal(
        payload, kind=kind, name=name, repository_id=REPOSITORY, session=SESSION, nonce=NONCE
    )
    return {"name": name, "payload": payload.hex(), "stored": stored.hex()}


def compute() -> dict[str, Any]:
    """Everything in ``format-1.json`` that has one right value."""
    wrapped_names = ["config", "keys/0011223344556677", f"backups/db/{BACKUP}"]
    inner_name = layout.content_name(ObjectType.CHUNK, "ab" * 32, "10111213")
    return {
        "inputs": {
            "repository_id": REPOSITORY.hex(),
            "master_key": MASTER.key.hex(),
            "sid": SESSION.sid.hex(),
            "data_key": SESSION.key.hex(),
            "secondary_repository_id": SECONDARY.repository_id.hex(),
            "secondary_master_key": SECONDARY.key.hex(),
            "outer_key_id": OUTER.id.hex(),
            "outer_key": OUTER.key.hex(),
            "nonce": NONCE.hex(),
            "slot_salt": SALT.hex(),
            "outer_salt": (SALT * 2).hex(),
            "recovery_bits": CODE_BITS.hex(),
            "passphrase": "correct h\u00f6rse",
            "key_file": bytes(range(32)).hex(),
        },
        "derived": {
            "id_key": MASTER.id_key.hex(),
            "mac_key": MASTER.mac_key.hex(),
            "wrap_key_1": MASTER.wrap_key(1).hex(),
        },
        "padme": {str(n): envelope.padme(n) for n in (1, 12, 100, 1000, 99_999, 2**23 + 1)},
        "recovery_code": keys.new_recovery_code(CODE_BITS),
        "config": config.write_config(
            repository_id=REPOSITORY, role="primary", created_at=EPOCH, mac_key=MASTER.mac_key
        ).decode(),
        "slots": {
            "passphrase": _slot(Passphrase("correct h\u00f6rse")),
            "recovery-code": _slot(RecoveryCode(keys.new_recovery_code(CODE_BITS))),
            "key-file": _slot(KeyFile(bytes(range(32)))),
        },
        "session": {
            "name": layout.session_name(SESSION.sid),
            "stored": sessions.write_session(
                MASTER, SESSION, created_at=EPOCH, nonce=NONCE
            ).decode(),
        },
        "sealed": {
            kind.value: _sealed(kind, PAYLOAD)
            for kind in (*layout.CONTENT_TYPES,)
        },
        "sealed_empty": _sealed(ObjectType.CHUNK, b""),
        "outer_key": {
            "name": outer.outer_key_name(OUTER.id),
            "stored": outer.write_outer_key(
                SECONDARY, OUTER, created_at=EPOCH, nonce=NONCE
            ).decode(),
        },
        "secondary_names": {
            name: outer.OuterNames(SECONDARY).encode(name)
            for name in [*wrapped_names, inner_name]
        },
        "wrapped": {
            "name": inner_name,
            "stored_on_primary": PAYLOAD.hex(),
            "stored": outer.wrap(
                PAYLOAD,
                name=inner_name,
                repository_id=SECONDARY.repository_id,
                outer=OUTER,
                salt=SALT * 2,
            ).hex(),
        },
    }  # fmt: skip


@pytest.mark.parametrize("part", sorted(compute()))
def test_exact_bytes(part: str) -> None:
    """Derived keys, ids, names, clear documents, envelopes."""
    assert compute()[part] == _format()[part]


def test_payloads_of_the_vectors_are_stored_raw() -> None:
    """Else their bytes would hang on the version of zstd."""
    for one in compute()["sealed"].values():
        assert len(one["stored"]) // 2 == 68 + envelope.padme(12 + len(PAYLOAD)) + 16


def test_compressed_vectors_open() -> None:
    """Whatever version of zstd wrote them."""
    vectors = _format()["compressed"]
    chunk = vectors["chunk"]
    opened = envelope.open_sealed(
        bytes.fromhex(chunk["stored"]),
        kind=ObjectType.CHUNK,
        name=chunk["name"],
        repository_id=REPOSITORY,
        session=SESSION,
    )
    assert opened == PAYLOAD * 1000
    manifest = vectors["manifest"]
    opened = envelope.open_sealed(
        bytes.fromhex(manifest["stored"]),
        kind=ObjectType.BACKUP,
        name=manifest["name"],
        repository_id=REPOSITORY,
        session=SESSION,
    )
    assert opened.decode() == manifest["text"]
    held = vectors["refs"]
    read = refs.read_refs(
        bytes.fromhex(held["stored"]),
        name=held["name"],
        repository_id=REPOSITORY,
        mac_key=MASTER.mac_key,
    )
    assert read.objects == [refs.RefObject("chunks/ab/x", 7, DIGEST)]
    assert read.previous == refs.Previous("20261031T000000Z-full-abcde", 6, DIGEST)
    assert read.sequence == 7
    frame = bytes.fromhex(held["stored"])[:-64]
    assert zstandard.ZstdDecompressor().decompress(frame).decode() == held["text"]
    doomed = vectors["candidates"]
    assert candidates.read_candidates(
        bytes.fromhex(doomed["stored"]),
        name=doomed["name"],
        repository_id=REPOSITORY,
        mac_key=MASTER.mac_key,
    ) == {"chunks/ab/x"}


def _golden(part: str, golden: dict[str, Any]) -> MemoryStorage:
    storage = MemoryStorage(part)
    for name, stored in golden[part].items():
        storage.put(name, bytes.fromhex(stored))
    return storage


@pytest.mark.parametrize("place", ["primary", "secondary"])
def test_the_golden_repository_opens(place: str) -> None:
    """With each of its secrets, from either storage: verified in full, contents equal."""
    golden = json.loads((VECTORS / "repository-1.json").read_text())
    secrets = golden["secrets"]
    view = None
    if place == "secondary":
        storage = _golden("secondary", golden)
        MirrorView.open(storage, RecoveryCode(secrets["secondary_recovery_code"]))
        view = MirrorView.open(storage, Passphrase(secrets["secondary_passphrase"]))
    for secret in (
        Passphrase(secrets["passphrase"]),
        RecoveryCode(secrets["recovery_code"]),
        KeyFile(bytes.fromhex(secrets["key_file"])),
    ):
        repository = Repository.open(view or _golden("primary", golden), secret)
        entries = repository.backups()
        assert [entry.id for entry in entries] == sorted(golden["contents"])
        assert verify(repository, entries, Level.FULL).ok
        for entry in entries:
            listed = repository.manifest(entry)["chunks"]
            found = [repository.read(Ref(one["name"], one["raw"])).hex() for one in listed]
            assert found == golden["contents"][entry.id]
        assert repository.chain("db").faults == ()
