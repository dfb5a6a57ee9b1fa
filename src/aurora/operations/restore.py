"""Restoring a whole database: safety backup, build aside, check, take its place."""

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from aurora import clock
from aurora.engines.base import Snapshot
from aurora.engines.logical import system
from aurora.engines.logical.build import Built, LoadRows, build_database
from aurora.engines.logical.names import shown
from aurora.engines.logical.schema import Archive
from aurora.engines.logical.target import (
    create_aside,
    drop,
    drop_unfinished,
    finish,
    is_blank,
    maintenance,
    near,
    take_place,
)
from aurora.errors import CheckFailed, Incomplete
from aurora.events import EventSink, Noted, PhaseBegun, Warned
from aurora.operations.content import Backup, RepositorySource
from aurora.operations.log_move import move_log
from aurora.operations.reports import RestoreReport, TableResult
from aurora.operations.restore_plan import RestorePlan
from aurora.operations.restore_project import (
    ProjectPlan,
    marked,
    roles_of_users,
    shown_names,
    snapshot_to_build,
    take_over,
)
from aurora.operations.restore_project import sweep as sweep_project
from aurora.postgres.conninfo import ConnInfo


@dataclass(frozen=True, slots=True)
class Content:
    """What a database is filled with in place of a backup as it is."""

    kind: str  # of the report
    state_of: str
    snapshot: Snapshot  # tables, roles, settings, sequences and large objects
    schema: Backup  # whose archive makes the schema
    load: LoadRows
    recovered_to: str = ""  # the recovery target
    notes: tuple[str, ...] = ()


def run_restore(
    plan: RestorePlan,
    *,
    make_safety_backup: Callable[[], str] | None,
    sink: EventSink,
    content: Content | None = None,
) -> RestoreReport:
    """Do what the plan says.

    Args:
        make_safety_backup: backs up the database that is replaced, returns the backup's id.
        content: what to fill the database with, if not with the backup as it is.

    Raises:
        CheckFailed: the restored rows are not the backup's; the target serves as before.
        Incomplete: done, but the target refused some statements; the report lists them.
        TargetError, IntegrityError, StorageError, Cancelled: the target serves as before.
    """
    begun = time.monotonic()
    report = RestoreReport(
        restore_id=plan.restore_id,
        backup_id=plan.backup.entry.id,
        kind=content.kind if content else _kind(plan),
        target=plan.state.info.redacted(),
        state_of=content.state_of if content else plan.backup.snapshot.source.snapshot_at,
        begun_at=clock.isoformat(clock.now()),
        recovered_to=content.recovered_to if content else "",
        notes=list(content.notes) if content else [],
    )
    if plan.mode == "swap" and plan.options.safety and make_safety_backup is not None:
        sink(PhaseBegun("taking a safety backup"))
        report.safety_backup = make_safety_backup()
        sink(Noted(f"safety backup {report.safety_backup}"))
    if plan.options.with_roles:
        _restore_roles(plan, _snapshot(plan, content), report, sink)
    cancel = threading.Event()
    with _place_to_build(plan) as info:
        try:
            built = _build(plan, info, content, report, sink, cancel)
        except BaseException:
            cancel.set()
            _sweep(plan, sink)
            raise
        _record(plan, report, built, content)
        report.seconds = time.monotonic() - begun
        if not built.check.passed:
            report.outcome = "failed its checks"
            raise CheckFailed(
                f"the restored database differs from the backup: {built.check.problems[0]}"
                + (
                    f" and {len(built.check.problems) - 1} more"
                    if len(built.check.problems) > 1
                    else ""
                ),
                hint=_kept_hint(plan),
                context={"report": report, "problems": built.check.problems[:20]},
            )
        if plan.mode == "swap" and built.refusals and not plan.options.accept_refusals:
            report.outcome = "not put in place"
            raise Incomplete(
                f"the rows are right, but the target refused {len(built.refusals)} statements, "
                f"so {plan.state.name} was not replaced: {built.refusals[0]}",
                hint=f"{_kept_hint(plan)} The report lists them. To put it in place all the same, "
                "run the restore again with --accept-refusals.",
                context={"report": report},
            )
        if plan.project is not None:
            _take_over(plan, plan.project, _snapshot(plan, content), report, sink)
        else:
            _put_in_place(plan, _snapshot(plan, content), report, sink)
    report.seconds = time.monotonic() - begun
    report.ended_at = clock.isoformat(clock.now())
    report.outcome = "restored with refusals" if report.refusals else "restored"
    return report


def _take_over(
    plan: RestorePlan,
    project: ProjectPlan,
    snapshot: Snapshot,
    report: RestoreReport,
    sink: EventSink,
) -> None:
    """The last step into a Supabase project: where it fails, nothing of the restore stays."""
    try:
        take_over(project, snapshot, plan.backup, plan.state.info, report, sink)
    except CheckFailed as error:
        report.outcome = "failed its checks"
        error.context.setdefault("report", report)
        raise
    except BaseException:
        _sweep(plan, sink)
        raise


def _snapshot(plan: RestorePlan, content: Content | None) -> Snapshot:
    return content.snapshot if content else plan.backup.snapshot


def _kept_hint(plan: RestorePlan) -> str:
    if plan.mode == "project":
        return f"The services' tables of {plan.state.name} are as they were. What was restored \
into the user schemas is there for you to look at; the next restore removes it."
    if plan.mode == "direct":
        return f"The database {plan.state.name} holds what was restored so far."
    serves = f"{plan.state.name} serves as before. " if plan.state.exists else ""
    return f"{serves}What was restored is in the database {plan.build_name} for you to look at; \
the next restore removes it."


