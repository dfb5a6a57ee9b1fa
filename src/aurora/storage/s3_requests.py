"""The S3 requests that obstore does not make: retention, versions, the bucket's own state.

Signed by :mod:`aurora.storage.signing` and sent by httpx. Errors are the same as those of
:class:`aurora.storage.objects.ObjectStorage`, and nothing is tried again here.
"""

import base64
import hashlib
import itertools
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from obstore import exceptions

from aurora import clock
from aurora.errors import (
    AuroraError,
    ObjectMissing,
    StorageDenied,
    StorageUnavailable,
    StorageUnfit,
    UsageError,
)
from aurora.storage.addresses import Address
from aurora.storage.base import Buffer
from aurora.storage.foreign import translated
from aurora.storage.signing import S3Key, canonical_path, canonical_query, signed_headers

if TYPE_CHECKING:
    import httpx

_PIECE = 256 << 10
_CONNECT = 10.0  # seconds
_SILENCE = 45.0
_PAGE = 1000  # versions of one listing, and of one deletion
CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object, or a delete marker over it."""

    name: str
    id: str
    size: int  # bytes; 0 for a marker
    modified_at: datetime
    is_latest: bool
    is_marker: bool
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Retention:
    """Until when, and how, a version is locked."""

    mode: str
    until: datetime


@dataclass(frozen=True, slots=True)
class BucketState:
    """What a bucket says of itself; None where these credentials may not ask."""

    locks: bool | None
    default: str  # the bucket's own retention, ``GOVERNANCE, 30 Days``; empty: none
    versioned: bool | None


class S3Requests:
    """One bucket, below a prefix. Threads may share it."""

    def __init__(
        self, address: Address, credentials: Mapping[str, str], *, timeout: float = 300.0
    ) -> None:
        """*timeout*: seconds that sending a body may take. Raises UsageError: no credentials."""
        self.bucket = address.bucket
        self._base = f"{address.prefix}/" if address.prefix else ""
        self._timeout = timeout
        self._key = _key(address, credentials)
        self._origin, self._host, self._root = _place(address, self._key.region)

    def __repr__(self) -> str:
        return f"S3Requests({self.bucket!r})"

    def put(self, name: str, data: Buffer, headers: Mapping[str, str]) -> None:
        """Store one object. Raises ObjectExists (with ``if-none-match``), StorageError."""
        self._send("PUT", f"write {name}", name, headers=headers, body=memoryview(data).cast("B"))

    def retention(self, name: str, version: str = "") -> Retention | None:
        """How a version is locked; None where it is not.

        Raises ObjectMissing, StorageDenied, StorageError.
        """
        query = {"versionId": version} if version else {}
        told = self._send("HEAD", f"look at {name}", name, query=query).headers
        until = told.get("x-amz-object-lock-retain-until-date")
        mode = told.get("x-amz-object-lock-mode")
        return Retention(mode, clock.parse(until)) if mode and until else None

    def retain(self, name: str, retention: Retention, version: str = "") -> None:
        """Lock a version. Raises ObjectMissing, StorageDenied, StorageError."""
        query = {"retention": ""} | ({"versionId": version} if version else {})
        body = (
            f'<Retention xmlns="{_NAMESPACE}"><Mode>{retention.mode}</Mode><RetainUntilDate>'
            f"{stamp(retention.until)}</RetainUntilDate></Retention>"
        )
        self._send("PUT", f"lock {name}", name, query=query, body=memoryview(body.encode()))

    def state(self) -> BucketState:
        """Whether the bucket locks objects and keeps versions. Raises StorageError."""
        locks, default = None, ""
        found = self._told("object-lock")
        if found is not None:
            locks = _text(found, "ObjectLockEnabled") == "Enabled"
            mode = _text(found, "Mode")
            spans = [(_text(found, unit), unit.lower()) for unit in ("Days", "Years")]
            default = ", ".join([mode, *(f"{n} {unit}" for n, unit in spans if n)]) if mode else ""
        found = self._told("versioning")
        versioned = None if found is None else _text(found, "Status") == "Enabled"
        return BucketState(locks, default, versioned)

    def versions(self, prefix: str) -> Iterator[Version]:
        """All versions of what begins with *prefix*, those of one name together.

        Raises StorageDenied, StorageError.
        """
        asked = {"versions": "", "max-keys": str(_PAGE), "prefix": self._base + prefix}
        more: dict[str, str] = {}
        while True:
            page = self._document("GET", "list versions", asked | more)
            listed = [one for one in page if _tag(one) in ("Version", "DeleteMarker")]
            # Some servers tell all markers of a page after all versions.
            yield from sorted(map(self._version, listed), key=lambda one: one.name)
            if _text(page, "IsTruncated") != "true":
                return
            more = {"key-marker": _text(page, "NextKeyMarker")}
            if version := _text(page, "NextVersionIdMarker"):
                more["version-id-marker"] = version

    def _version(self, listed: ET.Element) -> Version:
        return Version(
            _text(listed, "Key").removeprefix(self._base),
            _text(listed, "VersionId"),
            int(_text(listed, "Size") or 0),
            clock.parse(_text(listed, "LastModified")),
            is_latest=_text(listed, "IsLatest") == "true",
            is_marker=_tag(listed) == "DeleteMarker",
            etag=_text(listed, "ETag").strip('"'),
        )

    def delete_versions(self, versions: Iterable[Version]) -> list[Version]:
        """Delete versions and markers for good; those that the server did not let go.

        Raises StorageDenied, StorageError.
        """
        left: list[Version] = []
        waiting = iter(versions)
        while batch := list(itertools.islice(waiting, _PAGE)):
            wanted = {(self._base + one.name, one.id): one for one in batch}
            listed = "".join(
                f"<Object><Key>{escape(key)}</Key><VersionId>{escape(version)}</VersionId></Object>"
                for key, version in wanted
            )
            body = f'<Delete xmlns="{_NAMESPACE}"><Quiet>true</Quiet>{listed}</Delete>'
            answer = self._document("POST", "delete old versions", {"delete": ""}, body)
            for one in answer:
                if _tag(one) == "Error":
                    found = wanted.get((_text(one, "Key"), _text(one, "VersionId")))
                    left += [found] if found is not None else []
        return left

    def delete_version(self, name: str, version: str, *, bypass: bool = False) -> None:
        """Delete one version for good; with *bypass* against a retention in governance mode.

        With an empty *version* only a delete marker is put over the object.

        Raises StorageDenied, StorageError.
        """
        headers = {"x-amz-bypass-governance-retention": "true"} if bypass else {}
        query = {"versionId": version} if version else {}
        self._send("DELETE", f"delete {name}", name, query=query, headers=headers)

    def copy_version(self, version: Version, headers: Mapping[str, str]) -> None:
        """Make an old version the newest one again, by a copy. Raises StorageError."""
        source = canonical_path(f"/{self.bucket}/{self._base}{version.name}")
        headers = {**headers, "x-amz-copy-source": f"{source}?versionId={version.id}"}
        answer = self._send("PUT", f"bring back {version.name}", version.name, headers=headers)
        # A copy that fails half-way has told success already, and says so in its body.
        if _tag(_parsed(answer.content)) == "Error":
            raise self._error(answer, f"bring back {version.name}", version.name)

    def _told(self, about: str) -> ET.Element | None:
        """What the bucket tells of itself, an empty element for nothing, None where refused."""
        try:
            return self._document("GET", f"look at the bucket's {about}", {about: ""})
        except StorageDenied:
            return None
        except (ObjectMissing, StorageUnfit) as error:
            if error.context.get("code") == "NoSuchBucket":
                raise
            return ET.Element("none")

    def _document(
        self, method: str, what: str, query: Mapping[str, str], body: str = ""
    ) -> ET.Element:
        data = memoryview(body.encode())
        return _parsed(self._send(method, what, query=query, body=data).content)

    def _send(
        self,
        method: str,
        what: str,
        name: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: memoryview = memoryview(b""),  # noqa: B008 - it is immutable
    ) -> "httpx.Response":
        """One request, for the object *name* or the bucket. Raises StorageError, ObjectMissing."""
        import httpx  # noqa: PLC0415 - slow to load, and few runs need it

        path = self._root + ("" if name is None else f"/{self._base}{name}") or "/"
        told = {**(headers or {}), "host": self._host}
        if method in ("PUT", "POST"):
            told["content-length"] = str(body.nbytes)
            # S3 wants it of whatever is locked, and of deletions; no safety rests on it.
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            told["content-md5"] = base64.b64encode(digest).decode()
        told = signed_headers(
            self._key, method, path, query or {}, told, hashlib.sha256(body).hexdigest(),
            clock.now(),
        )  # fmt: skip
        url = f"{self._origin}{canonical_path(path)}"
        if query:
            url += f"?{canonical_query(query)}"
        try:
            content = _pieces(body) if body.nbytes else None
            answer = self._client.request(method, url, headers=told, content=content)
        except httpx.HTTPError as error:
            raise _wire_error(error, what) from None
        if answer.status_code >= 300:
            raise self._error(answer, what, name or "")
        return answer

    def _error(self, answer: "httpx.Response", what: str, name: str) -> AuroraError:
        """The same errors as obstore's answers become."""
        text = f"status code: {answer.status_code} {answer.text[:4000]}"
        kind: type[Exception] = exceptions.GenericError
        if answer.status_code == 404:
            kind = FileNotFoundError
        elif answer.status_code in (409, 412):
            kind = exceptions.AlreadyExistsError
        return translated(kind(text), what, self.bucket, name)

    @cached_property
    def _client(self) -> "httpx.Client":
        import httpx  # noqa: PLC0415

        client = httpx.Client(
            timeout=httpx.Timeout(
                _SILENCE, connect=_CONNECT, write=self._timeout, pool=self._timeout
            ),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            follow_redirects=False,
        )
        weakref.finalize(self, client.close)  # a storage is never closed by those who use it
        return client


