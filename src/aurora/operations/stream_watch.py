"""What a stream asks of its source beside the log: its clock, its schema, its slot's health."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from aurora import clock
from aurora.engines.logical import slot as slots
from aurora.engines.logical.catalog import read_sequences
from aurora.engines.logical.ddl import markers_of
from aurora.engines.logical.fingerprint import fingerprint
from aurora.engines.logical.names import Connection
from aurora.engines.logical.receiver import HEARTBEAT
from aurora.engines.logical.slot import LogNames
from aurora.errors import SourcePrivilege
from aurora.events import EventSink, Warned
from aurora.operations.slot_health import SlotHealth, read_slot_facts, slot_health
from aurora.operations.stream_keeper import Schema
from aurora.postgres.errors import translated

MARK_SECONDS = 1.0
HEALTH_SECONDS = 5.0
SCHEMA_SECONDS = 15.0
STUCK_SECONDS = 3.0  # that a moment may wait before the source is made to write a little

_MUTE = (
    "GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) to it. Until then the "
    "slot of an idle database holds WAL back for longer, and an incremental cannot ask the stream."
)

T = TypeVar("T")


@dataclass(slots=True)
class Marks:
    """Moments of the source: its clock, and how far its log was durable right after."""

    _held: deque[tuple[int, datetime, float]] = field(default_factory=deque)
    _safe: tuple[int, datetime, float] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Forget what waits: positions of another server mean something else."""
        with self._lock:
            self._held.clear()

    def add(self, lsn: int, at: datetime, asked: float) -> None:
        """*asked* is ``time.monotonic()`` just before the source was asked."""
        with self._lock:
            if self._held and self._held[-1][0] == lsn:
                self._held.pop()  # the same position, proven at a later moment
            self._held.append((lsn, at, asked))

    def at(self, position: int) -> str:
        """The source's clock when no more than *position* was there; "" if not known."""
        with self._lock:
            found = [at for lsn, at, _ in self._held if lsn <= position]
            known = found[-1] if found else (self._safe[1] if self._safe else None)
        return clock.isoformat(known) if known else ""

    def cover(self, position: int) -> None:
        """Everything up to *position* is safe."""
        with self._lock:
            while self._held and self._held[0][0] <= position:
                self._safe = self._held.popleft()

    @property
    def safe(self) -> tuple[datetime, float] | None:
        """The newest moment that is covered, and how many seconds ago it was."""
        with self._lock:
            return (self._safe[1], time.monotonic() - self._safe[2]) if self._safe else None


class Source:
    """The control connection of a stream, for one thread at a time."""

    def __init__(self, conn: Connection, names: LogNames) -> None:
        self.names = names
        self._conn = conn
        self._lock = threading.Lock()

    def ask(self, doing: str, question: Callable[[Connection], T]) -> T:
        """Raises SourceError."""
        with self._lock, translated("source", doing=doing):
            return question(self._conn)

    def schema(self) -> Schema:
        """Fingerprint, streamed tables and sequences now. Raises SourceError."""

        def look(conn: Connection) -> Schema:
            with conn.transaction():
                conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                row = conn.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
                published = slots.published(conn, self.names)
                return Schema(
                    fingerprint(conn, self.names.publications),
                    {str(oid): letter for oid, letter in published.items()},
                    tuple(read_sequences(conn)),
                    markers_of(conn, self.names),
                    str(row[0]) if row else "",
                )

        return self.ask("looking at the schema", look)

    def beat(self, text: str = HEARTBEAT) -> None:
        """Let the source write a little, so that an idle slot can be moved on."""
        self.ask("writing a heartbeat", lambda conn: slots.emit_mark(conn, text))

    def health(self, *, user_limit: int, stalled_drains: int = 0) -> SlotHealth | None:
        """The slot's; None where it is gone. Raises SourceError."""
        facts = self.ask("looking at the slot", lambda conn: read_slot_facts(conn, self.names.slot))
        if facts is None:
            return None
        return slot_health(facts, user_limit=user_limit, stalled_drains=stalled_drains)


@dataclass(slots=True)
class Watch:
    """A thread that looks at the source as long as a session runs.

    It hands on what it finds; what goes wrong stays in ``error``.
    """

    source: Source
    marks: Marks
    heartbeat: float
    on_health: Callable[[SlotHealth | None], None]
    health_now: Callable[[], SlotHealth | None]
    on_schema: Callable[[str], None]
    on_trouble: EventSink
    error: BaseException | None = None
    _mute: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="log-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10.0)

    def _run(self) -> None:
        try:
            self._look()
        except BaseException as error:  # noqa: BLE001 - carried to the thread that can tell it
            self.error = error

    def _beat(self) -> None:
        try:
            self.source.beat()
        except SourcePrivilege as error:
            if not self._mute:
                told = f"the role may not write heartbeats: {error.message}"
                self.on_trouble(Warned("stream-mute", told, _MUTE))
            self._mute = True

    def _look(self) -> None:
        beat = looked = schema = time.monotonic()
        self.on_health(self.health_now())
        while not self._stop.is_set():
            asked = time.monotonic()
            lsn, at = self.source.ask("reading the log's position", slots.flush_position)
            self.marks.add(lsn, at, asked)
            now = time.monotonic()
            safe = self.marks.safe
            stuck = safe is None or safe[1] > STUCK_SECONDS
            if now - beat >= self.heartbeat or (stuck and now - beat >= 10 * MARK_SECONDS):
                self._beat()
                beat = now
            if now - looked >= HEALTH_SECONDS:
                self.on_health(self.health_now())
                looked = now
            if now - schema >= SCHEMA_SECONDS:
                self.on_schema(self.source.schema().fingerprint)
                schema = now
            self._stop.wait(MARK_SECONDS)
