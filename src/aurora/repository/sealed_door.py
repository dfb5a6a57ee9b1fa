"""The door of sealed backups: opened by an identity, without any key of the repository."""

from typing import Any

from aurora.errors import UsageError
from aurora.events import EventSink, discard
from aurora.repository import canonical
from aurora.repository.catalog import BackupEntry
from aurora.repository.damage import damaged
from aurora.repository.door import ClosedRepository, Ref
from aurora.repository.ids import SEALED
from aurora.repository.layout import parse_part, part_name
from aurora.repository.sealed import MAX_INDEX, SUFFIX, Identities
from aurora.storage.base import Storage

INDEX = f"index.json{SUFFIX}"
"""The part that describes the others."""


class SealedRepository(ClosedRepository):
    """What an identity opens of a repository: its sealed backups. Threads may share it.

    With the *mac_key* of the opened repository the refs, and so every part, are proven to be
    the owner's. Without it anybody who knows a recipient's public key could have made them.
    """

    def __init__(
        self,
        storage: Storage,
        identities: Identities,
        *,
        mac_key: bytes | None = None,
        sink: EventSink = discard,
    ) -> None:
        self._identities = identities
        self._key = mac_key
        super().__init__(storage, sink=sink)

    @property
    def proves_origin(self) -> bool:
        """Whether what it reads is known to be the owner's."""
        return self._key is not None

    def backups(self, database: str | None = None) -> list[BackupEntry]:
        """The sealed backups alone, oldest first."""
        return [entry for entry in super().backups(database) if entry.type == SEALED]

    def resolve(self, text: str, database: str | None = None) -> BackupEntry:
        """As for any repository; ``latest`` means the newest sealed one."""
        return super().resolve(f"latest:{SEALED}" if text == "latest" else text, database)

    def manifest(self, entry: BackupEntry) -> dict[str, Any]:
        """The index of a sealed backup.

        Raises:
            UsageError: the backup is not sealed. WrongKey, ObjectMissing, ObjectDamaged.
        """
        if entry.type != SEALED:
            raise UsageError(
                f"backup {entry.id} is not sealed",
                hint="Leave --identity out: it opens with the repository's own keys.",
            )
        name = part_name(entry.database, entry.id, INDEX)
        text = self._part(name, limit=MAX_INDEX)
        try:
            document: dict[str, Any] = canonical.loads(text)
            commit = document["commit"]
            same = (commit["backup"], commit["database"]) == (entry.id, entry.database)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(name, "it is not an index") from error
        if not same:
            raise damaged(name, "it is the index of another backup")
        return document

    def read(self, ref: Ref) -> bytes:
        """The payload of a part. Raises ObjectMissing, ObjectDamaged, WrongKey, StorageError."""
        if parse_part(ref.name) is None:
            raise damaged(ref.name, "it is no part of a sealed backup")
        payload = self._part(ref.name)
        if len(payload) != ref.raw:
            raise damaged(ref.name, f"it holds {len(payload)} bytes instead of {ref.raw}")
        return payload

    def prove(self, name: str, stored: bytes) -> bytes:
        """The payload of a part; other objects are returned as they are.

        Raises:
            ObjectDamaged, WrongKey.
        """
        if parse_part(name) is None:
            return stored
        return self._identities.open(stored, name, limit=MAX_INDEX)

    def _part(self, name: str, **limit: int) -> bytes:
        return self._reader.fetch(name, lambda stored: self._identities.open(stored, name, **limit))

    def _mac_key(self) -> bytes | None:
        return self._key
