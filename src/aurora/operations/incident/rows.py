"""Putting back what bad transactions took, into the live database, and nothing else.

The rows as they were just before lie beside, in a schema of Aurora's own; so do the keys
that the bad transactions touched, and those that good ones touched later. The server
compares: a row that is gone comes back, a row that was overwritten gets its old values, and
what a good transaction touched later is left alone and listed. All in one transaction,
after review, without the application's triggers. The same is written as SQL, to be read.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from aurora.engines.base import Table
from aurora.engines.logical.names import Connection, literal, quoted, shown
from aurora.errors import CheckFailed, TargetRefused, TargetUnfit, UsageError
from aurora.events import EventSink, PhaseBegun, PhaseEnded
from aurora.operations.incident import fence
from aurora.operations.incident.copies import copy_file, lines_of, statements_of, value_of
from aurora.operations.incident.logkeys import BAD, GOOD, MOVED, ROWS, LogKeys, TableKeys
from aurora.operations.point import Point
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control, transaction_id
from aurora.units import format_count, plural

SCHEMA = "aurora_recovery"
_LOCK_TIMEOUT = "30s"
ACTIONS = ("insert", "update", "remove", "conflict", "extra", "same")

CopyTable = Callable[[str, str], None]
"""``copy(table, as_name)`` puts a table's rows as of the point into a new table."""


@dataclass(slots=True)
class TablePlan:
    """What is done with one table."""

    oid: int
    table: str  # schema.table, as people write it
    relation: str  # quoted
    keys: tuple[str, ...]
    columns: tuple[str, ...]  # without generated ones
    counts: dict[str, int] = field(default_factory=dict)  # by action
    notes: list[str] = field(default_factory=list)

    @property
    def copy(self) -> str:
        return f"{SCHEMA}.t_{self.oid}"

    @property
    def plan(self) -> str:
        return f"{SCHEMA}.p_{self.oid}"

    @property
    def changes(self) -> int:
        return sum(self.counts.get(one, 0) for one in ("insert", "update", "remove"))


@dataclass(slots=True)
class RowsPlan:
    """What would be put back; everything it needs lies in the schema of Aurora's own."""

    dsn: str = field(repr=False)
    tables: list[TablePlan]  # referred-to tables first
    sql: Path
    conflicts: Path
    marker: str

    @property
    def changes(self) -> int:
        return sum(one.changes for one in self.tables)

    @property
    def keyless(self) -> list[str]:
        """Tables whose rows cannot be told from one another: put back once, and never again."""
        return [one.table for one in self.tables if not one.keys and one.changes]

    def total(self, action: str) -> int:
        return sum(one.counts.get(action, 0) for one in self.tables)

    def document(self) -> dict[str, Any]:
        return {
            "tables": [
                {"table": one.table, **{name: one.counts.get(name, 0) for name in ACTIONS},
                 "notes": one.notes}
                for one in self.tables
            ],
            "sql": str(self.sql),
            "conflicts": str(self.conflicts),
        }  # fmt: skip


@dataclass(slots=True)
class RowsReport:
    """What was put back."""

    inserted: int = 0
    updated: int = 0
    removed: int = 0
    conflicts: int = 0
    left: int = 0  # rows that somebody changed between review and now
    seconds: float = 0.0
    tables: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def marker_of(dsn: str) -> str:
    """A transaction number: what is older has ended, and is in a log that is read from now on."""
    with open_control(dsn, what="target") as conn, translated("target", doing="reading the time"):
        row = conn.execute(
            b"SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text"
        ).fetchone()
    return str(int(str(row[0])) & 0xFFFFFFFF) if row else "3"


