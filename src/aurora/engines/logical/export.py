"""A whole source, read once: schema, roles, rows, sequences, large objects."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from aurora.engines.base import (
    Buffer,
    BufferStore,
    SchemaArchive,
    Snapshot,
    Stored,
    TableData,
)
from aurora.engines.logical.catalog import (
    read_members,
    read_not_valid,
    read_references,
    read_views,
    unreadable_sequences,
)
from aurora.engines.logical.checksum import ROW_HASH
from aurora.engines.logical.copyout import PIECE_BYTES, Reading, read_tables
from aurora.engines.logical.largeobjects import read_large_objects
from aurora.engines.logical.names import Connection, shown
from aurora.engines.logical.ranges import plan_work
from aurora.engines.logical.schema import dump_schema
from aurora.engines.logical.snapshot import HeldSnapshot, hold_snapshot
from aurora.engines.logical.system import dump_globals
from aurora.engines.logical.workers import Shared
from aurora.errors import Cancelled, SourcePrivilege
from aurora.events import Advanced, EventSink, PhaseBegun, PhaseEnded
from aurora.postgres.errors import translated
from aurora.units import plural

_WORKERS_LOCK_TIMEOUT = 1.0  # seconds; then the coordinator, which has the lock, reads instead


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How to read a source."""

    jobs: int
    chunk_bytes: int
    lock_timeout: float = 10.0  # seconds
    skip: Sequence[str] = ()  # schema.table names
    read_vault: Callable[[Connection], bytes] | None = None  # secrets in clear, b"" for none
    before: Mapping[int, TableData] = field(default_factory=dict)  # the previous backup's, by oid
    only: frozenset[tuple[str, str]] | None = None  # rows of these tables alone
    large_objects: bool | None = None  # None: only where all tables are read

    @property
    def with_large_objects(self) -> bool:
        return self.only is None if self.large_objects is None else self.large_objects


def export(
    dsn: str,
    store: BufferStore,
    options: ExportOptions,
    *,
    accept: Callable[[HeldSnapshot], None],
    sink: EventSink,
    cancel: threading.Event,
) -> tuple[Snapshot, list[TableData]]:
    """Read everything under one snapshot, handing every buffer to *store*.

    ``accept`` is called with the held snapshot before the long work, and may raise.

    Raises:
        SourceError, UsageError, Cancelled; whatever *store* and *accept* raise.
    """
    with hold_snapshot(dsn, lock_timeout=options.lock_timeout, skip=options.skip) as held:
        accept(held)
        _refuse_unreadable_sequences(held)
        with ThreadPoolExecutor(1, thread_name_prefix="schema") as aside:
            schema = aside.submit(_read_schema, dsn, store, held, options, cancel)
            schema.add_done_callback(lambda done: _cancel_after(done, cancel))
            try:
                large_objects = (
                    read_large_objects(held.connection, store, cancel)
                    if options.with_large_objects
                    else []
                )
                vault = options.read_vault(held.connection) if options.read_vault else b""
                data = _read_rows(dsn, store, held, options, sink, cancel)
                archive, roles = schema.result()
                with translated("source", doing="finishing the snapshot"):
                    members = read_members(held.connection, [t.oid for t in held.tables])
                    references = read_references(held.connection)
                    views = read_views(held.connection)
                    not_valid = read_not_valid(held.connection)
            except BaseException as error:
                cancel.set()
                if isinstance(error, Cancelled):  # by the schema's failure, it may be
                    schema.result()
                raise
        snapshot = Snapshot(
            source=held.source,
            archive=SchemaArchive(archive.tool, archive.pieces, members, references, views),
            globals=roles,
            tables=held.tables,
            sequences=tuple(held.sequences()),
            large_objects=tuple(large_objects),
            skipped=held.skipped,
            not_valid=tuple(not_valid),
            row_hash=ROW_HASH,
            vault=_put_all(store, vault) if vault else (),
        )
    return snapshot, data


def _cancel_after(done: Future[Any], cancel: threading.Event) -> None:
    """No long work for a backup that has failed."""
    if done.exception() is not None:
        cancel.set()


def _refuse_unreadable_sequences(held: HeldSnapshot) -> None:
    with translated("source", doing="listing the sequences"):
        names = unreadable_sequences(held.connection, left_out=held.left_out)
    if names:
        raise SourcePrivilege(
            f"the role may not read {len(names)} sequences: {', '.join(names[:20])}",
            hint="Nothing was started. Grant the role SELECT on them, or membership in "
            "pg_read_all_data.",
        )


def _read_schema(
    dsn: str,
    store: BufferStore,
    held: HeldSnapshot,
    options: ExportOptions,
    cancel: threading.Event,
) -> tuple[SchemaArchive, tuple[Stored, ...]]:
    tool, archive = dump_schema(
        dsn,
        server_major=held.facts.major,
        snapshot=held.exported,
        encoding=held.facts.encoding,
        skip=held.skipped,
        lock_timeout=options.lock_timeout,
        cancel=cancel,
    )
    roles = dump_globals(dsn, held.facts, cancel=cancel)
    return SchemaArchive(tool, _put_all(store, archive)), _put_all(store, roles)


def _put_all(store: BufferStore, content: Buffer) -> tuple[Stored, ...]:
    view = memoryview(content)
    return tuple(
        store.put(view[start : start + PIECE_BYTES])
        for start in range(0, max(1, len(view)), PIECE_BYTES)
    )


def _read_rows(
    dsn: str,
    store: BufferStore,
    held: HeldSnapshot,
    options: ExportOptions,
    sink: EventSink,
    cancel: threading.Event,
) -> list[TableData]:
    wanted = [
        table
        for table in held.tables
        if options.only is None or (table.schema, table.name) in options.only
    ]
    work, lengths = plan_work(wanted, chunk_bytes=options.chunk_bytes, before=options.before)
    total = sum(item.disk_bytes for item in work)
    tables = sum(1 for table in wanted if table.has_rows)
    sink(PhaseBegun("reading rows", total))
    progress = progress_of("reading rows", sink)
    shared = Shared(
        dsn, held.exported, held.facts.version_num, cancel, lock_timeout=_WORKERS_LOCK_TIMEOUT
    )
    reading = Reading(shared, held.connection, store, options.chunk_bytes, lengths, progress)
    data = read_tables(reading, work, jobs=options.jobs)
    rows = sum(found.rows for found in data)
    sink(PhaseEnded("reading rows", f"{plural(rows, 'row')} of {plural(tables, 'table')}"))
    return data


def progress_of(phase: str, sink: EventSink) -> Callable[[int, str], None]:
    """A progress callback, for any thread, that tells *sink* the running total."""
    lock = threading.Lock()
    done = 0

    def progress(more: int, detail: str) -> None:
        nonlocal done
        with lock:
            done += more
            sink(Advanced(phase, done, detail))

    return progress


def names_of(snapshot: Snapshot) -> dict[int, str]:
    """Each table's name for people, by oid."""
    return {table.oid: shown(table.schema, table.name) for table in snapshot.tables}
