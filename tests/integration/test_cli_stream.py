"""`aurora stream` as people and supervisors run it: lines, signals, exit codes."""

import json
import signal
import time

import pytest

from tests.fixtures.faults import Workplace, run_sql

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]


@pytest.mark.timeout(300)
def test_a_stream_from_the_command_line(workplace: Workplace) -> None:
    """It makes the full that it needs, shows the RPO, ends in order by SIGTERM, and once only."""
    refused = workplace.run("stream", "--json")
    assert (refused.code, refused.error["code"]) == (23, "slot-gone")
    assert "source prepare" in refused.error["hint"]
    assert workplace.run("source", "prepare", "--yes").code == 0

    running = workplace.start("stream", "--json", "--interval", "100ms")
    assert running.stdout is not None
    seen = []
    for line in running.stdout:
        seen.append(json.loads(line))
        if seen[-1].get("state") == "streaming" and not seen[-1]["full"] and len(seen) > 9:
            break
    run_sql(workplace.dsn, "INSERT INTO customers (name) VALUES ('streamed')")
    second = workplace.run("stream", "--json")
    assert (second.code, second.error["code"]) == (11, "stream-running")
    made = workplace.run("backup", "create", "--type", "incremental", "--json")
    assert made.lines[-1]["type"] == "incremental", made.lines[-1]["reason"]
    run_sql(workplace.dsn, "INSERT INTO customers (name) VALUES ('the last one')")
    deadline = time.monotonic() + 60
    while _customers_logged(workplace) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    done = workplace.finish(running, within=120)

    assert done.code == 0
    (*_, summary) = done.lines
    assert summary["message_type"] == "summary"
    assert summary["state"] == "stopped"
    assert summary["transactions"] >= 2
    assert _customers_logged(workplace) == 2
    listed = workplace.run("backup", "list", "--json").lines[-1]["backups"]
    assert [one["type"] for one in listed] == ["full", "incremental"]
    begun, ended = workplace.ended_leases()
    assert begun == ended


@pytest.mark.timeout(300)
def test_a_recovered_database_is_validated_against_what_was_recovered(
    workplace: Workplace,
) -> None:
    """Sequences too: those of a stream's piece are read anew by what gathers it."""
    assert workplace.run("source", "prepare", "--yes").code == 0
    assert workplace.run("backup", "create").code == 0
    running = workplace.start("stream", "--json", "--interval", "100ms")
    run_sql(workplace.dsn, "INSERT INTO customers (name) VALUES ('streamed')")
    deadline = time.monotonic() + 60
    while not _customers_logged(workplace) and time.monotonic() < deadline:
        time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    assert workplace.finish(running, within=120).code == 0

    target = f"{workplace.dsn}_point"
    assert workplace.run("backup", "restore-point", "--latest", "--target", target).code == 0
    try:
        run_sql(workplace.dsn, "SELECT nextval('customers_id_seq') FROM generate_series(1, 50)")
        made = workplace.run("backup", "create", "--type", "incremental", "--json")
        assert made.lines[-1]["type"] == "incremental"
        validated = workplace.run("backup", "validate")
        assert validated.code == 0, validated.lines
        run_sql(target, "SELECT nextval('customers_id_seq')")
        assert workplace.run("backup", "validate").code == 43
    finally:
        run_sql(workplace.dsn, f'DROP DATABASE "{target.rsplit("/", 1)[1]}"')


def _customers_logged(workplace: Workplace) -> int:
    shown = workplace.run("log", "show", "--json").lines
    return sum("public.customers" in one.get("tables", {}) for one in shown)


def test_a_time_that_is_none_is_a_usage_error(workplace: Workplace) -> None:
    assert workplace.run("stream", "--interval", "soon").code == 2
