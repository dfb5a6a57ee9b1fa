"""Whatever schema and rows are made up: they come back the same."""

import itertools
import os

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aurora.engines.logical.names import literal, quoted
from aurora.postgres.embedded import EmbeddedServer
from aurora.storage.memory import MemoryStorage
from tests.fixtures.looks import compare, copy_natively, look, run_sql
from tests.fixtures.postgres import NewDatabase, Servers, drop_database
from tests.fixtures.projects import NewTarget, Project
from tests.fixtures.schemas import HOLDS_NO_ARRAY, Kind, array_of, kinds, schemas

pytest_plugins = ["tests.fixtures.backups"]

_numbers = itertools.count(1)
# No shrinking: a round trip takes seconds, and the statements say enough.
_QUIET = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _round_trip(server: EmbeddedServer, statements: list[str], other: EmbeddedServer) -> None:
    number = next(_numbers)
    source, target = f"made_{os.getpid()}_{number}", f"back_{os.getpid()}_{number}"
    run_sql(server.dsn(), f"CREATE DATABASE {source} TEMPLATE template0")
    project = Project.create(MemoryStorage("primary"), MemoryStorage("secondary"))
    try:
        with psycopg.connect(server.dsn(source)) as conn:
            for statement in statements:
                conn.execute(statement.encode())
        project.backup(server.dsn(source), chunk_bytes=64 << 10)
        report = project.restore(other.dsn(target))
        assert (report.outcome, report.refusals, report.problems) == ("restored", [], [])
        assert look(server.dsn(source)).rows == look(other.dsn(target)).rows
        if server is other:
            expected = server.dsn(source)
        else:  # a newer server words some things in its own way
            run_sql(other.dsn(), f"CREATE DATABASE {source} TEMPLATE template0")
            expected = other.dsn(source)
            copy_natively(server.dsn(source), expected)
        compare(expected, other.dsn(target))
    finally:
        for there in {server, other}:
            drop_database(there, source)
        drop_database(other, target)


@given(data=st.data())
@settings(_QUIET, max_examples=25)
@pytest.mark.timeout(600)
def test_made_up_schemas(pg_servers: Servers, pg_major: int, data: st.DataObject) -> None:
    """All built-in types, arrays, enums, domains, composites, odd names."""
    server = pg_servers[pg_major]
    _round_trip(server, data.draw(schemas(server.major)), server)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.pg_majors(15, 16, 17, 18)
@given(data=st.data())
@settings(_QUIET, max_examples=150)
def test_many_made_up_schemas(pg_servers: Servers, pg_major: int, data: st.DataObject) -> None:
    """The same at length, each major into itself and into the newest."""
    server = pg_servers[pg_major]
    other = pg_servers[data.draw(st.sampled_from([pg_major, 18]))]
    _round_trip(server, data.draw(schemas(server.major)), other)


@pytest.mark.pg_majors(15, 16, 17, 18)
def test_every_type_and_every_edge(
    pg: EmbeddedServer, new_database: NewDatabase, new_target: NewTarget, project: Project
) -> None:
    """A table of each built-in type with all its special values, and arrays of them."""
    source, target = new_database(), new_target()
    with psycopg.connect(source) as conn:
        for number, kind in enumerate(kinds(pg.major)):
            for statement in _gallery(f"t{number} {kind.sql}"[:60], kind):
                conn.execute(statement.encode())

    project.backup(source)
    report = project.restore(target)

    assert (report.refusals, report.problems) == ([], [])
    compare(source, target)


def _gallery(name: str, kind: Kind) -> list[str]:
    table = quoted(name)
    one = _example(kind)
    values = [*kind.special, one]
    statements = [f"CREATE TABLE {table} (id serial, v {kind.sql}, PRIMARY KEY (id))"]
    statements += [f"INSERT INTO {table} (v) VALUES ({literal(v)})" for v in values]
    statements.append(f"INSERT INTO {table} (v) VALUES (NULL)")
    if kind.sql not in HOLDS_NO_ARRAY:
        array = array_of(kind)
        listed = ", ".join(f"{literal(v)}::{kind.sql}" for v in [*values[:6], one])
        statements += [
            f"ALTER TABLE {table} ADD COLUMN a {array.sql}",
            f"UPDATE {table} SET a = ARRAY[{listed}, NULL]::{array.sql} WHERE id = 1",
            f"INSERT INTO {table} (a) SELECT ARRAY[ARRAY[v, NULL], ARRAY[v, v]] FROM {table}",
            *(f"INSERT INTO {table} (a) VALUES ({literal(v)})" for v in array.special),
        ]
    return statements


def _example(kind: Kind) -> str:
    """One plain value, the same each time."""
    found: list[str] = []

    @settings(max_examples=1, derandomize=True, database=None, phases=[Phase.generate])
    @given(kind.values)
    def take(value: str) -> None:
        found.append(value)

    take()
    return found[0]
