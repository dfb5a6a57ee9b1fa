"""The incident workflow is killed anywhere: run again it goes on, and the undo is exact."""

import pytest

from tests.fixtures.faults import Workplace, run_sql
from tests.fixtures.killing import killed
from tests.fixtures.projects import NewRole

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

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
    killed(guarded, "sql", words, *STOP, nth=nth, when=when)
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
    words, nth, when = moment
    killed(guarded, "sql", words, "incident", "resume-writes", "--yes", nth=nth, when=when)
    (undo,) = guarded.directory.glob("aurora.state/incidents/*/undo.json")
    kept = guarded.directory / "kept.json"
    kept.write_bytes(undo.read_bytes())
    for path in undo.parent.iterdir():
        path.unlink()
    done = guarded.run("incident", "resume-writes", "--yes", "--file", str(kept))
    assert done.code == 0, done.err
    assert run_sql(guarded.dsn, _STATE) == before
    run_sql(guarded.dsn, "INSERT INTO customers (name) VALUES ('after')")
