"""`aurora backup verify` and `aurora backup heal`."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.render import surface
from aurora.errors import IntegrityError, UsageError
from aurora.repository.verify import BadObject, Level
from aurora.units import format_count, format_duration, format_size, listed, parse_duration, plural

BackupId = Annotated[
    str, typer.Argument(help="A backup's id, a unique part of it, latest, or all.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]


def verify(
    context: typer.Context,
    backup_id: BackupId,
    storage: Annotated[
        str, typer.Option(help="primary or secondary; with all also both.")
    ] = "primary",
    level: Annotated[
        Level,
        typer.Option(
            help="names: existence and sizes. ciphertext: stored bytes, without keys. "
            "full: everything is opened and followed."
        ),
    ] = Level.FULL,
    subset: Annotated[str | None, typer.Option(help="The n-th of t parts: n/t.")] = None,
    budget: Annotated[str | None, typer.Option(help="Stop after this long, such as 10m.")] = None,
    identity: Annotated[
        list[Path] | None, typer.Option("--identity", help="Also open a sealed backup with this.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify that a backup is there, unaltered, and opens. Exit code 40 when it is not.

    The id all stands for every backup, what was verified longest ago first.
    """
    if backup_id == "all":
        if subset or identity:
            raise UsageError("all takes neither --subset nor --identity")
        _verify_all(context, storage, level, _budget(budget), json)
        return
    with surface(json) as shown:
        found = api.verify_backup(
            run.load(context, sink=shown.sink),
            backup_id,
            storage=storage,
            level=level,
            subset=_subset(subset),
            budget_seconds=_budget(budget),
            identity=identity or (),
            sink=shown.sink,
        )
        entry, report, touched = found.entry, found.report, found.tables
        scope = f"{format_count(report.checked_objects)} of {report.needed_objects} objects"
        if report.ended_early:
            scope += " (the time was over)"
        verdict = "ok" if report.ok else f"{len(report.bad)} bad objects"
        document: dict[str, Any] = {
            "operation": "backup verify",
            "backup_id": entry.id,
            "storage": storage,
            "level": str(level),
            "ok": report.ok,
            "checked_objects": report.checked_objects,
            "needed_objects": report.needed_objects,
            "checked_bytes": report.checked_bytes,
            "ended_early": report.ended_early,
            **({"recipients": found.recipients} if found.recipients else {}),
            "bad": [{**asdict(bad), "tables": touched.get(bad.name, [])} for bad in report.bad],
        }
        lines = [
            *(f"sealed for {recipient}" for recipient in found.recipients),
            *(["its parts were not opened: that takes --identity"] if found.recipients else []),
            *(line for bad in report.bad[:50] for line in _told(bad, touched.get(bad.name, []))),
            f"{entry.id} on the {storage}: {verdict}, level {level}, {scope}, "
            f"{format_size(report.checked_bytes)}",
        ]
        shown.summary(document, lines)
    if report.ok:
        return
    raise IntegrityError(
        f"{plural(len(report.bad), 'object')} of {entry.id} missing or damaged on the {storage}",
        hint=f"Run `aurora backup heal {entry.id}`: it brings them back from the other storage. "
        "A restore reads good copies from there by itself.",
        context={"objects": [bad.name for bad in report.bad[:100]]},
    )


def _verify_all(
    context: typer.Context, storage: str, level: Level, budget: float | None, json: bool
) -> None:
    with surface(json) as shown:
        aurora = run.load(context, sink=shown.sink)
        both = ("primary", "secondary") if aurora.has_secondary else ("primary",)
        reports = {
            place: api.verify_all(
                aurora, storage=place, level=level, budget_seconds=budget, sink=shown.sink
            )
            for place in (both if storage == "both" else (storage,))
        }
        bad = [(place, one) for place, report in reports.items() for one in report.bad]
        document = {
            "operation": "backup verify",
            "backup_id": "all",
            "level": str(level),
            "ok": not bad,
            "checked_bytes": sum(report.checked_bytes for report in reports.values()),
            "storages": {
                place: {
                    "checked_objects": report.checked_objects,
                    "needed_objects": report.needed_objects,
                    "checked_bytes": report.checked_bytes,
                    "ended_early": report.ended_early,
                    "bad": [asdict(one) for one in report.bad],
                }
                for place, report in reports.items()
            },
        }
        lines = [f"{place}: {line}" for place, one in bad[:50] for line in _told(one, [])]
        lines += [
            f"{place}: {'ok' if report.ok else f'{len(report.bad)} bad objects'}, level {level}, "
            f"{format_count(report.checked_objects)} of {report.needed_objects} objects, "
            f"{format_size(report.checked_bytes)}"
            + (" (the time was over)" if report.ended_early else "")
            for place, report in reports.items()
        ]
        shown.summary(document, lines)
    if bad:
        raise IntegrityError(
            f"{plural(len(bad), 'object')} missing or damaged",
            hint="Run `aurora backup heal all`: it brings them back from the other storage.",
            context={"objects": [one.name for _, one in bad[:100]]},
        )


def _told(bad: BadObject, tables: list[str]) -> list[str]:
    lines = [f"{bad.problem}: {bad.name} ({bad.detail})"]
    if tables:
        lines.append(f"  tables: {listed(tables, at_most=10)}")
    if bad.backups:
        lines.append(f"  backups: {', '.join(bad.backups[:10])}")
    return lines


def _budget(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error), hint="Write a time such as 90s, 10m or 2h.") from error


def _subset(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise UsageError(f"no subset {text[:20]}", hint="Write n/t, such as 1/7.")
    return int(match[1]), int(match[2])


def heal(
    context: typer.Context,
    backup_id: Annotated[str, typer.Argument(help="A backup's id, latest, or all.")],
    json: Json = False,
) -> None:
    """Bring missing and damaged objects of a backup back, on either storage, from the other.

    Every good copy is proven before it is written. With `all`, a storage that lost
    everything is filled again. Exit code 40 when something stays bad.
    """
    with surface(json) as shown:
        reports = api.heal_backups(run.load(context, sink=shown.sink), backup_id, sink=shown.sink)
        healed = {
            place: [name for report in reports for name in getattr(report, place)]
            for place in ("primary", "secondary")
        }
        failed = {name: why for report in reports for name, why in report.failed.items()}
        count = sum(len(names) for names in healed.values())
        shown.summary(
            {
                "operation": "backup heal",
                "backups": [report.backup_id for report in reports],
                **({"backup_id": reports[0].backup_id} if len(reports) == 1 else {}),
                **healed,
                "failed": failed,
            },
            [
                *(
                    f"healed on the {place}: {name}"
                    for place, names in healed.items()
                    for name in names[:50]
                ),
                *(f"NOT healed: {name}: {why}" for name, why in failed.items()),
                f"{plural(len(reports), 'backup')} looked at: {plural(count, 'object')} healed, "
                f"{len(failed)} not, in "
                f"{format_duration(sum(report.seconds for report in reports))}",
            ],
        )
    if failed:
        raise IntegrityError(
            f"{plural(len(failed), 'object')} without a good copy",
            hint="Older or newer backups may be whole: `aurora backup verify` tells. Run "
            "`aurora backup create` for a new good one.",
        )
