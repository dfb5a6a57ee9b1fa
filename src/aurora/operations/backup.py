"""Making a backup: one snapshot of the source into the repository, then its mirror."""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from aurora import clock
from aurora.engines.base import LogPart, TableData
from aurora.engines.logical.export import ExportOptions, export
from aurora.engines.logical.snapshot import HeldSnapshot
from aurora.engines.supabase.vault import read_secrets
from aurora.errors import AuroraError, IntegrityError, UnsupportedRepository
from aurora.events import EventSink, Noted, PhaseBegun, PhaseEnded, Warned
from aurora.operations.content import Backup, WriterStore, remembered_sums, write_body
from aurora.operations.log_state import INCREMENTAL, Anchor
from aurora.operations.objects import ObjectsReport, ObjectsRun, SourceObjects, WriterKeeper
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import Repository
from aurora.repository.ids import SEALED, STREAM, new_backup_id
from aurora.repository.mirror import MirrorView, replicate
from aurora.repository.writer import WriterStats
from aurora.version import __version__


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """How to make a backup."""

    database: str  # its label in the repository
    type: str = "full"
    jobs: int = 2
    chunk_bytes: int = 8 << 20
    level: int = 1  # zstd
    lock_timeout: float = 10.0  # seconds
    skip: tuple[str, ...] = ()
    accept_new_source: bool = False
    label: str = ""
    only: frozenset[tuple[str, str]] | None = None  # rows of these (schema, table) alone
    distrusted: frozenset[str] = frozenset()  # objects found bad: not to be reused
    objects: SourceObjects = field(default_factory=SourceObjects)  # of the project's Storage


@dataclass(slots=True)
class LogReport:
    """What a backup holds of the change log, and its place in it. LSNs as numbers."""

    base: str
    parent: str
    from_lsn: int
    to_lsn: int
    to_at: str
    segments: int = 0
    segment_bytes: int = 0  # before compression
    transactions: int = 0
    tables_streamed: int = 0
    tables_read_again: int = 0
    fingerprint: str = ""  # of the schema
    acknowledged: bool | None = None  # None: nothing was to be acknowledged

    @classmethod
    def of(cls, part: LogPart) -> "LogReport":
        return cls(
            part.base,
            part.parent,
            part.from_lsn,
            part.to_lsn,
            part.to_at,
            len(part.segments),
            sum(segment.raw for segment in part.segments),
            sum(segment.transactions for segment in part.segments),
            len(part.keyed),
            len(part.unkeyed),
            part.fingerprint,
        )


@dataclass(slots=True)
class BackupReport:
    """What a backup run did. ``complete``: the primary holds it; ``replicated``: both do."""

    backup_id: str = ""
    database: str = ""
    type: str = "full"
    snapshot_at: str = ""
    tables: int = 0
    rows: int = 0
    bytes_read: int = 0  # of COPY text and schema
    bytes_new: int = 0  # of those, not held before
    bytes_stored: int = 0  # uploaded to the primary
    objects_new: int = 0
    objects_reused: int = 0
    seconds: float = 0.0
    seconds_replicating: float = 0.0
    complete: bool = False
    replicated: bool | None = None  # None: there is no secondary
    reason: str = ""  # why it is a full although an incremental was asked for
    log: LogReport | None = None  # None: it has no place in a change log
    objects: ObjectsReport | None = None  # of the Storage; None: there is none, or not wanted
    skipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for is on all storages."""
        return self.replicated is not False and (self.objects is None or self.objects.is_complete)

    def committed(self, entry: BackupEntry, stats: WriterStats) -> None:
        """The primary holds it."""
        self.backup_id, self.complete = entry.id, True
        self.bytes_read, self.bytes_new = stats.raw_bytes, stats.new_raw_bytes
        self.bytes_stored = stats.stored_bytes
        self.objects_new, self.objects_reused = stats.new_objects, stats.reused_objects

    def take_objects(self, run: ObjectsRun) -> None:
        """What became of the Storage's objects."""
        self.objects = run.report if run.is_told else None
        if self.objects is not None and not self.objects.is_complete:
            self.warnings += [self.objects.left_out] if self.objects.left_out else []
            self.warnings += self.objects.problems

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        found = asdict(self)
        found["seconds"] = round(self.seconds, 3)
        found["seconds_replicating"] = round(self.seconds_replicating, 3)
        return found


