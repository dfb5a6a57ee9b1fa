"""Parts of sealed backups: zstd frames in age files, which no key of the repository opens.

Made for recipients (public keys), opened with an identity that is kept elsewhere. A part is
a plain age file around a plain zstd frame, so ``age -d -i identity part | zstd -d`` gives
its payload without Aurora. docs/format.md, "Sealed backups", is normative.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyrage
import zstandard

from aurora.errors import UsageError, WrongKey
from aurora.repository.damage import damaged
from aurora.repository.envelope import compress, inflate
from aurora.storage.base import Buffer

SUFFIX = ".zst.age"
MAX_PART = 64 * 2**20  # bytes of payload
MAX_INDEX = 2 * 2**30  # the index of a database of some 10 TB
_MAGIC = b"age-encryption.org/v1\n"
_IDENTITY_MAX = 64 * 1024
_SSH = ("ssh-ed25519", "ssh-rsa")


@dataclass(frozen=True)
class Recipients:
    """Whom parts are sealed for. ``texts`` are public keys as people write them."""

    texts: tuple[str, ...]
    _keys: tuple[Any, ...] = field(repr=False)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "Recipients":
        """From ``age1…``, ``age1pq1…``, ``age1tag1…`` or ``ssh-ed25519 …``. Raises UsageError."""
        found = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
        if not found:
            raise UsageError(
                "a sealed backup needs somebody to be sealed for",
                hint="Make an identity on a machine that is not this one, with `aurora key "
                "new-identity FILE` or `age-keygen`, and write its public key (age1…) into "
                "recipients under [sealed] in aurora.toml.",
            )
        return cls(found, tuple(_recipient(text) for text in found))

    def seal(self, payload: Buffer, level: int) -> bytes:
        """The stored bytes of a part. May be called from any thread."""
        return bytes(pyrage.encrypt(compress(payload, level), self._keys))


@dataclass(frozen=True)
class Identities:
    """What opens parts: the private keys of one or more identity files."""

    _keys: tuple[Any, ...] = field(repr=False)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> "Identities":
        """From identity files as ``age-keygen`` writes them, or SSH private keys.

        Raises UsageError.
        """
        keys: list[Any] = []
        for path in paths:
            try:
                with path.open("rb") as file:
                    data = file.read(_IDENTITY_MAX)
            except OSError as error:
                raise UsageError(
                    f"cannot read the identity {path}: {(error.strerror or '').lower()}",
                    hint="Check the path and that this user may read the file.",
                ) from error
            keys += _identities(data, path)
        return cls(tuple(keys))

    def open(self, stored: bytes, name: str, *, limit: int = MAX_PART) -> bytes:
        """The payload of a part of at most *limit* bytes.

        Raises:
            WrongKey: none of the identities is a recipient's.
            ObjectDamaged: it is not what was written.
        """
        try:
            frame = pyrage.decrypt(stored, list(self._keys))
        except pyrage.DecryptError as error:
            if "No matching keys" in str(error):
                raise WrongKey(
                    "the identity is not one that the backup was sealed for",
                    hint="`aurora backup verify` shows its recipients; `age-keygen -y FILE` shows "
                    "the public key of an identity.",
                ) from None
            raise damaged(name, "it does not open") from error
        try:
            raw = zstandard.frame_content_size(frame)
        except zstandard.ZstdError as error:
            raise damaged(name, "it cannot be inflated") from error
        if not 0 <= raw <= limit:
            raise damaged(name, "its sizes make no sense")
        return inflate(frame, raw, name)


def look_at_part(stored: bytes, name: str) -> None:
    """What can be told of a part without an identity. Raises ObjectDamaged."""
    if not stored.startswith(_MAGIC):
        raise damaged(name, "it is no age file")


def new_identity(path: Path) -> str:
    """Write a new identity file (mode 0600); its public key. Raises UsageError."""
    identity = pyrage.x25519.Identity.generate()
    public = str(identity.to_public())
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"# public key: {public}\n{identity}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {(error.strerror or '').lower()}",
            hint="Give a new file in a directory that exists. An existing file is never replaced.",
        ) from error
    return public


def _recipient(text: str) -> Any:
    kinds: tuple[tuple[tuple[str, ...], Any], ...] = (
        (_SSH, pyrage.ssh.Recipient),
        (("age1tagpq1",), pyrage.tagpq.Recipient),
        (("age1tag1",), pyrage.tag.Recipient),
        (("age1",), pyrage.x25519.Recipient),
    )
    if text.upper().startswith("AGE-SECRET-KEY-"):
        raise UsageError(
            "a private key stands where a public one belongs",
            hint="Recipients are public keys (age1…). Take the private key off this machine; it "
            "has been in its configuration, so make a new one.",
        )
    for prefixes, kind in kinds:
        if text.startswith(prefixes):
            try:
                return kind.from_str(text)
            except pyrage.RecipientError as error:
                raise UsageError(
                    f"not a public key: {text[:60]!r}",
                    hint="Copy it whole from the identity file's comment, or from `age-keygen -y`.",
                ) from error
    raise UsageError(
        f"not a public key: {text[:60]!r}",
        hint="Use age1… (age-keygen), age1tag1… or age1tagpq1… (hardware), or an SSH public key.",
    )


def _identities(data: bytes, path: Path) -> list[Any]:
    if data.startswith((_MAGIC, b"-----BEGIN AGE ENCRYPTED FILE-----")):
        raise UsageError(
            f"the identity {path} is itself encrypted",
            hint="Decrypt it first, to a place in memory such as /dev/shm: `age -d -o …`.",
        )
    try:
        if data.startswith(b"-----BEGIN"):
            return [pyrage.ssh.Identity.from_buffer(data)]
        lines = [line.strip() for line in data.decode().splitlines()]
        found = [
            pyrage.x25519.Identity.from_str(line)
            for line in lines
            if line and not line.startswith("#")
        ]
    except (UnicodeDecodeError, pyrage.IdentityError) as error:
        raise UsageError(
            f"{path} is no identity",
            hint="It holds AGE-SECRET-KEY-1… (as `age-keygen` writes it) or an unencrypted SSH "
            "private key. Identities of plugins and hardware open parts with `age` itself.",
        ) from error
    if not found:
        raise UsageError(f"{path} holds no identity", hint="Look for AGE-SECRET-KEY-1… in it.")
    return found
