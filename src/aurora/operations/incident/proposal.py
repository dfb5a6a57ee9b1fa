"""`incident recovery-point`: the exact moment just before the damage, and what it costs.

The point is named by a transaction, not by a clock: just before its commit. Shown are the
commits on both sides, and for each table the rows at the point, the rows now, and what good
transactions changed since: that is lost by going back.
"""

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from aurora import clock
from aurora.engines.logical import targets
from aurora.engines.logical.names import quoted, shown
from aurora.engines.logical.targets import Resolution, Target
from aurora.errors import SourceError
from aurora.events import EventSink, PhaseBegun, PhaseEnded
from aurora.operations.log import Changes, Filter, Transaction, transactions
from aurora.operations.point import Point, find_point
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.repository.door import Repository
from aurora.units import format_count, plural

_SHOWN = 3  # commits on each side
_SLACK = 60  # seconds that commit times may run backwards in the log


@dataclass(slots=True)
class TableDifference:
    """One table at the point, now, and in between."""

    table: str
    rows_then: int | None
    rows_now: int | None
    bad: Changes = field(default_factory=Changes)
    good: Changes = field(default_factory=Changes)
    bad_transactions: int = 0
    good_transactions: int = 0

    @property
    def damage(self) -> str:
        return _shown(self.bad) if self.bad_transactions else ""

    @property
    def good_since(self) -> str:
        return _shown(self.good) if self.good_transactions else ""

    @property
    def changed(self) -> bool:
        """Whether anything happened to it since the point, as far as is known."""
        return bool(
            self.bad_transactions
            or self.good_transactions
            or (self.rows_now is not None and self.rows_now != self.rows_then)
        )

    def document(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "rows_then": self.rows_then,
            "rows_now": self.rows_now,
            "damage": _changes(self.bad),
            "lost_by_going_back": _changes(self.good),
            "good_transactions": self.good_transactions,
        }


@dataclass(slots=True)
class Proposal:
    """A recovery point, and why."""

    target: Target
    point: Point = field(repr=False)
    why: str
    bad: list[int]  # xids that are undone
    before: list[Transaction]
    after: list[Transaction]
    tables: list[TableDifference]
    good_lost: int  # transactions

    @property
    def resolution(self) -> Resolution:
        return self.point.resolution

    @property
    def lsn(self) -> int:
        """The first commit that is left out, exclusive; where the log ends, its last one."""
        found = self.resolution
        if found.after is not None:
            return found.after.commit_lsn
        return found.cut.end_lsn if found.cut else found.base.lsn

    def document(self) -> dict[str, Any]:
        """For ``--json`` and the record."""
        return {
            **self.point.document(),
            "why": self.why,
            "bad": self.bad,
            "lsn_exclusive": targets.shown_lsn(self.lsn),
            "chosen": _target_document(self.target),
            "before": [one.document() for one in self.before],
            "after": [one.document() for one in self.after],
            "tables": [one.document() for one in self.tables],
            "good_transactions_lost": self.good_lost,
        }

    def facts(self) -> list[tuple[str, str]]:
        """Lines for a person."""
        lines = [("recover to", str(self.target)), ("why", self.why)]
        lines += [("before it", _told(one)) for one in self.before]
        lines += [("left out" if not n else "then", _told(one)) for n, one in enumerate(self.after)]
        lines.append(
            ("lost by going back", "nothing but the damage" if not self.good_lost else
             f"{plural(self.good_lost, 'good transaction')}: "
             + "; ".join(
                 f"{one.table} {_shown(one.good)}" for one in self.tables if one.good_transactions
             ))
        )  # fmt: skip
        lines.append(("full", f"{self.point.backup.entry.id}, and the change log after it"))
        return lines


def target_of(document: dict[str, Any]) -> Target:
    """The target that a record holds."""
    return Target(**document["chosen"])


def propose(
    repository: Repository,
    database: str,
    target: Target,
    *,
    bad: Collection[int] = (),
    dsn: str = "",
    sink: EventSink,
) -> Proposal:
    """Resolve *target* and say what it means.

    Args:
        bad: xids of the transactions that did the damage; others after the point are good.
        dsn: the live database, whose rows are counted; without, they are not.

    Raises RepositoryNotFound, UsageError (with the nearest targets), and what reading raises.
    """
    phase = "looking at the recovery point"
    sink(PhaseBegun(phase))
    point = find_point(repository, database, target, sink=sink)
    found = Proposal(target, point, "", sorted(bad), [], [], [], 0)
    tables: dict[str, TableDifference] = {}
    before: deque[Transaction] = deque(maxlen=_SHOWN)
    sizes = rows_at_point(repository, database, point, sink=sink)
    for one in around(repository, database, point, sink=sink):
        if one.lsn < found.lsn:
            before.append(one)
            continue
        if len(found.after) < _SHOWN:
            found.after.append(one)
        _count(tables, one, is_bad=one.xid in bad)
        found.good_lost += one.xid not in bad
    found.before = list(before)
    found.why = _why(found)
    for name, size in sizes.items():
        tables.setdefault(name, TableDifference(name, None, None)).rows_then = size
    if dsn:
        _count_now(dsn, tables)
    found.tables = sorted(tables.values(), key=lambda one: one.table)
    sink(PhaseEnded(phase, f"{plural(found.good_lost, 'good transaction')} after it"))
    return found


