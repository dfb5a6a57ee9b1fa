"""The door of a repository: closed, it tells what it holds; opened, it reads and writes."""

import hashlib
from collections.abc import Container
from typing import Any, Self

from aurora import clock
from aurora.errors import IntegrityError, UsageError
from aurora.events import EventSink, discard
from aurora.repository import canonical, envelope, signed, slots
from aurora.repository.catalog import BackupEntry, Catalog
from aurora.repository.chain import Chain, read_chain
from aurora.repository.claims import Claims, Timing
from aurora.repository.config import Config, Role, read_config
from aurora.repository.creation import create_keys, finish_creation, unlock
from aurora.repository.damage import damaged
from aurora.repository.derive import MasterKey, mac
from aurora.repository.ground import Ground
from aurora.repository.keys import Kdf, KeyFile, Secret
from aurora.repository.layout import (
    CONFIG,
    ObjectType,
    parse_content,
    parse_part,
    parse_session,
    slot_name,
)
from aurora.repository.leases import TTL_SECONDS, Lease
from aurora.repository.mirror_view import MirrorView
from aurora.repository.once import put_once
from aurora.repository.reader import ObjectReader
from aurora.repository.refs import Refs
from aurora.repository.sealed import look_at_part
from aurora.repository.sessions import Sessions, new_session, read_session
from aurora.repository.signer import Signer
from aurora.repository.trail import Trail
from aurora.repository.uploads import DEFAULT_BYTES_IN_FLIGHT, DEFAULT_WORKERS
from aurora.repository.writer import COMMIT, Ref, Writer, WriterOptions
from aurora.storage.base import Storage

__all__ = ["BackupEntry", "ClosedRepository", "Ref", "Refs", "Repository", "Writer"]


