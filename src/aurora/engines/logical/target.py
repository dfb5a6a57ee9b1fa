"""The database a restore builds, and how it takes its place.

A whole restore never fills the database that people use. It builds one beside it, under
a name of its own, checks it there, and then gives it the real name in one transaction,
the old one stepping aside: readers see the old or the new, never half. A database that
was left unfinished by a killed restore carries the mark and is swept by the next one.
"""

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import psycopg

from aurora.engines.base import DatabaseFacts
from aurora.engines.logical.catalog import read_database
from aurora.engines.logical.names import Connection, literal, quoted
from aurora.engines.logical.system import apply_each, create_database_sql, database_statements
from aurora.errors import TargetError, TargetRefused, TargetUnfit
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import ServerFacts, inspect_server, open_control

MARK = "unfinished restore by aurora: "
_NAME_BYTES = 63  # NAMEDATALEN - 1

_CONTENT = """
SELECT (SELECT count(*) FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
          AND n.nspname !~ '^pg_(toast|temp)'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid
                          AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'))
     + (SELECT count(*) FROM pg_catalog.pg_proc p
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = p.oid
                          AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'))
     + (SELECT count(*) FROM pg_catalog.pg_namespace n
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'public')
          AND n.nspname !~ '^pg_'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = n.oid
                          AND d.classid = 'pg_namespace'::regclass AND d.deptype = 'e'))
     + (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata)
"""


@dataclass(frozen=True, slots=True)
class TargetState:
    """What stands at the address that a restore is to fill."""

    info: ConnInfo = field(repr=False)
    name: str
    exists: bool
    objects: int  # relations, functions, schemas and large objects of the user
    size: int  # bytes
    server: ServerFacts
    properties: DatabaseFacts | None
    may_create: bool

    @property
    def empty(self) -> bool:
        return self.objects == 0


def look_at(dsn: str) -> TargetState:
    """Whether the database is there, what it holds, what the role may do.

    Raises TargetUnreachable, TargetUnfit.
    """
    info = ConnInfo.parse(dsn).settled()
    try:
        with open_control(info, what="target") as conn, translated("target", doing="looking at it"):
            facts = inspect_server(conn)
            row = conn.execute(_CONTENT).fetchone()
            properties = read_database(conn)
            return TargetState(
                info,
                facts.database,
                exists=True,
                objects=int(str(row[0])) if row else 0,
                size=facts.database_size or 0,
                server=facts,
                properties=properties,
                may_create=_may_create(facts),
            )
    except TargetError as error:
        if error.context.get("sqlstate") != "3D000" and "does not exist" not in error.message:
            raise
    with maintenance(info) as conn, translated("target", doing="looking at the server"):
        facts = inspect_server(conn)
        return TargetState(
            info,
            info.dbname,
            exists=False,
            objects=0,
            size=0,
            server=facts,
            properties=None,
            may_create=_may_create(facts),
        )


def _may_create(facts: ServerFacts) -> bool:
    return facts.role.superuser or facts.role.creates_databases


@contextmanager
def maintenance(info: ConnInfo) -> Iterator[Connection]:
    """A connection to a database of the server that no restore replaces."""
    last: TargetError | None = None
    for name in ("postgres", "template1"):
        if name == info.dbname:
            continue
        try:
            conn = open_control(info.with_dbname(name), what="target")
        except TargetError as error:
            last = error
            continue
        with conn:
            yield conn
        return
    raise last or TargetUnfit("no maintenance database on the target server")


def near(state: TargetState) -> AbstractContextManager[Connection]:
    """A connection to the target's database, or to its server while there is none."""
    return open_control(state.info, what="target") if state.exists else maintenance(state.info)


def aside_name(name: str, suffix: str) -> str:
    """``name_suffix``, within PostgreSQL's 63 bytes."""
    room = _NAME_BYTES - len(suffix) - 1
    return f"{name.encode()[:room].decode(errors='ignore')}_{suffix}"


