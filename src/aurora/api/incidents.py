"""The emergency workflow. Each step works on the newest open incident unless one is named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aurora import clock
from aurora.engines.logical.slot import LogNames
from aurora.errors import IntegrityError, RepositoryError, StorageError, WrongKey
from aurora.events import EventSink, Warned, discard
from aurora.operations.incident import resume, stop, writes
from aurora.operations.incident.record import Incident, Incidents, new_id, whoami
from aurora.operations.incident.undo import Sign
from aurora.wiring import Aurora


def incident_records(aurora: Aurora) -> Incidents:
    """Where the records are: ``aurora.state/incidents`` beside aurora.toml."""
    return Incidents(aurora.settings.base / "aurora.state")


def start_incident(
    aurora: Aurora, title: str, *, severity: str = "major", by: str = ""
) -> Incident:
    """Open an incident. Raises UsageError."""
    return incident_records(aurora).open(title, severity, aurora.database, by=by or whoami())


def plan_stop_writes(
    aurora: Aurora,
    *,
    incident: str | None = None,
    options: stop.StopOptions | None = None,
    by: str = "",
    sink: EventSink = discard,
) -> stop.StopPlan:
    """What :func:`stop_writes` would do, every statement. Changes nothing."""
    return _stop_plan(aurora, incident, options, by or whoami(), signer(aurora, sink))[1]


def stop_writes(
    aurora: Aurora,
    *,
    incident: str | None = None,
    options: stop.StopOptions | None = None,
    by: str = "",
    confirm: Callable[[stop.StopPlan], None] | None = None,
    sink: EventSink = discard,
) -> tuple[Incident, stop.StopReport]:
    """Stop all writes to the source, reversibly, and prove it. Opens an incident if none is.

    Args:
        confirm: gets the plan before anything is changed, and may raise.

    Raises: see :func:`aurora.operations.incident.stop.run_stop`.
    """
    book, who, sign = incident_records(aurora), by or whoami(), signer(aurora, sink)
    found, plan = _stop_plan(aurora, incident, options, who, sign)
    if confirm is not None:
        confirm(plan)
    if found is None:
        found = book.open(
            "writes stopped", "major", aurora.database, by=who, incident_id=plan.undo.incident
        )
    with book.held(found) as held:
        report = writes.record_stop(
            book, held, plan, by=who, sign=sign, keep_copy=lambda _: None, sink=sink
        )
        return held, report


def _stop_plan(
    aurora: Aurora,
    incident: str | None,
    options: stop.StopOptions | None,
    who: str,
    sign: Sign | None,
) -> tuple[Incident | None, stop.StopPlan]:
    book = incident_records(aurora)
    found = book.find(incident) if incident else book.current()
    chosen_id = found.id if found else new_id(clock.now())
    chosen = replace(
        options or stop.StopOptions(), publications=LogNames.of(aurora.database).publications
    )
    directory = book.directory(chosen_id)
    plan = stop.plan_stop(aurora.source_dsn(), chosen_id, directory, chosen, by=who, sign=sign)
    return found, plan


def plan_resume_writes(
    aurora: Aurora,
    *,
    incident: str | None = None,
    file: Path | None = None,
    accept_unsigned: bool = False,
    keep_sessions: bool = False,
    sink: EventSink = discard,
) -> tuple[Incident | None, resume.ResumePlan]:
    """What :func:`resume_writes` would do, and the incident it belongs to. Changes nothing."""
    book = incident_records(aurora)
    found = book.find(incident) if incident else writes.stopping_incident(book)
    path, found = writes.undo_of(book, found, file)
    sign = None if accept_unsigned else signer(aurora, sink)
    undo = writes.read_undo(path, sign, accept_unsigned=accept_unsigned)
    mine = found if found is not None and found.id == undo.incident else None
    return mine, resume.plan_resume(aurora.source_dsn(), undo, keep_sessions=keep_sessions)


def resume_writes(
    aurora: Aurora,
    *,
    incident: str | None = None,
    file: Path | None = None,
    accept_unsigned: bool = False,
    keep_sessions: bool = False,
    by: str = "",
    confirm: Callable[[resume.ResumePlan], None] | None = None,
    sink: EventSink = discard,
) -> tuple[Incident | None, resume.ResumeReport]:
    """Take back what :func:`stop_writes` did, exactly, by its undo file alone.

    Raises: see :func:`aurora.operations.incident.resume.run_resume`.
    """
    found, plan = plan_resume_writes(
        aurora, incident=incident, file=file, accept_unsigned=accept_unsigned,
        keep_sessions=keep_sessions, sink=sink,
    )  # fmt: skip
    if confirm is not None:
        confirm(plan)
    if found is None:
        return None, resume.run_resume(plan, sink=sink)
    book = incident_records(aurora)
    with book.held(found) as held:
        return held, writes.record_resume(book, held, plan, by=by or whoami(), sink=sink)


def signer(aurora: Aurora, sink: EventSink) -> Sign | None:
    """What signs undo files; None, with a warning, where no storage answers."""
    places = ["primary", *(["secondary"] if aurora.has_secondary else [])]
    failed = ""
    for place in places:
        try:
            repository = aurora.open_for_reading(place, sink=sink)
        except WrongKey:
            raise
        except (StorageError, IntegrityError, RepositoryError) as error:
            failed = error.message
            continue
        return lambda text: repository.sign(writes.PURPOSE, text)
    sink(
        Warned(
            "undo-unsigned",
            f"the undo file is not signed: {failed}",
            "Writes can be stopped and resumed all the same; keep the file where nobody edits it.",
        )
    )
    return None
