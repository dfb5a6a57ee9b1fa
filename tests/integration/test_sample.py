"""The sample application: it loads everywhere, always the same, and its writers keep faith."""

import subprocess
import time
from collections.abc import Callable

import psycopg
import pytest

from aurora.demo import sample
from aurora.demo.fingerprint import Fingerprint, differences, fingerprints
from aurora.demo.parts import read_parts
from aurora.demo.writers import WRITTEN_TABLES, Writers, read_ledger
from aurora.errors import UsageError
from aurora.postgres.embedded import EmbeddedServer
from tests.fixtures.postgres import NewDatabase, NewServer

pytest_plugins = ["tests.fixtures.sample"]

_KINDS = """
select relkind::text, count(*) from pg_class c join pg_namespace n on n.oid = relnamespace
where n.nspname in ('auth', 'storage', 'public', 'Odd Schema') group by 1
"""


@pytest.mark.pg_majors(14, 15, 16, 17, 18)
def test_loads_on_every_major(pg: EmbeddedServer, new_database: NewDatabase) -> None:
    """A superuser gets every part that the version and its extensions allow."""
    dsn = new_database()
    loaded = sample.load(dsn, megabytes=2)

    assert 1.8e6 < loaded.table_bytes < 3e6
    assert not [part for part in loaded.skipped if "superuser" in part]
    with psycopg.connect(dsn) as connection:
        kinds: dict[str, int] = dict(connection.execute(_KINDS).fetchall())
        large = connection.execute("select count(*) from pg_largeobject_metadata").fetchone()
    assert kinds["r"] > 50
    assert kinds["p"] == 3
    assert kinds["m"] == 4
    assert kinds["v"] >= 6
    assert kinds["f"] == 1
    assert large == (4,)


@pytest.mark.pg_majors(15, 18)
def test_loads_as_an_ordinary_owner(pg: EmbeddedServer, new_database: NewDatabase) -> None:
    """CREATEROLE and CREATEDB are enough for all but what PostgreSQL keeps for superusers."""
    dsn = new_database()
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop role if exists shopkeeper")
        connection.execute("create role shopkeeper login password 'p' createrole createdb")
        connection.execute(f'alter database "{name}" owner to shopkeeper'.encode())

    loaded = sample.load(pg.dsn(str(name), user="shopkeeper", password="p"), megabytes=2)

    refused = {need.split("(")[1] for need in loaded.skipped}
    assert refused <= {
        "superuser)",
        "server 15)",
        "server 18)",
        "available postgres_fdw)",
        "extension postgres_fdw)",
        "available uuid-ossp)",
        "extension uuid-ossp)",
    }
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f'alter database "{name}" owner to postgres'.encode())
        connection.execute("reassign owned by shopkeeper to postgres")
        connection.execute("drop owned by shopkeeper")


def test_same_seed_same_rows(new_database: NewDatabase) -> None:
    """Two loads of one size and seed hold the same rows; another seed holds others."""
    found = []
    for seed in (1, 1, 2):
        dsn = new_database()
        sample.load(dsn, megabytes=3, seed=seed)
        found.append(fingerprints(dsn))
    first, again, other = found

    # Large objects are numbered by the server, and the document that has one says its number.
    numbered = frozenset({"large objects", "public.documents"})
    assert differences(first, again, ignoring=numbered) == []
    assert len(differences(first, other)) > 10


def test_refuses_a_second_load(sample_database: str) -> None:
    """What is there stays as it is."""
    before = fingerprints(sample_database)
    with pytest.raises(UsageError, match="already has a schema named"):
        sample.load(sample_database, megabytes=2)
    assert differences(before, fingerprints(sample_database)) == []


def test_clones_are_independent_and_complete(sample_database: str) -> None:
    """A clone has the settings of the database too, which TEMPLATE does not copy."""
    with psycopg.connect(sample_database) as connection:
        settings = connection.execute(
            "select setconfig from pg_db_role_setting s join pg_database d on d.oid = setdatabase"
            " where datname = current_database() order by setrole"
        ).fetchall()
    assert len(settings) == 2
    assert any("work_mem" in line for line in settings[0][0])


def test_rows_are_edge_cases(sample_database: str) -> None:
    """There is TOAST, there are NULLs, empty strings and lone backslashes, and rows twice."""
    with psycopg.connect(sample_database) as connection:

        def one(query: str) -> int:
            row = connection.execute(query.encode()).fetchone()
            assert row is not None
            return int(row[0])

        assert one(
            "select pg_relation_size(reltoastrelid) from pg_class where relname = 'messages'"
        )
        assert one(
            "select pg_relation_size(reltoastrelid) from pg_class where relname = 'documents'"
        )
        assert one("select length(c_numeric::text) from public.type_zoo where id = 4") == 146001
        assert one("""select count(*) from "Odd Schema"."Mixed Case" where "select" = '\\N'""") == 1
        assert one("""select count(*) from "Odd Schema"."no columns" """) == 3
        assert one("select count(*) - count(distinct r) from public.readings r") >= 50


