"""`aurora stream`: the change log, stored as it is written.

A supervisor holds a connection to the source and the stream's lock, and runs one session
after the other: where the repository says that the log ends, there the next begins. A
session that fails for want of the source or the storage is begun again; the source keeps
its WAL meanwhile, up to the limit at which the slot is given up.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from aurora import clock
from aurora.engines.base import LogPart
from aurora.engines.logical import slot as slots
from aurora.engines.logical.names import Connection
from aurora.engines.logical.pgoutput import format_lsn
from aurora.engines.logical.receiver import LogSession, SlotBusy, SlotGone
from aurora.engines.logical.segments import CUT_BYTES
from aurora.engines.logical.slot import LogNames
from aurora.errors import (
    AuroraError,
    Incomplete,
    IntegrityError,
    RepositoryLocked,
    SourceError,
    StorageError,
)
from aurora.events import EventSink, Noted, Warned, discard
from aurora.operations.log_state import (
    LogSource,
    Place,
    break_in,
    look_at_log,
    newest_place,
    schema_break,
    slot_break,
)
from aurora.operations.slot_health import DEFAULT_LIMIT, Danger, SlotHealth
from aurora.operations.source import plan_prepare, run_prepare
from aurora.operations.stream_fulls import Fulls, MakeFull
from aurora.operations.stream_keeper import Figures, Keeper, KeeperOptions, Schema
from aurora.operations.stream_lock import StreamRunning, lock_stream
from aurora.operations.stream_session import SessionFollower
from aurora.operations.stream_watch import Marks, Source, Watch
from aurora.postgres.server import inspect_server, open_control, require_usable
from aurora.repository.door import Repository
from aurora.units import format_size, plural

_LOCK_PATIENCE = 5.0
_LOCK_PATIENCE_AGAIN = 60.0
_FREE_SECONDS = 60.0
_STALL_SECONDS = 300.0
_FINISH_SECONDS = 30.0
_BARRIER_SECONDS = 60.0
_ALERT_SECONDS = 900.0  # between two warnings of the same trouble
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How to stream. Times in seconds, sizes in bytes."""

    database: str  # its label in the repository
    level: int = 1  # zstd
    skip: tuple[str, ...] = ()
    interval: float = 10.0  # a change waits at most this long for its segment to be closed
    segment_bytes: int = CUT_BYTES
    heartbeat: float = 60.0
    idle: float = 300.0  # between two stored positions while nothing changes
    max_wal: int = DEFAULT_LIMIT  # what the slot may keep on the source
    new_slot: bool = True  # make a slot that was lost anew, and a full with it
    settle: float = 20.0  # a schema that changes is left in peace this long before the full
    status: float = 1.0  # between two looks that are shown
    gather_pieces: int = 64
    gather_seconds: float = 900.0
    observe: Callable[[bytes], None] = lambda _: None  # sees every segment before it is stored


@dataclass(slots=True)
class StreamState:
    """Where a stream stands. Written by its threads, read by whoever shows it."""

    state: str = "starting"  # streaming, source-down, storage-down, slot-lost, stopped
    rpo_seconds: float | None = None  # changes younger than this may be lost; None: not known
    received_lsn: int = 0
    durable_lsn: int = 0
    safe_at: str = ""  # the source's clock: everything committed before is kept
    pieces: int = 0
    transactions: int = 0
    log_bytes: int = 0
    stored_bytes: int = 0
    held_bytes: int | None = None  # of WAL on the source
    limit_bytes: int | None = None
    danger: str = "none"
    full: str = ""  # why a full is being made, "" where none is
    trouble: str = ""  # what is wrong now, "" where nothing is

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        found = asdict(self)
        found["received_lsn"] = format_lsn(self.received_lsn)
        found["durable_lsn"] = format_lsn(self.durable_lsn)
        if self.rpo_seconds is not None:
            found["rpo_seconds"] = round(self.rpo_seconds, 1)
        return found


class _GiveUpSlot(Exception):
    """The slot endangers the source; the text says how. Never leaves this module."""


def stream(
    dsn: str,
    open_repository: Callable[[], Repository],
    options: StreamOptions,
    *,
    make_full: MakeFull,
    stop: threading.Event,
    on_status: Callable[[StreamState], None] = lambda _: None,
    sink: EventSink,
) -> StreamState:
    """Store the change log until *stop* is set.

    Args:
        make_full: makes a full backup, with its place in the log; called from a thread.
        on_status: gets the state about once a second.

    Returns:
        The state at the end.

    Raises:
        StreamRunning: another stream reads this source.
        SourceError, StorageError, RepositoryError: it could not begin, or can never go on.
    """
    return _Supervisor(dsn, open_repository, options, make_full, stop, on_status, sink).run()


