"""Reading tables: COPY of block ranges, and what each range's rows sum up to.

Who waits to change a table waits for the coordinator, which has it locked; and a worker
that comes to that table then waits behind both. Such a table's rest is read by the
coordinator itself.

A buffer is never taken apart into rows in Python: asyncpg hands over many rows at once
from C, and the server counts and hashes them (see ``checksum.py``), unless the range is
the very one of an earlier backup.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from aurora.engines.base import (
    BufferStore,
    Extent,
    Progress,
    RowsSum,
    Stored,
    Table,
    TableData,
    total_rows,
)
from aurora.engines.logical.checksum import rows_kind, rows_sum, sum_query
from aurora.engines.logical.names import Connection as ControlConnection
from aurora.engines.logical.names import quoted, shown
from aurora.engines.logical.ranges import BlockRange, Group, Work
from aurora.engines.logical.workers import Connection, Shared, begin_reading, run_workers
from aurora.errors import AuroraError, SourceChanged, SourceUnsupported
from aurora.postgres.errors import translated

# asyncpg wakes for whatever has arrived, often a few kB, and each wake costs as much as 50 kB
# do. A moment's patience gathers more: a third less CPU for the same bytes, none lost in time.
_SMALL_PIECE = 128 << 10
_PATIENCE = 0.001  # seconds
PIECE_BYTES = 32 << 20  # a single row larger than a chunk is parted into pieces of this size

Found = list[tuple[int, list[Extent]]]


@dataclass(frozen=True, slots=True)
class Reading:
    """What all workers of one run share."""

    shared: Shared
    coordinator: ControlConnection  # holds the snapshot and every table's lock
    store: BufferStore
    chunk_bytes: int
    lengths: dict[int, int]  # blocks in a range, by table
    progress: Progress


class _Coordinator:
    """The coordinator's own session in the shape of a worker's."""

    def __init__(self, connection: ControlConnection) -> None:
        self._connection = connection

    async def copy_from_query(
        self,
        query: str,
        *,
        output: Callable[[bytes], Coroutine[Any, Any, None]],
        timeout: None,  # noqa: ASYNC109, ARG002 - as asyncpg has it
    ) -> str:
        with self._connection.cursor() as cursor:
            with cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
                for data in copy:
                    await output(bytes(data))
            return f"COPY {cursor.rowcount}"

    async def fetchrow(self, query: str) -> tuple[Any, ...] | None:
        return self._connection.execute(query.encode()).fetchone()


Session = Connection | _Coordinator


def read_tables(reading: Reading, work: Sequence[Work], *, jobs: int) -> list[TableData]:
    """Do all *work* with *jobs* connections; what was read, in order of oid.

    Raises:
        SourceError: the source failed; no retry helped.
        AuroraError: whatever the store raised.
        Cancelled: the run was stopped from outside.
    """

    held_up: list[Work] = []
    queued: set[int] = set()  # oids of tables that somebody waits to change

    async def do(connection: Connection, item: Work) -> Found:
        oids = {table.oid for table in tables_of(item)}
        if oids.isdisjoint(queued):
            try:
                return await _read(reading, connection, item)
            except asyncpg.LockNotAvailableError:
                queued.update(oids)
                await connection.execute("ROLLBACK")
                await begin_reading(connection, reading.shared)
        held_up.append(item)
        return []

    found = run_workers(reading.shared, work, do, jobs=jobs, name=work_name, explain=_explained)
    found += [_read_through_coordinator(reading, item) for item in held_up]
    extents: dict[int, list[Extent]] = {table.oid: [] for item in work for table in tables_of(item)}
    for done in found:
        for oid, more in done:
            extents[oid] += more
    return [_table_data(oid, extents[oid], reading.lengths.get(oid, 0)) for oid in sorted(extents)]


async def _read(reading: Reading, connection: Session, item: Work) -> Found:
    if isinstance(item, Group):
        return await _read_group(reading, connection, item)
    return [(item.table.oid, await _read_range(reading, connection, item))]


def _read_through_coordinator(reading: Reading, item: Work) -> Found:
    reading.shared.raise_if_cancelled()
    with translated("source", doing=f"reading {work_name(item)}"):
        return asyncio.run(_read(reading, _Coordinator(reading.coordinator), item))


def _table_data(oid: int, extents: list[Extent], length: int) -> TableData:
    extents.sort(key=lambda extent: extent.first_block)  # stable: pieces of a range keep order
    total = total_rows([RowsSum(extent.rows, extent.sum) for extent in extents])
    size = sum(extent.bytes for extent in extents)
    return TableData(oid, total.rows, total.sum, size, tuple(extents), range_blocks=length)


def where_of(item: BlockRange) -> str:
    """The condition that a range stands for."""
    if item.whole:
        return item.table.condition
    where = f"WHERE ctid >= '({item.first},0)'"
    return where if item.end is None else f"{where} AND ctid < '({item.end},0)'"


async def count_rows(connection: Session, table: Table, where: str) -> RowsSum:
    """Rows and checksum, as the connection's snapshot sees them."""
    relation = f"ONLY {quoted(table.schema, table.name)}"
    row = await connection.fetchrow(sum_query(relation, table.columns, where))
    return rows_sum(*row) if row else RowsSum()


