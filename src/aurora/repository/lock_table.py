"""Until when a storage with object lock keeps what each backup needs, remembered on it.

A document ``locks/<id>`` names backups; the newest that can be proven counts, and older ones
are deleted. Without any, everything is extended once more: it costs time and nothing else.
What it says is never earlier than it is, so a lock is extended in time.
"""

import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

from aurora import clock
from aurora.errors import IntegrityError, StorageError
from aurora.repository.ground import Ground
from aurora.repository.layout import ObjectType

COMMON = ""
"""In the place of a backup: what belongs to none, such as config, key slots and the trail."""


def read_lock_table(ground: Ground) -> dict[str, datetime]:
    """``<database>/<backup>`` -> until when all that it needs is locked. Raises StorageError."""
    listed = sorted(
        ground.own.list(ObjectType.LOCKS.prefix),
        key=lambda info: (info.modified_at, info.name),
        reverse=True,
    )
    for info in listed:
        with suppress(IntegrityError, ValueError, AttributeError):
            document = ground.signer.unpack("locks", info.name, ground.own.get(info.name))
            until: dict[str, str] = document["until"]
            return {backup: clock.parse(at) for backup, at in until.items()}
    return {}


def write_lock_table(ground: Ground, until: Mapping[str, datetime]) -> None:
    """Remember *until*; earlier tables go, where these credentials may delete.

    Raises StorageError.
    """
    before = [info.name for info in ground.own.list(ObjectType.LOCKS.prefix)]
    name = f"{ObjectType.LOCKS.prefix}{secrets.token_hex(16)}"
    members = {
        "until": {key: clock.isoformat(at) for key, at in sorted(until.items())},
        "written_at": clock.isoformat(clock.now()),
    }
    ground.own.put(name, ground.signer.packed("locks", name, members))
    with suppress(StorageError):
        ground.own.delete(before)
