"""Telling people: drafts in the record first, sent when asked, each place told once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aurora import clock
from aurora.errors import AuroraError, UsageError
from aurora.events import EventSink, Noted, Warned
from aurora.operations.incident import messages
from aurora.operations.incident.messages import Message
from aurora.operations.incident.record import CLOSED, Incident, Incidents
from aurora.operations.incident.status_page import Publisher, Update

Notify = Callable[[str, str, Message], Sequence[str]]
"""``notify(event, severity, message)`` tells the stakeholders; who could not be told, in words."""


def draft(
    incidents: Incidents,
    incident: Incident,
    event: str,
    *,
    text: str,
    status: str,
    templates: Path | None,
    by: str,
) -> dict[str, Any]:
    """Write a draft into the record and save it. Raises UsageError."""
    if status not in messages.STATUSES:
        raise UsageError(
            f"no status is called {status[:30]!r}", hint=f"One of {', '.join(messages.STATUSES)}."
        )
    told = messages.filled(incident, event, text=text, status=status, directory=templates)
    made: dict[str, Any] = {
        "number": len(incident.updates), "event": event, "status": status, "at": _now(), "by": by,
        "title": told.title, "body": told.body, "sent": {}, "notified": False,
    }  # fmt: skip
    incident.updates.append(made)
    incident.note("communicate", f"draft {made['number']}: {told.title}", by=by)
    incidents.save(incident)
    return made


def send(
    incidents: Incidents,
    incident: Incident,
    update: dict[str, Any],
    publishers: Sequence[Publisher],
    notify: Notify | None,
    *,
    by: str,
    sink: EventSink,
) -> list[str]:
    """Send *update* to where it was not sent yet; what failed, in words. The record is saved."""
    failed: list[str] = []
    told = Update(
        incident.id, incident.title, incident.severity, update["status"], update["body"],
        update["at"], update["number"],
    )  # fmt: skip
    for one in publishers:
        if one.name in update["sent"]:
            continue
        known = incident.status_page.get(one.name, {})
        try:
            found = one.publish(told, known, notify=notify is not None)
        except AuroraError as error:
            failed.append(f"{one.name}: {error.message}")
            sink(Warned(error.code, f"{one.name}: {error.message}", error.hint))
            continue
        incident.status_page[one.name] = {**known, **found}
        update["sent"][one.name] = _now()
        incident.note("communicate", f"published on the {one.name}: {update['status']}", by=by)
        incidents.save(incident)
        sink(Noted(f"published on the {one.name}"))
    if notify is not None and not update["notified"]:
        message = Message(update["title"], update["body"])
        lost = notify(f"incident-{update['event']}", incident.severity, message)
        failed += lost
        update["notified"] = not lost
        told_whom = "stakeholders notified" if not lost else f"not notified: {'; '.join(lost)}"
        incident.note("communicate", told_whom, by=by)
        incidents.save(incident)
    return failed


def newest(incident: Incident) -> dict[str, Any] | None:
    """The newest draft, sent or not: what is sent again goes only to where it is missing."""
    return incident.updates[-1] if incident.updates else None


def published(incidents: Incidents) -> list[list[Update]]:
    """What was put on the static page, incident by incident."""
    found = []
    for incident in incidents.all():
        updates = [
            Update(incident.id, incident.title, incident.severity, one["status"], one["body"],
                   one["at"], one["number"])
            for one in incident.updates
            if "static page" in one["sent"]
        ]  # fmt: skip
        found.append(updates)
    return found


def close(incidents: Incidents, incident: Incident, *, by: str) -> None:
    """Mark the incident as over. Raises UsageError while writes are stopped."""
    if incident.writes and incident.writes.get("state") != "resumed":
        raise UsageError(
            "writes are still stopped",
            hint="Run `aurora incident resume-writes` first; then close it.",
        )
    incident.state, incident.closed_at = CLOSED, _now()
    incident.note("close", "incident closed", by=by)
    incidents.save(incident)


def _now() -> str:
    return clock.isoformat(clock.now().replace(microsecond=0))
