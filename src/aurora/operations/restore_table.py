"""Restoring one table or partition tree, reading only its chunks.

With a :class:`aurora.operations.point.Point` also to a point in time: of the change log
only that table's changes are applied.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg

from aurora import clock
from aurora.engines.base import Sequence_, Table, TableData
from aurora.engines.logical.build import refresh_views, set_sequences
from aurora.engines.logical.copyin import open_loader
from aurora.engines.logical.entries import dependents_of, entries_of, entries_of_schema, views_on
from aurora.engines.logical.export import progress_of
from aurora.engines.logical.names import Connection, quoted, shown
from aurora.engines.logical.onetable import create_copy, create_tables
from aurora.engines.logical.replacing import (
    Existing,
    lock_for_replacing,
    look_at_existing,
    replace_rows,
)
from aurora.engines.logical.schema import Archive, Entry
from aurora.engines.logical.tablerows import Rows, stored_rows
from aurora.events import EventSink, Noted, PhaseBegun, PhaseEnded
from aurora.operations.content import RepositorySource
from aurora.operations.point import merged
from aurora.operations.reports import RestoreReport, TableResult
from aurora.operations.restore_table_plan import (
    TablePlan,
    is_there,
    names_there,
    require_nothing_skipped,
    tree_there,
)
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import transaction_id
from aurora.units import format_count


def run_restore_table(
    plan: TablePlan,
    *,
    make_safety_backup: Callable[[TablePlan], str] | None,
    before_commit: Callable[[str], None] | None = None,
    sink: EventSink,
) -> RestoreReport:
    """Do what the plan says, in one transaction.

    Args:
        before_commit: gets the transaction's number (64 bits) when all is done but the commit;
            what it raises rolls back.

    Raises:
        CheckFailed, TargetError, IntegrityError, StorageError, Cancelled: nothing was changed.
    """
    begun = time.monotonic()
    report = RestoreReport(
        restore_id=plan.restore_id,
        backup_id=plan.backup.entry.id,
        kind="restore-table",
        target=ConnInfo.parse(plan.dsn).redacted(),
        state_of=plan.point.state_of if plan.point else plan.backup.snapshot.source.snapshot_at,
        begun_at=clock.isoformat(clock.now()),
        recovered_to=str(plan.point.target) if plan.point else "",
        database=plan.database,
        table=plan.name,
        restored_as=shown(*plan.new_name) if plan.new_name else "",
    )
    with ExitStack() as stack:
        source, rows = _rows(plan, report, stack, sink)
        data = _restore(plan, rows, report, make_safety_backup, before_commit, sink)
        report.bytes_fetched = source.bytes_read
    by_oid = {table.oid: table for table in plan.tables}
    report.tables = [
        TableResult(shown(by_oid[d.oid].schema, by_oid[d.oid].name), d.rows, d.rows, same=True)
        for d in data
    ]
    report.rows = sum(found.rows for found in data)
    report.bytes = sum(found.bytes for found in data)
    report.seconds = time.monotonic() - begun
    report.ended_at = clock.isoformat(clock.now())
    report.outcome = "restored with refusals" if report.refusals else "restored"
    return report


def _rows(
    plan: TablePlan, report: RestoreReport, stack: ExitStack, sink: EventSink
) -> tuple[RepositorySource, Rows]:
    """What loads the table's rows; for a point the log is read first, before anything is locked."""
    if plan.point is None:
        source = RepositorySource(plan.backup.repository)
        data = [found for found in plan.backup.data(set(plan.oids)) if found.oid in plan.oids]
        return source, stored_rows(data, source)
    progress = progress_of(_phase(plan), sink)
    found = stack.enter_context(
        merged(plan.point, only=plan.oids, jobs=1, progress=progress, sink=sink)
    )
    report.notes += plan.point.notes(found, plan.oids)
    assert isinstance(found.rows.source, RepositorySource)
    return found.rows.source, found.rows.load_on


def _phase(plan: TablePlan) -> str:
    return f"restoring {plan.name}"


