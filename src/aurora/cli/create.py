"""`aurora backup create` and `replicate`."""

from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.render import surface
from aurora.errors import Incomplete
from aurora.operations.backup import BackupReport
from aurora.operations.incremental import described
from aurora.operations.objects import ObjectsReport
from aurora.units import format_count, format_duration, format_size, plural

Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]


def create(
    context: typer.Context,
    type_: Annotated[
        str, typer.Option("--type", help="Kind of backup: full, incremental or sealed.")
    ] = "full",
    jobs: Annotated[int | None, typer.Option(help="Connections that read side by side.")] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Leave this schema.table out; may be repeated.")
    ] = None,
    accept_new_source: Annotated[
        bool,
        typer.Option(
            "--accept-new-source", help="The database has moved to another server; go on."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Back up the source to the primary storage, then bring the secondary up to date.

    Exit code 0: all of it on both storages. 3: made, but not on the secondary, or without
    some object of the project's Storage; what is lacking is told.
    """
    with surface(json) as shown:
        aurora = run.load(context, {"backup": {"jobs": jobs}}, sink=shown.sink)
        report = api.create_backup(
            aurora,
            kind=type_,
            skip=skip or (),
            accept_new_source=accept_new_source,
            sink=shown.sink,
        )
        shown.summary({"operation": "backup create", **report.document()}, _created(report))
    if not report.is_complete:
        raise typer.Exit(Incomplete.exit_code)


def _created(report: BackupReport) -> list[str]:
    where = {
        None: "complete",
        True: "complete and replicated",
        False: "complete on the primary, NOT replicated",
    }[report.replicated]
    rate = report.bytes_read / report.seconds if report.seconds else 0
    log = described(report)
    return [
        *([f"a full, not an incremental: {report.reason}"] if report.reason else []),
        *([log] if log else []),
        *([_objects(report.objects)] if report.objects else []),
        f"read {format_size(report.bytes_read)} ({plural(report.rows, 'row')} of "
        f"{plural(report.tables, 'table')}) at {format_size(round(rate))}/s, "
        f"new {format_size(report.bytes_new)}, stored {format_size(report.bytes_stored)}; "
        f"{report.objects_reused} objects unchanged",
        f"backup {report.backup_id} {where} in {format_duration(report.seconds)}, "
        f"state of {report.snapshot_at}",
    ]


def _objects(report: ObjectsReport) -> str:
    if report.left_out:
        return f"NOT in the backup: {report.left_out}"
    bad = [
        *([f"{format_count(report.lost)} could not be read"] if report.lost else []),
        *([f"{format_count(report.newer)} newer than the snapshot"] if report.newer else []),
    ]
    return (
        f"Storage: {format_count(report.objects)} objects ({format_size(report.bytes)}), "
        f"{format_count(report.read)} of them read" + (f"; {', '.join(bad)}" if bad else "")
    )


def replicate(context: typer.Context, json: Json = False) -> None:
    """Copy to the secondary what it lacks. Exit code 3 when something could not be copied."""
    with surface(json) as shown:
        report = api.replicate(run.load(context, sink=shown.sink), sink=shown.sink)
        lacking = [backup_id for (_, backup_id), names in report.lacking.items() if names]
        shown.summary(
            {
                "operation": "backup replicate",
                "copied_objects": report.copied_objects,
                "copied_bytes": report.copied_bytes,
                "bad": report.bad,
                "lacking": lacking,
            },
            [
                *(f"damaged on the primary: {name}: {why}" for name, why in report.bad.items()),
                f"copied {format_count(report.copied_objects)} objects, "
                f"{format_size(report.copied_bytes)}; "
                + (
                    f"NOT whole there: {', '.join(lacking)}" if lacking else "all backups are there"
                ),
            ],
        )
    if not report.is_complete:
        raise typer.Exit(Incomplete.exit_code)
