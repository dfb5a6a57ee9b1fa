"""Schema changes between a full and a target: carried exactly, or refused with both sides."""

import contextlib
import itertools
from collections.abc import Iterator

import psycopg
import pytest

from aurora.engines.logical import ddl
from aurora.engines.logical.slot import LogNames
from aurora.engines.logical.targets import Target
from aurora.errors import SourceUnsupported, UsageError
from aurora.operations.log import Filter, transactions
from aurora.operations.source import plan_prepare, plan_undo, run_prepare, run_undo
from aurora.postgres.server import open_control
from tests.fixtures.looks import run_script, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import LABEL, NewRole, NewTarget, Project
from tests.integration.test_restore_point import Story, rows

pytest_plugins = ["tests.fixtures.backups"]
NAMES = LogNames.of(LABEL)
ODD = r"""E'a"{,}\\b' """


@pytest.fixture
def story(project: Project, new_database: NewDatabase) -> Iterator[Story]:
    dsn = new_database()
    run_script(
        dsn,
        """
        CREATE TABLE one (id int PRIMARY KEY, v text);
        CREATE TABLE two (id serial PRIMARY KEY, v text);
        CREATE TYPE mood AS ENUM ('good');
        CREATE TABLE part (id int, p int, PRIMARY KEY (id, p)) PARTITION BY LIST (p);
        CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
        INSERT INTO one SELECT i, 'v' || i FROM generate_series(1, 5) i;
        INSERT INTO two (v) SELECT 'w' || i FROM generate_series(1, 5) i;
        INSERT INTO part SELECT i, 1 FROM generate_series(1, 5) i;
        """,
    )
    run_prepare(plan_prepare(dsn, LABEL, ddl_markers=True), sink=project.events.append)
    yield Story(project, dsn)
    with contextlib.suppress(psycopg.Error):
        run_sql(dsn, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                     " WHERE database = current_database()")  # fmt: skip


def marks(story: Story) -> list[str]:
    """The tags of the marked changes in the log."""
    found = transactions(story.project.repository, LABEL, Filter(with_marks=True))
    return [
        ddl.read_change(text).tag if text.startswith("ddl ") else text.split()[0]
        for one in found
        for text in one.messages
        if text.startswith(("ddl ", "rewrite "))
    ]


def test_markers_stand_where_the_schema_changed(story: Story) -> None:
    """Each change once; none for temporary tables, for what changes nothing, for what is undone."""
    story.full()
    story.sql(
        "CREATE TEMP TABLE passing (x int)", "CREATE TABLE IF NOT EXISTS one (id int)",
        "DROP TABLE IF EXISTS nothing", "CREATE TABLE three (id int PRIMARY KEY)",
        "ALTER TABLE one ADD COLUMN w text DEFAULT now()::text",
        f"ALTER TABLE one ADD COLUMN n text DEFAULT {ODD}", "DROP TABLE three",
        "ALTER TABLE one ALTER COLUMN id TYPE bigint", "CREATE INDEX ON one (v)",
        "ALTER TYPE mood ADD VALUE 'bad'", "GRANT SELECT ON one TO PUBLIC",
    )  # fmt: skip
    with psycopg.connect(story.dsn) as conn:
        conn.execute("CREATE TABLE undone (id int)")
        conn.rollback()
    story.incremental()
    story.incremental()
    assert marks(story) == [
        "CREATE TABLE", "ALTER TABLE", "ALTER TABLE", "DROP TABLE", "rewrite", "ALTER TABLE",
        "CREATE INDEX", "ALTER TYPE", "GRANT",
    ]  # fmt: skip


def test_markers_never_stand_in_the_way(story: Story, new_role: NewRole) -> None:
    """A plain role's DDL under a bent search_path, replica sessions, revoked functions."""
    role = new_role("builder")
    story.sql(
        f"GRANT CREATE, USAGE ON SCHEMA public TO {role}",
        "DO $$ DECLARE f text; BEGIN FOR f IN SELECT oid::regprocedure FROM pg_proc WHERE"
        " proname = 'pg_logical_emit_message' LOOP EXECUTE"
        " format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f); END LOOP; END $$",
    )
    story.full()
    with psycopg.connect(story.dsn, autocommit=True) as conn:
        conn.execute(f"SET ROLE {role}".encode())
        conn.execute("CREATE TABLE public.pg_class (objid int)")
        conn.execute("SET search_path = public, pg_catalog")
        conn.execute("CREATE TABLE mine (id int PRIMARY KEY)")
        conn.execute("ALTER TABLE mine ADD COLUMN v text DEFAULT 'x'")
        conn.execute("SET aurora.plain_ddl_markers = on")
        conn.execute("DROP TABLE mine")
        conn.execute("RESET ROLE")
        conn.execute("SET session_replication_role = replica")
        conn.execute("CREATE TABLE quiet (id int PRIMARY KEY)")
    assert story.incremental().type == "full"
    story.incremental()
    found = [tag for tag in marks(story) if tag.endswith(" TABLE")]
    assert [tag for tag, _ in itertools.groupby(found)] == [
        "CREATE TABLE", "ALTER TABLE", "DROP TABLE", "CREATE TABLE",
    ]  # fmt: skip


