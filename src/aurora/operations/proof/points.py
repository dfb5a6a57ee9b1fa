"""Which points in time a recovery test goes to.

A random one, by chance among all transactions of the change log, so that every moment of the
window is tried sooner or later. And one where the source itself was counted: the snapshot of a
later full, reached from an earlier one along the log, must have that full's own checksums.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from aurora.engines.logical.targets import Base, Run, Target, Transaction
from aurora.errors import RepositoryNotFound, UsageError
from aurora.events import EventSink
from aurora.operations.log_history import read_runs
from aurora.operations.point import Point, find_point
from aurora.operations.proof.canary import footprint
from aurora.repository.door import Repository

_TRIES = 12


def random_point(
    repository: Repository, database: str, chance: random.Random, *, sink: EventSink
) -> Point | None:
    """A point that can be met, with changed rows on both sides of it if such can be found.

    None where there is no change log, or it holds no transaction that can be gone to.
    """
    runs, _ = read_runs(repository, database, sink)
    best: tuple[int, Point] | None = None
    for _ in range(_TRIES):
        picked = _pick(runs, chance)
        if picked is None:
            break
        try:
            point = find_point(repository, database, Target(lsn=picked.commit_lsn), sink=sink)
        except (UsageError, RepositoryNotFound):
            continue  # before the first full, or the schema changed there
        worth = _worth(point)
        if best is None or worth > best[0]:
            best = worth, point
        if worth == 2:
            break
    return best[1] if best else None


def _pick(runs: list[Run], chance: random.Random) -> Transaction | None:
    stretches = [s for run in runs if run.bases for s in run.stretches if s.count]
    if not stretches:
        return None
    stretch = chance.choices(stretches, weights=[s.count for s in stretches])[0]
    found = stretch.load()
    return chance.choice(found) if found else None


def _worth(point: Point) -> int:
    """On how many sides of the point there is a row to look for."""
    sides = (point.resolution.cut, point.resolution.after)
    return sum(
        1 for one in sides if one is not None and footprint(point.chain, one, point.streamed).last
    )


@dataclass(frozen=True, slots=True)
class Crossing:
    """A full, and the point of the log at which its snapshot was taken, reached from another."""

    point: Point
    full: str  # id of the full whose figures the point must have


def crossing(repository: Repository, database: str, *, sink: EventSink) -> Crossing | None:
    """The newest full that an older one reaches along the log; None where there is none."""
    runs, _ = read_runs(repository, database, sink)
    for run in reversed(runs):
        for older, newer in _pairs(run):
            cut = _exact(run, newer)
            if cut is None:
                continue
            try:
                target = Target(lsn=cut.commit_lsn)
                point = find_point(repository, database, target, full=older.backup, sink=sink)
            except (UsageError, RepositoryNotFound):
                continue
            return Crossing(point, newer.backup)
    return None


def _pairs(run: Run) -> Iterator[tuple[Base, Base]]:
    """(older, newer) with the same schema, both within the run; the newest pair first."""
    bases = [base for base in run.bases if run.covers(base)]
    for newer in reversed(bases):
        for older in reversed([base for base in bases if base.lsn < newer.lsn]):
            if older.fingerprint == newer.fingerprint:
                yield older, newer


def _exact(run: Run, base: Base) -> Transaction | None:
    """The transaction after which the log's state is what the full's snapshot saw, if one is."""
    cut = run.last_seen(base)
    if cut is None:
        return None
    for found in run.later(None, base.lsn):
        if found.commit_lsn <= cut.commit_lsn and not base.sees(found.xid):
            return None  # it committed earlier in the log than the snapshot knew of it
    return cut
