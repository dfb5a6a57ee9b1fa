"""`incident assess`: what was lost or damaged, read from the change log.

One pass over the log, key-only, in commit order: the detector ranks what is unusual. Tables
that are in one backup and not in the next were dropped in between. With a key, the
transactions that touched one row.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from aurora import clock
from aurora.engines.logical import pgoutput
from aurora.engines.logical.names import shown
from aurora.engines.logical.pgoutput import format_lsn
from aurora.engines.logical.segments import FrameReader
from aurora.errors import IntegrityError, RepositoryNotFound, UnsupportedRepository, UsageError
from aurora.events import Advanced, EventSink, PhaseBegun, PhaseEnded, Warned, discard
from aurora.operations.content import Backup
from aurora.operations.incident.detector import Detector, Limits, Suspicion, ranked
from aurora.operations.log import Filter, log_parts, transactions
from aurora.repository.door import Ref, Repository
from aurora.repository.ids import APART, STREAM
from aurora.units import format_count, plural

_TOP = 50
_HISTORY = timedelta(days=1)  # before the range: what is usual
_AROUND = timedelta(minutes=1)  # that commit times may run backwards
_TOUCHES = 1000


@dataclass(frozen=True, slots=True)
class Question:
    """What to look for; both moments belong to the range."""

    since: datetime | None = None
    until: datetime | None = None
    table: str = ""  # schema.table
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A table that was there and is not any more."""

    table: str
    rows: int
    after: str  # a backup that has it, and of when
    after_at: str
    before: str  # the first that has it no more
    before_at: str


@dataclass(slots=True)
class Assessment:
    """What the log and the backups show."""

    suspicions: list[Suspicion]
    dropped: list[Dropped]
    transactions: int
    rows: int
    first_at: str = ""
    last_at: str = ""
    made_at: str = ""

    def document(self) -> dict[str, Any]:
        """For ``--json`` and the record."""
        return {
            "made_at": self.made_at,
            "transactions": self.transactions,
            "rows": self.rows,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "suspicions": [one.document() for one in self.suspicions],
            "dropped": [
                {"table": one.table, "rows": one.rows, "after": one.after,
                 "after_at": one.after_at, "before": one.before, "before_at": one.before_at}
                for one in self.dropped
            ],
        }  # fmt: skip


def assess(
    repository: Repository, database: str, question: Question, *, sink: EventSink = discard
) -> Assessment:
    """Rank what is suspicious in the log.

    Raises:
        RepositoryNotFound: there is no change log.
        ObjectMissing, ObjectDamaged, StorageError.
    """
    phase = "reading the change log"
    sink(PhaseBegun(phase, None, "transactions"))
    history = Filter(
        since=question.since - _HISTORY if question.since else None, until=question.until
    )
    detector = Detector({}, question.limits)
    found = Assessment([], [], 0, 0, made_at=clock.isoformat(clock.now()))
    top: list[tuple[float, int, Suspicion]] = []
    sizes = _Sizes(repository, database, sink)
    first: datetime | None = None
    last: datetime | None = None
    for one in transactions(repository, database, history, sink=sink):
        if counted := sizes.when_changed(one.backup):
            detector.know(counted)
        for told in detector.see(one):
            _keep(top, told, question)
        if question.since is None or one.commit_at >= question.since:
            found.transactions += 1
            found.rows += sum(c.inserted + c.updated + c.deleted for c in one.tables.values())
            first, last = first or one.commit_at, one.commit_at
            if found.transactions % 10_000 == 0:
                sink(Advanced(phase, found.transactions))
    for told in detector.finish():
        _keep(top, told, question)
    found.first_at = clock.isoformat(first) if first else ""
    found.last_at = clock.isoformat(last) if last else ""
    found.suspicions = ranked([one for _, _, one in top], most=_TOP)
    found.dropped = [
        one for one in _dropped(repository, database, sink)
        if not question.table or question.table == one.table
    ]  # fmt: skip
    sink(
        PhaseEnded(
            phase,
            f"{plural(found.transactions, 'transaction')}, {format_count(found.rows)} rows changed",
        )
    )
    if not found.transactions and not found.dropped and not _has_log(repository, database, sink):
        raise RepositoryNotFound(
            "there is no change log to look into",
            hint="Without one (aurora source prepare) `aurora backup restore-table TABLE ID --as "
            "NAME` puts a backup's rows beside the table, to compare.",
        )
    return found


