"""The slot and the two publications that a change log comes from: looked at, made, removed.

The publications exist before the slot and as long as it does: without them a slot stands
still for ever. Update and delete are published only of tables with a usable replica
identity, because anywhere else publishing them makes the *application's* statements fail.
So there are two: ``…_keyed`` with all actions, ``…_unkeyed`` with insert and truncate.
Never FOR ALL TABLES.
"""

import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import psycopg

from aurora.engines.logical.marks import PREFIX
from aurora.engines.logical.names import Connection, literal, quoted, shown
from aurora.engines.logical.pgoutput import parse_lsn
from aurora.errors import SourceChanged
from aurora.postgres.server import transaction_id

_LONGEST_LABEL = 40


@dataclass(frozen=True, slots=True)
class LogNames:
    """What Aurora's objects on the source are called."""

    slot: str
    keyed: str
    unkeyed: str

    @classmethod
    def of(cls, label: str) -> "LogNames":
        """For the database *label*: ``aurora_<label>`` and so on, in a-z, 0-9 and _."""
        plain = re.sub(r"[^a-z0-9_]", "_", label.lower())
        if len(plain) > _LONGEST_LABEL:
            mark = hashlib.blake2b(label.encode(), digest_size=4).hexdigest()
            plain = f"{plain[: _LONGEST_LABEL - 9]}_{mark}"
        return cls(f"aurora_{plain}", f"aurora_{plain}_keyed", f"aurora_{plain}_unkeyed")

    @property
    def schema(self) -> str:
        """Of the function that marks schema changes."""
        return self.slot

    @property
    def event_triggers(self) -> dict[str, str]:
        """Names by what they mark: ``ddl``, ``drop``, ``rewrite``."""
        return {what: f"{self.slot}_{what}" for what in ("ddl", "drop", "rewrite")}

    @property
    def publications(self) -> tuple[str, str]:
        return self.keyed, self.unkeyed


@dataclass(frozen=True, slots=True)
class SlotState:
    """A replication slot as ``pg_replication_slots`` shows it. LSNs are numbers."""

    name: str
    plugin: str
    database: str
    active_pid: int  # 0: nobody reads it
    restart_lsn: int
    confirmed_lsn: int
    wal_status: str  # reserved, extended, unreserved, lost
    safe_wal_size: int | None  # bytes until it may be lost; None: without limit
    held_bytes: int  # of WAL that it keeps the server from removing
    lag_bytes: int  # of WAL after what was acknowledged
    two_phase: bool
    invalid: str  # why the server gave it up, "" where it did not
    failover: bool = False  # standbys keep it too (since 17)

    @property
    def is_lost(self) -> bool:
        return self.wal_status == "lost" or bool(self.invalid)


_SLOT = """
SELECT s.slot_name, s.plugin, s.database, COALESCE(s.active_pid, 0), s.restart_lsn::text,
       s.confirmed_flush_lsn::text, COALESCE(s.wal_status, ''), s.safe_wal_size,
       COALESCE(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn), 0)
           ::bigint,
       COALESCE(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(),
                s.confirmed_flush_lsn), 0)::bigint,
       COALESCE((to_jsonb(s) ->> 'two_phase')::bool, false),
       COALESCE(to_jsonb(s) ->> 'invalidation_reason',
                CASE WHEN (to_jsonb(s) ->> 'conflicting')::bool THEN 'conflict' END, ''),
       COALESCE((to_jsonb(s) ->> 'failover')::bool, false)
FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = %s
"""


def read_slot(conn: Connection, name: str) -> SlotState | None:
    """The slot *name*, of whatever database, or None."""
    row = _first(conn, _SLOT, (name,))
    if row is None:
        return None
    lsns = (parse_lsn(row[4]) if row[4] else 0, parse_lsn(row[5]) if row[5] else 0)
    return SlotState(row[0], row[1] or "", row[2] or "", row[3], *lsns, *row[6:])


@dataclass(frozen=True, slots=True)
class Identity:
    """How a table's rows are told apart in a change log, or why they are not."""

    oid: int
    schema: str
    name: str
    letter: str  # d, i or f; "" where nothing usable is there
    owned: bool  # the role may publish it
    publishable: bool  # permanent, and all of its rows are the user's
    why: str = ""  # it is read again at each incremental
    fix: str = ""  # the statement that changes that

    @property
    def shown(self) -> str:
        return shown(self.schema, self.name)

    @property
    def streamed(self) -> bool:
        """Whether every change of it comes through the log."""
        return bool(self.letter) and self.owned and self.publishable


