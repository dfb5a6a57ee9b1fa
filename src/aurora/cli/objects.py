"""`aurora backup restore-object` and `restore-bucket`: files of a project's Storage."""

from pathlib import Path
from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.prompts import confirm
from aurora.cli.render import Surface, plan, surface
from aurora.cli.restore import BackupId, Identity, Json, Storage, Yes
from aurora.errors import Incomplete
from aurora.operations.reports import ObjectsRestored
from aurora.operations.restore_objects import ObjectsPlan
from aurora.units import format_size

Target = Annotated[
    str | None,
    typer.Option(help="Connection string of the project's database; by default the source."),
]


def restore_object(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="BUCKET/NAME", help="The object, as in Storage.")],
    backup_id: BackupId,
    output: Annotated[
        Path | None, typer.Option(help="Write it to this file or directory instead.")
    ] = None,
    target: Target = None,
    storage: Storage = "primary",
    identity: Identity = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Restore one object of the project's Storage, to a file or back into the project."""
    with surface(json) as shown:
        aurora = run.load(context, sink=shown.sink)
        if output is not None:
            entry = api.save_object(
                aurora,
                path,
                backup_id,
                output,
                storage=storage,
                identity=identity or (),
                sink=shown.sink,
            )
            shown.summary(
                {
                    "operation": "backup restore-object",
                    "object": f"{entry.bucket}/{entry.name}",
                    "output": str(output),
                    "bytes": entry.size,
                    "sha256": entry.sha256,
                    "note": entry.note,
                },
                [
                    f"{entry.bucket}/{entry.name}, {format_size(entry.size)}, written to {output}; "
                    f"SHA-256 {entry.sha256}",
                    *(["its bytes are later than the backup's snapshot"] if entry.note else []),
                ],
            )
            return
        report = api.restore_objects(
            aurora,
            backup_id,
            path=path,
            target=target,
            storage=storage,
            identity=identity or (),
            confirm=lambda chosen: _confirm(shown, chosen, yes=yes),
            sink=shown.sink,
        )
        _finish(shown, report, "restore-object")


def restore_bucket(
    context: typer.Context,
    bucket: Annotated[str, typer.Argument(help="The bucket's name; * for all of them.")],
    backup_id: BackupId,
    target: Target = None,
    storage: Storage = "primary",
    identity: Identity = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Restore a bucket of the project's Storage with its objects, each proven to have arrived.

    What is right already is left alone, so a restore that was stopped goes on when it is run
    again. Nothing is deleted.
    """
    with surface(json) as shown:
        report = api.restore_objects(
            run.load(context, sink=shown.sink),
            backup_id,
            bucket="" if bucket == "*" else bucket,
            target=target,
            storage=storage,
            identity=identity or (),
            confirm=lambda chosen: _confirm(shown, chosen, yes=yes),
            sink=shown.sink,
        )
        _finish(shown, report, "restore-bucket")


def _confirm(shown: Surface, chosen: ObjectsPlan, *, yes: bool) -> None:
    shown.print(*plan("Restore Storage objects", chosen.facts()))
    confirm("Restore them?", action="restore Storage objects", yes=yes)


def _finish(shown: Surface, report: ObjectsRestored, operation: str) -> None:
    shown.summary({"operation": f"backup {operation}", **report.document()}, report.told())
    if not report.is_complete:
        raise typer.Exit(Incomplete.exit_code)
