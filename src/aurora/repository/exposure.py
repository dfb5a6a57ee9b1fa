"""Whether everything on a storage is encrypted, or a signed document that holds no data."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from aurora.errors import IntegrityError, ObjectMissing
from aurora.repository import envelope, outer, signed
from aurora.repository.layout import CONFIG, PROBE, ObjectType, is_safe
from aurora.storage.base import Storage

_READERS = 8
_AGE = b"age-encryption.org/v1"  # how a file of a sealed backup begins
# What holds rows, and must be encrypted; the other types are documents about backups.
_DATA = frozenset({
    ObjectType.CHUNK, ObjectType.TABLE, ObjectType.LOG, ObjectType.OBJECT, ObjectType.SEALED,
    ObjectType.BACKUP, ObjectType.AUDIT,
})  # fmt: skip
# What a secondary keeps of its own, not wrapped.
_OWN_OF_SECONDARY = (
    CONFIG, ObjectType.SLOT, ObjectType.OUTER, ObjectType.LEASE, ObjectType.CANDIDATES,
    ObjectType.LOCKS,
)  # fmt: skip


@dataclass(slots=True)
class Unsealed:
    """What a look at all names, and into some objects, found."""

    objects: int = 0
    sampled: int = 0
    unsealed: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)


def look_for_unsealed(storage: Storage, *, secondary: bool, sample: int) -> Unsealed:
    """Look at the name of every object, and into *sample* of them.

    Which, is chosen by a hash of the name: evenly over all, and another look finds the same.

    Raises:
        StorageError.
    """
    found = Unsealed()
    ranked: list[tuple[str, str]] = []
    for info in storage.list(""):
        if info.name.startswith(PROBE):
            continue
        found.objects += 1
        if not _is_ours(info.name, secondary=secondary):
            found.strangers.append(info.name)
            continue
        rank = hashlib.blake2b(info.name.encode(), digest_size=8).hexdigest()
        ranked.append((rank, info.name))
        if len(ranked) > 4 * sample + 1024:
            ranked = sorted(ranked)[:sample]
    chosen = [name for _, name in sorted(ranked)[:sample]]

    def attempt(name: str) -> bool:
        try:
            return is_protected(name, storage.get(name), secondary=secondary)
        except ObjectMissing:
            return True  # removed since the listing

    with ThreadPoolExecutor(_READERS, thread_name_prefix="exposure") as pool:
        answers = zip(chosen, pool.map(attempt, chosen), strict=True)
        found.unsealed = sorted(name for name, protected in answers if not protected)
    found.sampled = len(chosen)
    return found


def is_protected(name: str, stored: bytes, *, secondary: bool) -> bool:
    """Whether an object's bytes are what its place demands: encrypted, or a signed document."""
    first = name.partition("/")[0]
    if secondary and first not in _OWN_OF_SECONDARY:
        return _opens(lambda: outer.key_id(stored, name=name))
    if stored.startswith(_AGE) or _opens(lambda: envelope.parse_header(stored, name=name)):
        return True
    if first in _DATA:
        return False
    return _opens(lambda: signed.read_clear(stored, name=name)) or _opens(
        lambda: signed.read_packed(stored, name=name, repository_id=b"", mac_key=None)
    )


def _opens(look: Callable[[], object]) -> bool:
    try:
        look()
    except IntegrityError:
        return False
    return True


def _is_ours(name: str, *, secondary: bool) -> bool:
    first = name.partition("/")[0]
    known = {"primary", *ObjectType} if secondary else set(ObjectType)
    return is_safe(name) and first in known
