"""The change log: its place on the source, and what is in it."""

from collections.abc import Callable, Iterator

from aurora.api.audit import recorded
from aurora.events import EventSink, discard
from aurora.operations import log as log_operation
from aurora.operations import mark as mark_operation
from aurora.operations import source as source_operation
from aurora.operations.mark import MarkReport
from aurora.operations.source import PreparePlan
from aurora.wiring import Aurora


def prepare_source(
    aurora: Aurora,
    *,
    undo: bool = False,
    failover: bool = False,
    ddl_markers: bool = False,
    confirm: Callable[[PreparePlan], None] | None = None,
    sink: EventSink = discard,
) -> PreparePlan:
    """Make what the change log needs on the source, or with *undo* remove all of it.

    Args:
        confirm: gets the plan before anything is changed, and may raise.

    Raises: see :func:`aurora.operations.source.run_prepare` and ``run_undo``.
    """
    dsn = aurora.source_dsn()
    if undo:
        plan = source_operation.plan_undo(dsn, aurora.database)
    else:
        plan = source_operation.plan_prepare(
            dsn,
            aurora.database,
            skip=aurora.settings.backup.skip,
            failover=failover,
            ddl_markers=ddl_markers,
        )
    if confirm is not None:
        confirm(plan)
    operation = "source prepare --undo" if undo else "source prepare"
    with recorded(aurora, "configuration", operation, sink, statements=plan.statements):
        if undo:
            source_operation.run_undo(plan, sink=sink)
        else:
            source_operation.run_prepare(plan, sink=sink)
    return plan


def mark_point(aurora: Aurora, name: str, *, sink: EventSink = discard) -> MarkReport:
    """Give this moment of the source a name; ``restore_point(aurora, Target(name=name))``.

    Raises: see :func:`aurora.operations.mark.mark_point`.
    """
    with recorded(aurora, "run", "backup mark", sink, name=name) as note:
        made = mark_operation.mark_point(aurora.source_dsn(), aurora.database, name)
        note.facts |= made.document()
    return made


def transactions(
    aurora: Aurora,
    wanted: log_operation.Filter | None = None,
    *,
    storage: str = "primary",
    sink: EventSink = discard,
) -> Iterator[log_operation.Transaction]:
    """The committed transactions of the change log, oldest first."""
    repository = aurora.open_for_reading(storage, sink=sink)
    return log_operation.transactions(repository, aurora.database, wanted, sink=sink)
