"""`aurora backup restore-point`: recovery to a moment, out of a full and the change log."""

from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.prompts import confirm_by_typing
from aurora.cli.render import Surface, plan, surface
from aurora.cli.restore import (
    AcceptRefusals,
    InPlace,
    Jobs,
    Json,
    NoSafety,
    Storage,
    Target,
    Yes,
    finish,
)
from aurora.engines.logical import targets
from aurora.operations.recover import RecoveryPlan, require_one


def restore_point(
    context: typer.Context,
    timestamp: Annotated[
        str | None,
        typer.Argument(help="ISO 8601, such as 2024-01-09T12:00:00Z; without a zone it is UTC."),
    ] = None,
    lsn: Annotated[str | None, typer.Option(help="Up to and with this commit LSN.")] = None,
    xid: Annotated[int | None, typer.Option(help="Up to and with this transaction.")] = None,
    before_xid: Annotated[
        int | None, typer.Option("--before-xid", help="Just before this transaction.")
    ] = None,
    latest: Annotated[
        bool, typer.Option("--latest", help="As far as the change log reaches.")
    ] = False,
    target: Target = None,
    in_place: InPlace = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, do nothing.")] = False,
    jobs: Jobs = None,
    storage: Storage = "primary",
    no_safety_backup: NoSafety = False,
    accept_refusals: AcceptRefusals = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Recover the database to a point in time, exactly.

    The plan names the full, the transactions on each side of the target, and what is lost.
    Without a zone a timestamp is UTC. Safety and checks are those of `restore`.
    """
    with surface(json) as shown:
        moment, notices = _moment(timestamp, lsn, xid, before_xid, latest=latest)
        aurora = run.load(context, {"restore": {"jobs": jobs}})
        options = api.restore_options(
            aurora,
            in_place=in_place or dry_run,
            safety=not no_safety_backup,
            accept_refusals=accept_refusals,
        )
        if dry_run:
            chosen = api.plan_point(
                aurora, moment, target=target, options=options, storage=storage, notices=notices,
                sink=shown.sink,
            )  # fmt: skip
            shown.print(*plan("Restore point", chosen.facts()))
            shown.summary(
                {"operation": "backup restore-point", "dry_run": True, **chosen.document()},
                ["dry run: nothing was changed"],
            )
            return
        report = api.restore_point(
            aurora,
            moment,
            target=target,
            options=options,
            storage=storage,
            notices=notices,
            confirm=lambda chosen: _confirm(shown, chosen, yes=yes),
            sink=shown.sink,
        )
        finish(shown, report)


def _moment(
    timestamp: str | None, lsn: str | None, xid: int | None, before_xid: int | None, *, latest: bool
) -> tuple[targets.Target, list[str]]:
    """The target, and what must be said of it."""
    require_one(
        {
            "a timestamp": timestamp, "--lsn": lsn, "--xid": xid, "--before-xid": before_xid,
            "--latest": latest,
        }
    )  # fmt: skip
    if timestamp is not None:
        at, assumed = targets.parse_moment(timestamp)
        told = f"{timestamp} has no zone: it is taken for UTC, {targets.shown_time(at)}"
        return targets.Target(at=at), [told] if assumed else []
    if lsn is not None:
        return targets.Target(lsn=targets.parse_lsn(lsn)), []
    return targets.Target(xid=xid, before_xid=before_xid, latest=latest), []


def _confirm(shown: Surface, chosen: RecoveryPlan, *, yes: bool) -> None:
    shown.print(*plan("Restore point", chosen.facts()))
    if chosen.restore.mode == "swap":
        name = chosen.restore.state.name
        confirm_by_typing(name, action=f"replace {chosen.restore.state.info.redacted()}", yes=yes)
