"""The envelope: a payload compressed, padded and sealed so that it opens in one place only.

::

    header, 68 bytes in clear          sealed with AES-256-GCM, then 16 bytes of tag
    0   4  magic "AURO"                0   1  codec: 0 raw, 1 zstd
    4   1  version 1                   1   3  zero
    5   1  type code                   4   4  raw length   (big endian)
    6   1  AEAD id 1 = AES-256-GCM     8   4  pad length   (big endian)
    7   1  zero                        12  …  body, then pad length zero bytes
    8   16 session id
    24  12 nonce, random
    36  32 key commitment

Key and commitment are HKDF-SHA256 of the session's data key, the type, the repository id
and the object's full name; the associated data is header, repository id and name. A sealed
object that was moved, renamed, swapped or cut does not open.
docs/format.md, "The envelope", is normative.
"""

import hmac
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import blake3
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aurora.errors import IntegrityError, UsageError
from aurora.repository.damage import damaged
from aurora.repository.derive import KEY_BYTES, derive
from aurora.repository.layout import SID_BYTES, TYPE_CODES, ObjectType
from aurora.storage.base import MAX_OBJECT, Buffer

MAGIC = b"AURO"
VERSION = 1
AES_256_GCM = 1
NONCE_BYTES = 12
TAG_BYTES = 16
MAX_RAW = 64 * 2**20  # bytes; nothing larger is ever inflated
DEFAULT_LEVEL = 1

_RAW, _ZSTD = 0, 1
_HEADER = struct.Struct(">4sBBBB16s12s32s")
_INNER = struct.Struct(">B3sII")
HEADER_BYTES = _HEADER.size
INNER_BYTES = _INNER.size

_codecs = threading.local()


@dataclass(frozen=True, slots=True)
class SessionKey:
    """The random data key of one run, and the id under which it is wrapped."""

    sid: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Header:
    """The clear part of a sealed object."""

    type_code: int
    sid: bytes
    nonce: bytes
    commitment: bytes


