"""The part of the change log that a recovery needs, on local disk while it runs.

A position in the spool is where a message begins; its frame's head stands before it.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aurora.engines.base import Buffer
from aurora.engines.logical import pgoutput
from aurora.engines.logical.targets import Transaction

HEADER = struct.Struct("<IQ")  # of a frame: length; WAL position where the message is parted
CONTINUED = 0x80000000  # in the length: the message goes on in the next segment


def nameless(path: Path) -> BinaryIO:
    """A new file at *path* whose name is gone already: it lives as long as it is open."""
    file = path.open("x+b")
    path.unlink()
    return file


class Spool:
    """A file of frames: written once, then read at any place.

    It has no name: what it holds is not encrypted, and must not stay when the process is killed.
    """

    def __init__(self, directory: Path) -> None:
        self._file = nameless(directory / "log")
        self._map: mmap.mmap | None = None
        self.size = 0

    def append(self, payload: Buffer) -> int:
        """Write a segment's payload; where it begins."""
        at = self.size
        self._file.write(payload)
        self.size += len(payload)
        return at

    def keep(self, message: bytes) -> int:
        """Write a message in a frame of its own; its position."""
        return self.append(HEADER.pack(len(message), 0) + message) + HEADER.size

    def message(self, position: int) -> bytes:
        """The message at *position*. Call it after the last ``append`` only."""
        if self._map is None:
            self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        length, _ = HEADER.unpack_from(self._map, position - HEADER.size)
        return self._map[position : position + length]

    def close(self) -> None:
        """Give the disk back."""
        if self._map is not None:
            self._map.close()
        self._file.close()


@dataclass(frozen=True, slots=True)
class Scanned:
    """The transactions that end in a segment, and how it ends itself."""

    found: tuple[Transaction, ...]
    first_is_known: bool  # the first one's Begin is in it too
    open_xid: int  # of the last Begin, where its Commit is yet to come; else 0
    begins: bool  # whether it holds a Begin at all


def scan(payload: bytes, *, continuing: bool, open_xid: int = 0) -> Scanned:
    """Find the Begins and Commits of a segment.

    Args:
        continuing: its first message began in the segment before.
        open_xid: the transaction that was open before it, 0 where it is not known.
    """
    found: list[Transaction] = []
    known, begins, xid = True, False, open_xid
    for message in _frames(payload, continuing=continuing):
        if message[0] == pgoutput.BEGIN:
            xid, begins = pgoutput.read_begin(message).xid, True
        elif message[0] == pgoutput.COMMIT:
            commit = pgoutput.read_commit(message)
            known = known and bool(xid)
            found.append(Transaction(xid, commit.lsn, commit.end_lsn, commit.at))
            xid = 0
    return Scanned(tuple(found), known, xid, begins)


def ends_continued(payload: bytes) -> bool:
    """Whether the last message of a segment goes on in the next one."""
    at, end = 0, len(payload)
    length = 0
    while at < end:
        length, _ = HEADER.unpack_from(payload, at)
        at += HEADER.size + (length & ~CONTINUED)
    return bool(length & CONTINUED)


def _frames(payload: bytes, *, continuing: bool) -> Iterator[bytes]:
    """The Begins and Commits: they are never parted."""
    at, end = 0, len(payload)
    unpack, size = HEADER.unpack_from, HEADER.size
    while at < end:
        length, lsn = unpack(payload, at)
        at += size
        after = at + (length & ~CONTINUED)
        if length & CONTINUED:
            continuing = True
        elif continuing and lsn:
            continuing = False
        elif payload[at] in (pgoutput.BEGIN, pgoutput.COMMIT):
            yield payload[at:after]
        at = after
