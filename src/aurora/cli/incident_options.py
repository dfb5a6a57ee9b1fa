"""Options that the commands of `aurora incident` share."""

from typing import Annotated

import typer

Which = Annotated[
    str | None, typer.Option("--incident", help="A part of its id; the newest open one by default.")
]
By = Annotated[str, typer.Option("--by", help="Who does this, for the record.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show everything, do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]
Storage = Annotated[str, typer.Option(help="Read from: primary or secondary.")]
BadXid = Annotated[
    list[int] | None,
    typer.Option("--bad-xid", help="A transaction that did damage; may be repeated."),
]
