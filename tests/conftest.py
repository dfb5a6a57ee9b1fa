"""What every test may ask for; the fixtures themselves are in tests/fixtures."""

import os

import pytest

from tests.fixtures.policy import RIGHT_TO_SKIP, ROOT, strict

pytest_plugins = [
    "tests.fixtures.postgres",
    "tests.fixtures.hosted",
    "tests.fixtures.stores",
    "tests.fixtures.gcs",
    "tests.fixtures.data",
]

# The code under test finds the client programs of our test servers before the system's.
_bins = [str(path) for path in sorted(ROOT.glob(".pg/*/bin"))]
os.environ["AURORA_PG_BIN"] = os.pathsep.join(_bins)
# Nor does the environment of whoever runs the tests choose what they connect to.
for _name in [name for name in os.environ if name.startswith("PG")]:
    del os.environ[_name]


_wrongly_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Under strict(), note what was skipped without a right to."""
    if strict() and report.skipped and not hasattr(report, "wasxfail"):
        _, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, "")
        if not reason.removeprefix("Skipped: ").startswith(RIGHT_TO_SKIP):
            _wrongly_skipped.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for them."""
    if _wrongly_skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell which they were."""
    for line in _wrongly_skipped:
        terminalreporter.write_line(f"SKIPPED WRONGLY {line}", red=True)
