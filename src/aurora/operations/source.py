"""`aurora source prepare`: what the change log needs on the source, made and removed.

Two steps, so that a person sees the exact statements first: a plan changes nothing, and
running it does what the plan says. What stands in the way is named in the plan, with what
would help, before anything is tried.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from aurora.engines.logical import ddl
from aurora.engines.logical import slot as slots
from aurora.engines.logical.names import Connection, shown
from aurora.engines.logical.receiver import LogSession
from aurora.engines.logical.slot import Identity, LogNames, SlotState
from aurora.engines.logical.target import is_replaced
from aurora.errors import AuroraError, Incomplete, SourceUnsupported
from aurora.events import EventSink, Noted, PhaseBegun, PhaseEnded
from aurora.operations.findings import Finding, Level, failed, warning
from aurora.postgres.errors import translated
from aurora.postgres.server import ServerFacts, inspect_server, open_control, require_usable
from aurora.units import format_duration, format_size, listed, plural

_FIXES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class PreparePlan:
    """What preparing would do. ``obstacles`` of level error must go first."""

    dsn: str = field(repr=False)
    names: LogNames
    statements: tuple[str, ...]
    identities: tuple[Identity, ...] = ()
    slot: SlotState | None = None
    obstacles: tuple[Finding, ...] = ()
    makes_slot: bool = False

    @property
    def refused(self) -> list[Finding]:
        """What keeps it from being run."""
        return [found for found in self.obstacles if found.level is Level.ERROR]

    @property
    def streamed(self) -> list[Identity]:
        return [one for one in self.identities if one.streamed]

    @property
    def read_again(self) -> list[Identity]:
        return [one for one in self.identities if not one.streamed]

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "slot": self.names.slot,
            "publications": list(self.names.publications),
            "statements": list(self.statements),
            "streamed": [one.shown for one in self.streamed],
            "read_again": [
                {"table": one.shown, "why": one.why, "fix": one.fix} for one in self.read_again
            ],
            "obstacles": [
                {"code": one.code, "level": one.level.value, "message": one.message,
                 "hint": one.hint} for one in self.obstacles
            ],
        }  # fmt: skip


def plan_prepare(
    dsn: str,
    label: str,
    *,
    skip: Collection[str] = (),
    failover: bool = False,
    ddl_markers: bool = False,
) -> PreparePlan:
    """Look at the source; what it takes to have a change log there. Changes nothing.

    Args:
        ddl_markers: also event triggers that mark schema changes in the log.

    Raises SourceError where it cannot be asked.
    """
    names = LogNames.of(label)
    with open_control(dsn) as conn, translated("source", doing="looking at the source"):
        facts = inspect_server(conn)
        require_usable(facts)
        identities = tuple(wanted_tables(conn, facts, skip))
        held = slots.read_slot(conn, names.slot)
        statements = slots.publication_statements(conn, names, identities)
        obstacles = _obstacles(conn, facts, held, statements)
        useless = held is not None and (held.is_lost or is_replaced(held.database, facts.database))
        if useless:
            statements.append(f"SELECT pg_catalog.pg_drop_replication_slot('{names.slot}')")
        makes_slot = held is None or useless
        if makes_slot:
            wanted = failover or (held is not None and held.failover)
            statements.append(slots.slot_statement(names, facts.version_num, failover=wanted))
        markers = ddl.marker_statements(conn, names)
        if ddl_markers:
            statements += markers
        if markers:
            obstacles += _markers(facts, may=ddl.may_mark(conn), wanted=ddl_markers)
    if not any(one.code == "log-privilege" for one in obstacles):
        obstacles += _unreachable(dsn, facts)
    if weak := [one for one in identities if not one.streamed]:
        obstacles.append(read_again(weak))
    return PreparePlan(
        dsn, names, tuple(statements), identities, held, tuple(obstacles), makes_slot
    )


def wanted_tables(
    conn: Connection, facts: ServerFacts, skip: Collection[str] = ()
) -> list[Identity]:
    """The tables to publish, without those named in *skip*."""
    free = facts.role.superuser or (facts.is_supabase and slots.publishes_what_others_own(conn))
    return [
        one
        for one in slots.read_identities(conn, may_publish_all=free)
        if one.shown not in skip and f"{one.schema}.{one.name}" not in skip
    ]


def run_prepare(plan: PreparePlan, *, sink: EventSink, timeout: float = 300.0) -> None:
    """Run the plan's statements, then wait for the transactions that began before.

    Raises:
        SourceUnsupported: the plan is refused; nothing was changed.
        Incomplete: everything is made, but an old transaction is still open; the first full
            backup waits for it too.
        SourceError: what was made so far stays; run it again, or ``--undo``.
    """
    if plan.refused:
        first = plan.refused[0]
        raise SourceUnsupported(
            f"the source cannot give a change log: {first.message}",
            hint=f"Nothing was changed. {first.hint}",
        )
    with open_control(plan.dsn) as conn:
        if plan.statements:
            sink(PhaseBegun("preparing the source"))
            # Making a slot waits for every open transaction that writes, without end.
            doing = "preparing the source (a slot waits for open transactions that write)"
            with translated("source", doing=doing):
                conn.execute(f"SET statement_timeout = '{int(timeout * 1000)}ms'".encode())
                slots.run_statements(conn, plan.statements)
                conn.execute(b"SET statement_timeout = 0")
            sink(PhaseEnded("preparing the source", f"slot {plan.names.slot} is ready"))
        if not plan.statements:
            return
        sink(PhaseBegun("waiting for older transactions"))
        with translated("source", doing="waiting for older transactions"):
            in_the_way = slots.wait_until_older_ended(conn, timeout=timeout)
    if in_the_way:
        raise Incomplete(
            f"after {format_duration(timeout)} a transaction from before is still open: "
            f"{in_the_way}",
            hint="The slot and the publications are made. The first full backup waits for "
            "that transaction; end it soon, because the slot keeps WAL.",
        )
    sink(PhaseEnded("waiting for older transactions", "none is left"))


def plan_undo(dsn: str, label: str) -> PreparePlan:
    """What removes every trace of Aurora from the source. Changes nothing."""
    names = LogNames.of(label)
    with open_control(dsn) as conn, translated("source", doing="looking at the source"):
        statements = slots.drop_statements(conn, names)
        statements += ddl.marker_drop_statements(conn, names)
        held = slots.read_slot(conn, names.slot)
        obstacles: list[Finding] = []
        facts = inspect_server(conn)
        if held is not None and _is_elsewhere(held, facts.database):
            obstacles.append(_elsewhere(held))
    return PreparePlan(dsn, names, tuple(statements), slot=held, obstacles=tuple(obstacles))


def run_undo(plan: PreparePlan, *, sink: EventSink) -> None:
    """Remove slot, publications and markers. Raises SourceError, SourceUnsupported."""
    if plan.refused:
        raise SourceUnsupported(plan.refused[0].message, hint=plan.refused[0].hint)
    if not plan.statements:
        return
    with open_control(plan.dsn) as conn, translated("source", doing="removing the change log"):
        if pid := slots.wait_until_free(conn, plan.names.slot, timeout=10):
            raise SourceUnsupported(
                f"process {pid} of the source reads the slot {plan.names.slot}",
                hint="Let that run of Aurora end first. Nothing was changed.",
            )
        slots.run_statements(conn, plan.statements)
    sink(
        Noted(
            "everything of Aurora is removed from the source; backups made so far stay as they are"
        )
    )


def _obstacles(
    conn: Connection, facts: ServerFacts, held: SlotState | None, statements: list[str]
) -> list[Finding]:
    found: list[Finding] = []
    wal_level = facts.settings.get("wal_level", "")
    if wal_level != "logical":
        found.append(
            failed(
                "log-wal-level",
                f"wal_level is {wal_level}; a change log needs logical",
                "ALTER SYSTEM SET wal_level = logical; then restart the server (managed servers "
                "have a setting for it, such as rds.logical_replication).",
            )
        )
    if not (facts.role.replication or facts.role.superuser or _plays_replication(conn)):
        found.append(
            failed(
                "log-privilege",
                f"the role {facts.role.name} may not replicate",
                f"ALTER ROLE {shown_role(facts)} REPLICATION; (on RDS: GRANT rds_replication TO "
                f"{shown_role(facts)};)",
            )
        )
    if held is None and (room := _no_room(conn, facts)):
        found.append(room)
    if held is not None and _is_elsewhere(held, facts.database):
        found.append(_elsewhere(held))
    if held is not None and (held.plugin != "pgoutput" or held.two_phase):
        found.append(
            failed(
                "log-slot-foreign",
                f"the slot {held.name} is not as Aurora makes it ({held.plugin})",
                f"Drop it if nobody needs it: SELECT pg_drop_replication_slot('{held.name}');",
            )
        )
    creates = any(statement.startswith("CREATE PUBLICATION") for statement in statements)
    if creates and not _may_create(conn):
        found.append(
            failed(
                "log-create-privilege",
                f"the role {facts.role.name} may not make publications in this database",
                f"GRANT CREATE ON DATABASE {facts.database} TO {shown_role(facts)};",
            )
        )
    limit = facts.settings.get("max_slot_wal_keep_size", "-1")
    if limit == "-1":
        found.append(
            warning(
                "log-retention-unlimited",
                "max_slot_wal_keep_size is -1: while no incremental is made, the slot keeps WAL "
                "until the source's disk is full",
                "Set it to what the disk can spare (for example 10GB), and make incrementals "
                "often. `aurora source prepare --undo` removes the slot.",
            )
        )
    return found


def shown_role(facts: ServerFacts) -> str:
    """The role's name as SQL takes it."""
    return shown("x", facts.role.name).partition(".")[2]


