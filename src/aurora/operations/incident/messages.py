"""What people are told of an incident: templates that a user may edit, filled and kept as drafts.

A template is a ``string.Template``: the first line is the title, the rest the body. A file
``incident-<event>.txt`` in the directory of message templates wins over the text here.
"""

from dataclasses import dataclass
from pathlib import Path
from string import Template

from aurora.operations.incident.record import Incident

EVENTS = ("start", "update", "close", "anomaly", "reminder")
STATUSES = ("investigating", "identified", "monitoring", "resolved")

_SHIPPED = {
    "start": """$title
We are looking into a problem with $database.
Severity: $severity. Since: $opened_at.
$writes
$text
""",
    "update": """$title: $status
$text

$writes
""",
    "close": """$title: resolved
$text

The incident was open from $opened_at to $closed_at.
""",
    "anomaly": """Unusual changes in $database
$text

Nothing was changed. Look at it: aurora incident assess
""",
    "reminder": """Writes to $database are still stopped
$writes
To let them go on: aurora incident resume-writes
""",
}


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent."""

    title: str
    body: str


def filled(
    incident: Incident, event: str, *, text: str = "", status: str = "", directory: Path | None
) -> Message:
    """The message of *event*. What a template names and nobody knows stays as it is."""
    template = _own(event, directory) or _SHIPPED[event]
    facts = {
        "incident": incident.id,
        "title": incident.title,
        "severity": incident.severity,
        "database": incident.database,
        "opened_at": incident.opened_at,
        "closed_at": incident.closed_at or "now",
        "status": status,
        "text": text,
        "writes": _writes(incident),
    }
    title, _, body = Template(template).safe_substitute(facts).partition("\n")
    return Message(title.strip(), "\n".join(line.rstrip() for line in body.splitlines()).strip())


def _own(event: str, directory: Path | None) -> str:
    if directory is None:
        return ""
    try:
        return (directory / f"incident-{event}.txt").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # the one that ships tells it as well


def _writes(incident: Incident) -> str:
    state = incident.writes.get("state")
    if not state:
        return ""
    if state == "resumed":
        return f"Changes can be saved again since {incident.writes.get('resumed_at')}."
    since = incident.writes.get("stopped_at") or incident.writes.get("begun_at")
    return f"Changes cannot be saved at the moment (since {since}). Reading works."
