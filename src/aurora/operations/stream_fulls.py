"""Fulls that a stream asks for: the schema changed, or the log began anew."""

import threading
import time
from collections.abc import Callable

from aurora.errors import AuroraError, Cancelled
from aurora.events import EventSink, Noted, PhaseEnded, Warned
from aurora.operations.backup import BackupReport

MakeFull = Callable[[str, EventSink], BackupReport]
"""Makes a full backup for the reason given, and tells the sink."""

_FIRST_PAUSE, _LONGEST_PAUSE = 30.0, 1800.0
_STOP_SECONDS = 20.0
_LONGEST_SETTLE = 6.0  # times the settings' own


class Fulls:
    """Makes fulls from a thread, one at a time, while the stream goes on.

    Attributes:
        making: why one is being made, "" while none is.
        on_made: gets the id of each.
    """

    def __init__(self, make: MakeFull, settle: float, sink: EventSink) -> None:
        self.making = ""
        self.on_made: Callable[[str], None] = lambda _: None
        self._make = make
        self._settle = settle
        self._sink = sink
        self._lock = threading.Lock()
        self._known = ""  # fingerprint of the full that the log leans on, "" for none
        self._seen = ""  # the newest
        self._why = ""
        self._not_before = 0.0
        self._since = 0.0
        self._pause = _FIRST_PAUSE
        self._stopped = False
        self._thread: threading.Thread | None = None

    def know(self, fingerprint: str) -> None:
        """The schema of the newest full with a place in the log."""
        with self._lock:
            self._known = fingerprint

    def want(self, why: str, *, at_once: bool = False) -> None:
        """Let a full be made, once the schema is left in peace."""
        with self._lock:
            if not self.making:  # else it is judged by the schema when that one is done
                self._want(why, 0.0 if at_once else self._settle)

    def _want(self, why: str, settle: float) -> None:
        now = time.monotonic()
        if not self._why:
            self._since = now
            self._sink(Noted(f"a full is needed: {why}"))
        self._why = why
        latest = self._since + self._settle * _LONGEST_SETTLE
        self._not_before = max(self._not_before, min(now + settle, latest))

    def see(self, fingerprint: str) -> None:
        """Called with the schema's fingerprint at each look."""
        with self._lock:
            if self.making:
                return  # it publishes new tables itself; the look after it tells
            if self._known and fingerprint not in (self._known, self._seen):
                self._want("the schema changed", self._settle)
            self._seen = fingerprint

    def tick(self) -> None:
        """Begin one that is due."""
        with self._lock:
            due = self._why and not self.making and time.monotonic() >= self._not_before
            if not due or self._stopped:
                return
            self.making, self._why = self._why, ""
        self._thread = threading.Thread(target=self._run, name="log-full", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin no more, and cancel the one that runs."""
        self._stopped = True
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        why = self.making
        try:
            report = self._make(why, self._hear)
        except Cancelled:
            self.making = ""
            return
        except AuroraError as error:
            self._again(why, error.message)
            return
        except BaseException as error:
            self._again(why, type(error).__name__)
            raise
        if report.log is None:
            self._again(why, "it has no place in the log")
            return
        with self._lock:
            self._known = report.log.fingerprint
            self._pause, self.making, self._seen = _FIRST_PAUSE, "", ""
        self._sink(Noted(f"full backup {report.backup_id} is made; the log leans on it"))
        self.on_made(report.backup_id)

    def _again(self, why: str, problem: str) -> None:
        with self._lock:
            self.making, self._why = "", why
            self._since = time.monotonic()
            self._not_before = self._since + self._pause
            pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        self._sink(
            Warned(
                "stream-full-failed",
                f"the full that is needed ({why}) was not made: {problem}",
                f"It is tried again in {pause:.0f} seconds; the log is kept meanwhile. Until then "
                "recovery reaches to the last commit before.",
            )
        )

    def _hear(self, event: object) -> None:
        """What a full tells: facts and warnings; its progress would hide the stream's."""
        if self._stopped:
            raise Cancelled("the stream stops, and with it the full that it was making")
        if isinstance(event, Noted | Warned):
            self._sink(event)
        elif isinstance(event, PhaseEnded) and event.summary:
            self._sink(Noted(f"full: {event.phase}: {event.summary}"))
