"""What this machine remembers of a repository, against a storage that goes back in time."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from aurora.errors import UnsupportedRepository
from aurora.operations.memory import Memory
from aurora.repository.door import Repository
from aurora.repository.ids import new_backup_id
from aurora.repository.keys import WEAK_KDF_FOR_TESTS
from aurora.storage.memory import MemoryStorage


def _commit(repository: Repository, second: int) -> str:
    moment = datetime(2026, 11, 23, 12, 0, second, tzinfo=UTC)
    with repository.write("app") as writer:
        entry = writer.commit(
            backup_id=new_backup_id("full", moment),
            type="full",
            created_at=moment,
            manifest={},
            uses=[],
        )
    return entry.id


def test_a_storage_rolled_back_is_noticed(tmp_path: Path) -> None:
    """The newest backup vanishes: refused with what was seen and how to go on."""
    storage = MemoryStorage()
    repository, _ = Repository.create(storage, passphrase="p" * 12, kdf=WEAK_KDF_FOR_TESTS)
    memory = Memory(tmp_path / "aurora.state")
    memory.check(repository, "app")
    _commit(repository, 1)
    before = dict(storage.objects)
    seen = _commit(repository, 2)
    memory.remember(repository, repository.resolve(seen, "app"))
    memory.check(repository, "app")
    storage.objects.clear()
    storage.objects.update(before)
    with pytest.raises(UnsupportedRepository, match=seen) as info:
        memory.check(repository, "app")
    assert "seen.json" in info.value.hint


def test_a_longer_history_is_accepted(tmp_path: Path) -> None:
    """Backups made since, elsewhere, are no rollback; a broken state file is forgotten."""
    storage = MemoryStorage()
    repository, _ = Repository.create(storage, passphrase="p" * 12, kdf=WEAK_KDF_FOR_TESTS)
    memory = Memory(tmp_path / "aurora.state")
    memory.remember(repository, repository.resolve(_commit(repository, 1), "app"))
    _commit(repository, 2)
    memory.check(repository, "app")
    (tmp_path / "aurora.state" / "seen.json").write_text("{")
    memory.check(repository, "app")


def test_another_repository_is_noticed(tmp_path: Path) -> None:
    """The address now leads to a repository that opens with the same passphrase."""
    memory = Memory(tmp_path)
    first, _ = Repository.create(MemoryStorage(), passphrase="p" * 12, kdf=WEAK_KDF_FOR_TESTS)
    memory.remember(first, first.resolve(_commit(first, 1), "app"))
    other, _ = Repository.create(MemoryStorage(), passphrase="p" * 12, kdf=WEAK_KDF_FOR_TESTS)
    _commit(other, 1)
    with pytest.raises(UnsupportedRepository, match="another repository"):
        memory.check(other, "app")


def test_bad_objects_are_distrusted_until_good_again(tmp_path: Path) -> None:
    """What a verification found bad is remembered; healed names are forgotten."""
    memory = Memory(tmp_path)
    memory.note_checked({"chunks/aa/one", "chunks/bb/two"})
    memory.note_checked((), good={"chunks/aa/one"})
    assert Memory(tmp_path).distrusted() == {"chunks/bb/two"}
