"""How everything stands: what a person looks at first, and a monitor all the time."""

from aurora import clock
from aurora.api.common import reports_directory, state_directory
from aurora.api.incidents import incident_records
from aurora.events import EventSink, discard
from aurora.operations import status as operation
from aurora.operations.coverage import Coverage, Covered
from aurora.operations.incident import writes
from aurora.operations.measured import reported
from aurora.operations.status import Goals, StatusOptions, StatusReport
from aurora.operations.status_judge import judge
from aurora.schedule import Rule
from aurora.wiring import Aurora


def status(aurora: Aurora, *, sink: EventSink = discard) -> StatusReport:
    """Look at backups, source and storages. What cannot be reached is part of the report."""
    options = status_options(aurora)
    report = operation.look(aurora, options, now=clock.now(), sink=sink)
    report.findings += writes.findings(incident_records(aurora))
    return judge(report, options)


def status_options(aurora: Aurora) -> StatusOptions:
    settings, goals = aurora.settings, aurora.settings.goals
    secondary = settings.secondary
    return StatusOptions(
        schedule=schedule_of(aurora),
        goals=Goals(
            rpo=goals.rpo,
            rto=goals.rto,
            proven=goals.proven,
            drilled=goals.drilled,
            verified=goals.verified,
            grace=settings.schedule.grace,
        ),
        prices={
            "primary": settings.primary.price,
            "secondary": secondary.price if secondary is not None else None,
        },
        max_wal=settings.stream.max_wal,
        measured=tuple(reported(reports_directory(aurora))),
        state=state_directory(aurora),
        covered=_covered(aurora),
    )


def schedule_of(aurora: Aurora) -> dict[str, Rule]:
    """Job -> when it is due, as configured."""
    found = {name: rule for name, rule in aurora.settings.schedule if isinstance(rule, Rule)}
    if not aurora.has_secondary:
        found.pop("replicate")
    return found


def _covered(aurora: Aurora) -> dict[str, Covered]:
    coverage = Coverage(state_directory(aurora))
    places = ("primary", "secondary") if aurora.has_secondary else ("primary",)
    return {place: one for place in places if (one := coverage.covered(place)) is not None}
