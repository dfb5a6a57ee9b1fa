"""Sizes at the edge: 1,600 columns, 10,000 tables, rows of hundreds of megabytes."""

import resource
import time

import psycopg
import pytest

from aurora.errors import SourceUnsupported
from aurora.postgres.embedded import EmbeddedServer
from tests.fixtures.looks import compare, look, run_script, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import NewTarget, Project

pytest_plugins = ["tests.fixtures.backups"]

MEGABYTE = 1 << 20


def test_1600_columns(project: Project, new_database: NewDatabase, new_target: NewTarget) -> None:
    """The most that a table can have, with and without generated ones."""
    source, target = new_database(), new_target()
    columns = ", ".join(f"c{number} int" for number in range(1600))
    odd = ", ".join(
        f'"Column {number} of many with a long name" '
        + ("text" if number % 2 else f"int GENERATED ALWAYS AS ({number}) STORED")
        for number in range(1000)
    )
    run_script(source, f"""
        CREATE TABLE widest ({columns}); CREATE TABLE odd ({odd});
        INSERT INTO widest (c0, c1, c1599) VALUES (1, 2, 3), (NULL, NULL, NULL), (4, NULL, 5);
        INSERT INTO odd DEFAULT VALUES;
    """)  # fmt: skip

    project.backup(source)
    report = project.restore(target)

    assert report.outcome == "restored"
    compare(source, target)


MANY = """
DO $$ BEGIN FOR i IN {0}..{1} LOOP
    EXECUTE format('CREATE TABLE s%s.t%s (id int, v text)', i %% 10, i);
    EXECUTE format('INSERT INTO s%s.t%s VALUES (1, %L), (2, NULL)', i %% 10, i, 'v' || i);
END LOOP; END $$
""".replace("%%", "%")


@pytest.mark.timeout(300)
def test_10000_tables(
    pg: EmbeddedServer, project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """In shared chunks, within the server's locks, in bounded memory; one of them in a moment."""
    source, target = new_database(), new_target()
    run_sql(source, *(f"CREATE SCHEMA s{number}" for number in range(10)))
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("SET synchronous_commit = off")
        for start in range(0, 10000, 500):
            conn.execute(MANY.format(start, start + 499).encode())

    begun = time.monotonic()
    made = project.backup(source)
    backed_up = time.monotonic()
    report = project.restore(target, accept_refusals=False)
    restored = time.monotonic()
    again = project.backup(source)

    assert (made.tables, made.rows) == (10000, 20000)
    assert report.outcome == "restored"
    assert made.objects_new < 1000
    assert again.bytes_new < made.bytes_new / 10
    run_sql(target, "DROP TABLE s7.t4567")
    alone = time.monotonic()
    project.restore_table(target, "t4567")
    told = (
        f"backup {backed_up - begun:.0f} s, restore {restored - backed_up:.0f} s, "
        f"one table {time.monotonic() - alone:.1f} s, "
        f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
    )
    print(told)  # noqa: T201
    rows = "SELECT count(*), max(v) FROM s7.t4567"
    assert run_sql(target, rows) == run_sql(source, rows)
    assert run_sql(target, "SELECT count(*) FROM pg_tables WHERE schemaname ~ '^s[0-9]'") == [
        (10000,)
    ]


@pytest.mark.timeout(300)
def test_a_value_of_200_megabytes(
    project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """Text and bytea of a size that no chunk has come back, between small rows."""
    source, target = new_database(), new_target()
    run_sql(
        source,
        "CREATE TABLE big (id int, t text, b bytea)",
        "INSERT INTO big SELECT i, 'small', '\\x00ff' FROM generate_series(1, 100) i",
        "INSERT INTO big (id, t) SELECT 101, string_agg(repeat(md5(i::text), 32768), E'\\n\\\\')"
        " FROM generate_series(1, 200) i",
        "INSERT INTO big (id, b) SELECT 102, decode(repeat('000aff5c', 10 * 1048576), 'hex')",
        "INSERT INTO big SELECT i, 'small', NULL FROM generate_series(103, 200) i",
    )

    made = project.backup(source)
    report = project.restore(target)

    assert made.bytes_read > 280 * MEGABYTE
    assert report.outcome == "restored"
    query = "SELECT id, length(t), md5(t), length(b), md5(b) FROM big ORDER BY id"
    assert run_sql(source, query) == run_sql(target, query)
    before = run_sql(source, query)
    run_sql(source, "DELETE FROM big WHERE id > 50")
    project.restore_table(source, "big", replace=True)
    assert run_sql(source, query) == before


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_value_that_cannot_be_printed(
    project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """A bytea of 600 MB doubles when printed: refused with the reason, and the way out works."""
    source, target = new_database(), new_target()
    run_sql(
        source,
        "CREATE TABLE fine (id int)",
        "INSERT INTO fine VALUES (1)",
        "CREATE TABLE huge (id int, b bytea)",
        "ALTER TABLE huge ALTER b SET STORAGE EXTERNAL",
        "INSERT INTO huge SELECT 1, decode(repeat('00', 1 << 20), 'hex')",
        *["UPDATE huge SET b = b || b"] * 9,
        "UPDATE huge SET b = b || substr(b, 1, 90000000)",
    )

    with pytest.raises(SourceUnsupported, match=r"public\.huge.*too large") as refused:
        project.backup(source)

    assert "--skip" in refused.value.hint
    assert project.repository.backups() == []
    project.backup(source, skip=("public.huge",))
    assert project.restore(target).outcome == "restored"
    assert run_sql(target, "SELECT * FROM fine") == [(1,)]


def test_leaving_tables_out(
    project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """What stands below a table left out goes with it; a sequence that others may use stays."""
    source, target = new_database(), new_target()
    run_script(source, """
        CREATE TABLE kept (id serial); INSERT INTO kept DEFAULT VALUES;
        CREATE TABLE "Left Out" (id serial, i int GENERATED ALWAYS AS IDENTITY);
        INSERT INTO "Left Out" DEFAULT VALUES;
        CREATE TABLE tree (id int) PARTITION BY LIST (id);
        CREATE TABLE tree_1 PARTITION OF tree FOR VALUES IN (1); INSERT INTO tree VALUES (1);
    """)  # fmt: skip

    made = project.backup(source, skip=('public."Left Out"', "public.tree"))
    report = project.restore(target)

    assert sorted(made.skipped) == ['public."Left Out"', "public.tree", "public.tree_1"]
    assert (report.outcome, report.refusals, report.problems) == ("restored", [], [])
    assert look(target).rows.keys() == {"public.kept"}
    expected = look(source).sequences
    assert expected.pop('public."Left Out_i_seq"')
    assert look(target).sequences == expected
