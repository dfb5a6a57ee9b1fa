"""restore --in-place: the old or the new, never half; and a failure leaves all as it was."""

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from aurora.engines.logical import build, target
from aurora.engines.logical.checks import CheckReport
from aurora.errors import CheckFailed, Incomplete, IntegrityError, TargetNotEmpty, TargetUnfit
from aurora.postgres.embedded import EmbeddedServer
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Kind
from tests.fixtures.looks import compare, databases_like, look, name_of, run_script, run_sql
from tests.fixtures.postgres import NewDatabase, Servers
from tests.fixtures.projects import NewRole, NewTarget, Project

pytest_plugins = ["tests.fixtures.backups"]

APP = """
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 1000) i;
CREATE TABLE kind (what text); INSERT INTO kind VALUES ('old');
CREATE SEQUENCE s; SELECT setval('s', 41);
"""


@pytest.fixture
def app(pg: EmbeddedServer, new_target: NewTarget) -> str:
    """A database that may be renamed and dropped."""
    dsn = new_target()
    run_sql(pg.dsn(), f'CREATE DATABASE "{name_of(dsn)}"')
    run_script(dsn, APP)
    return dsn


def test_needs_the_flag(app: str, project: Project) -> None:
    """A database that holds something is refused without --in-place."""
    project.backup(app)
    before = look(app)

    with pytest.raises(TargetNotEmpty) as refused:
        project.restore(app)

    assert "--in-place" in refused.value.hint
    compare(before, app)


def test_replaces_and_keeps_the_old_one(pg: EmbeddedServer, app: str, project: Project) -> None:
    """The old database stays beside it; a safety backup is taken, and is never latest."""
    before = look(app)
    made = project.backup(app)
    run_sql(app, "DELETE FROM accounts", "UPDATE kind SET what = 'later'", "SELECT nextval('s')")
    later = look(app)

    report = project.restore(app, in_place=True)

    assert (report.outcome, report.problems) == ("restored", [])
    compare(before, app)
    name = name_of(app)
    assert databases_like(pg, name) == [name, report.old_database]
    compare(later, pg.dsn(report.old_database))
    assert project.repository.resolve("latest", "app").id == made.backup_id
    copy = project.restore(pg.dsn(f"{name}_copy"), report.safety_backup)
    assert copy.outcome == "restored"
    compare(later, pg.dsn(f"{name}_copy"))


def test_carries_what_belongs_to_the_database(
    pg: EmbeddedServer, app: str, project: Project, new_role: NewRole
) -> None:
    """Settings, grants, owner, comment and connection limit are the replaced one's."""
    owner, reader = new_role("Db owner"), new_role("db_reader")
    name = name_of(app)
    project.backup(app)
    run_sql(
        pg.dsn(),
        f'ALTER DATABASE "{name}" OWNER TO "{owner}"',
        f'ALTER DATABASE "{name}" CONNECTION LIMIT 33',
        f"COMMENT ON DATABASE \"{name}\" IS 'it''s ours'",
        f"ALTER DATABASE \"{name}\" SET work_mem = '9MB'",
        f'ALTER DATABASE "{name}" SET search_path = "$user", public, "a b"',
        f"ALTER ROLE {reader} IN DATABASE \"{name}\" SET statement_timeout = '3s'",
        f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC',
        f'GRANT CONNECT ON DATABASE "{name}" TO {reader} WITH GRANT OPTION',
    )
    query = f"""
        SELECT datdba::regrole::text, datconnlimit, shobj_description(d.oid, 'pg_database'),
               (SELECT array_agg(a ORDER BY a) FROM unnest(datacl::text[]) a),
               (SELECT array_agg(setrole::regrole::text || setconfig::text ORDER BY 1)
                FROM pg_db_role_setting WHERE setdatabase = d.oid)
        FROM pg_database d WHERE datname = '{name}'
    """
    before = run_sql(pg.dsn(), query)

    report = project.restore(app, in_place=True)

    assert report.refusals == []
    assert run_sql(pg.dsn(), query) == before


