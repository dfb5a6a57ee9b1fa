"""The second envelope: what a secondary wraps around the primary's stored bytes and names.

Its keys come from the secondary's own master key and have nothing to do with the
primary's, and its cipher is another one, so neither a broken cipher nor a lost key of one
storage opens the other. ::

    0   4  magic "AURM"                 then the primary's stored bytes under
    4   1  version 1                    ChaCha20-Poly1305, then 16 bytes of tag
    5   1  AEAD id 2 = ChaCha20-Poly1305
    6   2  zero
    8   16 outer key id
    24  32 salt, random
    56  32 key commitment

Key, nonce and commitment are HKDF-SHA256 of the outer key and the salt, bound to the
secondary's repository id and the primary's name. Names are AES-256-SIV, in base32: the same
name always gives the same text, so a listing alone tells what is there.
docs/format.md, "The secondary", is normative.
"""

import base64
import hmac
import os
import struct
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV, ChaCha20Poly1305

from aurora import clock
from aurora.repository import signed
from aurora.repository.damage import damaged
from aurora.repository.derive import KEY_BYTES, MasterKey, derive
from aurora.repository.envelope import NONCE_BYTES, TAG_BYTES, check_sealed
from aurora.repository.layout import FORMAT, ObjectType, is_safe
from aurora.storage.base import MAX_OBJECT, Buffer

MAGIC = b"AURM"
VERSION = 1
CHACHA20_POLY1305 = 2
SALT_BYTES = 32
KEY_ID_BYTES = 16
_HEADER = struct.Struct(">4sBBH16s32s32s")
HEADER_BYTES = _HEADER.size
OVERHEAD = HEADER_BYTES + TAG_BYTES

_OWN = frozenset({"config", "keys", "outer", "leases", "gc"})
_PRIMARY = "primary"
_SHARD = 2
_STEP = 180  # characters of one path step; file systems take 255, storages of ours 200


@dataclass(frozen=True, slots=True)
class OuterKey:
    """The random key of a secondary and the id under which it is wrapped."""

    id: bytes
    key: bytes = field(repr=False)


class OuterNames:
    """The primary's names as a secondary keeps them, both ways. Threads may share it."""

    def __init__(self, master: MasterKey) -> None:
        name_key = derive(master.key, "names", salt=master.repository_id, length=2 * KEY_BYTES)
        self._siv = AESSIV(name_key)

    def encode(self, name: str) -> str:
        """``<first step>/<2 letters>/<the rest>``, in steps of at most 180 letters."""
        sealed = self._siv.encrypt(name.encode(), [b"aurora/1/name"])
        text = base64.b32encode(sealed).decode().rstrip("=").lower()
        rest = [text[at : at + _STEP] for at in range(_SHARD, len(text), _STEP)]
        return "/".join((directory(name), text[:_SHARD], *rest))

    def decode(self, stored: str) -> str | None:
        """The primary's name, or None when *stored* is no name of this secondary."""
        first, _, rest = stored.partition("/")
        text = rest.replace("/", "").upper()
        try:
            sealed = base64.b32decode(text + "=" * (-len(text) % 8))
            name = self._siv.decrypt(sealed, [b"aurora/1/name"]).decode()
        except (InvalidTag, ValueError):
            return None
        # One name has one place: a copy elsewhere is not the object.
        return name if is_safe(name) and self.encode(name) == f"{first}/{rest}" else None


def directory(name: str) -> str:
    """The first step under which a secondary keeps the primary's object *name*.

    The secondary has objects of its own under some first steps; the primary's are kept
    under ``primary/`` then.
    """
    first, slash, _ = name.partition("/")
    return _PRIMARY if first in _OWN or not slash else first


def wrap(
    stored: Buffer,
    *,
    name: str,
    repository_id: bytes,
    outer: OuterKey,
    salt: bytes | None = None,
) -> bytearray:
    """The primary's *stored* bytes of *name*, wrapped. ``salt`` is for test vectors."""
    salt = salt or os.urandom(SALT_BYTES)
    key, nonce, commitment = _body_key(outer, salt, repository_id, name)
    header = _HEADER.pack(MAGIC, VERSION, CHACHA20_POLY1305, 0, outer.id, salt, commitment)
    wrapped = bytearray(OVERHEAD + memoryview(stored).nbytes)
    wrapped[:HEADER_BYTES] = header
    associated = _associated(header, repository_id, name)
    body = memoryview(wrapped)[HEADER_BYTES:]
    aead = ChaCha20Poly1305(key)
    aead.encrypt_into(nonce, stored, associated, body)
    check_sealed(lambda: aead.decrypt(nonce, body, associated), stored, name)
    return wrapped


