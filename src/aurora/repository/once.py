"""Putting a name that must not exist yet, over a wire that may lose the answer."""

from aurora.errors import AuroraError, StorageError
from aurora.storage.base import Buffer, Storage


def put_once(storage: Storage, name: str, stored: Buffer) -> None:
    """Put a new object; an error is no error if the object is there byte for byte.

    A put whose answer was lost, or that was tried again after it had been done, reports an
    error although it succeeded.

    Raises:
        StorageError: it is not there, or something else is (ObjectExists).
    """
    try:
        storage.put(name, stored, create_only=True)
    except StorageError:
        if not _is_stored(storage, name, stored):
            raise


def _is_stored(storage: Storage, name: str, stored: Buffer) -> bool:
    try:
        return storage.get(name) == stored
    except AuroraError:
        return False
