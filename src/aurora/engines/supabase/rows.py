"""Rows of ``storage.buckets`` and ``storage.objects``, read under a snapshot.

Which columns there are depends on how far the project's Storage was migrated: columns that
are not there read as NULL.
"""

import fnmatch
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from aurora.engines.logical.names import Connection
from aurora.postgres.errors import translated

_BATCH = 5000
_TEXTS = (
    "bucket_id", "name", "version", "owner", "owner_id", "created_at", "updated_at",
    "last_accessed_at", "user_metadata",
)  # fmt: skip

_FIELDS = ("bucket", *_TEXTS[1:])


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One row of ``storage.objects``; "" and None stand for NULL."""

    bucket: str
    name: str
    version: str
    owner: str
    owner_id: str
    created_at: str
    updated_at: str
    last_accessed_at: str
    user_metadata: str  # JSON text
    etag: str = ""
    size: int | None = None  # bytes
    mimetype: str = ""
    cache_control: str = ""

    @property
    def identity(self) -> str:
        """What stays the same while the bytes do.

        Each upload gives a fresh random version. Very old rows have none: then all that
        changes with an upload stands for it.
        """
        return self.version or f"{self.etag}|{self.size}|{self.updated_at}"


def has_storage(conn: Connection) -> bool:
    """Whether the database is one with Supabase Storage."""
    with translated("source", doing="looking for Supabase Storage"):
        row = conn.execute(
            "SELECT pg_catalog.to_regclass('storage.objects') IS NOT NULL"
            " AND pg_catalog.to_regclass('storage.buckets') IS NOT NULL"
        ).fetchone()
    return bool(row and row[0]) and {"bucket_id", "name"} <= _columns(conn, "objects")


def count_objects(conn: Connection) -> tuple[int, int]:
    """Number of objects and their bytes, as far as the rows tell."""
    size = (
        "COALESCE(sum((metadata->>'size')::bigint), 0)::bigint"
        if "metadata" in _columns(conn, "objects")
        else "0"
    )
    with translated("source", doing="counting the Storage's objects"):
        row = conn.execute(f"SELECT count(*), {size} FROM storage.objects".encode()).fetchone()
    assert row is not None
    return int(str(row[0])), int(str(row[1]))


def read_buckets(conn: Connection) -> list[dict[str, Any]]:
    """Every bucket, by column, as JSON values."""
    with translated("source", doing="reading the Storage's buckets"):
        rows = conn.execute(
            'SELECT pg_catalog.to_jsonb(b)::text FROM storage.buckets b ORDER BY id COLLATE "C"'
        ).fetchall()
    return [json.loads(str(row[0])) for row in rows]


def uncovered(conn: Connection) -> list[str]:
    """Kinds of buckets that hold no plain objects, where there are any: nobody backs them up."""
    found = []
    for table, what in (("buckets_analytics", "analytics"), ("buckets_vectors", "vector")):
        with translated("source", doing="looking at the Storage's buckets"):
            there = conn.execute(
                "SELECT pg_catalog.to_regclass(%s) IS NOT NULL", [f"storage.{table}"]
            ).fetchone()
            if not (there and there[0]):
                continue
            row = conn.execute(f"SELECT count(*) FROM storage.{table}".encode()).fetchone()
        if row and row[0]:
            found.append(f"{row[0]} {what} bucket{'s' if row[0] != 1 else ''}")
    return found


def read_objects(conn: Connection, buckets: Sequence[str]) -> Iterator[ObjectRow]:
    """The objects of *buckets* in byte order of bucket and name, a batch at a time.

    Needs an open transaction.
    """
    columns = _columns(conn, "objects")
    texts = [f'"{name}"::text' if name in columns else "NULL" for name in _TEXTS]
    facts = [
        f"metadata->>'{name}'" if "metadata" in columns else "NULL"
        for name in ("eTag", "size", "mimetype", "cacheControl")
    ]
    conditions = ["bucket_id = ANY (%s)", "name IS NOT NULL"]
    if "is_delete_marker" in columns:
        conditions.append("NOT COALESCE(is_delete_marker, false)")
    if "archived_at" in columns:
        conditions.append("archived_at IS NULL")
    query = (
        f"DECLARE aurora_objects NO SCROLL CURSOR FOR SELECT {', '.join([*texts, *facts])}"
        f" FROM storage.objects WHERE {' AND '.join(conditions)}"
        ' ORDER BY bucket_id COLLATE "C", name COLLATE "C"'
    )
    with translated("source", doing="listing the Storage's objects"):
        # DECLARE takes no parameters: they are bound on our side.
        psycopg.ClientCursor(conn).execute(query.encode(), [list(buckets)])
        while rows := conn.execute(f"FETCH {_BATCH} FROM aurora_objects".encode()).fetchall():
            for row in rows:
                yield _row(row)
        conn.execute("CLOSE aurora_objects")


def chosen_buckets(
    buckets: Sequence[dict[str, Any]], skip: Sequence[str], own: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """The names of the buckets to read, and why others are not. *own*: of backups themselves."""
    taken: list[str] = []
    left: list[str] = []
    for bucket in buckets:
        name = str(bucket["id"])
        kind = str(bucket.get("type") or "STANDARD")
        if kind != "STANDARD":
            left.append(f"{name}: a bucket of the kind {kind} holds no plain objects")
        elif name in own:
            left.append(f"{name}: these backups are in it")
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in skip):
            left.append(f"{name}: on request")
        else:
            taken.append(name)
    return taken, left


def _row(row: Sequence[object]) -> ObjectRow:
    *plain, etag, size, mimetype, cache = ("" if v is None else str(v) for v in row)
    fields = dict(zip(_FIELDS, plain, strict=True))
    return ObjectRow(
        **fields,
        etag=etag,
        size=int(size) if size.isdigit() else None,
        mimetype=mimetype,
        cache_control=cache,
    )


def _columns(conn: Connection, table: str) -> set[str]:
    with translated("source", doing="looking at the Storage's tables"):
        rows = conn.execute(
            "SELECT attname FROM pg_catalog.pg_attribute"
            " WHERE attrelid = pg_catalog.to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [f"storage.{table}"],
        ).fetchall()
    return {str(row[0]) for row in rows}
