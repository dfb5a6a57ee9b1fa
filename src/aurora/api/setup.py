"""The beginning: repositories and a configuration made, and what stands in the way found."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aurora.config import SecretRef, Settings, StorageSettings, load_settings
from aurora.config.references import (
    Place,
    credential_references,
    passphrase_reference,
    password_reference,
)
from aurora.errors import UsageError
from aurora.events import EventSink, Warned, discard
from aurora.operations import init as operation
from aurora.operations.configuration import StorageDraft
from aurora.operations.doctor import examine
from aurora.operations.findings import Finding
from aurora.operations.init import Options, Plan, Report, Reveal
from aurora.postgres.conninfo import ConnInfo
from aurora.storage.addresses import parse_address
from aurora.wiring import DEFAULT_CONFIG, Ask, Aurora, nobody


def init(
    config: Path = DEFAULT_CONFIG,
    *,
    source: str | None = None,
    primary: str | None = None,
    secondary: str | None = None,
    no_secondary: bool = False,
    name: str | None = None,
    npm: Path | None = None,
    ask: Ask = nobody,
    ask_passphrase: Ask = nobody,
    reveal: Reveal,
    confirm: Callable[[Plan], None] | None = None,
    sink: EventSink = discard,
) -> Report:
    """Check source and storages, make the repositories, and write *config*.

    A file that is there already is never changed: what it describes and is missing is made, and
    what is given here must not contradict it. Run again after a failure it goes on.

    Args:
        source: connection string of the database to back up.
        primary, secondary: addresses of the storages; a relative directory is below the
            working directory.
        no_secondary: do without a second storage.
        name: label of the database in the repository.
        npm: directory of a package.json that gets the ``backup:*`` scripts.
        ask, ask_passphrase: get what no setting and no variable of the environment gives.
        reveal: gets each storage and its recovery code the moment that exists. It is stored
            nowhere.
        confirm: gets what the checks found before anything is written, and may raise.

    Raises:
        UsageError: something is not given, a check failed, or a file or storage is in the way.
        WrongKey: a storage holds a repository that the passphrase does not open.
        StorageError: a storage failed.
    """
    given = {
        "source": {"dsn": source, "name": name},
        "primary": {"url": primary and _from_here(primary, config)},
        "secondary": {"url": secondary and _from_here(secondary, config)},
    }
    settings = _settings(config, given, no_secondary=no_secondary)
    aurora = Aurora(settings, ask=ask, ask_passphrase=ask_passphrase)
    options = _options(settings, config, npm)
    # Asked for before the checks, so that nobody waits for them in vain.
    aurora.source()
    aurora.passphrase("primary")
    if options.secondary is None:
        told = "without a secondary storage one accident can take every backup"
        hint = "Add [secondary] to aurora.toml and run `aurora init` again at any time."
        sink(Warned("no-secondary", told, hint))
    else:
        aurora.passphrase("secondary")
    checked = operation.plan(aurora, options)
    if confirm is not None:
        confirm(checked)
    operation.refuse_errors(checked)
    return operation.apply(aurora, checked, reveal=reveal, sink=sink)


def doctor(aurora: Aurora) -> Iterator[Finding]:
    """Look whether everything is in place: each finding as it is made.

    Raises no AuroraError: what fails is a finding.
    """
    backup = aurora.settings.backup
    return examine(aurora, jobs=backup.jobs, skip=backup.skip, chunk_bytes=backup.chunk_size)


def _settings(config: Path, given: dict[str, dict[str, Any]], *, no_secondary: bool) -> Settings:
    """What the file, or what is given, describes. Raises UsageError."""
    wanted = {
        section: kept
        for section, fields in given.items()
        if (kept := {key: value for key, value in fields.items() if value})
    }
    if config.exists():
        settings = load_settings(config)
        operation.refuse_difference(config, settings.model_dump(), wanted)
        return settings
    settings = load_settings(None, wanted, base=config.absolute().parent)
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
    return settings


def _from_here(url: str, config: Path) -> str:
    """An address typed where the user stands, as aurora.toml in another directory says it."""
    if config.absolute().parent == Path.cwd():
        return url
    return parse_address(url).url


def _options(settings: Settings, config: Path, npm: Path | None) -> Options:
    """What to make of these settings and of what the environment refers to."""
    base = config.absolute().parent
    password = password_reference(settings)
    given = ConnInfo.parse(settings.source.dsn).password is not None
    return Options(
        config=config,
        written=config.exists(),
        keep_password=password is None and given,
        password=_plain(password, base),
        primary=_draft("primary", settings.primary, base),
        secondary=_draft("secondary", settings.secondary, base) if settings.secondary else None,
        npm=npm,
        jobs=settings.backup.jobs,
        skip=settings.backup.skip,
    )


def _draft(place: Place, settings: StorageSettings, base: Path) -> StorageDraft:
    return StorageDraft(
        url=settings.url,
        passphrase=_plain(passphrase_reference(place, settings), base),
        credentials={
            key: value if isinstance(value, str) else _plain(value, base) or {}
            for key, value in credential_references(place, settings).items()
        },
    )


def _plain(reference: SecretRef | None, base: Path) -> dict[str, str] | None:
    """A reference as it stands in the file; a path below *base* is written relative to it."""
    if reference is None:
        return None
    if reference.file is not None and Path(reference.file).is_relative_to(base):
        return {"file": str(Path(reference.file).relative_to(base))}
    return dict(reference.model_dump(exclude_none=True))
