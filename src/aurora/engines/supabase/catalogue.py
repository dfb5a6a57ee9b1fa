"""What is known of a project's objects while a backup runs, on disk instead of in memory.

Tables in a temporary SQLite file: ``held`` has every version whose bytes the backup may
name, ``wanted`` has the rows of the listing that is being served, ``fresh`` what this run
read and no checkpoint names. Texts compare as bytes.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aurora.engines.supabase.rows import ObjectRow

_BATCH = 500
_SCHEMA = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE;
PRAGMA cache_size = -65536;
CREATE TABLE held (bucket TEXT, name TEXT, identity TEXT, size INTEGER, sha256 TEXT,
    pieces BLOB, note TEXT, PRIMARY KEY (bucket, name, identity)) WITHOUT ROWID;
CREATE TABLE wanted (bucket TEXT, name TEXT, identity TEXT, size INTEGER, row BLOB,
    PRIMARY KEY (bucket, name)) WITHOUT ROWID;
CREATE TABLE fresh (bucket TEXT, name TEXT, identity TEXT, PRIMARY KEY (bucket, name, identity))
    WITHOUT ROWID;
"""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A run of bytes in a stored buffer."""

    object: str
    raw: int  # bytes of the whole buffer
    offset: int
    length: int


_PARTS = msgspec.json.Decoder(tuple[Part, ...])  # before any thread needs it


@dataclass(frozen=True, slots=True)
class Held:
    """The bytes of one version, or why there are none."""

    size: int
    sha256: str  # "" where there are none
    parts: tuple[Part, ...]
    note: str = ""


class Catalogue:
    """Threads may share it. *directory* is the caller's, and so is its end."""

    def __init__(self, directory: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            directory / "objects.sqlite", check_same_thread=False, isolation_level=None
        )
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")
        self._indexed = False

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def hold(self, bucket: str, name: str, identity: str, held: Held) -> None:
        """Note where a version's bytes are that this run read, or why there are none."""
        self.hold_all([(bucket, name, identity, held)])
        if not held.note:
            with self._lock:
                self._db.execute(
                    "INSERT OR IGNORE INTO fresh VALUES (?, ?, ?)", (bucket, name, identity)
                )

    def hold_all(self, found: Iterable[tuple[str, str, str, Held]]) -> None:
        """What was held before: bucket, name, identity and where the bytes are."""
        values = [
            (bucket, name, identity, held.size, held.sha256, msgspec.json.encode(held.parts),
             held.note)
            for bucket, name, identity, held in found
        ]  # fmt: skip
        with self._lock:
            self._db.executemany("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def with_content(self, sha256: str, size: int) -> Held | None:
        """Bytes that are the very same, held for another object."""
        with self._lock:
            if not self._indexed:  # after the many of an earlier backup: in one go
                self._db.execute("CREATE INDEX held_content ON held (sha256)")
                self._indexed = True
            row = self._db.execute(
                "SELECT size, sha256, pieces, '' FROM held WHERE sha256 = ? AND size = ? LIMIT 1",
                (sha256, size),
            ).fetchone()
        return _held(row) if row else None

    def want(self, rows: Iterable[ObjectRow]) -> None:
        """Serve this listing from now on."""
        with self._lock:
            self._db.execute("DELETE FROM wanted")
        batch: list[tuple[object, ...]] = []
        for row in rows:
            batch.append((row.bucket, row.name, row.identity, row.size, _packed(row)))
            if len(batch) >= _BATCH:
                self._insert(batch)
        self._insert(batch)

    def missing(self) -> tuple[int, int]:
        """Number and bytes of the wanted objects whose bytes are not held."""
        with self._lock:
            row = self._db.execute(
                "SELECT count(*), COALESCE(sum(w.size), 0) FROM wanted w WHERE NOT EXISTS"
                " (SELECT 1 FROM held h WHERE h.bucket = w.bucket AND h.name = w.name"
                " AND h.identity = w.identity AND h.note = '')"
            ).fetchone()
        return int(row[0]), int(row[1])

    def to_read(self) -> Iterator[ObjectRow]:
        """The wanted objects whose bytes are not held, in order."""
        after = ("", "")
        while True:
            with self._lock:
                rows = self._db.execute(
                    "SELECT w.bucket, w.name, w.row FROM wanted w WHERE (w.bucket, w.name) > (?, ?)"
                    " AND NOT EXISTS (SELECT 1 FROM held h WHERE h.bucket = w.bucket"
                    " AND h.name = w.name AND h.identity = w.identity AND h.note = '')"
                    " ORDER BY w.bucket, w.name LIMIT ?",
                    (*after, _BATCH),
                ).fetchall()
            if not rows:
                return
            for _, _, packed in rows:
                yield _unpacked(packed)
            after = rows[-1][:2]

    def take_fresh(self) -> Iterator[tuple[ObjectRow, Held]]:
        """The wanted objects that were held since the last call, in order.

        What is held while this is read is for the next call, or this one.
        """
        after = ("", "", "")
        while True:
            with self._lock:
                keys = self._db.execute(
                    "SELECT bucket, name, identity FROM fresh WHERE (bucket, name, identity)"
                    " > (?, ?, ?) ORDER BY bucket, name, identity LIMIT ?",
                    (*after, _BATCH),
                ).fetchall()
                if not keys:
                    return
                after = keys[-1]
                rows = self._db.execute(
                    "SELECT w.row, h.size, h.sha256, h.pieces, h.note FROM fresh f"
                    " JOIN wanted w USING (bucket, name, identity)"
                    " JOIN held h USING (bucket, name, identity)"
                    " WHERE (bucket, name, identity) BETWEEN (?, ?, ?) AND (?, ?, ?)"
                    " ORDER BY bucket, name",
                    (*keys[0], *after),
                ).fetchall()
                self._db.execute(
                    "DELETE FROM fresh WHERE (bucket, name, identity)"
                    " BETWEEN (?, ?, ?) AND (?, ?, ?)",
                    (*keys[0], *after),
                )
            for row in rows:
                yield _unpacked(row[0]), _held(row[1:])

    def all(self) -> Iterator[tuple[ObjectRow, Held | None]]:
        """Every wanted object in order, with its bytes where they are held."""
        after = ("", "")
        while True:
            with self._lock:
                rows = self._db.execute(
                    "SELECT w.bucket, w.name, w.row, h.size, h.sha256, h.pieces, h.note"
                    " FROM wanted w LEFT JOIN held h ON h.bucket = w.bucket AND h.name = w.name"
                    " AND h.identity = w.identity WHERE (w.bucket, w.name) > (?, ?)"
                    " ORDER BY w.bucket, w.name LIMIT ?",
                    (*after, _BATCH),
                ).fetchall()
            if not rows:
                return
            for row in rows:
                yield _unpacked(row[2]), None if row[3] is None else _held(row[3:])
            after = rows[-1][:2]

    def _insert(self, batch: list[tuple[object, ...]]) -> None:
        with self._lock:
            self._db.executemany("INSERT OR REPLACE INTO wanted VALUES (?, ?, ?, ?, ?)", batch)
        batch.clear()


def _held(row: tuple[object, ...]) -> Held:
    size, sha256, pieces, note = row
    assert isinstance(pieces, bytes)
    parts = _PARTS.decode(pieces)
    return Held(int(str(size)), str(sha256), parts, str(note))


def _packed(row: ObjectRow) -> bytes:
    return json.dumps([getattr(row, name) for name in ObjectRow.__slots__]).encode()


def _unpacked(packed: bytes) -> ObjectRow:
    return ObjectRow(*json.loads(packed))
