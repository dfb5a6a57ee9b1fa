"""Capturing the change log: prepared, drained, acknowledged, and given up when it must be."""

import random
import threading
import time
from functools import partial
from typing import Any

import psycopg
import pytest

from aurora.engines.base import Buffer
from aurora.engines.logical.pgoutput import INSERT, parse
from aurora.engines.logical.segments import SegmentBuilder, read_frames
from aurora.errors import SourceUnsupported
from aurora.events import Warned, discard
from aurora.operations import incremental as operation
from aurora.operations import log_state
from aurora.operations.findings import Level
from aurora.operations.log_checks import check_log
from aurora.operations.source import plan_prepare, plan_undo, run_prepare
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.embedded import EmbeddedServer
from aurora.repository.door import Ref
from aurora.storage.memory import MemoryStorage
from tests.fixtures.changelog import full, incremental, log_of, logged, prepare, undo
from tests.fixtures.looks import compare, look, run_script, run_sql
from tests.fixtures.postgres import NewDatabase, NewServer
from tests.fixtures.projects import LABEL, NewRole, Project

pytest_plugins = ["tests.fixtures.backups"]

TABLES = """
CREATE TABLE keyed (id int PRIMARY KEY, t text);
CREATE TABLE "Odd "" name" ("a b" int PRIMARY KEY, g int GENERATED ALWAYS AS ("a b" + 1) STORED);
CREATE TABLE bare (x int, y text);
CREATE TABLE late_key (id int PRIMARY KEY DEFERRABLE, t text);
CREATE TABLE whole (x int, y text); ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE by_index (a int NOT NULL UNIQUE, t text);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_a_key;
CREATE TABLE could (a int NOT NULL UNIQUE, t text);
CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
CREATE TABLE parted (id int PRIMARY KEY, t text) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE TABLE part2 PARTITION OF parted FOR VALUES FROM (100) TO (200);
CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);
CREATE SCHEMA other; CREATE TABLE other.keyed (id int PRIMARY KEY);
"""
STREAMED = {
    "public.keyed", 'public."Odd "" name"', "public.whole", "public.by_index", "public.part1",
    "public.part2", "public.parent", "other.keyed",
}  # fmt: skip
ALL_FAIL_LESS = """
INSERT INTO keyed VALUES (1, 'a'); UPDATE keyed SET id = 2; DELETE FROM keyed;
INSERT INTO "Odd "" name" ("a b") VALUES (1); UPDATE "Odd "" name" SET "a b" = 2;
DELETE FROM "Odd "" name";
INSERT INTO bare VALUES (1, 'a'); UPDATE bare SET x = 2; DELETE FROM bare;
INSERT INTO late_key VALUES (1, 'a'); UPDATE late_key SET t = 'b'; DELETE FROM late_key;
INSERT INTO whole VALUES (1, 'a'); UPDATE whole SET x = 2; DELETE FROM whole;
INSERT INTO by_index VALUES (1, 'a'); UPDATE by_index SET a = 2; DELETE FROM by_index;
INSERT INTO could VALUES (1, 'a'); UPDATE could SET a = 2; DELETE FROM could;
INSERT INTO nothing VALUES (1); UPDATE nothing SET id = 2; DELETE FROM nothing;
INSERT INTO unlogged VALUES (1); UPDATE unlogged SET id = 2; DELETE FROM unlogged;
INSERT INTO parted VALUES (1, 'a'); UPDATE parted SET id = 150; DELETE FROM parted;
INSERT INTO child VALUES (1); UPDATE parent SET id = 2; DELETE FROM parent;
INSERT INTO other.keyed VALUES (1); UPDATE other.keyed SET id = 2; DELETE FROM other.keyed;
"""


