"""`aurora doctor`: look at everything that a backup and a restore will need.

Changes nothing but the probe's own objects on the storages. Each finding says what is
wrong and what to do; the worst of them decides the exit code.
"""

import stat
from collections.abc import Collection, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal, Protocol

from aurora.errors import AuroraError, RepositoryNotFound
from aurora.operations.content import Backup
from aurora.operations.findings import Finding, Level, failed, good, guarded, warning
from aurora.operations.lock_checks import check_locked_until, check_object_lock, read_locked
from aurora.operations.log_checks import check_log
from aurora.operations.objects import SourceObjects
from aurora.operations.objects_checks import check_objects
from aurora.operations.source_checks import check_source, source_facts
from aurora.operations.storage_checks import check_apart_from_source, check_storage, check_together
from aurora.postgres.conninfo import ConnInfo
from aurora.repository.door import Repository
from aurora.repository.ground import Ground
from aurora.repository.ids import SEALED, STREAM
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import MirrorView
from aurora.repository.slots import SlotInfo
from aurora.storage.base import Storage
from aurora.storage.object_lock import ObjectLock
from aurora.units import plural

Place = Literal["primary", "secondary"]


class Subject(Protocol):
    """What doctor needs of the composition root (:class:`aurora.wiring.Aurora` is one)."""

    @property
    def database(self) -> str: ...
    @property
    def has_secondary(self) -> bool: ...
    def source(self) -> ConnInfo: ...
    def source_dsn(self) -> str: ...
    def source_objects(self) -> SourceObjects: ...
    def storage(self, place: Place) -> Storage: ...
    def object_lock(self, place: Place) -> ObjectLock | None: ...
    def longest_retention(self, place: Place) -> timedelta: ...
    def open_primary(self) -> Repository: ...
    def open_secondary_view(self) -> MirrorView: ...
    def secret_files(self) -> list[Path]: ...


def examine(
    subject: Subject, *, jobs: int, skip: Collection[str] = (), chunk_bytes: int = 8 << 20
) -> Iterator[Finding]:
    """All findings, in the order of looking. Never raises an AuroraError."""
    yield from _check_secret_files(subject)
    yield from guarded(lambda: check_source(subject.source(), jobs=jobs, skip=skip))
    yield from guarded(lambda: check_log(subject.source(), subject.database, skip))
    yield from guarded(lambda: check_objects(subject.source_dsn(), subject.source_objects()))
    size = _source_size(subject)
    yield from guarded(
        lambda: check_storage(
            "primary", subject.storage("primary"), needed=size, chunk_bytes=chunk_bytes
        )
    )
    yield from guarded(
        lambda: check_apart_from_source("primary", subject.storage("primary"), subject.source())
    )
    yield from guarded(lambda: _check_lock(subject, "primary"))
    yield from guarded(lambda: _check_primary(subject), about="primary")
    if not subject.has_secondary:
        yield warning(
            "no-secondary",
            "there is no secondary storage: one accident can take every backup",
            "Add [secondary] to aurora.toml, at another provider, and run `aurora init` again.",
        )
        return
    yield from guarded(
        lambda: check_storage(
            "secondary", subject.storage("secondary"), needed=size, chunk_bytes=chunk_bytes
        )
    )
    yield from guarded(
        lambda: check_apart_from_source("secondary", subject.storage("secondary"), subject.source())
    )
    yield from guarded(lambda: _check_lock(subject, "secondary"))
    yield from guarded(lambda: _check_secondary(subject), about="secondary")
    yield from guarded(
        lambda: check_together(subject.storage("primary"), subject.storage("secondary"))
    )


def worst(findings: Iterable[Finding]) -> Level:
    """``error`` if any is one, else ``warning`` if any is one, else ``ok``."""
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.ERROR, Level.WARNING) if level in levels), Level.OK)


def _check_secret_files(subject: Subject) -> Iterator[Finding]:
    for path in subject.secret_files():
        # A missing one is told where it is needed.
        if path.is_file() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield warning(
                "secret-readable",
                f"other users of this machine may read the secret in {path}",
                f"chmod 600 {path}",
            )


def _source_size(subject: Subject) -> int | None:
    try:
        return source_facts(subject.source()).database_size
    except AuroraError:
        return None  # told already


