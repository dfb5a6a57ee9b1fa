"""`aurora init`: from a connection string and two addresses to a working configuration."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from aurora.cli import context as run
from aurora.cli.prompts import ask_new_secret, ask_secret, confirm
from aurora.cli.render import Surface, findings, recovery_code, surface
from aurora.config import load_settings
from aurora.errors import UsageError
from aurora.events import Noted, Warned
from aurora.operations import init as operation
from aurora.operations.configuration import write_new
from aurora.operations.findings import Level
from aurora.units import plural
from aurora.wiring import Aurora, address_from_here, init_options


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
    given = {
        "source": {"dsn": source, "name": name},
        "primary": {"url": primary and address_from_here(primary, config)},
        "secondary": {"url": secondary and address_from_here(secondary, config)},
    }
    aurora = _subject(config, given, no_secondary=no_secondary)
    options = init_options(aurora, config, npm=Path.cwd() if npm else None)
    if recovery_code_file is not None and recovery_code_file.exists():
        raise UsageError(f"{recovery_code_file} exists already", hint="Name a new file.")
    # Asked for before the checks, so that nobody waits for them in vain.
    aurora.source()
    aurora.passphrase("primary")
    if options.secondary is not None:
        aurora.passphrase("secondary")
    with surface(json) as shown:
        checked = operation.plan(aurora, options)
        shown.print(*findings(checked.findings))
        operation.refuse_errors(checked)
        if options.secondary is None:
            _warn_of_one_storage(shown)
        doubtful = [finding for finding in checked.findings if finding.level is Level.WARNING]
        if doubtful and not options.written:
            warnings = plural(len(doubtful), "warning")
            confirm(
                f"Go on in spite of {warnings}?", action=f"go on in spite of {warnings}", yes=yes
            )
        reveal = _Reveal(shown, recovery_code_file)
        report = operation.apply(aurora, checked, reveal=reveal, sink=shown.sink)
        _say(shown, report, checked, recovery_code_file)


def _subject(config: Path, given: dict[str, dict[str, Any]], *, no_secondary: bool) -> Aurora:
    """The configuration that the file, or the flags, describe. Raises UsageError."""
    flags = {
        section: kept
        for section, fields in given.items()
        if (kept := {key: value for key, value in fields.items() if value})
    }
    if config.exists():
        settings = load_settings(config)
        operation.refuse_difference(config, settings.model_dump(), flags)
    else:
        settings = load_settings(None, flags, base=config.absolute().parent)
        missing = [
            flag
            for flag, there in (
                ("--source", settings.source.dsn),
                ("--primary", settings.primary.url),
                ("--secondary", settings.secondary or no_secondary),
            )
            if not there
        ]
        if missing:
            raise UsageError(
                f"{missing[0]} is not given",
                hint="aurora init --source DSN --primary URL --secondary URL. The secondary is a "
                "second place, best at another provider; --no-secondary does without, at a risk.",
            )
    return Aurora(settings, ask=ask_secret, ask_passphrase=ask_new_secret)


class _Reveal:
    """Where a recovery code goes, the moment it exists."""

    def __init__(self, shown: Surface, file: Path | None) -> None:
        self._shown, self._file = shown, file
        self._lines: list[str] = []

    def __call__(self, place: operation.Place, code: str) -> None:
        if self._file is None:
            self._shown.print(*recovery_code(place, code))
            return
        self._lines.append(f"{place}: {code}\n")
        self._file.unlink(missing_ok=True)  # our own, from the first of the two
        write_new(self._file, "".join(self._lines), mode=0o600)


def _warn_of_one_storage(shown: Surface) -> None:
    shown.sink(
        Warned(
            "no-secondary",
            "without a secondary storage one accident can take every backup",
            "Add [secondary] to aurora.toml and run `aurora init` again at any time.",
        )
    )


def _say(
    shown: Surface, report: operation.Report, checked: operation.Plan, code_file: Path | None
) -> None:
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
            "findings": [asdict(finding) for finding in checked.findings],
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
