"""`aurora backup prune`, and `hold`, `release`, `undelete`, which stand against it."""

from typing import Annotated, Any

import typer

from aurora import api, clock
from aurora.cli import context as run
from aurora.cli.prompts import confirm
from aurora.cli.render import Surface, surface, table
from aurora.operations.prune import PrunePlan, PruneReport, Row
from aurora.units import format_count, format_size, plural

Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]
Held = Annotated[str, typer.Argument(help="A backup's id, a unique part of it, or all.")]


def prune(
    context: typer.Context,
    storage: Annotated[
        str | None, typer.Option(help="primary or secondary; by default both, one by one.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be kept and removed, and why.")
    ] = False,
    allow_many: Annotated[
        bool, typer.Option("--allow-many", help="Also remove more than half of the backups.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove the backups that retention lets go, and delete what no backup needs.

    A removed backup stays whole for 48 hours at least, and `undelete` brings it back. Later runs
    delete it. Primary and secondary are pruned each by itself.
    """
    with surface(json) as shown:
        aurora = run.load(context, sink=shown.sink)
        places = (storage,) if storage else api.prune_places(aurora)
        done: list[dict[str, Any]] = []
        lines: list[str] = []
        for place in places:
            plan = api.plan_prune(aurora, storage=place, allow_many=allow_many, sink=shown.sink)
            _show(plan, shown)
            if dry_run:
                done.append(plan.document())
                lines.append(_would(plan))
                continue
            plan.require_moderate()
            _ask(plan, yes=yes)
            report = api.run_prune(aurora, plan, sink=shown.sink)
            done.append({**plan.document(), **report.document()})
            lines += _did(report)
        shown.summary({"operation": "backup prune", "dry_run": dry_run, "storages": done}, lines)


def _show(plan: PrunePlan, shown: Surface) -> None:
    for title, decision in (
        ("keep", "keep"), ("remove", "remove"), ("removed before, still whole", "removed"),
    ):  # fmt: skip
        rows = [row for row in plan.rows if row.decision == decision]
        if rows:
            shown.print(f"{plan.place}: {title} {plural(len(rows), 'backup')}")
            columns = ("backup", "database", "stored at (UTC)", "needs", "reasons")
            shown.print(table(columns, map(_cells, rows), right="needs"), "")


def _cells(row: Row) -> tuple[str, ...]:
    reasons = [row.reasons[0], *(f"\n{more}" for more in row.reasons[1:])]
    if row.removed_at is not None:
        reasons.append(f"\nremoved at {clock.isoformat(row.removed_at.replace(microsecond=0))}")
    return (
        row.id,
        row.database,
        clock.isoformat(row.verdict.item.stored_at.replace(microsecond=0)),
        "?" if row.stored_bytes is None else format_size(row.stored_bytes),
        "".join(reasons),
    )


def _ask(plan: PrunePlan, *, yes: bool) -> None:
    if not plan.is_idle:
        count = plural(len(plan.to_announce), "backup")
        action = f"remove {count} from the {plan.place}"
        confirm(f"Remove {count} from the {plan.place}?", action=action, yes=yes)


def _would(plan: PrunePlan) -> str:
    if plan.frozen:
        return f"{plan.place}: nothing is removed: {_frozen(hold.why for hold in plan.frozen)}"
    kept = sum(row.decision == "keep" for row in plan.rows)
    told = f"{plan.place}: would keep {kept} and remove {len(plan.to_announce)}"
    return f"{told}; more than half at once takes --allow-many" if plan.too_much else told


def _did(report: PruneReport) -> list[str]:
    if report.collected is None:
        return [f"{report.place}: nothing was removed: {_frozen(report.frozen)}"]
    found = report.collected
    lines = [
        f"{report.place}: {plural(found.waiting, 'object')} wait for "
        f"{plural(found.leases, 'run')} that may still need them; a later prune goes on"
    ] if found.waiting else []  # fmt: skip
    if report.undone:
        lines.append(f"{report.place}: kept after all: {', '.join(report.undone)}")
    told = (
        f"{report.place}: kept {report.kept}, removed {len(report.announced)}, deleted "
        f"{plural(len(found.backups), 'backup')} and {format_count(found.objects)} objects, "
        f"{format_size(found.stored_bytes)}"
    )
    if report.announced:
        told += f"; `aurora backup undelete ID` until {report.undelete_until[:19]}Z"
    return [*lines, told, *_locked(report)]


def _locked(report: PruneReport) -> list[str]:
    lines = []
    if report.locks is not None and report.locks.until is not None:
        lines.append(
            f"{report.place}: locks of {plural(report.locks.extended, 'object')} extended until "
            f"{clock.isoformat(report.locks.until)}"
        )
    old = report.old_versions
    if old is not None and old.deleted:
        told = f"{plural(old.deleted, 'old version')}, {format_size(old.deleted_bytes)}"
        lines.append(f"{report.place}: deleted for good {told}")
    if old is not None and old.kept:
        until = f" until {clock.isoformat(old.until)}" if old.until else ""
        told = f"{plural(old.kept, 'deleted object')} of {format_size(old.kept_bytes)} kept"
        lines.append(
            f"{report.place}: {told} as older versions{until} at most; a later prune takes them"
        )
    return lines


def _frozen(reasons: Any) -> str:
    told = list(reasons)
    ends = "aurora incident close" if all("incident i" in why for why in told) else (
        "aurora backup release all"
    )  # fmt: skip
    return f"held: {', '.join(told)}; `{ends}` ends that"


def hold(
    context: typer.Context,
    backup_id: Held,
    why: Annotated[str, typer.Option(help="Who needs it and until when.")] = "",
    json: Json = False,
) -> None:
    """Protect a backup, and all that it needs, from removal until `release`.

    With `all` in place of an id nothing is removed at all: for an incident or a doubt.
    """
    with surface(json) as shown:
        done = api.hold_backup(
            run.load(context, sink=shown.sink), backup_id, why=why, sink=shown.sink
        )
        _tell(shown, "hold", done, "is held")


def release(
    context: typer.Context,
    backup_id: Held,
    why: Annotated[str, typer.Option(help="Why it is no longer needed.")] = "",
    json: Json = False,
) -> None:
    """End every hold on a backup; with `all`, those on the whole database."""
    with surface(json) as shown:
        done = api.release_backup(
            run.load(context, sink=shown.sink), backup_id, why=why, sink=shown.sink
        )
        _tell(shown, "release", done, "is released")


def undelete(
    context: typer.Context,
    backup_id: Annotated[str, typer.Argument(help="A removed backup's id, or a unique part.")],
    json: Json = False,
) -> None:
    """Keep a backup that `prune` removed and has not deleted yet. It is held from then on."""
    with surface(json) as shown:
        done = api.undelete_backup(run.load(context, sink=shown.sink), backup_id, sink=shown.sink)
        _tell(shown, "undelete", done, "is kept, and held until `aurora backup release`")


def _tell(shown: Surface, verb: str, done: dict[str, str], what: str) -> None:
    backup_id = next(iter(done.values()))
    shown.summary(
        {"operation": f"backup {verb}", "backup_id": backup_id, "storages": list(done)},
        [f"{backup_id} {what} on the {' and the '.join(done)}"],
    )