def plan_rows(
    dsn: str,
    point: Point,
    keys: LogKeys,
    directory: Path,
    *,
    marker: str,
    copy_table: CopyTable,
    done: Collection[str] = (),
    sink: EventSink,
) -> RowsPlan:
    """Lay everything beside and compare. The live tables are only read.

    Args:
        dsn: the live database, with the way through a fence.
        keys: what the bad transactions touched, and good ones later.
        directory: for the SQL and the list of conflicts.
        copy_table: puts a table as of the point into one of the schema here.
        done: tables without a key whose rows were put back before.

    Raises TargetError; UsageError where there is nothing to put back.
    """
    phase = "comparing rows"
    sink(PhaseBegun(phase))
    clear(dsn)
    with open_control(dsn, what="target") as conn, translated("target", doing=phase):
        conn.execute(f"CREATE SCHEMA {SCHEMA}".encode())
        conn.execute(
            f"COMMENT ON SCHEMA {SCHEMA} IS 'Rows that aurora incident recover compares with; "
            "may be dropped'".encode()
        )
        live = {one.oid: one for one in fence.read_tables(conn)[0]}
    tables = {table.oid: table for table in point.snapshot.tables}
    plans: list[TablePlan] = []
    for oid, found in keys.tables.items():
        if not (found.truncated or found.counts.keys() & {BAD, ROWS} or found.updated_whole):
            continue
        table = tables.get(oid)
        if table is None or oid not in live or not table.has_rows:
            raise TargetUnfit(
                f"the table {found.shape.name} is not what it was: it was dropped or made anew",
                hint="Nothing was changed. `aurora backup restore-table` brings it back.",
            )
        if not found.key_columns and shown(table.schema, table.name) in done:
            plans.append(_left_alone(table))
            continue
        plans.append(_lay_beside(dsn, table, found, keys, marker, copy_table))
    if not plans:
        raise UsageError(
            "the bad transactions touched no row that the log tells of",
            hint="Nothing was changed. Name them with --bad-xid; see `aurora incident assess`.",
        )
    with open_control(dsn, what="target") as conn, translated("target", doing=phase):
        plans = _in_order(conn, plans)
        made = RowsPlan(dsn, plans, directory / "put-back.sql", directory / "conflicts.csv", marker)
        _write_sql(conn, made)
        _write_conflicts(conn, made)
    sink(PhaseEnded(phase, f"{plural(sum(one.changes for one in plans), 'row')} to put back"))
    return made


def run_rows(
    plan: RowsPlan,
    *,
    before_commit: Callable[[str, RowsReport], None] | None = None,
    sink: EventSink,
) -> RowsReport:
    """Put the rows back, in one transaction; then remove what was laid beside.

    Args:
        before_commit: gets the transaction's number (64 bits) when all is done but the commit;
            what it raises rolls back.

    Raises:
        TargetRefused, CheckFailed, TargetError: nothing was changed.
    """
    phase = "putting rows back"
    sink(PhaseBegun(phase))
    report = RowsReport(conflicts=plan.total("conflict"), tables=[t.table for t in plan.tables])
    with open_control(plan.dsn, what="target") as conn, translated("target", doing=phase):
        try:
            with conn.transaction():
                _put_back(conn, plan, report)
                if before_commit is not None:
                    before_commit(transaction_id(conn), report)
        except psycopg.errors.ForeignKeyViolation as error:
            raise TargetRefused(
                f"rows that would come back refer to rows that are gone: "
                f"{error.diag.message_detail or error.diag.message_primary}",
                hint="Nothing was changed. Put back the other table too, or leave this one out "
                "with --table, or edit and run the SQL by hand.",
            ) from error
    told = f"{format_count(report.inserted)} inserted, {format_count(report.updated)} updated"
    sink(PhaseEnded(phase, told))
    clear(plan.dsn)
    return report


def clear(dsn: str) -> None:
    """Remove what was laid beside. Raises TargetError."""
    with open_control(dsn, what="target") as conn, translated("target", doing="clearing up"):
        conn.execute(b"SET client_min_messages = warning")
        conn.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE".encode())


def _lay_beside(
    dsn: str,
    table: Table,
    found: TableKeys,
    keys: LogKeys,
    marker: str,
    copy_table: CopyTable,
) -> TablePlan:
    """The rows before, the keys, and what is to be done with each key."""
    name = shown(table.schema, table.name)
    made = TablePlan(
        table.oid, name, quoted(table.schema, table.name), found.key_columns, table.copy_columns
    )
    if found.key_columns or found.truncated:
        copy_table(name, made.copy)
    with open_control(dsn, what="target") as conn, translated("target", doing=f"comparing {name}"):
        if not found.key_columns:
            _lay_rows(conn, made, found, keys)
            return made
        columns = ", ".join(quoted(one) for one in made.keys)
        for kind in (BAD, MOVED, GOOD):
            conn.execute(
                f"CREATE UNLOGGED TABLE {SCHEMA}.{kind}_{made.oid} AS"
                f" SELECT {columns} FROM {made.relation} WHERE false".encode()
            )
            copy_file(conn, f"{SCHEMA}.{kind}_{made.oid} ({columns})", keys.path(made.oid, kind))
        if found.truncated:
            conn.execute(
                f"INSERT INTO {SCHEMA}.{BAD}_{made.oid} SELECT {columns} FROM {made.copy}".encode()
            )
        conn.execute(_classify(made, marker).encode())
        conn.execute(f"ANALYZE {made.plan}".encode())
        rows = conn.execute(f"SELECT action, count(*) FROM {made.plan} GROUP BY 1".encode())
        made.counts = {str(action): int(str(count)) for action, count in rows.fetchall()}
    return made


