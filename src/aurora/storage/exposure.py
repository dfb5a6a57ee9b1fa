"""Whether a storage is open to the world: asked without any credentials."""

from collections.abc import Callable
from dataclasses import dataclass

import obstore

from aurora.errors import StorageError
from aurora.storage.addresses import parse_address
from aurora.storage.foreign import ERRORS, Reply
from aurora.storage.objects import open_anonymously

_ASKED = "config"  # every repository has it


@dataclass(frozen=True, slots=True)
class Exposure:
    """What somebody without credentials may do."""

    lists: bool
    reads: bool


def anonymous_look(url: str) -> Exposure | None:
    """What a stranger may do with the bucket at *url*; None where that cannot be asked.

    A server that does not answer tells nothing either.
    """
    address = parse_address(url)
    if address.kind not in ("s3", "gs", "az"):
        return None
    store = open_anonymously(address)
    base = f"{address.prefix}/" if address.prefix else ""
    try:
        lists = _may(lambda: next(iter(obstore.list(store, base or None, chunk_size=1)), None))
        reads = _may(lambda: obstore.head(store, base + _ASKED))
    except StorageError:
        return None
    return Exposure(lists, reads)


def _may(ask: Callable[[], object]) -> bool:
    """Whether the server does it for us. Raises StorageError where it says neither yes nor no."""
    try:
        ask()
    except FileNotFoundError:
        return False  # a stranger is told "not there" as well
    except ERRORS as error:
        if Reply.of(error).status in (400, 401, 403, 404, 405):
            return False
        raise StorageError("no answer") from None
    return True
