"""The source's schema changes, or is locked, while it is backed up."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from aurora.errors import AuroraError, SourceChanged
from aurora.events import Event, PhaseBegun
from aurora.operations.backup import BackupOptions, create_backup
from aurora.testing.faulty_storage import Fault, FaultyStorage, Kind
from tests.fixtures.faults import CHUNK, Stand, eventually, refused, require_clear, rows_of, run_sql

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]


@contextlib.contextmanager
def holding(dsn: str, *statements: str, name: str = "migration") -> Iterator[psycopg.Connection]:
    """A session that has run *statements* in a transaction that stays open."""
    with psycopg.connect(dsn, application_name=name) as conn:
        for statement in statements:
            conn.execute(statement.encode())
        yield conn
        conn.rollback()


@contextlib.contextmanager
def aside(work: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Do *work* in a thread meanwhile; yields the list that gets its error."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield raised
    finally:
        thread.join(60)
        assert not thread.is_alive(), "it hangs"


def waiting(dsn: str) -> bool:
    """Whether some session waits for a lock in the source's database."""
    return bool(
        run_sql(
            dsn,
            "SELECT 1 FROM pg_locks WHERE NOT granted AND"
            " database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
    )


def pg_dump_has_locks(dsn: str) -> bool:
    """Whether a pg_dump in the source's database has locked the table orders."""
    return bool(
        run_sql(
            dsn,
            "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE application_name = 'pg_dump' AND relation = 'orders'::regclass AND granted",
        )
    )


def test_a_table_locked_exclusively(stand: Stand) -> None:
    """The table and its holder are named, after no longer than lock_timeout."""
    with holding(stand.dsn, "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"):
        with refused(SourceChanged, r"public\.orders .*migration", exit_code=23) as caught:
            stand.backup(lock_timeout=0.3)
        assert caught[0].retryable
        assert stand.listed() == [stand.good]
    assert stand.sessions() == []
    stand.all_is_well()


def test_a_lock_that_ends_in_time_is_waited_for(stand: Stand) -> None:
    """Within lock_timeout nothing is lost but time."""
    with holding(stand.dsn, "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE") as other:
        with aside(lambda: stand.backup(lock_timeout=20)) as raised:
            eventually(lambda: waiting(stand.dsn))
            other.rollback()
        assert raised == []
    stand.all_is_well()


def test_a_table_dropped_between_listing_and_locking(stand: Stand) -> None:
    """It is listed, locked by the one who drops it, and gone: the next look does without."""
    run_sql(stand.dsn, "CREATE TABLE passing (a int)")
    with holding(stand.dsn, "DROP TABLE passing") as other:
        with aside(lambda: stand.backup(lock_timeout=20)) as raised:
            eventually(lambda: waiting(stand.dsn))
            other.commit()
        assert raised == []
    snapshot = stand.project.opened().snapshot
    assert "passing" not in {table.name for table in snapshot.tables}
    stand.all_is_well()


def test_a_rewrite_between_listing_and_locking(stand: Stand) -> None:
    """A table that is rewritten just before our lock is read as it then is, never as empty."""
    with holding(stand.dsn, "ALTER TABLE orders ALTER COLUMN note TYPE varchar(500)") as other:
        with aside(lambda: stand.backup(lock_timeout=20)) as raised:
            eventually(lambda: waiting(stand.dsn))
            other.commit()
        assert raised == []
    stand.restores_as("latest", rows_of(stand.dsn))
    stand.all_is_well()


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE orders CASCADE",
        "ALTER TABLE orders ALTER COLUMN id TYPE bigint",
        "TRUNCATE orders",
        "ALTER TABLE orders RENAME TO old_orders",
        "VACUUM FULL orders",
        "ALTER TABLE customers ADD COLUMN more int DEFAULT 7",
    ],
)
def test_a_change_that_comes_while_rows_are_read(stand: Stand, statement: str) -> None:
    """It waits for us, we do not wait for it, and the backup is of the moment before."""
    before = rows_of(stand.dsn)
    changed: list[str] = []
    failed: list[BaseException] = []

    def change() -> None:
        try:
            run_sql(stand.dsn, statement)
            changed.append(statement)
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            failed.append(error)

    session = threading.Thread(target=change, daemon=True)

    def first_chunk(_seconds: float) -> None:
        if not session.ident:
            with contextlib.suppress(AssertionError):  # it may have been and gone
                eventually(lambda: pg_dump_has_locks(stand.dsn), within=1)
            session.start()
            eventually(lambda: waiting(stand.dsn))

    report = backup_with_pause(stand, first_chunk)
    session.join(20)
    assert (changed, failed) == ([statement], [])
    stand.restores_as(report, before)
    stand.restores_as(stand.good, stand.before)
    stand.restores_as(stand.backup().backup_id, rows_of(stand.dsn))


