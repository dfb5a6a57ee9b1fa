"""Restoring one table or partition tree, reading only its chunks.

With a :class:`aurora.operations.point.Point` also to a point in time: of the change log
only that table's changes are applied.
"""

import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psycopg

from aurora import clock
from aurora.engines.base import Sequence_, Snapshot, Table, TableData
from aurora.engines.logical.build import refresh_views, set_sequences
from aurora.engines.logical.copyin import open_loader
from aurora.engines.logical.entries import dependents_of, entries_of, entries_of_schema, views_on
from aurora.engines.logical.export import progress_of
from aurora.engines.logical.foreignkeys import may_be_replica
from aurora.engines.logical.names import Connection, quoted, shown
from aurora.engines.logical.onetable import create_copy, create_tables
from aurora.engines.logical.replacing import (
    Existing,
    is_in_others_hands,
    lock_for_replacing,
    look_at_existing,
    replace_rows,
)
from aurora.engines.logical.schema import Archive, Entry
from aurora.engines.logical.tablerows import Rows, stored_rows
from aurora.errors import RepositoryNotFound, TargetNotEmpty, TargetUnfit, UsageError
from aurora.events import EventSink, Noted, PhaseBegun, PhaseEnded
from aurora.operations.content import Backup, RepositorySource
from aurora.operations.point import Point, merged
from aurora.operations.reports import RestoreReport, TableResult
from aurora.operations.restore_plan import new_restore_id
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import inspect_server, open_control, require_usable, transaction_id
from aurora.units import format_count, format_size

Mode = Literal["create", "replace", "copy"]


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How to restore a table."""

    as_name: str | None = None
    replace: bool = False
    safety: bool = True


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What restoring a table is going to do."""

    backup: Backup
    root: Table
    tables: tuple[Table, ...]  # the table and the partitions below it
    dsn: str
    database: str
    mode: Mode
    options: TableOptions
    restore_id: str
    point: Point | None = None  # None: the backup's own state
    new_name: tuple[str, str] | None = None  # schema, name of the copy
    there: tuple[tuple[str, str], ...] = ()  # schema and name of what a replacement empties

    @property
    def name(self) -> str:
        return shown(self.root.schema, self.root.name)

    @property
    def replaces(self) -> bool:
        return self.mode == "replace"

    @property
    def oids(self) -> frozenset[int]:
        """Of the table and the partitions below it."""
        return frozenset(table.oid for table in self.tables)

    @property
    def schema(self) -> Backup:
        """Whose archive makes the table."""
        return self.point.schema if self.point else self.backup

    @property
    def snapshot(self) -> Snapshot:
        """Tables and sequences as they are restored."""
        return self.point.snapshot if self.point else self.backup.snapshot

    def document(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            **(self.point.document(self.oids) if self.point else
               {"backup_id": self.backup.entry.id,
                "state_of": self.backup.snapshot.source.snapshot_at}),
            "table": self.name,
            "mode": self.mode,
            "database": self.database,
            "restored_as": shown(*self.new_name) if self.new_name else "",
        }  # fmt: skip

    def facts(self) -> list[tuple[str, str]]:
        """Lines for a person."""
        held = self.point.data if self.point else self.backup.body.data
        data = [found for found in held if found.oid in self.oids]
        partitions = f" with {len(self.tables) - 1} partitions" if len(self.tables) > 1 else ""
        what = {
            "create": f"{self.name} is not there and is made, with indexes, constraints, "
            "policies and grants",
            "replace": f"the rows of {self.name} are swapped in one transaction",
            "copy": f"a plain copy of the rows is made as {shown(*(self.new_name or ('', '')))}, "
            "readable by its owner alone",
        }[self.mode]
        when = (
            self.point.facts(self.oids)
            if self.point
            else [
                (
                    "backup",
                    f"{self.backup.entry.id}, state of {self.backup.snapshot.source.snapshot_at}",
                )
            ]
        )
        return [
            *when,
            ("table", f"{self.name}{partitions}, {format_count(sum(d.rows for d in data))} rows, "
                      f"{format_size(sum(d.bytes for d in data))}"
                      f"{' in the full' if self.point else ''}"),
            ("target", ConnInfo.parse(self.dsn).redacted()),
            ("how", what),
            *([("first", "a safety backup of the table" if self.options.safety else
                         "NO safety backup (--no-safety-backup)")] if self.replaces else []),
        ]  # fmt: skip


