"""Recovery to a point in time: a full, and what the change log made of it up to the target.

The plan says which full and which transactions; running it reads the log once, keeps the
last writer of every row, and builds the database as any restore does: aside, checked, then
put in place.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aurora.engines.base import Table, TableData
from aurora.engines.logical.export import progress_of
from aurora.engines.logical.targets import Resolution, Target
from aurora.events import EventSink, PhaseBegun, PhaseEnded
from aurora.operations.point import Point, find_point, merged
from aurora.operations.reports import RestoreReport
from aurora.operations.restore import Content, run_restore
from aurora.operations.restore_plan import RestoreOptions, RestorePlan, plan_restore
from aurora.repository.door import Repository
from aurora.units import format_count

_LOADING = "loading rows"


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """What a recovery is going to do, to be shown before it does it."""

    point: Point
    restore: RestorePlan  # of the full

    @property
    def resolution(self) -> Resolution:
        return self.point.resolution

    @property
    def kind(self) -> str:
        """Of the report."""
        return "restore-full" if self.restore.options.with_roles else "restore-point"

    def facts(self) -> list[tuple[str, str]]:
        """Lines for a person."""
        return self.point.facts() + self.restore.facts()[2:]

    def document(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            **self.point.document(),
            "mode": self.restore.mode,
            "database": self.restore.state.name,
        }


def plan_recovery(
    repository: Repository,
    database: str,
    target: Target,
    dsn: str,
    options: RestoreOptions,
    *,
    full: str = "",
    notices: Sequence[str] = (),
    sink: EventSink,
) -> RecoveryPlan:
    """Find the full and the transactions for *target*, look at the target server. Changes nothing.

    Args:
        full: id of the full to start from; by default the newest that serves.

    Raises:
        RepositoryNotFound, UsageError: see :func:`aurora.operations.point.find_point`.
        TargetNotEmpty, TargetUnfit, TargetUnreachable: see :func:`restore_plan.plan_restore`.
    """
    point = find_point(repository, database, target, full=full, notices=notices, sink=sink)
    point.require()
    return RecoveryPlan(point, plan_restore(point.backup, dsn, options, snapshot=point.snapshot))


def run_recovery(
    plan: RecoveryPlan,
    *,
    make_safety_backup: Callable[[], str] | None,
    sink: EventSink,
) -> RestoreReport:
    """Do what the plan says.

    Raises:
        UsageError: a table changed its shape within the log, or the disk has no room for it.
        ObjectDamaged: the log and the full do not fit one another.
        See :func:`restore.run_restore` for the rest. The target serves as before.
    """
    point = plan.point
    progress = progress_of(_LOADING, sink)
    with merged(point, jobs=plan.restore.options.jobs, progress=progress, sink=sink) as found:

        def load(dsn: str, tables: Sequence[Table], cancel: threading.Event) -> Sequence[TableData]:
            sink(PhaseBegun(_LOADING, sum(d.bytes for d in point.data)))
            held = found.rows.load(dsn, tables, cancel)
            told = f"{format_count(sum(d.rows for d in held))} rows, "
            sink(PhaseEnded(_LOADING, f"{told}{found.rows.final_rows:,} out of the log"))
            return held

        content = Content(
            plan.kind, point.state_of, point.snapshot, point.schema, load,
            str(point.target), tuple(point.notes(found)),
        )  # fmt: skip
        return run_restore(
            plan.restore, make_safety_backup=make_safety_backup, sink=sink, content=content
        )