def _left_alone(table: Table) -> TablePlan:
    """A table without a key that was put back before: doing it again would double its rows."""
    name = shown(table.schema, table.name)
    made = TablePlan(table.oid, name, quoted(table.schema, table.name), (), table.copy_columns)
    made.notes.append("its rows were put back before; without a key it is not done again")
    return made


def _lay_rows(conn: Connection, made: TablePlan, found: TableKeys, keys: LogKeys) -> None:
    """A table without a key: deleted rows as the log has them whole."""
    columns = ", ".join(quoted(one) for one in made.columns)
    if not found.truncated:
        conn.execute(
            f"CREATE TABLE {made.copy} AS SELECT {columns} FROM {made.relation}"
            " WHERE false".encode()
        )
        copy_file(conn, f"{made.copy} ({columns})", keys.path(made.oid, ROWS))
    row = conn.execute(f"SELECT count(*) FROM {made.copy}".encode()).fetchone()
    made.counts = {"insert": int(str(row[0])) if row else 0}
    if found.updated_whole:
        made.notes.append(
            f"{plural(found.updated_whole, 'row')} updated stay as they are: without a key nobody "
            "can say which row was which"
        )


def _classify(made: TablePlan, marker: str) -> str:
    """One line a key: what is to be done with it."""
    keys = [quoted(one) for one in made.keys]
    names = ", ".join(keys)

    def same(one: str, other: str) -> str:
        return " AND ".join(f"{one}.{key} = {other}.{key}" for key in keys)

    first = keys[0]
    differs = " OR ".join(
        f"t.{quoted(one)}::text IS DISTINCT FROM c.{quoted(one)}::text" for one in made.columns
    )
    return f"""
        CREATE UNLOGGED TABLE {made.plan} AS
        SELECT {", ".join(f"k.{key}" for key in keys)},
               CASE WHEN c.{first} IS NULL AND t.{first} IS NULL THEN 'same'
                    WHEN c.{first} IS NOT NULL AND t.{first} IS NOT NULL AND NOT ({differs})
                        THEN 'same'
                    WHEN g.{first} IS NOT NULL OR {_newer("t", marker)} THEN 'conflict'
                    WHEN t.{first} IS NULL THEN 'insert'
                    WHEN c.{first} IS NOT NULL THEN 'update'
                    WHEN m.{first} IS NOT NULL THEN 'remove'
                    ELSE 'extra' END AS action
        FROM (SELECT DISTINCT {names} FROM {SCHEMA}.{BAD}_{made.oid}) k
        LEFT JOIN {made.copy} c ON {same("k", "c")}
        LEFT JOIN ONLY {made.relation} t ON {same("k", "t")}
        LEFT JOIN (SELECT DISTINCT {names} FROM {SCHEMA}.{GOOD}_{made.oid}) g ON {same("k", "g")}
        LEFT JOIN (SELECT DISTINCT {names} FROM {SCHEMA}.{MOVED}_{made.oid}) m ON {same("k", "m")}
    """


def _newer(row: str, marker: str) -> str:
    """Whether a row was written by a transaction that may be later than the log's end."""
    return f"(pg_catalog.age({row}.xmin) < pg_catalog.age('{marker}'::xid))"


