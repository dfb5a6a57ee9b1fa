"""Rows put back into the live database, and good transactions left alone."""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

import psycopg
import pytest

from aurora.engines.logical.targets import Target
from aurora.errors import TargetRefused, UsageError
from aurora.events import discard
from aurora.operations.incident import rows as put_back
from aurora.operations.incident.aside import save_aside
from aurora.operations.incident.logkeys import LogKeys
from aurora.operations.incident.rows import RowsPlan
from aurora.operations.point import find_point
from aurora.operations.restore_table import run_restore_table
from aurora.operations.restore_table_plan import TableOptions, plan_restore_table
from tests.fixtures.changelog import full, incremental, prepare
from tests.fixtures.looks import run_file, run_script, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import LABEL, Project

pytest_plugins = ["tests.fixtures.backups"]

SHOP = r"""
CREATE TABLE customers (id int PRIMARY KEY, name text, extra json);
CREATE TABLE orders (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL REFERENCES customers,
    note text, big text, twice int GENERATED ALWAYS AS (customer * 2) STORED);
CREATE TABLE lines (order_id int REFERENCES orders ON DELETE CASCADE, line text, what text,
    PRIMARY KEY (order_id, line));
CREATE TABLE "Odd ""one" ("The Key" text PRIMARY KEY, "a,b" text[]);
CREATE TABLE whole (x int, y text);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE audit (id serial PRIMARY KEY, what text);
CREATE FUNCTION noisy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO audit (what) VALUES (tg_op); NEW.note := NEW.note || '!'; RETURN NEW; END $$;
INSERT INTO customers SELECT i, 'c' || i, '{"a": 1}' FROM generate_series(1, 50) i;
INSERT INTO orders (customer, note, big)
    SELECT 1 + i % 50, E'note\t' || i || E'\n\\', repeat(md5(i::text), 200)
    FROM generate_series(1, 500) i;
INSERT INTO lines SELECT i, l, 'thing' FROM generate_series(1, 500) i, unnest(ARRAY['a', 'b''c']) l;
INSERT INTO "Odd ""one"
    SELECT E'k\t' || i, ARRAY['x,y', NULL, E'q"\x01'] FROM generate_series(1, 9) i;
INSERT INTO whole SELECT i % 3, 'same' FROM generate_series(1, 9) i;
CREATE TRIGGER noisy BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION noisy();
ALTER TABLE orders ENABLE ALWAYS TRIGGER noisy;
"""
TABLES = ("customers", "orders", "lines", '"Odd ""one"', "whole", "audit")


class Accident:
    """A shop, what happened to it, and the way back."""

    def __init__(self, project: Project, dsn: str, directory: Path) -> None:
        self.project, self.dsn, self.directory = project, dsn, directory
        self.bad: list[int] = []

    def sql(self, *statements: str) -> list[tuple[object, ...]]:
        return run_sql(self.dsn, *statements)

    def harm(self, *statements: str) -> int:
        """A bad transaction."""
        with psycopg.connect(self.dsn) as conn:
            for statement in statements:
                conn.execute(statement.encode())
            row = conn.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
            assert row is not None
        self.bad.append(int(row[0]))
        return int(row[0])

    def state(self) -> dict[str, list[str]]:
        """All rows as text; audit aside."""
        return {
            name: [str(row[0]) for row in self.sql(f"SELECT t::text FROM {name} t ORDER BY 1")]
            for name in TABLES
        }

    def plan(self, only: Iterable[str] = ()) -> RowsPlan:
        marker = put_back.marker_of(self.dsn)
        incremental(self.project, self.dsn)
        repository = self.project.repository
        target = Target(before_xid=self.bad[0])
        point = find_point(repository, LABEL, target, sink=discard)

        def copy_table(name: str, as_name: str) -> None:
            chosen = plan_restore_table(point, name, self.dsn, TableOptions(as_name=as_name))
            run_restore_table(chosen, make_safety_backup=None, sink=discard)

        scratch = self.directory / "keys"
        scratch.mkdir(exist_ok=True)
        with LogKeys(scratch, self.bad, tuple(only)) as keys:
            keys.collect(repository, LABEL, point)
            return put_back.plan_rows(
                self.dsn, point, keys, self.directory, marker=marker, copy_table=copy_table,
                sink=discard,
            )  # fmt: skip


