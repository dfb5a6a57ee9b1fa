"""Sending by Apprise: one target, one message."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aurora.errors import AuroraError
from aurora.notify.notices import Severity
from aurora.notify.templates import Message


class NotDelivered(AuroraError):
    """A notice could not be sent; it is tried again for a day."""

    code = "notice-not-delivered"
    retryable = True


@dataclass(frozen=True, slots=True)
class Target:
    """One address, and what goes there. ``name`` says where the address is, not what it is."""

    name: str
    address: Callable[[], str]  # resolves the reference; may raise AuroraError
    severity: Severity = Severity.WARNING
    events: tuple[str, ...] = ("*",)
    digest: bool = True

    def takes(self, event: str, severity: Severity) -> bool:
        """Whether a notice goes there."""
        if event == "digest":
            return self.digest
        return severity >= self.severity and any(
            fnmatchcase(event, pattern) for pattern in self.events
        )


def deliver(target: Target, message: Message, severity: Severity) -> None:
    """Send *message*. Raises NotDelivered, or what resolving the address raises."""
    address = target.address()
    with warnings.catch_warnings():
        # Its plugins, loaded at the first address, look for modules that are on their way out.
        warnings.simplefilter("ignore", DeprecationWarning)
        import apprise  # noqa: PLC0415 - slow to import

        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its lines name the address
        sender = apprise.Apprise()
        known = sender.add(address)
    if not known:
        raise NotDelivered(
            f"what the {target.name} holds is no address that Apprise knows",
            hint="Write one like json://HOST/PATH, mailto://…, slack://…; see the list of Apprise.",
        )
    kind = {
        Severity.INFO: apprise.NotifyType.INFO,
        Severity.WARNING: apprise.NotifyType.WARNING,
        Severity.ERROR: apprise.NotifyType.FAILURE,
    }[severity]
    if not sender.notify(title=message.title, body=message.body, notify_type=kind):
        raise NotDelivered(
            f"the notice could not be sent to the address in the {target.name}",
            hint="Try `aurora notify test`; the service may be down, or the address out of date.",
        )
