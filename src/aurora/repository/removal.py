"""Removing a backup: its manifest, then its refs. What only it named is garbage then."""

from collections.abc import Iterable

from aurora.repository.catalog import BackupEntry
from aurora.storage.base import Storage


def remove_backups(storage: Storage, entries: Iterable[BackupEntry]) -> None:
    """Remove *entries*; contents are the collector's. Raises StorageError.

    The manifests go first: refs without a manifest are garbage, the other way round is damage.
    """
    chosen = list(entries)
    storage.delete([entry.manifest_name for entry in chosen])
    storage.delete([entry.refs_name for entry in chosen])
