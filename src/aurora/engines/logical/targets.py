"""Which transactions a recovery target means, and which full it starts from. Pure.

The change log of one slot is a *run*: parts that follow one another without a gap, made of
stretches (segments) of transactions in commit order. A target names a *cut*: the last
transaction to apply, in the order of commit LSNs. A full can serve a cut if every
transaction that its snapshot saw lies at or before the cut, if the run covers its snapshot,
and if the schema is known to have been the full's. Everything else is refused, with the
nearest targets on both sides that can be met exactly.

What is known of the schema: backups *look* at it, and markers (see ``ddl.py``) stand where it
changed. Between two looks that found the same it is the same, but for what lies between the
first and the last marker there. After a look it is the same up to the first marker, if a
later look found the markers untouched; only then does silence say anything.

Stretches tell the range of what they hold, and give their transactions only when asked, so
that resolving a target opens a few segments and not the whole log.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo

from aurora import clock
from aurora.engines.logical.marks import REWRITE, changes_schema, point_of
from aurora.errors import RepositoryNotFound, UsageError

# Commit times are taken before a commit's place in the log, so they may run backwards there.
CLOCK_SLACK = 60_000_000  # microseconds
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z")


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
class Target:
    """A moment to recover to; exactly one is set."""

    at: int | None = None  # microseconds since 2000 UTC
    lsn: int | None = None
    xid: int | None = None
    before_xid: int | None = None
    latest: bool = False
    name: str = ""  # of a restore point

    def __str__(self) -> str:
        if self.name:
            return f"restore point {self.name}"
        if self.at is not None:
            return shown_time(self.at)
        if self.lsn is not None:
            return f"LSN {shown_lsn(self.lsn)}"
        if self.xid is not None:
            return f"transaction {self.xid}"
        if self.before_xid is not None:
            return f"just before transaction {self.before_xid}"
        return "the latest"


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


@dataclass(frozen=True, slots=True)
class Resolution:
    """A target that can be met exactly."""

    base: Base
    run: "Run | None"  # None: the full itself, nothing to apply
    place: Place
    after: Transaction | None  # the first that is left out
    lost: int  # transactions of the log after the cut
    schema: str = ""  # the backup whose schema it is then, where it is not the full's
    archive: str = ""  # a backup that found the full's schema again after a change
    passed: tuple[Marked, ...] = ()  # changes (and rewrites) between the full and the cut
    nearest: tuple[str, ...] = ()  # exact targets on both sides, if those cannot be carried

    @property
    def cut(self) -> Transaction | None:
        """The last transaction to apply; None: none of the log."""
        return self.place.cut


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
            between = [m for m in self.changes() if other.is_after(m) and not one.is_after(m)]
            if between:
                found.append(Range(start, _at_change(between[0]), after))
                start, after = _at_change(between[-1]), "" if other.is_piece else other.backup
        found.append(Range(start, self._end(same, looks[last + 1 :]), after))
        return found

    def _end(self, same: Sequence[Look], later: Sequence[Look]) -> Edge:
        """How long the schema is known to have stayed as the looks *same* found it."""
        known = {look.markers for look in same if look.markers}
        after = [m for m in self.changes() if not same[-1].is_after(m)]
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

    def changes(self) -> list[Marked]:
        """The marked changes of the schema, in commit order."""
        return [marked for marked in self.marks if changes_schema(marked.text)]


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


def resolve(target: Target, runs: Sequence[Run], *, full: str = "") -> Resolution:
    """The full and the cut that meet *target* exactly.

    Args:
        full: id of the one full to start from; by default the newest that serves.

    Raises:
        RepositoryNotFound: there is no log, no such transaction or restore point in it, or
            *full* has no place in it.
        UsageError: the target cannot be met exactly; the hint names the nearest that can. Or
            several restore points have the name; the hint tells them apart.
    """
    if not any(run.bases for run in runs):
        raise RepositoryNotFound(
            "no full backup with a change log behind it",
            hint="Run `aurora source prepare`, a full backup, and incremental backups after it. "
            "Until then `aurora backup restore` restores whole backups.",
        )
    if full:
        runs = _on_one(runs, full)
    if target.name:
        run, found_point = _point(target.name, runs)
        runs = [run]
        target = replace(target, lsn=found_point.commit_lsn)
    if target.latest:
        return _latest(runs)
    named = target.xid if target.xid is not None else target.before_xid
    if named is not None and not any(run.by_xid(named) for run in runs):
        raise RepositoryNotFound(
            f"the change log holds no transaction {named}",
            hint=f"{_ranges(runs)} A transaction that changed no table is not in the log, nor is "
            "one that was rolled back. See `aurora log show`.",
        )
    for run in reversed(runs):
        found = _resolve_in(target, run)
        if found is not None:
            return found
    for run in reversed(runs):
        found = _carried_in(target, run)
        if found is not None:
            return replace(found, nearest=_nearest(target, runs))
    raise _refused(target, runs)


def _on_one(runs: Sequence[Run], full: str) -> list[Run]:
    found = [
        Run(
            run.parts,
            [base for base in run.bases if base.backup == full],
            others=[base for base in run.bases if base.backup != full],
        )
        for run in runs
        if any(base.backup == full for base in run.bases)
    ]
    if not found:
        raise RepositoryNotFound(
            f"backup {full} has no place in a change log to recover along",
            hint="Name a full that was made after `aurora source prepare`, or leave it out: then "
            "the newest that serves is taken.",
        )
    return found


def _point(name: str, runs: Sequence[Run]) -> tuple[Run, Transaction]:
    """The one restore point called *name*."""
    points = [(run, point_of(m.text), m.transaction) for run in runs for m in run.marks]
    found = [(run, one) for run, called, one in points if called == name]
    if len(found) == 1:
        return found[0]
    if found:
        choices = [str(one) for _, one in found]
        raise UsageError(
            f"{len(found)} restore points are called {name}: {'; '.join(choices)}",
            hint="Nothing was changed. Name the one that you mean by --xid or --lsn.",
            context={"choices": choices},
        )
    choices = [f"{called} ({shown_time(one.at)})" for _, called, one in points if called]
    raise RepositoryNotFound(
        f"the change log holds no restore point {name}",
        hint=(f"It has {', '.join(choices[-20:])}. " if choices else "It has none. ")
        + "One that was marked since the last incremental backup is in the next.",
        context={"choices": choices},
    )


def _resolve_in(target: Target, run: Run) -> Resolution | None:
    place = _place(target, run)
    if place is None:
        return None
    for base in reversed(run.bases):
        ranges = run.ranges(base) if run.covers(base) else []
        inside = next((found for found in ranges if found.holds(place)), None)
        if inside is None or _saw_later(run, base, place):
            continue
        after = next(run.later(place.cut), None)
        return Resolution(base, run, place, after, run.count_later(place.cut), archive=inside.look)
    return None


def _carried_in(target: Target, run: Run) -> Resolution | None:
    """A target after changes of the schema, whose schema a later look found."""
    place = _place(target, run)
    if place is None or place.exceeds(run.to_lsn, run.to_at):
        return None
    for base in reversed(run.bases):
        look = _look_after(run, base, place) if run.covers(base) else None
        if look is None or not place.reaches(base.lsn, base.at) or _saw_later(run, base, place):
            continue
        applied = place.cut.commit_lsn if place.cut else 0
        passed = tuple(
            m
            for m in run.marks
            if m.transaction.commit_lsn <= applied
            and not base.sees(m.transaction.xid)
            and (changes_schema(m.text) or m.text.startswith(REWRITE))
        )
        after = next(run.later(place.cut), None)
        lost = run.count_later(place.cut)
        return Resolution(base, run, place, after, lost, look.backup, passed=passed)
    return None


def _look_after(run: Run, base: Base, place: Place) -> Look | None:
    """The first look after the target that found the schema of then, and untouched markers.

    What only changes a publication changes no schema.
    """
    applied = place.cut.commit_lsn if place.cut else 0
    ahead = [m for m in run.changes() if m.transaction.commit_lsn > applied]
    for look in run.looks():
        if (
            look.sees is None
            or look.is_piece
            or place.exceeds(look.lsn, look.at)
            or look.lsn > run.to_lsn
        ):
            continue
        if not base.markers or look.markers != base.markers:
            continue
        if any(look.is_after(m) and "PUBLICATION" not in m.text for m in ahead):
            return None  # nor is any later look of the schema of then
        return look
    return None


def _saw_later(run: Run, base: Base, place: Place) -> bool:
    """Whether the full's snapshot saw what comes after the target."""
    return any(base.sees(found.xid) for found in run.later(place.cut, base.lsn))