def create_aside(state: TargetState, name: str, facts: DatabaseFacts, restore_id: str) -> ConnInfo:
    """Make the empty database that the restore fills, marked unfinished.

    Raises:
        TargetUnfit: the role may not, or the locale is not there.
    """
    with maintenance(state.info) as conn:
        sweep(conn, state.name)
        try:
            conn.execute(
                create_database_sql(name, facts, target_version=state.server.version_num).encode()
            )
            conn.execute(
                f"COMMENT ON DATABASE {quoted(name)} IS {literal(MARK + restore_id)}".encode()
            )
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.WrongObjectType) as error:
            raise TargetUnfit(
                "the target cannot make a database like the source's: "
                f"{error.diag.message_primary}",
                hint="The target server lacks the source's locale or encoding. Install the locale "
                "there, or create the database yourself with another one and restore into it.",
            ) from error
        except psycopg.Error:
            with translated("target", doing=f"creating database {name}"):
                raise
    # The role's rights, not the database's public defaults, decide who may look in meanwhile.
    return state.info.with_dbname(name)


def sweep(conn: Connection, name: str) -> list[str]:
    """Drop what killed restores of database *name* left behind; in use means alive."""
    rows = conn.execute(
        "SELECT d.datname FROM pg_catalog.pg_database d"
        " WHERE pg_catalog.shobj_description(d.oid, 'pg_database') LIKE %s"
        " AND starts_with(d.datname, %s)"
        " AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid)",
        (MARK.replace("_", r"\_") + "%", aside_name(name, "aurora")),
    ).fetchall()
    for (leftover,) in rows:
        drop(conn, str(leftover))
    return [str(leftover) for (leftover,) in rows]


def drop(conn: Connection, name: str) -> None:
    """Drop a database of ours, whoever is connected to it."""
    with translated("target", doing=f"dropping the unfinished database {name}"):
        conn.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)".encode())


def finish(conn: Connection, built: str, properties: DatabaseFacts) -> list[str]:
    """Give the built database its properties and take off the mark; refusals are returned."""
    conn.execute(f"COMMENT ON DATABASE {quoted(built)} IS NULL".encode())
    return list(apply_each(conn, database_statements(built, properties)).refused)


def take_place(info: ConnInfo, built: str, name: str, old: str | None, *, tries: int = 10) -> None:
    """Rename *built* to *name*, and what had that name to *old*, in one transaction.

    ``RENAME`` first locks the database, so that new sessions wait, then waits up to 5 s
    for those inside to leave; meanwhile they are ended from a second connection. Nothing
    is changed before the commit: killed here, the old database serves on.

    Raises:
        TargetRefused: others kept it busy, or the role may not; the old one still serves.
    """
    renames = [f"ALTER DATABASE {quoted(built)} RENAME TO {quoted(name)}"]
    if old:
        renames.insert(0, f"ALTER DATABASE {quoted(name)} RENAME TO {quoted(old)}")
    try:
        with maintenance(info) as conn, _ending_sessions(info, [name, built] if old else [built]):
            for attempt in range(tries):
                try:
                    with conn.transaction():
                        for statement in renames:
                            conn.execute(statement.encode())
                    return
                except psycopg.errors.ObjectInUse:
                    if attempt == tries - 1:
                        raise
    except psycopg.Error as error:
        raise TargetRefused(
            f"the restored database cannot take the place of {name}: {error.diag.message_primary}",
            hint=f"{name} serves as before. The restored and checked database is {built}: end "
            "the sessions of the old one, then rename both as their owner: " + "; ".join(renames),
        ) from error


@contextmanager
def _ending_sessions(info: ConnInfo, names: list[str]) -> Iterator[None]:
    """End sessions of *names*, again and again, until the context is left."""
    stop = threading.Event()

    def keep_ending() -> None:
        with maintenance(info) as conn:
            while not stop.is_set():
                with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                    conn.execute(
                        "SELECT pg_catalog.pg_terminate_backend(pid)"
                        " FROM pg_catalog.pg_stat_activity"
                        " WHERE datname = ANY (%s) AND pid <> pg_catalog.pg_backend_pid()",
                        (names,),
                    )
                stop.wait(0.05)

    thread = threading.Thread(target=keep_ending, name="end-sessions", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
