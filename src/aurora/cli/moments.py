"""How a recovery target is named on the command line: a time, an LSN, an xid, a restore point."""

from typing import Annotated

import typer

from aurora.cli.prompts import choose, interactive
from aurora.engines.logical import targets
from aurora.engines.logical.targets import Moment, Target
from aurora.errors import UsageError

At = Annotated[
    str | None,
    typer.Option(help="As of this time, ISO 8601, such as 2024-01-09T12:00:00Z."),
]
Lsn = Annotated[str | None, typer.Option(help="Up to and with this commit LSN.")]
Xid = Annotated[int | None, typer.Option(help="Up to and with this transaction.")]
BeforeXid = Annotated[
    int | None, typer.Option("--before-xid", help="Just before this transaction.")
]
Name = Annotated[
    str | None, typer.Option("--name", help="A restore point that `backup mark` made.")
]
Latest = Annotated[bool, typer.Option("--latest", help="As far as the change log reaches.")]


def named_target(
    at: str | None = None,
    lsn: str | None = None,
    xid: int | None = None,
    before_xid: int | None = None,
    name: str | None = None,
    *,
    latest: bool = False,
    yes: bool = False,
) -> tuple[Target | None, list[str]]:
    """The one target that was named, and what must be said of it; None where there is none.

    A time without a zone is asked about on a terminal, unless *yes*; else it is UTC.

    Raises UsageError, Cancelled.
    """
    given = [
        word
        for word, value in (
            ("a timestamp", at), ("--lsn", lsn), ("--xid", xid), ("--before-xid", before_xid),
            ("--name", name), ("--latest", latest or None),
        )
        if value is not None
    ]  # fmt: skip
    if len(given) > 1:
        raise UsageError(f"name one target, not {len(given)}: {', '.join(given)}")
    if not given:
        return None, []
    if name == "":
        raise UsageError("a restore point has a name")
    if at is not None:
        return _at(targets.parse_moment(at), yes=yes)
    if lsn is not None:
        return Target(lsn=targets.parse_lsn(lsn)), []
    return Target(xid=xid, before_xid=before_xid, latest=latest, name=name or ""), []


def _at(moment: Moment, *, yes: bool) -> tuple[Target, list[str]]:
    zoned, what = moment.zoned, moment.text
    if moment.is_date:
        what = f"{what} (its first moment)"
    utc = moment.micros()
    if zoned:
        return Target(at=utc), []
    local = moment.micros(None)
    if local != utc and not yes and interactive():
        chosen = choose(
            f"{what} has no zone. Which time is it?",
            [
                f"UTC: {targets.shown_time(utc)}",
                f"this machine's local time: {targets.shown_time(local)}",
            ],
        )
        at = (utc, local)[chosen]
        return Target(at=at), [f"{what} was taken for {targets.shown_time(at)}, as answered"]
    return Target(at=utc), [f"{what} has no zone: it is taken for UTC, {targets.shown_time(utc)}"]
