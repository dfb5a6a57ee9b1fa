"""What opens a repository: a passphrase, a printed recovery code, or a key file.

Each turns into a key-encryption key for one slot. Only the passphrase needs a slow
derivation; the other two hold at least 128 random bits.
"""

import hashlib
import secrets
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from aurora.errors import UsageError
from aurora.repository.derive import KEY_BYTES, derive

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_READ_AS = str.maketrans("ilo", "110", " -\t\n\r")
_CODE_BITS = 128
_CHECK_BITS = 22
_GROUP = 5
_CODE_LETTERS = (_CODE_BITS + _CHECK_BITS) // 5
_KEY_FILE_MIN = 32  # bytes
_KEY_FILE_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kdf:
    """Parameters of Argon2id. The defaults take about an eighth of a second.

    64 MiB and four lanes are what RFC 9106 recommends where memory is short (section 4,
    second option), with one iteration more; a backup opens two storages and should not take
    more memory for that than for its rows.
    """

    iterations: int = 4
    memory_kib: int = 64 * 1024
    lanes: int = 4
    allow_weak: bool = field(default=False, compare=False)  # tests only; never stored

    def check_for_writing(self) -> None:
        """Raise UsageError when a new slot with these would be too easy to guess."""
        if not self.allow_weak and (self.iterations < 3 or self.memory_kib < 64 * 1024):
            raise UsageError(
                "the passphrase's derivation is too weak",
                hint="Argon2id needs at least 3 iterations and 65536 KiB of memory.",
            )
        if not self.is_sane():
            raise UsageError("the passphrase's derivation is out of bounds")

    def is_sane(self) -> bool:
        """Whether a stored slot may ask this of the machine that opens it.

        The ceiling keeps a hostile storage from exhausting memory or hours.
        """
        return (
            1 <= self.iterations <= 32
            and 8 * 1024 <= self.memory_kib <= 2**20
            and 1 <= self.lanes <= 16
            and self.iterations * self.memory_kib <= 8 * 2**20
        )


WEAK_KDF_FOR_TESTS = Kdf(iterations=1, memory_kib=8 * 1024, lanes=1, allow_weak=True)
"""Ten milliseconds instead of five hundred. Never protect anything with it."""


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A passphrase, compared after Unicode normalization (NFKC)."""

    text: str = field(repr=False)

    def key(self, salt: bytes, kdf: Kdf) -> bytes:
        """The key-encryption key of a slot with *salt*."""
        if not self.text:
            raise UsageError("the passphrase is empty")
        return Argon2id(
            salt=salt,
            length=KEY_BYTES,
            iterations=kdf.iterations,
            lanes=kdf.lanes,
            memory_cost=kdf.memory_kib,
        ).derive(unicodedata.normalize("NFKC", self.text).encode())


@dataclass(frozen=True, slots=True)
class RecoveryCode:
    """A printed recovery code: six groups of five, 128 random bits and a checksum.

    Case, spaces and hyphens do not matter, nor does reading 0 as O or 1 as I or L.
    """

    text: str = field(repr=False)

    def key(self, salt: bytes) -> bytes:
        """The key-encryption key of a slot with *salt*. Raises UsageError on a typo."""
        return derive(self._bits(), "recovery-code", salt=salt)

    def _bits(self) -> bytes:
        letters = self.text.lower().translate(_READ_AS)
        if len(letters) != _CODE_LETTERS or any(one not in _CROCKFORD for one in letters):
            raise _typo(f"it has {_CODE_LETTERS} letters and digits, in groups of {_GROUP}")
        number = 0
        for letter in letters:
            number = number << 5 | _CROCKFORD.index(letter)
        bits = (number >> _CHECK_BITS).to_bytes(_CODE_BITS // 8, "big")
        if number & ((1 << _CHECK_BITS) - 1) != _checksum(bits):
            raise _typo("one or more of its letters were misread")
        return bits


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The contents of a key file: at least 32 bytes, random."""

    data: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> "KeyFile":
        """The key file at *path*. Raises UsageError when it cannot be read."""
        try:
            with path.open("rb") as file:
                return cls(file.read(_KEY_FILE_MAX + 1))
        except OSError as error:
            raise UsageError(f"cannot read the key file {path}: {error.strerror}") from error

    def key(self, salt: bytes) -> bytes:
        """The key-encryption key of a slot with *salt*."""
        if not _KEY_FILE_MIN <= len(self.data) <= _KEY_FILE_MAX:
            raise UsageError(
                f"the key file has {len(self.data)} bytes",
                hint="A key file holds 32 random bytes or more, up to 1 MiB.",
            )
        return derive(hashlib.sha256(self.data).digest(), "key-file", salt=salt)


Secret = Passphrase | RecoveryCode | KeyFile


def new_recovery_code(bits: bytes | None = None) -> str:
    """A new recovery code as printed: ``abcde-fghjk-…``. *bits* is for test vectors."""
    bits = bits or secrets.token_bytes(_CODE_BITS // 8)
    number = int.from_bytes(bits, "big") << _CHECK_BITS | _checksum(bits)
    letters = "".join(
        _CROCKFORD[number >> shift & 31] for shift in range(5 * (_CODE_LETTERS - 1), -1, -5)
    )
    return "-".join(letters[at : at + _GROUP] for at in range(0, _CODE_LETTERS, _GROUP))


def _checksum(bits: bytes) -> int:
    digest = hashlib.sha256(b"aurora/1/recovery-check\0" + bits).digest()
    return int.from_bytes(digest[:4], "big") >> (32 - _CHECK_BITS)


def _typo(reason: str) -> UsageError:
    return UsageError(
        f"not a recovery code: {reason}",
        hint="Compare it with the printed one group by group. This says nothing yet about "
        "whether it is the right code for this repository.",
    )
