"""Sealed backups: a full backup that only the holder of an identity can open.

Read from the source like any full, under one snapshot, but stored in parts of its own that
no other backup shares, each an age file. The host that makes it has public keys only.
Beside the parts lie the index that Aurora restores from and a script that restores without.
"""

import hashlib
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from aurora import clock
from aurora.engines.base import Buffer, RowsSum, Snapshot, Stored, TableData
from aurora.engines.logical.export import ExportOptions, export
from aurora.engines.logical.script import restore_script
from aurora.engines.logical.snapshot import HeldSnapshot
from aurora.engines.supabase.documents import ObjectPage, StoragePart
from aurora.engines.supabase.script import files_script, page_script
from aurora.events import EventSink, PhaseBegun, PhaseEnded, Warned
from aurora.operations.backup import (
    BackupOptions,
    BackupReport,
    accept_source,
    bring_to_mirror,
    previous_backup,
)
from aurora.operations.content import ENGINE, SEALED_ENGINE, Body
from aurora.operations.objects import ObjectsRun
from aurora.repository import canonical
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import Ref, Repository
from aurora.repository.ids import SEALED, new_backup_id
from aurora.repository.layout import part_name
from aurora.repository.mirror import MirrorView
from aurora.repository.sealed import SUFFIX, Recipients
from aurora.repository.sealed_door import INDEX
from aurora.repository.writer import Writer
from aurora.version import __version__


@dataclass(slots=True)
class _Made:
    """What a run knows of the backup that it makes."""

    backup_id: str
    database: str
    recipients: Recipients
    level: int


class PartStore:
    """An engine's buffers into parts. Nothing is ever shared or recalled."""

    def __init__(self, writer: Writer, made: _Made) -> None:
        self._writer = writer
        self._made = made
        self._numbers = itertools.count(1)
        self._pages = itertools.count(1)
        self._lock = threading.Lock()
        self._parts: list[Ref] = []
        self._sums: dict[str, str] = {}

    def put(self, data: Buffer) -> Stored:
        with self._lock:
            number = next(self._numbers)
        ref = self.put_named(f"{number:06d}{SUFFIX}", data)
        return Stored(ref.name, ref.raw)

    def put_named(self, part: str, data: Buffer) -> Ref:
        name = part_name(self._made.database, self._made.backup_id, part)

        def seal(payload: Buffer) -> bytes:
            stored = self._made.recipients.seal(payload, self._made.level)
            with self._lock:
                self._sums[name] = hashlib.sha256(stored).hexdigest()
            return stored

        ref = self._writer.put_part(name, data, seal)
        with self._lock:
            self._parts.append(ref)
        return ref

    def put_bytes(self, data: Buffer) -> Stored:
        """Bytes of Storage objects."""
        return self.put(data)

    def put_page(self, page: ObjectPage) -> Stored:
        """A page of the list of Storage objects, and what writes its files without Aurora."""
        with self._lock:
            number = next(self._pages)
        self.put_script(f"files.{number:06d}.sh", page_script(page))
        return self.put(msgspec.json.encode(page))

    def put_script(self, name: str, script: str) -> None:
        self.put_named(name + SUFFIX, script.encode(errors="surrogateescape"))

    def may_name(self, stored: Stored) -> bool:  # noqa: ARG002
        """Never: a sealed backup shares nothing."""
        return False

    def checkpoints(self, repository: Repository, url: str, sink: EventSink) -> None:
        """None, for the same reason."""

    def recall(self, kind: str, stored: tuple[Stored, ...], offset: int) -> RowsSum | None:  # noqa: ARG002
        return None

    def parts(self) -> list[Ref]:
        """All parts so far."""
        with self._lock:
            return list(self._parts)

    def sums(self) -> dict[str, str]:
        """Name -> SHA-256 of the stored bytes, of what is durable."""
        with self._lock:
            return dict(self._sums)


