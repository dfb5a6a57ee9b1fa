"""Anomalies seen while the log streams: a draft, a hold, a message, and nothing else."""

import threading
import time
from collections.abc import Callable

import pytest

from aurora import Aurora
from aurora.api import incident_records, stream
from aurora.events import Event, Warned
from aurora.operations.incident.record import DRAFT
from aurora.repository.holds import Hold, read_holds
from tests.fixtures.faults import Workplace, run_sql

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]


def holds(aurora: Aurora) -> list[Hold]:
    repository = aurora.open_primary()
    return read_holds(repository.storage, repository.signer, aurora.database)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_delete_of_everything_is_an_alarm_while_it_streams(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two accidents make one draft; the source is left alone; the draft becomes an incident."""
    for words in (("source", "prepare", "--yes"), ("backup", "create")):
        assert workplace.run(*words).code == 0
    heard: list[Event] = []
    aurora = Aurora.load(
        workplace.directory / "aurora.toml", overrides={"stream": {"interval": 0.2}}
    )
    book, stop = incident_records(aurora), threading.Event()
    worker = threading.Thread(
        target=stream, args=(aurora,), kwargs={"stop": stop, "sink": heard.append}
    )
    worker.start()
    try:
        run_sql(workplace.dsn, "INSERT INTO orders (customer, note) VALUES (1, 'quiet')")
        run_sql(workplace.dsn, "DELETE FROM orders WHERE id > 10")
        _until(lambda: len(book.all()) == 1 and bool(book.all()[0].assessment))
        run_sql(workplace.dsn, "UPDATE customers SET name = 'x'")
        _until(lambda: len(book.all()[0].assessment["suspicions"]) == 2)
    finally:
        stop.set()
        worker.join(60)
    (draft,) = book.all()
    assert draft.state == DRAFT
    assert "rows of public.orders deleted" in draft.title
    assert any(isinstance(one, Warned) and one.code == "anomaly" for one in heard)
    assert [one.why for one in holds(aurora)] == [f"incident {draft.id}"]
    assert run_sql(workplace.dsn, "SELECT count(*) FROM orders") == [(10,)]

    begun = workplace.run("incident", "start", "orders are gone", "--draft", draft.id[-4:])
    assert begun.code == 0, begun.err
    (taken,) = book.all()
    assert (taken.id, taken.state, taken.title) == (draft.id, "open", "orders are gone")
    point = workplace.run("incident", "recovery-point", "--json")
    assert point.code == 0, point.err
    assert point.lines[-1]["chosen"] == {"before_xid": draft.assessment["suspicions"][0]["xid"]}
    closed = workplace.run("incident", "close")
    assert closed.code == 0, closed.err
    assert holds(aurora) == []