def _restore(
    plan: TablePlan,
    rows: Rows,
    report: RestoreReport,
    make_safety_backup: Callable[[TablePlan], str] | None,
    before_commit: Callable[[str], None] | None,
    sink: EventSink,
) -> Sequence[TableData]:
    """The transaction itself; what the table must hold, and does."""
    cancel = threading.Event()
    encoding = plan.backup.snapshot.source.database.encoding
    data: Sequence[TableData] = ()

    def loaded(
        conn: Connection, tables: Sequence[Table], cancel: threading.Event
    ) -> Sequence[TableData]:
        nonlocal data
        data = rows(conn, tables, cancel)
        return data

    sink(PhaseBegun(_phase(plan)))
    with open_loader(plan.dsn, encoding) as conn, tempfile.TemporaryDirectory() as directory:
        with translated("target", doing=f"restoring {plan.name}"), conn.transaction():
            conn.execute("SET LOCAL synchronous_commit = on")
            match plan.mode:
                case "create":
                    archive = _archive(plan, Path(directory))
                    listing = archive.listing()
                    outcome = create_tables(
                        conn,
                        archive,
                        _with_schema(conn, listing, plan, archive),
                        dependents_of(
                            listing, archive.document, set(plan.oids), plan.snapshot.tables
                        ),
                        plan.tables, loaded, cancel,
                    )  # fmt: skip
                    report.refusals = outcome.refusals
                    report.notes += outcome.notes
                    report.refusals += refresh_views(conn, _made_again(plan, conn))
                case "replace":
                    partitioned = _is_partitioned(conn, plan.root)
                    lock_for_replacing(conn, plan.root, partitioned=partitioned)
                    # Locked first: nothing is written that neither this backup nor the table has.
                    plan = replace(plan, there=names_there(conn, plan.root))
                    require_nothing_skipped(plan.snapshot, plan.there)
                    if plan.options.safety and make_safety_backup is not None:
                        sink(PhaseBegun("taking a safety backup"))
                        report.safety_backup = make_safety_backup(plan)
                        sink(Noted(f"safety backup {report.safety_backup}"))
                    existing = _existing(conn, plan.root, partitioned=partitioned)
                    replace_rows(conn, existing, plan.tables, loaded, cancel)
                case "copy":
                    schema, name = plan.new_name or ("", "")
                    create_copy(conn, schema, name, plan.root, plan.tables, loaded, cancel)
            if plan.mode != "copy":
                report.sequences = _advance_sequences(conn, plan)
            if before_commit is not None:
                before_commit(transaction_id(conn))
        name = quoted(*(plan.new_name or (plan.root.schema, plan.root.name)))
        statement = f"{'VACUUM (ANALYZE)' if plan.replaces else 'ANALYZE'} {name}"
        try:
            conn.execute(statement.encode())
        except psycopg.Error as error:  # the table is restored all the same
            report.notes.append(f"{statement} failed, run it: {error.diag.message_primary}")
    sink(PhaseEnded(_phase(plan), f"{format_count(sum(d.rows for d in data))} rows"))
    return data


def _is_partitioned(conn: Connection, root: Table) -> bool:
    row = conn.execute(
        "SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = %s::regclass",
        (quoted(root.schema, root.name),),
    ).fetchone()
    return bool(row and row[0])


def _existing(conn: Connection, root: Table, *, partitioned: bool) -> Existing:
    tree = [oid for oid, _, _ in tree_there(conn, root)]
    return look_at_existing(conn, root, tree, partitioned=partitioned)


def _archive(plan: TablePlan, directory: Path) -> Archive:
    document = plan.schema.snapshot.archive
    return Archive(document, plan.schema.read_all(document.pieces), directory)


def _with_schema(
    conn: Connection, listing: Sequence[Entry], plan: TablePlan, archive: Archive
) -> list[Entry]:
    """The table's entries; its schema's own too where the target lacks it."""
    entries = entries_of(listing, archive.document, plan.tables)
    row = conn.execute(
        "SELECT pg_catalog.to_regnamespace(%s) IS NULL", (quoted(plan.root.schema),)
    ).fetchone()
    if row and row[0]:
        return entries_of_schema(listing, archive, plan.root.schema) + entries
    return entries


def _made_again(plan: TablePlan, conn: Connection) -> list[Table]:
    """Materialized views on the table that came back with it, and hold nothing yet."""
    rows = conn.execute(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'm' AND NOT c.relispopulated"
    ).fetchall()
    empty = {(str(schema), str(name)) for schema, name in rows}
    on_it = views_on(plan.schema.snapshot.archive, {table.oid for table in plan.tables})
    return [
        table
        for table in plan.snapshot.tables
        if table.oid in on_it and (table.schema, table.name) in empty
    ]


def _advance_sequences(conn: Connection, plan: TablePlan) -> int:
    """Owned sequences to the backup's position, never backwards."""
    owned = [s for s in plan.snapshot.sequences if s.table in plan.oids]
    wanted: list[Sequence_] = []
    for sequence in owned:
        if not is_there(conn, sequence.schema, sequence.name):
            continue
        row = conn.execute(
            "SELECT s.last_value, s.is_called, p.seqincrement"
            f" FROM {quoted(sequence.schema, sequence.name)} s"
            " JOIN pg_catalog.pg_sequence p ON p.seqrelid = s.tableoid".encode()
        ).fetchone()
        if row is None:
            continue
        last, called, step = int(str(row[0])), bool(row[1]), int(str(row[2]))
        sign = 1 if step > 0 else -1
        if (sign * last, called) < (sign * sequence.last_value, sequence.is_called):
            wanted.append(sequence)
    set_sequences(conn, wanted)
    return len(owned)
