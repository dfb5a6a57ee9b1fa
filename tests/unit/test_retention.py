"""Which backups retention keeps and why, on facts made by hand."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from aurora.errors import UsageError
from aurora.repository.retention import (
    Item,
    LogRange,
    Policy,
    Verdict,
    decide,
    likely_kept,
    removes_too_much,
)

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
LOG = ("1", "1", 5, "slot")
HOUR = timedelta(hours=1)


def ago(**by: float) -> datetime:
    """A moment before NOW."""
    return NOW - timedelta(**by)


def full(hours: float, *, lsn: int | None = None, **more: object) -> Item:
    """A full, stored so long ago; with a place in the log at *lsn*."""
    name = f"full-{hours:g}"
    log = LogRange(LOG, name, lsn, lsn) if lsn is not None else None
    return Item(name, "full", ago(hours=hours), log=log, **more)  # type: ignore[arg-type]


def part(hours: float, begin: int, end: int, base: str, kind: str = "incremental") -> Item:
    """A piece of log, stored so long ago."""
    return Item(f"{kind}-{hours:g}", kind, ago(hours=hours), log=LogRange(LOG, base, begin, end))


def other(kind: str, hours: float, **more: object) -> Item:
    """A backup that stands alone."""
    return Item(f"{kind}-{hours:g}", kind, ago(hours=hours), **more)  # type: ignore[arg-type]


def kept(items: Sequence[Item], policy: Policy | None = None, now: datetime = NOW) -> set[str]:
    """The ids of what stays."""
    return {v.item.id for v in decide(items, policy or Policy(), now=now) if v.keep}


def verdict(items: Sequence[Item], item_id: str, policy: Policy | None = None) -> Verdict:
    """The verdict on one."""
    found = {v.item.id: v for v in decide(items, policy or Policy(), now=NOW)}
    return found[item_id]


def test_each_type_has_its_time() -> None:
    """Fulls 7 days, sealed ones 30, safety backups 7; all have a reason or the contrary."""
    items = [full(0.0)] + [other(kind, 24.0 * days) for kind, days in (
        ("full", 6.9), ("full", 7.1), ("sealed", 0.1), ("sealed", 29.9), ("sealed", 30.1),
        ("safety", 6.9), ("safety", 7.1),
    )]  # fmt: skip
    assert kept(items) == {"full-0", "full-165.6", "sealed-2.4", "sealed-717.6", "safety-165.6"}
    found = verdict(items, "sealed-722.4")
    assert found.against == "30 d 02 h older than the newest, kept for 30 days"
    assert verdict(items, "full-165.6").reasons == (
        "younger than 7 days", "the recovery window begins with it",
    )  # fmt: skip


def test_a_day_of_incrementals_and_what_the_window_leans_on() -> None:
    """The full from before the window, and every piece of log since."""
    fulls = [full(hours, lsn=1000 - 10 * hours) for hours in (0, 24, 48, 72)]
    parts = [
        part(h - 0.5, 1000 - 10 * h, 1000 - 10 * h + 10, f"full-{(h - 1) // 24 * 24 + 24}")
        for h in range(1, 73)
    ]
    found = kept([*fulls, *parts])
    assert {one.id for one in fulls} <= found
    assert {one.id for one in parts if one.id in found} == {
        f"incremental-{h - 0.5:g}" for h in range(1, 25)
    }
    later = kept([*fulls, *parts], Policy(window=timedelta(hours=30)))
    assert {one for one in later if one.startswith("incr")} == {
        f"incremental-{h - 0.5:g}" for h in range(1, 49)
    }


def test_a_kept_incremental_keeps_its_chain() -> None:
    """A hold on one from long ago keeps its full and the log between, and no more."""
    items = [
        full(0, lsn=9000),
        full(400, lsn=100),
        part(399, 100, 110, "full-400"),
        Item("held", "incremental", ago(hours=398), log=LogRange(LOG, "full-400", 110, 120),
             holds=("incident 7",)),
        part(397, 120, 130, "full-400"),
        full(390, lsn=130),
    ]  # fmt: skip
    assert kept(items) == {"full-0", "full-400", "incremental-399", "held", "full-390"}
    assert "held: incident 7" in verdict(items, "held").reasons
    assert verdict(items, "full-400").reasons == ("held needs it",)
    assert verdict(items, "incremental-399").reasons == ("held needs it",)
    # The newest from before the window stays for another reason.
    assert verdict(items, "full-390").reasons == ("the recovery window begins with it",)


def test_only_what_has_a_place_in_the_log_begins_a_window() -> None:
    """A newer full without one does not take the older one's part."""
    items = [
        full(0, lsn=900),
        full(200, lsn=100),
        full(180),
        part(190, 100, 400, "full-200"),
        part(2, 400, 900, "full-200"),
    ]
    assert kept(items) == {"full-0", "full-200", "full-180", "incremental-190", "incremental-2"}


