"""A shell script that restores a backup by public tools alone: age, zstd, psql, pg_restore.

For the day on which Aurora is not there, or not trusted. It carries the SHA-256 of every
part, because a pipe of ``sh`` would not notice a part that ends early.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence

from aurora.engines.base import Extent, LargeObject, Snapshot, Stored, Table, TableData
from aurora.engines.logical.copyin import Load, plan_loads
from aurora.engines.logical.largeobjects import owner_statements
from aurora.engines.logical.names import literal, quoted
from aurora.engines.logical.partitions import gates

_NO_LIMIT = 1 << 62

_HEAD = """\
#!/bin/sh
# Restores {backup} of the database {database} without Aurora.
# Needs sh, age, zstd, sha256sum, od, psql, and pg_restore {tool} or newer.
#
#   sh restore.sh IDENTITY-FILE CONNECTION-STRING [DIRECTORY]
#
# CONNECTION-STRING names an empty database, as postgresql://user@host/new_database.
# DIRECTORY holds the parts (*.zst.age); by default this one. Roles must be there before:
# globals.sql, written beside the parts, makes them. Read it first.
set -eu
identity=$1 target=$2 refused=
cd "${{3:-.}}"
umask 077
export PGCLIENTENCODING={encoding}
export PGOPTIONS='-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC'

part() {{ age -d -i "$identity" "$1" | zstd -dcq; }}
piece() {{ part "$1" | tail -c "+$(($2 + 1))" | head -c "$3"; }}
schema() {{ pg_restore --no-password --section="$1" -d "$target" schema.dump || refused=yes; }}
sql() {{ psql -X -q -v ON_ERROR_STOP=1 "$target" "$@"; }}
hex() {{ od -An -v -tx1 | tr -d ' \\n'; }}
large() {{ printf "SELECT lo_put(%s, %s, '\\\\\\\\x" "$1" "$2"; hex; echo "');"; }}

echo 'checking {parts} parts'
sha256sum --quiet -c <<'PARTS'
{sums}
PARTS
"""


def restore_script(
    snapshot: Snapshot,
    data: Sequence[TableData],
    *,
    backup: str,
    database: str,
    sums: Mapping[str, str],
) -> str:
    """The script. *sums*: object name of every part -> SHA-256 of its stored bytes."""
    encoding = "SQL_ASCII" if snapshot.source.database.encoding == "SQL_ASCII" else "UTF8"
    lines = [
        _HEAD.format(
            backup=backup,
            database=database,
            tool=snapshot.archive.tool,
            encoding=encoding,
            parts=len(sums),
            sums="\n".join(f"{digest}  {_file(name)}" for name, digest in sorted(sums.items())),
        ),
        f"{{ {_pieces(snapshot.globals)} }} > globals.sql",
        f"{{ {_pieces(snapshot.archive.pieces)} }} > schema.dump",
        "echo 'making the schema'",
        "schema pre-data",
        *_rows(snapshot.tables, data),
        *_large_objects(snapshot.large_objects),
        *_sequences(snapshot),
        "echo 'making indexes, constraints and triggers'",
        "schema post-data",
        *_views(snapshot.tables),
        "sql -c ANALYZE",
        *_counts(snapshot.tables, data),
        "rm schema.dump",
        '[ -z "$refused" ] || echo "some statements were refused: see above" >&2',
        f"echo 'restored {backup}: {sum(d.rows for d in data)} rows of {len(data)} tables'",
        '[ -z "$refused" ]',
    ]
    return "\n".join(lines) + "\n"


def _rows(tables: Sequence[Table], data: Sequence[TableData]) -> Iterator[str]:
    for load in plan_loads(tables, data, at_most=_NO_LIMIT):
        name = quoted(load.table.schema, load.table.name)
        yield f"echo {shlex.quote(f'loading {name}: {load.rows} rows')}"
        yield _load(load, name)


def _load(load: Load, name: str) -> str:
    if not load.table.copy_columns:
        statement = f"INSERT INTO {name} SELECT FROM generate_series(1, {load.rows})"
        return f"sql -c {shlex.quote(statement)}"
    columns = ", ".join(quoted(column) for column in load.table.copy_columns)
    statement = f"COPY {name} ({columns}) FROM STDIN"
    return f"{{ {_extents(load.extents)} }} | sql -c {shlex.quote(statement)}"


def _large_objects(objects: Sequence[LargeObject]) -> Iterator[str]:
    for lo in objects:
        yield f"sql -c 'SELECT lo_create({lo.oid})' > /dev/null"
        offset = 0
        for extent in lo.extents:
            yield f"{_extent(extent)} | large {lo.oid} {offset} | sql > /dev/null"
            offset += extent.bytes
        yield from (f"sql -c {shlex.quote(statement)}" for statement in owner_statements(lo))


def _sequences(snapshot: Snapshot) -> Iterator[str]:
    if not snapshot.sequences:
        return
    yield "sql > /dev/null <<'SEQUENCES'"
    for one in snapshot.sequences:
        name = literal(quoted(one.schema, one.name))
        called = "true" if one.is_called else "false"
        yield f"SELECT setval({name}::regclass, {one.last_value}, {called});"
    yield "SEQUENCES"


def _views(tables: Sequence[Table]) -> Iterator[str]:
    views = [quoted(t.schema, t.name) for t in tables if t.kind == "m" and t.populated]
    if not views:
        return
    # One may read another: as many rounds as there are views fill them all.
    yield f"for round in $(seq {len(views)}); do left=0"
    for view in views:
        yield f"  sql -c {shlex.quote(f'REFRESH MATERIALIZED VIEW {view}')} 2> refreshing || left=1"
    yield '  [ "$left" = 0 ] && break'
    yield "done"
    yield '[ "$left" = 0 ] || { cat refreshing; refused=yes; }'
    yield "rm -f refreshing"


def _counts(tables: Sequence[Table], data: Sequence[TableData]) -> Iterator[str]:
    by_oid, moving = {table.oid: table for table in tables}, gates(tables)
    yield "wrong=$(sql -At <<'COUNTS'"
    for one in data:
        table = by_oid.get(one.oid)
        if table is not None and one.oid not in moving:
            name = quoted(table.schema, table.name)
            told = literal(f"{name} has % rows instead of {one.rows}")
            yield (
                f"SELECT replace({told}, '%', count(*)::text) FROM ONLY {name}"
                f" HAVING count(*) <> {one.rows};"
            )
    yield "COUNTS"
    yield ")"
    yield '[ -z "$wrong" ] || { echo "$wrong" >&2; exit 1; }'


def _pieces(pieces: Sequence[Stored]) -> str:
    return " ".join(f"part {_file(piece.object)};" for piece in pieces) or ":;"


def _extents(extents: Sequence[Extent]) -> str:
    return " ".join(f"{_extent(extent)};" for extent in extents) or ":;"


def _extent(extent: Extent) -> str:
    name = _file(extent.object)
    if extent.length < 0:
        return f"part {name}"
    return f"piece {name} {extent.offset} {extent.length}"


def _file(name: str) -> str:
    return name.rpartition("/")[2]
