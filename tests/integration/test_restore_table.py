"""One table out of a backup: made again, copied beside, or its rows swapped; nothing else."""

import psycopg
import pytest

from aurora.errors import RepositoryNotFound, TargetNotEmpty, TargetRefused, TargetUnfit, UsageError
from aurora.postgres.embedded import EmbeddedServer
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import FaultyStorage
from tests.fixtures.looks import compare, look, run_script, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import NewRole, Project

pytest_plugins = ["tests.fixtures.backups"]

SHOP = """
CREATE TYPE state AS ENUM ('new', 'paid');
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.seen VALUES (TG_NAME); RETURN NEW; END $$;
CREATE TABLE seen (what text);
CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE orders (
    id serial PRIMARY KEY, customer int NOT NULL REFERENCES customers, state state DEFAULT 'new',
    total numeric(10, 2) CHECK (total >= 0), double numeric GENERATED ALWAYS AS (total * 2) STORED);
CREATE TABLE lines (id int PRIMARY KEY, o int NOT NULL REFERENCES orders ON DELETE CASCADE, t text);
CREATE TABLE notes (o int REFERENCES orders ON DELETE SET NULL ON UPDATE CASCADE, t text);
INSERT INTO customers (name) SELECT 'c' || i FROM generate_series(1, 20) i;
INSERT INTO orders (customer, total) SELECT 1 + i % 20, i FROM generate_series(1, 500) i;
INSERT INTO lines SELECT i, 1 + i % 500, 't' FROM generate_series(1, 1500) i;
INSERT INTO notes SELECT i, 'n' FROM generate_series(1, 500, 5) i;
CREATE INDEX orders_state ON orders (state, customer) WHERE total > 10;
CREATE STATISTICS orders_stats ON state, customer FROM orders;
COMMENT ON TABLE orders IS 'orders'; COMMENT ON COLUMN orders.total IS 'in euro';
COMMENT ON CONSTRAINT lines_o_fkey ON lines IS 'goes with its order';
COMMENT ON INDEX orders_state IS 'the index'; COMMENT ON CONSTRAINT orders_pkey ON orders IS 'key';
ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON orders FOR SELECT TO PUBLIC USING (customer = 1);
COMMENT ON POLICY own ON orders IS 'mine';
GRANT SELECT, UPDATE (total) ON orders TO pg_monitor; GRANT SELECT (id) ON orders TO PUBLIC;
GRANT USAGE ON SEQUENCE orders_id_seq TO pg_monitor;
CREATE TRIGGER plain AFTER INSERT OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION noted();
CREATE TRIGGER always AFTER INSERT OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION noted();
CREATE TRIGGER replica AFTER INSERT OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION noted();
CREATE TRIGGER off AFTER INSERT OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION noted();
ALTER TABLE orders ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replica, DISABLE TRIGGER
    off;
CREATE RULE nothing AS ON UPDATE TO orders WHERE OLD.id < 0 DO INSTEAD NOTHING;
ALTER TABLE orders REPLICA IDENTITY FULL;
CREATE PUBLICATION p FOR TABLE orders, lines;
CREATE VIEW paid AS SELECT id, total FROM orders WHERE state = 'paid';
CREATE VIEW of_paid WITH (security_invoker = true) AS SELECT count(*) FROM paid;
GRANT SELECT ON paid TO PUBLIC; COMMENT ON VIEW paid IS 'paid ones';
CREATE MATERIALIZED VIEW sums AS SELECT customer, sum(total) AS total FROM orders GROUP BY 1;
CREATE UNIQUE INDEX ON sums (customer); GRANT SELECT ON sums TO PUBLIC;
COMMENT ON MATERIALIZED VIEW sums IS 'sums'; COMMENT ON COLUMN sums.total IS 'of orders';
CREATE MATERIALIZED VIEW unfilled AS SELECT * FROM sums WITH NO DATA;
CREATE VIEW unrelated AS SELECT * FROM customers;
"""


@pytest.fixture
def shop(new_database: NewDatabase) -> str:
    """A small shop whose table orders has everything that a table can have."""
    dsn = new_database()
    run_script(dsn, SHOP)
    return dsn


