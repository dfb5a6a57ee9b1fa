"""One storage as its collector and its writers' leases see it.

On the primary everything has one name. On a secondary the primary's objects are kept under
other names, and leases and candidate lists are the secondary's own: signed with its own key,
so that a host that only mirrors takes part without any key of the primary.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from aurora.errors import IntegrityError, StorageError
from aurora.repository.candidates import all_candidates
from aurora.repository.layout import PROBE
from aurora.repository.leases import TTL_SECONDS, Lease
from aurora.repository.reader import ObjectReader
from aurora.repository.sessions import new_session
from aurora.repository.signer import Signer
from aurora.storage.base import Storage


def _same(name: str) -> str:
    return name


@dataclass(frozen=True, slots=True)
class Ground:
    """Where one collector works.

    Attributes:
        view: the storage by the primary's names.
        own: the storage itself: leases and candidate lists.
        signers: the storage's own first, then others that may hold leases on it.
        stored_name: the primary's name -> the name on the storage itself.
        overhead: bytes by which a stored object is larger than the primary's.
        names_are_fixed: a content that is put again gets the name it had, as on a secondary.
    """

    view: Storage
    own: Storage
    signers: tuple[Signer, ...] = field(repr=False)
    stored_name: Callable[[str], str] = _same
    names_are_fixed: bool = False
    overhead: int = 0

    @property
    def signer(self) -> Signer:
        return self.signers[0]

    def lease(self, purpose: str, *, ttl_seconds: float = TTL_SECONDS) -> Lease:
        """A lease on this storage, not begun yet."""
        return Lease(
            self.own,
            sid=new_session().sid,
            repository_id=self.signer.repository_id,
            mac_key=self.signer.mac_key,
            purpose=purpose,
            ttl_seconds=ttl_seconds,
        )

    def lease_places(self) -> Iterator[Storage]:
        """Where leases on this storage may be: a restore's lease goes through the view."""
        yield self.own
        if self.view is not self.own:
            yield self.view

    def candidates(self) -> set[str]:
        """Names on the storage that a collector may be deleting.

        Raises:
            ObjectDamaged, ObjectMissing: a list cannot be read; it may name anything.
            StorageError.
        """
        return all_candidates(
            ObjectReader(self.own),
            repository_id=self.signer.repository_id,
            mac_key=self.signer.mac_key,
        )

    def clock(self) -> datetime:
        """What the storage's own clock says, by the time of a small object put for it.

        Raises StorageError.
        """
        name = f"{PROBE}clock-{secrets.token_hex(8)}"
        self.own.put(name, b"what time is it?\n")
        try:
            return self.own.head(name).modified_at
        finally:
            with suppress(StorageError, IntegrityError):
                self.own.delete([name])