# Keys: "d" the immediate valid primary key, "i" the index that was chosen. A key over a
# generated column would make the application's UPDATE fail on 18 and later.
_IDENTITIES = """
WITH keys AS (
    SELECT i.indrelid, i.indexrelid, i.indisprimary, i.indisreplident, i.indimmediate,
           bool_or(a.attgenerated <> '') AS generated,
           bool_and(a.attnotnull) AS not_null
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid
     AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
    WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
    GROUP BY i.indrelid, i.indexrelid, i.indisprimary, i.indisreplident, i.indimmediate
), config AS (
    SELECT c.relid, c.condition FROM pg_catalog.pg_extension e,
           LATERAL unnest(e.extconfig, e.extcondition) AS c(relid, condition)
)
SELECT c.oid::bigint, n.nspname, c.relname, c.relreplident::text, c.relpersistence = 'p',
       COALESCE(config.condition, ''),
       pg_catalog.pg_has_role(c.relowner, 'USAGE'), pg_catalog.pg_get_userbyid(c.relowner),
       current_user,
       EXISTS (SELECT FROM keys k WHERE k.indrelid = c.oid AND k.indisprimary AND k.indimmediate
               AND NOT k.generated),
       EXISTS (SELECT FROM keys k WHERE k.indrelid = c.oid AND k.indisreplident
               AND k.indimmediate AND NOT k.generated),
       EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
               AND a.attgenerated <> '' AND NOT a.attisdropped),
       (SELECT min(x.relname) FROM keys k JOIN pg_catalog.pg_class x ON x.oid = k.indexrelid
        WHERE k.indrelid = c.oid AND k.indimmediate AND k.not_null AND NOT k.generated)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN config ON config.relid = c.oid
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND n.nspname !~ '^pg_(temp|toast_temp)_'
  AND (config.relid IS NOT NULL OR NOT EXISTS (
      SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
      AND d.objid = c.oid AND d.deptype = 'e'))
ORDER BY c.oid
"""


def read_identities(conn: Connection, *, may_publish_all: bool = False) -> list[Identity]:
    """Every table with rows. *may_publish_all*: the role need not own what it publishes."""
    version = conn.info.server_version
    return [_identity(row, version, may_publish_all) for row in _rows(conn, _IDENTITIES)]


_ANOTHERS = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
  AND n.nspname !~ '^pg_(temp|toast)' AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')
ORDER BY c.relname <> ALL ('{schema_migrations,migrations}'), c.oid LIMIT 1
"""


def publishes_what_others_own(conn: Connection) -> bool:
    """Whether the role may publish tables of other owners, found out by trying; rolled back.

    Hosted Supabase's supautils runs CREATE PUBLICATION of its privileged role as the
    superuser; no catalog says so. True also where there is no table of another owner.
    """
    row = _first(conn, _ANOTHERS)
    if row is None:
        return True
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL lock_timeout = '2s'")
            conn.execute(f"CREATE PUBLICATION aurora_may_it FOR TABLE ONLY {quoted(*row)}".encode())
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable):
        return False
    return True


def _identity(row: tuple[Any, ...], version: int, may_publish_all: bool) -> Identity:
    oid, schema, name, replica, permanent, condition, owned, owner = row[:8]
    role, primary, chosen, generated, candidate = row[8:]
    table = quoted(schema, name)
    usable = {
        "d": primary,
        "i": chosen,
        "f": not (generated and version >= 180000),
    }.get(replica, False)
    why = fix = ""
    if not permanent:
        why = "unlogged tables are not in the WAL"
        fix = f"ALTER TABLE {table} SET LOGGED;"
    elif condition:
        why = "an extension's configuration: only some of its rows are the user's"
    elif not usable:
        why = "it has no usable replica identity"
        if primary:
            fix = f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT;"
        elif candidate:
            fix = f"ALTER TABLE {table} REPLICA IDENTITY USING INDEX {quoted(candidate)};"
        elif not generated or version < 180000:
            fix = f"ALTER TABLE {table} REPLICA IDENTITY FULL;"
    may_publish = owned or may_publish_all
    if not why and not may_publish:
        why = f"it belongs to {owner}, and only its owner may publish it"
        fix = "" if owner.startswith("supabase_") else f"GRANT {quoted(owner)} TO {quoted(role)};"
    return Identity(
        oid, schema, name, replica if usable else "", may_publish, permanent and not condition,
        why, fix,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication of ours as it stands. ``members`` are oids of tables."""

    name: str
    all_tables: bool
    actions: frozenset[str]
    via_root: bool
    members: frozenset[int]
    narrowed: bool  # a row filter or a column list: they make updates fail


_PUBLICATION = """
SELECT p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
       COALESCE(array_agg(r.prrelid::bigint) FILTER (WHERE r.prrelid IS NOT NULL), '{}'),
       COALESCE(bool_or(to_jsonb(r) ->> 'prqual' IS NOT NULL
                        OR to_jsonb(r) ->> 'prattrs' IS NOT NULL), false)
FROM pg_catalog.pg_publication p
LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
WHERE p.pubname = %s GROUP BY p.oid, 1, 2, 3, 4, 5, 6
"""
_ACTIONS = ("insert", "update", "delete", "truncate")


