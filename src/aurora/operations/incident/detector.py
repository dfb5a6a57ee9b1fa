"""What is unusual for this database: a pure detector, fed with transactions in commit order.

The same one ranks the transactions of a log after an accident and watches a stream. It
knows each table's size, kept up to date by what it sees, and what is usual there: the
median and the median absolute deviation of the rows that earlier transactions changed.
Memory is bounded by the number of tables. It never acts: it tells.
"""

import contextlib
import json
import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from aurora import clock
from aurora.engines.logical.pgoutput import format_lsn
from aurora.operations.log import Changes, Transaction
from aurora.units import format_count

_REMEMBERED = 256  # counts a table and kind
_MAD = 1.4826  # makes the deviation comparable to a standard deviation
_BURST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on something is told."""

    rows: int = 1000  # deleted by one transaction, or in one minute
    share: float = 0.2  # of the table's rows deleted
    rewritten: float = 0.9  # of the table's rows updated: an UPDATE without WHERE
    deviations: float = 8.0  # beyond the median
    warm_up: int = 20  # transactions of a kind that a baseline needs
    floor: int = 50  # rows below which a deviation means nothing
    canaries: frozenset[str] = frozenset()  # tables that nobody changes


@dataclass(slots=True)
class Suspicion:
    """A transaction, or a run of them within a minute, that looks like an accident."""

    xid: int
    at: datetime
    lsn: int  # where the commit record begins
    end_lsn: int
    tables: dict[str, Changes]
    rows_before: dict[str, int]
    score: float
    severity: str  # critical, high, medium
    reasons: list[str]
    transactions: int = 1
    last_xid: int = 0  # of a run
    last_at: datetime | None = None
    backup: str = ""
    messages: list[str] = field(default_factory=list)

    @property
    def rows_lost(self) -> int:
        """Rows deleted, and those that a truncate took."""
        return sum(
            one.deleted + (self.rows_before.get(name, 0) if one.truncated else 0)
            for name, one in self.tables.items()
        )

    def document(self) -> dict[str, Any]:
        """For ``--json`` and the record."""
        return {
            "xid": self.xid,
            "commit_at": clock.isoformat(self.at),
            "lsn": format_lsn(self.lsn),
            "end_lsn": format_lsn(self.end_lsn),
            "transactions": self.transactions,
            "last_xid": self.last_xid or self.xid,
            "last_at": clock.isoformat(self.last_at or self.at),
            "score": f"{self.score:.0f}",
            "severity": self.severity,
            "reasons": self.reasons,
            "rows_lost": self.rows_lost,
            "tables": {
                name: {
                    "inserted": one.inserted, "updated": one.updated, "deleted": one.deleted,
                    "truncated": one.truncated, "rows_before": self.rows_before.get(name),
                }
                for name, one in self.tables.items()
            },
            "backup": self.backup,
            "messages": self.messages,
        }  # fmt: skip


@dataclass(slots=True)
class _Table:
    size: int | None
    deleted: deque[int] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    updated: deque[int] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    by_minute: deque[int] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    minute: "_Minute | None" = None


@dataclass(slots=True)
class _Minute:
    """Rows deleted from one table within the minute that is open."""

    first: Transaction
    last: Transaction
    deleted: int
    transactions: int
    size: int | None
    told: bool = False  # one transaction of it was told alone


class Detector:
    """Feed it every transaction; it answers with what is suspicious.

    Args:
        sizes: rows of each table (``schema.table``) when the first transaction comes.
    """

    def __init__(self, sizes: Mapping[str, int], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._tables = {name: _Table(size) for name, size in sizes.items()}

    def know(self, sizes: Mapping[str, int]) -> None:
        """Correct the tables' sizes, where a newer count is at hand."""
        for name, size in sizes.items():
            self._table(name).size = size

    def size(self, name: str) -> int | None:
        """The rows of a table as far as they are known."""
        found = self._tables.get(name)
        return found.size if found else None

    def see(self, one: Transaction) -> list[Suspicion]:
        """Take a transaction in. Mostly the answer is empty."""
        found = list(self._bursts(one))
        score, reasons, before = 0.0, [], {}
        for name, changes in one.tables.items():
            table = self._table(name)
            if table.size is not None:
                before[name] = table.size
            points, why = self._judge(name, table, changes)
            score = max(score, points) + min(score, points) / 10
            reasons += why
            self._remember(table, changes, one, told=points > 0)
        for text in one.messages:
            if text.startswith("ddl"):
                points, why = _ddl(text)
                score, reasons = max(score, points), [*reasons, *why]
        if reasons:
            found.append(
                Suspicion(
                    one.xid, one.commit_at, one.lsn, one.end_lsn, one.tables, before, score,
                    _severity(score), reasons, backup=one.backup, messages=list(one.messages),
                )
            )  # fmt: skip
        return found

    def finish(self) -> list[Suspicion]:
        """What the minutes that are still open show."""
        return [told for name in self._tables if (told := self._close(name)) is not None]

    def _table(self, name: str) -> _Table:
        found = self._tables.get(name)
        if found is None:
            found = self._tables[name] = _Table(None)
        return found

    def _judge(self, name: str, table: _Table, changes: Changes) -> tuple[float, list[str]]:
        limits, size = self.limits, table.size
        points, reasons = 0.0, []
        if name in limits.canaries:
            points = 100.0
            reasons.append(f"{name} is a canary: nobody changes it")
        if changes.truncated:
            lost = "" if size is None else f", which held {format_count(size)} rows"
            points = max(points, 60 + 35 * _weight(size or 0))
            reasons.append(f"{name} was truncated{lost}")
        if changes.deleted:
            more, why = self._deleted(name, table, changes)
            points, reasons = max(points, more), [*reasons, *why]
        if changes.updated:
            more, why = self._updated(name, table, changes)
            points, reasons = max(points, more), [*reasons, *why]
        return points, reasons

    def _deleted(self, name: str, table: _Table, changes: Changes) -> tuple[float, list[str]]:
        limits, count = self.limits, changes.deleted
        # Rows that come and go in one transaction are no loss.
        share = _share(count, table.size, changes.inserted)
        reasons = []
        if share >= limits.share and count >= 3 and changes.inserted < count:
            reasons.append(
                f"{format_count(count)} of {format_count(table.size or 0)} rows of {name} deleted"
                f" ({share:.0%})"
            )
        odd = self._deviation(table.deleted, count)
        if count >= limits.rows and (odd or len(table.deleted) < limits.warm_up):
            reasons.append(f"{format_count(count)} rows of {name} deleted at once")
        if odd:
            usual = format_count(round(median(table.deleted)))
            reasons.append(f"transactions that delete from {name} delete {usual} rows as a rule")
        if not reasons:
            return 0.0, []
        known = 55 * share * _weight(count, full=100) if table.size else 0.0
        return known + 25 * _weight(count) + min(odd, 100) / 10 + 5, reasons

    def _updated(self, name: str, table: _Table, changes: Changes) -> tuple[float, list[str]]:
        limits, count = self.limits, changes.updated
        share = _share(count, table.size, 0)
        reasons = []
        if share >= limits.rewritten and count >= 10:
            reasons.append(
                f"{format_count(count)} of {format_count(table.size or 0)} rows of {name} updated"
                f" ({share:.0%}): an UPDATE without WHERE?"
            )
        odd = self._deviation(table.updated, count)
        if odd:
            usual = format_count(round(median(table.updated)))
            reasons.append(
                f"{format_count(count)} rows of {name} updated; transactions that update it "
                f"update {usual} as a rule"
            )
        if not reasons:
            return 0.0, []
        return 40 * share * _weight(count, full=100) + 20 * _weight(count) + min(odd, 100) / 10, (
            reasons
        )

    def _deviation(self, history: deque[int], count: int) -> float:
        """By how many deviations *count* is beyond what is usual; 0 where it is not."""
        if count < self.limits.floor or len(history) < self.limits.warm_up:
            return 0.0
        middle = median(history)
        if count < 4 * middle:
            return 0.0
        spread = _MAD * median(abs(one - middle) for one in history)
        odd = (count - middle) / max(spread, middle / 4, 1.0)
        return odd if odd >= self.limits.deviations else 0.0

    def _remember(self, table: _Table, changes: Changes, one: Transaction, *, told: bool) -> None:
        if changes.truncated:
            table.size = 0
        if changes.deleted:
            table.deleted.append(changes.deleted)
            self._count(table, changes.deleted, one, told=told)
        if changes.updated:
            table.updated.append(changes.updated)
        if table.size is not None:
            table.size = max(table.size + changes.inserted - changes.deleted, 0)

    def _count(self, table: _Table, deleted: int, one: Transaction, *, told: bool) -> None:
        minute = table.minute
        if minute is None:
            table.minute = _Minute(one, one, deleted, 1, table.size, told)
            return
        minute.last, minute.told = one, minute.told or told
        minute.deleted += deleted
        minute.transactions += 1

    def _bursts(self, now: Transaction) -> Iterator[Suspicion]:
        """Close the minutes that are over, of the tables that this transaction touches."""
        for name in now.tables:
            minute = self._table(name).minute
            if minute is not None:
                age = (now.commit_at - minute.first.commit_at).total_seconds()
                if age >= _BURST_SECONDS and (told := self._close(name)) is not None:
                    yield told

    def _close(self, name: str) -> Suspicion | None:
        table = self._table(name)
        minute, table.minute = table.minute, None
        if minute is None:
            return None
        odd = self._deviation(table.by_minute, minute.deleted)
        share = _share(minute.deleted, minute.size, 0)
        usual = len(table.by_minute) >= self.limits.warm_up and not odd
        table.by_minute.append(minute.deleted)
        big = share >= self.limits.share and minute.deleted >= self.limits.floor
        if minute.told or minute.transactions < 3 or usual or not (big or odd):
            return None
        count = format_count(minute.deleted)
        reasons = [
            f"{count} rows of {name} deleted within a minute by "
            f"{format_count(minute.transactions)} transactions"
            + (f" ({share:.0%} of the table)" if minute.size else "")
        ]
        score = 45 * share + 20 * _weight(minute.deleted) + min(odd, 100) / 10
        first, last = minute.first, minute.last
        changes = {name: Changes(0, 0, minute.deleted)}
        return Suspicion(
            first.xid, first.commit_at, first.lsn, last.end_lsn, changes,
            {} if minute.size is None else {name: minute.size}, score, _severity(score), reasons,
            minute.transactions, last.xid, last.commit_at, first.backup,
        )  # fmt: skip


def _share(count: int, size: int | None, inserted: int) -> float:
    """Of the rows that were there; 0 where that is not known."""
    if not size:
        return 0.0
    return min(max(count - inserted, 0) / size, 1.0)


def _weight(count: int, *, full: int = 1_000_000) -> float:
    """0 to 1: how much a number of rows weighs, by its digits."""
    return min(math.log10(1 + max(count, 0)) / math.log10(1 + full), 1.0)


def _severity(score: float) -> str:
    return "critical" if score >= 60 else "high" if score >= 35 else "medium"


def _ddl(text: str) -> tuple[float, list[str]]:
    """A mark that says what was done to the schema."""
    told = text.partition(" ")[2]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        told = str(json.loads(told)["tag"])  # as the markers of the change log have it
    dropped = told.upper().startswith("DROP")
    return (70.0 if dropped else 30.0), [f"the schema was changed: {told[:200]}"]


def ranked(suspicions: Collection[Suspicion], *, most: int) -> list[Suspicion]:
    """The most suspicious first."""
    return sorted(suspicions, key=lambda one: (-one.score, one.lsn))[:most]
