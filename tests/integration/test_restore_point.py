"""`restore-point` end to end: exact targets, refused ones, in place, and by the command line."""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import psycopg
import pytest

from aurora.engines.logical.targets import Target, to_micros
from aurora.errors import TargetNotEmpty, TargetRefused, UsageError
from aurora.operations.backup import BackupOptions, BackupReport
from aurora.operations.incremental import create_full, create_incremental
from aurora.operations.point import find_point
from aurora.operations.recover import RecoveryPlan, plan_recovery, run_recovery
from aurora.operations.reports import RestoreReport
from aurora.operations.restore_plan import RestoreOptions
from aurora.operations.restore_table import run_restore_table
from aurora.operations.restore_table_plan import TableOptions, TablePlan, plan_restore_table
from aurora.operations.source import plan_prepare, run_prepare
from tests.fixtures.looks import compare, look, run_script, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import LABEL, NewRole, NewTarget, Project

pytest_plugins = ["tests.fixtures.backups"]


class Story:
    """A source with a change log, and what is done with it."""

    def __init__(self, project: Project, dsn: str) -> None:
        self.project, self.dsn = project, dsn

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        return run_sql(self.dsn, *statements)

    def xid(self, statement: str) -> int:
        """Run a statement in a transaction; its number."""
        with psycopg.connect(self.dsn) as conn:
            conn.execute(statement.encode())
            row = conn.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
            assert row is not None
            return int(row[0])

    def prepare(self) -> None:
        run_prepare(plan_prepare(self.dsn, LABEL), sink=self.project.events.append)

    def full(self) -> BackupReport:
        return create_full(
            self.dsn, self.project.repository, BackupOptions(database=LABEL),
            open_mirror=None, sink=self.project.events.append,
        )  # fmt: skip

    def incremental(self) -> BackupReport:
        return create_incremental(
            self.dsn, self.project.repository, BackupOptions(database=LABEL),
            open_mirror=None, sink=self.project.events.append,
        )  # fmt: skip

    def plan(self, dsn: str, target: Target, **options: Any) -> RecoveryPlan:
        return plan_recovery(
            self.project.repository, LABEL, target, dsn, RestoreOptions(**options),
            sink=self.project.events.append,
        )  # fmt: skip

    def recover(self, dsn: str, target: Target, **options: Any) -> RestoreReport:
        def safety() -> str:
            return self.project.backup(dsn, type="safety", accept_new_source=True).backup_id

        plan = self.plan(dsn, target, **options)
        return run_recovery(plan, make_safety_backup=safety, sink=self.project.events.append)

    def plan_table(self, dsn: str, name: str, target: Target, **options: Any) -> TablePlan:
        sink = self.project.events.append
        point = find_point(self.project.repository, LABEL, target, sink=sink)
        return plan_restore_table(point, name, dsn, TableOptions(**options))

    def table(self, dsn: str, name: str, target: Target, **options: Any) -> RestoreReport:
        def safety(chosen: TablePlan) -> str:
            made = self.project.backup(
                dsn, type="safety", accept_new_source=True, only=frozenset(chosen.there)
            )
            return made.backup_id

        plan = self.plan_table(dsn, name, target, **options)
        return run_restore_table(plan, make_safety_backup=safety, sink=self.project.events.append)


@pytest.fixture
def story(project: Project, new_database: NewDatabase) -> Iterator[Story]:
    dsn = new_database()
    run_script(
        dsn,
        """
        CREATE TABLE item (id serial PRIMARY KEY, name text, big text);
        ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
        CREATE TABLE still (id int PRIMARY KEY, v text);
        CREATE TABLE loose (a int);
        CREATE TABLE one (id int PRIMARY KEY);
        CREATE MATERIALIZED VIEW names AS SELECT name FROM item;
        INSERT INTO item (name, big) SELECT 'n' || i, repeat('b', 9000)
            FROM generate_series(1, 300) i;
        INSERT INTO still SELECT i, 'v' FROM generate_series(1, 2000) i;
        INSERT INTO loose VALUES (1);
        INSERT INTO one SELECT generate_series(1, 5);
        """,
    )
    yield Story(project, dsn)
    with contextlib.suppress(psycopg.Error):
        run_sql(dsn, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                     " WHERE database = current_database()")  # fmt: skip


def rows(dsn: str, table: str) -> list[tuple[Any, ...]]:
    return run_sql(dsn, f"SELECT * FROM {table} ORDER BY 1")


