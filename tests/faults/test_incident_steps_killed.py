"""Each step of an incident is killed, and run again as a person would: nothing is done twice."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.embedded import EmbeddedServer
from aurora.repository.holds import read_holds
from tests.fixtures.faults import KILLED, Workplace, eventually, run_sql
from tests.fixtures.killing import killed, run_to
from tests.fixtures.listeners import Listener, listening_server
from tests.fixtures.looks import databases_like
from tests.fixtures.postgres import drop_database

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

START = ("incident", "start", "orders are gone", "--publish", "--notify")
CLOSE = ("incident", "close", "--publish", "--notify", "--cause", "a script")
UPDATE = ("incident", "communicate", "We know why.", "--publish", "--notify")
WORDS = {"start": START, "communicate": UPDATE, "close": CLOSE}
ROWS = ("incident", "recover", "--yes")


@pytest.fixture
def heard() -> Iterator[Listener]:
    with listening_server() as listener:
        yield listener


@pytest.fixture
def office(workplace: Workplace, heard: Listener) -> Workplace:
    """A backup on both storages; a static page, a webhook and two stakeholders."""
    assert workplace.run("backup", "create").code == 0
    for name, address in (("hook", heard.address("hook")), ("anna", heard.apprise("anna")),
                          ("ben", heard.apprise("ben"))):  # fmt: skip
        path = workplace.directory / name
        path.write_text(address + "\n")
        path.chmod(0o600)
    config = workplace.directory / "aurora.toml"
    config.write_text(
        config.read_text() + '\n[incident]\nstatus_page = "./page"\nwebhook = { file = "hook" }\n'
        'stakeholders = [{ url = { file = "anna" } }, { url = { file = "ben" } }]\n'
    )
    return workplace


def record(place: Workplace, *, tidy: bool = True) -> dict[str, Any]:
    """The one incident there is; *tidy*: no dead run has left anything."""
    (path,) = place.directory.glob("aurora.state/incidents/*/record.json")
    found: dict[str, Any] = json.loads(path.read_text())
    left = [one.name for one in path.parent.iterdir()
            if one.name.startswith((".run-", "scratch-", ".record", ".put-back"))]  # fmt: skip
    assert not (tidy and left), left
    return found


def holds(place: Workplace) -> list[int]:
    """How many holds are in force on each storage."""
    both = (place.project.repository, place.project.repository_on_mirror)
    return [len(read_holds(one.storage, one.signer, "app")) for one in both]


def steps(found: dict[str, Any]) -> list[str]:
    return [one["step"] for one in found["timeline"]]


def told_twice(found: dict[str, Any]) -> list[str]:
    """Whom the record says to have been told twice, perhaps."""
    texts = [one["text"] for one in found["timeline"] if "twice" in one["text"]]
    return [text.partition(" may hear")[0] for text in texts]


def check_told(found: dict[str, Any], heard: Listener, updates: int) -> None:
    """Everybody heard of each update once; twice at most who is named for it."""
    paths = list(heard.paths)
    names = {"/hook": "webhook", "/anna": "[incident] stakeholders 1",
             "/ben": "[incident] stakeholders 2"}  # fmt: skip
    for path, name in names.items():
        allowed = updates + told_twice(found).count(name)
        assert updates <= paths.count(path) <= allowed, (path, paths, told_twice(found))
    numbers = [json.loads(body)["number"] for path, body in heard.requests if path == "/hook"]
    assert sorted(set(numbers)) == list(range(updates))
    assert len(found["updates"]) == updates
    assert all(one["done"] for one in found["updates"])


def check_over(place: Workplace, heard: Listener) -> None:
    """After start and close: one incident, closed, everything told, nothing left on hold."""
    found = record(place)
    assert (found["state"], found["unfinished"], found["running"]) == ("closed", "", [])
    assert steps(found).count("start") == steps(found).count("close") == 1
    assert found["answers"] == {"cause": ["a script"]}
    assert holds(place) == [0, 0]
    assert found["holds"] == {}
    check_told(found, heard, 2)
    page = json.loads((place.directory / "page/status.json").read_text())
    assert page["status"] == "operational"
    assert [one["status"] for one in page["incidents"][0]] == ["investigating", "resolved"]
    (directory,) = place.directory.glob("aurora.state/incidents/*")
    report = (directory / "report.md").read_text()
    assert report.count("did not finish: its run died") == steps(found).count("interrupted")


def test_start_and_close_are_killed_while_they_tell(office: Workplace, heard: Listener) -> None:
    """Just before and after the webhook and a stakeholder are told, and before the hold ends."""
    killed(office, "save", '"trying": {"webhook"', *START, when="after")
    assert heard.paths == []
    killed(office, "save", '"heard": {"[incident] stakeholders 1"', *START)
    assert heard.paths == ["/hook", "/anna"]
    done = office.run(*START, "--json")
    assert done.code == 0, done.err
    found = record(office)
    assert done.lines[-1]["incident"] == found["id"]
    assert told_twice(found) == ["webhook", "[incident] stakeholders 1"]
    assert steps(found).count("interrupted") == 2
    assert holds(office) == [1, 1]

    killed(office, "put", ".released", *CLOSE)
    assert holds(office) == [1, 1]
    assert office.run("incident", "list", "--json").lines[-1]["incidents"][0]["state"] == "closed"
    again = office.run(*CLOSE, "--json")
    assert again.code == 0, again.err
    check_over(office, heard)
    assert office.run(*CLOSE).code == 2  # there is none to close


@pytest.mark.long
@pytest.mark.parametrize("step", WORDS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_step_that_tells_is_killed_at_every_save_of_its_record(
    office: Workplace, heard: Listener, step: str, when: str
) -> None:
    """Again and again, at each save in turn; then it is run to its end."""
    if step != "start":
        assert office.run(*START).code == 0
    nth, deaths = 1, 0
    while True:
        code, said = run_to(office, "save", "", *WORDS[step], nth=nth, when=when)
        if code != KILLED:
            break
        deaths, nth = deaths + 1, nth + 1
    assert code == 0 or (step == "close" and code == 2), said  # 2: it was all but over before
    assert deaths >= 5
    if step == "start":
        assert holds(office) == [1, 1]
        assert steps(record(office)).count("start") == 1
    if step != "close":
        assert office.run(*CLOSE).code == 0
    if step != "communicate":
        check_over(office, heard)


@pytest.mark.long
@pytest.mark.parametrize("step", [START, CLOSE], ids=["placed", "released"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2], ids=["primary", "secondary"])
def test_holds_are_placed_and_released_once(
    office: Workplace, heard: Listener, step: tuple[str, ...], when: str, nth: int
) -> None:
    """The storage has it and the record does not, or the other way round."""
    if step is CLOSE:
        assert office.run(*START).code == 0
    killed(office, "put", "holds/", *step, nth=nth, when=when)
    assert office.run(*step).code == 0
    if step is START:
        assert holds(office) == [1, 1]
        assert office.run(*CLOSE).code == 0
    check_over(office, heard)


@pytest.fixture
def accident(workplace: Workplace, pg: EmbeddedServer) -> Iterator[Workplace]:
    """A shop, a table without a key beside, most rows of both deleted, and an open incident."""
    run_sql(
        workplace.dsn,
        "CREATE TABLE visits (who int, page text); ALTER TABLE visits REPLICA IDENTITY FULL;"
        "INSERT INTO visits SELECT 1 + i % 3, 'page ' || i % 5 FROM generate_series(1, 200) i",
    )
    for words in (("source", "prepare", "--yes"), ("backup", "create")):
        done = workplace.run(*words)
        assert done.code == 0, done.err
    run_sql(workplace.dsn, "INSERT INTO orders (customer, note) VALUES (1, 'before')")
    rows = everything(workplace)
    run_sql(
        workplace.dsn,
        "BEGIN; DELETE FROM orders WHERE customer < 250; DELETE FROM visits WHERE who = 1; COMMIT",
    )
    run_sql(workplace.dsn, "INSERT INTO customers (name) VALUES ('after')")
    assert workplace.run("incident", "start", "rows are gone").code == 0
    (workplace.directory / "rows").write_text(repr(rows))
    yield workplace
    for name in databases_like(pg, ConnInfo.parse(workplace.dsn).dbname):
        drop_database(pg, name)


def everything(place: Workplace) -> list[tuple[Any, ...]]:
    return [
        row
        for table in ("orders", "visits")
        for row in run_sql(place.dsn, f"SELECT t::text FROM {table} t ORDER BY 1")
    ]


def is_back(place: Workplace) -> bool:
    """Every row that was deleted is there again, once."""
    return repr(everything(place)) == (place.directory / "rows").read_text()


def schemas(place: Workplace) -> list[tuple[Any, ...]]:
    return run_sql(place.dsn, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'aurora%'")


def decide(place: Workplace) -> None:
    """Assess and take the point."""
    for step in ("assess", "recovery-point"):
        done = place.run("incident", step)
        assert done.code == 0, done.err


def test_rows_are_put_back_once(accident: Workplace) -> None:
    """Assess, point, and recovery are killed: while it compares, before and after the commit."""
    killed(accident, "save", '"suspicions": [{', "incident", "assess")
    assert record(accident, tidy=False)["assessment"] == {}
    assert accident.run("incident", "assess").code == 0
    killed(accident, "save", '"chosen"', "incident", "recovery-point")
    assert accident.run("incident", "recovery-point").code == 0
    killed(accident, "sql", "CREATE UNLOGGED TABLE", *ROWS, nth=3, when="after")
    assert schemas(accident) == [("aurora_recovery",)]
    killed(accident, "save", '"effect"', *ROWS, when="after")
    assert not is_back(accident)
    killed(accident, "sql", "DROP SCHEMA IF EXISTS aurora_recovery", *ROWS, nth=2)
    assert is_back(accident)  # it was through, and could not say so

    done = accident.run(*ROWS, "--json")
    assert done.code == 0, done.err
    assert done.lines[-1]["inserted"] == 0
    assert is_back(accident)
    assert schemas(accident) == []
    found = record(accident)
    told = [one["text"] for one in found["timeline"] if one["step"] in ("interrupted", "recover")]
    assert [text for text in told if "changed nothing" in text]
    assert [text for text in told if "had done its work" in text]
    assert told[-1] == "nothing is left to put back"
    (only,) = found["recoveries"]
    assert (only["how"], only["found_later"], only["keyless"]) == ("rows", True, ["public.visits"])
    assert steps(found).count("interrupted") == 6  # five dead runs, one of them looked up
    once_more = accident.run(*ROWS)
    assert once_more.code == 0, once_more.err
    assert "without a key it is not done again" in once_more.out
    assert is_back(accident)
    assert accident.run("incident", "close").code == 0
    (directory,) = accident.directory.glob("aurora.state/incidents/*")
    report = (directory / "report.md").read_text()
    assert f"{only['inserted']} inserted" in report


def test_the_whole_is_swapped_in_once(accident: Workplace, pg: EmbeddedServer) -> None:
    """Killed before the swap: run again. Killed after it: the second run finds it done."""
    decide(accident)
    whole = ("incident", "recover", "--how", "whole", "--in-place", "--yes")
    killed(accident, "sql", "RENAME TO", *whole, when="before")
    assert not is_back(accident)
    killed(accident, "save", '"safety_backup": "2', *whole)
    assert is_back(accident)
    run_sql(accident.dsn, "INSERT INTO customers (name) VALUES ('new life')")
    before = databases_like(pg, ConnInfo.parse(accident.dsn).dbname)

    done = accident.run(*whole, "--json")
    assert done.code == 0, done.err
    assert done.lines[-1]["outcome"] == "restored by a run that died afterwards"
    count = "SELECT count(*) FROM customers WHERE name = 'new life'"
    assert run_sql(accident.dsn, count) == [(1,)]
    assert databases_like(pg, ConnInfo.parse(accident.dsn).dbname) == before
    assert len(before) == 2  # the new one, and the one that was replaced
    found = record(accident)
    (only,) = found["recoveries"]
    backups = accident.run("backup", "list", "--json").lines[-1]["backups"]
    safety = [one["id"] for one in backups if one["type"] == "safety"]
    assert len(safety) == 2
    told = json.dumps(found["timeline"])
    assert all(one in told for one in safety), "each safety backup is explained"
    assert only["safety_backup"] == safety[-1]
    assert only["old_database"] in before
    (saved,) = accident.directory.glob("aurora.state/incidents/*/saved/public.customers.csv")
    assert "after" in saved.read_text()


def test_a_table_is_laid_beside_once(accident: Workplace) -> None:
    """Killed before anything was made: run again. Killed when it was there: found, and told."""
    decide(accident)
    beside = ("incident", "recover", "--how", "table", "--table", "orders", "--as", "orders_then")
    count = "SELECT count(*) FROM orders_then"
    killed(accident, "save", '"effect"', *beside, when="after")
    assert run_sql(accident.dsn, "SELECT to_regclass('orders_then')::text") == [(None,)]
    killed(accident, "save", '"recoveries": [{', *beside)
    held = run_sql(accident.dsn, count)
    assert held[0][0] > 250
    done = accident.run(*beside, "--json")
    assert done.code == 0, done.err
    assert done.lines[-1]["outcome"] == "restored by a run that died afterwards"
    assert run_sql(accident.dsn, count) == held
    found = record(accident)
    assert [one["how"] for one in found["recoveries"]] == ["table"]
    told = [one["text"] for one in found["timeline"]]
    for words, times in (("its run died", 2), ("changed nothing", 1), ("had done its work", 1)):
        assert sum(words in text for text in told) == times, told
    assert schemas(accident) == []


@pytest.mark.long
def test_a_rehearsal_and_rows_set_aside_are_begun_anew(accident: Workplace) -> None:
    """A dead rehearsal leaves no server; a dead copy of lost rows leaves no half file."""
    decide(accident)
    rehearse = ("incident", "recover", "--rehearse")
    killed(accident, "save", '"how": "rehearsal"', *rehearse)
    eventually(lambda: not throw_away_servers(), within=30)
    again = accident.run(*rehearse, "--json")
    assert again.code == 0, again.err
    aside = ("incident", "recover", "--save-lost", "csv")
    killed(accident, "copy", "COPY", *aside, when="before")
    assert not list(accident.directory.glob("aurora.state/incidents/*/saved/*.csv"))
    done = accident.run(*aside)
    assert done.code == 0, done.err
    (saved,) = accident.directory.glob("aurora.state/incidents/*/saved/public.customers.csv")
    assert "after" in saved.read_text()
    found = record(accident)
    assert steps(found).count("interrupted") == 2
    assert [one["how"] for one in found["recoveries"]].count("rehearsal") == 1
    assert not throw_away_servers()


def throw_away_servers() -> list[str]:
    """Servers of rehearsals that run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            if b"aurora-pg-" in words and b"4GB" in words:
                found.append(words.decode(errors="replace"))
    return found


