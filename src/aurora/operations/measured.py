"""Restores and recovery tests that were done: what is known of the time a recovery takes.

Read from the reports beside aurora.toml, and from the audit trail where one is kept.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from aurora import clock

_WHOLE = ("restore", "restore-full", "restore-point")


@dataclass(frozen=True, slots=True)
class Measured:
    """One recovery that was done and checked, or failed."""

    kind: str  # restore, restore-full, restore-point, test-recovery, drill
    at: datetime
    ok: bool
    seconds: float  # RTO as measured
    backup_id: str = ""
    detail: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether a whole database was brought back, so that it proves something."""
        return self.kind in (*_WHOLE, "test-recovery", "drill")


def restores_in(directory: Path) -> Iterator[Measured]:
    """What the reports of this machine's restores say; anything unreadable is left out."""
    for path in sorted(directory.glob("restore*.json")) if directory.is_dir() else ():
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            yield _of_report(document)
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _of_report(document: dict[str, Any]) -> Measured:
    outcome = str(document["outcome"])
    return Measured(
        kind=str(document["kind"]),
        at=clock.parse(document["ended_at"] or document["begun_at"]),
        ok=outcome.startswith("restored"),
        seconds=float(document["seconds"]),
        backup_id=str(document["backup_id"]),
        detail=outcome,
    )
