"""How the storages stand: reachable, how much is on them, how far the secondary has come."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from aurora.errors import AuroraError, ObjectMissing
from aurora.operations.findings import Finding, Level
from aurora.operations.lock_checks import check_locked_until, read_locked
from aurora.repository.config import MAKE_SECONDARY
from aurora.repository.ground import Ground
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import MirrorView
from aurora.storage.base import Storage
from aurora.storage.object_lock import ObjectLock

GROWTH_DAYS = 7
_GB = 10**9


@dataclass(slots=True)
class StorageLook:
    """One storage at one look."""

    place: str
    url: str = ""
    reachable: bool = False
    error: str = ""
    hint: str = ""
    objects: int | None = None
    bytes: int | None = None
    grown_bytes: int | None = None  # put in the last seven days and still there
    price: float | None = None  # a GB and month
    backups: int | None = None
    replicated_to: str = ""  # of the secondary: the newest backup that is whole there
    behind: int | None = None  # of the secondary: backups that it lacks
    lacking_since: datetime | None = None  # when the oldest of those was made
    locked_until: datetime | None = None  # with object lock: what kept backups need, at least

    @property
    def monthly_cost(self) -> float | None:
        """What it costs a month as it stands."""
        if self.price is None or self.bytes is None:
            return None
        return self.price * self.bytes / _GB


def look_at_storage(
    place: str, open_one: Callable[[], Storage], *, now: datetime, price: float | None
) -> StorageLook:
    """List everything on it. Raises nothing: an error is part of the look."""
    look = StorageLook(place, price=price)
    try:
        storage = open_one()
        look.url = storage.url
        since = now - timedelta(days=GROWTH_DAYS)
        objects = size = grown = 0
        for info in storage.list(""):
            objects += 1
            size += info.size
            if info.modified_at > since:
                grown += info.size
        # An object gone would be an empty listing too; the config tells the two apart.
        storage.head("config")
    except ObjectMissing as error:
        look.reachable = True
        look.error, look.hint = "there is no repository on it", error.hint
        if place == "secondary":
            look.hint = MAKE_SECONDARY
    except AuroraError as error:
        look.error, look.hint = error.message, error.hint
    else:
        look.reachable = True
        look.objects, look.bytes, look.grown_bytes = objects, size, grown
    return look


def look_at_locks(look: StorageLook, lock: ObjectLock, ground: Ground) -> Iterator[Finding]:
    """Until when it is locked; what is not right about that. Raises StorageError."""
    found = read_locked(ground)
    look.locked_until = found.ends
    told = check_locked_until(look.place, lock.rule.margin, found)
    yield from (one for one in told if one.level is not Level.OK)


def compare_copies(
    look: StorageLook,
    open_mirror: Callable[[], MirrorView],
    on_primary: Mapping[str, datetime] | None,
    database: str,
) -> None:
    """How far the secondary has come; *on_primary*: backup id -> when it was made, if known."""
    prefix = f"{ObjectType.BACKUP.prefix}{database}/"
    try:
        there = {info.name.removeprefix(prefix) for info in open_mirror().list(prefix)}
    except AuroraError as error:
        look.error = look.error or error.message
        look.hint = look.hint or error.hint
        return
    # The manifest is copied last: where it is, all that it names was there.
    look.backups = len(there)
    look.replicated_to = max(there, default="")
    if on_primary is not None:
        lacking = [made_at for backup_id, made_at in on_primary.items() if backup_id not in there]
        look.behind, look.lacking_since = len(lacking), min(lacking, default=None)
