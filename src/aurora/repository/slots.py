"""Key slots: the master key, wrapped once for each way to open the repository.

A slot is a clear document. Its wrapped key opens only with the parameters and under the
name that it was written with, and its MAC under the master key shows which slots the
owner made: a storage can add an object below ``keys/``, but not a slot.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aurora import clock
from aurora.errors import IntegrityError, ObjectDamaged, WrongKey
from aurora.repository import canonical, signed
from aurora.repository.damage import damaged
from aurora.repository.derive import KEY_BYTES, MasterKey
from aurora.repository.envelope import NONCE_BYTES, TAG_BYTES
from aurora.repository.keys import Kdf, KeyFile, Passphrase, RecoveryCode, Secret
from aurora.repository.layout import CONFIG, FORMAT, ObjectType, is_safe, slot_name
from aurora.repository.reader import ObjectReader

_SALT_BYTES = 16
_MAX_SLOTS = 64  # looked at; a hostile storage could list any number
_KINDS: dict[type[Secret], str] = {
    Passphrase: "passphrase",
    RecoveryCode: "recovery-code",
    KeyFile: "key-file",
}


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """One key slot as ``aurora keys list`` shows it."""

    id: str
    kind: str  # "passphrase", "recovery-code", "key-file"
    label: str
    created_at: datetime | None
    genuine: bool  # made by an owner of the master key, not by the storage


def write_slot(
    master: MasterKey,
    secret: Secret,
    *,
    kdf: Kdf,
    label: str,
    created_at: datetime,
    slot_id: str | None = None,
    salt: bytes | None = None,
    nonce: bytes | None = None,
) -> tuple[str, bytes]:
    """A new slot for *secret*: its name and stored bytes.

    ``slot_id``, ``salt`` and ``nonce`` are for test vectors.
    """
    slot_id = slot_id or os.urandom(8).hex()
    name = slot_name(slot_id)
    document: signed.Document = {
        "created_at": clock.isoformat(created_at),
        "format": FORMAT,
        "id": slot_id,
        "kdf": _kdf_document(secret, kdf, salt or os.urandom(_SALT_BYTES)),
        "kind": "slot",
        "label": label,
        "repository": master.repository_id.hex(),
        "type": _KINDS[type(secret)],
    }
    nonce = nonce or os.urandom(NONCE_BYTES)
    wrapped = AESGCM(_slot_key(secret, document, name)).encrypt(
        nonce, master.key, _associated(document)
    )
    document |= {"nonce": nonce.hex(), "wrapped": wrapped.hex()}
    return name, signed.write_clear(
        document, name=name, repository_id=master.repository_id, mac_key=master.mac_key
    )


def unlock(reader: ObjectReader, repository_id: bytes, secret: Secret) -> Iterator[MasterKey]:
    """Every master key that *secret* opens; the caller proves which one is the repository's.

    Raises:
        WrongKey: no slot opens with it.
        ObjectDamaged: none opens, and a slot of this kind is damaged: it may be the one; or
            no slot belongs to the repository that the config names.
    """
    opened = belongs = False
    broken: IntegrityError | None = None
    for name in _names(reader):
        try:
            document = reader.fetch(name, lambda stored, name=name: _read(stored, name))  # type: ignore[misc]
            if document.get("repository") != repository_id.hex():
                continue
            belongs = True
            key = _unwrap(document, secret, name)
            if key is None:
                continue
            master = MasterKey(repository_id, key)
            signed.prove_clear(
                document, name=name, repository_id=repository_id, mac_key=master.mac_key
            )
        except IntegrityError as error:
            broken = error
            continue
        opened = True
        yield master
    if not opened:
        raise _nothing_opens(secret, broken, belongs=belongs)


def opened_by(reader: ObjectReader, master: MasterKey, secret: Secret) -> list[str]:
    """Ids of the genuine slots that *secret* opens. Raises StorageError."""
    found: list[str] = []
    for name in _names(reader):
        try:
            document = reader.fetch(name, lambda stored, name=name: _read(stored, name))  # type: ignore[misc]
            signed.prove_clear(
                document, name=name, repository_id=master.repository_id, mac_key=master.mac_key
            )
            if _unwrap(document, secret, name) == master.key:
                found.append(name.removeprefix(ObjectType.SLOT.prefix))
        except IntegrityError:
            continue  # damaged, or somebody else's
    return found


def list_slots(reader: ObjectReader, master: MasterKey) -> list[SlotInfo]:
    """All objects below ``keys/``, each with whether it is a genuine slot."""
    return sorted(
        (_info(reader, name, master) for name in _names(reader)), key=lambda slot: slot.id
    )


def _names(reader: ObjectReader) -> list[str]:
    prefix = ObjectType.SLOT.prefix
    names = {info.name for info in reader.storage.list(prefix)}
    if reader.fallback is not None:
        names |= {info.name for info in reader.fallback.list(prefix)}
    return sorted(name for name in names if is_safe(name))[:_MAX_SLOTS]


def _info(reader: ObjectReader, name: str, master: MasterKey) -> SlotInfo:
    slot_id = name.removeprefix(ObjectType.SLOT.prefix)
    try:
        document = reader.fetch(name, lambda stored: _read(stored, name))
        signed.prove_clear(
            document, name=name, repository_id=master.repository_id, mac_key=master.mac_key
        )
        return SlotInfo(
            slot_id,
            str(document["type"]),
            str(document["label"]),
            clock.parse(document["created_at"]),
            genuine=True,
        )
    except IntegrityError:
        return SlotInfo(slot_id, "unknown", "", None, genuine=False)


def _read(stored: bytes, name: str) -> signed.Document:
    document = signed.read_clear(stored, name=name)
    if document.get("kind") != "slot" or slot_name(str(document.get("id"))) != name:
        raise damaged(name, "it is another object")
    return document


def _unwrap(document: signed.Document, secret: Secret, name: str) -> bytes | None:
    # A slot of an unknown type belongs to a later version (age, a cloud's key service).
    if document.get("type") != _KINDS[type(secret)]:
        return None
    try:
        nonce = bytes.fromhex(document["nonce"])
        wrapped = bytes.fromhex(document["wrapped"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(name, "a member is absent or makes no sense") from error
    if len(nonce) != NONCE_BYTES or len(wrapped) != KEY_BYTES + TAG_BYTES:
        raise damaged(name, "its wrapped key has a wrong size")
    bare = {key: value for key, value in document.items() if key not in ("mac", "nonce", "wrapped")}
    try:
        return AESGCM(_slot_key(secret, document, name)).decrypt(nonce, wrapped, _associated(bare))
    except InvalidTag:
        return None


def _kdf_document(secret: Secret, kdf: Kdf, salt: bytes) -> dict[str, object]:
    if not isinstance(secret, Passphrase):
        return {"name": "hkdf-sha256", "salt": salt.hex()}
    kdf.check_for_writing()
    return {
        "iterations": kdf.iterations,
        "lanes": kdf.lanes,
        "memory_kib": kdf.memory_kib,
        "name": "argon2id",
        "salt": salt.hex(),
    }


def _slot_key(secret: Secret, document: signed.Document, name: str) -> bytes:
    stored: Any = document.get("kdf")
    try:
        salt = bytes.fromhex(stored["salt"])
        if not isinstance(secret, Passphrase):
            return secret.key(salt)
        numbers = [stored[member] for member in ("iterations", "memory_kib", "lanes")]
        if stored["name"] != "argon2id" or any(type(number) is not int for number in numbers):
            raise ValueError("not Argon2id")
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(name, "its key derivation makes no sense") from error
    kdf = Kdf(*numbers)
    if len(salt) != _SALT_BYTES or not kdf.is_sane():
        raise damaged(name, "its key derivation is out of bounds")
    return secret.key(salt, kdf)


def _associated(document: signed.Document) -> bytes:
    return b"aurora/1/slot\0" + canonical.dumps(document)


_CODE = (
    "If the passphrase is lost, give the printed recovery code by AURORA_RECOVERY_CODE_FILE "
    "(AURORA_SECONDARY_RECOVERY_CODE_FILE for the secondary)."
)
_OTHER_CODE = (
    "Compare it with the printed one group by group. Primary and secondary have codes of their "
    "own, and a code that was replaced opens nothing any more."
)


def _nothing_opens(
    secret: Secret, broken: IntegrityError | None, *, belongs: bool
) -> WrongKey | IntegrityError:
    if isinstance(broken, ObjectDamaged):
        return broken
    if not belongs:
        return damaged(CONFIG, "no key slot belongs to the repository that it names")
    kind = _KINDS[type(secret)].replace("-", " ")
    return WrongKey(
        f"no key slot opens with this {kind}",
        hint="Nothing was changed. " + (_OTHER_CODE if isinstance(secret, RecoveryCode) else _CODE),
    )
