"""Rate and time left, worked out from events; shared by the surfaces."""

import os
import time
from collections import deque
from typing import Any

from aurora.events import Advanced, Event, PhaseBegun
from aurora.units import format_count, format_duration, format_size

_WINDOW_S = 15.0  # a rate that follows the last seconds, not the whole run


class Throttle:
    """Lets at most *per_second* through."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second if per_second > 0 else float("inf")
        self._last = float("-inf")

    def due(self, *, final: bool = False) -> bool:
        moment = time.monotonic()
        if not final and moment - self._last < self._interval:
            return False
        self._last = moment
        return True


class Tracker:
    """The current phase and how far it is."""

    def __init__(self) -> None:
        self.phase, self.unit, self.detail = "", "bytes", ""
        self.total: int | None = None
        self.done = 0
        self.began = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque()

    def see(self, event: Event) -> None:
        moment = time.monotonic()
        if isinstance(event, PhaseBegun):
            self.phase, self.total, self.unit = event.phase, event.total, event.unit
            self.done, self.detail, self.began = 0, "", moment
            self._marks.clear()
            self._marks.append((moment, 0))
        elif isinstance(event, Advanced):
            if event.phase != self.phase:
                self.phase, self.total, self.began = event.phase, None, moment
                self._marks.clear()
            # Workers may report out of order: a total never goes back.
            self.done = max(self.done, event.done) if event.phase == self.phase else event.done
            self.detail = event.detail
            if not self._marks or moment - self._marks[-1][0] > 0.2:
                self._marks.append((moment, self.done))
            while len(self._marks) > 2 and moment - self._marks[0][0] > _WINDOW_S:
                self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """Units a second over the last seconds; None too early to say."""
        if not self._marks:
            return None
        since, done = self._marks[0]
        elapsed = time.monotonic() - since
        return (self.done - done) / elapsed if elapsed > 0.3 and self.done > done else None

    @property
    def seconds_remaining(self) -> float | None:
        rate = self.rate
        if rate is None or self.total is None or self.done > self.total:
            return None
        return (self.total - self.done) / rate

    @property
    def fraction(self) -> float | None:
        return min(self.done / self.total, 1.0) if self.total else None

    def status(self) -> dict[str, Any]:
        """The fields of a ``status`` line."""
        rate, left, fraction = self.rate, self.seconds_remaining, self.fraction
        return {
            "phase": self.phase,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "percent_done": None if fraction is None else round(100 * fraction, 2),
            "rate": None if rate is None else round(rate, 1),
            "seconds_elapsed": round(time.monotonic() - self.began, 1),
            "seconds_remaining": None if left is None else round(left, 1),
            "detail": self.detail,
        }


def frames_per_second(default: float) -> float:
    """``AURORA_PROGRESS_FPS``, as restic's variable of that name, or *default*."""
    try:
        return float(os.environ.get("AURORA_PROGRESS_FPS", default))
    except ValueError:
        return default


def progress_text(tracker: Tracker) -> str:
    """How far the current phase is, for people."""
    parts = []
    if tracker.fraction is not None:
        parts.append(f"{100 * tracker.fraction:3.0f} %")
    done = quantity(tracker.done, tracker.unit)
    if tracker.total is not None:
        parts.append(f"{done} of {quantity(tracker.total, tracker.unit)}")
    elif tracker.done:
        parts.append(done)
    if (rate := tracker.rate) is not None and tracker.unit == "bytes":
        parts.append(f"{format_size(round(rate))}/s")
    if (left := tracker.seconds_remaining) is not None:
        parts.append(f"{format_duration(left)} left")
    if tracker.detail:
        parts.append(tracker.detail)
    return "  ".join(parts)


def quantity(count: int, unit: str) -> str:
    return format_size(count) if unit == "bytes" else f"{format_count(count)} {unit}"
