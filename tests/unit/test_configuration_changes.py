"""Changes of the configuration: what changed is told, and no secret."""

from pathlib import Path
from typing import Any

from aurora.operations.configuration_changes import configuration_changes

BEFORE: dict[str, Any] = {
    "source": {"dsn": "postgresql://anna@db.example.org/shop"},
    "primary": {"url": "s3://one", "credentials": {"access_key_id": "AK1"}},
    "backup": {"jobs": 4, "skip": ["public.log"]},
}


def test_the_first_look_only_remembers(tmp_path: Path) -> None:
    """And the second finds nothing."""
    assert configuration_changes(tmp_path, BEFORE) == {}
    assert configuration_changes(tmp_path, BEFORE) == {}


def test_changes_are_told_once_and_without_secrets(tmp_path: Path) -> None:
    """Old and new value; of credentials only that they changed."""
    configuration_changes(tmp_path, BEFORE)
    now = {
        "source": {"dsn": "postgresql://anna:hunter2@db.example.org/shop2"},
        "primary": {"url": "s3://one", "credentials": {"access_key_id": "AK2"}},
        "backup": {"jobs": 8},
        "goals": {"rto": 3600.0},
    }
    found = configuration_changes(tmp_path, now)
    assert set(found) == {"source.dsn", "primary.credentials", "backup.skip", "goals.rto"}
    assert found["source.dsn"] == {
        "before": "postgresql://anna@db.example.org/shop",
        "now": "postgresql://anna:***@db.example.org/shop2",
    }
    assert found["backup.skip"]["now"] is None
    kept = (tmp_path / "configuration.json").read_text()
    assert "AK2" not in str(found) + kept
    assert "hunter2" not in str(found) + kept
    assert configuration_changes(tmp_path, now) == {}


def test_a_file_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    """It costs the comparison, not the run."""
    (tmp_path / "configuration.json").write_text('{"source.dsn": ')
    assert configuration_changes(tmp_path, BEFORE) == {}
    assert configuration_changes(tmp_path, BEFORE) == {}