def test_a_change_that_comes_before_pg_dump(stand: Stand) -> None:
    """Who waits to change a table stands before pg_dump too: the run ends soon and says so."""
    session = threading.Thread(target=lambda: run_sql(stand.dsn, "TRUNCATE orders"), daemon=True)
    before = rows_of(stand.dsn)

    def listen(event: Event) -> None:
        if isinstance(event, PhaseBegun) and event.phase == "reading rows":
            session.start()
            eventually(lambda: waiting(stand.dsn))

    options = BackupOptions(database="app", chunk_bytes=CHUNK, lock_timeout=0.5)
    repository = stand.project.repository
    begun = time.monotonic()
    try:
        made = create_backup(stand.dsn, repository, options, open_mirror=None, sink=listen)
    except SourceChanged as error:
        require_clear(error, 23)
        assert stand.listed() == [stand.good]
    else:  # pg_dump was faster
        stand.restores_as(made.backup_id, before)
    assert time.monotonic() - begun < 8
    session.join(10)
    assert rows_of(stand.dsn)["public.orders"][0] == 0
    stand.all_is_well()


def backup_with_pause(stand: Stand, pause: Callable[[float], None], *, within: float = 60) -> str:
    """A backup whose uploads of chunks call *pause* first; its id. Fails where it hangs."""
    made: list[str] = []
    lock = threading.Lock()

    def one_at_a_time(seconds: float) -> None:
        with lock:
            pause(seconds)

    storage = FaultyStorage(
        stand.project.primary, [Fault(Kind.STALL, "put", prefix="chunks/", times=9999)],
        sleep=one_at_a_time,
    )  # fmt: skip
    project = type(stand.project)(storage, stand.project.secondary)

    def work() -> None:
        report = create_backup(
            stand.dsn, project.repository,
            BackupOptions(database="app", chunk_bytes=CHUNK, lock_timeout=5),
            open_mirror=None, sink=stand.project.events.append,
        )  # fmt: skip
        made.append(report.backup_id)

    with aside(work) as raised:
        pass
    if raised:
        raise raised[0]
    return made[0]


def test_a_storm_of_changes(stand: Stand) -> None:
    """Tables come and go all the time: a run succeeds, or says that the schema changes."""
    over = threading.Event()

    def storm(which: int) -> None:
        with psycopg.connect(stand.dsn, autocommit=True) as conn:
            for number in itertools.count():
                if over.is_set():
                    return
                name = f"storm_{which}_{number % 5}"
                conn.execute(f"DROP TABLE IF EXISTS {name} CASCADE".encode())
                conn.execute(f"CREATE TABLE {name} (a serial PRIMARY KEY, b text)".encode())
                conn.execute(f"INSERT INTO {name} (b) VALUES ('x')".encode())
                conn.execute(f"CREATE VIEW {name}_v AS SELECT * FROM {name}".encode())
                conn.execute(f"ALTER TABLE {name} ADD COLUMN c int DEFAULT 1".encode())
                over.wait(0.01)

    made = []
    with aside(lambda: storm(1)) as one, aside(lambda: storm(2)) as two:
        for _ in range(4):
            try:
                made.append(stand.backup(lock_timeout=1).backup_id)
            except AuroraError as error:
                require_clear(error, 20, 23)
        over.set()
    assert (one, two) == ([], [])
    for backup_id in made[:2]:
        target = stand.new_target()
        assert stand.project.restore(target, backup_id).outcome == "restored"
        assert rows_of(target)["public.orders"] == rows_of(stand.dsn)["public.orders"]
    stand.all_is_well()