@pytest.mark.pg_majors(15, 17)
def test_prepare_harms_no_statement_and_undo_leaves_no_trace(
    pg: EmbeddedServer, new_database: NewDatabase
) -> None:
    dsn = new_database()
    run_script(dsn, TABLES)
    before = look(dsn)

    plan = prepare(dsn)

    assert {one.shown for one in plan.streamed} == STREAMED
    fixes = {one.shown: one.fix for one in plan.read_again}
    assert fixes["public.could"].endswith('REPLICA IDENTITY USING INDEX "could_a_key";')
    assert fixes["public.nothing"].endswith("REPLICA IDENTITY DEFAULT;")
    assert fixes["public.bare"].endswith("REPLICA IDENTITY FULL;")
    assert fixes["public.unlogged"].endswith("SET LOGGED;")
    for statement in ALL_FAIL_LESS.split(";"):
        run_script(dsn, statement)
    assert plan_prepare(dsn, LABEL).statements == ()

    undo(dsn)

    compare(before, dsn)
    assert run_sql(dsn, "SELECT slot_name FROM pg_replication_slots WHERE slot_name ~ 'app'") == []
    assert plan_undo(dsn, LABEL).statements == ()


def test_publications_follow_the_schema(new_database: NewDatabase) -> None:
    dsn = new_database()
    run_script(dsn, TABLES)
    prepare(dsn)
    run_script(
        dsn,
        "CREATE TABLE fresh (id int PRIMARY KEY); ALTER TABLE keyed DROP CONSTRAINT keyed_pkey;"
        "ALTER TABLE bare ADD PRIMARY KEY (x); DROP TABLE whole",
    )

    plan = prepare(dsn)

    assert list(plan.statements) == [
        'ALTER PUBLICATION "aurora_app_keyed" DROP TABLE ONLY "public"."keyed"',
        'ALTER PUBLICATION "aurora_app_keyed" ADD TABLE ONLY "public"."bare", '
        'ONLY "public"."fresh"',
        'ALTER PUBLICATION "aurora_app_unkeyed" ADD TABLE ONLY "public"."keyed"',
        'ALTER PUBLICATION "aurora_app_unkeyed" DROP TABLE ONLY "public"."bare"',
    ]
    run_script(dsn, "UPDATE keyed SET id = 1; UPDATE bare SET x = 1; UPDATE fresh SET id = 1")
    assert plan_prepare(dsn, LABEL).statements == ()


def test_prepare_names_what_is_missing(new_server: NewServer) -> None:
    # A server of its own: roles that look like Supabase's on a shared one change the answer.
    server = new_server(wal_level="replica")
    plan = plan_prepare(server.dsn(), LABEL)
    assert [one.code for one in plan.refused] == ["log-wal-level"]
    with pytest.raises(SourceUnsupported, match="wal_level is replica"):
        run_prepare(plan, sink=discard)

    dsn = server.dsn()
    run_script(dsn, TABLES)
    run_script(dsn, "CREATE ROLE plain LOGIN PASSWORD 'p'")
    info = ConnInfo.parse(dsn).with_options(user="plain", password="p")
    plan = plan_prepare(info.dsn(), LABEL)
    refused = {one.code: one.hint for one in plan.refused}
    assert refused["log-privilege"].startswith("ALTER ROLE plain REPLICATION;")
    assert refused["log-create-privilege"].startswith("GRANT CREATE ON DATABASE")
    owners = {one.fix for one in plan.read_again if "belongs to" in one.why}
    assert owners == {'GRANT "postgres" TO "plain";'}
    told = {one.code: one.hint for one in plan.obstacles}
    assert told["log-tables-read-again"].count('GRANT "postgres" TO "plain";') == 1
    assert "log-no-walsender" not in told  # the missing privilege says it already
    assert run_sql(dsn, "SELECT count(*) FROM pg_publication") == [(0,)]


def test_a_role_with_replication_and_its_own_tables_is_enough(
    pg: EmbeddedServer, new_database: NewDatabase, new_role: NewRole, project: Project
) -> None:
    dsn = new_database()
    role = new_role("keeper", "LOGIN REPLICATION")
    run_script(
        dsn,
        f"GRANT CREATE ON DATABASE {ConnInfo.parse(dsn).dbname} TO {role};"
        f"GRANT ALL ON SCHEMA public TO {role}",
    )
    own = ConnInfo.parse(dsn).with_options(user=role, password="p").dsn()
    run_script(own, "CREATE TABLE mine (id int PRIMARY KEY)")
    prepare(own)
    full(project, own)
    run_script(own, "INSERT INTO mine VALUES (1)")

    report = incremental(project, own)

    assert (report.type, report.reason) == ("incremental", "")
    assert [sum(c.inserted for c in one.tables.values()) for one in logged(project)] == [1]
    undo(own)


