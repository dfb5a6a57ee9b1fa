"""The change log of one slot as runs of transactions, and what is known of the schema along them.

A *run* is parts that follow one another without a gap, made of stretches (segments) of
transactions in commit order. Stretches tell the range of what they hold, and give their
transactions only when asked.

What is known of the schema: backups *look* at it, and markers (see ``ddl.py``) stand where it
changed. Between two looks that found the same it is the same, but for what lies between the
first and the last marker there. After a look it is the same up to the first marker, if a
later look found the markers untouched; only then does silence say anything. Pure.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from aurora.engines.logical.marks import changes_schema
from aurora.engines.logical.moments import shown_lsn, shown_time

# Commit times are taken before a commit's place in the log, so they may run backwards there.
CLOCK_SLACK = 60_000_000  # microseconds


@dataclass(frozen=True, slots=True)
class Transaction:
    """A committed transaction of the log."""

    xid: int  # 32 bits
    commit_lsn: int
    end_lsn: int
    at: int  # commit time, microseconds since 2000-01-01 UTC as the server counts

    def __str__(self) -> str:
        return f"xid {self.xid} at {shown_time(self.at)}, LSN {shown_lsn(self.commit_lsn)}"


@dataclass(frozen=True, slots=True)
class Stretch:
    """The transactions that commit inside one segment; times are of the first and last."""

    first_lsn: int
    end_lsn: int
    first_at: int
    last_at: int
    min_xid: int
    max_xid: int
    count: int
    load: Callable[[], Sequence[Transaction]] = field(repr=False)

    def may_hold_xid(self, xid: int) -> bool:
        """Whether *xid* lies between its least and greatest, around the circle."""
        return ((xid - self.min_xid) & 0xFFFFFFFF) <= ((self.max_xid - self.min_xid) & 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Marked:
    """A mark of Aurora in the log, and its transaction (whose ``end_lsn`` is not known: 0)."""

    text: str  # see ``marks.py``
    transaction: Transaction
    place: int  # where the mark itself lies in the WAL


@dataclass(frozen=True, slots=True)
class Part:
    """What one backup holds of the log."""

    backup: str
    from_lsn: int
    to_lsn: int
    to_at: int
    fingerprint: str
    stretches: tuple[Stretch, ...] = ()
    marks: tuple[Marked, ...] = ()
    markers: str = ""  # the state of the markers, "" where there are none
    sees: Callable[[int], bool] | None = field(default=None, repr=False)  # of its look
    is_piece: bool = False  # of a stream: it looked at the schema, and does not hold it


@dataclass(frozen=True, slots=True)
class Base:
    """A full that the log leans on."""

    backup: str
    from_lsn: int  # the slot's position when it was made
    lsn: int  # read right after the snapshot: every transaction that it saw committed before
    at: int
    fingerprint: str
    sees: Callable[[int], bool] = field(repr=False)  # a Begin's xid in its snapshot?
    markers: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What a backup found the schema to be, and when."""

    backup: str
    lsn: int
    at: int
    fingerprint: str
    markers: str
    sees: Callable[[int], bool] | None = field(repr=False)
    is_piece: bool = False

    def is_after(self, marked: Marked) -> bool:
        """Whether a marked transaction was over when it looked."""
        if self.sees is not None:
            return self.sees(marked.transaction.xid)
        return marked.transaction.commit_lsn <= self.lsn


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a range of exact targets begins or ends: at a look, or at a marked change."""

    lsn: int
    at: int
    backup: str = ""  # of the look
    change: Marked | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """Targets whose schema is known; ``end`` is the last one, or the first that is none.

    ``look`` is the backup that found the schema after the change at ``start``: what its
    fingerprint does not tell is as of then.
    """

    start: Edge
    end: Edge
    look: str = ""

    def holds(self, place: "Place") -> bool:
        applied = place.cut.commit_lsn if place.cut else 0
        if self.start.change:
            begun = applied >= self.start.lsn
        else:
            begun = place.reaches(self.start.lsn, self.start.at)
        if self.end.change:
            return begun and applied < self.end.lsn
        return begun and not place.exceeds(self.end.lsn, self.end.at)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target stands: after *cut*, and measured by its time or by its LSN."""

    cut: Transaction | None
    at: int | None = None
    lsn: int = 0

    def reaches(self, lsn: int, at: int) -> bool:
        """Whether it is not before this moment of the source."""
        return self.lsn >= lsn if self.at is None else self.at >= at

    def exceeds(self, lsn: int, at: int) -> bool:
        """Whether it is after this moment of the source."""
        return self.lsn > lsn if self.at is None else self.at > at


