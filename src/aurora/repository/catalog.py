"""Which backups a repository holds, by its names and refs alone."""

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from aurora.errors import IntegrityError, ObjectMissing, UsageError
from aurora.repository import ids
from aurora.repository.layout import ObjectType, backup_name, parse_dated, refs_name
from aurora.repository.presence import stored_size
from aurora.repository.reader import ObjectReader
from aurora.repository.refs import Refs, read_refs
from aurora.storage.base import Storage

_PARALLEL = 8


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """One backup as a list shows it: known from its names and refs, without content keys.

    ``damage`` says what a look at names and refs found wrong. When the refs cannot be read,
    sizes and sequence are None; the manifest is there and the backup may still restore.
    """

    id: str
    database: str
    type: str
    created_at: datetime
    sequence: int | None = None
    stored_bytes: int | None = None  # all objects that a restore reads
    objects: int | None = None
    manifest_sha256: str | None = None
    manifest_bytes: int | None = None  # stored
    damage: str | None = None

    @property
    def manifest_name(self) -> str:
        """The manifest's object name."""
        return backup_name(self.database, self.id)

    @property
    def refs_name(self) -> str:
        """The refs' object name."""
        return refs_name(self.database, self.id)


class Catalog:
    """Lists backups and reads refs. Threads may share it.

    With a *mac_key* every refs object is proven to be the owner's; without one only
    accidental damage is noticed.
    """

    def __init__(self, reader: ObjectReader, repository_id: bytes, mac_key: bytes | None) -> None:
        self._reader = reader
        self._repository_id = repository_id
        self._mac_key = mac_key
        self._entries: dict[tuple[str, str], BackupEntry] = {}
        self._lock = threading.Lock()

    def names(self, database: str | None = None) -> list[tuple[str, str]]:
        """(database, backup id) of every manifest, oldest first."""
        return _by_time(self._dated(ObjectType.BACKUP, database))

    def databases(self) -> list[str]:
        """The labels of all databases that have a backup."""
        return sorted({database for database, _ in self.names()})

    def backups(self, database: str | None = None) -> list[BackupEntry]:
        """All backups that were committed, oldest first."""
        return [one for one in self.everything(database) if one.type != ids.CHECKPOINT]

    def checkpoints(self, database: str) -> list[BackupEntry]:
        """What runs that died, or are under way, left for others to go on from; oldest first."""
        return [one for one in self.everything(database) if one.type == ids.CHECKPOINT]

    def everything(self, database: str | None = None) -> list[BackupEntry]:
        """Backups and checkpoints, oldest first: all that has a manifest."""
        sizes = self._dated(ObjectType.BACKUP, database)
        names = sorted(sizes)
        with self._lock:
            unread = [name for name in names if name not in self._entries]
        # refs() remembers what was read; not damage, since healing may mend it
        there = {name for name, _ in self.read_all(unread)}
        with self._lock:
            held = {name: self._entries.get(name) for name in names}
        found = [
            _checked(held[name], name, sizes[name])
            for name in names
            if held[name] is not None or name in there
        ]
        return sorted(found, key=lambda entry: (entry.created_at, entry.id, entry.database))

    def resolve(self, text: str, database: str | None = None) -> BackupEntry:
        """The backup that *text* means, see :func:`aurora.repository.ids.resolve`."""
        return ids.resolve(text, self.backups(database))

    def refs(self, database: str, backup: str) -> Refs:
        """The refs of one backup. Raises ObjectMissing, ObjectDamaged, StorageError."""
        name = refs_name(database, backup)
        refs = self._reader.fetch(
            name,
            lambda stored: read_refs(
                stored, name=name, repository_id=self._repository_id, mac_key=self._mac_key
            ),
        )
        with self._lock:
            self._entries[database, backup] = entry_of(refs)
        return refs

    def read_all(
        self, names: Iterable[tuple[str, str]]
    ) -> Iterator[tuple[tuple[str, str], Refs | IntegrityError]]:
        """The refs of many backups, read side by side; damage is returned, not raised.

        One that was removed since *names* were listed is left out: its manifest is gone too.
        """

        def read(name: tuple[str, str]) -> tuple[tuple[str, str], Refs | IntegrityError | None]:
            try:
                return name, self.refs(*name)
            except ObjectMissing as error:
                return name, None if self.is_gone(*name) else error
            except IntegrityError as error:
                return name, error

        # Refs of a large backup take many megabytes: read no further ahead than is used.
        ahead: deque[Future[tuple[tuple[str, str], Refs | IntegrityError | None]]] = deque()
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="aurora-refs") as pool:
            waiting = iter(names)
            while True:
                for name in itertools.islice(waiting, _PARALLEL - len(ahead)):
                    ahead.append(pool.submit(read, name))
                if not ahead:
                    return
                name, found = ahead.popleft().result()
                if found is not None:
                    yield name, found

    def is_gone(self, database: str, backup: str) -> bool:
        """Whether no storage has the manifest: the backup was removed. Raises StorageError."""
        name = backup_name(database, backup)
        storages = (self._reader.storage, self._reader.fallback)
        return all(one is None or stored_size(one, name) is None for one in storages)

    def refs_names(self, database: str | None = None) -> list[tuple[str, str]]:
        """(database, backup id) of every refs object, with or without a manifest."""
        return _by_time(self._dated(ObjectType.REFS, database))

    def _dated(self, kind: ObjectType, database: str | None) -> dict[tuple[str, str], int]:
        """(database, backup id) -> stored bytes; the fallback's where it has what is lost.

        A removal takes a backup's manifest and its refs, and the fallback keeps its own longer:
        what the storage has no trace of was removed, not lost. But for a database of which
        it has nothing at all.
        """
        found = _listed(self._reader.storage, kind, database)
        if self._reader.fallback is None:
            return found
        other = ObjectType.REFS if kind is ObjectType.BACKUP else ObjectType.BACKUP
        traces = found.keys() | _listed(self._reader.storage, other, database).keys()
        known = {name[0] for name in traces}
        theirs = _listed(self._reader.fallback, kind, database)
        lost = {name: theirs[name] for name in theirs if name in traces or name[0] not in known}
        return lost | found


def _listed(storage: Storage, kind: ObjectType, database: str | None) -> dict[tuple[str, str], int]:
    prefix = kind.prefix if database is None else f"{kind.prefix}{database}/"
    found: dict[tuple[str, str], int] = {}
    for info in storage.list(prefix):
        name = parse_dated(info.name)
        if name is not None and _is_backup_id(name[1]):
            found[name] = info.size
    return found


def _by_time(names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(names, key=lambda name: (name[1], name[0]))


def _checked(entry: BackupEntry | None, name: tuple[str, str], size: int) -> BackupEntry:
    if entry is None:
        parsed = ids.parse_backup_id(name[1])
        reason = "its refs cannot be read"
        return BackupEntry(name[1], name[0], parsed.type, parsed.created_at, damage=reason)
    if entry.manifest_bytes != size:
        return replace(entry, damage="its manifest has another size than its refs say")
    return entry


def entry_of(refs: Refs) -> BackupEntry:
    """The entry that a list shows for *refs*."""
    return BackupEntry(
        id=refs.backup,
        database=refs.database,
        type=refs.type,
        created_at=refs.created_at,
        sequence=refs.sequence,
        stored_bytes=refs.stored_bytes,
        objects=len(refs.objects) + 1,
        manifest_sha256=refs.manifest.sha256,
        manifest_bytes=refs.manifest.size,
    )


def _is_backup_id(text: str) -> bool:
    try:
        ids.parse_backup_id(text)
    except UsageError:
        return False
    return True
