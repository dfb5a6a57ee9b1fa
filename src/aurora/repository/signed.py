"""Documents that are kept in clear and proven by a MAC.

Two forms. A *clear document* is one line of canonical JSON that a person can read with
``cat``; its members ``mac`` and ``sha256`` prove the others. A *packed document* is larger:
canonical JSON under zstd, then the MAC and a SHA-256 of all before it. The MAC takes the
master key; the SHA-256 lets anybody tell damage without any key. Both are bound to the
repository and to the object's name.
"""

import hashlib
import hmac
from typing import Any

import zstandard

from aurora.repository import canonical
from aurora.repository.damage import damaged
from aurora.repository.derive import mac
from aurora.repository.envelope import inflate

MAX_CLEAR = 64 * 1024  # bytes of a clear document
MAX_PACKED = 256 * 2**20  # bytes of a packed document's JSON
_DIGEST = 32
_PACKED_LEVEL = 3

Document = dict[str, Any]


def write_clear(document: Document, *, name: str, repository_id: bytes, mac_key: bytes) -> bytes:
    """*document* with its MAC and checksum, as one line."""
    signed = dict(document)
    signed["mac"] = _clear_mac(document, name, repository_id, mac_key)
    signed["sha256"] = hashlib.sha256(canonical.dumps(signed)).hexdigest()
    return canonical.dumps(signed) + b"\n"


def read_clear(stored: bytes, *, name: str) -> Document:
    """The document in *stored*, its checksum proven but **not** its MAC.

    Raises:
        ObjectDamaged: not a clear document, or altered by accident.
    """
    if len(stored) > MAX_CLEAR:
        raise damaged(name, "it is too long")
    try:
        document = canonical.loads(stored)
    except ValueError as error:
        raise damaged(name, "it is not JSON") from error
    if not isinstance(document, dict):
        raise damaged(name, "it is not a document")
    checksum = document.pop("sha256", None)
    if hashlib.sha256(_canonical(document, name)).hexdigest() != checksum:
        raise damaged(name, "its checksum is wrong")
    # The stored text must be the one text of the document: no byte of it is free.
    if canonical.dumps({**document, "sha256": checksum}) + b"\n" != stored:
        raise damaged(name, "it is not in canonical form")
    return document


def prove_clear(document: Document, *, name: str, repository_id: bytes, mac_key: bytes) -> None:
    """Raise ObjectDamaged unless the MAC of a document from :func:`read_clear` is right."""
    bare = {key: value for key, value in document.items() if key != "mac"}
    expected = _clear_mac(bare, name, repository_id, mac_key)
    if not hmac.compare_digest(str(document.get("mac", "")).encode(), expected.encode()):
        raise damaged(name, "its MAC is wrong")


def write_packed(document: object, *, name: str, repository_id: bytes, mac_key: bytes) -> bytes:
    """*document* compressed, with its MAC and checksum."""
    packed = zstandard.ZstdCompressor(level=_PACKED_LEVEL).compress(canonical.dumps(document))
    signed = packed + mac(mac_key, "packed", repository_id, name.encode(), packed)
    return signed + hashlib.sha256(signed).digest()


def read_packed(stored: bytes, *, name: str, repository_id: bytes, mac_key: bytes | None) -> bytes:
    """The canonical JSON text in *stored*; the MAC is proven when there is a *mac_key*.

    Raises:
        ObjectDamaged: altered by accident, or (with the key) by anybody.
    """
    signed, checksum = stored[:-_DIGEST], stored[-_DIGEST:]
    packed, stored_mac = signed[:-_DIGEST], signed[-_DIGEST:]
    if not packed or hashlib.sha256(signed).digest() != checksum:
        raise damaged(name, "its checksum is wrong")
    if mac_key is not None and not hmac.compare_digest(
        mac(mac_key, "packed", repository_id, name.encode(), packed), stored_mac
    ):
        raise damaged(name, "its MAC is wrong")
    try:
        raw = zstandard.frame_content_size(packed)
    except zstandard.ZstdError as error:
        raise damaged(name, "it cannot be inflated") from error
    if not 0 < raw <= MAX_PACKED:
        raise damaged(name, "its sizes make no sense")
    return inflate(packed, raw, name)


def loads(text: bytes, name: str) -> object:
    """The JSON value in a proven *text*. Raises ObjectDamaged."""
    try:
        return canonical.loads(text)
    except ValueError as error:
        raise damaged(name, "it is not JSON") from error


def of_kind(document: object, kind: str, name: str) -> Document:
    """*document*, or ObjectDamaged where it is one of another kind."""
    if not isinstance(document, dict) or document.get("kind") != kind:
        raise damaged(name, "it is another object")
    return document


def _clear_mac(document: Document, name: str, repository_id: bytes, mac_key: bytes) -> str:
    text = _canonical(document, name)
    return mac(mac_key, "clear", repository_id, name.encode(), text).hex()


def _canonical(document: Document, name: str) -> bytes:
    try:
        return canonical.dumps(document)
    except ValueError as error:
        raise damaged(name, "it is not in canonical form") from error
