"""Checks and what comes of them: passed, failed or skipped; and what a failure says.

What was skipped never counts as passed, and a failure says whether the backup is bad, this
machine lacks something, or nothing can be told.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from aurora.errors import (
    AuroraError,
    EnvironmentUnfit,
    GoalMissed,
    Inconclusive,
    IntegrityError,
    RecoveryTestFailed,
    StorageError,
    TargetError,
    TargetRefused,
)
from aurora.units import plural

_SHOWN = 1000  # problems of one check that a report keeps


class Status(StrEnum):
    """How one check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Outcome(StrEnum):
    """What a test says, from the best to the worst."""

    OK = "ok"
    INCONCLUSIVE = "inconclusive"  # nothing can be told
    ENVIRONMENT = "environment"  # this machine lacks something; the backup is not judged
    SLOW = "too-slow"  # right, but slower than the goal
    BAD = "backup-bad"  # the backup does not restore to what it must


_ORDER = list(Outcome)


@dataclass(slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    detail: str = ""  # one line: what was compared, or why it was skipped
    problems: list[str] = field(default_factory=list)
    blame: Outcome = Outcome.OK  # of a failure
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def passed(name: str, detail: str) -> Check:
    return Check(name, Status.PASSED, detail)


def skipped(name: str, why: str) -> Check:
    return Check(name, Status.SKIPPED, why)


def failed(
    name: str, detail: str, problems: Iterable[str] = (), *, blame: Outcome = Outcome.BAD
) -> Check:
    return Check(name, Status.FAILED, detail, list(problems)[:_SHOWN], blame)


def judged(name: str, detail: str, problems: list[str]) -> Check:
    """Passed where there is no problem."""
    return failed(name, detail, problems) if problems else passed(name, detail)


def timed(name: str, look: Callable[[], Check]) -> Check:
    """Run a check; an error that ends it is its result."""
    begun = time.monotonic()
    try:
        check = look()
    except AuroraError as error:
        check = of_error(name, error)
    check.seconds = time.monotonic() - begun
    return check


def of_error(name: str, error: AuroraError) -> Check:
    """A check that an error ended."""
    problems = [str(one) for one in _listed(error.context.get("problems"))] or [error.message]
    return failed(name, error.message, problems, blame=blame_of(error))


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


# SQLSTATE classes that speak of the server and not of what it was given.
_SERVER_TROUBLE = ("08", "53", "54", "55", "57", "58", "0A", "F0", "XX")


def blame_of(error: AuroraError) -> Outcome:
    """What an error that ended a restore or a check says about the backup."""
    if isinstance(error, IntegrityError):
        return Outcome.BAD
    if isinstance(error, TargetRefused):
        state = str(error.context.get("sqlstate") or "")
        return Outcome.ENVIRONMENT if state[:2] in _SERVER_TROUBLE else Outcome.INCONCLUSIVE
    if isinstance(error, TargetError | StorageError):
        return Outcome.ENVIRONMENT
    return Outcome.INCONCLUSIVE


def outcome_of(checks: Iterable[Check]) -> Outcome:
    """The worst of them; nothing but skipped checks tells nothing."""
    found = list(checks)
    if not any(check.status is not Status.SKIPPED for check in found):
        return Outcome.INCONCLUSIVE
    blames = [check.blame for check in found if check.status is Status.FAILED]
    return max(blames, key=_ORDER.index, default=Outcome.OK)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    return max(outcomes, key=_ORDER.index, default=Outcome.INCONCLUSIVE)


def tally(checks: Iterable[Check]) -> str:
    """``12 passed, 1 failed, 2 skipped``."""
    found = list(checks)
    counts = {status: sum(1 for c in found if c.status is status) for status in Status}
    words = [f"{counts[Status.PASSED]} passed"]
    words += [f"{counts[s]} {s.value}" for s in (Status.FAILED, Status.SKIPPED) if counts[s]]
    return ", ".join(words)


def raise_unless_ok(outcome: Outcome, message: str, report: str) -> None:
    """Raise the error that an outcome ends a command with.

    Raises:
        RecoveryTestFailed, GoalMissed, EnvironmentUnfit, Inconclusive.
    """
    kinds: dict[Outcome, tuple[type[AuroraError], str]] = {
        Outcome.BAD: (
            RecoveryTestFailed,
            "The backup is not what it must be, or what it holds is wrong. Nothing of the source "
            "or the storages was changed. Verify it and heal it; make a new full backup.",
        ),
        Outcome.SLOW: (
            GoalMissed,
            "What was restored is right. Recovery takes longer than [goals] rto: give it a "
            "faster server or line, or more jobs, or change the goal.",
        ),
        Outcome.ENVIRONMENT: (
            EnvironmentUnfit,
            "Nothing is said about the backup. Put right what is missing here, then run it again.",
        ),
        Outcome.INCONCLUSIVE: (
            Inconclusive,
            "Nothing is said about the backup. Run it again; the report tells what was in the way.",
        ),
    }
    if outcome is Outcome.OK:
        return
    kind, hint = kinds[outcome]
    raise kind(message, hint=f"{hint} Report: {report}" if report else hint)


def told(check: Check, *, at_most: int = 20) -> list[str]:
    """A check for people: a line, and its problems below it."""
    sign = {Status.PASSED: "ok", Status.FAILED: "FAILED", Status.SKIPPED: "skipped"}
    lines = [f"{sign[check.status]:<8} {check.name}: {check.detail}"]
    lines += [f"           {problem}" for problem in check.problems[:at_most]]
    if len(check.problems) > at_most:
        lines.append(f"           and {plural(len(check.problems) - at_most, 'more problem')}")
    return lines