def test_a_table_is_replaced_once(accident: Workplace) -> None:
    """Killed before its transaction, just before its commit, just after it: the server is asked."""
    decide(accident)
    swap = ("incident", "recover", "--how", "table", "--table", "orders", "--replace", "--yes")
    damaged = run_sql(accident.dsn, "SELECT count(*) FROM orders")
    killed(accident, "save", '"begun": false', *swap, when="after")
    killed(accident, "save", '"begun": true', *swap, when="after")
    assert run_sql(accident.dsn, "SELECT count(*) FROM orders") == damaged
    killed(accident, "save", '"recoveries": [{', *swap)
    whole = run_sql(accident.dsn, "SELECT count(*) FROM orders")
    assert whole[0][0] > damaged[0][0]
    run_sql(accident.dsn, "DELETE FROM orders WHERE id = (SELECT max(id) FROM orders)")
    done = accident.run(*swap, "--json")
    assert done.code == 0, done.err
    assert done.lines[-1]["outcome"] == "restored by a run that died afterwards"
    after = run_sql(accident.dsn, "SELECT count(*) FROM orders")
    assert after == [(whole[0][0] - 1,)], "what was written since is left alone"
    found = record(accident)
    assert [one["how"] for one in found["recoveries"]] == ["table"]
    told = [one["text"] for one in found["timeline"]]
    for words, times in (("changed nothing", 2), ("had done its work", 1), ("cannot be told", 0)):
        assert sum(words in text for text in told) == times, told
