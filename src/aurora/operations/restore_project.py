"""A restore into a Supabase project: what is decided before, and what comes last.

:mod:`aurora.operations.restore` does the rest, as for any other database.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aurora.engines.base import Snapshot, Table, TableData
from aurora.engines.logical import system
from aurora.engines.logical.entries import views_on
from aurora.engines.logical.names import shown
from aurora.engines.logical.schema import Archive, Described
from aurora.engines.logical.target import TargetState
from aurora.engines.supabase import staging
from aurora.engines.supabase.handover import HandedOver, Work, hand_over, shared_columns
from aurora.engines.supabase.project import Project, is_project, look_at_project
from aurora.engines.supabase.rules import (
    CRON,
    STAGING,
    VAULT,
    is_passing,
    is_reserved,
    why_skipped,
)
from aurora.engines.supabase.sorting import Sorted, belongs_to_user, services_in, sort_entries
from aurora.engines.supabase.vault import parse_secrets
from aurora.errors import TargetNotEmpty, TargetUnfit
from aurora.events import EventSink, PhaseBegun, PhaseEnded
from aurora.operations.content import Backup
from aurora.operations.reports import PartResult, RestoreReport
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.units import format_count, listed, plural

_NAME = r'("(?:[^"]|"")*"|[^\s;"]+)'
_MEMBERSHIP = re.compile(rf"GRANT {_NAME} TO {_NAME}")
_GRANTOR = re.compile(rf"GRANTED BY {_NAME}$")
_SETTABLE = frozenset({"anon", "authenticated", "authenticator", "service_role"})

RESTORED, SKIPPED, LEFT = "restored", "skipped", "left to you"

# What no connection to the database gives. Source: the list in the design's facts page.
_OUTSIDE = (
    ("passwords of custom roles", "no role may read them: ALTER ROLE … PASSWORD for each"),
    ("JWT secret and API keys", "the new project has its own: clients need its URL and keys, and "
                                "all sign in again, unless you set the old JWT secret"),
    ("auth settings", "providers, mail templates, redirect URLs: set them in the dashboard"),
    ("edge functions and their secrets", "deploy them again (supabase functions deploy, supabase "
                                         "secrets set)"),
    ("vault's root key", "each project has its own; the secrets are made anew under it"),
    ("DNS and custom domains", "point them at the new project"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProjectPlan:
    """What a restore does differently because its target is a Supabase project."""

    project: Project
    entries: Sorted
    waiting: tuple[Table, ...]  # services' tables whose rows are restored, as the source has them
    skipped: tuple[tuple[str, int, str], ...]  # table, rows, why
    losses: tuple[str, ...]  # known beforehand; only with --accept-refusals
    notes: tuple[str, ...]

    @property
    def managed(self) -> frozenset[str]:
        """The platform's schemas in the backup."""
        return self.entries.managed

    @property
    def waiting_oids(self) -> set[int]:
        return {table.oid for table in self.waiting}

    def document(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "removes_unfinished": self.project.unfinished,
            "tables": [shown(table.schema, table.name) for table in self.waiting],
            "skipped": [
                {"table": table, "rows": rows, "why": why} for table, rows, why in self.skipped
            ],
            "lost": list(self.losses),
            "notes": list(self.notes),
            "left_to_you": [part for part, _ in _OUTSIDE],
        }

    def facts(self) -> list[tuple[str, str]]:
        """Lines for a person."""
        schemas = sorted({table.schema for table in self.waiting})
        lines = [
            ("project", "the target is a Supabase project: its user schemas are filled, and rows "
                        f"of {plural(len(self.waiting), 'table')} of {', '.join(schemas)} go into "
                        "the tables that are there"),
        ]  # fmt: skip
        if self.project.unfinished:
            lines.append(
                ("first", f"what the unfinished restore {self.project.unfinished} left is removed")
            )
        lines += [
            ("skipped", f"{table}, {plural(rows, 'row')}: {why}")
            for table, rows, why in self.skipped
        ]
        lines += [("lost", loss) for loss in self.losses]
        lines += [("note", note) for note in self.notes]
        return [*lines, ("left to you", "; ".join(part for part, _ in _OUTSIDE))]


