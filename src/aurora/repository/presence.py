"""What a storage has, asked without reading it."""

from collections.abc import Collection

from aurora.errors import ObjectMissing
from aurora.storage.base import Storage


def stored_sizes(
    storage: Storage, names: Collection[str], *, listed: bool = True
) -> dict[str, int]:
    """The stored bytes of those of *names* that are there; a listing tells most of them.

    Where they are few among many, *listed* False asks for each by itself.

    Raises:
        StorageError.
    """
    sizes: dict[str, int] = {}
    firsts = {name.partition("/")[0] for name in names}
    for first in sorted(firsts) if listed else ():
        for info in storage.list(f"{first}/"):
            if info.name in names:
                sizes[info.name] = info.size
    for name in names:
        if name not in sizes and (size := stored_size(storage, name)) is not None:
            sizes[name] = size  # some storages list late
    return sizes


def stored_size(storage: Storage, name: str) -> int | None:
    """The stored bytes of *name*, or None when it is not there. Raises StorageError."""
    try:
        return storage.head(name).size
    except ObjectMissing:
        return None
