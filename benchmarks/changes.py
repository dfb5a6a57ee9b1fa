"""The change log against its peers: incrementals, streaming, recovery to a point.

``pgbench -c4`` writes for a minute; then Aurora, ``pg_recvlogical`` and pgBackRest each take
what changed since their last backup. Then the same changes are recovered: by Aurora's merge,
by pgBackRest's redo, and by replaying them row by row in a pipeline, a thousand transactions
a commit.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import psycopg
from measure import BenchFailed, Command, Run, disk_usage
from peers import PgBackRest, pgbackrest
from results import Results
from stage import DATABASE, AuroraHere, Stage

from aurora.engines.logical import pgoutput
from aurora.engines.logical.slot import LogNames

_SCALE = 20  # 100,000 accounts each
_CLIENTS = 4
_RECEIVER, _REPLAYER = "bench_receiver", "bench_replayer"
_COMMIT_EVERY = 1000  # transactions of the source
_NAMES = LogNames.of(DATABASE)


def measure_changes(stage: Stage, results: Results, seconds: int, repetitions: int) -> None:
    """All rows of this page. Needs pgBackRest: both sides run with its archive."""
    with pgbackrest(stage, wal_level="logical", max_slot_wal_keep_size="-1") as peer:
        stage.run(_pgbench(stage, "-i", "-q", "-s", str(_SCALE)))
        # The stock table has no key, so that it would be read again each time.
        stage.execute("ALTER TABLE pgbench_history REPLICA IDENTITY FULL", database=DATABASE)
        here = AuroraHere(stage, "changes").begin()
        here.run(["source", "prepare", "--yes"])
        _make_slots(stage)
        full = here.run(["backup", "create"]).facts["backup_id"]
        peer.backup("full")
        _drop_what_was_there(stage)
        try:
            for _ in range(repetitions):
                _incrementals(stage, results, here, peer, seconds)
            _recoveries(stage, results, here, peer, str(full))
            _streaming(stage, results, here, seconds, repetitions)
        finally:
            for slot in (_RECEIVER, _REPLAYER):
                stage.execute(f"SELECT pg_drop_replication_slot('{slot}')", database=DATABASE)
            here.run(["source", "prepare", "--undo", "--yes"])
            here.remove()


def _pgbench(stage: Stage, *args: str) -> Command:
    return Command([stage.program("pgbench"), *args, "-d", stage.dsn()])


def _load(stage: Stage, seconds: int) -> float:
    """Let pgbench write for *seconds*; its transactions a second."""
    done = subprocess.run(
        [stage.program("pgbench"), "-n", "-c", str(_CLIENTS), "-j", "2", "-T", str(seconds),
         stage.dsn()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    if done.returncode or found is None:
        raise BenchFailed(f"pgbench failed: {done.stderr.strip()[-300:]}")
    return float(found[1])


def _make_slots(stage: Stage) -> None:
    for slot in (_RECEIVER, _REPLAYER):
        stage.execute(
            f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')", database=DATABASE
        )


def _drop_what_was_there(stage: Stage) -> None:
    """The slots' first position is that of the backups."""
    for slot in (_RECEIVER, _REPLAYER):
        stage.execute(
            f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())",
            database=DATABASE,
        )


def _incrementals(
    stage: Stage, results: Results, here: AuroraHere, peer: PgBackRest, seconds: int
) -> None:
    tps = _load(stage, seconds)
    results.told(f"{tps * seconds:,.0f} transactions in {seconds} s")
    results.database["transactions"] = round(
        results.database.get("transactions", 0) + tps * seconds
    )
    results.attempt("received", lambda: _receive(stage))
    before = disk_usage(here.repository)
    results.attempt("incremental", lambda: here.run(["backup", "create", "--type", "incremental"]))
    results.sizes["aurora, incremental"] = disk_usage(here.repository) - before
    run, results.sizes["pgbackrest, incremental"] = peer.backup("incr")
    results.add("pgbackrest_incr", run)


def _receive(stage: Stage) -> Run:
    """pg_recvlogical of what changed, to /dev/null."""
    with psycopg.connect(stage.dsn(), autocommit=True) as conn:
        row = conn.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
        end = str(row[0]) if row else ""
        conn.execute("SELECT pg_logical_emit_message(true, 'bench', 'end')")
    command = [
        stage.program("pg_recvlogical"), "-d", stage.dsn(), "--slot", _RECEIVER, "--start",
        "--no-loop", "-f", "/dev/null", f"--endpos={end}", "-o", "proto_version=1", "-o",
        f"publication_names={','.join(_NAMES.publications)}",
    ]  # fmt: skip
    return stage.run(Command(command))


def _streaming(
    stage: Stage, results: Results, here: AuroraHere, seconds: int, repetitions: int
) -> None:
    """pgbench alone and beside `aurora stream`, by turns."""
    alone: list[float] = []
    beside: list[float] = []
    behind: list[float] = []
    for _ in range(repetitions):
        alone.append(_load(stage, seconds))
        with _stream(stage, here):
            beside.append(_load(stage, seconds))
            behind.append(_catch_up(stage))
    results.figures |= {
        "pgbench -c4 alone, transactions a second": max(alone),
        "the same beside aurora stream": max(beside),
        "seconds until the stream had acknowledged all of it": min(behind),
    }


