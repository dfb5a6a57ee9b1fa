"""`aurora incident …`: led through an emergency, step by step, each of them on its own too."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.prompts import confirm, confirm_by_typing
from aurora.cli.render import Surface, plan, surface, table
from aurora.errors import UsageError
from aurora.operations.incident import resume, stop, writes
from aurora.operations.incident.record import Incident
from aurora.units import parse_duration, plural

incident = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Which = Annotated[
    str | None, typer.Option("--incident", help="A part of its id; the newest open one by default.")
]
By = Annotated[str, typer.Option("--by", help="Who does this, for the record.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show everything, do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]


@incident.callback()
def group() -> None:
    """Lead through an emergency: stop writes, find what happened, recover, tell people."""


@incident.command("start")
def start(
    context: typer.Context,
    title: Annotated[str, typer.Argument(help="A few words: what is wrong?")],
    severity: Annotated[str, typer.Option(help="critical, major or minor.")] = "major",
    by: By = "",
    json: Json = False,
) -> None:
    """Open an incident: its record begins, and becomes the report."""
    with surface(json) as shown:
        made = api.start_incident(run.load(context), title, severity=severity, by=by)
        shown.summary(
            writes.document(made, {"operation": "incident start", "severity": made.severity}),
            [f"incident {made.id} is open; next: `aurora incident stop-writes`, or `assess`"],
        )


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
        options = stop.StopOptions(
            tuple(role or ()), grace=_seconds("--grace", grace), watch=_seconds("--watch", watch)
        )
        if dry_run:
            chosen = api.plan_stop_writes(
                aurora, incident=which, options=options, by=by, sink=shown.sink
            )
            _show_stop(shown, chosen)
            _dry(shown, "incident stop-writes", chosen.document())
            return

        def agreed(chosen: stop.StopPlan) -> None:
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
                [("incident", found.id), ("opened", f"{found.opened_at} by {found.opened_by}")],
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


def _show_stop(shown: Surface, chosen: stop.StopPlan) -> None:
    shown.print(*plan("Stop writes", chosen.facts()))
    shown.print("These statements will be run, after the undo file is written:", "")
    shown.print(*(f"    {text};" for text in chosen.statements()), "")


def _timeline(found: Incident) -> list[tuple[str, str, str, str]]:
    return [(one.at[:19], one.step, one.text, one.by) for one in found.timeline]
