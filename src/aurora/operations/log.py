"""Looking into the change log: which transactions a repository's segments hold.

Reads segments key-only: kinds and relations, no values. One transaction at a time is held,
whatever the log's size.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aurora import clock
from aurora.engines.base import LogPart, Segment
from aurora.engines.logical import pgoutput
from aurora.engines.logical.ddl import read_change
from aurora.engines.logical.marks import PREFIX, changes_schema, point_of
from aurora.engines.logical.names import shown
from aurora.engines.logical.segments import FrameReader
from aurora.engines.logical.targets import parse_moment
from aurora.errors import ObjectDamaged
from aurora.events import EventSink, discard
from aurora.operations.log_chain import identity, read_log
from aurora.repository.door import Ref, Repository

_KINDS = {pgoutput.INSERT: 0, pgoutput.UPDATE: 1, pgoutput.DELETE: 2}


@dataclass(slots=True)
class Changes:
    """What one transaction did to one table."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    truncated: bool = False


@dataclass(slots=True)
class Transaction:
    """One committed transaction of the log. LSNs are numbers."""

    xid: int
    commit_at: datetime
    lsn: int  # where its commit record begins
    end_lsn: int
    tables: dict[str, Changes] = field(default_factory=dict)  # by schema.table
    messages: list[str] = field(default_factory=list)  # marks that Aurora wrote
    backup: str = ""  # the incremental that holds its end

    @property
    def restore_points(self) -> list[str]:
        """Names that were given to this moment."""
        return [name for text in self.messages if (name := point_of(text))]

    @property
    def schema_changes(self) -> list[str]:
        """Commands that changed the schema in it, where the source marks them."""
        return [read_change(text).tag for text in self.messages if changes_schema(text)]

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "commit_at": clock.isoformat(self.commit_at),
            "xid": self.xid,
            "lsn": pgoutput.format_lsn(self.lsn),
            "end_lsn": pgoutput.format_lsn(self.end_lsn),
            "tables": {
                name: {
                    "inserted": one.inserted,
                    "updated": one.updated,
                    "deleted": one.deleted,
                    "truncated": one.truncated,
                }
                for name, one in self.tables.items()
            },
            "messages": self.messages,
            "restore_points": self.restore_points,
            "schema_changes": self.schema_changes,
            "backup": self.backup,
        }


@dataclass(frozen=True, slots=True)
class Filter:
    """Which transactions to show; both moments belong to the range."""

    since: datetime | None = None
    until: datetime | None = None
    table: str = ""  # schema.table
    with_marks: bool = False  # also those that only carry a mark of Aurora

    def takes(self, one: Transaction) -> bool:
        if self.since is not None and one.commit_at < self.since:
            return False
        if self.until is not None and one.commit_at > self.until:
            return False
        if self.table:
            return self.table in one.tables
        told = one.tables or one.restore_points or one.schema_changes
        return bool(told) or (self.with_marks and bool(one.messages))


def parse_time(text: str) -> datetime:
    """A moment as people type it; without zone it is UTC. Raises UsageError."""
    return pgoutput.moment(parse_moment(text).micros())


def transactions(
    repository: Repository,
    database: str,
    wanted: Filter | None = None,
    *,
    sink: EventSink = discard,
) -> Iterator[Transaction]:
    """The transactions of the log in the order of their commits, each once.

    Raises ObjectMissing, ObjectDamaged, StorageError.
    """
    wanted = wanted or Filter()
    seen, of_log = 0, None
    for backup_id, log in log_parts(repository, database, sink):
        same = identity(log)
        if same != of_log:
            seen, of_log = 0, same  # positions of another server mean something else
        reader = TransactionReader()
        for segment in _worth_reading(log.segments, wanted):
            payload = repository.read(Ref(segment.object, segment.raw))
            for one in _of_segment(reader, payload, segment):
                if one.end_lsn <= seen:
                    continue
                seen = one.end_lsn
                if wanted.takes(one):
                    one.backup = backup_id
                    yield one