def test_a_disaster_is_undone(story: Story, new_target: NewTarget) -> None:
    """Everything up to the transaction before the one that did it, sequences not too low."""
    story.prepare()
    story.full()
    story.sql("UPDATE item SET name = 'kept' WHERE id < 50", "DELETE FROM one WHERE id = 3")
    story.sql("UPDATE one SET id = 30 WHERE id = 2", "REFRESH MATERIALIZED VIEW names")
    before = {name: rows(story.dsn, name) for name in ("item", "still", "one", "names")}
    disaster = story.xid("DELETE FROM item WHERE id > 10")
    story.sql("INSERT INTO item (name) VALUES ('later')")
    story.incremental()
    target = new_target()

    report = story.recover(target, Target(before_xid=disaster))

    assert (report.outcome, report.problems, report.kind) == ("restored", [], "restore-point")
    assert {name: rows(target, name) for name in before} == before
    assert run_sql(target, "SELECT last_value >= 301 FROM item_id_seq") == [(True,)]
    assert report.rows == sum(
        len(before[name]) for name in ("item", "still", "one")) + 1  # fmt: skip
    told = "\n".join(report.notes)
    assert "public.loose has no replica identity" in told
    assert "the number of rows was checked" in told


def test_latest_equals_the_source(story: Story, new_target: NewTarget) -> None:
    """As far as the log reaches, over several incrementals and a second full."""
    story.prepare()
    story.full()
    story.sql("UPDATE item SET name = 'x' WHERE id % 3 = 0", "TRUNCATE one")
    story.incremental()
    story.sql("INSERT INTO one VALUES (7)", "INSERT INTO loose VALUES (2)")
    story.sql("REFRESH MATERIALIZED VIEW names")  # a restore computes it anew
    story.incremental()
    first, second = new_target(), new_target()
    story.recover(first, Target(latest=True))
    compare(look(story.dsn), look(first))

    made = story.full()
    story.sql("UPDATE still SET v = E'\\\\t\\t\\n' WHERE id < 5")
    story.incremental()
    plan = story.plan(second, Target(latest=True))
    assert plan.resolution.base.backup == made.backup_id
    story.recover(second, Target(latest=True))
    compare(look(story.dsn), look(second))


def test_the_plan_tells_both_sides(story: Story, new_target: NewTarget) -> None:
    """The transactions next to the target, and what is lost."""
    story.prepare()
    full = story.full()
    first = story.xid("INSERT INTO one VALUES (100)")
    second = story.xid("INSERT INTO one VALUES (101)")
    third = story.xid("INSERT INTO one VALUES (102)")
    story.incremental()
    plan = story.plan(new_target(), Target(xid=second))
    found = plan.document()

    assert found["backup_id"] == full.backup_id
    assert isinstance(found["last_applied"], dict)
    assert found["last_applied"]["xid"] == second
    assert isinstance(found["first_left_out"], dict)
    assert found["first_left_out"]["xid"] == third
    assert found["lost_transactions"] == 1
    facts = dict(plan.facts())
    assert facts["lost"].startswith("1 transaction after it")
    assert facts["change log"].startswith("1 segment of 1 incremental")
    earlier = story.plan(new_target(), Target(before_xid=second))
    assert earlier.resolution.cut is not None
    assert earlier.resolution.cut.xid == first


def test_schema_changes_are_refused_in_between(story: Story, new_target: NewTarget) -> None:
    """Before and after are exact; in between is refused, with both."""
    story.prepare()
    story.full()
    before = story.xid("INSERT INTO one VALUES (100)")
    story.incremental()
    story.sql("ALTER TABLE one ADD COLUMN more int DEFAULT 5")
    between = story.xid("INSERT INTO one VALUES (101)")
    made = story.incremental()
    assert made.type == "full"
    after = story.xid("INSERT INTO one VALUES (102)")
    story.incremental()

    with pytest.raises(UsageError) as refused:
        story.plan(new_target(), Target(xid=between))
    assert f"xid {before}" in refused.value.hint
    assert made.backup_id in refused.value.hint
    one, other = new_target(), new_target()
    story.recover(one, Target(xid=before))
    assert rows(one, "one") == [(n,) for n in (1, 2, 3, 4, 5, 100)]
    story.recover(other, Target(xid=after))
    assert rows(other, "one")[-3:] == [(100, 5), (101, 5), (102, 5)]


