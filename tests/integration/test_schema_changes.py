"""Schema changes between a full and a target: carried exactly, or refused with both sides."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator

import psycopg
import pytest

from aurora.engines.logical import ddl
from aurora.engines.logical.slot import LogNames
from aurora.engines.logical.targets import Target
from aurora.errors import SourceUnsupported, UsageError
from aurora.operations.log import transactions
from aurora.operations.recover import run_recovery
from aurora.operations.source import plan_prepare, plan_undo, run_prepare, run_undo
from aurora.postgres.server import open_control
from tests.fixtures.faults import eventually
from tests.fixtures.hosted import NewProject
from tests.fixtures.looks import Look, compare, look, run_script, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import LABEL, NewRole, NewTarget, Project
from tests.fixtures.streaming import streaming
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
    found = transactions(story.project.repository, LABEL)
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
        "CREATE INDEX", "ALTER TYPE",
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


def test_what_no_fingerprint_tells(story: Story, new_target: NewTarget) -> None:
    """Between the change and the look that found the schema the same, it is of that look."""
    story.full()
    story.sql("CREATE TEXT SEARCH CONFIGURATION ours (COPY = simple)")
    inside = story.xid("INSERT INTO one VALUES (10, 'x')")
    assert story.incremental().type == "incremental"
    target = new_target()
    story.recover(target, Target(xid=inside))
    assert run_sql(target, "SELECT count(*) FROM pg_ts_config WHERE cfgname = 'ours'") == [(1,)]


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


def test_markers_of_no_superuser_are_not_trusted(story: Story, new_role: NewRole) -> None:
    """As on hosted Supabase, where they do not fire for everybody."""
    role = new_role("was_super", "LOGIN SUPERUSER")
    trigger = NAMES.event_triggers["rewrite"]
    story.sql(f"ALTER EVENT TRIGGER {trigger} OWNER TO {role}")
    with open_control(story.dsn) as conn:
        assert ddl.markers_of(conn, NAMES)
    story.sql(f"ALTER ROLE {role} NOSUPERUSER")
    with open_control(story.dsn) as conn:
        assert not ddl.markers_of(conn, NAMES)
    story.sql(f"ALTER EVENT TRIGGER {trigger} OWNER TO CURRENT_USER")


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


def test_hosted_supabase_is_not_offered_them(new_project: NewProject) -> None:
    """Its postgres is no superuser: its event triggers would miss the platform's changes."""
    plan = plan_prepare(new_project(), LABEL, ddl_markers=True)
    assert "log-markers-privilege" in [one.code for one in plan.refused]


