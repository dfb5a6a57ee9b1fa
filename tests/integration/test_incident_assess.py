"""Finding the transaction that did it, and the point before it, on real logs."""

import re
from typing import Any

import psycopg
import pytest

from aurora.engines.logical.targets import Target
from aurora.errors import RepositoryNotFound, UsageError
from aurora.events import discard
from aurora.operations.incident.assess import Assessment, Question, assess, touches, xids_of
from aurora.operations.incident.proposal import Proposal, propose, target_of
from aurora.operations.recover import plan_recovery, run_recovery
from aurora.operations.restore_plan import RestoreOptions
from tests.fixtures.changelog import full, incremental, prepare
from tests.fixtures.looks import run_script, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import LABEL, NewTarget, Project

pytest_plugins = ["tests.fixtures.backups"]

SHOP = """
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL, note text);
CREATE TABLE lines (order_id int, line int, what text, PRIMARY KEY (order_id, line));
CREATE TABLE bare (x int);
CREATE TABLE canary (id int PRIMARY KEY, word text);
INSERT INTO orders SELECT i, i % 90, md5(i::text) FROM generate_series(1, 3000) i;
INSERT INTO lines SELECT i, 1, 'thing' FROM generate_series(1, 3000) i;
INSERT INTO canary VALUES (1, 'sing');
CREATE PROCEDURE trade(first int, count int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN first .. first + count - 1 LOOP
        INSERT INTO orders VALUES (i, i % 90, md5(i::text));
        INSERT INTO lines VALUES (i, 1, 'thing'), (i, 2, 'other');
        IF i % 7 = 0 THEN UPDATE orders SET note = 'seen' WHERE id = i - 100; END IF;
        IF i % 11 = 0 THEN DELETE FROM lines WHERE order_id = i - 50 AND line = 2; END IF;
        COMMIT;
    END LOOP;
END $$;
"""


@pytest.fixture
def shop(new_database: NewDatabase, project: Project) -> str:
    """A shop with a change log and a full."""
    dsn = new_database()
    run_script(dsn, SHOP)
    prepare(dsn)
    full(project, dsn)
    return dsn


def trade(dsn: str, first: int, count: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"CALL trade({first}, {count})".encode())


def xid_of(dsn: str, *statements: str) -> int:
    """Run statements in one transaction; its number."""
    with psycopg.connect(dsn) as conn:
        for statement in statements:
            conn.execute(statement.encode())
        row = conn.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        assert row is not None
        return int(row[0])


def assessed(project: Project, **question: Any) -> Assessment:
    return assess(project.repository, LABEL, Question(**question), sink=project.events.append)


def proposed(project: Project, target: Target, *bad: int, dsn: str = "") -> Proposal:
    return propose(project.repository, LABEL, target, bad=bad, dsn=dsn, sink=discard)


