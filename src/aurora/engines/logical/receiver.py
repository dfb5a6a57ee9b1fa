"""A walsender session: drains a slot up to a position, or follows it, and acknowledges.

Only libpq's ``COPY_BOTH`` gives full control of what is acknowledged. While the taker has
no room the session reads nothing, but keeps answering the server, which would otherwise
end it after ``wal_sender_timeout``. Nothing is acknowledged by draining, and by following
only what the taker says is durable.
"""

import select
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import psycopg
from psycopg import pq

from aurora.engines.base import Buffer
from aurora.engines.logical import pgoutput
from aurora.engines.logical.names import settings_sql
from aurora.engines.logical.pgoutput import format_lsn, parse_lsn
from aurora.errors import Cancelled, SourceChanged, SourceUnreachable, SourceUnsupported
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated

_XLOG_DATA = 0x77
_KEEPALIVE = 0x6B
_HEAD = 25  # bytes before the message: kind, start, end, clock
_U64 = struct.Struct(">Q")
_STATUS = struct.Struct(">cQQQqB")
_EPOCH = 946684800
_CONNECT_SECONDS = 15.0
_REPLY_SECONDS = 0.5
_ASK_SECONDS = 0.02
_NUDGE_SECONDS = 0.5
_IDLE_SECONDS = 0.25  # between two questions how far the server is
_LOOK_BYTES = 1 << 20  # received between two looks at the clock and at the room
_MESSAGE_COST = 256

Take = Callable[[int, Buffer], None]

HEARTBEAT = "heartbeat"
"""A mark that moves a slot on while its database is idle. It is not kept in the log."""
CUT_MARK = "cut"
"""A mark that asks whoever follows the slot to store everything before it at once. Not kept."""
_BEATS = {HEARTBEAT.encode(), CUT_MARK.encode()}


class Follower(Protocol):
    """What a followed slot is handed to. Called from one thread, and must never block for long."""

    wants_boundary: bool
    """Whether :meth:`at` is to be called at the end of the transaction that is under way."""

    def take(self, lsn: int, message: Buffer) -> None:
        """One message of whole transactions, in commit order."""

    def has_room(self) -> bool:
        """Whether :meth:`take` can be called."""

    def at(self, position: int, *, in_transaction: bool, asked: bool) -> int:
        """Called about every 20 ms and every MiB: where the stream is.

        *position*: everything that committed before it was handed over. *asked*: a mark asks
        to store that at once.

        Returns:
            What is durable: it is acknowledged. Never less than before.
        """

    def stopped(self) -> bool:
        """Whether to come back."""


@dataclass(frozen=True, slots=True)
class System:
    """What IDENTIFY_SYSTEM tells."""

    identifier: str
    timeline: int
    flush_lsn: int
    database: str


