"""`aurora incident …`: led through an emergency, step by step, each of them on its own too."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli import incident_talk
from aurora.cli.incident_options import BadXid, By, DryRun, Json, Storage, Which, Yes
from aurora.cli.incident_recover import recover
from aurora.cli.moments import At, BeforeXid, Lsn, Name, Xid, named_target
from aurora.cli.prompts import confirm, confirm_by_typing
from aurora.cli.render import Surface, plan, surface, table
from aurora.clock import isoformat
from aurora.engines.logical.targets import shown_lsn
from aurora.errors import UsageError
from aurora.operations.incident import resume, stop_plan, writes
from aurora.operations.incident.assess import Assessment, Touch
from aurora.operations.incident.record import Incident
from aurora.operations.log import parse_time
from aurora.units import format_count, parse_duration, plural

incident = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@incident.callback()
def group() -> None:
    """Lead through an emergency: stop writes, find what happened, recover, tell people."""


incident.command("start")(incident_talk.start)


@incident.command("stop-writes")
def stop_writes(
    context: typer.Context,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="Revoke from this role alone; may be repeated."),
    ] = None,
    grace: Annotated[
        str, typer.Option(help="How long open transactions that write may go on.")
    ] = "5 s",
    watch: Annotated[str, typer.Option(help="How long the change stream must be silent.")] = "5 s",
    which: Which = None,
    by: By = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Stop all writes to the source, reversibly, and prove that they are stopped.

    Shows every statement first. Reading goes on. `resume-writes` takes everything back.
    """
    with surface(json) as shown:
        aurora = run.load(context)
        options = stop_plan.StopOptions(
            tuple(role or ()), grace=_seconds("--grace", grace), watch=_seconds("--watch", watch)
        )
        if dry_run:
            chosen = api.plan_stop_writes(
                aurora, incident=which, options=options, by=by, sink=shown.sink
            )
            _show_stop(shown, chosen)
            _dry(shown, "incident stop-writes", chosen.document())
            return

        def agreed(chosen: stop_plan.StopPlan) -> None:
            _show_stop(shown, chosen)
            name = chosen.undo.database
            confirm_by_typing(name, action=f"stop all writes to {chosen.undo.server}", yes=yes)

        found, report = api.stop_writes(
            aurora, incident=which, options=options, by=by, confirm=agreed, sink=shown.sink
        )
        shown.print(*(f"not covered: {text}" for text in report.uncovered))
        proof = report.proof
        lines = [f"proof: {plural(len(proof.attempts), 'attempt')} to write, all refused"]
        if proof.not_tried:
            lines.append(f"not tried, the role may not be taken on: {', '.join(proof.not_tried)}")
        if proof.stream:
            lines.append(f"change stream: {proof.stream}")
        lines.append(
            f"writes are stopped since {report.stopped_at}, incident {found.id}; to take it back: "
            "`aurora incident resume-writes`"
        )
        shown.summary(
            writes.document(found, {"operation": "incident stop-writes", **report.document()}),
            lines,
        )


