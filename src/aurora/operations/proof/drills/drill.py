"""A drill: a disaster in a sandbox, and the runbook's own commands against it, with a clock."""

import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aurora import clock
from aurora.errors import AuroraError
from aurora.events import EventSink, Noted, PhaseBegun, PhaseEnded
from aurora.operations.content import Backup
from aurora.operations.proof.checks import (
    Check,
    Outcome,
    Status,
    blame_of,
    failed,
    outcome_of,
    passed,
    skipped,
    tally,
)
from aurora.operations.proof.drills.sandbox import (
    PREFIX,
    Materials,
    Ran,
    Sandbox,
    StepFailed,
    require_room_for_sandbox,
)
from aurora.operations.proof.evidence import new_id, table
from aurora.operations.proof.server import Needs, throwaway
from aurora.units import format_duration
from aurora.version import __version__


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a runbook.

    Attributes:
        command: the command line as the runbook shows it; "" for what is done by hand.
        act: what is done by hand, or what the sandbox needs before the command.
        options: gives what only the sandbox adds to the command: where to restore to, --yes.
        expect: the exit codes that are right.
        check: looks at how it ended; its words go into the report, and StepFailed ends the drill.
        recovered: with this step the data is back: the clock of the RTO stops.
    """

    title: str
    command: str = ""
    act: Callable[[Sandbox], str | None] | None = None
    options: Callable[[Sandbox], Sequence[str]] = lambda _: ()
    expect: tuple[int, ...] = (0,)
    check: Callable[[Sandbox, Ran], str] | None = None
    recovered: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens, what is at hand, and what to do about it."""

    name: str
    title: str
    card: str  # what is read out to the people
    runbook: str  # file below docs/runbooks
    steps: tuple[Step, ...]
    prepare: Callable[[Sandbox], None]  # the world before
    accident: Callable[[Sandbox], None]
    checklist: tuple[str, ...] = ()  # for people: what no machine can tick
    needs_primary: bool = False
    needs_secondary: bool = False


@dataclass(slots=True)
class Played:
    """One step as it went."""

    step: Step
    check: Check
    at: datetime


@dataclass(slots=True)
class DrillReport:
    """How a drill went."""

    drill_id: str
    scenario: Scenario
    database: str
    begun_at: datetime
    ended_at: datetime | None = None
    server: str = ""
    backup_id: str = ""
    rto: float | None = None  # seconds from the accident until the data was back
    rto_goal: float | None = None
    played: list[Played] = field(default_factory=list)
    notes: list[Check] = field(default_factory=list)  # checks beside the steps
    path: str = ""

    @property
    def checks(self) -> list[Check]:
        return [*self.notes, *(one.check for one in self.played)]

    @property
    def outcome(self) -> Outcome:
        return outcome_of(self.checks)

    @property
    def verdict(self) -> str:
        wrong = [check for check in self.checks if check.status is Status.FAILED]
        why = f": {wrong[0].name}: {wrong[0].detail}" if wrong else ""
        return f"{self.outcome}, {tally(self.checks)}{why}"

    def document(self) -> dict[str, Any]:
        ended = self.ended_at or self.begun_at
        return {
            "kind": "drill",
            "drill_id": self.drill_id,
            "scenario": self.scenario.name,
            "title": self.scenario.title,
            "runbook": f"docs/runbooks/{self.scenario.runbook}",
            "database": self.database,
            "backup_id": self.backup_id,
            "outcome": str(self.outcome),
            "verdict": self.verdict,
            "tally": tally(self.checks),
            "begun_at": clock.isoformat(self.begun_at),
            "ended_at": clock.isoformat(ended),
            "seconds": round((ended - self.begun_at).total_seconds(), 3),
            "rto_seconds": None if self.rto is None else round(self.rto, 3),
            "rto_goal_seconds": self.rto_goal,
            "server": self.server,
            "host": socket.gethostname(),
            "aurora": __version__,
            "steps": [
                {
                    "title": one.step.title,
                    "command": one.step.command,
                    "at": clock.isoformat(one.at),
                    **one.check.document(),
                }
                for one in self.played
            ],
            "checks": [check.document() for check in self.notes],
            "checklist": list(self.scenario.checklist),
        }

    def markdown(self) -> str:
        ended = self.ended_at or self.begun_at
        goal = "" if self.rto_goal is None else f", the goal is {format_duration(self.rto_goal)}"
        lines = [
            f"# Drill {self.scenario.name}: {self.outcome}",
            "",
            f"> {self.scenario.card}",
            "",
            f"- **{self.verdict}**",
            f"- drill `{self.drill_id}` of database `{self.database}`, "
            f"backup `{self.backup_id or '-'}`",
            f"- begun {clock.isoformat(self.begun_at)}, took "
            f"{format_duration((ended - self.begun_at).total_seconds())}",
            f"- data back after {'-' if self.rto is None else format_duration(self.rto)}{goal}",
            f"- runbook `docs/runbooks/{self.scenario.runbook}`; {self.server or 'no server'}, "
            f"host {socket.gethostname()}, aurora {__version__}",
            "",
            "## Steps",
            "",
            *table(
                ("at", "step", "command", "result", "took", ""),
                (
                    (f"{one.at:%H:%M:%S}", one.step.title, one.step.command,
                     str(one.check.status), format_duration(one.check.seconds), one.check.detail)
                    for one in self.played
                ),
            ),
        ]  # fmt: skip
        for check in self.checks:
            if check.problems:
                lines += ["", f"**{check.name}**", "", *(f"- {p}" for p in check.problems[:50])]
        if self.notes:
            lines += ["", "## Also looked at", ""]
            lines += table(("check", "result", ""), ((c.name, c.status, c.detail)
                                                     for c in self.notes))  # fmt: skip
        if self.scenario.checklist:
            lines += ["", "## For people: tick, date, and name who", ""]
            lines += [f"- [ ] {one}" for one in self.scenario.checklist]
            lines += ["- [ ] what was not in the runbook was written into it"]
        return "\n".join(lines) + "\n"