def _check_primary(subject: Subject) -> Iterator[Finding]:
    repository = subject.open_primary()
    backups = [
        one for one in repository.backups(subject.database) if one.type not in (SEALED, STREAM)
    ]
    yield good(
        "primary-opens",
        f"primary: repository {repository.repository_id.hex()[:8]} opens with the passphrase, "
        f"{plural(len(backups), 'backup')} of {subject.database}",
    )
    yield from _check_locked_until(subject, "primary", repository.ground())
    yield from _check_slots("primary", repository.slots())
    yield from _check_identity(subject, repository)
    others = [name for name in repository.databases() if name != subject.database]
    if others and not backups:
        yield warning(
            "database-label",
            f"the repository holds backups of {', '.join(others)}, none of {subject.database}",
            "If this is the same database, set name under [source] in aurora.toml to its label "
            "in the repository.",
        )


def _check_lock(subject: Subject, place: Place) -> Iterator[Finding]:
    lock = subject.object_lock(place)
    if lock is not None:
        yield from check_object_lock(place, lock, longest=subject.longest_retention(place))


def _check_locked_until(subject: Subject, place: Place, ground: Ground) -> Iterator[Finding]:
    lock = subject.object_lock(place)
    if lock is not None:
        yield from check_locked_until(place, lock.rule.margin, read_locked(ground))


def _check_slots(place: Place, slots: list[SlotInfo]) -> Iterator[Finding]:
    kinds = sorted(slot.kind for slot in slots if slot.genuine)
    if strange := [slot.id for slot in slots if not slot.genuine]:
        yield failed(
            f"{place}-slot-foreign",
            f"{place}: {len(strange)} key slots were not made by an owner of the master key",
            f"Somebody may have written to the storage. Foreign slots: {', '.join(strange)}.",
        )
    if len(kinds) < 2:
        yield _one_slot(place)
    else:
        yield good(
            f"{place}-slots", f"{place}: {plural(len(kinds), 'key slot')} ({', '.join(kinds)})"
        )


def _one_slot(place: Place) -> Finding:
    return warning(
        f"{place}-one-slot",
        f"{place}: there is one key slot only",
        "If that secret is lost, every backup on it is lost. Add a second slot, a recovery code, "
        "and keep it off this machine.",
    )


def _check_identity(subject: Subject, repository: Repository) -> Iterator[Finding]:
    """Whether the newest backup was made of the database that is configured now."""
    backups = [
        one for one in repository.backups(subject.database) if one.type not in (SEALED, STREAM)
    ]
    if not backups:
        return
    then = Backup(repository, backups[-1]).snapshot.source
    try:
        now = source_facts(subject.source())
    except AuroraError:
        return  # told already
    identifier = str(now.system_identifier or "")
    same_server = not (then.system_identifier and identifier) or (
        then.system_identifier == identifier
    )
    if same_server and then.database.name == now.database:
        yield good("source-same", f"the newest backup, {backups[-1].id}, is of this database")
        return
    yield warning(
        "source-changed",
        f"the backups of {subject.database} are of another source: database "
        f"{then.database.name} on {then.address}",
        "If it is another database, give it another name under [source]. If it is the same "
        "one moved to another server, run `aurora backup create --accept-new-source` once.",
    )


def _check_secondary(subject: Subject) -> Iterator[Finding]:
    try:
        mirror = subject.open_secondary_view()
    except RepositoryNotFound as error:
        yield failed("secondary-missing", f"secondary: {error.message}", error.hint)
        return
    yield good("secondary-opens", "secondary: its outer layer opens with its passphrase")
    yield from _check_locked_until(subject, "secondary", mirror.ground())
    # Without the slots' own keys they can only be counted here.
    count = sum(1 for _ in subject.storage("secondary").list(ObjectType.SLOT.prefix))
    if count < 2:
        yield _one_slot("secondary")
    else:
        yield good("secondary-slots", f"secondary: {count} key slots")
    yield from _check_replica(subject, mirror)


def _check_replica(subject: Subject, mirror: MirrorView) -> Iterator[Finding]:
    """Whether the secondary has the backups that the primary has."""
    prefix = f"{ObjectType.BACKUP.prefix}{subject.database}/"
    here = {info.name for info in subject.storage("primary").list(prefix)}
    there = {info.name for info in mirror.list(prefix)}
    if behind := len(here - there):
        yield warning(
            "secondary-behind",
            f"secondary: {behind} of {len(here)} backups are not there yet",
            "Run `aurora backup replicate`.",
        )
    else:
        yield good("secondary-backups", f"secondary: {plural(len(there), 'backup')}")
