"""What a backup costs when little changed, and that it is one moment under writers."""

import threading
import time

import psycopg
import pytest

from aurora.postgres.embedded import EmbeddedServer
from aurora.storage.local import LocalStorage
from aurora.storage.memory import MemoryStorage
from tests.fixtures.looks import compare, look, run_script, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import NewTarget, Project

pytest_plugins = ["tests.fixtures.backups"]

CHUNK = 256 << 10
DATA = """
CREATE TABLE large (id int PRIMARY KEY, t text); CREATE TABLE small (id int, t text);
INSERT INTO large SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 20000) i;
INSERT INTO small SELECT i, 'x' FROM generate_series(1, 500) i;
CREATE TABLE with_toast (id int, t text);
INSERT INTO with_toast SELECT i, string_agg(md5((i * j)::text), '')
    FROM generate_series(1, 60) i, generate_series(1, 900) j GROUP BY i;
SELECT lo_from_bytea(900, decode(repeat('0102', 500000), 'hex'));
VACUUM ANALYZE
"""


@pytest.fixture
def data(new_database: NewDatabase) -> str:
    """A database with tables of several chunks."""
    dsn = new_database()
    run_sql(dsn, *DATA.split(";"))
    return dsn


def names(project: Project) -> set[str]:
    """All objects of the primary."""
    return {info.name for info in project.primary.list("")}


def kinds(found: set[str]) -> set[str]:
    """Their kinds."""
    return {name.split("/")[0] for name in found}


def test_unchanged_second_backup_uploads_no_rows(
    data: str, project: Project, new_target: NewTarget
) -> None:
    """Only what makes it a backup: manifest, refs and session, under a lease."""
    first = project.backup(data, chunk_bytes=CHUNK)
    time.sleep(1.1)  # pg_dump writes down the second
    before = names(project)

    second = project.backup(data, chunk_bytes=CHUNK)

    added = names(project) - before
    assert kinds(added) == {"backups", "refs", "sessions", "leases"}
    assert len([name for name in added if not name.startswith("leases/")]) == 3
    assert second.bytes_read == first.bytes_read
    assert second.bytes_new < first.bytes_new / 50
    target = new_target()
    project.restore(target)
    compare(data, target)


def test_one_changed_row_uploads_about_one_chunk(
    data: str, project: Project, new_target: NewTarget
) -> None:
    """The range it left and the range it went to, nothing else."""
    project.backup(data, chunk_bytes=CHUNK)
    before = names(project)
    run_sql(data, "UPDATE large SET t = 'changed' WHERE id = 10000")

    report = project.backup(data, chunk_bytes=CHUNK)

    added = {name for name in names(project) - before if name.startswith("chunks/")}
    assert 1 <= len(added) <= 2
    assert report.bytes_new < 4 * CHUNK
    target = new_target()
    project.restore(target)
    compare(data, target)


def test_older_backups_restore_after_newer_ones(
    data: str, project: Project, new_target: NewTarget
) -> None:
    """Shared chunks serve every backup that names them."""
    first, second = look(data), project.backup(data, chunk_bytes=CHUNK)
    run_sql(data, "DELETE FROM large WHERE id % 3 = 0", "DROP TABLE small", "VACUUM FULL large")
    project.backup(data, chunk_bytes=CHUNK)
    target = new_target()

    project.restore(target, second.backup_id)

    compare(first, target)


def test_local_directories(
    data: str, open_dir: object, tmp_path_factory: pytest.TempPathFactory, new_target: NewTarget
) -> None:
    """The same on two directories, and from the second alone."""
    one, two = tmp_path_factory.mktemp("primary"), tmp_path_factory.mktemp("secondary")
    project = Project.create(LocalStorage(one), LocalStorage(two))
    made = project.backup(data, mirrored=True)
    assert made.replicated
    again = project.backup(data, mirrored=True)
    assert again.replicated
    assert again.bytes_new < made.bytes_new / 50

    target = new_target()
    project.primary = MemoryStorage("gone")
    project.restore(target, from_mirror=True)

    compare(data, target)


WRITTEN = """
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL, filler text);
CREATE TABLE ledger (id bigserial PRIMARY KEY, a int, b int, amount int);
CREATE TABLE totals (id int PRIMARY KEY, moved bigint NOT NULL);
INSERT INTO accounts SELECT i, 1000, repeat('x', 900) FROM generate_series(1, 4000) i;
INSERT INTO totals VALUES (1, 0);
"""
INVARIANTS = """
SELECT (SELECT sum(balance) FROM accounts) = 4000000,
       (SELECT moved FROM totals) = (SELECT count(*) FROM ledger),
       (SELECT bool_and(balance = 1000 + coalesce(i, 0) - coalesce(o, 0)) FROM accounts
        LEFT JOIN (SELECT b AS id, sum(amount) AS i FROM ledger GROUP BY b) x USING (id)
        LEFT JOIN (SELECT a AS id, sum(amount) AS o FROM ledger GROUP BY a) y USING (id)),
       (SELECT count(*) > 10 FROM ledger)
"""
MOVE = """
DO $$ DECLARE one int := 1 + random() * 3998; two int := 1 + random() * 3998; BEGIN
    UPDATE accounts SET balance = balance - 7 WHERE id = least(one, two);
    UPDATE accounts SET balance = balance + 7 WHERE id = greatest(one, two) + 1;
    INSERT INTO ledger (a, b, amount) VALUES (least(one, two), greatest(one, two) + 1, 7);
    UPDATE totals SET moved = moved + 1;
END $$
"""


@pytest.mark.pg_majors(15, 18)
def test_one_moment_under_writers(
    pg: EmbeddedServer, new_database: NewDatabase, new_target: NewTarget, project: Project
) -> None:
    """Money moves between accounts all the time; every backup holds all of it, once."""
    source = new_database()
    run_script(source, WRITTEN)
    stop = threading.Event()
    moved = [0]

    def write(number: int) -> None:
        with psycopg.connect(source, autocommit=True) as conn:
            while not stop.is_set():
                conn.execute(MOVE.encode())
                if number == 0:
                    moved[0] += 1
                    if moved[0] % 50 == 0:
                        conn.execute("VACUUM accounts")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    try:
        time.sleep(0.5)
        made = [project.backup(source, chunk_bytes=CHUNK, jobs=3) for _ in range(3)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()

    for report in made:
        target = new_target()
        restored = project.restore(target, report.backup_id)
        assert restored.outcome == "restored"
        assert run_sql(target, INVARIANTS) == [(True, True, True, True)]
        # Sequences are read after the rows: never behind them.
        run_sql(target, "INSERT INTO ledger (a, b, amount) VALUES (1, 2, 0)")