def run_drill(
    scenario: Scenario,
    materials: Materials,
    *,
    server_dsn: str | None,
    without_extensions: Sequence[str] = (),
    rto_goal: float | None = None,
    sink: EventSink,
) -> DrillReport:
    """Play *scenario* to its end, or to the first step that goes wrong.

    Raises:
        RepositoryNotFound: there is no full backup to play with. UsageError. Cancelled.
    """
    now = clock.now()
    report = DrillReport(new_id("d", now), scenario, materials.database, now, rto_goal=rto_goal)
    entry, _ = materials.newest()
    report.backup_id = entry.id
    try:
        snapshot = Backup(materials.repository, entry).snapshot
        with throwaway(
            Needs.of(snapshot, without=without_extensions), dsn=server_dsn, sink=sink
        ) as server:
            report.server = f"PostgreSQL {server.version}"
            with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
                directory = Path(name)
                require_room_for_sandbox(directory)
                _play(report, Sandbox(directory, materials, server, sink))
    except StepFailed as error:
        report.notes.append(failed("preparing the drill", str(error), blame=Outcome.INCONCLUSIVE))
    except AuroraError as error:
        if error.code in ("usage", "cancelled", "repository-not-found"):
            raise
        report.notes.append(failed("preparing the drill", error.message, blame=blame_of(error)))
    report.ended_at = clock.now()
    return report


def _play(report: DrillReport, sandbox: Sandbox) -> None:
    scenario, sink = report.scenario, sandbox.sink
    sink(PhaseBegun("preparing the drill"))
    scenario.prepare(sandbox)
    scenario.accident(sandbox)
    sink(PhaseEnded("preparing the drill", "the accident has happened, the clock runs"))
    begun = time.monotonic()
    for step in scenario.steps:
        played = _do(step, sandbox)
        report.played.append(played)
        sink(Noted(f"{played.check.status}: {step.title}: {played.check.detail}"))
        if played.check.status is Status.FAILED:
            return
        if step.recovered:
            report.rto = time.monotonic() - begun
    for name, words in sandbox.facts.get("skipped", {}).items():
        report.notes.append(skipped(name, words))
    if report.rto is not None and report.rto_goal is not None:
        told = (
            f"data back after {format_duration(report.rto)}, the goal is "
            f"{format_duration(report.rto_goal)}"
        )
        slow = report.rto > report.rto_goal
        report.notes.append(
            failed("recovery time", told, blame=Outcome.SLOW)
            if slow
            else passed("recovery time", told)
        )


def _do(step: Step, sandbox: Sandbox) -> Played:
    at, begun = clock.now(), time.monotonic()
    try:
        check = passed(step.title, _done(step, sandbox))
    except StepFailed as error:
        check = failed(step.title, str(error))
    except AuroraError as error:
        check = failed(step.title, error.message, blame=blame_of(error))
    check.seconds = time.monotonic() - begun
    return Played(step, check, at)


def _done(step: Step, sandbox: Sandbox) -> str:
    words = step.act(sandbox) if step.act is not None else None
    if not step.command:
        return words or "done"
    ran = sandbox.run(step.command, step.options(sandbox))
    if ran.code not in step.expect:
        wanted = " or ".join(map(str, step.expect))
        raise StepFailed(f"exit code {ran.code} instead of {wanted}: {ran.message or 'no message'}")
    if step.check is not None:
        return step.check(sandbox, ran)
    return ran.message or "done"
