"""Where backups stand in a change log: the newest place in a repository, and a new one.

A log holds together as long as the same slot of the same database of the same server on
the same timeline was read by nobody else, and as the schema stayed. :func:`break_in` says
in words what is not so; then a full begins anew.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from aurora import clock
from aurora.engines.base import LogPart
from aurora.engines.logical import slot as slots
from aurora.engines.logical.ddl import markers_of
from aurora.engines.logical.fingerprint import fingerprint
from aurora.engines.logical.names import Connection, shown
from aurora.engines.logical.peek import open_log
from aurora.engines.logical.pgoutput import format_lsn
from aurora.engines.logical.receiver import SlotBusy, System
from aurora.engines.logical.slot import LogNames, SlotState
from aurora.engines.logical.snapshot import HeldSnapshot
from aurora.errors import AuroraError
from aurora.events import EventSink, Noted, Warned
from aurora.operations.content import Backup
from aurora.operations.log_chain import Logged, follow, listed, opened, pieces_after
from aurora.operations.source import wanted_tables
from aurora.postgres.errors import translated
from aurora.postgres.server import inspect_server, open_control
from aurora.repository.catalog import BackupEntry
from aurora.repository.door import Repository
from aurora.repository.ids import STREAM
from aurora.units import format_duration

INCREMENTAL = "incremental"
_BARRIER_SECONDS = 60.0
_LOOKED_AT = 30  # backups, newest first
_RELEASE_BYTES = 1 << 30
_FREE_SECONDS = 20.0  # a killed run's walsender ends by itself


@dataclass(frozen=True, slots=True)
class LogSource:
    """The source's side of the log at one look."""

    slot: SlotState | None
    system: System
    database_oid: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Place:
    """A backup with its place in the log."""

    backup: Backup
    log: LogPart
    pieces: tuple[Logged, ...] = ()  # that a stream stored since, without a gap
    stale: tuple[Logged, ...] = ()  # other pieces, that say nothing more

    @property
    def to_lsn(self) -> int:
        """How far the log is kept."""
        return self.pieces[-1].log.to_lsn if self.pieces else self.log.to_lsn

    @property
    def to_at(self) -> str:
        """The source's clock at that position."""
        return self.pieces[-1].log.to_at if self.pieces else self.log.to_at

    @property
    def id(self) -> str:
        """Of the newest backup or piece."""
        return self.pieces[-1].id if self.pieces else self.backup.entry.id


def newest_place(repository: Repository, database: str, sink: EventSink) -> Place | None:
    """The newest backup of *database* that has a place in a log, or None.

    With the pieces that a stream stored after it.
    """
    return listed(repository, database, lambda entries: _newest_among(entries, repository, sink))


def _newest_among(
    entries: Sequence[BackupEntry], repository: Repository, sink: EventSink
) -> Place | None:
    whole = [one for one in entries if one.type != STREAM]
    for entry in reversed(whole[-_LOOKED_AT:]):
        backup = opened(repository, entry, sink)
        if backup is not None and backup.body.log is not None:
            log = backup.body.log
            newer = pieces_after(repository, entries, log, log.to_lsn, sink)
            pieces = follow(log, log.to_lsn, newer)
            reached = pieces[-1].log.to_lsn if pieces else log.to_lsn
            inside = [one for one in newer if one not in pieces and one.log.to_lsn <= reached]
            stale = [one for one in inside if one.log.from_lsn >= log.to_lsn]
            return Place(backup, log, tuple(pieces), tuple(stale))
    return None


def kept_up_to(
    repository: Repository, database: str, log: LogPart, position: int, sink: EventSink
) -> int:
    """How far the log of *log*'s slot is kept without a gap from *position* on."""
    newer = listed(
        repository, database,
        lambda entries: pieces_after(repository, entries, log, position, sink),
    )  # fmt: skip
    pieces = follow(log, position, newer)
    return pieces[-1].log.to_lsn if pieces else position


def look_at_log(conn: Connection, dsn: str, names: LogNames) -> LogSource:
    """How slot, server and schema stand now. Raises SourceError."""
    with translated("source", doing="looking at the change log"):
        found = slots.read_slot(conn, names.slot)
        row = conn.execute(
            "SELECT oid::bigint FROM pg_catalog.pg_database"
            " WHERE datname = pg_catalog.current_database()"
        ).fetchone()
        prints = fingerprint(conn, names.publications)
    with open_log(dsn) as session:
        system = session.system
    return LogSource(found, system, int(str(row[0])) if row else 0, prints)


def slot_break(slot: SlotState | None, names: LogNames, database: str) -> str:
    """Why no log can come from this slot; "" where one can."""
    if slot is None:
        return f"the slot {names.slot} is not on the source; `aurora source prepare` makes it"
    if slot.database != database:
        return (
            f"the slot {slot.name} belongs to the database {slot.database}; "
            "`aurora source prepare` tells what to do"
        )
    if slot.is_lost:
        why = slot.invalid or "it held more WAL than max_slot_wal_keep_size allows"
        return f"the server has given up the slot {slot.name} ({why}); run `aurora source prepare`"
    return ""


