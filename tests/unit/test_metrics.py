"""Metrics: what is known is told, and what the examples in docs/ ask for is there."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from aurora.operations.coverage import Covered
from aurora.operations.measured import Measured
from aurora.operations.status import StatusReport, TypeStatus
from aurora.operations.status_source import Rpo
from aurora.operations.status_storage import StorageLook
from aurora.operations.window import Span, Window
from aurora.scheduler.metrics import METRICS, Collector, exposition
from aurora.scheduler.state import State

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


class Board:
    report: StatusReport | None = None


def _full_report() -> StatusReport:
    from aurora.engines.logical.slot import SlotState

    slot = SlotState("s", "pgoutput", "app", 0, 1, 2, "reserved", 1000, 500, 5, False, "")  # noqa: FBT003
    proven = Measured("test-recovery", NOW - 5 * HOUR, ok=True, seconds=42.0)
    return StatusReport(
        "shop", NOW, window=Window([Span(NOW - 9 * HOUR, NOW)]), window_of="primary",
        rpo=Rpo(7.0, 300, exact=True, why=""), source_reachable=True, slot=slot, lag_bytes=300,
        measured=proven, last_test=proven,
        backups=[TypeStatus("full", "daily", "x", NOW - HOUR, 3600.0)],
        storages=[
            StorageLook("primary", reachable=True, objects=3, bytes=10, grown_bytes=4),
            StorageLook("secondary", behind=2, lacking_since=NOW - 2 * HOUR),
        ],
        covered={"primary": Covered(NOW - HOUR, 1, 5, NOW - HOUR, 10)},
    )  # fmt: skip


def _samples(text: str) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in re.findall(r"^(\w+\{[^}]*\}) (\S+)$", text, re.MULTILINE)
    }


def test_everything_that_is_known(tmp_path: Path) -> None:
    """Every metric has a sample once all is known; values are right; ages go on."""
    state, board = State(tmp_path), Board()
    state.update("full", ok_at=NOW, ended_at=NOW, outcome="failed", seconds=3.0, runs=7, failures=2)
    board.report = _full_report()
    stream = {"state": "streaming", "rpo_seconds": 1.5}
    found = _samples(exposition(Collector(state, board, "shop", lambda: stream)).decode())
    assert {name.partition("{")[0] for name in found} == set(METRICS)
    assert found['aurora_rpo_seconds{database="shop"}'] == 1.5
    assert found['aurora_job_failed{database="shop",job_name="full"}'] == 1
    assert found['aurora_job_failures_total{database="shop",job_name="full"}'] == 2
    assert found['aurora_storage_up{database="shop",storage="secondary"}'] == 0
    assert found['aurora_verification_coverage_ratio{database="shop",storage="primary"}'] == 0.5
    assert found['aurora_slot_safe_bytes{database="shop"}'] == 1000
    age = found['aurora_last_backup_age_seconds{database="shop",type="full"}']
    assert 3600 <= age < 4600
    lag = found['aurora_replication_lag_seconds{database="shop",storage="secondary"}']
    assert 7200 <= lag < 8200


def test_nothing_is_known_yet(tmp_path: Path) -> None:
    """No zeros that look like figures."""
    text = exposition(Collector(State(tmp_path), Board(), "shop")).decode()
    assert set(_samples(text)) == {f'aurora_build_info{{database="shop",version="{_version()}"}}'}
    board = Board()
    board.report = replace(_full_report(), measured=None, rpo=Rpo(None, None, exact=False, why=""))
    found = _samples(exposition(Collector(State(tmp_path), board, "shop")).decode())
    names = {name.partition("{")[0] for name in found}
    assert not names & {"aurora_rpo_seconds", "aurora_last_proven_restore_age_seconds"}


def _version() -> str:
    from aurora.version import __version__

    return __version__


def _asked_for(text: str) -> set[str]:
    return set(re.findall(r"\baurora_[a-z_]+", text))


def test_the_alert_rules_ask_for_what_is_there() -> None:
    """Valid YAML; each has a severity and a summary; every metric exists."""
    text = (DOCS / "monitoring" / "alerts.yml").read_text()
    rules = yaml.safe_load(text)["groups"][0]["rules"]
    assert len(rules) >= 10
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert _asked_for(rule["expr"])
        assert _asked_for(rule["expr"]) <= set(METRICS)


def test_the_dashboard_asks_for_what_is_there() -> None:
    """Valid JSON; panels do not lie over each other; every metric exists."""
    board = json.loads((DOCS / "monitoring" / "grafana-dashboard.json").read_text())
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["targets"]
        for target in panel["targets"]:
            assert _asked_for(target["expr"])
            assert _asked_for(target["expr"]) <= set(METRICS)
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"])
               for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not own & cells
        cells |= own
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_every_metric_is_documented() -> None:
    """In the table of docs/monitoring.md, with the same words, and no other there."""
    text = (DOCS / "monitoring.md").read_text()
    told = dict(re.findall(r"^\| `(aurora_\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert told == METRICS
