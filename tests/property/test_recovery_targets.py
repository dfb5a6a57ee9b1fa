"""Targets against a plain search through every transaction, for logs cut in any way."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurora.engines.logical.targets import (
    Base,
    Marked,
    Part,
    Run,
    Stretch,
    Target,
    Transaction,
    parse_lsn,
    parse_moment,
    resolve,
    runs_of,
    shown_lsn,
    snapshot_sees,
    to_micros,
)
from aurora.errors import AuroraError, RepositoryNotFound, UsageError

SECOND = 1_000_000


@dataclass(frozen=True)
class History:
    """A log, its fulls, and what is true of them."""

    transactions: tuple[Transaction, ...]
    parts: tuple[Part, ...]
    bases: tuple[Base, ...]
    seen: dict[str, frozenset[int]]  # commit LSNs that each full's snapshot saw
    opened: list[int]


def _stretch(found: Sequence[Transaction], first_lsn: int, opened: list[int]) -> Stretch:
    def load() -> Sequence[Transaction]:
        opened.append(1)
        return found

    xids = [t.xid for t in found]
    return Stretch(
        first_lsn,
        found[-1].end_lsn if found else 0,
        found[0].at if found else 0,
        found[-1].at if found else 0,
        min(xids, default=0),
        max(xids, default=0),
        len(found),
        load,
    )


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A log with commit times that run back a little, xids out of order, fulls at any place."""
    count = draw(st.integers(0, 30))
    xids = draw(st.permutations(range(1000, 1000 + count)))
    transactions, lsn, at = [], 5000, 1_000 * SECOND
    for xid in xids:
        lsn += draw(st.integers(10, 50))
        at += draw(st.sampled_from([0, 0, 1, SECOND, 5 * SECOND, -2 * SECOND]))
        transactions.append(Transaction(xid, lsn, lsn + 5, at))
    ends = sorted(draw(st.sets(st.integers(0, count), max_size=4)) | {count})
    parts, begin, reached = [], 0, 5000
    opened: list[int] = []
    for number, end in enumerate(ends):
        inside = transactions[begin:end]
        cuts = sorted(draw(st.sets(st.integers(0, len(inside)), max_size=3)) | {0, len(inside)})
        pieces = [inside[a:b] for a, b in itertools.pairwise(cuts)]
        stretches, low = [], reached
        for piece in pieces:
            stretches.append(_stretch(piece, low, opened))
            low = piece[-1].end_lsn
        to = (inside[-1].end_lsn if inside else reached) + draw(st.integers(0, 3))
        to_at = max([t.at for t in transactions[:end]], default=1_000 * SECOND)
        parts.append(Part(f"i{number}", reached, to, to_at, "same", tuple(stretches)))
        begin, reached = end, to
    bases, seen = [], {}
    for number in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(parts) - 1)) if number else 0
        from_lsn = parts[place].from_lsn
        upto = draw(st.integers(0, count))
        upto = max([upto, *(i + 1 for i, t in enumerate(transactions) if t.end_lsn <= from_lsn)])
        # Some that committed a moment ago are not visible yet.
        hidden = draw(st.sets(st.integers(max(0, upto - 3), upto), max_size=2))
        visible = frozenset(t.commit_lsn for i, t in enumerate(transactions[:upto])
                            if i not in hidden)  # fmt: skip
        lsn = transactions[upto - 1].end_lsn if upto else 5000
        at = max([t.at for t in transactions[:upto]], default=1_000 * SECOND)
        xids_seen = {t.xid for t in transactions if t.commit_lsn in visible}
        bases.append(Base(f"f{number}", from_lsn, max(lsn, from_lsn), at, "same",
                          xids_seen.__contains__))  # fmt: skip
        seen[f"f{number}"] = visible
    return History(tuple(transactions), tuple(parts), tuple(bases), seen, opened)


def _cut(history: History, target: Target) -> int:
    """By plain search: how many transactions of the log stand at or before the target."""
    fits = [
        number + 1
        for number, found in enumerate(history.transactions)
        if (target.at is not None and found.at <= target.at)
        or (target.lsn is not None and found.commit_lsn <= target.lsn)
        or (target.xid is not None and found.xid == target.xid)
    ]
    if target.before_xid is not None:
        return next(i for i, t in enumerate(history.transactions) if t.xid == target.before_xid)
    return max(fits, default=0)


def _known(history: History, target: Target) -> bool:
    """Whether a backup saw the schema before the target, and one after it."""
    moments = [(p.to_lsn, p.to_at) for p in history.parts]
    moments += [(base.lsn, base.at) for base in history.bases]
    if target.latest:
        return True
    if target.at is not None:
        return min(at for _, at in moments) <= target.at <= history.parts[-1].to_at
    lsn = target.lsn
    if lsn is None:
        one = next(t for t in history.transactions if t.xid in (target.xid, target.before_xid))
        lsn = one.commit_lsn - (target.xid is None)
    return min(lsn for lsn, _ in moments) <= lsn <= history.parts[-1].to_lsn