@pytest.fixture
def source(new_database: NewDatabase) -> str:
    """A prepared source with a few tables and rows."""
    dsn = new_database()
    run_script(
        dsn,
        TABLES + "INSERT INTO keyed SELECT i, 'x' FROM generate_series(1, 100) i;"
        "INSERT INTO bare VALUES (1, 'a'); CREATE SEQUENCE counting",
    )
    prepare(dsn)
    return dsn


@pytest.mark.pg_majors(15, 17)
def test_an_incremental_holds_what_changed(
    pg: EmbeddedServer, source: str, project: Project
) -> None:
    first = full(project, source)
    assert first.log is not None
    run_script(source, "UPDATE keyed SET t = 'y' WHERE id < 10; DELETE FROM keyed WHERE id = 50")
    run_script(source, "INSERT INTO bare VALUES (2, 'b'); SELECT nextval('counting')")
    run_script(source, "BEGIN; INSERT INTO keyed VALUES (1000, 'never'); ROLLBACK")
    run_script(source, "SELECT lo_from_bytea(77, 'abc')")

    report = incremental(project, source)

    assert (report.type, report.reason) == ("incremental", "")
    assert report.log is not None
    assert report.log.acknowledged
    log, body = log_of(project), project.opened().body
    assert (log.base, log.parent) == (first.backup_id, first.backup_id)
    assert log.from_lsn == first.log.to_lsn
    assert body.partial
    assert body.snapshot is not None
    names = {table.oid: table.name for table in body.snapshot.tables}
    assert {names[int(oid)] for oid in log.keyed} == {name.split(".")[1].strip('"').replace(
        '""', '"') for name in STREAMED}  # fmt: skip
    again = {names[table.oid]: table.rows for table in body.data}
    assert again.pop("bare") == 2
    assert set(again) == {"late_key", "could", "nothing", "unlogged", "child"}
    assert {one.oid for one in body.snapshot.large_objects} == {77}
    assert [(s.name, s.last_value, s.is_called) for s in body.snapshot.sequences] == [
        ("counting", 1, True)
    ]
    shown = [
        {name: (c.inserted, c.updated, c.deleted) for name, c in one.tables.items()}
        for one in logged(project)
    ]
    assert shown == [{"public.keyed": (0, 9, 1)}, {"public.bare": (1, 0, 0)}]
    ((confirmed,),) = run_sql(
        source,
        "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots"
        " WHERE database = current_database()",
    )
    assert confirmed == log.to_lsn

    second = incremental(project, source)
    assert second.log is not None
    assert second.log.parent == report.backup_id
    assert (second.log.transactions, second.log.from_lsn) == (0, log.to_lsn)


def _refused(project: Project, dsn: str, why: str) -> None:
    """The next incremental is a full for this reason, and the one after it is none."""
    report = incremental(project, dsn)
    assert report.type == "full"
    assert why in report.reason
    assert report.log is not None
    run_script(dsn, "INSERT INTO keyed SELECT max(id) + 1 FROM keyed")
    after = incremental(project, dsn)
    assert (after.type, after.reason) == ("incremental", "")
    assert after.log is not None
    assert after.log.base == report.backup_id


@pytest.mark.pg_majors(15, 17)
def test_what_breaks_the_log_makes_a_full(
    pg: EmbeddedServer, source: str, project: Project
) -> None:
    _refused(project, source, "no full yet")
    for ddl in (
        "ALTER TABLE keyed ADD extra int DEFAULT 7",
        "CREATE TABLE fresh (id int PRIMARY KEY)",
        "ALTER TABLE keyed ALTER t TYPE varchar(50); ALTER TABLE keyed ALTER t TYPE text",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER PUBLICATION aurora_app_keyed DROP TABLE ONLY keyed;"
        "ALTER PUBLICATION aurora_app_keyed ADD TABLE ONLY keyed",
    ):
        run_script(source, ddl)
        _refused(project, source, "the schema, or what is published, changed")

    run_sql(source, "SELECT pg_logical_emit_message(true, 'x', 'y')")
    run_sql(source, "SELECT pg_replication_slot_advance('aurora_app', pg_current_wal_flush_lsn())")
    _refused(project, source, "somebody else has read the slot")

    run_sql(source, "SELECT pg_drop_replication_slot('aurora_app')")
    report = incremental(project, source)
    assert (report.type, report.log) == ("full", None)
    assert "the slot aurora_app is not on the source" in report.reason
    prepare(source)
    _refused(project, source, "somebody else has read the slot")


