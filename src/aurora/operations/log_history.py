"""The change logs of a repository: which backups follow one another, and what is in them."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from aurora import clock
from aurora.engines.base import LogPart, Segment
from aurora.engines.logical.spool import Scanned, ends_continued, scan
from aurora.engines.logical.targets import (
    Base,
    Marked,
    Part,
    Resolution,
    Run,
    Stretch,
    Target,
    Transaction,
    resolve,
    runs_of,
    snapshot_sees,
    to_micros,
)
from aurora.events import EventSink
from aurora.operations.content import Backup, RepositorySource
from aurora.operations.log_chain import identity, read_log
from aurora.repository.door import Repository


class LogSegments:
    """One backup's segments, in order: reads them, and finds the transactions inside."""

    def __init__(self, source: RepositorySource, segments: Sequence[Segment]) -> None:
        self._source = source
        self.segments = tuple(segments)
        self._scanned: dict[int, Scanned] = {}
        self._found: dict[int, tuple[Transaction, ...]] = {}

    def payload(self, number: int) -> bytes:
        """Raises ObjectMissing, ObjectDamaged, StorageError."""
        return self._source.get(self.segments[number].stored)

    def continued(self, number: int) -> bool:
        """Whether the last message of segment *number* goes on in the next one."""
        return number >= 0 and ends_continued(self.payload(number))

    def transactions(self, number: int) -> tuple[Transaction, ...]:
        """Those that commit in segment *number*; one may have begun in an earlier one."""
        if number not in self._found:
            scanned = self._scan(number)
            if not scanned.first_is_known:
                scanned = self._scan_again(number)
            self._found[number] = scanned.found
        return self._found[number]

    def _scan(self, number: int) -> Scanned:
        if number not in self._scanned:
            self._scanned[number] = scan(
                self.payload(number), continuing=self.continued(number - 1)
            )
        return self._scanned[number]

    def _scan_again(self, number: int) -> Scanned:
        before = number - 1
        while before > 0 and not self._scan(before).begins:
            before -= 1
        open_xid = self._scan(before).open_xid if before >= 0 else 0
        return scan(self.payload(number), continuing=self.continued(number - 1), open_xid=open_xid)

    def marks(self) -> tuple[Marked, ...]:
        """What Aurora wrote into the log for itself."""
        return tuple(
            Marked(one.text, Transaction(one.xid, one.lsn, 0, micros(one.at)), one.place)
            for segment in self.segments
            for one in segment.marks
        )

    def stretches(self) -> tuple[Stretch, ...]:
        """What :mod:`targets` wants to know of them."""
        return tuple(
            Stretch(
                one.first_lsn, one.end_lsn, micros(one.first_commit_at),
                micros(one.last_commit_at), one.min_xid, one.max_xid, one.transactions,
                partial(self.transactions, number),
            )
            for number, one in enumerate(self.segments)
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Link:
    """One backup of the chain, or a piece that a stream stored."""

    backup: Backup
    log: LogPart
    segments: LogSegments

    @property
    def is_piece(self) -> bool:
        """Whether it holds log alone: no re-reads, and only sequences that moved."""
        return self.backup.is_piece


def resolve_target(
    repository: Repository, database: str, target: Target, sink: EventSink, *, full: str = ""
) -> tuple[Resolution, list[Link]]:
    """Every slot's log is a history of its own; the newest that meets the target is taken.

    Raises as :func:`aurora.engines.logical.targets.resolve`.
    """
    runs, links = read_runs(repository, database, sink)
    return resolve(target, runs, full=full), links


def read_runs(
    repository: Repository, database: str, sink: EventSink
) -> tuple[list[Run], list[Link]]:
    """The stretches of log without a gap, oldest first, and the backups that hold them."""
    histories: dict[Hashable, list[Link]] = {}
    for link in _links(repository, database, sink):
        log = link.log
        histories.setdefault(identity(log), []).append(link)
    runs: list[Run] = []
    for links in histories.values():
        runs += _runs(links)
    runs.sort(key=lambda run: run.to_at)
    return runs, [link for links in histories.values() for link in links]


def _links(repository: Repository, database: str, sink: EventSink) -> Iterator[Link]:
    for one in read_log(repository, database, sink):
        source = RepositorySource(repository)
        yield Link(one.backup, one.log, LogSegments(source, one.log.segments))


def _runs(links: Sequence[Link]) -> list[Run]:
    parts = [
        Part(
            link.backup.entry.id, link.log.from_lsn, link.log.to_lsn, micros(link.log.to_at),
            link.log.fingerprint, link.segments.stretches(), link.segments.marks(),
            link.log.markers, _sees(link), link.is_piece,
        )
        for link in links
        if link.log.parent
    ]  # fmt: skip
    bases = [_base(link) for link in links if not link.log.parent]
    return runs_of(parts, bases)


def _sees(link: Link) -> Callable[[int], bool] | None:
    """Which transactions its look at the schema saw."""
    snapshot = link.log.snapshot if link.is_piece else link.backup.snapshot.source.snapshot
    return snapshot_sees(snapshot) if snapshot else None


def _base(link: Link) -> Base:
    source = link.backup.snapshot.source
    high, _, low = source.lsn.partition("/")
    return Base(
        link.backup.entry.id, link.log.from_lsn, int(high, 16) << 32 | int(low, 16),
        micros(source.snapshot_at), link.log.fingerprint, snapshot_sees(source.snapshot),
        link.log.markers,
    )  # fmt: skip


def micros(text: str) -> int:
    """A time of a document, in microseconds since 2000; 0 for none."""
    return to_micros(clock.parse(text)) if text else 0
