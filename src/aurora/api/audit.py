"""The audit trail: recording what the commands do, and looking at it."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aurora.errors import AuroraError, Cancelled, UsageError
from aurora.events import EventSink, discard
from aurora.operations import audit as audit_operation
from aurora.operations.audit import OK, Entry, Kind
from aurora.operations.configuration_changes import configuration_changes
from aurora.repository.door import Repository
from aurora.repository.mirror import MirrorView
from aurora.repository.trail import TrailReport
from aurora.wiring import Aurora


@dataclass(slots=True)
class Recording:
    """What becomes of the record while the work goes on.

    Attributes:
        repository: set it as soon as it is open; without one the record waits in the spool.
        outcome: ``ok``, or what the work says; an error overrides it.
        write: set it False where nothing worth a record happened.
    """

    repository: Repository | None = None
    outcome: str = OK
    facts: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, str] = field(default_factory=dict)
    write: bool = True


@contextmanager
def recorded(
    aurora: Aurora,
    kind: Kind,
    operation: str,
    sink: EventSink = discard,
    **facts: Any,
) -> Iterator[Recording]:
    """Record the work inside, however it ends, but for a command that was wrong from the start.

    ::

        with recorded(aurora, "restore", "backup restore", sink, backup=backup_id) as note:
            note.repository = aurora.open_primary()
            …
            note.facts["rows"] = report.rows
    """
    note = Recording(facts=dict(facts))
    try:
        yield note
    except UsageError:
        raise  # nothing was started
    except AuroraError as error:
        note.outcome = "cancelled" if isinstance(error, Cancelled) else "failed"
        note.facts |= {"error": error.code, "exit_code": error.exit_code, "message": error.message}
        _write(aurora, kind, operation, note, sink)
        raise
    except BaseException as error:
        note.outcome = "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"
        note.facts |= {"error": type(error).__name__}
        _write(aurora, kind, operation, note, sink)
        raise
    _write(aurora, kind, operation, note, sink)


def record(
    aurora: Aurora,
    repository: Repository | None,
    kind: Kind,
    outcome: str,
    facts: Mapping[str, Any],
    *,
    operation: str = "",
    attachments: Mapping[str, str] | None = None,
    sink: EventSink = discard,
) -> str:
    """One record, now. See :func:`aurora.operations.audit.record`."""
    return audit_operation.record(
        repository,
        kind,
        outcome,
        facts,
        operation=operation,
        database=_database(aurora),
        attachments=attachments,
        spool=spool_directory(aurora),
        sink=sink,
    )


def audit_entries(
    aurora: Aurora,
    *,
    kinds: Collection[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    storage: str = "primary",
    newest_first: bool = True,
    sink: EventSink = discard,
) -> Iterator[Entry]:
    """What the trail tells, each record read as it is asked for."""
    unknown = sorted(set(kinds or ()) - set(audit_operation.KINDS))
    if unknown:
        raise UsageError(
            f"no kind of audit record is called {unknown[0][:40]!r}",
            hint=f"There are {', '.join(audit_operation.KINDS)}.",
        )
    return audit_operation.entries(
        _opened(aurora, storage),
        kinds=kinds,
        since=since,
        until=until,
        newest_first=newest_first,
        sink=sink,
    )


def audit_entry(aurora: Aurora, text: str, *, storage: str = "primary") -> Entry:
    """One record, by its number, its id or its name."""
    return audit_operation.find(_opened(aurora, storage), text)


def verify_audit(
    aurora: Aurora, *, storage: str = "primary", sink: EventSink = discard
) -> TrailReport:
    """Look whether the trail is whole; what is not is reported, not raised."""
    repository = _opened(aurora, storage)
    if storage == "secondary":
        # What this machine has seen since the last copy is rightly not there.
        return audit_operation.verify(repository, sink=sink)
    return audit_operation.verify(
        repository,
        open_mirror=aurora.open_secondary_view if aurora.has_secondary else None,
        spool=spool_directory(aurora),
        sink=sink,
    )


def spool_directory(aurora: Aurora) -> Path:
    """Where this machine keeps what it could not record yet."""
    return aurora.settings.base / "aurora.state" / "audit"


def _primary_or(aurora: Aurora, repository: Repository) -> Repository:
    """The primary, where records belong; *repository*, on the secondary, while it is away."""
    try:
        return aurora.open_primary()
    except AuroraError:
        return repository


def _note_configuration(aurora: Aurora, repository: Repository, sink: EventSink) -> None:
    """Record what changed in the configuration since the last run of this machine."""
    # What is set, not what is default: a newer Aurora with more settings changed nothing.
    settings = aurora.settings.model_dump(mode="json", by_alias=True, exclude_unset=True)
    try:
        changed = configuration_changes(spool_directory(aurora).parent, settings)
    except OSError:
        return  # the spool tells of such a disk
    if changed:
        record(
            aurora,
            repository,
            "configuration",
            "changed",
            {"what": ", ".join(changed), "settings": changed},
            operation="aurora.toml",
            sink=sink,
        )


def _opened(aurora: Aurora, storage: str) -> Repository:
    if storage not in ("primary", "secondary"):
        raise UsageError(f"no storage is called {storage!r}", hint="primary or secondary.")
    return aurora.open_primary() if storage == "primary" else aurora.open_secondary()


def _database(aurora: Aurora) -> str:
    try:
        return aurora.database
    except AuroraError:
        return ""  # a configuration without a source restores as well


def _write(aurora: Aurora, kind: Kind, operation: str, note: Recording, sink: EventSink) -> None:
    if note.repository is not None and isinstance(note.repository.storage, MirrorView):
        note.repository = _primary_or(aurora, note.repository)
    if note.repository is not None:
        _note_configuration(aurora, note.repository, sink)
    if note.write:
        record(
            aurora,
            note.repository,
            kind,
            note.outcome,
            note.facts,
            operation=operation,
            attachments=note.attachments,
            sink=sink,
        )
