"""Large objects: read in the snapshot, written back under their own oids."""

import threading
from typing import Any, cast

import psycopg

from aurora.engines.base import BufferSource, BufferStore, Extent, LargeObject, Progress, Stored
from aurora.engines.logical.grants import grant_statements
from aurora.engines.logical.names import Connection, literal, quoted
from aurora.errors import Cancelled, SourcePrivilege, TargetRefused
from aurora.postgres.errors import translated

_PIECE = 8 << 20

_LISTED = """
SELECT m.oid::bigint, pg_catalog.pg_get_userbyid(m.lomowner),
       COALESCE((SELECT array_agg(a::text) FROM unnest(m.lomacl) a), '{}'),
       COALESCE(pg_catalog.obj_description(m.oid, 'pg_largeobject'), '')
FROM pg_catalog.pg_largeobject_metadata m ORDER BY m.oid
"""


def read_large_objects(
    conn: Connection, store: BufferStore, cancel: threading.Event
) -> list[LargeObject]:
    """All large objects of the database, in the transaction that *conn* is in.

    Raises:
        SourcePrivilege: the role may not read one; nothing else was read yet.
    """
    found: list[LargeObject] = []
    shared = bytearray()
    waiting: list[tuple[LargeObject, int]] = []  # those inside the shared buffer, with offsets

    def flush() -> None:
        if not waiting:
            return
        stored = store.put(bytes(shared))
        found.extend(
            LargeObject(
                lo.oid, lo.owner, lo.bytes, acl=lo.acl, comment=lo.comment,
                extents=(_extent(stored, offset, lo.bytes),),
            )
            for lo, offset in waiting
        )  # fmt: skip
        shared.clear()
        waiting.clear()

    listed = cast("list[tuple[int, str, list[str], str]]", conn.execute(_LISTED).fetchall())
    for oid, owner, acl, comment in listed:
        if cancel.is_set():
            raise Cancelled("stopped while reading large objects")
        first = _read(conn, oid, 0)
        lo = LargeObject(oid, owner, len(first), acl=tuple(acl), comment=comment)
        if not first:
            found.append(lo)
        elif len(first) < _PIECE:
            if len(shared) + len(first) > _PIECE:
                flush()
            waiting.append((lo, len(shared)))
            shared += first
        else:
            found.append(_read_long(conn, lo, first, store))
    flush()
    return sorted(found, key=lambda lo: lo.oid)


def _read_long(conn: Connection, lo: LargeObject, first: bytes, store: BufferStore) -> LargeObject:
    extents: list[Extent] = []
    size, piece = 0, first
    while piece:
        extents.append(_extent(store.put(piece)))
        size += len(piece)
        piece = _read(conn, lo.oid, size) if len(piece) == _PIECE else b""
    return LargeObject(
        lo.oid, lo.owner, size, acl=lo.acl, comment=lo.comment, extents=tuple(extents)
    )


def _extent(stored: Stored, offset: int = 0, length: int = -1) -> Extent:
    return Extent(stored.object, stored.raw, 0, "0" * 16, offset=offset, length=length)


def _read(conn: Connection, oid: int, offset: int) -> bytes:
    try:
        row = conn.execute(
            "SELECT pg_catalog.lo_get(%s::oid, %s::bigint, %s::int)",
            (oid, offset, _PIECE), binary=True,
        ).fetchone()  # fmt: skip
    except psycopg.errors.InsufficientPrivilege as error:
        raise SourcePrivilege(
            f"the role may not read large object {oid}",
            hint=f"Nothing became a backup. Run GRANT SELECT ON LARGE OBJECT {oid} TO the role, "
            "as its owner, or set lo_compat_privileges on for the role as a superuser.",
        ) from error
    return bytes(cast(Any, row[0])) if row else b""


def load_large_objects(
    conn: Connection, objects: tuple[LargeObject, ...], source: BufferSource, progress: Progress
) -> list[str]:
    """Make *objects* on the target; what their owner or grants could not be is returned.

    Raises:
        TargetRefused: a large object of that oid is there already.
    """
    problems: list[str] = []
    held: tuple[str, bytes] = ("", b"")
    with translated("target", doing="restoring large objects"):
        for lo in objects:
            with conn.transaction():
                try:
                    conn.execute("SELECT pg_catalog.lo_create(%s::oid)", (lo.oid,))
                except psycopg.errors.UniqueViolation as error:
                    raise TargetRefused(
                        f"the target already has a large object {lo.oid}",
                        hint="Restore into a new database.",
                    ) from error
                offset = 0
                for extent in lo.extents:
                    if held[0] != extent.object:
                        held = (extent.object, source.get(extent.stored))
                    end = len(held[1]) if extent.length < 0 else extent.offset + extent.length
                    data = held[1][extent.offset : end]
                    conn.execute(
                        "SELECT pg_catalog.lo_put(%s::oid, %s::bigint, %b)", (lo.oid, offset, data)
                    )
                    offset += len(data)
            problems += _own(conn, lo)
            progress(lo.bytes, f"large object {lo.oid}")
    return problems


def owner_statements(lo: LargeObject) -> list[str]:
    """What gives a large object its owner, its comment and its grants."""
    target = f"LARGE OBJECT {lo.oid}"
    statements = [f"ALTER {target} OWNER TO {quoted(lo.owner)}"]
    if lo.comment:
        statements.append(f"COMMENT ON {target} IS {literal(lo.comment)}")
    if lo.acl:
        statements += grant_statements(target, lo.acl, lo.owner)
    return statements


def _own(conn: Connection, lo: LargeObject) -> list[str]:
    problems = []
    for statement in owner_statements(lo):
        try:
            conn.execute(statement.encode())
        except psycopg.Error as error:
            problems.append(f"{statement}: {error.diag.message_primary}")
    return problems