class Run:
    """Parts without a gap between them, oldest first, and the fulls that hang on them."""

    def __init__(
        self, parts: Sequence[Part], bases: Sequence[Base] = (), *, others: Sequence[Base] = ()
    ) -> None:
        """*others* are fulls that only say what the schema was."""
        self.parts = tuple(parts)
        self._others = tuple(others)
        self.bases = tuple(sorted(bases, key=lambda base: base.lsn))
        self.stretches = tuple(stretch for part in parts for stretch in part.stretches)
        # Once each, also where a run that died had read them before.
        self.marks = tuple(
            sorted(
                {m for p in parts for m in p.marks},
                key=lambda m: (m.transaction.commit_lsn, m.place),
            )
        )
        self.changes = tuple(one for one in self.marks if changes_schema(one.text))
        self.from_lsn = min(part.from_lsn for part in parts)
        self.to_lsn = max(part.to_lsn for part in parts)
        self.to_at = max(part.to_at for part in parts)

    def last(self) -> Transaction | None:
        return self._last_where(lambda stretch: stretch.count > 0, lambda _: True)

    def last_by_time(self, at: int) -> Transaction | None:
        """The last in commit order that committed at or before *at*."""
        return self._last_where(
            lambda s: s.count > 0 and min(s.first_at, s.last_at) - CLOCK_SLACK <= at,
            lambda found: found.at <= at,
        )

    def last_by_lsn(self, lsn: int) -> Transaction | None:
        """The last whose commit record begins at or before *lsn*."""
        return self._last_where(
            lambda s: s.count > 0 and s.first_lsn <= lsn, lambda found: found.commit_lsn <= lsn
        )

    def by_xid(self, xid: int) -> Transaction | None:
        """The newest with this xid."""
        low = xid & 0xFFFFFFFF
        return self._last_where(
            lambda s: s.count > 0 and s.may_hold_xid(low), lambda found: found.xid == low
        )

    def previous(self, to: Transaction) -> Transaction | None:
        return self._last_where(
            lambda s: s.count > 0 and s.first_lsn < to.commit_lsn,
            lambda found: found.commit_lsn < to.commit_lsn,
        )

    def later(self, than: Transaction | None, until: int | None = None) -> Iterator[Transaction]:
        """Those after *than* in commit order, once each, before LSN *until*."""
        reached = than.commit_lsn if than else 0
        for stretch in self.stretches:
            if stretch.end_lsn <= reached or (until is not None and stretch.first_lsn > until):
                continue
            for found in stretch.load():
                if found.commit_lsn > reached and (until is None or found.commit_lsn < until):
                    reached = found.commit_lsn
                    yield found

    def count_later(self, than: Transaction | None) -> int:
        """How many are after *than*; only the stretch that holds it is opened."""
        reached = than.commit_lsn if than else 0
        total, end = 0, 0
        for stretch in self.stretches:
            if stretch.end_lsn <= max(reached, end) or not stretch.count:
                continue  # an equal stretch may be there twice
            end = stretch.end_lsn
            if stretch.first_lsn > reached:
                total += stretch.count
            else:
                total += sum(1 for found in stretch.load() if found.commit_lsn > reached)
        return total

    def _last_where(
        self, may: Callable[[Stretch], bool], fits: Callable[[Transaction], bool]
    ) -> Transaction | None:
        for stretch in reversed(self.stretches):
            if may(stretch):
                for found in reversed(stretch.load()):
                    if fits(found):
                        return found
        return None

    def covers(self, base: Base) -> bool:
        """Whether it holds every transaction that the full may or may not have seen."""
        return self.from_lsn <= base.from_lsn and base.lsn <= self.to_lsn

    def last_seen(self, base: Base) -> Transaction | None:
        """The last in commit order that the full's snapshot saw."""
        seen = None
        for found in self.later(None, base.lsn):
            if base.sees(found.xid):
                seen = found
        return seen

    def looks(self) -> list[Look]:
        """Every look at the schema, in the order of the log."""
        found = [
            Look(p.backup, p.to_lsn, p.to_at, p.fingerprint, p.markers, p.sees, p.is_piece)
            for p in self.parts
            if p.fingerprint
        ]
        found += [Look(b.backup, b.lsn, b.at, b.fingerprint, b.markers, b.sees) for b in self.bases]
        return sorted(found, key=lambda look: (look.lsn, look.at))

    def ranges(self, base: Base) -> list[Range]:
        """Where the schema is known to be the one that *base* holds."""
        looks = self.looks()
        own = next(i for i, look in enumerate(looks) if look.backup == base.backup)
        first = last = own
        while first and looks[first - 1].fingerprint == base.fingerprint:
            first -= 1
        while last + 1 < len(looks) and looks[last + 1].fingerprint == base.fingerprint:
            last += 1
        same = looks[first : last + 1]
        found: list[Range] = []
        start, after = _edge(same[0]), ""
        for one, other in itertools.pairwise(same):
            between = [m for m in self.changes if other.is_after(m) and not one.is_after(m)]
            if between:
                found.append(Range(start, _at_change(between[0]), after))
                start, after = _at_change(between[-1]), "" if other.is_piece else other.backup
        found.append(Range(start, self._end(same, looks[last + 1 :]), after))
        return found

    def _end(self, same: Sequence[Look], later: Sequence[Look]) -> Edge:
        """How long the schema is known to have stayed as the looks *same* found it."""
        known = {look.markers for look in same if look.markers}
        after = [m for m in self.changes if not same[-1].is_after(m)]
        trusted = any(
            other.markers in known and after and other.is_after(after[0]) for other in later
        )
        if trusted:
            return _at_change(after[0])
        if not later and not after:
            # Stored when the source could not be asked any more: nothing says that it changed.
            unseen = [p for p in self.parts if not p.fingerprint and p.to_lsn > same[-1].lsn]
            if unseen:
                return Edge(unseen[-1].to_lsn, max(unseen[-1].to_at, same[-1].at))
        return _edge(same[-1])


