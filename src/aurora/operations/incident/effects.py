"""What a recovery is about to change, written down before it does, and looked up if its run died.

The server alone knows whether a transaction that a dead run had sent off was committed. What is
written down is enough to ask it: the transaction's number, or a database that exists only
afterwards.
"""

import time
from dataclasses import dataclass, field, fields
from typing import Any

from aurora.engines.logical.names import Connection
from aurora.engines.logical.target import maintenance
from aurora.errors import RepositoryLocked
from aurora.operations.incident.record import Running
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control

_PATIENCE = 30.0  # seconds for a transaction whose client died to come to its end
_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class Effect:
    """How to find out whether a recovery took effect.

    Attributes:
        how: rows, table or whole.
        target: the server and database, without a secret.
        begun: False as long as nothing can have taken effect.
        xid: the transaction that does it.
        database: a database that is there only afterwards.
        document: what to tell of the recovery if it did.
    """

    how: str
    target: str
    begun: bool = True
    xid: str = ""
    database: str = ""
    restore_id: str = ""
    document: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(dead: Running) -> "Effect":
        """What a record holds."""
        known = {one.name for one in fields(Effect)}  # an earlier version wrote others too
        return Effect(**{name: v for name, v in dead.facts["effect"].items() if name in known})

    def took(self, dsn: str) -> bool | None:
        """Whether it took effect, by the server of *dsn*; None where nobody can say any more.

        Raises TargetError; RepositoryLocked while the dead run's transaction goes on.
        """
        if not self.begun:
            return False
        if self.database:
            with maintenance(ConnInfo.parse(dsn)) as conn:
                return _has_database(conn, self.database)
        if not self.xid:
            return None
        with (
            open_control(dsn, what="target") as conn,
            translated("target", doing="looking at what a run before this one did"),
        ):
            return _committed(conn, self.xid)


def _has_database(conn: Connection, name: str) -> bool:
    with translated("target", doing="looking for a database"):
        found = conn.execute(
            "SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", (name,)
        ).fetchone()
    return found is not None


def _committed(conn: Connection, xid: str) -> bool | None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        row = conn.execute("SELECT pg_catalog.pg_xact_status(%s::text::xid8)", (xid,)).fetchone()
        state = row[0] if row else None
        if state != "in progress":
            return None if state is None else state == "committed"
        if time.monotonic() > deadline:
            raise RepositoryLocked(
                "the run before this one died, and its transaction still goes on at the server",
                hint=f"Nothing was changed. Wait until transaction {xid} has ended, or end its "
                "session with pg_terminate_backend; then run it again.",
            )
        time.sleep(_PAUSE)
