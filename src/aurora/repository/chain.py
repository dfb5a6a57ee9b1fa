"""The chain of a database's backups: how a storage that turned back the clock is noticed.

Each manifest and its refs carry a sequence number and the hash of the manifest before it.
Retention may remove any link, so a gap proves nothing; a link that is there and is not what
its successor saw does. That the newest link itself is gone only somebody can tell who
remembers it: keep the :class:`Head` outside the storage and compare.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from aurora.errors import IntegrityError, ObjectMissing, UnsupportedRepository
from aurora.repository.catalog import Catalog
from aurora.repository.refs import Refs
from aurora.storage.base import Storage


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """The newest backup of a database, to be remembered outside the storage."""

    sequence: int
    backup: str
    sha256: str  # of the stored manifest


@dataclass(frozen=True, slots=True)
class Chain:
    """What the storage shows of a database's history."""

    database: str
    links: tuple[Head, ...]  # oldest first
    faults: tuple[str, ...] = ()  # links that do not fit, in words, each naming a backup
    damaged: tuple[str, ...] = ()  # backups whose refs or manifest are not as written

    @property
    def head(self) -> Head | None:
        """The newest link; two that were written at once have the same sequence."""
        return self.links[-1] if self.links else None

    def check_against(self, remembered: Head | None) -> None:
        """Raise unless the storage still shows a history that goes on from *remembered*.

        Raises:
            UnsupportedRepository: it was rolled back, or the remembered backup replaced.
        """
        if self.faults:
            raise _rolled_back(self.database, self.faults[0])
        if remembered is None:
            return
        if self.head is None or self.head.sequence < remembered.sequence:
            raise _rolled_back(
                self.database,
                f"backup {remembered.backup} with number {remembered.sequence} was seen, now the "
                f"newest number is {self.head.sequence if self.head else 0}",
            )
        for link in self.links:
            if link.backup == remembered.backup and link != remembered:
                raise _rolled_back(self.database, f"backup {link.backup} is another one than seen")
        backups = {link.backup for link in self.links} | {*self.damaged}
        if self.head.sequence == remembered.sequence and remembered.backup not in backups:
            raise _rolled_back(
                self.database,
                f"backup {remembered.backup} was seen, now {self.head.backup} has its number "
                f"{remembered.sequence}",
            )


def read_chain(storage: Storage, catalog: Catalog, database: str) -> Chain:
    """The chain of *database*; every manifest's bytes are compared with what its refs say.

    Raises:
        StorageError.
    """
    links: dict[str, Refs] = {}
    damaged: list[str] = []
    for (_, backup), refs in catalog.read_all(catalog.names(database)):
        if isinstance(refs, Refs):
            links[backup] = replace(refs, objects=[])  # all of them would fill the memory
        if not isinstance(refs, Refs) or _is_damaged(storage, refs):
            damaged.append(backup)
    heads = (Head(one.sequence, one.backup, one.manifest.sha256) for one in links.values())
    faults = (fault for one in links.values() for fault in _faults(one, links))
    return Chain(database, tuple(sorted(heads)), tuple(faults), tuple(damaged))


def _is_damaged(storage: Storage, refs: Refs) -> bool:
    try:
        stored = storage.get(refs.manifest.name)
    except ObjectMissing:
        return False  # removed since the listing
    except IntegrityError:
        return True
    return hashlib.sha256(stored).hexdigest() != refs.manifest.sha256


def _faults(refs: Refs, links: dict[str, Refs]) -> Iterable[str]:
    seen = refs.previous
    there = links.get(seen.backup) if seen else None
    if seen is None or there is None:
        return  # the first one, or its predecessor was removed by retention
    if (there.sequence, there.manifest.sha256) != (seen.sequence, seen.sha256):
        yield f"backup {seen.backup} is not the one that backup {refs.backup} was made after"
    if refs.sequence != seen.sequence + 1:
        yield f"backup {refs.backup} has the number {refs.sequence} after {seen.sequence}"


def _rolled_back(database: str, reason: str) -> UnsupportedRepository:
    return UnsupportedRepository(
        f"the storage shows another history of {database} than before: {reason}",
        hint="Nothing was changed. Somebody restored an old state of the storage, or replaced "
        "backups in it. Compare it with the secondary before you trust or write to it.",
        context={"database": database},
    )
