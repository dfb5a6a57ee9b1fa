"""The last transaction of a restore into a project: all of it, or nothing.

The user's schemas are built and checked by then, and the rows of the services' tables wait
in the staging schema. This moves them into the tables that are there, makes the foreign
keys, triggers, policies and grants that join the two, secrets and jobs, proves the rows,
and drops the staging schema, which is the mark of an unfinished restore.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import psycopg

from aurora.engines.base import Column, Sequence_, Table
from aurora.engines.logical.build import refresh_views
from aurora.engines.logical.checksum import row_hash
from aurora.engines.logical.foreignkeys import dangling
from aurora.engines.logical.names import Connection, literal, pin_output, quoted, shown
from aurora.engines.supabase.project import ManagedTable, Project
from aurora.engines.supabase.rules import CRON, STAGING
from aurora.engines.supabase.sorting import Statement
from aurora.engines.supabase.staging import require_own_mark, staging_name
from aurora.engines.supabase.vault import Secret, SecretsMade, make_secrets
from aurora.errors import CheckFailed, TargetRefused
from aurora.postgres.errors import is_disconnect, translated

Name = tuple[str, str]  # schema, table


@dataclass(frozen=True, slots=True)
class Work:
    """What the last transaction is to do."""

    restore_id: str  # whose mark it is
    project: Project
    tables: tuple[Table, ...]  # services' tables whose rows wait, as the source has them
    rows: Mapping[Name, int]  # how many of each were found when they were checked
    sequences: tuple[Sequence_, ...]  # of the services
    statements: tuple[Statement, ...]
    watching: tuple[Statement, ...]
    views: tuple[Table, ...]  # materialized views that read the services' tables
    jobs: bool  # rows of cron.job wait
    secrets: tuple[Secret, ...]
    settings: tuple[str, ...]  # of the database and of roles in it


@dataclass(frozen=True, slots=True)
class Moved:
    """One table's rows: of the backup, and found as they are in the backup."""

    table: str
    rows: int
    same: int
    others: int  # rows that were there and are not the backup's


@dataclass(slots=True)
class HandedOver:
    """What came of it."""

    moved: list[Moved] = field(default_factory=list)
    sequences: int = 0
    done: list[str] = field(default_factory=list)  # titles of statements
    refusals: list[str] = field(default_factory=list)
    secrets: SecretsMade = field(default_factory=SecretsMade)
    jobs: int = 0
    jobs_of_others: int = 0
    dangling: list[str] = field(default_factory=list)  # rows of the backup that refer to nothing


def hand_over(conn: Connection, work: Work) -> HandedOver:
    """Do it in one transaction; on any error nothing of it happened.

    Raises:
        CheckFailed: rows are not as in the backup.
        TargetRefused: rows collide with others of the target.
        TargetError: the target was lost, or refused rows for another reason.
    """
    done = HandedOver()
    with translated("target", doing="handing over to the services' tables"):
        pin_output(conn)
        with conn.transaction():
            require_own_mark(conn, work.restore_id)
            if work.project.may_replicate:
                conn.execute("SET LOCAL session_replication_role = replica")
            for table in in_order(work.tables, work.project.refers):
                moved = _move(conn, table, work.project.tables[_name(table)])
                _require_all(moved, work.rows[_name(table)])
                done.moved.append(moved)
            conn.execute("SET LOCAL session_replication_role = DEFAULT")
            # Unchecked in the replica role.
            done.dangling = list(map(str, dangling(conn, [quoted(*_name(t)) for t in work.tables])))
            done.sequences = _set_sequences(conn, work.sequences, done)
            _run_all(conn, work.statements, done)
            done.refusals += refresh_views(conn, work.views)
            if work.secrets:
                done.secrets = make_secrets(conn, list(work.secrets))
            if work.jobs:
                _schedule(conn, done)
            _run_all(conn, [Statement(_head(s), s) for s in work.settings], done)
            conn.execute(f"DROP SCHEMA {quoted(STAGING)} CASCADE".encode())
            _run_all(conn, work.watching, done)  # they would fire at the statement before
    return done


def in_order(tables: Sequence[Table], refers: Mapping[Name, frozenset[Name]]) -> Iterator[Table]:
    """Tables that others refer to before those others; a circle in the order given."""
    waiting = {_name(table): table for table in tables}
    while waiting:
        free = [
            name
            for name in waiting
            if not (refers.get(name, frozenset()) - {name}) & waiting.keys()
        ] or list(waiting)
        for name in free:
            yield waiting.pop(name)


def _move(conn: Connection, table: Table, there: ManagedTable) -> Moved:
    """Rows that wait into the service's table; the backup's row wins over one of the same key."""
    name, waiting = quoted(*_name(table)), quoted(STAGING, staging_name(*_name(table)))
    columns = shared_columns(table, there)
    into = ", ".join(quoted(column.name) for column in columns)
    values = ", ".join(_value(column, there) for column in columns)
    identity = any(one.identity == "a" for one in there.columns)
    overriding = " OVERRIDING SYSTEM VALUE" if identity else ""
    statement = f"INSERT INTO {name} ({into}){overriding} SELECT {values} FROM {waiting}"
    if there.key:
        key = ", ".join(map(quoted, there.key))
        others = [c.name for c in columns if c.name not in there.key]
        changes = ", ".join(f"{quoted(c)} = EXCLUDED.{quoted(c)}" for c in others)
        action = f"UPDATE SET {changes}" if changes else "NOTHING"
        statement += f" ON CONFLICT ({key}) DO {action}"
    try:
        conn.execute(statement.encode())
    except psycopg.errors.UniqueViolation as error:
        raise TargetRefused(
            f"{shown(*_name(table))} of the project holds rows that collide with the backup's "
            f"({error.diag.constraint_name})",
            hint="Nothing of the services' tables was changed. The project has been used: remove "
            "those rows (users in the dashboard, buckets and objects through Storage), or restore "
            "into a new project.",
        ) from error
    return _prove(conn, table, _hashed(columns, there), name, waiting)


