"""The schema of a restore under way: its mark, what was there before, and rows that wait.

A project cannot be built aside and renamed. So the restore marks it first: as long as the
schema ``aurora_restore`` is there, the project is unfinished, and the schema knows what was
in it before. Rows of the services' tables are loaded into tables of that schema; the
services' own tables are not touched before the last transaction, which drops the schema.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import psycopg

from aurora.engines.base import Table
from aurora.engines.logical.names import Connection, literal, pin_output, quoted
from aurora.engines.logical.system import plain_name
from aurora.engines.logical.target import MARK
from aurora.engines.supabase.rules import STAGING
from aurora.errors import TargetRefused
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control

LOCK = 0x4155524F5241  # "AURORA": held by the session of a living restore
_BEFORE = f"{quoted(STAGING)}.before"

# What is in no schema. Names are enough: all of these are unique among their kind.
_LOOSE = """
SELECT 'SCHEMA', quote_ident(nspname) FROM pg_catalog.pg_namespace
 WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', %(staging)s)
UNION ALL SELECT 'EXTENSION', quote_ident(extname) FROM pg_catalog.pg_extension
UNION ALL SELECT 'PUBLICATION', quote_ident(pubname) FROM pg_catalog.pg_publication
UNION ALL SELECT 'EVENT TRIGGER', quote_ident(evtname) FROM pg_catalog.pg_event_trigger
UNION ALL SELECT 'SERVER', quote_ident(srvname) FROM pg_catalog.pg_foreign_server s
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = s.oid AND d.deptype = 'e')
UNION ALL SELECT 'FOREIGN DATA WRAPPER', quote_ident(fdwname)
  FROM pg_catalog.pg_foreign_data_wrapper w
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = w.oid AND d.deptype = 'e')
UNION ALL SELECT 'CAST', format('(%%s AS %%s)', format_type(castsource, NULL),
                                format_type(casttarget, NULL))
  FROM pg_catalog.pg_cast c WHERE c.oid >= 16384
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
UNION ALL SELECT 'LARGE OBJECT', oid::text FROM pg_catalog.pg_largeobject_metadata
"""
# What is in a schema that stays.
_INSIDE = """
SELECT d.classid::bigint, d.objid::bigint, i.type, i.identity
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_namespace n ON n.oid = d.refobjid
CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.deptype = 'n'
  AND n.nspname IN ('public', 'extensions')
  AND i.type IN ('table', 'view', 'materialized view', 'sequence', 'foreign table',
      'composite type', 'type', 'function', 'procedure', 'aggregate', 'operator',
      'operator class', 'operator family', 'collation', 'conversion', 'statistics object',
      'text search configuration', 'text search dictionary', 'text search parser',
      'text search template')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = d.classid
                  AND e.objid = d.objid AND e.deptype IN ('e', 'i'))
ORDER BY i.type IN ('function', 'type', 'composite type'), 3, 4
"""
_MARKED = """
SELECT pg_catalog.obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace
WHERE nspname = %s
"""
LOOSE_KINDS = ("SCHEMA", "EXTENSION", "PUBLICATION", "EVENT TRIGGER", "SERVER",
               "FOREIGN DATA WRAPPER")  # fmt: skip
_DROP_TYPE = {"composite type": "TYPE", "statistics object": "STATISTICS"}
_DEFAULTS = """
SELECT COALESCE(n.nspname, ''), a.defaclobjtype::text,
       CASE WHEN x.grantee = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(x.grantee) END,
       x.privilege_type, x.is_grantable
FROM pg_catalog.pg_default_acl a
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = a.defaclnamespace
CROSS JOIN LATERAL pg_catalog.aclexplode(a.defaclacl) x
WHERE a.defaclrole = current_user::regrole
  -- what the owner has by itself, and everybody by the built-in default
  AND NOT (a.defaclnamespace = 0 AND x.grantee = a.defaclrole)
"""
_WITHOUT_SCHEMA = """
SELECT defaclobjtype::text FROM pg_catalog.pg_default_acl a
WHERE defaclrole = current_user::regrole AND defaclnamespace = 0 AND defaclobjtype IN ('f', 'T')
"""
_TAKEN_FROM_ALL = f"""{_WITHOUT_SCHEMA} AND NOT EXISTS (
    SELECT FROM pg_catalog.aclexplode(a.defaclacl) x WHERE x.grantee = 0)