@settings(max_examples=400, deadline=None)
@given(histories(), st.data())
def test_as_a_plain_search(history: History, data: st.DataObject) -> None:
    """The cut, its neighbours, and a full that saw nothing later; or a refusal."""
    kinds = ["at", "lsn", "latest"] + (["xid", "before_xid"] if history.transactions else [])
    kind = data.draw(st.sampled_from(kinds))
    if kind == "at":
        target = Target(at=1_000 * SECOND + data.draw(st.integers(-3, 150)) * SECOND)
    elif kind == "lsn":
        target = Target(lsn=data.draw(st.integers(4990, 6600)))
    elif kind == "latest":
        target = Target(latest=True)
    else:
        xid = data.draw(st.sampled_from(history.transactions)).xid
        target = Target(xid=xid) if kind == "xid" else Target(before_xid=xid)
    runs = runs_of(history.parts, history.bases)
    cut = len(history.transactions) if target.latest else _cut(history, target)
    later = {t.commit_lsn for t in history.transactions[cut:]}
    usable = [base for base in history.bases if not history.seen[base.backup] & later]
    if not usable or not _known(history, target):
        with pytest.raises(UsageError) as refused:
            resolve(target, runs)
        assert "nearest" in refused.value.hint
        return
    found = resolve(target, runs)

    wanted = history.transactions[cut - 1] if cut else None
    assert found.cut == wanted
    assert found.after == (history.transactions[cut] if cut < len(history.transactions) else None)
    assert found.lost == len(later)
    assert found.base in usable
    newest = max(usable, key=lambda base: base.lsn)
    assert found.base.lsn == newest.lsn


def _run(*times: int, opened: list[int] | None = None) -> Run:
    """One transaction in each stretch."""
    opened = [] if opened is None else opened
    found = [Transaction(900 + i, 100 * i, 100 * i + 9, at) for i, at in enumerate(times, 1)]
    stretches = tuple(_stretch([t], t.commit_lsn - 50, opened) for t in found)
    base = Base("full", 10, 10, times[0] - SECOND, "a", lambda _: False)
    part = Part("i1", 10, found[-1].end_lsn, times[-1], "a", stretches)
    return Run([part], [base])


def test_equal_times_are_all_applied() -> None:
    """All commits of the very microsecond belong to it."""
    run = _run(1000, 2000, 2000, 3000)
    cut = resolve(Target(at=2000), [run]).cut
    assert cut is not None
    assert cut.commit_lsn == 300
    assert resolve(Target(at=1999), [run]).cut == run.by_xid(901)


def test_opens_few_segments() -> None:
    """A target far back in a long log does not read the whole log."""
    opened: list[int] = []
    run = _run(*(i * 3600 * SECOND for i in range(1, 200)), opened=opened)
    assert resolve(Target(at=100 * 3600 * SECOND + 1), [run]).lost == 99
    assert len(opened) < 12


def test_outside_is_refused_with_the_nearest() -> None:
    """Both sides are named."""
    run = _run(1000 * SECOND, 2000 * SECOND)
    with pytest.raises(UsageError) as early:
        resolve(Target(at=10 * SECOND), [run])
    assert "nearest after: 2000-01-01T00:16:39Z (full full)" in early.value.hint
    with pytest.raises(UsageError) as late:
        resolve(Target(at=3000 * SECOND), [run])
    assert "nearest before: 2000-01-01T00:33:20Z (last transaction xid 902" in late.value.hint
    with pytest.raises(RepositoryNotFound):
        resolve(Target(xid=77), [run])


def test_a_schema_change_is_refused_between_its_neighbours() -> None:
    """Up to the last part with the full's schema, and from the next full on."""
    first = _run(1000 * SECOND, 2000 * SECOND)
    opened: list[int] = []
    later = Transaction(950, 500, 509, 3000 * SECOND)
    changed = Part("i2", first.to_lsn, 600, 3500 * SECOND, "b", (_stretch([later], 400, opened),))
    more = Part("i3", 600, 700, 4500 * SECOND, "b")
    after = Base("full2", 600, 650, 4000 * SECOND, "b", lambda _: True)
    runs = runs_of([*first.parts, changed, more], [*first.bases, after])
    with pytest.raises(UsageError) as refused:
        resolve(Target(at=3100 * SECOND), runs)
    assert "nearest before: 2000-01-01T00:33:20Z" in refused.value.hint
    assert "nearest after: 2000-01-01T01:06:40Z (full full2)" in refused.value.hint
    with pytest.raises(UsageError):
        resolve(Target(xid=950), runs)
    assert resolve(Target(at=2000 * SECOND), runs).base.backup == "full"
    assert resolve(Target(at=4200 * SECOND), runs).base.backup == "full2"


