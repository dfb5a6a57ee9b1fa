"""The list of a Storage's objects in a repository: pages of entries, written and read again."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import msgspec

from aurora.engines.base import Stored
from aurora.engines.supabase.catalogue import Held, Part
from aurora.engines.supabase.collect import Key
from aurora.engines.supabase.documents import (
    BEGUN,
    ObjectEntry,
    ObjectPage,
    PageRef,
    Piece,
    ends_page,
)
from aurora.engines.supabase.rows import ObjectRow
from aurora.repository.door import Ref
from aurora.repository.layout import ObjectType
from aurora.repository.writer import Writer


class Index:
    """Entries on their way into pages; only the page that is being filled is in memory."""

    def __init__(self, put_page: Callable[[ObjectPage], Stored]) -> None:
        self.objects = 0
        self.bytes = 0
        self._put_page = put_page
        self._page = _PageBuilder()
        self._pages: list[PageRef] = []
        self._uses: dict[str, int] = {}

    def add(self, row: ObjectRow, held: Held | None) -> ObjectEntry:
        """Take the next object; None where nothing is known of its bytes."""
        entry = self._page.add(row, held)
        self.objects += 1
        self.bytes += entry.size
        if ends_page(entry, len(self._page.entries), self._page.size):
            self._close_page()
        return entry

    def finish(self) -> tuple[PageRef, ...]:
        """The pages, in the order of what was added."""
        if self._page.entries:
            self._close_page()
        return tuple(self._pages)

    def uses(self) -> list[Ref]:
        """The pages and all that their entries lie in, once."""
        return [Ref(name, raw) for name, raw in self._uses.items()]

    def _close_page(self) -> None:
        page, self._page = self._page, _PageBuilder()
        for pack in page.packs:
            self._uses[pack.object] = pack.raw
        stored = self._put_page(ObjectPage(tuple(page.packs), tuple(page.entries)))
        self._uses[stored.object] = stored.raw
        first = page.entries[0]
        self._pages.append(
            PageRef(stored.object, stored.raw, len(page.entries), first.bucket, first.name)
        )


class _PageBuilder:
    """Entries of one page, with the buffers that they lie in numbered."""

    def __init__(self) -> None:
        self.packs: list[Stored] = []
        self.entries: list[ObjectEntry] = []
        self.size = 0  # bytes of JSON, about
        self._numbers: dict[str, int] = {}

    def add(self, row: ObjectRow, held: Held | None) -> ObjectEntry:
        held = held or Held(0, "", (), "lost: it was not read")
        entry = ObjectEntry(
            row.bucket,
            row.name,
            row.version,
            held.size,
            held.sha256,
            tuple(Piece(self._number(part), part.offset, part.length) for part in held.parts),
            row.mimetype,
            row.cache_control,
            row.etag,
            row.user_metadata,
            row.owner,
            row.owner_id,
            row.created_at,
            row.updated_at,
            row.last_accessed_at,
            held.note,
        )
        self.entries.append(entry)
        self.size += 400 + len(row.name) + len(row.user_metadata) + 120 * len(held.parts)
        return entry

    def _number(self, part: Part) -> int:
        number = self._numbers.get(part.object)
        if number is None:
            number = self._numbers[part.object] = len(self.packs)
            self.packs.append(Stored(part.object, part.raw))
        return number


def write_page(writer: Writer, page: ObjectPage) -> Stored:
    """Put a page among a repository's shared objects."""
    ref = writer.put(ObjectType.TABLE, msgspec.json.encode(page))
    return Stored(ref.name, ref.raw)


def held_in(page: ObjectPage, entry: ObjectEntry) -> tuple[str, str, str, Held]:
    """Bucket, name and identity of an entry, and where its bytes are."""
    parts = tuple(
        Part(page.packs[piece.pack].object, page.packs[piece.pack].raw, piece.offset, piece.length)
        for piece in entry.pieces
    )
    row = ObjectRow(
        entry.bucket, entry.name, entry.version, "", "", "", entry.updated_at, "", "",
        etag=entry.etag, size=entry.size,
    )  # fmt: skip
    held = Held(entry.size, entry.sha256, parts)
    return entry.bucket, entry.name, row.identity, held


def beginnings_in(page: ObjectPage, usable: Sequence[bool]) -> Iterator[tuple[Key, Held]]:
    """Large objects of a checkpoint's page that were not read to their end.

    *usable* says of each pack whether it may be named; a beginning ends before one that may not.
    """
    for entry in page.entries:
        if entry.note == BEGUN:
            bucket, name, identity, held = held_in(page, entry)
            good = itertools.takewhile(bool, (usable[piece.pack] for piece in entry.pieces))
            yield (bucket, name, identity), replace(held, parts=held.parts[: len(list(good))])
