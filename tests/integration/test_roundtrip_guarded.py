"""Row security, event triggers, extensions' own tables, other encodings."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora.errors import CheckFailed, SourcePrivilege
from aurora.postgres.embedded import EmbeddedServer
from tests.fixtures.looks import compare, look, name_of, run_script, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import NewRole, NewTarget, Project

pytest_plugins = ["tests.fixtures.backups"]

SECURED = """
CREATE TABLE open (id int); INSERT INTO open VALUES (1);
CREATE TABLE own (id int, who text); INSERT INTO own VALUES (1, 'me'), (2, 'other');
ALTER TABLE own ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON own USING (who = 'me') WITH CHECK (who <> 'nobody');
CREATE POLICY strict ON own AS RESTRICTIVE FOR DELETE TO PUBLIC USING (false);
CREATE TABLE closed (id int); INSERT INTO closed VALUES (1), (2), (3);
ALTER TABLE closed ENABLE ROW LEVEL SECURITY;
"""


def test_row_security_for_a_superuser(
    project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """Every row comes along, whatever the policies, forced or not."""
    source, target = new_database(), new_target()
    run_script(source, SECURED + "ALTER TABLE closed FORCE ROW LEVEL SECURITY")

    project.backup(source)
    report = project.restore(target)

    assert (report.outcome, report.refusals) == ("restored", [])
    compare(source, target)


def test_row_security_for_the_owner(
    pg: EmbeddedServer, project: Project, new_database: NewDatabase, new_role: NewRole
) -> None:
    """The owner reads and restores all rows; where security is forced on it, it is told at once."""
    owner = new_role("owner_of_rows", "LOGIN CREATEDB")
    source = new_database()
    run_sql(source, f'ALTER DATABASE "{name_of(source)}" OWNER TO {owner}')
    mine = pg.dsn(name_of(source), user=owner, password="p")
    run_script(mine, SECURED)
    target = pg.dsn(f"{name_of(source)}_back", user=owner, password="p")

    project.backup(mine)
    report = project.restore(target)
    assert (report.outcome, report.refusals) == ("restored", [])
    compare(source, pg.dsn(f"{name_of(source)}_back"))

    run_sql(mine, "ALTER TABLE closed FORCE ROW LEVEL SECURITY")
    with pytest.raises(SourcePrivilege, match=r"public\.closed") as refused:
        project.backup(mine)
    assert "BYPASSRLS" in refused.value.hint
    assert len(project.repository.backups()) == 1


def test_forced_security_restored_by_its_owner(
    pg: EmbeddedServer, project: Project, new_database: NewDatabase, new_role: NewRole
) -> None:
    """An owner who may not look past its own policies cannot check the rows, and is told so."""
    owner = new_role("owner_of_forced", "LOGIN CREATEDB")
    source = new_database()
    run_sql(source, f'ALTER DATABASE "{name_of(source)}" OWNER TO {owner}')
    run_script(pg.dsn(name_of(source), user=owner, password="p"), SECURED)
    run_sql(source, "ALTER TABLE closed FORCE ROW LEVEL SECURITY")
    project.backup(source)

    with pytest.raises(CheckFailed, match=r"public\.closed cannot be read.*row security"):
        project.restore(pg.dsn(f"{name_of(source)}_back", user=owner, password="p"))


def test_a_role_that_reads_all(
    pg: EmbeddedServer, project: Project, new_database: NewDatabase, new_role: NewRole,
    new_target: NewTarget,
) -> None:  # fmt: skip
    """pg_read_all_data and BYPASSRLS are enough to back everything up."""
    reader = new_role("reads_all", "LOGIN BYPASSRLS IN ROLE pg_read_all_data")
    source, target = new_database(), new_target()
    run_script(source, SECURED + "CREATE SCHEMA hidden; CREATE TABLE hidden.t (id serial);"
                                 "INSERT INTO hidden.t DEFAULT VALUES")  # fmt: skip

    project.backup(pg.dsn(name_of(source), user=reader, password="p"))
    project.restore(target)

    compare(source, target)


EVENTS = """
CREATE TABLE log (what text, tag text);
CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO public.log VALUES (TG_EVENT, TG_TAG); END $$;
CREATE FUNCTION never() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$;
CREATE EVENT TRIGGER logged ON ddl_command_end EXECUTE FUNCTION on_ddl();
CREATE EVENT TRIGGER begun ON ddl_command_start EXECUTE FUNCTION on_ddl();
CREATE EVENT TRIGGER gone ON sql_drop EXECUTE FUNCTION on_ddl();
CREATE EVENT TRIGGER replica ON ddl_command_end EXECUTE FUNCTION never();
ALTER EVENT TRIGGER replica ENABLE REPLICA; ALTER EVENT TRIGGER logged ENABLE ALWAYS;
CREATE EVENT TRIGGER off ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION never();
ALTER EVENT TRIGGER off DISABLE;
COMMENT ON EVENT TRIGGER logged IS 'tells';
CREATE TABLE made (id int PRIMARY KEY);
INSERT INTO made SELECT generate_series(1, 10);
CREATE MATERIALIZED VIEW filled AS SELECT count(*) FROM made;
CREATE MATERIALIZED VIEW of_the_log AS SELECT tag, count(*) FROM log GROUP BY tag;
"""


def test_event_triggers(project: Project, new_database: NewDatabase, new_target: NewTarget) -> None:
    """They come back in their states, and nothing that the restore does sets them off."""
    source, target = new_database(), new_target()
    run_sql(source, *EVENTS.split(";\n")[:-1])
    run_sql(source, "REFRESH MATERIALIZED VIEW of_the_log",
            "REFRESH MATERIALIZED VIEW of_the_log")  # fmt: skip
    run_sql(source, "ALTER EVENT TRIGGER logged DISABLE", "ALTER EVENT TRIGGER begun DISABLE",
            "REFRESH MATERIALIZED VIEW of_the_log", "ALTER EVENT TRIGGER logged ENABLE ALWAYS",
            "ALTER EVENT TRIGGER begun ENABLE")  # fmt: skip

    project.backup(source)
    report = project.restore(target)

    assert (report.outcome, report.refusals) == ("restored", [])
    compare(source, target)


CONTROL = "comment = 'for a test'\ndefault_version = '1'\nrelocatable = false\nschema = public\n"
SCRIPT = """
CREATE TABLE settings (name text PRIMARY KEY, value text, builtin bool DEFAULT false);
INSERT INTO settings VALUES ('one', '1', true), ('two', '2', true);
CREATE TABLE all_of_it (id serial, v text);
CREATE TABLE internal (id int); INSERT INTO internal VALUES (1);
SELECT pg_catalog.pg_extension_config_dump('settings', 'WHERE NOT builtin');
SELECT pg_catalog.pg_extension_config_dump('all_of_it', '');
SELECT pg_catalog.pg_extension_config_dump('all_of_it_id_seq', '');
"""


@pytest.fixture
def extension(pg: EmbeddedServer) -> Iterator[str]:
    """An extension with tables of its own, known to the server for the time of a test."""
    files = [
        directory / name
        for directory in _extension_directories(pg)
        for name in ("aurora_test.control", "aurora_test--1.sql")
    ]
    for file in files:
        file.write_text(CONTROL if file.suffix == ".control" else SCRIPT)
        file.chmod(0o644)
    yield "aurora_test"
    for file in files:
        file.unlink(missing_ok=True)


def _extension_directories(server: EmbeddedServer) -> list[Path]:
    found = list(server.bin_dir.parent.rglob("plpgsql.control"))
    if not found or shutil.which("true") is None:
        pytest.skip("only root can add an extension to this server")
    return [path.parent for path in found]


def test_tables_of_extensions(
    extension: str, project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """What the user put into them comes back; what the extension brings is not doubled."""
    source, target = new_database(), new_target()
    run_sql(
        source,
        f"CREATE EXTENSION {extension}",
        "INSERT INTO settings VALUES ('three', '3'), ('four', NULL)",
        "INSERT INTO all_of_it (v) SELECT repeat(md5(i::text), 40) FROM generate_series(1, 2000) i",
        "INSERT INTO settings SELECT 'n' || i, repeat(md5(i::text), 40), i % 2 = 0"
        " FROM generate_series(1, 4000) i",
        "DELETE FROM settings WHERE name LIKE 'n%' AND builtin",
    )

    project.backup(source, chunk_bytes=64 << 10)
    report = project.restore(target)

    assert (report.outcome, report.refusals, report.problems) == ("restored", [], [])
    assert look(source).rows == look(target).rows
    assert look(source).schema == look(target).schema


ENCODINGS = {
    "LATIN1": ("C", "'' || chr(228) || chr(223)"),
    "SQL_ASCII": ("C", "convert_from('\\xe4ff80', 'SQL_ASCII')"),
    "EUC_JP": ("C", "convert_from('\\xc6fccbdcb8ec', 'EUC_JP')"),
    "WIN1252": ("C", "chr(128) || chr(228)"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_other_encodings(
    encoding: str,
    pg: EmbeddedServer,
    project: Project,
    new_database: NewDatabase,
    new_target: NewTarget,
) -> None:
    """A database in another encoding comes back in it, byte for byte."""
    locale, text = ENCODINGS[encoding]
    like = f"ENCODING '{encoding}' LC_COLLATE '{locale}' LC_CTYPE '{locale}'"
    source, target = new_database(like=like), new_target()
    statements = ["CREATE TABLE t (v text)", f"INSERT INTO t VALUES ({text}), ('plain')"]
    run_sql(source, *statements, "SELECT lo_from_bytea(7, '\\x00ff')")
    query = "SELECT encode(v::bytea, 'escape') FROM t ORDER BY 1"
    if encoding in ("LATIN1", "WIN1252", "EUC_JP"):
        query = f"SELECT encode(convert_to(v, '{encoding}'), 'hex') FROM t ORDER BY 1"
    before = run_sql(source, query)

    project.backup(source)
    report = project.restore(target)

    assert (report.outcome, report.refusals) == ("restored", [])
    same = "SELECT pg_encoding_to_char(encoding) FROM pg_database"
    same += f" WHERE datname = '{name_of(target)}'"
    assert run_sql(pg.dsn(), same) == [(encoding,)]
    assert run_sql(target, query) == before
    run_sql(target, "DELETE FROM t")
    project.restore_table(target, "t", replace=True)
    assert run_sql(target, query) == before