def padme(length: int) -> int:
    """*length* rounded up by Padmé: at most 12 % more, 3.1 % from 32 KiB up."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (length + mask) & ~mask


def payload_id(id_key: bytes, kind: ObjectType, payload: Buffer) -> str:
    """The keyed BLAKE3 of type code and *payload*: 64 hex digits."""
    hasher = blake3.blake3(bytes((TYPE_CODES[kind],)), key=id_key)
    return hasher.update(payload).hexdigest()


def seal(
    payload: Buffer,
    *,
    kind: ObjectType,
    name: str,
    repository_id: bytes,
    session: SessionKey,
    level: int = DEFAULT_LEVEL,
    nonce: bytes | None = None,
) -> bytearray:
    """*payload* sealed as the object *name*.

    What was sealed is opened again and compared before it is returned: a backup must not
    find out at restore that this machine's memory was bad. ``nonce`` is for test vectors.

    Raises:
        UsageError: the payload is too large for one object.
        IntegrityError: the sealed bytes did not open to what was sealed.
    """
    inner = _pack(payload, level, name)
    nonce = nonce or os.urandom(NONCE_BYTES)
    key, commitment = _object_key(session, kind, repository_id, name)
    header = _HEADER.pack(
        MAGIC, VERSION, TYPE_CODES[kind], AES_256_GCM, 0, session.sid, nonce, commitment
    )
    sealed = bytearray(HEADER_BYTES + len(inner) + TAG_BYTES)
    sealed[:HEADER_BYTES] = header
    body = memoryview(sealed)[HEADER_BYTES:]
    associated = header + repository_id + name.encode()
    aead = AESGCM(key)
    aead.encrypt_into(nonce, inner, associated, body)
    check_sealed(lambda: aead.decrypt(nonce, body, associated), inner, name)
    return sealed


def check_sealed(reopen: Callable[[], bytes], inner: Buffer, name: str) -> None:
    """Raise IntegrityError unless what was just sealed opens to what it was made of."""
    try:
        opened = reopen()
    except InvalidTag:
        opened = b""
    if opened != inner:
        raise IntegrityError(
            f"sealing {name} failed its own check",
            hint="Nothing was stored. This machine computes or remembers wrongly: test its "
            "memory before trusting any backup made on it.",
            context={"name": name},
        )


def parse_header(sealed: Buffer, *, name: str) -> Header:
    """The header of a sealed object, nothing of it proven. Raises ObjectDamaged."""
    if len(sealed) < HEADER_BYTES + INNER_BYTES + TAG_BYTES:
        raise damaged(name, "it is too short")
    if len(sealed) > MAX_OBJECT:
        raise damaged(name, "it is too long")
    magic, version, type_code, aead, zero, sid, nonce, commitment = _HEADER.unpack_from(sealed)
    if magic != MAGIC or aead != AES_256_GCM or zero:
        raise damaged(name, "it does not begin like a sealed object")
    if version != VERSION:
        raise damaged(name, f"its envelope has the unknown version {version}")
    return Header(type_code, sid, nonce, commitment)


def open_sealed(
    sealed: Buffer, *, kind: ObjectType, name: str, repository_id: bytes, session: SessionKey
) -> bytes:
    """The payload of a sealed object, proven to be what was sealed as *name*.

    Raises:
        ObjectDamaged: any byte of it, its name, type, repository or session is wrong.
    """
    header = parse_header(sealed, name=name)
    if header.type_code != TYPE_CODES[kind] or header.sid != session.sid:
        raise damaged(name, "its header belongs to another object")
    key, commitment = _object_key(session, kind, repository_id, name)
    if not hmac.compare_digest(commitment, header.commitment):
        raise damaged(name, "it was sealed as another object or with another key")
    view = memoryview(sealed)
    associated = bytes(view[:HEADER_BYTES]) + repository_id + name.encode()
    try:
        inner = AESGCM(key).decrypt(header.nonce, view[HEADER_BYTES:], associated)
    except InvalidTag as error:
        raise damaged(name, "its contents were altered or cut") from error
    return _unpack(inner, name)


def _object_key(
    session: SessionKey, kind: ObjectType, repository_id: bytes, name: str
) -> tuple[bytes, bytes]:
    context = bytes((TYPE_CODES[kind],)) + repository_id + name.encode()
    both = derive(session.key, "object", context, length=2 * KEY_BYTES)
    return both[:KEY_BYTES], both[KEY_BYTES:]


def _pack(payload: Buffer, level: int, name: str) -> bytearray:
    raw = memoryview(payload).nbytes
    if raw > MAX_RAW:
        raise _too_large(name, raw)
    codec, body = _ZSTD, _compressor(level).compress(payload)
    if len(body) >= raw:
        codec, body = _RAW, payload  # type: ignore[assignment]
    used = INNER_BYTES + memoryview(body).nbytes
    padded = padme(used)
    if HEADER_BYTES + padded + TAG_BYTES > MAX_OBJECT:
        raise _too_large(name, raw)
    inner = bytearray(padded)
    _INNER.pack_into(inner, 0, codec, bytes(3), raw, padded - used)
    memoryview(inner)[INNER_BYTES:used] = memoryview(body).cast("B")
    return inner


def _unpack(inner: bytes, name: str) -> bytes:
    codec, zero, raw, pad = _INNER.unpack_from(inner)
    end = len(inner) - pad
    if any(zero) or raw > MAX_RAW or end < INNER_BYTES:
        raise damaged(name, "its sizes make no sense")
    body = memoryview(inner)[INNER_BYTES:end]
    if codec == _RAW and len(body) == raw:
        return bytes(body)
    if codec != _ZSTD:
        raise damaged(name, "its codec or its size is wrong")
    return inflate(body, raw, name)


def compress(payload: Buffer, level: int) -> bytes:
    """*payload* as one zstd frame that names its size."""
    return _compressor(level).compress(payload)


def inflate(body: Buffer, raw: int, name: str) -> bytes:
    """A zstd frame that holds exactly *raw* bytes, inflated. Raises ObjectDamaged."""
    try:
        # zstandard trusts the size in the frame over max_output_size, so a bomb is refused
        # by comparing the sizes before anything is inflated.
        if zstandard.frame_content_size(body) != raw:
            raise damaged(name, "its frame has another size than its header")
        return _decompressor().decompress(body, max_output_size=raw, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise damaged(name, "it cannot be inflated") from error


def _compressor(level: int) -> zstandard.ZstdCompressor:
    # A context may be used by one thread at a time, and making one costs as much as a
    # small chunk: each thread keeps its own.
    held: dict[int, zstandard.ZstdCompressor] | None = getattr(_codecs, "compressors", None)
    if held is None:
        held = _codecs.compressors = {}
    if level not in held:
        held[level] = zstandard.ZstdCompressor(level=level)
    return held[level]


def _decompressor() -> zstandard.ZstdDecompressor:
    held: zstandard.ZstdDecompressor | None = getattr(_codecs, "decompressor", None)
    if held is None:
        held = _codecs.decompressor = zstandard.ZstdDecompressor()
    return held


def _too_large(name: str, raw: int) -> UsageError:
    return UsageError(
        f"{raw} bytes are too much for one object",
        hint="Cut the payload into pieces of at most 32 MiB.",
        context={"name": name, "raw": raw},
    )


assert _HEADER.size == 4 + 4 + SID_BYTES + NONCE_BYTES + KEY_BYTES
