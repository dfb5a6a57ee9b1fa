"""Recovery over schema changes, and of commits that hang, against photographs of the source.

A photograph locks every table against writers, reads all of them, and marks the log in the
same transaction: what it shows is what the source held right after its commit, in the
shape that the tables had then. A recovery there gives the same, or is refused.
"""

import contextlib
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass

import psycopg
import pytest

from aurora.engines.logical.targets import Target
from aurora.errors import SourceChanged, UsageError
from aurora.operations.backup import BackupOptions
from aurora.operations.incremental import create_full, create_incremental
from aurora.operations.recover import plan_recovery, run_recovery
from aurora.operations.restore_plan import RestoreOptions
from aurora.operations.source import plan_prepare, run_prepare
from aurora.postgres.embedded import EmbeddedServer
from tests.fixtures.postgres import NewDatabase, NewServer, drop_database
from tests.fixtures.projects import LABEL, Project

pytest_plugins = ["tests.fixtures.backups"]

SCHEMA = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE keyed (id int PRIMARY KEY, v text, big text, m mood DEFAULT 'good');
CREATE TABLE twin (a int, b text, big text);
CREATE TABLE part (id int, p int, v text, PRIMARY KEY (id, p)) PARTITION BY LIST (p);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);
CREATE TABLE still (id int PRIMARY KEY, v text);
ALTER TABLE twin REPLICA IDENTITY FULL;
ALTER TABLE keyed ALTER big SET STORAGE EXTERNAL;
ALTER TABLE twin ALTER big SET STORAGE EXTERNAL;
INSERT INTO keyed SELECT i, 'v', repeat(chr(97 + i % 26), 4000) FROM generate_series(1, 60) i;
INSERT INTO twin SELECT i % 5, 'b', repeat('t', 3000) FROM generate_series(1, 30) i;
INSERT INTO part SELECT i, 1 + i % 2, 'v' FROM generate_series(1, 40) i;
INSERT INTO still SELECT i, 'v' FROM generate_series(1, 50) i;
"""
WRITES = (
    "INSERT INTO keyed (id, v, big) VALUES ({n}, '{t}', repeat('{t}', 3500))"
    " ON CONFLICT (id) DO UPDATE SET v = excluded.v",
    "UPDATE keyed SET v = '{t}' WHERE id % 7 = {n} % 7",
    "UPDATE keyed SET id = id + 500 WHERE id = {n} AND NOT EXISTS"
    " (SELECT FROM keyed k WHERE k.id = {n} + 500)",
    "UPDATE keyed SET big = repeat('{t}', 5000) WHERE id = {n}",
    "DELETE FROM keyed WHERE id = {n}",
    "INSERT INTO twin (a, b, big) SELECT {n} % 5, '{t}', repeat('{t}', 2500) FROM"
    " generate_series(1, 2)",
    "UPDATE twin SET b = '{t}' WHERE ctid IN (SELECT ctid FROM twin WHERE a = {n} % 5 LIMIT 2)",
    "DELETE FROM twin WHERE ctid IN (SELECT ctid FROM twin WHERE a = {n} % 5 LIMIT 1)",
    "UPDATE part SET p = 3 - p WHERE id = {n} AND NOT EXISTS"
    " (SELECT FROM part z WHERE z.id = {n} AND z.p = 3 - part.p)",
    "INSERT INTO part (id, p, v) VALUES ({n}, 1 + {n} % 2, '{t}') ON CONFLICT DO NOTHING",
    "UPDATE still SET v = '{t}' WHERE id = {n} % 50",
)
CHANGES = (
    "ALTER TABLE {t} ADD COLUMN IF NOT EXISTS more{n} text",
    "ALTER TABLE {t} ADD COLUMN IF NOT EXISTS more{n} text DEFAULT 'd{k}'",
    "ALTER TABLE {t} ADD COLUMN IF NOT EXISTS more{n} timestamptz DEFAULT now()",
    "ALTER TABLE {t} DROP COLUMN IF EXISTS more{n}",
    "ALTER TABLE {t} RENAME COLUMN more{n} TO more{k}",
    "ALTER TABLE {t} ALTER COLUMN more{n} SET DEFAULT 'later'",
    "ALTER TABLE {t} DROP COLUMN more{n}, ADD COLUMN more{n} text DEFAULT 'again'",
    "CREATE INDEX ON {t} (v)",
    "CREATE OR REPLACE VIEW seen AS SELECT {k} AS k",
    "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'm{k}'",
    "ALTER TABLE part DETACH PARTITION part_2",
    "ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES IN (2)",
    "ALTER TABLE still RENAME TO was_still",
    "ALTER TABLE was_still RENAME TO still",
    "VACUUM FULL {t}",
    "TRUNCATE twin",
    "CREATE TABLE made{k} (id int PRIMARY KEY)",
    "DROP TABLE IF EXISTS made{n}",
    "ALTER TABLE {t} ADD COLUMN IF NOT EXISTS more{n} float8 DEFAULT random()",
    "ALTER TYPE mood RENAME VALUE 'bad' TO 'worse'",
    "BEGIN; ALTER TABLE keyed ADD COLUMN IF NOT EXISTS more{n} int DEFAULT 1;"
    " UPDATE keyed SET v = 'inside' WHERE id % 9 = 0; COMMIT",
)


@dataclass(frozen=True)
class Photograph:
    """What the source held right after transaction ``xid``."""

    xid: int
    columns: dict[str, tuple[str, ...]]  # by table
    rows: dict[str, Counter[str]]


def photograph(dsn: str, *, mark: bool = True) -> Photograph:
    """All tables of public at one moment; in the log it stands at its own commit."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for _ in range(200):
            with contextlib.suppress(
                psycopg.errors.LockNotAvailable,
                psycopg.errors.DeadlockDetected,
                psycopg.errors.UndefinedTable,  # renamed or dropped since it was listed
            ):
                return _photograph(conn, mark=mark)
            time.sleep(0.02)
    raise AssertionError("the tables were never free")