def around(
    repository: Repository, database: str, point: Point, *, sink: EventSink
) -> Iterator[Transaction]:
    """The transactions of the point's own log, from a little before the point to its end."""
    cut = point.resolution.cut
    run = point.resolution.run
    if run is None:
        return
    parts = {part.backup for part in run.parts}
    since = None
    if cut is not None:
        since = clock.parse(targets.shown_time(cut.at - _SLACK * 1_000_000))
    for one in transactions(repository, database, Filter(since=since), sink=sink):
        if one.backup in parts:
            yield one


def rows_at_point(
    repository: Repository, database: str, point: Point, *, sink: EventSink
) -> dict[str, int]:
    """How many rows each streamed table has at the point, counted over the log: exact."""
    names = {t.oid: shown(t.schema, t.name) for t in point.snapshot.tables if t.has_rows}
    sizes = {names[one.oid]: one.rows for one in point.data if one.oid in names}
    streamed = {names[oid] for oid in point.streamed if oid in names}
    cut, run = point.resolution.cut, point.resolution.run
    if cut is None or run is None:
        return sizes
    parts = {part.backup for part in run.parts}
    since = clock.parse(targets.shown_time(point.resolution.base.at - 3600 * 1_000_000))
    for one in transactions(repository, database, Filter(since=since), sink=sink):
        if one.lsn > cut.commit_lsn and one.backup in parts:
            break
        if one.backup not in parts or point.resolution.base.sees(one.xid):
            continue
        for name, changes in one.tables.items():
            if name in streamed:
                held = 0 if changes.truncated else sizes.get(name, 0)
                sizes[name] = held + changes.inserted - changes.deleted
    return sizes


def _why(found: Proposal) -> str:
    cut = found.resolution.cut
    held = f"the last transaction kept is {cut}" if cut else "no transaction of the log is kept"
    if found.target.before_xid is not None:
        return (
            f"{held}. A point by its commit, not by the clock: transactions that committed in the "
            "same instant stay apart"
        )
    return f"{held}"


def _count(tables: dict[str, TableDifference], one: Transaction, *, is_bad: bool) -> None:
    for name, changes in one.tables.items():
        found = tables.setdefault(name, TableDifference(name, None, None))
        into = found.bad if is_bad else found.good
        into.inserted += changes.inserted
        into.updated += changes.updated
        into.deleted += changes.deleted
        into.truncated = into.truncated or changes.truncated
        found.bad_transactions += is_bad
        found.good_transactions += not is_bad


def _count_now(dsn: str, tables: dict[str, TableDifference]) -> None:
    try:
        with open_control(dsn) as conn, translated("source", doing="counting rows"):
            rows = conn.execute(
                b"SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
                b" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
                b" WHERE c.relkind = 'r'"
            ).fetchall()
            for schema, name in rows:
                found = tables.get(shown(str(schema), str(name)))
                if found is not None:
                    relation = quoted(str(schema), str(name))
                    row = conn.execute(f"SELECT count(*) FROM ONLY {relation}".encode()).fetchone()
                    found.rows_now = int(str(row[0])) if row else None
    except SourceError:
        return  # the live database may be gone: that is no reason not to propose


def _target_document(target: Target) -> dict[str, Any]:
    names = ("at", "lsn", "xid", "before_xid", "latest", "name")
    return {name: value for name in names if (value := getattr(target, name))}


def _told(one: Transaction) -> str:
    changed = "; ".join(f"{name} {_shown(found)}" for name, found in one.tables.items())
    at, lsn = clock.isoformat(one.commit_at), targets.shown_lsn(one.lsn)
    return f"xid {one.xid} at {at}, LSN {lsn}: {changed or 'no rows'}"


def _shown(found: Changes) -> str:
    parts = [
        f"{sign}{format_count(number)}"
        for sign, number in (("+", found.inserted), ("~", found.updated), ("-", found.deleted))
        if number
    ]
    return " ".join([*parts, *(["truncated"] if found.truncated else [])]) or "no rows"


def _changes(found: Changes) -> dict[str, Any]:
    return {
        "inserted": found.inserted,
        "updated": found.updated,
        "deleted": found.deleted,
        "truncated": found.truncated,
    }
