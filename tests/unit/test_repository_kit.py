"""What the tests of the repository share: a small repository, and backups in it."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from aurora import clock
from aurora.events import EventSink, discard
from aurora.repository.door import BackupEntry, Ref, Repository, Writer
from aurora.repository.ids import new_backup_id
from aurora.repository.keys import WEAK_KDF_FOR_TESTS, Passphrase
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import MirrorView
from aurora.storage.base import Buffer, Storage
from aurora.storage.memory import MemoryStorage

PASSPHRASE = "correct horse battery staple"
OUTER_PASSPHRASE = "another one altogether"
EPOCH = datetime(2026, 11, 1, tzinfo=UTC)


def create(storage: Storage) -> Repository:
    """A new repository on *storage*, with a key derivation fit for tests."""
    return Repository.create(storage, passphrase=PASSPHRASE, kdf=WEAK_KDF_FOR_TESTS)[0]


def reopen(
    storage: Storage, *, fallback: Storage | None = None, sink: EventSink = discard
) -> Repository:
    """The same repository, as another run sees it."""
    return Repository.open(storage, Passphrase(PASSPHRASE), fallback=fallback, sink=sink)


def create_mirror(storage: Storage) -> MirrorView:
    """A new secondary on *storage*."""
    return MirrorView.create(storage, OUTER_PASSPHRASE, kdf=WEAK_KDF_FOR_TESTS)[0]


def payloads(seed: int, count: int = 3, size: int = 4000) -> list[bytes]:
    """Texts that compress, different for every seed."""
    source = random.Random(seed)
    words = ["alpha", "beta", "gamma", "delta", "\t", "\n", "2026-11-23"]
    return [
        (f"{seed}/{n} " + "".join(source.choices(words, k=size // 5))).encode()[:size]
        for n in range(count)
    ]


def commit(
    writer: Writer, refs: Iterable[Ref], *, kind: str = "full", day: int | None = None
) -> BackupEntry:
    """Commit *refs* as one table; *day* dates the backup, now by default."""
    uses = list(refs)
    moment = clock.now() if day is None else EPOCH + timedelta(days=day)
    return writer.commit(
        backup_id=new_backup_id(kind, moment),
        type=kind,
        created_at=moment,
        manifest={"chunks": [{"name": ref.name, "raw": ref.raw} for ref in uses]},
        uses=uses,
    )


def backup(
    repository: Repository,
    contents: Iterable[bytes],
    *,
    database: str = "db",
    kind: str = "full",
    day: int | None = None,
) -> BackupEntry:
    """One whole backup of *contents*."""
    with repository.write(database) as writer:
        refs = [writer.put(ObjectType.CHUNK, content) for content in contents]
        return commit(writer, refs, kind=kind, day=day)


def restore(repository: Repository, entry: BackupEntry) -> list[bytes]:
    """The contents of a backup made by :func:`backup`."""
    manifest = repository.manifest(entry)
    return [repository.read(Ref(one["name"], one["raw"])) for one in manifest["chunks"]]


def names(storage: MemoryStorage, prefix: str = "") -> list[str]:
    """The names on a memory storage, sorted."""
    return sorted(name for name in storage.objects if name.startswith(prefix))


def flip(storage: MemoryStorage, name: str, at: int = -1, bit: int = 0) -> None:
    """Flip one bit of a stored object; the last byte's lowest by default."""
    stored, info = storage.objects[name]
    altered = bytearray(stored)
    altered[at] ^= 1 << bit
    storage.objects[name] = (bytes(altered), info)


def swap(storage: MemoryStorage, one: str, other: str) -> None:
    """Exchange the contents of two names."""
    first, second = storage.get(one), storage.get(other)
    storage.put(one, second)
    storage.put(other, first)


class Forgetful(MemoryStorage):
    """Answers every put with success and keeps nothing below one prefix."""

    forgets = "\n"  # no name begins with it

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """As MemoryStorage, or as if."""
        if not name.startswith(self.forgets):
            super().put(name, data, create_only=create_only)
