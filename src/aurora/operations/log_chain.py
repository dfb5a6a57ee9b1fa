"""How pieces of a change log lie together: which follow one another, which say nothing new.

A stream commits small pieces (backups of type ``stream``). Later ones, and incrementals,
gather them: what lies whole inside another part of the same log can go.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from aurora.engines.base import LogPart, Segment
from aurora.errors import IntegrityError, ObjectMissing, StorageError, UnsupportedRepository
from aurora.events import EventSink, Noted, Warned
from aurora.operations.content import Backup
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import Repository
from aurora.repository.ids import APART, STREAM
from aurora.repository.presence import stored_size
from aurora.repository.removal import remove_backups

_PARALLEL = 8
_BATCH = 32  # pieces opened at a time

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Logged:
    """A backup, or a piece, with its part of the log."""

    backup: Backup
    log: LogPart

    @property
    def id(self) -> str:
        return self.backup.entry.id

    @property
    def is_piece(self) -> bool:
        """Whether a stream made it."""
        return self.backup.entry.type == STREAM


def identity(log: LogPart) -> Hashable:
    """Whose log it is: positions of two logs mean nothing to each other."""
    return log.system_identifier, log.timeline, log.database_oid, log.slot


def opened(repository: Repository, entry: BackupEntry, sink: EventSink) -> Backup | None:
    """The backup, or None with a warning where it cannot be read."""
    try:
        return Backup(repository, entry)
    except ObjectMissing as error:
        if entry.type == STREAM and stored_size(repository.storage, entry.manifest_name) is None:
            return None  # gathered since it was listed: what gathered it is looked for elsewhere
        problem = error.message
    except (IntegrityError, UnsupportedRepository) as error:
        problem = error.message
    sink(
        Warned(
            "backup-unreadable",
            f"backup {entry.id} cannot be read: {problem}",
            f"Run `aurora backup verify {entry.id}`, or `aurora backup heal {entry.id}`. This run "
            "goes on without it.",
        )
    )
    return None


def open_all(
    repository: Repository, entries: Iterable[BackupEntry], sink: EventSink
) -> list[Backup]:
    """Those of *entries* that can be read, side by side; the others are warned of."""
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="aurora-manifests") as pool:
        found = list(pool.map(lambda entry: opened(repository, entry, sink), entries))
    return [backup for backup in found if backup is not None]


def listed(
    repository: Repository, database: str, look: Callable[[list[BackupEntry]], _Found]
) -> _Found:
    """What *look* makes of the backups listed; anew where pieces were gathered meanwhile."""
    while True:
        entries = [one for one in repository.backups(database) if one.type not in APART]
        with suppress(_Gathered):
            return look(entries)


def read_log(repository: Repository, database: str, sink: EventSink) -> list[Logged]:
    """Everything of *database* that has a part in a log, oldest first, nothing said twice."""
    backups = listed(repository, database, lambda entries: _still_there(repository, entries, sink))
    logged = [Logged(one, one.body.log) for one in backups if one.body.log is not None]
    return uncovered(logged)


class _Gathered(Exception):
    """Pieces that were listed are part of another by now. Never leaves :func:`listed`."""


def _still_there(
    repository: Repository, entries: Sequence[BackupEntry], sink: EventSink
) -> list[Backup]:
    """As :func:`open_all`. Raises _Gathered where a piece is gone since it was listed."""
    backups = open_all(repository, entries, sink)
    known = {backup.entry.id for backup in backups}
    gone = [one for one in entries if one.type == STREAM and one.id not in known]
    if any(stored_size(repository.storage, one.manifest_name) is None for one in gone):
        raise _Gathered
    return backups


def uncovered(logged: Sequence[Logged]) -> list[Logged]:
    """Without the pieces that lie whole inside another part."""
    return [one for one in logged if not (one.is_piece and _covered(one, logged))]


def covered(logged: Sequence[Logged]) -> list[Logged]:
    """The pieces that lie whole inside another part: they can be removed."""
    return [one for one in logged if one.is_piece and _covered(one, logged)]


def _covered(piece: Logged, others: Sequence[Logged]) -> bool:
    return any(_holds(other, piece) for other in others)


def _holds(other: Logged, piece: Logged) -> bool:
    one, two = other.log, piece.log
    if other.id == piece.id or not one.parent or identity(one) != identity(two):
        return False
    if two.fingerprint and one.fingerprint != two.fingerprint:
        return False  # it tells since when the schema is another
    if not (one.from_lsn <= two.from_lsn and two.to_lsn <= one.to_lsn):
        return False
    same = (one.from_lsn, one.to_lsn) == (two.from_lsn, two.to_lsn)
    return not (same and other.is_piece) or other.id > piece.id


def pieces_after(
    repository: Repository,
    entries: Sequence[BackupEntry],
    log: LogPart,
    position: int,
    sink: EventSink,
) -> list[Logged]:
    """The pieces of the same log as *log*'s that reach beyond *position*, newest first.

    For use in :func:`listed`, whose *entries* they are.
    """
    pieces = [one for one in reversed(entries) if one.type == STREAM]
    found: list[Logged] = []
    for start in range(0, len(pieces), _BATCH):
        batch = pieces[start : start + _BATCH]
        logged = [
            Logged(one, one.body.log)
            for one in _still_there(repository, batch, sink)
            if one.body.log is not None and identity(one.body.log) == identity(log)
        ]
        found += [one for one in logged if one.log.to_lsn > position]
        if logged and all(one.log.to_lsn <= position for one in logged):
            break  # older ones end before it too
    return found


def follow(log: LogPart, position: int, logged: Sequence[Logged]) -> list[Logged]:
    """The pieces of *log*'s slot that lead on from *position* without a gap; as few as do."""
    pieces = [one for one in logged if one.is_piece and identity(one.log) == identity(log)]
    found: list[Logged] = []
    reached = position
    while True:
        on = [one for one in pieces if one.log.from_lsn <= reached < one.log.to_lsn]
        if not on:
            return found
        found.append(max(on, key=lambda one: (one.log.to_lsn, one.log.from_lsn)))
        reached = found[-1].log.to_lsn


def segments_of(pieces: Iterable[Logged]) -> tuple[Segment, ...]:
    """Their segments in order, each once."""
    found = {segment.object: segment for one in pieces for segment in one.log.segments}
    return tuple(found.values())


def remove_gathered(repository: Repository, pieces: Sequence[Logged], sink: EventSink) -> None:
    """Remove pieces that another part holds now; a storage that refuses keeps them."""
    if not pieces:
        return
    try:
        remove_backups(repository.storage, [one.backup.entry for one in pieces])
    except StorageError as error:
        sink(Noted(f"pieces of the log that are gathered stay for now: {error.message}"))
