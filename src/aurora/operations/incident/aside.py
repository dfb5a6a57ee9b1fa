"""Rows that going back would lose, saved aside: what good transactions wrote since the point."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psycopg

from aurora.engines.logical.names import quoted
from aurora.errors import UsageError
from aurora.events import EventSink, PhaseBegun, PhaseEnded, Warned
from aurora.operations.incident import fence
from aurora.operations.incident.copies import copy_file, statements_of
from aurora.operations.incident.logkeys import GOOD, LogKeys
from aurora.operations.point import Point
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.repository.door import Repository
from aurora.units import plural

FORMATS = ("csv", "sql")


@dataclass(frozen=True, slots=True)
class Saved:
    """The rows of one table."""

    table: str
    rows: int
    path: Path


def save_aside(
    repository: Repository,
    database: str,
    point: Point,
    dsn: str,
    directory: Path,
    *,
    scratch: Path,
    bad: Collection[int],
    form: str = "csv",
    sink: EventSink,
) -> list[Saved]:
    """Write the live rows that good transactions inserted or updated since *point*.

    As they are now, a file a table: CSV with a head, or INSERT statements; a file that is there
    is whole. A row that was deleted since is not among them. Changes nothing.

    Raises SourceError, OSError, UsageError.
    """
    if form not in FORMATS:
        raise UsageError(f"no format is called {form[:20]!r}", hint="csv or sql.")
    phase = "saving rows aside"
    sink(PhaseBegun(phase))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    saved: list[Saved] = []
    with LogKeys(scratch, bad) as keys:
        keys.collect(repository, database, point, sink=sink)
        with open_control(dsn) as conn, translated("source", doing=phase):
            live = {table.oid: table for table in fence.read_tables(conn)[0]}
            for oid, found in keys.tables.items():
                if oid not in live:
                    continue
                if not found.key_columns:
                    sink(Warned("rows-not-saved", f"{found.shape.name} has no key: not saved"))
                    continue
                if not found.counts.get(GOOD):
                    continue
                path = directory / f"{found.shape.name.replace('/', '_')}.{form}"
                relation = quoted(live[oid].schema, live[oid].name)
                rows = _save(conn, relation, found.key_columns, keys.path(oid, GOOD), path, form)
                saved.append(Saved(found.shape.name, rows, path))
    total = sum(one.rows for one in saved)
    sink(PhaseEnded(phase, f"{plural(total, 'row')} of {plural(len(saved), 'table')}"))
    return saved


def _save(
    conn: psycopg.Connection[tuple[object, ...]],
    relation: str,
    keys: Collection[str],
    lines: Path,
    path: Path,
    form: str,
) -> int:
    names = ", ".join(quoted(key) for key in keys)
    on = " AND ".join(f"t.{quoted(key)} = k.{quoted(key)}" for key in keys)
    with conn.transaction():
        conn.execute(
            f"CREATE TEMP TABLE aurora_keys ON COMMIT DROP AS SELECT {names} FROM {relation}"
            " WHERE false".encode()
        )
        copy_file(conn, f"aurora_keys ({names})", lines)
        rows = f"SELECT * FROM {relation} t WHERE EXISTS (SELECT FROM aurora_keys k WHERE {on})"
        counted = conn.execute(f"SELECT count(*) FROM ({rows}) q".encode()).fetchone()
        unfinished = path.with_name(f".{path.name}.new")  # half a file must not look whole
        with unfinished.open("wb") as file:
            if form == "csv":
                query = f"COPY ({rows}) TO STDOUT (FORMAT csv, HEADER)"
                with conn.cursor().copy(query.encode()) as copy:
                    file.writelines(copy)
            else:
                columns = [
                    str(column)
                    for (column,) in conn.execute(
                        "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = %s::regclass"
                        " AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
                        " ORDER BY attnum",
                        (relation,),
                    )
                ]
                file.writelines(statements_of(conn, relation, columns, f"({rows}) c"))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    return int(str(counted[0])) if counted else 0
