"""Restoring a whole database: looked at, and what is going to be done. Nothing is changed here."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from aurora import clock
from aurora.engines.base import Snapshot
from aurora.engines.logical.target import TargetState, aside_name, look_at, near
from aurora.errors import TargetNotEmpty, TargetUnfit, UsageError
from aurora.operations.content import Backup
from aurora.operations.log_move import names_slot
from aurora.operations.restore_project import ProjectPlan, plan_project
from aurora.postgres.server import require_usable
from aurora.units import format_size, plural

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
            ("holds", f"{plural(len(self.backup.body.data), 'table')}, "
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
