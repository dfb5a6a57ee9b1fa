"""Those who hear of an incident, each by an address of their own."""

from collections.abc import Sequence
from typing import Protocol

from aurora.errors import AuroraError
from aurora.notify.deliver import Target, deliver
from aurora.notify.notices import Severity
from aurora.notify.templates import Message


class Worded(Protocol):
    """A message of any kind."""

    @property
    def title(self) -> str: ...
    @property
    def body(self) -> str: ...


class Stakeholders:
    """Tells people. What fails is said in words, and nobody else misses it for that."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = {one.name: one for one in targets}

    def names(self, event: str, severity: str) -> list[str]:
        """Who hears of *event* of an incident of this severity."""
        grave = _gravity(severity)
        return [name for name, one in self._targets.items() if one.takes(event, grave)]

    def tell(self, name: str, severity: str, message: Worded) -> str:
        """Tell one of them; what failed, or nothing."""
        try:
            deliver(self._targets[name], Message(message.title, message.body), _gravity(severity))
        except AuroraError as error:
            return error.message
        return ""

    def tell_all(self, event: str, severity: str, message: Worded) -> list[str]:
        """Tell everybody who hears of *event*; what failed."""
        told = (self.tell(name, severity, message) for name in self.names(event, severity))
        return [failed for failed in told if failed]


def _gravity(severity: str) -> Severity:
    """How grave an incident's severity is among notices."""
    return Severity.WARNING if severity == "minor" else Severity.ERROR