async def _read_range(reading: Reading, connection: Session, item: BlockRange) -> list[Extent]:
    stored: list[Stored] = []
    where = where_of(item)
    rows = await _copy(
        reading, connection, item.table, where, lambda text: stored.extend(_put(reading, text))
    )
    extents: list[Extent] = []
    if rows:
        found = await _counted(reading, connection, item.table, where, rows, tuple(stored))
        extents = [
            Extent(
                one.object,
                one.raw,
                found.rows if index == 0 else 0,
                found.sum if index == 0 else RowsSum().sum,
                first_block=item.first,
            )
            for index, one in enumerate(stored)
        ]
    reading.progress(item.disk_bytes, shown(item.table.schema, item.table.name))
    return extents


async def _counted(
    reading: Reading,
    connection: Session,
    table: Table,
    where: str,
    rows: int,
    stored: tuple[Stored, ...],
    offset: int = 0,
) -> RowsSum:
    """The sum of what was just read; from memory where an earlier backup read the same."""
    found = reading.store.recall(rows_kind(table.columns), stored, offset)
    if found is None or found.rows != rows:
        found = await count_rows(connection, table, where)
    if found.rows != rows:
        raise SourceChanged(
            f"{shown(table.schema, table.name)} gave {rows} rows and counts {found.rows} "
            "under one snapshot",
            hint="Nothing of this run became a backup. The table's storage may be damaged: "
            "check it with amcheck, then run the backup again.",
        )
    return found


async def _read_group(reading: Reading, connection: Session, item: Group) -> Found:
    """Small tables one after the other into shared buffers."""
    limit = 2 * reading.chunk_bytes
    done: Found = []
    shared = bytearray()
    inside: list[tuple[Table, int, int, int]] = []  # table, offset, length, rows

    async def flush() -> None:
        if not inside:
            return
        stored = reading.store.put(bytes(shared))
        for table, offset, length, rows in inside:
            found = await _counted(
                reading, connection, table, table.condition, rows, (stored,), offset
            )
            extent = Extent(
                stored.object, stored.raw, rows, found.sum, offset=offset, length=length
            )
            done.append((table.oid, [extent]))
        shared.clear()
        inside.clear()

    for table in item.tables:
        pieces: list[bytes] = []
        rows = await _copy(reading, connection, table, table.condition, pieces.append)
        if len(pieces) > 1 or sum(map(len, pieces)) >= limit:
            # It is larger than the catalogs said.
            done.append(
                (table.oid, await _read_range(reading, connection, BlockRange(table, 0, None, 0)))
            )
        elif rows:
            text = pieces[0]
            if len(shared) + len(text) > limit:
                await flush()
            inside.append((table, len(shared), len(text), rows))
            shared += text
    await flush()
    reading.progress(item.disk_bytes, f"{len(item.tables)} small tables")
    return done


async def _copy(
    reading: Reading,
    connection: Session,
    table: Table,
    where: str,
    emit: Callable[[bytes], None],
) -> int:
    """COPY the rows out in pieces of at most two chunks; their number."""
    cutter = _Cutter(2 * reading.chunk_bytes)

    async def take(data: bytes) -> None:
        reading.shared.raise_if_cancelled()
        for text in cutter.add(data):
            emit(text)
        if len(data) < _SMALL_PIECE < cutter.size:  # never for what comes in one piece anyway
            await asyncio.sleep(_PATIENCE)

    columns = ", ".join(quoted(name) for name in table.copy_columns)
    query = f"SELECT {columns} FROM ONLY {quoted(table.schema, table.name)} {where}"
    status = await connection.copy_from_query(query, output=take, timeout=None)
    if rest := cutter.rest():
        emit(rest)
    return int(status.rpartition(" ")[2])


def _put(reading: Reading, text: bytes) -> Iterator[Stored]:
    if len(text) <= PIECE_BYTES:
        yield reading.store.put(text)
        return
    # One row of a size that no buffer should have.
    view = memoryview(text)
    for start in range(0, len(text), PIECE_BYTES):
        yield reading.store.put(view[start : start + PIECE_BYTES])


class _Cutter:
    """Cuts a stream of rows at row ends, always at the same places for the same rows.

    The server's pieces end wherever the network made them end; cutting there would make
    equal rows unequal chunks.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held: list[bytes] = []
        self.size = 0

    def add(self, data: bytes) -> Iterator[bytes]:
        self.held.append(data)
        self.size += len(data)
        while self.size > self.limit:
            text = b"".join(self.held)
            end = text.rfind(b"\n", 0, self.limit) + 1
            if end == 0:  # the first row alone is larger
                end = text.find(b"\n", self.limit) + 1
            if end == 0 or end == len(text):
                self.held = [text]
                return
            yield text[:end]
            self.held = [text[end:]]
            self.size = len(self.held[0])

    def rest(self) -> bytes:
        return b"".join(self.held)


def tables_of(item: Work) -> tuple[Table, ...]:
    """The tables that a piece of work reads."""
    return item.tables if isinstance(item, Group) else (item.table,)


def work_name(item: Work) -> str:
    """What to call a piece of work in an error."""
    if isinstance(item, Group):
        return f"{len(item.tables)} small tables"
    return shown(item.table.schema, item.table.name)


def _explained(error: BaseException, item: Work) -> AuroraError | None:
    """Server errors that need more words than their own."""
    too_large = isinstance(error, asyncpg.ProgramLimitExceededError | asyncpg.OutOfMemoryError)
    if too_large or "invalid memory alloc request size" in str(error):
        return SourceUnsupported(
            f"reading {work_name(item)}: the server cannot print a row of it as text, because a "
            "value is too large",
            hint="PostgreSQL limits a printed row to 1 GB, and a bytea doubles in size when "
            "printed: pg_dump fails on it too. Nothing of this run became a backup. Move such "
            "values to Storage or split them, or leave the table out with --skip.",
            context={"table": work_name(item)},
        )
    return None
