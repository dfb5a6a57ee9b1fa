"""A Supabase project as a target: what is there, and what the role may do with it."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psycopg

from aurora.engines.base import SchemaArchive
from aurora.engines.logical.foreignkeys import may_be_replica
from aurora.engines.logical.names import Connection, quoted
from aurora.engines.logical.schema import Archive, Described, dump_schema
from aurora.engines.logical.system import plain_name
from aurora.engines.supabase.rules import MANAGED, is_fresh_owner
from aurora.engines.supabase.staging import LOOSE_KINDS, Before, read_before, unfinished_restore
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.server import ServerFacts

_SERVICES = """
SELECT count(*) = 2 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
    ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND (n.nspname, c.relname) IN (('auth', 'schema_migrations'),
                                                     ('storage', 'migrations'))
"""
_COLUMNS = """
SELECT n.nspname, c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
       a.attgenerated <> '', a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',
       a.attidentity::text,
       pg_catalog.has_table_privilege(c.oid, 'INSERT')
         AND pg_catalog.has_table_privilege(c.oid, 'UPDATE'),
       EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
               AND a.attnum = ANY (i.indkey))
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY 1, 2, a.attnum
"""
_KEYS = """
SELECT n.nspname, c.relname, rn.nspname, r.relname
FROM pg_catalog.pg_constraint o
JOIN pg_catalog.pg_class c ON c.oid = o.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class r ON r.oid = o.confrelid
JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
WHERE o.contype = 'f' AND n.nspname = ANY (%s) ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class ManagedColumn:
    """A column of a service's table."""

    name: str
    type: str
    generated: bool
    required: bool  # NOT NULL, and nothing fills it
    identity: str
    key: bool  # of the primary key


@dataclass(frozen=True, slots=True)
class ManagedTable:
    """A table that a service made in the target."""

    columns: tuple[ManagedColumn, ...]
    writable: bool  # by the role, rows in it

    def column(self, name: str) -> ManagedColumn | None:
        return next((one for one in self.columns if one.name == name), None)

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.columns if one.key)


@dataclass(frozen=True, slots=True)
class Project:
    """A Supabase project, looked at.

    Attributes:
        schema: its own schema, entry by entry.
        refers: table -> tables that its foreign keys refer to, of the services' tables.
        unfinished: id of a restore that was begun and not finished here, or "".
        held: rows of people that the services' tables hold already, by table.
    """

    schemas: frozenset[str]
    extensions: Mapping[str, str]  # name -> version
    available: frozenset[str]  # extensions that could be made
    roles: frozenset[str]
    tables: Mapping[tuple[str, str], ManagedTable]
    refers: Mapping[tuple[str, str], frozenset[tuple[str, str]]]
    schema: tuple[Described, ...] = field(repr=False)
    unfinished: str
    held: Mapping[str, int]
    may_replicate: bool  # SET session_replication_role
    may_make_policies: bool  # on the services' tables
    may_make_event_triggers: bool


def is_project(conn: Connection) -> bool:
    """Whether the database is a Supabase project's, with the services' tables in it."""
    row = conn.execute(_SERVICES).fetchone()
    return bool(row and row[0])


