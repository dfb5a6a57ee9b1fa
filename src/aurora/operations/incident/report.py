"""The report after an incident, made of its record: Markdown, HTML and JSON.

Everything is taken from what was recorded, but for what only people know: how well it went,
the causes, what is to be done. They answer with ``aurora incident close``; what they did not
answer is left open in words, and never made up.
"""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from aurora import clock
from aurora.operations.incident.record import Incident, Incidents, write_durably
from aurora.units import format_count, format_duration, plural
from aurora.version import __version__

_OPEN = "_Nobody has answered this yet: `aurora incident report --{option} TEXT`._"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccd;padding:.25rem .6rem;"
    "text-align:left;vertical-align:top}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}"
    "code{background:#f2f3f5;padding:0 .2rem}"
)
ANSWERS = {
    "well": "What went well",
    "badly": "What went badly",
    "luck": "Where we had luck",
    "cause": "Contributing factors",
    "action": "Follow-ups",
}


def measured(incident: Incident, *, rpo_goal: float, rto_goal: float | None) -> dict[str, Any]:
    """RPO and RTO as they were, and the phases. Seconds; None where it is not known."""
    damaged = _damage_at(incident)
    opened = clock.parse(incident.opened_at)
    back = _recovered_at(incident)
    writes = incident.writes
    stopped = _time(writes.get("stopped_at") or writes.get("begun_at"))
    resumed = _time(writes.get("resumed_at"))
    ends = [moment for moment in (back, resumed) if moment is not None]
    lost = _transactions_lost(incident)
    rto = (max(ends) - opened).total_seconds() if ends else None
    rpo = _seconds_lost(incident)
    return {
        "detected_after": _between(damaged, opened),
        "decided_after": _between(opened, _at(incident, "recovery-point", last=True)),
        "recovered_after": _between(opened, back),
        "writes_stopped_for": _between(stopped, resumed),
        "rto": rto,
        "rto_goal": rto_goal,
        "rto_met": None if rto is None or rto_goal is None else rto <= rto_goal,
        "rpo": rpo,
        "rpo_goal": rpo_goal,
        "rpo_met": None if rpo is None else rpo <= rpo_goal,
        "good_transactions_lost": lost,
    }


def document(
    incident: Incident, directory: Path, *, rpo_goal: float, rto_goal: float | None
) -> dict[str, Any]:
    """The whole report for programs."""
    return {
        "report": "incident",
        "format": 1,
        "aurora": __version__,
        "made_at": clock.isoformat(clock.now().replace(microsecond=0)),
        "incident": incident.document(),
        "summary": summary(incident),
        "measured": measured(incident, rpo_goal=rpo_goal, rto_goal=rto_goal),
        "hashes": hashes(incident, directory),
    }


def summary(incident: Incident) -> str:
    """Three sentences."""
    worst = _worst(incident)
    if worst:
        what = f"At {worst['commit_at']} {worst['reasons'][0]} (transaction {worst['xid']})."
    else:
        what = "No transaction of the change log was found to be the cause."
    done = [one for one in incident.recoveries if one["how"] != "rehearsal"]
    if not done:
        back = "Nothing was recovered."
    elif done[-1]["how"] == "rows":
        rows = [one for one in done if one["how"] == "rows"]
        inserted, updated = (sum(one[name] for one in rows) for name in ("inserted", "updated"))
        back = (
            f"{plural(inserted, 'row')} deleted and {format_count(updated)} overwritten were put "
            f"back; {plural(rows[-1]['conflicts'], 'row')} that had changed since were left alone."
        )
    else:
        last = done[-1]
        what_back = "The table " + str(last.get("table")) if last["how"] == "table" else (
            "The whole database"
        )  # fmt: skip
        back = f"{what_back} was recovered to {last.get('recovered_to')}."
    first = (
        f"On {incident.opened_at} {incident.opened_by} opened this {incident.severity} incident "
        f"in {incident.database}: {incident.title}."
    )
    return f"{first} {what} {back}"


def markdown(
    incident: Incident, directory: Path, *, rpo_goal: float, rto_goal: float | None
) -> str:
    """The report for people."""
    figures = measured(incident, rpo_goal=rpo_goal, rto_goal=rto_goal)
    lines = [
        f"# Incident {incident.id}: {_plain(incident.title)}",
        "",
        _plain(summary(incident)),
        "",
    ]
    lines += _facts(incident, figures)
    lines += _impact(incident, figures)
    lines += ["", "## Timeline (UTC)", "", "| at | step | what | by |", "|---|---|---|---|"]
    lines += [
        f"| {one.at[:19]} | {_cell(one.step)} | {_cell(one.text)} | {_cell(one.by)} |"
        for one in incident.timeline
    ]
    lines += _destroyer(incident)
    lines += _point(incident)
    lines += _recoveries(incident)
    for name, title in ANSWERS.items():
        lines += ["", f"## {title}", ""]
        answers = incident.answers.get(name, [])
        lines += [f"- {_plain(text)}" for text in answers] or [_OPEN.format(option=name)]
    lines += _communications(incident)
    lines += _before(incident)
    lines += ["", "## Files", "", "| file | SHA-256 |", "|---|---|"]
    lines += [f"| `{name}` | `{value}` |" for name, value in hashes(incident, directory).items()]
    return "\n".join(lines) + "\n"