@incident.command("resume-writes")
def resume_writes(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Option(help="The undo file; that of the incident by default.")
    ] = None,
    accept_unsigned: Annotated[
        bool, typer.Option("--accept-unsigned", help="Take an undo file that cannot be proven.")
    ] = False,
    keep_sessions: Annotated[
        bool,
        typer.Option("--keep-sessions", help="Leave idle sessions that had begun read-only."),
    ] = False,
    which: Which = None,
    by: By = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Take back exactly what stop-writes did, and prove that writes work."""
    with surface(json) as shown:
        aurora = run.load(context)
        if dry_run:
            _, chosen = api.plan_resume_writes(
                aurora, incident=which, file=file, accept_unsigned=accept_unsigned,
                keep_sessions=keep_sessions, sink=shown.sink,
            )  # fmt: skip
            _show_resume(shown, chosen)
            _dry(shown, "incident resume-writes", chosen.document())
            return

        def agreed(chosen: resume.ResumePlan) -> None:
            _show_resume(shown, chosen)
            if chosen.statements():
                confirm("Resume writes?", action="resume writes", yes=yes)

        found, report = api.resume_writes(
            aurora, incident=which, file=file, accept_unsigned=accept_unsigned,
            keep_sessions=keep_sessions, by=by, confirm=agreed, sink=shown.sink,
        )  # fmt: skip
        extra = {"operation": "incident resume-writes", **report.document()}
        shown.summary(writes.document(found, extra) if found else extra, resume.told(report))


@incident.command("assess")
def assess(
    context: typer.Context,
    since: Annotated[str | None, typer.Option("--from", help="From this time on.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Up to this time.")] = None,
    of_table: Annotated[str, typer.Option("--table", help="Only this schema.table.")] = "",
    key: Annotated[
        str | None, typer.Option(help="What touched the row with this key; needs --table.")
    ] = None,
    no_refresh: Annotated[
        bool, typer.Option("--no-refresh", help="Do not bring the change log up to now first.")
    ] = False,
    which: Which = None,
    storage: Storage = "primary",
    by: By = "",
    json: Json = False,
) -> None:
    """Find what was lost or damaged: the suspicious transactions of the change log, ranked."""
    with surface(json) as shown:
        aurora = run.load(context)
        when = (parse_time(since) if since else None, parse_time(until) if until else None)
        if key is not None:
            found = api.touches(
                aurora, of_table, key, since=when[0], until=when[1], refresh=not no_refresh,
                storage=storage, sink=shown.sink,
            )  # fmt: skip
            _show_touches(shown, of_table, key, found)
            return
        made = api.assess(
            aurora, since=when[0], until=when[1], table=of_table, refresh=not no_refresh,
            incident=which, storage=storage, by=by, sink=shown.sink,
        )  # fmt: skip
        shown.print(table(["", "at (UTC)", "xid", "LSN", "why"], _suspicious(made)))
        for one in made.dropped:
            shown.print(
                f"dropped: {one.table}, {format_count(one.rows)} rows, between {one.after_at} "
                f"({one.after}) and {one.before_at}"
            )
        lines = [f"{plural(made.transactions, 'transaction')} looked at, "
                 f"{format_count(made.rows)} rows changed"]  # fmt: skip
        if made.suspicions:
            xid = made.suspicions[0].xid
            lines.append(f"next: `aurora incident recovery-point --before-xid {xid}`")
        else:
            lines.append("nothing looks like an accident")
        shown.summary({"operation": "incident assess", **made.document()}, lines)


@incident.command("recovery-point")
def recovery_point(
    context: typer.Context,
    at: At = None,
    lsn: Lsn = None,
    xid: Xid = None,
    before_xid: BeforeXid = None,
    name: Name = None,
    bad_xid: BadXid = None,
    which: Which = None,
    storage: Storage = "primary",
    by: By = "",
    json: Json = False,
) -> None:
    """Propose the exact point just before the damage, and say what going back would lose.

    Without a target: just before the most suspicious transaction that `assess` found.
    """
    with surface(json) as shown:
        target, notices = named_target(at, lsn, xid, before_xid, name)
        found = api.recovery_point(
            run.load(context), target, bad=bad_xid or (), incident=which, storage=storage, by=by,
            sink=shown.sink,
        )  # fmt: skip
        shown.print(*notices, *plan("Recovery point", found.facts()))
        shown.print(table(["table", "rows then", "rows now", "damage", "good since"], [
            (one.table, _count(one.rows_then), _count(one.rows_now), one.damage, one.good_since)
            for one in found.tables if one.changed
        ]))  # fmt: skip
        shown.summary(
            {"operation": "incident recovery-point", **found.document()},
            [f"the point is {found.target}, LSN {shown_lsn(found.lsn)} exclusive; next: `aurora "
             "incident recover`"],
        )  # fmt: skip


incident.command("recover")(recover)
incident.command("communicate")(incident_talk.communicate)
incident.command("close")(incident_talk.close)
incident.command("report")(incident_talk.report)


@incident.command("status")
def status(context: typer.Context, which: Which = None, json: Json = False) -> None:
    """Where an incident stands: its timeline, and whether writes are stopped."""
    with surface(json) as shown:
        aurora = run.load(context)
        found = api.incident_records(aurora).find(which)
        told = writes.banner(found, reminder=aurora.settings.incident.reminder)
        shown.print(
            *plan(
                f"{found.title} ({found.severity}, {found.state})",
                [
                    ("incident", found.id),
                    ("opened", f"{found.opened_at} by {found.opened_by}"),
                    (
                        "retention",
                        f"on hold on the {' and the '.join(sorted(found.holds))}"
                        if found.holds
                        else "not on hold",
                    ),
                    *(
                        ("going on", f"{one.step}, since {one.begun_at[:19]}, by {one.by}")
                        for one in found.running
                    ),
                ],
            )
        )
        shown.print(table(["at (UTC)", "step", "what", "by"], _timeline(found)))
        shown.summary(
            {"operation": "incident status", "banner": told, **found.document()},
            [told or f"incident {found.id} is {found.state}; writes are not stopped"],
        )


@incident.command("list")
def list_incidents(context: typer.Context, json: Json = False) -> None:
    """All incidents of this configuration, oldest first."""
    with surface(json) as shown:
        found = api.incident_records(run.load(context)).all()
        rows = [(one.id, one.state, one.severity, one.opened_at, one.title) for one in found]
        shown.print(table(["incident", "state", "severity", "opened (UTC)", "title"], rows))
        shown.summary(
            {
                "operation": "incident list",
                "incidents": [
                    {"incident": one.id, "state": one.state, "severity": one.severity,
                     "opened_at": one.opened_at, "title": one.title,
                     "writes": one.writes.get("state", "not stopped")}
                    for one in found
                ],
            },
            [plural(len(found), "incident")],
        )  # fmt: skip


def _dry(shown: Surface, operation: str, document: dict[str, Any]) -> None:
    shown.summary(
        {"operation": operation, "dry_run": True, **document}, ["dry run: nothing was changed"]
    )


def _suspicious(made: Assessment) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            one.severity,
            isoformat(one.at)[:23],
            str(one.xid) if one.transactions == 1 else f"{one.xid} … {one.last_xid}",
            shown_lsn(one.lsn),
            "; ".join(one.reasons),
        )
        for one in made.suspicions[:10]
    ]


def _show_touches(shown: Surface, of_table: str, key: str, found: list[Touch]) -> None:
    rows = [
        (isoformat(one.at), str(one.xid), shown_lsn(one.lsn), one.what,
         ", ".join(f"{name}={value}" for name, value in one.values.items())[:200])
        for one in found
    ]  # fmt: skip
    shown.print(table(["at (UTC)", "xid", "LSN", "what", "row"], rows))
    told = f"{plural(len(found), 'change')} of {of_table} {key}"
    shown.summary(
        {
            "operation": "incident assess",
            "table": of_table,
            "key": key,
            "touches": [one.document() for one in found],
        },
        [f"{told}; the last: {found[-1].what} by xid {found[-1].xid}" if found else told],
    )


def _count(number: int | None) -> str:
    return "?" if number is None else format_count(number)


def _seconds(option: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def _show_resume(shown: Surface, chosen: resume.ResumePlan) -> None:
    facts = [
        ("database", chosen.undo.server),
        ("stopped", f"{chosen.undo.made_at} by {chosen.undo.made_by}"),
        ("statements", len(chosen.statements())),
    ]
    shown.print(*plan("Resume writes", facts))
    shown.print(*(f"    {text};" for text in chosen.statements()))


def _show_stop(shown: Surface, chosen: stop_plan.StopPlan) -> None:
    shown.print(*plan("Stop writes", chosen.facts()))
    shown.print("These statements will be run, after the undo file is written:", "")
    shown.print(*(f"    {text};" for text in chosen.statements()), "")


def _timeline(found: Incident) -> list[tuple[str, str, str, str]]:
    return [(one.at[:19], one.step, one.text, one.by) for one in found.timeline]
