"""What is done about an anomaly in the stream: a draft, a hold, a message. Never more."""

from aurora import clock
from aurora.api.incident_holds import hold_retention
from aurora.api.incident_talk import notifier, templates_of
from aurora.api.incidents import incident_records, limits
from aurora.events import EventSink, Warned
from aurora.operations.content import Backup
from aurora.operations.incident import messages
from aurora.operations.incident.assess import rows_of
from aurora.operations.incident.detector import Suspicion
from aurora.operations.incident.lookout import Lookout
from aurora.operations.incident.record import DRAFT, Incident, Incidents
from aurora.repository.ids import SAFETY
from aurora.wiring import Aurora

_SAME_SECONDS = 3600.0  # what comes within an hour belongs to one draft
_BY = "the change stream"


def lookout(aurora: Aurora, sink: EventSink) -> Lookout:
    """Watches a stream of *aurora*'s source. See :func:`raise_alarm`."""

    def sizes() -> dict[str, int]:
        repository = aurora.open_primary()
        fulls = [one for one in repository.backups(aurora.database)
                 if one.type not in (SAFETY, "incremental")]  # fmt: skip
        return rows_of(Backup(repository, fulls[-1])) if fulls else {}

    def alarm(told: Suspicion) -> None:
        raise_alarm(aurora, told, sink)

    return Lookout(sizes, limits(aurora), alarm, sink)


def raise_alarm(aurora: Aurora, told: Suspicion, sink: EventSink) -> Incident:
    """Draft an incident (or add to the newest draft), hold retention, tell the stakeholders.

    What cannot be done is warned of; the rest is done all the same.
    """
    book = incident_records(aurora)
    made = _draft_of(book)
    is_new = made is None
    if made is None:
        made = book.open(
            f"unusual changes: {told.reasons[0]}"[:150], _severity(told), aurora.database, by=_BY,
            state=DRAFT,
        )  # fmt: skip
        made.source = "an anomaly in the change stream"
    known = made.assessment.setdefault("suspicions", [])
    known.append(told.document())
    known.sort(key=lambda one: -float(one["score"]))
    made.note("anomaly", f"{told.severity}: {told.reasons[0]} (xid {told.xid})", by=_BY)
    book.save(made)
    hold_retention(aurora, book, made, by=_BY, sink=sink)
    if not is_new:
        return made
    people = notifier(aurora)
    if people is not None:
        text = "\n".join([*told.reasons, f"Transaction {told.xid} at {clock.isoformat(told.at)}."])
        message = messages.filled(made, "anomaly", text=text, directory=templates_of(aurora))
        for lost in people.tell_all("incident-anomaly", made.severity, message):
            sink(Warned("anomaly-notice", f"not told of the anomaly: {lost}"))
    book.save(made)
    return made


def _draft_of(book: Incidents) -> Incident | None:
    """The draft, or the open incident, that this belongs to."""
    if (found := book.current()) is not None:
        return found
    drafts = [one for one in book.all() if one.state == DRAFT]
    if not drafts:
        return None
    age = (clock.now() - clock.parse(drafts[-1].opened_at)).total_seconds()
    return drafts[-1] if age < _SAME_SECONDS else None


def _severity(told: Suspicion) -> str:
    return "critical" if told.severity == "critical" else "major"
