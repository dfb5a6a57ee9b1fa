"""What is told: an event, how bad it is, and the facts that fill its template."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


class Severity(enum.IntEnum):
    """How bad; targets take what is at least as bad as they say."""

    INFO = 0
    WARNING = 1
    ERROR = 2

    @classmethod
    def of(cls, text: str) -> "Severity":
        return cls[text.upper()]

    @property
    def word(self) -> str:
        return self.name.lower()


EVENTS: Mapping[str, str] = {
    "job-failed": "a scheduled job failed, after its retries",
    "job-partly": "a scheduled job did not do all, for example the secondary is behind",
    "job-ok": "a scheduled job ended well (info)",
    "problem": "status found something wrong",
    "recovered": "what was told as wrong is right again",
    "daemon": "the daemon began or ended (info)",
    "digest": "the daily digest",
    "test": "a trial by `aurora notify test`",
}
"""Every event by name. A template of the same name tells it; ``incident…`` may be added."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to be told. ``key`` tells problems apart: one is open or not."""

    event: str
    key: str
    severity: Severity
    subject: str  # one line
    facts: Mapping[str, str] = field(default_factory=dict)  # what templates may name
    at: datetime | None = None