def _put_back(conn: Connection, plan: RowsPlan, report: RowsReport) -> None:
    conn.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
    conn.execute(b"SET LOCAL row_security = off")
    names = ", ".join(one.relation for one in plan.tables)
    conn.execute(f"LOCK TABLE ONLY {names} IN SHARE ROW EXCLUSIVE MODE".encode())
    triggers = [(one.relation, *found) for one in plan.tables for found in _triggers(conn, one)]
    for relation, trigger, _ in triggers:
        conn.execute(f"ALTER TABLE {relation} DISABLE TRIGGER {quoted(trigger)}".encode())
    conn.execute(b"SET CONSTRAINTS ALL DEFERRED")
    for one in reversed(plan.tables):
        report.removed += _run(conn, one, "remove", plan.marker)
    for one in plan.tables:
        report.updated += _run(conn, one, "update", plan.marker)
        report.inserted += _run(conn, one, "insert", plan.marker)
    conn.execute(b"SET CONSTRAINTS ALL IMMEDIATE")
    for relation, trigger, state in triggers:
        how = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}[state]
        conn.execute(f"ALTER TABLE {relation} {how} TRIGGER {quoted(trigger)}".encode())
    done = report.inserted + report.updated + report.removed
    report.left = sum(one.changes for one in plan.tables) - done
    _check(conn, plan, report)


def _triggers(conn: Connection, one: TablePlan) -> list[tuple[str, str]]:
    """The application's triggers: they would send mails and change the rows again."""
    rows = conn.execute(
        "SELECT t.tgname, t.tgenabled::text FROM pg_catalog.pg_trigger t"
        " JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid"
        " JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace"
        " WHERE t.tgrelid = %s AND NOT t.tgisinternal AND t.tgenabled <> 'D'"
        " AND n.nspname <> 'aurora_fence'",
        (one.oid,),
    ).fetchall()
    return [(str(name), str(state)) for name, state in rows]


def _run(conn: Connection, one: TablePlan, action: str, marker: str) -> int:
    if not one.counts.get(action):
        return 0
    return conn.execute(_statement(one, action, marker).encode()).rowcount


def _statement(one: TablePlan, action: str, marker: str) -> str:
    columns = ", ".join(quoted(name) for name in one.columns)
    if not one.keys:
        return (
            f"INSERT INTO {one.relation} ({columns}) OVERRIDING SYSTEM VALUE"
            f" SELECT {columns} FROM {one.copy}"
        )
    keys = [quoted(name) for name in one.keys]
    planned = " AND ".join(f"p.{key} = {{0}}.{key}" for key in keys)
    if action == "insert":
        old = ", ".join(f"c.{quoted(name)}" for name in one.columns)
        gone = " AND ".join(f"t.{key} = c.{key}" for key in keys)
        return (
            f"INSERT INTO {one.relation} ({columns}) OVERRIDING SYSTEM VALUE SELECT {old}"
            f" FROM {one.copy} c JOIN {one.plan} p ON {planned.format('c')}"
            f" WHERE p.action = 'insert' AND NOT EXISTS (SELECT FROM ONLY {one.relation} t"
            f" WHERE {gone})"
        )
    if action == "update":
        settable = [quoted(name) for name in one.columns if name not in one.keys]
        sets = ", ".join(f"{name} = c.{name}" for name in settable)
        return (
            f"UPDATE ONLY {one.relation} t SET {sets} FROM {one.copy} c JOIN {one.plan} p"
            f" ON {planned.format('c')} WHERE p.action = 'update' AND {planned.format('t')}"
            f" AND NOT {_newer('t', marker)}"
        )
    return (
        f"DELETE FROM ONLY {one.relation} t USING {one.plan} p WHERE p.action = 'remove'"
        f" AND {planned.format('t')} AND NOT {_newer('t', marker)}"
    )


def _check(conn: Connection, plan: RowsPlan, report: RowsReport) -> None:
    """Every row that was put back is what it was, column by column."""
    wrong = 0
    for one in plan.tables:
        if not one.keys or not (one.counts.get("insert") or one.counts.get("update")):
            continue
        keys = [quoted(name) for name in one.keys]
        same = " AND ".join(f"t.{key} = c.{key}" for key in keys)
        planned = " AND ".join(f"p.{key} = c.{key}" for key in keys)
        equal = " AND ".join(
            f"t.{quoted(name)}::text IS NOT DISTINCT FROM c.{quoted(name)}::text"
            for name in one.columns
        )
        row = conn.execute(
            f"SELECT count(*) FROM {one.plan} p JOIN {one.copy} c ON {planned}"
            f" LEFT JOIN ONLY {one.relation} t ON {same}"
            f" WHERE p.action IN ('insert', 'update') AND (({equal}) IS NOT TRUE)".encode()
        ).fetchone()
        wrong += int(str(row[0])) if row else 0
    if wrong > report.left:
        raise CheckFailed(
            f"{plural(wrong, 'row')} are not what they were after putting them back",
            hint="Nothing was changed. A rule or a generated value may be in the way: see the SQL.",
        )


