"""What Prometheus is told: ages are counted when it asks, so a look that stands still shows."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Protocol

from aurora import clock
from aurora.operations.findings import Level
from aurora.operations.status import StatusReport
from aurora.scheduler.jobs import JOBS
from aurora.scheduler.state import JobState, State
from aurora.version import __version__

METRICS = {
    "aurora_build_info": "The version.",
    "aurora_status": "0: all is well, 1: warnings, 2: errors.",
    "aurora_status_timestamp_seconds": "When everything was last looked at.",
    "aurora_recoverable": "1 where any moment can be recovered.",
    "aurora_earliest_recoverable_timestamp_seconds": "The earliest moment that can be recovered.",
    "aurora_latest_recoverable_timestamp_seconds": "The latest moment that can be recovered.",
    "aurora_recovery_gaps": "Gaps in the recovery window.",
    "aurora_rpo_seconds": "Changes that would be lost now, at most.",
    "aurora_rpo_bytes": "The same as bytes of WAL.",
    "aurora_last_backup_age_seconds": "Since the last good backup, by type.",
    "aurora_last_backup_timestamp_seconds": "When the last good backup was made, by type.",
    "aurora_backups_missed": "Times that a backup was due since and was not made, by type.",
    "aurora_last_proven_restore_age_seconds": "Since the last proven restore.",
    "aurora_last_restore_duration_seconds": "How long that took: RTO as last measured.",
    "aurora_last_recovery_test_ok": "1 where the last restore or recovery test passed.",
    "aurora_stream_up": "1 while a stream of this daemon stores changes.",
    "aurora_stream_rpo_seconds": "Changes that would be lost now, as the stream counts.",
    "aurora_source_up": "1 where the source answers.",
    "aurora_change_log_lag_bytes": "WAL that is not backed up.",
    "aurora_slot_retained_bytes": "WAL that the slot keeps on the source.",
    "aurora_slot_safe_bytes": "WAL that the slot may still keep; absent: no limit.",
    "aurora_slot_lost": "1 where the server has given the slot up.",
    "aurora_storage_up": "1 where a storage answers and holds a repository.",
    "aurora_repository_bytes": "Bytes on a storage.",
    "aurora_repository_objects": "Objects on a storage.",
    "aurora_repository_grown_bytes": "Bytes put in the last seven days and still there.",
    "aurora_replication_behind_backups": "Backups that the secondary lacks.",
    "aurora_replication_lag_seconds": "Age of the oldest backup that it lacks; 0: none.",
    "aurora_verification_bad_objects": "Objects found damaged and not healed since.",
    "aurora_last_verification_age_seconds": "Since the last verification.",
    "aurora_verification_coverage_ratio": "Share that was verified at least once.",
    "aurora_job_last_success_timestamp_seconds": "When a job last ended well.",
    "aurora_job_last_end_timestamp_seconds": "When a job last ended.",
    "aurora_job_last_duration_seconds": "How long its last run took.",
    "aurora_job_running": "1 while it runs.",
    "aurora_job_failed": "1 where its last run failed.",
    "aurora_job_runs_total": "Runs that ended.",
    "aurora_job_failures_total": "Runs that failed after all retries.",
}
"""Every metric and what it is. All have a label ``database``."""

_LEVELS = {Level.OK: 0.0, Level.WARNING: 1.0, Level.ERROR: 2.0}

Sample = tuple[str, tuple[str, ...], float | None]  # name, values of further labels, value
_LABEL = {"aurora_build_info": "version"} | {
    name: label
    for label, names in (
        ("type", ("last_backup_", "backups_missed")),
        ("storage", ("storage_", "repository_", "replication_", "verification_",
                     "last_verification_")),
        ("job_name", ("job_",)),
    )
    for name in METRICS
    if name.removeprefix("aurora_").startswith(names)
}  # fmt: skip


class Shown(Protocol):
    """What has the last report."""

    @property
    def report(self) -> StatusReport | None: ...


class Collector:
    """Collects when Prometheus asks. Registered with a registry of its own."""

    def __init__(
        self,
        state: State,
        board: Shown,
        database: str,
        stream: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        """*stream*: what the stream says of itself; None where none is wanted."""
        self._stream = stream
        self._state = state
        self._board = board
        self._database = database

    def collect(self) -> Iterator[Any]:
        """Every metric; one that is not known yet has no sample."""
        from prometheus_client import core  # noqa: PLC0415 - slow to import

        families: dict[str, Any] = {}
        for name, values, value in self._samples():
            if value is None:
                continue
            if name not in families:
                further = (_LABEL[name],) if name in _LABEL else ()
                kind = (
                    core.CounterMetricFamily if name.endswith("_total") else core.GaugeMetricFamily
                )
                families[name] = kind(name, METRICS[name], labels=("database", *further))
            families[name].add_metric((self._database, *values), value)
        yield from families.values()

    def _samples(self) -> Iterator[Sample]:
        yield "aurora_build_info", (__version__,), 1.0
        for job in JOBS:
            if job.name in self._state:
                yield from _of_job(job.name, self._state[job.name])
        stream = self._stream()
        counted = None
        if stream is not None:
            counted = stream.get("rpo_seconds") if stream.get("state") == "streaming" else None
            yield "aurora_stream_up", (), float(stream.get("state") == "streaming")
            yield "aurora_stream_rpo_seconds", (), stream.get("rpo_seconds")
        report = self._board.report
        if report is not None:
            now = clock.now()
            # A stream counts all the time, a look every few minutes.
            yield "aurora_rpo_seconds", (), report.rpo.seconds if counted is None else counted
            yield from _of_recovery(report, now)
            yield from _of_backups(report, now)
            yield from _of_source(report)
            yield from _of_storages(report, now)
            yield from _of_verification(report, now)


def exposition(collector: Collector) -> bytes:
    """The text that Prometheus reads."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _of_job(name: str, one: JobState) -> Iterator[Sample]:
    ended = one.ended_at is not None
    failed = one.outcome in ("failed", "interrupted")
    yield "aurora_job_last_success_timestamp_seconds", (name,), _stamp(one.ok_at)
    yield "aurora_job_last_end_timestamp_seconds", (name,), _stamp(one.ended_at)
    yield "aurora_job_last_duration_seconds", (name,), one.seconds if ended else None
    yield "aurora_job_running", (name,), float(one.running is not None)
    yield "aurora_job_failed", (name,), float(failed) if ended else None
    yield "aurora_job_runs_total", (name,), float(one.runs)
    yield "aurora_job_failures_total", (name,), float(one.failures)


