"""What must be right about object lock: the bucket, the credentials, the period, the dates."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from aurora import clock
from aurora.errors import StorageDenied, StorageError
from aurora.operations.findings import Finding, failed, good, warning
from aurora.repository.ground import Ground
from aurora.repository.layout import PROBE, ObjectType
from aurora.repository.lock_table import COMMON, read_lock_table
from aurora.repository.removals import read_removals
from aurora.storage.object_lock import ObjectLock
from aurora.storage.s3_requests import BucketState
from aurora.units import format_duration


def told(state: BucketState) -> str:
    """The bucket's own state in words."""
    words = {True: "on", False: "off", None: "not to be asked with these credentials"}
    default = f" (the bucket's own retention: {state.default})" if state.default else ""
    return f"object lock {words[state.locks]}{default}, versions {words[state.versioned]}"


def check_object_lock(place: str, lock: ObjectLock, *, longest: timedelta) -> Iterator[Finding]:
    """Try the lock with an object under ``probe/``. *longest*: what retention keeps longest.

    Raises StorageError where the storage does not answer.
    """
    state = lock.state()
    bucket = lock.requests.bucket
    if state.locks is False:
        yield failed(
            f"{place}-lock-missing",
            f"{place}: object_lock is set, and the bucket {bucket} has no object lock",
            "It is switched on when a bucket is made: make a new one with it, or take object_lock "
            "out of the section.",
        )
        return
    name = f"{PROBE}lock-{secrets.token_hex(6)}"
    try:
        way = lock.try_deleting(name)
    except StorageDenied as error:
        yield failed(
            f"{place}-lock-denied",
            f"{place}: these credentials may not lock objects, or not look at locks: "
            f"{error.message}",
            "Allow s3:PutObjectRetention, s3:GetObjectRetention and s3:ListBucketVersions.",
        )
        return
    finally:
        with suppress(StorageError):
            lock.hide(name)
    if way == "plain":
        yield failed(
            f"{place}-lock-worthless",
            f"{place}: a locked object could be deleted for good",
            "The server takes the retention and does not keep it. Ask the provider.",
        )
    elif way == "bypass":
        yield warning(
            f"{place}-lock-bypass",
            f"{place}: these credentials may delete locked objects, by bypassing governance",
            "Take s3:BypassGovernanceRetention from them: whoever takes over this machine has "
            'them. Or set object_lock_mode = "compliance", which nobody can bypass.',
        )
    else:
        yield good(
            f"{place}-lock",
            f"{place}: {told(state)}; what is put is locked for "
            f"{format_duration(lock.rule.period.total_seconds())} ({lock.rule.mode}), and these "
            "credentials cannot lift it",
        )
    if lock.rule.period < longest:
        yield warning(
            f"{place}-lock-short",
            f"{place}: locks last {format_duration(lock.rule.period.total_seconds())}, retention "
            f"keeps backups for up to {format_duration(longest.total_seconds())}",
            "Locks of kept backups are extended while Aurora runs. Where it is stopped for half "
            "the period they begin to run out: make object_lock as long as the retention.",
        )


@dataclass(frozen=True, slots=True)
class Locked:
    """How far ahead what the kept backups of a storage need is locked, as it remembers."""

    ends: datetime | None  # the first end; None where nothing is known
    backups: int
    unknown: int  # of them: made since locks were last extended, and locked by their own puts


def locked(table: Mapping[str, datetime], backups: Sequence[str]) -> Locked:
    """Of *backups* (``database/id``) by the lock table."""
    ends = (at for backup, at in table.items() if backup in backups or backup == COMMON)
    unknown = sum(backup not in table for backup in backups)
    return Locked(min(ends, default=None), len(backups), unknown)


def read_locked(ground: Ground) -> Locked:
    """Of the backups that are there and not leaving. Raises StorageError, IntegrityError."""
    listed = [info.name for info in ground.view.list(ObjectType.BACKUP.prefix)]
    gone = read_removals(ground.view, ground.signer)  # on a secondary others sign them
    leaving = {f"{one.database}/{backup}" for one in gone for backup in one.backups}
    backups = [name.removeprefix(ObjectType.BACKUP.prefix) for name in listed]
    return locked(read_lock_table(ground), [one for one in backups if one not in leaving])


def check_locked_until(place: str, margin: timedelta, found: Locked) -> Iterator[Finding]:
    """Whether the locks are kept up. *margin*: how long all is locked at any time."""
    ends = found.ends
    hint = (
        "Run `aurora backup replicate` (secondary) or `aurora backup prune`, and see that they "
        "run on schedule."
    )
    if ends is not None and ends < clock.now() + margin / 2:
        yield warning(
            f"{place}-lock-ends",
            f"{place}: the first locks of kept backups end at {clock.isoformat(ends)}",
            hint,
        )
    elif found.backups and found.unknown == found.backups:
        yield warning(
            f"{place}-lock-unknown",
            f"{place}: nothing tells yet that the locks of the backups there are kept up",
            hint,
        )
    elif ends is not None:
        yield good(
            f"{place}-locked-until",
            f"{place}: kept backups are locked until {clock.isoformat(ends)} at least",
        )
