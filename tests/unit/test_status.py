"""What a status amounts to: RPO, findings and verdict, from given facts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aurora.engines.base import LogPart
from aurora.engines.logical.slot import SlotState
from aurora.engines.logical.unread import Unread
from aurora.operations.coverage import Covered
from aurora.operations.findings import Level
from aurora.operations.measured import Measured
from aurora.operations.slot_health import Danger, SlotHealth
from aurora.operations.status import Goals, StatusOptions, StatusReport, TypeStatus
from aurora.operations.status_judge import judge
from aurora.operations.status_source import Rpo, SourceLook, rpo_now
from aurora.operations.status_storage import StorageLook
from aurora.operations.window import Span, Window, joined
from aurora.schedule import parse_rule

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SLOT = SlotState("aurora_app", "pgoutput", "app", 0, 50, 100, "reserved", None, 9, 5, False, "")  # noqa: FBT003
LOG = LogPart("aurora_app", "77", 1, 5, "full", "", 90, 100, "2026-11-25T11:00:00Z")
GOALS = Goals(
    rpo=7200, rto=None, proven=8 * 86400, drilled=100 * 86400, verified=35 * 86400, grace=900
)
OPTIONS = StatusOptions(
    {"full": parse_rule("daily"), "incremental": parse_rule("hourly")}, GOALS, {}
)


class _Link:
    def __init__(self, log: LogPart) -> None:
        self.log = log


def _window(log: LogPart | None = LOG) -> Window:
    link: Any = _Link(log) if log is not None else None
    return Window([Span(NOW - 10 * HOUR, NOW - HOUR)], link)


def _report(**changes: Any) -> StatusReport:
    good = StatusReport(
        "app", NOW, window=_window(), window_of="primary", source_reachable=True, slot=SLOT,
        rpo=Rpo(0.0, 0, exact=True, why=""),
        measured=Measured("restore", NOW - 2 * HOUR, ok=True, seconds=30),
        last_test=Measured("restore", NOW - 2 * HOUR, ok=True, seconds=30),
        storages=[StorageLook("primary", reachable=True), StorageLook("secondary", reachable=True)],
    )  # fmt: skip
    return replace(good, **changes)


def _codes(report: StatusReport, options: StatusOptions = OPTIONS) -> list[str]:
    return [one.code for one in judge(report, options).findings]


def test_all_is_well() -> None:
    """No finding, and the verdict says everything in one line."""
    report = judge(_report(), OPTIONS)
    assert (report.findings, report.level) == ([], Level.OK)
    assert report.verdict == (
        "recoverable from 2026-11-25T02:00:00Z to 2026-11-25T11:00:00Z, RPO now 0 s, "
        "last proven restore 2 h 00 min ago"
    )


def test_rpo_on_an_idle_source() -> None:
    """An hour after the last backup nothing would be lost, and that is what is said."""
    still = SourceLook(NOW, 100, SLOT, None, None)
    assert rpo_now(_window(), still, NOW) == Rpo(
        0.0, 0, exact=True, why="the source has written nothing since"
    )
    noise = SourceLook(NOW, 5000, SLOT, None, Unread(None))
    found = rpo_now(_window(), noise, NOW)
    assert (found.seconds, found.bytes, found.exact) == (0.0, 0, True)


def test_rpo_counts_from_the_first_commit_that_is_not_backed_up() -> None:
    found = rpo_now(
        _window(), SourceLook(NOW, 400, SLOT, None, Unread(NOW - timedelta(seconds=7))), NOW
    )
    assert (found.seconds, found.bytes, found.exact) == (7.0, 300, True)


def test_rpo_is_a_bound_where_the_log_does_not_tell() -> None:
    """Tables outside of the log, a slot that is being read, a source that is down."""
    import msgspec

    weak = _window(msgspec.structs.replace(LOG, unkeyed=(16384,)))
    found = rpo_now(weak, SourceLook(NOW, 400, SLOT, None, Unread(None)), NOW)
    assert (found.seconds, found.bytes, found.exact) == (3600.0, 300, False)
    assert "1 table not in the log" in found.why
    busy = rpo_now(_window(), SourceLook(NOW, 400, SLOT, None, None), NOW)
    assert (busy.seconds, busy.exact) == (3600.0, False)
    down = rpo_now(_window(), None, NOW)
    assert (down.seconds, down.bytes, down.exact) == (3600.0, None, False)
    fulls_only = rpo_now(_window(None), SourceLook(NOW, 400, None, None, None), NOW)
    assert (fulls_only.seconds, fulls_only.bytes, fulls_only.exact) == (3600.0, None, False)
    assert "no change log is kept" in fulls_only.why
    assert rpo_now(Window(), None, NOW).seconds is None


def test_a_full_that_is_newer_than_the_log_does_not_mean_that_there_is_none() -> None:
    """The log goes on with the next incremental."""
    import msgspec

    older = _window(msgspec.structs.replace(LOG, to_at="2026-11-25T10:30:00Z"))
    found = rpo_now(older, SourceLook(NOW, 400, SLOT, None, None), NOW)
    assert (found.seconds, found.exact) == (3600.0, False)
    assert found.why == "since the newest full; its change log is read by the next incremental"
    gone = rpo_now(older, SourceLook(NOW, 400, None, None, None), NOW)
    assert "no change log is kept" in gone.why


@pytest.mark.parametrize(
    "changes, code, level",
    [
        ({"window": Window()}, "no-backup", Level.ERROR),
        ({"rpo": Rpo(9000.0, 1, exact=True, why="")}, "rpo-missed", Level.WARNING),
        ({"source_reachable": False, "source_error": "no"}, "source-unreachable", Level.WARNING),
        ({"slot": None}, "log-slot", Level.ERROR),
        ({"slot": replace(SLOT, wal_status="lost")}, "log-slot", Level.ERROR),
        ({"health": SlotHealth(Danger.DRAIN, 6, 10, ("full",))}, "log-slot-behind", Level.WARNING),
        ({"health": SlotHealth(Danger.DROP, 9, 10, ("full",))}, "log-slot-behind", Level.ERROR),
        ({"storages": [StorageLook("primary", error="gone")]}, "primary-storage", Level.ERROR),
        ({"storages": [StorageLook("primary", reachable=True)]}, "no-secondary", Level.WARNING),
        ({"measured": None, "last_test": None}, "never-proven", Level.WARNING),
        ({"last_test": Measured("restore", NOW, ok=False, seconds=1, detail="failed")},
         "restore-failed", Level.ERROR),
        ({"last_test": Measured("test-recovery", NOW, ok=False, seconds=1, detail="environment")},
         "restore-failed", Level.WARNING),
        ({"measured": Measured("restore", NOW - 9 * 24 * HOUR, ok=True, seconds=1)},
         "proven-long-ago", Level.WARNING),
        ({"window": Window([Span(NOW - 101 * 24 * HOUR, NOW)])}, "drill-overdue", Level.WARNING),
        ({"last_drill": Measured("drill", NOW - 101 * 24 * HOUR, ok=True, seconds=1)},
         "drill-overdue", Level.WARNING),
        ({"covered": {"primary": Covered(NOW, 2, 10, NOW)}}, "primary-damaged", Level.ERROR),
        ({"covered": {"primary": Covered(NOW, 0, 10, NOW - 40 * 24 * HOUR, 20)}},
         "primary-verified-long-ago", Level.WARNING),
        ({"key_slots_unproven": ["recovery code"]}, "keys-unproven", Level.WARNING),
        ({"backups": [TypeStatus("full", "daily", "id", NOW, 90000.0, 1)]},
         "late-full", Level.WARNING),
        ({"backups": [TypeStatus("full", "daily", "id", NOW, 190000.0, 2)]},
         "late-full", Level.ERROR),
        ({"backups": [TypeStatus("full", "daily", missed=1)]}, "never-full", Level.WARNING),
    ],
)  # fmt: skip
def test_what_is_warned_of(changes: dict[str, Any], code: str, level: Level) -> None:
    """Each with something to do."""
    report = judge(_report(**changes), OPTIONS)
    found = {one.code: one for one in report.findings}
    assert found[code].level is level
    assert report.level is level
    assert found[code].hint


def test_a_secondary_that_is_behind() -> None:
    storages = [StorageLook("primary", reachable=True),
                StorageLook("secondary", reachable=True, behind=3)]  # fmt: skip
    assert _codes(_report(storages=storages)) == ["secondary-behind"]


def test_rto_beyond_its_goal() -> None:
    options = replace(OPTIONS, goals=replace(GOALS, rto=10))
    assert _codes(_report(), options) == ["rto-missed"]


def test_the_worst_comes_first() -> None:
    report = judge(_report(slot=None, measured=None, last_test=None), OPTIONS)
    assert [one.level for one in report.findings] == [Level.ERROR, Level.WARNING]


def test_spans_join_where_they_touch() -> None:
    """And what lies between them is a gap."""
    spans = joined([Span(NOW, NOW + HOUR), Span(NOW + HOUR, NOW + 2 * HOUR), Span(NOW, NOW),
                    Span(NOW + 3 * HOUR, NOW + 3 * HOUR)])  # fmt: skip
    assert spans == [Span(NOW, NOW + 2 * HOUR), Span(NOW + 3 * HOUR, NOW + 3 * HOUR)]
    assert Window(spans).gaps == [Span(NOW + 2 * HOUR, NOW + 3 * HOUR)]
