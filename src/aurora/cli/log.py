"""For cron, pipes and log files: a line for each fact, one line of progress a minute."""

import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import typer
from rich.console import Console

from aurora import clock
from aurora.cli.progress import Throttle, Tracker, frames_per_second, progress_text
from aurora.events import Advanced, Event, EventSink, Noted, PhaseBegun, PhaseEnded, Warned

LINES_PER_SECOND = 1 / 60


class LogSurface:
    """Events on standard error with the time in front, results on standard output.

    A :class:`aurora.cli.render.Surface`.
    """

    json = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tracker = Tracker()
        self._throttle = Throttle(frames_per_second(LINES_PER_SECOND))

    @property
    def sink(self) -> EventSink:
        return self._see

    def _see(self, event: Event) -> None:
        with self._lock:
            self._tracker.see(event)
            match event:
                case PhaseBegun(phase):
                    self._throttle.due(final=True)  # the first line of progress comes a minute on
                    self._log(f"{phase} …")
                case Advanced():
                    if self._throttle.due():
                        self._log(f"{self._tracker.phase}: {progress_text(self._tracker)}")
                case PhaseEnded(phase, summary):
                    self._log(f"{phase}: {summary or 'done'}")
                case Noted(message):
                    self._log(message)
                case Warned(_, message, hint):
                    self._log(f"warning: {message}")
                    if hint:
                        self._log(f"  -> {hint}")

    def _log(self, text: str) -> None:
        moment = clock.isoformat(clock.now().replace(microsecond=0))
        typer.echo(f"{moment} {text}", err=True)

    def summary(self, _report: Mapping[str, Any], lines: Iterable[str], /) -> None:
        self.print(*lines)

    def print(self, *lines: object) -> None:
        # No width of a terminal to wrap to: one fact stays one line, for grep.
        console = Console(file=sys.stdout, highlight=False, width=160, soft_wrap=True)
        for line in lines:
            console.print(line, markup=False)

    def record(self, _type: str, _fields: Mapping[str, Any], /) -> None:
        return

    def __enter__(self) -> "LogSurface":
        return self

    def __exit__(self, *_: object) -> None:
        return
