"""`aurora init`: from a connection string and two addresses to a working configuration."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.prompts import ask_new_secret, ask_secret, confirm
from aurora.cli.render import Surface, findings, recovery_code, surface
from aurora.errors import UsageError
from aurora.events import Noted, Warned
from aurora.operations.configuration import write_new
from aurora.operations.findings import Level
from aurora.operations.init import Place, Plan, Report
from aurora.units import plural


def init(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Option(help="Connection string of the database to back up.")
    ] = None,
    primary: Annotated[
        str | None, typer.Option(help="Storage for the backups: a directory, s3://, gs://, az://.")
    ] = None,
    secondary: Annotated[
        str | None, typer.Option(help="Second storage, at another provider or place.")
    ] = None,
    no_secondary: Annotated[
        bool, typer.Option("--no-secondary", help="Do without a second storage: a risk.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Label of the database in the repository.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Go on in spite of warnings.")] = False,
    npm: Annotated[
        bool, typer.Option("--npm", help="Add the backup:* scripts to ./package.json.")
    ] = False,
    recovery_code_file: Annotated[
        Path | None,
        typer.Option(help="Write the recovery codes there (0600), instead of showing them."),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="JSON lines on standard output; the summary then holds the recovery codes, "
            "unless --recovery-code-file is given.",
        ),
    ] = False,
) -> None:
    """Check source and storages, make the repositories, and write aurora.toml.

    Passphrases come from AURORA_PASSPHRASE_FILE and AURORA_SECONDARY_PASSPHRASE_FILE (also
    …_COMMAND), or are asked for. An aurora.toml that is there already is never changed: what it
    describes and is missing is made.
    """
    config = run.config_path(context)
    if recovery_code_file is not None and recovery_code_file.exists():
        raise UsageError(f"{recovery_code_file} exists already", hint="Name a new file.")
    with surface(json) as shown:
        report = api.init(
            config,
            source=source,
            primary=primary,
            secondary=secondary,
            no_secondary=no_secondary,
            name=name,
            npm=Path.cwd() if npm else None,
            ask=ask_secret,
            ask_passphrase=ask_new_secret,
            reveal=_Reveal(shown, recovery_code_file),
            confirm=lambda checked: _confirm(shown, checked, yes=yes),
            sink=shown.sink,
        )
        _say(shown, report, recovery_code_file)


def _confirm(shown: Surface, checked: Plan, *, yes: bool) -> None:
    shown.print(*findings(checked.findings))
    doubtful = [finding for finding in checked.findings if finding.level is Level.WARNING]
    if doubtful and not checked.errors and not checked.options.written:
        warnings = plural(len(doubtful), "warning")
        confirm(f"Go on in spite of {warnings}?", action=f"go on in spite of {warnings}", yes=yes)


class _Reveal:
    """Where a recovery code goes, the moment it exists."""

    def __init__(self, shown: Surface, file: Path | None) -> None:
        self._shown, self._file = shown, file
        self._lines: list[str] = []

    def __call__(self, place: Place, code: str) -> None:
        if self._file is None:
            self._shown.print(*recovery_code(place, code))
            return
        self._lines.append(f"{place}: {code}\n")
        self._file.unlink(missing_ok=True)  # our own, from the first of the two
        write_new(self._file, "".join(self._lines), mode=0o600)


def _say(shown: Surface, report: Report, code_file: Path | None) -> None:
    for name in report.scripts_kept:
        shown.sink(
            Warned("npm-script-kept", f"package.json has another script {name}; it was left alone")
        )
    if report.scripts_added:
        shown.sink(Noted(f"package.json: {len(report.scripts_added)} scripts added"))
    codes: dict[str, Any] = {"recovery_codes": dict(report.codes)}
    if code_file is not None:
        codes = {"recovery_code_file": str(code_file)} if report.codes else {}
    fact = f"{report.config} {'written' if report.config_written else 'was there and is kept'}"
    made = " and ".join(report.created) or "none"
    shown.summary(
        {
            "operation": "init",
            "config": str(report.config),
            "config_written": report.config_written,
            "database": report.database,
            "repository_ids": dict(report.repository_ids),
            "created": list(report.created),
            "scripts_added": list(report.scripts_added),
            "findings": [asdict(finding) for finding in report.findings],
            **codes,
        },
        [
            "",
            *([f"The recovery codes are in {code_file}: move them off this machine."]
              if code_file is not None and report.codes else []),
            "Next: aurora backup create",
            f"{fact}  database {report.database}  repositories made: {made}",
        ],
    )  # fmt: skip