def page(text: str, title: str) -> str:
    """*text* (Markdown) as an HTML page; raw HTML in it stays text."""
    from markdown_it import MarkdownIt  # noqa: PLC0415 - needed here alone

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    safe = title.replace("&", "&amp;").replace("<", "&lt;")
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>{safe}</title><style>{_STYLE}</style></head><body>\n{body}</body></html>\n"
    )


def write_reports(
    incidents: Incidents, incident: Incident, *, rpo_goal: float, rto_goal: float | None
) -> list[Path]:
    """``report.md``, ``.html`` and ``.json`` in the incident's directory. Raises OSError."""
    directory = incidents.directory(incident)
    text = markdown(incident, directory, rpo_goal=rpo_goal, rto_goal=rto_goal)
    whole = document(incident, directory, rpo_goal=rpo_goal, rto_goal=rto_goal)
    made = {
        "report.md": text,
        "report.html": page(text, f"Incident {incident.id}"),
        "report.json": json.dumps(whole, indent=2, ensure_ascii=False, default=str) + "\n",
    }
    for name, content in made.items():
        write_durably(directory / name, content.encode())
    return [directory / name for name in made]


def hashes(incident: Incident, directory: Path) -> dict[str, str]:
    """SHA-256 of the files that the steps made."""
    found = {}
    for name in incident.files:
        path = directory / name
        if path.is_file():
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _facts(incident: Incident, figures: dict[str, Any]) -> list[str]:
    rows = [
        ("severity", incident.severity),
        ("state", incident.state),
        ("opened", f"{incident.opened_at} by {incident.opened_by}"),
        ("noticed by", incident.source or "a person"),
        ("closed", incident.closed_at or "not yet"),
        ("RTO measured", _figure(figures["rto"], figures["rto_goal"], figures["rto_met"])),
        ("RPO measured", _figure(figures["rpo"], figures["rpo_goal"], figures["rpo_met"])),
        ("noticed after", _duration(figures["detected_after"])),
        ("recovery point chosen after", _duration(figures["decided_after"])),
        ("recovered after", _duration(figures["recovered_after"])),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows)]


def _impact(incident: Incident, figures: dict[str, Any]) -> list[str]:
    lines = ["", "## Impact", ""]
    tables = incident.point.get("tables", [])
    hit = [one for one in tables if any(one["damage"].values())]
    if hit:
        lines += ["| table | rows before | rows after | deleted | updated | inserted | truncated |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        lines += [
            f"| {_cell(one['table'])} | {_number(one['rows_then'])} | {_number(one['rows_now'])} | "
            f"{one['damage']['deleted']} | {one['damage']['updated']} | "
            f"{one['damage']['inserted']} | {'yes' if one['damage']['truncated'] else ''} |"
            for one in hit
        ]
    else:
        lines.append("No damage to rows is recorded.")
    stopped = figures["writes_stopped_for"]
    lines += ["", "Nobody could write for " + _duration(stopped) + "." if stopped is not None else
              "Writes were not stopped." if not incident.writes else
              "Writes were stopped and are not resumed yet."]  # fmt: skip
    return lines


def _destroyer(incident: Incident) -> list[str]:
    lines = ["", "## The transaction that did it", ""]
    worst = _worst(incident)
    if worst is None:
        return [*lines, "None was identified."]
    lines += [
        f"- transaction {worst['xid']}, committed at {worst['commit_at']}, LSN {worst['lsn']}",
        *(f"- {_plain(reason)}" for reason in worst["reasons"]),
        "- role, application and statement: not in the change log; look into the server's log",
    ]
    if worst["transactions"] > 1:
        lines.append(f"- {worst['transactions']} transactions, up to {worst['last_xid']}")
    others = incident.assessment.get("suspicions", [])[1:4]
    lines += [f"- also suspicious: transaction {one['xid']}: {_plain(one['reasons'][0])}"
              for one in others]  # fmt: skip
    return lines


