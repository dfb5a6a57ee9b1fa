"""Which transactions a recovery target means, and which full it starts from. Pure.

A target names a *cut*: the last transaction to apply, in the order of commit LSNs. A full can
serve a cut if every transaction that its snapshot saw lies at or before the cut, if the run
covers its snapshot, and if the schema is known to have been the full's (see ``runs.py``).
Where it changed since, a later look may have found the schema of then: whether rows can be
carried over the change is not decided here. Everything else is refused, with the nearest
targets on both sides that can be met exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aurora import clock
from aurora.engines.logical.marks import REWRITE, changes_schema, point_of
from aurora.engines.logical.moments import (
    Moment,
    parse_lsn,
    parse_moment,
    shown_lsn,
    shown_time,
    to_micros,
)
from aurora.engines.logical.runs import (
    Base,
    Edge,
    Look,
    Marked,
    Part,
    Place,
    Run,
    Stretch,
    Transaction,
    runs_of,
    snapshot_sees,
)
from aurora.errors import RepositoryNotFound, UsageError

__all__ = [  # with what a target is told in, and searched in
    "Base", "Marked", "Moment", "Part", "Place", "Resolution", "Run", "Stretch", "Target",
    "Transaction", "exact_spans", "parse_lsn", "parse_moment", "resolve", "runs_of",
    "shown_lsn", "shown_time", "snapshot_sees", "to_micros",
]  # fmt: skip


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
            "one that was rolled back; the newest are there after the next incremental backup (not "
            "a full that stands in for one). See `aurora log show`.",
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
    ahead = [m for m in run.changes if m.transaction.commit_lsn > applied]
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
