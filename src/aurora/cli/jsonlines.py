"""The JSON lines on standard output: one object a line, for programs.

The contract (additive only; new fields and new ``message_type`` values may appear):

- ``status``: phase, done, total, unit, percent_done, rate (units a second),
  seconds_elapsed, seconds_remaining; at most 5 a second (``AURORA_PROGRESS_FPS``)
- ``phase``: phase, state ``begun`` or ``ended``, summary
- ``note``: message;  ``warning``: code, message, hint
- ``transaction``: one of ``log show``;  ``record``: one of ``audit show``
- ``summary``: the report of the operation; always the last line of a success
"""

import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from typing import Any, TextIO

from aurora import clock
from aurora.cli.progress import Throttle, Tracker
from aurora.events import Advanced, Event, Noted, PhaseBegun, PhaseEnded, Warned


class JsonLines:
    """An event sink, and the summary, as JSON lines on *out*. Safe from any thread."""

    def __init__(self, out: TextIO | None = None, *, frames_per_second: float = 5.0) -> None:
        self._out = out or sys.stdout
        self._lock = threading.Lock()
        self._tracker = Tracker()
        self._throttle = Throttle(frames_per_second)

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._tracker.see(event)
            match event:
                case Advanced(phase, done, _):
                    if self._throttle.due(final=done == self._tracker.total):
                        self._write("status", self._tracker.status())
                case PhaseBegun(phase, total, unit):
                    begun = {"phase": phase, "state": "begun", "total": total, "unit": unit}
                    self._write("phase", begun)
                case PhaseEnded(phase, summary):
                    self._write("phase", {"phase": phase, "state": "ended", "summary": summary})
                case Noted(message):
                    self._write("note", {"message": message})
                case Warned(code, message, hint):
                    self._write("warning", {"code": code, "message": message, "hint": hint})

    def summary(self, report: Mapping[str, Any]) -> None:
        with self._lock:
            self._write("summary", report)

    def record(self, message_type: str, fields: Mapping[str, Any]) -> None:
        """One of many results."""
        with self._lock:
            self._write(message_type, fields)

    def _write(self, message_type: str, fields: Mapping[str, Any]) -> None:
        line = {"message_type": message_type, **fields}
        self._out.write(json.dumps(line, ensure_ascii=False, default=plain) + "\n")
        self._out.flush()


def plain(value: object) -> Any:
    """What ``json`` cannot write by itself: times, paths, dataclasses, sets, bytes."""
    if isinstance(value, datetime):
        return clock.isoformat(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"not for JSON: {type(value).__name__}")