def _of_recovery(report: StatusReport, now: datetime) -> Iterator[Sample]:
    window, proven, last = report.window, report.measured, report.last_test
    yield "aurora_status", (), _LEVELS[report.level]
    yield "aurora_status_timestamp_seconds", (), _stamp(report.at)
    yield "aurora_recoverable", (), float(bool(window.spans))
    yield "aurora_earliest_recoverable_timestamp_seconds", (), _stamp(window.from_at)
    yield "aurora_latest_recoverable_timestamp_seconds", (), _stamp(window.to_at)
    yield "aurora_recovery_gaps", (), float(len(window.gaps))
    yield "aurora_rpo_bytes", (), report.rpo.bytes
    if proven is not None:
        yield "aurora_last_proven_restore_age_seconds", (), _since(proven.at, now)
        yield "aurora_last_restore_duration_seconds", (), proven.seconds
    yield "aurora_last_recovery_test_ok", (), None if last is None else float(last.ok)


def _of_backups(report: StatusReport, now: datetime) -> Iterator[Sample]:
    for one in report.backups:
        yield "aurora_last_backup_age_seconds", (one.type,), _since(one.created_at, now)
        yield "aurora_last_backup_timestamp_seconds", (one.type,), _stamp(one.created_at)
        yield "aurora_backups_missed", (one.type,), float(one.missed)


def _of_source(report: StatusReport) -> Iterator[Sample]:
    slot = report.slot
    yield "aurora_source_up", (), float(report.source_reachable)
    yield "aurora_change_log_lag_bytes", (), report.lag_bytes
    if slot is not None:
        yield "aurora_slot_retained_bytes", (), slot.held_bytes
        yield "aurora_slot_safe_bytes", (), slot.safe_wal_size
        yield "aurora_slot_lost", (), float(slot.is_lost)


def _of_storages(report: StatusReport, now: datetime) -> Iterator[Sample]:
    for one in report.storages:
        lag = 0.0 if one.behind == 0 else _since(one.lacking_since, now)
        yield "aurora_storage_up", (one.place,), float(one.reachable and not one.error)
        yield "aurora_repository_bytes", (one.place,), one.bytes
        yield "aurora_repository_objects", (one.place,), one.objects
        yield "aurora_repository_grown_bytes", (one.place,), one.grown_bytes
        yield "aurora_replication_behind_backups", (one.place,), one.behind
        yield "aurora_replication_lag_seconds", (one.place,), lag


def _of_verification(report: StatusReport, now: datetime) -> Iterator[Sample]:
    for place, one in report.covered.items():
        yield "aurora_verification_bad_objects", (place,), float(one.bad)
        yield "aurora_last_verification_age_seconds", (place,), _since(one.last_at, now)
        yield "aurora_verification_coverage_ratio", (place,), one.share


def _stamp(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _since(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else max((now - moment).total_seconds(), 0.0)
