"""`aurora notify …`: try the addresses, get the templates to edit them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aurora import clock
from aurora.cli import context as run_context
from aurora.cli.render import surface
from aurora.errors import AuroraError, UsageError
from aurora.events import Warned
from aurora.operations.configuration import write_new

notify = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]


@notify.callback()
def group() -> None:
    """Notices to people, by Apprise, and pings of dead man's switches."""


@notify.command("test")
def trial(context: typer.Context, json: Json = False) -> None:
    """Send a trial notice to every address, and a success to the daemon's switch.

    Exit code 1 where one of them did not take it.
    """
    from aurora.scheduler.trial import try_out  # noqa: PLC0415 - slow to import

    with surface(json) as shown:
        aurora = run_context.load(context)
        results = try_out(aurora, clock.now())
        if not results:
            raise UsageError(
                "nothing is configured to notify",
                hint="Add [[notify.targets]] or [ping] to aurora.toml; see docs/notifications.md.",
            )
        for one in results:
            for complaint in one.complaints:
                shown.sink(Warned("template", complaint))
        bad = [one for one in results if one.error]
        documents: list[dict[str, Any]] = [
            {"target": one.name, "ok": not one.error, "error": one.error} for one in results
        ]
        shown.summary(
            {"operation": "notify test", "targets": documents},
            [f"{'FAILED' if one.error else 'sent  '}  {one.name}"
             + (f": {one.error}" if one.error else "") for one in results],
        )  # fmt: skip
    if bad:
        raise AuroraError(
            f"{len(bad)} of {len(results)} addresses did not take the notice",
            hint=bad[0].hint,
        )


@notify.command("templates")
def templates(
    context: typer.Context,
    to: Annotated[
        Path | None, typer.Option(help="Directory; by default the one that is configured.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the message templates that ship, to be edited. Files that are there are kept."""
    from aurora.notify import templates as shipped  # noqa: PLC0415 - slow to import

    with surface(json) as shown:
        settings = run_context.load(context).settings
        directory = to or settings.base / settings.notify.templates
        directory.mkdir(parents=True, exist_ok=True)
        written, kept = [], []
        for name in shipped.names():
            path = directory / f"{name}{shipped.SUFFIX}"
            if path.exists():
                kept.append(path.name)
            else:
                write_new(path, shipped.shipped(name))
                written.append(path.name)
        shown.summary(
            {"operation": "notify templates", "directory": str(directory), "written": written,
             "kept": kept},
            [f"{len(written)} templates written to {directory}, {len(kept)} kept"],
        )  # fmt: skip
