"""Telling people: drafts in the record first, sent when asked, each place told once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from aurora import clock
from aurora.errors import AuroraError, UsageError
from aurora.events import EventSink, Noted, Warned
from aurora.operations.incident import messages
from aurora.operations.incident.messages import Message
from aurora.operations.incident.record import CLOSED, Incident, Incidents
from aurora.operations.incident.status_page import TRYING, NotPublished, Publisher, Update


class People(Protocol):
    """The stakeholders."""

    def names(self, event: str, severity: str) -> Sequence[str]:
        """Who hears of *event*: where the address is written, not what it is."""

    def tell(self, name: str, severity: str, message: Message) -> str:
        """Tell one of them; what failed, in words, or nothing."""


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
    """Write a draft into the record and save it. Raises UsageError.

    One that says the same is taken again: the first and the last message always, others where
    they are the newest and did not get everywhere, because the run before this died or somebody
    could not be told.
    """
    if status not in messages.STATUSES:
        raise UsageError(
            f"no status is called {status[:30]!r}", hint=f"One of {', '.join(messages.STATUSES)}."
        )
    told = messages.filled(incident, event, text=text, status=status, directory=templates)
    last: dict[str, Any]
    for last in reversed(incident.updates):
        if _same(last, event, status, text) and (event != "update" or not last.get("done")):
            return last
        if event == "update":
            break  # what was told since makes it another message
    made: dict[str, Any] = {
        "number": len(incident.updates), "event": event, "status": status, "at": _now(), "by": by,
        "title": told.title, "body": told.body, "text": text, "sent": {}, "notified": False,
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
    people: People | None,
    *,
    by: str,
    sink: EventSink,
) -> list[str]:
    """Send *update* to where it was not sent yet; what failed, in words. The record is saved.

    That a place is about to be told is written down first. A run that dies in between leaves
    it open whether it was: it is told again by the next, and the record says so.
    """
    failed: list[str] = []
    told = Update(
        incident.id, incident.title, incident.severity, update["status"], update["body"],
        update["at"], update["number"],
    )  # fmt: skip
    for one in publishers:
        if one.name in update["sent"]:
            continue
        known = incident.status_page.get(one.name, {})
        again = _begin(incidents, incident, update, one.name, by)
        try:
            found = one.publish(told, {**known, TRYING: again}, notify=people is not None)
        except AuroraError as error:
            if not (isinstance(error, NotPublished) and error.unsure):
                _forget(incidents, incident, update, one.name)
            failed.append(f"{one.name}: {error.message}")
            sink(Warned(error.code, f"{one.name}: {error.message}", error.hint))
            continue
        incident.status_page[one.name] = {**known, **found}
        update["sent"][one.name] = _now()
        incident.note("communicate", f"published on the {one.name}: {update['status']}", by=by)
        _forget(incidents, incident, update, one.name)
        sink(Noted(f"published on the {one.name}"))
    if people is not None and not update["notified"]:
        failed += _tell(incidents, incident, update, people, by)
    if (publishers or people is not None) and not failed:
        update["done"] = True
        incidents.save(incident)
    return failed


def _tell(
    incidents: Incidents, incident: Incident, update: dict[str, Any], people: People, by: str
) -> list[str]:
    """The stakeholders, each once."""
    message = Message(update["title"], update["body"])
    heard: dict[str, str] = update.setdefault("heard", {})
    lost = []
    for name in people.names(f"incident-{update['event']}", incident.severity):
        if name in heard:
            continue
        _begin(incidents, incident, update, name, by)
        if failed := people.tell(name, incident.severity, message):
            lost.append(failed)
        else:
            heard[name] = _now()
        _forget(incidents, incident, update, name)
    update["notified"] = not lost
    told_whom = "stakeholders notified" if not lost else f"not notified: {'; '.join(lost)}"
    incident.note("communicate", told_whom, by=by)
    incidents.save(incident)
    return lost


def _begin(
    incidents: Incidents, incident: Incident, update: dict[str, Any], name: str, by: str
) -> bool:
    """Write down that *name* is about to be told; whether a run before this may have told it."""
    trying: dict[str, str] = update.setdefault("trying", {})
    again = name in trying
    if again:
        told = f"{name} may hear of update {update['number']} twice: it was being told, at "
        incident.note("communicate", f"{told}{trying[name]}, by a run that died", by=by)
    trying[name] = _now()
    incidents.save(incident)
    return again


def _forget(incidents: Incidents, incident: Incident, update: dict[str, Any], name: str) -> None:
    del update["trying"][name]
    incidents.save(incident)


def _same(update: dict[str, Any], event: str, status: str, text: str) -> bool:
    """Whether an update says what is to be said now; its words may tell of an older state."""
    said = (update["event"], update["status"], update.get("text"))
    return said == (event, status, text)


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
    """Mark the incident as over, but for what is still to be done. Raises UsageError.

    Not while writes are stopped. A close that died goes on with its own time.
    """
    if incident.writes and incident.writes.get("state") != "resumed":
        raise UsageError(
            "writes are still stopped",
            hint="Run `aurora incident resume-writes` first; then close it.",
        )
    if incident.state == CLOSED:
        return
    incident.state, incident.closed_at, incident.unfinished = CLOSED, _now(), "close"
    incident.note("close", "incident closed", by=by)
    incidents.save(incident)


def _now() -> str:
    return clock.isoformat(clock.now().replace(microsecond=0))
