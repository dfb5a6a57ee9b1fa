"""Questions to a person: a secret, or a word that shows they mean it."""

import getpass
import sys
from collections.abc import Sequence

import typer

from aurora.errors import Cancelled, UsageError


def interactive() -> bool:
    """Whether somebody can answer."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask_secret(question: str) -> str | None:
    """Ask without echo; None where nobody can answer. An :data:`aurora.wiring.Ask`."""
    if not interactive():
        return None
    try:
        return getpass.getpass(f"{question}: ", stream=sys.stderr)
    except (KeyboardInterrupt, EOFError):
        typer.echo(err=True)  # what follows begins on a line of its own
        raise


def ask_new_secret(question: str) -> str | None:
    """Ask twice for a secret that is being chosen. Raises UsageError after three tries."""
    for _ in range(3):
        first = ask_secret(question)
        if first is None:
            return None
        if first and ask_secret(f"{question}, again") == first:
            return first
        typer.echo("They differ, or are empty. Once more.", err=True)
    raise UsageError("no passphrase was chosen", hint="Nothing was made.")


def confirm_by_typing(name: str, *, action: str, yes: bool) -> None:
    """Let the user type *name* before *action* (``"replace the database app on h"``).

    Raises UsageError where nobody can answer and *yes* is not given; Cancelled
    where something else is typed.
    """
    if yes:
        return
    _need_somebody(action)
    typer.echo(f"This will {action}.", err=True)
    if _read(f"Type {name} to go on: ") != name:
        raise Cancelled("not confirmed", hint="Nothing was changed.")


def confirm(question: str, *, action: str, yes: bool) -> None:
    """A plain yes or no, no by default. Raises as :func:`confirm_by_typing`."""
    if yes:
        return
    _need_somebody(action)
    if _read(f"{question} [y/N] ").lower() not in ("y", "yes"):
        raise Cancelled("not confirmed", hint="Nothing was changed.")


def choose(question: str, answers: Sequence[str]) -> int:
    """Let the user pick one of *answers*; its place. Call it where :func:`interactive`.

    Raises Cancelled where something else is typed.
    """
    lines = [question, *(f"  {number}  {answer}" for number, answer in enumerate(answers, 1))]
    typer.echo("\n".join(lines), err=True)
    typed = _read(f"Type 1 to {len(answers)}: ")
    if not typed.isdecimal() or not 1 <= int(typed) <= len(answers):
        raise Cancelled("nothing was chosen", hint="Nothing was changed.")
    return int(typed) - 1


def _need_somebody(action: str) -> None:
    if not interactive():
        raise UsageError(
            f"to {action} needs a confirmation, and there is no terminal to ask on",
            hint="Give --yes if you are sure. Nothing was changed.",
        )


def _read(question: str) -> str:
    typer.echo(question, nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise Cancelled("not confirmed", hint="Nothing was changed.")
    return line.strip()