def _plays_replication(conn: Connection) -> bool:
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = 'rds_replication'"
        " AND pg_catalog.pg_has_role(current_user, r.oid, 'USAGE'))"
    ).fetchone()
    return bool(row and row[0])


def _may_create(conn: Connection) -> bool:
    row = conn.execute(
        "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')"
    ).fetchone()
    return bool(row and row[0])


def _no_room(conn: Connection, facts: ServerFacts) -> Finding | None:
    row = conn.execute(
        "SELECT (SELECT count(*) FROM pg_catalog.pg_replication_slots),"
        " (SELECT count(*) FROM pg_catalog.pg_stat_replication)"
    ).fetchone()
    slots_used, senders_used = (int(str(value)) for value in row or (0, 0))
    for used, setting, what, say in (
        (slots_used, "max_replication_slots", "replication slots", failed),
        (senders_used, "max_wal_senders", "WAL senders", warning),  # `aurora stream` needs one
    ):
        limit = int(facts.settings.get(setting, "0"))
        if used >= limit:
            return say(
                "log-no-room",
                f"all {limit} {what} of the source are taken",
                f"Raise {setting} (needs a restart), or drop a slot that nobody uses (they "
                "are listed in pg_replication_slots).",
            )
    return None


def _is_elsewhere(held: SlotState, database: str) -> bool:
    """Whether the slot is another database's, and not one's that a restore replaced."""
    return held.database != database and not is_replaced(held.database, database)