@pytest.fixture
def accident(new_database: NewDatabase, project: Project, tmp_path: Path) -> Accident:
    dsn = new_database()
    run_script(dsn, SHOP)
    prepare(dsn)
    full(project, dsn)
    run_sql(dsn, "UPDATE customers SET name = name || ' later' WHERE id <= 10")
    return Accident(project, dsn, tmp_path)


EVERYTHING = (
    "DELETE FROM orders WHERE id <= 400",  # the lines go by CASCADE
    "UPDATE customers SET name = 'x', extra = NULL",
    'DELETE FROM "Odd ""one"',
    "DELETE FROM whole WHERE x = 1",
)


def by_command(made: RowsPlan, accident: Accident, major: int) -> None:
    put_back.run_rows(made, sink=discard)


def by_hand(made: RowsPlan, accident: Accident, major: int) -> None:
    """What the SQL file says does the same, with the application's triggers out of the way."""
    text = made.sql.read_text()
    quiet = "ALTER TABLE orders DISABLE TRIGGER noisy;\n"
    loud = "ALTER TABLE orders ENABLE ALWAYS TRIGGER noisy;\n"
    run_file(accident.dsn, quiet + text + loud, major)
    put_back.clear(accident.dsn)


@pytest.mark.parametrize("way", [by_command, by_hand])
def test_all_that_was_taken_comes_back_exactly(
    accident: Accident, way: Callable[[RowsPlan, Accident, int], None], pg_major: int
) -> None:
    """Cascades, TOAST, identities, generated columns, odd names, tables without a key."""
    before = accident.state()
    accident.harm(*EVERYTHING)
    accident.sql("INSERT INTO whole VALUES (7, 'later')")
    made = accident.plan()
    order = [one.table for one in made.tables]
    assert order.index("public.orders") < order.index("public.lines")
    assert accident.sql("SELECT count(*) FROM orders") == [(100,)]  # a plan changes nothing
    way(made, accident, pg_major)
    after = accident.state()
    assert after.pop("whole") == sorted([*before.pop("whole"), "(7,later)"])
    assert after == before  # no trigger of the application has run either
    (state,) = accident.sql("SELECT tgenabled FROM pg_trigger WHERE tgname = 'noisy'")
    assert state == ("A",)
    assert accident.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'aurora_recovery'") == [
        (0,)
    ]
    assert incremental(accident.project, accident.dsn).type == "incremental"


def test_what_good_transactions_did_since_stays(accident: Accident) -> None:
    """Their rows are conflicts: listed with both images, and left alone."""
    accident.harm("UPDATE customers SET name = 'bad'", "DELETE FROM orders WHERE id > 490")
    accident.sql("UPDATE customers SET name = 'good' WHERE id = 3")
    accident.sql("DELETE FROM lines WHERE order_id = 7", "DELETE FROM orders WHERE id = 7")
    accident.sql(
        "INSERT INTO orders (id, customer, note) OVERRIDING SYSTEM VALUE VALUES (495, 2, 'new')"
    )
    made = accident.plan()
    assert (made.total("conflict"), made.total("update")) == (2, 49)
    report = put_back.run_rows(made, sink=discard)
    assert (report.inserted, report.conflicts, report.left) == (9 + 20, 2, 0)
    assert accident.sql("SELECT id, name FROM customers WHERE id IN (1, 3, 20) ORDER BY 1") == [
        (1, "c1 later"), (3, "good"), (20, "c20"),
    ]  # fmt: skip
    assert accident.sql("SELECT note FROM orders WHERE id = 495") == [("new!",)]
    assert accident.sql("SELECT count(*) FROM orders WHERE id = 7") == [(0,)]
    with made.conflicts.open() as file:
        told = {(row["table"], row["key"]): row for row in csv.DictReader(file)}
    assert '"name":"c3 later"' in told["public.customers", "3"]["before"]
    assert '"name":"good"' in told["public.customers", "3"]["now"]


def test_rows_changed_after_the_review_are_left(accident: Accident) -> None:
    """Writes that go on meanwhile are not in the log: the server itself tells them."""
    accident.harm("UPDATE customers SET name = 'bad'", "DELETE FROM orders WHERE id > 490")
    made = accident.plan()
    accident.sql("UPDATE customers SET name = 'late' WHERE id = 5")
    accident.sql(
        "INSERT INTO orders (id, customer, note) OVERRIDING SYSTEM VALUE VALUES (495, 2, 'new')"
    )
    report = put_back.run_rows(made, sink=discard)
    assert report.left == 2
    assert accident.sql("SELECT name FROM customers WHERE id = 5") == [("late",)]
    assert accident.sql("SELECT note FROM orders WHERE id = 495") == [("new!",)]


