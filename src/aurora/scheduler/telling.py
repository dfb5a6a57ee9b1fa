"""From jobs and findings to notices and pings: what is said, and how bad it is."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from aurora import clock
from aurora.notify.desk import Desk
from aurora.notify.notices import Notice, Severity
from aurora.notify.pings import Pings
from aurora.operations.findings import Finding, Level
from aurora.operations.status import StatusReport, shown_moment
from aurora.scheduler.child import ChildResult
from aurora.scheduler.jobs import BY_NAME, Job
from aurora.scheduler.state import JobState
from aurora.units import format_duration, format_size

_SEVERITY = {Level.OK: Severity.INFO, Level.WARNING: Severity.WARNING, Level.ERROR: Severity.ERROR}
_TAIL_LINES = 20
_GROUP = "status"


class Teller:
    """Tells of jobs. A :class:`aurora.scheduler.runner.Watcher`."""

    def __init__(self, desk: Desk, pings: Pings, now: Callable[[], datetime] = clock.now) -> None:
        self._desk = desk
        self._pings = pings
        self._now = now

    def begun(self, job: Job, due: datetime) -> None:  # noqa: ARG002 - a Watcher's
        self._pings.begun(job.name)

    def ended(self, job: Job, state: JobState, result: ChildResult) -> None:
        now, key = self._now(), f"job/{job.name}"
        if state.retry_at is not None or state.outcome == "stopped":
            return  # not over yet
        facts = _facts(job, state, result)
        if state.outcome in ("ok", "elsewhere"):
            self._desk.solved(key, now)
        if state.outcome == "ok":
            subject = f"{job.label} done"
            self._desk.tell(Notice("job-ok", key, Severity.INFO, subject, facts), now)
            self._pings.succeeded(job.name, facts["message"])
        elif state.outcome == "partly":
            subject = f"{job.label}: not all is done"
            self._desk.problem(Notice("job-partly", key, Severity.WARNING, subject, facts), now)
            self._pings.succeeded(job.name, facts["message"])
        elif state.outcome == "failed":
            subject = f"{job.label} failed"
            self._desk.problem(Notice("job-failed", key, Severity.ERROR, subject, facts), now)
            self._pings.failed(job.name, f"{state.message}\n{state.hint}\n\n{facts['tail']}")

    def stream_down(self, result: ChildResult, since: datetime) -> None:
        """The continuous stream does not stay up."""
        facts = {
            "job": "stream of the change log",
            "message": result.message,
            "hint": result.hint,
            "due": f"all the time, since {clock.isoformat(since)}",
            "attempts": "again and again, and is",
            "last_ok": "before that",
            "tail": "\n".join(result.tail.splitlines()[-_TAIL_LINES:]) or "(nothing)",
        }
        notice = Notice("job-failed", "job/stream", Severity.ERROR, "the stream is down", facts)
        self._desk.problem(notice, self._now())

    def stream_up(self) -> None:
        self._desk.solved("job/stream", self._now())


def _facts(job: Job, state: JobState, result: ChildResult) -> dict[str, str]:
    due = state.handled or state.retry_due
    return {
        "job": job.label,
        "message": state.message or told(result.summary),
        "hint": state.hint,
        "due": clock.isoformat(due) if due else "by hand",
        "attempts": str(max(state.attempts, 1)),
        "seconds": format_duration(state.seconds),
        "last_ok": shown_moment(state.ok_at) if state.ok_at else "never",
        "tail": "\n".join(result.tail.splitlines()[-_TAIL_LINES:]) or "(nothing)",
    }


def told(summary: Mapping[str, Any]) -> str:
    """What a command's summary says, in one line; of any command."""
    parts = [str(summary.get("operation", "done"))]
    parts += [
        f"{name.replace('_id', '')} {summary[name]}"
        for name in ("backup_id", "outcome", "type", "reason")
        if summary.get(name)
    ]
    parts += [
        f"{name.replace('_', ' ')} {format_size(summary[name])}"
        for name in ("bytes_read", "bytes_stored", "copied_bytes", "checked_bytes")
        if isinstance(summary.get(name), int)
    ]
    if summary.get("replicated") is False:
        parts.append("NOT replicated")
    return ", ".join(parts)


def observe(desk: Desk, report: StatusReport, now: datetime) -> None:
    """Tell what a look found wrong, and what is right again."""
    desk.observe(_GROUP, (_notice(one) for one in report.findings), now)


def _notice(finding: Finding) -> Notice:
    facts = {"message": finding.message, "hint": finding.hint}
    return Notice("problem", finding.code, _SEVERITY[finding.level], finding.message, facts)


def digest(report: StatusReport, states: Mapping[str, JobState], undelivered: int) -> Notice:
    """The day in one message."""
    findings = [
        f"{one.level}: {one.message}" + (f"\n  -> {one.hint}" if one.hint else "")
        for one in report.findings
    ]
    if undelivered:
        findings.append(f"warning: {undelivered} notices could not be delivered yet")
    facts = {
        "verdict": report.verdict,
        "level": str(report.level),
        "findings": "\n".join(findings) or "Nothing needs doing.",
        "backups": _lines(_backups(report)),
        "jobs": _lines(_jobs(states)),
        "storages": _lines(_storages(report)),
    }
    return Notice("digest", "digest", _SEVERITY[report.level], report.verdict, facts)


def _backups(report: StatusReport) -> Iterable[str]:
    for one in report.backups:
        if one.created_at is None:
            yield f"{one.type}: none yet, {one.due}"
        else:
            age = format_duration(one.age_seconds or 0)
            yield f"{one.type}: {shown_moment(one.created_at)}, {age} old ({one.due})"


def _jobs(states: Mapping[str, JobState]) -> Iterable[str]:
    for name, state in states.items():
        if state.ended_at is not None:
            why = f": {state.message}" if state.message else ""
            yield f"{BY_NAME[name].label}: {state.outcome}, {shown_moment(state.ended_at)}{why}"


def _storages(report: StatusReport) -> Iterable[str]:
    for one in report.storages:
        if one.bytes is None:
            yield f"{one.place}: {one.error or 'not known'}"
        else:
            grown = format_size(one.grown_bytes or 0)
            yield f"{one.place}: {format_size(one.bytes)}, {grown} of it of the last week"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(f"- {one}" for one in lines) or "- none"
