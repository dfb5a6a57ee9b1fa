"""`aurora backup rewind-storage`: an emptied or overwritten bucket is what it was."""

from datetime import UTC
from typing import Annotated

import typer

from aurora import api, clock
from aurora.cli import context as run
from aurora.cli.prompts import confirm
from aurora.cli.render import surface
from aurora.engines.logical.moments import parse_moment
from aurora.units import format_size, plural


def rewind_storage(
    context: typer.Context,
    storage: Annotated[str, typer.Argument(help="primary or secondary.")],
    to: Annotated[str, typer.Option(help="The time before they came, ISO 8601; without zone UTC.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Bring back what was deleted or overwritten on an S3 storage with versions since a time.

    Object lock keeps the older versions whoever deletes. What was put since stays. Verify
    afterwards: versions tell when something was put, not by whom.
    """
    with surface(json) as shown:
        aurora = run.load(context, sink=shown.sink)
        when = parse_moment(to).when
        moment = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        plan = api.plan_rewind(aurora, storage=storage, to=moment)
        what = (
            f"{plural(len(plan.hidden), 'deleted object')} and "
            f"{plural(len(plan.replaced), 'overwritten one')}, {format_size(plan.bytes)}"
        )
        since = f"on the {storage} since {clock.isoformat(moment)}"
        if not dry_run and not plan.is_idle:
            question = f"Bring back {what}, {since}?"
            confirm(question, action=f"rewind the {storage}", yes=yes)
            api.run_rewind(aurora, plan, storage=storage, sink=shown.sink)
        would = "would bring back" if dry_run else "brought back"
        shown.summary(
            {"operation": "backup rewind-storage", "storage": storage, "dry_run": dry_run,
             **plan.document()},
            [
                f"nothing was deleted or overwritten {since}" if plan.is_idle else
                f"{would} {what}, {since}; now `aurora backup verify all --storage {storage}`"
            ],
        )  # fmt: skip
