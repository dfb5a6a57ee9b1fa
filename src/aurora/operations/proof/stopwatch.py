"""How long each phase of an operation took, taken from the events that it tells anyway."""

import threading
import time

from aurora.events import Event, EventSink, PhaseBegun, PhaseEnded

OTHER = "planning and switching"


class Stopwatch:
    """An event sink that passes on what it hears. Threads may share it."""

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._begun = self._since = time.monotonic()
        self._phase = OTHER
        self._seconds: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case PhaseBegun(phase):
                self._turn(phase)
            case PhaseEnded(phase) if phase == self._phase:
                self._turn(OTHER)
            case _:
                pass
        self._sink(event)

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._begun

    def phases(self) -> list[tuple[str, float]]:
        """(phase, seconds) in the order of their beginning; they add up to ``elapsed``."""
        self._turn(self._phase)
        return list(self._seconds.items())

    def _turn(self, phase: str) -> None:
        with self._lock:
            now = time.monotonic()
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
            self._phase, self._since = phase, now