def test_dropped_table_comes_back_whole(shop: str, project: Project) -> None:
    """With indexes, constraints, policies, grants, triggers, and the keys that referred to it."""
    before = look(shop)
    project.backup(shop)
    run_sql(shop, "DROP TABLE orders CASCADE")

    report = project.restore_table(shop, "orders")

    assert (report.outcome, report.refusals, report.rows) == ("restored", [], 500)
    assert report.safety_backup == ""
    compare(before, shop)


def test_dropped_schema_comes_back_with_the_table(
    project: Project, new_database: NewDatabase
) -> None:
    """The table's schema is made when it went too."""
    dsn = new_database()
    run_script(dsn, 'CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."T 1" (a serial);'
                    'INSERT INTO "My Schema"."T 1" SELECT FROM generate_series(1, 9);'
                    'GRANT USAGE ON SCHEMA "My Schema" TO PUBLIC')  # fmt: skip
    before = look(dsn)
    project.backup(dsn)
    run_sql(dsn, 'DROP SCHEMA "My Schema" CASCADE')

    report = project.restore_table(dsn, '"My Schema"."T 1"')

    assert report.refusals == []
    compare(before, dsn)


def test_existing_table_is_left_alone(shop: str, project: Project) -> None:
    """Without --as or --replace nothing happens to a table that is there."""
    project.backup(shop)
    run_sql(shop, "DELETE FROM lines WHERE id < 100")
    before = look(shop)

    with pytest.raises(TargetNotEmpty, match=r"public\.lines") as refused:
        project.restore_table(shop, "lines")

    assert "--as" in refused.value.hint
    compare(before, shop)


def test_beside_the_existing_one(shop: str, project: Project) -> None:
    """--as makes a plain copy that nobody else may read; the table itself stays."""
    project.backup(shop)
    run_sql(shop, "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, pg_monitor",
            "DELETE FROM lines", "UPDATE orders SET total = 0")  # fmt: skip
    before = look(shop)

    report = project.restore_table(shop, "orders", as_name="orders_of_yesterday")

    assert (report.rows, report.restored_as) == (500, "public.orders_of_yesterday")
    copied = "SELECT count(*), sum(total), min(state::text) FROM orders_of_yesterday"
    assert run_sql(shop, copied) == [(500, 125250, "new")]
    readers = "SELECT DISTINCT grantee FROM information_schema.role_table_grants WHERE"
    assert run_sql(shop, f"{readers} table_name = 'orders_of_yesterday'") == [("postgres",)]
    with pytest.raises(TargetNotEmpty):
        project.restore_table(shop, "orders", as_name="lines")
    run_sql(shop, "DROP TABLE orders_of_yesterday")
    compare(before, shop)


def test_replaced_rows_keep_all_that_hangs_on_the_table(shop: str, project: Project) -> None:
    """Grants, policies, trigger states and keys stay; children are not cascaded away."""
    before = look(shop)
    project.backup(shop)
    run_sql(shop, "UPDATE orders SET total = 7 WHERE id % 2 = 0", "TRUNCATE seen",
            "INSERT INTO orders (customer, total) SELECT 1, 1 FROM generate_series(1, 30)",
            "DELETE FROM seen")  # fmt: skip

    report = project.restore_table(shop, "orders", replace=True)

    after = look(shop)
    assert (report.outcome, report.rows) == ("restored", 500)
    assert run_sql(shop, "SELECT count(*) FROM seen") == [(0,)]  # no trigger fired
    assert run_sql(shop, "SELECT count(*) FROM lines") == [(1500,)]
    assert run_sql(shop, "SELECT count(*) FROM notes WHERE o IS NOT NULL") == [(100,)]
    assert after.schema == before.schema
    assert after.rows["public.orders"] == before.rows["public.orders"]
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run_sql(shop, "INSERT INTO lines VALUES (-1, 100000)")
    run_sql(shop, "DELETE FROM orders WHERE id = 2")  # the key cascades as before
    assert run_sql(shop, "SELECT count(*) FROM lines") == [(1497,)]
    assert run_sql(shop, "SELECT what FROM seen ORDER BY 1") == [("always",), ("plain",)]