def key_id(wrapped: Buffer, *, name: str) -> bytes:
    """The id of the outer key that opens *wrapped*. Raises ObjectDamaged."""
    return _parse(wrapped, name)[0]


def unwrap(wrapped: Buffer, *, name: str, repository_id: bytes, outer: OuterKey) -> bytes:
    """The primary's stored bytes of *name*. Raises ObjectDamaged."""
    used, salt, stored_commitment = _parse(wrapped, name)
    key, nonce, commitment = _body_key(outer, salt, repository_id, name)
    if used != outer.id or not hmac.compare_digest(commitment, stored_commitment):
        raise damaged(name, "the secondary wrapped it as another object or with another key")
    view = memoryview(wrapped)
    associated = _associated(bytes(view[:HEADER_BYTES]), repository_id, name)
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, view[HEADER_BYTES:], associated)
    except InvalidTag as error:
        raise damaged(name, "its copy on the secondary was altered or cut") from error


def outer_key_name(outer_id: bytes) -> str:
    """The name of a wrapped outer key."""
    return f"{ObjectType.OUTER.value}/{outer_id.hex()}"


def write_outer_key(
    master: MasterKey, outer: OuterKey, *, created_at: datetime, nonce: bytes | None = None
) -> bytes:
    """The stored bytes of ``outer/<id>``. ``nonce`` is for test vectors."""
    nonce = nonce or os.urandom(NONCE_BYTES)
    name = outer_key_name(outer.id)
    wrapped = AESGCM(_wrap_key(master)).encrypt(nonce, outer.key, _key_associated(master, outer.id))
    document: signed.Document = {
        "created_at": clock.isoformat(created_at),
        "format": FORMAT,
        "id": outer.id.hex(),
        "kind": "outer-key",
        "nonce": nonce.hex(),
        "repository": master.repository_id.hex(),
        "wrapped": wrapped.hex(),
    }
    return signed.write_clear(
        document, name=name, repository_id=master.repository_id, mac_key=master.mac_key
    )


def read_outer_key(stored: bytes, *, name: str, master: MasterKey) -> OuterKey:
    """The outer key in *stored*. Raises ObjectDamaged."""
    document = signed.read_clear(stored, name=name)
    signed.prove_clear(
        document, name=name, repository_id=master.repository_id, mac_key=master.mac_key
    )
    try:
        outer_id = bytes.fromhex(document["id"])
        nonce, wrapped = bytes.fromhex(document["nonce"]), bytes.fromhex(document["wrapped"])
        associated = _key_associated(master, outer_id)
        key = AESGCM(_wrap_key(master)).decrypt(nonce, wrapped, associated)
    except (KeyError, TypeError, ValueError, InvalidTag) as error:
        raise damaged(name, "its wrapped key does not open") from error
    if outer_key_name(outer_id) != name:
        raise damaged(name, "it is another object")
    return OuterKey(outer_id, key)


def _parse(wrapped: Buffer, name: str) -> tuple[bytes, bytes, bytes]:
    if len(wrapped) <= OVERHEAD:
        raise damaged(name, "its copy on the secondary is too short")
    if len(wrapped) > MAX_OBJECT:
        raise damaged(name, "its copy on the secondary is too long")
    magic, version, aead, zero, used, salt, commitment = _HEADER.unpack_from(wrapped)
    if (magic, version, aead, zero) != (MAGIC, VERSION, CHACHA20_POLY1305, 0):
        raise damaged(name, "its copy on the secondary does not begin like a wrapped object")
    return used, salt, commitment


def _body_key(
    outer: OuterKey, salt: bytes, repository_id: bytes, name: str
) -> tuple[bytes, bytes, bytes]:
    context = repository_id + name.encode()
    text = derive(outer.key, "outer", context, salt=salt, length=2 * KEY_BYTES + NONCE_BYTES)
    return text[:KEY_BYTES], text[2 * KEY_BYTES :], text[KEY_BYTES : 2 * KEY_BYTES]


def _associated(header: bytes, repository_id: bytes, name: str) -> bytes:
    return header + repository_id + name.encode()


def _wrap_key(master: MasterKey) -> bytes:
    return derive(master.key, "wrap-outer", salt=master.repository_id)


def _key_associated(master: MasterKey, outer_id: bytes) -> bytes:
    return b"aurora/1/outer-key\0" + master.repository_id + outer_id
