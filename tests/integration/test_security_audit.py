"""The security audit: every weakness that is planted is found, with what to do."""

import os
from pathlib import Path

import pytest

from aurora.operations.findings import Level
from aurora.postgres.server import inspect_server, open_control
from aurora.repository.exposure import is_protected, look_for_unsealed
from aurora.storage.exposure import anonymous_look
from tests.fixtures.faults import Workplace
from tests.fixtures.stores import S3Server

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]


def _codes(workplace: Workplace, *words: str) -> tuple[int, dict[str, str]]:
    done = workplace.run("audit", "security", "--json", *words)
    found = {one["code"]: one["level"] for one in done.lines[-1]["findings"]}
    for path in (workplace.directory / "aurora.reports").glob("security-*"):
        workplace.assert_no_secret(path.read_text())
    return done.code, found


def test_planted_weaknesses_are_found(workplace: Workplace) -> None:
    """Files that others read, plain objects, strangers, a foreign key slot, tests never done."""
    assert workplace.run("backup", "create").code == 0
    directory = workplace.directory
    directory.chmod(0o700)
    code, found = _codes(workplace)
    assert code == 0, found
    assert found["secret-files"] == "ok"
    assert found["primary-sealed"] == "ok"
    assert found["secondary-sealed"] == "ok"
    assert found["trail-whole"] == "ok"
    assert found["recovery-test-never"] == "warning"
    assert found["drill-never"] == "warning"
    # The tests' own superuser, but where other tests made this server look like Supabase.
    with open_control(workplace.dsn) as conn:
        assert ("role-mighty" in found) is not inspect_server(conn).is_supabase
    assert "one-slot" in found or "slot-unproven" in found

    (directory / "one").chmod(0o644)
    os.utime(directory / "two", (1, 1))
    chunk = next(path for path in (directory / "a" / "chunks").rglob("*") if path.is_file())
    chunk.write_text("id\tname\n1\tAnna\n")
    copy = next(path for path in (directory / "b" / "chunks").rglob("*") if path.is_file())
    copy.write_bytes(b"plain" * 100)
    (directory / "a" / "notes.txt").write_text("hello")
    record = next(path for path in (directory / "a" / "audit").rglob("*") if path.is_file())
    record.write_bytes(record.read_bytes()[:-1] + b"x")
    code, found = _codes(workplace)
    assert code == 1
    assert {
        "secret-readable", "primary-unsealed", "secondary-unsealed", "trail-broken",
    } <= {one for one, level in found.items() if level == "error"}  # fmt: skip
    assert {"secret-old", "primary-strangers"} <= set(found)


def test_what_a_primary_that_is_away_leaves_to_look_at(workplace: Workplace) -> None:
    """The audit goes on, and says what it could not see."""
    (workplace.directory / "a").rename(workplace.directory / "away")
    code, found = _codes(workplace)
    assert code == 1
    assert found["repository-not-found"] == "error"
    assert found["trail-unseen"] == "warning"
    assert "secret-files" in found


@pytest.mark.s3
def test_a_bucket_is_asked_without_credentials(seaweedfs: S3Server) -> None:
    """A closed one answers no; where nobody answers, or it is a directory, nothing is said."""
    bucket = seaweedfs.new_bucket()
    url = f"s3://{bucket}?endpoint={seaweedfs.endpoint}"
    seen = anonymous_look(url)
    assert seen is not None
    assert (seen.lists, seen.reads) == (False, False)
    assert anonymous_look("s3://nowhere?endpoint=http://127.0.0.1:9") is None
    assert anonymous_look(Path("/tmp").as_uri()) is None


def test_what_counts_as_protected(workplace: Workplace) -> None:
    """Each object of a real repository does; nothing else does."""
    assert workplace.run("backup", "create").code == 0
    for storage, secondary in ((workplace.project.primary, False),
                               (workplace.project.secondary, True)):  # fmt: skip
        found = look_for_unsealed(storage, secondary=secondary, sample=10_000)
        assert (found.unsealed, found.strangers) == ([], [])
        assert found.sampled == found.objects > 10
        small = look_for_unsealed(storage, secondary=secondary, sample=3)
        assert (small.sampled, small.objects) == (3, found.objects)
    for name in ("chunks/ab/x", "config", "refs/a/b", "audit/2026-11/x"):
        assert not is_protected(name, b'{"id": 1}\n', secondary=False)
        assert not is_protected(name, b"", secondary=name != "config")
    assert Level.ERROR.value == "error"