def test_keys_that_were_moved_and_rows_that_were_made(accident: Accident) -> None:
    """A row under its new key goes, the old one comes; rows that were only added are told."""
    before = accident.state()
    accident.harm('UPDATE "Odd ""one" SET "The Key" = \'moved \' || "The Key"',
                  "INSERT INTO customers VALUES (900, 'made by mistake', NULL)")  # fmt: skip
    made = accident.plan()
    assert (made.total("remove"), made.total("extra")) == (9, 1)
    put_back.run_rows(made, sink=discard)
    after = accident.state()
    assert after['"Odd ""one"'] == before['"Odd ""one"']
    assert len(after["customers"]) == len(before["customers"]) + 1


def test_a_truncate_and_several_transactions(accident: Accident) -> None:
    before = accident.state()
    accident.harm("TRUNCATE lines, whole")
    accident.sql("INSERT INTO lines VALUES (1, 'new', 'good')")
    accident.harm("DELETE FROM orders WHERE id % 2 = 0 AND id > 1")
    put_back.run_rows(accident.plan(), sink=discard)
    after = accident.state()
    assert after["lines"] == sorted([*before["lines"], "(1,new,good)"])
    assert (after["orders"], after["whole"]) == (before["orders"], before["whole"])


def test_only_the_tables_named(accident: Accident) -> None:
    accident.harm("UPDATE customers SET name = 'bad'", "DELETE FROM lines")
    put_back.run_rows(accident.plan(["public.lines"]), sink=discard)
    assert accident.sql("SELECT count(*) FROM lines") == [(1000,)]
    assert accident.sql("SELECT DISTINCT name FROM customers") == [("bad",)]


def test_rows_whose_parent_is_gone_for_good_are_refused_whole(accident: Accident) -> None:
    """Nothing is changed, and the foreign key is named."""
    accident.harm("DELETE FROM orders WHERE customer = 50")
    accident.sql("DELETE FROM customers WHERE id = 50")
    made = accident.plan(["public.orders"])
    before = accident.state()
    with pytest.raises(TargetRefused, match="refer to rows that are gone"):
        put_back.run_rows(made, sink=discard)
    assert accident.state() == before


def test_nothing_to_put_back(accident: Accident) -> None:
    accident.harm("INSERT INTO audit (what) VALUES ('x')")
    accident.bad.append(1)
    with pytest.raises(UsageError, match="touched no row"):
        accident.plan(["public.lines"])


@pytest.mark.parametrize("form", ["csv", "sql"])
def test_rows_that_going_back_would_lose_are_saved(
    accident: Accident, form: str, new_database: NewDatabase, pg_major: int
) -> None:
    """The live rows of good transactions, none of the bad one, in files that load again."""
    bad = accident.harm("UPDATE orders SET note = 'bad' WHERE id < 100")
    accident.sql("INSERT INTO customers VALUES (100, E'new\nline, \"q\"', '{}')",
                 "UPDATE customers SET name = 'changed' WHERE id = 2",
                 "DELETE FROM customers WHERE id = 100 AND false")  # fmt: skip
    incremental(accident.project, accident.dsn)
    repository = accident.project.repository
    point = find_point(repository, LABEL, Target(before_xid=bad), sink=discard)
    saved = save_aside(
        repository, LABEL, point, accident.dsn, accident.directory / "saved",
        scratch=accident.directory, bad=[bad], form=form, sink=discard,
    )  # fmt: skip
    assert [(one.table, one.rows) for one in saved] == [("public.customers", 2)]
    other = new_database()
    run_script(other, "CREATE TABLE customers (id int PRIMARY KEY, name text, extra json)")
    if form == "sql":
        run_file(other, saved[0].path.read_text(), pg_major)
    else:
        with (
            psycopg.connect(other) as conn,
            conn.cursor().copy("COPY customers FROM STDIN (FORMAT csv, HEADER)") as copy,
        ):
            copy.write(saved[0].path.read_bytes())
    assert run_sql(other, "SELECT id, name FROM customers ORDER BY id") == [
        (2, "changed"), (100, 'new\nline, "q"'),
    ]  # fmt: skip
