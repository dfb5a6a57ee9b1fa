"""restore-full: the complete system onto an empty server, and no password anywhere."""

import json

import psycopg
import pytest

from aurora.errors import TargetUnfit
from aurora.postgres.embedded import EmbeddedServer
from tests.fixtures.looks import compare, name_of, run_script, run_sql
from tests.fixtures.postgres import NewServer
from tests.fixtures.projects import Project

pytest_plugins = ["tests.fixtures.backups"]

SECRET = "a clear text password"
SYSTEM = f"""
CREATE ROLE app_owner CREATEROLE CREATEDB;
CREATE ROLE "Odd role" LOGIN PASSWORD '{SECRET}' CONNECTION LIMIT 7 VALID UNTIL '2040-01-01';
CREATE ROLE reader NOLOGIN NOINHERIT BYPASSRLS;
CREATE ROLE admin LOGIN SUPERUSER PASSWORD '{SECRET}';
GRANT reader TO "Odd role" WITH ADMIN OPTION;
GRANT pg_read_all_data TO reader;
GRANT app_owner TO admin;
ALTER ROLE "Odd role" SET search_path = "$user", 'a b', public;
ALTER ROLE reader SET statement_timeout = '9s';
ALTER ROLE reader SET "app.tenant" = 'it''s; mine
on two lines';
COMMENT ON ROLE reader IS 'reads; only';
"""
DATABASE = """
CREATE SCHEMA "a b" AUTHORIZATION app_owner;
CREATE TABLE "a b".t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
ALTER TABLE "a b".t OWNER TO "Odd role";
INSERT INTO "a b".t (v) SELECT 'v' || i FROM generate_series(1, 100) i;
CREATE EXTENSION pg_trgm;
CREATE PUBLICATION everything FOR ALL TABLES;
ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA "a b" GRANT SELECT ON TABLES TO reader;
ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT USAGE ON SEQUENCES TO "Odd role";
GRANT SELECT ON "a b".t TO reader;
CREATE FUNCTION public.noticed() RETURNS event_trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE NOTICE 'seen'; END $$;
CREATE EVENT TRIGGER seen ON ddl_command_end EXECUTE FUNCTION public.noticed();
ALTER DATABASE {0} OWNER TO app_owner;
ALTER DATABASE {0} SET statement_timeout = '7s';
ALTER DATABASE {0} SET search_path = "a b", public;
ALTER DATABASE {0} SET "app.name" = 'x = y';
ALTER DATABASE {0} CONNECTION LIMIT 50;
ALTER ROLE reader IN DATABASE {0} SET work_mem = '9MB';
REVOKE CONNECT, TEMPORARY ON DATABASE {0} FROM PUBLIC;
GRANT CONNECT ON DATABASE {0} TO reader;
GRANT CREATE ON DATABASE {0} TO "Odd role" WITH GRANT OPTION;
COMMENT ON DATABASE {0} IS 'the app''s';
"""
ROLES = """
SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
       rolbypassrls, rolconnlimit, rolpassword, rolvaliduntil::text,
       shobj_description(oid, 'pg_authid')
FROM pg_authid WHERE rolname NOT LIKE 'pg\\_%' AND rolname <> 'postgres' ORDER BY 1
"""
MEMBERS = """
SELECT roleid::regrole::text, member::regrole::text, admin_option FROM pg_auth_members
WHERE member::regrole::text NOT LIKE 'pg\\_%' ORDER BY 1, 2
"""
MEMBERS_ALONE = """
SELECT roleid::regrole::text, member::regrole::text, admin_option FROM pg_auth_members
WHERE member::regrole::text = '"Odd role"'
"""
SETTINGS = """
SELECT coalesce(d.datname, ''), coalesce(r.rolname, ''), setconfig
FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = setdatabase
LEFT JOIN pg_roles r ON r.oid = setrole ORDER BY 1, 2
"""
PROPERTIES = """
SELECT datname, datdba::regrole::text, encoding, datcollate, datconnlimit,
       (SELECT array_agg(a ORDER BY a) FROM unnest(datacl::text[]) a),
       shobj_description(oid, 'pg_database')
FROM pg_database WHERE datname = 'app'
"""


@pytest.fixture
def system(new_server: NewServer) -> tuple[str, EmbeddedServer]:
    """A server with roles and a database app, and an empty second one."""
    source = new_server()
    run_sql(source.dsn(), "CREATE DATABASE app")
    run_script(source.dsn("app"), SYSTEM)
    run_script(source.dsn("app"), DATABASE.format("app"))
    return source.dsn("app"), new_server()


