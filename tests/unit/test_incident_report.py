"""Status pages, messages and the report, on records made by hand."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from aurora import clock
from aurora.errors import UsageError
from aurora.events import discard
from aurora.operations.incident import communicate, messages, report, writes
from aurora.operations.incident.messages import Message
from aurora.operations.incident.record import Incident, Incidents
from aurora.operations.incident.status_page import (
    TRYING,
    NotPublished,
    StaticPage,
    Statuspage,
    Update,
    Webhook,
    render,
)
from aurora.storage.memory import MemoryStorage

GOALS = {"rpo_goal": 3600.0, "rto_goal": 1800.0}


class Server:
    """A server that keeps what it is asked, and answers as Statuspage does."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.unresolved: list[dict[str, Any]] = []
        self.one: dict[str, Any] = {}  # an incident asked for by its id
        self.answer = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _take(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.asked.append((self.command, self.path, headers, body))
                found: Any = {"id": "theirs1", "shortlink": "http://stspg.io/x"}
                if self.command == "GET":
                    found = outer.unresolved if self.path.endswith("/unresolved") else outer.one
                text = json.dumps(found).encode()
                self.send_response(outer.answer)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PATCH = _take  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


class Crowd:
    """Stakeholders; one of them may be away."""

    def __init__(self, who: list[str], away: str = "") -> None:
        self.who, self.away, self.heard = who, away, list[str]()

    def names(self, event: str, severity: str) -> list[str]:
        assert event.startswith("incident-")
        return self.who

    def tell(self, name: str, severity: str, message: Message) -> str:
        if name == self.away:
            return f"{name} is away"
        self.heard.append(f"{name} {severity} {message.title}")
        return ""


@pytest.fixture
def incidents(tmp_path: Path) -> Incidents:
    return Incidents(tmp_path)


def update(number: int = 0, status: str = "investigating", **changed: Any) -> Update:
    facts: dict[str, Any] = {
        "incident": "i1", "title": "orders <b>gone</b>", "severity": "major", "status": status,
        "text": "We look & see", "at": "2026-11-25T14:05:00Z", "number": number,
    }  # fmt: skip
    return Update(**{**facts, **changed})


def test_statuspage_is_asked_as_its_interface_says(server: Server) -> None:
    """Opened once by POST, then PATCHed; the key in the header, nobody notified unless asked."""
    page = Statuspage("p1", lambda: "the key", components=("c1",), base=f"{server.url}/v1")
    known = page.publish(update(), {}, notify=False)
    known = page.publish(update(1, "identified"), known, notify=False)
    page.publish(update(2, "resolved"), known, notify=True)
    look, opened, changed, resolved = server.asked
    assert look[:2] == ("GET", "/v1/pages/p1/incidents/unresolved")
    assert opened[:2] == ("POST", "/v1/pages/p1/incidents")
    assert changed[:2] == ("PATCH", "/v1/pages/p1/incidents/theirs1")
    assert all(one[2]["authorization"] == "OAuth the key" for one in server.asked)
    told = opened[3]["incident"]
    assert (told["name"], told["status"], told["body"]) == (
        "orders <b>gone</b>", "investigating", "We look & see",
    )  # fmt: skip
    assert told["deliver_notifications"] is False
    assert (told["impact_override"], told["components"]) == ("major", {"c1": "partial_outage"})
    last = resolved[3]["incident"]
    assert (last["deliver_notifications"], last["components"]) == (True, {"c1": "operational"})


def test_what_a_killed_run_has_opened_is_found_again(server: Server) -> None:
    server.unresolved = [
        {"id": "other", "metadata": {}},
        {"id": "mine", "metadata": {"aurora": {"incident": "i1"}}},
    ]
    Statuspage("p1", lambda: "k", base=server.url).publish(update(), {}, notify=False)
    assert server.asked[-1][:2] == ("PATCH", "/pages/p1/incidents/mine")


def test_a_webhook_that_fails_never_shows_its_address(server: Server) -> None:
    hook = Webhook(lambda: f"{server.url}/secret-path")
    hook.publish(update(), {}, notify=False)
    assert server.asked[0][3]["title"] == "orders <b>gone</b>"
    server.answer = 500
    for address in (f"{server.url}/secret-path", "http://127.0.0.1:1/secret-path"):
        with pytest.raises(NotPublished) as found:
            Webhook(lambda a=address: a).publish(update(), {}, notify=False)  # type: ignore[misc]
        assert "secret-path" not in f"{found.value.message} {found.value.hint}"


class Texts(HTMLParser):
    """The text of a page; fails on tags that are not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self._open = "", list[str]()
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br", "hr"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_static_page_escapes_and_shows_the_worst() -> None:
    page = render("Shop", [[update()], [update(incident="i0", status="resolved")]], "now")
    assert "<b>" not in page
    text = Texts(page).text
    assert "orders <b>gone</b>" in text
    assert "Parts of the service do not work" in text
    assert "Everything works" in Texts(render("Shop", [], "now")).text


def test_a_static_page_holds_all_incidents(incidents: Incidents) -> None:
    """Published by drafts; what was not sent is not on it, and sending twice changes nothing."""
    storage = MemoryStorage()
    page = StaticPage(storage, "Shop", lambda: communicate.published(incidents))
    mine = incidents.open("orders gone", "critical", "app", by="anna")
    first = communicate.draft(
        incidents, mine, "start", text="", status="investigating", templates=None, by="anna"
    )
    communicate.draft(
        incidents, mine, "update", text="kept back", status="identified", templates=None, by="anna"
    )
    for _ in range(2):
        assert communicate.send(incidents, mine, first, [page], None, by="a", sink=discard) == []
    told = json.loads(storage.get("status.json"))
    assert told["status"] == "major_outage"
    assert [[one["status"] for one in updates] for updates in told["incidents"]] == [
        ["investigating"]
    ]
    assert b"kept back" not in storage.get("index.html")
    assert sum(one.text.startswith("published") for one in mine.timeline) == 1


def test_what_failed_is_sent_again_and_nothing_twice(incidents: Incidents, server: Server) -> None:
    mine = incidents.open("x", "minor", "app", by="anna")
    made = communicate.draft(
        incidents, mine, "start", text="", status="investigating", templates=None, by="anna"
    )
    people = Crowd(["anna", "ben"], away="ben")
    hook = Webhook(lambda: server.url)
    server.answer = 503
    failed = communicate.send(incidents, mine, made, [hook], people, by="a", sink=discard)
    assert failed == ["webhook: the webhook refused it: HTTP 503", "ben is away"]
    server.answer, people.away = 200, ""
    again = incidents.find(mine.id)
    stored = communicate.newest(again)
    assert stored is not None
    assert communicate.send(incidents, again, stored, [hook], people, by="a", sink=discard) == []
    assert people.heard == ["anna minor x", "ben minor x"]
    assert [one[3]["again"] for one in server.asked] == [False, False]
    assert not [one for one in again.timeline if "twice" in one.text]


def test_who_may_have_been_told_by_a_dead_run_is_told_again_and_that_is_said(
    incidents: Incidents, server: Server
) -> None:
    """The record was written before the sending, and the run died before it was written again."""
    mine = incidents.open("x", "minor", "app", by="anna")
    made = communicate.draft(
        incidents, mine, "update", text="t", status="identified", templates=None, by="anna"
    )
    made["trying"] = {"webhook": "2026-11-25T14:00:00Z", "anna": "2026-11-25T14:00:00Z"}
    incidents.save(mine)
    again = communicate.draft(
        incidents, mine, "update", text="t", status="identified", templates=None, by="anna"
    )
    assert again is made
    people = Crowd(["anna", "ben"])
    hook = Webhook(lambda: server.url)
    assert communicate.send(incidents, mine, again, [hook], people, by="a", sink=discard) == []
    assert [one[3]["again"] for one in server.asked] == [True]
    assert people.heard == ["anna minor x: identified", "ben minor x: identified"]
    told = [one.text for one in mine.timeline if "twice" in one.text]
    assert [one.split()[0] for one in told] == ["webhook", "anna"]
    more = communicate.draft(
        incidents, mine, "update", text="t", status="identified", templates=None, by="anna"
    )
    assert more["number"] == 1  # it went everywhere: who says it again means it


def test_statuspage_is_asked_whether_a_dead_run_has_told_it(server: Server) -> None:
    """Nothing is put there twice; where it was not, it is now."""
    page = Statuspage("p1", lambda: "k", base=server.url)
    known = {"id": "mine", TRYING: True}
    server.one = {"id": "mine", "metadata": {"aurora": {"incident": "i1", "update": 2}}}
    assert page.publish(update(2), known, notify=False) == {"id": "mine"}
    assert [one[:2] for one in server.asked] == [("GET", "/pages/p1/incidents/mine")]
    page.publish(update(3), known, notify=False)
    assert server.asked[-1][:2] == ("PATCH", "/pages/p1/incidents/mine")


def test_templates_can_be_edited(tmp_path: Path) -> None:
    mine = Incident("i1", "gone", "minor", "shop", "2026-11-25T14:00:00Z", "anna")
    (tmp_path / "incident-update.txt").write_text("$database: $status\n$text $unknown\n")
    told = messages.filled(mine, "update", text="hello", status="identified", directory=tmp_path)
    assert told == Message("shop: identified", "hello $unknown")
    shipped = messages.filled(mine, "close", text="fixed", directory=tmp_path)
    assert shipped.title == "gone: resolved"
    with pytest.raises(UsageError, match="no status"):
        communicate.draft(
            Incidents(tmp_path), mine, "update", text="", status="done", templates=None, by="a"
        )


def whole() -> Incident:
    """An incident with everything in it."""
    mine = Incident(
        "i1", "orders *gone* <script>", "critical", "shop", "2026-11-25T14:10:00Z", "anna@host"
    )
    mine.note("start", "incident opened", by="anna")
    mine.writes = {"state": "resumed", "stopped_at": "2026-11-25T14:11:00Z",
                   "resumed_at": "2026-11-25T14:21:00Z"}  # fmt: skip
    mine.assessment = {
        "last_at": "2026-11-25T14:12:00Z",
        "suspicions": [
            {"xid": 748, "commit_at": "2026-11-25T14:05:00Z", "lsn": "0/1", "transactions": 1,
             "last_xid": 748, "reasons": ["6,640 of 8,001 rows of public.orders deleted (83%)"]},
        ],
    }  # fmt: skip
    damage = {"inserted": 0, "updated": 0, "deleted": 6640, "truncated": False}
    mine.point = {
        "chosen": {"before_xid": 748}, "target": "just before transaction 748",
        "lsn_exclusive": "0/1", "backup_id": "b1", "why": "just before", "bad": [748],
        "good_transactions_lost": 3,
        "after": [{"xid": 748, "commit_at": "2026-11-25T14:05:00Z"},
                  {"xid": 749, "commit_at": "2026-11-25T14:06:00Z"}],
        "tables": [{"table": "public.orders", "rows_then": 8001, "rows_now": 1361,
                    "damage": damage, "good_transactions": 3}],
    }  # fmt: skip
    return mine


def rows_back(mine: Incident) -> None:
    mine.recoveries.append(
        {"how": "rows", "at": "2026-11-25T14:20:00Z", "inserted": 6640, "updated": 0,
         "removed": 0, "conflicts": 2, "seconds": 3.0}
    )  # fmt: skip
    mine.note("recover", "rows put back", by="anna")


def test_rpo_and_rto_are_measured() -> None:
    """Rows put back lose nothing; going back as a whole loses what came after the point."""
    mine = whole()
    rows_back(mine)
    found = report.measured(mine, **GOALS)
    assert (found["rpo"], found["rpo_met"], found["good_transactions_lost"]) == (0.0, True, 0)
    assert found["detected_after"] == 300.0
    assert found["writes_stopped_for"] == 600.0
    assert found["rto"] == 660.0  # until writes went on
    mine.recoveries.append({"how": "rehearsal", "at": "2026-11-25T14:50:00Z"})
    assert report.measured(mine, **GOALS)["rto"] == 660.0
    mine.recoveries = [
        {"how": "whole", "at": "2026-11-25T14:20:00Z", "old_database": "old", "recovered_to": "748"}
    ]
    found = report.measured(mine, **GOALS)
    assert (found["rpo"], found["good_transactions_lost"]) == (360.0, 3)
    bare = report.measured(Incident("i", "t", "minor", "d", "2026-11-25T14:00:00Z", "a"), **GOALS)
    assert (bare["rto"], bare["rpo"], bare["rpo_met"]) == (None, None, None)


def test_the_report_tells_what_was_recorded_and_invents_nothing(incidents: Incidents) -> None:
    mine = whole()
    rows_back(mine)
    mine.answers = {"cause": ["a script without WHERE"], "action": ["review; anna; Friday"]}
    mine.files = ["put-back.sql", "gone.csv"]
    directory = incidents.directory(mine)
    directory.mkdir(parents=True)
    (directory / "put-back.sql").write_text("BEGIN;")
    paths = report.write_reports(incidents, mine, **GOALS)
    text = paths[0].read_text()
    assert "| public.orders | 8,001 | 1,361 | 6640 |" in text
    assert "a script without WHERE" in text
    assert text.count("Nobody has answered this yet") == 3
    assert "2 rows that had changed since were left alone" in text
    assert "transaction 748, committed at" in text
    assert "`put-back.sql`" in text
    assert "gone.csv" not in text
    page = paths[1].read_text()
    assert "<script>" not in page
    assert "orders *gone* <script>" in Texts(page).text
    told = json.loads(paths[2].read_text())
    assert told["measured"]["rpo"] == 0.0
    assert told["incident"]["timeline"][0]["text"] == "incident opened"


def test_an_empty_incident_has_a_report_too(incidents: Incidents) -> None:
    mine = incidents.open("nothing", "minor", "app", by="anna")
    text = report.write_reports(incidents, mine, **GOALS)[0].read_text()
    assert "Nothing was recovered." in text
    assert "not measured" in text


def test_a_status_tells_of_incidents_and_reminders_come_when_due(incidents: Incidents) -> None:
    """Stopped writes are an error until they are resumed; drafts and open incidents a warning."""
    incidents.open("a draft", "minor", "app", by="stream", state="draft")
    mine = incidents.open("gone", "major", "app", by="anna")
    assert [one.level.value for one in writes.findings(incidents)] == ["warning", "warning"]
    mine.writes = {"state": "partly stopped", "stopped_at": "2026-11-25T14:00:00Z", "by": "anna"}
    incidents.save(mine)
    assert [one.code for one in writes.findings(incidents)][1] == "writes-stopped"
    at = clock.parse("2026-11-25T14:29:59Z")
    assert not writes.reminder_due(mine, every=1800, now=at)
    assert writes.reminder_due(mine, every=1800, now=at + timedelta(seconds=1))
    assert not writes.reminder_due(mine, every=0, now=at + timedelta(days=9))
    mine.writes["reminded_at"] = "2026-11-25T14:30:00Z"
    assert not writes.reminder_due(mine, every=1800, now=at + timedelta(seconds=9))
    assert "PARTLY STOPPED" in writes.banner(mine, reminder=1800)
    mine.writes["state"] = "resumed"
    assert not writes.reminder_due(mine, every=1800, now=at + timedelta(days=9))
    assert writes.banner(mine, reminder=1800) == ""


def test_a_record_is_whole_or_the_one_before(incidents: Incidents) -> None:
    """What is no record is left out of the list, and said when it is named."""
    mine = incidents.open("one", "minor", "app", by="anna")
    (incidents.root / "i0").mkdir()
    (incidents.root / "i0" / "record.json").write_text("{")
    assert [one.id for one in incidents.all()] == [mine.id]
    with incidents.held(mine) as held, pytest.raises(Exception, match="another run"):
        with incidents.held(held):
            pass
    communicate.close(incidents, mine, by="anna")
    with pytest.raises(UsageError, match="no incident is open"):
        incidents.find(None)
    assert incidents.newest().id == mine.id
    stopped = incidents.open("two", "minor", "app", by="anna")
    stopped.writes = {"state": "stopped"}
    with pytest.raises(UsageError, match="writes are still stopped"):
        communicate.close(incidents, stopped, by="anna")
