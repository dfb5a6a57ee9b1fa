"""`restore-point` end to end: exact targets, refused ones, in place, and by the command line."""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import psycopg
import pytest

from aurora.engines.logical.targets import Target, to_micros
from aurora.errors import TargetNotEmpty, UsageError
from aurora.operations.backup import BackupOptions, BackupReport
from aurora.operations.incremental import create_full, create_incremental
from aurora.operations.recover import RecoveryPlan, plan_recovery, run_recovery
from aurora.operations.reports import RestoreReport
from aurora.operations.restore import RestoreOptions
from aurora.operations.source import plan_prepare, run_prepare
from tests.fixtures.looks import compare, look, run_script, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import LABEL, NewTarget, Project

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
    assert plan.reread["public.loose"] < found[1].astimezone(UTC).isoformat()
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
