"""Notices and pings against a real HTTP server: who hears what, once, and without a secret."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aurora.errors import AuroraError
from aurora.events import Event, Warned
from aurora.notify.deliver import NotDelivered, Target, deliver
from aurora.notify.desk import Desk
from aurora.notify.notices import EVENTS, Notice, Severity
from aurora.notify.pings import Pings, ping, ping_address
from aurora.notify.templates import Message, Templates, names
from tests.fixtures.listeners import Listener, listening_server

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BAD = Notice("problem", "disk", Severity.WARNING, "the disk is full",
             {"message": "the disk is full", "hint": "Make room."})  # fmt: skip


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening_server() as heard:
        yield heard


NewDesk = Callable[..., Desk]


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def new_desk(tmp_path: Path, listener: Listener, events: list[Event]) -> NewDesk:
    """``new_desk(Severity.INFO, …)``: one on the same file, for one target."""

    def make(
        severity: Severity = Severity.WARNING, patterns: tuple[str, ...] = ("*",),
        address: str = "", digest: bool = True,
    ) -> Desk:  # fmt: skip
        target = Target(
            "file secrets/one", lambda: address or listener.apprise("s3cret"), severity, patterns,
            digest,
        )  # fmt: skip
        return Desk(tmp_path / "notices.json", [target], Templates(tmp_path / "templates"),
                    {"database": "shop", "host": "here"}, events.append, remind=86400)  # fmt: skip

    return make


def test_a_problem_is_told_once_reminded_of_and_told_as_over(
    new_desk: NewDesk, listener: Listener
) -> None:
    """Also by a desk that was started again meanwhile."""
    new_desk().problem(BAD, NOW)
    desk = new_desk()
    for minute in range(1, 60):
        desk.problem(BAD, NOW + minute * MINUTE)
        desk.flush(NOW + minute * MINUTE)
    assert [one["title"] for one in listener.messages] == ["[shop] warning: the disk is full"]
    assert listener.messages[0]["type"] == "warning"
    assert "Make room." in listener.messages[0]["message"]
    desk.problem(BAD, NOW + timedelta(days=1, minutes=1))
    desk.solved("disk", NOW + timedelta(days=1, minutes=2))
    desk.solved("disk", NOW + timedelta(days=1, minutes=3))
    desk.flush(NOW + timedelta(days=1, minutes=3))
    assert [one["title"] for one in listener.messages[1:]] == [
        "[shop] warning: the disk is full",
        "[shop] recovered: the disk is full",
    ]
    assert "lasted 1 d 00 h" in listener.messages[2]["message"]


def test_what_gets_worse_is_told_again(new_desk: NewDesk, listener: Listener) -> None:
    desk = new_desk(Severity.ERROR)
    desk.problem(BAD, NOW)
    worse = Notice("problem", "disk", Severity.ERROR, "the disk is gone", BAD.facts)
    desk.problem(worse, NOW + MINUTE)
    desk.problem(worse, NOW + 2 * MINUTE)
    desk.flush(NOW + 2 * MINUTE)
    assert [one["type"] for one in listener.messages] == ["failure"]


def test_who_did_not_hear_of_it_does_not_hear_that_it_is_over(
    new_desk: NewDesk, listener: Listener
) -> None:
    """A warning and its end are no business of a target for errors."""
    desk = new_desk(Severity.ERROR)
    desk.problem(BAD, NOW)
    desk.solved("disk", NOW + MINUTE)
    desk.flush(NOW + MINUTE)
    assert listener.requests == []


def test_events_are_chosen_by_name(new_desk: NewDesk, listener: Listener) -> None:
    desk = new_desk(Severity.INFO, ("job-*",))
    desk.tell(Notice("job-ok", "x", Severity.INFO, "done", {"job": "full backup"}), NOW)
    desk.problem(BAD, NOW)
    desk.flush(NOW)
    assert [one["title"] for one in listener.messages] == ["[shop] full backup done"]


def test_only_what_two_looks_find_is_told(new_desk: NewDesk, listener: Listener) -> None:
    """What comes and goes between two looks is nobody's business; nor is its end."""
    desk = new_desk()
    for minute, found in enumerate([[BAD], [], [BAD], [], [BAD], [BAD], [], [BAD], [], []]):
        desk.observe("status", found, NOW + minute * MINUTE)
        desk.flush(NOW + minute * MINUTE)
    assert [one["title"] for one in listener.messages] == [
        "[shop] warning: the disk is full",
        "[shop] recovered: the disk is full",
    ]


def test_what_cannot_be_delivered_waits_for_a_day(
    new_desk: NewDesk, listener: Listener, events: list[Event]
) -> None:
    """It is tried again, also after a restart, warned of once, and given up in the end."""
    listener.answers = [500, 500]
    desk = new_desk()
    desk.problem(BAD, NOW)
    desk.flush(NOW)
    assert desk.undelivered == 1
    desk = new_desk()
    desk.flush(NOW + MINUTE)
    desk.flush(NOW + 2 * MINUTE)
    assert (desk.undelivered, len(listener.messages)) == (0, 3)
    assert [one.code for one in events if isinstance(one, Warned)] == ["notice-not-delivered"]
    listener.answers = [500, 500]
    desk.tell(BAD, NOW)
    desk.flush(NOW)
    desk.flush(NOW + timedelta(days=2))
    assert desk.undelivered == 0


