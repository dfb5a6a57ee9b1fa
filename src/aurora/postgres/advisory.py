"""An advisory lock on the source: two hosts that reach it do not do the same at once.

A belt beside the claims in the repository: it holds as long as its session, needs no right,
and is no reason not to back up where it cannot be had.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from aurora.errors import SourceError
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.server import open_control

_HIGH = 0x4155524A  # "AURJ": the first half of the key, a job's
_CONNECT_SECONDS = 10


@contextmanager
def advisory_lock(info: ConnInfo, name: str) -> Iterator[bool]:
    """Hold the lock *name*; False where another session holds it.

    True also where the source cannot be asked: then nothing is known to be in the way.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    low = int.from_bytes(digest, "big", signed=True)
    try:
        conn = open_control(info, connect_timeout=_CONNECT_SECONDS)
    except SourceError:
        yield True
        return
    try:
        yield _taken(conn, low)
    finally:
        with suppress(psycopg.Error):
            conn.close()


def _taken(conn: psycopg.Connection[tuple[object, ...]], low: int) -> bool:
    try:
        row = conn.execute(
            "SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", (_HIGH, low)
        ).fetchone()
    except psycopg.Error:
        return True
    return row is None or bool(row[0])