def test_a_gap_is_refused() -> None:
    """Two slots, nothing known in between."""
    one = _run(1000 * SECOND, 2000 * SECOND)
    part = Part("i9", 9000, 9100, 9000 * SECOND, "a")
    base = Base("full9", 9000, 9050, 8000 * SECOND, "a", lambda _: True)
    runs = runs_of([*one.parts, part], [*one.bases, base])
    assert len(runs) == 2
    with pytest.raises(UsageError):
        resolve(Target(at=5000 * SECOND), runs)
    assert resolve(Target(at=8500 * SECOND), runs).base.backup == "full9"


def test_without_log() -> None:
    """A full alone is the latest there is; without any there is nothing."""
    base = Base("full", 10, 90, 5, "a", lambda _: True)
    found = resolve(Target(latest=True), runs_of([], [base]))
    assert (found.run, found.cut) == (None, None)
    with pytest.raises(RepositoryNotFound):
        resolve(Target(latest=True), [])


NOON = datetime(2024, 1, 9, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text,expected,zoned",
    [
        ("2024-01-09T12:00:00Z", NOON, True),
        ("2024-01-09t12:00:00z", NOON, True),
        (" 2024-01-09 12:00 ", NOON, False),
        ("2024-01-09 14:00:00+02", NOON, True),
        ("2024-01-09 14:00:00 +0200", NOON, True),
        ("2024-01-09T06:30:00-05:30", NOON, True),
        ("2024-01-09 12:00:00 UTC", NOON, True),
        ("20240109T120000Z", NOON, True),
        ("2024-01-09 12:00:00", NOON, False),
        ("2024-01-09T12:00:00.000001Z", NOON + timedelta(microseconds=1), True),
        ("2024-01-09T12:00:00.5+00:00", NOON + timedelta(milliseconds=500), True),
        ("2024-01-09", NOON - timedelta(hours=12), False),
    ],
)
def test_moments(text: str, expected: datetime, zoned: bool) -> None:
    """ISO 8601, with and without zone, as people and servers write it."""
    found = parse_moment(text)
    assert (found.micros(), found.zoned) == (to_micros(expected), zoned)
    assert found.is_date == (len(text) == 10)


def test_a_moment_in_the_machine_s_own_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winter and summer differ."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert parse_moment("2024-01-09 13:00").micros(None) == to_micros(NOON)
        summer = datetime(2024, 7, 9, 12, tzinfo=UTC)
        assert parse_moment("2024-07-09 14:00").micros(None) == to_micros(summer)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "",
        "2024-13-01T00:00:00Z",
        "12:00",
        "Z",
        "0001-01-01T00:00+14:00",
        "2024-01-09T12:00:00+99:00",
        "2024-01-09 12:00 somewhere",
    ],
)
def test_no_moments(text: str) -> None:
    """What is none is said to be none."""
    with pytest.raises(AuroraError, match="not a time"):
        parse_moment(text)


def _with_points(*names: str) -> list[Run]:
    """One run of transactions 1000, 1001, …, each with a restore point of the given name."""
    found = [Transaction(1000 + i, 6000 + i, 6001 + i, (1100 + i) * SECOND)
             for i in range(len(names))]  # fmt: skip
    marks = tuple(
        Marked(f"point {name}", replace(one, end_lsn=0), one.commit_lsn - 1)
        for name, one in zip(names, found, strict=True)
    )
    stretch = _stretch(found, 5000, [])
    part = Part("i", 5000, 7000, 2000 * SECOND, "a", (stretch,), marks)
    again = replace(part, backup="j")  # read twice
    return runs_of([part, again], [Base("f", 5000, 5500, 1000 * SECOND, "a", lambda _: False)])


def test_a_restore_point_is_a_target() -> None:
    """Its own transaction is the last that is applied."""
    runs = _with_points("one", "two", "three")
    found = resolve(Target(name="two"), runs)
    assert found.cut is not None
    assert (found.cut.xid, found.lost) == (1001, 1)
    assert str(Target(name="two")) == "restore point two"


def test_unknown_and_ambiguous_restore_points_list_choices() -> None:
    """With what tells them apart."""
    runs = _with_points("one", "two", "one")
    with pytest.raises(RepositoryNotFound, match="no restore point three") as unknown:
        resolve(Target(name="three"), runs)
    assert "two (" in unknown.value.hint
    with pytest.raises(UsageError, match="2 restore points are called one") as several:
        resolve(Target(name="one"), runs)
    assert "xid 1002" in several.value.message
    assert len(several.value.context["choices"]) == 2  # type: ignore[arg-type]


