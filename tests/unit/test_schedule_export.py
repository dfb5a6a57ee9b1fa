"""Units for other schedulers: they parse, say the right times, and hold no secret."""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from aurora.cli.schedule import variables_of
from aurora.config import load_settings
from aurora.schedule import Rule, parse_rule
from aurora.scheduler.export import KINDS, ExportOptions, export, numeric, on_calendar
from aurora.scheduler.jobs import BY_NAME
from tests.fixtures.policy import missing

RULES = {
    "incremental": parse_rule("every 15 min"),
    "full": parse_rule("daily at 00:00"),
    "sealed": parse_rule("weekly on sunday at 00:00"),
    "verify": parse_rule("0 5 1,15 jan-jun mon-fri"),
    "replicate": parse_rule("off"),
    "prune": Rule("after each backup", ""),
    "drill": parse_rule("quarterly on 3 at 09:00"),
}
OPTIONS = ExportOptions(
    database="shop", program="/opt/my aurora/bin/aurora", config="/etc/aurora/100%.toml",
    user="aurora", environment_file="/etc/aurora/environment", image="registry.example/aurora:1",
    secret="aurora-secrets", variables=["AURORA_PASSPHRASE", "SLACK"],
)  # fmt: skip
NOW = datetime(2026, 11, 25, 8, tzinfo=UTC)


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        missing("systemd-analyze")
    assert found is not None
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_that_are_on(kind: str) -> None:
    """Each that has times of its own, and none that is off."""
    text = "\n".join(export(kind, RULES, OPTIONS).values())
    for name in ("incremental", "full", "sealed", "verify", "drill"):
        assert BY_NAME[name].shown in text
    assert "replicate" not in text
    assert not re.search(r"schedule run prune|run prune\b", text)


def test_systemd_takes_the_units(tmp_path: Path, analyze: str) -> None:
    """As systemd itself says; a blank and a percent sign in paths as well."""
    program = tmp_path / "my aurora" / "aurora"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    options = ExportOptions(**{**vars_of(OPTIONS), "program": str(program), "user": "root"})
    files = export("systemd", RULES, options)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert len(files) == 2 * 5 + 1  # a service and a timer for each job, and the daemon
    units = [str(tmp_path / name) for name in files]
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "aurora-shop" in line]
    assert (done.returncode, ours) == (0, [])
    assert f'ExecStart="{program}" --config /etc/aurora/100%%.toml schedule run full' in files[
        "aurora-shop-full.service"
    ]  # fmt: skip


def vars_of(options: ExportOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


@pytest.mark.parametrize(
    "text",
    ["hourly", "every 15 min", "daily at 03:30", "weekly on sunday", "0 0 * * 1-5",
     "0 0 * * fri-sun", "monthly on 3 at 05:00", "quarterly", "5,35 8-17/3 * * *",
     "0 0 * * 7", "0 0 * jan,jul mon"],
)  # fmt: skip
def test_systemd_means_the_same_times(text: str, analyze: str) -> None:
    """Its own calendar and ours name the same next three moments."""
    rule = parse_rule(text)
    (expression,) = on_calendar(rule.cron)
    told = subprocess.run(
        [analyze, "calendar", "--base-time", "2026-11-25 08:00:00 UTC", "--iterations", "3",
         expression],
        capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin:/bin"},
    ).stdout  # fmt: skip
    moments = re.findall(r"(?:Next elapse|Iteration #\d|Iter\. #\d): \w+ ([\d-]+ [\d:]+) UTC", told)
    assert moments == [one.strftime("%Y-%m-%d %H:%M:%S") for one in rule.upcoming(NOW, 3)]


def test_days_of_month_or_week_are_two_expressions() -> None:
    assert on_calendar("0 0 13 * fri") == ["*-*-13 00:00:00 UTC", "Fri *-*-* 00:00:00 UTC"]


def test_cron_lines() -> None:
    """Numbers alone, the user, the secrets from a file, percent signs escaped."""
    (text,) = export("cron", RULES, OPTIONS).values()
    lines = [line for line in text.splitlines() if re.match(r"[\d*]", line)]
    assert len(lines) == 5
    assert lines[0].startswith("*/15 * * * * aurora set -a; ")
    assert lines[0].endswith(
        "exec '/opt/my aurora/bin/aurora' --config /etc/aurora/100\\%.toml schedule run incremental"
    )
    assert lines[2].startswith("0 0 * * 0 aurora ")
    for line in lines:
        parse_rule(" ".join(line.split()[:5]))


def test_kubernetes_manifests() -> None:
    """CronJobs that forbid overlap, in UTC, with secrets from a Secret by name."""
    (text,) = export("kubernetes", RULES, OPTIONS).values()
    documents = list(yaml.safe_load_all(text))
    jobs = [one for one in documents if one["kind"] == "CronJob"]
    assert [one["spec"]["schedule"] for one in jobs] == [
        "*/15 * * * *", "0 0 * * *", "0 0 * * 0", "0 5 1,15 1-6 1,2,3,4,5", "0 9 3 1,4,7,10 *",
    ]  # fmt: skip
    for one in jobs:
        assert one["spec"]["timeZone"] == "Etc/UTC"
        assert one["spec"]["concurrencyPolicy"] == "Forbid"
        container = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
        assert container["envFrom"] == [{"secretRef": {"name": "aurora-secrets"}}]
        assert "env" not in container


def test_github_workflow() -> None:
    """Every job is reached from its cron line; secrets by name."""
    (text,) = export("github-actions", RULES, OPTIONS).values()
    workflow = yaml.safe_load(text)
    crons = [one["cron"] for one in workflow[True]["schedule"]]  # YAML reads `on` as true
    script = workflow["jobs"]["aurora"]["steps"][-1]["run"]
    for cron in crons:
        assert f"'{cron}') jobs=" in script
    assert workflow["env"] == {
        "AURORA_PASSPHRASE": "${{ secrets.AURORA_PASSPHRASE }}", "SLACK": "${{ secrets.SLACK }}",
    }  # fmt: skip
    done = subprocess.run(
        ["sh", "-c", f"aurora() {{ echo \"ran $3\"; }}\n{script}"], check=True, text=True,
        capture_output=True, env={"CRON": "0 0 * * 0", "CHOSEN": "", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout == "ran sealed\n"


def test_numbers_for_every_cron() -> None:
    assert numeric("0 5 1 jan-jun fri-sun") == "0 5 1 1-6 0,5,6"


def test_the_variables_that_are_named(tmp_path: Path) -> None:
    """Those that the configuration refers to, and the usual ones where it says nothing."""
    (tmp_path / "aurora.toml").write_text(
        '[primary]\nurl = "s3://b/p"\n[primary.credentials]\nsecret_access_key = {env = "S3_KEY"}\n'
        '[secondary]\nurl = "/two"\npassphrase = {file = "two"}\n'
        '[[notify.targets]]\nurl = {env = "SLACK"}\n[ping]\nfull = {env = "PING"}\n'
    )
    found = variables_of(load_settings(tmp_path / "aurora.toml"))
    assert found == ["AURORA_PASSPHRASE", "AURORA_SOURCE_PASSWORD", "PING", "S3_KEY", "SLACK"]