_TABLES = """
SELECT c.relname, array_agg(a.attname::text || ' ' || format_type(a.atttypid, a.atttypmod)
                            ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace GROUP BY 1 ORDER BY 1
"""


def _photograph(conn: psycopg.Connection, *, mark: bool) -> Photograph:
    with conn.transaction():
        conn.execute("SET LOCAL lock_timeout = '200ms'")
        conn.execute("SET LOCAL synchronous_commit = local")
        found = conn.execute(_TABLES).fetchall()
        if mark:
            names = ", ".join(f'ONLY "{name}"' for name, _ in found)
            conn.execute(f"LOCK TABLE {names} IN SHARE MODE".encode())
        found = conn.execute(_TABLES).fetchall()
        rows = {
            name: Counter(
                str(row[0])
                for row in conn.execute(
                    f'SELECT md5(t::text) || left(t::text, 60) FROM ONLY public."{name}" t'.encode()
                )
            )
            for name, _ in found
        }
        xid = 0
        if mark:
            conn.execute("SELECT pg_logical_emit_message(true, 'photograph', 'x')")
            row = conn.execute("SELECT pg_current_xact_id()::text::bigint & 4294967295").fetchone()
            assert row is not None
            xid = int(row[0])
    return Photograph(xid, {name: tuple(columns) for name, columns in found}, rows)


