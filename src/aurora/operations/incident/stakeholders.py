"""Telling stakeholders by Apprise: addresses are secrets, and appear in no message."""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aurora.errors import AuroraError
from aurora.operations.incident.messages import Message

_ORDER = ("info", "warning", "error")
_SEVERITY = {"critical": "error", "major": "error", "minor": "warning"}


@dataclass(frozen=True, slots=True)
class Stakeholder:
    """Somebody to be told. ``name`` says where the address is, not what it is."""

    name: str
    address: Callable[[], str]  # resolves the reference; may raise AuroraError
    severity: str = "warning"  # told what is at least as bad
    events: tuple[str, ...] = ("*",)

    def takes(self, event: str, severity: str) -> bool:
        """Whether an event of an incident goes there."""
        bad_enough = _ORDER.index(_SEVERITY[severity]) >= _ORDER.index(self.severity)
        return bad_enough and any(fnmatchcase(event, pattern) for pattern in self.events)


def tell(people: Sequence[Stakeholder], event: str, severity: str, message: Message) -> list[str]:
    """Send *message* to whoever takes *event*; whom it did not reach, in words."""
    failed = []
    for one in people:
        if one.takes(event, severity):
            try:
                reason = _deliver(one.address(), message, _SEVERITY[severity])
            except AuroraError as error:
                reason = error.message
            if reason:
                failed.append(f"the address in the {one.name}: {reason}")
    return failed


def _deliver(address: str, message: Message, severity: str) -> str:
    with warnings.catch_warnings():
        # Its plugins, loaded at the first address, look for modules that are on their way out.
        warnings.simplefilter("ignore", DeprecationWarning)
        import apprise  # noqa: PLC0415 - slow to import

        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its lines name the address
        sender = apprise.Apprise()
        if not sender.add(address):
            return "not one that Apprise knows"
        kind = apprise.NotifyType.FAILURE if severity == "error" else apprise.NotifyType.WARNING
        sent = sender.notify(title=message.title, body=message.body, notify_type=kind)
    return "" if sent else "it did not take the message"
