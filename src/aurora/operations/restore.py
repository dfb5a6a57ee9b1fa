"""Restoring a whole database: plan, safety backup, build aside, check, take its place."""

import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from aurora import clock
from aurora.engines.base import Snapshot
from aurora.engines.logical import system
from aurora.engines.logical.build import Built, LoadRows, build_database
from aurora.engines.logical.names import shown
from aurora.engines.logical.schema import Archive
from aurora.engines.logical.target import (
    TargetState,
    aside_name,
    create_aside,
    drop,
    drop_unfinished,
    finish,
    is_blank,
    look_at,
    maintenance,
    near,
    take_place,
)
from aurora.errors import CheckFailed, Incomplete, TargetNotEmpty, TargetUnfit, UsageError
from aurora.events import EventSink, Noted, PhaseBegun, Warned
from aurora.operations.content import Backup, RepositorySource
from aurora.operations.log_move import move_log, names_slot
from aurora.operations.reports import RestoreReport, TableResult
from aurora.operations.restore_project import (
    ProjectPlan,
    marked,
    plan_project,
    roles_of_users,
    shown_names,
    snapshot_to_build,
    take_over,
)
from aurora.operations.restore_project import sweep as sweep_project
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.server import require_usable
from aurora.units import format_size

Mode = Literal["new", "empty", "swap", "direct", "project"]


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How to restore a whole database."""

    in_place: bool = False  # over a database that holds something
    jobs: int = 2
    chunk_bytes: int = 8 << 20
    safety: bool = True  # back up what is replaced first
    accept_refusals: bool = False  # swap although the target refused some statements
    with_roles: bool = False  # restore-full: roles and what belongs to the server


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore is going to do, to be shown before it does it."""

    backup: Backup
    state: TargetState
    options: RestoreOptions
    mode: Mode
    restore_id: str
    warnings: tuple[str, ...] = ()
    missing_roles: tuple[str, ...] = field(default=())
    project: ProjectPlan | None = None  # the target is a Supabase project

    @property
    def build_name(self) -> str:
        """The database that is filled."""
        if self.mode in ("direct", "project"):
            return self.state.name
        return aside_name(self.state.name, f"aurora_{self.restore_id[-4:]}")

    @property
    def old_name(self) -> str:
        """What the replaced database is called afterwards."""
        # With the letters: two restores may fall into one second.
        stamp = self.restore_id.removeprefix("r").replace("-", "_").lower()
        return aside_name(self.state.name, f"before_{stamp}")

    @property
    def bound(self) -> list[str]:
        """What stays with the database that is replaced."""
        label = self.backup.entry.database
        return [one for one in self.state.bound if not names_slot(one, label)]

    @property
    def has_log(self) -> bool:
        """Whether the database that is replaced has a change log of Aurora's."""
        return len(self.bound) < len(self.state.bound)

    def document(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "backup_id": self.backup.entry.id,
            "state_of": self.backup.snapshot.source.snapshot_at,
            "mode": self.mode,
            "database": self.state.name,
            **({"project": self.project.document()} if self.project is not None else {}),
        }

    def facts(self) -> list[tuple[str, str]]:
        """Lines for a person."""
        snapshot = self.backup.snapshot
        found = [
            ("backup", f"{self.backup.entry.id}, state of {snapshot.source.snapshot_at}"),
            ("holds", f"{len(self.backup.body.data)} tables, "
                      f"{self.backup.body.figures.get('rows', 0):,} rows, "
                      f"{format_size(self.backup.body.figures.get('bytes', 0))}"),
            ("target", self.state.info.redacted()),
            ("server", f"PostgreSQL {self.state.server.version}"),
        ]  # fmt: skip
        match self.mode:
            case "project":
                assert self.project is not None  # it makes the mode
                found += self.project.facts()
            case "new":
                found.append(("database", f"{self.state.name} is made"))
            case "empty":
                found.append(("database", f"{self.state.name} is empty and is filled"))
            case "direct":
                found.append(("database", f"{self.state.name} is empty and is filled directly"))
            case "swap":
                found += [
                    ("replaced", f"{self.state.name}, {self.state.objects} objects, "
                                 f"{format_size(self.state.size)}"),
                    ("first", "a safety backup of it" if self.options.safety else
                              "NO safety backup (--no-safety-backup)"),
                    ("then", f"built and checked as {self.build_name}, "
                             f"while {self.state.name} serves"),
                    ("swap", f"in one transaction; sessions are ended; the old one stays as "
                             f"{self.old_name}"),
                ]  # fmt: skip
                if self.bound:
                    found.append(("stays there", ", ".join(self.bound)))
                if self.has_log:
                    found.append(("change log", "begins anew with the next backup, a full"))
        return found


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


