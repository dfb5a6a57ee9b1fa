"""A restore into a Supabase project is killed or loses its line: half is never taken for whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aurora.engines.supabase.handover import hand_over
from aurora.engines.supabase.staging import LOCK
from aurora.errors import AuroraError, CheckFailed, TargetNotEmpty, TargetRefused
from aurora.operations.restore_project import sweep
from aurora.postgres.conninfo import ConnInfo
from aurora.storage.local import LocalStorage
from aurora.testing.hosted import as_role
from tests.fixtures.faults import KILLED, Line, eventually, run_program
from tests.fixtures.hosted import NewProject
from tests.fixtures.hosted_app import make_app
from tests.fixtures.looks import Look, look, run_sql
from tests.fixtures.projects import Project

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

# Dies when a phase begins or ends, or before or after a statement that holds some words.
PROGRAM = """
import json, os, signal, sys
import psycopg
from aurora.events import PhaseBegun, PhaseEnded
from aurora.operations.restore import run_restore
from aurora.operations.restore_plan import RestoreOptions, plan_restore
from aurora.storage.local import LocalStorage
from tests.fixtures.projects import Project

given = json.load(sys.stdin)
words, when = given["words"], given["when"]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def listen(event):
    kind = {"begin": PhaseBegun, "end": PhaseEnded}.get(when)
    if kind is not None and isinstance(event, kind) and event.phase.startswith(words):
        die()

real = psycopg.Cursor.execute
def execute(self, query, *args, **named):
    text = query.decode() if isinstance(query, bytes) else str(query)
    struck = when in ("before", "after") and words in text
    if struck and when == "before":
        die()
    done = real(self, query, *args, **named)
    if struck and when == "after":
        die()
    return done
psycopg.Cursor.execute = execute

project = Project(LocalStorage(given["a"]), LocalStorage(given["b"]))
plan = plan_restore(project.opened(), given["target"], RestoreOptions())
run_restore(plan, make_safety_backup=None, sink=listen)
"""

MOMENTS = [
    ("making the schema", "begin"),
    ('CREATE TABLE "aurora_restore"."auth', "after"),  # in the transaction that marks
    ("making the schema", "end"),
    ("loading rows", "end"),
    ("making indexes", "end"),
    ("checking", "begin"),
    ("handing over", "begin"),
    ('INSERT INTO "auth"."users"', "after"),
    ("ADD CONSTRAINT profiles_id_fkey", "before"),
    ("create_secret", "after"),
    ('DROP SCHEMA "aurora_restore"', "after"),  # the last statement before the commit
]

_UNFINISHED = "SELECT count(*) FROM pg_namespace WHERE nspname = 'aurora_restore'"
_SERVICES = (
    "SELECT (SELECT count(*) FROM auth.users) + (SELECT count(*) FROM storage.objects)"
    " + (SELECT count(*) FROM vault.secrets)"
)


@pytest.fixture
def kept(new_project: NewProject, tmp_path: Path) -> tuple[Project, str]:
    """A repository in directories with a backup of a project, and that project."""
    project = Project.create(LocalStorage(tmp_path / "a"), LocalStorage(tmp_path / "b"))
    source = new_project()
    make_app(source, users=6, objects=8)
    project.backup(source)
    return project, source


def looked_at(dsn: str) -> Look:
    """All of a project but what is each one's own."""
    found = look(as_role(dsn, "supabase_admin"))
    for table in ("storage.migrations", "realtime.schema_migrations", "vault.secrets",
                  "vault_root_key.key"):  # fmt: skip
        found.rows.pop(table, None)
    return found


@pytest.mark.parametrize("moments", [MOMENTS[:4], MOMENTS[4:8], MOMENTS[8:]])
def test_killed_at_many_moments(
    kept: tuple[Project, str],
    new_project: NewProject,
    tmp_path: Path,
    moments: list[tuple[str, str]],
) -> None:
    """After each: marked or as before, nothing in the services' tables; the next one is whole."""
    project, source = kept
    target = new_project()
    seen = set()
    for words, when in moments:
        done = run_program(
            PROGRAM, a=str(tmp_path / "a"), b=str(tmp_path / "b"), target=target,
            words=words, when=when,
        )  # fmt: skip
        assert done.returncode == KILLED, (words, when, done.stderr)
        assert run_sql(target, _SERVICES) == [(0,)], (words, when)
        seen.add(run_sql(target, _UNFINISHED)[0][0])
        eventually(lambda: _lock_is_free(target))
    assert 1 in seen, "it was killed too early each time"
    told = dict(project.plan(target).facts())
    assert "unfinished restore r" in told["first"]
    report = project.restore(target)
    assert (report.outcome, report.problems) == ("restored", [])
    assert looked_at(source).differences(looked_at(target)) == ""


def _lock_is_free(dsn: str) -> bool:
    here = "(SELECT oid FROM pg_database WHERE datname = current_database())"
    held = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = {here}"
    return run_sql(dsn, held) == [(0,)]


