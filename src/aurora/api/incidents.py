"""The emergency workflow. Each step works on the newest open incident unless one is named."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from aurora import clock
from aurora.api.audit import record, recorded
from aurora.api.common import backup_options, memory_of
from aurora.api.incident_holds import hold_retention
from aurora.engines.logical.slot import LogNames
from aurora.engines.logical.targets import Target
from aurora.errors import (
    AuroraError,
    IntegrityError,
    RepositoryError,
    StorageError,
    UsageError,
    WrongKey,
)
from aurora.events import EventSink, Warned, discard
from aurora.operations.incident import assess as assess_operation
from aurora.operations.incident import resume, stop, stop_plan, writes
from aurora.operations.incident.assess import Assessment, Question
from aurora.operations.incident.detector import Limits
from aurora.operations.incident.proposal import Proposal, propose
from aurora.operations.incident.record import Incident, Incidents, new_id, whoami
from aurora.operations.incident.undo import Sign
from aurora.operations.incremental import create_incremental
from aurora.repository.door import Repository
from aurora.wiring import Aurora


def incident_records(aurora: Aurora) -> Incidents:
    """Where the records are: ``aurora.state/incidents`` beside aurora.toml."""
    return Incidents(aurora.settings.base / "aurora.state")


def plan_stop_writes(
    aurora: Aurora,
    *,
    incident: str | None = None,
    options: stop_plan.StopOptions | None = None,
    by: str = "",
    sink: EventSink = discard,
) -> stop_plan.StopPlan:
    """What :func:`stop_writes` would do, every statement. Changes nothing."""
    return _stop_plan(aurora, incident, options, by or whoami(), signer(aurora, sink))[1]


def stop_writes(
    aurora: Aurora,
    *,
    incident: str | None = None,
    options: stop_plan.StopOptions | None = None,
    by: str = "",
    confirm: Callable[[stop_plan.StopPlan], None] | None = None,
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
    with book.step(found, "stop-writes", by=who) as held:
        held.unfinished = ""
        report = writes.record_stop(
            book, held, plan, by=who, sign=sign, sink=sink,
            keep_copy=lambda path: _keep_copy(aurora, held, path, sink),
        )  # fmt: skip
        hold_retention(aurora, book, held, by=who, sink=sink)
        return held, report


def _keep_copy(aurora: Aurora, found: Incident, path: Path, sink: EventSink) -> None:
    """The undo file in the audit trail too: this machine may be lost. It holds no secret."""
    repository: Repository | None = None
    # Where it does not open, the record waits in the spool.
    with contextlib.suppress(StorageError, IntegrityError, RepositoryError):
        repository = aurora.open_primary()
    record(
        aurora, repository, "incident", "ok", {"incident": found.id, "title": found.title},
        operation="incident stop-writes", attachments={path.name: path.read_text()}, sink=sink,
    )  # fmt: skip


def _stop_plan(
    aurora: Aurora,
    incident: str | None,
    options: stop_plan.StopOptions | None,
    who: str,
    sign: Sign | None,
) -> tuple[Incident | None, stop_plan.StopPlan]:
    book = incident_records(aurora)
    found = book.find(incident) if incident else book.current()
    chosen_id = found.id if found else new_id(clock.now())
    chosen = replace(
        options or stop_plan.StopOptions(), publications=LogNames.of(aurora.database).publications
    )
    directory = book.directory(chosen_id)
    plan = stop_plan.plan_stop(aurora.source_dsn(), chosen_id, directory, chosen, by=who, sign=sign)
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
    who = by or whoami()
    with book.step(found, "resume-writes", by=who) as held:
        return held, writes.record_resume(book, held, plan, by=who, sink=sink)


def assess(
    aurora: Aurora,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    table: str = "",
    refresh: bool = True,
    incident: str | None = None,
    storage: str = "primary",
    by: str = "",
    sink: EventSink = discard,
) -> Assessment:
    """Rank the suspicious transactions of the change log, for the open incident's record.

    Args:
        refresh: bring the log up to now first, where the source has one.
    """
    book, chosen = entered(aurora, incident)
    who = by or whoami()
    with book.doing(chosen, "assess", by=who) as doing:
        if refresh:
            refresh_log(aurora, sink)
        repository = aurora.open_for_reading(storage, sink=sink)
        question = Question(since, until, table, limits(aurora))
        found = assess_operation.assess(repository, aurora.database, question, sink=sink)
        with doing.record() as held:
            if held is not None:
                held.assessment = found.document()
                worst = found.suspicions[0] if found.suspicions else None
                told = f"{worst.severity}: {worst.reasons[0]} (xid {worst.xid})" if worst else (
                    "nothing suspicious found"
                )  # fmt: skip
                held.note("assess", told, by=who, transactions=found.transactions)
                hold_retention(aurora, book, held, by=who, sink=sink)
    return found


def touches(
    aurora: Aurora,
    table: str,
    key: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    refresh: bool = True,
    storage: str = "primary",
    sink: EventSink = discard,
) -> list[assess_operation.Touch]:
    """The transactions that touched one row, oldest first."""
    if refresh:
        refresh_log(aurora, sink)
    repository = aurora.open_for_reading(storage, sink=sink)
    asked = Question(since, until, table, limits(aurora))
    return assess_operation.touches(repository, aurora.database, table, key, asked, sink=sink)


def recovery_point(
    aurora: Aurora,
    target: Target | None = None,
    *,
    bad: Sequence[int] = (),
    incident: str | None = None,
    storage: str = "primary",
    by: str = "",
    sink: EventSink = discard,
) -> Proposal:
    """The point to recover to; by default just before the most suspicious transaction.

    Args:
        bad: xids of the transactions that did the damage; the most suspicious by default.
    """
    book, chosen = entered(aurora, incident)
    suspicion = _worst(chosen, target)
    if target is None:
        if suspicion is None:
            raise UsageError(
                "no transaction is under suspicion",
                hint="Run `aurora incident assess`, or name the point: --before-xid, --lsn, --at.",
            )
        target = Target(before_xid=int(suspicion["xid"]))
    who = by or whoami()
    with book.doing(chosen, "recovery-point", by=who) as doing:
        repository = aurora.open_for_reading(storage, sink=sink)
        if not bad and suspicion is not None:
            bad = assess_operation.xids_of(repository, aurora.database, suspicion, sink=sink)
        elif not bad and target.before_xid is not None:
            bad = [target.before_xid]
        found = propose(
            repository, aurora.database, target, bad=bad, dsn=aurora.source_dsn(), sink=sink
        )
        with doing.record() as held:
            if held is not None:
                held.point = found.document()
                held.note("recovery-point", f"{found.target}: {found.why}", by=who)
                hold_retention(aurora, book, held, by=who, sink=sink)
    return found


def _worst(found: Incident | None, target: Target | None) -> dict[str, Any] | None:
    """The suspicion that *target* is about; without a target the first of the record."""
    known = found.assessment.get("suspicions", []) if found else []
    if target is None:
        return known[0] if known else None
    return next((one for one in known if one["xid"] == target.before_xid), None)


def limits(aurora: Aurora) -> Limits:
    """From when on a change is suspicious, by the settings."""
    settings = aurora.settings.incident
    return Limits(
        rows=settings.deleted_rows,
        share=settings.deleted_share,
        canaries=frozenset(settings.canaries),
    )


def refresh_log(aurora: Aurora, sink: EventSink) -> bool:
    """Bring the change log in the repository up to now; False, with a warning, if it cannot be."""
    try:
        with recorded(aurora, "run", "incident assess", sink) as note:
            repository = aurora.open_primary()
            note.repository = repository
            memory = memory_of(aurora)
            memory.check(repository, aurora.database)
            options = backup_options(aurora, distrusted=memory.distrusted())
            report = create_incremental(
                aurora.source_dsn(), repository, options, open_mirror=None, sink=sink,
                or_full=False,
            )  # fmt: skip
            memory.remember(repository, repository.resolve(report.backup_id, aurora.database))
            note.facts |= {"backup": report.backup_id}
    except AuroraError as error:
        sink(
            Warned(
                "log-not-refreshed",
                f"the change log was not brought up to now: {error.message}",
                "What came after its end is not seen.",
            )
        )
        return False
    return True


def entered(aurora: Aurora, incident: str | None) -> tuple[Incidents, Incident | None]:
    """The records, and the incident to write into: the named or the newest open one, or none."""
    book = incident_records(aurora)
    return book, book.find(incident) if incident else book.current()


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
