"""Removals: which backups are to be removed, said before anything is, so that it can be undone.

A removal is a document ``removals/<database>/<id>`` that names backups. They stay whole, and
are listed and restored as before, until a collector removes them, which it does no sooner than
:data:`FLOOR` after, and only what retention still lets go by then. ``<removal>.<backup>``
takes one backup out again. What cannot be proven removes nothing.
"""

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from aurora import clock
from aurora.errors import IntegrityError
from aurora.events import EventSink, Warned, discard
from aurora.repository.layout import ObjectType, parse_removal, removal_name, undo_name
from aurora.repository.once import put_once
from aurora.repository.presence import stored_size
from aurora.repository.signer import Signer
from aurora.storage.base import Storage

FLOOR = timedelta(hours=48)
"""By the storage's clock: nothing younger is deleted, no backup sooner after its removal."""


@dataclass(frozen=True, slots=True)
class Removal:
    """One list of backups that are to be removed, without those taken out again."""

    name: str
    database: str
    at: datetime  # by the storage's clock
    backups: Mapping[str, str]  # id -> why


def announce(
    storage: Storage, signer: Signer, database: str, backups: Mapping[str, str]
) -> Removal:
    """Say that *backups* (id -> why) are to be removed. Raises StorageError."""
    name = removal_name(database, secrets.token_hex(8))
    members = {
        "announced_at": clock.isoformat(clock.now()),
        "backups": dict(backups),
        "database": database,
    }
    put_once(storage, name, signer.packed("removal", name, members))
    return Removal(name, database, storage.head(name).modified_at, dict(backups))


def take_back(storage: Storage, signer: Signer, removal: Removal, backup: str) -> None:
    """Take *backup* out of a removal. Raises StorageError."""
    name = undo_name(removal.name, backup)
    if stored_size(storage, name) is not None:
        return
    members = {"backup": backup, "removal": removal.name, "undone_at": clock.isoformat(clock.now())}
    put_once(storage, name, signer.clear("undo", name, members))


def read_removals(
    storage: Storage, signer: Signer, database: str | None = None, *, sink: EventSink = discard
) -> list[Removal]:
    """All removals, oldest first; one that cannot be proven is passed over. Raises StorageError."""
    prefix = ObjectType.REMOVAL.prefix + (f"{database}/" if database else "")
    found: dict[str, tuple[str, datetime]] = {}
    undone: set[str] = set()
    for info in storage.list(prefix):
        parsed = parse_removal(info.name)
        if parsed is None:
            continue
        if parsed[1]:
            undone.add(info.name)
        else:
            found[info.name] = (parsed[0], info.modified_at)
    removals = []
    for name, (of, at) in sorted(found.items(), key=lambda item: (item[1][1], item[0])):
        try:
            document = signer.unpack("removal", name, storage.get(name))
            backups = _backups(document.get("backups"))
        except IntegrityError as error:
            sink(Warned("removal-unreadable", f"{error.message}; it removes nothing"))
            continue
        left = {one: why for one, why in backups.items() if undo_name(name, one) not in undone}
        removals.append(Removal(name, of, at, left))
    return removals


def removed_at(removals: Collection[Removal], database: str) -> dict[str, datetime]:
    """Backup id -> since when it is to be removed."""
    found: dict[str, datetime] = {}
    for removal in removals:
        if removal.database == database:
            for backup in removal.backups:
                found[backup] = min(removal.at, found.get(backup, removal.at))
    return found


def _backups(value: object) -> dict[str, str]:
    return {str(key): str(why) for key, why in value.items()} if isinstance(value, dict) else {}
