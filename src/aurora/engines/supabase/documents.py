"""What a backup says of a project's Storage: buckets, objects, and where their bytes lie.

A million objects must not be held in memory at once, so their entries are cut into pages,
sorted by bucket and name in byte order, and the manifest names the pages alone. Where a
page ends is decided by the names in it: a change touches its own page, and the others are
the same bytes in the next backup.
"""

import zlib

import msgspec

from aurora.engines.base import Stored

PAGE_ENTRIES = 1024  # on average
_PAGE_MOST = 4 * PAGE_ENTRIES
_PAGE_BYTES = 4 << 20

NEWER = "newer"
"""An entry's note: the bytes are of a later version than the snapshot's row."""
LOST = "lost"
"""An entry's note begins so: there are no bytes; the reason follows after ``: ``."""
BEGUN = "begun"
"""An entry's note, in a checkpoint alone: the bytes are the beginning of the object."""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A run of an object's bytes inside one stored buffer."""

    pack: int  # index in the page's ``packs``
    offset: int
    length: int


class ObjectEntry(msgspec.Struct, frozen=True, array_like=True):
    """One object as its row in the snapshot has it. Times as PostgreSQL prints them in UTC."""

    bucket: str
    name: str
    version: str  # "" where the row has none
    size: int  # bytes held here
    sha256: str  # of the bytes, hex; "" where there are none
    pieces: tuple[Piece, ...]
    mimetype: str
    cache_control: str
    etag: str
    user_metadata: str  # JSON text, "" where the row has none
    owner: str
    owner_id: str
    created_at: str
    updated_at: str
    last_accessed_at: str
    note: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What entries are sorted by, as bytes."""
        return self.bucket, self.name

    @property
    def is_lost(self) -> bool:
        """Whether the backup has no bytes for it."""
        return self.note.startswith(LOST)


class ObjectPage(msgspec.Struct, frozen=True):
    """Some entries, and the stored buffers that their pieces lie in."""

    packs: tuple[Stored, ...]
    entries: tuple[ObjectEntry, ...]
    kind: str = "storage-objects"


class PageRef(msgspec.Struct, frozen=True, rename={"object": "name"}):
    """Where a page is kept, and its first entry."""

    object: str
    raw: int
    entries: int
    bucket: str
    first: str


class ObjectProblem(msgspec.Struct, frozen=True):
    """An object that the backup does not hold as its row says."""

    bucket: str
    object: str
    what: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.object}: {self.what}"


class StoragePart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A manifest's ``storage``: the Storage of the project, as of the snapshot.

    ``problems`` has the first few; the entries have all of them as notes.
    """

    url: str
    buckets: tuple[dict[str, object], ...]  # rows of storage.buckets, by column
    pages: tuple[PageRef, ...] = ()
    objects: int = 0
    bytes: int = 0
    lost: int = 0
    newer: int = 0
    problems: tuple[ObjectProblem, ...] = ()
    skipped: tuple[str, ...] = ()  # buckets left out, with the reason


def ends_page(entry: ObjectEntry, entries: int, size: int) -> bool:
    """Whether a page of *entries* and about *size* bytes ends after *entry*."""
    if entries >= _PAGE_MOST or size >= _PAGE_BYTES:
        return True
    return zlib.crc32(f"{entry.bucket}\0{entry.name}".encode()) % PAGE_ENTRIES == 0
