"""What `doctor` says of the change log: looked at, never changed."""

from collections.abc import Collection, Iterator

from aurora.engines.logical import slot as slots
from aurora.engines.logical.slot import Identity, LogNames, SlotState
from aurora.operations.findings import Finding, failed, good, warning
from aurora.operations.log_state import slot_break
from aurora.operations.slot_health import Danger, SlotHealth, read_slot_facts
from aurora.operations.slot_health import slot_health as judged
from aurora.operations.source import held_note, plan_prepare, read_again, wanted_tables
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import ServerFacts, inspect_server, open_control
from aurora.units import format_size, listed, plural

_WARN_SHARE = 0.5  # of what a slot may hold
_WARN_BYTES = 5 << 30  # held, where there is no limit


def check_log(info: ConnInfo, label: str, skip: Collection[str] = ()) -> Iterator[Finding]:
    """All findings about the change log of *label*. Raises SourceError."""
    names = LogNames.of(label)
    with open_control(info) as conn, translated("source", doing="looking at the change log"):
        facts = inspect_server(conn)
        held = slots.read_slot(conn, names.slot)
        tables = wanted_tables(conn, facts, skip)
        if held is None:
            plan = plan_prepare(info.dsn(), label, skip=skip)
            yield _not_there(facts, tables)
            yield from (_missing(one) for one in plan.refused)
            if weak := plan.read_again:
                yield _missing(read_again(weak))
            return
        if broken := slot_break(held, names, facts.database):
            yield failed("log-slot", broken, "Incrementals become fulls until it is mended.")
            return
        yield slot_health(held)
        seen = read_slot_facts(conn, names.slot)
        if seen is not None:
            yield from _danger(judged(seen))
        yield from _retention(facts, held)
        yield from _published(slots.published(conn, names), tables)


def _not_there(facts: ServerFacts, tables: list[Identity]) -> Finding:
    level = facts.settings.get("wal_level", "")
    lacking = "" if level == "logical" else f" (wal_level is {level}: it needs logical)"
    weak = [one for one in tables if not one.streamed]
    limit = facts.settings.get("max_slot_wal_keep_size", "-1")
    risk = (
        "its slot would keep WAL without limit (max_slot_wal_keep_size is -1)"
        if limit == "-1"
        else f"its slot may keep {limit} of WAL"
    )
    return good(
        "log-none",
        f"no change log is kept{lacking}: only full backups. `aurora source prepare` makes one: "
        f"{plural(len(tables) - len(weak), 'table')} streamed, {len(weak)} read again at each "
        f"incremental; {risk}",
    )


def _missing(found: Finding) -> Finding:
    """What keeps the source from having a log: no error, as long as nobody wants one."""
    told = f"for a change log: {found.message}"
    return warning(found.code, told, found.hint, found.details)


def _danger(health: SlotHealth) -> Iterator[Finding]:
    if health.danger > Danger.NONE:
        yield warning(
            "log-slot-danger",
            f"the slot endangers the source: {'; '.join(health.reasons)}",
            "Take an incremental, or let `aurora stream` run; end transactions that are open for "
            "hours. At 80 % of what it may keep, a stream drops the slot.",
        )


def slot_health(held: SlotState) -> Finding:
    """Whether the slot is about to hurt the source, or to be given up by it; pure."""
    told = f"{held_note(held)}, {format_size(held.lag_bytes)} not yet backed up"
    limit = held.held_bytes + (held.safe_wal_size or 0)
    short = held.safe_wal_size is not None and held.held_bytes > limit * _WARN_SHARE
    if held.wal_status == "unreserved" or short:
        return warning(
            "log-slot-behind",
            told,
            "Run `aurora backup create --type incremental` now: when no room is left, the server "
            "gives the slot up, and the next backup must be a full.",
        )
    if held.safe_wal_size is None and held.held_bytes > _WARN_BYTES:
        return warning(
            "log-slot-behind",
            told,
            "Run `aurora backup create --type incremental` now, and then often; or give the log "
            "up with `aurora source prepare --undo`.",
        )
    return good("log-slot", told)


def _retention(facts: ServerFacts, _: SlotState) -> Iterator[Finding]:
    limit = facts.settings.get("max_slot_wal_keep_size", "-1")
    if limit == "-1":
        yield warning(
            "log-retention-unlimited",
            "max_slot_wal_keep_size is -1: without incrementals the slot keeps WAL until the "
            "source's disk is full",
            "Set it to what the disk can spare (for example 10GB), and make incrementals often.",
        )
    else:
        yield good("log-retention", f"a slot may keep {limit} of WAL, then the server drops it")


def _published(published: dict[int, str], tables: list[Identity]) -> Iterator[Finding]:
    streamed = [one for one in tables if one.oid in published]
    new = [one for one in tables if one.streamed and one.oid not in published]
    weak = [one for one in tables if not one.streamed]
    yield good("log-tables", f"{plural(len(streamed), 'table')} streamed")
    if new:
        yield warning(
            "log-tables-new",
            f"{plural(len(new), 'table')} not yet published: {listed(one.shown for one in new)}",
            "The next full publishes them; so does `aurora source prepare`.",
        )
    if weak:
        yield read_again(weak)
