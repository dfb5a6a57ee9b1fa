"""`aurora drill list` and `aurora drill run`: rehearsed disasters."""

from pathlib import Path
from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.render import surface, table
from aurora.operations.proof.checks import raise_unless_ok, tally
from aurora.operations.proof.drills.drill import DrillReport, Played
from aurora.units import format_duration, plural

drill = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]


@drill.callback()
def group() -> None:
    """Rehearsed disasters."""


@drill.command("list")
def list_drills(json: Json = False) -> None:
    """List the disasters that can be played."""
    with surface(json) as shown:
        found = api.drills()
        rows = [(one.name, one.title, f"docs/runbooks/{one.runbook}") for one in found]
        shown.print(table(("drill", "what happens", "runbook"), rows))
        shown.summary(
            {
                "operation": "drill list",
                "drills": [
                    {
                        "name": one.name,
                        "title": one.title,
                        "card": one.card,
                        "runbook": one.runbook,
                        "steps": [{"title": s.title, "command": s.command} for s in one.steps],
                    }
                    for one in found
                ],
            },
            [plural(len(found), "drill")],
        )


@drill.command("run")
def run_drill(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="From `drill list`; by default the one played longest ago.")
    ] = None,
    recovery_code_file: Annotated[
        Path | None, typer.Option(help="The code from the recovery sheet, to try it for real.")
    ] = None,
    secondary_recovery_code_file: Annotated[
        Path | None, typer.Option(help="The secondary's code from the recovery sheet.")
    ] = None,
    json: Json = False,
) -> None:
    """Play a disaster in a sandbox with the runbook's own commands, against the clock.

    Never touches the source; the storages are only read. Exit codes as of `test-recovery`.
    """
    with surface(json) as shown:
        report = api.drill(
            run.load(context, sink=shown.sink),
            name,
            recovery_code=recovery_code_file,
            secondary_recovery_code=secondary_recovery_code_file,
            sink=shown.sink,
        )
        shown.summary(
            {"operation": "drill run", **report.document(), "path": report.path}, _lines(report)
        )
    raise_unless_ok(report.outcome, f"drill {report.scenario.name}: {report.verdict}", report.path)


def _lines(report: DrillReport) -> list[str]:
    took = "" if report.rto is None else f", data back after {format_duration(report.rto)}"
    return [
        report.scenario.card,
        *(line for one in report.played for line in _step(one)),
        *(f"{check.status!s:<8} {check.name}: {check.detail}" for check in report.notes),
        *(f"for people: {one}" for one in report.scenario.checklist),
        f"report {report.path}, recorded in the audit trail",
        f"drill {report.scenario.name}: {report.outcome}, {tally(report.checks)}{took}",
    ]


def _step(one: Played) -> list[str]:
    head = f"{one.check.status!s:<8} {one.step.title}: {one.check.detail}"
    return [head, *([f"           $ {one.step.command}"] if one.step.command else [])]
