"""The recovery window: to which moments a repository can recover a database.

A full is a moment; with the change log behind it, everything from it to the log's end.
Between such spans there are gaps.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from aurora import clock
from aurora.engines.logical.targets import Run, exact_spans, shown_time
from aurora.errors import IntegrityError, UnsupportedRepository
from aurora.events import EventSink, discard
from aurora.operations.content import Backup
from aurora.operations.log_history import Link, read_runs
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import Repository

FULL = "full"


@dataclass(frozen=True, slots=True)
class Span:
    """Every moment from ``from_at`` to ``to_at``; the two are equal where one moment is meant."""

    from_at: datetime
    to_at: datetime


@dataclass(slots=True)
class Window:
    """Where recovery can go, oldest first, and where the newest moment stands in the log."""

    spans: list[Span] = field(default_factory=list)
    newest: Link | None = None  # the backup in whose log the newest moment lies

    @property
    def from_at(self) -> datetime | None:
        return self.spans[0].from_at if self.spans else None

    @property
    def to_at(self) -> datetime | None:
        return max((span.to_at for span in self.spans), default=None)

    @property
    def gaps(self) -> list[Span]:
        """Between the spans: moments that cannot be recovered."""
        return [
            Span(earlier.to_at, later.from_at)
            for earlier, later in zip(self.spans, self.spans[1:], strict=False)
        ]


def recovery_window(repository: Repository, database: str, *, sink: EventSink = discard) -> Window:
    """What can be recovered of *database*. Damaged backups are warned of and left out.

    Raises:
        StorageError, ObjectDamaged.
    """
    runs, links = read_runs(repository, database, sink)
    spans = list(_of_runs(runs))
    in_log = {link.backup.entry.id for link in links}
    for entry in repository.backups(database):
        if entry.type == FULL and entry.id not in in_log and entry.damage is None:
            moment = snapshot_moment(repository, entry)
            if moment is not None:
                spans.append(Span(moment, moment))
    window = Window(joined(spans))
    if window.to_at is not None and runs:
        end = max(runs, key=lambda run: run.to_at)
        found = [link for link in links if link.log.to_lsn == end.to_lsn]
        window.newest = found[-1] if found else None
    return window


def snapshot_moment(repository: Repository, entry: BackupEntry) -> datetime | None:
    """The moment of a backup's snapshot; None where its manifest cannot be read."""
    try:
        return clock.parse(Backup(repository, entry).snapshot.source.snapshot_at)
    except (IntegrityError, UnsupportedRepository):
        return None


def joined(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that touch as one."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda one: (one.from_at, one.to_at)):
        if found and span.from_at <= found[-1].to_at:
            found[-1] = Span(found[-1].from_at, max(found[-1].to_at, span.to_at))
        else:
            found.append(span)
    return found


def _of_runs(runs: Iterable[Run]) -> Iterable[Span]:
    for run in runs:
        for base in run.bases:
            for start, end in exact_spans(run, base):
                yield Span(clock.parse(shown_time(start)), clock.parse(shown_time(end)))