class LogSession:
    """One connection in the replication protocol. A context manager.

    Raises (everywhere): SourceError, and what ``take`` raises.
    """

    def __init__(self, dsn: str) -> None:
        """Connect and pin the session's output. Refuses what is no direct connection."""
        info = ConnInfo.parse(dsn).settled()
        self._address = info.redacted()
        options = {
            "replication": "database",
            "application_name": "aurora",
            "client_encoding": "UTF8",
            "keepalives": "1",
            "keepalives_idle": "30",
            "keepalives_interval": "10",
        }
        patience = float(info.options.get("connect_timeout") or 0) or _CONNECT_SECONDS
        self._conn = pq.PGconn.connect_start(info.with_options(**options).dsn().encode())
        self._received = 0
        try:
            with translated("source", doing=f"connecting to {self._address} for replication"):
                self._connect(patience)
                if self._conn.status != pq.ConnStatus.OK:
                    raise psycopg.OperationalError(self._message())
                self.system = self._identify()
                self._run(settings_sql(self._conn.server_version))
        except BaseException:
            self._conn.finish()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._conn.finish()

    def start(self, slot: str, publications: Sequence[str], at: int) -> None:
        """Begin to stream what committed at or after *at* (and was not acknowledged)."""
        names = ",".join(publications)
        with translated("source", doing=f"reading the slot {slot}"):
            self._run(
                f'START_REPLICATION SLOT "{slot}" LOGICAL {format_lsn(at)} '
                f"(proto_version '1', publication_names '{names}', messages 'true')"
            )
        self._conn.nonblocking = 1
        self._received = at

    def drain(
        self,
        until: int,
        take: Take,
        *,
        has_room: Callable[[], bool] = lambda: True,
        nudge: Callable[[], None] = lambda: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> int:
        """Hand every message of whole transactions to *take* until position *until* is passed.

        Args:
            has_room: whether *take* can be called; asked often, so it must be quick.
            nudge: called when the server has nothing to send and yet is not there; it should
                make the source write and flush a little.

        Returns:
            The position up to which everything was handed over: *until*, or more.
        """
        with translated("source", doing="receiving the change log"):
            return self._drain(until, take, has_room, nudge, stopped)

    def _drain(  # noqa: C901, PLR0912, PLR0915 - the hot loop, kept in one piece
        self,
        until: int,
        take: Take,
        has_room: Callable[[], bool],
        nudge: Callable[[], None],
        stopped: Callable[[], bool],
    ) -> int:
        conn = self._conn
        get, unpack = conn.get_copy_data, _U64.unpack_from
        begin, commit = pgoutput.BEGIN, pgoutput.COMMIT
        in_transaction = False
        reached, budget = self._received, 0
        replied = idle_since = time.monotonic()
        nudged = False
        while True:
            if budget <= 0:
                now = time.monotonic()
                if now - replied > _REPLY_SECONDS:
                    self._reply(ask=False)
                    replied = now
                if stopped():
                    raise Cancelled("stopped while receiving the change log")
                if not has_room():
                    time.sleep(0.02)
                    continue
                budget = _LOOK_BYTES
            length, data = get(1)
            if length > 0:
                budget -= length + _MESSAGE_COST
                kind = data[0]
                if kind == _XLOG_DATA:
                    message = data[_HEAD:]
                    take(unpack(data, 1)[0], message)
                    first = message[0]
                    if first == begin:
                        in_transaction = True
                    elif first == commit:
                        in_transaction = False
                        reached = max(reached, pgoutput.read_commit(message).end_lsn)
                        self._received = reached
                elif kind == _KEEPALIVE:
                    reached = max(reached, unpack(data, 1)[0])
                    self._received = reached
                    if data[17]:
                        self._reply(ask=False)
                if reached >= until and not in_transaction:
                    return reached
                continue
            if length < 0:
                raise psycopg.OperationalError(self._end())
            budget = 0
            readable, _, _ = select.select([conn.socket], [], [], _ASK_SECONDS)
            if readable:
                conn.consume_input()
                idle_since = time.monotonic()
                continue
            self._reply(ask=True)
            replied = time.monotonic()
            if not nudged and replied - idle_since > _NUDGE_SECONDS:
                nudged = True
                nudge()

    @property
    def received(self) -> int:
        """Everything that committed before this position was handed over."""
        return self._received

    def follow(self, follower: Follower) -> None:
        """Hand over what commits until the follower stops; acknowledge what it says is durable.

        Transactions that hold nothing but a heartbeat or a cut mark are left out.
        """
        with translated("source", doing="receiving the change log"):
            self._follow(follower)

    def _follow(self, follower: Follower) -> None:  # noqa: C901, PLR0912, PLR0915 - the hot loop
        conn, take = self._conn, follower.take
        get, unpack = conn.get_copy_data, _U64.unpack_from
        begin, commit, note = pgoutput.BEGIN, pgoutput.COMMIT, pgoutput.MESSAGE
        held: list[tuple[int, bytes]] = []  # the beginning of what may be a heartbeat
        in_transaction = asked = False
        durable = self._received
        replied = 0.0
        budget = 0
        while True:
            if budget <= 0:
                now = time.monotonic()
                before, durable = (
                    durable,
                    max(
                        durable,
                        follower.at(self._received, in_transaction=in_transaction, asked=asked),
                    ),
                )
                asked = False
                if durable > before or now - replied > _REPLY_SECONDS:
                    self._reply(ask=False, durable=durable)
                    replied = now
                if follower.stopped():
                    self._reply(ask=False, durable=durable)
                    return
                if not follower.has_room():
                    time.sleep(_ASK_SECONDS)
                    continue
                budget = _LOOK_BYTES
            length, data = get(1)
            if length > 0:
                budget -= length + _MESSAGE_COST
                kind = data[0]
                if kind == _XLOG_DATA:
                    message = data[_HEAD:]
                    first, lsn = message[0], unpack(data, 1)[0]
                    if first == begin:
                        in_transaction = True
                        held.append((lsn, bytes(message)))
                        continue
                    if held:
                        if first == note and len(held) == 1 and _is_beat(bytes(message)):
                            held.append((lsn, bytes(message)))
                            continue
                        if first == commit and len(held) == 2:
                            in_transaction = False
                            end = pgoutput.read_commit(message).end_lsn
                            self._received = max(self._received, end)
                            if pgoutput.read_message(held[1][1]).content == CUT_MARK.encode():
                                asked, budget = True, 0
                            held.clear()
                            continue
                        for waiting in held:
                            take(*waiting)
                        held.clear()
                    take(lsn, message)
                    if first == commit:
                        in_transaction = False
                        end = pgoutput.read_commit(message).end_lsn
                        self._received = max(self._received, end)
                        if follower.wants_boundary:
                            budget = 0
                elif kind == _KEEPALIVE:
                    if not in_transaction:
                        self._received = max(self._received, unpack(data, 1)[0])
                    if data[17]:
                        self._reply(ask=False, durable=durable)
                        replied = time.monotonic()
                continue
            if length < 0:
                raise psycopg.OperationalError(self._end())
            budget = 0
            readable, _, _ = select.select([conn.socket], [], [], _ASK_SECONDS)
            if readable:
                conn.consume_input()
            elif time.monotonic() - replied > _IDLE_SECONDS:
                self._reply(ask=True, durable=durable)
                replied = time.monotonic()

    def confirm(self, lsn: int) -> None:
        """Acknowledge everything up to *lsn*; the server takes it soon after."""
        with translated("source", doing="acknowledging the change log"):
            self._received = max(self._received, lsn)
            self._reply(ask=True, durable=lsn)

    def _reply(self, *, ask: bool, durable: int = 0) -> None:
        # Durable 0 acknowledges nothing, whatever was written.
        clock = int((time.time() - _EPOCH) * 1_000_000)
        written = self._received
        self._conn.put_copy_data(_STATUS.pack(b"r", written, durable, durable, clock, int(ask)))
        while self._conn.flush():
            # The server may wait for us to read before it reads: both ways.
            select.select([self._conn.socket], [self._conn.socket], [], 1)
            self._conn.consume_input()

    def _connect(self, patience: float) -> None:
        """Step by step: libpq's own way holds Python's lock, and all threads stand still."""
        conn, end = self._conn, time.monotonic() + patience
        while conn.status != pq.ConnStatus.BAD:
            state = conn.connect_poll()
            if state in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
                return
            reading = [conn.socket] if state == pq.PollingStatus.READING else []
            writing = [conn.socket] if state == pq.PollingStatus.WRITING else []
            left = end - time.monotonic()
            if left <= 0 or not any(select.select(reading, writing, [], left)):
                raise psycopg.OperationalError("timeout expired")

    def _identify(self) -> System:
        result = self._conn.exec_(b"IDENTIFY_SYSTEM")
        if result.status != pq.ExecStatus.TUPLES_OK or result.ntuples != 1:
            raise SourceUnsupported(
                f"{self._address} does not speak the replication protocol: {self._message()}",
                hint="The change log needs a direct connection; poolers do not carry it. On "
                "Supabase use db.<ref>.supabase.co:5432 (IPv6, or the IPv4 add-on).",
            )
        fields = [(result.get_value(0, column) or b"").decode() for column in range(4)]
        return System(fields[0], int(fields[1]), parse_lsn(fields[2]), fields[3])

    def _run(self, command: str) -> None:
        result = self._conn.exec_(command.encode())
        good = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.COPY_BOTH)
        if result.status in good:
            return
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        if state == "55006":
            raise SlotBusy(
                f"another session reads the slot: {self._message()}",
                hint="Let the other run of Aurora end, then run again. Nothing was lost.",
            )
        if state in ("55000", "42704"):
            raise SlotGone(
                f"the slot cannot be read: {self._message()}",
                hint="Run `aurora source prepare`, then make a full backup.",
            )
        raise _error_class(state)(self._message())

    def _end(self) -> str:
        self._conn.nonblocking = 0
        self._conn.get_result()
        return self._message() or "the server ended the stream"

    def _message(self) -> str:
        text = self._conn.error_message.decode(errors="replace").strip()
        return " ".join(text.splitlines()[:1]).removeprefix("ERROR:").strip()


def _is_beat(message: bytes) -> bool:
    found = pgoutput.read_message(message)
    return found.prefix == "aurora" and found.content in _BEATS


def _error_class(state: str) -> type[psycopg.Error]:
    try:
        return psycopg.errors.lookup(state)
    except KeyError:
        return psycopg.OperationalError


class SlotBusy(SourceUnreachable):
    """Another session reads the slot; it may end soon."""

    code = "slot-busy"


class SlotGone(SourceChanged):
    """The slot is missing, or the server has given it up."""

    code = "slot-gone"
