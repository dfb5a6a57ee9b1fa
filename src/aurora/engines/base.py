"""The seam between a source or target and everything else.

An engine reads a source as named streams of buffers and describes what it read in
*documents*: plain, typed records that become the manifest. It knows nothing of chunks'
names, keys or storages; it hands each buffer to a :class:`BufferStore` and keeps the
:class:`Stored` answer in its documents. For a restore it asks a :class:`BufferSource`
for the same buffers back.

Documents are ``msgspec`` structs: they turn into canonical JSON and back, and tolerate
fields of later versions.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

Buffer = bytes | bytearray | memoryview


_AS_REF = {"object": "name"}  # in JSON, as the repository writes its references


class Stored(msgspec.Struct, frozen=True, rename=_AS_REF):
    """Where one buffer went: enough to ask for it again."""

    object: str
    raw: int  # bytes


class RowsSum(msgspec.Struct, frozen=True):
    """Number of rows and their order-independent checksum (see ``checksum.py``)."""

    rows: int = 0
    sum: str = "0000000000000000"  # 16 hex digits


class BufferStore(Protocol):
    """Takes buffers, from any thread; blocks while its pipeline is full."""

    def put(self, data: Buffer) -> Stored:
        """Keep *data*; identical data may be kept once."""

    def recall(self, kind: str, stored: tuple[Stored, ...], offset: int) -> RowsSum | None:
        """What an earlier backup counted in the very same rows of the same kind.

        *kind* is that of :func:`aurora.engines.logical.checksum.rows_kind`.
        """


class BufferSource(Protocol):
    """Gives buffers back, proven to be what was put. May be called from any thread."""

    def get(self, stored: Stored) -> bytes:
        """Raises ObjectMissing, ObjectDamaged, StorageError."""


class Extent(msgspec.Struct, frozen=True, omit_defaults=True, rename=_AS_REF):
    """A run of a table's rows inside one stored buffer.

    ``length`` -1 means the whole buffer; otherwise rows of several small tables share it.
    Extents of one range (equal ``first_block``) follow one another and may part a row;
    the first of them has the rows and checksum of the range.
    """

    object: str
    raw: int
    rows: int
    sum: str
    offset: int = 0
    length: int = -1
    first_block: int = 0

    @property
    def stored(self) -> Stored:
        return Stored(self.object, self.raw)

    @property
    def bytes(self) -> int:
        """Bytes of COPY text in it."""
        return self.raw if self.length < 0 else self.length


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One column as ``pg_attribute`` has it, dropped ones left out."""

    name: str
    type: str  # format_type()
    number: int  # attnum
    generated: bool = False
    identity: str = ""  # "", "a" always, "d" by default
    not_null: bool = False
    odd_collation: bool = False  # not deterministic: equal texts may differ in bytes


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """A relation of the source; ``kind`` is ``pg_class.relkind``: r, p, m or f."""

    oid: int
    schema: str
    name: str
    kind: str
    owner: str
    columns: tuple[Column, ...]
    persistence: str = "p"  # p permanent, u unlogged
    parents: tuple[int, ...] = ()  # oids: partition parent or inheritance parents
    is_partition: bool = False
    extension: str = ""  # the extension whose configuration table this is
    condition: str = ""  # pg_extension.extcondition: which rows of it are the user's
    populated: bool = True  # a materialized view that holds data
    sized: int = 0  # bytes on the source's disk, with TOAST, without indexes
    blocks: int = 0  # of the main fork
    block_size: int = 8192
    heap: bool = True  # ctid ranges work
    reshuffles: bool = False  # partitioned by hashes that another database has otherwise

    @property
    def has_rows(self) -> bool:
        """Whether rows of it are read and loaded (a view's are computed, a parent has none)."""
        return self.kind == "r"

    @property
    def copy_columns(self) -> tuple[str, ...]:
        """The columns that COPY carries: generated ones are computed at restore."""
        return tuple(column.name for column in self.columns if not column.generated)


