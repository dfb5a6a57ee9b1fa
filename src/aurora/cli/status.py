"""`aurora backup status`: one screen, the verdict first."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from aurora import api
from aurora.cli import context as run
from aurora.cli.render import Surface, findings, plan, surface, table
from aurora.errors import AuroraError, Incomplete
from aurora.operations.coverage import Covered, shown_share
from aurora.operations.findings import Level
from aurora.operations.source import held_note
from aurora.operations.status import StatusReport, TypeStatus, shown_moment
from aurora.operations.status_judge import ago, rpo_words
from aurora.operations.status_storage import GROWTH_DAYS, StorageLook
from aurora.units import format_count, format_duration, format_size, plural
from aurora.wiring import HASTY

_STYLES = {Level.OK: "bold green", Level.WARNING: "bold yellow", Level.ERROR: "bold red"}


def status(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Show whether the database can be recovered, to when, and what needs doing.

    Exit code 0: all is well. 3: recoverable, with warnings. 1: not recoverable, or an error.
    """
    with surface(json) as shown:
        aurora = run.load(context, patience=HASTY)
        report = api.status(aurora)
        show(shown, report)
        shown.summary({"operation": "backup status", **report.document()}, [])
    if report.level is Level.ERROR:
        raise typer.Exit(AuroraError.exit_code)
    if report.level is Level.WARNING:
        raise typer.Exit(Incomplete.exit_code)


def show(shown: Surface, report: StatusReport) -> None:
    """The screen."""
    shown.print(Text(f"{report.database}: {report.verdict}", style=_STYLES[report.level]))
    if report.findings:
        shown.print("", *findings(report.findings))
    if report.backups:
        rows = [_backup_row(report, one) for one in report.backups]
        shown.print("", table(("backups", "age", "made at (UTC)", "due", ""), rows, right="age"))
    if report.storages:
        rows = [_storage_row(one) for one in report.storages]
        heads = ("storages", "objects", "size", f"new in {GROWTH_DAYS} d", "a month", "")
        shown.print("", table(heads, rows, right="objects size"))
    shown.print("", *plan("recovery", _facts(report)))


def _backup_row(report: StatusReport, one: TypeStatus) -> tuple[str, ...]:
    coming = report.next_runs.get(one.type)
    due = one.due + (f", next {_short(coming, report.at)}" if coming else "")
    if one.created_at is None:
        return one.type, "-", "never", due, ""
    age = format_duration(one.age_seconds or 0)
    return one.type, age, shown_moment(one.created_at), due, one.backup_id


def _storage_row(one: StorageLook) -> tuple[str, ...]:
    cost = one.monthly_cost
    known = one.objects is not None and one.bytes is not None and one.grown_bytes is not None
    numbers = (
        (format_count(one.objects or 0), format_size(one.bytes or 0),
         f"+{format_size(one.grown_bytes or 0)}")
        if known
        else ("?", "?", "?")
    )  # fmt: skip
    state = "" if one.reachable and not one.error else "NOT REACHABLE"
    if one.reachable and one.error:
        state = one.error
    elif one.replicated_to:
        state = f"up to {one.replicated_to}"
    if one.locked_until is not None:
        state += f"{', ' * bool(state)}locked until {one.locked_until:%Y-%m-%d}"
    price = "no price set" if one.price is None else "?" if cost is None else f"{cost:.2f}"
    return f"{one.place} {one.url}", *numbers, price, state


def _facts(report: StatusReport) -> Iterator[tuple[str, object]]:
    window = report.window
    if window.from_at is not None and window.to_at is not None:
        yield "window", f"{shown_moment(window.from_at)} to {shown_moment(window.to_at)}"
        for gap in window.gaps[-3:]:
            yield "  gap", f"{shown_moment(gap.from_at)} to {shown_moment(gap.to_at)}"
        if len(window.gaps) > 3:
            yield "  gaps", f"{len(window.gaps) - 3} more, see --json"
    lost = "" if report.rpo.bytes is None else f", {format_size(report.rpo.bytes)} of WAL"
    yield "RPO now", f"{rpo_words(report)}{lost}: {report.rpo.why}"
    yield "RTO", _rto(report)
    yield "change log", _log(report)
    yield "last test", _last_test(report)
    for place, covered in report.covered.items():
        yield f"verified, {place}", _verified(report, covered)
    others = {
        name: due for name, due in report.next_runs.items()
        if name not in {one.type for one in report.backups}
    }  # fmt: skip
    if others:
        soon = sorted(others.items(), key=lambda one: one[1])
        yield (
            "next",
            ", ".join(
                f"{name.replace('_', '-')} {_short(due, report.at)}" for name, due in soon[:6]
            ),
        )


def _rto(report: StatusReport) -> str:
    last = report.measured
    if last is None:
        return "never measured"
    age = ago((report.at - last.at).total_seconds())
    return f"{format_duration(last.seconds)}, measured by {last.kind} {age}"


def _last_test(report: StatusReport) -> str:
    last = report.last_test
    if last is None:
        return "never"
    age = ago((report.at - last.at).total_seconds())
    return f"{last.kind} {age}: {'passed' if last.ok else 'FAILED'} ({last.detail})"


def _log(report: StatusReport) -> str:
    if not report.source_reachable:
        return "the source does not answer"
    if report.slot is None:
        return "none is kept: only full backups"
    lag = "" if report.lag_bytes is None else f", {format_size(report.lag_bytes)} behind"
    return f"{held_note(report.slot)}{lag}"


def _verified(report: StatusReport, covered: Covered) -> str:
    last = (
        "no run over everything yet"
        if covered.last_at is None
        else ago((report.at - covered.last_at).total_seconds())
    )
    share = "" if covered.share is None else f", {shown_share(covered.share)} covered"
    bad = f", {plural(covered.bad, 'bad object')}" if covered.bad else ""
    return f"{last}{share}{bad}"


def _short(due: datetime, now: datetime) -> str:
    return f"in {format_duration((due - now).total_seconds())}"