def plan_project(
    backup: Backup,
    snapshot: Snapshot,
    state: TargetState,
    *,
    accept_losses: bool,
    with_roles: bool,
) -> ProjectPlan | None:
    """Look at the target as a project; None where it is none. Changes nothing.

    Args:
        backup: whose rows are restored.
        snapshot: what is restored: the backup's own, or one of a later point.

    Raises:
        TargetNotEmpty: there are things of people's in it.
        TargetUnfit: what it lacks would lose something, and *accept_losses* is not set.
        TargetError, StorageError, IntegrityError.
    """
    if not state.exists:
        return None
    with open_control(state.info, what="target") as conn:
        with translated("target", doing="looking at the project"):
            if not is_project(conn):
                return None
            project = look_at_project(conn, state.info, state.server)
    content = backup.read_all(snapshot.archive.pieces)
    with tempfile.TemporaryDirectory(prefix="aurora-") as directory:
        described = Archive(snapshot.archive, content, Path(directory)).described()
    _require_fresh(state, project, described)
    entries = sort_entries(
        described, project.schema, snapshot, installed=project.extensions, schemas=project.schemas
    )
    data = {found.oid: found for found in backup.body.data}
    waiting, skipped, losses = _choose(snapshot, entries.managed, data, project)
    losses += _lost_otherwise(entries, project, backup, snapshot, with_roles=with_roles)
    _require_possible(waiting, project)
    if losses and not accept_losses:
        raise TargetUnfit(
            f"the project lacks what the backup needs: {losses[0]}"
            + (f" (and {len(losses) - 1} more)" if len(losses) > 1 else ""),
            hint="Nothing was changed.\n"
            + "\n".join(f"  - {loss}" for loss in losses)
            + "\nBring the project up to date, or restore without these with --accept-refusals.",
            context={"losses": losses},
        )
    return ProjectPlan(
        project, entries, tuple(waiting), tuple(skipped), tuple(losses),
        tuple(_notes(snapshot, project)),
    )  # fmt: skip


def _require_fresh(state: TargetState, project: Project, archive: Sequence[Described]) -> None:
    if project.unfinished:
        return  # all of it is that restore's, which began in a fresh one
    # The dashboard may put a function and its event trigger into each new project.
    same = {
        (one.entry.kind, one.schema, one.name, one.sql)
        for one in archive
        if one.entry.kind in ("FUNCTION", "EVENT TRIGGER")
    }
    managed = services_in(project.schema)
    found = [
        f"{one.entry.kind.lower()} {shown(one.schema, one.name) if one.schema else one.name}"
        for one in project.schema
        if belongs_to_user(one, managed)
        and (one.entry.kind, one.schema, one.name, one.sql) not in same
    ]
    if found:
        raise TargetNotEmpty(
            f"the project {state.info.redacted()} is not fresh: it holds {found[0]}"
            + (f" and {len(found) - 1} more" if len(found) > 1 else ""),
            hint="Nothing was changed. Restore into a new project. A project that is used cannot "
            "be replaced as a whole: it has one database, and its services hold on to it. To bring "
            "back single tables, use `aurora backup restore-table`; to look at the backup, restore "
            "into another database of the same server with --target postgresql://…/another_name.",
            context={"objects": len(found)},
        )


def _choose(
    snapshot: Snapshot, managed: frozenset[str], data: dict[int, TableData], project: Project
) -> tuple[list[Table], list[tuple[str, int, str]], list[str]]:
    """Services' tables to restore, those to skip with the reason, and what would be lost."""
    waiting: list[Table] = []
    skipped: list[tuple[str, int, str]] = []
    losses: list[str] = []
    for table in snapshot.tables:
        if table.schema not in managed or not table.has_rows or _name(table) == VAULT:
            continue
        name = shown(table.schema, table.name)
        rows = data[table.oid].rows if table.oid in data else 0
        if _name(table) == CRON:
            waiting += [table] if rows else []
        elif why := why_skipped(table.schema, table.name):
            if rows and not is_passing(table.schema, table.name):
                skipped.append((name, rows, why))
        else:
            loss = _lost(table, project)
            if not loss.startswith("rows"):
                waiting.append(table)
            if loss and rows:
                losses.append(f"{name}, {plural(rows, 'row')}: {loss}")
    return waiting, skipped, losses


