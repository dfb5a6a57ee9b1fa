"""A PostgreSQL server to restore into and throw away: one of our own, or one that is given."""

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from aurora.engines.base import Snapshot
from aurora.engines.logical.names import Connection, quoted
from aurora.engines.logical.target import drop, maintenance
from aurora.errors import EnvironmentUnfit, TargetUnfit, UsageError
from aurora.events import EventSink, PhaseBegun, PhaseEnded
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.embedded import EmbeddedServer
from aurora.postgres.errors import translated
from aurora.postgres.server import ServerFacts, inspect_server, open_control
from aurora.postgres.tools import installed_servers
from aurora.units import format_size, listed

PREFIX = "aurora_recovery_test_"
_SETTINGS = {"max_wal_size": "4GB", "checkpoint_timeout": "30min"}
_ROOM = 5  # times two: what a database needs here, to what its tables take on the source
_LEAST_ROOM = 256 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Needs:
    """What a server must have to take a backup."""

    major: int
    extensions: tuple[str, ...]
    icu: bool
    bytes: int  # that its tables took on the source
    system_identifier: str  # of the source, which the server must not be

    @classmethod
    def of(cls, snapshot: Snapshot, *, without: Sequence[str] = ()) -> "Needs":
        source = snapshot.source
        names = (name for name, _, _ in source.database.extensions if name not in without)
        return cls(
            major=source.version_num // 10000,
            extensions=tuple(names),
            icu=source.database.provider == "i",
            bytes=sum(table.sized for table in snapshot.tables if table.has_rows),
            system_identifier=source.system_identifier,
        )


@dataclass(slots=True)
class TestServer:
    """A server that runs, and the databases that were made on it."""

    __test__ = False  # for pytest, which takes the name for a test's

    info: ConnInfo = field(repr=False)
    version: str
    major: int
    own: bool  # started here, gone with everything on it at the end
    scratch: Path | None = None  # where its files are, where it is our own
    databases: list[str] = field(default_factory=list)

    def new_database(self) -> str:
        """The DSN of a database that is not there yet."""
        name = f"{PREFIX}{secrets.token_hex(4)}"
        self.databases.append(name)
        return self.info.with_dbname(name).dsn()

    def drop_databases(self) -> None:
        """Drop what was restored so far. Raises TargetError."""
        with maintenance(self.info) as conn:
            for name in self.databases:  # with what a failed restore left beside it
                rows = conn.execute(
                    "SELECT datname FROM pg_catalog.pg_database"
                    " WHERE pg_catalog.starts_with(datname, %s)", [name],
                ).fetchall()  # fmt: skip
                for (found,) in rows:
                    drop(conn, str(found))
        self.databases.clear()


@contextmanager
def throwaway(needs: Needs, *, dsn: str | None, sink: EventSink) -> Iterator[TestServer]:
    """A server that has what a backup needs; everything on it is gone afterwards.

    Args:
        dsn: of a server that is given for this; by default one is started here.

    Raises:
        EnvironmentUnfit: no server has what is needed, or there is no room.
        UsageError: the given server is the source itself.
    """
    if dsn is not None:
        with _given(needs, dsn) as server:
            try:
                yield server
            finally:
                server.drop_databases()
        return
    with _started(needs, sink) as own:
        facts = _facts(own.dsn())
        info = ConnInfo.parse(own.dsn())
        yield TestServer(info, facts.version, facts.major, own=True, scratch=own.run_dir)


@contextmanager
def _given(needs: Needs, dsn: str) -> Iterator[TestServer]:
    info = ConnInfo.parse(dsn)
    facts = _facts(dsn)
    if needs.system_identifier and str(facts.system_identifier or "") == needs.system_identifier:
        raise UsageError(
            "the server for recovery tests is the source itself",
            hint="Nothing was started. A test makes roles and databases on it: give another one as "
            "server_dsn under [test_recovery], or none, and one is started here.",
        )
    with open_control(info, what="target") as conn:
        lacking = _lacking(conn, facts, needs)
        sweep(conn)
    if lacking:
        raise _unfit([f"{info.redacted()} ({facts.version}) {listed(lacking)}"])
    yield TestServer(info, facts.version, facts.major, own=False)


