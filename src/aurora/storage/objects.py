"""Object stores (S3 and its relatives, Google Cloud Storage, Azure Blob) through obstore.

obstore signs and sends; this module decides what may be asked of it and what its answers
mean. It never retries (see :mod:`aurora.storage.retry`): a put that may have happened
must be seen by the one place that knows how to look.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from aurora.errors import AuroraError, ObjectMissing, StorageError, StorageUnavailable, UsageError
from aurora.storage.addresses import Address
from aurora.storage.base import Buffer, ObjectInfo
from aurora.storage.foreign import ERRORS, Reply, bucket_missing, translated
from aurora.storage.names import check_data, check_name, check_prefix, check_size
from aurora.storage.object_lock import ObjectLock

CREDENTIALS = {
    "s3": ("access_key_id", "secret_access_key", "session_token"),
    "gs": ("service_account_key", "bearer_token"),
    "az": ("account_key", "sas_token", "bearer_token", "client_id", "client_secret", "tenant_id"),
}
_CONNECT = timedelta(seconds=10)
_SILENCE = timedelta(seconds=45)  # a read in which nothing comes for so long has failed
_PAGE = 1000
_PAGES = {"html": "text/html; charset=utf-8", "json": "application/json"}  # of a status page
_BATCH = 250  # Azure takes 256 names in one bulk delete, S3 1000


class ObjectStorage:
    """One bucket or container, below a prefix. Threads may share it."""

    def __init__(
        self,
        address: Address,
        credentials: Mapping[str, str],
        *,
        timeout: float = 300.0,
        lock: ObjectLock | None = None,
    ) -> None:
        """*timeout* is in seconds and bounds one whole request, body included.

        With *lock*, what it covers is put under a retention.

        Raises UsageError: a credential's name or form is wrong.
        """
        _check_credentials(address.kind, credentials)
        self._lock = lock
        self._address = address
        self._base = f"{address.prefix}/" if address.prefix else ""
        whole = timedelta(seconds=timeout)
        # A read that falls silent is noticed early. The same limit on a write would count
        # the time of sending the body, and kill every large put over a slow line.
        self._reader = _open(address, credentials, whole, min(_SILENCE, whole))
        self._writer = _open(address, credentials, whole, None)
        self._bucket_seen = False
        self._conditional = True

    def __repr__(self) -> str:
        return f"ObjectStorage({self.url!r})"

    @property
    def url(self) -> str:
        """The canonical address; it holds no secret."""
        return self._address.url

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """Store *data* in one request. Raises ObjectExists, StorageError."""
        check_name(name)
        view = check_data(name, data)
        try:
            self._put(name, view, create=create_only and self._conditional)
        except FileNotFoundError:
            raise bucket_missing(self._address.bucket) from None
        except ERRORS as error:
            raise self._translated(error, f"write {name}", name) from None
        self._bucket_seen = True

    def get(self, name: str) -> bytes:
        """The whole object, of the length that was promised.

        Raises ObjectMissing, ObjectDamaged, StorageError.
        """
        key = self._base + check_name(name)
        try:
            answer = obstore.get(self._reader, key)
            size = check_size(name, answer.meta["size"])
            data = bytes(answer.bytes())
        except ERRORS as error:
            raise self._missing_or(error, f"read {name}", name) from None
        if len(data) != size:
            raise StorageUnavailable(
                f"{name} is {size} bytes, {len(data)} came", context={"name": name}
            )
        self._bucket_seen = True
        return data

    def head(self, name: str) -> ObjectInfo:
        """Size and time of one object. Raises ObjectMissing, StorageError."""
        key = self._base + check_name(name)
        try:
            found = obstore.head(self._reader, key)
        except ERRORS as error:
            raise self._missing_or(error, f"look at {name}", name) from None
        return ObjectInfo(name, found["size"], found["last_modified"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose name starts with *prefix*."""
        return self._list(check_prefix(prefix))

    def delete(self, names: Iterable[str]) -> None:
        """Delete; a name that is not there is no error. Raises StorageError."""
        waiting = iter(names)
        while batch := [check_name(name) for name in itertools.islice(waiting, _BATCH)]:
            try:
                obstore.delete(self._writer, [self._base + name for name in batch])
            except FileNotFoundError as error:
                self._refuse_without_bucket(error)
                self._delete_singly(batch)
            except ERRORS as error:
                raise self._translated(error, "delete objects", "") from None

    def _put(self, name: str, view: memoryview, *, create: bool) -> None:
        key = self._base + name
        if self._lock is not None and self._lock.covers(name):
            self._lock.put(name, view, create=create)
            return
        try:
            mode = "create" if create else None
            told = {"Content-Type": kind} if (kind := _PAGES.get(name.rpartition(".")[2])) else None
            obstore.put(
                self._writer,
                key,
                view,
                mode=mode,  # type: ignore[arg-type]
                use_multipart=False,
                attributes=told,
            )
        except ERRORS as error:
            # Some servers answer 501 to If-None-Match; asking was a belt only.
            if not create or Reply.of(error).status != 501:
                raise
            self._conditional = False
            obstore.put(self._writer, key, view, use_multipart=False)

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        whole = (self._base + prefix) or None
        pages = iter(obstore.list(self._reader, whole, chunk_size=_PAGE))
        while True:
            try:
                page = next(pages)
            except StopIteration:
                break
            except ERRORS as error:
                raise self._translated(error, f"list {prefix or 'the bucket'}", "") from None
            for found in page:
                name = found["path"].removeprefix(self._base)
                if _is_name(name):  # a stranger's object cannot be asked for
                    yield ObjectInfo(name, found["size"], found["last_modified"])
        self._bucket_seen = True

    def _delete_singly(self, names: Iterable[str]) -> None:
        """One by one: Azure's bulk delete gives up at the first name that is not there."""
        for name in names:
            try:
                obstore.delete(self._writer, self._base + name)
            except FileNotFoundError:
                continue
            except ERRORS as error:
                raise self._translated(error, f"delete {name}", name) from None

    def _missing_or(self, error: BaseException, what: str, name: str) -> AuroraError:
        """Tell a missing object from a missing bucket; some servers use one code for both."""
        found = self._translated(error, what, name)
        if isinstance(found, ObjectMissing):
            self._refuse_without_bucket(error)
        return found

    def _refuse_without_bucket(self, error: BaseException) -> None:
        """Raise StorageUnfit when the bucket is known not to be there; look once."""
        if Reply.of(error).no_bucket:
            raise bucket_missing(self._address.bucket) from None
        if self._bucket_seen:
            return
        try:
            next(iter(obstore.list(self._reader, self._base or None, chunk_size=1)), None)
        except ERRORS as refusal:
            reply = Reply.of(refusal)
            if reply.no_bucket or reply.status == 404:
                raise bucket_missing(self._address.bucket) from None
            seen = self._translated(refusal, "list the bucket", "")
            if seen.retryable:
                raise seen from None
            # May read but not list: nothing more can be found out.
        self._bucket_seen = True

    def _translated(self, error: BaseException, what: str, name: str) -> AuroraError:
        return translated(error, what, self._address.bucket, name)


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except StorageError:
        return False
    return True


