"""The database a restore builds, and how it takes its place.

A whole restore never fills the database that people use. It builds one beside it, under
a name of its own, checks it there, and then gives it the real name in one transaction,
the old one stepping aside: readers see the old or the new, never half. A database that
was left unfinished by a killed restore carries the mark and is swept by the next one.
"""

import contextlib
import re
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

# Whatever CREATE DATABASE did not bring: nothing that is its user's has a smaller oid.
_BLANK = """
SELECT NOT EXISTS (SELECT FROM (
    SELECT oid FROM pg_catalog.pg_class UNION ALL SELECT oid FROM pg_catalog.pg_proc
    UNION ALL SELECT oid FROM pg_catalog.pg_type UNION ALL SELECT oid FROM pg_catalog.pg_extension
    UNION ALL SELECT oid FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
    UNION ALL SELECT oid FROM pg_catalog.pg_publication
    UNION ALL SELECT oid FROM pg_catalog.pg_event_trigger
    UNION ALL SELECT oid FROM pg_catalog.pg_foreign_data_wrapper
    UNION ALL SELECT oid FROM pg_catalog.pg_default_acl
    UNION ALL SELECT oid FROM pg_catalog.pg_cast UNION ALL SELECT oid FROM pg_catalog.pg_operator
    UNION ALL SELECT oid FROM pg_catalog.pg_collation
) AS o WHERE o.oid::bigint >= 16384) AND NOT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)
"""
# What names the database by its oid, and so stays with it whatever it is called.
_BOUND = """
SELECT 'replication slot ' || slot_name FROM pg_catalog.pg_replication_slots
WHERE database = pg_catalog.current_database() AND NOT temporary
UNION ALL SELECT 'subscription ' || subname FROM pg_catalog.pg_subscription s
JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = pg_catalog.current_database()
ORDER BY 1
"""
_PREPARED = "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = ANY (%s) ORDER BY 1"


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
    may_rename: bool = True  # it is the role's own, or its owner's whose member the role is
    prepared: tuple[str, ...] = ()  # prepared transactions, which nobody can end but their owner
    bound: tuple[str, ...] = ()  # slots and subscriptions, which stay with the old database

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
            owned = conn.execute(
                "SELECT pg_catalog.pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database"
                " WHERE datname = pg_catalog.current_database()"
            ).fetchone()
            properties = read_database(conn)
            return TargetState(
                info.with_dbname(facts.database),  # a service file may be what names it
                facts.database,
                exists=True,
                objects=int(str(row[0])) if row else 0,
                size=facts.database_size or 0,
                server=facts,
                properties=properties,
                may_create=_may_create(facts),
                may_rename=bool(owned and owned[0]),
                prepared=_prepared(conn, facts.database),
                bound=tuple(str(row[0]) for row in conn.execute(_BOUND)),
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


def _prepared(conn: Connection, *names: str) -> tuple[str, ...]:
    return tuple(str(row[0]) for row in conn.execute(_PREPARED, (list(names),)))


def is_blank(info: ConnInfo) -> bool:
    """Whether nobody ever made anything in the database. Raises TargetError."""
    with open_control(info, what="target") as conn, translated("target", doing="looking into it"):
        row = conn.execute(_BLANK).fetchone()
    return bool(row and row[0])


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


def is_replaced(name: str, database: str) -> bool:
    """Whether *name* is what a restore called the *database* that it replaced."""
    found = re.search(r"_(before_\d{8}t\d{6}z_[a-z0-9]{4})\Z", name)
    return found is not None and name == aside_name(database, found[1])


@contextmanager
def create_aside(
    state: TargetState, name: str, facts: DatabaseFacts, restore_id: str
) -> Iterator[ConnInfo]:
    """Make the empty database that the restore fills, marked unfinished.

    It has a session of ours in it for as long as the context lasts, which shows other
    restores that this one is alive.

    Raises:
        TargetUnfit: the role may not, or the locale is not there.
    """
    info = state.info.with_dbname(name)
    with maintenance(state.info) as conn:
        sweep(conn, state.name)
        try:
            conn.execute(
                create_database_sql(name, facts, target_version=state.server.version_num).encode()
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
        try:
            # First the session, then the mark: what is marked and has none is dead.
            living = open_control(info, what="target")
            with translated("target", doing=f"creating database {name}"):
                conn.execute(
                    f"COMMENT ON DATABASE {quoted(name)} IS {literal(MARK + restore_id)}".encode()
                )
        except BaseException:
            drop(conn, name)
            raise
    with contextlib.closing(living):
        yield info


def sweep(conn: Connection, name: str) -> list[str]:
    """Drop what killed restores of database *name* left behind; in use means alive."""
    start = aside_name(name, "aurora_0000")[:-4]  # cut as theirs was
    rows = conn.execute(
        "SELECT d.datname FROM pg_catalog.pg_database d"
        " WHERE pg_catalog.starts_with(pg_catalog.shobj_description(d.oid, 'pg_database'), %s)"
        " AND pg_catalog.starts_with(d.datname, %s)"
        " AND pg_catalog.length(d.datname) = pg_catalog.length(%s) + 4"
        " AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid)",
        (MARK, start, start),
    ).fetchall()
    swept: list[str] = []
    for (leftover,) in rows:
        # Without force, and whoever made it: this is a favour, not what the restore stands on.
        with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.InsufficientPrivilege):
            conn.execute(f"DROP DATABASE IF EXISTS {quoted(str(leftover))}".encode())
            swept.append(str(leftover))
    return swept


def drop(conn: Connection, name: str) -> None:
    """Drop a database of ours, whoever is connected to it."""
    with translated("target", doing=f"dropping the unfinished database {name}"):
        conn.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)".encode())


