"""Holds: a backup that nobody may remove, for as long as an incident or an anomaly lasts.

A hold is a document ``holds/<database>/<backup>.<id>``; what ends it is another,
``….released``, so placing and releasing need no right but to create. With the word ``all``
in the backup's place nothing of the database may be removed, and nothing be collected.
What cannot be proven holds: a hold whose text is damaged still does, and a release that is
nobody's releases nothing.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime

from aurora import clock
from aurora.errors import IntegrityError, StorageError
from aurora.repository.layout import ObjectType, hold_name, parse_hold, release_name
from aurora.repository.once import put_once
from aurora.repository.signer import Signer
from aurora.storage.base import Storage

ALL = "all"
"""In the place of a backup's id: the whole database."""

MAX_WHY = 1000
_UNREADABLE = "(its text cannot be read)"


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold that is in force."""

    name: str
    database: str
    backup: str  # a backup's id, or ALL
    why: str
    placed_at: datetime  # by the storage's clock


def place_hold(storage: Storage, signer: Signer, database: str, backup: str, why: str) -> str:
    """Place a hold; returns its name. Raises StorageError."""
    name = hold_name(database, backup, secrets.token_hex(8))
    members = {
        "backup": backup,
        "database": database,
        "placed_at": clock.isoformat(clock.now()),
        "why": why[:MAX_WHY],
    }
    put_once(storage, name, signer.clear("hold", name, members))
    return name


def release_hold(storage: Storage, signer: Signer, hold: Hold, why: str) -> None:
    """End a hold. Raises StorageError."""
    name = release_name(hold.name)
    members = {
        "hold": hold.name,
        "released_at": clock.isoformat(clock.now()),
        "why": why[:MAX_WHY],
    }
    try:
        put_once(storage, name, signer.clear("release", name, members))
    except StorageError:
        if not _is_proven(storage, signer, name):  # somebody else released it meanwhile
            raise


def read_holds(storage: Storage, signer: Signer, database: str | None = None) -> list[Hold]:
    """The holds in force, oldest first. Raises StorageError."""
    prefix = ObjectType.HOLD.prefix + (f"{database}/" if database else "")
    placed: dict[str, tuple[str, str, datetime]] = {}
    released: set[str] = set()
    for info in storage.list(prefix):
        parsed = parse_hold(info.name)
        if parsed is None:
            continue
        of, backup, is_release = parsed
        if is_release:
            released.add(info.name)
        else:
            placed[info.name] = (of, backup, info.modified_at)
    held = [
        Hold(name, of, backup, _why(storage, signer, name), at)
        for name, (of, backup, at) in placed.items()
        if release_name(name) not in released or not _is_proven(storage, signer, release_name(name))
    ]
    return sorted(held, key=lambda hold: (hold.placed_at, hold.name))


def _why(storage: Storage, signer: Signer, name: str) -> str:
    try:
        return str(signer.prove("hold", name, storage.get(name)).get("why", ""))
    except IntegrityError:
        return _UNREADABLE


def _is_proven(storage: Storage, signer: Signer, name: str) -> bool:
    try:
        signer.prove("release", name, storage.get(name))
    except IntegrityError:
        return False
    return True
