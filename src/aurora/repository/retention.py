"""Retention: which backups to keep, and why. Pure: facts in, verdicts out.

Time is the storage's: a backup is as old as its manifest says by the storage's clock, compared
with the newest backup of the same database. So neither a client with a wrong clock nor a backup
dated into the future makes another one older, and where no backup is made none expires. No rule
counts: a backup that is added never pushes another one out.

Which logs a kept backup needs is told by positions: a *log part* holds the change log from one
position to another of one history, and a full may have a place in it to begin from.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aurora.errors import UsageError
from aurora.repository.ids import CHECKPOINT, SAFETY, SEALED
from aurora.units import format_duration

FULL = "full"
INCREMENTAL = "incremental"
_ALONE = (FULL, SEALED, SAFETY)
_CHECKPOINT_AGE = timedelta(days=7)  # without a backup since: nobody goes on any more


@dataclass(frozen=True, slots=True)
class Policy:
    """How long each type is kept, and how far back every point must be recoverable."""

    incremental: timedelta = timedelta(hours=24)
    full: timedelta = timedelta(days=7)
    sealed: timedelta = timedelta(days=30)
    safety: timedelta = timedelta(days=7)
    window: timedelta = timedelta(hours=24)

    def require_something(self) -> None:
        """Raise UsageError for a policy that keeps nothing."""
        if not any((self.incremental, self.full, self.sealed, self.window)):
            raise UsageError(
                "the retention keeps nothing",
                hint="Set full, incremental, sealed or window under [retention] to a time. "
                "Nothing was removed.",
            )

    def age_of(self, kind: str) -> timedelta:
        """How long backups of a type are kept; log parts of any type as incrementals."""
        ages = {FULL: self.full, SEALED: self.sealed, SAFETY: self.safety}
        return ages.get(kind, self.incremental)


@dataclass(frozen=True, slots=True)
class LogRange:
    """A place in a change log: a log part's range, or, where both ends are equal, a full's."""

    history: tuple[object, ...]  # equal for all places of one log
    base: str  # id of the full that it leans on; a full's own
    from_lsn: int
    to_lsn: int


@dataclass(frozen=True, slots=True)
class Item:
    """What retention knows of one backup."""

    id: str
    type: str
    stored_at: datetime  # of its manifest, by the storage's clock
    sequence: int = 0
    log: LogRange | None = None
    is_readable: bool = True  # its manifest opened, so ``log`` says all
    is_whole: bool = True  # all that it needs is stored in full length
    is_verified: bool = False
    holds: tuple[str, ...] = ()  # why it must not be removed

    @property
    def stands_alone(self) -> bool:
        return self.type in _ALONE

    @property
    def is_base(self) -> bool:
        return self.type == FULL and self.log is not None

    @property
    def is_part(self) -> bool:
        return self.log is not None and not self.stands_alone


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to keep a backup, and why; a reason that begins with an id names who needs it."""

    item: Item
    reasons: tuple[str, ...]  # why it is kept; none: it goes
    against: str = ""  # why it goes

    @property
    def keep(self) -> bool:
        return bool(self.reasons)


def decide(
    items: Iterable[Item], policy: Policy, *, now: datetime, newest: datetime | None = None
) -> list[Verdict]:
    """The verdicts on all backups of one database, oldest first.

    Args:
        now: by any clock: it can only make backups younger.
        newest: when the newest backup that others are compared with was stored; by default
            that of these.

    Raises:
        UsageError: the policy keeps nothing.
    """
    policy.require_something()
    chosen = sorted(items, key=_order)
    if not chosen:
        return []
    # Runs that die leave checkpoints, and no backup gets older by them.
    backups = [item for item in chosen if item.type != CHECKPOINT] or chosen
    decision = _Decision(chosen, policy, min(now, newest or backups[-1].stored_at))
    return decision.verdicts()


def likely_kept(
    items: Iterable[tuple[str, str, datetime]], policy: Policy, *, now: datetime
) -> set[str]:
    """Ids of the backups that :func:`decide` may keep, told by type and time alone.

    For those who cannot read manifests: *items* are (id, type, stored at). Rather too many:
    the log is kept from the last full but one before the recovery window.
    """
    chosen = sorted(items, key=lambda item: (item[2], item[0]))
    if not chosen:
        return set()
    reference = min(now, chosen[-1][2])
    begin = reference - policy.window
    before = [at for _, kind, at in chosen if kind == FULL and at <= begin]
    has_log = any(kind not in _ALONE for _, kind, _ in chosen)
    fulls = before[-2 if has_log else -1 :]
    since = {FULL: min(fulls, default=begin), SEALED: reference, SAFETY: reference}
    newest = {kind: one for one, kind, _ in chosen if kind != SAFETY}
    return set(newest.values()) | {
        one
        for one, kind, at in chosen
        if reference - at < policy.age_of(kind)
        or at >= since.get(kind, min(before[-2:], default=begin))
    }