"""
_PUBLIC = {"f": "EXECUTE ON FUNCTIONS", "T": "USAGE ON TYPES"}
_KINDS = {"r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "T": "TYPES", "n": "SCHEMAS"}


class Before(msgspec.Struct, frozen=True):
    """What a project had when a restore into it began."""

    restore_id: str
    backup_id: str
    loose: tuple[tuple[str, str], ...]  # kind, identity
    inside: tuple[tuple[int, int], ...]  # class, oid
    defaults: tuple[str, ...]  # statements that give the role its default privileges again

    def named(self, kind: str) -> frozenset[str]:
        """The names of what it had of one of LOOSE_KINDS."""
        return frozenset(plain_name(name) for found, name in self.loose if found == kind)


def staging_name(schema: str, name: str) -> str:
    """What the table that waits for a service's table is called."""
    return f"{schema}.{name}"


def staged(tables: Sequence[Table], waiting: set[int]) -> tuple[Table, ...]:
    """The *tables* with those in *waiting* as they stand in the staging schema."""
    return tuple(
        msgspec.structs.replace(
            table, schema=STAGING, name=staging_name(table.schema, table.name), parents=(),
            is_partition=False, extension="", condition="",
        )
        if table.oid in waiting
        else table
        for table in tables
    )  # fmt: skip


@contextmanager
def at_work(
    info: ConnInfo, restore_id: str, backup_id: str, tables: Sequence[Table]
) -> Iterator[ConnInfo]:
    """Mark the project as unfinished, and make the tables that wait; sweep an earlier try first.

    Left by an exception the project is as it was; killed inside, the next restore sees the
    mark and sweeps.

    Raises:
        TargetRefused: another restore into the project is at work.
        TargetError.
    """
    with contextlib.closing(open_control(info, what="target")) as conn:
        with translated("target", doing="marking the project as unfinished"):
            pin_output(conn)
            _lock(conn)
            if read_before(conn) is not None:
                _end_leftovers(conn)
                sweep(conn)
            _mark(conn, restore_id, backup_id, tables)
        yield info


def _lock(conn: Connection) -> None:
    row = conn.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", (LOCK,)).fetchone()
    if not (row and row[0]):
        raise TargetRefused(
            "another restore into this project is at work",
            hint="Nothing was changed. Wait for it to end, or end its sessions.",
        )


def _end_leftovers(conn: Connection) -> None:
    """End what a killed restore left running: its pg_restore, statements of a dead client.

    They are the role's own, in this database, older than the session that holds the lock.
    """
    conn.execute(
        "SELECT pg_catalog.pg_terminate_backend(a.pid, 30000)"
        " FROM pg_catalog.pg_stat_activity a, pg_catalog.pg_stat_activity me"
        " WHERE me.pid = pg_catalog.pg_backend_pid() AND a.pid <> me.pid"
        " AND a.datid = me.datid AND a.usesysid = me.usesysid"
        " AND a.backend_start < me.backend_start"
        " AND a.application_name IN ('aurora', 'pg_restore')"
    )


def _mark(conn: Connection, restore_id: str, backup_id: str, tables: Sequence[Table]) -> None:
    with conn.transaction():
        defaults = _defaults(conn)
        before = Before(restore_id, backup_id, _loose(conn), _inside_keys(conn), tuple(defaults))
        conn.execute(f"CREATE SCHEMA {quoted(STAGING)}".encode())
        conn.execute(
            f"COMMENT ON SCHEMA {quoted(STAGING)} IS {literal(MARK + restore_id)}".encode()
        )
        conn.execute(f"CREATE TABLE {_BEFORE} AS SELECT %s AS document",
                     (msgspec.json.encode(before).decode(),))  # fmt: skip
        # The backup's own grants are complete: the defaults of a fresh project would add some.
        _reset_defaults(conn)
        for table in tables:
            columns = ", ".join(
                f"{quoted(column.name)} {column.type}"
                for column in table.columns
                if not column.generated
            )
            conn.execute(f"CREATE TABLE {quoted(STAGING, table.name)} ({columns})".encode())


def sweep(conn: Connection) -> str:
    """Bring a project back to what it was before an unfinished restore; that one's id, or "".

    Raises psycopg errors.
    """
    before = read_before(conn)
    if before is None:
        return ""
    for kind, identity in _loose_since(conn, before):
        if kind != "LARGE OBJECT":
            cascade = "" if kind == "EVENT TRIGGER" else " CASCADE"
            _drop(conn, f"DROP {kind} IF EXISTS {identity}{cascade}")
    for _ in range(2):  # what hung on another is free in the second round
        for kind, identity in _inside_since(conn, before):
            word = _DROP_TYPE.get(kind, kind.upper())
            _drop(conn, f"DROP {word} IF EXISTS {identity} CASCADE")
    for kind, identity in _loose_since(conn, before):
        if kind == "LARGE OBJECT":
            conn.execute("SELECT pg_catalog.lo_unlink(%s::oid)", (identity,))
    left = [" ".join(one) for one in _loose_since(conn, before) + _inside_since(conn, before)]
    if left:
        raise TargetRefused(
            f"the unfinished restore {before.restore_id} cannot be taken back: {left[0]}"
            + (f" and {len(left) - 1} more are" if len(left) > 1 else " is")
            + " still there",
            hint=f"Drop what it left in the project, then the schema {STAGING}; or restore into "
            "another new project.",
        )
    with conn.transaction():
        _reset_defaults(conn)
        for statement in before.defaults:
            conn.execute(statement.encode())
        conn.execute(f"DROP SCHEMA {quoted(STAGING)} CASCADE".encode())
    return before.restore_id


