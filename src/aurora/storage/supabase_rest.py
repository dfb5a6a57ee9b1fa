"""The REST API of Supabase Storage: buckets and objects of one project.

Two use it: the storage that keeps a repository in a bucket, and the engine that backs up and
restores a project's own objects. Facts about the server that are met here (HTTP 400 for
everything with the true status in the body, text/html told as text/plain, listings that are
silently empty) were measured or read in supabase/storage.
"""

import base64
import json
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from aurora.errors import (
    AuroraError,
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
    StorageUnfit,
    UsageError,
)
from aurora.storage.addresses import is_loopback
from aurora.storage.base import Buffer, ObjectExists
from aurora.storage.retry import RETRY_AFTER

if TYPE_CHECKING:
    import httpx

API = "/storage/v1"
LIST_PAGE = 1000  # the server gives no more at a time
_CONNECT, _SILENCE = 10.0, 45.0  # seconds
_PIECE = 1 << 20  # bytes handed to the line at a time
_REF = re.compile(r"[a-z0-9]{16,32}\Z")
_KEY = re.compile(r"[A-Za-z0-9_/!.*'() &$=@;:+,?-]+\Z")


def project_url(text: str) -> str:
    """The URL of a project: given as one, or as the project's reference.

    Raises UsageError.
    """
    if _REF.match(text):
        return f"https://{text}.supabase.co"
    parts = urlsplit(text.rstrip("/"))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise UsageError(
            f"not the URL of a Supabase project: {text[:100]!r}",
            hint="Write https://<project-ref>.supabase.co, the project's reference alone, or the "
            "URL of a self-hosted one.",
        )
    if "@" in parts.netloc:
        raise UsageError("the project's URL must not hold credentials")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise UsageError(
            f"the project's URL {parts.hostname} is plain http",
            hint="The key would be readable on the way. Use https.",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix(API)}"


def is_key(name: str) -> bool:
    """Whether the server takes *name* as a key today; rows may hold others."""
    return _KEY.match(name) is not None


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing."""

    name: str
    size: int | None  # bytes; None where the row does not tell
    updated_at: str  # ISO


@dataclass(frozen=True, slots=True)
class Info:
    """What the server says of an object's row."""

    version: str
    size: int | None
    etag: str
    updated_at: str


@dataclass(slots=True)
class Download:
    """An answer whose body is still to be read."""

    etag: str
    size: int | None  # of the whole object, as the headers say
    start: int  # where the body begins in the object
    chunks: Iterator[bytes]


