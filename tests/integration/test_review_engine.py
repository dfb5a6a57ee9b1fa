"""What an adversarial reading of the engine found: each test failed before its fix."""

import threading
import time
from pathlib import Path

import psycopg
import pytest

from aurora.engines.logical import build as engine_build
from aurora.engines.logical import target
from aurora.engines.logical.grants import grant_statements
from aurora.engines.logical.names import OUTPUT_SETTINGS
from aurora.engines.logical.system import statements
from aurora.errors import AuroraError, TargetUnfit, UsageError
from aurora.operations import restore as restore_operation
from aurora.operations import restore_plan
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.embedded import EmbeddedServer
from tests.fixtures.looks import compare, databases_like, look, name_of, run_script, run_sql
from tests.fixtures.postgres import NewDatabase, NewServer
from tests.fixtures.projects import NewRole, NewTarget, Project

pytest_plugins = ["tests.fixtures.backups"]

APP = "CREATE TABLE kind (what text); INSERT INTO kind VALUES ('old');"


@pytest.fixture
def app(pg: EmbeddedServer, new_target: NewTarget) -> str:
    """A database that may be renamed and dropped."""
    dsn = new_target()
    run_sql(pg.dsn(), f'CREATE DATABASE "{name_of(dsn)}"')
    run_script(dsn, APP)
    return dsn


# --- one table


def test_replacing_a_parent_leaves_its_children_alone(
    project: Project, new_database: NewDatabase
) -> None:
    """Rows of tables that inherit are not the table's own."""
    dsn = new_database()
    run_script(dsn, "CREATE TABLE up (a int); CREATE TABLE down (b int) INHERITS (up);"
               "INSERT INTO up VALUES (1); INSERT INTO down VALUES (2, 2);")  # fmt: skip
    project.backup(dsn)
    run_sql(dsn, "INSERT INTO down VALUES (3, 3)", "UPDATE up SET a = 9 WHERE a = 1")

    project.restore_table(dsn, "up", replace=True)

    assert run_sql(dsn, "SELECT a FROM ONLY up") == [(1,)]
    assert run_sql(dsn, "SELECT a FROM down ORDER BY 1") == [(2,), (3,)]


TREE = """
CREATE TABLE logs (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE logs_2 PARTITION OF logs FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
INSERT INTO logs VALUES (1, '2024-01-05'), (2, '2024-02-05');
"""


def test_safety_backup_holds_partitions_made_since(
    project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """What is deleted is what is there now, not what was there at the backup."""
    dsn = new_database()
    run_script(dsn, TREE)
    project.backup(dsn)
    run_script(dsn, "CREATE TABLE logs_3 PARTITION OF logs FOR VALUES FROM ('2024-03-01')"
               " TO ('2024-04-01'); INSERT INTO logs VALUES (3, '2024-03-05');")  # fmt: skip

    report = project.restore_table(dsn, "logs", replace=True)

    assert run_sql(dsn, "SELECT id FROM logs ORDER BY 1") == [(1,), (2,)]
    project.restore_table(dsn, "logs", report.safety_backup, replace=True)
    assert run_sql(dsn, "SELECT id FROM logs ORDER BY 1") == [(1,), (2,), (3,)]


def test_a_part_of_a_tree_does_not_replace_the_whole(
    project: Project, new_database: NewDatabase
) -> None:
    """A backup without the rows of every partition is refused, and nothing is changed."""
    dsn = new_database()
    run_script(dsn, TREE)
    project.backup(dsn)
    safety = project.restore_table(dsn, "logs_1", replace=True).safety_backup
    before = look(dsn)

    with pytest.raises(AuroraError, match="logs_2"):
        project.restore_table(dsn, "logs", safety, replace=True)
    compare(before, dsn)
    project.backup(dsn, skip=("public.logs_2",))
    with pytest.raises(AuroraError, match="logs_2"):
        project.restore_table(dsn, "logs", replace=True)
    compare(before, dsn)


def test_sequences_that_count_down(project: Project, new_database: NewDatabase) -> None:
    """Forwards is downwards for them, whether the table is replaced or made again."""
    dsn = new_database()
    run_script(dsn, "CREATE TABLE d (id int GENERATED ALWAYS AS IDENTITY (INCREMENT -1), t text);"
               "INSERT INTO d (t) VALUES ('a'), ('b'), ('c');")  # fmt: skip
    project.backup(dsn)
    run_sql(dsn, "INSERT INTO d (t) VALUES ('d'), ('e')")

    project.restore_table(dsn, "d", replace=True)
    assert run_sql(dsn, "INSERT INTO d (t) VALUES ('f') RETURNING id") == [(-6,)]

    run_sql(dsn, "DROP TABLE d")
    project.restore_table(dsn, "d")
    assert run_sql(dsn, "INSERT INTO d (t) VALUES ('d') RETURNING id") == [(-4,)]


def test_readers_do_not_queue_behind_a_waiting_replace(
    project: Project, new_database: NewDatabase
) -> None:
    """A table that somebody holds is waited for in short tries, so that readers go on."""
    dsn = new_database()
    run_script(dsn, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);"
               "CREATE TABLE r (t int REFERENCES t); INSERT INTO r VALUES (1);")  # fmt: skip
    project.backup(dsn)
    run_sql(dsn, "DELETE FROM r", "DELETE FROM t", "INSERT INTO t VALUES (2)")
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT * FROM t")  # an idle transaction holds ACCESS SHARE
        work = threading.Thread(
            target=project.restore_table, args=(dsn, "t"), kwargs={"replace": True}
        )
        work.start()
        waits = []
        end = time.monotonic() + 6
        while time.monotonic() < end:
            begun = time.monotonic()
            run_sql(dsn, "SELECT count(*) FROM t")
            waits.append(time.monotonic() - begun)
            time.sleep(0.05)
    work.join()
    assert max(waits) < 2
    assert run_sql(dsn, "SELECT id FROM t") == [(1,)]