def test_readers_see_the_old_or_the_new(app: str, project: Project) -> None:
    """A reader is disconnected at the most; it never sees half, and never an empty database."""
    project.backup(app)
    run_sql(app, "UPDATE kind SET what = 'now'", "UPDATE accounts SET balance = 7")
    seen: list[tuple[str, int, int]] = []
    errors: list[psycopg.Error] = []
    stop = threading.Event()

    def read() -> None:
        query = "SELECT what, (SELECT count(*) FROM accounts), (SELECT max(balance) FROM accounts)"
        while not stop.is_set():
            try:
                with psycopg.connect(app, autocommit=True, connect_timeout=5) as conn:
                    while not stop.is_set():
                        row = conn.execute(f"{query} FROM kind".encode()).fetchone()
                        assert row is not None
                        seen.append(row)
            except psycopg.Error as error:
                errors.append(error)
                time.sleep(0.01)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        project.restore(app, in_place=True)
        time.sleep(0.3)
    finally:
        stop.set()
        for reader in readers:
            reader.join()

    states = [state for index, state in enumerate(seen) if index == 0 or seen[index - 1] != state]
    assert set(states) == {("now", 1000, 7), ("old", 1000, 100)}
    assert seen[-1] == ("old", 1000, 100)
    assert len(errors) < 100
    for error in errors:
        assert isinstance(error, psycopg.OperationalError), repr(error)
        # A connect in the very moment is told to come again, never that there is nothing.
        assert "does not exist" not in str(error) or "just been" in str(error)


