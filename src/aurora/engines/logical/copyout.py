"""Reading tables: N workers COPY block ranges under one imported snapshot.

Each worker is a thread with an event loop and an asyncpg connection of its own, because
asyncpg hands over many rows at once from C where others give one row per call. A buffer
is never taken apart into rows in Python. A worker whose connection dies connects again,
imports the same snapshot and reads its range anew, as long as the coordinator lives.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from aurora.engines.base import (
    BufferStore,
    Extent,
    Progress,
    RowsSum,
    Table,
    TableData,
    total_rows,
)
from aurora.engines.logical.checksum import rows_sum
from aurora.engines.logical.names import quoted, settings_sql, shown
from aurora.engines.logical.ranges import BlockRange, Group, Work
from aurora.errors import AuroraError, Cancelled, SourceUnreachable, SourceUnsupported
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import is_disconnect, translate

PIECE_BYTES = 32 << 20  # a single row larger than a chunk is parted into pieces of this size
_TRIES = 4

_Connection = asyncpg.Connection


@dataclass(frozen=True, slots=True)
class Reading:
    """What all workers of one run share."""

    dsn: str = field(repr=False)
    snapshot: str
    version_num: int
    store: BufferStore
    chunk_bytes: int
    lengths: dict[int, int]
    progress: Progress
    cancel: threading.Event


def read_tables(reading: Reading, work: Sequence[Work], *, jobs: int) -> list[TableData]:
    """Do all *work* with *jobs* connections; what was read, in order of oid.

    Raises:
        SourceError: the source failed; no retry helped.
        AuroraError: whatever the store raised.
        Cancelled: ``reading.cancel`` was set from outside.
    """
    todo: queue.SimpleQueue[Work] = queue.SimpleQueue()
    for item in work:
        todo.put(item)
    extents: dict[int, list[Extent]] = {}
    for item in work:
        for table in item.tables if isinstance(item, Group) else (item.table,):
            extents.setdefault(table.oid, [])
    failures: list[BaseException] = []
    lock = threading.Lock()

    def run() -> None:
        try:
            worker = _Worker(reading)
            for done in worker.work_through(todo):
                with lock:
                    for oid, found in done:
                        extents[oid] += found
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failures.append(error)
            reading.cancel.set()

    threads = [
        threading.Thread(target=run, name=f"copy-out-{number}", daemon=True)
        for number in range(max(1, min(jobs, len(work))))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C: no worker may outlive us
        reading.cancel.set()
        for thread in threads:
            thread.join()
        raise
    if failures:
        raise next((f for f in failures if not isinstance(f, Cancelled)), failures[0])
    return [_table_data(oid, extents[oid], reading.lengths.get(oid, 0)) for oid in sorted(extents)]


def _table_data(oid: int, extents: list[Extent], length: int) -> TableData:
    extents.sort(key=lambda extent: extent.first_block)  # stable: pieces of a range keep order
    total = total_rows([RowsSum(extent.rows, extent.sum) for extent in extents])
    size = sum(e.raw if e.length < 0 else e.length for e in extents)
    return TableData(oid, total.rows, total.sum, size, tuple(extents), range_blocks=length)


Done = list[tuple[int, list[Extent]]]


class _Worker:
    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.connection: _Connection | None = None

    def work_through(self, todo: "queue.SimpleQueue[Work]") -> Iterator[Done]:
        with asyncio.Runner() as loop:
            try:
                while not self.reading.cancel.is_set():
                    try:
                        item = todo.get_nowait()
                    except queue.Empty:
                        return
                    yield loop.run(self._do(item))
            finally:
                loop.run(self._close())
        raise Cancelled("stopped while reading the source")

    async def _do(self, item: Work) -> Done:
        for attempt in range(1, _TRIES + 1):
            try:
                if self.connection is None:
                    self.connection = await self._connect()
                if isinstance(item, Group):
                    return await self._read_group(item)
                return [(item.table.oid, await self._read_range(item))]
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                await self._close()
                doing = f"reading {_named(item)}"
                if not is_disconnect(error):
                    raise _explained(error, item, doing) from error
                if attempt == _TRIES:
                    raise translate(error, "source", doing=doing) from error
                await asyncio.sleep(0.2 * attempt)
        raise AssertionError("unreachable")

    async def _connect(self) -> _Connection:
        reading = self.reading
        arguments: dict[str, Any] = {
            "timeout": 30.0,
            **ConnInfo.parse(reading.dsn).asyncpg_arguments(),
            "statement_cache_size": 0,
        }
        connection: _Connection = await asyncpg.connect(**arguments)
        try:
            await connection.execute(settings_sql(reading.version_num))
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await connection.execute(f"SET TRANSACTION SNAPSHOT '{reading.snapshot}'")
        except (
            asyncpg.InvalidParameterValueError,
            asyncpg.UndefinedObjectError,
            asyncpg.ObjectNotInPrerequisiteStateError,
        ) as error:
            await connection.close()
            raise SourceUnreachable(
                "the session that held the snapshot was lost",
                hint="Nothing of this run became a backup; earlier backups are untouched. "
                "Run the backup again.",
            ) from error
        return connection

    async def _close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.terminate()

    async def _read_range(self, item: BlockRange) -> list[Extent]:
        extents: list[Extent] = []
        where = item.table.condition
        if not item.whole:
            where = f"WHERE ctid >= '({item.first},0)'"
            if item.end is not None:
                where += f" AND ctid < '({item.end},0)'"
        await self._copy(
            item.table, where, lambda rows: extents.extend(self._put(rows, item.first))
        )
        self.reading.progress(item.disk_bytes, shown(item.table.schema, item.table.name))
        return extents

    async def _read_group(self, item: Group) -> Done:
        limit = 2 * self.reading.chunk_bytes
        done: Done = []
        shared = bytearray()
        inside: list[tuple[int, int, int, RowsSum]] = []  # oid, offset, length, sum

        def flush() -> None:
            if inside:
                stored = self.reading.store.put(bytes(shared))
                done.extend(
                    (
                        oid,
                        [
                            Extent(
                                stored.object, stored.raw, found.rows, found.sum,
                                offset=offset, length=length,
                            )
                        ],
                    )
                    for oid, offset, length, found in inside
                )  # fmt: skip
            shared.clear()
            inside.clear()

        for table in item.tables:
            pieces: list[bytes] = []
            await self._copy(table, table.condition, pieces.append)
            if not pieces:
                continue
            if len(pieces) == 1 and len(pieces[0]) < limit:
                if len(shared) + len(pieces[0]) > limit:
                    flush()
                inside.append((table.oid, len(shared), len(pieces[0]), rows_sum(pieces[0])))
                shared += pieces[0]
            else:  # the table is larger than the catalogs said
                done.append((table.oid, [e for rows in pieces for e in self._put(rows, 0)]))
        flush()
        self.reading.progress(item.disk_bytes, f"{len(item.tables)} small tables")
        return done

    async def _copy(self, table: Table, where: str, emit: Callable[[bytes], None]) -> None:
        """COPY the rows out, whole rows at a time, in pieces of at most two chunks."""
        assert self.connection is not None
        cancelled = self.reading.cancel.is_set
        cutter = _Cutter(2 * self.reading.chunk_bytes)

        async def take(data: bytes) -> None:
            if cancelled():
                raise Cancelled("stopped while reading the source")
            for rows in cutter.add(data):
                emit(rows)

        columns = ", ".join(quoted(name) for name in table.copy_columns)
        query = f"SELECT {columns} FROM ONLY {quoted(table.schema, table.name)} {where}"
        await self.connection.copy_from_query(query, output=take, timeout=None)
        if rest := cutter.rest():
            emit(rest)

    def _put(self, rows: bytes, first_block: int) -> list[Extent]:
        if len(rows) <= PIECE_BYTES:
            stored, found = self.reading.store.put_rows(rows, rows_sum)
            return [
                Extent(stored.object, stored.raw, found.rows, found.sum, first_block=first_block)
            ]
        # One row of a size that no buffer should have: parted, and counted with its last part.
        found = rows_sum(rows)
        view = memoryview(rows)
        parts = [
            self.reading.store.put(view[start : start + PIECE_BYTES])
            for start in range(0, len(rows), PIECE_BYTES)
        ]
        last = len(parts) - 1
        return [
            Extent(
                part.object, part.raw,
                found.rows if index == last else 0, found.sum if index == last else "0" * 16,
                first_block=first_block,
            )
            for index, part in enumerate(parts)
        ]  # fmt: skip


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


def _named(item: Work) -> str:
    if isinstance(item, Group):
        return f"{len(item.tables)} small tables"
    return shown(item.table.schema, item.table.name)


def _explained(error: BaseException, item: Work, doing: str) -> AuroraError:
    """Server errors that need more words than their own."""
    too_large = isinstance(error, asyncpg.ProgramLimitExceededError | asyncpg.OutOfMemoryError)
    if too_large or "invalid memory alloc request size" in str(error):
        return SourceUnsupported(
            f"{doing}: the server cannot print a row of it as text, because a value is too large",
            hint="PostgreSQL limits a printed row to 1 GB, and a bytea doubles in size when "
            "printed: pg_dump fails on it too. Nothing of this run became a backup. Move such "
            "values to Storage or split them, or leave the table out with --skip.",
            context={"table": _named(item)},
        )
    return translate(error, "source", doing=doing)