def _check_credentials(kind: str, credentials: Mapping[str, str]) -> None:
    known = CREDENTIALS[kind]
    unknown = sorted(set(credentials) - set(known))
    if unknown:
        raise UsageError(
            f"unknown storage credential: {', '.join(unknown)}",
            hint=f"A storage of the kind {kind} takes {', '.join(known)}.",
        )
    empty = sorted(name for name, value in credentials.items() if not value.strip())
    if empty:
        raise UsageError(f"storage credential is empty: {', '.join(empty)}")
    pair = {"access_key_id", "secret_access_key"}
    if kind == "s3" and credentials and not pair <= set(credentials):
        raise UsageError("access_key_id and secret_access_key belong together")


def _open(
    address: Address, credentials: Mapping[str, str], whole: timedelta, silence: timedelta | None
) -> ObjectStore:
    client: dict[str, Any] = {
        "timeout": whole,
        "connect_timeout": min(_CONNECT, whole),
        "allow_http": address.endpoint.startswith("http://"),
    }
    if silence is not None:
        client["read_timeout"] = silence
    common: dict[str, Any] = {
        "client_options": client,
        "retry_config": {"max_retries": 0, "retry_timeout": whole},
    }
    maker: Callable[[Address, Mapping[str, str], dict[str, Any]], ObjectStore]
    maker = {"s3": _open_s3, "gs": _open_gs, "az": _open_az}[address.kind]
    try:
        return maker(address, credentials, common)
    except ERRORS:
        # obstore's text may quote the credential that it could not read.
        raise UsageError(
            f"the credentials for {address.kind}://{address.bucket} have the wrong form",
            hint=f"Check {', '.join(CREDENTIALS[address.kind])} for cut or extra characters.",
        ) from None


def open_anonymously(address: Address) -> ObjectStore:
    """The bucket as a stranger sees it: no credentials are sent, whatever the environment has."""
    whole = timedelta(seconds=30)
    common: dict[str, Any] = {
        "client_options": {
            "timeout": whole,
            "connect_timeout": _CONNECT,
            "allow_http": address.endpoint.startswith("http://"),
        },
        "retry_config": {"max_retries": 0, "retry_timeout": whole},
        "skip_signature": True,
    }
    return {"s3": _open_s3, "gs": _open_gs, "az": _open_az}[address.kind](address, {}, common)


def _open_s3(
    address: Address, credentials: Mapping[str, str], common: dict[str, Any]
) -> ObjectStore:
    path_style = address.flag("path_style", bool(address.endpoint))
    options: dict[str, Any] = {"virtual_hosted_style_request": not path_style, **common}
    if address.endpoint:
        parts = urlsplit(address.endpoint)
        host = parts.netloc if path_style else f"{address.bucket}.{parts.netloc}"
        options["endpoint"] = f"{parts.scheme}://{host}{parts.path}"
        options["region"] = address.region or "us-east-1"
    elif address.region:
        options["region"] = address.region
    if credentials:
        # By a provider, not by options: obstore would add a session token that happens to
        # be in the environment to the keys given here.
        found = {
            "access_key_id": credentials["access_key_id"],
            "secret_access_key": credentials["secret_access_key"],
            "token": credentials.get("session_token"),
            "expires_at": None,
        }
        options["credential_provider"] = lambda: found
    return S3Store(address.bucket, **options)


def _open_gs(
    address: Address, credentials: Mapping[str, str], common: dict[str, Any]
) -> ObjectStore:
    options = {**common, **credentials}
    if address.endpoint:
        options["base_url"] = address.endpoint
    return GCSStore(address.bucket, **options)


def _open_az(
    address: Address, credentials: Mapping[str, str], common: dict[str, Any]
) -> ObjectStore:
    names = {"sas_token": "sas_key", "bearer_token": "token"}
    options = {**common, **{names.get(name, name): value for name, value in credentials.items()}}
    if address.endpoint:
        options["endpoint"] = address.endpoint
    return AzureStore(address.bucket, account_name=address.options["account"], **options)
