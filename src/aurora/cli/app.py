"""The `aurora` command: root options, the verbs, and the one place where a run ends."""

import gc
import sys
from pathlib import Path
from typing import Annotated

import typer

from aurora.cli import exits
from aurora.cli.lazy import Verb, group_of
from aurora.errors import Cancelled, UsageError
from aurora.version import __version__

VERBS = {
    "init": Verb("aurora.cli.init:init", "Make the repositories and write aurora.toml."),
    "doctor": Verb("aurora.cli.doctor:doctor", "Is everything in place? What to do if not."),
    "run": Verb("aurora.cli.run:run", "The daemon: backups, tests and retention when due."),
    "stream": Verb("aurora.cli.stream:stream", "Store every change as it is committed."),
    "backup": Verb("aurora.cli.backup:backup", "Create, list, verify, heal and restore backups."),
    "schedule": Verb(
        "aurora.cli.schedule:schedule", "What is due when; units for other schedulers."
    ),
    "notify": Verb(
        "aurora.cli.notify:notify", "Notices and pings: try them, edit their templates."
    ),
    "source": Verb("aurora.cli.source:source", "Prepare the source for incremental backups."),
    "key": Verb("aurora.cli.key:key", "Key slots, recovery sheet, identities."),
    "audit": Verb(
        "aurora.cli.audit:audit", "What was done with the backups, and is the record whole?"
    ),
    "drill": Verb("aurora.cli.drill:drill", "Rehearse a disaster in a sandbox, against the clock."),
    "log": Verb("aurora.cli.changes:log", "Look into the change log of incremental backups."),
    "incident": Verb("aurora.cli.incident:incident", "Led through an emergency, step by step."),
}
app = typer.Typer(
    name="aurora",
    cls=group_of(VERBS),
    help="Back up and recover a PostgreSQL database or Supabase project, from outside the server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aurora {__version__}")
        raise typer.Exit


@app.callback()
def root(
    config: Annotated[
        Path, typer.Option(help="The configuration file.", envvar="AURORA_CONFIG")
    ] = Path("aurora.toml"),
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show version.")
    ] = False,
) -> None:
    """Read by :mod:`aurora.cli.context`."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    gc.freeze()  # what was imported stays: collections of a run need not walk it again
    words = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in words
    command = typer.main.get_command(app)
    try:
        with exits.stopped_by_signals():
            code = command.main(args=words, prog_name="aurora", standalone_mode=False)
        if code == Cancelled.exit_code:  # Typer swallows a KeyboardInterrupt
            raise KeyboardInterrupt
        return int(code or 0)
    except typer.Abort:
        return exits.report(KeyboardInterrupt(), as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the outermost door: nothing is swallowed, all is told
        if type(error).__name__ == "NoArgsIsHelpError" and not as_json:
            typer.echo(str(error.format_message()), err=True)  # type: ignore[attr-defined]
            return UsageError.exit_code
        return exits.report(_usage(error) or error, as_json=as_json)
    except KeyboardInterrupt as error:
        return exits.report(error, as_json=as_json)


def _usage(error: Exception) -> UsageError | None:
    """Typer's own complaint about the command line, as ours."""
    if getattr(error, "exit_code", None) != UsageError.exit_code:
        return None
    told = getattr(error, "format_message", None)
    if told is None or isinstance(error, UsageError):
        return None
    message = str(told()).strip().rstrip(".").replace(": Value error, ", ": ")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "aurora"
    return UsageError(message[:1].lower() + message[1:], hint=f"Try `{path} --help`.")