def test_no_address_is_ever_shown(new_desk: NewDesk, events: list[Event], tmp_path: Path) -> None:
    """Neither one that does not answer nor one that is none; not in the state either."""
    for address in ("json://127.0.0.1:1/s3cret", "nothing-s3cret", "json://user:s3cret@[::bad/"):
        desk = new_desk(address=address)
        desk.tell(BAD, NOW)
        desk.flush(NOW)
    assert len(events) >= 2
    assert all("s3cret" not in f"{one!r}" for one in events)
    assert "s3cret" not in (tmp_path / "notices.json").read_text()
    with pytest.raises(NotDelivered) as raised:
        deliver(Target("file x", lambda: "s3cret"), Message("t", "b"), Severity.INFO)
    assert "s3cret" not in f"{raised.value.message} {raised.value.hint}"


def test_the_digest_goes_once_a_day_to_who_wants_it(new_desk: NewDesk, listener: Listener) -> None:
    desk, due = new_desk(Severity.ERROR), NOW.replace(hour=8)
    assert not desk.digest_due(due)  # the first is that of tomorrow
    assert not desk.digest_due(due)
    tomorrow = due + timedelta(days=1)
    assert desk.digest_due(tomorrow)
    desk.tell(Notice("digest", "digest", Severity.INFO, "fine", {"verdict": "fine"}), tomorrow)
    desk.digest_sent(tomorrow)
    desk.flush(tomorrow)
    assert not new_desk().digest_due(tomorrow)
    assert len(listener.messages) == 1
    quiet = new_desk(digest=False)
    quiet.tell(Notice("digest", "digest", Severity.ERROR, "bad", {}), tomorrow)
    quiet.flush(tomorrow)
    assert len(listener.messages) == 1


# Templates -----------------------------------------------------------------------------------


def test_every_event_has_a_template_that_fills() -> None:
    """Without a placeholder that nobody fills looking like one: they are plain text."""
    assert set(names()) >= set(EVENTS)
    for event in EVENTS:
        message = Templates().fill(event, {"database": "shop"})
        assert message.title.startswith("[shop] ")


def test_an_edited_template_wins(tmp_path: Path) -> None:
    """With a dollar sign and a name of their own."""
    (tmp_path / "problem.txt").write_text("Oh no: $subject\nIt costs $$5. $message $nothing\n")
    message = Templates(tmp_path).fill("problem", {"subject": "x", "message": "y"})
    assert message == Message("Oh no: x", "It costs $5. y $nothing")


def test_a_broken_template_is_complained_of_and_used_as_it_is(tmp_path: Path) -> None:
    """It never keeps a message from being sent."""
    (tmp_path / "problem.txt").write_text("$ 5 $subject")
    (tmp_path / "probelm.txt").write_text("x")
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe")
    templates = Templates(tmp_path)
    assert templates.fill("problem", {"subject": "x"}).title == "$ 5 x"
    assert templates.fill("test", {"database": "shop"}).title.startswith("[shop]")
    assert len(list(templates.complaints())) == 3


# Pings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address, step, expected",
    [
        ("https://hc.example/ping/u", "", "https://hc.example/ping/u"),
        ("https://hc.example/ping/u/", "start", "https://hc.example/ping/u/start"),
        ("https://hc.example/ping/u?create=1", "fail", "https://hc.example/ping/u/fail?create=1"),
    ],
)
def test_addresses_of_pings(address: str, step: str, expected: str) -> None:
    assert ping_address(address, step) == expected


def test_start_success_and_failure(listener: Listener, events: list[Event]) -> None:
    """In order, with the log's end as the body and one id for begin and end."""
    pings = Pings({"full": lambda: listener.address("ping/u")}, events.append)
    pings.begun("full")
    pings.succeeded("full", "backup made")
    pings.begun("full")
    pings.failed("full", "no room\n" * 5000)
    pings.begun("incremental")  # nobody asked for that
    pings.close()
    assert listener.paths == ["/ping/u/start", "/ping/u", "/ping/u/start", "/ping/u/fail"]
    runs = [path.partition("rid=")[2] for path, _ in listener.requests]
    assert runs[0] == runs[1] != runs[2] == runs[3]
    assert listener.requests[1][1] == "backup made"
    assert len(listener.requests[3][1]) == 10_000
    assert events == []


def test_a_ping_is_tried_again_and_then_given_up(listener: Listener) -> None:
    """A server's trouble may pass, an address that is not known does not."""
    listener.answers = [503]
    ping(listener.address("s3cret"), "", "")
    assert len(listener.requests) == 2
    listener.answers = [404]
    with pytest.raises(AuroraError, match="answered 404") as raised:
        ping(listener.address("s3cret"), "", "")
    assert "s3cret" not in f"{raised.value} {raised.value.hint}"
    assert len(listener.requests) == 3


def test_a_switch_that_does_not_answer_stops_nothing(events: list[Event]) -> None:
    def lost() -> str:
        raise AuroraError("the file is not there")

    pings = Pings({"full": lost}, events.append)
    pings.begun("full")
    pings.close()
    assert [one.code for one in events if isinstance(one, Warned)] == ["ping-failed"]