@dataclass(slots=True)
class _Supervisor:
    dsn: str = field(repr=False)
    open_repository: Callable[[], Repository]
    options: StreamOptions
    make_full: MakeFull
    stop: threading.Event
    on_status: Callable[[StreamState], None]
    sink: EventSink
    state: StreamState = field(default_factory=StreamState)
    figures: Figures = field(default_factory=Figures)
    marks: Marks = field(default_factory=Marks)
    _names: LogNames = field(init=False)
    _fulls: Fulls = field(init=False)
    _repository: Repository | None = None
    _begun: bool = False  # it has streamed: from now on trouble is waited out
    _pause: float = _FIRST_PAUSE
    _told: float = 0.0  # when the state was last shown
    _alerted: dict[str, float] = field(default_factory=dict)
    _stalled: int = 0  # drains that did not move the slot on
    _stall_began: tuple[int, float] = (0, 0.0)
    _give_up: str = ""

    def __post_init__(self) -> None:
        self._names = LogNames.of(self.options.database)
        self._fulls = Fulls(self.make_full, self.options.settle, self.sink)

    def run(self) -> StreamState:
        try:
            while not self.stop.is_set():
                try:
                    with open_control(self.dsn) as conn:
                        patience = _LOCK_PATIENCE_AGAIN if self._begun else _LOCK_PATIENCE
                        lock_stream(conn, self._names, patience=patience)
                        self._with_source(conn)
                except (StreamRunning, SourceError) as error:
                    # A connection that was cut may hold the lock until the server notices.
                    if not self._begun or isinstance(error, SlotGone):
                        raise
                    self._trouble("source-down", error)
                    self._wait()
        finally:
            self._fulls.stop()
            self.state.state = "stopped"
            self._show(now=True)
        return self.state

    def _with_source(self, conn: Connection) -> None:
        """Run sessions as long as the source answers. Raises SourceError."""
        source = Source(conn, self._names)
        while not self.stop.is_set():
            try:
                self._session(source)
            except (StorageError, RepositoryLocked, IntegrityError) as error:
                if not self._begun:
                    raise
                self._trouble("storage-down", error)
                self._wait(source)
            except SlotGone as error:
                self._renew(source, error.message)
            except _GiveUpSlot as why:
                self._drop(source, str(why))

    # -- one session ----------------------------------------------------------------------

    def _session(self, source: Source) -> None:
        if self._repository is None:
            self._repository = self.open_repository()
        repository = self._repository
        source.ask("looking at the source", lambda conn: require_usable(inspect_server(conn)))
        now = source.ask(
            "looking at the change log", lambda conn: look_at_log(conn, self.dsn, self._names)
        )
        place = newest_place(repository, self.options.database, self.sink)
        if broken := slot_break(now.slot, self._names, now.system.database):
            raise SlotGone(broken)
        begin, why = _where(place, now, self._names)
        schema = source.schema()
        self._fulls.know(place.log.fingerprint if place and not why else "")
        if why:
            self._fulls.want(why, at_once=True)
        self.marks.begin()
        keeper = Keeper(
            repository,
            KeeperOptions(
                self.options.database,
                self.options.level,
                self.options.gather_pieces,
                self.options.gather_seconds,
                self.options.observe,
            ),
            begin,
            lambda: self._look(source, schema),
            self.figures,
        )
        watch = Watch(
            source,
            self.marks,
            self.options.heartbeat,
            self._judge,
            lambda: source.health(user_limit=self.options.max_wal, stalled_drains=self._stalled),
            self._fulls.see,
            self.sink,
        )
        try:
            self._follow(source, keeper, watch, begin)
        except BaseException:
            keeper.abandon()
            raise
        finally:
            watch.stop()

    def _follow(self, source: Source, keeper: Keeper, watch: Watch, begin: LogPart) -> None:
        options = self.options
        self._fulls.on_made = keeper.set_base
        source.ask(
            "waiting for the slot",
            lambda conn: slots.wait_until_free(conn, self._names.slot, timeout=_FREE_SECONDS),
        )
        with self._started(begin.to_lsn) as session:
            slot = source.ask("looking at the slot", lambda c: slots.read_slot(c, self._names.slot))
            if slot is None or slot.confirmed_lsn > begin.to_lsn:
                keeper.abandon()
                return  # somebody read it since the place was found: look again
            watch.start()
            follower = SessionFollower(
                keeper, watch, self.marks, self._is_over, self._tell, options.interval,
                options.idle, options.segment_bytes,
            )  # fmt: skip
            where = format_lsn(begin.to_lsn)
            self.sink(Noted(f"streaming from the slot {self._names.slot}, at {where}"))
            try:
                session.follow(follower)
            except SourceError:
                # The source may be gone for good: what has come whole is kept all the same.
                follower.finish(session.received)
                self._finish(keeper)
                raise
            follower.finish(session.received)
            if self._finish(keeper):
                session.confirm(keeper.durable)
            self._tell(session.received, keeper.durable)
        if self._give_up:
            raise _GiveUpSlot(self._give_up)

    def _started(self, at: int) -> LogSession:
        end = time.monotonic() + _FREE_SECONDS
        while True:
            session = LogSession(self.dsn)
            try:
                session.start(self._names.slot, self._names.publications, at)
                return session
            except SlotBusy:
                session.close()
                if time.monotonic() > end or self.stop.is_set():
                    raise
                time.sleep(0.2)
            except BaseException:
                session.close()
                raise

    def _finish(self, keeper: Keeper) -> bool:
        if keeper.finish(within=_FINISH_SECONDS):
            return True
        self.sink(
            Warned(
                "stream-not-stored",
                "the last changes could not be stored in time",
                "The source keeps them: the next stream or incremental reads them again.",
            )
        )
        return False

    def _look(self, source: Source, before: Schema) -> Schema:
        """The schema as a piece is committed; nothing where the source cannot be asked."""
        try:
            found = source.schema()
        except SourceError:
            return Schema(keyed=before.keyed)
        self._fulls.see(found.fingerprint)
        return found

    def _is_over(self) -> bool:
        return self.stop.is_set() or bool(self._give_up)

    # -- what is told ---------------------------------------------------------------------

    def _tell(self, received: int, kept: int) -> None:
        """Called by the receiver, often."""
        self.marks.cover(kept)
        self.state.received_lsn, self.state.durable_lsn = received, kept
        now = time.monotonic()
        if now - self._told < self.options.status:
            return
        if self.state.state != "streaming":
            if self.state.trouble:
                self.sink(Noted("streaming again"))
            self.state.state, self.state.trouble = "streaming", ""
            self._alerted.clear()
        self._begun, self._pause = True, _FIRST_PAUSE
        self._fulls.tick()
        self._show()

    def _show(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._told < self.options.status:
            return
        self._told = time.monotonic()
        state, figures = self.state, self.figures
        safe = self.marks.safe
        if safe is not None:
            state.safe_at, state.rpo_seconds = clock.isoformat(safe[0]), safe[1]
        state.pieces, state.transactions = figures.pieces, figures.transactions
        state.log_bytes, state.stored_bytes = figures.log_bytes, figures.stored_bytes
        state.full = self._fulls.making
        self.on_status(state)

    def _trouble(self, what: str, error: AuroraError) -> None:
        self.state.state, self.state.trouble = what, error.message
        self._show(now=True)
        now = time.monotonic()
        if now - self._alerted.get(what, -_ALERT_SECONDS) < _ALERT_SECONDS:
            return
        self._alerted[what] = now
        self.sink(
            Warned(
                f"stream-{what}",
                f"the stream stands still: {error.message}",
                "It goes on by itself. Until then the source keeps its WAL, "
                f"{format_size(self.options.max_wal)} at most; then the slot is given up.",
            )
        )

    def _wait(self, source: Source | None = None) -> None:
        """Pause before another try; look after the slot meanwhile. Raises SourceError."""
        end = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        while time.monotonic() < end and not self.stop.wait(min(1.0, self._pause)):
            self._show()
            if source is not None:
                self._judge(source.health(
                    user_limit=self.options.max_wal, stalled_drains=self._stalled
                ))  # fmt: skip
                if self._give_up:
                    self._drop(source, self._give_up)
                    return

    # -- the slot ---------------------------------------------------------------------------

    def _judge(self, health: SlotHealth | None) -> None:
        """Warn of a slot that grows; give it up before it harms the source."""
        state = self.state
        if health is None:
            return  # the walsender says so itself
        state.held_bytes, state.limit_bytes = health.held, health.limit
        state.danger = health.danger.name.lower()
        self._count_stalls(health)
        if health.danger is Danger.DROP:
            self._give_up = "; ".join(health.reasons)
        elif health.danger in (Danger.WARN, Danger.DRAIN):
            now = time.monotonic()
            if now - self._alerted.get("slot", -_ALERT_SECONDS) >= _ALERT_SECONDS:
                self._alerted["slot"] = now
                self.sink(
                    Warned(
                        "slot-grows",
                        f"the slot {self._names.slot} keeps WAL: {'; '.join(health.reasons)}",
                        "At 80 % of what it may keep it is dropped, and a full begins a new log.",
                    )
                )

    def _count_stalls(self, health: SlotHealth) -> None:
        """A time in which a slot that should be drained did not move is a drain that failed."""
        durable, began = self._stall_began
        if health.danger < Danger.DRAIN or self.state.durable_lsn > durable or not began:
            self._stalled, self._stall_began = 0, (self.state.durable_lsn, time.monotonic())
        elif time.monotonic() - began >= _STALL_SECONDS:
            self._stalled += 1
            self._stall_began = (durable, time.monotonic())

    def _drop(self, source: Source, why: str) -> None:
        self._give_up = ""
        self._stalled, self._stall_began = 0, (0, 0.0)

        def drop(conn: Connection) -> None:
            slots.wait_until_free(conn, self._names.slot, timeout=_FREE_SECONDS)
            slots.drop_slot(conn, self._names.slot)

        source.ask("giving up the slot", drop)
        self.state.state = "slot-lost"
        self.sink(
            Warned(
                "slot-dropped",
                f"the slot {self._names.slot} was dropped before it could harm the source: {why}",
                "The log ends at the last commit that is stored"
                + (f", {self.state.safe_at}" if self.state.safe_at else "")
                + ". A new slot and a full begin a new one.",
            )
        )

    def _renew(self, source: Source, why: str) -> None:
        """Make the slot anew, where the settings allow it and the storage answers."""
        if not self.options.new_slot or (not self._begun and self._never_kept()):
            raise SlotGone(
                why, hint="Run `aurora source prepare`; the stream then begins with a full."
            )
        self.state.state, self.state.trouble = "slot-lost", why
        self._show(now=True)
        self.sink(Warned("slot-lost", why, "A new slot is made, and a full begins a new log."))
        assert self._repository is not None
        try:
            self._repository.backups(self.options.database)  # no slot while nothing can be kept
        except StorageError as error:
            self._trouble("storage-down", error)
            self._wait(source)
            return
        plan = plan_prepare(self.dsn, self.options.database, skip=self.options.skip)
        with contextlib.suppress(Incomplete):  # the full waits for older transactions too
            run_prepare(plan, sink=discard, timeout=_BARRIER_SECONDS)

    def _never_kept(self) -> bool:
        repository = self._repository
        return (
            repository is None or newest_place(repository, self.options.database, self.sink) is None
        )


def _where(place: Place | None, now: LogSource, names: LogNames) -> tuple[LogPart, str]:
    """Where the stream begins, and why a full is needed; "" where none is."""
    assert now.slot is not None
    begin = LogPart(
        slot=names.slot,
        system_identifier=now.system.identifier,
        timeline=now.system.timeline,
        database_oid=now.database_oid,
        base=place.log.base if place else "",
        parent=place.id if place else "none",
        from_lsn=now.slot.confirmed_lsn,
        to_lsn=now.slot.confirmed_lsn,
        to_at="",
    )
    if place is None:
        return begin, "there is no full yet with a place in the log"
    if why := break_in(place, now):
        return begin, why
    newest = place.pieces[-1].log if place.pieces else place.log
    begin = _on_from(begin, newest)
    return begin, schema_break(place, now)


def _on_from(begin: LogPart, newest: LogPart) -> LogPart:
    return msgspec.structs.replace(
        begin,
        from_lsn=newest.to_lsn,
        to_lsn=newest.to_lsn,
        to_at=newest.to_at,
        fingerprint=newest.fingerprint,
        keyed=newest.keyed,
    )


def described(state: StreamState) -> str:
    """One line for people."""
    rpo = "not known yet" if state.rpo_seconds is None else f"{state.rpo_seconds:.0f} s"
    parts = [f"RPO {rpo}", plural(state.transactions, "transaction"),
             f"{format_size(state.log_bytes)} of log"]  # fmt: skip
    if state.held_bytes is not None and state.limit_bytes:
        parts.append(f"slot {100 * state.held_bytes / state.limit_bytes:.0f} %")
    if state.full:
        parts.append("making a full")
    if state.trouble:
        parts.append(f"{state.state}: {state.trouble}")
    return ", ".join(parts)