def _lost(table: Table, project: Project) -> str:
    """What of a service's table the project cannot take; begins with "rows" where it is all."""
    there = project.tables.get(_name(table))
    if there is None:
        return "rows, as the project has no such table"
    if not there.writable:
        return "rows, as the role may not write it there"
    shared = {column.name for column in shared_columns(table, there)}
    lacking = [c.name for c in table.columns if not c.generated and c.name not in shared]
    if not lacking:
        return ""
    return (
        f"the project has no {plural(len(lacking), 'column')} {', '.join(lacking)}: its service is "
        "older than the source's"
    )


def _name(table: Table) -> tuple[str, str]:
    return table.schema, table.name


def _require_possible(waiting: Sequence[Table], project: Project) -> None:
    """A column that must have a value and gets none would fail after all the work."""
    for table in waiting:
        there = project.tables.get(_name(table))
        if there is None or _name(table) == CRON:
            continue
        given = {column.name for column in table.columns}
        needed = [c.name for c in there.columns if c.required and c.name not in given]
        if needed:
            raise TargetUnfit(
                f"{shown(table.schema, table.name)} of the project needs values that the backup "
                f"has not: {', '.join(needed)}",
                hint="Nothing was changed. The project's service is much newer than the source's. "
                "Restore into a project of the source's age, let it be updated, and back that up.",
            )


def _lost_otherwise(
    entries: Sorted,
    project: Project,
    backup: Backup,
    snapshot: Snapshot,
    *,
    with_roles: bool,
) -> list[str]:
    losses = []
    there = project.available | set(project.extensions)
    if absent := [n for n, _, _ in snapshot.source.database.extensions if n not in there]:
        losses.append(f"extensions that the project has not: {', '.join(absent)}")
    if entries.policies and not project.may_make_policies:
        names = [one.title.removeprefix("POLICY on ") for one in entries.policies]
        losses.append(
            f"policies on the services' tables, which the role may not make: {listed(names)}"
        )
    if entries.watching and not project.may_make_event_triggers:
        losses.append(
            "event triggers, which the role may not make: "
            + ", ".join(one.title.removeprefix("EVENT TRIGGER ") for one in entries.watching)
        )
    losses += [f"{what}: {why}" for what, why in entries.left_out if what.startswith("SCHEMA ")]
    if not with_roles:
        roles = system.role_names(backup.read_all(snapshot.globals).decode())
        missing = [r for r in roles if r not in project.roles and not is_reserved(r)]
        if missing:
            losses.append(
                f"grants to roles that the project has not: {', '.join(missing)} "
                "(`aurora backup restore-full` makes them)"
            )
    return losses


def _notes(snapshot: Snapshot, project: Project) -> Iterator[str]:
    for name, version, _ in snapshot.source.database.extensions:
        there = project.extensions.get(name)
        if there is not None and there != version:
            yield f"extension {name} is {version} in the backup, {there} in the project"
    for table, rows in project.held.items():
        yield f"{table} of the project holds {plural(rows, 'row')} already; the backup's win"
    if not project.may_replicate:
        yield "the role may not set session_replication_role: triggers of the services run"


def marked(
    plan: ProjectPlan, info: ConnInfo, restore_id: str, backup_id: str
) -> AbstractContextManager[ConnInfo]:
    """The project, marked as unfinished for as long as the work in it."""
    tables = staging.staged(plan.waiting, plan.waiting_oids)
    return staging.at_work(info, restore_id, backup_id, tables)