def test_a_failed_check_changes_nothing(
    pg: EmbeddedServer, app: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database serves as before; what was restored stays, until the next run sweeps it."""
    project.backup(app)
    run_sql(app, "UPDATE kind SET what = 'now'")
    before = look(app)

    def disagree(*_: object, **__: object) -> CheckReport:
        return CheckReport(problems=["public.accounts holds 999 rows, the backup 1000"])

    with monkeypatch.context() as patch:
        patch.setattr(build, "check_database", disagree)
        with pytest.raises(CheckFailed, match="999 rows") as failed:
            project.restore(app, in_place=True)
    compare(before, app)
    name = name_of(app)
    left = [found for found in databases_like(pg, name) if found != name]
    assert len(left) == 1
    assert left[0] in failed.value.hint

    report = project.restore(app, in_place=True)
    assert databases_like(pg, name) == [name, report.old_database]


@pytest.mark.parametrize("kind", [Kind.FLIP, Kind.BEFORE, Kind.SHORT])
def test_a_damaged_chunk_changes_nothing(
    kind: Kind, pg: EmbeddedServer, new_target: NewTarget
) -> None:
    """The unfinished database is removed, and the error names what is damaged."""
    primary = FaultyStorage(MemoryStorage("primary"))
    project = Project.create(primary, MemoryStorage("secondary"))
    app = new_target()
    run_sql(pg.dsn(), f'CREATE DATABASE "{name_of(app)}"')
    run_script(app, APP)
    project.backup(app)
    run_sql(app, "UPDATE kind SET what = 'now'")
    before = look(app)
    script = [Fault(kind, "get", nth=2, prefix="chunks/", times=100)]
    project.primary = FaultyStorage(primary, script, seed=1)

    with pytest.raises(Exception, match=r"chunks/|made to fail") as failed:
        project.restore(app, in_place=True, safety=False)

    if kind is not Kind.BEFORE:
        assert isinstance(failed.value, IntegrityError)
    compare(before, app)
    assert databases_like(pg, name_of(app)) == [name_of(app)]


def test_refused_statements_leave_the_old_one_in_place(
    pg: EmbeddedServer, app: str, project: Project, new_role: NewRole
) -> None:
    """A half of the grants is no whole database; --accept-refusals says it is good enough."""
    reader = new_role("soon_gone")
    run_sql(app, f"GRANT SELECT ON kind TO {reader}")
    project.backup(app)
    run_sql(app, f"REVOKE ALL ON kind FROM {reader}", f"DROP ROLE {reader}",
            "UPDATE kind SET what = 'now'")  # fmt: skip
    before = look(app)

    with pytest.raises(Incomplete, match="soon_gone"):
        project.restore(app, in_place=True)
    compare(before, app)

    report = project.restore(app, in_place=True, accept_refusals=True)
    assert report.outcome == "restored with refusals"
    assert any("soon_gone" in refusal for refusal in report.refusals)
    assert run_sql(app, "SELECT what FROM kind") == [("old",)]


def test_sweeps_what_killed_restores_left(pg: EmbeddedServer, app: str, project: Project) -> None:
    """Marked databases go, unless somebody is in them; a database of a like name stays."""
    name = name_of(app)
    mark = f"{target.MARK}r20240101T000000Z-abcd"
    for suffix, comment in (("aurora_dead", mark), ("aurora_used", mark), ("aurora_mine", "mine")):
        run_sql(pg.dsn(), f'CREATE DATABASE "{name}_{suffix}"',
                f"COMMENT ON DATABASE \"{name}_{suffix}\" IS '{comment}'")  # fmt: skip
    project.backup(app)

    with psycopg.connect(pg.dsn(f"{name}_aurora_used")):
        report = project.restore(app, in_place=True)

    found = set(databases_like(pg, name))
    assert found == {name, report.old_database, f"{name}_aurora_used", f"{name}_aurora_mine"}


def test_a_session_that_comes_back_at_once(app: str, project: Project) -> None:
    """A pool that reconnects all the time does not keep the restored database out."""
    project.backup(app)
    stop = threading.Event()

    def insist() -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(app, connect_timeout=5) as conn:
                    conn.execute("SELECT pg_sleep(2)")
            except psycopg.Error:
                continue

    sessions = [threading.Thread(target=insist) for _ in range(6)]
    for session in sessions:
        session.start()
    try:
        report = project.restore(app, in_place=True)
    finally:
        stop.set()
        for session in sessions:
            session.join()
    assert report.outcome == "restored"


def test_into_an_empty_database(pg: EmbeddedServer, app: str, project: Project) -> None:
    """A database that is there and empty is filled, and keeps what belongs to it."""
    project.backup(app)
    before = look(app)
    name = name_of(app)
    run_sql(pg.dsn(), f'DROP DATABASE "{name}" (FORCE)', f'CREATE DATABASE "{name}"',
            f"ALTER DATABASE \"{name}\" SET work_mem = '9MB'")  # fmt: skip

    report = project.restore(app)

    assert report.outcome == "restored"
    compare(before, app)
    assert databases_like(pg, name) == [name]
    assert run_sql(app, "SHOW work_mem") == [("9MB",)]


def test_directly_where_the_role_may_not_create(
    pg: EmbeddedServer, new_database: NewDatabase, project: Project, new_role: NewRole
) -> None:
    """An owner without CREATEDB fills an empty database, and cannot replace a full one."""
    owner = new_role("just_owner")
    source, empty = new_database(), new_database()
    for dsn in (source, empty):
        run_sql(dsn, f'ALTER DATABASE "{name_of(dsn)}" OWNER TO {owner}')
    mine = pg.dsn(name_of(source), user=owner, password="p")
    run_script(mine, APP)
    project.backup(mine)
    goal = pg.dsn(name_of(empty), user=owner, password="p")

    report = project.restore(goal)

    assert (report.outcome, report.refusals) == ("restored", [])
    compare(source, empty)
    with pytest.raises(TargetUnfit, match="may not create databases"):
        project.restore(goal, in_place=True)


def test_an_older_server_is_refused(
    pg_servers: Servers, new_database: NewDatabase, new_target: NewTarget, project: Project
) -> None:
    """A backup restores into its own major or a newer one."""
    source = new_database(pg_servers[17])
    run_script(source, APP)
    project.backup(source)

    with pytest.raises(TargetUnfit, match="PostgreSQL 17"):
        project.restore(new_target(pg_servers[16]))


def test_killed_before_the_swap(
    pg: EmbeddedServer, app: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies at any step leaves the old database serving, and the next run works."""
    project.backup(app)
    run_sql(app, "UPDATE kind SET what = 'now'")
    before = look(app)

    class Died(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Died

    steps: list[tuple[object, str]] = [
        (build, "load_tables"),
        (build, "set_sequences"),
        (build, "check_database"),
    ]
    import aurora.operations.restore as operation

    steps += [(operation, "finish"), (operation, "take_place")]
    for module, step in steps:
        with monkeypatch.context() as patch:
            patch.setattr(module, step, die)
            patch.setattr(operation, "drop", _nothing)  # a dead process tidies nothing
            with pytest.raises(Died):
                project.restore(app, in_place=True, safety=False)
        compare(before, app)

    report = project.restore(app, in_place=True)

    assert report.outcome == "restored"
    assert run_sql(app, "SELECT what FROM kind") == [("old",)]


_nothing: Callable[..., None] = lambda *_: None  # noqa: E731
