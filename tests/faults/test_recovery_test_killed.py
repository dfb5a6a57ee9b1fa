"""Recovery tests from the command line: exit codes, evidence, and a kill in the middle."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aurora.operations.proof.last import ProofState
from tests.fixtures.faults import KILLED, Workplace, command_lines, run_sql

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

_PATIENCE = 60.0


def _until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_in_the_middle(workplace: Workplace) -> None:
    """Server and files are gone soon; the next run tells of it, records it, and is green."""
    assert workplace.run("backup", "create").code == 0
    running = workplace.directory / "aurora.state" / "recovery-test.json"
    process = workplace.start("backup", "test-recovery")
    _until(running.exists)
    scratch = Path(json.loads(running.read_text())["scratch"])
    assert any("postgres" in line for line in command_lines(process.pid))
    servers = _servers_in(scratch)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == KILLED
    assert servers
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in servers))
    _until(lambda: not scratch.exists())

    done = workplace.run("backup", "test-recovery", "--json")
    assert done.code == 0
    assert "test-killed" in [line.get("code") for line in done.lines]
    assert not running.exists()
    summary = done.lines[-1]
    assert summary["outcome"] == "ok"
    records = workplace.run("audit", "show", "--kind", "recovery-test", "--json").lines
    assert [one["outcome"] for one in records[:-1]] == ["inconclusive", "ok"]
    assert set(records[1]["attachments"]) == set(records[1]["facts"]["files"])

    again = workplace.run("backup", "validate")
    assert again.code == 0
    assert "a recovery test came last" in again.out


def _servers_in(scratch: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(scratch) in text and "postgres" in text:
            found.append(int(path.name))
    return found


def test_files_that_the_watcher_could_not_remove_are_swept(tmp_path: Path) -> None:
    """After a power cut there is no watcher: the next test removes what the dead one left."""
    state = ProofState(tmp_path)
    scratch = tmp_path / "aurora-pg-dead"
    (scratch / "data").mkdir(parents=True)
    state.begin("t", scratch)
    assert state.killed() is None  # it is this very process
    facts = json.loads((tmp_path / "recovery-test.json").read_text())
    (tmp_path / "recovery-test.json").write_text(json.dumps({**facts, "started": "1"}))
    assert state.killed() is not None
    assert not scratch.exists()
    assert state.killed() is None


@pytest.mark.long
def test_exit_codes_and_validation_from_the_command_line(workplace: Workplace) -> None:
    """Bad is 44, too slow is 4, a false assertion file is usage; what was restored is validated."""
    assert workplace.run("backup", "test-recovery").code == 10
    assert workplace.run("backup", "validate").code == 2
    assert workplace.run("backup", "create").code == 0
    target = workplace.dsn + "_validated"
    try:
        assert workplace.run("backup", "restore", "latest", "--target", target).code == 0
        validated = workplace.run("backup", "validate", "--target", target)
        assert (validated.code, "5 passed, 2 skipped" in validated.out) == (0, True), validated.out
        run_sql(target, "DELETE FROM orders WHERE id = 5")
        differs = workplace.run("backup", "validate", "--target", target, "latest")
        assert differs.code == 43
        assert "lost id=5" in differs.out
        state = (workplace.directory / "aurora.state" / "proof.json").read_text()
        workplace.assert_no_secret(state)
        assert workplace.run("backup", "validate").code == 43  # the source's own password fits
    finally:
        run_sql(workplace.dsn, f'DROP DATABASE "{target.rsplit("/", 1)[1]}" WITH (FORCE)')

    config = workplace.directory / "aurora.toml"
    text = config.read_text()
    config.write_text(text + '\n[goals]\nrto = "1 ms"\n')
    slow = workplace.run("backup", "test-recovery")
    assert slow.code == 4
    assert "the goal is" in slow.err
    config.write_text(text + '\n[validate]\nassertions = ["nowhere.sql"]\n')
    assert workplace.run("backup", "test-recovery").code == 2
    config.write_text(text)
    chunk = next((workplace.directory / "a" / "chunks").glob("*/*"))
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    bad = workplace.run("backup", "test-recovery")
    assert bad.code == 44
    assert chunk.name in bad.err
    assert workplace.run("backup", "test-recovery", "--full").code == 0  # the secondary is whole
    reports = workplace.directory / "aurora.reports"
    assert len(list(reports.glob("test-recovery-*.html"))) == 3
    for path in reports.iterdir():
        workplace.assert_no_secret(path.read_text())