def snapshot_to_build(plan: ProjectPlan, snapshot: Snapshot) -> Snapshot:
    """What is built and checked: the user's schemas, and the services' rows where they wait."""
    waiting = plan.waiting_oids
    managed = {t.oid for t in snapshot.tables if t.schema in plan.managed}
    later = _views_later(snapshot, managed)
    tables = tuple(
        msgspec.structs.replace(table, populated=False) if table.oid in later else table
        for table in staging.staged(snapshot.tables, waiting)
        if table.oid in waiting or table.oid not in managed
    )
    sequences = tuple(s for s in snapshot.sequences if s.schema not in plan.managed)
    return msgspec.structs.replace(snapshot, tables=tables, sequences=sequences)


def _views_later(snapshot: Snapshot, managed: set[int]) -> set[int]:
    """Materialized views that read the services' tables, themselves or by other views."""
    return views_on(snapshot.archive, managed)


def take_over(
    plan: ProjectPlan,
    snapshot: Snapshot,
    backup: Backup,
    info: ConnInfo,
    report: RestoreReport,
    sink: EventSink,
) -> None:
    """The last transaction, and what the report says of the whole project.

    Raises what :func:`hand_over` raises.
    """
    managed = {t.oid for t in snapshot.tables if t.schema in plan.managed}
    later = _views_later(snapshot, managed)
    waiting = {_name(t) for t in plan.waiting}
    found = {one.table: one.rows_found or 0 for one in report.tables}
    work = Work(
        restore_id=report.restore_id,
        project=plan.project,
        tables=tuple(t for t in plan.waiting if _name(t) != CRON),
        rows={
            _name(t): found[shown(*_name(t))] for t in plan.waiting if shown(*_name(t)) in found
        },
        sequences=tuple(
            s for s in snapshot.sequences
            if s.schema in plan.managed and s.table in plan.waiting_oids and s.schema != CRON[0]
        ),
        statements=tuple(plan.entries.last),
        watching=tuple(plan.entries.watching),
        views=tuple(t for t in snapshot.tables if t.oid in later and t.kind == "m" and t.populated),
        jobs=CRON in waiting,
        secrets=tuple(parse_secrets(backup.read_all(snapshot.vault))),
        settings=tuple(_settings(plan, snapshot, info)),
    )  # fmt: skip
    phase = "handing over to the services"
    sink(PhaseBegun(phase))
    with open_control(info, what="target") as conn:
        done = hand_over(conn, work)
    sink(PhaseEnded(phase, f"{format_count(sum(m.rows for m in done.moved))} rows"))
    report.refusals += done.refusals
    report.refusals += done.dangling
    report.sequences += done.sequences
    report.notes += list(plan.notes)
    report.parts = list(_parts(plan, snapshot, backup, done))


def _settings(plan: ProjectPlan, snapshot: Snapshot, info: ConnInfo) -> Iterator[str]:
    """Settings of the database, and of roles in it, that are the user's."""
    source = snapshot.source.database
    wanted = [
        (role, setting)
        for role, setting in source.settings
        # The platform's own, with the project's JWT secret among them.
        if not setting.startswith("app.settings.") and (not role or role in plan.project.roles)
    ]
    facts = msgspec.structs.replace(source, settings=tuple(wanted), acl=(), connection_limit=-1)
    statements = system.database_statements(info.dbname, facts)
    yield from (one for one in statements if " OWNER TO " not in one)


