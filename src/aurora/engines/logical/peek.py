"""Draining a slot by ordinary sessions: for where no replication connection comes through.

``pg_logical_slot_peek_binary_changes()`` decodes whole transactions and moves nothing on;
``pg_replication_slot_advance()`` acknowledges. It gives the same messages as a walsender,
at the price of a temporary file on the server. Behind a pooler in session mode it is the
only way.
"""

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql

from aurora.engines.base import Buffer
from aurora.engines.logical.names import Connection, literal, pin_output
from aurora.engines.logical.pgoutput import format_lsn, parse_lsn
from aurora.engines.logical.receiver import LogSession, SlotBusy, SlotGone, System, Take
from aurora.errors import Cancelled, SourceError
from aurora.postgres.errors import translated
from aurora.postgres.server import inspect_server, open_control

_ROW = struct.Struct(">hiQi")  # columns, length of the position, position, length of the message
_HEADER = b"PGCOPY\n\xff\r\n\0"
_HEADER_BYTES = len(_HEADER) + 8

_SYSTEM = """
SELECT ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::int,
       pg_catalog.pg_current_wal_flush_lsn()::text, pg_catalog.current_database()
"""


class PeekSession:
    """Does what a draining :class:`aurora.engines.logical.receiver.LogSession` does.

    Raises (everywhere): SourceError, and what ``take`` raises.
    """

    def __init__(self, dsn: str) -> None:
        self._conn: Connection = open_control(dsn)
        self._slot = ""
        self._publications: tuple[str, ...] = ()
        try:
            with translated("source", doing="looking at the server"):
                pin_output(self._conn)
                self.system = self._look()
        except BaseException:
            self._conn.close()
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
        self._conn.close()

    def start(self, slot: str, publications: Sequence[str], at: int) -> None:
        """Read what committed at or after *at*, which is kept up to there."""
        self._slot, self._publications = slot, tuple(publications)
        self._run(
            "SELECT pg_catalog.pg_replication_slot_advance(slot_name, %s::pg_lsn)"
            " FROM pg_catalog.pg_replication_slots"
            " WHERE slot_name = %s AND confirmed_flush_lsn < %s::pg_lsn",
            (format_lsn(at), slot, format_lsn(at)),
        )

    def drain(
        self,
        until: int,
        take: Take,
        *,
        has_room: Callable[[], bool] = lambda: True,
        nudge: Callable[[], None] = lambda: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> int:
        """See :meth:`aurora.engines.logical.receiver.LogSession.drain`."""
        del nudge  # nothing is waited for
        names = ",".join(self._publications)
        options = ("proto_version", "1", "publication_names", names, "messages", "true")
        query = (
            "COPY (SELECT lsn, data FROM pg_catalog.pg_logical_slot_peek_binary_changes("
            f"{literal(self._slot)}, '{format_lsn(until)}', NULL, "
            f"{', '.join(literal(one) for one in options)})) TO STDOUT (FORMAT binary)"
        )
        with translated("source", doing="receiving the change log"), _slot_errors():
            with self._conn.cursor() as cursor, cursor.copy(sql.SQL(query)) as copy:
                for lsn, message in _rows(copy):
                    while not has_room():
                        time.sleep(0.02)
                    if stopped():
                        raise Cancelled("stopped while receiving the change log")
                    take(lsn, message)
        return until

    def confirm(self, lsn: int) -> None:
        """Acknowledge everything up to *lsn*."""
        self._run(
            "SELECT pg_catalog.pg_replication_slot_advance(%s, %s::pg_lsn)",
            (self._slot, format_lsn(lsn)),
        )

    def _look(self) -> System:
        row: Any = self._conn.execute(_SYSTEM).fetchone()
        identifier = inspect_server(self._conn).system_identifier
        return System(str(identifier or ""), row[0], parse_lsn(row[1]), row[2])

    def _run(self, query: str, values: Sequence[object]) -> None:
        with translated("source", doing=f"reading the slot {self._slot}"), _slot_errors():
            self._conn.execute(query.encode(), values)


class _slot_errors:  # noqa: N801 - used as a context manager
    """Tells a slot that somebody reads, or that is gone, from other errors."""

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, psycopg.errors.ObjectInUse):
            raise SlotBusy(
                f"another session reads the slot: {error.diag.message_primary}",
                hint="Let the other run of Aurora end, then run again. Nothing was lost.",
            ) from error
        if isinstance(
            error, psycopg.errors.ObjectNotInPrerequisiteState | psycopg.errors.UndefinedObject
        ):
            raise SlotGone(
                f"the slot cannot be read: {error.diag.message_primary}",
                hint="Run `aurora source prepare`, then make a full backup.",
            ) from error


def _rows(blocks: Iterable[Buffer]) -> Iterator[tuple[int, bytes]]:
    """(position, message) out of COPY's binary form."""
    held, begun = bytearray(), False
    for block in blocks:
        held += block
        at = 0
        if not begun:
            if len(held) < _HEADER_BYTES:
                continue
            at, begun = _HEADER_BYTES, True
        while len(held) - at >= _ROW.size:
            _, _, lsn, size = _ROW.unpack_from(held, at)
            end = at + _ROW.size + size
            if end > len(held):
                break
            yield lsn, bytes(memoryview(held)[at + _ROW.size : end])
            at = end
        del held[:at]


def open_log(dsn: str) -> LogSession | PeekSession:
    """A session to drain a slot by: a walsender's, else an ordinary one.

    Raises SourceError: the walsender's, where neither comes through.
    """
    try:
        return LogSession(dsn)
    except SourceError as error:
        try:
            return PeekSession(dsn)
        except SourceError:
            raise error from None