class Worker(threading.Thread):
    """Runs statements of one kind until it is told to stop; those that fail are part of life."""

    def __init__(
        self, dsn: str, seed: int, stop: threading.Event, statements: tuple[str, ...], pause: float
    ) -> None:
        super().__init__(daemon=True)
        self.dsn, self.stop, self.statements, self.pause = dsn, stop, statements, pause
        self.random = random.Random(seed)
        self.done = 0

    def run(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("SET lock_timeout = '300ms'")
            while not self.stop.is_set():
                text = self.random.choice(self.statements).format(
                    n=self.random.randint(1, 9 if "more" in self.statements[0] else 120),
                    k=self.random.randint(1, 9),
                    t=self.random.choice(("keyed", "twin", "still", "part"))
                    if "more" in self.statements[0]
                    else self.random.choice("abcdefg"),
                )
                try:
                    conn.execute(text.encode())
                    self.done += 1
                except psycopg.Error:
                    conn.execute("ROLLBACK")
                time.sleep(self.random.random() * self.pause)


def compare(taken: Photograph, dsn: str, told: str) -> None:
    """Fail unless the database at *dsn* is what the photograph shows."""
    found = photograph(dsn, mark=False)
    assert found.columns == taken.columns, told
    for name, rows in taken.rows.items():
        more, less = found.rows[name] - rows, rows - found.rows[name]
        assert not more, f"{told}: {name} has {str(more)[:300]}"
        assert not less, f"{told}: {name} lacks {str(less)[:300]}"


@pytest.mark.parametrize(
    "seconds,most",
    [
        pytest.param(5.0, 12, marks=pytest.mark.timeout(240), id="short"),
        pytest.param(90.0, 100, marks=[pytest.mark.long, pytest.mark.timeout(3600)], id="long"),
    ],
)
def test_schema_changes_are_exact_or_refused(
    project: Project, pg: EmbeddedServer, new_database: NewDatabase, seconds: float, most: int
) -> None:
    """Under load, at any moment: the rows in the very shape of then, or a refusal."""
    seed = int(os.environ.get("AURORA_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    chance = random.Random(seed)
    source = new_database()
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute(SCHEMA)
    run_prepare(plan_prepare(source, LABEL, ddl_markers=True), sink=project.events.append)
    stop = threading.Event()
    workers = [Worker(source, seed + i, stop, WRITES, 0.02) for i in range(3)]
    workers.append(Worker(source, seed + 9, stop, CHANGES, 2.5))
    options = BackupOptions(database=LABEL, jobs=1)
    sink = project.events.append
    create_full(source, project.repository, options, open_mirror=None, sink=sink)
    for worker in workers:
        worker.start()
    taken, end = [], time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            for _ in range(chance.randint(2, 6)):
                taken.append(photograph(source))
                time.sleep(chance.random() * 0.15)
            with contextlib.suppress(SourceChanged):
                create_incremental(source, project.repository, options, open_mirror=None, sink=sink)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    for _ in range(2):
        create_incremental(source, project.repository, options, open_mirror=None, sink=sink)
    assert workers[-1].done, "the schema changed"

    outcomes: Counter[str] = Counter()
    chosen = chance.sample(taken, min(most, len(taken)))
    for number, one in enumerate(chosen):
        target = pg.dsn(f"photo_{os.getpid()}_{number}")
        try:
            outcomes[_recover(project, one, target, f"seed {seed}, transaction {one.xid}")] += 1
        finally:
            drop_database(pg, f"photo_{os.getpid()}_{number}")
    print(f"seed {seed}: {len(taken)} photographs, {workers[-1].done} changes, {outcomes}")  # noqa: T201
    assert outcomes["exact"] + outcomes["carried"] > 0


def _recover(project: Project, taken: Photograph, target: str, told: str) -> str:
    """Recover to a photograph and compare; how it was met."""
    sink = project.events.append
    try:
        plan = plan_recovery(
            project.repository, LABEL, Target(xid=taken.xid), target, RestoreOptions(), sink=sink
        )
        report = run_recovery(plan, make_safety_backup=None, sink=sink)
    except UsageError as error:
        return f"refused: {error.message.partition(': ')[2][:40] or error.message[-60:]}"
    assert report.outcome == "restored", (told, report.problems, report.refusals)
    compare(taken, target, told)
    return "carried" if plan.resolution.schema else "exact"


def test_commits_that_wait_for_a_standby(project: Project, new_server: NewServer) -> None:
    """In the log already, and visible to nobody yet: lost to no snapshot, doubled by none."""
    server = new_server()
    source = server.dsn("hangs")
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE hangs")
    options, sink = BackupOptions(database=LABEL, jobs=1), project.events.append

    def full() -> None:
        create_full(source, project.repository, options, open_mirror=None, sink=sink)

    def incremental() -> None:
        made = create_incremental(source, project.repository, options, open_mirror=None, sink=sink)
        assert made.type == "incremental", made.reason

    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute(SCHEMA)
        run_prepare(plan_prepare(source, LABEL), sink=sink)
        full()
        conn.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        conn.execute("SELECT pg_reload_conf()")
        conn.execute("SET synchronous_commit = local")
        threads, xids = [], []
        for number in range(4):
            hanging = psycopg.connect(source)
            hanging.execute(f"UPDATE keyed SET v = 'hung' WHERE id = {number + 1}".encode())
            hanging.execute(b"INSERT INTO twin VALUES (7, 'hung', 'x')")
            row = hanging.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
            assert row is not None
            xids.append(int(row[0]))
            threads.append(threading.Thread(target=_commit, args=(hanging,), daemon=True))
        for thread in threads:
            thread.start()
        _until(conn, "SELECT count(*) = 4 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        conn.execute("INSERT INTO keyed (id, v) VALUES (900, 'while they hang')")
        assert conn.execute("SELECT count(*) FROM twin WHERE b = 'hung'").fetchone() == (0,)
        full()  # its snapshot sees none of the four, which all lie before it in the log
        conn.execute("INSERT INTO keyed (id, v) VALUES (901, 'while they hang')")
        incremental()
        conn.execute("ALTER SYSTEM RESET synchronous_standby_names")
        conn.execute("SELECT pg_reload_conf()")
        for thread in threads:
            thread.join()
        conn.execute("UPDATE keyed SET v = 'released' WHERE id = 2")
        incremental()
    end = photograph(source, mark=False)
    for base in ("", project.repository.backups(LABEL)[0].id):
        target = server.dsn("found" + base[-5:].replace("-", "_"))
        plan = plan_recovery(
            project.repository, LABEL, Target(latest=True), target, RestoreOptions(),
            full=base, sink=sink,
        )  # fmt: skip
        run_recovery(plan, make_safety_backup=None, sink=sink)
        compare(end, target, f"from {base or 'the newest full'}")
    first = project.repository.backups(LABEL)[0].id
    target = server.dsn("between")
    plan = plan_recovery(
        project.repository, LABEL, Target(xid=xids[0]), target,
        RestoreOptions(), full=first, sink=sink,
    )  # fmt: skip
    run_recovery(plan, make_safety_backup=None, sink=sink)
    with psycopg.connect(target) as conn:
        assert conn.execute("SELECT v FROM keyed WHERE id = 1").fetchone() == ("hung",)
        assert conn.execute("SELECT count(*) FROM keyed WHERE id >= 900").fetchone() == (0,)


def _commit(conn: psycopg.Connection) -> None:
    conn.commit()
    conn.close()


def _until(conn: psycopg.Connection, query: str) -> None:
    for _ in range(3000):
        if conn.execute(query.encode()).fetchone() == (True,):
            return
        time.sleep(0.01)
    raise AssertionError(f"never so: {query}")