def test_sequence_never_goes_back(shop: str, project: Project) -> None:
    """New keys stay new after the rows went back."""
    project.backup(shop)
    run_sql(shop, "INSERT INTO orders (customer, total) SELECT 1, 1 FROM generate_series(1, 30)")

    project.restore_table(shop, "orders", replace=True)

    assert run_sql(shop, "SELECT nextval('orders_id_seq')") == [(531,)]
    run_sql(shop, "SELECT setval('orders_id_seq', 3)")
    project.restore_table(shop, "orders", replace=True)
    assert run_sql(shop, "SELECT nextval('orders_id_seq')") == [(501,)]


def test_rows_that_refer_to_what_the_backup_lacks(shop: str, project: Project) -> None:
    """A foreign key that would not hold refuses the swap, and nothing is changed."""
    project.backup(shop)
    run_sql(shop, "INSERT INTO orders (id, customer, total) VALUES (9999, 1, 1)",
            "INSERT INTO lines VALUES (9999, 9999, 'new')")  # fmt: skip
    before = look(shop)

    with pytest.raises(TargetRefused, match="lines_o_fkey"):
        project.restore_table(shop, "orders", replace=True)

    compare(before, shop)


def test_rows_that_the_tables_own_key_refuses(shop: str, project: Project) -> None:
    """Nor does a row come back whose own parent is gone."""
    project.backup(shop)
    run_sql(shop, "DELETE FROM orders WHERE customer = 5", "DELETE FROM customers WHERE id = 5")
    before = look(shop)

    with pytest.raises(TargetRefused):
        project.restore_table(shop, "orders", replace=True)

    compare(before, shop)


def test_not_valid_and_deferred_incoming_keys(project: Project, new_database: NewDatabase) -> None:
    """Incoming keys come back as they were: not valid, deferred, in a cycle, to itself."""
    dsn = new_database()
    run_script(dsn, """
        CREATE TABLE a (id int PRIMARY KEY, b int, up int REFERENCES a);
        CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED);
        ALTER TABLE a ADD CONSTRAINT to_b FOREIGN KEY (b) REFERENCES b
            DEFERRABLE INITIALLY DEFERRED;
        CREATE TABLE old (a int); INSERT INTO old VALUES (77);
        ALTER TABLE old ADD CONSTRAINT to_a FOREIGN KEY (a) REFERENCES a NOT VALID;
        BEGIN; INSERT INTO a SELECT i, i, 1 FROM generate_series(1, 50) i;
        INSERT INTO b SELECT i, i FROM generate_series(1, 50) i; COMMIT;
    """)  # fmt: skip
    before = look(dsn)
    project.backup(dsn)
    run_sql(dsn, "UPDATE a SET up = NULL")

    report = project.restore_table(dsn, "a", replace=True)

    assert report.refusals == []
    compare(before, dsn)


TREE = """
CREATE TABLE m (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')
    PARTITION BY HASH (id);
CREATE TABLE m_1_0 PARTITION OF m_1 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE m_1_1 PARTITION OF m_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE m_2 (v text, at date NOT NULL, id int NOT NULL);
ALTER TABLE m ATTACH PARTITION m_2 FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
CREATE TABLE m_rest PARTITION OF m DEFAULT;
CREATE INDEX m_v ON m (v);
CREATE TABLE refers (id int, at date, FOREIGN KEY (id, at) REFERENCES m ON DELETE CASCADE);
CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
INSERT INTO m SELECT i, date '2023-12-20' + i, 'v' || i FROM generate_series(1, 90) i;
INSERT INTO refers SELECT id, at FROM m;
CREATE TRIGGER t AFTER DELETE ON m FOR EACH ROW EXECUTE FUNCTION touched();
GRANT SELECT ON m, m_1_0 TO PUBLIC; COMMENT ON TABLE m_1 IS 'one';
"""