def test_killed_after_the_last_commit_it_is_whole(
    kept: tuple[Project, str], new_project: NewProject, tmp_path: Path
) -> None:
    """Nobody saw its end, and it is complete: a second one is refused, nothing is doubled."""
    project, source = kept
    target = new_project()
    done = run_program(
        PROGRAM, a=str(tmp_path / "a"), b=str(tmp_path / "b"), target=target,
        words="handing over", when="end",
    )  # fmt: skip
    assert done.returncode == KILLED, done.stderr
    assert run_sql(target, _UNFINISHED) == [(0,)]
    assert looked_at(source).differences(looked_at(target)) == ""
    with pytest.raises(TargetNotEmpty):
        project.restore(target)


@pytest.mark.parametrize(
    "words",
    ['CREATE TABLE "aurora_restore"."auth', "setval", "ANALYZE", 'INSERT INTO "auth"."users"'],
)
def test_a_lost_line_leaves_the_project_as_it_was(
    kept: tuple[Project, str],
    new_project: NewProject,
    line_to: Callable[..., tuple[Line, str]],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
) -> None:
    """Every connection is cut before a statement: new ones pass, and all is taken back."""
    project, source = kept
    target = new_project()
    before = looked_at(target)
    line, through = line_to(target)
    cut: list[str] = []
    real = psycopg.Cursor.execute

    def execute(self: Any, query: Any, *args: Any, **named: Any) -> Any:
        text = query.decode() if isinstance(query, bytes) else str(query)
        if words in text and not cut:
            cut.append(text)
            line.cut()
        return real(self, query, *args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(psycopg.Cursor, "execute", execute)
        with pytest.raises(AuroraError):
            project.restore(through)
    assert cut, "it never came to that statement"
    eventually(lambda: _lock_is_free(target))
    assert before.differences(looked_at(target)) == ""
    report = project.restore(target)
    assert report.outcome == "restored"
    assert looked_at(source).differences(looked_at(target)) == ""


def test_two_at_once(kept: tuple[Project, str], new_project: NewProject) -> None:
    """The second is refused while the first is at work, and changes nothing."""
    project, _ = kept
    target = new_project()
    with psycopg.connect(target, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        with pytest.raises(TargetRefused, match="at work"):
            project.restore(target)
    assert run_sql(target, _UNFINISHED) == [(0,)]
    assert project.restore(target).outcome == "restored"


def test_a_mark_of_another_restore_is_not_finished(
    kept: tuple[Project, str], new_project: NewProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock was lost and another began: the first does not hand over what is not its own."""
    project, _ = kept
    target = new_project()

    def instead(conn: Any, work: Any) -> Any:
        run_sql(target, "COMMENT ON SCHEMA aurora_restore IS 'unfinished restore by aurora: r2-x'")
        return hand_over(conn, work)

    monkeypatch.setattr("aurora.operations.restore_project.hand_over", instead)
    with pytest.raises(TargetRefused, match="another restore"):
        project.restore(target)
    assert run_sql(target, _SERVICES) == [(0,)]
    assert run_sql(target, _UNFINISHED) == [(1,)], "what the other does was swept away"


def test_rows_lost_while_they_waited_are_missed(
    kept: tuple[Project, str], new_project: NewProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash of the target empties what waits after its check: that is no finished restore."""
    project, _ = kept
    target = new_project()

    def instead(conn: Any, work: Any) -> Any:
        run_sql(target, 'DELETE FROM aurora_restore."auth.users"')
        return hand_over(conn, work)

    monkeypatch.setattr("aurora.operations.restore_project.hand_over", instead)
    with pytest.raises(CheckFailed, match=r"0 rows of auth\.users waited"):
        project.restore(target)
    assert run_sql(target, _SERVICES) == [(0,)]


def test_what_was_there_before_survives_the_sweep(
    kept: tuple[Project, str], new_project: NewProject, tmp_path: Path
) -> None:
    """A platform's function in public and the default privileges are as before a killed restore."""
    project, source = kept
    # As the dashboard does where row security is to be switched on by itself.
    automatic = (
        "CREATE FUNCTION public.rls_auto_enable() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NULL; END $$"
    )
    run_sql(source, automatic)
    project.backup(source)
    target = new_project()
    run_sql(target, automatic, "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    before = looked_at(target)
    done = run_program(
        PROGRAM, a=str(tmp_path / "a"), b=str(tmp_path / "b"), target=target,
        words="handing over", when="begin",
    )  # fmt: skip
    assert done.returncode == KILLED, done.stderr
    eventually(lambda: _lock_is_free(target))
    unfinished = project.plan(target).project
    assert unfinished is not None
    sweep(ConnInfo.parse(target), unfinished.project.unfinished)
    assert before.differences(looked_at(target)) == ""
