"""Backup ids: made, parsed, and found again from what a person types.

``20261123T153742Z-full-kqzmw``: the time in UTC to the second, the type, and a few random
letters. Ids sort by time as plain text.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from aurora.errors import RepositoryNotFound, UsageError

LETTERS = "abcdefghjkmnpqrstuvwxyz"
"""Lower case without i, l and o, which are read as digits."""

_RANDOM_LETTERS = 5
_TIME = "%Y%m%dT%H%M%SZ"
_ID = re.compile(rf"(\d{{8}}T\d{{6}}Z)-([a-z]{{2,16}})-([{LETTERS}]{{4,5}})\Z")
_SHOWN = 12  # candidates listed in an error


@dataclass(frozen=True, slots=True)
class BackupId:
    """The parts of a backup id."""

    created_at: datetime  # UTC, whole seconds
    type: str
    letters: str

    def __str__(self) -> str:
        return f"{self.created_at.strftime(_TIME)}-{self.type}-{self.letters}"


class HasId(Protocol):
    """Anything that :func:`resolve` can choose from."""

    @property
    def id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...


Entry = TypeVar("Entry", bound=HasId)


def new_backup_id(kind: str, created_at: datetime, *, letters: str | None = None) -> str:
    """A new id for a backup of type *kind* (``full``, ``incremental``, ``sealed``)."""
    letters = letters or "".join(secrets.choice(LETTERS) for _ in range(_RANDOM_LETTERS))
    made = str(BackupId(created_at.astimezone(UTC), kind, letters))
    parse_backup_id(made)
    return made


def parse_backup_id(text: str) -> BackupId:
    """The parts of an exact id. Raises UsageError."""
    found = _ID.match(text)
    try:
        if found is None:
            raise ValueError(text)
        moment = datetime.strptime(found[1], _TIME).replace(tzinfo=UTC)
    except ValueError as error:
        raise UsageError(
            f"not a backup id: {text[:80]!r}",
            hint="A backup id looks like 20261123T153742Z-full-kqzmw.",
        ) from error
    return BackupId(moment, found[2], found[3])


SAFETY = "safety"
"""The type of backups that a restore takes of what it is about to replace."""

STREAM = "stream"
"""The type of pieces of the change log that a stream commits between two backups."""

SEALED = "sealed"
"""The type of backups that only the holder of an age identity can open."""

CHECKPOINT = "checkpoint"
"""The type of what a run commits of Storage objects that it copied, for the next run to go on
from if it dies. No backup, and never listed as one; see :meth:`Catalog.checkpoints`."""

APART = frozenset((SAFETY, SEALED))
"""Types that are never ``latest`` and have no place in a change log."""


def resolve(text: str, entries: Sequence[Entry]) -> Entry:
    """The one entry that *text* means.

    *text* is an exact id, a unique beginning or a unique end of one (the trailing letters
    are enough), ``latest`` (never a safety or a sealed backup), or ``latest:<type>``. Pieces
    that a stream committed are meant only by their whole id or type. *entries* may be in any
    order.

    Raises:
        RepositoryNotFound: no entry matches.
        UsageError: several do; the message lists them.
    """
    by_time = sorted(entries, key=lambda entry: (entry.created_at, entry.id))
    wanted, _, kind = text.partition(":")
    if wanted == "latest":
        # A safety backup holds the state that somebody wanted to get away from, and a sealed
        # one does not open without a key that is kept elsewhere.
        matches = [entry for entry in by_time if entry.type == (kind or entry.type)]
        aside = {*APART, STREAM}
        matches = [entry for entry in matches if kind or entry.type not in aside][-1:]
    else:
        matches = _matches(text, by_time)
    if not matches:
        raise _nothing(text, by_time)
    if len(matches) > 1:
        shown = ", ".join(entry.id for entry in matches[-_SHOWN:])
        raise UsageError(
            f"{text!r} means {len(matches)} backups: {shown}",
            hint="Type more of the id, or its last letters.",
            context={"candidates": [entry.id for entry in matches]},
        )
    return matches[0]


def _matches(text: str, entries: Sequence[Entry]) -> list[Entry]:
    if not text:
        return []
    exact = [entry for entry in entries if entry.id == text]
    entries = [entry for entry in entries if entry.type != STREAM]
    return (
        exact
        or [entry for entry in entries if entry.id.startswith(text)]
        or [entry for entry in entries if entry.id.rpartition("-")[2].endswith(text)]
    )


def _nothing(text: str, entries: Sequence[Entry]) -> RepositoryNotFound:
    newest = ", ".join(entry.id for entry in entries[-3:])
    return RepositoryNotFound(
        f"no backup {text[:80]!r} in this repository",
        hint=f"The newest backups are: {newest}."
        if newest
        else "It holds no backup of this database; `aurora backup list --all` shows all.",
        context={"wanted": text},
    )
