"""What surfaces print: JSON lines for programs, lines for people."""

import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aurora.cli import progress
from aurora.cli.jsonlines import JsonLines
from aurora.cli.log import LogSurface
from aurora.cli.progress import Throttle, Tracker, progress_text
from aurora.cli.render import (
    JsonSurface,
    TerminalSurface,
    findings,
    plan,
    recovery_code,
    surface,
    table,
)
from aurora.events import Advanced, EventSink, Noted, PhaseBegun, PhaseEnded, Warned
from aurora.operations.findings import failed, good, warning

MIB = 1 << 20


class Clock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The surfaces' clock."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def play(sink: EventSink) -> None:
    """A short run with everything in it."""
    sink(PhaseBegun("copy", 100 * MIB))
    sink(Advanced("copy", 40 * MIB, "public.a"))
    sink(Noted("a [fact]"))
    sink(Warned("secondary-down", "no answer", "Run replicate."))
    sink(Advanced("copy", 100 * MIB))
    sink(PhaseEnded("copy", "100 MiB"))


def test_json_lines_hold_one_object_each_and_the_summary_is_last() -> None:
    """The contract with scripts."""
    out = io.StringIO()
    lines = JsonLines(out, frames_per_second=1000)
    play(lines)
    lines.summary({"backup_id": "b", "at": datetime(2026, 1, 2, tzinfo=UTC), "in": Path("/x")})
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["message_type"] for line in told] == [
        "phase", "status", "note", "warning", "status", "phase", "summary",
    ]  # fmt: skip
    assert told[1]["percent_done"] == 40
    assert told[1]["detail"] == "public.a"
    assert told[3] == {
        "message_type": "warning",
        "code": "secondary-down",
        "message": "no answer",
        "hint": "Run replicate.",
    }
    assert told[4]["done"] == told[4]["total"] == 100 * MIB
    assert told[6] == {
        "message_type": "summary", "backup_id": "b", "at": "2026-01-02T00:00:00Z", "in": "/x",
    }  # fmt: skip


def test_status_lines_are_at_most_five_a_second(clock: Clock) -> None:
    """But the end of a phase is always told."""
    out = io.StringIO()
    lines = JsonLines(out)
    lines(PhaseBegun("copy", 1000))
    for done in range(1, 1001):
        clock.now += 0.001
        lines(Advanced("copy", done))
    told = [json.loads(line) for line in out.getvalue().splitlines()][1:]
    assert 5 <= len(told) <= 7
    assert told[-1]["done"] == 1000


def test_rate_and_time_left_follow_the_last_seconds(clock: Clock) -> None:
    """A slow beginning is forgotten."""
    tracker = Tracker()
    tracker.see(PhaseBegun("copy", 1000))
    for second in range(1, 21):
        clock.now += 1
        tracker.see(Advanced("copy", second))
    assert tracker.rate == pytest.approx(1)
    for _ in range(20):
        clock.now += 1
        tracker.see(Advanced("copy", tracker.done + 20))
    assert tracker.rate == pytest.approx(20, rel=0.05)
    assert tracker.seconds_remaining == pytest.approx((1000 - 420) / 20, rel=0.05)


def test_a_total_never_goes_back() -> None:
    """Workers report out of order."""
    tracker = Tracker()
    tracker.see(PhaseBegun("copy", 10))
    tracker.see(Advanced("copy", 8))
    tracker.see(Advanced("copy", 7))
    assert tracker.done == 8


def test_a_throttle_without_frames_lets_the_end_through(clock: Clock) -> None:
    """AURORA_PROGRESS_FPS=0 silences progress."""
    throttle = Throttle(0)
    throttle.due()
    clock.now += 1e6
    assert not throttle.due()
    assert throttle.due(final=True)


@pytest.mark.parametrize("text,frames", [("0.0166", 0.0166), ("x", 5), ("", 5)])
def test_the_rate_of_frames_can_be_set(
    monkeypatch: pytest.MonkeyPatch, text: str, frames: float
) -> None:
    """Nonsense there is no reason to stop a backup."""
    monkeypatch.setenv("AURORA_PROGRESS_FPS", text)
    assert progress.frames_per_second(5) == frames


def test_progress_is_told_in_words(clock: Clock) -> None:
    """How far, how much, how fast, how long still, what."""
    tracker = Tracker()
    tracker.see(PhaseBegun("copy", 760 * MIB))
    clock.now += 2
    tracker.see(Advanced("copy", 310 * MIB, "public.a"))
    assert progress_text(tracker) == (" 41 %  310 MiB of 760 MiB  155 MiB/s  2.9 s left  public.a")


def test_json_surface_prints_nothing_else_on_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every line parses."""
    with surface(json=True) as shown:
        assert isinstance(shown, JsonSurface)
        play(shown.sink)
        shown.print("for people", table(("a",), [("b",)]))
        shown.summary({"ok": True}, ["for people"])
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()][-1]["ok"] is True
    assert "people" not in out + err


def test_a_log_has_a_line_a_minute_and_results_on_standard_output(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """For cron: times in front, no escape sequences, nothing wrapped."""
    with LogSurface() as shown:
        shown.sink(PhaseBegun("copy", 600))
        for done in range(1, 301):
            clock.now += 1
            shown.sink(Advanced("copy", done))
        play(shown.sink)
        shown.summary({}, ["x" * 300, "backup [b] done"])
    out, err = capsys.readouterr()
    assert out.splitlines() == ["x" * 300, "backup [b] done"]
    assert err.count("copy: ") == 6  # five minutes and the end
    assert "warning: no answer" in err
    assert "a [fact]" in err
    assert "\x1b" not in out + err


def test_a_terminal_shows_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of tables are no markup."""
    with TerminalSurface() as shown:
        play(shown.sink)
        shown.print("[red]name[/red]", *plan("Plan [1]", [("into", "[bold]db")]))
        shown.summary({}, ["done [b]"])
    out, err = capsys.readouterr()
    assert "a [fact]" in err
    for text in ("[red]name[/red]", "Plan [1]", "[bold]db", "done [b]"):
        assert text in out


def test_without_a_terminal_a_log_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar in a log file helps nobody."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(surface(json=False), LogSurface)


def test_findings_say_what_to_do() -> None:
    """Under those that need it only."""
    lines = [
        str(line)
        for line in findings(
            [good("a", "fine"), warning("b", "hm", "Do this."), failed("c", "bad", "Do that.")]
        )
    ]
    assert lines == [
        "ok       fine",
        "warning  hm",
        "         -> Do this.",
        "error    bad",
        "         -> Do that.",
    ]


def test_a_recovery_code_stands_in_a_frame() -> None:
    """Whole, on one line, unmistakable."""
    lines = recovery_code("primary", "abcde-fghjk")
    assert any("    abcde-fghjk" in line for line in lines)
    framed = [line for line in lines if line]
    assert len({len(line) for line in framed}) == 1
