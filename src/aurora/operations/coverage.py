"""Which stored objects were verified when: so that a daily budget reaches all of them in turn.

One SQLite file on this machine, ``aurora.state/verified.sqlite``. Losing it loses the order,
and the figures of coverage, and nothing else.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS checked (
    place TEXT NOT NULL, name TEXT NOT NULL, at REAL NOT NULL, good INTEGER NOT NULL,
    PRIMARY KEY (place, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    place TEXT NOT NULL, at REAL NOT NULL, level TEXT NOT NULL, checked INTEGER NOT NULL,
    needed INTEGER NOT NULL, bad INTEGER NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Covered:
    """What is known of the verification of one storage."""

    last_at: datetime | None  # of the last verification
    bad: int  # objects that were found bad and not good since
    objects: int  # that were verified at least once
    oldest_at: datetime | None  # when the one that was verified longest ago was
    needed: int = 0  # objects that the last verification of everything was about

    @property
    def share(self) -> float | None:
        """How much of what backups need was verified at least once, 0 to 1."""
        return min(self.objects / self.needed, 1.0) if self.needed else None

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "last_at": self.last_at,
            "bad": self.bad,
            "objects": self.objects,
            "needed": self.needed,
            "share": self.share,
            "oldest_at": self.oldest_at,
        }


class Coverage:
    """What this machine has verified."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "verified.sqlite"

    def checked_at(self, place: str) -> dict[str, float]:
        """Name -> when it was last looked at, in seconds since 1970."""
        with self._open() as db:
            return dict(db.execute("SELECT name, at FROM checked WHERE place = ?", [place]))

    def note(self, place: str, looked_at: Mapping[str, bool], *, at: datetime) -> None:
        """Note the objects that were looked at, and whether each was good."""
        rows = [(place, name, at.timestamp(), int(good)) for name, good in looked_at.items()]
        with self._open() as db, db:
            db.executemany("INSERT OR REPLACE INTO checked VALUES (?, ?, ?, ?)", rows)

    def healed(self, place: str, names: Iterable[str]) -> None:
        """Objects that were bad have been brought back."""
        with self._open() as db, db:
            db.executemany(
                "UPDATE checked SET good = 1 WHERE place = ? AND name = ?",
                [(place, name) for name in names],
            )

    def note_run(
        self, place: str, *, level: str, checked: int, needed: int, bad: int, at: datetime
    ) -> None:
        """Note one verification of everything."""
        with self._open() as db, db:
            db.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?)",
                [place, at.timestamp(), level, checked, needed, bad],
            )

    def forget_others(self, place: str, needed: Iterable[str]) -> None:
        """Forget the objects that no backup needs any more."""
        kept = set(needed)
        with self._open() as db, db:
            known = db.execute("SELECT name FROM checked WHERE place = ?", [place]).fetchall()
            gone = [(place, name) for (name,) in known if name not in kept]
            db.executemany("DELETE FROM checked WHERE place = ? AND name = ?", gone)

    def covered(self, place: str) -> Covered | None:
        """What is known of *place*; None where nothing is."""
        if not self._path.exists():
            return None
        with self._open() as db:
            objects, bad, oldest = db.execute(
                "SELECT count(*), count(*) FILTER (WHERE good = 0), min(at)"
                " FROM checked WHERE place = ?",
                [place],
            ).fetchone()
            last = db.execute("SELECT max(at) FROM runs WHERE place = ?", [place]).fetchone()[0]
            needed = db.execute(
                "SELECT needed FROM runs WHERE place = ? ORDER BY at DESC LIMIT 1", [place]
            ).fetchone()
        if last is None and not objects:
            return None
        return Covered(_moment(last), bad, objects, _moment(oldest), needed[0] if needed else 0)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=30)) as db:
            db.executescript(_TABLES)
            yield db


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def shown_share(share: float) -> str:
    """``87 %``, never rounded up to the whole."""
    return f"{int(share * 100)} %"