@contextmanager
def _started(needs: Needs, sink: EventSink) -> Iterator[EmbeddedServer]:
    tried: list[str] = []
    for tools in installed_servers(needs.major):
        sink(PhaseBegun("starting a server"))
        try:
            server = EmbeddedServer(bin_dir=tools.bin_dir, settings=_SETTINGS)
        except TargetUnfit as error:
            tried.append(f"{tools.version} in {tools.bin_dir} {error.message}")
            continue
        with server:
            _require_room(server, needs)
            with open_control(server.dsn(), what="target") as conn:
                lacking = _lacking(conn, inspect_server(conn), needs)
            if lacking:
                tried.append(f"{tools.version} in {tools.bin_dir} {listed(lacking)}")
                continue
            sink(PhaseEnded("starting a server", f"PostgreSQL {tools.version}"))
            yield server
            return
    raise _unfit(tried, major=needs.major)


def _unfit(tried: list[str], *, major: int = 0) -> EnvironmentUnfit:
    if tried:
        told = f"no PostgreSQL server here has what the backup needs: {'; '.join(tried)}"
    else:
        told = f"no PostgreSQL server of version {major} or newer is installed here"
    return EnvironmentUnfit(
        told,
        hint="Nothing is said about the backup. Install what is missing, name the directory of "
        "another installation's programs in AURORA_PG_BIN, or give a server as server_dsn under "
        "[test_recovery]. What the test can do without goes into without_extensions there, and "
        "counts as skipped. `pip install 'aurora-backup[demo]'` brings a server of the newest "
        "version.",
    )


def _facts(dsn: str) -> ServerFacts:
    with open_control(dsn, what="target") as conn, translated("target", doing="looking at it"):
        return inspect_server(conn)


def _lacking(conn: Connection, facts: ServerFacts, needs: Needs) -> list[str]:
    """What the server lacks, in words that go on from its name."""
    with translated("target", doing="looking at what the server has"):
        available = {
            str(row[0])
            for row in conn.execute("SELECT name FROM pg_catalog.pg_available_extensions")
        }
        icu = conn.execute("SELECT 1 FROM pg_catalog.pg_collation WHERE collprovider = 'i' LIMIT 1")
        has_icu = icu.fetchone() is not None
    lacking = []
    if facts.major < needs.major:
        lacking.append(f"is older than PostgreSQL {needs.major}")
    missing = [name for name in needs.extensions if name not in available]
    if missing:
        lacking.append(f"lacks the extensions {listed(missing)}")
    if needs.icu and not has_icu:
        lacking.append("was built without ICU")
    if not facts.role.superuser and not facts.role.creates_databases:
        lacking.append("lets this role make no database")
    return lacking


def _require_room(server: EmbeddedServer, needs: Needs) -> None:
    wanted = max(needs.bytes * _ROOM // 2, _LEAST_ROOM)
    free = shutil.disk_usage(server.data_dir).free
    if free < wanted:
        raise EnvironmentUnfit(
            f"the test needs about {format_size(wanted)} of disk below {server.run_dir.parent}, "
            f"there are {format_size(free)}",
            hint="Nothing is said about the backup. Make room there, point TMPDIR at a larger "
            "disk, or give a server as server_dsn under [test_recovery].",
        )


def sweep(conn: Connection) -> list[str]:
    """Drop what killed tests left on a given server; in use means alive. Never raises."""
    swept = []
    try:
        rows = conn.execute(
            "SELECT d.datname FROM pg_catalog.pg_database d"
            " WHERE pg_catalog.starts_with(d.datname, %s) AND NOT EXISTS"
            " (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid)", [PREFIX],
        ).fetchall()  # fmt: skip
        for (name,) in rows:
            conn.execute(f"DROP DATABASE IF EXISTS {quoted(str(name))}".encode())
            swept.append(str(name))
    except psycopg.Error:
        return swept
    return swept
