"""A mapping on disk, for a merge that touches more keys than memory should hold."""

import sqlite3
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

_Value = TypeVar("_Value")
_CACHE_KIB = 128 << 10
_PAGE = 10_000  # keys read at once while iterating


class DiskMap(MutableMapping[bytes, _Value], Generic[_Value]):
    """Keys to values in a private file that does not outlive it. Threads may share it.

    Slower than a dict by a factor of about ten, with a fixed cache instead of about 200
    bytes of memory for each key.
    """

    def __init__(self, path: Path, decoder: msgspec.msgpack.Decoder[_Value]) -> None:
        self._decoder = decoder
        self._encode = msgspec.msgpack.Encoder().encode
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "PRAGMA locking_mode = EXCLUSIVE",
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            "CREATE TABLE held (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID",
            "BEGIN",
        ):
            self._db.execute(statement)
        path.unlink()  # SQLite keeps it open: a killed process leaves no rows behind

    def take(self, held: Mapping[bytes, _Value]) -> None:
        """Put in all of a mapping."""
        encode = self._encode
        with self._lock:
            self._db.executemany(
                "INSERT INTO held VALUES (?, ?)",
                ((key, encode(value)) for key, value in sorted(held.items())),
            )

    def close(self) -> None:
        self._db.close()

    def __getitem__(self, key: bytes) -> _Value:
        with self._lock:
            row = self._db.execute("SELECT v FROM held WHERE k = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return self._decoder.decode(row[0])

    def __contains__(self, key: object) -> bool:
        with self._lock:
            found = self._db.execute("SELECT 1 FROM held WHERE k = ?", (key,)).fetchone()
        return found is not None

    def __setitem__(self, key: bytes, value: _Value) -> None:
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO held VALUES (?, ?)", (key, self._encode(value))
            )

    def __delitem__(self, key: bytes) -> None:
        with self._lock:
            if not self._db.execute("DELETE FROM held WHERE k = ?", (key,)).rowcount:
                raise KeyError(key)

    def __iter__(self) -> Iterator[bytes]:
        after = b""
        found = self._page("SELECT k FROM held ORDER BY k LIMIT ?", (_PAGE,))
        while found:
            yield from found
            after = found[-1]
            found = self._page("SELECT k FROM held WHERE k > ? ORDER BY k LIMIT ?", (after, _PAGE))

    def _page(self, query: str, values: tuple[object, ...]) -> list[bytes]:
        with self._lock:
            return [key for (key,) in self._db.execute(query, values)]

    def __len__(self) -> int:
        with self._lock:
            row = self._db.execute("SELECT count(*) FROM held").fetchone()
        return int(row[0])

    def __bool__(self) -> bool:
        with self._lock:
            return self._db.execute("SELECT 1 FROM held LIMIT 1").fetchone() is not None

    def clear(self) -> None:
        with self._lock:
            self._db.execute("DELETE FROM held")
