"""Drills: every disaster is survived by its runbook's own commands, and a broken one is told."""

import json
import re
from pathlib import Path

import pytest

from aurora.operations.proof.drills.scenarios import SCENARIOS
from tests.fixtures.faults import Done, Workplace
from tests.fixtures.policy import ROOT

pytestmark = pytest.mark.timeout(600)
pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

FENCE = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def _commands(runbook: str) -> list[str]:
    """The command lines of a runbook, in order, in fences or in text."""
    text = (ROOT / "docs" / "runbooks" / runbook).read_text(encoding="utf-8")
    fences = "\n".join(FENCE.findall(text)).replace("\\\n", " ")
    lines = [re.sub(r"\s+", " ", line).strip() for line in fences.splitlines()]
    return [line for line in lines if line.startswith("aurora ")] + re.findall(
        r"`(aurora [^`]+)`", text
    )


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_drill_does_what_its_runbook_says(name: str) -> None:
    """Every command of a drill stands in the runbook, letter by letter."""
    scenario = SCENARIOS[name]
    told = _commands(scenario.runbook)
    assert [s.command for s in scenario.steps if s.command and s.command not in told] == []
    assert any(step.recovered for step in scenario.steps)
    assert scenario.checklist


@pytest.fixture
def backed_up(workplace: Workplace) -> Workplace:
    """The shop with a backup on both storages."""
    assert workplace.run("backup", "create").code == 0
    return workplace


def _play(workplace: Workplace, name: str, *words: str) -> Done:
    """A drill starts many processes, so it takes a while on a busy machine."""
    return workplace.finish(workplace.start("drill", "run", name, *words, "--json"), within=500)


def _fingerprint(workplace: Workplace) -> dict[str, bytes]:
    return {
        str(path.relative_to(workplace.directory)): path.read_bytes()
        for top in ("a", "b")
        for path in (workplace.directory / top).rglob("*")
        if path.is_file() and "audit" not in path.parts
    }


@pytest.mark.parametrize(
    "name",
    [
        "destructive-transaction",
        pytest.param("primary-storage-lost", marks=pytest.mark.long),
        "repository-host-lost",
        pytest.param("ransomware", marks=pytest.mark.long),
        pytest.param("key-holder-away", marks=pytest.mark.long),
    ],
)
def test_the_disaster_is_survived(backed_up: Workplace, name: str) -> None:
    """To the end, with a time, a report and a record; the real storages are as they were."""
    before = _fingerprint(backed_up)
    done = _play(backed_up, name)
    assert done.code == 0, done.err + done.out[-3000:]
    summary = done.lines[-1]
    assert summary["outcome"] == "ok"
    assert summary["rto_seconds"] > 0
    assert len(summary["steps"]) == len(SCENARIOS[name].steps)
    assert {step["status"] for step in summary["steps"]} == {"passed"}
    assert _fingerprint(backed_up) == before
    assert "- [ ] " in Path(summary["path"]).read_text()
    for path in (backed_up.directory / "aurora.reports").iterdir():
        backed_up.assert_no_secret(path.read_text())
    record = backed_up.run("audit", "show", "--kind", "drill", "--json").lines[0]
    assert (record["outcome"], record["facts"]["scenario"]) == ("ok", name)


@pytest.mark.long
def test_a_drill_with_the_codes_of_the_recovery_sheet(backed_up: Workplace) -> None:
    """The real codes open the copies; a wrong one is found out now and not on the day."""
    codes = backed_up.directory / "codes"
    made = backed_up.run("key", "add", "recovery-code", "--recovery-code-file", str(codes))
    assert made.code == 0, made.err
    code = next(w for line in codes.read_text().splitlines() for w in line.split()
                if w.count("-") == 5)  # fmt: skip
    typed = backed_up.directory / "typed"
    typed.write_text(code)
    done = _play(backed_up, "key-holder-away", "--recovery-code-file", str(typed))
    assert done.code == 0, done.err
    assert done.lines[-1]["tally"] == "7 passed"
    typed.write_text(code[::-1])
    wrong = _play(backed_up, "key-holder-away", "--recovery-code-file", str(typed))
    assert wrong.code == 44
    failed = [s["title"] for s in wrong.lines[-1]["steps"] if s["status"] == "failed"]
    assert failed == ["Is it the right code?"]


def test_a_secondary_that_would_not_save_anybody_is_told(backed_up: Workplace) -> None:
    """The drill ends where it goes wrong, red."""
    for path in (backed_up.directory / "b" / "chunks").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"x")
    done = _play(backed_up, "primary-storage-lost")
    assert done.code == 44
    summary = done.lines[-1]
    assert summary["outcome"] == "backup-bad"
    assert "is damaged" in summary["verdict"]
    assert summary["rto_seconds"] is None
    error = json.loads(done.err.splitlines()[-1])
    assert error["code"] == "recovery-test-failed"


def test_what_cannot_be_played_is_said_at_once(backed_up: Workplace) -> None:
    """A name that is none; a drill of the secondary where there is none."""
    assert backed_up.run("drill", "run", "zombies").code == 2
    listed = backed_up.run("drill", "list", "--json").lines[-1]
    assert [one["name"] for one in listed["drills"]] == list(SCENARIOS)
    config = backed_up.directory / "aurora.toml"
    config.write_text(config.read_text().split("[secondary]")[0])
    assert backed_up.run("drill", "run", "ransomware").code == 2
