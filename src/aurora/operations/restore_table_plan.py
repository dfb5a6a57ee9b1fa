"""Restoring one table: which one, what stands in its place, and what is going to be done."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aurora import clock
from aurora.engines.base import Snapshot, Table
from aurora.engines.logical.foreignkeys import may_be_replica
from aurora.engines.logical.names import Connection, quoted, shown
from aurora.engines.logical.replacing import (
    is_in_others_hands,
)
from aurora.errors import RepositoryNotFound, TargetNotEmpty, TargetUnfit, UsageError
from aurora.operations.content import Backup
from aurora.operations.point import Point
from aurora.operations.restore_plan import new_restore_id
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import inspect_server, open_control, require_usable
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
        elif not is_there(conn, root.schema, root.name):
            mode = "create"
        elif options.replace:
            mode = "replace"
            _require_columns(conn, root, tables)
            _require_rights(conn, root, facts.role.name)
            there = names_there(conn, root)
            require_nothing_skipped(snapshot, there)
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


def is_there(conn: Connection, schema: str, name: str) -> bool:
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
    if is_there(conn, schema, name):
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


def tree_there(conn: Connection, root: Table) -> list[tuple[int, str, str]]:
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


def names_there(conn: Connection, root: Table) -> tuple[tuple[str, str], ...]:
    with translated("target", doing="looking at the table's partitions"):
        return tuple((schema, name) for _, schema, name in tree_there(conn, root))


def require_nothing_skipped(snapshot: Snapshot, there: Sequence[tuple[str, str]]) -> None:
    """Rows that the backup left out on request would be deleted and not come back."""
    skipped = [name for name in (shown(*one) for one in there) if name in snapshot.skipped]
    if skipped:
        raise TargetUnfit(
            f"the backup was made without {', '.join(skipped[:20])}, whose rows would be deleted",
            hint="Nothing was changed. Restore the partitions that it holds one by one, or detach "
            "those that it lacks first.",
        )