TABLES = """
CREATE TYPE level AS ENUM ('low', 'high');
CREATE SCHEMA old_name;
CREATE TABLE plain (id int PRIMARY KEY, v text, big text);
CREATE TABLE gains (id int PRIMARY KEY, big text, v text);
CREATE TABLE loses (a text, id int PRIMARY KEY, b text, big text);
CREATE TABLE again (id int PRIMARY KEY, v text, w text);
CREATE TABLE swaps (id int PRIMARY KEY, v text, w text);
CREATE TABLE old_name.renamed (id int PRIMARY KEY, v text);
CREATE TABLE twin (a int, b text, big text);
ALTER TABLE twin REPLICA IDENTITY FULL;
CREATE TABLE leveled (id int PRIMARY KEY, l level);
CREATE TABLE gone (id int PRIMARY KEY, v text);
CREATE TABLE tree (id int, p int, v text, PRIMARY KEY (id, p)) PARTITION BY LIST (p);
CREATE TABLE tree_1 PARTITION OF tree FOR VALUES IN (1);
CREATE TABLE tree_2 PARTITION OF tree FOR VALUES IN (2);
CREATE TABLE joins (v text, p int NOT NULL, id int NOT NULL, PRIMARY KEY (id, p));
CREATE TABLE quiet (id int PRIMARY KEY, v text);
ALTER TABLE gains ALTER big SET STORAGE EXTERNAL;
ALTER TABLE loses ALTER big SET STORAGE EXTERNAL;
ALTER TABLE twin ALTER big SET STORAGE EXTERNAL;
INSERT INTO plain SELECT i, 'v', 'b' FROM generate_series(1, 30) i;
INSERT INTO gains SELECT i, repeat(chr(96 + i), 5000), 'v' FROM generate_series(1, 20) i;
INSERT INTO loses SELECT 'a', i, 'b', repeat(chr(96 + i), 5000) FROM generate_series(1, 20) i;
INSERT INTO again SELECT i, 'v', 'w' FROM generate_series(1, 20) i;
INSERT INTO swaps SELECT i, 'v' || i, 'w' || i FROM generate_series(1, 20) i;
INSERT INTO old_name.renamed SELECT i, 'v' FROM generate_series(1, 20) i;
INSERT INTO twin SELECT i % 3, 'b', repeat('t', 4000) FROM generate_series(1, 12) i;
INSERT INTO leveled SELECT i, 'low' FROM generate_series(1, 5) i;
INSERT INTO gone SELECT i, 'v' FROM generate_series(1, 5) i;
INSERT INTO tree SELECT i, 1 + i % 2, 'v' FROM generate_series(1, 20) i;
INSERT INTO joins SELECT 'j', 3, i FROM generate_series(1, 5) i;
INSERT INTO quiet SELECT i, 'v' FROM generate_series(1, 20) i;
"""
BEFORE = (
    "UPDATE gains SET v = 'before' WHERE id BETWEEN 3 AND 6",
    "UPDATE gains SET big = repeat('G', 7000) WHERE id = 5",
    "UPDATE loses SET id = id + 100 WHERE id < 5",
    "UPDATE loses SET b = 'before' WHERE id BETWEEN 6 AND 8",
    "DELETE FROM again WHERE id = 1", "UPDATE swaps SET v = 'before' WHERE id < 4",
    "INSERT INTO old_name.renamed VALUES (50, 'before')", "DELETE FROM gone WHERE id = 1",
    "DELETE FROM twin WHERE ctid IN (SELECT ctid FROM twin WHERE a = 1 LIMIT 2)",
    "INSERT INTO twin VALUES (7, 'before', repeat('x', 3000)), (7, 'before', repeat('x', 3000))",
    "UPDATE tree SET p = 3 - p WHERE id < 5", "UPDATE joins SET v = 'before' WHERE id = 1",
)  # fmt: skip
CHANGES = (
    "CREATE INDEX ON plain (v)", "ALTER TABLE plain ADD CHECK (id > 0)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE VIEW seen AS SELECT id FROM plain",
    "ALTER TABLE gains ADD COLUMN none text, ADD COLUMN at timestamptz DEFAULT now(),"
    f" ADD COLUMN odd text NOT NULL DEFAULT {ODD} || E'\\t',"
    " ADD COLUMN many int[] DEFAULT '{1,2}'",
    "ALTER TABLE gains ALTER odd SET DEFAULT 'later'", "ALTER TABLE gains ALTER at DROP DEFAULT",
    "INSERT INTO plain VALUES (100, 'between', 'b')", "UPDATE swaps SET v = 'between' WHERE id = 9",
    "ALTER TABLE loses DROP COLUMN a, DROP COLUMN b",
    "ALTER TABLE loses ADD COLUMN a int DEFAULT 7",
    "ALTER TABLE again DROP COLUMN v", "ALTER TABLE again ADD COLUMN v text DEFAULT 'new'",
    "BEGIN; ALTER TABLE swaps RENAME v TO x; ALTER TABLE swaps RENAME w TO v;"
    " ALTER TABLE swaps RENAME x TO w; COMMIT",
    "ALTER TABLE old_name.renamed RENAME TO newer", "ALTER SCHEMA old_name RENAME TO new_name",
    "ALTER TABLE new_name.newer RENAME v TO words",
    "ALTER TABLE twin DROP COLUMN b", "ALTER TABLE twin ADD COLUMN c text DEFAULT 'c'",
    "ALTER TYPE level ADD VALUE 'middle' AFTER 'low'", "ALTER TYPE level ADD VALUE 'top'",
    "DROP TABLE gone", "ALTER TABLE tree DETACH PARTITION tree_2",
    "ALTER TABLE tree ADD COLUMN more int DEFAULT 3", "ALTER TABLE joins ADD COLUMN more int",
    "ALTER TABLE tree ATTACH PARTITION joins FOR VALUES IN (3)",
    "ALTER TABLE quiet ADD COLUMN w text DEFAULT 'w', DROP COLUMN v",
    "VACUUM FULL gains",  # nothing in the catalog tells of the defaults any more
)  # fmt: skip
AFTER = (
    "UPDATE gains SET none = 'after' WHERE id IN (4, 5, 9)",
    "UPDATE gains SET id = id + 100 WHERE id IN (6, 10)",
    "INSERT INTO gains (id, v) VALUES (77, 'after')",
    "UPDATE loses SET a = 8 WHERE id IN (7, 10, 101)", "DELETE FROM loses WHERE id = 102",
    "UPDATE again SET w = 'after' WHERE id < 5", "UPDATE swaps SET v = 'after' WHERE id < 2",
    "UPDATE new_name.newer SET words = 'after' WHERE id > 18",
    "UPDATE leveled SET l = 'middle' WHERE id < 3", "INSERT INTO leveled VALUES (9, 'top')",
    "DELETE FROM twin WHERE ctid IN (SELECT ctid FROM twin WHERE a = 7 LIMIT 1)",
    "UPDATE twin SET c = 'after' WHERE a = 2", "INSERT INTO twin VALUES (7, 'new', 'after')",
    "UPDATE tree SET v = 'after' WHERE id % 5 = 0", "UPDATE tree_2 SET v = 'after' WHERE id < 9",
    "UPDATE joins SET p = 3, v = 'moved' WHERE id = 2",
)  # fmt: skip