def _keep(top: list[tuple[float, int, Suspicion]], told: Suspicion, question: Question) -> None:
    """Remember the most suspicious ones only, so that memory stays flat."""
    inside = (question.since is None or told.at >= question.since) and (
        question.until is None or told.at <= question.until
    )
    if not inside or (question.table and question.table not in told.tables):
        return
    item = (told.score, -told.lsn, told)
    if len(top) < _TOP:
        heapq.heappush(top, item)
    elif item[:2] > top[0][:2]:
        heapq.heapreplace(top, item)


class _Sizes:
    """How many rows the tables had, by the full that each incremental leans on."""

    def __init__(self, repository: Repository, database: str, sink: EventSink) -> None:
        self._bases: dict[str, str] = {}
        self._repository, self._database = repository, database
        for backup_id, log in log_parts(repository, database, sink):
            self._bases[backup_id] = log.base
        self._base = ""

    def when_changed(self, backup_id: str) -> dict[str, int]:
        """The rows of all tables, where *backup_id* leans on another full than the last one."""
        base = self._bases.get(backup_id, "")
        if not base or base == self._base:
            return {}
        self._base = base
        try:
            backup = Backup(self._repository, self._repository.resolve(base, self._database))
            return rows_of(backup)
        except (IntegrityError, UnsupportedRepository, RepositoryNotFound):
            return {}


def rows_of(backup: Backup) -> dict[str, int]:
    """Rows of each table that the backup holds, by ``schema.table``."""
    names = {table.oid: shown(table.schema, table.name) for table in backup.snapshot.tables}
    return {names[one.oid]: one.rows for one in backup.data() if one.oid in names}


def _has_log(repository: Repository, database: str, sink: EventSink) -> bool:
    return any(True for _ in log_parts(repository, database, sink))


def _dropped(repository: Repository, database: str, sink: EventSink) -> Iterator[Dropped]:
    """Tables that are in one backup and not in the one after it, newest first."""
    before: tuple[Backup, dict[str, int]] | None = None
    found: list[Dropped] = []
    for entry in repository.backups(database):
        if entry.type in (*APART, STREAM):
            continue
        try:
            backup = Backup(repository, entry)
            rows = rows_of(backup)
        except (IntegrityError, UnsupportedRepository) as error:
            sink(Warned("backup-unreadable", f"backup {entry.id} cannot be read: {error.message}"))
            continue
        tables = {
            shown(table.schema, table.name) for table in backup.snapshot.tables
            if table.kind in ("r", "p")
        }  # fmt: skip
        names = {**dict.fromkeys(tables, 0), **rows}
        if before is not None:
            earlier, were = before
            found += [
                Dropped(
                    name, were[name], earlier.entry.id, earlier.snapshot.source.snapshot_at,
                    entry.id, backup.snapshot.source.snapshot_at,
                )
                for name in sorted(were.keys() - names.keys())
            ]  # fmt: skip
            names = {name: rows.get(name, were.get(name, 0)) for name in names}
        before = backup, names
    yield from reversed(found)


def xids_of(
    repository: Repository, database: str, suspicion: dict[str, Any], *, sink: EventSink = discard
) -> list[int]:
    """The transactions that a suspicion (as its document) is about: one, or a run of deletes."""
    if suspicion["transactions"] == 1:
        return [int(suspicion["xid"])]
    first = clock.parse(suspicion["commit_at"]) - _AROUND
    last = clock.parse(suspicion["last_at"]) + _AROUND
    low, high = (pgoutput.parse_lsn(suspicion[name]) for name in ("lsn", "end_lsn"))
    return [
        one.xid
        for one in transactions(repository, database, Filter(first, last), sink=sink)
        if low <= one.lsn < high
        and any(name in one.tables and one.tables[name].deleted for name in suspicion["tables"])
    ]


@dataclass(frozen=True, slots=True)
class Touch:
    """A transaction that touched one row."""

    xid: int
    at: datetime
    lsn: int
    what: str  # insert, update, delete, truncate
    values: dict[str, str | None]  # the row, as far as the log tells it

    def document(self) -> dict[str, Any]:
        return {
            "xid": self.xid,
            "commit_at": clock.isoformat(self.at),
            "lsn": format_lsn(self.lsn),
            "what": self.what,
            "values": self.values,
        }


