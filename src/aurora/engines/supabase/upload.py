"""Bringing objects back to a project through its Storage API, and making sure of each.

An upload gives an object a new version, and its row with it; nothing else connects a row
with its bytes. What the server says of a row proves nothing about the bytes (a restored row
may point at none), so an object counts as there only when its bytes were asked for.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from aurora.engines.logical.names import Connection
from aurora.engines.supabase.documents import ObjectEntry
from aurora.errors import ObjectMissing, StorageError, StorageUnavailable, StorageUnfit
from aurora.events import EventSink
from aurora.postgres.errors import translated
from aurora.storage.base import ObjectExists
from aurora.storage.limit import Rate
from aurora.storage.retry import Patience, again
from aurora.storage.supabase_rest import SupabaseRest

_WHOLE = 1 << 20  # bytes: up to here an object is read back whole to compare it
_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_LIMITS = ("file_size_limit", "allowed_mime_types")
_TOO_MUCH = (413, 415, 422)

Chunks = Callable[[], Iterator[bytes]]


@dataclass(slots=True)
class Uploader:
    """Writes objects to one project. Threads may share it."""

    client: SupabaseRest
    rate: Rate
    sink: EventSink
    patience: Patience = field(default_factory=lambda: Patience(budget=60.0))
    _relaxed: dict[str, dict[str, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def make_bucket(self, bucket: dict[str, Any]) -> bool:
        """Make a bucket as the backup has it; False where there is one of this name."""
        name = str(bucket["id"])
        settings = {key: bucket.get(key) for key in ("public", *_LIMITS)}
        settings["public"] = bool(settings["public"])
        try:
            again(lambda: self.client.create_bucket(name, settings), self.patience, sink=self.sink)
        except ObjectExists:
            return False
        return True

    def is_there(self, entry: ObjectEntry) -> bool:
        """Whether the project serves these very bytes. Raises StorageError."""
        return again(lambda: self._is_there(entry), self.patience, sink=self.sink)

    def put(self, entry: ObjectEntry, chunks: Chunks) -> None:
        """Upload an object and prove that it arrived.

        Raises StorageError, and whatever *chunks* raises.
        """
        sums: list[str] = []

        def body() -> Iterator[bytes]:
            whole = hashlib.md5(usedforsecurity=False)
            for data in chunks():
                self.rate.pay(len(data))
                whole.update(data)
                yield data
            sums.append(whole.hexdigest())

        def attempt() -> None:
            self.client.upload(
                entry.bucket,
                entry.name,
                body() if entry.size else b"",
                entry.size,
                upsert=True,
                content_type=entry.mimetype or "application/octet-stream",
                cache_control=entry.cache_control or "no-cache",
                user_metadata=entry.user_metadata,
            )

        try:
            again(attempt, self.patience, sink=self.sink)
        except StorageUnfit as error:
            if error.context.get("status") not in _TOO_MUCH or not self._relax(entry.bucket):
                raise
            again(attempt, self.patience, sink=self.sink)
        sent = sums[-1] if sums else hashlib.md5(b"", usedforsecurity=False).hexdigest()
        again(lambda: self._prove(entry, sent), self.patience, sink=self.sink)

    def finish(self) -> list[str]:
        """Put back the limits of buckets that stood in the way; what could not be."""
        left = []
        for bucket, limits in self._relaxed.items():
            try:
                self.client.update_bucket(bucket, limits)
            except (StorageError, ObjectMissing) as error:
                left.append(f"the limits of bucket {bucket} are still lifted: {error.message}")
        return left

    def _relax(self, bucket: str) -> bool:
        """Lift a bucket's own limits, once. False where it has none."""
        with self._lock:
            if bucket in self._relaxed:
                return True
            now = self.client.bucket(bucket)
            limits = {name: now.get(name) for name in _LIMITS}
            if not any(limits.values()):
                return False
            given = {"public": bool(now.get("public"))}
            self.client.update_bucket(bucket, {**given, **dict.fromkeys(_LIMITS)})
            self._relaxed[bucket] = {**given, **limits}
            return True

    def _is_there(self, entry: ObjectEntry) -> bool:
        try:
            with self.client.download(entry.bucket, entry.name) as answer:
                if answer.size is not None and answer.size != entry.size:
                    return False
                if entry.size > _WHOLE:
                    return _plain(answer.etag) == _plain(entry.etag) != ""
                return _sum(answer.chunks, entry.size) == entry.sha256
        except ObjectMissing:
            return False

    def _prove(self, entry: ObjectEntry, sent: str) -> None:
        """An ETag that is the MD5 of what was sent is proof; else the bytes are read back."""
        with self.client.download(entry.bucket, entry.name) as answer:
            etag = _plain(answer.etag)
            if _MD5.match(etag) and etag == sent and answer.size in (None, entry.size):
                return
            if _sum(answer.chunks, entry.size) != entry.sha256:
                raise StorageUnavailable(
                    f"{entry.bucket}/{entry.name} does not read back as it was written"
                )


def fix_rows(conn: Connection, entries: Sequence[ObjectEntry]) -> int:
    """Set what an upload cannot: owner, times, the user's metadata. The rows that were met.

    ``version`` and ``metadata`` are the server's and stay. Triggers must not set the times
    anew, so this runs with ``session_replication_role = replica``, which the role of a hosted
    project may set. Raises TargetError.
    """
    columns = ("owner", "owner_id", "created_at", "updated_at", "last_accessed_at",
               "user_metadata")  # fmt: skip
    kinds = {"owner": "uuid", "owner_id": "text", "user_metadata": "jsonb"}
    with translated("target", doing="setting owners and times of Storage objects"):
        there = {
            str(row[0])
            for row in conn.execute(
                "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid ="
                " 'storage.objects'::regclass AND attnum > 0 AND NOT attisdropped"
            ).fetchall()
        }
        set_ = [name for name in columns if name in there]
        if not set_:
            return 0
        # A time that the source did not have stays the target's own.
        terms = ", ".join(
            f"{name} = COALESCE(v.{name}, o.{name})"
            if name.endswith("_at")
            else f"{name} = v.{name}"
            for name in set_
        )
        values = [
            [getattr(entry, name) or None for entry in entries]
            for name in ("bucket", "name", *set_)
        ]
        arrays = ", ".join(
            ["%s::text[]", "%s::text[]"]
            + [f"%s::{kinds.get(name, 'timestamptz')}[]" for name in set_]
        )
        with conn.transaction():
            conn.execute("SET LOCAL session_replication_role = replica")
            done = psycopg.ClientCursor(conn).execute(
                f"UPDATE storage.objects o SET {terms}"
                f" FROM unnest({arrays}) v (bucket_id, name, {', '.join(set_)})"
                " WHERE o.bucket_id = v.bucket_id AND o.name = v.name".encode(),
                values,
            )
            return done.rowcount


def _sum(chunks: Iterator[bytes], most: int) -> str:
    whole, size = hashlib.sha256(), 0
    for data in chunks:
        whole.update(data)
        size += len(data)
        if size > most:
            break
    return whole.hexdigest()


def _plain(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')
