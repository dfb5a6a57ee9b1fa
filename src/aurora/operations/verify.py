"""Verifying a backup and healing it: the repository's checks, told in the user's words."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from aurora import clock
from aurora.engines.base import TableData
from aurora.engines.logical.names import shown
from aurora.errors import AuroraError, IntegrityError
from aurora.events import EventSink
from aurora.operations.content import Backup
from aurora.operations.seal import recipients_of
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import ClosedRepository, Repository
from aurora.repository.heal import heal
from aurora.repository.ids import APART, SEALED, STREAM, resolve
from aurora.repository.layout import ObjectType, parse_dated
from aurora.repository.mirror import MirrorView
from aurora.repository.refs import Refs
from aurora.repository.retention import Policy, likely_kept
from aurora.repository.sealed_door import SealedRepository
from aurora.repository.trail import bring_records
from aurora.repository.verify import BadObject, Level, VerifyReport, verify
from aurora.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification found, and whose rows lie in what is bad."""

    entry: BackupEntry
    report: VerifyReport
    tables: dict[str, list[str]]  # object name -> names of tables; empty without keys
    recipients: list[str] = field(default_factory=list)  # of a sealed backup, where a key tells


def verify_backup(
    repository: ClosedRepository,
    entry: BackupEntry,
    level: Level,
    *,
    subset: tuple[int, int] | None,
    budget_seconds: float | None,
    sink: EventSink,
) -> Verified:
    """See :func:`aurora.repository.verify.verify`.

    With the pieces of the log that a stream stored after it, up to the next backup.
    """
    chosen = [entry, *_streamed_since(repository, entry)]
    report = verify(
        repository, chosen, level, subset=subset, budget_seconds=budget_seconds, sink=sink
    )
    gone = _removed_since(repository, chosen[1:], report)
    report.bad = [one for one in report.bad if one.name not in gone]
    recipients: list[str] = []
    if entry.type == SEALED and isinstance(repository, Repository) and report.ok:
        recipients = recipients_of(repository, entry)
    return Verified(entry, report, tables_touched(repository, entry, report.bad), recipients)


def _streamed_since(repository: ClosedRepository, entry: BackupEntry) -> list[BackupEntry]:
    if entry.type in (*APART, STREAM):
        return []
    later = [one for one in repository.backups(entry.database) if one.created_at > entry.created_at]
    found: list[BackupEntry] = []
    for one in later:
        if one.type == STREAM:
            found.append(one)
        elif one.type not in APART:
            break
    return found


def _removed_since(
    repository: ClosedRepository, pieces: Iterable[BackupEntry], report: VerifyReport
) -> set[str]:
    """Refs and manifests of pieces that were gathered and removed while this looked."""
    bad = {one.name for one in report.bad}
    names = {name: one for one in pieces for name in (one.refs_name, one.manifest_name)}
    catalog = repository.catalog_alone()
    return {
        name for name in bad & names.keys() if catalog.is_gone(names[name].database, names[name].id)
    }


def tables_touched(
    repository: ClosedRepository, entry: BackupEntry, bad: Iterable[BadObject]
) -> dict[str, list[str]]:
    """Which tables' rows lie in each bad object; needs the keys, and a readable manifest."""
    names = {one.name for one in bad}
    if not names or not isinstance(repository, Repository | SealedRepository):
        return {}
    try:
        backup = Backup(repository, entry)
    except AuroraError:
        return {}
    if backup.is_piece:
        return {name: ["(the change log)"] for name in names}
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
    records: list[str] = field(default_factory=list)  # of the audit trail, back on the primary
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def heal_backups(
    primary: Storage,
    mirror: MirrorView,
    text: str,
    database: str,
    *,
    policy: Policy | None = None,
    sink: EventSink,
) -> list[Healed]:
    """Find what is bad of a backup on either storage and heal it from the other.

    *text* ``all`` means every backup of *database*: so a lost primary is filled again from
    the secondary, or the other way round. With the primary's *policy*, those that are on the
    secondary alone only as far as it keeps them: the others were pruned, not lost.

    Raises:
        RepositoryNotFound, UsageError, StorageError.
    """
    # Either side may have lost what says which backups there are: both are asked.
    entries: dict[str, BackupEntry] = {}
    for one, other in ((primary, mirror), (mirror, primary)):
        known = ClosedRepository(one, fallback=other, sink=sink)
        entries |= {entry.id: entry for entry in known.backups(database)}
    by_time = [entries[backup_id] for backup_id in sorted(entries)]
    if text != "all":
        wanted = [resolve(text, by_time)]
    elif policy is not None:
        kept = _traces(primary, database) | _likely_kept(primary, mirror, database, policy)
        wanted = [entry for entry in by_time if entry.id in kept]
    else:
        wanted = by_time
    healed = [_heal_one(primary, mirror, entry, sink) for entry in wanted]
    if healed:
        healed[-1].records = bring_records(mirror, primary)
    return healed


