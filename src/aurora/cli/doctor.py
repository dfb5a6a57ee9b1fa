"""`aurora doctor`: is everything in place for backups and restores?"""

from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.render import findings, surface
from aurora.operations.doctor import worst
from aurora.operations.findings import Finding, Level, good
from aurora.units import plural


def doctor(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Check source, privileges, tools, storages, keys and clocks; each finding says what to do.

    Exit code 0 without errors (warnings are allowed), 1 otherwise.
    """
    with surface(json) as shown:
        aurora = run.load(context, sink=shown.sink)
        found: list[Finding] = []

        def tell(finding: Finding) -> None:
            found.append(finding)
            shown.print(*findings([finding]))

        tell(good("config", f"configuration {run.config_path(context)}, source {aurora.database}"))
        for finding in api.doctor(aurora):
            tell(finding)
        count = Counter(finding.level for finding in found)
        bad = worst(found) is Level.ERROR
        verdict = "not ready" if bad else "ready"
        shown.summary(
            {
                "operation": "doctor",
                "database": aurora.database,
                "verdict": verdict,
                "errors": count[Level.ERROR],
                "warnings": count[Level.WARNING],
                "findings": [asdict(finding) for finding in found],
            },
            [
                "",
                f"{verdict}: {plural(count[Level.ERROR], 'error')}, "
                f"{plural(count[Level.WARNING], 'warning')}, {count[Level.OK]} ok",
            ],
        )
    if bad:
        raise typer.Exit(1)