def break_in(place: Place, now: LogSource) -> str:
    """Why the log does not go on after *place*; "" where it does.

    Look at the source first: a stream that runs may acknowledge more at any time.
    """
    assert now.slot is not None
    log = place.log
    if log.slot != now.slot.name:
        return f"the newest backup is of another slot, {log.slot}"
    if "" not in (log.system_identifier, now.system.identifier) and (
        log.system_identifier != now.system.identifier
    ):
        return "the source is another server than the newest backup's"
    if log.timeline != now.system.timeline:
        return (
            f"the source changed from timeline {log.timeline} to {now.system.timeline}: "
            "a failover or a restore"
        )
    if log.database_oid != now.database_oid:
        return "the database was made anew since the newest backup"
    if now.slot.confirmed_lsn > place.to_lsn:
        return (
            f"somebody else has read the slot {log.slot}, up to "
            f"{format_lsn(now.slot.confirmed_lsn)}; what is kept ends at "
            f"{format_lsn(place.to_lsn)}"
        )
    return ""


def schema_break(place: Place, now: LogSource) -> str:
    """Whether the schema changed since the backup of *place*, in words."""
    seen = {piece.log.fingerprint for piece in place.pieces if piece.log.fingerprint}
    if {now.fingerprint, *seen} == {place.log.fingerprint}:
        return ""
    return "the schema, or what is published, changed since the newest backup"


@dataclass(slots=True)
class Anchor:
    """A full backup's place in the log, found before its snapshot and settled after it."""

    dsn: str = field(repr=False)
    repository: Repository
    database: str
    names: LogNames
    now: LogSource
    lsn: int
    at: str
    _fingerprint: str = ""
    _markers: str = ""
    _keyed: dict[str, str] = field(default_factory=dict)
    _unkeyed: tuple[int, ...] = ()

    def see(self, held: HeldSnapshot) -> None:
        """Look at schema and identities under the snapshot."""
        with translated("source", doing="looking at the change log"):
            self._fingerprint = fingerprint(held.connection, self.names.publications)
            self._markers = markers_of(held.connection, self.names)
            published = slots.published(held.connection, self.names)
        rows = [table.oid for table in held.tables if table.has_rows]
        self._keyed = {str(oid): published[oid] for oid in rows if oid in published}
        self._unkeyed = tuple(oid for oid in rows if oid not in published)

    def settle(self, backup_id: str, sink: EventSink) -> LogPart | None:
        """Mark the backup in the log; its place there. None, with a warning, if it has none."""
        try:
            with open_control(self.dsn) as conn, translated("source", doing="marking the log"):
                slot = slots.read_slot(conn, self.names.slot)
                slots.emit_mark(conn, f"full {backup_id}")
        except AuroraError as error:
            _warn_unanchored(error.message, sink)
            return None
        log = self._part(backup_id)
        if slot is None or slot.is_lost or slot.confirmed_lsn > self._kept(slot, log, sink):
            _warn_unanchored("the slot was lost or read by others meanwhile", sink)
            return None
        return log

    def _kept(self, slot: SlotState, log: LogPart, sink: EventSink) -> int:
        """How far the log is kept from this place on: a stream may have gone on meanwhile."""
        if slot.confirmed_lsn <= self.lsn:
            return self.lsn
        return kept_up_to(self.repository, self.database, log, self.lsn, sink)

    def _part(self, backup_id: str) -> LogPart:
        return LogPart(
            slot=self.names.slot,
            system_identifier=self.now.system.identifier,
            timeline=self.now.system.timeline,
            database_oid=self.now.database_oid,
            base=backup_id,
            parent="",
            from_lsn=self.lsn,
            to_lsn=self.lsn,
            to_at=self.at,
            fingerprint=self._fingerprint,
            markers=self._markers,
            keyed=self._keyed,
            unkeyed=self._unkeyed,
        )


def open_anchor(
    dsn: str,
    repository: Repository,
    database: str,
    *,
    skip: Collection[str],
    sink: EventSink,
    barrier_seconds: float = _BARRIER_SECONDS,
) -> Anchor | None:
    """Where a full that begins now will stand; None where the source has no log.

    Publishes new tables, and waits for transactions that are older than the slot or than a
    table's publication: they may commit after the snapshot and are not in the log. What
    goes wrong is warned of: the full is made all the same, without a place in the log.

    Raises SourceError: no connection to the source, and so no full either.
    """
    with open_control(dsn) as conn:
        try:
            return _open_anchor(conn, dsn, repository, database, skip, sink, barrier_seconds)
        except AuroraError as error:
            _warn_unanchored(error.message, sink)
            return None