def planted(dsn: str, project: Project, new_target: NewTarget, count: int) -> None:
    """Trade, an accident, trade; then find it, and restore to the proposed point."""
    trade(dsn, 3001, count // 2)
    before = run_sql(dsn, "SELECT * FROM orders ORDER BY id")
    lines = run_sql(dsn, "SELECT * FROM lines ORDER BY 1, 2")
    bad = xid_of(dsn, "DELETE FROM lines", "DELETE FROM orders WHERE customer <> 7")
    trade(dsn, 3001 + count // 2, count // 2)
    incremental(project, dsn)

    made = assessed(project)
    assert made.transactions >= count
    worst = made.suspicions[0]
    assert (worst.xid, worst.severity) == (bad & 0xFFFFFFFF, "critical")
    assert worst.rows_lost == len(lines) + sum(1 for row in before if row[1] != 7)
    assert any("public.lines deleted (100%)" in reason for reason in worst.reasons)

    found = proposed(project, Target(before_xid=worst.xid), worst.xid, dsn=dsn)
    assert found.after[0].xid == worst.xid
    assert found.good_lost == count // 2
    by_name = {one.table: one for one in found.tables}
    assert by_name["public.orders"].rows_then == len(before)
    assert by_name["public.lines"].rows_then == len(lines)
    now = run_sql(dsn, "SELECT count(*) FROM orders")[0][0]
    assert by_name["public.orders"].rows_now == now
    assert by_name["public.orders"].good.inserted == count // 2
    assert target_of(found.document()) == found.target

    target = new_target()
    plan = plan_recovery(
        project.repository, LABEL, found.target, target, RestoreOptions(), sink=discard
    )
    run_recovery(plan, make_safety_backup=None, sink=discard)
    assert run_sql(target, "SELECT * FROM orders ORDER BY id") == before
    assert run_sql(target, "SELECT * FROM lines ORDER BY 1, 2") == lines


def test_the_planted_transaction_is_found_and_its_point_is_exact(
    shop: str, project: Project, new_target: NewTarget
) -> None:
    planted(shop, project, new_target, 2000)


@pytest.mark.long
def test_the_planted_transaction_among_a_hundred_thousand(
    shop: str, project: Project, new_target: NewTarget
) -> None:
    planted(shop, project, new_target, 100_000)


def test_truncates_canaries_and_dropped_tables(shop: str, project: Project) -> None:
    trade(shop, 3001, 30)
    truncated = xid_of(shop, "TRUNCATE lines")
    canary = xid_of(shop, "UPDATE canary SET word = 'dead'")
    incremental(project, shop)
    from aurora.operations.incident.detector import Limits

    made = assessed(project, limits=Limits(canaries=frozenset({"public.canary"})))
    assert [one.xid for one in made.suspicions[:2]] == [canary, truncated]
    assert made.suspicions[1].rows_lost > 3000
    assert made.dropped == []
    run_sql(shop, "DROP TABLE bare")
    full(project, shop)
    (gone,) = assessed(project).dropped
    assert (gone.table, gone.rows) == ("public.bare", 0)
    assert assessed(project, table="public.orders").suspicions == []
    assert [one.xid for one in assessed(project, table="public.lines").suspicions] == [truncated]


def test_what_touched_one_row(shop: str, project: Project) -> None:
    """Every change of it, with composite keys too, and none of its neighbours."""
    changed = xid_of(shop, "UPDATE orders SET note = 'mine' WHERE id = 1234")
    moved = xid_of(shop, "UPDATE orders SET id = 91234 WHERE id = 1234")
    gone = xid_of(shop, "DELETE FROM orders WHERE id BETWEEN 91000 AND 92000")
    xid_of(shop, "DELETE FROM orders WHERE id = 123")
    of_line = xid_of(shop, "DELETE FROM lines WHERE order_id = 12 AND line = 1")
    incremental(project, shop)
    repository = project.repository
    found = touches(repository, LABEL, "public.orders", "1234")
    assert [(one.xid, one.what) for one in found] == [(changed, "update"), (moved, "update")]
    assert found[0].values["note"] == "mine"
    found = touches(repository, LABEL, "public.orders", "91234")
    assert [(one.xid, one.what) for one in found] == [(moved, "update"), (gone, "delete")]
    (one,) = touches(repository, LABEL, "public.lines", "12, 1")
    assert (one.xid, one.what) == (of_line, "delete")
    assert one.values == {"order_id": "12", "line": "1"}
    with pytest.raises(UsageError, match="needs --table"):
        touches(repository, LABEL, "", "1")


def test_a_loop_of_deletes_is_one_suspicion_and_one_point(shop: str, project: Project) -> None:
    """The point is before the first of them; all of them are the damage."""
    run_script(shop, "DO $$ BEGIN FOR i IN 1..800 LOOP DELETE FROM lines WHERE order_id"
               " BETWEEN i * 3 AND i * 3 + 2; COMMIT; END LOOP; END $$")  # fmt: skip
    trade(shop, 3001, 10)
    incremental(project, shop)
    made = assessed(project)
    worst = made.suspicions[0]
    assert worst.transactions >= 800
    bad = xids_of(project.repository, LABEL, worst.document())
    assert len(bad) >= 800
    found = proposed(project, Target(before_xid=worst.xid), *bad)
    assert found.good_lost <= 10
    assert {one.table: one.rows_then for one in found.tables}["public.lines"] == 3000


def test_there_is_no_log(new_database: NewDatabase, project: Project) -> None:
    dsn = new_database()
    run_script(dsn, "CREATE TABLE a (id int PRIMARY KEY)")
    project.backup(dsn)
    with pytest.raises(RepositoryNotFound, match="no change log"):
        assessed(project)


def test_facts_are_words(shop: str, project: Project) -> None:
    """What is shown names both neighbours and what going back costs."""
    bad = xid_of(shop, "DELETE FROM orders")
    trade(shop, 3001, 1)
    incremental(project, shop)
    told = " | ".join(f"{name}: {text}" for name, text in proposed(
        project, Target(before_xid=bad), bad).facts())  # fmt: skip
    assert f"left out: xid {bad} at" in told
    assert "1 good transaction: public.lines +2; public.orders +1" in told
    assert re.search(r"full: \d{8}T", told)
