"""How the demo talks to a person: a title, a sentence, the command, the facts, and a table."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from aurora.units import format_duration

_PLAIN_WIDTH = 110


@dataclass(slots=True)
class Act:
    """One line of the closing summary.

    Attributes:
        title: what was done.
        seconds: how long it took, without the demo's own checks.
        facts: sizes and counts, a few words.
        good: whether it did what it should.
    """

    title: str
    seconds: float = 0.0
    facts: str = ""
    good: bool = False


class Narrator:
    """Writes to standard output: with colour on a terminal, plain into a file or a pipe."""

    def __init__(self, console: Console | None = None) -> None:
        # Into a file or pipe the table may be wider than the 80 columns that Rich assumes.
        width = None if sys.stdout.isatty() else _PLAIN_WIDTH
        self._console = console or Console(highlight=False, width=width)
        self._acts = 0

    @property
    def in_colour(self) -> bool:
        """Whether a person watches at a terminal."""
        return self._console.is_terminal

    def opening(self, *lines: str) -> None:
        """Before the first act."""
        self._console.print(
            Panel(Text("\n".join(lines)), title="Aurora", title_align="left", expand=False)
            if self.in_colour
            else Text("\n".join(lines)),
            soft_wrap=not self.in_colour,
        )

    def act(self, title: str, sentence: str) -> None:
        """A new act begins; *sentence* says to a person what happens and why."""
        self._acts += 1
        self._console.print()
        self._console.print(Text(f"{self._acts}. {title}", style="bold cyan"), soft_wrap=True)
        self._wrapped(sentence)

    def command(self, line: str) -> None:
        """A command as a user would type it, before its own output."""
        self._console.print(Text.assemble(("$ ", "dim"), (line, "bold yellow")), soft_wrap=True)
        self._console.file.flush()  # the command writes to the same place

    def sql(self, statement: str) -> None:
        """A statement that somebody runs."""
        self._console.print(Text.assemble(("sql> ", "dim"), (statement, "yellow")), soft_wrap=True)

    def note(self, sentence: str) -> None:
        """Something worth knowing, neither good nor bad."""
        self._wrapped(sentence)

    def page(self, lines: Sequence[str]) -> None:
        """A part of a document, as it is."""
        for line in lines:
            self._console.print(Text(f"   | {line}", style="dim"), soft_wrap=True)

    def verdict(self, fact: str, *, good: bool) -> None:
        """What a check of the demo's own found."""
        sign, style = ("ok", "bold green") if good else ("WRONG", "bold red")
        self._console.print(Text.assemble((f"{sign}  ", style), fact), soft_wrap=True)

    def closing(self, acts: Sequence[Act], *, seconds: float) -> None:
        """The table at the end."""
        table = Table(title="What was done", title_justify="left", title_style="bold")
        table.add_column("step", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("facts", overflow="fold")
        table.add_column("verdict", no_wrap=True)
        for act in acts:
            verdict = Text("ok", "bold green") if act.good else Text("FAILED", "bold red")
            table.add_row(act.title, format_duration(act.seconds), Text(act.facts), verdict)
        self._console.print()
        self._console.print(table)
        if all(act.good for act in acts):
            said = Text(f"All is well, after {format_duration(seconds)}.", "bold green")
        else:
            failed = ", ".join(act.title for act in acts if not act.good)
            said = Text(f"The demo FAILED: {failed}.", "bold red")
        self._console.print(said, soft_wrap=True)

    def _wrapped(self, sentence: str) -> None:
        if self.in_colour:
            self._console.print(Padding(Text(sentence), (0, 0, 0, 3)))
        else:
            self._console.print(Text(f"   {sentence}"), soft_wrap=True)
