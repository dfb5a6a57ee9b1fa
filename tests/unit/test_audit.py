"""Recording what was done: never a secret, never a failure of the run, never lost."""

import json
from pathlib import Path

import pytest

from aurora.errors import StorageUnavailable, UsageError
from aurora.events import Event, Warned
from aurora.operations import audit
from aurora.operations.audit import Spool, entries, record, verify
from aurora.repository.door import Repository
from aurora.storage.memory import MemoryStorage
from tests.unit.test_repository_kit import create, reopen


@pytest.fixture
def repository() -> Repository:
    return create(MemoryStorage())


def test_what_is_recorded_is_read_again(repository: Repository, tmp_path: Path) -> None:
    """Newest first by default, or oldest first; by kind."""
    record(repository, "run", "ok", {"rows": 3, "seconds": 1.25}, spool=tmp_path)
    record(repository, "restore", "failed", {"target": "t"}, operation="backup restore")
    found = list(entries(repository))
    assert [(one.kind, one.outcome) for one in found] == [("restore", "failed"), ("run", "ok")]
    assert found[1].facts == {"rows": 3, "seconds": "1.25"}
    assert [one.kind for one in entries(repository, kinds=["run"])] == ["run"]
    assert audit.find(repository, found[0].id).operation == "backup restore"
    assert verify(repository, spool=tmp_path).ok


def test_no_secret_gets_into_a_record(repository: Repository) -> None:
    """Passwords in connection strings are masked, wherever they stand."""
    dsn = "postgresql://anna:hunter2@db.example.org/app"
    facts = {"dsn": dsn, "deep": [{"said": "password=hunter2 host=x"}]}
    record(repository, "restore", "ok", facts, attachments={"report.md": f"to {dsn}"})
    found = next(entries(repository))
    assert "hunter2" not in json.dumps([found.facts, found.attachments])
    assert found.facts["dsn"] == "postgresql://anna:***@db.example.org/app"


def test_a_storage_that_fails_leaves_the_record_for_the_next_run(tmp_path: Path) -> None:
    """It waits in the spool, a warning says so, and the next record takes it along, in order."""
    memory = MemoryStorage()
    create(memory)
    told: list[Event] = []
    record(reopen(_refusing(memory)), "run", "ok", {"n": 1}, spool=tmp_path, sink=told.append)
    assert [one.code for one in told if isinstance(one, Warned)] == ["audit-waiting"]
    assert len(Spool(tmp_path).waiting()) == 1
    record(None, "verify", "ok", {"n": 2}, spool=tmp_path)
    repository = reopen(memory)
    record(repository, "run", "ok", {"n": 3}, spool=tmp_path)
    assert [one.facts["n"] for one in entries(repository, newest_first=False)] == [1, 2, 3]
    assert Spool(tmp_path).waiting() == []
    assert verify(repository, spool=tmp_path).ok


def _refusing(memory: MemoryStorage) -> MemoryStorage:
    class Refusing(MemoryStorage):
        def put(self, name: str, data: object, *, create_only: bool = False) -> None:
            raise StorageUnavailable("the storage is away")

    refusing = Refusing()
    refusing.objects = memory.objects
    return refusing


def test_without_spool_and_storage_the_run_goes_on(tmp_path: Path) -> None:
    """It is told that nothing was recorded, never raised."""
    memory = MemoryStorage()
    create(memory)
    told: list[Event] = []
    record(reopen(_refusing(memory)), "run", "ok", {}, sink=told.append)
    record(None, "run", "ok", {}, sink=told.append)
    blocked = tmp_path / "file"
    blocked.write_text("")
    record(reopen(memory), "run", "ok", {}, spool=blocked / "x", sink=told.append)
    codes = [one.code for one in told if isinstance(one, Warned)]
    assert codes == ["not-recorded", "not-recorded", "audit-spool"]
    assert len(list(entries(reopen(memory)))) == 1


def test_a_spool_for_another_repository_is_left_alone(tmp_path: Path) -> None:
    """Whoever points aurora.toml elsewhere does not mix two trails."""
    memory = MemoryStorage()
    first, second = create(memory), create(MemoryStorage())
    record(reopen(_refusing(memory)), "run", "ok", {"of": 1}, spool=tmp_path)
    record(second, "run", "ok", {"of": 2}, spool=tmp_path)
    assert [one.facts for one in entries(second)] == [{"of": 2}]
    record(first, "run", "ok", {"of": 3}, spool=tmp_path)
    assert [one.facts["of"] for one in entries(first, newest_first=False)] == [1, 3]


def test_a_spooled_file_that_was_cut_off_does_not_block_the_others(
    repository: Repository, tmp_path: Path
) -> None:
    """It is set aside under another name."""
    (tmp_path / "0123456789abcdef.json").write_text('{"body": {"id"')
    record(repository, "run", "ok", {}, spool=tmp_path)
    assert len(list(entries(repository))) == 1
    assert [path.name for path in tmp_path.glob("*.unreadable")] == ["0123456789abcdef.unreadable"]


def test_the_newest_record_removed_is_told_by_this_machine(
    repository: Repository, tmp_path: Path
) -> None:
    """No other record names it yet."""
    record(repository, "run", "ok", {}, spool=tmp_path)
    record(repository, "incident", "open", {}, spool=tmp_path)
    newest = next(entries(repository))
    repository.storage.delete([newest.name])
    report = verify(repository, spool=tmp_path)
    assert report.removed == {newest.name: "seen by this machine"}


def test_facts_that_no_record_can_hold_are_a_mistake(repository: Repository) -> None:
    """Kinds and types are checked where they are written."""
    with pytest.raises(UsageError):
        record(repository, "holiday", "ok", {})  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        record(repository, "run", "ok", {"x": object()})


def test_a_record_too_large_keeps_what_matters(repository: Repository) -> None:
    """Attachments go first."""
    huge = "x" * (17 * 2**20)
    record(repository, "drill", "ok", {"scenario": "s"}, attachments={"report.html": huge})
    found = next(entries(repository))
    assert found.facts == {"scenario": "s"}
    assert found.attachments["report.html"].startswith("left out")
