"""What operations tell while they run. They state facts; surfaces render them.

An operation gets an :data:`EventSink` and calls it, from any thread. Rates, estimates,
colours and words for people belong to the surfaces in :mod:`aurora.cli`.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PhaseBegun:
    """A part of the operation began. ``total`` is in ``unit``s, None when unknown."""

    phase: str
    total: int | None = None
    unit: str = "bytes"


@dataclass(frozen=True, slots=True)
class Advanced:
    """``done`` units of the current phase are done (a total, not a difference)."""

    phase: str
    done: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PhaseEnded:
    """The phase ended; ``summary`` is one short line of fact."""

    phase: str
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Noted:
    """A fact worth a line, good news or neutral."""

    message: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the user must know and may have to act on."""

    code: str
    message: str
    hint: str = ""


Event = PhaseBegun | Advanced | PhaseEnded | Noted | Warned
EventSink = Callable[[Event], None]


def discard(event: Event) -> None:
    """The sink that listens to nothing."""
