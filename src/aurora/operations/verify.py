"""Verifying a backup and healing it: the repository's checks, told in the user's words."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from aurora.engines.base import TableData
from aurora.engines.logical.names import shown
from aurora.errors import AuroraError
from aurora.events import EventSink
from aurora.operations.content import Backup
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import ClosedRepository, Repository
from aurora.repository.heal import heal
from aurora.repository.mirror import MirrorView
from aurora.repository.verify import BadObject, Level, VerifyReport, verify
from aurora.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification found, and whose rows lie in what is bad."""

    entry: BackupEntry
    report: VerifyReport
    tables: dict[str, list[str]]  # object name -> names of tables; empty without keys


def verify_backup(
    repository: ClosedRepository,
    entry: BackupEntry,
    level: Level,
    *,
    subset: tuple[int, int] | None,
    budget_seconds: float | None,
    sink: EventSink,
) -> Verified:
    """See :func:`aurora.repository.verify.verify`."""
    report = verify(
        repository, entry, level, subset=subset, budget_seconds=budget_seconds, sink=sink
    )
    return Verified(entry, report, tables_touched(repository, entry, report.bad))


def tables_touched(
    repository: ClosedRepository, entry: BackupEntry, bad: Iterable[BadObject]
) -> dict[str, list[str]]:
    """Which tables' rows lie in each bad object; needs the keys, and a readable manifest."""
    names = {one.name for one in bad}
    if not names or not isinstance(repository, Repository):
        return {}
    try:
        backup = Backup(repository, entry)
    except AuroraError:
        return {}
    tables = {t.oid: shown(t.schema, t.name) for t in backup.snapshot.tables}
    found: dict[str, list[str]] = {}
    for one in backup.body.objects:
        if one.object in names:
            found.setdefault(one.object, []).append(tables.get(one.oid, "?"))
    lost = {one.oid for one in backup.body.objects if one.object in names}
    readable = {data.oid for data in backup.body.data} - lost
    for data in _readable_data(backup, readable):
        for name in {extent.object for extent in data.extents} & names:
            found.setdefault(name, []).append(tables.get(data.oid, "?"))
    pieces = {piece.object for piece in (*backup.snapshot.archive.pieces, *backup.snapshot.globals)}
    for name in pieces & names:
        found.setdefault(name, []).append("(the schema)")
    return found


def _readable_data(backup: Backup, oids: set[int]) -> list[TableData]:
    try:
        return backup.data(oids)
    except AuroraError:
        return []


@dataclass(slots=True)
class Healed:
    """What a healing did on both storages."""

    backup_id: str
    primary: list[str] = field(default_factory=list)
    secondary: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def heal_backup(
    primary: Storage, mirror: MirrorView, text: str, database: str, *, sink: EventSink
) -> Healed:
    """Find what is bad of one backup on either storage and heal it from the other.

    Raises:
        RepositoryNotFound, UsageError, StorageError.
    """
    begun = time.monotonic()
    # Either side may have lost what says which backups there are: both are asked.
    first = ClosedRepository(primary, fallback=mirror, sink=sink)
    entry = first.resolve(text, database)
    refs = first.refs(entry)
    done = Healed(entry.id)
    sides = ((primary, mirror, done.primary), (mirror, primary, done.secondary))
    for target, source, names in sides:
        view = ClosedRepository(target, fallback=source, sink=sink)
        bad = verify(view, entry, Level.CIPHERTEXT, sink=sink).bad
        if bad:
            report = heal(source, target, [one.name for one in bad], [refs], sink=sink)
            names.extend(report.healed)
            done.failed |= report.failed
    done.seconds = time.monotonic() - begun
    return done