def test_exact_up_to_the_change_and_from_the_next_full_on(
    story: Story, new_target: NewTarget
) -> None:
    """The last commit before it, also of a table that is dropped by it; in between refused."""
    story.full()
    story.sql("INSERT INTO one VALUES (10, 'before')")
    last = story.xid("UPDATE two SET v = 'last' WHERE id = 2")
    before = {name: rows(story.dsn, name) for name in ("one", "two")}
    story.sql("CREATE TABLE three (id int PRIMARY KEY)", "DROP TABLE two")
    between = story.xid("INSERT INTO three VALUES (1)")
    between = story.xid("INSERT INTO one VALUES (11, 'between')")
    made = story.incremental()
    assert made.type == "full"
    story.sql("INSERT INTO one VALUES (12, 'after')")
    story.incremental()

    target = new_target()
    report = story.recover(target, Target(xid=last))
    assert {name: rows(target, name) for name in before} == before
    assert any("two_id_seq was dropped after the target" in note for note in report.notes)
    assert not any("its rows are of" in note for note in report.notes)
    traces = "SELECT (SELECT count(*) FROM pg_event_trigger), to_regnamespace('aurora_app')"
    assert run_sql(target, traces) == [(0, None)]
    with pytest.raises(UsageError) as refused:
        story.plan(new_target(), Target(xid=between))
    assert f"xid {last}" in refused.value.hint
    assert made.backup_id in refused.value.hint
    newest = new_target()
    story.recover(newest, Target(latest=True))
    assert rows(newest, "one") == rows(story.dsn, "one")


def test_a_change_that_was_taken_back(story: Story, new_target: NewTarget) -> None:
    """Both looks find the same schema; what lies between its markers is refused all the same."""
    story.full()
    first = story.xid("INSERT INTO one VALUES (10, 'x')")
    story.sql("CREATE TABLE passing (id int PRIMARY KEY)")
    inside = story.xid("INSERT INTO one VALUES (11, 'x')")
    story.sql("DROP TABLE passing")
    after = story.xid("INSERT INTO one VALUES (12, 'x')")
    assert story.incremental().type == "incremental"
    with pytest.raises(UsageError) as refused:
        story.plan(new_target(), Target(xid=inside))
    assert f"xid {first}" in refused.value.hint
    for xid, count in ((first, 6), (after, 8)):
        target = new_target()
        story.recover(target, Target(xid=xid))
        assert len(rows(target, "one")) == count


def test_switched_off_markers_are_not_trusted(story: Story, new_target: NewTarget) -> None:
    """Off and on again leaves a trace: then only looks count, as without markers."""
    story.full()
    trigger = NAMES.event_triggers["ddl"]
    story.sql(
        f"ALTER EVENT TRIGGER {trigger} DISABLE",
        "ALTER TABLE one ADD COLUMN w int DEFAULT 1",
        f"ALTER EVENT TRIGGER {trigger} ENABLE ALWAYS",
    )
    inside = story.xid("INSERT INTO two (v) VALUES ('x')")
    story.sql("CREATE TABLE three (id int PRIMARY KEY)")
    assert story.incremental().type == "full"
    story.incremental()
    with pytest.raises(UsageError, match="cannot be met exactly"):
        story.plan(new_target(), Target(xid=inside))


def test_undo_removes_every_trace(story: Story) -> None:
    """And preparing again makes what is lacking, and mends what was changed."""
    with open_control(story.dsn) as conn:
        assert ddl.markers_of(conn, NAMES)
        assert ddl.marker_statements(conn, NAMES) == []
    story.sql(f"ALTER EVENT TRIGGER {NAMES.event_triggers['drop']} DISABLE")
    mend = plan_prepare(story.dsn, LABEL, ddl_markers=True)
    assert len(mend.statements) == 11
    run_prepare(mend, sink=story.project.events.append)
    assert plan_prepare(story.dsn, LABEL, ddl_markers=True).statements == ()
    run_undo(plan_undo(story.dsn, LABEL), sink=story.project.events.append)
    left = run_sql(
        story.dsn,
        "SELECT (SELECT count(*) FROM pg_event_trigger), "
        "(SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'aurora%'), "
        "(SELECT count(*) FROM pg_publication)",
    )
    assert left == [(0, 0, 0)]
    assert plan_undo(story.dsn, LABEL).statements == ()


def test_a_role_that_may_not_make_them(new_database: NewDatabase, new_role: NewRole) -> None:
    """Asked for, it is refused before anything is tried; else they are offered to others."""
    dsn = new_database()
    role = new_role("plain", "LOGIN REPLICATION")
    name = dsn.rsplit("/", 1)[1]
    run_sql(dsn, f"GRANT CREATE ON DATABASE {name} TO {role}")
    host = dsn.rsplit("@", 1)[-1] if "@" in dsn else dsn.split("//", 1)[1]
    plain = f"postgresql://{role}:p@{host}"
    plan = plan_prepare(plain, LABEL, ddl_markers=True)
    assert [one.code for one in plan.refused] == ["log-markers-privilege"]
    with pytest.raises(SourceUnsupported):
        run_prepare(plan, sink=lambda _: None)
    offered = plan_prepare(plain, LABEL)
    assert "log-no-markers" in [one.code for one in offered.obstacles]
    assert not offered.refused