def touches(
    repository: Repository,
    database: str,
    table: str,
    key: str,
    question: Question | None = None,
    *,
    sink: EventSink = discard,
) -> list[Touch]:
    """Who inserted, updated or deleted the row *key* of *table*, oldest first.

    Args:
        key: the values of the key's columns, with commas between several.

    Raises UsageError; ObjectMissing, ObjectDamaged, StorageError.
    """
    if not table:
        raise UsageError("--key needs --table", hint="Name the table as schema.table.")
    asked = question or Question()
    wanted = [part.strip().encode() for part in key.split(",")]
    found: list[Touch] = []
    reached, of_log = 0, None
    for _, log in log_parts(repository, database, sink):
        same = (log.slot, log.system_identifier, log.timeline, log.database_oid)
        if same != of_log:
            reached, of_log = 0, same
        reader = _RowReader(table, wanted)
        for segment in log.segments:
            payload = repository.read(Ref(segment.object, segment.raw))
            for end_lsn, batch in reader.read(payload):
                if end_lsn <= reached:
                    continue
                reached = end_lsn
                found += [one for one in batch if _inside(one.at, asked)]
        if len(found) > _TOUCHES:
            raise UsageError(f"more than {_TOUCHES} touches", hint="Narrow it by --from and --to.")
    return found


def _inside(at: datetime, asked: Question) -> bool:
    return (asked.since is None or at >= asked.since) and (asked.until is None or at <= asked.until)


class _RowReader:
    """Picks the changes of one row out of a log."""

    def __init__(self, table: str, key: list[bytes]) -> None:
        self._table, self._key = table, key
        self._frames = FrameReader()
        self._relations: dict[int, pgoutput.Relation] = {}
        self._begin: pgoutput.Begin | None = None
        self._touched: list[tuple[str, dict[str, str | None]]] = []

    def read(self, payload: bytes) -> Iterator[tuple[int, list[Touch]]]:
        """For each commit: where it ends, and the row's changes in it."""
        rows = pgoutput.ROW_KINDS
        for message in self._frames.read(payload):
            kind = message[0]
            if kind in rows:
                relation = self._relations.get(int.from_bytes(message[1:5], "big"))
                if relation is not None and all(part in message for part in self._key):
                    self._row(message, relation)
            elif kind == pgoutput.RELATION:
                self._relation(message)
            elif kind == pgoutput.BEGIN:
                self._begin = pgoutput.read_begin(message)
                self._touched = []
            elif kind == pgoutput.TRUNCATE:
                if any(oid in self._relations for oid in pgoutput.read_truncate(message).relations):
                    self._touched.append(("truncate", {}))
            elif kind == pgoutput.COMMIT and self._begin is not None:
                commit = pgoutput.read_commit(message)
                at, xid = pgoutput.moment(commit.at), self._begin.xid
                yield (
                    commit.end_lsn,
                    [Touch(xid, at, commit.lsn, what, values) for what, values in self._touched],
                )
                self._begin = None

    def _relation(self, message: bytes) -> None:
        relation = pgoutput.read_relation(message)
        if shown(relation.schema, relation.name) == self._table:
            self._relations[relation.oid] = relation

    def _row(self, message: bytes, relation: pgoutput.Relation) -> None:
        change = pgoutput.parse(message)
        if isinstance(change, pgoutput.Insert):
            images = [change.new]
        elif isinstance(change, pgoutput.Update):
            images = [change.new, *([change.old] if change.old else [])]
        elif isinstance(change, pgoutput.Delete):
            images = [change.old]
        else:
            return
        keys = [i for i, column in enumerate(relation.columns) if column.is_key]
        keys = keys or list(range(len(relation.columns)))
        if any(self._fits(image, keys) for image in images):
            what = type(change).__name__.lower()
            names = [column.name for column in relation.columns]
            told = {
                name: value.decode(errors="replace")[:200] if isinstance(value, bytes) else None
                for name, value in zip(names, images[0], strict=True)
                if value is None or isinstance(value, bytes)
            }
            if what == "delete":  # an old key has no values but the key's
                told = {names[i]: told.get(names[i]) for i in keys}
            self._touched.append((what, told))

    def _fits(self, image: pgoutput.Values, keys: list[int]) -> bool:
        if len(keys) != len(self._key):
            return all(part in image for part in self._key)
        return [image[i] for i in keys] == self._key
