"""Filling an empty database from a backup, in the order that is fast and right.

Schema without indexes, rows by parallel COPY, large objects, then indexes, constraints
and triggers in parallel, sequences, materialized views, statistics. Then everything is
compared with the backup.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from aurora.engines.base import BufferSource, Sequence_, Snapshot, Table, TableData
from aurora.engines.logical.checks import CheckReport, check_database
from aurora.engines.logical.copyin import load_tables, plan_loads
from aurora.engines.logical.entries import is_event_trigger, without_markers
from aurora.engines.logical.export import progress_of
from aurora.engines.logical.largeobjects import load_large_objects
from aurora.engines.logical.names import Connection, literal, pin_output, quoted, shown
from aurora.engines.logical.schema import Archive, Entry
from aurora.errors import TargetRefused
from aurora.events import EventSink, PhaseBegun, PhaseEnded
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.units import format_count


@dataclass(slots=True)
class Built:
    """What filling a database gave."""

    rows: int = 0
    bytes: int = 0
    refusals: list[str] = field(default_factory=list)  # statements that the target refused
    check: CheckReport = field(default_factory=CheckReport)


def build_database(
    dsn: str,
    target_major: int,
    snapshot: Snapshot,
    data: Sequence[TableData],
    archive: Archive,
    source: BufferSource,
    *,
    jobs: int,
    chunk_bytes: int,
    sink: EventSink,
    cancel: threading.Event,
    load: "LoadRows | None" = None,
) -> Built:
    """Fill the empty database at *dsn* and check it.

    Args:
        load: brings the rows in and says what the tables hold then; by default *data*.

    A table that could not be made is a refusal, and its rows a failed check; the rest is
    restored all the same.

    Raises:
        TargetError, IntegrityError, StorageError, Cancelled: the database is half filled.
    """
    built = Built()

    def section(name: str, words: str, parallel: int, *lists: Sequence[Entry]) -> None:
        with _phase(sink, words):
            for number, entries in enumerate(lists):
                refused = archive.restore(
                    dsn, target_major=target_major, section=name, entries=entries,
                    jobs=1 if number == _ALONE else parallel, cancel=cancel,
                )  # fmt: skip
                built.refusals += [str(refusal) for refusal in refused]

    listing = without_markers(archive.listing())
    section("pre-data", "making the schema", 1, listing)
    with open_control(dsn, what="target") as conn:
        pin_output(conn)
        there = existing_tables(conn)
    tables = [t for t in snapshot.tables if (t.schema, t.name) in there]
    if load is None:
        loads = plan_loads(tables, data)
        built.rows, built.bytes = sum(x.rows for x in loads), sum(x.bytes for x in loads)
        with _phase(sink, "loading rows", built.bytes, f"{format_count(built.rows)} rows"):
            load_tables(
                dsn, loads, source, jobs=jobs, encoding=snapshot.source.database.encoding,
                progress=progress_of("loading rows", sink), cancel=cancel,
            )  # fmt: skip
    else:
        data = load(dsn, tables, cancel)
        built.rows, built.bytes = sum(d.rows for d in data), sum(d.bytes for d in data)
    with open_control(dsn, what="target") as conn:
        pin_output(conn)
        if snapshot.large_objects:
            with _phase(sink, "restoring large objects"):
                built.refusals += load_large_objects(
                    conn, snapshot.large_objects, source, progress_of("large objects", sink)
                )
        set_sequences(conn, snapshot.sequences)
        # Last of all what fires at statements like ours.
        watching = [entry for entry in listing if is_event_trigger(entry)]
        rest = [entry for entry in listing if entry not in watching]
        section("post-data", "making indexes, constraints and triggers", jobs, *steps(rest))
        if any(table.kind == "m" for table in snapshot.tables):
            with _phase(sink, "refreshing materialized views"):
                built.refusals += refresh_views(conn, snapshot.tables)
        if watching:
            section("post-data", "making event triggers", 1, watching)
        # Statistics while the rows are checked: neither waits for the other's locks, and
        # ANALYZE, one table after the other, leaves the other processors idle.
        with (
            _phase(sink, "checking every row", sum(t.sized for t in tables if t.has_rows)),
            ThreadPoolExecutor(1, thread_name_prefix="statistics") as aside,
        ):
            statistics = aside.submit(collect_statistics, conn, snapshot.tables)
            built.check = check_database(
                dsn, snapshot, data, jobs=jobs, chunk_bytes=chunk_bytes,
                progress=progress_of("checking every row", sink), cancel=cancel,
            )  # fmt: skip
            with translated("target", doing="collecting statistics"):
                statistics.result()
    return built


_ALONE = 1  # of the steps


def steps(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    """*entries* in lists to be restored one after the other; the second not in parallel.

    An index of a partitioned table becomes valid when the last of its partitions' is attached,
    on every level. Two sessions that attach on two levels at once do not see each other: each
    finds the other's missing, the index stays invalid, and no foreign key can refer to it.
    """
    attach = [number for number, entry in enumerate(entries) if entry.kind == "INDEX ATTACH"]
    if not attach:
        return [entries]
    first, last = attach[0], attach[-1] + 1
    return [entries[:first], entries[first:last], entries[last:]]


LoadRows = Callable[[str, Sequence[Table], threading.Event], Sequence[TableData]]
"""Fills the tables that are there at a DSN; what each holds then, ``sum`` "" if not known."""


@contextmanager
def _phase(
    sink: EventSink, name: str, total: int | None = None, summary: str = ""
) -> Iterator[None]:
    sink(PhaseBegun(name, total))
    yield
    sink(PhaseEnded(name, summary))


def existing_tables(conn: Connection) -> set[tuple[str, str]]:
    """Schema and name of every relation that can hold rows."""
    with translated("target", doing="listing its tables"):
        found = conn.execute(
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'p')"
        ).fetchall()
    return {(str(schema), str(name)) for schema, name in found}


def set_sequences(conn: Connection, sequences: Sequence[Sequence_]) -> None:
    """Put every sequence that is there at its position. Raises TargetError."""
    with translated("target", doing="setting the sequences"):
        there = {
            (str(schema), str(name))
            for schema, name in conn.execute(
                "SELECT schemaname, sequencename FROM pg_catalog.pg_sequences"
            )
        }
        wanted = [s for s in sequences if (s.schema, s.name) in there]
        for start in range(0, len(wanted), 500):
            calls = ", ".join(
                f"pg_catalog.setval({literal(quoted(s.schema, s.name))}::regclass,"
                f" {s.last_value}, {s.is_called})"
                for s in wanted[start : start + 500]
            )
            conn.execute(f"SELECT {calls}".encode())


def refresh_views(conn: Connection, tables: Sequence[Table]) -> list[str]:
    """Fill the materialized views that held data; what could not be filled is returned.

    One may read another, so those that fail wait for the others and are tried again.
    """
    waiting = [t for t in tables if t.kind == "m" and t.populated]
    while waiting:
        failed: list[tuple[Table, str]] = []
        for view in waiting:
            statement = f"REFRESH MATERIALIZED VIEW {quoted(view.schema, view.name)}"
            try:
                with conn.transaction():
                    conn.execute(statement.encode())
            except psycopg.Error as error:
                if conn.closed:
                    raise TargetRefused(f"the target was lost: {error}") from error
                failed.append((view, str(error.diag.message_primary)))
        if len(failed) == len(waiting):
            return [
                f"MATERIALIZED VIEW {shown(view.schema, view.name)}: {why}" for view, why in failed
            ]
        waiting = [view for view, _ in failed]
    return []


def collect_statistics(conn: Connection, tables: Sequence[Table]) -> None:
    """ANALYZE everything but what would ask a foreign server. Raises psycopg errors."""
    asking = {table.oid for table in tables if table.kind == "f"}
    if not asking:
        conn.execute("ANALYZE")
        return
    by_oid = {table.oid: table for table in tables}
    waiting = list(asking)
    for oid in waiting:  # grows: a parent is analyzed with all that stands below it
        more = [above for above in by_oid[oid].parents if above in by_oid and above not in asking]
        asking.update(more)
        waiting += more
    there = existing_tables(conn)
    for table in tables:
        if table.oid not in asking and (table.schema, table.name) in there:
            conn.execute(f"ANALYZE {quoted(table.schema, table.name)}".encode())
