"""Candidate lists: what a collector is about to delete, so no writer may reuse it.

``gc/<id>`` is a packed document that names objects. A writer reads all lists after its
lease is put; a list that cannot be read could name anything, so nothing is reused then.
"""

from collections.abc import Iterable

from aurora.repository import canonical, signed
from aurora.repository.damage import damaged
from aurora.repository.layout import FORMAT, ObjectType
from aurora.repository.reader import ObjectReader


def write_candidates(
    names: Iterable[str], *, name: str, repository_id: bytes, mac_key: bytes
) -> bytes:
    """The stored bytes of the candidate list *name*."""
    document = {
        "format": FORMAT,
        "kind": "candidates",
        "names": sorted(names),
        "repository": repository_id.hex(),
    }
    return signed.write_packed(document, name=name, repository_id=repository_id, mac_key=mac_key)


def read_candidates(stored: bytes, *, name: str, repository_id: bytes, mac_key: bytes) -> set[str]:
    """The names in a candidate list. Raises ObjectDamaged."""
    document = canonical.loads(
        signed.read_packed(stored, name=name, repository_id=repository_id, mac_key=mac_key)
    )
    names = document.get("names") if isinstance(document, dict) else None
    if not isinstance(names, list) or document.get("kind") != "candidates":
        raise damaged(name, "it is another object")
    return {str(one) for one in names}


def all_candidates(reader: ObjectReader, *, repository_id: bytes, mac_key: bytes) -> set[str]:
    """What any candidate list names. Raises ObjectDamaged, ObjectMissing, StorageError."""
    found: set[str] = set()
    for name in sorted(info.name for info in reader.storage.list(ObjectType.CANDIDATES.prefix)):
        found |= read_candidates(
            reader.storage.get(name), name=name, repository_id=repository_id, mac_key=mac_key
        )
    return found
