"""What reports and records say of restores and tests: what proves, what accuses, what is silent."""

import json
from pathlib import Path
from typing import Any

import pytest

from aurora import clock
from aurora.operations.audit import record
from aurora.operations.measured import newest, recorded, reported
from aurora.repository.door import Repository
from aurora.repository.keys import WEAK_KDF_FOR_TESTS
from aurora.storage.memory import MemoryStorage

AT = "2026-11-25T08:00:00Z"


def _report(directory: Path, name: str, **fields: Any) -> None:
    document = {"begun_at": AT, "ended_at": AT, "backup_id": "b", "seconds": 5.0, **fields}
    (directory / f"{name}.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    "fields, verdict",
    [
        ({"kind": "restore", "outcome": "restored"}, "ok"),
        ({"kind": "restore-full", "outcome": "restored with refusals"}, "ok"),
        ({"kind": "restore", "outcome": "failed its checks"}, "failed"),
        ({"kind": "restore", "outcome": "not put in place"}, None),
        ({"kind": "restore", "outcome": "unfinished"}, None),
        ({"kind": "test-recovery", "outcome": "ok", "rto_seconds": 3.5}, "ok"),
        ({"kind": "test-recovery", "outcome": "backup-bad"}, "backup-bad"),
        ({"kind": "test-recovery", "outcome": "environment"}, "environment"),
        ({"kind": "test-recovery"}, None),
    ],
)
def test_reports(tmp_path: Path, fields: dict[str, Any], verdict: str | None) -> None:
    """Of this machine; a restore that was stopped or refused says nothing of the backup."""
    _report(tmp_path, f"{fields['kind']}-1", **fields)
    found = list(reported(tmp_path))
    assert [one.detail for one in found] == ([] if verdict is None else [verdict])
    if verdict == "ok" and "rto_seconds" in fields:
        assert found[0].seconds == 3.5


def test_unreadable_reports_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "restore-1.json").write_text("{")
    (tmp_path / "restore-2.json").write_text("[]")
    assert list(reported(tmp_path)) == []
    assert list(reported(tmp_path / "absent")) == []


def test_who_is_to_blame(tmp_path: Path) -> None:
    """A bad backup accuses it; a machine that lacks something does not."""
    _report(tmp_path, "test-recovery-1", kind="test-recovery", outcome="ok")
    _report(tmp_path, "test-recovery-2", kind="test-recovery", outcome="environment",
            ended_at="2026-11-25T09:00:00Z")  # fmt: skip
    good, last = newest(reported(tmp_path))
    assert good is not None
    assert last is not None
    assert (good.detail, last.detail, last.speaks_against) == ("ok", "environment", False)
    _report(tmp_path, "test-recovery-3", kind="test-recovery", outcome="backup-bad",
            ended_at="2026-11-25T10:00:00Z")  # fmt: skip
    last = newest(reported(tmp_path))[1]
    assert last is not None
    assert last.speaks_against


def test_one_table_proves_nothing(tmp_path: Path) -> None:
    _report(tmp_path, "restore-table-1", kind="restore-table", outcome="restored")
    assert newest(reported(tmp_path)) == (None, None)


def test_the_trail_is_read_once(tmp_path: Path) -> None:
    """What was read is remembered, and what is new is added; also what another host did."""
    repository, _ = Repository.create(
        MemoryStorage("primary"), passphrase="a long passphrase", kdf=WEAK_KDF_FOR_TESTS
    )
    since = clock.parse("2020-01-01T00:00:00Z")

    def add(of: Any, outcome: str, **facts: Any) -> None:
        record(repository, of, outcome, facts, spool=tmp_path / "spool")

    add("run", "ok", rows=1)
    add("restore", "ok", kind="restore", seconds="12.5", backup_id="b1")
    add("restore", "failed", error="target-not-empty", kind="restore")
    found = recorded(repository, tmp_path, since=since)
    assert [(one.kind, one.ok, one.seconds, one.backup_id) for one in found] == [
        ("restore", True, 12.5, "b1")
    ]
    add("recovery-test", "backup-bad", rto_seconds="3.5", backup="b2")
    add("restore", "failed", error="check-failed", kind="restore")
    again = recorded(repository, tmp_path, since=since)
    assert [one.detail for one in again] == ["ok", "backup-bad", "failed"]
    assert recorded(repository, tmp_path, since=since) == again
    (tmp_path / "measured.json").write_text("nonsense")
    assert [one.detail for one in recorded(repository, tmp_path, since=since)] == [
        "ok", "backup-bad", "failed",
    ]  # fmt: skip
