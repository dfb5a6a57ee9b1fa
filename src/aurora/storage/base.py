"""The door to a provider: what a repository asks of a place that keeps objects.

Names are relative to the storage's prefix, made of ``[a-z0-9A-Z._/-]`` only (Supabase
refuses more), never empty, never starting with ``/``. Objects are never empty (obstore
cannot read an empty object back from Supabase) and at most 64 MiB. Every call is
synchronous, may be made from any thread, and raises nothing but
:class:`aurora.errors.StorageError`, :class:`aurora.errors.ObjectMissing`, and for what is
too large to be read :class:`aurora.errors.ObjectDamaged`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from aurora.errors import StorageError

Buffer = bytes | bytearray | memoryview

MAX_OBJECT = 64 * 2**20  # bytes


class ObjectExists(StorageError):
    """A create-only put met an object of this name; that object is untouched."""

    code = "storage-object-exists"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a listing or a look at it tells."""

    name: str
    size: int  # bytes
    modified_at: datetime  # the storage's own clock, UTC


class Storage(Protocol):
    """A flat set of named, immutable objects."""

    @property
    def url(self) -> str:
        """The address, without any secret, as shown to people."""

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """Store *data*; when this returns it survives a crash of either side.

        ``create_only`` asks the storage to refuse an existing name, as a belt: the
        repository never uses a name twice and does not depend on it.

        Raises:
            ObjectExists: with ``create_only``, where the storage honours it.
            StorageError: nothing, or the whole object, may be stored; never a part
                under *name* as far as the storage keeps its promises.
        """

    def get(self, name: str) -> bytes:
        """The whole object. Raises ObjectMissing, ObjectDamaged (above 64 MiB), StorageError."""

    def head(self, name: str) -> ObjectInfo:
        """Size and time of one object. Raises ObjectMissing, StorageError."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose name starts with *prefix* (``""`` or ending in ``/``).

        In no promised order. An absent prefix is an empty listing.
        """

    def delete(self, names: Iterable[str]) -> None:
        """Delete; a name that is not there is no error."""