def plan_restore_table(
    what: Backup | Point, text: str, dsn: str, options: TableOptions
) -> TablePlan:
    """Find the table in the backup, look at the target, decide. Changes nothing.

    Args:
        what: a backup, or a point in time.
        text: the table's name as a person types it.

    Raises:
        RepositoryNotFound: the backup holds no such table.
        UsageError: the name is ambiguous; the message lists the choices.
        TargetNotEmpty: the table is there, and neither --as nor --replace was given.
    """
    if options.as_name and options.replace:
        raise UsageError("--as and --replace exclude one another")
    point = what if isinstance(what, Point) else None
    backup = what.backup if isinstance(what, Point) else what
    snapshot = what.snapshot
    root = find_table(snapshot.tables, text)
    tables = tree_of(snapshot.tables, root)
    if point is not None:
        point.require({table.oid for table in tables})
    held = {found.oid for found in backup.body.data}
    lacking = [shown(t.schema, t.name) for t in tables if t.has_rows and t.oid not in held]
    if lacking:
        why = (
            "It is an incremental: use the newest full, latest:full."
            if backup.body.log is not None
            else "It is a safety backup of another table, or of a part of this one: restore "
            "that part, or use another backup."
        )
        raise RepositoryNotFound(
            f"backup {backup.entry.id} does not hold the rows of {', '.join(lacking[:20])}",
            hint=f"Nothing was changed. {why}",
        )
    with open_control(dsn, what="target") as conn:
        facts = inspect_server(conn)
        require_usable(facts, "target")
        source_major = backup.snapshot.source.version_num // 10000
        if facts.major < source_major:
            raise TargetUnfit(
                f"the backup is of PostgreSQL {source_major}, the target runs {facts.version}",
                hint=f"Nothing was changed. Restore into PostgreSQL {source_major} or newer.",
            )
        new_name: tuple[str, str] | None = None
        there: tuple[tuple[str, str], ...] = ()
        mode: Mode
        if options.as_name:
            mode, new_name = "copy", _new_name(conn, options.as_name, root)
        elif not _exists(conn, root.schema, root.name):
            mode = "create"
        elif options.replace:
            mode = "replace"
            _require_columns(conn, root, tables)
            _require_rights(conn, root, facts.role.name)
            there = _names_there(conn, root)
            _require_nothing_skipped(snapshot, there)
        else:
            raise TargetNotEmpty(
                f"the table {shown(root.schema, root.name)} is there already",
                hint="Nothing was changed. Restore it beside the existing one with --as NAME, "
                "or swap its rows for the backup's with --replace.",
            )
    return TablePlan(
        backup, root, tables, dsn, facts.database, mode, options,
        new_restore_id(clock.now()), point, new_name, there,
    )  # fmt: skip


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
                    plan = replace(plan, there=_names_there(conn, plan.root))
                    _require_nothing_skipped(plan.snapshot, plan.there)
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


def find_table(tables: Sequence[Table], text: str) -> Table:
    """The table that a person means by ``schema.table``, ``table`` or ``"Quoted"``.

    A name typed exactly wins; unquoted words are folded to lower case, as SQL does.

    Raises:
        RepositoryNotFound, UsageError.
    """
    candidates = [table for table in tables if table.kind in ("r", "p")]
    forms = _forms(text)
    for schema, name in forms:
        found = [t for t in candidates if t.name == name and (schema is None or t.schema == schema)]
        if len(found) == 1:
            return found[0]
        if found:
            choices = ", ".join(shown(t.schema, t.name) for t in found)
            raise UsageError(
                f"{text} means {len(found)} tables of the backup: {choices}",
                hint="Write the schema too.",
                context={"choices": choices.split(", ")},
            )
    near = [shown(t.schema, t.name) for t in candidates if forms[-1][1].lower() in t.name.lower()][
        :10
    ]
    raise RepositoryNotFound(
        f"the backup holds no table {text[:130]}",
        hint=f"It has {', '.join(near)}." if near else "See the names in the source or a report.",
    )


def _forms(text: str) -> list[tuple[str | None, str]]:
    """Readings of a typed name as (schema or None, name), the most literal first."""
    parts = re.findall(r'"(?:[^"]|"")*"|[^."]+', text)
    if not parts or "".join(parts) != text.replace(".", "", len(parts) - 1):
        parts = [text]
    exact = [p[1:-1].replace('""', '"') if p.startswith('"') else p for p in parts]
    folded = [e if p.startswith('"') else p.lower() for p, e in zip(parts, exact, strict=True)]
    forms: list[tuple[str | None, str]] = []
    for words in (exact, folded):
        if len(words) == 1:
            forms.append((None, words[0]))
        elif len(words) == 2:
            forms.append((words[0], words[1]))
    forms.append((None, text))
    return forms


