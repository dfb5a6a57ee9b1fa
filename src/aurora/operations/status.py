"""`status`: can this be recovered, to when, and what needs to be done about it?

Everything is looked at, nothing is changed, and what cannot be reached is part of the answer:
with the source down it tells of the backups, with a storage down of the other one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from aurora import clock
from aurora.engines.logical.slot import SlotState
from aurora.errors import AuroraError, RepositoryNotFound
from aurora.events import EventSink, discard
from aurora.operations.coverage import Covered
from aurora.operations.findings import Finding, Level
from aurora.operations.keys import Proofs
from aurora.operations.measured import Measured, last_drill, newest, recorded
from aurora.operations.slot_health import DEFAULT_LIMIT, SlotHealth
from aurora.operations.status_source import Rpo, SourceLook, look_at_source, rpo_now
from aurora.operations.status_storage import (
    StorageLook,
    compare_copies,
    look_at_locks,
    look_at_storage,
)
from aurora.operations.window import Span, Window, recovery_window
from aurora.postgres.conninfo import ConnInfo
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import Repository
from aurora.repository.ground import Ground
from aurora.repository.ids import STREAM
from aurora.repository.mirror import MirrorView
from aurora.repository.slots import SlotInfo
from aurora.schedule import Rule
from aurora.storage.base import Storage
from aurora.storage.object_lock import ObjectLock

SCHEMA = 1
"""Of the JSON document. Fields may be added to a schema; none changes its meaning."""

Place = Literal["primary", "secondary"]
_GATHERED = timedelta(minutes=45)


class Subject(Protocol):
    """What status needs of the composition root (:class:`aurora.wiring.Aurora` is one)."""

    @property
    def database(self) -> str: ...
    @property
    def has_secondary(self) -> bool: ...
    def source(self) -> ConnInfo: ...
    def storage(self, place: Place) -> Storage: ...
    def object_lock(self, place: Place) -> ObjectLock | None: ...
    def open_primary(self) -> Repository: ...
    def open_secondary(self, *, sink: EventSink = discard) -> Repository: ...
    def open_secondary_view(self) -> MirrorView: ...


@dataclass(frozen=True, slots=True)
class Goals:
    """What recovery has to keep to, in seconds."""

    rpo: float
    rto: float | None
    proven: float
    drilled: float
    verified: float
    grace: float


@dataclass(frozen=True, slots=True)
class StatusOptions:
    """What to look at and what to hold it against."""

    schedule: Mapping[str, Rule]  # job -> when it is due
    goals: Goals
    prices: Mapping[str, float | None]
    measured: tuple[Measured, ...] = ()
    covered: Mapping[str, Covered] = field(default_factory=dict)  # by place
    max_wal: int = DEFAULT_LIMIT  # bytes that the slot may keep
    state: Path | None = None  # where this machine keeps what it knows


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """The newest good backup of one type against its schedule."""

    type: str
    due: str  # the schedule in words
    backup_id: str = ""
    created_at: datetime | None = None
    age_seconds: float | None = None
    missed: int = 0  # times that it was due since and was not made


@dataclass(slots=True)
class StatusReport:
    """Everything that ``aurora backup status`` shows."""

    database: str
    at: datetime
    verdict: str = ""
    level: Level = Level.OK
    findings: list[Finding] = field(default_factory=list)
    backups: list[TypeStatus] = field(default_factory=list)
    window: Window = field(default_factory=Window)
    window_of: str = ""  # the storage that was asked; "" for none
    rpo: Rpo = field(default_factory=lambda: Rpo(None, None, exact=False, why=""))
    source_reachable: bool = False
    source_error: str = ""
    slot: SlotState | None = None
    health: SlotHealth | None = None  # of the slot
    lag_bytes: int | None = None
    measured: Measured | None = None  # the last proven restore: RTO
    last_test: Measured | None = None  # the last restore or test, good or bad
    last_drill: Measured | None = None  # the last that went well
    storages: list[StorageLook] = field(default_factory=list)
    covered: dict[str, Covered] = field(default_factory=dict)
    key_slots_unproven: list[str] = field(default_factory=list)
    next_runs: dict[str, datetime] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)  # labels in the repository, where ours has none

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        window = self.window
        return {
            "schema": SCHEMA,
            "database": self.database,
            "at": self.at,
            "level": self.level,
            "verdict": self.verdict,
            "findings": [asdict(one) for one in self.findings],
            "backups": [asdict(one) for one in self.backups],
            "window": {
                "from": window.from_at,
                "to": window.to_at,
                "storage": self.window_of,
                "spans": [_span(one) for one in window.spans],
                "gaps": [_span(one) for one in window.gaps],
            },
            "rpo": asdict(self.rpo),
            "rto": None if self.measured is None else asdict(self.measured),
            "last_recovery_test": None if self.last_test is None else asdict(self.last_test),
            "last_drill": None if self.last_drill is None else asdict(self.last_drill),
            "source": {
                "reachable": self.source_reachable,
                "error": self.source_error,
                "lag_bytes": self.lag_bytes,
                "slot": None if self.slot is None else asdict(self.slot),
                "slot_health": None if self.health is None else self.health.document(),
            },
            "storages": [
                {**asdict(one), "monthly_cost": one.monthly_cost} for one in self.storages
            ],
            "verification": {place: one.document() for place, one in self.covered.items()},
            "key_slots_unproven": self.key_slots_unproven,
            "next_runs": self.next_runs,
        }


def _span(one: Span) -> dict[str, Any]:
    return {"from": one.from_at, "to": one.to_at}


def look(
    subject: Subject, options: StatusOptions, *, now: datetime, sink: EventSink = discard
) -> StatusReport:
    """Look at everything. Never raises an AuroraError: what fails is told in the report."""
    report = StatusReport(subject.database, now)
    repository = _open(subject, report, sink)
    entries: list[BackupEntry] = []
    if repository is not None:
        try:
            entries = repository.backups(subject.database)
            report.others = [] if entries else repository.databases()
            report.window = recovery_window(repository, subject.database, sink=sink)
        except AuroraError as error:
            report.findings.append(_found(error, report.window_of))
    _look_at_source(subject, report, options)
    report.backups = list(_types(entries, options, now))
    # Opening it takes a slow key derivation: once for all that look at it.
    open_view = cache(subject.open_secondary_view)
    primary = repository if report.window_of == "primary" else None
    _look_at_storages(subject, report, options, primary, entries, open_view)
    measured = [*options.measured]
    if repository is not None and options.state is not None:
        measured += _recorded(repository, options, report, sink)
        report.key_slots_unproven = list(
            _unproven(subject, repository, open_view, Proofs(options.state))
        )
    report.measured, report.last_test = newest(measured)
    report.last_drill = last_drill(measured)
    report.covered = dict(options.covered)
    for job, rule in options.schedule.items():
        if (due := rule.next_after(now)) is not None:
            report.next_runs[job] = due
    return report


def _open(subject: Subject, report: StatusReport, sink: EventSink) -> Repository | None:
    """The primary's repository; the secondary's where the primary cannot be opened."""
    ways: list[tuple[Place, Callable[[], Repository]]] = [("primary", subject.open_primary)]
    if subject.has_secondary:
        ways.append(("secondary", lambda: subject.open_secondary(sink=sink)))
    for place, opening in ways:
        try:
            repository = opening()
        except AuroraError as error:
            report.findings.append(_found(error, place))
        else:
            report.window_of = place
            return repository
    return None


def _found(error: AuroraError, place: str) -> Finding:
    code = f"{place}-{error.code}" if place else error.code
    if isinstance(error, RepositoryNotFound):
        hint = "Run `aurora init` if it is new; see docs/runbooks if it was lost."
        return Finding(code, Level.ERROR, f"{place}: {error.message}", hint)
    return Finding(code, Level.ERROR, f"{place}: {error.message}", error.hint)


def _look_at_source(subject: Subject, report: StatusReport, options: StatusOptions) -> None:
    seen: SourceLook | None = None
    try:
        seen = look_at_source(
            subject.source(), subject.database, report.window, max_wal=options.max_wal
        )
    except AuroraError as error:
        report.source_error = error.message
    report.rpo = rpo_now(report.window, seen, report.at)
    if seen is None:
        return
    report.source_reachable = True
    report.slot, report.health = seen.slot, seen.health
    newest = report.window.newest
    if newest is not None:
        report.lag_bytes = max(seen.flush_lsn - newest.log.to_lsn, 0)


def _types(
    entries: Iterable[BackupEntry], options: StatusOptions, now: datetime
) -> Iterable[TypeStatus]:
    whole = [one for one in entries if one.damage is None]
    newest = {one.type: one for one in whole}  # they are in order: the last of each wins
    limit = now - timedelta(seconds=options.goals.grace)
    for kind in ("incremental", "full", "sealed"):
        rule = options.schedule.get(kind)
        entry = newest.get(kind)
        if entry is None and (rule is None or not rule.is_on):
            continue
        due = rule.words() if rule is not None else ""
        if entry is None:
            # Due since there is any backup at all; before, that is what has to be said.
            since = whole[0].created_at if whole else None
            missed = rule.missed(since, limit) if rule is not None and since is not None else 0
            yield TypeStatus(kind, due, missed=missed)
            continue
        yield TypeStatus(
            kind,
            due,
            entry.id,
            entry.created_at,
            max((now - entry.created_at).total_seconds(), 0.0),
            0 if rule is None else rule.missed(entry.created_at, limit),
        )


def _look_at_storages(
    subject: Subject,
    report: StatusReport,
    options: StatusOptions,
    primary: Repository | None,
    entries: list[BackupEntry],
    open_view: Callable[[], MirrorView],
) -> None:
    """*primary*: opened; None where it is not, and *entries* are not what it holds."""
    places: list[Place] = ["primary", "secondary"] if subject.has_secondary else ["primary"]
    for place in places:
        seen = look_at_storage(
            place,
            lambda place=place: subject.storage(place),  # type: ignore[misc]
            now=report.at,
            price=options.prices.get(place),
        )
        report.storages.append(seen)
        if place == "primary":
            seen.backups = None if primary is None else len(entries)
            if primary is not None:
                report.findings += _locks(subject, place, seen, primary.ground)
        elif seen.reachable and not seen.error:
            ids = None if primary is None else dict(_to_be_copied(entries, report.at))
            compare_copies(seen, open_view, ids, subject.database)
            report.findings += _locks(subject, place, seen, lambda: open_view().ground())


def _locks(
    subject: Subject, place: Place, seen: StorageLook, ground: Callable[[], Ground]
) -> list[Finding]:
    if not seen.reachable or seen.error:
        return []
    try:
        lock = subject.object_lock(place)
        return [] if lock is None else list(look_at_locks(seen, lock, ground()))
    except AuroraError as error:
        return [_found(error, place)]


def _to_be_copied(entries: Iterable[BackupEntry], now: datetime) -> Iterable[tuple[str, datetime]]:
    """What the secondary should have: pieces of a stream go there when they are gathered."""
    for entry in entries:
        if entry.type != STREAM or now - entry.created_at > _GATHERED:
            yield entry.id, entry.created_at


def _recorded(
    repository: Repository, options: StatusOptions, report: StatusReport, sink: EventSink
) -> list[Measured]:
    """What the audit trail tells of restores and tests; its damage is another command's."""
    assert options.state is not None
    since = report.at - timedelta(seconds=max(options.goals.proven, options.goals.drilled))
    try:
        return recorded(repository, options.state, since=since, sink=sink)
    except AuroraError:
        return []


def _unproven(
    subject: Subject,
    repository: Repository,
    open_view: Callable[[], MirrorView],
    proofs: Proofs,
) -> Iterator[str]:
    """Key slots whose secret nobody was seen to have; passphrases are in use all the time."""
    places: list[tuple[Place, Callable[[], Iterable[SlotInfo]]]] = [("primary", repository.slots)]
    if subject.has_secondary:
        places.append(("secondary", lambda: open_view().slots()))
    for place, slots in places:
        with suppress(AuroraError):
            for one in slots():
                if one.genuine and one.kind != "passphrase" and not proofs.of(one.id):
                    label = f" {one.label!r}" if one.label else ""
                    yield f"{one.kind}{label} of the {place} ({one.id[:8]})"


def shown_moment(moment: datetime) -> str:
    """To the second, for people."""
    return clock.isoformat(moment.replace(microsecond=0))