def test_outside_of_the_log(story: Story, new_target: NewTarget) -> None:
    """Too early and too late are refused, with the nearest that can be met."""
    story.prepare()
    story.full()
    story.sql("INSERT INTO one VALUES (100)")
    story.incremental()
    now = run_sql(story.dsn, "SELECT now()")[0][0]
    for at in (to_micros(now) - 3600 * 10**6, to_micros(now) + 3600 * 10**6):
        with pytest.raises(UsageError, match="cannot be met exactly") as refused:
            story.plan(new_target(), Target(at=at))
        assert "nearest" in refused.value.hint


def test_while_nothing_is_streamed(story: Story, new_target: NewTarget) -> None:
    """Idle hours: any moment of them is exact, and other tables are of the last re-read."""
    story.prepare()
    story.full()
    story.sql("INSERT INTO one VALUES (100)")
    found = []
    for number in range(3):
        story.sql(f"INSERT INTO loose VALUES (10 + {number})")
        story.incremental()
        found.append(run_sql(story.dsn, "SELECT clock_timestamp()")[0][0])
        time.sleep(0.2)
    target = new_target()
    plan = story.plan(target, Target(at=to_micros(found[1])))
    assert plan.point.reread["public.loose"] < found[1].astimezone(UTC).isoformat()
    story.recover(target, Target(at=to_micros(found[1])))
    assert rows(target, "loose") == [(1,), (10,), (11,)]
    assert rows(target, "one")[-1] == (100,)
    newest = new_target()
    story.recover(newest, Target(latest=True))
    assert rows(newest, "loose") == [(1,), (10,), (11,), (12,)]


def test_in_place(story: Story) -> None:
    """Over the source itself: a safety backup, a swap; without --in-place nothing."""
    story.prepare()
    story.full()
    good = story.xid("INSERT INTO one VALUES (100)")
    story.sql("DELETE FROM one")
    story.incremental()
    with pytest.raises(TargetNotEmpty):
        story.plan(story.dsn, Target(xid=good))

    report = story.recover(story.dsn, Target(xid=good), in_place=True)

    assert report.safety_backup
    assert report.old_database
    assert [row[0] for row in rows(story.dsn, "one")] == [1, 2, 3, 4, 5, 100]
    old = report.old_database
    conn = psycopg.connect(story.dsn.rsplit("/", 1)[0] + f"/{old}", autocommit=True)
    with conn:
        conn.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                     " WHERE database = current_database()")  # fmt: skip
    run_sql(story.dsn, f'DROP DATABASE "{old}" (FORCE)')


def test_values_larger_than_a_segment(story: Story, new_target: NewTarget) -> None:
    """A row that several segments part, updated afterwards without being sent again."""
    story.prepare()
    story.full()
    story.sql(
        "INSERT INTO item (id, name, big) VALUES (1000, 'huge', repeat('h', 20000000))",
        "UPDATE item SET name = 'renamed', id = 1001 WHERE id = 1000",
        "INSERT INTO one VALUES (100)",
    )
    story.incremental()
    target = new_target()
    story.recover(target, Target(latest=True))
    asked = "SELECT id, name, length(big), md5(big) FROM item WHERE id > 900"
    assert run_sql(target, asked) == run_sql(story.dsn, asked) != []
    assert rows(target, "one") == rows(story.dsn, "one")


def test_one_table_beside_the_existing_one(story: Story) -> None:
    """Its own changes alone, of all that the log holds; its own chunks alone, of the full."""
    story.prepare()
    story.full()
    story.sql(
        "UPDATE item SET name = 'kept' WHERE id < 50",  # TOAST stays
        "UPDATE item SET id = id + 1000 WHERE id BETWEEN 20 AND 30",
        "DELETE FROM item WHERE id = 60",
        "INSERT INTO one VALUES (100)",
    )
    story.incremental()
    before = rows(story.dsn, "item")
    disaster = story.xid("DELETE FROM item WHERE id > 10")
    story.sql("TRUNCATE one")
    story.incremental()
    run_sql(story.dsn, "CREATE SCHEMA scratch")

    report = story.table(story.dsn, "item", Target(before_xid=disaster), as_name="scratch.item")

    assert rows(story.dsn, "scratch.item") == before
    assert len(rows(story.dsn, "item")) == 10
    assert (report.outcome, report.rows) == ("restored", len(before))
    assert report.recovered_to == f"just before transaction {disaster}"
    assert report.notes[0].startswith("recovered to")


