"""Stopping and resuming writes as steps of an incident: what is kept in its record."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from aurora import clock
from aurora.errors import Incomplete, UsageError
from aurora.events import EventSink
from aurora.operations.findings import Finding, failed, warning
from aurora.operations.incident import resume, stop
from aurora.operations.incident.record import DRAFT, OPEN, Incident, Incidents
from aurora.operations.incident.stop_plan import StopPlan
from aurora.operations.incident.undo import UNDO, Sign, read_undo
from aurora.units import format_duration, plural

STOPPING, STOPPED, PARTLY, RESUMING, RESUMED = (
    "stopping", "stopped", "partly stopped", "resuming", "resumed",
)  # fmt: skip
PURPOSE = "incident-undo"  # of the undo file's MAC


def record_stop(
    incidents: Incidents,
    incident: Incident,
    plan: StopPlan,
    *,
    by: str,
    sign: Sign | None,
    keep_copy: Callable[[Path], None],
    sink: EventSink,
) -> stop.StopReport:
    """Run *plan*, with the record written before and after. Raises as :func:`stop.run_stop`."""
    directory = incidents.directory(incident)
    incident.writes = {
        "state": STOPPING, "by": by, "begun_at": clock.isoformat(clock.now()),
        "undo": str(directory / UNDO), "lsn": plan.undo.lsn, "roles": list(plan.options.roles),
    }  # fmt: skip
    if UNDO not in incident.files:
        incident.files.append(UNDO)
    incident.note("stop-writes", "stopping writes", by=by, lsn=plan.undo.lsn)
    incidents.save(incident)
    try:
        report = stop.run_stop(plan, directory, sign=sign, keep_copy=keep_copy, sink=sink)
    except Incomplete as error:
        report = error.context["report"]  # type: ignore[assignment]
        _stopped(incidents, incident, report, PARTLY, by)
        raise
    _stopped(incidents, incident, report, STOPPED, by)
    return report


def _stopped(
    incidents: Incidents, incident: Incident, report: stop.StopReport, state: str, by: str
) -> None:
    incident.writes |= {"state": state, **report.document()}
    attempts = report.proof.attempts
    refused = sum(one.refused for one in attempts)
    incident.note(
        "stop-writes",
        f"writes are {state}: {refused} of {plural(len(attempts), 'attempt')} refused; stream: "
        f"{report.proof.stream or 'not watched'}",
        by=by,
        problems=report.proof.problems,
        failed=report.failed,
    )
    incidents.save(incident)


def record_resume(
    incidents: Incidents, incident: Incident, plan: resume.ResumePlan, *, by: str, sink: EventSink
) -> resume.ResumeReport:
    """Run *plan*, with the record written before and after. Raises as :func:`resume.run_resume`."""
    incident.writes["state"] = RESUMING
    incidents.save(incident)
    try:
        report = resume.run_resume(plan, sink=sink)
    except Incomplete as error:
        _resumed(incidents, incident, error.context["report"], by)  # type: ignore[arg-type]
        raise
    _resumed(incidents, incident, report, by)
    return report


def _resumed(
    incidents: Incidents, incident: Incident, report: resume.ResumeReport, by: str
) -> None:
    incident.writes |= {"state": RESUMED, **report.document()}
    told = "grants and settings are as they were, byte for byte"
    if report.replaced:
        told = "the database was replaced, and has no fence"
    if not report.exact:
        told = "; ".join([*report.differences, *report.refused])
    incident.note("resume-writes", f"writes go on: {told}", by=by)
    incidents.save(incident)


def undo_of(
    incidents: Incidents, incident: Incident | None, file: Path | None
) -> tuple[Path, Incident | None]:
    """The undo file to go by, and the incident it belongs to, where that is known here."""
    if file is not None:
        return file, incident
    if incident is None:
        raise UsageError(
            "no incident has stopped writes here",
            hint="Name its undo file with --file, or the incident with --incident.",
        )
    return incidents.directory(incident) / UNDO, incident


def stopping_incident(incidents: Incidents) -> Incident | None:
    """The newest that has stopped writes and not resumed them."""
    return next(
        (
            one
            for one in reversed(incidents.all())
            if one.writes and one.writes.get("state") != RESUMED
        ),
        None,
    )


def banner(incident: Incident, *, reminder: float) -> str:
    """``writes stopped since …``, or nothing."""
    if not incident.writes or incident.writes.get("state") == RESUMED:
        return ""
    since = str(incident.writes.get("stopped_at") or incident.writes.get("begun_at"))
    seconds = (clock.now() - clock.parse(since)).total_seconds()
    return (
        f"WRITES ARE {str(incident.writes['state']).upper()} since {since} "
        f"({format_duration(max(seconds, 0))}) by {incident.writes.get('by')}, incident "
        f"{incident.id}; reminder every {format_duration(reminder)}"
    )


def findings(incidents: Incidents) -> list[Finding]:
    """What a status has to say of incidents."""
    found = []
    for one in incidents.all():
        told = f"incident {one.id}: {one.title}"
        if one.writes and one.writes.get("state") != RESUMED:
            since = one.writes.get("stopped_at") or one.writes.get("begun_at")
            found.append(
                failed(
                    "writes-stopped",
                    f"writes to the source are {one.writes['state']} since {since} ({told})",
                    "aurora incident resume-writes",
                )
            )
        elif one.state == OPEN:
            held = f"; {_held(one)}" if one.holds else ""
            found.append(
                warning("incident-open", f"{told} is open{held}", "aurora incident status")
            )
        elif one.state == DRAFT:
            found.append(
                warning(
                    f"incident-draft-{one.id}",
                    f"a draft of an {told}",
                    f"Look: aurora incident assess. Then aurora incident start TITLE --draft "
                    f"{one.id}, or aurora incident close --incident {one.id}",
                )
            )
        elif one.unfinished or one.holds:
            still = _held(one) if one.holds else "its close did not finish"
            found.append(
                warning(
                    f"incident-half-closed-{one.id}",
                    f"{told} is closed, but {still}",
                    f"aurora incident close --incident {one.id}",
                )
            )
    return found


def _held(incident: Incident) -> str:
    return f"retention is on hold on the {' and the '.join(sorted(incident.holds))}"


def reminder_due(incident: Incident, *, every: float, now: datetime) -> bool:
    """Whether to remind now that writes are stopped; *every* so many seconds, 0 never."""
    if every <= 0 or not incident.writes or incident.writes.get("state") == RESUMED:
        return False
    writes = incident.writes
    last = writes.get("reminded_at") or writes.get("stopped_at") or writes["begun_at"]
    return (now - clock.parse(str(last))).total_seconds() >= every


def document(incident: Incident, extra: dict[str, Any]) -> dict[str, Any]:
    """For ``--json``: what every step tells of its incident."""
    return {
        "incident": incident.id, "title": incident.title, "state": incident.state, **extra
    }  # fmt: skip


__all__ = [
    "PURPOSE",
    "RESUMED",
    "banner",
    "document",
    "findings",
    "read_undo",
    "record_resume",
    "record_stop",
    "reminder_due",
    "stopping_incident",
    "undo_of",
]
