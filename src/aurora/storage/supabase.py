"""A bucket of Supabase Storage as the storage of a repository.

Three ways in, by what is given: S3 access keys; the project's anon key with a service_role
JWT, which its S3 endpoint takes as a session token; or a secret key alone (``sb_secret_…``,
or the JWT) by the REST API. What Supabase does otherwise than AWS is dealt with here: the
bucket is looked at before its first use and must be private, a delete is believed after a
look only, and a condition on a put is worth nothing but through a move.
"""

import contextlib
import itertools
import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from urllib.parse import urlsplit

from aurora import clock
from aurora.errors import (
    ObjectDamaged,
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageUnavailable,
    StorageUnfit,
    UsageError,
)
from aurora.storage.addresses import Address
from aurora.storage.base import MAX_OBJECT, Buffer, ObjectExists, ObjectInfo, Storage
from aurora.storage.foreign import bucket_missing
from aurora.storage.names import check_data, check_name, check_prefix, check_size
from aurora.storage.objects import ObjectStorage
from aurora.storage.supabase_rest import SupabaseRest

CREDENTIALS = ("access_key_id", "secret_access_key", "session_token", "anon_key", "service_key")
_TEMPORARY = "probe/create-"  # what is left of it a probe clears away
_BATCH = 250
_LOOKS = 8  # side by side


def open_supabase(
    address: Address, credentials: Mapping[str, str], *, timeout: float = 300.0
) -> Storage:
    """The bucket at *address*. Touches no network.

    Raises UsageError: a credential is unknown, or they do not make a way in.
    """
    if unknown := sorted(set(credentials) - set(CREDENTIALS)):
        raise UsageError(f"unknown storage credential: {', '.join(unknown)}", hint=_hint())
    service, anon = credentials.get("service_key", ""), credentials.get("anon_key", "")
    keys = {name: credentials[name] for name in CREDENTIALS[:3] if credentials.get(name)}
    rest = SupabaseRest(address.endpoint, service, timeout=timeout)
    if not keys and service and (not anon or service.startswith("sb_")):
        return RestStorage(address, rest)
    if not keys and service and anon:
        keys = {
            "access_key_id": project_of(address),
            "secret_access_key": anon,
            "session_token": service,
        }
    if not keys:
        raise UsageError("the supabase address has no credentials", hint=_hint())
    return S3Storage(address, keys, rest, timeout=timeout)


def project_of(address: Address) -> str:
    """What the S3 endpoint calls the project: its reference, or ``stub`` where self-hosted."""
    host = urlsplit(address.endpoint).hostname or ""
    ref, _, rest = host.partition(".")
    return ref if rest == "supabase.co" else "stub"


def s3_address(address: Address) -> Address:
    """The same bucket by the project's S3 endpoint."""
    parts = urlsplit(address.endpoint)
    # The hosted projects' own host for Storage passes large bodies without a detour.
    host = parts.netloc.replace(".supabase.co", ".storage.supabase.co")
    options = {
        "endpoint": f"{parts.scheme}://{host}{parts.path}/storage/v1/s3",
        "path_style": "1",
        "region": address.region or "us-east-1",
    }
    return Address("s3", address.bucket, address.prefix, options)


class _Bucket:
    """The look at the bucket that comes before its first use."""

    def __init__(self, address: Address, rest: SupabaseRest, *, keyed: bool) -> None:
        self._address = address
        self._rest = rest
        self._keyed = keyed  # the REST API lets us in
        self._lock = Lock()
        self._good = False

    def require(self, *, make: bool = False) -> None:
        """Raise StorageUnfit where the bucket is public, or not there and not to be made."""
        with self._lock:
            if self._good:
                return
            name = self._address.bucket
            if self._keyed:
                found = self._look_or_make(name, make=make)
                is_public = bool(found.get("public"))
            else:
                is_public = self._rest.is_public(name)
            if is_public:
                raise StorageUnfit(
                    f"the bucket {name} is public: anybody could read the names and ciphertexts",
                    hint="Nothing was written. Make it private in the project's dashboard, or name "
                    "another bucket.",
                )
            self._good = True

    def _look_or_make(self, name: str, *, make: bool) -> Mapping[str, object]:
        try:
            return self._rest.bucket(name)
        except ObjectMissing:
            if not make:
                raise bucket_missing(name) from None
        with contextlib.suppress(ObjectExists):  # somebody may be quicker
            self._rest.create_bucket(name, {"public": False})
        return self._rest.bucket(name)


