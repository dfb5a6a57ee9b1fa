"""An open incident keeps every backup on both storages, until it is closed."""

from typing import Any

import pytest

from tests.fixtures.faults import Workplace

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]


@pytest.fixture
def strict(workplace: Workplace) -> Workplace:
    """Three fulls, of which retention lets two go."""
    config = workplace.directory / "aurora.toml"
    config.write_text(
        config.read_text() + '\n[retention]\nfull = "0 s"\nincremental = "0 s"\nwindow = "0 s"\n'
    )
    for _ in range(3):
        assert workplace.run("backup", "create").code == 0
    return workplace


def pruned(place: Workplace, *words: str) -> list[dict[str, Any]]:
    """What `backup prune` says of each storage."""
    done = place.run("backup", "prune", "--allow-many", *words, "--json")
    assert done.code == 0, done.err
    found: list[dict[str, Any]] = done.lines[-1]["storages"]
    return found


def findings(place: Workplace) -> dict[str, str]:
    done = place.run("backup", "status", "--json")
    return {one["code"]: one["message"] for one in done.lines[-1]["findings"]}


def decisions(storages: list[dict[str, Any]]) -> list[set[str]]:
    return [{one["decision"] for one in storage["backups"]} for storage in storages]


def test_nothing_is_removed_until_it_is_closed(strict: Workplace) -> None:
    """Said by the dry run, by status and by the incident; closing lets retention go on."""
    assert all("remove" in one for one in decisions(pruned(strict, "--dry-run")))
    opened = strict.run("incident", "start", "rows are gone", "--json")
    incident = opened.lines[-1]["incident"]
    why = [f"incident {incident}"]
    assert [one["frozen"] for one in pruned(strict, "--dry-run")] == [why, why]
    shown = strict.run("backup", "prune", "--dry-run", "--allow-many")
    assert f"nothing is removed: held: incident {incident}; `aurora incident close`" in shown.out
    for storage in pruned(strict, "--yes"):
        assert storage["announced"] == []
        assert storage["frozen"] == [f"app: incident {incident}"]
    told = findings(strict)["incident-open"]
    assert "retention is on hold on the primary and the secondary" in told
    assert "on hold on the primary and the secondary" in strict.run("incident", "status").out

    assert strict.run("incident", "close").code == 0
    assert "incident-open" not in findings(strict)
    assert [one["frozen"] for one in pruned(strict, "--dry-run")] == [[], []]
    assert all(len(one["announced"]) == 2 for one in pruned(strict, "--yes"))


def test_a_storage_that_is_away_is_held_by_a_later_step(workplace: Workplace) -> None:
    """Start goes on with a warning; so does close, which says how to end the hold later."""
    assert workplace.run("backup", "create").code == 0
    here, away = workplace.directory / "a", workplace.directory / "away"
    here.rename(away)
    opened = workplace.run("incident", "start", "rows are gone", "--json")
    assert opened.code == 0, opened.err
    told = [one for one in opened.lines if one.get("code") == "retention-not-held"]
    assert ["primary" in one["message"] for one in told] == [True]
    away.rename(here)
    assert findings(workplace)["incident-open"].endswith("on hold on the secondary")
    assert workplace.run("incident", "communicate", "We look.").code == 0
    assert findings(workplace)["incident-open"].endswith("on the primary and the secondary")

    here.rename(away)
    closed = workplace.run("incident", "close", "--json")
    assert closed.code == 0, closed.err
    assert "hold-stays" in {one.get("code") for one in closed.lines}
    away.rename(here)
    incident = opened.lines[-1]["incident"]
    told_now = findings(workplace)[f"incident-half-closed-{incident}"]
    assert told_now.endswith("is closed, but retention is on hold on the primary")
    again = workplace.run("incident", "close", "--incident", incident, "--json")
    assert again.code == 0, again.err
    assert f"incident-half-closed-{incident}" not in findings(workplace)
    assert [one["frozen"] for one in pruned(workplace, "--dry-run")] == [[], []]
    assert workplace.run("incident", "close", "--incident", incident).code == 2
