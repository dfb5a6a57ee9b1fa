"""The sample application: a small web shop with a forum, shaped like a Supabase project.

:func:`load` makes it in an empty database: schemas ``auth``, ``storage``, ``public`` and
``"Odd Schema"``, and in them about everything that PostgreSQL lets people make, so that a
backup tool has something to lose. The definitions are SQL files in ``sample/``, read part
by part (:mod:`aurora.demo.parts`); the rows are made on the server, the same for the same
seed and size.

Into a fresh Supabase project it goes too: then ``auth`` and ``storage`` are the services' own,
and get rows alone. A superuser gets all of it. An ordinary owner of the database with
``CREATEROLE`` and ``CREATEDB`` gets all but what PostgreSQL keeps for superusers;
:class:`Loaded` names that.
"""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg

from aurora.demo.parts import Part, Server, installed_extensions, read_parts
from aurora.errors import UsageError

_BEFORE = (
    "10_roles.sql",
    "11_extensions.sql",
    "12_types.sql",
    "13_auth.sql",
    "14_storage.sql",
    "15_shop.sql",
    "16_forum.sql",
    "17_odd.sql",
    "20_maker.sql",
)
_ROWS = "21_data.sql"
_AFTER = (
    "22_odd_data.sql",
    "30_keys.sql",
    "31_indexes.sql",
    "32_programs.sql",
    "33_views.sql",
    "34_security.sql",
    "35_publications.sql",
)
_DATABASE = "36_finish.sql"

# Rows for each megabyte (10**6 bytes) of tables and TOAST, measured; the floor keeps joins
# from being empty in the smallest samples.
_ROWS_PER_MEGABYTE = {
    "events": 2700,
    "messages": 150,
    "orders": 550,
    "documents": 60,
    "readings": 1200,
    "users": 40,
    "objects": 60,
    "products": 10,
    "threads": 8,
    "accounts": 5,
}
_FIXED_MEGABYTES = 2  # what tables take that do not grow with the sample
_ROWS_AT_LEAST = {"users": 130, "threads": 20, "accounts": 100, "products": 50}

_SETTINGS = (
    "set synchronous_commit = off",
    "set client_min_messages = warning",
    "set timezone = 'UTC'",
    "set statement_timeout = 0",
    "set lock_timeout = 0",
    "set maintenance_work_mem = '64MB'",
    "set work_mem = '32MB'",
    "set jit = off",
    "set plan_cache_mode = force_generic_plan",  # 18 would plan the maker's functions per call
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What :func:`load` made.

    Attributes:
        seconds: how long it took.
        table_bytes: all tables of the sample with their TOAST, without indexes.
        database_bytes: the whole database.
        skipped: parts left out, each ``file: part (need)``.
    """

    seconds: float
    table_bytes: int
    database_bytes: int
    skipped: tuple[str, ...]


def load(dsn: str, *, megabytes: float = 200, seed: int = 1) -> Loaded:
    """Make the sample in the empty database ``dsn``, with about ``megabytes`` of table data.

    Raises UsageError when the database already holds one, psycopg.Error when the server
    refuses something.
    """
    began = time.monotonic()
    values = _row_counts(megabytes) | {"seed": seed}
    with psycopg.connect(dsn, autocommit=True) as connection:
        taken = connection.execute(
            "select nspname from pg_namespace where nspname = 'Odd Schema'"
            " or (nspname = 'auth' and to_regclass('auth.users') is null)"
        ).fetchone()
        if taken is not None:
            raise UsageError(
                f"the database already has a schema named {taken[0]}",
                hint="The sample goes into an empty database. Nothing was changed.",
            )
        loader = _Loader(dsn, connection)
        for file in _BEFORE:
            loader.run(read_parts(file, values))
        loader.run_side_by_side(read_parts(_ROWS, values))
        for file in (*_AFTER, _DATABASE):
            loader.run(read_parts(file, values))
        table_bytes, database_bytes = _sizes(connection)
    return Loaded(time.monotonic() - began, table_bytes, database_bytes, tuple(loader.skipped))


def apply_database_settings(dsn: str) -> None:
    """Repeat what ``CREATE DATABASE … TEMPLATE`` does not copy: the settings of the database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        loader = _Loader(dsn, connection)
        loader.run(part for part in read_parts(_DATABASE) if "settings" in part.name)


_PLACES = ("own services", "project")


class _Loader:
    """Runs parts on one connection, or on two at once, and notes what it leaves out."""

    def __init__(self, dsn: str, connection: psycopg.Connection) -> None:
        self._dsn = dsn
        self._connection = connection
        self._server = Server.of(connection)
        self.skipped: list[str] = []
        _prepare(connection)

    def run(self, parts: Iterable[Part]) -> None:
        """One part after the other."""
        for part in parts:
            if self._fits(part):
                _run(self._connection, part)

    def run_side_by_side(self, parts: list[Part], workers: int = 2) -> None:
        """Independent parts, ``workers`` at a time, in their order."""
        here = threading.local()
        connections: list[psycopg.Connection] = []

        def run(part: Part) -> None:
            if not hasattr(here, "connection"):
                here.connection = psycopg.connect(self._dsn, autocommit=True)
                connections.append(here.connection)
                _prepare(here.connection)
            _run(here.connection, part)

        try:
            with ThreadPoolExecutor(workers, thread_name_prefix="sample") as pool:
                for _ in pool.map(run, [part for part in parts if self._fits(part)]):
                    pass
        finally:
            for connection in connections:
                connection.close()

    def _fits(self, part: Part) -> bool:
        installed = installed_extensions(self._connection)
        for need in part.needs:
            if not self._server.meets(need, installed):
                if need in _PLACES:  # it is for another kind of place, and nothing is missing
                    return False
                self.skipped.append(f"{part} ({need})")
                return False
        return True


def _prepare(connection: psycopg.Connection) -> None:
    for setting in _SETTINGS:
        connection.execute(setting)


def _run(connection: psycopg.Connection, part: Part) -> None:
    try:
        with connection.transaction():
            connection.execute(part.sql.encode())  # as it stands: no % and no parameters
    except psycopg.Error as error:
        error.add_note(f"in the sample's part {part}")
        raise


def _row_counts(megabytes: float) -> dict[str, int]:
    growing = max(0.0, megabytes - _FIXED_MEGABYTES)
    return {
        name: max(_ROWS_AT_LEAST.get(name, 10), round(rows * growing))
        for name, rows in _ROWS_PER_MEGABYTE.items()
    }


def _sizes(connection: psycopg.Connection) -> tuple[int, int]:
    row = connection.execute(
        "select sum(pg_table_size(c.oid))::bigint, pg_database_size(current_database())"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind = 'r' and n.nspname in ('auth', 'storage', 'public', 'Odd Schema')"
    ).fetchone()
    assert row is not None  # an aggregate always gives a row
    return row[0], row[1]