def test_quiet_changes_of_the_catalog_break_nothing(source: str, project: Project) -> None:
    """Maintenance, grants and comments are not the log's business."""
    full(project, source)
    run_sql(
        source, "VACUUM FREEZE ANALYZE", "VACUUM FULL keyed", "REINDEX TABLE keyed",
        "CLUSTER by_index USING by_index_a_key", "TRUNCATE bare", "GRANT SELECT ON keyed TO PUBLIC",
        "COMMENT ON TABLE keyed IS 'no matter'", "VACUUM FULL pg_attribute",
    )  # fmt: skip
    report = incremental(project, source)
    assert (report.type, report.reason) == ("incremental", "")


def test_a_lost_slot_is_noticed_and_prepared_anew(new_server: NewServer, project: Project) -> None:
    server = new_server(max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="64MB")
    dsn = server.dsn()
    run_script(dsn, "CREATE TABLE keyed (id int PRIMARY KEY, t text)")
    prepare(dsn)
    full(project, dsn)
    for _ in range(4):
        run_sql(dsn, "SELECT pg_switch_wal()", "SELECT pg_logical_emit_message(false, 'x', 'y')")
    run_sql(dsn, "CHECKPOINT")

    report = incremental(project, dsn)

    assert report.type == "full"
    assert "the server has given up the slot" in report.reason
    found = {one.code: one.level for one in check_log(ConnInfo.parse(dsn), LABEL)}
    assert found == {"log-slot": Level.ERROR}
    prepare(dsn)
    full(project, dsn)
    assert incremental(project, dsn).type == "incremental"


def test_doctor_tells_how_the_log_stands(source: str, project: Project) -> None:
    found = {one.code: one for one in check_log(ConnInfo.parse(source), LABEL)}
    assert found["log-slot"].level is Level.OK
    assert found["log-retention-unlimited"].level is Level.WARNING
    assert "public.bare" in found["log-tables-read-again"].message
    assert 'ALTER TABLE "public"."bare" REPLICA IDENTITY FULL;' in (
        found["log-tables-read-again"].hint
    )
    run_script(source, "CREATE TABLE fresh (id int PRIMARY KEY)")
    found = {one.code: one for one in check_log(ConnInfo.parse(source), LABEL)}
    assert "public.fresh" in found["log-tables-new"].message
    undo(source)
    found = {one.code: one for one in check_log(ConnInfo.parse(source), LABEL)}
    assert set(found) == {"log-none", "log-tables-read-again"}
    assert found["log-none"].level is Level.OK


def test_many_tables_without_identity_are_told_in_few_lines(
    new_database: NewDatabase,
) -> None:
    dsn = new_database()
    run_script(dsn, "".join(f"CREATE TABLE bare_{i} (a int);" for i in range(30)))
    found = {one.code: one for one in check_log(ConnInfo.parse(dsn), LABEL)}
    told = found["log-tables-read-again"]
    assert "30 tables" in told.message
    assert "public.bare_0" in told.message
    assert "and 25 more" in told.message
    lines = told.hint.splitlines()
    assert lines[1] == 'ALTER TABLE "public"."bare_0" REPLICA IDENTITY FULL;'
    assert lines[-1].startswith("and 22 more: `aurora doctor --json`")
    assert len(told.details) == 30
    assert (
        'public.bare_29 (it has no usable replica identity): ALTER TABLE "public"."bare_29" '
        "REPLICA IDENTITY FULL;"
    ) in told.details
    assert max(len(line) for line in (told.message, *lines)) < 250
    assert len(plan_prepare(dsn, LABEL).read_again) == 30


LEDGER = """
CREATE TABLE ledger (writer int, number int, xid xid8, PRIMARY KEY (writer, number));
CREATE TABLE accounts (id int PRIMARY KEY, balance int);
INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 50) i
"""