@pytest.mark.pg_majors(15, 18)
def test_partition_tree(pg: EmbeddedServer, project: Project, new_database: NewDatabase) -> None:
    """A tree comes back as a tree, made again or its rows swapped; so does a part of it."""
    dsn = new_database()
    run_script(dsn, TREE)
    before = look(dsn)
    project.backup(dsn)

    run_sql(dsn, "UPDATE m SET v = 'changed'", "DELETE FROM refers")
    project.restore_table(dsn, "refers", replace=True)
    report = project.restore_table(dsn, "m", replace=True)
    assert (report.rows, report.refusals) == (90, [])
    compare(before, dsn)

    run_sql(dsn, "UPDATE m SET v = 'changed' WHERE at < '2024-02-01'")
    project.restore_table(dsn, "m_1", replace=True)
    project.restore_table(dsn, "m_rest", replace=True)
    compare(before, dsn)

    run_sql(dsn, "DROP TABLE m CASCADE")
    report = project.restore_table(dsn, "m")
    assert (report.rows, report.refusals) == (90, [])
    compare(before, dsn)


def test_one_partition_that_was_dropped(project: Project, new_database: NewDatabase) -> None:
    """It comes back attached to its parent."""
    dsn = new_database()
    run_script(dsn, TREE + "DROP TABLE refers")
    before = look(dsn)
    project.backup(dsn)

    for table, rows in (("m_2", 29), ("m_1", 31), ("m_1_1", 12)):
        run_sql(dsn, f"DROP TABLE {table}")
        report = project.restore_table(dsn, table)
        assert (report.refusals, report.notes) == ([], [])
        assert report.rows == run_sql(dsn, f"SELECT count(*) FROM {table}")[0][0] >= rows
        compare(before, dsn)


NAMES = """
CREATE SCHEMA a; CREATE SCHEMA "B c"; CREATE TABLE a.t (i int); CREATE TABLE "B c".t (i int);
CREATE TABLE "B c"."Mixed Case" (i int); CREATE TABLE public."select" (i int);
CREATE TABLE public."Upper" (i int); CREATE TABLE public.upper (i int);
CREATE TABLE public."dot.ted" (i int); CREATE TABLE public."quo""ted" (i int);
INSERT INTO a.t VALUES (1); INSERT INTO "B c".t VALUES (2); INSERT INTO "B c"."Mixed Case"
    VALUES (3);
INSERT INTO "select" VALUES (4); INSERT INTO "Upper" VALUES (5); INSERT INTO upper VALUES (6);
INSERT INTO "dot.ted" VALUES (7); INSERT INTO "quo""ted" VALUES (8);
"""
MEANT = {
    "a.t": 1, "A.T": 1, '"a"."t"': 1, "B c.t": 2, '"B c".t': 2, "Mixed Case": 3,
    '"B c"."Mixed Case"': 3, "B c.Mixed Case": 3, "select": 4, "public.select": 4, "Upper": 5,
    '"Upper"': 5, "upper": 6, "UPPER": 6, "dot.ted": 7, '"dot.ted"': 7, 'public."dot.ted"': 7,
    '"quo""ted"': 8, 'quo"ted': 8,
}  # fmt: skip


def test_names_as_people_type_them(project: Project, new_database: NewDatabase) -> None:
    """Qualified or not, quoted or not; what is ambiguous lists the choices."""
    dsn = new_database()
    run_script(dsn, NAMES)
    project.backup(dsn)

    for number, (text, value) in enumerate(MEANT.items()):
        copy = f"copy_{number}"
        report = project.restore_table(dsn, text, as_name=f"public.{copy}")
        assert run_sql(dsn, f"SELECT i FROM {copy}") == [(value,)], (text, report.table)
    with pytest.raises(UsageError, match=r'a\.t, "B c"\.t'):
        project.restore_table(dsn, "t")
    with pytest.raises(RepositoryNotFound) as missing:
        project.restore_table(dsn, "mixed")
    assert '"B c"."Mixed Case"' in missing.value.hint


