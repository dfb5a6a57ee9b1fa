"""From an address in a configuration to a storage."""

import os
from collections.abc import Mapping

from aurora.errors import UsageError
from aurora.events import EventSink, discard
from aurora.storage.addresses import Provider, common_fate, parse_address, provider_of
from aurora.storage.base import Storage
from aurora.storage.limit import LimitedStorage
from aurora.storage.local import LocalStorage
from aurora.storage.object_lock import ObjectLock
from aurora.storage.objects import ObjectStorage
from aurora.storage.readonly import ReadOnlyStorage
from aurora.storage.retry import Patience, RetryingStorage
from aurora.storage.supabase import open_supabase

__all__ = ["Patience", "Provider", "common_fate", "open_storage", "provider_of"]


def open_storage(
    url: str,
    credentials: Mapping[str, str] | None = None,
    *,
    base_directory: str | os.PathLike[str] | None = None,
    retries: bool = True,
    patience: Patience | None = None,
    timeout: float = 300.0,
    bytes_per_second: int | None = None,
    connections: int | None = None,
    read_only: bool = False,
    lock: ObjectLock | None = None,
    sink: EventSink = discard,
) -> Storage:
    """The storage at *url*. Touches neither disk nor network.

    Args:
        credentials: S3 ``access_key_id``, ``secret_access_key``, ``session_token``; Azure
            ``account_key`` or ``sas_token``; Supabase those of S3, or ``anon_key`` and
            ``service_key``; Google ``service_account_key`` (the JSON
            text). None or empty: the provider's usual environment.
        base_directory: what a relative path counts from; default the working directory.
        retries: try again what may pass, with *patience*.
        timeout: seconds for one whole request to an object store.
        lock: of the same bucket: what is put is locked. S3 only.
        sink: hears of each retry.

    Raises:
        UsageError: the address, or a credential's name or form, is wrong.
    """
    address = parse_address(url, base_directory)
    storage: Storage
    if address.kind == "file":
        if credentials:
            raise UsageError("a directory takes no credentials")
        storage = LocalStorage(address.prefix)
    elif address.kind == "supabase":
        storage = open_supabase(address, credentials or {}, timeout=timeout)
    else:
        storage = ObjectStorage(address, credentials or {}, timeout=timeout, lock=lock)
    if bytes_per_second is not None or connections is not None:
        storage = LimitedStorage(
            storage, bytes_per_second=bytes_per_second, connections=connections
        )
    if retries:
        storage = RetryingStorage(storage, patience, sink=sink)
    return ReadOnlyStorage(storage) if read_only else storage
