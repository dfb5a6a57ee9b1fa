"""Checkpoints: what a run copied of a Storage so far, for the next run to go on from.

The first copy of a project's objects may take a day. A checkpoint is a small commit of the
run that copies: it names what is stored and was not named before, so it protects that from
the collector, and any later run, on whichever machine, holds it as if a backup had. It is no
backup: no list shows it, nothing is restored from it. When a backup is committed that could
use it, it is removed; what cannot be removed then, retention lets go.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import msgspec

from aurora import clock
from aurora.engines.supabase.catalogue import Held, Part
from aurora.engines.supabase.documents import StoragePart
from aurora.engines.supabase.rows import ObjectRow
from aurora.errors import IntegrityError, StorageError, UnsupportedRepository
from aurora.events import EventSink, Noted
from aurora.operations.content import ENGINE, Backup, Body
from aurora.operations.objects_index import Index, write_page
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import Ref, Repository
from aurora.repository.ids import CHECKPOINT, new_backup_id
from aurora.repository.removal import remove_backups
from aurora.repository.writer import Writer
from aurora.units import format_size, plural
from aurora.version import __version__


class Checkpoints:
    """Those of one database, as one run uses and makes them."""

    def __init__(self, writer: Writer, repository: Repository, url: str, sink: EventSink) -> None:
        """*url*: of the Storage that is copied."""
        self._writer = writer
        self._repository = repository
        self._url = url
        self._sink = sink
        self._entries = repository.checkpoints(writer.database)

    def since(self, before: BackupEntry | None) -> Iterator[Backup]:
        """Those made since the backup *before*, oldest first; damaged ones only cost time."""
        for entry in self._entries:
            if before is not None and (entry.sequence or 0) < (before.sequence or 0):
                continue
            try:
                found = Backup(self._repository, entry)
            except (IntegrityError, UnsupportedRepository) as error:
                self._sink(Noted(f"copied objects that are read again: {error.message}"))
                continue
            if found.body.storage is not None and found.body.storage.url == self._url:
                yield found

    def save(self, held: Iterable[tuple[ObjectRow, Held]]) -> None:
        """Commit what was copied. Raises StorageError, RepositoryLocked: then the run is over."""
        index = Index(partial(write_page, self._writer))
        for row, one in held:
            index.add(row, one)
        if not index.objects:
            return
        part = StoragePart(
            self._url, (), pages=index.finish(), objects=index.objects, bytes=index.bytes
        )
        created_at = clock.now()
        body = Body(ENGINE, __version__, (), partial=True, storage=part)
        entry = self._writer.commit(
            backup_id=new_backup_id(CHECKPOINT, created_at),
            type=CHECKPOINT,
            created_at=created_at,
            manifest=msgspec.to_builtins(body),
            uses=index.uses(),
            last=False,
        )
        self._entries.append(entry)
        told = f"{plural(index.objects, 'object')}, {format_size(index.bytes)}"
        self._sink(Noted(f"a run that is interrupted now goes on from here: {told} more are kept"))

    def fetch(self, part: Part) -> bytes:
        """Bytes that a checkpoint names. Raises IntegrityError, StorageError."""
        data = self._repository.read(Ref(part.object, part.raw))
        return data[part.offset : part.offset + part.length]

    def remove(self) -> None:
        """A backup was committed: remove those there were. A storage that refuses keeps them."""
        if not self._entries:
            return
        try:
            remove_backups(self._repository.storage, self._entries)
        except StorageError as error:
            self._sink(Noted(f"checkpoints stay until they are pruned: {error.message}"))
