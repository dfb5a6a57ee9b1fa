"""`aurora stream`: the change log, stored as it is written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.render import Surface, surface
from aurora.events import Advanced, PhaseBegun
from aurora.operations.stream import StreamState, described
from aurora.units import format_size, plural

_PHASE = "streaming"


def stream(
    context: typer.Context,
    interval: Annotated[
        str | None,
        typer.Option(help="A change waits at most this long to be stored; 10s by default."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Store every change as it is committed, until stopped (Ctrl-C or SIGTERM).

    Shows the RPO: changes younger than that could be lost now. With --json a line of
    message_type "stream" each second. One stream a source; it makes the fulls that its log needs.
    """
    stop = threading.Event()
    with surface(json) as shown, _stopping(stop):
        aurora = run.load(context, {"stream": {"interval": interval}}, sink=shown.sink)
        shown.sink(PhaseBegun(_PHASE))
        state = api.stream(
            aurora, stop=stop, on_status=lambda state: _show(shown, state), sink=shown.sink
        )
        shown.summary({"operation": "stream", **state.document()}, [_told(state)])


def _show(shown: Surface, state: StreamState) -> None:
    if shown.json:
        shown.record("stream", state.document())
    else:
        shown.sink(Advanced(_PHASE, state.log_bytes, described(state)))


def _told(state: StreamState) -> str:
    return (
        f"stopped: {plural(state.transactions, 'transaction')} stored, "
        f"{format_size(state.log_bytes)} of log in {format_size(state.stored_bytes)}"
        + (f"; everything committed before {state.safe_at} is kept" if state.safe_at else "")
    )


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """The first signal asks the stream to end; a second one ends it where it stands."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {
        number: signal.signal(number, ask)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
