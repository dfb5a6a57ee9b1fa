"""The emergency workflow as a person runs it, from start to close."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora.cli.app import main
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.embedded import EmbeddedServer
from tests.fixtures.faults import Workplace, run_sql
from tests.fixtures.looks import databases_like
from tests.fixtures.postgres import drop_database

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

QUICK = ("--watch", "0.2", "--grace", "0.2")


@pytest.fixture
def shopkeeper(workplace: Workplace, pg: EmbeddedServer) -> Iterator[Workplace]:
    """A shop with a change log; what was put aside goes with it, and the slot with that."""
    for words in (("source", "prepare", "--yes"), ("backup", "create")):
        done = workplace.run(*words)
        assert done.code == 0, done.err
    yield workplace
    for name in databases_like(pg, ConnInfo.parse(workplace.dsn).dbname):
        drop_database(pg, name)


def test_rows_deleted_by_mistake(shopkeeper: Workplace) -> None:
    """Start, stop, assess, point, rows back, resume: nothing is lost, not even what came after."""
    place = shopkeeper
    run_sql(place.dsn, "INSERT INTO orders (customer, note) VALUES (1, 'before')")
    before = run_sql(place.dsn, "SELECT * FROM orders ORDER BY id")
    run_sql(place.dsn, "DELETE FROM orders WHERE customer < 250")
    run_sql(place.dsn, "INSERT INTO orders (customer, note) VALUES (2, 'after')")

    config = place.directory / "aurora.toml"
    config.write_text(config.read_text() + '\n[incident]\nstatus_page = "./page"\n')
    done = place.run("incident", "start", "orders are gone", "--by", "anna", "--publish", "--json")
    assert done.code == 0, done.err
    assert "orders are gone" in (place.directory / "page/index.html").read_text()
    incident = done.lines[-1]["incident"]
    unsure = place.run("incident", "stop-writes")
    assert unsure.code == 2
    assert "CREATE TRIGGER" in unsure.out
    stopped = place.run("incident", "stop-writes", "--yes", *QUICK, "--json")
    assert stopped.lines[-1]["proven"] is True
    assert "0 changes" in stopped.lines[-1]["proof"]["stream"]
    status = place.run("incident", "status")
    assert "WRITES ARE STOPPED since" in status.out

    assessed = place.run("incident", "assess", "--json")
    worst = assessed.lines[-1]["suspicions"][0]
    assert worst["tables"]["public.orders"]["deleted"] > 6000
    point = place.run("incident", "recovery-point", "--json")
    assert point.lines[-1]["chosen"] == {"before_xid": worst["xid"]}
    assert point.lines[-1]["good_transactions_lost"] == 1

    tried = place.run("incident", "recover", "--dry-run")
    assert tried.code == 0, tried.err
    assert "INSERT INTO" in tried.out
    done = place.run("incident", "recover", "--yes", "--json")
    assert done.code == 0, done.err
    assert done.lines[-1]["inserted"] == worst["tables"]["public.orders"]["deleted"]
    assert run_sql(place.dsn, "SELECT * FROM orders WHERE note <> 'after' ORDER BY id") == before

    assert place.run("incident", "resume-writes", "--yes").code == 0
    run_sql(place.dsn, "INSERT INTO orders (customer, note) VALUES (3, 'resumed')")
    kept = place.run("incident", "communicate", "Orders are back.", "--status", "monitoring")
    assert kept.code == 0, kept.err
    assert "Orders are back" not in (place.directory / "page/index.html").read_text()
    closed = place.run(
        "incident", "close", "--publish", "--cause", "a script without WHERE", "--json"
    )
    assert closed.code == 0, closed.err
    page = json.loads((place.directory / "page/status.json").read_text())
    assert (page["status"], page["incidents"][0][-1]["status"]) == ("operational", "resolved")
    report = Path(closed.lines[-1]["report"][0]).read_text()
    assert "a script without WHERE" in report
    assert f"transaction {worst['xid']}, committed at" in report
    assert "RPO measured | 0.0 s" in report
    record = json.loads(
        (place.directory / f"aurora.state/incidents/{incident}/record.json").read_text()
    )
    steps = [entry["step"] for entry in record["timeline"]]
    assert list(dict.fromkeys(one for one in steps if one not in ("communicate", "hold"))) == [
        "start", "stop-writes", "assess", "recovery-point", "recover", "resume-writes", "close",
    ]  # fmt: skip
    assert record["timeline"][0]["by"] == "anna"
    shown = place.run("audit", "show", "--kind", "incident", "--json")
    assert shown.code == 0, shown.err


def test_the_whole_database_goes_back_and_good_rows_are_kept_aside(shopkeeper: Workplace) -> None:
    place = shopkeeper
    before = run_sql(place.dsn, "SELECT * FROM orders ORDER BY id")
    run_sql(place.dsn, "UPDATE orders SET note = 'spoilt'")
    run_sql(place.dsn, "INSERT INTO customers (name) VALUES ('after')")
    assert place.run("incident", "start", "all spoilt", "--severity", "critical").code == 0
    assert place.run("incident", "assess").code == 0
    assert place.run("incident", "recovery-point").code == 0
    beside = place.run(
        "incident", "recover", "--how", "table", "--table", "orders", "--as", "orders_then"
    )
    assert beside.code == 0, beside.err
    assert run_sql(place.dsn, "SELECT * FROM orders_then ORDER BY id") == before
    run_sql(place.dsn, "DROP TABLE orders_then")
    stopped = place.run("incident", "stop-writes", "--yes", "--watch", "0s")
    assert stopped.code == 0, stopped.err
    done = place.run("incident", "recover", "--how", "whole", "--in-place", "--yes", "--json")
    assert done.code == 0, done.err
    assert run_sql(place.dsn, "SELECT * FROM orders ORDER BY id") == before
    assert run_sql(place.dsn, "SELECT count(*) FROM customers WHERE name = 'after'") == [(0,)]
    (saved,) = place.directory.glob("aurora.state/incidents/*/saved/public.customers.csv")
    assert "after" in saved.read_text()
    # What took the database's place has no fence, and nobody says that writes are stopped.
    run_sql(place.dsn, "INSERT INTO customers (name) VALUES ('new life')")
    told = place.run("incident", "status").out
    assert "WRITES ARE STOPPED" not in told
    assert "writes go on: the database was replaced, and has no fence" in " ".join(told.split())
    assert place.run("incident", "resume-writes", "--yes").code == 2


def test_what_is_wrong_is_said(workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    """Usage errors change nothing and name the next step."""
    config = str(workplace.directory / "aurora.toml")
    for words, told in (
        (("incident", "status"), "no incident is open"),
        (("incident", "recovery-point"), "no transaction is under suspicion"),
        (("incident", "recover", "--yes"), "no transaction is under suspicion"),
        (("incident", "resume-writes"), "no incident has stopped writes"),
        (("incident", "start", "x", "--severity", "high"), "no severity is called"),
        (("incident", "stop-writes", "--role", "nobody_here", "--yes"), "has no role nobody_here"),
        (("incident", "stop-writes", "--grace", "soon", "--yes"), "--grace"),
        (("incident", "recover", "--how", "magic"), "no way to recover"),
        (("incident", "status", "--incident", "zzz"), "0 incidents fit"),
    ):
        assert main(["--config", config, *words]) == 2
        assert told in capfd.readouterr().err
    assert not Path(workplace.directory / "aurora.state/incidents").exists()


@pytest.mark.long
def test_a_recovery_is_rehearsed_on_a_throw_away_server(shopkeeper: Workplace) -> None:
    place = shopkeeper
    run_sql(place.dsn, "DELETE FROM orders")
    assert place.run("incident", "start", "gone").code == 0
    assert place.run("incident", "assess").code == 0
    done = place.run("incident", "recover", "--rehearse", "--json")
    assert done.code == 0, done.err
    assert done.lines[-1]["rows"] > 8000
    assert run_sql(place.dsn, "SELECT count(*) FROM orders") == [(0,)]