def _in_order(conn: Connection, plans: Sequence[TablePlan]) -> list[TablePlan]:
    """Tables that others refer to come first; within a circle the order stays."""
    rows = conn.execute(
        "SELECT conrelid::bigint, confrelid::bigint FROM pg_catalog.pg_constraint"
        " WHERE contype = 'f' AND conrelid = ANY (%s) AND confrelid = ANY (%s)"
        " AND conrelid <> confrelid",
        ([one.oid for one in plans], [one.oid for one in plans]),
    ).fetchall()
    needs: dict[int, set[int]] = {one.oid: set() for one in plans}
    for child, parent in rows:
        needs[int(str(child))].add(int(str(parent)))
    left, found = list(plans), []
    while left:
        free = [one for one in left if not needs[one.oid] & {x.oid for x in left}] or left[:1]
        found += free
        left = [one for one in left if one not in free]
    return found


def _write_sql(conn: Connection, plan: RowsPlan) -> None:
    """The same changes as statements, row by row: to be read, or run by hand."""
    with plan.sql.open("wb") as file:
        file.write(
            b"-- What `aurora incident recover` puts back; run it by psql as the owner.\n"
            b"-- While writes are stopped, begin with: SET aurora.way_in = the text of way-in\n"
            b"BEGIN;\n"
        )
        for one in reversed(plan.tables):
            file.writelines(_texts(conn, one, ("remove",)))
        for one in plan.tables:
            file.writelines(_texts(conn, one, ("update", "insert")))
        file.write(b"COMMIT;\n")


def _texts(conn: Connection, one: TablePlan, actions: Collection[str]) -> Iterator[bytes]:
    for action in actions:
        if not one.counts.get(action):
            continue
        source = f"{one.copy} c"
        if one.keys:
            on = " AND ".join(f"p.{quoted(key)} = c.{quoted(key)}" for key in one.keys)
            source = f"{one.copy} c JOIN {one.plan} p ON {on} WHERE p.action = '{action}'"
        if action == "insert":
            yield from statements_of(conn, one.relation, one.columns, source)
        else:
            yield from lines_of(conn, _as_sql(one, action, source))


def _as_sql(one: TablePlan, action: str, source: str) -> str:
    """A query whose rows are statements."""

    def where(row: str) -> str:
        return " || ' AND ' || ".join(
            f"{literal(f'{quoted(key)} = ')} || {value_of(key, row)}" for key in one.keys
        )

    if action == "remove":
        head = f"DELETE FROM {one.relation} WHERE "
        return (
            f"SELECT {literal(head)} || {where('p')} || ';' FROM {one.plan} p"
            " WHERE action = 'remove'"
        )
    sets = " || ', ' || ".join(
        f"{literal(f'{quoted(name)} = ')} || {value_of(name)}"
        for name in one.columns
        if name not in one.keys
    )
    head = f"UPDATE {one.relation} SET "
    return f"SELECT {literal(head)} || {sets} || ' WHERE ' || {where('c')} || ';' FROM {source}"


def _write_conflicts(conn: Connection, plan: RowsPlan) -> None:
    """Rows that are left alone, as they were and as they are."""
    with plan.conflicts.open("wb") as file:
        file.write(b"table,action,key,before,now\n")
        for one in plan.tables:
            if not (one.keys and (one.counts.get("conflict") or one.counts.get("extra"))):
                continue
            keys = [quoted(key) for key in one.keys]
            was = " AND ".join(f"p.{key} = c.{key}" for key in keys)
            now = " AND ".join(f"p.{key} = t.{key}" for key in keys)
            key = " || ',' || ".join(f"p.{key}::text" for key in keys)
            query = (
                f"COPY (SELECT {literal(one.table)}, p.action, {key},"
                f" pg_catalog.row_to_json(c)::text, pg_catalog.row_to_json(t)::text"
                f" FROM {one.plan} p LEFT JOIN {one.copy} c ON {was}"
                f" LEFT JOIN ONLY {one.relation} t ON {now}"
                f" WHERE p.action IN ('conflict', 'extra')) TO STDOUT (FORMAT csv)"
            )
            with conn.cursor().copy(query.encode()) as copy:
                file.writelines(copy)
