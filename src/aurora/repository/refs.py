"""Refs: what a backup needs, in clear, so that no key is needed to look after it.

For each backup: the name, the size and the SHA-256 of every stored object that a restore
reads. A mirror host, a collector and a keyless check work from refs alone; the MAC lets the
owner of the master key see that nobody else wrote them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

import msgspec

from aurora import clock
from aurora.errors import UsageError
from aurora.repository import signed
from aurora.repository.damage import damaged
from aurora.repository.layout import FORMAT, backup_name, is_safe, parse_dated, refs_name

MAX_OBJECTS = 600_000
"""Objects of one backup: their refs must fit one stored object. At 8 MiB, 4.8 TB."""

_HEX = re.compile(r"[0-9a-f]{64}\Z")


class RefObject(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One stored object: ``[name, size, sha256]`` in the document."""

    name: str
    size: int  # stored bytes
    sha256: str  # 64 hex digits, of the stored bytes


@dataclass(frozen=True, slots=True)
class Previous:
    """The backup of the same database before this one, as its writer saw it."""

    backup: str
    sequence: int
    sha256: str  # of that backup's stored manifest


class _Document(msgspec.Struct):
    # Decoded by type: without the key anything may be in it, however deep or long.
    backup: str
    created_at: str
    database: str
    manifest: RefObject
    objects: Annotated[list[RefObject], msgspec.Meta(max_length=MAX_OBJECTS)]
    previous: Previous | None
    repository: str
    sequence: Annotated[int, msgspec.Meta(ge=1)]
    type: Annotated[str, msgspec.Meta(pattern=r"\A[a-z]{2,16}\Z")]


# Made here and not at first use: refs are read side by side, and msgspec (0.22) crashes where
# two threads are the first to decode one type.
_DECODER = msgspec.json.Decoder(_Document)


@dataclass(frozen=True, slots=True)
class Refs:
    """The refs of one backup."""

    database: str
    backup: str
    type: str
    created_at: datetime
    sequence: int  # 1 for the first backup of a database
    previous: Previous | None
    manifest: RefObject
    objects: list[RefObject] = field(repr=False)

    @property
    def stored_bytes(self) -> int:
        """What a restore of this backup alone reads, in stored bytes."""
        return self.manifest.size + sum(one.size for one in self.objects)

    def all_objects(self) -> Iterable[RefObject]:
        """The objects and, last, the manifest."""
        yield from self.objects
        yield self.manifest


def write_refs(refs: Refs, *, repository_id: bytes, mac_key: bytes) -> bytes:
    """The stored bytes of *refs*. Raises UsageError when there are too many objects."""
    if len(refs.objects) > MAX_OBJECTS:
        raise UsageError(
            f"{len(refs.objects)} objects are too many for one backup",
            hint=f"Format 1 holds {MAX_OBJECTS} objects a backup: use larger chunks.",
        )
    previous = refs.previous
    document = {
        "backup": refs.backup,
        "created_at": clock.isoformat(refs.created_at),
        "database": refs.database,
        "format": FORMAT,
        "kind": "refs",
        "manifest": refs.manifest,
        "objects": sorted(refs.objects),
        "previous": previous
        and {
            "backup": previous.backup,
            "sequence": previous.sequence,
            "sha256": previous.sha256,
        },
        "repository": repository_id.hex(),
        "sequence": refs.sequence,
        "type": refs.type,
    }
    name = refs_name(refs.database, refs.backup)
    return signed.write_packed(document, name=name, repository_id=repository_id, mac_key=mac_key)


def read_refs(stored: bytes, *, name: str, repository_id: bytes, mac_key: bytes | None) -> Refs:
    """The refs in *stored*; without a *mac_key* only accidental damage is noticed.

    Raises:
        ObjectDamaged: they are not what was written under this name.
    """
    text = signed.read_packed(stored, name=name, repository_id=repository_id, mac_key=mac_key)
    try:
        found = _DECODER.decode(text)
        refs = Refs(
            database=found.database,
            backup=found.backup,
            type=found.type,
            created_at=clock.parse(found.created_at),
            sequence=found.sequence,
            previous=found.previous,
            manifest=found.manifest,
            objects=found.objects,
        )
    except (OverflowError, RecursionError, ValueError, msgspec.MsgspecError) as error:
        raise damaged(name, "a member is absent or makes no sense") from error
    if (
        parse_dated(name) != (refs.database, refs.backup)
        or found.repository != repository_id.hex()
        or refs.manifest.name != backup_name(refs.database, refs.backup)
    ):
        raise damaged(name, "it is another object")
    if not all(map(_is_sane, refs.all_objects())):
        raise damaged(name, "it names an impossible object")
    return refs


def _is_sane(one: RefObject) -> bool:
    return is_safe(one.name) and one.size > 0 and _HEX.match(one.sha256) is not None
