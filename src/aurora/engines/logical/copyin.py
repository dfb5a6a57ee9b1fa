"""Loading rows: workers COPY whole ranges into tables that have no index yet.

Buffers are fetched and opened ahead of the COPY by a bounded pool, so that neither the
storage nor the server waits for the other, and memory stays flat. One COPY carries one
range of a table, or one small table; it is one transaction, so a retried range is never
doubled.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader

from aurora.engines.base import BufferSource, Extent, Progress, Table, TableData
from aurora.engines.logical.names import Connection, quoted, settings_sql, shown
from aurora.engines.logical.partitions import gated, gates
from aurora.engines.logical.threads import run_threads
from aurora.errors import Cancelled, IntegrityError
from aurora.postgres.errors import is_disconnect, translate, translated
from aurora.postgres.server import open_control

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Load:
    """Rows of one table that one COPY brings in."""

    table: Table  # where to: name and columns as in the target
    extents: tuple[Extent, ...]

    @property
    def rows(self) -> int:
        return sum(extent.rows for extent in self.extents)

    @property
    def bytes(self) -> int:
        return sum(extent.bytes for extent in self.extents)


def plan_loads(
    tables: Sequence[Table], data: Sequence[TableData], *, at_most: int = 16 << 20
) -> list[Load]:
    """COPYs that bring in *data*, biggest tables first, small neighbours of one buffer together.

    Ranges of one table are joined up to *at_most* bytes: few enough transactions, and no worker
    is left with a long one while the others have nothing more to do.
    """
    through = gates(tables)
    by_oid = {table.oid: gated(table, through.get(table.oid)) for table in tables}
    loads: list[Load] = []
    for found in sorted(data, key=_load_order):
        table = by_oid.get(found.oid)
        if table is None:
            continue
        run: list[Extent] = []
        size = 0
        for _, extents in groupby(found.extents, key=lambda extent: extent.first_block):
            together = list(extents)  # pieces that may part a row stay together
            more = sum(extent.bytes for extent in together)
            if run and size + more > at_most:
                loads.append(Load(table, tuple(run)))
                run, size = [], 0
            run += together
            size += more
        if run:
            loads.append(Load(table, tuple(run)))
    return loads


def _load_order(data: TableData) -> tuple[bool, str | int]:
    """Tables of their own by size; those that share a buffer next to one another."""
    first = data.extents[0] if data.extents else None
    if first is None or first.length < 0:
        return False, -data.bytes
    return True, first.object


def load_tables(
    dsn: str,
    loads: Sequence[Load],
    source: BufferSource,
    *,
    jobs: int,
    encoding: str,
    progress: Progress,
    cancel: threading.Event,
    copy: "CopyRows | None" = None,
) -> None:
    """Run *loads* with *jobs* connections, each by *copy* (:func:`copy_rows` by default).

    Raises:
        TargetError: the target refused rows, or was lost and did not come back.
        IntegrityError: a stored buffer is damaged, or a COPY took another number of rows.
        Cancelled: *cancel* was set from outside.
    """
    todo: queue.SimpleQueue[Load] = queue.SimpleQueue()
    for load in loads:
        todo.put(load)
    # Two buffers ahead for each COPY; the pool is shared.
    with ThreadPoolExecutor(max(2, jobs), thread_name_prefix="fetch") as fetchers:

        def run() -> None:
            _work(dsn, todo, source, fetchers, encoding, progress, cancel, copy or copy_rows)

        run_threads(run, max(1, min(jobs, len(loads))), name="copy-in", cancel=cancel)


def _work(
    dsn: str,
    todo: "queue.SimpleQueue[Load]",
    source: BufferSource,
    fetchers: ThreadPoolExecutor,
    encoding: str,
    progress: Progress,
    cancel: threading.Event,
    copy: "CopyRows",
) -> None:
    with open_loader(dsn, encoding) as conn:
        connection = conn
        try:
            while not cancel.is_set():
                try:
                    load = todo.get_nowait()
                except queue.Empty:
                    return
                doing = f"loading {shown(load.table.schema, load.table.name)}"
                for attempt in range(1, _TRIES + 1):
                    try:
                        with connection.transaction():
                            copy(connection, load, source, fetchers, cancel)
                        break
                    except (psycopg.Error, OSError) as error:
                        if not is_disconnect(error) or attempt == _TRIES:
                            raise translate(error, "target", doing=doing) from error
                        connection.close()
                        connection = open_loader(dsn, encoding)
                progress(load.bytes, shown(load.table.schema, load.table.name))
        finally:
            connection.close()
    raise Cancelled("stopped while loading rows")


def open_loader(dsn: str, encoding: str) -> Connection:
    """A connection for COPY into a database of *encoding*."""
    conn = open_control(dsn, what="target")
    with translated("target", doing="connecting"):
        conn.execute(settings_sql(conn.info.server_version).encode())
        # Crash safety comes from the whole restore; single COPYs need not wait for the disk.
        conn.execute("SET synchronous_commit = off")
        if encoding == "SQL_ASCII":
            conn.execute("SET client_encoding = 'SQL_ASCII'")
            for type_ in ("text", "name", '"char"'):  # psycopg would give bytes
                conn.adapters.register_loader(type_, _AnyText)
    return conn


class _AnyText(Loader):
    """Text of no known encoding."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(errors="surrogateescape")


CopyRows = Callable[[Connection, Load, BufferSource, ThreadPoolExecutor, threading.Event], None]
"""Brings one load in, in the transaction that the connection is in; repeatable."""


def copy_rows(
    conn: Connection,
    load: Load,
    source: BufferSource,
    fetchers: ThreadPoolExecutor,
    cancel: threading.Event,
) -> None:
    """One COPY in the transaction that *conn* is in.

    Raises:
        IntegrityError: the server took another number of rows than the backup says.
    """
    table = load.table
    name = quoted(table.schema, table.name)
    if not table.copy_columns:
        # No column to carry: rows without content, or with computed content only.
        conn.execute(
            f"INSERT INTO {name} SELECT FROM pg_catalog.generate_series(1, {load.rows})".encode()
        )
        return
    columns = ", ".join(quoted(column) for column in table.copy_columns)
    with conn.cursor() as cursor:
        with cursor.copy(f"COPY {name} ({columns}) FROM STDIN".encode()) as copy:
            for data in fetch_ahead(load.extents, source, fetchers):
                if cancel.is_set():
                    raise Cancelled("stopped while loading rows")
                copy.write(data)
        taken = cursor.rowcount
    if taken != load.rows:
        raise IntegrityError(
            f"{shown(table.schema, table.name)} took {taken} rows, the backup holds {load.rows}",
            hint="The rows were not kept. A trigger or rule of the target may drop rows.",
        )


def fetch_ahead(
    extents: Sequence[Extent], source: BufferSource, fetchers: ThreadPoolExecutor, ahead: int = 2
) -> Iterator[bytes]:
    """The rows of *extents* in order, at most *ahead* buffers fetched before they are needed."""
    waiting: list[tuple[Extent, Future[bytes]]] = []
    upcoming = iter(extents)

    def one_more() -> None:
        extent = next(upcoming, None)
        if extent is not None:
            waiting.append((extent, fetchers.submit(source.get, extent.stored)))

    for _ in range(ahead):
        one_more()
    try:
        while waiting:
            extent, future = waiting.pop(0)
            data = future.result()
            one_more()
            yield data if extent.length < 0 else data[extent.offset : extent.offset + extent.length]
    finally:
        for _, future in waiting:
            future.cancel()