class SupabaseRest:
    """One project's Storage. Threads may share it; it opens no connection before the first call.

    Every method raises StorageError or its kin, and ObjectMissing where something is not there.
    """

    def __init__(
        self, url: str, key: str, *, connections: int = 32, timeout: float = 300.0
    ) -> None:
        """*key* is a service_role JWT, or a secret key of the new style (``sb_secret_…``).

        *timeout* is in seconds and bounds one whole upload.
        """
        self.url = project_url(url)
        self._key = key
        self._connections = connections
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"SupabaseRest({self.url!r})"

    @cached_property
    def _client(self) -> "httpx.Client":
        import httpx  # noqa: PLC0415 - slow to load, and most runs need none

        # A secret key of the new style is no JWT and must not be sent as one.
        headers = {"apikey": self._key}
        if not self._key.startswith("sb_"):
            headers["authorization"] = f"Bearer {self._key}"
        client = httpx.Client(
            base_url=f"{self.url}{API}/",
            headers=headers,
            timeout=httpx.Timeout(
                _SILENCE, connect=_CONNECT, write=self._timeout, pool=self._timeout
            ),
            limits=httpx.Limits(
                max_connections=self._connections, max_keepalive_connections=self._connections
            ),
            follow_redirects=False,
        )
        weakref.finalize(self, client.close)  # a storage is never closed by those who use it
        return client

    @property
    def has_key(self) -> bool:
        """Whether a key was given at all; without one only :meth:`is_public` can be asked."""
        return bool(self._key)

    def close(self) -> None:
        """Close the connections."""
        if "_client" in self.__dict__:
            self._client.close()

    # Buckets

    def buckets(self) -> list[dict[str, Any]]:
        """All buckets that the key may see."""
        return list(self._json("GET", "bucket", what="list the buckets"))

    def bucket(self, name: str) -> dict[str, Any]:
        """One bucket. Raises ObjectMissing."""
        return dict(self._json("GET", f"bucket/{_quoted(name)}", what=f"look at bucket {name}"))

    def create_bucket(self, name: str, settings: Mapping[str, Any]) -> None:
        """Make a bucket. Raises ObjectExists."""
        document = {"id": name, "name": name, "public": False, **settings}
        self._json("POST", "bucket", what=f"make bucket {name}", json=document)

    def update_bucket(self, name: str, settings: Mapping[str, Any]) -> None:
        """Set ``public``, ``file_size_limit``, ``allowed_mime_types``."""
        path = f"bucket/{_quoted(name)}"
        self._json("PUT", path, what=f"change bucket {name}", json=dict(settings))

    def is_public(self, name: str) -> bool:
        """Whether anybody may read the bucket; asked as anybody would, without the key.

        Of a private bucket the server says that it is not there, of a public one that it has
        no such object.
        """
        import httpx  # noqa: PLC0415

        what = f"look at bucket {name}"
        url = f"{self.url}{API}/object/public/{_quoted(name)}/aurora-looks-whether-this-is-public"
        with _translating(what):
            answer = httpx.get(url, timeout=httpx.Timeout(_SILENCE, connect=_CONNECT))
        if answer.status_code < 300:
            return True
        refusal = self._refusal(answer, what)
        if not isinstance(refusal, ObjectMissing):
            raise refusal
        return "bucket" not in str(refusal.context.get("detail", "")).lower()

    # Objects

    @contextmanager
    def download(self, bucket: str, name: str, *, start: int = 0) -> Iterator[Download]:
        """Read an object from byte *start* on; the chunks are of any size.

        Raises ObjectMissing; StorageUnavailable also while the chunks are read, and where the
        server does not begin at *start*.
        """
        what = f"read {bucket}/{name}"
        headers = {"range": f"bytes={start}-"} if start else {}
        headers["accept-encoding"] = "identity"
        path = f"object/authenticated/{_quoted(bucket)}/{_quoted(name)}"
        with _translating(what), self._client.stream("GET", path, headers=headers) as answer:
            if answer.status_code >= 300:
                answer.read()
                raise self._refusal(answer, what)
            if (answer.status_code == 206) != bool(start):
                raise StorageUnavailable(f"cannot {what}: the server sends another part of it")
            length = answer.headers.get("content-length")
            size = int(length) + start if length and length.isdigit() else None
            yield Download(answer.headers.get("etag", ""), size, start, answer.iter_raw(_PIECE))

    def info(self, bucket: str, name: str) -> Info:
        """The object's row as it is now. Raises ObjectMissing."""
        path = f"object/info/authenticated/{_quoted(bucket)}/{_quoted(name)}"
        found = self._json("GET", path, what=f"look at {bucket}/{name}")
        return Info(
            str(found.get("version") or ""),
            found.get("size"),
            str(found.get("etag") or ""),
            str(found.get("last_modified") or found.get("updated_at") or ""),
        )

    def upload(
        self,
        bucket: str,
        name: str,
        data: Buffer | Iterable[bytes],
        size: int,
        *,
        upsert: bool,
        content_type: str = "application/octet-stream",
        cache_control: str = "no-cache",
        user_metadata: str = "",
    ) -> None:
        """Write an object of *size* bytes. *user_metadata* is the text of a JSON object.

        Without *upsert* an object that is there is refused, though not where two write at
        once. Raises ObjectExists.
        """
        headers = {
            "content-type": content_type,
            "cache-control": cache_control,
            "content-length": str(size),
            "x-upsert": "true" if upsert else "false",
        }
        if user_metadata:
            headers["x-metadata"] = base64.b64encode(user_metadata.encode()).decode()
        body = _pieces(data) if isinstance(data, bytes | bytearray | memoryview) else data
        what = f"write {bucket}/{name}"
        path = f"object/{_quoted(bucket)}/{_quoted(name)}"
        self._json("POST", path, what=what, headers=headers, content=body)

    def move(self, bucket: str, name: str, to: str) -> None:
        """Rename an object. One of many at once wins. Raises ObjectExists, ObjectMissing."""
        document = {"bucketId": bucket, "sourceKey": name, "destinationKey": to}
        self._json("POST", "object/move", what=f"name {bucket}/{to}", json=document)

    def remove(self, bucket: str, names: Sequence[str]) -> set[str]:
        """Delete objects; those that were. Absent and forbidden ones are no error."""
        gone = self._json(
            "DELETE", f"object/{_quoted(bucket)}",
            what=f"delete objects of bucket {bucket}", json={"prefixes": list(names)},
        )  # fmt: skip
        return {str(one["name"]) for one in gone or ()}

    def list(self, bucket: str, prefix: str = "") -> Iterator[Listed]:
        """Every object whose name begins with *prefix* (empty, or ending in a slash)."""
        cursor: str | None = None
        path = f"object/list-v2/{_quoted(bucket)}"
        while True:
            asked: dict[str, Any] = {"prefix": prefix, "limit": LIST_PAGE}
            if cursor is not None:
                asked["cursor"] = cursor
            try:
                page = self._json("POST", path, what=f"list bucket {bucket}", json=asked)
            except (ObjectMissing, StorageUnfit):
                if cursor is not None:
                    raise
                yield from self._list_by_levels(bucket, prefix)  # an older server
                return
            for found in page.get("objects", []):
                yield _listed(str(found.get("key") or found["name"]), found)
            before, cursor = cursor, page.get("nextCursor")
            if not page.get("hasNext"):
                return
            if not cursor or cursor == before:
                raise StorageUnavailable(f"the listing of bucket {bucket} does not go on")

    def _list_by_levels(self, bucket: str, prefix: str) -> Iterator[Listed]:
        path = f"object/list/{_quoted(bucket)}"
        folders = [prefix.rstrip("/")]
        while folders:
            folder = folders.pop()
            base, offset = f"{folder}/" if folder else "", 0
            while True:
                page = self._json(
                    "POST", path, what=f"list bucket {bucket}",
                    json={"prefix": folder, "limit": LIST_PAGE, "offset": offset,
                          "sortBy": {"column": "name", "order": "asc"}},
                )  # fmt: skip
                for found in page:
                    if found.get("id") is None:
                        folders.append(base + str(found["name"]))
                    else:
                        yield _listed(base + str(found["name"]), found)
                if len(page) < LIST_PAGE:
                    break
                offset += LIST_PAGE

    def _json(self, method: str, path: str, *, what: str, **options: Any) -> Any:
        with _translating(what):
            answer = self._client.request(method, path, **options)
        if answer.status_code >= 300:
            raise self._refusal(answer, what)
        try:
            return answer.json() if answer.content else None
        except ValueError:
            raise StorageUnfit(
                f"cannot {what}: the answer is no JSON",
                hint="Check the URL: something other than Supabase Storage answers there.",
            ) from None

    def _refusal(self, answer: "httpx.Response", what: str) -> AuroraError:
        try:
            document = json.loads(answer.content)
        except ValueError:
            document = {}
        document = document if isinstance(document, dict) else {}
        told = str(document.get("statusCode") or "")
        status = int(told) if told.isdigit() else answer.status_code
        message = str(document.get("message") or "").replace("\n", " ")[:200]
        error = _judged(status, str(document.get("error") or ""), message, what)
        pause = answer.headers.get("retry-after", "")
        if error.retryable and pause.isdigit():  # the other form, a date, is used by nobody here
            error.context[RETRY_AFTER] = int(pause)
        return error


