"""What the functions of this package share: settings as options, leases, reports."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from aurora.errors import AuroraError, StorageError, UsageError
from aurora.events import EventSink
from aurora.operations import backup as backup_operation
from aurora.operations.backup import BackupOptions
from aurora.operations.content import Backup, Readable
from aurora.operations.memory import Memory
from aurora.operations.objects import SourceObjects
from aurora.operations.reports import RestoreReport, write_report
from aurora.repository import mirror
from aurora.repository.door import Repository
from aurora.repository.ids import SAFETY
from aurora.repository.sealed_door import SealedRepository
from aurora.wiring import Aurora


def memory_of(aurora: Aurora) -> Memory:
    return Memory(state_directory(aurora))


def state_directory(aurora: Aurora) -> Path:
    """Where this machine keeps what it has seen and done: beside aurora.toml."""
    return aurora.settings.base / "aurora.state"


def backup_options(
    aurora: Aurora,
    *,
    skip: Sequence[str] = (),
    accept_new_source: bool = False,
    distrusted: frozenset[str] = frozenset(),
    objects: bool = True,
    chunk_bytes: int | None = None,
) -> BackupOptions:
    settings = aurora.settings.backup
    return BackupOptions(
        database=aurora.database,
        jobs=settings.jobs,
        chunk_bytes=chunk_bytes or settings.chunk_size,
        level=settings.compression_level,
        lock_timeout=settings.lock_timeout,
        skip=(*settings.skip, *skip),
        accept_new_source=accept_new_source,
        distrusted=distrusted,
        objects=aurora.source_objects() if objects else SourceObjects(),
    )


def secondary_view(aurora: Aurora) -> mirror.MirrorView:
    if not aurora.has_secondary:
        raise UsageError(
            "no secondary storage is configured",
            hint="Set url under [secondary] in aurora.toml. Without one there is nothing to "
            "copy to or to heal from.",
        )
    return aurora.open_secondary_view()


def opened(
    aurora: Aurora, backup_id: str, storage: str, sink: EventSink, identity: Sequence[Path] = ()
) -> tuple[Readable, Backup]:
    """The backup to restore from; with *identity* files a sealed one."""
    if identity:
        sealed = aurora.open_sealed(storage, identity, sink=sink)
        return sealed, Backup(sealed, sealed.resolve(backup_id, aurora.database))
    repository = aurora.open_for_reading(storage, sink=sink)
    memory_of(aurora).warn(repository, aurora.database, sink)
    return repository, Backup(repository, repository.resolve(backup_id, aurora.database))


def keyed(repository: Readable) -> Repository | None:
    """The repository where it was opened by its own keys: a sealed backup takes none."""
    return repository if isinstance(repository, Repository) else None


def back_up_first(
    aurora: Aurora,
    dsn: str,
    name: str,
    label: str,
    only: frozenset[tuple[str, str]] | None,
    sink: EventSink,
) -> str:
    """Back up what is about to be replaced; the backup's id. Never ``latest``."""
    options = replace(
        backup_options(
            aurora,
            accept_new_source=True,
            distrusted=memory_of(aurora).distrusted(),
            objects=False,  # nothing of the Storage is replaced
        ),
        database=aurora.safety_database(dsn, name),
        type=SAFETY,
        skip=(),
        only=only,
        label=label,
    )
    report = backup_operation.create_backup(
        dsn, aurora.open_primary(), options, open_mirror=None, sink=sink
    )
    return report.backup_id


@contextmanager
def held(repository: Readable) -> Iterator[None]:
    """A lease that keeps the collector from removing what is being read.

    A storage that may only be read, or the secondary's view, gives none: then the
    48 hours that nothing is deleted for must do. So it is for sealed backups, which are
    opened without the key that signs a lease.
    """
    if isinstance(repository, SealedRepository):
        yield
        return
    lease = repository.lease("restore")
    try:
        lease.begin()
    except StorageError:
        yield
        return
    try:
        yield
    finally:
        lease.end()


def reported(aurora: Aurora, work: Callable[[], RestoreReport]) -> RestoreReport:
    """Run *work* and write its report, also the one that an error carries."""
    try:
        report = work()
    except AuroraError as error:
        failed = error.context.pop("report", None)
        if isinstance(failed, RestoreReport):
            failed.problems.append(error.message)
            path = write_report(failed, reports_directory(aurora))
            error.hint = f"{error.hint} Report: {path}".strip()
        raise
    report.path = str(write_report(report, reports_directory(aurora)))
    return report


def reports_directory(aurora: Aurora) -> Path:
    """Where reports go: beside aurora.toml."""
    return aurora.settings.base / "aurora.reports"