def removes_too_much(verdicts: Sequence[Verdict]) -> bool:
    """Whether more than half of the backups that stand alone would go at once.

    Log parts are no measure: a day of them goes when the full that they lean on does.
    """
    alone = [verdict for verdict in verdicts if verdict.item.stands_alone]
    return 2 * sum(not verdict.keep for verdict in alone) > len(alone)


@dataclass(slots=True)
class _Stretch:
    """A part of one log without a gap."""

    parts: list[Item] = field(default_factory=list)
    bases: list[Item] = field(default_factory=list)

    def base_before(self, is_so: Callable[[Item], bool]) -> Item | None:
        """The newest full for which it is so; one that is whole, where there is one."""
        found = [base for base in self.bases if is_so(base)]
        return max(found, key=lambda b: (b.is_whole, b.stored_at, _log(b).to_lsn), default=None)

    def since(self, base: Item, to_lsn: int | None = None) -> list[Item]:
        """The parts that hold the log from *base* to a position, or to the end."""
        begin = _log(base).to_lsn
        return [
            part
            for part in self.parts
            # An idle part, which ends where it begins, tells that nothing happened until then.
            if (_log(part).to_lsn, part.stored_at) > (begin, base.stored_at)
            and (to_lsn is None or _log(part).from_lsn < to_lsn)
        ]


class _Decision:
    def __init__(self, items: Sequence[Item], policy: Policy, reference: datetime) -> None:
        self._items = items
        self._policy = policy
        self._reference = reference
        self._begin = reference - policy.window
        self._by_id = {item.id: item for item in items}
        self._reasons: dict[str, list[str]] = {item.id: [] for item in items}
        self._repeated = _repeated(items)
        self._stretches = _stretches(item for item in items if item.id not in self._repeated)

    def verdicts(self) -> list[Verdict]:
        for item in self._items:
            self._by_itself(item)
        self._newest_of_each()
        self._chains()
        self._window()
        self._unreadable()
        return [
            Verdict(item, tuple(self._reasons[item.id]), self._against(item))
            for item in self._items
        ]

    def _keep(self, item: Item, reason: str) -> None:
        if reason not in self._reasons[item.id]:
            self._reasons[item.id].append(reason)

    def _by_itself(self, item: Item) -> None:
        for why in item.holds:
            self._keep(item, f"held: {why}")
        if item.id in self._repeated:
            return
        if item.type == CHECKPOINT:
            if not self._is_followed(item) and self._reference - item.stored_at < _CHECKPOINT_AGE:
                self._keep(item, "the next backup goes on from it")
            return
        known = item.stands_alone or item.type == INCREMENTAL or item.log is not None
        if not known and item.is_readable:
            self._keep(item, f"of a type that this version does not know: {item.type}")
            return
        age = self._policy.age_of(item.type)
        if self._reference - item.stored_at < age:
            self._keep(item, f"younger than {_told(age)}")
        if item.type != SAFETY and self._policy.window and item.stored_at >= self._begin:
            self._keep(item, "in the recovery window")

    def _is_followed(self, checkpoint: Item) -> bool:
        """Whether a backup was made since: it holds what the checkpoint does."""
        others = (FULL, INCREMENTAL)
        return any(i.type in others and i.sequence > checkpoint.sequence for i in self._items)

    def _newest_of_each(self) -> None:
        rules: Mapping[str, Callable[[Item], bool]] = {
            "the newest full": lambda item: item.type == FULL,
            "the newest full of which nothing is missing":
                lambda item: item.type == FULL and item.is_whole,
            "the newest sealed": lambda item: item.type == SEALED,
            "the newest that was verified": lambda item: item.is_verified,
        }  # fmt: skip
        for reason, is_so in rules.items():
            found = [item for item in self._items if is_so(item)]
            if found:
                self._keep(found[-1], reason)
        # By its number: who remembers it would take its absence for a rollback.
        if any(item.type != SAFETY for item in self._items):
            self._keep(max(self._items, key=lambda i: (i.sequence, i.stored_at)), "the newest")

    def _chains(self) -> None:
        """Keep the fulls that kept log parts lean on, and the log between them."""
        for stretch in self._stretches:
            furthest: dict[str, Item] = {}  # full -> the kept part that leans on it and ends last
            for part in stretch.parts:
                if self._reasons[part.id] and (base := self._base_of(part, stretch)):
                    before = furthest.setdefault(base.id, part)
                    if _log(part).to_lsn > _log(before).to_lsn:
                        furthest[base.id] = part
            for base_id, part in furthest.items():
                base = self._by_id[base_id]
                reason = f"{part.id} needs it"
                self._keep(base, reason)
                for one in stretch.since(base, _log(part).to_lsn) if base in stretch.bases else ():
                    if not self._reasons[one.id]:
                        self._keep(one, reason)

    def _base_of(self, part: Item, stretch: _Stretch) -> Item | None:
        log = _log(part)
        named = self._by_id.get(log.base)
        return named or stretch.base_before(lambda one: _log(one).to_lsn <= log.from_lsn)

    def _window(self) -> None:
        """Keep what every point of the recovery window is recovered from.

        The point where it begins needs a full from before, and the log since.
        """
        if not self._policy.window:
            return
        before = [i for i in self._items if i.type == FULL and i.stored_at <= self._begin]
        for is_good in (lambda item: item.is_whole, lambda _: True):
            if good := [item for item in before if is_good(item)]:
                self._keep(good[-1], "the recovery window begins with it")
                break
        for stretch in self._stretches:
            inside = [*stretch.parts, *stretch.bases]
            if all(item.stored_at < self._begin for item in inside):
                continue
            base = stretch.base_before(lambda one: one.stored_at <= self._begin)
            if base is None:
                continue  # the log begins inside of the window, and so do its fulls
            self._keep(base, "the recovery window begins with it")
            for part in stretch.since(base):
                if not self._reasons[part.id]:
                    self._keep(part, "the recovery window needs its log")

    def _unreadable(self) -> None:
        """What cannot be read may be needed, for as long as anything older is."""
        older = False
        for item in self._items:
            if older and not item.is_readable and not item.stands_alone:
                self._keep(item, "its manifest cannot be read, and older ones are kept")
            older = older or bool(self._reasons[item.id])

    def _against(self, item: Item) -> str:
        if self._reasons[item.id]:
            return ""
        if item.id in self._repeated:
            return f"{self._repeated[item.id]} holds the same log"
        if item.type == CHECKPOINT:
            followed = self._is_followed(item)
            return "a backup was made since" if followed else "nobody went on from it"
        age = (self._reference - item.stored_at).total_seconds()
        kept = _told(self._policy.age_of(item.type))
        return f"{format_duration(age)} older than the newest, kept for {kept}"


