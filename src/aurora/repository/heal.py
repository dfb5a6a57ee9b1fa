"""Healing: a good copy from one storage replaces a lost or damaged one on the other.

This is the one place where a name is written twice, and only with the very bytes that it
had: the good copy is proven before it is written, and read back after.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from aurora.errors import (
    IntegrityError,
    RepositoryNotFound,
    StorageError,
    StorageUnavailable,
)
from aurora.events import Advanced, EventSink, PhaseBegun, PhaseEnded, discard
from aurora.repository import signed
from aurora.repository.config import read_config
from aurora.repository.damage import damaged
from aurora.repository.layout import CONFIG, ObjectType
from aurora.repository.reader import ObjectReader
from aurora.repository.refs import RefObject, Refs, read_refs
from aurora.storage.base import Storage

PHASE = "heal"
_NAMED = {  # kind of a clear document -> what its name begins with, the member that ends it
    "config": (CONFIG, ""),
    "slot": (ObjectType.SLOT.prefix, "id"),
    "session": (ObjectType.SESSION.prefix, "sid"),
}


@dataclass(slots=True)
class HealReport:
    """What was healed, and what could not be and why."""

    healed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # name -> reason

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is healed."""
        return not self.failed


def heal(
    source: Storage,
    target: Storage,
    names: Iterable[str],
    refs: Iterable[Refs],
    *,
    sink: EventSink = discard,
) -> HealReport:
    """Put the objects *names* on *target* again, from the good copies on *source*.

    Either side may be a MirrorView. *refs* are those of the backups that need the objects:
    they say what each must hash to. Config, key slots, sessions and refs prove themselves.
    No key is needed.

    Raises:
        RepositoryNotFound: neither storage has a config.
        StorageUnavailable: a storage does not answer. Run it again.
    """
    wanted = sorted(set(names))
    proof = _Proof(_repository_id(source, target), refs)
    report = HealReport()
    sink(PhaseBegun(PHASE, len(wanted), "objects"))
    for done, name in enumerate(wanted, start=1):
        try:
            _heal_one(source, target, name, proof)
        except StorageUnavailable:
            raise
        except (IntegrityError, StorageError) as error:
            report.failed[name] = error.message
        else:
            report.healed.append(name)
        sink(Advanced(PHASE, done, name))
    sink(PhaseEnded(PHASE, f"{len(report.healed)} of {len(wanted)} objects"))
    return report


def _heal_one(source: Storage, target: Storage, name: str, proof: "_Proof") -> None:
    good = source.get(name)
    proof.check(name, good)
    target.put(name, good)
    if target.get(name) != good:
        raise damaged(name, "the storage did not take the good copy")


class _Proof:
    def __init__(self, repository_id: bytes, refs: Iterable[Refs]) -> None:
        self._repository_id = repository_id
        self._expected: dict[str, RefObject] = {
            one.name: one for each in refs for one in each.all_objects()
        }

    def check(self, name: str, stored: bytes) -> None:
        """Raise ObjectDamaged unless *stored* is what *name* must hold."""
        one = self._expected.get(name)
        if one is not None:
            if hashlib.sha256(stored).hexdigest() != one.sha256:
                raise damaged(name, "the other storage's copy is not the one that the refs name")
        elif name.startswith(tuple(first for first, _ in _NAMED.values())):
            self._check_clear(name, signed.read_clear(stored, name=name))
        elif name.startswith(ObjectType.REFS.prefix):
            read_refs(stored, name=name, repository_id=self._repository_id, mac_key=None)
        else:
            raise damaged(name, "no refs say what it must hold")

    def _check_clear(self, name: str, document: signed.Document) -> None:
        first, member = _NAMED.get(str(document.get("kind")), ("", ""))
        wanted = first + str(document.get(member, ""))
        if wanted != name or document.get("repository") != self._repository_id.hex():
            raise damaged(name, "the other storage's copy is another object")


def _repository_id(source: Storage, target: Storage) -> bytes:
    try:
        return read_config(ObjectReader(source, fallback=target)).repository_id
    except RepositoryNotFound:
        return read_config(ObjectReader(target)).repository_id
