"""Backups that are removed between a listing and a look, as a stream removes its pieces."""

from collections.abc import Iterator

from aurora.repository.door import Repository
from aurora.repository.keys import Passphrase
from aurora.repository.mirror import replicate
from aurora.repository.removal import remove_backups
from aurora.storage.base import ObjectInfo
from aurora.storage.memory import MemoryStorage
from tests.unit.test_repository_kit import (
    PASSPHRASE,
    backup,
    create,
    create_mirror,
    names,
    payloads,
)


class Vanishing(MemoryStorage):
    """Right after manifests are listed the first backup is removed."""

    victim: object = None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = list(super().list(prefix))
        if prefix.startswith("backups/") and self.victim is not None:
            victim, self.victim = self.victim, None
            remove_backups(self, [victim])  # type: ignore[list-item]
        return iter(found)


def _two() -> tuple[Vanishing, Repository]:
    storage = Vanishing("primary")
    repository = create(storage)
    backup(repository, payloads(1), day=1)
    backup(repository, payloads(2), day=2)
    return storage, Repository.open(storage, Passphrase(PASSPHRASE))


def test_a_list_leaves_out_what_is_gone_and_calls_it_no_damage() -> None:
    storage, repository = _two()
    first, second = repository.backups()
    storage.victim = first
    fresh = Repository.open(storage, Passphrase(PASSPHRASE))
    assert [(one.id, one.damage) for one in fresh.backups()] == [(second.id, None)]


def test_refs_that_are_lost_beside_their_manifest_are_damage() -> None:
    storage, repository = _two()
    first, _ = repository.backups()
    storage.delete([first.refs_name])
    fresh = Repository.open(storage, Passphrase(PASSPHRASE))
    assert [one.damage is not None for one in fresh.backups()] == [True, False]


def test_a_copying_run_does_not_mind() -> None:
    storage, repository = _two()
    first, second = repository.backups()
    mirror = create_mirror(MemoryStorage("secondary"))
    storage.victim = first
    report = replicate(storage, mirror)
    assert report.is_complete
    assert list(report.lacking) == [(second.database, second.id)]
    assert first.manifest_name not in names(storage)