_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def stamp(moment: datetime) -> str:
    """``2026-11-23T15:37:42Z``: whole seconds, as S3 takes it."""
    return clock.isoformat(moment.replace(microsecond=0))


def _key(address: Address, credentials: Mapping[str, str]) -> S3Key:
    found = dict(credentials) or {
        name: value
        for name in ("access_key_id", "secret_access_key", "session_token")
        if (value := os.environ.get(f"AWS_{name.upper()}"))
    }
    if not found.get("access_key_id") or not found.get("secret_access_key"):
        raise UsageError(
            f"object lock on {address.bucket} needs an access key, and none is given",
            hint="Set access_key_id and secret_access_key in the storage's credentials, or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. A machine's own role is not enough here.",
        )
    region = address.region
    if not region and not address.endpoint:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    return S3Key(
        found["access_key_id"],
        found["secret_access_key"],
        region or "us-east-1",
        found.get("session_token", ""),
    )


def _place(address: Address, region: str) -> tuple[str, str, str]:
    """Origin, host as it is signed, and the path of the bucket."""
    path_style = address.flag("path_style", bool(address.endpoint))
    endpoint = address.endpoint or f"https://s3.{region}.amazonaws.com"
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[parts.scheme]
    if parts.port not in (None, usual):
        host += f":{parts.port}"  # clients leave the usual one out of the header
    if path_style:
        return f"{parts.scheme}://{host}", host, f"{parts.path}/{address.bucket}"
    host = f"{address.bucket}.{host}"
    return f"{parts.scheme}://{host}", host, parts.path


def _wire_error(error: Exception, what: str) -> AuroraError:
    """httpx's texts may hold the URL and more: none gets out."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StorageUnfit(
            f"cannot {what}: the server's certificate is not trusted",
            hint="Add its authority to the system's trusted ones (or name it in SSL_CERT_FILE).",
        )
    return StorageUnavailable(
        f"cannot {what}: no whole answer from the storage ({type(error).__name__})",
        hint="What was stored before is whole. Check the network and the provider's status, "
        "run again.",
    )


def _parsed(content: bytes) -> ET.Element:
    """Python's parser bounds what entities may grow to (expat 2.4.1 and later)."""
    try:
        return ET.fromstring(content)  # noqa: S314
    except ET.ParseError:
        if not content.strip():
            return ET.Element("none")
        raise StorageUnavailable("the storage's answer is no XML") from None


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ET.Element, tag: str) -> str:
    """The text of the first *tag* anywhere below; empty where there is none."""
    return next((one.text or "" for one in element.iter() if _tag(one) == tag), "")


def _pieces(data: memoryview) -> Iterator[bytes]:
    for at in range(0, data.nbytes, _PIECE):
        yield bytes(data[at : at + _PIECE])