def _elsewhere(held: SlotState) -> Finding:
    return failed(
        "log-slot-elsewhere",
        f"the slot {held.name} belongs to the database {held.database}",
        "If that is another source, give this one another name ([source] name in aurora.toml). If "
        f"it is in nobody's use: SELECT pg_drop_replication_slot('{held.name}');",
    )


def _unreachable(dsn: str, facts: ServerFacts) -> list[Finding]:
    """Whether a walsender answers: poolers refuse it, and incrementals then do without."""
    if facts.settings.get("wal_level") != "logical":
        return []
    try:
        with LogSession(dsn):
            return []
    except AuroraError as error:
        return [
            warning(
                "log-no-walsender",
                f"no replication connection comes through: {error.message}",
                "Incrementals read the log by ordinary sessions instead, which costs the server "
                "a temporary file. `aurora stream` needs a direct connection. " + error.hint,
            )
        ]


def _markers(facts: ServerFacts, *, may: bool, wanted: bool) -> list[Finding]:
    """What is to be said of schema changes that nothing marks."""
    if wanted and not may:
        return [
            failed(
                "log-markers-privilege",
                f"the role {facts.role.name} cannot create event triggers that fire for everybody",
                "Leave --ddl-markers out, or let a superuser prepare the source once. (Hosted "
                "Supabase has none to give: its event triggers miss the platform's own changes.)",
            )
        ]
    if wanted:
        return []
    hint = (
        "`aurora source prepare --ddl-markers` makes event triggers that mark each change in the "
        "log: then any target outside of the changes themselves is exact."
        if may
        else "Backups that follow one another closely, or `aurora stream`, keep that short. A "
        "superuser could mark changes: `aurora source prepare --ddl-markers`."
    )
    return [
        warning(
            "log-no-markers",
            "schema changes are not marked: targets between the backup before one and the full "
            "after it will be refused",
            hint,
        )
    ]


def read_again(weak: Sequence[Identity]) -> Finding:
    """What is read again instead of streamed, by reason, and the statements that change it."""
    reasons: dict[str, list[str]] = {}
    for one in weak:
        reasons.setdefault(one.why, []).append(one.shown)
    told = (f"{why}: {listed(names, at_most=5)}" for why, names in reasons.items())
    fixes = list(dict.fromkeys(one.fix for one in weak if one.fix))  # one grant may do for many
    hint = ["They can be recovered to the moments of backups only."]
    if fixes:
        hint[0] += " What changes it:"
        hint += fixes[:_FIXES_SHOWN]
    if len(fixes) > _FIXES_SHOWN:
        hint.append(f"and {len(fixes) - _FIXES_SHOWN} more: `aurora doctor --json` has them all")
    return warning(
        "log-tables-read-again",
        f"{plural(len(weak), 'table')} read again at each incremental, not streamed ("
        + "; ".join(told)
        + ")",
        "\n".join(hint),
        (f"{one.shown} ({one.why})" + (f": {one.fix}" if one.fix else "") for one in weak),
    )


def held_note(held: SlotState) -> str:
    """What a slot keeps the server from removing, for people."""
    safe = "" if held.safe_wal_size is None else f", {format_size(held.safe_wal_size)} to go"
    return f"slot {held.name}: {held.wal_status}, holds {format_size(held.held_bytes)}{safe}"
