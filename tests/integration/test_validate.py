"""Validation: every way in which a database can differ from its backup is told, and where."""

import threading

import pytest

from aurora.events import discard
from aurora.operations.proof.checks import Outcome, Status
from aurora.operations.proof.validate import Expected, ValidateOptions, ValidateReport, validate
from aurora.operations.source import plan_prepare, plan_undo, run_prepare, run_undo
from tests.fixtures.faults import run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import NewRole, NewTarget, Project

pytest_plugins = ["tests.fixtures.backups"]

SHOP = """
CREATE TABLE items (id int PRIMARY KEY, name text, tags text[], doc json, price numeric);
CREATE TABLE bare (x int, y text);
CREATE TABLE pairs (a int, b text, v int, PRIMARY KEY (a, b));
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE moods (id int, how mood) PARTITION BY HASH (how);
CREATE TABLE moods_0 PARTITION OF moods FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE moods_1 PARTITION OF moods FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX items_name ON items (name);
CREATE SEQUENCE numbers;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE VIEW dear AS SELECT * FROM items WHERE price > 5;
INSERT INTO items SELECT i, 'item ' || i, ARRAY['t' || i], json_build_object('i', i), i
    FROM generate_series(1, 2000) i;
INSERT INTO bare SELECT i % 3, 'y' FROM generate_series(1, 90) i;
INSERT INTO pairs SELECT i % 10, 'b' || i, i FROM generate_series(1, 100) i;
INSERT INTO moods SELECT i, (ARRAY['sad', 'glad'])[1 + i % 2]::mood FROM generate_series(1, 50) i;
SELECT nextval('numbers');
"""


@pytest.fixture
def restored(project: Project, new_database: NewDatabase, new_target: NewTarget) -> str:
    """A restored database that nothing was done to."""
    source = new_database()
    run_sql(source, SHOP)
    project.backup(source, chunk_bytes=64 << 10)
    target = new_target()
    project.restore(target)
    return target


def _validate(project: Project, dsn: str, **options: object) -> ValidateReport:
    chosen = ValidateOptions(**{"differences": 5, **options})  # type: ignore[arg-type]
    return validate(dsn, Expected.of(project.opened()), chosen, sink=discard)


def _problems(report: ValidateReport, name: str) -> list[str]:
    return next(check.problems for check in report.checks if check.name == name)


def test_a_restored_database_is_what_it_was(project: Project, restored: str) -> None:
    """Every check passes, and amcheck where it may be made."""
    report = _validate(project, restored, disposable=True)
    assert report.outcome is Outcome.OK
    assert report.differences == []
    status = {check.name: check.status for check in report.checks}
    assert status["rows and checksums"] is Status.PASSED
    assert status["amcheck"] is Status.PASSED
    assert status["assertions"] is Status.SKIPPED
    assert status["roles"] is Status.PASSED


def test_differences_are_shown_row_by_row(project: Project, restored: str) -> None:
    """By key; without a key by the whole row; up to a limit, with the number of all."""
    run_sql(
        restored,
        "UPDATE items SET price = -1, doc = '{}' WHERE id = 7; DELETE FROM items WHERE id = 8;"
        " INSERT INTO items VALUES (9001, 'new'); UPDATE pairs SET v = NULL WHERE a = 3;"
        " UPDATE bare SET y = 'z' WHERE ctid = (SELECT min(ctid) FROM bare WHERE x = 1);"
        " DELETE FROM moods WHERE id = 4",
    )
    report = _validate(project, restored)
    assert report.outcome is Outcome.BAD
    found = {one.table: one for one in report.differences}
    assert set(found) == {"public.items", "public.pairs", "public.bare", "public.moods"}
    items = found["public.items"]
    assert items.counts == {"changed": 1, "lost": 1, "new": 1}
    by_kind = {row.kind: row for row in items.rows}
    assert (by_kind["changed"].key, by_kind["changed"].found) == ("id=7", "doc={}, price=-1")
    assert by_kind["lost"].key == "id=8"
    assert "name=item 8" in by_kind["lost"].backup
    assert by_kind["new"].found.startswith("id=9001, name=new, tags=NULL")
    assert found["public.pairs"].counts == {"changed": 10}
    assert len(found["public.pairs"].rows) == 5
    assert found["public.pairs"].rows[0].key == "a=3, b=b13"
    assert found["public.bare"].counts == {"lost": 1, "new": 1}
    assert found["public.moods"].counts == {"lost": 1}
    assert "Rows of public.items that differ" in report.markdown()
    assert run_sql(restored, "SELECT count(*) FROM pg_class WHERE relname = 'aurora_expected'") == [
        (0,)
    ]


def test_what_is_gone_or_other_in_the_schema_is_named(project: Project, restored: str) -> None:
    """Objects that are missing, too many, or defined otherwise; sequences that stand elsewhere."""
    run_sql(
        restored,
        "DROP INDEX items_name; CREATE TABLE extra (id int); SELECT nextval('numbers');"
        " CREATE OR REPLACE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 3';"
        " ALTER TABLE pairs DROP CONSTRAINT pairs_pkey",
    )
    report = _validate(project, restored)
    constraints = " ".join(_problems(report, "constraints and indexes"))
    assert "INDEX public items_name" in constraints
    assert "CONSTRAINT public pairs pairs_pkey" in constraints
    others = " ".join(_problems(report, "tables, functions and other objects"))
    assert "extra" in others
    assert "is not in the backup" in others
    assert "FUNCTION public.twice(integer) has another definition" in others
    assert any("sequence public.numbers" in one for one in _problems(report, "rows and checksums"))


def test_what_marks_schema_changes_is_not_missed(
    project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """No restore brings it along: neither the restored database nor the source differs."""
    source, target = new_database(), new_target()
    run_sql(source, SHOP)
    run_prepare(plan_prepare(source, "app", ddl_markers=True), sink=discard)
    try:
        project.backup(source)
        project.restore(target)
        for dsn in (target, source):
            assert _validate(project, dsn).outcome is Outcome.OK
    finally:
        run_undo(plan_undo(source, "app"), sink=discard)


def test_roles_are_compared(project: Project, new_database: NewDatabase, new_role: NewRole) -> None:
    """Attributes and memberships; never a password."""
    new_role("validate_boss")
    new_role("validate_member", "LOGIN CREATEDB")
    dsn = new_database()
    run_sql(dsn, SHOP)
    run_sql(dsn, "GRANT validate_boss TO validate_member")
    project.backup(dsn)
    assert _problems(_validate(project, dsn), "roles") == []
    run_sql(dsn, "ALTER ROLE validate_member NOCREATEDB; REVOKE validate_boss FROM validate_member")
    assert _problems(_validate(project, dsn), "roles") == [
        "role validate_member is not CREATEDB",
        "role validate_member is not a member of validate_boss",
    ]


def test_a_role_that_may_not_look_is_told_what_was_not_compared(
    project: Project, restored: str, new_role: NewRole
) -> None:
    """No traceback and no green: what could not be read is a failed check."""
    role = new_role("validate_poor")
    poor = restored.replace(restored.split("//")[1].split("@", maxsplit=1)[0], f"{role}:p")
    report = _validate(project, poor)
    assert report.outcome is not Outcome.OK
    assert not any(thread.name.startswith("fetch") for thread in threading.enumerate())
