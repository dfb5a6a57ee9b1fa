"""How a run ends: one clean message on standard error, and an exit code.

The only module that turns errors into exit codes. An AuroraError is told in two lines;
anything else is our own mistake: it goes into a crash report, never onto the screen.
"""

import json
import os
import platform
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import typer

from aurora import clock
from aurora.errors import AuroraError, Cancelled, UsageError
from aurora.postgres.conninfo import redact
from aurora.version import __version__


def report(error: BaseException, *, as_json: bool) -> int:
    """Tell *error* on standard error and return the exit code."""
    known = _known(error)
    if as_json:
        line = {
            "message_type": "exit_error",
            "code": known.code,
            "exit_code": known.exit_code,
            "message": known.message,
            "hint": known.hint,
            "context": _plain(known.context),
        }
        typer.echo(json.dumps(line, ensure_ascii=False), err=True)
    else:
        _tell(known)
    return known.exit_code


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP stop a run as Ctrl-C does: what is open is closed, leases are freed."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _known(error: BaseException) -> AuroraError:
    if isinstance(error, AuroraError):
        if os.environ.get("AURORA_DEBUG"):
            traceback.print_exception(error)
        return error
    if isinstance(error, KeyboardInterrupt):
        return Cancelled(
            "stopped", hint="Every finished backup is untouched; run the command again."
        )
    if isinstance(error, BrokenPipeError):
        return Cancelled("the reader of the output went away")
    if os.environ.get("AURORA_DEBUG"):
        traceback.print_exception(error)
    place = _write_crash_report(error)
    unexpected = AuroraError(
        f"unexpected {type(error).__name__}: this is a mistake in Aurora",
        hint=f"Finished backups are untouched. Details are in {place}; it holds no passphrase, but "
        "read it before you send it. AURORA_DEBUG=1 shows them here.",
    )
    unexpected.code = "unexpected"
    return unexpected


def _plain(context: Mapping[str, object]) -> dict[str, object]:
    """The names and numbers among what an error carries."""
    return {name: value for name, value in context.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, str | int | float)


def _tell(error: AuroraError) -> None:
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    word = "\033[1;31merror:\033[0m" if colour else "error:"
    hint = error.hint or ("Try `aurora --help`." if isinstance(error, UsageError) else "")
    typer.echo(f"{word} {error.message}", err=True)
    if hint:
        typer.echo(hint, err=True)


def _write_crash_report(error: BaseException) -> str:
    # Frames without their locals: those could hold keys.
    lines = traceback.format_exception(error)
    text = redact(
        f"aurora {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{clock.isoformat(clock.now())}\n\n{''.join(lines)}"
    )
    try:
        handle, path = tempfile.mkstemp(prefix="aurora-crash-", suffix=".txt")  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return "no file (the temporary directory cannot be written)"
    return path
