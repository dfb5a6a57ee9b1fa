"""What this machine saw last of each database's backups, to notice a storage rolled back.

Kept beside aurora.toml as ``aurora.state/heads.json``: the newest backup's number and the
hash of its manifest, for each repository and database. Losing the file loses this
protection until the next backup, and nothing else.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from aurora.errors import UnsupportedRepository
from aurora.events import EventSink, Warned
from aurora.repository.catalog import BackupEntry
from aurora.repository.chain import Head
from aurora.repository.door import ClosedRepository


class Memory:
    """The remembered heads in one directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "heads.json"

    def check(self, repository: ClosedRepository, database: str) -> None:
        """Raise when the storage shows less than was seen.

        Raises:
            UnsupportedRepository: backups that were there are gone, or others in their place.
        """
        seen = self._recall(repository, database)
        if seen is None or self._goes_on(repository.backups(database), seen):
            return
        try:
            repository.chain(database).check_against(seen)
        except UnsupportedRepository as error:
            raise UnsupportedRepository(
                error.message,
                hint=f"{error.hint} If you removed backups yourself, delete {self._path}.",
            ) from error

    def warn(self, repository: ClosedRepository, database: str, sink: EventSink) -> None:
        """As :meth:`check`, for a restore, which goes on with what is there."""
        try:
            self.check(repository, database)
        except UnsupportedRepository as error:
            sink(Warned("rolled-back", error.message, error.hint))

    def remember(self, repository: ClosedRepository, entry: BackupEntry) -> None:
        """Note the backup that was just made. Raises OSError."""
        known = self._load()
        known[_key(repository, entry.database)] = {
            "sequence": entry.sequence,
            "backup": entry.id,
            "sha256": entry.manifest_sha256,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
        temporary.replace(self._path)

    @staticmethod
    def _goes_on(entries: Sequence[BackupEntry], seen: Head) -> bool:
        """Whether the listing alone shows that nothing was turned back."""
        same = [entry for entry in entries if entry.id == seen.backup]
        newest = max((entry.sequence or 0 for entry in entries), default=0)
        return newest >= seen.sequence and any(
            entry.manifest_sha256 == seen.sha256 for entry in same
        )

    def _recall(self, repository: ClosedRepository, database: str) -> Head | None:
        found = self._load().get(_key(repository, database))
        try:
            return Head(**found) if found else None  # type: ignore[arg-type]
        except TypeError:
            return None

    def _load(self) -> dict[str, dict[str, object]]:
        try:
            known = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def _key(repository: ClosedRepository, database: str) -> str:
    return f"{repository.repository_id.hex()}/{database}"
