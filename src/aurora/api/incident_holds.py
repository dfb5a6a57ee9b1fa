"""The hold that an incident puts on retention: placed by its steps, released by its close."""

from aurora.api.audit import record
from aurora.config.references import Place
from aurora.errors import AuroraError, RepositoryNotFound
from aurora.events import EventSink, Noted, Warned
from aurora.operations.incident import holding
from aurora.operations.incident.record import CLOSED, Incident, Incidents
from aurora.repository.door import Repository
from aurora.wiring import Aurora


def hold_retention(
    aurora: Aurora, book: Incidents, held: Incident, *, by: str, sink: EventSink
) -> None:
    """Keep the backups of the incident's database on each storage, until it is closed.

    A storage that cannot be reached is warned of, and asked again by the incident's next step.
    The record is saved.
    """
    if held.state == CLOSED:
        return
    for place in _places(aurora):
        if place in held.holds:
            continue
        try:
            repository = _opened(aurora, place)
            held.holds[place] = holding.hold(repository, held.database, held.id)
        except AuroraError as error:
            if _is_empty(place, error):
                continue
            sink(
                Warned(
                    "retention-not-held",
                    f"retention is not on hold on the {place}: {error.message}",
                    "The next step of the incident tries again. Until then: aurora backup hold "
                    "all --why TEXT, and no aurora backup prune.",
                )
            )
            continue
        held.note("hold", f"nothing is removed from the {place}: retention is on hold", by=by)
        book.save(held)
        sink(Noted(f"retention is on hold on the {place}, until the incident is closed"))
        _tell(aurora, repository, place, "incident hold", held, sink)


def release_retention(
    aurora: Aurora, book: Incidents, held: Incident, *, by: str, sink: EventSink
) -> None:
    """End the holds of an incident that is closed; those of people stay. The record is saved."""
    for place in _places(aurora):
        try:
            repository = _opened(aurora, place)
            ended = holding.release(repository, held.database, held.id)
        except AuroraError as error:
            if _is_empty(place, error):
                held.holds.pop(place, None)
                continue
            held.holds.setdefault(place, "")
            sink(
                Warned(
                    "hold-stays",
                    f"retention is still on hold on the {place}: {error.message}",
                    f"Run it again later: aurora incident close --incident {held.id}",
                )
            )
            continue
        held.holds.pop(place, None)
        if ended:
            held.note("hold", f"retention of the {place} goes on", by=by)
            _tell(aurora, repository, place, "incident release", held, sink)
        book.save(held)


def _places(aurora: Aurora) -> list[Place]:
    return ["primary", "secondary"] if aurora.has_secondary else ["primary"]


def _is_empty(place: Place, error: AuroraError) -> bool:
    """Whether nothing was ever copied to the secondary: there is nothing to hold."""
    return place == "secondary" and isinstance(error, RepositoryNotFound)


def _opened(aurora: Aurora, place: Place) -> Repository:
    """By the storage's own repository, and with little patience: an emergency does not wait."""
    hasty = aurora.impatient()
    return hasty.open_primary() if place == "primary" else hasty.open_secondary()


def _tell(
    aurora: Aurora,
    repository: Repository,
    place: Place,
    operation: str,
    held: Incident,
    sink: EventSink,
) -> None:
    """Into the audit trail, which is the primary's; for the secondary by the spool."""
    record(
        aurora, repository if place == "primary" else None, "prune", "ok",
        {"incident": held.id, "storage": place}, operation=operation, sink=sink,
    )  # fmt: skip