def read_publication(conn: Connection, name: str) -> Publication | None:
    row = _first(conn, _PUBLICATION, (name,))
    if row is None:
        return None
    actions = frozenset(action for action, on in zip(_ACTIONS, row[1:5], strict=True) if on)
    return Publication(name, row[0], actions, row[5], frozenset(row[6]), row[7])


def publication_statements(
    conn: Connection, names: LogNames, identities: Sequence[Identity]
) -> list[str]:
    """What makes the two publications as they should be; nothing where they are so.

    Raises SourceChanged where somebody made one of them into what it must not be.
    """
    keyed = {one.oid: one for one in identities if one.streamed}
    unkeyed = {
        one.oid: one for one in identities if one.publishable and one.owned and one.oid not in keyed
    }
    held = {name: read_publication(conn, name) for name in names.publications}
    # Out of the first before anything else: there it makes updates fail. Into the first
    # before out of the second: no change of it is missed in between.
    found = _removals(held[names.keyed], keyed)
    found += _statements(names.keyed, held[names.keyed], keyed, _ACTIONS)
    found += _statements(names.unkeyed, held[names.unkeyed], unkeyed, ("insert", "truncate"))
    found += _removals(held[names.unkeyed], unkeyed)
    if any("table oid" in statement for statement in found):
        found = _named(conn, found)
    return found


def _statements(
    name: str, held: Publication | None, wanted: dict[int, Identity], actions: Sequence[str]
) -> list[str]:
    publish = f"publish = {literal(', '.join(actions))}, publish_via_partition_root = false"
    if held is None:
        tables = _listed(wanted.values())
        return [f"CREATE PUBLICATION {quoted(name)}{tables and ' FOR TABLE ' + tables} "
                f"WITH ({publish})"]  # fmt: skip
    if held.all_tables or held.narrowed:
        raise SourceChanged(
            f"somebody changed the publication {name}: "
            + ("it is for all tables" if held.all_tables else "it has row filters or column lists"),
            hint="Nothing was changed. Run `aurora source prepare --undo`, then `aurora source "
            "prepare`, and make a full backup.",
        )
    found: list[str] = []
    if held.actions != set(actions) or held.via_root:
        found.append(f"ALTER PUBLICATION {quoted(name)} SET ({publish})")
    if added := [one for oid, one in wanted.items() if oid not in held.members]:
        found.append(f"ALTER PUBLICATION {quoted(name)} ADD TABLE {_listed(added)}")
    return found


def _removals(held: Publication | None, wanted: Collection[int]) -> list[str]:
    if held is None:
        return []
    return [
        f"ALTER PUBLICATION {quoted(held.name)} DROP TABLE table oid {oid}"
        for oid in sorted(held.members - set(wanted))
    ]


def _named(conn: Connection, statements: Iterable[str]) -> list[str]:
    """The statements with the tables' names for their oids."""
    found: list[str] = []
    for statement in statements:
        head, mark, oid = statement.partition("table oid ")
        if mark:
            row = _first(
                conn,
                "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
                " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
                (int(oid),),
            )
            if row is None:
                continue  # dropped meanwhile, and with it its place here
            found.append(f"{head}ONLY {quoted(*row)}")
        else:
            found.append(statement)
    return found


def _listed(tables: Iterable[Identity]) -> str:
    # ONLY: every partition and child is in the list itself, with an identity of its own.
    return ", ".join(f"ONLY {quoted(one.schema, one.name)}" for one in tables)


def slot_statement(names: LogNames, version_num: int, *, failover: bool) -> str:
    """Makes the slot; with *failover* (17 and later) it can follow to a standby."""
    more = ", false, true" if failover and version_num >= 170000 else ""
    return (
        f"SELECT pg_catalog.pg_create_logical_replication_slot({literal(names.slot)}, "
        f"'pgoutput', false{more})"
    )


def drop_statements(conn: Connection, names: LogNames) -> list[str]:
    """What removes every trace: the slot first, because without publications it stands still."""
    slot = read_slot(conn, names.slot)
    found = [f"SELECT pg_catalog.pg_drop_replication_slot({literal(names.slot)})"] if slot else []
    return found + [
        f"DROP PUBLICATION {quoted(name)}"
        for name in names.publications
        if read_publication(conn, name) is not None
    ]


def published(conn: Connection, names: LogNames) -> dict[int, str]:
    """Tables in the keyed publication with a usable identity: oid -> letter."""
    held = read_publication(conn, names.keyed)
    members = held.members if held else frozenset()
    return {
        one.oid: one.letter
        for one in read_identities(conn, may_publish_all=True)
        if one.oid in members and one.streamed
    }