class RestStorage:
    """A bucket by the REST API. Threads may share it."""

    def __init__(self, address: Address, rest: SupabaseRest) -> None:
        self._address = address
        self._rest = rest
        self._base = f"{address.prefix}/" if address.prefix else ""
        self._bucket = _Bucket(address, rest, keyed=True)

    def __repr__(self) -> str:
        return f"RestStorage({self.url!r})"

    @property
    def url(self) -> str:
        """The canonical address; it holds no secret."""
        return self._address.url

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """Store *data*; the bucket is made, private, where it is missing.

        Of many that create one name at once, one wins: by a move, the only thing here that
        has one winner. Raises ObjectExists, StorageError.
        """
        check_name(name)
        view = check_data(name, data)
        self._bucket.require(make=True)
        if not create_only:
            self._upload(self._base + name, view)
            return
        temporary = f"{self._base}{_TEMPORARY}{secrets.token_hex(8)}"
        self._upload(temporary, view)
        try:
            self._rest.move(self._address.bucket, temporary, self._base + name)
        except ObjectExists:
            self._rest.remove(self._address.bucket, [temporary])
            raise

    def get(self, name: str) -> bytes:
        """The whole object. Raises ObjectMissing, ObjectDamaged, StorageError."""
        key = self._base + check_name(name)
        self._bucket.require()
        found = bytearray()
        try:
            with self._rest.download(self._address.bucket, key) as answer:
                size = answer.size if answer.size is None else check_size(name, answer.size)
                for data in answer.chunks:
                    found += data
                    if len(found) > MAX_OBJECT:
                        raise ObjectDamaged(f"object {name} is damaged: it does not end")
        except ObjectMissing:
            raise _missing(name) from None
        if size is not None and len(found) != size:
            raise StorageUnavailable(f"{name} is {size} bytes, {len(found)} came")
        return bytes(found)

    def head(self, name: str) -> ObjectInfo:
        """Size and time of one object. Raises ObjectMissing, StorageError."""
        key = self._base + check_name(name)
        self._bucket.require()
        try:
            found = self._rest.info(self._address.bucket, key)
        except ObjectMissing:
            raise _missing(name) from None
        return ObjectInfo(name, found.size or 0, clock.parse(found.updated_at))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose name starts with *prefix*."""
        return self._list(check_prefix(prefix))

    def delete(self, names: Iterable[str]) -> None:
        """Delete, and look. Raises StorageDenied where an object is still there."""
        waiting = iter(names)
        while batch := [check_name(name) for name in itertools.islice(waiting, _BATCH)]:
            self._bucket.require()
            keys = [self._base + name for name in batch]
            gone = self._rest.remove(self._address.bucket, keys)
            require_gone(self, [name for name in batch if self._base + name not in gone])

    def _upload(self, key: str, view: memoryview) -> None:
        self._rest.upload(self._address.bucket, key, view, view.nbytes, upsert=True)

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._bucket.require()
        for found in self._rest.list(self._address.bucket, self._base + prefix):
            name = found.name.removeprefix(self._base)
            if is_name(name):  # a stranger's object cannot be asked for
                yield ObjectInfo(name, found.size or 0, clock.parse(found.updated_at))


class S3Storage:
    """A bucket by the project's S3 endpoint. Threads may share it."""

    def __init__(
        self,
        address: Address,
        keys: Mapping[str, str],
        rest: SupabaseRest,
        *,
        timeout: float = 300.0,
    ) -> None:
        self._address = address
        self._inner = ObjectStorage(s3_address(address), keys, timeout=timeout)
        self._bucket = _Bucket(address, rest, keyed=rest.has_key)

    def __repr__(self) -> str:
        return f"S3Storage({self.url!r})"

    @property
    def url(self) -> str:
        """The canonical address; it holds no secret."""
        return self._address.url

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """Store *data* in one request; ``create_only`` the endpoint would ignore.

        Raises StorageError.
        """
        del create_only
        self._bucket.require(make=True)
        self._inner.put(name, data)

    def get(self, name: str) -> bytes:
        """The whole object. Raises ObjectMissing, ObjectDamaged, StorageError."""
        self._bucket.require()
        return self._inner.get(name)

    def head(self, name: str) -> ObjectInfo:
        """Size and time of one object. Raises ObjectMissing, StorageError."""
        self._bucket.require()
        return self._inner.head(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose name starts with *prefix*."""
        self._bucket.require()
        return self._inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        """Delete, and look: a forbidden delete is answered like one that was done.

        Raises StorageDenied where an object is still there.
        """
        waiting = iter(names)
        while batch := list(itertools.islice(waiting, _BATCH)):
            self._bucket.require()
            self._inner.delete(batch)
            require_gone(self, batch)


def require_gone(storage: Storage, names: list[str]) -> None:
    """Raise StorageDenied unless none of *names* is there."""

    def is_there(name: str) -> bool:
        try:
            storage.head(name)
        except ObjectMissing:
            return False
        return True

    if not names:
        return
    with ThreadPoolExecutor(min(_LOOKS, len(names)), thread_name_prefix="aurora-look") as pool:
        left = [name for name, there in zip(names, pool.map(is_there, names), strict=True) if there]
    if left:
        raise StorageDenied(
            f"the storage said that it deleted {left[0]}"
            + (f" and {len(left) - 1} more" if len(left) > 1 else "")
            + ", and still has it",
            hint="A policy forbids these credentials to delete, and Supabase does not say so. "
            "Prune with a service key.",
            context={"name": left[0], "count": len(left)},
        )


def is_name(name: str) -> bool:
    """Whether *name* can be a repository's."""
    try:
        check_name(name)
    except StorageError:
        return False
    return True


def _missing(name: str) -> ObjectMissing:
    return ObjectMissing(f"there is no object {name}", context={"name": name})


def _hint() -> str:
    return (
        "Give access_key_id and secret_access_key (S3 access keys of the project's dashboard), or "
        "anon_key and service_key as every app has them, or service_key alone (sb_secret_…)."
    )