def _place(target: Target, run: Run) -> Place | None:
    """Where *target* stands in *run*; None: a transaction that is not in it."""
    if target.at is not None:
        return Place(run.last_by_time(target.at), at=target.at)
    if target.lsn is not None:
        return Place(run.last_by_lsn(target.lsn), lsn=target.lsn)
    found = run.by_xid(target.xid if target.xid is not None else target.before_xid or 0)
    if found is None:
        return None
    if target.xid is not None:
        return Place(found, lsn=found.commit_lsn)
    return Place(run.previous(found), lsn=found.commit_lsn - 1)


def _latest(runs: Sequence[Run]) -> Resolution:
    newest_run = next(run for run in reversed(runs) if run.bases)
    newest = newest_run.bases[-1]
    if not newest_run.covers(newest):
        return Resolution(newest, None, Place(None, lsn=newest.lsn), None, 0)
    place = Place(newest_run.last(), lsn=newest_run.to_lsn)
    if not any(found.holds(place) for found in newest_run.ranges(newest)):
        raise _refused(Target(latest=True), runs)
    return Resolution(newest, newest_run, place, None, 0)


@dataclass(frozen=True, slots=True)
class _Exact:
    """A target that can be met, in every measure."""

    at: int
    lsn: int
    words: str


def _exact_ranges(runs: Sequence[Run]) -> list[tuple[_Exact, _Exact]]:
    """First and last exact target of every full, and around the changes that it spans."""
    return [pair for run in runs for base in run.bases for pair in _exact_of(run, base)]