def look_at_project(conn: Connection, info: ConnInfo, facts: ServerFacts) -> Project:
    """Everything that a restore into the project needs to know. Changes nothing.

    Raises TargetError, UsageError (no pg_dump); psycopg errors.
    """
    managed = sorted(MANAGED)
    schemas = frozenset(_names(conn, "SELECT nspname FROM pg_catalog.pg_namespace"))
    extensions = {
        str(name): str(version)
        for name, version in conn.execute("SELECT extname, extversion FROM pg_catalog.pg_extension")
    }
    schema = describe(info, facts)
    before = read_before(conn)
    if before is not None:  # what an unfinished restore made will be gone
        schemas &= before.named("SCHEMA")
        extensions = {n: v for n, v in extensions.items() if n in before.named("EXTENSION")}
        schema = [one for one in schema if was_there(one, before)]
    return Project(
        schemas=schemas,
        extensions=extensions,
        available=frozenset(_names(conn, "SELECT name FROM pg_catalog.pg_available_extensions")),
        roles=frozenset(_names(conn, "SELECT rolname FROM pg_catalog.pg_roles")),
        tables=_tables(conn, managed),
        refers=_references(conn, managed),
        schema=tuple(schema),
        unfinished=unfinished_restore(conn),
        held=_held(conn),
        may_replicate=may_be_replica(conn),
        may_make_policies=facts.role.superuser
        or _may(conn, "CREATE POLICY aurora_may_it ON storage.objects USING (false)"),
        may_make_event_triggers=facts.role.superuser
        or _may(
            conn,
            "CREATE EVENT TRIGGER aurora_may_it ON ddl_command_end"
            " EXECUTE FUNCTION aurora_nothing.of_that_name()",
        ),
    )


def was_there(one: Described, before: Before) -> bool:
    """Whether an entry of the project's schema is older than the unfinished restore in it."""
    kind, _, subject = one.name.partition(" ")
    if is_fresh_owner(one.owner):
        return True
    if one.schema in MANAGED:
        return one.schema in before.named("SCHEMA")
    if one.entry.kind in LOOSE_KINDS:
        return one.name in before.named(one.entry.kind)
    if kind == "SCHEMA" and not one.schema:  # a grant or comment
        return plain_name(subject) in before.named(kind)
    return (one.entry.class_id, one.entry.oid) in before.inside


def describe(info: ConnInfo, facts: ServerFacts) -> list[Described]:
    """The project's own schema, as its own dump has it."""
    tool, content = dump_schema(info.dsn(), server_major=facts.major, encoding=facts.encoding)
    with tempfile.TemporaryDirectory(prefix="aurora-") as directory:
        return Archive(SchemaArchive(tool, ()), content, Path(directory)).described()


def _names(conn: Connection, query: str) -> list[str]:
    return [str(row[0]) for row in conn.execute(query.encode())]


def _tables(conn: Connection, managed: list[str]) -> dict[tuple[str, str], ManagedTable]:
    columns: dict[tuple[str, str], list[ManagedColumn]] = {}
    writable: dict[tuple[str, str], bool] = {}
    for row in cast("list[tuple[Any, ...]]", conn.execute(_COLUMNS, (managed,)).fetchall()):
        schema, table, name, type_, generated, required, identity, may_write, key = row
        columns.setdefault((schema, table), []).append(
            ManagedColumn(name, type_, generated, required, identity, key)
        )
        writable[schema, table] = may_write
    return {key: ManagedTable(tuple(found), writable[key]) for key, found in columns.items()}


def _references(
    conn: Connection, managed: list[str]
) -> dict[tuple[str, str], frozenset[tuple[str, str]]]:
    found: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for row in cast("list[tuple[Any, ...]]", conn.execute(_KEYS, (managed,)).fetchall()):
        found.setdefault((row[0], row[1]), set()).add((row[2], row[3]))
    return {key: frozenset(value) for key, value in found.items()}


def _held(conn: Connection) -> dict[str, int]:
    """Rows that make a project one that is used already."""
    found = {}
    for schema, name in (("auth", "users"), ("storage", "buckets"), ("storage", "objects")):
        row = conn.execute(f"SELECT count(*) FROM {quoted(schema, name)}".encode()).fetchone()
        if row and row[0]:
            found[f"{schema}.{name}"] = int(str(row[0]))
    return found


def _may(conn: Connection, statement: str) -> bool:
    """Whether the role may do it, found out by trying; rolled back.

    Hosted Supabase's supautils lets its privileged role do what no catalog tells.
    """
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL lock_timeout = '2s'")
            conn.execute(statement.encode())
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable):
        return False
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
        return True  # as far as looking for the function of a name that nobody has
    return True