def test_a_full_may_be_named() -> None:
    """Where the newest is damaged, an older one."""
    bases = [Base(n, 5000, lsn, 1000 * SECOND, "a", lambda _: False)
             for n, lsn in (("old", 5100), ("new", 5200))]  # fmt: skip
    runs = runs_of([Part("i", 5000, 7000, 2000 * SECOND, "a")], bases)
    target = Target(at=1500 * SECOND)
    assert resolve(target, runs).base.backup == "new"
    assert resolve(target, runs, full="old").base.backup == "old"
    with pytest.raises(RepositoryNotFound):
        resolve(target, runs, full="none")


def test_refusals_say_where_the_target_lies() -> None:
    """In the future, after the end, before the first full."""
    runs = runs_of([Part("i", 5000, 7000, 2000 * SECOND, "a")],
                   [Base("f", 5000, 5500, 1000 * SECOND, "a", lambda _: False)])  # fmt: skip
    future = to_micros(datetime.now(UTC)) + 3600 * SECOND
    for at, words in ((future, "in the future"), (2001 * SECOND, "does not reach so far"),
                      (999 * SECOND, "before the first full")):  # fmt: skip
        with pytest.raises(UsageError, match=words) as refused:
            resolve(Target(at=at), runs)
        assert "It reaches from" in refused.value.hint
        assert refused.value.context["window"]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from([None, None, None, 0, 1, 2]), min_size=1, max_size=20),
    st.sets(st.integers(0, 20), max_size=6),
    st.sets(st.integers(0, 20), min_size=1, max_size=3),
    st.sampled_from(["m", ""]),
    st.integers(0, 20),
)
def test_the_schema_is_never_another(
    steps: list[int | None], looks: set[int], fulls: set[int], markers: str, number: int
) -> None:
    """Whatever changes between looks: what a resolution says of the schema is what it was.

    A step is a transaction that leaves the schema or makes it the one of a number; without
    markers none makes it what it was before, which no look could tell.
    """
    if not markers:
        steps = [None if one is None else 100 + i for i, one in enumerate(steps)]
    states, now = [], 0
    for one in steps:
        now = now if one is None else one
        states.append(str(now))
    found = [Transaction(1000 + i, 100 * i + 50, 100 * i + 60, i * SECOND)
             for i in range(len(steps))]  # fmt: skip

    def sees(place: int) -> Callable[[int], bool]:
        return lambda xid: xid < 1000 + place

    def state(place: int) -> str:
        return states[place - 1] if place else "0"

    places = sorted({min(place, len(steps)) for place in looks | fulls} | {0, len(steps)})
    parts = []
    for begin, end in itertools.pairwise(places):
        inside = found[begin:end]
        marks = tuple(
            Marked('ddl {"tag": "ALTER TABLE"}', replace(one, end_lsn=0), one.commit_lsn - 1)
            for one in inside
            if markers and steps[one.xid - 1000] is not None
        )
        stretch = _stretch(inside, 100 * begin + 10, [])
        parts.append(Part(f"i{end}", 100 * begin, 100 * end, (end - 1) * SECOND + 1, state(end),
                          (stretch,), marks, markers, sees(end)))  # fmt: skip
    bases = [
        Base(f"f{place}", 100 * place, 100 * place, place * SECOND - SECOND + 1, state(place),
             sees(place), markers)
        for place in sorted({min(place, len(steps)) for place in fulls})
    ]  # fmt: skip
    target = number % len(steps)
    try:
        told = resolve(Target(xid=1000 + target), runs_of(parts, bases))
    except UsageError:
        return
    told_by = told.schema or told.base.backup
    assert state(int(told_by[1:])) == states[target]
    assert told.base.lsn <= 100 * target + 100


def test_lsns() -> None:
    """As the server writes them."""
    assert parse_lsn("1/A") == (1 << 32) + 10
    assert shown_lsn(parse_lsn("16/B374D848")) == "16/B374D848"
    with pytest.raises(UsageError):
        parse_lsn("12")


def test_snapshots_count_in_64_bits() -> None:
    """A Begin has the lower half of a transaction's number."""
    high = 3 << 32
    sees = snapshot_sees(f"{high + 5}:{high + 10}:{high + 7}")
    assert [sees(n) for n in (4, 5, 7, 9, 10, 11)] == [True, True, False, True, False, False]
    assert sees(0xFFFFFFF0)  # of the epoch before
    around = snapshot_sees(f"{high - 4}:{high - 2}:{high - 4}")
    assert [around(n & 0xFFFFFFFF) for n in (-5, -4, -3, -2, 3)] == [
        True,
        False,
        True,
        False,
        False,
    ]