def test_one_table_replaced_and_made_anew(story: Story) -> None:
    """--replace keeps what refers to it, and sequences never go back; a dropped one is made."""
    story.sql(
        "CREATE TABLE refers (id int REFERENCES one)",
        "CREATE INDEX by_v ON still (v)",
        "CREATE VIEW seen AS SELECT id FROM still",
    )
    story.prepare()
    story.full()
    story.sql("INSERT INTO one VALUES (100)", "INSERT INTO refers VALUES (100)")
    story.sql("UPDATE still SET v = 'new' WHERE id <= 20", "DELETE FROM still WHERE id > 1990")
    good = story.xid("INSERT INTO one VALUES (101)")
    still = rows(story.dsn, "still")
    story.sql("INSERT INTO one VALUES (102)", "DELETE FROM one WHERE id < 5")
    story.incremental()

    report = story.table(story.dsn, "one", Target(xid=good), replace=True)
    assert report.safety_backup
    assert [row[0] for row in rows(story.dsn, "one")] == [1, 2, 3, 4, 5, 100, 101]
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run_sql(story.dsn, "DELETE FROM one WHERE id = 100")

    run_sql(story.dsn, "DROP TABLE still CASCADE")
    report = story.table(story.dsn, "still", Target(xid=good))
    assert (report.outcome, report.rows) == ("restored", 1990)
    assert rows(story.dsn, "still") == still
    assert run_sql(story.dsn, "SELECT count(*) FROM seen") == [(1990,)]
    assert run_sql(story.dsn, "SELECT count(*) FROM pg_indexes WHERE indexname = 'by_v'") == [(1,)]


def test_a_partition_tree_to_a_point(story: Story) -> None:
    """Rows that moved between partitions; a table of the last re-read says so."""
    story.sql(
        "CREATE TABLE part (id int, p int, v text, PRIMARY KEY (id, p)) PARTITION BY LIST (p)",
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)",
        "CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2)",
        "INSERT INTO part SELECT i, 1 + i % 2, 'v' FROM generate_series(1, 50) i",
    )
    story.prepare()
    story.full()
    story.sql("UPDATE part SET p = 3 - p WHERE id % 3 = 0", "DELETE FROM part WHERE id = 7")
    good = story.xid("UPDATE part SET v = 'good' WHERE id < 9")
    before = rows(story.dsn, "part")
    story.sql("TRUNCATE part_1", "INSERT INTO loose VALUES (9)")
    story.incremental()
    story.table(story.dsn, "part", Target(xid=good), replace=True)
    assert rows(story.dsn, "part") == before
    plan = story.plan_table(story.dsn, "loose", Target(xid=good), as_name="loose_then")
    assert "as of a re-read" in dict(plan.facts())
    assert "as of a re-read" not in dict(story.plan_table(
        story.dsn, "part_1", Target(xid=good), as_name="x").facts())  # fmt: skip


def test_a_table_left_alone_by_a_failed_recovery(story: Story) -> None:
    """A foreign key that the point's rows do not satisfy: refused, nothing was changed."""
    story.sql("CREATE TABLE refers (id int REFERENCES one)")
    story.prepare()
    story.full()
    early = story.xid("INSERT INTO still VALUES (9999, 'x')")
    story.sql("INSERT INTO one VALUES (100)", "INSERT INTO refers VALUES (100)")
    story.incremental()
    before = rows(story.dsn, "one")
    with pytest.raises(TargetRefused, match="refer to rows"):
        story.table(story.dsn, "one", Target(xid=early), replace=True)
    assert rows(story.dsn, "one") == before


def test_the_system_to_a_point(story: Story, new_target: NewTarget, new_role: NewRole) -> None:
    """Roles and the database's settings are those of the last backup not after the target."""
    story.prepare()
    story.full()
    role = new_role("later_role")
    name = story.dsn.rsplit("/", 1)[1]
    story.sql(f"ALTER DATABASE {name} SET work_mem = '7MB'", "INSERT INTO one VALUES (100)")
    story.incremental()
    good = story.xid("INSERT INTO one VALUES (101)")
    story.sql(f"ALTER DATABASE {name} SET work_mem = '9MB'", "DELETE FROM one")
    story.incremental()
    plan = story.plan(new_target(), Target(xid=good), with_roles=True, accept_refusals=True)
    roles = plan.point.backup.read_all(plan.point.snapshot.globals).decode()
    assert role in roles
    assert role not in plan.point.backup.read_all(plan.point.backup.snapshot.globals).decode()

    target = new_target()
    report = story.recover(target, Target(xid=good), with_roles=True, accept_refusals=True)
    assert (report.kind, report.outcome) == ("restore-full", "restored")
    assert rows(target, "one") == [(n,) for n in (1, 2, 3, 4, 5, 100, 101)]
    assert run_sql(target, "SHOW work_mem") == [("7MB",)]
