"""The audit trail as a person meets it: every command leaves a record, tampering is told."""

import json
from pathlib import Path

from tests.fixtures.faults import Workplace
from tests.fixtures.projects import NewTarget

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]


def test_every_command_leaves_a_record(workplace: Workplace, new_target: NewTarget) -> None:
    """Runs, restores, checks with and without keys, also those that failed."""
    assert workplace.run("backup", "create").code == 0
    assert workplace.run("backup", "restore", "latest", "--target", new_target()).code == 0
    assert workplace.run("backup", "verify", "latest", "--level", "ciphertext").code == 0
    assert len(_waiting(workplace)) == 1  # a check without keys cannot seal its record
    chunk = next((workplace.directory / "a" / "chunks").glob("*/*"))
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert workplace.run("backup", "verify", "latest").code == 40
    assert workplace.run("backup", "heal", "latest").code == 0

    shown = workplace.run("audit", "show", "--json")
    told = [json.loads(line) for line in shown.out.splitlines()]
    records = [line for line in told if line["message_type"] == "record"]
    assert [(one["kind"], one["operation"], one["outcome"]) for one in records] == [
        ("run", "backup create", "ok"),
        ("restore", "backup restore", "ok"),
        ("verify", "backup verify", "ok"),
        ("verify", "backup verify", "bad"),
    ]
    assert told[-1]["records"] == 4
    assert len(_waiting(workplace)) == 1  # healing opens no key of the primary
    workplace.assert_no_secret(shown.out)
    assert chunk.name in records[3]["facts"]["bad"][0]

    one = workplace.run("audit", "show", "2", "--save", "evidence")
    assert "restored" in (workplace.directory / "evidence" / "report.md").read_text()
    assert "backup restore" in one.out
    assert workplace.run("audit", "show", "--kind", "holiday").code == 2
    assert workplace.run("audit", "show", "99").code == 2
    assert workplace.run("audit", "verify").code == 0


def test_what_was_altered_or_removed_is_named(workplace: Workplace) -> None:
    """By the next record, by the secondary's copy, by this machine's memory."""
    for _ in range(3):
        assert workplace.run("backup", "create").code == 0
    assert workplace.run("backup", "replicate").code == 0
    records = sorted((workplace.directory / "a" / "audit").glob("*/*"))
    records[0].write_bytes(b"x" + records[0].read_bytes()[1:])
    records[1].unlink()
    (workplace.directory / "aurora.state" / "audit" / "seen.json").unlink()
    records[2].unlink()

    checked = workplace.run("audit", "verify")
    assert checked.code == 40
    assert f"ALTERED: audit/{records[0].parent.name}/{records[0].name}" in checked.out
    assert records[1].name in checked.out
    assert records[2].name in checked.out
    assert "the secondary holds it" in checked.out

    assert workplace.run("backup", "heal", "all").code == 0
    assert records[2].exists()
    records[0].unlink()  # an altered copy is not overwritten: whoever looks decides
    assert workplace.run("backup", "heal", "all").code == 0
    assert workplace.run("audit", "verify").code == 0


def test_what_waits_to_be_copied_was_not_removed(workplace: Workplace) -> None:
    """The record of the newest run is on the secondary with the next copy: no alarm meanwhile."""
    assert workplace.run("backup", "create").code == 0
    assert workplace.run("audit", "verify").code == 0

    checked = workplace.run("audit", "verify", "--storage", "secondary")

    assert checked.code == 0
    assert checked.out.splitlines()[-1].endswith(": whole")


def test_a_storage_that_is_away_loses_no_record(workplace: Workplace) -> None:
    """The failed run is recorded by the next one that gets through."""
    primary = workplace.directory / "a"
    primary.rename(workplace.directory / "away")
    assert workplace.run("backup", "create").code == 10
    assert len(_waiting(workplace)) == 1
    (workplace.directory / "away").rename(primary)
    assert workplace.run("backup", "create").code == 0
    told = workplace.run("audit", "show").out
    assert "failed" in told
    assert "2 records" in told
    assert _waiting(workplace) == []


def test_a_changed_configuration_is_recorded(workplace: Workplace) -> None:
    """By the next run, with old and new value."""
    assert workplace.run("backup", "create").code == 0
    config = workplace.directory / "aurora.toml"
    config.write_text(config.read_text() + '\n[goals]\nrto = "1 h"\n')
    assert workplace.run("backup", "create", "--jobs", "1").code == 0
    records = workplace.run("audit", "show", "--kind", "configuration", "--json").lines[:-1]
    assert [one["facts"]["settings"] for one in records] == [
        {"goals.rto": {"before": None, "now": "3600.0"}}
    ]


def _waiting(workplace: Workplace) -> list[Path]:
    spool = workplace.directory / "aurora.state" / "audit"
    return [path for path in spool.glob("*.json") if path.name != "seen.json"]


def test_what_was_read_from_the_secondary_is_recorded_on_the_primary(workplace: Workplace) -> None:
    """Where everybody looks; on the secondary only while the primary is away."""
    assert workplace.run("backup", "create").code == 0
    assert workplace.run("backup", "verify", "latest", "--storage", "secondary").code == 0
    told = workplace.run("audit", "show", "--kind", "verify", "--json").lines
    assert told[0]["facts"]["storage"] == "secondary"
    assert told[-1]["records"] == 1