def test_rows_written_while_the_safety_backup_is_taken(
    project: Project, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No write is taken that would be neither in the table afterwards nor in the safety backup."""
    dsn = new_database()
    run_script(dsn, "CREATE TABLE t (id int); INSERT INTO t VALUES (1);")
    project.backup(dsn)
    take = project.backup
    written: list[str] = []

    def backup_then_write(*args: object, **options: object) -> object:
        report = take(*args, **options)  # type: ignore[arg-type]
        try:
            run_sql(dsn, "SET lock_timeout = '300ms'", "INSERT INTO t VALUES (2)")
            written.append(report.backup_id)
        except psycopg.errors.LockNotAvailable:
            pass
        return report

    monkeypatch.setattr(Project, "backup", lambda _, *a, **o: backup_then_write(*a, **o))
    project.restore_table(dsn, "t", replace=True)

    assert written == []


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_table_of_a_database_in_an_old_encoding(
    encoding: str, project: Project, new_database: NewDatabase
) -> None:
    """Names, comments, defaults and rows beyond ASCII come back as they were."""
    dsn = new_database(like=f"ENCODING '{encoding}' LOCALE 'C'") + "?client_encoding=utf8"
    run_script(dsn, "CREATE TABLE \"Täble\" (a text DEFAULT 'ö');"
               "COMMENT ON TABLE \"Täble\" IS 'ünï'; INSERT INTO \"Täble\" VALUES ('é'), ('x');"
               )  # fmt: skip
    if encoding == "SQL_ASCII":
        run_sql(dsn, "SET client_encoding = 'SQL_ASCII'", "SET standard_conforming_strings = on",
                "INSERT INTO \"Täble\" SELECT convert_from('\\xfe', 'SQL_ASCII')")  # fmt: skip
    query = """
        SELECT convert_to(a, 'SQL_ASCII'), obj_description('"Täble"'::regclass)
        FROM "Täble" ORDER BY 1
    """
    before = run_sql(dsn, query)
    project.backup(dsn)
    run_sql(dsn, 'DROP TABLE "Täble"')

    report = project.restore_table(dsn, '"Täble"')

    assert report.outcome == "restored"
    assert run_sql(dsn, query) == before
    assert run_sql(dsn, "INSERT INTO \"Täble\" VALUES (DEFAULT) RETURNING a = 'ö'") == [(True,)]


def test_words_in_a_comment_are_never_run(
    pg: EmbeddedServer, project: Project, new_database: NewDatabase, new_role: NewRole
) -> None:
    """A comment may look like the head of another entry of pg_dump's script."""
    dsn = new_database()
    role = new_role("sly")
    forged = (
        "x'\n--\n-- Name: a; Type: COMMENT; Schema: -; Owner: -\n--\n\n"
        f"ALTER ROLE {role} SUPERUSER;\n"
        "--\n-- Name: b; Type: COMMENT; Schema: -; Owner: -\n--\n\n SELECT '"
    )
    comment = forged.replace("'", "''")
    run_script(dsn, f"CREATE TABLE t (a int); COMMENT ON TABLE t IS '{comment}\n\\restrict me\n'")
    before = look(dsn)
    project.backup(dsn)
    run_sql(dsn, "DROP TABLE t")

    report = project.restore_table(dsn, "t")

    assert run_sql(dsn, f"SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'") == [(False,)]
    assert report.outcome == "restored"
    compare(before, dsn)
    found = run_sql(dsn, "SELECT obj_description('t'::regclass)")[0][0]
    assert found == f"{forged}\n\\restrict me\n"


def test_a_view_that_is_there_keeps_its_grants(project: Project, new_database: NewDatabase) -> None:
    """It followed the renamed table, and what was granted on it since is the user's word."""
    dsn = new_database()
    run_script(dsn, "CREATE TABLE t (a int); CREATE VIEW v AS SELECT * FROM t;"
               "GRANT SELECT ON v TO PUBLIC; COMMENT ON VIEW v IS 'then';")  # fmt: skip
    project.backup(dsn)
    run_sql(dsn, "ALTER TABLE t RENAME TO t_old", "REVOKE ALL ON v FROM PUBLIC",
            "COMMENT ON VIEW v IS 'now'")  # fmt: skip

    project.restore_table(dsn, "t")

    found = run_sql(dsn, "SELECT has_table_privilege('pg_monitor', 'v', 'SELECT'),"
                    " obj_description('v'::regclass)")  # fmt: skip
    assert found == [(False, "now")]


def test_names_that_are_too_long(project: Project, new_database: NewDatabase) -> None:
    """The server would cut them off without a word."""
    dsn = new_database()
    run_script(dsn, APP)
    project.backup(dsn)

    with pytest.raises(UsageError, match="longer"):
        project.restore_table(dsn, "kind", as_name="k" * 64)


# --- the backup


def test_a_changed_type_is_counted_anew(
    project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """Equal text of another type has other hashes than an earlier backup counted."""
    dsn = new_database()
    run_script(dsn, "CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, '1'), (2, '2');")
    project.backup(dsn)
    run_sql(dsn, "ALTER TABLE t ALTER a TYPE text, ALTER b TYPE numeric USING b::numeric")
    project.backup(dsn)

    report = project.restore(new_target())

    assert (report.outcome, report.problems) == ("restored", [])


def test_a_changed_encoding_is_counted_anew(
    project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """The server hashes its own bytes, the backup holds UTF-8."""
    script = "CREATE TABLE t (a text); INSERT INTO t VALUES (U&'\\00e4')"
    old = new_database(like="ENCODING 'LATIN1' LOCALE 'C'")
    new = new_database(like="ENCODING 'UTF8' LOCALE 'C'")
    for dsn in (old, new):
        run_script(dsn, script)
    project.backup(old)
    project.backup(new, accept_new_source=True)

    report = project.restore(new_target())

    assert (report.outcome, report.problems) == ("restored", [])


def test_hash_partitions_by_enum(
    project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """Enum values hash by oids that every database has of its own: rows change partitions."""
    source, target_dsn = new_database(), new_target()
    run_script(source, """
        CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
        CREATE TABLE m (id int, it mood) PARTITION BY LIST (id);
        CREATE TABLE m_1 PARTITION OF m FOR VALUES IN (1) PARTITION BY HASH (it);
        CREATE TABLE m_1_0 PARTITION OF m_1 FOR VALUES WITH (MODULUS 3, REMAINDER 0);
        CREATE TABLE m_1_1 PARTITION OF m_1 FOR VALUES WITH (MODULUS 3, REMAINDER 1);
        CREATE TABLE m_1_2 PARTITION OF m_1 FOR VALUES WITH (MODULUS 3, REMAINDER 2);
        CREATE TABLE m_2 PARTITION OF m FOR VALUES IN (2);
        INSERT INTO m SELECT 1 + i % 2, (enum_range(NULL::mood))[1 + i % 8]
            FROM generate_series(1, 100) i;
    """)  # fmt: skip
    project.backup(source)

    report = project.restore(target_dsn)

    assert (report.outcome, report.problems) == ("restored", [])
    query = "SELECT id, it, count(*) FROM m GROUP BY 1, 2 ORDER BY 1, 2"
    assert run_sql(target_dsn, query) == run_sql(source, query)
    assert run_sql(target_dsn, "SELECT count(*) FROM m_2") == [(50,)]
    run_sql(target_dsn, "DROP TABLE m")
    project.restore_table(target_dsn, "m")
    assert run_sql(target_dsn, query) == run_sql(source, query)


def test_sequences_of_extensions(
    project: Project, new_server: NewServer, new_target: NewTarget, open_dir: Path
) -> None:
    """A sequence that an extension names as the user's data (pg_cron does) keeps its position."""
    files = open_dir / "extension"
    files.mkdir(parents=True)
    (files / "jobs.control").write_text("default_version = '1'\nrelocatable = false\n")
    (files / "jobs--1.sql").write_text(
        "CREATE TABLE job (id serial PRIMARY KEY, t text);\n"
        "SELECT pg_extension_config_dump('job', '');\n"
        "SELECT pg_extension_config_dump('job_id_seq', '');\n"
    )
    for path in (files, *files.iterdir()):
        path.chmod(0o755)
    server = new_server(18, extension_control_path=f"{open_dir}:$system")
    run_sql(server.dsn(), "CREATE DATABASE source")
    source = server.dsn("source")
    run_sql(source, "CREATE EXTENSION jobs", "INSERT INTO job (t) VALUES ('a'), ('b')")
    project.backup(source)

    report = project.restore(server.dsn("copy"))

    assert (report.outcome, report.refusals, report.problems) == ("restored", [], [])
    assert run_sql(server.dsn("copy"), "INSERT INTO job (t) VALUES ('c') RETURNING id") == [(3,)]


def test_money_is_read_and_written_in_one_currency() -> None:
    """What COPY prints of money depends on lc_monetary, which is pinned like the others."""
    assert OUTPUT_SETTINGS["lc_monetary"] == "C"
    assert OUTPUT_SETTINGS["array_nulls"] == "on"


# --- names


@pytest.mark.parametrize("odd", ["a=b", "postgresql://x/y", 'it\'s "odd"\\', "line\nend", "ä" * 20])
def test_odd_database_names(odd: str, pg: EmbeddedServer, project: Project) -> None:
    """They are names, whatever libpq would read in them."""
    source = ConnInfo.parse(pg.dsn()).with_dbname(odd).dsn()
    quoted = odd.replace('"', '""')
    run_sql(pg.dsn(), f'CREATE DATABASE "{quoted}"')
    try:
        run_script(source, APP)
        project.backup(source)
        before = look(source)
        run_sql(source, "UPDATE kind SET what = 'now'")

        report = project.restore(source, in_place=True)

        assert report.outcome == "restored"
        compare(before, source)
    finally:
        for name in databases_like(pg, odd):
            run_sql(pg.dsn(), 'DROP DATABASE "{}" (FORCE)'.format(name.replace('"', '""')))


def test_directly_into_the_database_of_a_service(
    pg: EmbeddedServer, new_database: NewDatabase, project: Project, new_role: NewRole,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The service file says which database; it is filled, and no other."""
    owner = new_role("service_owner")
    source, empty = new_database(), new_database()
    for dsn in (source, empty):
        run_sql(dsn, f'ALTER DATABASE "{name_of(dsn)}" OWNER TO {owner}')
    mine = pg.dsn(name_of(source), user=owner, password="p")
    run_script(mine, APP)
    project.backup(mine)
    info = ConnInfo.parse(pg.dsn())
    (tmp_path / "services").write_text(
        f"[goal]\nhost={info.host}\nport={info.port}\nuser={owner}\npassword=p\n"
        f"dbname={name_of(empty)}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))

    project.restore("service=goal")

    compare(source, empty)
    assert run_sql(pg.dsn(), "SELECT to_regclass('public.kind') IS NULL") == [(True,)]


# --- a database that takes another's place


def test_an_empty_database_that_fills_up_meanwhile(
    pg: EmbeddedServer, app: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was empty when the restore began: what came in since is kept, aside."""
    project.backup(app)
    name = name_of(app)
    run_sql(pg.dsn(), f'DROP DATABASE "{name}" (FORCE)', f'CREATE DATABASE "{name}"')
    build = engine_build.build_database

    def build_while_somebody_works(*args: object, **options: object) -> object:
        run_script(app, "CREATE TABLE precious (a int); INSERT INTO precious VALUES (1)")
        return build(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(restore_operation, "build_database", build_while_somebody_works)
    report = project.restore(app)

    assert run_sql(app, "SELECT what FROM kind") == [("old",)]
    assert report.old_database
    assert run_sql(pg.dsn(report.old_database), "SELECT a FROM precious") == [(1,)]


@pytest.mark.parametrize("thing", ["CREATE TYPE e AS ENUM ('a')", "CREATE EXTENSION pg_trgm",
                                   "CREATE PUBLICATION p"])  # fmt: skip
def test_a_database_with_a_few_things_is_not_dropped(
    thing: str, pg: EmbeddedServer, app: str, project: Project
) -> None:
    """Empty of tables is empty enough to fill, and not enough to be thrown away."""
    project.backup(app)
    name = name_of(app)
    run_sql(pg.dsn(), f'DROP DATABASE "{name}" (FORCE)', f'CREATE DATABASE "{name}"')
    run_sql(app, thing)

    report = project.restore(app)

    assert databases_like(pg, name) == [name, report.old_database]


def test_a_living_restore_is_not_swept(
    pg: EmbeddedServer, app: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not in the moments when none of its programs is connected."""
    project.backup(app)
    swept: list[str] = []

    def look_for_leftovers(*_: object) -> None:
        with psycopg.connect(pg.dsn(), autocommit=True) as conn:
            swept.extend(target.sweep(conn, name_of(app)))

    build, finish = engine_build.build_database, target.finish

    def build_after_sweep(*args: object, **options: object) -> object:
        look_for_leftovers()
        return build(*args, **options)  # type: ignore[arg-type]

    def finish_after_sweep(*args: object, **options: object) -> object:
        look_for_leftovers()
        return finish(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(restore_operation, "build_database", build_after_sweep)
    monkeypatch.setattr(restore_operation, "finish", finish_after_sweep)
    report = project.restore(app, in_place=True)

    assert (report.outcome, swept) == ("restored", [])


def test_leftovers_of_a_long_name_are_swept(pg: EmbeddedServer, project: Project) -> None:
    """A name of 63 bytes is cut to make room for what is added."""
    name = "n" * 63
    source = pg.dsn(name)
    run_sql(pg.dsn(), f'CREATE DATABASE "{name}"')
    try:
        run_script(source, APP)
        project.backup(source)
        left = target.aside_name(name, "aurora_dead")
        run_sql(pg.dsn(), f'CREATE DATABASE "{left}"',
                f"COMMENT ON DATABASE \"{left}\" IS '{target.MARK}r1'")  # fmt: skip

        report = project.restore(source, in_place=True)

        found = run_sql(pg.dsn(), "SELECT datname FROM pg_database WHERE datname LIKE 'nnn%'")
        assert {row[0] for row in found} == {name, report.old_database}
    finally:
        for (found_name,) in run_sql(
            pg.dsn(), "SELECT datname FROM pg_database WHERE datname LIKE 'nnn%'"
        ):
            run_sql(pg.dsn(), f'DROP DATABASE "{found_name}" (FORCE)')


def test_killed_between_finishing_and_the_swap(
    pg: EmbeddedServer, app: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The complete copy that nobody put in place is found, and removed, by the next restore."""
    project.backup(app)

    class Died(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(restore_operation, "take_place", die)
        with pytest.raises(Died):
            project.restore(app, in_place=True)

    report = project.restore(app, in_place=True)
    assert databases_like(pg, name_of(app)) == [name_of(app), report.old_database]
    assert run_sql(app, """
        SELECT shobj_description(oid, 'pg_database') FROM pg_database
        WHERE datname = current_database()
    """) == [(None,)]  # fmt: skip


def test_only_ones_own_unfinished_database_is_dropped(
    pg: EmbeddedServer, app: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that has the very name by chance is left alone."""
    project.backup(app)
    theirs = target.aside_name(name_of(app), "aurora_zzzz")
    run_sql(pg.dsn(), f'CREATE DATABASE "{theirs}"')
    monkeypatch.setattr(restore_plan, "new_restore_id", lambda _: "r20240101T000000Z-zzzz")

    with pytest.raises(AuroraError):
        project.restore(app, in_place=True)

    assert theirs in databases_like(pg, name_of(app))


def test_what_holds_the_old_database_is_told_before_the_work(
    pg: EmbeddedServer, app: str, project: Project
) -> None:
    """A prepared transaction keeps a database from being renamed, and cannot be ended."""
    project.backup(app)
    run_sql(app, "BEGIN", "INSERT INTO kind VALUES ('mine')", "PREPARE TRANSACTION 'held one'")
    try:
        with pytest.raises(TargetUnfit, match="held one"):
            project.restore(app, in_place=True)
    finally:
        run_sql(app, "ROLLBACK PREPARED 'held one'")
    assert project.restore(app, in_place=True).outcome == "restored"


def test_who_may_not_rename_is_told_before_the_work(
    pg: EmbeddedServer, app: str, project: Project, new_role: NewRole
) -> None:
    """CREATEDB alone does not let a role replace a database of somebody else."""
    role = new_role("makes_databases", "LOGIN CREATEDB IN ROLE pg_read_all_data")
    project.backup(app)
    before = look(app)

    with pytest.raises(TargetUnfit, match="owner"):
        project.restore(pg.dsn(name_of(app), user=role, password="p"), in_place=True)
    compare(before, app)
    assert databases_like(pg, name_of(app)) == [name_of(app)]


def test_another_encoding_is_told_before_the_work(
    pg: EmbeddedServer, new_database: NewDatabase, project: Project, new_role: NewRole
) -> None:
    """A database that the role may fill, but not make, has to be like the source's."""
    owner = new_role("fills_only")
    source, empty = new_database(like="ENCODING 'LATIN1' LOCALE 'C'"), new_database()
    run_script(source, APP)
    run_sql(empty, f'ALTER DATABASE "{name_of(empty)}" OWNER TO {owner}')
    project.backup(source)

    with pytest.raises(TargetUnfit, match="LATIN1"):
        project.restore(pg.dsn(name_of(empty), user=owner, password="p"))
    assert run_sql(empty, "SELECT to_regclass('public.kind') IS NULL") == [(True,)]


def test_slots_of_the_replaced_database_are_told(
    pg: EmbeddedServer, app: str, project: Project
) -> None:
    """A slot stays with the old database and would keep WAL for ever."""
    project.backup(app)
    run_sql(app, "SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')")
    try:
        report = project.restore(app, in_place=True)
        assert any("left_behind" in note for note in report.notes)
    finally:
        run_sql(pg.dsn(), "SELECT pg_drop_replication_slot('left_behind')")


# --- statements made of the catalogs' words


def test_odd_names_in_grants_and_globals() -> None:
    """Quotes at a name's ends are the name's own; only line ends are line ends."""
    found = grant_statements("DATABASE d", ('"""r"""=c/o', "=T/o"), "o")
    assert found[2:] == [
        'GRANT CONNECT ON DATABASE d TO """r"""', "GRANT TEMPORARY ON DATABASE d TO PUBLIC"
    ]  # fmt: skip
    text = "COMMENT ON ROLE r IS 'one\u2028two\x85;\n three';\n"
    assert list(statements(text)) == [text.rstrip(";\n")]


def test_a_setting_is_a_value_and_never_a_statement(
    pg: EmbeddedServer, app: str, project: Project, new_role: NewRole
) -> None:
    """Any role may store a search_path of its own; it is not run by who restores."""
    role = new_role("sneaky")
    name = name_of(app)
    evil = f"public,x;ALTER/**/ROLE/**/{role}/**/SUPERUSER"
    run_sql(
        pg.dsn(name, user=role, password="p"),
        f"SELECT set_config('search_path', '{evil}', false)",
        f'ALTER ROLE {role} IN DATABASE "{name}" SET search_path FROM CURRENT',
    )
    query = f"SELECT setconfig FROM pg_db_role_setting WHERE setrole = '{role}'::regrole"
    is_super = f"SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'"
    project.backup(app)

    report = project.restore(app, in_place=True)

    assert report.refusals == []
    assert run_sql(pg.dsn(), is_super) == [(False,)]
    with psycopg.connect(pg.dsn(name, user=role, password="p")) as conn:
        found = conn.execute("SELECT current_schemas(false), current_setting('search_path')")
        assert "SUPERUSER" in str(found.fetchone())
    assert len(run_sql(pg.dsn(), query)) == 2


def test_values_of_refused_settings_are_not_told(
    pg: EmbeddedServer, app: str, project: Project, new_role: NewRole, new_target: NewTarget
) -> None:
    """Supabase keeps the secret of its tokens in a setting of the database."""
    role = new_role("short_lived")
    name = name_of(app)
    run_sql(
        pg.dsn(),
        f"ALTER ROLE {role} IN DATABASE \"{name}\" SET \"app.settings.jwt_secret\" = 'hunter''2'",
    )
    project.backup(app)
    run_sql(pg.dsn(), f"DROP OWNED BY {role}", f"DROP ROLE {role}")

    report = project.restore(new_target())

    assert any("jwt_secret" in refusal for refusal in report.refusals)
    assert "hunter" not in str(report.document())