def test_a_gap_in_the_log_is_not_bridged() -> None:
    """What lies before a gap serves nothing after it."""
    items = [
        full(200, lsn=100),
        part(190, 100, 200, "full-200"),
        part(20, 300, 400, "full-200"),
        full(0, lsn=400),
        full(26, lsn=290),
    ]
    found = kept(items, Policy(full=timedelta(0)))
    assert "incremental-190" not in found
    assert found >= {"incremental-20", "full-0", "full-26"}
    # It names its full, and that cannot be told to be of no use.
    assert "full-200" in found


def test_another_history_is_another_log() -> None:
    """After a failover the positions begin anew, and mean something else."""
    moved = ("1", "2", 5, "slot")
    items = [
        full(100, lsn=100),
        part(99, 100, 200, "full-100"),
        Item("b", "full", ago(hours=50), log=LogRange(moved, "b", 150, 150)),
        Item("p", "incremental", ago(hours=1), log=LogRange(moved, "b", 150, 300)),
    ]
    assert kept(items, Policy(full=timedelta(0))) == {"b", "p"}


def test_a_full_of_which_something_is_missing_does_not_take_a_whole_ones_part() -> None:
    """Neither as the newest, nor where the window begins."""
    items = [
        full(0, lsn=900, is_whole=False),
        full(30, lsn=500, is_whole=False),
        full(200, lsn=100),
        part(100, 100, 500, "full-200"),
        part(29, 500, 800, "full-30"),
        part(1, 800, 900, "full-30"),
    ]
    found = kept(items, Policy(full=timedelta(0), incremental=timedelta(0)))
    assert found == {i.id for i in items}
    assert "the newest full of which nothing is missing" in verdict(items, "full-200").reasons


def test_the_newest_verified_stays() -> None:
    """Whatever its age."""
    items = [full(0), full(500, is_verified=True), full(600, is_verified=True)]
    assert kept(items) == {"full-0", "full-500"}


def test_the_newest_sealed_stays_when_no_more_are_made() -> None:
    """A weekly job that fails for a month must not cost the last one."""
    assert kept([full(0), other("sealed", 900), other("sealed", 1100)]) == {"full-0", "sealed-900"}


def test_the_newest_by_number_stays() -> None:
    """Whoever remembers its number would take its absence for a rollback."""
    items = [full(0, sequence=5), other("safety", 600, sequence=9)]
    assert kept(items) == {"full-0", "safety-600"}


def test_nothing_expires_while_nothing_is_made() -> None:
    """Ages are counted from the newest backup, not from now."""
    items = [full(1000 + 24 * day, lsn=100 - day) for day in range(7)]
    assert kept(items) == {item.id for item in items}


@pytest.mark.parametrize("days", [-4000, -1, 0, 1, 4000])
def test_a_wrong_clock_of_ours_makes_nothing_older(days: int) -> None:
    """Behind, it keeps more; ahead, it changes nothing."""
    items = [full(24 * day) for day in range(12)]
    right = kept(items)
    assert kept(items, now=NOW + timedelta(days=days)) >= right
    if days > 0:
        assert kept(items, now=NOW + timedelta(days=days)) == right


def test_dates_that_clients_write_do_not_count() -> None:
    """A flood of junk, of whatever date, makes no good backup go: no rule counts."""
    good = [full(24 * day, lsn=1000 - day) for day in range(1, 7)]
    junk = [
        Item(f"20991231T2359{n:02}Z-full-junk", "full", ago(minutes=n), sequence=10**9 + n)
        for n in range(50)
    ]
    assert kept([*good, *junk]) >= {item.id for item in good}


def test_pieces_of_a_stream_are_log_like_any_other() -> None:
    """Of a type that no rule names: kept by age, by the window, and by what leans on them."""
    items = [
        full(30, lsn=100),
        part(29, 100, 200, "full-30", "stream"),
        part(5, 200, 300, "full-30", "stream"),
        full(0, lsn=300),
        part(100, 10, 50, "full-101", "stream"),
    ]
    assert kept(items) == {"full-30", "stream-29", "stream-5", "full-0"}


def test_a_piece_that_an_incremental_holds_too_goes() -> None:
    """Once is enough, even in the window, as long as the incremental is whole."""
    items = [
        full(30, lsn=100),
        part(3, 100, 150, "full-30", "stream"),
        part(2, 150, 200, "full-30", "stream"),
        part(1, 100, 200, "full-30"),
    ]
    assert kept(items) == {"full-30", "incremental-1"}
    assert verdict(items, "stream-3").against == "incremental-1 holds the same log"
    broken = Item("incremental-1", "incremental", ago(hours=1), log=items[3].log, is_whole=False)
    assert kept([*items[:3], broken]) == {"full-30", "stream-3", "stream-2", "incremental-1"}