class Writers:
    """Clients that commit, roll back, use savepoints and prepare, until they are stopped."""

    def __init__(self, dsn: str, count: int) -> None:
        self._stop = threading.Event()
        self.errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._write, args=(dsn, number)) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.errors

    def _write(self, dsn: str, writer: int) -> None:
        chance = random.Random(writer)
        try:
            with psycopg.connect(dsn, autocommit=True) as conn:
                for number in range(1_000_000):
                    if self._stop.is_set():
                        return
                    self._one(conn, writer, number, chance)
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.errors.append(error)

    @staticmethod
    def _one(conn: psycopg.Connection, writer: int, number: int, chance: random.Random) -> None:
        kind = chance.choice(["commit", "commit", "rollback", "prepare", "slow"])
        conn.execute("BEGIN")
        conn.execute("INSERT INTO ledger VALUES (%s, %s, pg_current_xact_id())", (writer, number))
        if chance.random() < 0.3:
            conn.execute("SAVEPOINT s")
            conn.execute("INSERT INTO ledger VALUES (%s, %s)", (writer, -number - 1))
            conn.execute("ROLLBACK TO s")
        conn.execute("UPDATE accounts SET balance = balance + 1 WHERE id = %s",
                     (writer * 10 + chance.randrange(10) + 1,))  # fmt: skip
        if kind == "slow":
            time.sleep(chance.random() * 0.2)
        if kind == "prepare":
            conn.execute(f"PREPARE TRANSACTION 'w{writer}-{number}'".encode())
            conn.execute(f"COMMIT PREPARED 'w{writer}-{number}'".encode())
        else:
            conn.execute("ROLLBACK" if kind == "rollback" else "COMMIT")


@pytest.mark.pg_majors(15, 17)
def test_every_committed_transaction_is_in_base_or_log_once(
    pg: EmbeddedServer, new_database: NewDatabase, project: Project
) -> None:
    """A ledger of committed xids against the log, with backups taken while writers write."""
    dsn = new_database()
    run_script(dsn, LEDGER)
    writers = Writers(dsn, 4)
    try:
        time.sleep(0.3)
        prepare(dsn)
        base = full(project, dsn)
        kinds = []
        for turn in range(6):
            time.sleep(0.2)
            kinds.append((full if turn == 3 else incremental)(project, dsn).type)
    finally:
        writers.stop()
    kinds.append(incremental(project, dsn).type)

    assert kinds == ["incremental"] * 3 + ["full"] + ["incremental"] * 3
    inside = project.opened(base.backup_id).snapshot.source.snapshot
    rows = run_sql(
        dsn,
        f"SELECT xid::text::bigint, pg_visible_in_snapshot(xid, '{inside}') FROM ledger",
    )
    late = {xid % 2**32 for xid, visible in rows if not visible}
    early = {xid % 2**32 for xid, visible in rows if visible}
    found = [one.xid for one in logged(project, table="public.ledger")]
    assert len(found) == len(set(found))
    assert late <= set(found)
    assert set(found) <= late | early
    assert len(late) > 50
    # What is in the log is whole: one row of the ledger each, no rolled back savepoint.
    assert {
        (one.tables["public.ledger"].inserted, one.tables["public.accounts"].updated)
        for one in logged(project, table="public.ledger")
    } == {(1, 1)}


def test_large_transactions_and_rows(source: str, project: Project) -> None:
    """Cut inside a transaction, and inside a row."""
    full(project, source)
    run_script(
        source,
        "BEGIN; INSERT INTO keyed SELECT i, repeat(md5(i::text), 30)"
        " FROM generate_series(1000, 14000) i;"
        "INSERT INTO keyed VALUES (500, repeat('0123456789', 2000000)); COMMIT",
    )
    run_script(source, "INSERT INTO keyed VALUES (501, 'after')")

    report = incremental(project, source)

    log = log_of(project)
    assert report.log is not None
    assert report.log.transactions == 2 + 1  # with the mark of the full
    assert len(log.segments) >= 4
    assert all(segment.raw <= 16 << 20 for segment in log.segments)
    repository = project.repository
    payloads = [repository.read(Ref(one.object, one.raw)) for one in log.segments]
    rows = [parse(message) for message in read_frames(payloads) if message[0] == INSERT]
    assert len(rows) == 13_001 + 2
    values = {row.new[0]: row.new[1] for row in rows}  # type: ignore[union-attr]
    assert values[b"500"] == b"0123456789" * 2_000_000
    assert values[b"501"] == b"after"
    assert [one.tables["public.keyed"].inserted for one in logged(project)] == [13_002, 1]