def _require_all(moved: Moved, expected: int) -> None:
    """A server that crashed after the check may have lost what waited."""
    if moved.rows != expected:
        raise CheckFailed(
            f"{moved.rows} rows of {moved.table} waited to be handed over, {expected} were checked",
            hint="Nothing of the services' tables was changed. Run the restore again.",
        )


def shared_columns(table: Table, there: ManagedTable) -> list[Column]:
    """Columns of the backup that the target's table has and that are not computed there."""
    found = []
    for column in table.columns:
        held = there.column(column.name)
        if not column.generated and held is not None and not held.generated:
            found.append(column)
    return found


def _value(column: Column, there: ManagedTable) -> str:
    held = there.column(column.name)
    assert held is not None  # shared
    name = quoted(column.name)
    return name if held.type == column.type else f"{name}::pg_catalog.text::{held.type}"


def _hashed(columns: list[Column], there: ManagedTable) -> list[Column]:
    """The columns as both sides hash alike: by their text where the types differ."""
    same = {one.name: one.type for one in there.columns}
    return [
        column
        if same[column.name] == column.type
        else msgspec.structs.replace(column, type="of another type there")
        for column in columns
    ]


def _prove(conn: Connection, table: Table, columns: list[Column], name: str, waiting: str) -> Moved:
    """Compare what is in the service's table with what waited, row by row on the server."""
    one_row = row_hash(columns)
    row = conn.execute(
        f"SELECT (SELECT pg_catalog.count(*) FROM {waiting}),"
        f" (SELECT pg_catalog.count(*) FROM {name}),"
        f" (SELECT pg_catalog.count(*) FROM (SELECT {one_row} FROM {waiting}"
        f" EXCEPT ALL SELECT {one_row} FROM {name}) AS missing)".encode()
    ).fetchone()
    assert row is not None  # one row of three counts
    rows, held, missing = (int(str(value)) for value in row)
    if missing:
        raise CheckFailed(
            f"{missing} of {rows} rows of {shown(*_name(table))} are not in the project as they "
            "are in the backup",
            hint="Nothing of the services' tables was changed. A trigger of the target may have "
            "changed them.",
        )
    return Moved(shown(*_name(table)), rows, rows - missing, held - rows)


def _set_sequences(conn: Connection, sequences: Sequence[Sequence_], done: HandedOver) -> int:
    """Sequences of the services at the backup's position, never behind their own."""
    count = 0
    for one in sequences:
        name = quoted(one.schema, one.name)
        there = conn.execute("SELECT pg_catalog.to_regclass(%s)", (name,)).fetchone()
        if not (there and there[0]):
            continue
        title = f"SEQUENCE {shown(one.schema, one.name)}"
        if not one.is_called:
            statement = (
                f"SELECT pg_catalog.setval({literal(name)}::regclass, {one.last_value}, false)"
                f" FROM {name} WHERE NOT is_called AND last_value < {one.last_value}"
            )
        else:
            value = f"GREATEST(last_value, {one.last_value})"
            statement = f"SELECT pg_catalog.setval({literal(name)}::regclass, {value}) FROM {name}"
        count += _run(conn, Statement(title, statement), done)
    return count


def _schedule(conn: Connection, done: HandedOver) -> None:
    """Jobs of pg_cron by its own functions; jobs of other roles are theirs to make."""
    waiting = quoted(STAGING, staging_name(*CRON))
    schedule = (
        f"SELECT CASE WHEN jobname IS NULL THEN cron.schedule(schedule, command)"
        f" ELSE cron.schedule(jobname, schedule, command) END, active, username = current_user"
        f" FROM {waiting} WHERE username = current_user ORDER BY jobid"
    )
    try:
        with conn.transaction():
            for job, active, _ in conn.execute(schedule.encode()).fetchall():
                if not active:
                    conn.execute("SELECT cron.alter_job(job_id => %s, active => false)", (job,))
                done.jobs += 1
        row = conn.execute(
            f"SELECT count(*) FROM {waiting} WHERE username <> current_user".encode()
        ).fetchone()
        done.jobs_of_others = int(str(row[0])) if row else 0
    except psycopg.Error as error:
        if is_disconnect(error):
            raise
        done.jobs = 0
        done.refusals.append(f"jobs of pg_cron: {error.diag.message_primary}")


def _run_all(conn: Connection, statements: Sequence[Statement], done: HandedOver) -> None:
    for statement in statements:
        if _run(conn, statement, done):
            done.done.append(statement.title)


def _run(conn: Connection, statement: Statement, done: HandedOver) -> bool:
    """One statement; a refused one is told, not raised."""
    try:
        with conn.transaction():
            conn.execute(statement.sql.encode(errors="surrogateescape"))
    except psycopg.Error as error:
        if is_disconnect(error):
            raise
        done.refusals.append(f"{statement.title}: {error.diag.message_primary}")
        return False
    return True


def _head(statement: str) -> str:
    """A setting's statement without its value, which may be a secret."""
    return statement.partition(" TO ")[0]


def _name(table: Table) -> Name:
    return table.schema, table.name
