"""What people see: progress on standard error, results on standard output.

:func:`surface` chooses: JSON lines with ``--json``; a live progress bar on a terminal;
else one line a minute, as a log wants it. The last line of a run is the fact.
"""

import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from aurora.cli.jsonlines import JsonLines
from aurora.cli.log import LogSurface
from aurora.cli.progress import Tracker, frames_per_second, progress_text
from aurora.events import Advanced, Event, EventSink, Noted, PhaseBegun, PhaseEnded, Warned
from aurora.operations.findings import Finding


class Surface(Protocol):
    """Where one command tells what it does. A context manager: leaving it ends the display."""

    @property
    def json(self) -> bool: ...

    @property
    def sink(self) -> EventSink: ...

    def summary(self, report: Mapping[str, Any], lines: Iterable[str], /) -> None:
        """The end of a success: *report* for programs, *lines* for people (the last: the fact)."""

    def print(self, *lines: object) -> None:
        """For people only: text, or anything Rich can show; nothing with ``--json``."""

    def record(self, message_type: str, fields: Mapping[str, Any], /) -> None:
        """For programs only: one of many results, before the summary."""

    def __enter__(self) -> "Surface": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def surface(json: bool) -> Surface:
    """The surface for this run. Use it in a ``with`` statement."""
    if json:
        return JsonSurface()
    return TerminalSurface() if sys.stderr.isatty() else LogSurface()


class JsonSurface:
    """JSON lines on standard output, nothing for people."""

    json = True

    def __init__(self) -> None:
        self._lines = JsonLines(frames_per_second=frames_per_second(5))

    @property
    def sink(self) -> EventSink:
        return self._lines

    def summary(self, report: Mapping[str, Any], _lines: Iterable[str], /) -> None:
        self._lines.summary(report)

    def print(self, *_: object) -> None:
        return

    def record(self, message_type: str, fields: Mapping[str, Any], /) -> None:
        self._lines.record(message_type, fields)

    def __enter__(self) -> "JsonSurface":
        return self

    def __exit__(self, *_: object) -> None:
        return


class TerminalSurface:
    """A live line with bar, rate and time left; facts scroll above it."""

    json = False

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._out = Console(highlight=False)
        self._lock = threading.Lock()
        self._tracker = Tracker()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            _Told(self._tracker),
            console=self._console,
            transient=True,
            refresh_per_second=min(frames_per_second(5), 10) or 1,
        )
        self._task: Any = None

    @property
    def sink(self) -> EventSink:
        return self._see

    def _see(self, event: Event) -> None:
        with self._lock:
            self._tracker.see(event)
            match event:
                case PhaseBegun(phase, total, _):
                    self._begin_task(phase, total)
                case Advanced(phase):
                    if self._task is None:
                        self._begin_task(phase, None)
                    self._progress.update(self._task, completed=self._tracker.done)
                case PhaseEnded(phase, summary):
                    self._end_task()
                    self._line("[green]✓[/green]", f"{phase}: {summary}" if summary else phase)
                case Noted(message):
                    self._line("[dim]·[/dim]", message)
                case Warned(_, message, hint):
                    self._line("[yellow]![/yellow]", f"warning: {message}")
                    if hint:
                        self._line(" ", hint)

    def _begin_task(self, phase: str, total: int | None) -> None:
        # Live only while a phase runs: in between somebody may be asked for a secret.
        self._end_task()
        self._progress.start()
        self._task = self._progress.add_task(escape(phase), total=total)

    def _end_task(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
            self._progress.stop()

    def _line(self, sign: str, text: str) -> None:
        self._console.print(f"{sign} {escape(text)}")

    def summary(self, _report: Mapping[str, Any], lines: Iterable[str], /) -> None:
        self._pause()
        self.print(*lines)

    def print(self, *lines: object) -> None:
        for line in lines:
            if isinstance(line, str):
                self._out.print(line, markup=False, soft_wrap=True)
            else:
                self._out.print(line)

    def record(self, _type: str, _fields: Mapping[str, Any], /) -> None:
        return

    def _pause(self) -> None:
        with self._lock:
            self._end_task()

    def __enter__(self) -> "TerminalSurface":
        return self

    def __exit__(self, *_: object) -> None:
        self._pause()


class _Told(ProgressColumn):
    """``41 %  310 MiB of 760 MiB  92 MiB/s  4.9 s left``."""

    def __init__(self, tracker: Tracker) -> None:
        # Cut rather than wrapped: a second line would make the display jump.
        super().__init__(table_column=Column(no_wrap=True, overflow="ellipsis"))
        self._tracker = tracker

    def render(self, _task: Task) -> Text:
        return Text(progress_text(self._tracker))


def recovery_code(place: str, code: str) -> list[str]:
    """A recovery code in a frame, to be printed or written down."""
    other = "passphrase" if place == "primary" else "secondary passphrase"
    lines = [
        f"RECOVERY CODE of the {place} repository",
        "",
        f"    {code}",
        "",
        f"It opens the repository if the {other} is lost. It is shown once and",
        "stored nowhere: print it or write it down, and keep it off this machine.",
    ]
    width = max(map(len, lines)) + 2
    frame = "-" * (width + 2)
    return ["", f"+{frame}+", *(f"|  {line:<{width}}|" for line in lines), f"+{frame}+", ""]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> Table:
    """A plain table; the columns named in *right* (spaces between) are aligned right."""
    shown = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in columns:
        side = "right" if name in right.split() else "left"
        shown.add_column(name, justify="right" if side == "right" else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(str(cell)) for cell in row))
    return shown


def plan(title: str, facts: Iterable[tuple[str, object]]) -> list[object]:
    """A plan before it is applied: a title and facts, name before value."""
    grid = Table.grid(padding=(0, 2))
    for name, value in facts:
        grid.add_row(Text(f"  {name}"), Text(str(value)))
    return [Text(title, style="bold"), grid]


_LEVEL_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def findings(found: Iterable[Finding]) -> list[Text]:
    """One line each, with what to do under those that need it."""
    under = "\n" + " " * 12
    lines: list[Text] = []
    for finding in found:
        style = _LEVEL_STYLES.get(finding.level, "")
        lines.append(Text.assemble((f"{finding.level:<7}", style), "  ", finding.message))
        if finding.hint and finding.level != "ok":
            lines.append(Text(f"         -> {finding.hint.replace(chr(10), under)}"))
    return lines