def test_the_complete_system(system: tuple[str, EmbeddedServer], project: Project) -> None:
    """Roles, memberships, settings, grants, extensions, publications, the database's own."""
    source, empty = system
    project.backup(source)

    report = project.restore(empty.dsn("app"), with_roles=True)

    assert report.refusals == []
    assert report.outcome == "restored"
    for query in (ROLES, MEMBERS, SETTINGS, PROPERTIES):
        assert run_sql(empty.dsn("app"), query) == run_sql(source, query)
    compare(source, empty.dsn("app"))
    with psycopg.connect(empty.dsn(user="Odd role", password=SECRET)) as conn:
        assert conn.execute("SELECT current_user").fetchone() == ("Odd role",)


def test_once_more_keeps_the_roles_that_are_there(
    system: tuple[str, EmbeddedServer], project: Project
) -> None:
    """A role that exists keeps its attributes and password, and the report says so."""
    source, other = system
    run_sql(other.dsn(), """CREATE ROLE "Odd role" LOGIN PASSWORD 'its own' CONNECTION LIMIT 3""")
    project.backup(source)

    report = project.restore(other.dsn("app"), with_roles=True)

    assert report.refusals == []
    assert any("Odd role" in note for note in report.notes)
    limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'Odd role'"
    assert run_sql(other.dsn(), limit) == [(3,)]
    with psycopg.connect(other.dsn("app", user="Odd role", password="its own")) as conn:
        assert conn.execute("SHOW search_path").fetchone() == ('"$user", "a b", public',)


def test_no_password_is_kept_or_told(system: tuple[str, EmbeddedServer], project: Project) -> None:
    """Neither in reports, events and errors, nor in what the storages hold."""
    source, empty = system
    made = project.backup(source, mirrored=True)
    report = project.restore(empty.dsn("app"), with_roles=True)

    told = json.dumps([report.document(), made.document()]) + report.markdown()
    told += repr([project.events, made, report, project.opened().snapshot])
    passwords = [SECRET, empty.password, source.split(":")[2].split("@")[0]]
    verifiers = [str(row[9]) for row in run_sql(source, ROLES) if row[9]]
    assert len(verifiers) == 2
    for secret in (*passwords, *verifiers):
        assert secret not in told
    for storage in (project.primary, project.secondary):
        for info in storage.list(""):
            stored = storage.get(info.name)
            for secret in (*passwords, *verifiers):
                assert secret.encode() not in stored


def test_by_a_role_that_may_not_do_everything(
    system: tuple[str, EmbeddedServer], project: Project
) -> None:
    """What a managed server forbids is told line by line; the rest is restored."""
    source, managed = system
    run_sql(managed.dsn(), "CREATE ROLE manager LOGIN CREATEDB CREATEROLE PASSWORD 'pg'")
    project.backup(source)

    report = project.restore(
        managed.dsn("app", user="manager", password="pg"), with_roles=True, accept_refusals=True
    )

    assert report.outcome == "restored with refusals"
    assert report.problems == []
    refused = "\n".join(report.refusals)
    assert "ALTER ROLE admin WITH SUPERUSER" in refused
    assert "more statements" in refused  # the password pg is blotted out of what pg_restore says
    assert "SCRAM" not in refused
    with psycopg.connect(managed.dsn("app")) as conn:
        assert conn.execute('SELECT count(*) FROM "a b".t').fetchone() == (100,)
        assert conn.execute(MEMBERS_ALONE).fetchall() == [("reader", '"Odd role"', True)]
    with psycopg.connect(managed.dsn("postgres", user="Odd role", password=SECRET)) as conn:
        assert conn.execute("SHOW search_path").fetchone() == ('"$user", "a b", public',)


def test_without_roles_says_which_are_missing(
    system: tuple[str, EmbeddedServer], project: Project
) -> None:
    """A plain restore refuses before it starts, and names the way out."""
    source, empty = system
    project.backup(source)

    with pytest.raises(TargetUnfit, match="Odd role, app_owner") as refused:
        project.restore(empty.dsn("app"))

    assert "restore-full" in refused.value.hint
    listed = run_sql(empty.dsn(), "SELECT datname FROM pg_database ORDER BY 1")
    assert name_of(source) not in {row[0] for row in listed}