def wait_until_older_ended(
    conn: Connection,
    *,
    timeout: float,
    stopped: Callable[[], bool] = lambda: False,
    poll: float = 0.02,
) -> str:
    """The barrier: wait until every transaction that writes now has ended.

    What began before the slot, or before a table was published, may commit after it and is
    then not in the log; a snapshot taken after the barrier holds it. *conn* is autocommit.

    Returns:
        "" once the barrier is passed; after *timeout* seconds, who is in its way.
    """
    own = int(transaction_id(conn))
    end = time.monotonic() + timeout
    while True:
        row = _first(
            conn,
            "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint",
        )
        if row and row[0] > own:
            return ""
        if time.monotonic() >= end or stopped():
            return _who_is_older(conn) or "a transaction that this role may not see"
        time.sleep(poll)
        poll = min(poll * 1.5, 1.0)


def _who_is_older(conn: Connection) -> str:
    found = [
        f"process {pid} of {user} (since {since})"
        for pid, user, since in _rows(
            conn,
            "SELECT pid, COALESCE(usename, '?'), date_trunc('second', xact_start)::text"
            " FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL"
            " AND pid <> pg_catalog.pg_backend_pid() ORDER BY age(backend_xid) DESC LIMIT 3",
        )
    ]
    found += [
        f"the prepared transaction {gid}"
        for (gid,) in _rows(
            conn, "SELECT gid FROM pg_catalog.pg_prepared_xacts ORDER BY prepared LIMIT 3"
        )
    ]
    return ", ".join(found)


def flush_position(conn: Connection) -> tuple[int, Any]:
    """How far the source's log is durable, and its clock just before that was read."""
    row = _first(
        conn,
        "SELECT t.at, pg_catalog.pg_current_wal_flush_lsn()::text"
        " FROM (SELECT pg_catalog.clock_timestamp() AS at OFFSET 0) t",
    )
    assert row is not None
    return parse_lsn(row[1]), row[0]


def emit_mark(conn: Connection, text: str) -> tuple[int, int, datetime]:
    """Write *text* into the log in a transaction of its own, and make the log durable with it.

    It also makes durable what committed without waiting (synchronous_commit = off) before.

    Returns:
        The transaction's xid (32 bits), where the message lies, and the source's clock.
    """
    with conn.transaction():
        conn.execute("SET LOCAL transaction_read_only = off")
        conn.execute("SET LOCAL synchronous_commit = local")
        row = _first(
            conn,
            "SELECT pg_catalog.pg_logical_emit_message(true, %s, %s)::text,"
            " pg_catalog.pg_current_xact_id()::text::bigint & 4294967295,"
            " pg_catalog.clock_timestamp()",
            (PREFIX, text),
        )
    assert row is not None
    return int(row[1]), parse_lsn(row[0]), row[2]


def advance_slot(conn: Connection, name: str, lsn: int) -> None:
    """Acknowledge by an ordinary session; slower than the receiver's own way."""
    conn.execute(
        "SELECT pg_catalog.pg_replication_slot_advance(%s, %s::pg_lsn)",
        (name, f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"),
    )


def drop_slot(conn: Connection, name: str) -> None:
    """Give the slot up: the server may remove what it kept."""
    conn.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", (name,))


def run_statements(conn: Connection, statements: Iterable[str]) -> None:
    """Run *statements*; those on publications all or none, a slot's alone."""
    waiting: list[str] = []

    def run_waiting() -> None:
        if waiting:
            with conn.transaction():
                conn.execute("SET LOCAL transaction_read_only = off")
                conn.execute("SET LOCAL lock_timeout = '10s'")
                for one in waiting:
                    conn.execute(one.encode())
            waiting.clear()

    for statement in statements:
        if statement.startswith("SELECT"):
            run_waiting()
            conn.execute(statement.encode())
        else:
            waiting.append(statement)
    run_waiting()


def wait_until_free(conn: Connection, name: str, *, timeout: float) -> int:
    """Wait until nobody reads the slot; the process that still does after *timeout*, or 0."""
    end = time.monotonic() + timeout
    while True:
        state = read_slot(conn, name)
        if state is None or not state.active_pid:
            return 0
        if time.monotonic() >= end:
            return state.active_pid
        time.sleep(0.1)


def _first(conn: Connection, query: str, values: Sequence[object] = ()) -> tuple[Any, ...] | None:
    cursor: psycopg.Cursor[tuple[object, ...]] = conn.execute(query.encode(), values)
    return cast("tuple[Any, ...] | None", cursor.fetchone())


def _rows(conn: Connection, query: str) -> list[tuple[Any, ...]]:
    return cast("list[tuple[Any, ...]]", conn.execute(query.encode()).fetchall())