def log_parts(
    repository: Repository, database: str, sink: EventSink
) -> Iterator[tuple[str, LogPart]]:
    """Everything that carries a part of the log: log by log, each in its own order."""
    logs: dict[Hashable, list[tuple[str, LogPart]]] = {}
    for one in read_log(repository, database, sink):
        if one.log.segments:
            logs.setdefault(identity(one.log), []).append((one.id, one.log))
    for parts in logs.values():
        yield from sorted(parts, key=lambda part: (part[1].from_lsn, part[1].to_lsn))


def _worth_reading(segments: tuple[Segment, ...], wanted: Filter) -> list[Segment]:
    """The segments that may hold what is wanted, with those before that a transaction needs."""
    after = [clock.parse(one.last_commit_at) if one.last_commit_at else None for one in segments]
    first, last = 0, len(segments)
    for index, moment in enumerate(after):
        # Commit times are not quite in order: a minute is far more than they differ.
        if moment is None:
            continue
        if wanted.since and (wanted.since - moment).total_seconds() > 60:
            first = index + 1
        if wanted.until and (moment - wanted.until).total_seconds() > 60:
            last = min(last, index + 1)
    # The last one with a commit may also hold the beginning of the transaction after it.
    first = max(first - 1, 0)
    while first and not segments[first].end_lsn:
        first -= 1
    return list(segments[first:last])


def _of_segment(
    reader: "TransactionReader", payload: bytes, segment: Segment
) -> Iterator[Transaction]:
    try:
        yield from reader.read(payload)
    except (ValueError, IndexError) as error:
        raise ObjectDamaged(
            f"the segment {segment.object} does not read as one: {error}",
            hint="Install a newer Aurora; if it is the newest, report this.",
            context={"name": segment.object},
        ) from error


class TransactionReader:
    """Counts changes by transaction, across the segments of one backup."""

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._names: dict[int, str] = {}
        self._begin: pgoutput.Begin | None = None
        self._counts: dict[int, list[int]] = {}
        self._truncated: set[int] = set()
        self._messages: list[str] = []

    def read(self, payload: bytes) -> Iterator[Transaction]:
        """The transactions that end in a segment. Raises ValueError, IndexError."""
        counts, kinds = self._counts, _KINDS
        rare: dict[int, Callable[[bytes], None]] = {
            pgoutput.RELATION: self._relation,
            pgoutput.BEGIN: self._start,
            pgoutput.TRUNCATE: self._truncate,
            pgoutput.MESSAGE: self._message,
        }
        for message in self._frames.read(payload):
            kind = message[0]
            place = kinds.get(kind)
            if place is not None:
                oid = int.from_bytes(message[1:5], "big")
                found = counts.get(oid)
                if found is None:
                    found = counts[oid] = [0, 0, 0]
                found[place] += 1
            elif kind == pgoutput.COMMIT:
                if self._begin is not None:
                    yield self._end(pgoutput.read_commit(message))
            elif kind in rare:
                rare[kind](message)

    def _relation(self, message: bytes) -> None:
        relation = pgoutput.read_relation(message)
        self._names[relation.oid] = shown(relation.schema, relation.name)

    def _start(self, message: bytes) -> None:
        self._begin = pgoutput.read_begin(message)
        self._counts.clear()
        self._truncated.clear()
        self._messages.clear()

    def _truncate(self, message: bytes) -> None:
        self._truncated.update(pgoutput.read_truncate(message).relations)

    def _message(self, message: bytes) -> None:
        found = pgoutput.read_message(message)
        if found.prefix == PREFIX:
            self._messages.append(found.content.decode(errors="replace"))

    def _end(self, commit: pgoutput.Commit) -> Transaction:
        assert self._begin is not None
        tables: dict[str, Changes] = {}
        for oid in [*self._counts, *(self._truncated - self._counts.keys())]:
            name = self._names.get(oid, f"relation {oid}")
            inserted, updated, deleted = self._counts.get(oid, (0, 0, 0))
            tables[name] = Changes(inserted, updated, deleted, oid in self._truncated)
        found = Transaction(
            self._begin.xid, pgoutput.moment(commit.at), commit.lsn, commit.end_lsn, tables,
            list(self._messages),
        )  # fmt: skip
        self._begin = None
        return found
