"""The change log of a database that a restore replaced: begun anew in what took its place.

A slot names its database by oid, so it stays with the replaced one: it would keep WAL for
nobody, and no incremental could be made of the new one. What is published is restored with the
schema or made here; the next backup is a full, which begins the new log.
"""

from aurora.engines.logical import slot as slots
from aurora.engines.logical.ddl import markers_of
from aurora.engines.logical.slot import LogNames
from aurora.errors import AuroraError, Incomplete
from aurora.events import EventSink, Warned
from aurora.operations.source import plan_prepare, run_prepare
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control

_FREE_SECONDS = 20.0  # the stream of a session that the swap ended
_WAIT_SECONDS = 60.0


def names_slot(bound: str, label: str) -> bool:
    """Whether *bound*, such as ``replication slot x``, is the slot of the database *label*."""
    return bound == f"replication slot {LogNames.of(label).slot}"


def move_log(
    target: ConnInfo, old: str, label: str, *, skip: tuple[str, ...], sink: EventSink
) -> str:
    """Drop the slot in the database *old*, and prepare the one at *target*.

    Returns: what was done, or what is left to do, in words. Raises nothing of the target's:
    the restore is done.
    """
    names = LogNames.of(label)
    dsn = target.dsn()
    try:
        with open_control(target.with_dbname(old).dsn(), what="target") as conn:
            with translated("target", doing="looking at the change log"):
                marked = bool(markers_of(conn, names))
                slots.wait_until_free(conn, names.slot, timeout=_FREE_SECONDS)
        plan = plan_prepare(dsn, label, skip=skip, ddl_markers=marked)
        run_prepare(plan, sink=sink, timeout=_WAIT_SECONDS)
    except Incomplete:
        pass  # the next full waits for older transactions too
    except AuroraError as error:
        told = (
            f"the change log could not be begun anew: {error.message}; the slot {names.slot} "
            f"stays with {old} and keeps WAL"
        )
        sink(Warned("log-not-moved", told, "Run `aurora source prepare`, then a full backup."))
        return f"{told}. Run `aurora source prepare`, then `aurora backup create`"
    return (
        f"the change log begins anew (slot {names.slot}): points in time after this can be "
        "recovered from the next backup on, which is a full. Make it soon: `aurora backup create`"
    )