def tree_of(tables: Sequence[Table], root: Table) -> tuple[Table, ...]:
    """*root* and every partition below it, parents first."""
    found = [root]
    for table in found:  # grows while it is walked
        found += [t for t in tables if t.is_partition and table.oid in t.parents]
    return tuple(found)


def _exists(conn: Connection, schema: str, name: str) -> bool:
    with translated("target", doing="looking for the table"):
        row = conn.execute(
            "SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (quoted(schema, name),)
        ).fetchone()
    return bool(row and row[0])


def _new_name(conn: Connection, text: str, root: Table) -> tuple[str, str]:
    schema, name = _forms(text)[1] if len(_forms(text)) > 2 else _forms(text)[0]
    schema = schema or root.schema
    if len(name.encode()) > 63:
        raise UsageError(
            f"{shown(schema, name)} is longer than a name may be",
            hint="PostgreSQL's names have at most 63 bytes.",
        )
    if _exists(conn, schema, name):
        raise TargetNotEmpty(
            f"there is a relation {shown(schema, name)} already",
            hint="Nothing was changed. Give another name with --as.",
        )
    return schema, name


_RIGHTS = """
SELECT pg_catalog.has_table_privilege(%(table)s, 'DELETE')
   AND pg_catalog.has_table_privilege(%(table)s, 'INSERT')
"""


def _require_rights(conn: Connection, root: Table, role: str) -> None:
    """Refuse now what would be refused after the safety backup."""
    name = shown(root.schema, root.name)
    beside = "Nothing was changed. Restore it beside with --as public.NAME and copy rows by SQL."
    row = conn.execute(_RIGHTS.encode(), {"table": quoted(root.schema, root.name)}).fetchone()
    if not (row and row[0]):
        raise TargetUnfit(f"the role {role} may not change rows of {name}", hint=beside)
    if is_in_others_hands(conn, root.schema, root.name) and not may_be_replica(conn):
        raise TargetUnfit(
            f"triggers or foreign keys of {name} are in the way: the role {role} neither owns all "
            "of them nor may set session_replication_role",
            hint=beside,
        )


def _require_columns(conn: Connection, root: Table, tables: Sequence[Table]) -> None:
    with translated("target", doing="looking at the table's columns"):
        there = {
            str(row[0])
            for row in conn.execute(
                "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = %s::regclass"
                " AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
                (quoted(root.schema, root.name),),
            )
        }
    lacking = [c for table in tables for c in table.copy_columns if c not in there]
    if lacking:
        raise TargetUnfit(
            f"the table {shown(root.schema, root.name)} has no column {lacking[0]} any more",
            hint="Nothing was changed. Restore it beside the existing one with --as NAME.",
        )


def _is_partitioned(conn: Connection, root: Table) -> bool:
    row = conn.execute(
        "SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = %s::regclass",
        (quoted(root.schema, root.name),),
    ).fetchone()
    return bool(row and row[0])


def _tree_there(conn: Connection, root: Table) -> list[tuple[int, str, str]]:
    """Oid, schema and name of the table and its partitions on the target, parents first."""
    rows = conn.execute(
        "WITH tree AS (SELECT relid::oid AS oid, level"
        "  FROM pg_catalog.pg_partition_tree(%s::regclass)"
        "  UNION SELECT %s::regclass::oid, 0)"
        " SELECT tree.oid::bigint, n.nspname, c.relname"
        " FROM tree JOIN pg_catalog.pg_class c USING (oid)"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY level, tree.oid",
        (quoted(root.schema, root.name),) * 2,
    ).fetchall()
    return [(int(str(oid)), str(schema), str(name)) for oid, schema, name in rows]


def _names_there(conn: Connection, root: Table) -> tuple[tuple[str, str], ...]:
    with translated("target", doing="looking at the table's partitions"):
        return tuple((schema, name) for _, schema, name in _tree_there(conn, root))


def _require_nothing_skipped(snapshot: Snapshot, there: Sequence[tuple[str, str]]) -> None:
    """Rows that the backup left out on request would be deleted and not come back."""
    skipped = [name for name in (shown(*one) for one in there) if name in snapshot.skipped]
    if skipped:
        raise TargetUnfit(
            f"the backup was made without {', '.join(skipped[:20])}, whose rows would be deleted",
            hint="Nothing was changed. Restore the partitions that it holds one by one, or detach "
            "those that it lacks first.",
        )


def _existing(conn: Connection, root: Table, *, partitioned: bool) -> Existing:
    tree = [oid for oid, _, _ in _tree_there(conn, root)]
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
        if not _exists(conn, sequence.schema, sequence.name):
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