def create_backup(
    dsn: str,
    repository: Repository,
    options: BackupOptions,
    *,
    open_mirror: Callable[[], MirrorView] | None,
    sink: EventSink,
    anchor: Anchor | None = None,
    reason: str = "",
) -> BackupReport:
    """Make one full backup; then bring the secondary up to date.

    With an *anchor* the backup begins a chain of incrementals. *reason* says why it is a
    full where an incremental was asked for.

    A secondary that fails leaves ``replicated`` False and a warning: the backup is made.

    Raises:
        SourceError, StorageError, RepositoryError, UsageError, Cancelled: no backup was
            made, and every earlier one is untouched.
    """
    begun = time.monotonic()
    report = BackupReport(type=options.type, database=options.database, reason=reason)
    before = previous_backup(repository, options.database, sink)
    remembered = before.data() if before else []
    cancel = threading.Event()
    with (
        repository.write(
            options.database, level=options.level, distrusted=options.distrusted
        ) as writer,
        ObjectsRun(
            dsn,
            WriterKeeper(writer),
            repository,
            options.database,
            options.objects,
            sink=sink,
            cancel=cancel,
        ) as objects,
    ):
        store = WriterStore(
            writer, remembered_sums(before.snapshot.tables if before else (), remembered)
        )
        objects.copy_ahead()

        def accept(held: HeldSnapshot) -> None:
            accept_source(held, before, options, anchor)
            objects.see(held)
            if before and before.snapshot.source.database.encoding != held.facts.encoding:
                store.forget()  # the server hashes text as it is encoded there

        try:
            snapshot, data = export(
                dsn,
                store,
                ExportOptions(
                    jobs=options.jobs,
                    chunk_bytes=options.chunk_bytes,
                    lock_timeout=options.lock_timeout,
                    skip=options.skip,
                    before={table.oid: table for table in remembered},
                    only=options.only,
                    read_vault=read_secrets if options.only is None else None,
                ),
                accept=accept,
                sink=sink,
                cancel=cancel,
            )
            storage, named = objects.finish()
            sink(PhaseBegun("making durable"))
            writer.flush()
        except BaseException:
            cancel.set()
            raise
        _fill(report, snapshot.source.snapshot_at, data)
        report.skipped = list(snapshot.skipped)
        created_at = clock.now()
        backup_id = new_backup_id(options.type, created_at)
        log = anchor.settle(backup_id, sink) if anchor is not None else None
        manifest, more = write_body(
            writer,
            snapshot,
            data,
            log=log,
            storage=storage,
            aurora=__version__,
            label=options.label,
            partial=options.only is not None,
            figures={"rows": report.rows, "bytes": report.bytes_read, "tables": report.tables},
        )
        entry = writer.commit(
            backup_id=backup_id,
            type=options.type,
            created_at=created_at,
            manifest=manifest,
            uses=[*store.uses(), *more, *named],
        )
        stats = writer.stats
        objects.committed()
    report.log = LogReport.of(log) if log is not None else None
    report.take_objects(objects)
    report.committed(entry, stats)
    report.seconds = time.monotonic() - begun
    sink(PhaseEnded("making durable", f"backup {entry.id} is complete on the primary"))
    if report.skipped:
        told = f"left out on request: {', '.join(report.skipped)}"
        report.warnings.append(told)
        sink(Warned("tables-skipped", told, "They are not in this backup."))
    if open_mirror is not None:
        bring_to_mirror(repository, open_mirror, entry, report, sink)
    return report


def previous_backup(repository: Repository, database: str, sink: EventSink) -> Backup | None:
    """The newest readable backup of the database; a damaged one only costs its memory."""
    for entry in reversed(repository.backups(database)):
        if entry.type in (
            INCREMENTAL,
            STREAM,
            SEALED,
        ):  # few tables to remember, or none that opens
            continue
        try:
            return Backup(repository, entry)
        except (IntegrityError, UnsupportedRepository) as error:
            sink(
                Warned(
                    "backup-unreadable",
                    f"backup {entry.id} cannot be read: {error.message}",
                    f"Run `aurora backup verify {entry.id}`. This run goes on without it.",
                )
            )
    return None


def accept_source(
    held: HeldSnapshot,
    before: Backup | None,
    options: BackupOptions,
    anchor: Anchor | None = None,
) -> None:
    """Refuse to mix two databases under one label; let *anchor* look at the snapshot."""
    if anchor is not None:
        anchor.see(held)
    if before is None or options.accept_new_source:
        return
    old, new = before.snapshot.source, held.source
    same_server = not (old.system_identifier and new.system_identifier) or (
        old.system_identifier == new.system_identifier
    )
    if same_server and old.database.name == new.database.name:
        return
    raise UnsupportedRepository(
        f"the repository's backups of {options.database} are of another source: "
        f"database {old.database.name} on {old.address}",
        hint="Nothing was backed up. Give this source a name of its own ([source] name in "
        "aurora.toml). If it is the same database moved to another server (after a restore, "
        "upgrade or failover), run it once with --accept-new-source.",
    )


def _fill(report: BackupReport, snapshot_at: str, data: list[TableData]) -> None:
    report.snapshot_at = snapshot_at
    report.tables = len(data)
    report.rows = sum(table.rows for table in data)
    report.bytes_read = sum(table.bytes for table in data)


def bring_to_mirror(
    repository: Repository,
    open_mirror: Callable[[], MirrorView],
    entry: BackupEntry,
    report: BackupReport,
    sink: EventSink,
) -> None:
    begun = time.monotonic()
    try:
        done = replicate(repository.storage, open_mirror(), sink=sink)
        report.replicated = done.replicated(entry)
        if not report.replicated:
            lacking = done.lacking.get((entry.database, entry.id), [])
            _warn_unreplicated(report, f"{len(lacking)} of its objects are missing there", sink)
    except AuroraError as error:
        report.replicated = False
        _warn_unreplicated(report, error.message, sink, hint=error.hint)
    else:
        if report.replicated:
            sink(Noted(f"backup {entry.id} is replicated to the secondary"))
    report.seconds_replicating = time.monotonic() - begun


def _warn_unreplicated(report: BackupReport, why: str, sink: EventSink, *, hint: str = "") -> None:
    told = f"the backup is not on the secondary: {why}"
    report.warnings.append(told)
    sink(
        Warned(
            "not-replicated",
            told,
            "It is complete on the primary and restores from there. Once the secondary can be "
            f"written, the next run or `aurora backup replicate` catches up. {hint}".rstrip(),
        )
    )
