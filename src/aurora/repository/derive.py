"""Keys from keys: HKDF-SHA256 with labels, and the master key's own descendants."""

import hashlib
import hmac
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32


def derive(
    key: bytes,
    label: str,
    context: bytes = b"",
    *,
    salt: bytes | None = None,
    length: int = KEY_BYTES,
) -> bytes:
    """HKDF-SHA256(*key*, *salt*, info = ``aurora/1/<label>`` ‖ 0x00 ‖ *context*)."""
    info = b"aurora/1/" + label.encode() + b"\0" + context
    return HKDF(hashes.SHA256(), length, salt, info).derive(key)


def mac(key: bytes, label: str, *parts: bytes) -> bytes:
    """HMAC-SHA256 over ``aurora/1/<label>`` and *parts*, each followed by 0x00 but the last."""
    text = b"\0".join((b"aurora/1/" + label.encode(), *parts))
    return hmac.digest(key, text, hashlib.sha256)


@dataclass(frozen=True)
class MasterKey:
    """The key that all key slots of one repository wrap."""

    repository_id: bytes
    key: bytes = field(repr=False)

    @cached_property
    def id_key(self) -> bytes:
        """Keys the ids of contents: equal contents are not visible to the storage."""
        return derive(self.key, "id", salt=self.repository_id)

    @cached_property
    def mac_key(self) -> bytes:
        """Signs everything that is kept in clear: config, slots, sessions, refs, leases."""
        return derive(self.key, "mac", salt=self.repository_id)

    def wrap_key(self, epoch: int) -> bytes:
        """Wraps the sessions' data keys of *epoch* (counted from 1)."""
        return derive(self.key, "wrap", epoch.to_bytes(4, "big"), salt=self.repository_id)