def _traces(storage: Storage, database: str) -> set[str]:
    """Backups of which the storage has a manifest or refs: a removal takes both."""
    prefixes = (ObjectType.BACKUP.prefix, ObjectType.REFS.prefix)
    names = (parse_dated(i.name) for one in prefixes for i in storage.list(f"{one}{database}/"))
    return {name[1] for name in names if name is not None}


def _likely_kept(primary: Storage, mirror: MirrorView, database: str, policy: Policy) -> set[str]:
    found: dict[str, tuple[str, str, datetime]] = {}
    for storage in (mirror, primary):
        for info in storage.list(f"{ObjectType.BACKUP.prefix}{database}/"):
            name = parse_dated(info.name)
            if name is not None and (kind := name[1].split("-")[1:2]):
                found[name[1]] = (name[1], kind[0], info.modified_at)
    return likely_kept(found.values(), policy, now=clock.now())


def _heal_one(primary: Storage, mirror: MirrorView, entry: BackupEntry, sink: EventSink) -> Healed:
    begun = time.monotonic()
    done = Healed(entry.id)
    sides: tuple[tuple[Storage, Storage, list[str]], ...] = (
        (primary, mirror, done.primary),
        (mirror, primary, done.secondary),
    )
    for target, source, names in sides:
        healed, failed = _heal_side(target, source, entry, sink)
        names.extend(healed)
        done.failed |= failed
    done.seconds = time.monotonic() - begun
    return done


def _heal_side(
    target: Storage, source: Storage, entry: BackupEntry, sink: EventSink
) -> tuple[list[str], dict[str, str]]:
    """Heal *target* until a look finds nothing more that can be: refs tell of more objects."""
    view = ClosedRepository(target, fallback=source, sink=sink)
    refs = _trusted_refs(target, source, entry)
    healed: list[str] = []
    while True:
        bad = [one.name for one in verify(view, entry, Level.CIPHERTEXT, sink=sink).bad]
        # Key slots are named by no refs. Where none is left they were lost with the storage;
        # a single one may have been removed on purpose and must not come back.
        if not _slots(target):
            bad += _slots(source)
        if _differ(target, source, entry):
            bad.append(entry.refs_name)
        bad = [name for name in dict.fromkeys(bad) if name not in healed]
        if not bad:
            return healed, {}
        report = heal(source, target, bad, [refs], sink=sink)
        healed += report.healed
        if report.failed:
            return healed, report.failed


def _slots(storage: Storage) -> list[str]:
    return [info.name for info in storage.list(ObjectType.SLOT.prefix)]


def _trusted_refs(target: Storage, source: Storage, entry: BackupEntry) -> Refs:
    """The refs as the secondary has them, where it has them.

    Without a key nobody can tell forged refs on the primary; the secondary's envelope can.
    """
    mirror, primary = (target, source) if isinstance(target, MirrorView) else (source, target)
    try:
        return (
            ClosedRepository(mirror, fallback=primary)
            .catalog_alone()
            .refs(entry.database, entry.id)
        )
    except IntegrityError:
        return ClosedRepository(primary, fallback=mirror).refs(entry)


def _differ(target: Storage, source: Storage, entry: BackupEntry) -> bool:
    """Whether the primary's refs are other than the secondary's."""
    if isinstance(target, MirrorView):
        return False
    try:
        return target.get(entry.refs_name) != source.get(entry.refs_name)
    except IntegrityError:
        return False  # one is missing: that is found elsewhere
