"""The secondary: a complete second copy of a repository under keys of its own.

A :class:`MirrorView` looks like the primary's storage. Everything put through it is
wrapped once more, name and body, so the primary can be rebuilt from the secondary alone
and ``Repository.open(MirrorView.open(...), ...)`` restores when the primary is gone.
Copying needs no key of the primary: refs say what every object must hash to.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Self

from aurora import clock
from aurora.errors import IntegrityError, ObjectMissing
from aurora.repository import outer, slots
from aurora.repository.creation import create_keys, finish_creation, unlock
from aurora.repository.damage import damaged, missing
from aurora.repository.derive import KEY_BYTES, MasterKey
from aurora.repository.ground import Ground
from aurora.repository.keys import Kdf, KeyFile, Secret
from aurora.repository.layout import ObjectType
from aurora.repository.once import put_once
from aurora.repository.reader import ObjectReader
from aurora.repository.signer import Signer
from aurora.storage.base import Buffer, ObjectInfo, Storage


class MirrorView:
    """The primary's storage as a secondary keeps it. Threads may share it.

    Beyond the errors of every storage, reads raise ObjectDamaged for a copy that does not
    open.
    """

    def __init__(self, storage: Storage, master: MasterKey, keys: Iterable[outer.OuterKey]) -> None:
        """Use :meth:`open` or :meth:`create`."""
        self._storage = storage
        self._master = master
        self._repository_id = master.repository_id
        self._names = outer.OuterNames(master)
        self._keys = {key.id: key for key in keys}
        self._newest = max(self._keys)

    @classmethod
    def create(
        cls,
        storage: Storage,
        passphrase: str,
        *,
        kdf: Kdf | None = None,
        key_file: KeyFile | None = None,
    ) -> tuple[Self, str]:
        """A new secondary on an empty storage, and its own recovery code to be printed.

        Raises:
            UsageError: something is there already. StorageError.
        """
        master, code = create_keys(
            storage, passphrase=passphrase, kdf=kdf or Kdf(), key_file=key_file
        )
        key = outer.OuterKey(os.urandom(outer.KEY_ID_BYTES), os.urandom(KEY_BYTES))
        stored = outer.write_outer_key(master, key, created_at=clock.now())
        put_once(storage, outer.outer_key_name(key.id), stored)
        finish_creation(storage, master, "secondary")
        return cls(storage, master, [key]), code

    @classmethod
    def open(cls, storage: Storage, secret: Secret) -> Self:
        """Open a secondary with any one of its own secrets.

        Raises:
            RepositoryNotFound, WrongKey, UnsupportedRepository, ObjectDamaged, StorageError.
        """
        reader = ObjectReader(storage)
        master = unlock(reader, secret, "secondary")
        keys = []
        broken: IntegrityError | None = None
        for name in sorted(info.name for info in storage.list(ObjectType.OUTER.prefix)):
            try:
                keys.append(outer.read_outer_key(storage.get(name), name=name, master=master))
            except IntegrityError as error:
                broken = error  # a stranger's object must not lock the owner out
        if not keys:
            raise broken or missing(ObjectType.OUTER.prefix, "the secondary has lost its outer key")
        return cls(storage, master, keys)

    @property
    def url(self) -> str:
        """The secondary's address."""
        return self._storage.url

    @property
    def repository_id(self) -> bytes:
        """The secondary's own repository id, not the primary's."""
        return self._repository_id

    def slots(self) -> list[slots.SlotInfo]:
        """The secondary's own key slots, with whether each is genuine."""
        return slots.list_slots(ObjectReader(self._storage), self._master)

    def ground(self, *others: Signer) -> Ground:
        """The secondary as its own collector sees it; *others* may hold leases on it too."""
        own = Signer(self._repository_id, self._master.mac_key)
        return Ground(
            self,
            self._storage,
            (own, *others),
            self._names.encode,
            names_are_fixed=True,
            overhead=outer.OVERHEAD,
        )

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """Wrap and store one of the primary's objects."""
        wrapped = outer.wrap(
            data, name=name, repository_id=self._repository_id, outer=self._keys[self._newest]
        )
        self._storage.put(self._names.encode(name), wrapped, create_only=create_only)

    def get(self, name: str) -> bytes:
        """The primary's stored bytes. Raises ObjectMissing, ObjectDamaged, StorageError."""
        try:
            wrapped = self._storage.get(self._names.encode(name))
        except ObjectMissing:
            raise missing(name, "the secondary does not have it") from None
        used = self._keys.get(outer.key_id(wrapped, name=name))
        if used is None:
            raise damaged(name, "the secondary wrapped it with a key that is not there")
        return outer.unwrap(wrapped, name=name, repository_id=self._repository_id, outer=used)

    def head(self, name: str) -> ObjectInfo:
        """Size (as on the primary) and time of the copy."""
        try:
            info = self._storage.head(self._names.encode(name))
        except ObjectMissing:
            raise missing(name, "the secondary does not have it") from None
        return ObjectInfo(name, info.size - outer.OVERHEAD, info.modified_at)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The primary's objects below *prefix*, with their sizes on the primary.

        Names that this secondary did not make are passed over.
        """
        first = f"{outer.directory(prefix)}/" if prefix else ""
        for info in self._storage.list(first):
            name = self._names.decode(info.name)
            if name is not None and name.startswith(prefix):
                yield ObjectInfo(name, info.size - outer.OVERHEAD, info.modified_at)

    def delete(self, names: Iterable[str]) -> None:
        """Delete copies; a mirror run never does, only the secondary's own collector."""
        self._storage.delete([self._names.encode(name) for name in names])

    def stored_name(self, name: str) -> str:
        """Where on the secondary's storage the copy of *name* is kept."""
        return self._names.encode(name)
