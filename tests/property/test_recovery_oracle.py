"""Recovery against an oracle: row for row what the source held right after a commit.

Clients write at once, in every way that decoding makes hard; triggers of the source write
down each change with the transaction that made it. That history, replayed up to a commit,
says what the database held right after it, and owes nothing to Aurora.
"""

import contextlib
import dataclasses
import os
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from aurora.engines.logical.targets import Target, Transaction, snapshot_sees
from aurora.errors import RepositoryLocked
from aurora.operations.backup import BackupOptions
from aurora.operations.content import Backup
from aurora.operations.incremental import create_full, create_incremental
from aurora.operations.prune import PruneOptions, plan_prune, run_prune
from aurora.operations.recover import plan_recovery, run_recovery
from aurora.operations.restore_plan import RestoreOptions
from aurora.operations.source import plan_prepare, run_prepare
from aurora.postgres.embedded import EmbeddedServer
from aurora.storage.local import LocalStorage
from aurora.storage.memory import MemoryStorage
from tests.fixtures.postgres import NewDatabase, drop_database
from tests.fixtures.projects import LABEL, Project
from tests.fixtures.streaming import stream_process, streaming

pytest_plugins = ["tests.fixtures.backups"]


@dataclass(frozen=True)
class Size:
    """How much is done."""

    targets: int
    seconds: float
    clients: int
    fulls: int  # after the first
    huge_rows: int  # of 8 kB each that does not compress, in one transaction


SIZES = [
    pytest.param(Size(20, 5.0, 4, 1, 300), marks=pytest.mark.timeout(600), id="short"),
    pytest.param(  # over 64 MB in one transaction: the server spills while it decodes
        Size(220, 40.0, 6, 4, 9_000), marks=[pytest.mark.long, pytest.mark.timeout(3600)], id="long"
    ),
]

SPECIAL = ["a", "a\tb", "a\\nb", "x\ny", "\\.", "é☃", "", "\\N", "\b\f\v\r", "u"]
TABLES = ("account", "mark", "plain", "twin", "pair", "chosen", "part_1", "part_2")
SCHEMA = """
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE mark (id bigserial PRIMARY KEY, client int NOT NULL, number int NOT NULL,
                   balance numeric);
CREATE TABLE plain (id int PRIMARY KEY, v text, big text, f float8, j jsonb,
                    twice int GENERATED ALWAYS AS (id * 2) STORED);
ALTER TABLE plain ALTER big SET STORAGE EXTERNAL;
CREATE TABLE twin (a int, b text, big text);
ALTER TABLE twin REPLICA IDENTITY FULL;
ALTER TABLE twin ALTER big SET STORAGE EXTERNAL;
CREATE TABLE pair (v text, k1 text, k2 int, b bytea, PRIMARY KEY (k1, k2));
CREATE TABLE chosen (k int NOT NULL, x int, v text);
CREATE UNIQUE INDEX chosen_k ON chosen (k);
ALTER TABLE chosen REPLICA IDENTITY USING INDEX chosen_k;
CREATE TABLE part (id int, p int, v text, big text, PRIMARY KEY (id, p)) PARTITION BY LIST (p);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);
ALTER TABLE part_1 ALTER big SET STORAGE EXTERNAL;
CREATE TABLE keyless (a int, v text);
CREATE TABLE untouched (id int PRIMARY KEY, v text);
INSERT INTO untouched SELECT i, 'row ' || i FROM generate_series(1, 500) i;
INSERT INTO account SELECT i, 1000 FROM generate_series(1, 22) i;
INSERT INTO plain (id, v, big) SELECT i, 'old', repeat(chr(97 + i % 26), 5000)
    FROM generate_series(1, 150) i;
INSERT INTO twin SELECT i % 10, 'old', repeat('t', 4000) FROM generate_series(1, 60) i;
INSERT INTO part SELECT i, 1 + i % 2, 'old', repeat('p', 6000) FROM generate_series(1, 80) i;
CREATE TABLE history (number bigserial PRIMARY KEY, xid bigint NOT NULL, relation text NOT NULL,
                      op text NOT NULL, old text, new text);
CREATE FUNCTION look(text) RETURNS text LANGUAGE sql IMMUTABLE AS
    'SELECT left($1, 30) || md5($1)';
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.history (xid, relation, op, old, new) VALUES
        (pg_current_xact_id()::text::bigint, TG_TABLE_NAME, TG_OP,
         CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN public.look(OLD::text) END,
         CASE WHEN TG_OP IN ('UPDATE', 'INSERT') THEN public.look(NEW::text) END);
    RETURN NULL;
END $$;
"""
NOTED = (*TABLES, "keyless")


