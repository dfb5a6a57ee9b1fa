"""`aurora backup restore-point`: recovery to a moment, out of a full and the change log."""

from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.moments import BeforeXid, Latest, Lsn, Name, Xid, named_target
from aurora.cli.render import surface
from aurora.cli.restore import (
    AcceptRefusals,
    DryRun,
    InPlace,
    Jobs,
    Json,
    NoSafety,
    Storage,
    Target,
    Yes,
    recover_to,
)
from aurora.errors import UsageError

Full = Annotated[
    str | None, typer.Option(help="Start from this full backup, not from the newest that serves.")
]


def restore_point(
    context: typer.Context,
    timestamp: Annotated[
        str | None,
        typer.Argument(help="ISO 8601, such as 2024-01-09T12:00:00Z."),
    ] = None,
    lsn: Lsn = None,
    xid: Xid = None,
    before_xid: BeforeXid = None,
    name: Name = None,
    latest: Latest = False,
    full: Full = None,
    target: Target = None,
    in_place: InPlace = False,
    dry_run: DryRun = False,
    jobs: Jobs = None,
    storage: Storage = "primary",
    no_safety_backup: NoSafety = False,
    accept_refusals: AcceptRefusals = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Recover the database to a point in time, exactly.

    The plan names the full, the transactions on each side of the target, and what is lost.
    A timestamp without a zone is asked about on a terminal, else it is UTC. Safety and
    checks are those of `restore`.
    """
    with surface(json) as shown:
        moment, notices = named_target(
            timestamp, lsn, xid, before_xid, name, latest=latest, yes=yes or dry_run
        )
        if moment is None:
            raise UsageError(
                "name a target",
                hint='Write `aurora backup restore-point "2024-01-09T12:00:00Z"`, or one of --lsn, '
                "--xid, --before-xid, --name, --latest.",
            )
        aurora = run.load(context, {"restore": {"jobs": jobs}})
        options = api.restore_options(
            aurora,
            in_place=in_place or dry_run,
            safety=not no_safety_backup,
            accept_refusals=accept_refusals,
        )
        recover_to(
            shown, aurora, "restore-point", moment, notices, target=target, options=options,
            full=full, storage=storage, dry_run=dry_run, yes=yes,
        )  # fmt: skip