def test_pieces_that_a_longer_piece_holds_too_go() -> None:
    """A stream gathers its pieces; where it may not delete, the old ones stay until a prune."""
    items = [
        full(30, lsn=100),
        part(3, 100, 150, "full-30", "stream"),
        part(2, 150, 200, "full-30", "stream"),
        part(1, 100, 200, "full-30", "stream"),
        part(0.5, 100, 200, "full-30", "stream"),
        part(0.25, 200, 200, "full-30", "stream"),
        full(0, lsn=200),
    ]
    assert kept(items) == {"full-30", "stream-0.5", "stream-0.25", "full-0"}


def test_what_cannot_be_read_stays_while_anything_older_does() -> None:
    """It may be a part of what they need."""
    items = [
        Item("older", "incremental", ago(hours=300), is_readable=False),
        full(150),
        Item("later", "incremental", ago(hours=140), is_readable=False),
        full(0),
    ]
    assert kept(items) == {"full-150", "later", "full-0"}


def test_an_unknown_type_is_never_removed() -> None:
    """A later version will know what it is for."""
    items = [full(0), other("physical", 9000)]
    assert verdict(items, "physical-9000").reasons == (
        "of a type that this version does not know: physical",
    )  # fmt: skip


def test_an_empty_policy_is_refused() -> None:
    """Also where there is nothing to remove."""
    nothing = Policy(*[timedelta(0)] * 5)
    with pytest.raises(UsageError, match="keeps nothing"):
        decide([], nothing, now=NOW)


def test_more_than_half_is_too_much() -> None:
    """Of those that stand alone; the log that goes with a full is no measure."""
    fulls = [full(24 * day, lsn=1000 - 10 * day) for day in range(6)]
    parts = [part(24 * day - 1, 990 - 10 * day, 1000 - 10 * day, "x") for day in range(1, 6)]
    gone = Policy(full=timedelta(hours=1), incremental=timedelta(0), window=timedelta(0))
    assert removes_too_much(decide([*fulls, *parts], gone, now=NOW))
    half = Policy(full=timedelta(hours=60), incremental=timedelta(0), window=timedelta(0))
    assert not removes_too_much(decide([*fulls, *parts], half, now=NOW))


def test_what_is_likely_kept_is_no_less_than_what_is() -> None:
    """For those without keys: rather too many."""
    fulls = [full(24 * day + 0.5, lsn=5000 - 240 * day) for day in range(12)]
    parts = [part(h, 4990 - 10 * h, 5000 - 10 * h, "gone") for h in range(1, 280)]
    others = [other(kind, 30 * n) for kind in ("sealed", "safety") for n in range(40)]
    for policy in (Policy(), Policy(window=timedelta(days=3)), Policy(full=timedelta(0))):
        items = [*fulls, *parts, *others]
        told = likely_kept([(i.id, i.type, i.stored_at) for i in items], policy, now=NOW)
        assert kept(items, policy) <= told
        assert len(told) < len(items)


def test_safety_backups_of_another_database_age_with_the_rest() -> None:
    """Under a label of their own nothing newer follows."""
    items = [other("safety", 100), other("safety", 300)]
    found = decide(items, Policy(), now=NOW, newest=NOW)
    assert [v.item.id for v in found if v.keep] == ["safety-100"]
    much_later = decide(items, Policy(), now=NOW + 1000 * HOUR, newest=NOW + 1000 * HOUR)
    assert not any(v.keep for v in much_later)


def test_checkpoints_are_kept_until_a_backup_follows() -> None:
    """Or for a week; by runs that only ever die no backup gets older."""
    checkpoints = [other("checkpoint", hours, sequence=9) for hours in (1, 100)]
    before = [full(200, sequence=3), full(250, sequence=2)]
    assert kept([*before, *checkpoints]) == {
        "full-200",
        "full-250",
        "checkpoint-1",
        "checkpoint-100",
    }
    assert kept(checkpoints) == {"checkpoint-1", "checkpoint-100"}
    made_since = full(0.5, sequence=10)
    items = [*before, *checkpoints, made_since]
    assert not {"checkpoint-1", "checkpoint-100"} & kept(items)
    assert verdict(items, "checkpoint-1").against == "a backup was made since"
    old = [other("checkpoint", 0, sequence=9), other("checkpoint", 8 * 24, sequence=8)]
    assert kept(old) == {"checkpoint-0"}
    assert kept([*items[:-1], other("safety", 0, sequence=12)]) >= {"checkpoint-1"}