class Client(threading.Thread):
    """One application: random transactions until it is told to stop."""

    def __init__(self, number: int, seed: int, dsn: str, stop: threading.Event) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.number, self.dsn, self.stop = number, dsn, stop
        self.random = random.Random(seed * 100 + number)
        self.done = 0
        self.operations: list[tuple[int, Callable[[psycopg.Connection], None]]] = [
            (30, self._transfer), (60, self._plain), (25, self._twin), (25, self._pair),
            (15, self._chosen), (20, self._part), (8, self._keyless), (1, self._truncate),
        ]  # fmt: skip

    def run(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            while not self.stop.is_set():
                try:
                    self._transaction(conn)
                except psycopg.Error:  # deadlocks and duplicate keys are part of life
                    conn.execute("ROLLBACK")
                time.sleep(self.random.random() * 0.006)

    def _transaction(self, conn: psycopg.Connection) -> None:
        conn.execute("BEGIN")
        for _ in range(self.random.randint(1, 4)):
            if self.random.random() < 0.2:
                conn.execute("SAVEPOINT s")
                self._operation(conn)
                conn.execute(self.random.choice(["ROLLBACK TO s", "RELEASE s"]))
            else:
                self._operation(conn)
        self.done += 1
        conn.execute(
            "INSERT INTO mark (client, number, balance) SELECT %s, %s, sum(balance) FROM account",
            [self.number, self.done],
        )
        if self.random.random() < 0.03:
            time.sleep(0.4)  # stays open over backups
        end = self.random.random()
        if end < 0.08:
            conn.execute("ROLLBACK")
        elif end < 0.14:
            name = sql.Literal(f"p_{self.number}_{self.done}_{os.getpid()}")
            conn.execute(sql.SQL("PREPARE TRANSACTION {}").format(name))
            time.sleep(0.02)
            conn.execute(sql.SQL("COMMIT PREPARED {}").format(name))
        else:
            conn.execute("COMMIT")

    def _operation(self, conn: psycopg.Connection) -> None:
        weights = [weight for weight, _ in self.operations]
        _, operation = self.random.choices(self.operations, weights)[0]
        operation(conn)

    def _big(self) -> str:
        return chr(97 + self.random.randint(0, 25)) * self.random.choice([10, 3000, 9000])

    def _special(self) -> str:
        return self.random.choice(SPECIAL)

    def _transfer(self, conn: psycopg.Connection) -> None:
        one, other = sorted(self.random.sample(range(1, 21), 2))
        amount = self.random.randint(-50, 50)
        conn.execute("UPDATE account SET balance = balance - %s WHERE id = %s", [amount, one])
        conn.execute("UPDATE account SET balance = balance + %s WHERE id = %s", [amount, other])

    def _plain(self, conn: psycopg.Connection) -> None:
        i, which = self.random.randint(1, 300), self.random.random()
        if which < 0.2:
            conn.execute(
                "INSERT INTO plain VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [i, self._special(), self._big(), self.random.random(), f'{{"u": {i}}}'],
            )
        elif which < 0.5:
            conn.execute("UPDATE plain SET v = %s WHERE id = %s", [self._special(), i])
        elif which < 0.6:
            conn.execute("UPDATE plain SET big = %s WHERE id = %s", [self._big(), i])
        elif which < 0.75:  # the key changes, TOAST stays
            new = self.random.randint(1, 600)
            conn.execute(
                "UPDATE plain SET id = %s WHERE id = %s"
                " AND NOT EXISTS (SELECT FROM plain WHERE id = %s)",
                [new, i, new],
            )
        elif which < 0.85:
            conn.execute("DELETE FROM plain WHERE id = %s", [i])
        else:
            conn.execute("DELETE FROM plain WHERE id = %s", [i])
            conn.execute(
                "INSERT INTO plain VALUES (%s, 're', %s, 'NaN', NULL) ON CONFLICT DO NOTHING",
                [i, self._big()],
            )

    def _twin(self, conn: psycopg.Connection) -> None:
        a, which = self.random.randint(0, 9), self.random.random()
        some = (
            "ctid IN (SELECT ctid FROM twin WHERE a = %s ORDER BY random() LIMIT 2"
            " FOR UPDATE SKIP LOCKED)"
        )
        if which < 0.35:
            conn.execute(
                "INSERT INTO twin SELECT %s, %s, %s FROM generate_series(1, %s)",
                [a, self._special(), self._big(), self.random.randint(1, 3)],
            )
        elif which < 0.7:
            conn.execute(
                f"UPDATE twin SET b = %s WHERE {some}".encode(),
                [self._special(), a],
            )
        else:
            conn.execute(f"DELETE FROM twin WHERE {some}".encode(), [a])

    def _pair(self, conn: psycopg.Connection) -> None:
        k2, which = self.random.randint(0, 30), self.random.random()
        if which < 0.6:
            conn.execute(
                "INSERT INTO pair VALUES (%s, %s, %s, %s) ON CONFLICT (k1, k2)"
                " DO UPDATE SET v = excluded.v",
                [self._special(), self._special(), k2, os.urandom(6)],
            )
        elif which < 0.85:
            new = self._special()
            conn.execute(
                "UPDATE pair SET k1 = %s WHERE k2 = %s AND k1 = %s"
                " AND NOT EXISTS (SELECT FROM pair WHERE k1 = %s AND k2 = %s)",
                [new, k2, self._special(), new, k2],
            )
        else:
            conn.execute("DELETE FROM pair WHERE k2 = %s", [k2])

    def _chosen(self, conn: psycopg.Connection) -> None:
        k = self.random.randint(1, 100)
        if self.random.random() < 0.7:
            conn.execute(
                "INSERT INTO chosen VALUES (%s, 1, 'n') ON CONFLICT (k)"
                " DO UPDATE SET x = chosen.x + 1",
                [k],
            )
        else:
            conn.execute("DELETE FROM chosen WHERE k = %s", [k])

    def _part(self, conn: psycopg.Connection) -> None:
        i, which = self.random.randint(1, 120), self.random.random()
        if which < 0.3:
            conn.execute(
                "INSERT INTO part VALUES (%s, %s, 'new', %s) ON CONFLICT DO NOTHING",
                [i, self.random.randint(1, 2), self._big()],
            )
        elif which < 0.6:  # moves between the partitions
            conn.execute(
                "UPDATE part SET p = 3 - p WHERE id = %s AND NOT EXISTS"
                " (SELECT FROM part z WHERE z.id = %s AND z.p = 3 - part.p)",
                [i, i],
            )
        elif which < 0.9:
            conn.execute("UPDATE part SET v = v || '.' WHERE id = %s", [i])
        else:
            conn.execute("DELETE FROM part WHERE id = %s", [i])

    def _keyless(self, conn: psycopg.Connection) -> None:
        a = self.random.randint(1, 20)
        if self.random.random() < 0.7:
            conn.execute("INSERT INTO keyless VALUES (%s, %s)", [a, self._special()])
        else:
            conn.execute("DELETE FROM keyless WHERE a = %s", [a])

    def huge(self, conn: psycopg.Connection, rows: int) -> None:
        """One transaction that no server keeps in memory; TOAST that its later parts keep."""
        conn.execute("BEGIN")
        conn.execute(
            "INSERT INTO plain (id, v, big) SELECT 10000 + i, 'huge', (SELECT string_agg(md5("
            "(i * 1000 + j)::text), '') FROM generate_series(1, 250) j) FROM"
            " generate_series(1, %s) i",
            [rows],
        )
        conn.execute("UPDATE plain SET v = 'grown', id = id + 50000 WHERE id % 3 = 0 AND id > 9999")
        conn.execute("DELETE FROM plain WHERE id > 9999 AND id % 7 = 0")
        conn.execute("COMMIT")
        conn.execute("UPDATE plain SET v = 'u' WHERE id > 50000 AND id % 5 = 0")
        conn.execute("DELETE FROM plain WHERE id > 9999 AND id % 50 <> 0")

    def _truncate(self, conn: psycopg.Connection) -> None:
        names = self.random.choice(["twin", "pair", "part", "chosen", "plain", "twin, pair"])
        conn.execute("SET LOCAL lock_timeout = '150ms'")  # a backup may hold the table
        conn.execute(f"TRUNCATE {names}".encode())
        conn.execute("SET LOCAL lock_timeout = 0")


class LongClient(Client):
    """One whose transactions stay open until a full was taken meanwhile."""

    fulls = 0  # taken so far; set by who takes them

    def _transaction(self, conn: psycopg.Connection) -> None:
        before = self.fulls
        conn.execute("BEGIN")
        self._plain(conn)
        self._transfer_slowly(conn)
        conn.execute("SAVEPOINT s")
        self._pair(conn)
        conn.execute(self.random.choice(["ROLLBACK TO s", "RELEASE s"]))
        # Not for ever: a backup may wait for one that waits for a row of this transaction.
        end = time.monotonic() + 5
        while self.fulls == before and not self.stop.is_set() and time.monotonic() < end:
            time.sleep(0.01)
        conn.execute(
            "INSERT INTO mark (client, number, balance) SELECT %s, 0, sum(balance) FROM account",
            [self.number],
        )
        conn.execute(self.random.choice(["COMMIT", "COMMIT", "ROLLBACK"]))

    def _transfer_slowly(self, conn: psycopg.Connection) -> None:
        """On accounts of its own: others need not wait for it."""
        amount = self.random.randint(-50, 50)
        conn.execute("UPDATE account SET balance = balance - %s WHERE id = 21", [amount])
        conn.execute("UPDATE account SET balance = balance + %s WHERE id = 22", [amount])


class Killed(Exception):
    """A run that ends between its commit and its acknowledgement."""


def killed() -> None:
    raise Killed


@dataclass
class Oracle:
    """The source's history, replayed."""

    rows: list[tuple[int, str, str, str | None, str | None]]  # xid, relation, op, old, new
    begin: dict[str, Counter[str]]
    order: list[Transaction]  # in commit order
    seen: dict[int, int] = field(init=False)  # xid -> place in that order

    def __post_init__(self) -> None:
        self.seen = {one.xid: place for place, one in enumerate(self.order)}

    def after(self, applied: Callable[[int], bool]) -> dict[str, Counter[str]]:
        """What the tables hold once the transactions that *applied* names are done."""
        state = {name: Counter(held) for name, held in self.begin.items()}
        for xid, relation, op, old, new in self.rows:
            if not applied(xid):
                continue
            if op == "TRUNCATE":
                state[relation].clear()
            if old is not None:
                state[relation][old] -= 1
            if new is not None:
                state[relation][new] += 1
        return {name: +held for name, held in state.items()}

    def at(self, cut: int) -> dict[str, Counter[str]]:
        """After the first *cut* transactions of the log."""
        return self.after(lambda xid: self.seen[xid] < cut)


def held(dsn: str, tables: tuple[str, ...]) -> dict[str, Counter[str]]:
    """Every row of *tables*: the beginning of its text, and a hash of the whole."""
    with psycopg.connect(dsn) as conn:
        return {
            name: Counter(row[0] for row in conn.execute(
                sql.SQL("SELECT public.look(t::text) FROM ONLY {} t").format(sql.Identifier(name))))
            for name in tables
        }  # fmt: skip


def prepare(dsn: str) -> dict[str, Counter[str]]:
    """Schema, triggers, slot; what the tables hold at the beginning."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(SCHEMA)
        for name in NOTED:
            each = "INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW"
            for number, what in enumerate([each, "TRUNCATE ON {} FOR EACH STATEMENT"]):
                conn.execute(
                    sql.SQL(f"CREATE TRIGGER note_{number} AFTER {what} EXECUTE FUNCTION note()")
                    .format(sql.Identifier(name))
                )  # fmt: skip
    run_prepare(plan_prepare(dsn, LABEL), sink=lambda _: None)
    return held(dsn, NOTED)


class Streamer(threading.Thread):
    """A stream in a process of its own that is begun, killed or stopped at random moments."""

    def __init__(self, project: Project, dsn: str, seed: int, stop: threading.Event) -> None:
        super().__init__(name="streamer", daemon=True)
        self.project, self.dsn, self.stop = project, dsn, stop
        self.chance = random.Random(seed)
        self.streamed, self.killed = 0, 0
        self.problem = ""

    def run(self) -> None:
        while not self.stop.is_set() and not self.problem:
            few = self.chance.choice([3, 64])
            wait = self.chance.choice([0.05, 0.3, 1.0])
            with stream_process(self.project, self.dsn, interval=wait, gather_pieces=few) as run:
                assert run.stdout is not None
                assert run.stderr is not None
                self.streamed += run.stdout.readline() == b"up\n"
                self.stop.wait(self.chance.uniform(0.0, 3.0))
                if run.poll() is None and self.chance.random() < 0.6:
                    run.kill()
                    self.killed += 1
                else:
                    run.terminate()
                    told = run.stderr.read().decode()
                    self.problem = told if run.wait() else ""
            self.stop.wait(self.chance.uniform(0.0, 0.5))


class Pruner(threading.Thread):
    """Retention and collection, again and again; what is older than a cut of a stream may go."""

    def __init__(self, project: Project, seed: int, stop: threading.Event) -> None:
        super().__init__(name="pruner", daemon=True)
        self.project, self.stop = project, stop
        self.chance = random.Random(seed)
        self.deleted = 0
        self.problem = ""

    def run(self) -> None:
        options = PruneOptions(database=LABEL, undelete=timedelta(0), min_age=timedelta(seconds=5))
        repository, sink = self.project.repository, self.project.events.append
        try:
            while not self.stop.wait(self.chance.uniform(0.0, 1.0)):
                with contextlib.suppress(RepositoryLocked):  # the stream's host was killed
                    report = run_prune(
                        plan_prune(repository, "primary", options, sink=sink), sink=sink
                    )
                    gone = [one for one in report.announced if "-stream-" not in one]
                    assert not gone, "all is within the window; pieces may be gathered already"
                    self.deleted += report.collected.objects if report.collected else 0
        except BaseException:  # noqa: BLE001 - told to the thread that waits
            self.problem = traceback.format_exc()


def live(project: Project, dsn: str, seed: int, size: Size) -> None:
    """Let the clients write while backups are taken, and die, at random moments."""
    chance = random.Random(seed)
    options = BackupOptions(database=LABEL, jobs=1)
    stop = threading.Event()
    clients = [Client(number, seed, dsn, stop) for number in range(size.clients)]
    slow = LongClient(size.clients, seed, dsn, stop)
    streamer = Streamer(project, dsn, seed, stop)
    pruner = Pruner(project, seed, stop)

    def full() -> None:
        create_full(dsn, project.repository, options, open_mirror=None, sink=project.events.append)
        slow.fulls += 1

    def incremental() -> None:
        dies = chance.random() < 0.2
        try:
            made = create_incremental(
                dsn, project.repository, options, open_mirror=None, sink=project.events.append,
                before_acknowledge=killed if dies else lambda: None,
            )  # fmt: skip
        except Killed:
            return
        assert made.type == "incremental", made.reason

    for client in clients:
        client.start()
    time.sleep(0.2)
    full()
    slow.start()
    streamer.start()
    pruner.start()
    end = time.monotonic() + size.seconds
    moments = sorted(end - size.seconds * chance.uniform(0.2, 0.8) for _ in range(size.fulls))
    huge = end - size.seconds * chance.uniform(0.3, 0.7)
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            while time.monotonic() < end or not streamer.streamed:
                time.sleep(chance.random() * 0.8)
                if huge and time.monotonic() > huge:
                    clients[0].huge(conn, size.huge_rows)
                    huge = 0.0
                if moments and time.monotonic() > moments[0]:
                    moments.pop(0)
                    full()
                else:
                    incremental()
    finally:
        stop.set()
        for thread in (*clients, slow, streamer, pruner):
            thread.join()
    problem = streamer.problem + pruner.problem
    assert not problem, problem
    print(f"{pruner.deleted} objects were collected meanwhile")  # noqa: T201
    if seed % 2:  # else the newest changes are in pieces of a stream
        create_incremental(
            dsn, project.repository, options, open_mirror=None, sink=project.events.append
        )
    else:
        with streaming(project, dsn) as last:
            last.keeps(dsn)
            last.end()


def read_oracle(project: Project, dsn: str, begin: dict[str, Counter[str]]) -> Oracle:
    """The history, and the order of commits as the log tells it."""
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(
            "SELECT xid & 4294967295, relation, op, old, new FROM history ORDER BY number"
        ).fetchall()
    plan = plan_recovery(
        project.repository, LABEL, Target(latest=True), dsn, RestoreOptions(in_place=True),
        sink=project.events.append,
    )  # fmt: skip
    assert plan.resolution.run is not None
    order = list(plan.resolution.run.later(None))
    logged = {one.xid for one in order}
    missing = {row[0] for row in rows} - logged
    assert not missing, f"{len(missing)} transactions are not in the log: {sorted(missing)[:5]}"
    return Oracle(rows, begin, order)


def choose(chance: random.Random, oracle: Oracle, first: int, number: int) -> tuple[Target, int]:
    """A target not before transaction number *first*, and how many transactions it means.

    The earliest and the latest are always among them.
    """
    place = first if number == 0 else chance.randrange(first, len(oracle.order))
    one = oracle.order[place]
    if number < 2:
        return (Target(xid=one.xid), place + 1) if number == 0 else (
            Target(latest=True), len(oracle.order)
        )  # fmt: skip
    kind = chance.choice(["xid", "before", "lsn", "before lsn", "time", "before time", "latest"])
    match kind:
        case "xid":
            return Target(xid=one.xid), place + 1
        case "before":
            return Target(before_xid=one.xid), place
        case "lsn":
            return Target(lsn=one.commit_lsn), place + 1
        case "before lsn":
            return Target(lsn=one.commit_lsn - 1), place
        case "time":
            return Target(at=one.at), _until(oracle, one.at)
        case "before time":
            return Target(at=one.at - 1), _until(oracle, one.at - 1)
        case _:
            return Target(latest=True), len(oracle.order)


def _until(oracle: Oracle, at: int) -> int:
    return max((i + 1 for i, found in enumerate(oracle.order) if found.at <= at), default=0)


@pytest.fixture
def project(open_dir: Path) -> Project:
    """A repository that another process can open too."""
    return Project.create(LocalStorage(open_dir / "primary"), MemoryStorage("secondary"))


@pytest.mark.parametrize("size", SIZES)
def test_recovery_equals_the_oracle(
    project: Project, pg: EmbeddedServer, new_database: NewDatabase, size: Size
) -> None:
    """Random targets, just after, just before and between commits; and the ledger's total."""
    seed = int(os.environ.get("AURORA_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    chance = random.Random(seed)
    source = new_database()
    begin = prepare(source)
    live(project, source, seed, size)
    oracle = read_oracle(project, source, begin)
    first_full = project.opened(project.repository.backups(LABEL)[0].id)
    sees = snapshot_sees(first_full.snapshot.source.snapshot)
    first = 1 + max((i for i, one in enumerate(oracle.order) if sees(one.xid)), default=-1)
    bases = Counter[str]()
    for number in range(size.targets):
        target, cut = choose(chance, oracle, first + 1, number)
        bases[_recover(project, pg, source, oracle, target, cut, f"seed {seed}, {number}")] += 1
    print(f"seed {seed}: {len(oracle.order)} transactions, {len(oracle.rows)} changes, {bases}")  # noqa: T201
    assert len(bases) > 1, "both fulls serve"
    assert oracle.at(len(oracle.order)) == held(source, NOTED), "the oracle itself"


def _recover(
    project: Project,
    pg: EmbeddedServer,
    source: str,
    oracle: Oracle,
    target: Target,
    cut: int,
    told: str,
) -> str:
    """Recover and compare; the full that served."""
    name = f"recovered_{os.getpid()}_{target.xid or target.before_xid or 0}"
    dsn = pg.dsn(name)
    with contextlib.ExitStack() as stack:
        stack.callback(drop_database, pg, name)
        plan = plan_recovery(
            project.repository, LABEL, target, dsn, RestoreOptions(), sink=project.events.append
        )
        if cut % 3 == 0:  # as if memory were short
            plan = dataclasses.replace(
                plan, point=dataclasses.replace(plan.point, keys_in_memory=20)
            )
        report = run_recovery(plan, make_safety_backup=None, sink=project.events.append)
        assert report.outcome == "restored", (told, report.problems, report.refusals)
        found = held(dsn, NOTED)
        expected = oracle.at(cut)
        for table in TABLES:
            more, less = found[table] - expected[table], expected[table] - found[table]
            assert not more, f"{told}: {target}: {table} has {str(more)[:300]}"
            assert not less, f"{told}: {target}: {table} lacks {str(less)[:300]}"
        assert found["keyless"] == _reread(project, oracle, plan.point.reread["public.keyless"])
        with psycopg.connect(dsn) as conn:
            assert conn.execute("SELECT sum(balance) FROM account").fetchone() == (22000,)
            row = conn.execute(
                "SELECT last_value >= (SELECT max(id) FROM mark) FROM mark_id_seq"
            ).fetchone()
            assert row == (True,)
    assert source
    return plan.resolution.base.backup


def _reread(project: Project, oracle: Oracle, at: str) -> Counter[str]:
    """The rows of a table that the log does not carry, as of the backup of that moment."""
    for entry in project.repository.backups(LABEL):
        backup = Backup(project.repository, entry)
        if backup.is_piece:
            continue
        if backup.snapshot.source.snapshot_at == at:
            sees = snapshot_sees(backup.snapshot.source.snapshot)
            return oracle.after(sees)["keyless"]
    raise AssertionError(f"no backup of {at}")