def create_sealed(
    dsn: str,
    repository: Repository,
    options: BackupOptions,
    *,
    recipients: Recipients,
    open_mirror: Callable[[], MirrorView] | None,
    sink: EventSink,
) -> BackupReport:
    """Make one sealed backup; then bring the secondary up to date.

    Raises as :func:`aurora.operations.backup.create_backup`.
    """
    begun = time.monotonic()
    created_at = clock.now()
    made = _Made(new_backup_id(SEALED, created_at), options.database, recipients, options.level)
    report = BackupReport(type=SEALED, database=options.database)
    before = previous_backup(repository, options.database, sink)
    cancel = threading.Event()
    with (
        repository.write(options.database, level=options.level) as writer,
        ObjectsRun(
            dsn, store := PartStore(writer, made), None, options.database, options.objects,
            sink=sink, cancel=cancel,
        ) as objects,
    ):  # fmt: skip
        objects.copy_ahead()

        def accept(held: HeldSnapshot) -> None:
            accept_source(held, before, options)
            objects.see(held)

        try:
            snapshot, data = export(
                dsn,
                store,
                ExportOptions(
                    jobs=options.jobs,
                    chunk_bytes=options.chunk_bytes,
                    lock_timeout=options.lock_timeout,
                    skip=options.skip,
                ),
                accept=accept,
                sink=sink,
                cancel=cancel,
            )
            storage, _ = objects.finish()
            if storage is not None and storage.pages:
                script = files_script(storage, backup=made.backup_id, database=made.database)
                store.put_script("files.sh", script)
            sink(PhaseBegun("making durable"))
            writer.flush()
            _describe(report, snapshot, data)
            _put_descriptions(store, made, snapshot, data, storage, report, options)
            writer.flush()
        except BaseException:
            cancel.set()
            raise
        parts = store.parts()
        entry = writer.commit(
            backup_id=made.backup_id,
            type=SEALED,
            created_at=created_at,
            manifest={
                "aurora": __version__,
                "engine": SEALED_ENGINE,
                "figures": _figures(report),
                "parts": len(parts),
                "recipients": list(recipients.texts),
                "snapshot_at": report.snapshot_at,
            },
            uses=parts,
        )
        report.take_objects(objects)
        report.committed(entry, writer.stats)
    report.seconds = time.monotonic() - begun
    sink(PhaseEnded("making durable", f"backup {entry.id} is complete on the primary"))
    if report.skipped:
        told = f"left out on request: {', '.join(report.skipped)}"
        report.warnings.append(told)
        sink(Warned("tables-skipped", told, "They are not in this backup."))
    if open_mirror is not None:
        bring_to_mirror(repository, open_mirror, entry, report, sink)
    return report


def _describe(report: BackupReport, snapshot: Snapshot, data: list[TableData]) -> None:
    report.snapshot_at = snapshot.source.snapshot_at
    report.skipped = list(snapshot.skipped)
    report.tables, report.rows = len(data), sum(table.rows for table in data)
    report.bytes_read = sum(table.bytes for table in data)


def _figures(report: BackupReport) -> dict[str, int]:
    return {"rows": report.rows, "bytes": report.bytes_read, "tables": report.tables}


def _put_descriptions(
    store: PartStore,
    made: _Made,
    snapshot: Snapshot,
    data: list[TableData],
    storage: StoragePart | None,
    report: BackupReport,
    options: BackupOptions,
) -> None:
    body = Body(
        ENGINE, __version__, tuple(data), snapshot, label=options.label, figures=_figures(report),
        storage=storage,
    )  # fmt: skip
    commit = {"backup": made.backup_id, "database": made.database}
    store.put_script("restore.sh", restore_script(snapshot, data, **commit, sums=store.sums()))
    store.put_named(INDEX, canonical.dumps({**msgspec.to_builtins(body), "commit": commit}))


def recipients_of(repository: Repository, entry: BackupEntry) -> list[str]:
    """The public keys that a sealed backup was made for. Raises ObjectDamaged, StorageError."""
    found = repository.manifest(entry).get("recipients")
    return [str(one) for one in found] if isinstance(found, list) else []
