"""Rewinding a storage that keeps versions: what was deleted or overwritten since a time is back.

For the day on which somebody with stolen credentials emptied a locked bucket. Works by versions
alone, without any key: whether what is back is good, a verification tells. What was put since
stays.
"""

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from aurora import clock
from aurora.errors import StorageDenied
from aurora.events import Advanced, EventSink, PhaseBegun, PhaseEnded, discard
from aurora.repository.layout import UNLOCKED
from aurora.storage.object_lock import ObjectLock
from aurora.storage.s3_requests import CONNECTIONS, S3Requests, Version
from aurora.units import plural

PHASE = "rewinding"
_BATCH = 1000


@dataclass(slots=True)
class Rewind:
    """What has to be done so that a storage holds what it held at ``to``."""

    to: datetime
    hidden: list[tuple[Version, list[Version]]] = field(default_factory=list)
    """The version that is to be back, and the delete markers over it."""
    replaced: list[Version] = field(default_factory=list)  # something else was put over these
    bytes: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to bring back."""
        return not self.hidden and not self.replaced

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "to": clock.isoformat(self.to),
            "deleted": len(self.hidden),
            "overwritten": len(self.replaced),
            "bytes": self.bytes,
        }


def plan_rewind(requests: S3Requests, to: datetime) -> Rewind:
    """What was deleted or overwritten after *to*, by the storage's clock. Changes nothing.

    Raises StorageDenied: the credentials may not list versions. StorageError.
    """
    plan = Rewind(to)
    listing = requests.versions("")
    for name, found in itertools.groupby(listing, key=lambda one: one.name):
        versions = sorted(found, key=lambda one: (one.modified_at, one.is_latest), reverse=True)
        if name.startswith(UNLOCKED):
            continue  # what was on its way then is over now
        then = next((at for at, one in enumerate(versions) if one.modified_at <= to), None)
        if not then or versions[then].is_marker:
            continue  # untouched since, put since, or deleted before
        good, since = versions[then], versions[:then]
        if (since[0].etag, since[0].size) == (good.etag, good.size) and not since[0].is_marker:
            continue  # the same was put again: by healing, or by an earlier run of this
        if all(one.is_marker for one in since):
            plan.hidden.append((good, since))
        else:
            plan.replaced.append(good)
        plan.bytes += good.size
    return plan


def run_rewind(
    plan: Rewind, requests: S3Requests, lock: ObjectLock | None, *, sink: EventSink = discard
) -> None:
    """Bring it back. May be killed anywhere and planned and run again.

    Markers are deleted; where the credentials may not, and over what was overwritten, the good
    version is copied to be the newest again, which takes the right to put only.

    Raises StorageDenied, StorageError.
    """
    sink(PhaseBegun(PHASE, len(plan.hidden) + len(plan.replaced), "objects"))
    done = 0
    for batch in _batches(plan.hidden):
        try:
            left = requests.delete_versions(one for _, markers in batch for one in markers)
        except StorageDenied:
            left = [one for _, markers in batch for one in markers]
        names = {one.name for one in left}
        _copy([good for good, _ in batch if good.name in names], requests, lock)
        done += len(batch)
        sink(Advanced(PHASE, done))
    for versions in _batches(plan.replaced):
        _copy(versions, requests, lock)
        done += len(versions)
        sink(Advanced(PHASE, done))
    sink(PhaseEnded(PHASE, f"{plural(done, 'object')} brought back"))


def _copy(versions: Iterable[Version], requests: S3Requests, lock: ObjectLock | None) -> None:
    headers = lock.copy_headers() if lock is not None else {}
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="aurora-rewind") as pool:
        for _ in pool.map(lambda one: requests.copy_version(one, headers), versions):
            pass


T = TypeVar("T")


def _batches(items: list[T]) -> Iterator[list[T]]:
    for at in range(0, len(items), _BATCH):
        yield items[at : at + _BATCH]
