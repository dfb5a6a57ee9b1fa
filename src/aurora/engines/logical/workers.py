"""Workers that read one snapshot side by side.

Each is a thread with an event loop and an asyncpg connection of its own, in a transaction
that imported the coordinator's snapshot. A worker whose connection dies connects again,
imports the same snapshot and does its piece of work anew, as long as the coordinator
lives.
"""

import asyncio
import itertools
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg

from aurora.engines.logical.names import settings_sql
from aurora.engines.logical.threads import run_threads
from aurora.errors import AuroraError, Cancelled, SourceUnreachable
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import Side, is_disconnect, translate
from aurora.postgres.server import PINNING_TRIES

_TRIES = 4

Item = TypeVar("Item")
Result = TypeVar("Result")

Connection = asyncpg.Connection


@dataclass(frozen=True, slots=True)
class Shared:
    """The snapshot that all workers of one run read, and how they are stopped."""

    dsn: str = field(repr=False)
    snapshot: str  # exported by the coordinator
    version_num: int
    cancel: threading.Event
    side: Side = "source"
    lock_timeout: float = 0.0  # seconds to wait for a table's lock; 0: without end

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled when somebody stopped the run."""
        if self.cancel.is_set():
            raise Cancelled("stopped while reading the database")


def run_workers(
    shared: Shared,
    work: Sequence[Item],
    do: Callable[[Connection, Item], Awaitable[Result]],
    *,
    jobs: int,
    name: Callable[[Item], str],
    explain: Callable[[BaseException, Item], AuroraError | None] | None = None,
) -> list[Result]:
    """Do all *work* with *jobs* connections; the results in no promised order.

    Args:
        do: one piece of work; it may be called again after a lost connection.
        name: what to call a piece in an error.
        explain: a better error for a server's refusal, or None.

    Raises:
        SourceError: the database failed; no retry helped.
        AuroraError: whatever *do* raised.
        Cancelled: ``shared.cancel`` was set.
    """
    todo: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in work:
        todo.put(item)
    results: list[Result] = []

    def reworded(error: BaseException, item: Item) -> AuroraError:
        better = explain(error, item) if explain else None
        return better or translate(error, shared.side, doing=f"reading {name(item)}")

    def run() -> None:
        worker = _Worker(shared)
        try:
            with asyncio.Runner() as loop:
                try:
                    while True:
                        shared.raise_if_cancelled()
                        item = todo.get_nowait()
                        results.append(loop.run(worker.insist(do, item, reworded)))
                finally:
                    loop.run(worker.drop())
        except queue.Empty:
            return

    run_threads(run, max(1, min(jobs, len(work))), name="reader", cancel=shared.cancel)
    return results


class _Worker:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._connection: Connection | None = None

    async def insist(
        self,
        do: Callable[[Connection, Item], Awaitable[Result]],
        item: Item,
        reworded: Callable[[BaseException, Item], AuroraError],
    ) -> Result:
        """Do one piece of work, with a new connection after a lost one."""
        for attempt in itertools.count(1):
            try:
                if self._connection is None:
                    self._connection = await self._connect()
                return await do(self._connection, item)
            except (
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
                OSError,
            ) as error:
                await self.drop()
                if not is_disconnect(error) or attempt == _TRIES:
                    raise reworded(error, item) from error
                await asyncio.sleep(0.2 * attempt)
        raise AssertionError("unreachable")

    async def drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
            await asyncio.sleep(0)  # the loop closes the socket in its next round

    async def _connect(self) -> Connection:
        shared = self._shared
        arguments: dict[str, Any] = {
            "timeout": 30.0,
            **ConnInfo.parse(shared.dsn).asyncpg_arguments(),
            "statement_cache_size": 0,
        }
        connection: Connection = await asyncpg.connect(**arguments)
        try:
            await _pin(connection, shared.version_num)
            if connection.get_settings().server_encoding == "SQL_ASCII":
                # Any bytes at all, which no conversion would let pass.
                await connection.execute("SET client_encoding = 'SQL_ASCII'")
            if connection.get_settings().server_encoding == "SQL_ASCII":
                # Bytes of any kind, which are no UTF-8 and are none of our business.
                await connection.execute("SET client_encoding = 'SQL_ASCII'")
            await begin_reading(connection, shared)
        except (
            asyncpg.InvalidParameterValueError,
            asyncpg.UndefinedObjectError,
            asyncpg.ObjectNotInPrerequisiteStateError,
        ) as error:
            connection.terminate()
            raise SourceUnreachable(
                "the session that held the snapshot was lost",
                hint="Nothing of this run became a backup; earlier backups are untouched. "
                "Run the backup again.",
            ) from error
        return connection


async def _pin(connection: Connection, version_num: int) -> None:
    for patience in range(PINNING_TRIES, 0, -1):
        try:
            await connection.execute("SET statement_timeout = 0")
            break
        except asyncpg.QueryCanceledError:
            if patience == 1:
                raise
    await connection.execute(settings_sql(version_num))


async def begin_reading(connection: Connection, shared: Shared) -> None:
    """Begin a transaction that reads the shared snapshot. Raises asyncpg errors."""
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    await connection.execute(f"SET TRANSACTION SNAPSHOT '{shared.snapshot}'")
    await connection.execute(f"SET LOCAL lock_timeout = {round(shared.lock_timeout * 1000)}")