def _judged(status: int, word: str, message: str, what: str) -> AuroraError:
    """The error for a true status. The message is the server's, and holds no key."""
    said = f" (HTTP {status}{f': {message}' if message else ''})"
    context: dict[str, object] = {"status": status, "code": word, "detail": message}
    if status == 404 or word in ("NoSuchKey", "NoSuchBucket", "not_found"):
        return ObjectMissing(f"cannot {what}: it is not there", context=context)
    if status == 409 or word == "Duplicate":
        return ObjectExists(f"cannot {what}: it is there already", context=context)
    if status in (401, 403) or "authorization" in message:
        return StorageDenied(
            f"cannot {what}: the Storage refuses{said}",
            hint="Check the key: it is the project's service_role key or a secret key "
            "(sb_secret_…), not the anon or publishable one, and not expired.",
            context=context,
        )
    if status == 413:
        return StorageUnfit(
            f"cannot {what}: it is larger than the project or the bucket allows{said}",
            hint="Raise the limit for the size of a file in the project's Storage settings.",
            context=context,
        )
    if status in (402, 507):
        return StorageFull(
            f"cannot {what}: the project has no room left{said}",
            hint="What was stored before is whole. Raise the quota, run again.",
            context=context,
        )
    if status in (408, 425, 429, 544) or status >= 500:
        return StorageUnavailable(
            f"cannot {what}: the Storage answers with an error{said}",
            hint="What was stored before is whole. Check the project's status, run again.",
            context=context,
        )
    return StorageUnfit(f"cannot {what}: the Storage does not accept it{said}", context=context)


@contextmanager
def _translating(what: str) -> Iterator[None]:
    """Let no foreign error out: httpx's texts may hold the URL and more."""
    import httpx  # noqa: PLC0415

    try:
        yield
    except httpx.HTTPError as error:
        cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in cause:
            raise StorageUnfit(
                f"cannot {what}: the server's certificate is not trusted",
                hint="Add its authority to the system's trusted ones (or name it in "
                "SSL_CERT_FILE).",
            ) from None
        raise StorageUnavailable(
            f"cannot {what}: no whole answer from the Storage ({type(error).__name__})",
            hint="What was stored before is whole. Check the network and the project's status, "
            "run again.",
        ) from None
    except (httpx.InvalidURL, UnicodeError):
        raise StorageError(f"cannot {what}: the name cannot be asked for") from None


def _listed(name: str, found: Mapping[str, Any]) -> Listed:
    metadata = found.get("metadata") or {}
    size = metadata.get("size")
    return Listed(name, int(size) if size is not None else None, str(found.get("updated_at") or ""))


def _quoted(name: str) -> str:
    """In a path. Steps of dots alone would be folded away on the way."""
    text = quote(name, safe="/")
    return "/".join(
        step.replace(".", "%2E") if step in (".", "..") else step for step in text.split("/")
    )


def _pieces(data: Buffer) -> Iterator[bytes]:
    view = memoryview(data).cast("B")
    for at in range(0, view.nbytes, _PIECE):
        yield bytes(view[at : at + _PIECE])
