"""`aurora source …`: what Aurora needs on the source itself."""

from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.prompts import confirm
from aurora.cli.render import Surface, findings, surface
from aurora.operations.source import PreparePlan
from aurora.units import plural

_TABLE = ", ONLY "
_WIDTH = 110

source = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@source.callback()
def group() -> None:
    """Prepare the source for incremental backups."""


@source.command("prepare")
def prepare(
    context: typer.Context,
    undo: Annotated[bool, typer.Option("--undo", help="Remove every trace instead.")] = False,
    failover: Annotated[
        bool, typer.Option("--failover", help="Let the slot follow to a standby (17 and later).")
    ] = False,
    ddl_markers: Annotated[
        bool,
        typer.Option("--ddl-markers", help="Also event triggers that mark each schema change."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Make the replication slot and the publications that incremental backups read.

    Shows the exact statements first. May be run again at any time, also for new tables.
    """
    with surface(json) as shown:
        aurora = run.load(context)
        made = api.prepare_source(
            aurora,
            undo=undo,
            failover=failover,
            ddl_markers=ddl_markers,
            confirm=lambda chosen: _confirm(shown, chosen, undo=undo, yes=yes),
            sink=shown.sink,
        )
        shown.summary(
            {"operation": "source prepare", "undone": undo, **made.document()},
            _told(made, undo=undo),
        )


def _confirm(shown: Surface, chosen: PreparePlan, *, undo: bool, yes: bool) -> None:
    shown.print(*findings(chosen.obstacles))
    if chosen.refused or not chosen.statements:
        return
    shown.print("These statements will be run on the source:", "")
    shown.print(*(f"    {_wrapped(statement)};" for statement in chosen.statements), "")
    action = "remove them from the source" if undo else "run them on the source"
    confirm("Run them?", action=action, yes=yes)


def _wrapped(statement: str) -> str:
    """A publication's tables, several on a line: there may be hundreds."""
    first, *others = statement.split(_TABLE)
    lines = [first]
    for other in others:
        if len(lines[-1]) + len(_TABLE) + len(other) > _WIDTH:
            lines.append(_TABLE.lstrip(", ") + other)
        else:
            lines[-1] += _TABLE + other
    return ",\n        ".join(lines)


def _told(made: PreparePlan, *, undo: bool) -> list[str]:
    if undo:
        if not made.statements:
            return ["nothing of Aurora is on the source"]
        return [f"removed: {plural(len(made.statements), 'statement')} run"]
    return [
        f"{plural(len(made.streamed), 'table')} streamed, {len(made.read_again)} read again at "
        "each incremental",
        (
            f"the source is prepared (slot {made.names.slot}); next: `aurora backup create`, then "
            "`aurora backup create --type incremental` as often as you like"
        )
        if made.statements
        else f"the source was prepared already (slot {made.names.slot}); nothing was changed",
    ]
