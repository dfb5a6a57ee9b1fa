"""`aurora incident start`, `communicate`, `close`, `report`: what people are told."""

from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.incident_options import By, Json, Which
from aurora.cli.render import Surface, surface
from aurora.operations.incident import writes
from aurora.operations.incident.record import Incident

Publish = Annotated[
    bool, typer.Option("--publish", help="Put it on the status pages that are configured.")
]
Notify = Annotated[bool, typer.Option("--notify", help="Tell the stakeholders.")]
Well = Annotated[list[str] | None, typer.Option("--well", help="For the report: what went well.")]
Badly = Annotated[list[str] | None, typer.Option("--badly", help="What went badly.")]
Luck = Annotated[list[str] | None, typer.Option("--luck", help="Where there was luck.")]
Cause = Annotated[list[str] | None, typer.Option("--cause", help="A contributing factor.")]
Action = Annotated[
    list[str] | None, typer.Option("--action", help="A follow-up: what, who, until when.")
]


def start(
    context: typer.Context,
    title: Annotated[str, typer.Argument(help="A few words: what is wrong?")],
    severity: Annotated[str, typer.Option(help="critical, major or minor.")] = "major",
    text: Annotated[str, typer.Option(help="More, for the first message.")] = "",
    source: Annotated[str, typer.Option(help="How it was noticed, for the report.")] = "",
    draft: Annotated[
        str | None, typer.Option(help="The draft that it begins with, by a part of its id.")
    ] = None,
    publish: Publish = False,
    notify: Notify = False,
    by: By = "",
    json: Json = False,
) -> None:
    """Open an incident: its record begins, and becomes the report.

    A first message is drafted; it goes out only with --publish or --notify.
    """
    with surface(json) as shown:
        made = api.start_incident(
            run.load(context), title, severity=severity, text=text, source=source, draft=draft,
            publish=publish, notify=notify, by=by, sink=shown.sink,
        )  # fmt: skip
        _show_draft(shown, made)
        shown.summary(
            writes.document(made, {"operation": "incident start", "severity": made.severity}),
            [f"incident {made.id} is open; next: `aurora incident stop-writes`, or `assess`"],
        )


def communicate(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="What to tell; without, the newest draft.")] = "",
    status: Annotated[
        str, typer.Option(help="investigating, identified, monitoring or resolved.")
    ] = "identified",
    publish: Publish = False,
    notify: Notify = False,
    which: Which = None,
    by: By = "",
    json: Json = False,
) -> None:
    """Draft an update, show it, and send it where that is asked for."""
    with surface(json) as shown:
        found, draft = api.communicate(
            run.load(context), text, status=status, publish=publish, notify=notify,
            incident=which, by=by, sink=shown.sink,
        )  # fmt: skip
        _show_draft(shown, found)
        went = [*draft["sent"], *(["stakeholders"] if draft["notified"] else [])]
        shown.summary(
            writes.document(found, {"operation": "incident communicate", "update": draft}),
            [f"sent: {', '.join(went)}" if went else "a draft; --publish and --notify send it"],
        )


def close(
    context: typer.Context,
    text: Annotated[str, typer.Option(help="The last message.")] = "",
    publish: Publish = False,
    notify: Notify = False,
    well: Well = None,
    badly: Badly = None,
    luck: Luck = None,
    cause: Cause = None,
    action: Action = None,
    which: Which = None,
    by: By = "",
    json: Json = False,
) -> None:
    """Close an incident and write its report: Markdown, HTML and JSON."""
    with surface(json) as shown:
        found, paths = api.close_incident(
            run.load(context), text=text, publish=publish, notify=notify,
            answers=_answers(well, badly, luck, cause, action), incident=which, by=by,
            sink=shown.sink,
        )  # fmt: skip
        shown.summary(
            writes.document(
                found, {"operation": "incident close", "report": [str(one) for one in paths]}
            ),
            [f"incident {found.id} is closed; report {paths[0]}"],
        )


def report(
    context: typer.Context,
    well: Well = None,
    badly: Badly = None,
    luck: Luck = None,
    cause: Cause = None,
    action: Action = None,
    which: Which = None,
    json: Json = False,
) -> None:
    """Write the report of an incident, open or closed, with what people know added."""
    with surface(json) as shown:
        found, paths = api.incident_report(
            run.load(context), answers=_answers(well, badly, luck, cause, action), incident=which
        )
        shown.print(paths[0].read_text())
        shown.summary(
            writes.document(
                found, {"operation": "incident report", "report": [str(one) for one in paths]}
            ),
            [f"report of incident {found.id}: {', '.join(str(one) for one in paths)}"],
        )


def _answers(
    well: list[str] | None,
    badly: list[str] | None,
    luck: list[str] | None,
    cause: list[str] | None,
    action: list[str] | None,
) -> dict[str, list[str]]:
    given = {"well": well, "badly": badly, "luck": luck, "cause": cause, "action": action}
    return {name: texts for name, texts in given.items() if texts}


def _show_draft(shown: Surface, found: Incident) -> None:
    if found.updates:
        draft = found.updates[-1]
        shown.print(f"draft {draft['number']}, {draft['status']}:", "")
        shown.print(f"    {draft['title']}", *(f"    {x}" for x in draft["body"].splitlines()), "")