class ClosedRepository:
    """A repository that nobody holds a key of: names, sizes and refs, but no contents.

    Refs are checked against accidental damage only; their MAC takes the master key.

    Raises (all of its methods):
        RepositoryNotFound, UnsupportedRepository, ObjectDamaged, StorageError.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        role: Role = "primary",
        fallback: Storage | None = None,
        sink: EventSink = discard,
    ) -> None:
        self.storage = storage
        self._reader = ObjectReader(storage, fallback=fallback, sink=sink)
        self._config = read_config(self._reader, role=role)
        self._catalog = Catalog(self._reader, self._config.repository_id, self._mac_key())

    @property
    def repository_id(self) -> bytes:
        """16 bytes; the same for all storages that mirror one repository."""
        return self._config.repository_id

    def config(self) -> Config:
        """What the config object says."""
        return self._config

    def databases(self) -> list[str]:
        """The labels of all databases that have a backup."""
        return self._catalog.databases()

    def backups(self, database: str | None = None) -> list[BackupEntry]:
        """All committed backups, oldest first."""
        return self._catalog.backups(database)

    def checkpoints(self, database: str) -> list[BackupEntry]:
        """What runs committed of copied Storage objects, for others to go on from; oldest first."""
        return self._catalog.checkpoints(database)

    def elsewhere(self, database: str | None = None) -> list[BackupEntry]:
        """Backups that the fallback alone has: this storage let go of them."""
        if self._reader.fallback is None:
            return []
        theirs = Catalog(ObjectReader(self._reader.fallback), self.repository_id, self._mac_key())
        here = set(self._catalog.names(database))
        return [one for one in theirs.backups(database) if (one.database, one.id) not in here]

    def resolve(self, text: str, database: str | None = None) -> BackupEntry:
        """The backup that *text* means: an id, a unique part of one, ``latest[:<type>]``.

        Raises:
            RepositoryNotFound: none does. UsageError: several do; it lists them.
        """
        return self._catalog.resolve(text, database)

    def refs(self, entry: BackupEntry) -> Refs:
        """The refs of a backup. Raises ObjectMissing, ObjectDamaged."""
        return self._catalog.refs(entry.database, entry.id)

    def chain(self, database: str) -> Chain:
        """The history of *database* as the storage shows it, to notice a rollback."""
        return read_chain(self.storage, self.catalog_alone(), database)

    def catalog_alone(self) -> Catalog:
        """The catalog of this storage alone, without what a fallback would add."""
        return Catalog(ObjectReader(self.storage), self.repository_id, self._mac_key())

    def _mac_key(self) -> bytes | None:
        return None


class Repository(ClosedRepository):
    """An opened repository. Threads may share it."""

    def __init__(
        self,
        storage: Storage,
        master: MasterKey,
        *,
        role: Role = "primary",
        fallback: Storage | None = None,
        sink: EventSink = discard,
    ) -> None:
        """Use :meth:`open` or :meth:`create`."""
        self._master = master
        super().__init__(storage, role=role, fallback=fallback, sink=sink)
        self._config.prove(master.mac_key)  # it was read again, and a storage may lie by turns
        self._sink = sink
        self._sessions = Sessions(self._reader, master)
        self._known = self.catalog_alone()  # shared by writers that begin often

    @classmethod
    def create(
        cls,
        storage: Storage,
        *,
        passphrase: str,
        role: Role = "primary",
        kdf: Kdf | None = None,
        key_file: KeyFile | None = None,
    ) -> tuple[Self, str]:
        """A new repository on an empty storage, and its recovery code to be printed.

        Raises:
            UsageError: something is there already, or the passphrase is too weak to use.
        """
        master, code = create_keys(
            storage, passphrase=passphrase, kdf=kdf or Kdf(), key_file=key_file
        )
        finish_creation(storage, master, role)
        return cls(storage, master, role=role), code

    @classmethod
    def open(
        cls,
        storage: Storage,
        secret: Secret,
        *,
        role: Role = "primary",
        fallback: Storage | None = None,
        sink: EventSink = discard,
    ) -> Self:
        """Open with any one secret.

        With a *fallback*, for example a MirrorView, whatever is missing or damaged on
        *storage* is read from there, and *sink* is warned of it.

        Raises:
            RepositoryNotFound, WrongKey, UnsupportedRepository, ObjectDamaged, StorageError.
        """
        reader = ObjectReader(storage, fallback=fallback, sink=sink)
        master = unlock(reader, secret, role)
        return cls(storage, master, role=role, fallback=fallback, sink=sink)

    def manifest(self, entry: BackupEntry) -> dict[str, Any]:
        """The manifest of a backup, opened and proven, with every member it was written with.

        Raises:
            ObjectMissing, ObjectDamaged, StorageError.
        """
        name = entry.manifest_name
        expected = self._manifest_hash(entry)

        def prove(stored: bytes) -> dict[str, Any]:
            if expected is not None and hashlib.sha256(stored).hexdigest() != expected:
                raise damaged(name, "it is not the manifest that the refs name")
            return _parse_manifest(self.prove(name, stored), entry)

        return self._reader.fetch(name, prove)

    def read(self, ref: Ref) -> bytes:
        """The payload of an object, its size and identity proven.

        Raises:
            ObjectMissing, ObjectDamaged, StorageError, UsageError.
        """
        if parse_content(ref.name) is None:
            raise UsageError(f"not the name of a content: {ref.name[:200]}")

        def prove(stored: bytes) -> bytes:
            payload = self.prove(ref.name, stored)
            if len(payload) != ref.raw:
                raise damaged(ref.name, f"it holds {len(payload)} bytes instead of {ref.raw}")
            return payload

        return self._reader.fetch(ref.name, prove)

    def prove(self, name: str, stored: bytes) -> bytes:
        """The payload of an object's *stored* bytes, its identity proven.

        Clear documents (config, key slots, sessions) have no payload: they are proven and
        returned as they are. So is a part of a sealed backup, which opens elsewhere only.

        Raises:
            ObjectDamaged, and what reading the object's session raises.
        """
        content = parse_content(name)
        if content is not None:
            payload = self._open(stored, content.type, name)
            identity = envelope.payload_id(self._master.id_key, content.type, payload)
            if identity != content.payload_id:
                raise damaged(name, "its content is not what its name promises")
            return payload
        if name.startswith(ObjectType.BACKUP.prefix):
            return self._open(stored, ObjectType.BACKUP, name)
        if parse_session(name) is not None:
            read_session(stored, name=name, master=self._master)
            return stored
        if parse_part(name) is not None:
            look_at_part(stored, name)
            return stored
        if name == CONFIG or name.startswith(ObjectType.SLOT.prefix):
            document = signed.read_clear(stored, name=name)
            signed.prove_clear(
                document, name=name, repository_id=self.repository_id, mac_key=self._mac_key()
            )
            return stored
        raise damaged(name, "nothing says what it holds")

    def write(
        self,
        database: str,
        *,
        level: int = envelope.DEFAULT_LEVEL,
        workers: int = DEFAULT_WORKERS,
        in_flight: int | None = None,
        bytes_in_flight: int = DEFAULT_BYTES_IN_FLIGHT,
        ttl_seconds: float = TTL_SECONDS,
        distrusted: Container[str] = (),
        reuse: bool = True,
    ) -> Writer:
        """Begin a run that writes a backup of *database*; use it as a context manager.

        Objects named in *distrusted* (found damaged, say) are uploaded again if needed.
        Without *reuse* all are, and the run begins without listing what is held.

        Raises:
            UsageError, StorageError.
        """
        options = WriterOptions(
            level, workers, in_flight, bytes_in_flight, ttl_seconds, distrusted, reuse
        )
        known = None if reuse else self._known
        return Writer(self.storage, self._master, database, options, self._sink, known)

    def sign(self, purpose: str, text: bytes) -> str:
        """The MAC of a text kept outside of the repository, as 64 hex digits.

        Bound to the repository and to *purpose*, which tells kinds of texts apart.
        """
        key = self._master.mac_key
        return mac(key, "outside", self.repository_id, purpose.encode(), text).hex()

    def lease(self, purpose: str) -> Lease:
        """A lease that is not begun yet: a long restore holds one against the collector."""
        return Lease(
            self.storage,
            sid=new_session().sid,
            repository_id=self.repository_id,
            mac_key=self._master.mac_key,
            purpose=purpose,
        )

    def claims(self, database: str, host: str, *, timing: Timing | None = None) -> Claims:
        """What hosts agree by which of them runs a job of *database*."""
        return Claims(
            self.storage,
            repository_id=self.repository_id,
            mac_key=self._master.mac_key,
            database=database,
            host=host,
            timing=timing,
        )

    @property
    def signer(self) -> Signer:
        """Who signs the repository's own documents."""
        return Signer(self.repository_id, self._master.mac_key)

    def ground(self) -> Ground:
        """The storage as its collector sees it; where it is a mirror's view, the secondary."""
        if isinstance(self.storage, MirrorView):
            return self.storage.ground(self.signer)
        return Ground(self.storage, self.storage, (self.signer,))

    @property
    def mac_key(self) -> bytes:
        """Proves what is kept in clear. A secret: it signs as well."""
        return self._master.mac_key

    def trail(self, storage: Storage | None = None) -> Trail:
        """The audit trail on the repository's storage, or as *storage* (its mirror) holds it."""
        return Trail(storage or self.storage, self._master)

    def slots(self) -> list[slots.SlotInfo]:
        """All key slots, with whether each is genuine."""
        return slots.list_slots(self._reader, self._master)

    def opened_by(self, secret: Secret) -> list[str]:
        """Ids of the key slots that *secret* opens; none where it is wrong."""
        return slots.opened_by(ObjectReader(self.storage), self._master, secret)

    def add_slot(self, secret: Secret, *, label: str = "", kdf: Kdf | None = None) -> str:
        """Add a way to open the repository; returns the slot's id."""
        name, stored = slots.write_slot(
            self._master, secret, kdf=kdf or Kdf(), label=label, created_at=clock.now()
        )
        put_once(self.storage, name, stored)
        return name.removeprefix(ObjectType.SLOT.prefix)

    def remove_slot(self, slot_id: str) -> None:
        """Remove a slot; a copy of it that somebody kept still opens the repository.

        Raises:
            UsageError: there is no such slot, or it is the last genuine one.
        """
        held = self.slots()
        if slot_id not in [slot.id for slot in held]:
            raise UsageError(f"no key slot {slot_id[:80]}")
        if not any(slot.genuine and slot.id != slot_id for slot in held):
            raise UsageError(
                "the last key slot cannot be removed",
                hint="Add another one first, or nobody can open the repository again.",
            )
        self.storage.delete([slot_name(slot_id)])

    def _mac_key(self) -> bytes:
        return self._master.mac_key

    def _open(self, stored: bytes, kind: ObjectType, name: str) -> bytes:
        return envelope.open_sealed(
            stored,
            kind=kind,
            name=name,
            repository_id=self.repository_id,
            session=self._sessions.of(stored, name=name),
        )

    def _manifest_hash(self, entry: BackupEntry) -> str | None:
        if entry.manifest_sha256 is not None:
            return entry.manifest_sha256
        try:
            return self.refs(entry).manifest.sha256
        except IntegrityError:
            return None  # the manifest's own seal has to do


def _parse_manifest(text: bytes, entry: BackupEntry) -> dict[str, Any]:
    try:
        document: dict[str, Any] = canonical.loads(text)
        commit = document[COMMIT]
        same = (commit["backup"], commit["database"]) == (entry.id, entry.database)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(entry.manifest_name, "it is not a manifest") from error
    if not same:
        raise damaged(entry.manifest_name, "it is the manifest of another backup")
    return document
