"""The incident workflow is killed anywhere: run again it goes on, and the undo is exact."""

import pytest

from tests.fixtures.faults import KILLED, Workplace, run_program, run_sql
from tests.fixtures.projects import NewRole

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

# The real command line, which dies just before or after the nth statement that holds some words.
PROGRAM = """
import json, os, signal, sys
import psycopg

given = json.load(sys.stdin)
words, when, left = given["words"], given["when"], [given["nth"]]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

real = psycopg.Cursor.execute
def execute(self, query, *args, **named):
    text = query.decode() if isinstance(query, bytes) else str(query)
    left[0] -= words in text
    struck = words in text and left[0] == 0
    if struck and when == "before":
        die()
    done = real(self, query, *args, **named)
    if struck and when == "after":
        die()
    return done
psycopg.Cursor.execute = execute

from aurora.cli.app import main
sys.exit(main(given["arguments"]))
"""
STOPS = [  # and what is run next
    ("ALTER DATABASE", 1, "before", "resume"),  # the undo file is there, nothing is changed
    ("CREATE OR REPLACE FUNCTION", 1, "after", "stop"),
    ("CREATE TRIGGER", 1, "after", "resume"),  # inside of the transaction
    ("CREATE EVENT TRIGGER", 1, "before", "stop"),
    ("SET LOCAL ROLE", 1, "after", "resume"),  # within the proof
]
RESUMES = [
    ("DROP EVENT TRIGGER", 1, "after"),
    ("DROP TRIGGER", 2, "before"),
    ("DROP SCHEMA", 1, "before"),
    ("DROP SCHEMA", 1, "after"),
]
_STATE = """
SELECT (SELECT string_agg(c.relname || c.relacl::text, ';' ORDER BY c.oid) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public'),
       (SELECT setconfig::text FROM pg_db_role_setting s JOIN pg_database d
        ON d.oid = s.setdatabase WHERE d.datname = current_database() AND setrole = 0),
       (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal),
       (SELECT count(*) FROM pg_event_trigger),
       (SELECT count(*) FROM pg_namespace WHERE nspname = 'aurora_fence')
"""


def killed(workplace: Workplace, moment: tuple[str, int, str], *words: str) -> None:
    """Run the command line until it is killed at *moment*."""
    config = str(workplace.directory / "aurora.toml")
    text, nth, when = moment
    done = run_program(
        PROGRAM, words=text, nth=nth, when=when, arguments=["--config", config, *words]
    )
    assert done.returncode == KILLED, done.stderr + done.stdout


@pytest.fixture
def guarded(workplace: Workplace, new_role: NewRole) -> Workplace:
    """The shop, which a role other than its owner writes to."""
    role = new_role("incident_app")
    run_sql(workplace.dsn, f"GRANT INSERT, SELECT ON customers, orders TO {role}")
    return workplace


STOP = ("incident", "stop-writes", "--yes", "--watch", "0", "--grace", "0.2")


@pytest.mark.parametrize(
    "words, nth, when, then", STOPS, ids=lambda one: str(one).replace(" ", "-")
)
def test_a_killed_stop_goes_on_and_is_undone(
    guarded: Workplace, words: str, nth: int, when: str, then: str
) -> None:
    """Resumed right away, or stopped again first: both leave the database as it was."""
    before = run_sql(guarded.dsn, _STATE)
    killed(guarded, (words, nth, when), *STOP)
    if then == "stop":
        again = guarded.run(*STOP, "--json")
        assert again.code == 0, again.err
        assert again.lines[-1]["proven"] is True
        listed = guarded.run("incident", "list", "--json").lines[-1]
        assert [one["writes"] for one in listed["incidents"]] == ["stopped"]
    assert guarded.run("incident", "resume-writes", "--yes").code == 0
    assert run_sql(guarded.dsn, _STATE) == before


@pytest.mark.parametrize("moment", RESUMES, ids=lambda one: f"{one[2]} {one[1]} {one[0]}")
def test_a_killed_resume_goes_on(guarded: Workplace, moment: tuple[str, int, str]) -> None:
    """By its undo file alone: the incident's record may be lost too."""
    before = run_sql(guarded.dsn, _STATE)
    assert guarded.run(*STOP).code == 0
    killed(guarded, moment, "incident", "resume-writes", "--yes")
    (undo,) = guarded.directory.glob("aurora.state/incidents/*/undo.json")
    kept = guarded.directory / "kept.json"
    kept.write_bytes(undo.read_bytes())
    for path in undo.parent.iterdir():
        path.unlink()
    done = guarded.run("incident", "resume-writes", "--yes", "--file", str(kept))
    assert done.code == 0, done.err
    assert run_sql(guarded.dsn, _STATE) == before
    run_sql(guarded.dsn, "INSERT INTO customers (name) VALUES ('after')")
