"""`aurora backup mark`: a restore point."""

from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.render import surface


def mark(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the moment is called, up to 63 bytes.")],
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Give this moment of the source a name to recover to, before a deployment for example.

    It travels in the change log: `restore-point --name` knows it after the next incremental.
    """
    with surface(json) as shown:
        made = api.mark_point(run.load(context, sink=shown.sink), name, sink=shown.sink)
        shown.summary(
            {"operation": "backup mark", **made.document()},
            [
                f"restore point {made.name} at {made.at}, xid {made.xid}; it is in the repository "
                "once the next incremental backup, or the stream, has read it"
            ],
        )
