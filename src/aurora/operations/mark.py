"""`aurora backup mark`: a name for this moment, to recover to."""

from dataclasses import dataclass
from typing import Any

from aurora import clock
from aurora.engines.logical import slot as slots
from aurora.engines.logical.marks import point_mark
from aurora.engines.logical.pgoutput import format_lsn
from aurora.errors import SourceUnsupported
from aurora.operations.log_state import slot_break
from aurora.postgres.errors import translated
from aurora.postgres.server import inspect_server, open_control, require_usable


@dataclass(frozen=True, slots=True)
class MarkReport:
    """A restore point that was made."""

    name: str
    xid: int  # of the transaction that carries it
    lsn: str  # a position of the log just before its commit
    at: str  # the source's clock

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"name": self.name, "xid": self.xid, "lsn": self.lsn, "at": self.at}


def mark_point(dsn: str, label: str, name: str) -> MarkReport:
    """Write a restore point called *name* into the source's change log, durably.

    The repository knows it once the next incremental backup, or the stream, has read it.

    Raises:
        UsageError: *name* is none.
        SourceUnsupported: the source has no change log that would carry it.
        SourceError.
    """
    text = point_mark(name)
    names = slots.LogNames.of(label)
    with open_control(dsn) as conn:
        facts = inspect_server(conn)
        require_usable(facts)
        with translated("source", doing="marking a restore point"):
            slot = slots.read_slot(conn, names.slot)
            if broken := slot_break(slot, names, facts.database):
                raise SourceUnsupported(
                    f"nothing would carry the restore point: {broken}",
                    hint="Nothing was marked. `aurora source prepare` and a full backup begin a "
                    "change log.",
                )
            xid, lsn, at = slots.emit_mark(conn, text)
    return MarkReport(name, xid, format_lsn(lsn), clock.isoformat(at))