def _kind(plan: RestorePlan) -> str:
    return "restore-full" if plan.options.with_roles else "restore"


def _place_to_build(plan: RestorePlan) -> AbstractContextManager[ConnInfo]:
    """The database to fill; a new one aside, but where the role may make none."""
    if plan.project is not None:
        return marked(plan.project, plan.state.info, plan.restore_id, plan.backup.entry.id)
    if plan.mode == "direct":
        return nullcontext(plan.state.info)
    facts = plan.backup.snapshot.source.database
    return create_aside(plan.state, plan.build_name, facts, plan.restore_id)


def _build(
    plan: RestorePlan,
    info: ConnInfo,
    content: Content | None,
    report: RestoreReport,
    sink: EventSink,
    cancel: threading.Event,
) -> Built:
    backup, state = plan.backup, plan.state
    schema = content.schema if content else backup
    snapshot = _snapshot(plan, content)
    data = () if content else backup.data()
    only = None
    if plan.project is not None:
        only = frozenset(plan.project.entries.kept)
        snapshot = snapshot_to_build(plan.project, snapshot)
        kept = {table.oid for table in snapshot.tables}
        data = [found for found in data if found.oid in kept]
    report.database = state.name
    with tempfile.TemporaryDirectory(prefix="aurora-") as directory:
        archive = Archive(
            schema.snapshot.archive,
            schema.read_all(schema.snapshot.archive.pieces),
            Path(directory),
            only=only,
        )
        return build_database(
            info.dsn(), state.server.major, snapshot, data, archive,
            RepositorySource(backup.repository),
            jobs=plan.options.jobs, chunk_bytes=plan.options.chunk_bytes, sink=sink, cancel=cancel,
            load=content.load if content else None,
        )  # fmt: skip


def _sweep(plan: RestorePlan, sink: EventSink) -> None:
    """A restore that failed half-way leaves no database behind that looks like one."""
    if plan.mode == "direct":
        sink(
            Warned(
                "target-half-filled",
                f"the database {plan.state.name} is half filled",
                "Empty it (DROP SCHEMA … CASCADE) before the next try.",
            )
        )
        return
    try:
        if plan.mode == "project":
            sweep_project(plan.state.info, plan.restore_id)
        else:
            with maintenance(plan.state.info) as conn:
                drop_unfinished(conn, plan.build_name, plan.restore_id)
    except Exception as error:  # noqa: BLE001 - the first error is the one to tell; this one is said too
        sink(
            Warned(
                "leftover",
                f"what was restored into {plan.build_name} could not be dropped: {error}",
                "The next restore removes it.",
            )
        )


def _put_in_place(
    plan: RestorePlan, snapshot: Snapshot, report: RestoreReport, sink: EventSink
) -> None:
    state = plan.state
    if plan.mode == "direct":
        return
    properties = state.properties or snapshot.source.database
    if plan.options.with_roles:
        properties = snapshot.source.database
    with maintenance(state.info) as conn:
        report.refusals += finish(conn, plan.build_name, properties)
    old = plan.old_name if plan.mode in ("empty", "swap") else None
    take_place(state.info, plan.build_name, state.name, old, comment=properties.comment)
    if old is None:
        return
    if plan.mode == "empty" and is_blank(state.info.with_dbname(old)):
        with maintenance(state.info) as conn:
            drop(conn, old)
        return
    report.old_database = old
    sink(Noted(f"the replaced database stays as {old}; drop it when you are sure"))
    if plan.has_log:
        told = move_log(
            state.info, old, plan.backup.entry.database, skip=snapshot.skipped, sink=sink
        )
        report.notes.append(told)
    if plan.bound:
        report.notes.append(
            f"these stay with {old}, and a slot keeps WAL until it is dropped: "
            f"{', '.join(plan.bound)}"
        )


def _restore_roles(
    plan: RestorePlan, snapshot: Snapshot, report: RestoreReport, sink: EventSink
) -> None:
    text = plan.backup.read_all(snapshot.globals).decode()
    sink(PhaseBegun("restoring roles"))
    if plan.project is not None:
        text = roles_of_users(text)
    with near(plan.state) if plan.project is not None else maintenance(plan.state.info) as conn:
        applied = system.apply_globals(conn, text)
    report.refusals += list(applied.refused)
    if applied.kept:
        report.notes.append(
            f"roles that were there keep their attributes and passwords: {', '.join(applied.kept)}"
        )
    kept = set(applied.kept)
    without = [role for role in system.roles_without_password(text) if role not in kept]
    if without:
        report.notes.append(f"roles restored without a password (set one): {', '.join(without)}")


def _record(
    plan: RestorePlan, report: RestoreReport, built: Built, content: Content | None
) -> None:
    names = shown_names(plan.project) if plan.project is not None else {}
    report.rows, report.bytes = built.rows, built.bytes
    report.refusals += built.refusals
    report.problems = list(built.check.problems)
    report.sequences = built.check.sequences
    if content is not None:
        report.positions = {
            shown(one.schema, one.name): (one.last_value, one.is_called)
            for one in content.snapshot.sequences
        }
    report.tables = [
        TableResult(
            names.get(check.table, check.table), check.rows_expected, check.rows_found, check.same
        )
        for check in built.check.tables
    ]
