"""A trial of everything that tells: each address gets a message, and says how it went."""

import socket
from dataclasses import dataclass, field
from datetime import datetime

from aurora import clock
from aurora.errors import AuroraError
from aurora.notify.deliver import deliver
from aurora.notify.notices import Severity
from aurora.notify.pings import ping
from aurora.notify.templates import Templates
from aurora.scheduler.setup import switches, targets_of
from aurora.wiring import Aurora


@dataclass(frozen=True, slots=True)
class Tried:
    """One address. ``name`` says where it is kept, never what it is."""

    name: str
    error: str = ""
    hint: str = ""
    complaints: list[str] = field(default_factory=list)


def try_out(aurora: Aurora, now: datetime) -> list[Tried]:
    """Send to all targets; switches are only resolved, but for the daemon's, which is pinged."""
    settings = aurora.settings
    templates = Templates(settings.base / settings.notify.templates)
    facts = {"database": aurora.database, "host": socket.gethostname(), "at": clock.isoformat(now)}
    message = templates.fill("test", facts)
    complaints = list(templates.complaints())
    results: list[Tried] = []
    for target in targets_of(aurora):
        try:
            deliver(target, message, Severity.INFO)
            results.append(Tried(target.name, complaints=complaints))
        except AuroraError as error:
            results.append(Tried(target.name, error.message, error.hint, complaints))
        complaints = []
    for name, address in switches(aurora).items():
        shown = f"switch of {name}"
        try:
            found = address()
            if name == "daemon":
                ping(found, "", message.body)
            results.append(Tried(shown))
        except AuroraError as error:
            results.append(Tried(shown, error.message, error.hint))
    return results
