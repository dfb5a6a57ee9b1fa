"""Telling people of an incident, closing it, and its report."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aurora import clock
from aurora.api.audit import record
from aurora.api.incident_holds import hold_retention, release_retention
from aurora.api.incidents import incident_records
from aurora.config.settings import NotifyTarget
from aurora.errors import AuroraError, Incomplete, UsageError
from aurora.events import EventSink, Noted, Warned, discard
from aurora.notify.deliver import Target
from aurora.notify.notices import Severity
from aurora.notify.stakeholders import Stakeholders
from aurora.operations.incident import communicate as talk
from aurora.operations.incident import messages, writes
from aurora.operations.incident import report as report_operation
from aurora.operations.incident.record import CLOSED, Incident, Incidents, whoami
from aurora.operations.incident.status_page import Publisher, StaticPage, Statuspage, Webhook
from aurora.repository.door import ClosedRepository
from aurora.storage.open import open_storage
from aurora.wiring import Aurora

Answers = Mapping[str, Sequence[str]]


def start_incident(
    aurora: Aurora,
    title: str,
    *,
    severity: str = "major",
    text: str = "",
    source: str = "",
    draft: str | None = None,
    publish: bool = False,
    notify: bool = False,
    by: str = "",
    sink: EventSink = discard,
) -> Incident:
    """Open an incident, with a first message drafted; sent only where that is asked for.

    From then on nothing is removed from the repository, until it is closed. Where one with this
    title is open already, as after a run that died, that one goes on.

    Args:
        source: how it was noticed, for the report.
        draft: a part of the id of a draft (of an anomaly, say) that becomes the incident.
        publish: put it on the status pages that are configured.
        notify: tell the stakeholders.

    Raises UsageError; Incomplete where somebody could not be told: the incident is open.
    """
    book, who = incident_records(aurora), by or whoami()
    made = _opened(aurora, book, title, severity, draft, by=who, sink=sink)
    with book.step(made, "start", by=who) as held:
        held.source = source or held.source
        held.before = held.before or _before(aurora)
        first = talk.draft(
            book, held, "start", text=text, status="investigating", templates=templates_of(aurora),
            by=who,
        )  # fmt: skip
        if held.unfinished:
            _audit(aurora, book, held, "incident start", sink)
        held.unfinished = ""
        try:
            _send(aurora, book, held, first, publish=publish, notify=notify, by=who, sink=sink)
        finally:  # after the messages: a storage that does not answer takes its time
            hold_retention(aurora, book, held, by=who, sink=sink)
        return held


def _opened(
    aurora: Aurora,
    book: Incidents,
    title: str,
    severity: str,
    draft: str | None,
    *,
    by: str,
    sink: EventSink,
) -> Incident:
    """The incident that is opened: a new one, a draft, or one of this title that is open."""
    same = book.with_title(title)
    if draft is not None:
        found = book.find(draft)
        if same is None or found.id != same.id:
            return book.adopt(draft, title, severity, by=by)
    elif same is None:
        return book.open(title, severity, aurora.database, by=by)
    assert same is not None
    sink(Noted(f"incident {same.id} with this title is open already: it goes on"))
    return same


def communicate(
    aurora: Aurora,
    text: str = "",
    *,
    status: str = "identified",
    publish: bool = False,
    notify: bool = False,
    incident: str | None = None,
    by: str = "",
    sink: EventSink = discard,
) -> tuple[Incident, dict[str, Any]]:
    """Draft an update, or with no *text* take the newest draft; send it where that is asked for.

    Raises UsageError; Incomplete where somebody could not be told: run it again.
    """
    book, who = incident_records(aurora), by or whoami()
    found = book.find(incident) if incident or book.current() else book.newest()
    with book.step(found, "communicate", by=who) as held:
        hold_retention(aurora, book, held, by=who, sink=sink)
        if text:
            draft = talk.draft(
                book, held, "update", text=text, status=status, templates=templates_of(aurora),
                by=who,
            )  # fmt: skip
        else:
            newest = talk.newest(held)
            if newest is None:
                raise UsageError(
                    "there is no draft to send", hint='Write one: aurora incident communicate "…"'
                )
            draft = newest
        _send(aurora, book, held, draft, publish=publish, notify=notify, by=who, sink=sink)
        return held, draft


def close_incident(
    aurora: Aurora,
    *,
    text: str = "",
    answers: Answers | None = None,
    publish: bool = False,
    notify: bool = False,
    incident: str | None = None,
    by: str = "",
    sink: EventSink = discard,
) -> tuple[Incident, list[Path]]:
    """Close an incident, resolve it on the status pages (if asked for), and write the report.

    Retention goes on. A close that died, or could not reach a storage, goes on when it is run
    again.

    Raises UsageError while writes are stopped; Incomplete where somebody could not be told: it
    is closed all the same.
    """
    book, who = incident_records(aurora), by or whoami()
    with book.step(_closing(book, incident), "close", by=who) as held:
        _answer(held, answers)
        over = held.state == CLOSED and not held.unfinished  # but for a hold that stayed
        talk.close(book, held, by=who)
        try:
            if not over:
                draft = talk.draft(
                    book, held, "close", text=text, status="resolved",
                    templates=templates_of(aurora), by=who,
                )  # fmt: skip
                _send(aurora, book, held, draft, publish=publish, notify=notify, by=who, sink=sink)
        finally:
            release_retention(aurora, book, held, by=who, sink=sink)
            paths = _report(aurora, book, held)
            _audit(aurora, book, held, "incident close", sink, paths)
            held.unfinished = ""
        return held, paths


def _closing(book: Incidents, text: str | None) -> Incident:
    """The incident to close; first one whose close began and did not end. Raises UsageError."""
    found = None if text else book.half_closed()
    if found is None:
        found = book.find(text)
    if found.state == CLOSED and not found.unfinished and not found.holds:
        raise UsageError(
            f"incident {found.id} is closed already",
            hint="Its report can be completed: aurora incident report --incident "
            f"{found.id} --cause TEXT",
        )
    return found


def incident_report(
    aurora: Aurora, *, answers: Answers | None = None, incident: str | None = None
) -> tuple[Incident, list[Path]]:
    """Write the report of an incident, open or closed, with what people answer added."""
    book = incident_records(aurora)
    found = book.find(incident) if incident else book.newest()
    with book.held(found) as held:
        _answer(held, answers)
        book.save(held)
        return held, _report(aurora, book, held)


def _send(
    aurora: Aurora,
    book: Incidents,
    held: Incident,
    draft: dict[str, Any],
    *,
    publish: bool,
    notify: bool,
    by: str,
    sink: EventSink,
) -> None:
    places = publishers(aurora, book, sink) if publish else []
    if publish and not places:
        raise UsageError(
            "no status page is configured",
            hint="The draft is in the record. Set status_page, statuspage_page or webhook under "
            "[incident] in aurora.toml.",
        )
    people = notifier(aurora) if notify else None
    if notify and people is None:
        raise UsageError(
            "no stakeholders are configured",
            hint="The draft is in the record. List them under [incident] stakeholders, or "
            "[notify] targets, in aurora.toml.",
        )
    failed = talk.send(book, held, draft, places, people, by=by, sink=sink)
    if failed:
        raise Incomplete(
            f"not everybody was told: {'; '.join(failed)}",
            hint="The draft is in the record; `aurora incident communicate --publish --notify` "
            "sends it where it is missing.",
        )


def remind_of_stopped_writes(aurora: Aurora, *, sink: EventSink = discard) -> bool:
    """Tell the stakeholders that writes are still stopped, where that is due; whether it was.

    For a daemon to call now and then.
    """
    book, now = incident_records(aurora), clock.now()
    found = writes.stopping_incident(book)
    every = aurora.settings.incident.reminder
    if found is None or not writes.reminder_due(found, every=every, now=now):
        return False
    people = notifier(aurora)
    message = messages.filled(found, "reminder", directory=templates_of(aurora))
    lost = people.tell_all("incident-reminder", found.severity, message) if people else []
    try:
        with book.held(found) as held:
            held.writes["reminded_at"] = clock.isoformat(now)
            told = f"reminded that writes are stopped{'; not told: ' if lost else ''}"
            held.note("reminder", told + "; ".join(lost), by="the daemon")
            book.save(held)
    except AuroraError:
        return False  # somebody works on the incident right now: nobody has forgotten it
    sink(Warned("writes-stopped", message.title, message.body))
    return True


def publishers(aurora: Aurora, book: Incidents, sink: EventSink) -> list[Publisher]:
    """The status pages and webhooks of the settings."""
    settings, base = aurora.settings.incident, aurora.settings.base
    found: list[Publisher] = []
    if settings.status_page:
        credentials = {
            name: value if isinstance(value, str) else value.resolve(
                f"[incident.status_page_credentials] {name}", base=base, lines=True)
            for name, value in settings.status_page_credentials.items()
        }  # fmt: skip
        storage = open_storage(settings.status_page, credentials, base_directory=base, sink=sink)
        title = settings.status_page_title or f"Status of {aurora.database}"
        found.append(StaticPage(storage, title, lambda: talk.published(book)))
    key = settings.statuspage_key
    if settings.statuspage_page and key is not None:
        found.append(
            Statuspage(
                settings.statuspage_page,
                lambda: key.resolve("[incident] statuspage_key", base=base),
                components=settings.statuspage_components,
                base=settings.statuspage_url,
            )
        )
    hook = settings.webhook
    if hook is not None:
        found.append(Webhook(lambda: hook.resolve("[incident] webhook", base=base)))
    return found


def notifier(aurora: Aurora) -> Stakeholders | None:
    """What tells the stakeholders of the settings; None where there are none."""
    settings, base = aurora.settings, aurora.settings.base
    listed: list[tuple[str, NotifyTarget]] = [
        *((f"[incident] stakeholders {n}", one)
          for n, one in enumerate(settings.incident.stakeholders, 1)),
        *((f"[notify] targets {n}", one) for n, one in enumerate(settings.notify.targets, 1)),
    ]  # fmt: skip
    targets = [
        Target(name, partial(one.url.resolve, name, base=base), Severity.of(one.severity),
               one.events)
        for name, one in listed
    ]  # fmt: skip
    return Stakeholders(targets) if targets else None


def templates_of(aurora: Aurora) -> Path:
    return aurora.settings.base / aurora.settings.notify.templates


def _answer(held: Incident, answers: Answers | None) -> None:
    for name, texts in (answers or {}).items():
        known = held.answers.setdefault(name, [])
        known += [text for text in texts if text not in known]  # a run that died gave them too


def _report(aurora: Aurora, book: Incidents, held: Incident) -> list[Path]:
    goals = aurora.settings.goals
    return report_operation.write_reports(book, held, rpo_goal=goals.rpo, rto_goal=goals.rto)


def _before(aurora: Aurora) -> dict[str, Any]:
    """How the backups stand, as far as a closed repository shows it."""
    try:
        backups = ClosedRepository(aurora.storage()).backups(aurora.database)
    except AuroraError as error:
        return {"backups": f"not known: {error.message}"}
    newest = {one.type: one.id for one in backups}
    return {"backups": str(len(backups)), **{f"newest {kind}": one for kind, one in newest.items()}}


def _audit(
    aurora: Aurora,
    book: Incidents,
    held: Incident,
    operation: str,
    sink: EventSink,
    paths: Sequence[Path] = (),
) -> None:
    """The record into the audit trail; by the spool, so that no storage is waited for."""
    attachments = {path.name: path.read_text() for path in paths if path.suffix == ".md"}
    attachments["record.json"] = json.dumps(held.document(), default=str)
    facts = {"incident": held.id, "title": held.title, "state": held.state,
             "directory": str(book.directory(held).name)}  # fmt: skip
    record(
        aurora, None, "incident", "ok", facts, operation=operation, attachments=attachments,
        sink=sink,
    )  # fmt: skip
