"""Object lock: what is put on an S3 bucket cannot be deleted for good before its time.

A put carries its retention, in one request: there is no moment in which an object lies
unprotected. Later the retention is extended, version by version. A plain delete of a locked
object still succeeds on S3: it hides the object under a delete marker, and the version below
stays until its retention ends.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from aurora import clock
from aurora.errors import StorageDenied, StorageUnfit, UsageError
from aurora.events import EventSink, discard
from aurora.storage.addresses import parse_address
from aurora.storage.base import Buffer
from aurora.storage.retry import Patience, again
from aurora.storage.s3_requests import BucketState, Retention, S3Requests, stamp

Mode = Literal["governance", "compliance"]
_SLACK = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class LockRule:
    """What is locked, for how long, and how.

    In ``governance`` mode an account that holds the right to bypass may still delete; in
    ``compliance`` nobody may, the provider's customer included.
    """

    period: timedelta
    mode: Mode = "governance"
    unlocked: tuple[str, ...] = ()
    """Prefixes of what is deleted within hours anyway, and that no restore needs."""

    @property
    def margin(self) -> timedelta:
        """A lock that ends within this time is extended."""
        return self.period / 2


class ObjectLock:
    """The object lock of one bucket. Threads may share it."""

    def __init__(
        self,
        url: str,
        credentials: Mapping[str, str],
        rule: LockRule,
        *,
        timeout: float = 300.0,
        patience: Patience | None = None,
        now: Callable[[], datetime] = clock.now,
        sink: EventSink = discard,
    ) -> None:
        """Touches no network. Raises UsageError: *url* is not S3, or no key is given."""
        address = parse_address(url)
        if address.kind != "s3":
            raise UsageError(
                f"{address.url} has no object lock: object_lock is for S3 storages (s3://…)",
                hint="Take object_lock out of the section, or keep this storage on S3 with a "
                "provider that offers it. Elsewhere use the provider's own immutability.",
            )
        self.rule = rule
        self.requests = S3Requests(address, credentials, timeout=timeout)
        self._patience = patience or Patience()
        self._now = now
        self._sink = sink
        self._lock = threading.Lock()
        self._is_good = False
        self._put: dict[str, datetime] = {}

    def __repr__(self) -> str:
        return f"ObjectLock({self.requests!r})"

    def covers(self, name: str) -> bool:
        """Whether the object *name* is to be locked."""
        return not name.startswith(self.rule.unlocked) if self.rule.unlocked else True

    def until(self) -> datetime:
        """When a lock that is set now ends."""
        return (self._now() + self.rule.period).replace(microsecond=0)

    def put(self, name: str, data: Buffer, *, create: bool) -> None:
        """Store and lock *data* in one request, without retries.

        Raises:
            StorageUnfit: the bucket locks nothing. ObjectExists, StorageError.
        """
        self.require()
        retention = self._retention()
        told = self._headers(retention)
        if create:
            told["if-none-match"] = "*"
        try:
            self.requests.put(name, data, told)
        except StorageUnfit as error:
            # "Bucket is missing Object Lock Configuration"
            if error.context.get("code") == "InvalidRequest":
                raise self._missing() from None
            raise
        with self._lock:
            self._put[name] = retention.until

    def put_until(self, name: str) -> datetime | None:
        """Until when this process locked *name* when it put it; None where it did not."""
        with self._lock:
            return self._put.get(name)

    def require(self) -> None:
        """Look once whether the bucket locks. A server may take the header and ignore it.

        Raises:
            StorageUnfit: it does not. StorageError.
        """
        with self._lock:
            if self._is_good:
                return
        if self.state().locks is False:
            raise self._missing()
        with self._lock:
            self._is_good = True

    def _missing(self) -> StorageUnfit:
        return StorageUnfit(
            f"the bucket {self.requests.bucket} has no object lock, and object_lock is set",
            hint="Nothing was written. Object lock is switched on when a bucket is made: make a "
            "new one with it, or take object_lock out of the section.",
        )

    def state(self) -> BucketState:
        """What the bucket tells of itself. Raises StorageError."""
        return again(self.requests.state, self._patience, sink=self._sink)

    def extend(self, name: str, version: str, until: datetime) -> None:
        """Lock a version until *until* at least. Raises ObjectMissing, StorageError."""
        wanted = Retention(self.rule.mode.upper(), until)

        def attempt() -> None:
            try:
                self.requests.retain(name, wanted, version)
            except StorageDenied:
                # Not to be shortened, and compliance never becomes governance again.
                held = self.requests.retention(name, version)
                if held is None:
                    raise
                if held.until < until - _SLACK:
                    if held.mode == wanted.mode:
                        raise
                    self.requests.retain(name, Retention(held.mode, until), version)

        again(attempt, self._patience, sink=self._sink)

    def copy_headers(self) -> dict[str, str]:
        """What a copy of an old version needs to be locked as a new put is."""
        return self._headers(self._retention())

    def try_deleting(self, name: str) -> Literal["refused", "bypass", "plain"]:
        """How these credentials may delete a locked version, if at all.

        *name* is put, locked for an hour, and tried. Raises StorageError.
        """
        until = (self._now() + timedelta(hours=1)).replace(microsecond=0)
        headers = self._headers(Retention(self.rule.mode.upper(), until))
        self.requests.put(name, b"aurora probe of object lock", headers)
        version = next(v for v in self.requests.versions(name) if v.name == name).id
        for bypass in (False, True):
            with suppress(StorageDenied):
                self.requests.delete_version(name, version, bypass=bypass)
                return "bypass" if bypass else "plain"
        return "refused"

    def hide(self, name: str) -> None:
        """Delete *name* as anybody would: it is out of the listing. Raises StorageError."""
        self.requests.delete_version(name, "")

    def _retention(self) -> Retention:
        return Retention(self.rule.mode.upper(), self.until())

    def _headers(self, retention: Retention) -> dict[str, str]:
        return {
            "x-amz-object-lock-mode": retention.mode,
            "x-amz-object-lock-retain-until-date": stamp(retention.until),
        }
