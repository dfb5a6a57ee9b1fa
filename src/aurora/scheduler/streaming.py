"""The continuous stream under the daemon's eyes: started again, and told of when it stays down."""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from aurora import clock
from aurora.errors import AuroraError
from aurora.events import EventSink, Noted, Warned
from aurora.scheduler.child import ChildResult, FileLock, run_child
from aurora.units import format_duration

WORDS = ("stream",)
ELSEWHERE = "stream-running"  # the error's code: another host streams, and this one waits
_ASKED_EVERY = 0.5
_FIRST_WAIT = 5.0
_LONGEST_WAIT = 300.0
_WELL_AFTER = 120.0  # a stream that ran this long begins its back-off anew
_ALARM_AFTER = 120.0


class Listening(Protocol):
    """Hears of the stream."""

    def stream_down(self, result: ChildResult, since: datetime) -> None: ...
    def stream_up(self) -> None: ...


class StreamKeeper:
    """Keeps one `aurora stream` running as a child, in a thread of its own."""

    def __init__(
        self,
        config: Path,
        directory: Path,
        listening: Listening,
        sink: EventSink,
        *,
        stop_timeout: float,
        may_begin: Callable[[], bool] = lambda: True,
        start: Callable[..., ChildResult] = run_child,
    ) -> None:
        """*may_begin* is asked before the first one, until it says so."""
        self._config = config
        self._directory = directory
        self._listening = listening
        self._sink = sink
        self._stop_timeout = stop_timeout
        self._may_begin = may_begin
        self._start = start
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="aurora-stream", daemon=True)
        self._seen: dict[str, Any] = {}
        self._up_told = False

    @property
    def state(self) -> dict[str, Any]:
        """What the stream said last; empty where none runs."""
        return self._seen

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it in order."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        while not self._may_begin() and not self._stop.wait(_ASKED_EVERY):
            pass
        wait, down_since = _FIRST_WAIT, None
        while not self._stop.is_set():
            begun, began_at = time.monotonic(), clock.now()
            result = self._run_once()
            if result is None or self._stop.is_set():
                self._stop.wait(_FIRST_WAIT)
                continue
            if time.monotonic() - begun > _WELL_AFTER:
                wait, down_since = _FIRST_WAIT, None
            down_since = down_since or began_at
            if result.error.get("code") == ELSEWHERE:
                self._stop.wait(_LONGEST_WAIT / 5)
                continue
            self._tell_down(result, wait)
            if (clock.now() - down_since).total_seconds() > _ALARM_AFTER or not result.may_pass:
                self._listening.stream_down(result, down_since)
            self._stop.wait(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    def _run_once(self) -> ChildResult | None:
        lock = FileLock(self._directory / "stream.lock")
        try:
            if not lock.acquire():
                return None  # one of a daemon that was killed is still ending
            return self._start(
                WORDS, config=self._config, log=self._directory / "stream.log", lock=lock,
                stop=self._stop, stop_timeout=self._stop_timeout, on_message=self._see,
            )  # fmt: skip
        except AuroraError as error:
            fields = {"code": error.code, "message": error.message, "hint": error.hint}
            return ChildResult(error.exit_code, 0.0, error=fields)
        finally:
            self._seen, self._up_told = {}, False
            lock.release()

    def _see(self, kind: str, message: dict[str, Any]) -> None:
        if kind != "stream":
            return
        self._seen = message
        if not self._up_told and message.get("state") == "streaming":
            self._up_told = True
            self._sink(Noted("the stream stores changes as they are committed"))
            self._listening.stream_up()

    def _tell_down(self, result: ChildResult, wait: float) -> None:
        told = result.message or "without a word"
        self._sink(
            Warned(
                "stream-ended",
                f"the stream ended: {told}",
                f"It is started again in {format_duration(wait)}.",
            )
        )