def _point(incident: Incident) -> list[str]:
    lines = ["", "## The recovery point", ""]
    point = incident.point
    if not point:
        return [*lines, "None was chosen."]
    lost = [one for one in point["tables"] if one["good_transactions"]]
    lines += [
        f"- {point['target']}, LSN {point['lsn_exclusive']} exclusive, from full "
        f"{point['backup_id']} and the change log",
        f"- why: {_plain(point['why'])}",
        f"- good transactions after it: {point['good_transactions_lost']}"
        + ("" if not lost else ", in " + ", ".join(one["table"] for one in lost)),
    ]
    chosen = [one for one in incident.timeline if one.step == "recovery-point"]
    lines += [f"- looked at before: {_plain(one.text)}" for one in chosen[:-1]]
    return lines


def _recoveries(incident: Incident) -> list[str]:
    lines = ["", "## Recovery", ""]
    for one in incident.recoveries:
        if one["how"] == "rows":
            lines.append(
                f"- {one['at']}: rows put back: {one['inserted']} inserted, {one['updated']} "
                f"updated, {one['removed']} removed; {one['conflicts']} conflicts left alone, "
                f"listed in `conflicts.csv`; in {_duration(one['seconds'])}"
            )
        else:
            lines.append(
                f"- {one['at']}: {one['how']}: {one.get('rows', 0)} rows, {one.get('outcome', '')}"
                f", in {_duration(float(one.get('seconds') or 0))}"
            )
    lost = _transactions_lost(incident)
    if lost:
        lines.append(
            f"- {plural(lost, 'good transaction')} lost by going back; their rows are in `saved/`"
        )
    return lines if len(lines) > 3 else [*lines, "Nothing was recovered."]


def _communications(incident: Incident) -> list[str]:
    lines = ["", "## What was told", ""]
    for one in incident.updates:
        where = [*one["sent"], *(["stakeholders"] if one["notified"] else [])]
        told = ", ".join(where) or "a draft, not sent"
        lines.append(f"- {one['at']} {one['status']}: {_plain(one['title'])} ({told})")
    return lines if incident.updates else [*lines, "Nothing."]


def _before(incident: Incident) -> list[str]:
    lines = ["", "## Backups when it began", ""]
    known = incident.before
    lines += [f"- {_plain(name)}: {_plain(str(value))}" for name, value in known.items()]
    return lines if known else [*lines, "Not recorded."]


def _worst(incident: Incident) -> dict[str, Any] | None:
    """The suspicion that the chosen point is about, else the first."""
    known: list[dict[str, Any]] = incident.assessment.get("suspicions", [])
    xid = incident.point.get("chosen", {}).get("before_xid")
    return next((one for one in known if one["xid"] == xid), known[0] if known else None)


def _damage_at(incident: Incident) -> datetime | None:
    worst = _worst(incident)
    return clock.parse(worst["commit_at"]) if worst else None


def _went_back(incident: Incident) -> bool:
    """Whether good transactions were given up: the whole, over the live database."""
    return any(one["how"] == "whole" and one.get("old_database") for one in incident.recoveries)


def _transactions_lost(incident: Incident) -> int:
    return int(incident.point.get("good_transactions_lost", 0)) if _went_back(incident) else 0


def _seconds_lost(incident: Incident) -> float | None:
    """The time whose good transactions are lost; 0 where only the damage was undone."""
    if not incident.recoveries or not incident.point:
        return None
    if not _went_back(incident):
        return 0.0
    after = incident.point.get("after") or []
    first = next((one for one in after if one["xid"] not in incident.point["bad"]), None)
    last = _time(incident.assessment.get("last_at"))
    if first is None or last is None:
        return 0.0
    return max((last - clock.parse(first["commit_at"])).total_seconds(), 0.0)


def _recovered_at(incident: Incident) -> datetime | None:
    """When the last recovery ended; a rehearsal is none."""
    ends = [str(one["at"]) for one in incident.recoveries if one["how"] != "rehearsal"]
    return clock.parse(ends[-1]) if ends else None


def _at(incident: Incident, step: str, *, last: bool = True) -> datetime | None:
    found = [one for one in incident.timeline if one.step == step]
    return clock.parse(found[-1 if last else 0].at) if found else None


def _time(text: object) -> datetime | None:
    return clock.parse(str(text)) if text else None


def _between(one: datetime | None, other: datetime | None) -> float | None:
    return None if one is None or other is None else (other - one).total_seconds()


def _duration(seconds: float | None) -> str:
    return "not known" if seconds is None else format_duration(max(seconds, 0))


def _figure(value: float | None, goal: float | None, met: bool | None) -> str:
    if value is None:
        return "not measured"
    against = "" if goal is None else f" (goal {format_duration(goal)}: "
    verdict = "" if goal is None else ("met)" if met else "MISSED)")
    return f"{format_duration(value)}{against}{verdict}"


def _number(value: int | None) -> str:
    return "?" if value is None else format_count(value)


def _plain(text: str) -> str:
    """Text that Markdown does not take for its own."""
    for mark in "\\`*_[]<>#|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _plain(str(text))[:400]