def _open_anchor(
    conn: Connection,
    dsn: str,
    repository: Repository,
    database: str,
    skip: Collection[str],
    sink: EventSink,
    barrier_seconds: float,
) -> Anchor | None:
    names = LogNames.of(database)
    with translated("source", doing="looking at the change log"):
        slot = slots.read_slot(conn, names.slot)
        facts = inspect_server(conn)
    if slot is None:
        return None
    if broken := slot_break(slot, names, facts.database):
        _warn_unanchored(broken, sink)
        return None
    with translated("source", doing="publishing new tables"):
        tables = wanted_tables(conn, facts, skip)
        statements = slots.publication_statements(conn, names, tables)
        slots.run_statements(conn, statements)
    if statements:
        sink(Noted(f"the publications follow the schema: {'; '.join(statements)}"[:500]))
    now = look_at_log(conn, dsn, names)
    assert now.slot is not None
    place = newest_place(repository, database, sink)
    goes_on = place is not None and not break_in(place, now)
    if place is None or not goes_on or schema_break(place, now):
        with translated("source", doing="waiting for older transactions"):
            in_the_way = slots.wait_until_older_ended(conn, timeout=barrier_seconds)
        if in_the_way:
            _warn_unanchored(
                f"after {format_duration(barrier_seconds)} a transaction from before is "
                f"still open: {in_the_way}",
                sink,
            )
            return None
    if goes_on and place is not None:
        # Also where an acknowledgement was lost: nothing is read twice.
        return Anchor(dsn, repository, database, names, now, place.to_lsn, place.to_at)
    with translated("source", doing="looking at the change log"):
        _, at = slots.flush_position(conn)
    lsn = now.slot.confirmed_lsn
    return Anchor(dsn, repository, database, names, now, lsn, clock.isoformat(at))


def _warn_unanchored(why: str, sink: EventSink) -> None:
    sink(
        Warned(
            "log-not-anchored",
            f"this full has no place in the change log: {why}",
            "What it holds does not depend on that. Incrementals begin after the next full that "
            "has a place.",
        )
    )


def tables_read_again(place: Place) -> frozenset[tuple[str, str]]:
    """The tables whose changes the log does not carry: (schema, name)."""
    return frozenset(
        (table.schema, table.name)
        for table in place.backup.snapshot.tables
        if table.has_rows and str(table.oid) not in place.log.keyed
    )


def left_out(place: Place, skip: Collection[str]) -> str:
    """Whether other tables are left out than in the backup leaned on, in words."""
    skipped = set(place.backup.snapshot.skipped)
    tables = {shown(t.schema, t.name): t for t in place.backup.snapshot.tables}
    new = [
        name
        for name, table in tables.items()
        if name in skip or f"{table.schema}.{table.name}" in skip
    ]
    if new:
        return f"{', '.join(sorted(new))} is left out from now on"
    if skipped and not skip:
        return f"{', '.join(sorted(skipped))} is no longer left out"
    return ""


def acknowledge(dsn: str, names: LogNames, lsn: int) -> None:
    """Tell the source that its log up to *lsn* is kept. Raises SourceError.

    By a status message, which takes no decoding; by an ordinary session where that does not
    come through. An acknowledgement that is lost does no harm: the log is offered again.
    """
    with open_control(dsn) as conn:
        with translated("source", doing="acknowledging the change log"):
            slots.wait_until_free(conn, names.slot, timeout=_FREE_SECONDS)
        try:
            with open_log(dsn) as session:
                session.start(names.slot, names.publications, lsn)
                session.confirm(lsn)
                done = _confirmed(conn, names, lsn)
            if done:
                _release(conn, names, lsn)
                return
        except SlotBusy:
            pass
        with translated("source", doing="acknowledging the change log"):
            slots.wait_until_free(conn, names.slot, timeout=_FREE_SECONDS)
            if not _confirmed(conn, names, lsn, tries=1):
                slots.advance_slot(conn, names.slot, lsn)


def _release(conn: Connection, names: LogNames, lsn: int) -> None:
    """Let the server remove WAL: it knows only when it next reads its log how much it may.

    It costs the server a look through what it holds, so it is done only where that is much.
    """
    with translated("source", doing="releasing WAL"):
        slot = slots.read_slot(conn, names.slot)
        if slot is None or slot.held_bytes - slot.lag_bytes < _RELEASE_BYTES:
            return
        slots.wait_until_free(conn, names.slot, timeout=_FREE_SECONDS)
        slots.advance_slot(conn, names.slot, lsn)


def _confirmed(conn: Connection, names: LogNames, lsn: int, *, tries: int = 50) -> bool:
    for _ in range(tries):
        with translated("source", doing="acknowledging the change log"):
            slot = slots.read_slot(conn, names.slot)
        if slot is None or slot.confirmed_lsn >= lsn:
            return True
        time.sleep(0.02)
    return False
