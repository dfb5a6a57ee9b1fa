"""Telling people of an incident, closing it, and its report."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aurora.api.audit import record
from aurora.api.incidents import incident_records
from aurora.config.settings import NotifyTarget
from aurora.errors import AuroraError, Incomplete, UsageError
from aurora.events import EventSink, discard
from aurora.operations.incident import communicate as talk
from aurora.operations.incident import report as report_operation
from aurora.operations.incident.record import Incident, Incidents, whoami
from aurora.operations.incident.stakeholders import Stakeholder, tell
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
    publish: bool = False,
    notify: bool = False,
    by: str = "",
    sink: EventSink = discard,
) -> Incident:
    """Open an incident, with a first message drafted; sent only where that is asked for.

    Args:
        source: how it was noticed, for the report.
        publish: put it on the status pages that are configured.
        notify: tell the stakeholders.

    Raises UsageError; Incomplete where somebody could not be told: the incident is open.
    """
    book, who = incident_records(aurora), by or whoami()
    made = book.open(title, severity, aurora.database, by=who)
    with book.held(made) as held:
        held.source = source
        held.before = _before(aurora)
        draft = talk.draft(
            book, held, "start", text=text, status="investigating", templates=_templates(aurora),
            by=who,
        )  # fmt: skip
        _audit(aurora, book, held, "incident start", sink)
        _send(aurora, book, held, draft, publish=publish, notify=notify, by=who, sink=sink)
        return held


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
    with book.held(found) as held:
        if text:
            draft = talk.draft(
                book, held, "update", text=text, status=status, templates=_templates(aurora),
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

    Raises UsageError while writes are stopped; Incomplete where somebody could not be told: it
    is closed all the same.
    """
    book, who = incident_records(aurora), by or whoami()
    with book.held(book.find(incident)) as held:
        _answer(held, answers)
        talk.close(book, held, by=who)
        draft = talk.draft(
            book, held, "close", text=text, status="resolved", templates=_templates(aurora), by=who
        )
        try:
            _send(aurora, book, held, draft, publish=publish, notify=notify, by=who, sink=sink)
        finally:
            paths = _report(aurora, book, held)
            _audit(aurora, book, held, "incident close", sink, paths)
        return held, paths


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


def notifier(aurora: Aurora) -> talk.Notify | None:
    """What tells the stakeholders of the settings; None where there are none."""
    settings, base = aurora.settings, aurora.settings.base
    listed: list[tuple[str, NotifyTarget]] = [
        *((f"[incident] stakeholders {n}", one)
          for n, one in enumerate(settings.incident.stakeholders, 1)),
        *((f"[notify] targets {n}", one) for n, one in enumerate(settings.notify.targets, 1)),
    ]  # fmt: skip
    people = [
        Stakeholder(name, partial(one.url.resolve, name, base=base), one.severity, one.events)
        for name, one in listed
    ]
    return partial(tell, people) if people else None


def _templates(aurora: Aurora) -> Path:
    return aurora.settings.base / aurora.settings.notify.templates


def _answer(held: Incident, answers: Answers | None) -> None:
    for name, texts in (answers or {}).items():
        held.answers.setdefault(name, []).extend(texts)


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