def _parts(
    plan: ProjectPlan, snapshot: Snapshot, backup: Backup, done: HandedOver
) -> Iterator[PartResult]:
    user = [t for t in snapshot.tables if t.schema not in plan.managed and t.has_rows]
    schemas = sorted({t.schema for t in user})
    yield PartResult(
        "user schemas", RESTORED,
        f"{', '.join(schemas) or 'none with tables'}: {plural(len(user), 'table')}, with functions,"
        " policies, grants and default privileges",
    )  # fmt: skip
    for one in done.moved:
        if one.rows:
            others = f"; {plural(one.others, 'row')} of the project's own stay" * bool(one.others)
            yield PartResult(one.table, RESTORED, f"{plural(one.same, 'row')}{others}")
    empty = [one.table for one in done.moved if not one.rows]
    if empty:
        yield PartResult("other tables of the services", RESTORED, f"empty: {', '.join(empty)}")
    for title in done.done:
        yield PartResult(title, RESTORED, "")
    yield from _secrets(snapshot, backup, done)
    yield from _jobs(done)
    for table, rows, why in plan.skipped:
        yield PartResult(table, SKIPPED, f"{plural(rows, 'row')}: {why}")
    for what, why in plan.entries.left_out:
        yield PartResult(what, SKIPPED, why)
    for loss in plan.losses:
        yield PartResult(loss.partition(":")[0], SKIPPED, loss.partition(":")[2].strip() or loss)
    rows = next((m.rows for m in done.moved if m.table == "storage.objects"), 0)
    if rows:
        yield PartResult(
            "files in Storage", LEFT,
            f"{plural(rows, 'row')} of storage.objects point at files: "
            + (f"`aurora backup restore-bucket '*' {backup.entry.id} --target …` brings them"
               if backup.body.storage is not None else "the backup holds none"),
        )  # fmt: skip
    for part, what in _OUTSIDE:
        yield PartResult(part, LEFT, what)


def _secrets(snapshot: Snapshot, backup: Backup, done: HandedOver) -> Iterator[PartResult]:
    held = next(
        (d.rows for d in backup.body.data
         if any(t.oid == d.oid and _name(t) == VAULT for t in snapshot.tables)), 0
    )  # fmt: skip
    made = done.secrets
    if made.refused:
        yield PartResult("vault secrets", LEFT, f"{held} could not be made: {made.refused}")
    elif held and not snapshot.vault:
        yield PartResult(
            "vault secrets", LEFT,
            f"{held} are in the backup as ciphertext alone: the role could not decrypt them",
        )  # fmt: skip
    elif made.made or made.there:
        told = f"{made.made} made anew, with new ids"
        yield PartResult(
            "vault secrets", RESTORED, told + f", {made.there} were there" * bool(made.there)
        )
    if made.kept:
        yield PartResult(
            "vault secrets", LEFT, f"{made.kept} names are taken by other secrets, which stay"
        )


def _jobs(done: HandedOver) -> Iterator[PartResult]:
    if done.jobs:
        yield PartResult(
            "cron jobs", RESTORED, f"{done.jobs}: they run from now on (cron.unschedule stops one)"
        )
    if done.jobs_of_others:
        yield PartResult("cron jobs of other roles", LEFT, f"{done.jobs_of_others}")


def roles_of_users(text: str) -> str:
    """A globals script without what the platform keeps to itself."""
    return "\n".join(f"{one};" for one in system.statements(text) if not _platforms(one))


def _platforms(statement: str) -> bool:
    if match := _MEMBERSHIP.match(statement):
        by = _GRANTOR.search(
            statement
        )  # whoever makes a role is its member by the superuser's grant
        if by is not None and system.plain_name(by[1]) == "supabase_admin":
            return True
        return all(is_reserved(system.plain_name(name)) for name in match.groups())
    role = system.role_of(statement)
    settable = role in _SETTABLE and statement.startswith("ALTER ROLE") and " SET " in statement
    return bool(role) and is_reserved(role) and not settable


def sweep(info: ConnInfo, restore_id: str) -> None:
    """Take this restore back, if the mark is still its own. Raises TargetError."""
    with open_control(info, what="target") as conn:
        with translated("target", doing="taking the restore back"):
            if staging.unfinished_restore(conn) == restore_id:
                staging.sweep(conn)


def shown_names(plan: ProjectPlan) -> dict[str, str]:
    """What the tables that wait are called in a check, and what a person calls them."""
    return {
        shown(STAGING, staging.staging_name(t.schema, t.name)): shown(t.schema, t.name)
        for t in plan.waiting
    }