def _seen(dsn: str) -> Look:
    """All of a database but what the change log needs there, and positions of sequences."""
    found = look(dsn)
    schema = tuple(entry for entry in found.schema if "aurora_app" not in entry)
    return dataclasses.replace(found, schema=schema, sequences={})


def _changed(story: Story, *changes: str) -> tuple[int, int]:
    """Full, rows, changes, rows; the last transactions before and after the changes."""
    run_script(story.dsn, TABLES)
    plan = plan_prepare(story.dsn, LABEL, ddl_markers=True)
    run_prepare(plan, sink=story.project.events.append)
    story.full()
    story.sql(*BEFORE)
    before = story.xid("INSERT INTO plain VALUES (200, 'last', 'b')")
    story.sql(*changes)
    return before, story.xid("INSERT INTO plain VALUES (201, 'first', 'b')")


def test_carried_changes(story: Story, new_target: NewTarget) -> None:
    """Whatever can be proven is exact between the change and the next full, row for row."""
    _changed(story, *CHANGES)
    story.sql(*AFTER)
    target_xid = story.xid("UPDATE plain SET big = 'target' WHERE id < 4")
    then = _seen(story.dsn)
    story.sql("DELETE FROM gains", "TRUNCATE twin", "UPDATE loses SET a = 0")
    made = story.incremental()
    assert made.type == "full"
    story.incremental()

    target = new_target()
    plan = story.plan(target, Target(xid=target_xid))
    assert plan.point.schema.entry.id == made.backup_id
    assert plan.point.backup.entry.id != made.backup_id
    assert ("schema", f"as {made.backup_id} found it: it changed since the full") in plan.facts()
    report = story.recover(target, Target(xid=target_xid))
    assert any("rows were carried over the change" in note for note in report.notes)
    compare(then, _seen(target))

    name = "new_name.newer"
    run_sql(story.dsn, "CREATE SCHEMA scratch")
    for table in ("gains", "twin", "loses", "quiet"):
        story.table(story.dsn, table, Target(xid=target_xid), as_name=f"scratch.{table}")
        assert sorted(map(str, rows(story.dsn, f"scratch.{table}"))) == sorted(
            map(str, rows(target, table))
        )
    run_sql(story.dsn, f"DELETE FROM {name}")
    story.table(story.dsn, name, Target(xid=target_xid), replace=True)
    assert rows(story.dsn, name) == rows(target, name)


def test_carried_beside_a_stream(story: Story, new_target: NewTarget) -> None:
    """The stream notices the change, makes a full by itself, and its pieces lead over it."""
    first = story.full()
    with streaming(story.project, story.dsn) as running:
        story.sql("UPDATE one SET v = 'before' WHERE id = 1")
        running.keeps(story.dsn)
        story.sql("ALTER TABLE one ADD COLUMN w text DEFAULT 'w', DROP COLUMN v")
        inside = story.xid("UPDATE one SET w = 'after' WHERE id = 2")
        then = rows(story.dsn, "one")
        running.keeps(story.dsn)
        eventually(
            lambda: [b.type for b in story.project.repository.backups(LABEL)].count("full") > 1
        )
        story.sql("DELETE FROM one")
        running.keeps(story.dsn)
        running.end()
    target = new_target()
    plan = story.plan(target, Target(xid=inside))
    assert plan.point.backup.entry.id == first.backup_id
    assert plan.resolution.schema
    story.recover(target, Target(xid=inside))
    assert rows(target, "one") == then