@pytest.mark.pg_majors(15, 18)
def test_pg_dump_takes_it_through(
    pg: EmbeddedServer, sample_database: str, new_database: NewDatabase
) -> None:
    """PostgreSQL's own tools dump and restore it to an equal database."""
    target = new_database()
    dump, restore = pg.tools.path("pg_dump"), pg.tools.path("pg_restore")
    dumped = subprocess.run([dump, "-Fc", "-d", sample_database], capture_output=True, check=False)
    assert dumped.returncode == 0, dumped.stderr.decode()
    restored = subprocess.run(
        [restore, "--exit-on-error", "-d", target],
        input=dumped.stdout,
        capture_output=True,
        check=False,
    )
    assert restored.returncode == 0, restored.stderr.decode()

    assert differences(fingerprints(sample_database), fingerprints(target)) == []
    assert _schema(pg, sample_database) == _schema(pg, target)


def test_writers_keep_the_invariant(sample_database: str) -> None:
    """While they write, and after, the money is all there; what they leave alone stays."""
    before = fingerprints(sample_database)
    with Writers(sample_database, pause=0) as writers:
        writers.wait_for(100)
        during = [read_ledger(sample_database) for _ in range(5)]
        writers.wait_for(500)
    after = read_ledger(sample_database)

    assert all(ledger.holds for ledger in [*during, after])
    assert after.transfers > during[0].transfers > 0
    assert writers.failed == 0, writers.refusal
    changed = differences(before, fingerprints(sample_database))
    assert len(changed) >= 5
    assert differences(before, fingerprints(sample_database), ignoring=WRITTEN_TABLES) == []


def test_writers_outlive_a_restart(new_server: NewServer) -> None:
    """A restarted server and a dropped table are counted, not raised."""
    server = new_server()
    dsn = server.dsn()
    sample.load(dsn, megabytes=2)
    with Writers(dsn) as writers:
        writers.wait_for(50)
        server.restart("immediate")
        committed = writers.committed
        writers.wait_for(committed + 50)
        with psycopg.connect(dsn) as connection:
            connection.execute("drop table public.carts")
        _wait(lambda: writers.failed > 0)
    assert writers.reconnects >= 3
    assert "carts" in writers.refusal
    assert read_ledger(dsn).holds


def test_a_torn_copy_is_noticed(sample_database: str) -> None:
    """A balance without its transfer, or money from nowhere, breaks the ledger."""
    with psycopg.connect(sample_database, autocommit=True) as connection:
        connection.execute("update public.accounts set balance = balance + 1 where id = 1")
        ledger = read_ledger(sample_database)
        assert (ledger.holds, ledger.total - ledger.expected, ledger.unexplained) == (False, 1, 1)
        connection.execute("update public.accounts set balance = balance - 1 where id = 2")
        ledger = read_ledger(sample_database)
        assert (ledger.holds, ledger.total - ledger.expected, ledger.unexplained) == (False, 0, 2)


def test_differences_are_named() -> None:
    """Missing, short and altered tables each get their own words."""
    expected = {name: Fingerprint(2, 5) for name in ("a", "b", "c", "d")}
    actual = {"a": Fingerprint(2, 5), "b": Fingerprint(1, 5), "c": Fingerprint(2, 6)}
    assert differences(expected, actual) == [
        "b has 1 rows instead of 2",
        "c has the right number of rows, but other values",
        "d is missing",
    ]


def test_parts_keep_casts_and_read_needs() -> None:
    """``:users`` is a number put in, ``::users`` stays a cast."""
    parts = read_parts("21_data.sql", {"events": 7, "users": 3})
    assert parts[0].name == "events"
    assert "generate_series(1, 7)" in parts[0].sql
    assert "::public.address" in "".join(part.sql for part in parts)
    needs = {need for part in read_parts("30_keys.sql") for need in part.needs}
    assert needs == {"server 15", "server 18", "extension btree_gist", "own services"}


def _schema(server: EmbeddedServer, dsn: str) -> list[str]:
    command = [str(server.tools.path("pg_dump")), "--schema-only", "-d", dsn]
    dumped = subprocess.run(command, capture_output=True, check=True, text=True)
    return [line for line in dumped.stdout.splitlines() if "restrict" not in line]


def _wait(until: Callable[[], bool], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not until():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
