"""What a recovery test did, found and measured: for programs, for people, for the audit trail."""

import socket
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aurora import clock
from aurora.operations.proof.checks import Check, Outcome, Status, outcome_of, tally, worst
from aurora.operations.proof.evidence import table
from aurora.operations.proof.validate import checks_markdown
from aurora.units import format_count, format_duration, format_size
from aurora.version import __version__


@dataclass(slots=True)
class Trial:
    """One restore of a test."""

    what: str
    backup_id: str = ""
    target: str = ""  # the point, in words
    state_of: str = ""
    rows: int = 0
    bytes: int = 0
    rto: float = 0.0  # seconds from the decision until the checks of the data had passed
    checks: list[Check] = field(default_factory=list)
    phases: list[tuple[str, float]] = field(default_factory=list)
    left_out: bool = False  # there was nothing to try: its check is skipped, and no more said

    @property
    def outcome(self) -> Outcome:
        return Outcome.OK if self.left_out else outcome_of(self.checks)

    def document(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "backup_id": self.backup_id,
            "target": self.target,
            "state_of": self.state_of,
            "outcome": str(self.outcome),
            "tally": tally(self.checks),
            "rows": self.rows,
            "bytes": self.bytes,
            "rto_seconds": round(self.rto, 3),
            "phases": {name: round(seconds, 3) for name, seconds in self.phases},
            "checks": [check.document() for check in self.checks],
        }


@dataclass(slots=True)
class TestReport:
    """What a recovery test did, found and measured."""

    __test__ = False

    test_id: str
    database: str
    storage: str
    full: bool
    seed: int
    begun_at: datetime
    ended_at: datetime | None = None
    server: str = ""
    recoverable_to: datetime | None = None
    rto_goal: float | None = None
    trials: list[Trial] = field(default_factory=list)
    path: str = ""

    @property
    def checks(self) -> list[Check]:
        return [check for trial in self.trials for check in trial.checks]

    @property
    def outcome(self) -> Outcome:
        if all(trial.left_out for trial in self.trials):
            return Outcome.INCONCLUSIVE
        return worst(trial.outcome for trial in self.trials)

    @property
    def rto(self) -> float | None:
        """The longest recovery that was proven, in seconds."""
        times = [t.rto for t in self.trials if t.rto and t.outcome in (Outcome.OK, Outcome.SLOW)]
        return max(times, default=None)

    @property
    def rpo(self) -> float | None:
        """Seconds from the newest moment that could be recovered to when the test began."""
        if self.recoverable_to is None:
            return None
        return max((self.begun_at - self.recoverable_to).total_seconds(), 0.0)

    @property
    def verdict(self) -> str:
        """One line: what was found, and the first thing that is wrong."""
        wrong = [c for c in self.checks if c.status is Status.FAILED and c.blame is self.outcome]
        why = f": {wrong[0].name}: {wrong[0].detail}" if wrong else ""
        return f"{self.outcome}, {tally(self.checks)}{why}"

    def document(self) -> dict[str, Any]:
        """For ``--json``, the evidence and the audit trail."""
        ended = self.ended_at or self.begun_at
        backup_id = next((trial.backup_id for trial in self.trials if trial.backup_id), "")
        return {
            "kind": "test-recovery",
            "test_id": self.test_id,
            "backup_id": backup_id,
            "database": self.database,
            "storage": self.storage,
            "full": self.full,
            "seed": self.seed,
            "outcome": str(self.outcome),
            "verdict": self.verdict,
            "tally": tally(self.checks),
            "begun_at": clock.isoformat(self.begun_at),
            "ended_at": clock.isoformat(ended),
            "seconds": round((ended - self.begun_at).total_seconds(), 3),
            "rto_seconds": None if self.rto is None else round(self.rto, 3),
            "rto_goal_seconds": self.rto_goal,
            "rpo_seconds": None if self.rpo is None else round(self.rpo, 3),
            "recoverable_to": self.recoverable_to and clock.isoformat(self.recoverable_to),
            "server": self.server,
            "host": socket.gethostname(),
            "aurora": __version__,
            "trials": [trial.document() for trial in self.trials],
        }

    def markdown(self) -> str:
        """For people."""
        ended = self.ended_at or self.begun_at
        goal = "" if self.rto_goal is None else f", the goal is {format_duration(self.rto_goal)}"
        lines = [
            f"# Recovery test {self.test_id}: {self.outcome}",
            "",
            f"- **{self.verdict}**",
            f"- database `{self.database}`, read from the {self.storage} storage",
            f"- begun {clock.isoformat(self.begun_at)}, took "
            f"{format_duration((ended - self.begun_at).total_seconds())}",
            f"- RTO measured: {'-' if self.rto is None else format_duration(self.rto)}{goal}",
            f"- RPO when it began: {'-' if self.rpo is None else format_duration(self.rpo)}"
            + (f", recoverable to {clock.isoformat(self.recoverable_to)}"
               if self.recoverable_to else ""),
            f"- restored on {self.server or 'no server'}, host {socket.gethostname()}, "
            f"aurora {__version__}",
        ]  # fmt: skip
        for trial in self.trials:
            lines += ["", f"## {trial.what.capitalize()}: {trial.outcome}", ""]
            if trial.backup_id:
                lines.append(f"- backup `{trial.backup_id}`, state of {trial.state_of}")
            if trial.target:
                lines.append(f"- recovered to {trial.target}")
            if trial.rows:
                size = format_size(trial.bytes)
                lines.append(f"- {format_count(trial.rows)} rows, {size}")
            lines += [f"- {tally(trial.checks)}", "", *checks_markdown(trial.checks)]
            if trial.phases:
                took = ((name, format_duration(seconds)) for name, seconds in trial.phases)
                lines += ["", *table(("phase", "took"), took)]
        return "\n".join(lines) + "\n"