def drop_unfinished(conn: Connection, name: str, restore_id: str) -> None:
    """Drop the database that this very restore made and has not finished."""
    with translated("target", doing=f"looking at the unfinished database {name}"):
        found = conn.execute(
            "SELECT FROM pg_catalog.pg_database WHERE datname = %s"
            " AND pg_catalog.shobj_description(oid, 'pg_database') = %s",
            (name, MARK + restore_id),
        ).fetchone()
    if found is not None:
        drop(conn, name)


def finish(conn: Connection, built: str, properties: DatabaseFacts) -> list[str]:
    """Give the built database its properties; refusals are returned. The mark stays."""
    return list(apply_each(conn, database_statements(built, properties)).refused)


def take_place(
    info: ConnInfo, built: str, name: str, old: str | None, *, comment: str = "", tries: int = 10
) -> None:
    """Rename *built* to *name*, and what had that name to *old*, in one transaction.

    The mark of an unfinished restore gives way to *comment* in the same moment.

    ``RENAME`` first locks the database, so that new sessions wait, then waits up to 5 s
    for those inside to leave; meanwhile they are ended from a second connection. Nothing
    is changed before the commit: killed here, the old database serves on.

    Raises:
        TargetRefused: others kept it busy, or the role may not; the old one still serves.
    """
    renames = [f"ALTER DATABASE {quoted(built)} RENAME TO {quoted(name)}"]
    if old:
        renames.insert(0, f"ALTER DATABASE {quoted(name)} RENAME TO {quoted(old)}")
    said = f"COMMENT ON DATABASE {quoted(name)} IS {literal(comment) if comment else 'NULL'}"
    try:
        with maintenance(info) as conn, _ending_sessions(info, [name, built] if old else [built]):
            for attempt in range(tries):
                try:
                    with conn.transaction():
                        for statement in (*renames, said):
                            conn.execute(statement.encode())
                    return
                except psycopg.errors.ObjectInUse:
                    if attempt == tries - 1 or _prepared(conn, name, built):
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
                rows = conn.execute(
                    "SELECT pid FROM pg_catalog.pg_stat_activity WHERE datname = ANY (%s)", (names,)
                ).fetchall()
                for row in rows:  # one that may not be ended must not save the others
                    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                        conn.execute("SELECT pg_catalog.pg_terminate_backend(%s)", row)
                stop.wait(0.05)

    thread = threading.Thread(target=keep_ending, name="end-sessions", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