def _exact_of(run: Run, base: Base) -> list[tuple[_Exact, _Exact]]:
    if not run.covers(base):
        alone = _Exact(base.at, base.lsn, f"{shown_time(base.at)} (full {base.backup})")
        return [(alone, alone)]
    seen = run.last_seen(base)
    at = max(base.at, seen.at if seen else 0)
    own = _Exact(at, base.lsn, f"{shown_time(at)} (full {base.backup})")
    found = []
    for one in run.ranges(base):
        high = _last_exact(run, one.end)
        if high.lsn >= own.lsn:
            low = own if one.start.lsn <= own.lsn else _first_exact(one.start)
            found.append((low, high))
    return found or [(own, own)]


def exact_spans(run: Run, base: Base) -> list[tuple[int, int]]:
    """First and last moments, in microseconds, between which *base* serves any target."""
    return [(low.at, max(low.at, high.at)) for low, high in _exact_of(run, base)]


def _first_exact(edge: Edge) -> _Exact:
    if edge.change is None:
        return _Exact(edge.at, edge.lsn, f"{shown_time(edge.at)} (backup {edge.backup})")
    one = edge.change.transaction
    return _Exact(one.at, one.commit_lsn, f"{shown_time(one.at)} (the change of xid {one.xid})")


def _last_exact(run: Run, edge: Edge) -> _Exact:
    if edge.change is None:
        cut, lsn, at = run.last_by_lsn(edge.lsn), edge.lsn, edge.at
    else:
        cut, lsn = run.previous(edge.change.transaction), edge.lsn - 1
        at = cut.at if cut else edge.at - 1
    words = shown_time(at) + (f" (last transaction {cut})" if cut else "")
    if edge.change is not None:
        words += f", before a schema change by xid {edge.change.transaction.xid}"
    return _Exact(at, lsn, words)


def _nearest(target: Target, runs: Sequence[Run]) -> tuple[str, ...]:
    """The exact targets next to *target*, in words: before it, and after it."""
    ranges = _exact_ranges(runs)
    by_time, value = _measure(target, runs)

    def key(exact: _Exact) -> int:
        return exact.at if by_time else exact.lsn

    below = [exact for pair in ranges for exact in pair if key(exact) < value]
    above = [exact for pair in ranges for exact in pair if key(exact) > value]
    nearest = []
    if below:
        nearest.append(f"nearest before: {max(below, key=key).words}")
    if above:
        nearest.append(f"nearest after: {min(above, key=key).words}")
    return tuple(nearest)


