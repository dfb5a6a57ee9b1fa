"""What people say of a backup: hold it, let go of it, take its removal back."""

from dataclasses import dataclass, field
from datetime import datetime

from aurora.errors import (
    RepositoryNotFound,
    UsageError,
)
from aurora.repository import removals as removal_lists
from aurora.repository.door import Repository
from aurora.repository.holds import ALL, Hold, place_hold, read_holds, release_hold
from aurora.repository.removals import read_removals


@dataclass(slots=True)
class Marks:
    """What a list tells of a backup beside what it is."""

    held: list[str] = field(default_factory=list)  # why
    removed_at: datetime | None = None  # when its removal was announced
    elsewhere: bool = False  # it is on the secondary only, which keeps it for longer


def marks_of(repository: Repository, database: str | None) -> dict[str, Marks]:
    """Backup id, or ``all``, -> what is held or removed."""
    storage, signer = repository.storage, repository.signer
    found: dict[str, Marks] = {}
    for one in read_holds(storage, signer, database):
        found.setdefault(one.backup, Marks()).held.append(one.why)
    for removal in read_removals(storage, signer, database):
        for backup in removal.backups:
            mark = found.setdefault(backup, Marks())
            mark.removed_at = min(removal.at, mark.removed_at or removal.at)
    return found


def hold(repository: Repository, database: str, text: str, why: str) -> str:
    """Protect a backup, or with ``all`` the whole database, from removal; the backup's id.

    Raises:
        UsageError: no reason is given. RepositoryNotFound: no such backup. StorageError.
    """
    if not why.strip():
        raise UsageError(
            "a hold needs a reason",
            hint='Say who needs it and why: --why "incident 2026-11-25, ask Eva".',
        )
    backup = text if text == ALL else repository.resolve(text, database).id
    place_hold(repository.storage, repository.signer, database, backup, why.strip())
    return backup


def release(repository: Repository, database: str, text: str, why: str = "") -> list[Hold]:
    """End every hold on a backup, or with ``all`` on the whole database.

    Raises:
        RepositoryNotFound: no such backup, or nothing holds it. StorageError.
    """
    backup = text if text == ALL else repository.resolve(text, database).id
    holds = [one for one in read_holds(repository.storage, repository.signer, database)
             if one.backup == backup]  # fmt: skip
    if not holds:
        raise RepositoryNotFound(
            f"nothing holds {'the database ' + database if backup == ALL else backup}",
            hint="`aurora backup list` shows what is held.",
        )
    for one in holds:
        release_hold(repository.storage, repository.signer, one, why.strip())
    return holds


def undelete(repository: Repository, database: str, text: str) -> str:
    """Keep a backup whose removal was announced; its id. A hold keeps it until it is released.

    Raises:
        RepositoryNotFound: no such backup. UsageError: it is not removed. StorageError.
    """
    entry = repository.resolve(text, database)
    storage, signer = repository.storage, repository.signer
    lists = [one for one in read_removals(storage, signer, database) if entry.id in one.backups]
    if not lists:
        raise UsageError(f"{entry.id} is not removed", hint="There is nothing to undo.")
    # The hold first: a prune that looks between the two must not announce it again.
    place_hold(storage, signer, database, entry.id, "undeleted")
    for one in lists:
        removal_lists.take_back(storage, signer, one, entry.id)
    return entry.id