def plan_restore(
    backup: Backup, dsn: str, options: RestoreOptions, *, snapshot: Snapshot | None = None
) -> RestorePlan:
    """Look at the target and decide. Changes nothing.

    Args:
        snapshot: what is restored, if not the backup's own.

    Raises:
        TargetNotEmpty: it holds something and ``in_place`` was not asked for.
        TargetUnfit: an older major version, missing extensions or roles, no privilege.
        TargetUnreachable.
    """
    if backup.body.partial and backup.body.log is not None:
        raise UsageError(
            f"backup {backup.entry.id} is an incremental: it holds changes alone",
            hint="Recover to its end with `aurora backup restore-point "
            f'"{backup.body.log.to_at}"`, or as far as the change log reaches with --latest.',
        )
    if backup.body.partial:
        raise UsageError(
            f"backup {backup.entry.id} holds the rows of some tables alone",
            hint="It was taken before a table was replaced. Use it with restore-table.",
        )
    state = look_at(dsn)
    require_usable(state.server, "target")
    snapshot = snapshot or backup.snapshot
    _require_version(snapshot, state)
    project = _as_project(backup, snapshot, state, options)
    if project is not None:
        return RestorePlan(
            backup, state, options, "project", new_restore_id(clock.now()), project=project
        )
    mode: Mode = "new" if not state.exists else "empty" if state.empty else "swap"
    if state.empty and state.exists and not (state.may_create and state.may_rename):
        mode = "direct"
    plan = RestorePlan(backup, state, options, mode, new_restore_id(clock.now()))
    if mode == "swap" and not options.in_place:
        raise TargetNotEmpty(
            f"the target {state.info.redacted()} holds {state.objects} objects, "
            f"{format_size(state.size)}",
            hint="Nothing was changed. Restore into another database with --target "
            "postgresql://…/new_name, or replace this one with --in-place (a safety backup "
            "is taken first).",
            context={"objects": state.objects, "bytes": state.size},
        )
    if mode != "direct" and not state.may_create:
        raise TargetUnfit(
            f"the role {state.server.role.name} may not create databases on the target",
            hint="Nothing was changed. Grant it CREATEDB, or create an empty database and give "
            "its address with --target.",
        )
    if mode in ("swap", "empty"):
        _require_renamable(state)
    if mode == "direct":
        _require_encoding(snapshot, state)
    _require_extensions(snapshot, state, options)
    _require_owners(
        snapshot, state, options,
        {table.owner for table in snapshot.tables} | {snapshot.source.database.owner},
    )  # fmt: skip
    return plan


def _require_owners(
    snapshot: Snapshot, state: TargetState, options: RestoreOptions, owners: set[str]
) -> None:
    if options.with_roles:
        return
    with near(state) as conn:
        there = {str(row[0]) for row in conn.execute("SELECT rolname FROM pg_catalog.pg_roles")}
    if missing := sorted(owners - there):
        hint = "Nothing was changed. `aurora backup restore-full` restores the roles too; or \
create them on the target first."
        if any(table.schema == "auth" for table in snapshot.tables) and "supabase_" in missing[-1]:
            hint += " The backup is of a Supabase project, the target is none: a new project has \
these roles."
        raise TargetUnfit(
            f"roles that own objects of the backup are not on the target: {', '.join(missing)}",
            hint=hint,
            context={"roles": list(missing)},
        )


def _as_project(
    backup: Backup, snapshot: Snapshot, state: TargetState, options: RestoreOptions
) -> ProjectPlan | None:
    """The plan for a Supabase project; None where the target is none, or may be swapped whole."""
    if options.in_place and state.server.role.superuser:
        return None  # self-hosted: the database itself can be replaced
    found = plan_project(
        backup, snapshot, state,
        accept_losses=options.accept_refusals, with_roles=options.with_roles,
    )  # fmt: skip
    if found is not None:
        _require_encoding(snapshot, state)
        _require_owners(
            snapshot, state, options,
            {t.owner for t in snapshot.tables if t.schema not in found.managed},
        )  # fmt: skip
    return found


def _require_encoding(snapshot: Snapshot, state: TargetState) -> None:
    """Rows are compared as the server stores them: in another encoding they all would differ."""
    wanted = snapshot.source.database.encoding
    if state.server.encoding != wanted:
        raise TargetUnfit(
            f"database {state.name} has the encoding {state.server.encoding}, the backup {wanted}",
            hint="Nothing was changed. Create it with TEMPLATE template0 ENCODING "
            f"'{wanted}', or let a role with CREATEDB restore, which makes it so.",
        )


def _require_renamable(state: TargetState) -> None:
    """Refuse now what would make the swap fail after all the work."""
    if not state.may_rename:
        raise TargetUnfit(
            f"the role {state.server.role.name} is not the owner of database {state.name}, and "
            "may not replace it",
            hint="Nothing was changed. Use the owner's role or one that is a member of it, or "
            "restore into another database with --target.",
        )
    if state.prepared:
        raise TargetUnfit(
            f"prepared transactions hold database {state.name}: {', '.join(state.prepared)}",
            hint="Nothing was changed. In that database, COMMIT PREPARED or ROLLBACK PREPARED each "
            "of them; then run the restore again.",
        )


def new_restore_id(moment: datetime) -> str:
    """``r20261123T160742Z-k3q9``: sorts by time."""
    letters = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(4))
    return f"r{moment:%Y%m%dT%H%M%SZ}-{letters}"


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


def _require_version(snapshot: Snapshot, state: TargetState) -> None:
    source_major = snapshot.source.version_num // 10000
    if state.server.major < source_major:
        raise TargetUnfit(
            f"the backup is of PostgreSQL {source_major}, the target runs {state.server.version}",
            hint=f"Nothing was changed. Restore into PostgreSQL {source_major} or newer.",
        )


def _require_extensions(snapshot: Snapshot, state: TargetState, options: RestoreOptions) -> None:
    with near(state) as conn:
        available = {
            str(row[0])
            for row in conn.execute(
                "SELECT name FROM pg_catalog.pg_available_extensions"
                " UNION SELECT extname FROM pg_catalog.pg_extension"
            )
        }
    missing = [name for name, _, _ in snapshot.source.database.extensions if name not in available]
    if missing and not options.accept_refusals:
        raise TargetUnfit(
            f"extensions of the backup are not available on the target: {', '.join(missing)}",
            hint="Nothing was changed. Install them on the target server; or restore without "
            "them, and without what depends on them, with --accept-refusals.",
            context={"extensions": missing},
        )
