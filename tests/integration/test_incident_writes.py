"""Stopping writes and resuming them, on real servers, with writers at work."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from aurora.engines.logical.slot import LogNames
from aurora.errors import Incomplete, ObjectDamaged, SourceUnsupported, UsageError
from aurora.events import discard
from aurora.operations.incident import resume, stop, stop_plan
from aurora.operations.incident.fence import way_in
from aurora.operations.incident.stop import StopReport
from aurora.operations.incident.stop_plan import StopOptions, StopPlan
from aurora.operations.incident.undo import UNDO, read_undo
from aurora.postgres.conninfo import ConnInfo
from tests.fixtures.changelog import full, incremental, prepare
from tests.fixtures.looks import run_script, run_sql
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import LABEL, NewRole, NewTarget, Project

pytest_plugins = ["tests.fixtures.backups"]

_ACLS = """
SELECT c.oid::text, c.relname, c.relacl::text,
       (SELECT string_agg(attname || a.attacl::text, ';' ORDER BY attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' ORDER BY 1
"""
_REST = """
SELECT (SELECT setconfig::text FROM pg_db_role_setting s JOIN pg_database d
        ON d.oid = s.setdatabase WHERE d.datname = current_database() AND setrole = 0),
       (SELECT datacl::text FROM pg_database WHERE datname = current_database()),
       (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal),
       (SELECT count(*) FROM pg_event_trigger),
       (SELECT string_agg(nspname || nspacl::text, ';' ORDER BY oid) FROM pg_namespace
        WHERE nspname !~ '^pg_'),
       (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema'))
"""
_numbers = itertools.count(1)


def sign(text: bytes) -> str:
    return f"{sum(text) % 99991:064x}"


def everything(dsn: str) -> object:
    """What stopping writes could leave behind."""
    return run_sql(dsn, _ACLS), run_sql(dsn, _REST)


class Place:
    """A source with two applications' roles, and an incident's directory."""

    def __init__(self, dsn: str, directory: Path, writer: str, other: str) -> None:
        self.dsn, self.directory, self.writer, self.other = dsn, directory, writer, other

    def plan(self, **options: object) -> StopPlan:
        chosen = StopOptions(**{"grace": 0.3, "watch": 0.0, "lock_timeout": 0.2, **options})  # type: ignore[arg-type]
        return stop_plan.plan_stop(
            self.dsn, "i-test", self.directory, chosen, by="a test", sign=sign
        )

    def stop(self, **options: object) -> StopReport:
        return stop.run_stop(self.plan(**options), self.directory, sign=sign, sink=discard)

    def resume(self) -> resume.ResumeReport:
        undo = read_undo(self.directory / UNDO, sign)
        return resume.run_resume(resume.plan_resume(self.dsn, undo), sink=discard)

    def as_role(self, role: str) -> str:
        return ConnInfo.parse(self.dsn).with_options(user=role, password="p").dsn()


@pytest.fixture
def place(new_database: NewDatabase, new_role: NewRole, tmp_path: Path) -> Place:
    number = next(_numbers)
    writer, other = new_role(f"writer {number}"), new_role(f"other{number}")
    dsn = new_database()
    run_script(
        dsn,
        f"""
        CREATE TABLE a (id int PRIMARY KEY, note text, g int GENERATED ALWAYS AS (1) STORED);
        CREATE TABLE b (id int GENERATED ALWAYS AS IDENTITY, note text);
        CREATE TABLE parted (id int, at date) PARTITION BY RANGE (at);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2020-01-01') TO ('2030-01-01');
        CREATE SCHEMA "Odd Schema"; CREATE TABLE "Odd Schema"."Odd ""t"" x" ("Col" int);
        GRANT USAGE ON SCHEMA "Odd Schema" TO "{writer}";
        -- each comes back at another place of the list than it was, unless that is seen to
        GRANT INSERT, UPDATE ON a TO "{writer}"; GRANT SELECT ON a TO {other};
        GRANT DELETE ON a TO PUBLIC;
        GRANT ALL ON b TO {other} WITH GRANT OPTION; GRANT INSERT ON b TO "{writer}";
        GRANT SELECT ON b TO PUBLIC;
        GRANT INSERT, SELECT ON parted TO "{writer}"; GRANT INSERT ON parted_1 TO "{writer}";
        GRANT UPDATE ("Col"), INSERT ("Col") ON "Odd Schema"."Odd ""t"" x" TO "{writer}";
        GRANT SELECT ("Col") ON "Odd Schema"."Odd ""t"" x" TO {other};
        CREATE FUNCTION sneaky() RETURNS void LANGUAGE sql SECURITY DEFINER
            AS 'INSERT INTO public.a (id) VALUES (99)';
        INSERT INTO a VALUES (1, 'one'); INSERT INTO b (note) VALUES ('one');
        """,
    )
    name = ConnInfo.parse(dsn).dbname
    run_sql(dsn, f"ALTER DATABASE {name} SET work_mem = '8MB'")
    directory = tmp_path / "incident"
    directory.mkdir()
    return Place(dsn, directory, writer, other)


def refused(dsn: str, statement: str) -> str:
    with psycopg.connect(dsn) as conn:
        with pytest.raises(psycopg.Error) as found:
            conn.execute(statement.encode())
        conn.rollback()
    return str(found.value.sqlstate)


def _write(conn: psycopg.Connection, statement: str) -> None:
    if statement.startswith("COPY"):
        with conn.cursor().copy(statement.encode()) as copy:
            copy.write(b"x\n")
    else:
        conn.execute(f"BEGIN READ WRITE; {statement}; COMMIT".encode())


@pytest.mark.pg_majors(14, 17, 18)
def test_nobody_writes_whatever_way_they_try(place: Place) -> None:
    """Open READ WRITE, replica role, SECURITY DEFINER, COPY, TRUNCATE, DDL, superuser."""
    before = everything(place.dsn)
    report = place.stop()
    assert report.proven
    assert len(report.fenced) == 5
    writer = place.as_role(place.writer)
    with psycopg.connect(writer, autocommit=True) as conn:
        conn.execute("SET default_transaction_read_only = off")
        for statement in (
            "INSERT INTO a (id) VALUES (5)", "UPDATE a SET note = 'x'", "DELETE FROM a",
            "SELECT sneaky()", "INSERT INTO parted VALUES (1, '2024-01-01')",
            "INSERT INTO parted_1 VALUES (1, '2024-01-01')", "COPY b (note) FROM STDIN",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as told:
                _write(conn, statement)
            assert "i-test" in str(told.value)
            with contextlib.suppress(psycopg.Error):
                conn.execute("ROLLBACK")
    for statement in (
        "SET session_replication_role = replica; INSERT INTO a (id) VALUES (5)", "TRUNCATE b",
        "DROP TABLE b", "CREATE TABLE c (x int)", "DELETE FROM a",
    ):  # fmt: skip
        assert (
            refused(place.dsn, f"SET default_transaction_read_only = off; {statement}") == "25006"
        )
    assert refused(writer, "INSERT INTO a (id) VALUES (5)") == "25006"
    assert run_sql(place.dsn, "SELECT count(*) FROM a")[0][0] == 1
    run_sql(way_in(place.dsn, place.directory), "SET default_transaction_read_only = off",
            "INSERT INTO a (id) VALUES (7)", "DELETE FROM a WHERE id = 7")  # fmt: skip
    done = place.resume()
    assert done.exact
    assert everything(place.dsn) == before
    run_sql(writer, "INSERT INTO a (id) VALUES (5)")


def test_a_table_made_after_the_plan_is_fenced_too(place: Place) -> None:
    """Somebody deploys while the person reads what would be done."""
    plan = place.plan()
    run_sql(place.dsn, "CREATE TABLE newcomer (x int)")
    report = stop.run_stop(plan, place.directory, sign=sign, sink=discard)
    assert "public.newcomer" in report.fenced
    statement = "SET default_transaction_read_only = off; INSERT INTO newcomer VALUES (1)"
    assert refused(place.dsn, statement) == "25006"
    assert place.resume().exact


def test_both_ways_may_be_repeated(place: Place) -> None:
    """The second stop goes on with the first one's undo file; the second resume has no work."""
    before = everything(place.dsn)
    place.stop()
    undo = (place.directory / UNDO).read_bytes()
    again = place.plan()
    assert again.goes_on
    place.stop()
    assert (place.directory / UNDO).read_bytes() == undo
    assert place.resume().exact
    third = place.resume()
    assert (third.statements, third.exact) == (0, True)
    assert everything(place.dsn) == before


def test_named_roles_lose_their_grants_and_get_them_back_in_order(place: Place) -> None:
    run_sql(place.dsn, "REVOKE DELETE ON a FROM PUBLIC")
    before = everything(place.dsn)
    assert place.stop(roles=(place.writer,)).proven
    assert refused(place.as_role(place.writer), "INSERT INTO a (id) VALUES (5)") == "42501"
    assert refused(place.as_role(place.writer), "INSERT INTO b (note) VALUES ('x')") == "42501"
    run_sql(place.as_role(place.other), "INSERT INTO b (note) VALUES ('two')")
    assert everything(place.dsn) != before
    assert place.resume().exact
    assert everything(place.dsn) == before
    run_sql(place.as_role(place.writer), "INSERT INTO a (id) VALUES (5)")


def test_a_grant_that_still_lets_a_named_role_write_is_told(place: Place) -> None:
    """PUBLIC may delete from a: the proof sees it, whatever was revoked from the role."""
    run_sql(place.dsn, "GRANT USAGE ON SCHEMA public TO PUBLIC")
    with pytest.raises(Incomplete, match=r"on public\.a: it was let through") as found:
        place.stop(roles=(place.writer,))
    assert "resume-writes" in found.value.hint
    assert place.resume().exact


def test_a_table_that_cannot_be_locked_is_closed_by_its_grants(place: Place) -> None:
    """Somebody else's long read-write lock holds up the trigger, not the REVOKE."""
    before = everything(place.dsn)
    with psycopg.connect(place.dsn) as holder:
        holder.execute("LOCK TABLE b IN SHARE UPDATE EXCLUSIVE MODE")
        report = place.stop(tries=1)
        assert report.revoked == ["public.b"]
        assert any("public.b could not be locked" in text for text in report.uncovered)
        assert refused(place.as_role(place.writer), "INSERT INTO b (note) VALUES ('x')") in (
            "25006", "42501",
        )  # fmt: skip
    assert place.resume().exact
    assert everything(place.dsn) == before


def test_uncommitted_writers_are_ended_and_others_are_not(place: Place) -> None:
    reader = psycopg.connect(place.as_role(place.other))
    writer = psycopg.connect(place.as_role(place.writer), application_name="shop")
    reader.execute("SELECT count(*) FROM a")
    writer.execute("INSERT INTO a (id) VALUES (50)")
    report = place.stop()
    assert [(one["role"], one["application"]) for one in report.ended] == [(place.writer, "shop")]
    reader.execute("SELECT count(*) FROM a")
    with pytest.raises(psycopg.OperationalError):
        writer.execute("SELECT 1")
    assert run_sql(place.dsn, "SELECT count(*) FROM a WHERE id = 50")[0][0] == 0
    reader.close()
    place.resume()


def test_an_altered_undo_file_is_refused(place: Place) -> None:
    before = everything(place.dsn)
    place.stop()
    path = place.directory / UNDO
    good = path.read_text()
    path.write_text(good.replace(place.other, "postgres"))
    with pytest.raises(ObjectDamaged, match="was altered"):
        place.resume()
    with pytest.raises(ObjectDamaged, match="was altered"):
        place.plan()
    path.write_text("{")
    with pytest.raises(ObjectDamaged):
        place.resume()
    path.unlink()
    with pytest.raises(UsageError, match="no undo file"):
        place.resume()
    with pytest.raises(SourceUnsupported, match="stopped already"):
        place.plan()
    path.write_text(good)
    assert place.resume().exact
    assert everything(place.dsn) == before


def test_grants_made_meanwhile_stay_and_are_told(place: Place) -> None:
    place.stop()
    run_sql(way_in(place.dsn, place.directory), "SET default_transaction_read_only = off",
            f"GRANT TRUNCATE ON a TO {place.other}")  # fmt: skip
    with pytest.raises(Incomplete, match=r"the grants of public\.a were"):
        place.resume()
    run_sql(place.as_role(place.other), "TRUNCATE a")


def test_an_owner_without_superuser_stops_what_it_owns(
    place: Place, new_role: NewRole, new_database: NewDatabase
) -> None:
    """As on a hosted server: other owners' tables and DDL are named as not covered."""
    owner = new_role(f"owner{next(_numbers)}")
    name = ConnInfo.parse(place.dsn).dbname
    run_script(
        place.dsn,
        f"ALTER DATABASE {name} OWNER TO {owner}; ALTER TABLE a OWNER TO {owner};"
        f"GRANT {place.other} TO {owner}; GRANT pg_signal_backend TO {owner};"
        f"GRANT INSERT ON a TO {place.other};",
    )
    mine = Place(place.as_role(owner), place.directory, place.writer, place.other)
    before = everything(place.dsn)
    plan = mine.plan()
    told = " | ".join(plan.uncovered)
    assert "public.b" in told
    assert "DDL" in told
    assert [table.name for table, _ in plan.tables] == ["a"]
    report = mine.stop()
    assert report.fenced == ["public.a"]
    assert place.writer in report.proof.not_tried
    assert refused(place.as_role(place.other), "INSERT INTO a (id) VALUES (5)") == "25006"
    assert mine.resume().exact
    assert everything(place.dsn) == before


def test_the_change_log_goes_on_through_a_stop(place: Place, project: Project) -> None:
    """The fence is no schema change: what was committed before it stays recoverable."""
    prepare(place.dsn)
    full(project, place.dsn)
    run_sql(place.dsn, "INSERT INTO a (id) VALUES (2)")
    report = place.stop(publications=LogNames.of(LABEL).publications, watch=0.2)
    assert (report.proof.changes, "0 changes" in report.proof.stream) == (0, True)
    made = incremental(project, place.dsn)
    assert made.type == "incremental", project.events
    place.resume()
    assert incremental(project, place.dsn).type == "incremental"


@contextlib.contextmanager
def writers(dsn: str, count: int) -> Iterator[tuple[list[int], Callable[[], int]]]:
    """Clients that write and note each number whose commit was answered."""
    committed: list[int] = []
    numbers, lock, over = itertools.count(1000), threading.Lock(), threading.Event()

    def work() -> None:
        while not over.is_set():
            with contextlib.suppress(psycopg.Error), psycopg.connect(dsn) as conn:
                while not over.is_set():
                    with lock:
                        number = next(numbers)
                    conn.execute("INSERT INTO a (id, note) VALUES (%s, 'w')", (number,))
                    conn.execute("INSERT INTO b (note) VALUES (%s)", (str(number),))
                    conn.commit()
                    committed.append(number)
            over.wait(0.02)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for one in threads:
        one.start()
    try:
        yield committed, lambda: len(committed)
    finally:
        over.set()
        for one in threads:
            one.join(30)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_no_committed_transaction_is_lost_under_writers(place: Place) -> None:
    """All that was answered as committed is there, in both tables, and no half of any."""
    before = everything(place.dsn)
    with writers(place.as_role(place.writer), 4) as (committed, count):
        _until(lambda: count() > 50)
        report = place.stop(grace=2.0)
        assert report.proven
        stopped = count()
        rows = run_sql(place.dsn, "SELECT id FROM a WHERE note = 'w' ORDER BY 1")
        _until(lambda: True)
        assert run_sql(place.dsn, "SELECT id FROM a WHERE note = 'w' ORDER BY 1") == rows
        # Commits whose answer was on its way may be noted a moment later.
        _until(lambda: len(rows) >= count())
        assert stopped <= len(rows)
        place.resume()
        _until(lambda: count() > len(rows) + 50)
    there = {row[0] for row in run_sql(place.dsn, "SELECT id FROM a WHERE note = 'w'")}
    both = {int(row[0]) for row in run_sql(place.dsn, "SELECT note FROM b WHERE note <> 'one'")}
    assert set(committed) <= there
    assert there == both
    assert everything(place.dsn) == before


def test_a_restore_leaves_the_fence_behind(
    place: Place, project: Project, new_target: NewTarget
) -> None:
    """What was backed up while writes were stopped can be written to where it is restored."""
    place.stop()
    made = project.backup(place.dsn)
    target = new_target()
    report = project.restore(target, made.backup_id)
    assert (report.outcome, report.refusals, report.problems) == ("restored", [], [])
    run_sql(target, "INSERT INTO a (id, note) VALUES (7, 'after the restore')")
    run_sql(target, "CREATE TABLE made_there ()")
    left = run_sql(
        target,
        "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'aurora_fence')"
        " + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%aurora%')"
        " + (SELECT count(*) FROM pg_event_trigger)",
    )
    assert left == [(0,)]
    one = project.restore_table(target, "a", made.backup_id, as_name="public.a_then")
    assert one.problems == []
    place.resume()
