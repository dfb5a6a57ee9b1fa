"""A backup's content: engine documents in a repository's manifest, and back.

The manifest holds the snapshot and what was read of each table. Tables of many chunks
have their list in objects of their own (``tables/``), which an unchanged table shares
with the backup before.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import msgspec

from aurora.engines.base import (
    Buffer,
    Extent,
    LogPart,
    RowsSum,
    Sequence_,
    Snapshot,
    Stored,
    Table,
    TableData,
)
from aurora.engines.logical.checksum import ROW_HASH, rows_kind
from aurora.engines.supabase.documents import StoragePart
from aurora.errors import ObjectDamaged, UnsupportedRepository, UsageError
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import Ref, Repository
from aurora.repository.layout import ObjectType
from aurora.repository.sealed_door import SealedRepository
from aurora.repository.writer import Writer

ENGINE = "logical"
SEALED_ENGINE = "sealed"  # of the stub that a sealed backup has under the repository's keys
_INLINE_EXTENTS = 8
_EXTENTS_AN_OBJECT = 50_000


class TableObject(msgspec.Struct, frozen=True, rename={"object": "name"}):
    """Where part of a table's list of extents is kept."""

    oid: int
    object: str
    raw: int


class Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """The members of a manifest that this module writes and reads."""

    engine: str
    aurora: str  # the version that wrote it
    data: tuple[TableData, ...]
    snapshot: Snapshot | None = None  # None: a piece of the change log, see ``log``
    objects: tuple[TableObject, ...] = ()
    label: str = ""  # why it was made: "safety before restore …"
    partial: bool = False  # rows of some tables alone: no whole restore
    figures: dict[str, int] = {}
    log: LogPart | None = None  # its place in the change log, where there is one
    sequences: tuple[Sequence_, ...] = ()  # of a piece: those that moved since the one before
    storage: StoragePart | None = None  # the objects of the project's Storage


Readable = Repository | SealedRepository
"""What backups are read from: by the repository's own keys, or by an identity."""

_Key = tuple[str, tuple[str, ...], int]  # kind of the rows, the objects, offset inside


# Both made before any thread needs them; see aurora.repository.refs. The first also prepares
# what msgspec.convert() takes.
_BODY = msgspec.json.Decoder(Body)
_TABLE_DATA = msgspec.json.Decoder(TableData)


class WriterStore:
    """An engine's buffers into a repository writer; remembers what earlier backups counted."""

    def __init__(self, writer: Writer, remembered: Mapping[_Key, RowsSum]) -> None:
        self._writer = writer
        self._remembered = remembered
        self._lock = threading.Lock()
        self._uses: dict[str, int] = {}

    def put(self, data: Buffer) -> Stored:
        ref = self._writer.put(ObjectType.CHUNK, data)
        with self._lock:
            self._uses[ref.name] = ref.raw
        return Stored(ref.name, ref.raw)

    def recall(self, kind: str, stored: tuple[Stored, ...], offset: int) -> RowsSum | None:
        return self._remembered.get((kind, tuple(one.object for one in stored), offset))

    def forget(self) -> None:
        """Recall nothing any more: the source hashes otherwise than the earlier backup's did."""
        self._remembered = {}

    def uses(self) -> list[Ref]:
        """Every chunk that was put, once."""
        with self._lock:
            return [Ref(name, raw) for name, raw in self._uses.items()]


def remembered_sums(tables: Iterable[Table], data: Iterable[TableData]) -> dict[_Key, RowsSum]:
    """What an earlier backup counted in each range, by where its rows are kept."""
    kinds = {table.oid: rows_kind(table.columns) for table in tables}
    found: dict[_Key, RowsSum] = {}
    for table in data:
        for _, group in groupby(table.extents, key=lambda extent: extent.first_block):
            parts = list(group)
            key = (
                kinds.get(table.oid, ""),
                tuple(extent.object for extent in parts),
                parts[0].offset,
            )
            found[key] = RowsSum(parts[0].rows, parts[0].sum)
    return found


def write_body(
    writer: Writer, snapshot: Snapshot, data: list[TableData], **extra: Any
) -> tuple[dict[str, Any], list[Ref]]:
    """Put the tables' objects; the manifest's members, and the objects they use besides."""
    kept: list[TableData] = []
    objects: list[TableObject] = []
    for table in data:
        if len(table.extents) <= _INLINE_EXTENTS:
            kept.append(table)
            continue
        for part in _parts(table):
            ref = writer.put(ObjectType.TABLE, msgspec.json.encode(part))
            objects.append(TableObject(table.oid, ref.name, ref.raw))
        kept.append(msgspec.structs.replace(table, extents=()))
    body = Body(ENGINE, snapshot=snapshot, data=tuple(kept), objects=tuple(objects), **extra)
    return msgspec.to_builtins(body), [Ref(one.object, one.raw) for one in objects]