REFUSED = {
    "made": ("CREATE TABLE made (id int PRIMARY KEY)", "was made since"),
    "copied": ("CREATE TABLE copied AS SELECT * FROM plain", "was made since"),
    "again": ("ALTER TABLE again ALTER id TYPE bigint", "was rewritten"),
    "swaps": ("ALTER TABLE swaps ALTER v TYPE varchar", "has a column v of another type"),
    "gains": ("ALTER TABLE gains ADD COLUMN r float8 DEFAULT random()", "was rewritten"),
    "loses": ("ALTER TABLE loses ADD COLUMN n serial", "was rewritten"),
    "quiet": ("ALTER TABLE quiet REPLICA IDENTITY FULL", "has another replica identity"),
    "twin": ("ALTER TABLE twin ADD COLUMN g int GENERATED ALWAYS AS (a) STORED", "was rewritten"),
}


def test_refused_changes(story: Story, new_target: NewTarget) -> None:
    """Named table by table, with the exact targets on both sides; others can be had alone."""
    before, after = _changed(story, *(statement for statement, _ in REFUSED.values()))
    story.sql("UPDATE joins SET v = 'after' WHERE id = 2")
    target = Target(xid=story.xid("DELETE FROM plain WHERE id < 5"))
    joins, plain = rows(story.dsn, "joins"), rows(story.dsn, "plain")
    made = story.incremental()
    story.incremental()
    with pytest.raises(UsageError, match="cannot be met exactly") as refused:
        story.plan(new_target(), target)
    told = refused.value.context["tables"]
    assert isinstance(told, list)
    for name, (_, why) in REFUSED.items():
        assert any(line.startswith(f"public.{name} {why}") for line in told), (name, told)
    assert len(told) == len(REFUSED)
    assert f"xid {before}" in refused.value.hint
    assert made.backup_id in refused.value.hint
    assert after

    for name, held in (("joins", joins), ("plain", plain)):
        story.table(story.dsn, name, target, as_name=f"{name}_then")
        assert rows(story.dsn, f"{name}_then") == held
    with pytest.raises(UsageError, match="swaps has a column v of another"):
        story.plan_table(story.dsn, "swaps", target, as_name="x")


def test_changes_that_may_touch_any_table(story: Story, new_target: NewTarget) -> None:
    """Then none is carried: a value of an enum that was renamed reads otherwise everywhere."""
    _, after = _changed(story, "ALTER TYPE level RENAME VALUE 'low' TO 'lower'")
    story.incremental()
    story.incremental()
    with pytest.raises(UsageError, match=r"the type public.level changed"):
        story.plan(new_target(), Target(xid=after))


@pytest.mark.parametrize(
    "changes",
    [
        "BEGIN; ALTER TABLE again DROP COLUMN v; ALTER TABLE again ADD COLUMN v text;"
        " UPDATE again SET v = 'lost' WHERE id = 3; ALTER TABLE again RENAME v TO x; COMMIT",
        "ALTER TABLE again DROP CONSTRAINT again_pkey, ALTER v SET NOT NULL, ADD COLUMN x int,"
        " ADD PRIMARY KEY (v, id); UPDATE again SET v = 'x' WHERE id = 3",
    ],
)
def test_rows_between_two_changes_of_their_table(
    story: Story, new_target: NewTarget, changes: str
) -> None:
    """Their shape, or their key, is known to nobody any more: refused, nothing put in place."""
    _, after = _changed(story, changes)
    story.incremental()
    story.incremental()
    plan = story.plan(new_target(), Target(xid=after))
    with pytest.raises(UsageError, match="the columns or the identity of"):
        run_recovery(plan, make_safety_backup=None, sink=story.project.events.append)
    story.table(story.dsn, "gains", Target(xid=after), as_name="gains_then")
    assert len(rows(story.dsn, "gains_then")) == 20
