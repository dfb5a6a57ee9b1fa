"""`aurora backup list`."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from aurora import api, clock
from aurora.cli import context as run
from aurora.cli.render import surface, table
from aurora.operations.holds import Marks
from aurora.repository.catalog import BackupEntry
from aurora.units import format_count, format_size, plural

Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]


def list_backups(
    context: typer.Context,
    storage: Annotated[str, typer.Option(help="primary or secondary.")] = "primary",
    all_databases: Annotated[
        bool, typer.Option("--all", help="Backups of every database in the repository.")
    ] = False,
    json: Json = False,
) -> None:
    """List the backups, oldest first."""
    with surface(json) as shown:
        aurora = run.load(context, sink=shown.sink)
        entries, marks = api.list_with_marks(
            aurora, storage=storage, all_databases=all_databases, sink=shown.sink
        )
        rows = [
            (
                entry.id,
                entry.type,
                entry.database,
                clock.isoformat(entry.created_at),
                "?" if entry.stored_bytes is None else format_size(entry.stored_bytes),
                "?" if entry.objects is None else format_count(entry.objects),
                _remarks(entry, marks.get(entry.id)),
            )
            for entry in entries
        ]
        if entries:
            shown.print(
                table(
                    ("backup", "type", "database", "made at (UTC)", "stored", "objects", ""),
                    rows,
                    right="stored objects",
                )
            )
        others: set[str] = set()
        if not entries and not all_databases:
            every = api.list_backups(aurora, storage=storage, all_databases=True)
            others = {entry.database for entry in every}
        shown.summary(
            {
                "operation": "backup list",
                "backups": [_listed(entry, marks.get(entry.id)) for entry in entries],
                "held": marks["all"].held if "all" in marks else [],
            },
            [
                *(f"everything is held: {why}" for why in marks.get("all", Marks()).held),
                plural(len(entries), "backup") if entries else _none(others),
            ],
        )


def _none(others: Iterable[str]) -> str:
    """Another label than before is easily taken for the loss of all backups."""
    told = ", ".join(sorted(others))
    if told:
        return (
            f"no backups of this source; the repository holds those of {told} (`aurora backup list "
            "--all`). Is it the same database? Then set name under [source] to that label"
        )
    return "no backups yet; run `aurora backup create`"


def _listed(entry: BackupEntry, marks: Marks | None) -> dict[str, Any]:
    return {
        **asdict(entry),
        "backup_id": entry.id,
        "created_at": clock.isoformat(entry.created_at),
        "held": marks.held if marks else [],
        "removed_at": marks.removed_at if marks else None,
        "elsewhere": marks.elsewhere if marks else False,
    }


def _remarks(entry: BackupEntry, marks: Marks | None) -> str:
    found = [entry.damage or ""]
    if marks is not None:
        found += [f"held: {why}" for why in marks.held]
        if marks.removed_at is not None:
            at = clock.isoformat(marks.removed_at.replace(microsecond=0))
            found.append(f"removed at {at}, `undelete` keeps it")
        if marks.elsewhere:
            found.append("on the secondary only")
    return "; ".join(filter(None, found))