def _parts(table: TableData) -> Iterator[TableData]:
    for start in range(0, len(table.extents), _EXTENTS_AN_OBJECT):
        yield msgspec.structs.replace(
            table, extents=table.extents[start : start + _EXTENTS_AN_OBJECT]
        )


def moved_on(before: tuple[Sequence_, ...], after: tuple[Sequence_, ...]) -> tuple[Sequence_, ...]:
    """Positions of sequences with the later ones in the place of the earlier."""
    return tuple(({one.oid: one for one in before} | {one.oid: one for one in after}).values())


class Backup:
    """One backup, its manifest opened: what it holds and where."""

    def __init__(self, repository: Readable, entry: BackupEntry) -> None:
        """Raises ObjectMissing, ObjectDamaged, UnsupportedRepository, StorageError, and
        UsageError for a sealed backup that no identity opens."""
        self.repository = repository
        self.entry = entry
        manifest = repository.manifest(entry)
        if manifest.get("engine") == SEALED_ENGINE:
            raise UsageError(
                f"backup {entry.id} is sealed: the repository's keys do not open it",
                hint="Give the identity that it was sealed for: --identity FILE.",
            )
        if manifest.get("engine") != ENGINE:
            raise UnsupportedRepository(
                f"backup {entry.id} was made by an engine that this version does not know: "
                f"{str(manifest.get('engine'))[:40]}",
                hint="Install a newer Aurora. Nothing was changed.",
            )
        try:
            self.body = msgspec.convert(manifest, Body)
        except msgspec.ValidationError as error:
            raise ObjectDamaged(
                f"the manifest of {entry.id} does not read as one: {error}",
                hint="Install a newer Aurora; if it is the newest, report this.",
                context={"name": entry.manifest_name},
            ) from error

        if not self.is_piece and self.snapshot.row_hash != ROW_HASH:
            raise UnsupportedRepository(
                f"backup {entry.id} has row checksums of kind {self.snapshot.row_hash}",
                hint="Install the Aurora that knows them. Nothing was changed.",
            )

    @property
    def is_piece(self) -> bool:
        """Whether it holds a piece of the change log and nothing else."""
        return self.body.snapshot is None

    @property
    def snapshot(self) -> Snapshot:
        """Raises UnsupportedRepository for a piece of the change log."""
        if self.body.snapshot is None:
            raise UnsupportedRepository(
                f"{self.entry.id} is a piece of the change log that `aurora stream` stored",
                hint="It is no backup by itself; recoveries to a point in time use it.",
            )
        return self.body.snapshot

    def data(self, only: set[int] | None = None) -> list[TableData]:
        """What was read of each table (of those in *only*), with all extents.

        Raises ObjectMissing, ObjectDamaged, StorageError.
        """
        parts: dict[int, list[Extent]] = {}
        for one in self.body.objects:
            if only is None or one.oid in only:
                text = self.repository.read(Ref(one.object, one.raw))
                parts.setdefault(one.oid, []).extend(_TABLE_DATA.decode(text).extents)
        return [
            msgspec.structs.replace(table, extents=tuple(parts[table.oid]))
            if table.oid in parts
            else table
            for table in self.body.data
            if only is None or table.oid in only
        ]

    def read_all(self, pieces: Iterable[Stored]) -> bytes:
        """The pieces of a longer content, joined."""
        return b"".join(self.repository.read(Ref(piece.object, piece.raw)) for piece in pieces)


class RepositorySource:
    """Buffers out of a repository, each proven. Keeps the few last ones: small tables share."""

    def __init__(self, repository: Readable, *, keep: int = 3) -> None:
        self._repository = repository
        self._keep = keep
        self._lock = threading.Lock()
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self.bytes_read = 0

    def get(self, stored: Stored) -> bytes:
        with self._lock:
            if stored.object in self._held:
                self._held.move_to_end(stored.object)
                return self._held[stored.object]
        data = self._repository.read(Ref(stored.object, stored.raw))
        with self._lock:
            self.bytes_read += len(data)
            self._held[stored.object] = data
            while len(self._held) > self._keep:
                self._held.popitem(last=False)
        return data
