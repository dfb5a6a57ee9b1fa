"""What this machine saw last of a repository, to notice a storage that was turned back.

Kept beside aurora.toml as ``aurora.state/seen.json``: for each database the repository, its
newest backup's number and the hash of its manifest; and the objects that a verification
found bad, which no later backup may then reuse. Losing the file loses this protection
until the next backup, and nothing else.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from aurora.errors import UnsupportedRepository
from aurora.events import EventSink, Warned
from aurora.repository.catalog import BackupEntry
from aurora.repository.chain import Head
from aurora.repository.door import ClosedRepository


class Memory:
    """What is remembered in one directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "seen.json"

    def check(self, repository: ClosedRepository, database: str) -> None:
        """Raise when the storage shows less than was seen.

        Raises:
            UnsupportedRepository: another repository, or backups that were there are gone.
        """
        seen = self._load()["heads"].get(database)
        if seen is None:
            return
        forget = f"If you changed that yourself, delete {self._path}."
        if seen.get("repository") != repository.repository_id.hex():
            raise UnsupportedRepository(
                f"the storage holds another repository than the one that backup "
                f"{seen.get('backup')} of {database} went to",
                hint=f"Nothing was changed. Check the addresses in aurora.toml. {forget}",
            )
        head = Head(int(seen["sequence"]), str(seen["backup"]), str(seen["sha256"]))
        if _goes_on(repository.backups(database), head):
            return
        try:
            repository.chain(database).check_against(head)
        except UnsupportedRepository as error:
            raise UnsupportedRepository(error.message, hint=f"{error.hint} {forget}") from error

    def warn(self, repository: ClosedRepository, database: str, sink: EventSink) -> None:
        """As :meth:`check`, for a restore, which goes on with what is there."""
        try:
            self.check(repository, database)
        except UnsupportedRepository as error:
            sink(Warned("rolled-back", error.message, error.hint))

    def remember(self, repository: ClosedRepository, entry: BackupEntry) -> None:
        """Note the backup that was just made. Raises OSError."""
        known = self._load()
        known["heads"][entry.database] = {
            "repository": repository.repository_id.hex(),
            "sequence": entry.sequence,
            "backup": entry.id,
            "sha256": entry.manifest_sha256,
        }
        self._store(known)

    def distrusted(self) -> frozenset[str]:
        """Names of the primary's objects that were found bad and not healed since."""
        return frozenset(self._load()["bad"])

    def note_checked(self, bad: Collection[str], good: Iterable[str] = ()) -> None:
        """Note what a look at the primary found: *bad* names, and names known to be *good*."""
        known = self._load()
        names = sorted((set(known["bad"]) - set(good)) | set(bad))
        if names != known["bad"]:
            self._store({**known, "bad": names})

    def _load(self) -> dict[str, Any]:
        try:
            known = json.loads(self._path.read_text())
            return {"heads": dict(known["heads"]), "bad": list(known["bad"])}
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return {"heads": {}, "bad": []}

    def _store(self, known: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
        temporary.replace(self._path)


def _goes_on(entries: Sequence[BackupEntry], seen: Head) -> bool:
    """Whether the listing alone shows that nothing was turned back."""
    newest = max((entry.sequence or 0 for entry in entries), default=0)
    return newest >= seen.sequence and any(
        entry.id == seen.backup and entry.manifest_sha256 == seen.sha256 for entry in entries
    )