def require_own_mark(conn: Connection, restore_id: str) -> None:
    """Hold the mark until the transaction ends, so that no other restore can sweep.

    Raises TargetRefused: it is not this restore's any more.
    """
    with contextlib.suppress(psycopg.errors.UndefinedTable), conn.transaction():
        conn.execute(f"LOCK TABLE {_BEFORE}".encode())
    row = conn.execute(_MARKED.encode(), (STAGING,)).fetchone()
    if row is None or row[0] != MARK + restore_id:
        raise TargetRefused(
            "another restore into this project has begun meanwhile",
            hint="Nothing of the services' tables was changed by this one. Wait for the other.",
        )


def unfinished_restore(conn: Connection) -> str:
    """The id of a restore that was begun in this project and not finished, or ""."""
    row = conn.execute(_MARKED.encode(), (STAGING,)).fetchone()
    return str(row[0] or "?").removeprefix(MARK) if row is not None else ""


def read_before(conn: Connection) -> Before | None:
    """What the mark remembers; None where there is no mark."""
    row = conn.execute("SELECT pg_catalog.to_regclass(%s)", (_BEFORE,)).fetchone()
    if row is None or row[0] is None:
        return None
    found = conn.execute(f"SELECT document FROM {_BEFORE}".encode()).fetchone()
    assert found is not None  # written with the table
    return msgspec.json.decode(str(found[0]), type=Before)


def _drop(conn: Connection, statement: str) -> None:
    """Drop one thing; what refuses is counted afterwards."""
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege, psycopg.ProgrammingError):
        with conn.transaction():
            conn.execute(statement.encode())


def _loose_since(conn: Connection, before: Before) -> list[tuple[str, str]]:
    return [one for one in _loose(conn) if one not in set(before.loose)]


def _inside_since(conn: Connection, before: Before) -> list[tuple[str, str]]:
    held = set(before.inside)
    return [(kind, identity) for key, kind, identity in _inside(conn) if key not in held]


def _loose(conn: Connection) -> tuple[tuple[str, str], ...]:
    rows = conn.execute(_LOOSE.encode(), {"staging": STAGING}).fetchall()
    return tuple((str(kind), str(identity)) for kind, identity in rows)


def _inside(conn: Connection) -> list[tuple[tuple[int, int], str, str]]:
    rows = conn.execute(_INSIDE.encode()).fetchall()
    return [((int(str(c)), int(str(o))), str(kind), str(identity)) for c, o, kind, identity in rows]


def _inside_keys(conn: Connection) -> tuple[tuple[int, int], ...]:
    return tuple(key for key, _, _ in _inside(conn))


def _defaults(conn: Connection) -> list[str]:
    """The statements that made the role's default privileges what they are."""
    found = []
    for schema, kind, grantee, privilege, grantable in conn.execute(_DEFAULTS.encode()):
        option = " WITH GRANT OPTION" if grantable else ""
        found.append(
            f"ALTER DEFAULT PRIVILEGES{_in(schema)} GRANT {privilege} ON {_KINDS[str(kind)]}"
            f" TO {_role(grantee)}{option}"
        )
    # Everybody's by default, unless it was taken away.
    for (kind,) in conn.execute(_TAKEN_FROM_ALL.encode()):
        found.append(f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON {_KINDS[str(kind)]} FROM PUBLIC")
    return found


def _reset_defaults(conn: Connection) -> None:
    """Leave the role with the default privileges that PostgreSQL itself gives."""
    for schema, kind, grantee, _, _ in conn.execute(_DEFAULTS.encode()).fetchall():
        conn.execute(
            f"ALTER DEFAULT PRIVILEGES{_in(schema)} REVOKE ALL ON {_KINDS[str(kind)]}"
            f" FROM {_role(grantee)}".encode()
        )
    for (kind,) in conn.execute(_WITHOUT_SCHEMA.encode()).fetchall():
        conn.execute(f"ALTER DEFAULT PRIVILEGES GRANT {_PUBLIC[str(kind)]} TO PUBLIC".encode())


def _in(schema: object) -> str:
    return f" IN SCHEMA {quoted(str(schema))}" if schema else ""


def _role(name: object) -> str:
    return quoted(str(name)) if name else "PUBLIC"