@contextmanager
def _stream(stage: Stage, here: AuroraHere) -> Iterator[None]:
    process = subprocess.Popen(
        here.words("stream", "--json"), env=here.environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait(lambda: _slot(stage, "active") == "True", 60, "the stream to begin")
        yield
    finally:
        process.terminate()
        process.wait(60)


def _catch_up(stage: Stage) -> float:
    """Seconds until what was written before now is acknowledged."""
    begun = time.monotonic()
    with psycopg.connect(stage.dsn(), autocommit=True) as conn:
        row = conn.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
    end = str(row[0]) if row else ""
    reached = f"confirmed_flush_lsn >= '{end}'::pg_lsn"
    _wait(lambda: _slot(stage, reached) == "True", 300, "the stream to catch up")
    return time.monotonic() - begun


def _slot(stage: Stage, expression: str) -> str:
    with psycopg.connect(stage.dsn(), autocommit=True) as conn:
        query = f"SELECT {expression} FROM pg_replication_slots WHERE slot_name = %s"
        row = conn.execute(query.encode(), [_NAMES.slot]).fetchone()
    return str(row[0]) if row else ""


def _wait(reached: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise BenchFailed(f"waited {seconds:g} s for {what}")
        time.sleep(0.1)


def _recoveries(
    stage: Stage, results: Results, here: AuroraHere, peer: PgBackRest, full: str
) -> None:
    target = ["--target", stage.dsn("recovered"), "--yes"]
    stage.drop("recovered")
    results.attempt("base", partial(here.run, ["backup", "restore", full, *target]))
    _replay(stage, results)
    stage.drop("recovered")
    results.attempt("point", partial(here.run, ["backup", "restore-point", "--latest", *target]))
    stage.drop("recovered")
    stage.execute("SELECT pg_switch_wal()")
    run = peer.restore(9, recovery_target_timeline="current", wal_level="logical")
    results.add("pgbackrest_point", run)
    redo = re.search(r"redo done at .*elapsed: ([0-9.]+) s", str(run.facts.pop("log")))
    if redo is not None:
        results.figures["seconds of pgBackRest's restore that were redo"] = float(redo[1])


@dataclass(slots=True)
class _Statement:
    text: bytes
    values: list[str | None]


def _replay(stage: Stage, results: Results) -> None:
    """The same changes into the restored base, row by row, prepared and pipelined."""
    stage.settle()
    # In a process of its own: the memory it takes would show up as that of those we start.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as aside:
        replaying = aside.submit(_replayed, stage.dsn(), stage.dsn("recovered"))
        results.database["changes"], run = replaying.result()
    results.add("replay", run)


def _replayed(source: str, target: str) -> tuple[int, Run]:
    """How many changes of rows there were, and what replaying them took."""
    with psycopg.connect(source, autocommit=True) as conn:
        rows = conn.execute(
            "SELECT data FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL,"
            " 'proto_version', '1', 'publication_names', %s)",
            [_REPLAYER, ",".join(_NAMES.publications)],
            binary=True,
        )
        messages = [bytes(row[0]) for row in rows]
    changes = sum(message[0] in pgoutput.ROW_KINDS for message in messages)
    begun, cpu = time.monotonic(), time.process_time()
    with psycopg.connect(target) as conn, conn.pipeline():
        done = 0
        for statement in _statements(messages):
            if statement is None:
                done += 1
                if done % _COMMIT_EVERY == 0:
                    conn.commit()
                continue
            conn.execute(statement.text, statement.values, prepare=True)
        conn.commit()
    return changes, Run(time.monotonic() - begun, time.process_time() - cpu, 0.0, 0)


def _statements(messages: list[bytes]) -> Iterator[_Statement | None]:
    """What each change is in SQL; None after a transaction."""
    relations: dict[int, pgoutput.Relation] = {}
    texts: dict[tuple[int, int], bytes] = {}
    for message in messages:
        found = pgoutput.parse(message)
        match found:
            case pgoutput.Relation():
                relations[found.oid] = found
            case pgoutput.Commit():
                yield None
            case pgoutput.Insert():
                relation = relations[found.relation]
                text = texts.setdefault((relation.oid, 0), _insert(relation))
                yield _Statement(text, _plain(found.new))
            case pgoutput.Update():
                relation = relations[found.relation]
                text = texts.setdefault((relation.oid, 1), _update(relation))
                keys = [
                    value
                    for value, column in zip(found.new, relation.columns, strict=True)
                    if column.is_key
                ]
                yield _Statement(text, _plain([*found.new, *keys]))
            case _:
                continue


def _plain(values: pgoutput.Values) -> list[str | None]:
    """As text of no type: the server finds it."""
    return [one.decode() if isinstance(one, bytes) else None for one in values]


def _insert(relation: pgoutput.Relation) -> bytes:
    places = ", ".join(["%s"] * len(relation.columns))
    return f"INSERT INTO {relation.name} VALUES ({places})".encode()


def _update(relation: pgoutput.Relation) -> bytes:
    columns = ", ".join(f"{column.name} = %s" for column in relation.columns)
    keys = " AND ".join(f"{c.name} = %s" for c in relation.columns if c.is_key)
    return f"UPDATE {relation.name} SET {columns} WHERE {keys}".encode()