def _log(item: Item) -> LogRange:
    assert item.log is not None
    return item.log


def _repeated(items: Sequence[Item]) -> dict[str, str]:
    """Pieces of log -> a later part that holds all of their log once more.

    An earlier one does not tell until when nothing more happened.
    """
    found: dict[str, str] = {}
    by_history: dict[tuple[object, ...], _Covers] = {}
    for item in sorted(items, key=_order, reverse=True):
        if not item.is_part:
            continue
        later = by_history.setdefault(_log(item).history, _Covers())
        other = later.holder_of(_log(item))
        if other is not None and item.type != INCREMENTAL:
            found[item.id] = other
        if other is None and item.is_whole:
            later.add(_log(item), item.id)
    return found


class _Covers:
    """Ranges of which none lies within another: both ends rise from one to the next."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._ids: list[str] = []

    def holder_of(self, log: LogRange) -> str | None:
        """A range that *log* lies within."""
        at = bisect_right(self._begins, log.from_lsn) - 1
        return self._ids[at] if at >= 0 and self._ends[at] >= log.to_lsn else None

    def add(self, log: LogRange, item_id: str) -> None:
        """One that lies within none; it takes the place of those within it."""
        first = bisect_left(self._begins, log.from_lsn)
        last = bisect_right(self._ends, log.to_lsn)
        for values, value in (
            (self._begins, log.from_lsn), (self._ends, log.to_lsn), (self._ids, item_id),
        ):  # fmt: skip
            values[first : max(first, last)] = [value]  # type: ignore[list-item]


def _order(item: Item) -> tuple[datetime, int, str]:
    return item.stored_at, item.sequence, item.id


def _stretches(items: Iterable[Item]) -> list[_Stretch]:
    histories: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        if item.is_part or item.is_base:
            histories.setdefault(_log(item).history, []).append(item)
    found: list[_Stretch] = []
    for members in histories.values():
        reached: int | None = None
        for item in sorted(members, key=lambda i: (_log(i).from_lsn, _log(i).to_lsn)):
            log = _log(item)
            if reached is None or log.from_lsn > reached:
                found.append(_Stretch())
                reached = log.to_lsn
            (found[-1].bases if item.is_base else found[-1].parts).append(item)
            reached = max(reached, log.to_lsn)
    return found


def _told(age: timedelta) -> str:
    """``24 hours``, ``7 days``."""
    hours = age.total_seconds() / 3600
    if hours >= 48 and hours % 24 == 0:
        return f"{hours / 24:.0f} days"
    return f"{hours:g} hours" if hours != 1 else "1 hour"