def _edge(look: Look) -> Edge:
    return Edge(look.lsn, look.at, look.backup)


def _at_change(marked: Marked) -> Edge:
    return Edge(marked.transaction.commit_lsn, marked.transaction.at, change=marked)


def runs_of(parts: Sequence[Part], bases: Sequence[Base]) -> list[Run]:
    """Put the parts of one slot together, oldest run first; a full stands where it began."""
    zero = [Part(b.backup, b.from_lsn, b.from_lsn, b.at, b.fingerprint) for b in bases]
    fulls = {base.backup for base in bases}
    groups: list[list[Part]] = []
    reached = -1
    in_order = sorted([*parts, *zero], key=lambda part: (part.from_lsn, part.to_lsn, part.to_at))
    for part in in_order:
        if not groups or part.from_lsn > reached:
            groups.append([])
            reached = part.to_lsn
        groups[-1].append(part)
        reached = max(reached, part.to_lsn)
    found = []
    for group in groups:
        inside = {part.backup for part in group}
        # What stood in for a full's own place says nothing of the log.
        real = [part for part in group if part.backup not in fulls]
        found.append(Run(real or group, [base for base in bases if base.backup in inside]))
    return found


def snapshot_sees(snapshot: str) -> Callable[[int], bool]:
    """Whether a Begin's 32-bit xid is visible in ``pg_current_snapshot()``'s text.

    Raises ValueError where the text is no snapshot.
    """
    xmin_text, xmax_text, running_text = snapshot.split(":")
    xmin, xmax = int(xmin_text), int(xmax_text)
    running = frozenset(int(text) for text in running_text.split(",") if text)

    def sees(xid: int) -> bool:
        # The snapshot counts in 64 bits: the xid is the nearest such one to its end.
        whole = xmax + ((xid - xmax + 0x80000000) & 0xFFFFFFFF) - 0x80000000
        return whole < xmin or (whole < xmax and whole not in running)

    return sees
