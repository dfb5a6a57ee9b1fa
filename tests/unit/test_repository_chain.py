"""The chain of backups: pruning is normal, rolling back is not."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from aurora.errors import UnsupportedRepository
from aurora.repository.chain import Chain, Head
from aurora.repository.door import Repository
from aurora.repository.refs import Previous, Refs, write_refs
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import FaultyStorage
from tests.unit.test_repository_kit import backup, commit, create, flip, payloads, reopen


def _three() -> tuple[MemoryStorage, Repository]:
    storage = MemoryStorage()
    repository = create(storage)
    for day in (1, 2, 3):
        backup(repository, payloads(day), day=day)
    return storage, repository


def test_links() -> None:
    """Numbers count up, each naming the one before by its hash."""
    _, repository = _three()
    chain = repository.chain("db")
    assert [link.sequence for link in chain.links] == [1, 2, 3]
    assert (chain.faults, chain.damaged) == ((), ())
    first, second, third = (repository.refs(entry) for entry in repository.backups())
    assert first.previous is None
    assert second.previous is not None
    assert second.previous.sha256 == first.manifest.sha256
    assert chain.head == Head(3, third.backup, third.manifest.sha256)
    commit_part = repository.manifest(repository.resolve("latest"))["commit"]
    assert commit_part["previous"]["backup"] == second.backup
    chain.check_against(chain.head)
    chain.check_against(None)
    assert repository.chain("other").head is None


def test_pruning_is_no_fault() -> None:
    """Any backup but the newest may go."""
    storage, repository = _three()
    head = repository.chain("db").head
    for entry in repository.backups()[:2]:
        storage.delete([entry.manifest_name, entry.refs_name])
        reopen(storage).chain("db").check_against(head)


def test_an_older_state_of_the_storage_is_noticed() -> None:
    """Exit code 13."""
    storage, repository = _three()
    head = repository.chain("db").head
    newest = repository.backups()[-1]
    storage.delete([newest.manifest_name, newest.refs_name])
    with pytest.raises(UnsupportedRepository, match=newest.id) as info:
        reopen(storage).chain("db").check_against(head)
    assert info.value.exit_code == 13
    with pytest.raises(UnsupportedRepository):
        repository.chain("emptied").check_against(head)


def test_a_replaced_newest_backup_is_noticed() -> None:
    """Rolled back and written on: the number is there, the backup is another."""
    _, repository = _three()
    head = repository.chain("db").head
    assert head is not None
    chain = repository.chain("db")
    other = Head(head.sequence, head.backup, "00" * 32)
    with pytest.raises(UnsupportedRepository, match="another one"):
        chain.check_against(other)


def test_a_link_that_does_not_fit_is_noticed() -> None:
    """A predecessor that is there and is not what its successor saw."""
    fault = Chain("db", (), ("backup a is not the one that backup b was made after",))
    with pytest.raises(UnsupportedRepository, match="backup a"):
        fault.check_against(None)


@pytest.mark.parametrize(
    "previous,sequence",
    [
        (lambda first: replace(first, sha256="00" * 32), 2),
        (lambda first: replace(first, sequence=5), 6),
        (lambda first: first, 3),
    ],
)
def test_refs_that_do_not_fit_are_a_fault(
    previous: Callable[[Previous], Previous], sequence: int
) -> None:
    """Signed by the owner, but of another history: somebody put an old state back."""
    storage, repository = _three()
    first, second, third = repository.backups()
    storage.delete([third.manifest_name, third.refs_name])
    seen = Previous(first.id, 1, first.manifest_sha256 or "")
    forged = replace(repository.refs(second), previous=previous(seen), sequence=sequence)
    stored = write_refs(
        forged, repository_id=repository.repository_id, mac_key=repository._mac_key()
    )
    storage.put(second.refs_name, stored)
    chain = reopen(storage).chain("db")
    assert len(chain.faults) == 1
    assert first.id in chain.faults[0] or second.id in chain.faults[0]
    with pytest.raises(UnsupportedRepository):
        chain.check_against(None)


def test_damage_is_not_called_a_rollback() -> None:
    """A flipped manifest or refs is for healing."""
    storage, repository = _three()
    head = repository.chain("db").head
    first, second, _ = repository.backups()
    flip(storage, first.manifest_name)
    flip(storage, second.refs_name)
    chain = reopen(storage).chain("db")
    assert sorted(chain.damaged) == [first.id, second.id]
    chain.check_against(head)


def test_two_written_at_once_are_a_fork_and_no_fault() -> None:
    """Both came after the same one."""
    storage, repository = _three()
    with repository.write("db") as one, reopen(storage).write("db") as other:
        for writer in (one, other):
            writer._catalog = repository.catalog_alone()
        previous = [writer._previous("20261201T000000Z-full-aaaa") for writer in (one, other)]
        assert previous[0] == previous[1]
        commit(one, [], day=4)
    chain = reopen(storage).chain("db")
    assert [link.sequence for link in chain.links] == [1, 2, 3, 4]
    assert chain.faults == ()


def test_a_rollback_that_was_written_on_is_noticed() -> None:
    """The newest backup is gone and another one has its number."""
    storage, repository = _three()
    head = repository.chain("db").head
    newest = repository.backups()[-1]
    storage.delete([newest.manifest_name, newest.refs_name])
    other = backup(reopen(storage), payloads(9), day=9)
    with pytest.raises(UnsupportedRepository, match=f"now {other.id} has its number 3"):
        reopen(storage).chain("db").check_against(head)


def test_refs_are_read_no_further_ahead_than_they_are_used() -> None:
    """Those of a large repository, all at once, would fill the memory."""
    storage, repository = _three()
    counter = FaultyStorage(storage)
    found = (
        reopen(counter)
        .catalog_alone()
        .read_all([(entry.database, entry.id) for entry in repository.backups()] * 20)
    )
    assert isinstance(next(iter(found))[1], Refs)
    assert len(counter.nths("get", "refs/")) <= 8
    assert len(list(found)) == 59