def test_reads_only_the_tables_own_chunks(new_database: NewDatabase) -> None:
    """A small table out of a large backup costs a handful of reads."""
    primary = FaultyStorage(MemoryStorage("primary"))
    project = Project.create(primary, MemoryStorage("secondary"))
    dsn = new_database()
    run_script(dsn, """
        CREATE TABLE large (id int, t text); CREATE TABLE small (id int);
        INSERT INTO large SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 20000) i;
        INSERT INTO small SELECT generate_series(1, 2000);
        CREATE TABLE medium AS SELECT i, repeat(md5(i::text), 8) t FROM generate_series(1, 6000) i;
    """)  # fmt: skip
    project.backup(dsn, chunk_bytes=256 << 10)
    chunks = {i.name for i in primary.list("chunks/")}
    backup = project.opened()
    oids = {t.oid: t.name for t in backup.snapshot.tables}
    own = {oids[d.oid]: {e.object for e in d.extents} for d in backup.data() if d.oid in oids}
    shared = {piece.object for piece in backup.snapshot.archive.pieces}
    assert len(own["large"]) > 10
    run_sql(dsn, "DROP TABLE small, medium")

    for table in ("small", "medium"):
        primary.calls.clear()
        report = project.restore_table(dsn, table)
        read = [c.name for c in primary.calls if c.operation == "get" and c.name in chunks]
        assert set(read) == own[table] | shared
        assert len(read) == len(set(read))
        assert report.bytes_fetched >= report.bytes > 0


def test_safety_backup_holds_the_replaced_rows(shop: str, project: Project) -> None:
    """It is taken first, holds this table alone, and is never latest."""
    made = project.backup(shop)
    run_sql(shop, "UPDATE orders SET total = 7")
    before = look(shop)

    report = project.restore_table(shop, "orders", replace=True)

    assert project.repository.resolve("latest", "app").id == made.backup_id
    safety = project.opened(report.safety_backup)
    assert safety.entry.type == "safety"
    names = {t.oid: t.name for t in safety.snapshot.tables}
    assert [names[d.oid] for d in safety.body.data] == ["orders"]
    with pytest.raises(UsageError):
        project.plan(shop, report.safety_backup)
    with pytest.raises(RepositoryNotFound):
        project.restore_table(shop, "lines", report.safety_backup, as_name="x")
    project.restore_table(shop, "orders", report.safety_backup, replace=True)
    compare(before, shop)


def test_columns_that_changed_since(shop: str, project: Project) -> None:
    """A new column takes its default; a column that is gone refuses, and nothing changes."""
    project.backup(shop)
    run_sql(shop, "ALTER TABLE lines ADD COLUMN added int DEFAULT 5", "DELETE FROM lines")
    project.restore_table(shop, "lines", replace=True)
    assert run_sql(shop, "SELECT count(*), sum(added) FROM lines") == [(1500, 7500)]

    run_sql(shop, "ALTER TABLE lines DROP COLUMN t")
    before = look(shop)
    with pytest.raises(TargetUnfit, match="no column t"):
        project.restore_table(shop, "lines", replace=True)
    compare(before, shop)


def test_as_the_tables_owner(
    project: Project, shop: str, new_role: NewRole, new_database: NewDatabase
) -> None:
    """No superuser is needed to get one's own table back, or to swap its rows."""
    owner = new_role("shop_owner")
    run_sql(shop, f"ALTER TABLE lines OWNER TO {owner}",
            f"ALTER TABLE customers OWNER TO {owner}",
            f"ALTER TABLE orders OWNER TO {owner}, NO FORCE ROW LEVEL SECURITY",
            f"ALTER TABLE notes OWNER TO {owner}", f"GRANT CREATE ON SCHEMA public TO {owner}",
            f"ALTER TABLE seen OWNER TO {owner}")  # fmt: skip
    before = look(shop)
    project.backup(shop)
    address = shop.split("@")[1]
    dsn = f"postgresql://{owner}:p@{address}"
    run_sql(shop, "UPDATE orders SET total = 7", "TRUNCATE seen")

    project.restore_table(dsn, "orders", replace=True, safety=False)
    assert look(shop).rows["public.orders"] == before.rows["public.orders"]
    run_sql(shop, "DROP TABLE lines")
    report = project.restore_table(dsn, "lines")

    assert look(shop).rows == before.rows
    assert all("PUBLICATION" in refusal for refusal in report.refusals)