def _refused(target: Target, runs: Sequence[Run]) -> UsageError:
    by_time, value = _measure(target, runs)
    nearest = _nearest(target, runs)
    below = any("before" in words[:14] for words in nearest)
    above = any("after" in words[:14] for words in nearest)
    why, do = "the schema changed there, or the log has a gap", ""
    if not above and by_time and value > to_micros(clock.now()):
        why, do = f"it is in the future (now it is {clock.isoformat(clock.now())})", ""
    elif not above:
        why = "the change log does not reach so far yet"
        do = " `aurora backup create --type incremental` brings it up to now; --latest recovers to its end."  # noqa: E501
    elif not below:
        why = "it is before the first full backup with a place in the change log"
        do = " `aurora backup list` shows older backups, which can be restored as they are."
    return UsageError(
        f"{target} cannot be met exactly: {why}",
        hint=f"Nothing was changed. {_ranges(runs)} The {'; the '.join(nearest)}.{do}"
        if nearest else "Nothing was changed.",
        context={
            "nearest": list(nearest),
            "window": [[low.words, high.words] for low, high in _exact_ranges(runs)],
        },
    )  # fmt: skip


def _measure(target: Target, runs: Sequence[Run]) -> tuple[bool, int]:
    """Whether to compare by time, and the target's place."""
    if target.at is not None:
        return True, target.at
    if target.lsn is not None:
        return False, target.lsn
    named = target.xid if target.xid is not None else target.before_xid
    if named is not None:
        for run in reversed(runs):
            found = run.by_xid(named)
            if found is not None:
                return False, found.commit_lsn
    return False, max(run.to_lsn for run in runs)


def _ranges(runs: Sequence[Run]) -> str:
    told = [f"{low.words} to {high.words}" for low, high in _exact_ranges(runs)]
    return f"It reaches from {'; from '.join(told[-3:])}." if told else ""


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


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as a person wrote it."""

    text: str
    when: datetime  # naive where it was written without a zone
    is_date: bool  # a date alone: its first moment

    @property
    def zoned(self) -> bool:
        return self.when.tzinfo is not None

    def micros(self, zone: tzinfo | None = UTC) -> int:
        """Microseconds since 2000; *zone* where it has none, None for this machine's own.

        Raises UsageError where it is outside of what a calendar has.
        """
        try:
            aware = self.when
            if not self.zoned:
                aware = aware.astimezone() if zone is None else aware.replace(tzinfo=zone)
            return to_micros(aware.astimezone(UTC))
        except (OverflowError, OSError, ValueError) as error:
            raise _no_time(self.text) from error


def parse_moment(text: str) -> Moment:
    """An ISO 8601 time, with or without zone. Raises UsageError.

    A blank may stand for the T, and one before the zone; ``UTC`` for Z.
    """
    plain = re.sub(r"\s*(?:UTC|GMT)$", "Z", text.strip().upper())
    plain = re.sub(r"\s+(?=[+-]\d\d(?::?\d\d)?$|Z$)", "", plain)
    try:
        when = datetime.fromisoformat(plain)
    except ValueError as error:
        raise _no_time(text) from error
    moment = Moment(text.strip(), when, re.fullmatch(r"[\dW-]+", plain) is not None)
    moment.micros()
    return moment


def _no_time(text: str) -> UsageError:
    return UsageError(
        f"not a time: {text[:60]!r}",
        hint="Nothing was changed. Write it as 2024-01-09T12:00:00Z, or with an offset as "
        "2024-01-09 12:00:00+02:00.",
    )


def parse_lsn(text: str) -> int:
    """``0/16B3748`` as a number. Raises UsageError."""
    found = _LSN.match(text.strip())
    if found is None:
        raise UsageError(f"not an LSN: {text[:40]!r}", hint="An LSN looks like 0/16B3748.")
    return int(found[1], 16) << 32 | int(found[2], 16)


def shown_lsn(lsn: int) -> str:
    """An LSN as the server writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def to_micros(moment: datetime) -> int:
    """An aware time as microseconds since 2000."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def shown_time(micros: int) -> str:
    """ISO 8601 in UTC."""
    return clock.isoformat(_EPOCH + timedelta(microseconds=micros))