class SlowStorage(MemoryStorage):
    """Takes its time for the log."""

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        if name.startswith("log/"):
            time.sleep(0.7)
        super().put(name, data, create_only=create_only)


def test_slow_uploads_do_not_end_the_session(
    new_server: NewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = new_server(wal_sender_timeout="1s")
    dsn = server.dsn()
    run_script(dsn, "CREATE TABLE keyed (id int PRIMARY KEY, t text)")
    project = Project.create(SlowStorage("slow"), MemoryStorage("s"))
    prepare(dsn)
    full(project, dsn)
    run_script(
        dsn,
        "INSERT INTO keyed SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 24000) i",
    )
    builder = partial(SegmentBuilder, cut_bytes=1 << 20)
    monkeypatch.setattr(operation, "SegmentBuilder", builder)

    report = incremental(project, dsn)

    assert (report.type, report.reason) == ("incremental", "")
    assert len(log_of(project).segments) > 15
    assert "replication timeout" not in server.log()


def test_a_schema_change_while_draining_makes_a_full(
    source: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(project, source)
    run_script(source, "INSERT INTO keyed VALUES (1000, 'x')")
    drain = operation._drain

    def with_a_migration(*arguments: Any) -> Any:
        drained = drain(*arguments)
        run_script(source, "ALTER TABLE keyed ADD extra int")
        return drained

    monkeypatch.setattr(operation, "_drain", with_a_migration)
    report = incremental(project, source)
    monkeypatch.setattr(operation, "_drain", drain)

    assert (report.type, report.reason) == (
        "full", "the schema changed while the log was drained",
    )  # fmt: skip
    run_script(source, "INSERT INTO keyed VALUES (1001, 'x', 1)")
    assert incremental(project, source).type == "incremental"
    assert [len(one.tables) for one in logged(project)] == [1, 1]


def test_an_old_transaction_keeps_a_full_out_of_the_log(
    source: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may commit after the snapshot, and began before the slot: neither would hold it."""
    opened = partial(log_state.open_anchor, barrier_seconds=0.3)
    monkeypatch.setattr(operation, "open_anchor", opened)
    with psycopg.connect(source) as conn:
        conn.execute("INSERT INTO keyed VALUES (1000, 'open')")
        report = full(project, source)
        assert report.log is None
        told = [one.message for one in project.events if isinstance(one, Warned)]
        assert any("a transaction from before is still open: process" in one for one in told)
        conn.commit()
    assert full(project, source).log is not None
    # Once the chain holds, a full waits for nobody.
    with psycopg.connect(source) as conn:
        conn.execute("INSERT INTO keyed VALUES (1001, 'open')")
        assert full(project, source).log is not None


def test_wal_is_released_where_much_is_held(
    source: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_state, "_RELEASE_BYTES", 1 << 20)
    full(project, source)
    run_script(source, "INSERT INTO keyed SELECT i, repeat('x', 500)"
               " FROM generate_series(1000, 9000) i")  # fmt: skip
    run_sql(source, "CHECKPOINT", "SELECT pg_log_standby_snapshot()")

    report = incremental(project, source)

    assert report.warnings == []
    ((held,),) = run_sql(
        source,
        "SELECT (pg_current_wal_lsn() - restart_lsn)::bigint FROM pg_replication_slots"
        " WHERE database = current_database()",
    )
    assert held < 1 << 20
    assert incremental(project, source).type == "incremental"


@pytest.mark.pg_majors(14, 16, 18)
def test_other_majors(pg: EmbeddedServer, new_database: NewDatabase, project: Project) -> None:
    dsn = new_database()
    run_script(dsn, TABLES)
    prepare(dsn)
    for statement in ALL_FAIL_LESS.split(";"):
        run_script(dsn, statement)
    full(project, dsn)
    run_script(dsn, "INSERT INTO keyed VALUES (1, 'a'); INSERT INTO parted VALUES (120, 'b')")
    report = incremental(project, dsn)
    assert (report.type, report.reason) == ("incremental", "")
    assert set(logged(project)[-1].tables) == {"public.keyed", "public.part2"}
    undo(dsn)