class TableData(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was read of one table."""

    oid: int
    rows: int
    sum: str
    bytes: int  # of COPY text
    extents: tuple[Extent, ...] = ()
    range_blocks: int = 0  # length of a range, remembered so that ranges stay equal


class Sequence_(msgspec.Struct, frozen=True, omit_defaults=True):  # noqa: N801 - Sequence is taken
    """A sequence's position, read after the rows, so never behind them."""

    oid: int
    schema: str
    name: str
    last_value: int
    is_called: bool
    table: int = 0  # oid of the table whose column owns it


class LargeObject(msgspec.Struct, frozen=True, omit_defaults=True):
    """A large object; its bytes lie in ``extents`` one after the other."""

    oid: int
    owner: str
    bytes: int
    acl: tuple[str, ...] = ()
    comment: str = ""
    extents: tuple[Extent, ...] = ()


class DatabaseFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ``CREATE DATABASE`` and its settings need."""

    name: str
    owner: str
    encoding: str
    collate: str
    ctype: str
    provider: str = "c"
    locale: str = ""
    icu_rules: str = ""
    comment: str = ""
    connection_limit: int = -1
    acl: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()  # (role or "", "name=value")
    extensions: tuple[tuple[str, str, str], ...] = ()  # (name, version, schema)


class SchemaArchive(msgspec.Struct, frozen=True, omit_defaults=True):
    """``pg_dump``'s custom-format archive of the schema, and who belongs to which table.

    ``members`` maps ``"classid:oid"`` of dependent catalog rows (indexes, constraints,
    triggers, policies, defaults, rules, statistics, owned sequences, the table itself) to
    the table's oid: the archive's own listing does not tell.
    """

    tool: int  # pg_dump's major version
    pieces: tuple[Stored, ...]
    members: dict[str, int] = {}
    references: dict[str, int] = {}  # foreign keys, "classid:oid" -> oid of the table referred to
    views: dict[str, tuple[int, ...]] = {}  # "classid:oid" of a view -> oids of what it reads


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose state this is, and of which moment."""

    version_num: int
    system_identifier: str  # "" where the role may not read it
    database: DatabaseFacts
    snapshot: str  # pg_current_snapshot()
    snapshot_at: str  # the server's clock
    lsn: str
    role: str
    address: str  # host:port/database, no secrets
    timeline: int = 0


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything the logical engine read: the body of a backup's manifest."""

    source: Source
    archive: SchemaArchive
    globals: tuple[Stored, ...]
    tables: tuple[Table, ...]
    sequences: tuple[Sequence_, ...] = ()
    large_objects: tuple[LargeObject, ...] = ()
    skipped: tuple[str, ...] = ()
    not_valid: tuple[str, ...] = ()  # constraints that the source itself has as NOT VALID
    row_hash: int = 0  # how rows were hashed; see ``checksum.py``
    vault: tuple[Stored, ...] = ()  # secrets of Supabase Vault in clear, as JSON


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What Aurora wrote into the log for itself, and the transaction that it is part of."""

    text: str  # see ``marks.py``
    xid: int  # 32 bits
    lsn: int  # where the commit record begins
    at: str  # ISO, of the commit
    place: int  # where the mark itself lies in the WAL


class Segment(msgspec.Struct, frozen=True, omit_defaults=True, rename=_AS_REF):
    """One sealed piece of the change log: frames of ``pgoutput`` messages, see ``segments.py``.

    A transaction may begin in one segment and end in a later one of the chain.
    """

    object: str
    raw: int
    first_lsn: int  # WAL position of the first message received
    end_lsn: int  # end of the last Commit inside, 0 where there is none
    first_commit_at: str = ""  # ISO, of the first and last Commit inside
    last_commit_at: str = ""
    min_xid: int = 0  # 32 bits, as in Begin; in the circle's order
    max_xid: int = 0
    transactions: int = 0  # Commits inside
    marks: tuple[Mark, ...] = ()  # that stand inside; their transaction may end in a later one

    @property
    def stored(self) -> Stored:
        return Stored(self.object, self.raw)


class LogPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A backup's place in the change log, and what of the log it carries.

    Valid only for one system identifier, timeline, slot and database. ``keyed`` has the
    replica identity letter of every streamed table, by ``str(oid)``; the rows of the
    ``unkeyed`` ones were read again, and lie in the body's ``data``.
    """

    slot: str
    system_identifier: str
    timeline: int
    database_oid: int
    base: str  # id of the full that it leans on; a full's own
    parent: str  # id of the backup before it in the chain; "" for a full
    from_lsn: int
    to_lsn: int
    to_at: str  # the source's clock when to_lsn was read
    segments: tuple[Segment, ...] = ()
    fingerprint: str = ""  # of the catalog under the backup's snapshot; "": it was not looked at
    snapshot: str = ""  # pg_current_snapshot() of that look, where there is no backup's
    markers: str = ""  # the state of what marks schema changes, "" where nothing does
    keyed: dict[str, str] = {}
    unkeyed: tuple[int, ...] = ()


Progress = Callable[[int, str], None]
"""``progress(units done since the last call, detail)``; called from any thread."""


def total_rows(parts: Sequence[RowsSum]) -> RowsSum:
    """The rows and checksum of several runs of rows together."""
    total = sum(int(part.sum, 16) for part in parts) & 0xFFFFFFFFFFFFFFFF
    return RowsSum(sum(part.rows for part in parts), f"{total:016x}")
