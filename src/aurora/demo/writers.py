"""Writers: an application at work, for backups that must be made under it.

A few threads insert, update, delete and roll back in the sample's tables. Money only ever
moves between accounts, so at every moment, and in every consistent copy, the sum of the
balances is what it was at the start, and each balance is explained by the transfers
(:func:`read_ledger`). Rows copied at two different moments betray themselves.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg

#: What the writers change; everything else in the sample stands still.
WRITTEN_TABLES = frozenset(
    f"public.{name}"
    for name in (
        "accounts",
        "transfers",
        "carts",
        "messages",
        "events_2026_04",
        "events_2026_05",
        "events_2026_06",
        "events_2026_07",
        "events_2026_08_buy",
        "events_2026_08_rest",
        "events_later",
    )
)

_RECONNECT_AFTER = 0.1  # seconds
_Work = Callable[["_Writer", psycopg.Connection], None]


@dataclass(frozen=True, slots=True)
class Ledger:
    """The accounts of a sample at one moment.

    Attributes:
        total: sum of all balances, in cents.
        expected: sum of the opening balances, which the total must be.
        transfers: how many transfers there are.
        unexplained: accounts whose balance is not the opening plus the transfers.
    """

    total: int
    expected: int
    transfers: int
    unexplained: int

    @property
    def holds(self) -> bool:
        """Whether the copy is of one moment."""
        return self.total == self.expected and self.unexplained == 0


def read_ledger(dsn: str) -> Ledger:
    """The ledger of the sample in ``dsn``, read in one statement."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            """
            select sum(a.balance)::bigint, sum(a.opening)::bigint,
                (select count(*) from public.transfers),
                count(*) filter (where a.balance <> a.opening - paid.cents + got.cents)
            from public.accounts a
            cross join lateral (
                select coalesce(sum(amount), 0) from public.transfers where from_account = a.id
            ) as paid (cents)
            cross join lateral (
                select coalesce(sum(amount), 0) from public.transfers where to_account = a.id
            ) as got (cents)
            """
        ).fetchone()
    assert row is not None  # an aggregate always gives a row
    return Ledger(*map(int, row))


class Writers:
    """``n`` threads that write to the sample in ``dsn`` until the block ends.

    They outlive restarts of the server and errors of single transactions, and count what
    they did; an error of their own making is raised by :meth:`stop`.

    Args:
        dsn: where the sample is.
        n: how many.
        seed: makes the choices, not their interleaving, the same again.
        pause: seconds between two transactions of a writer.

    Attributes of use while they run: :attr:`committed`, :attr:`failed`, :attr:`held_back`,
    :attr:`reconnects`.
    """

    def __init__(self, dsn: str, n: int = 3, *, seed: int = 1, pause: float = 0.002) -> None:
        self._stopping = threading.Event()
        self._writers = [_Writer(dsn, seed * 1000 + i, pause, self._stopping) for i in range(n)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        if error is None:
            self._raise()

    def start(self) -> None:
        """Begin, once, and return at once."""
        for writer in self._writers:
            writer.start()

    def stop(self) -> None:
        """Finish the transactions under way. Raises what ended a writer early."""
        self._end()
        self._raise()

    def wait_for(self, committed: int, timeout: float = 30.0) -> None:
        """Wait until so many transactions are committed. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while self.committed < committed:
            self._raise()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.committed} of {committed} transactions in {timeout} s")
            time.sleep(0.01)

    @property
    def committed(self) -> int:
        """Transactions committed so far, as far as the writers know."""
        return sum(writer.committed for writer in self._writers)

    @property
    def failed(self) -> int:
        """Transactions that the server refused."""
        return sum(writer.failed for writer in self._writers)

    @property
    def held_back(self) -> int:
        """Times that a writer was refused because writes are stopped."""
        return sum(writer.held_back for writer in self._writers)

    @property
    def reconnects(self) -> int:
        """Connections lost and made again."""
        return sum(max(0, writer.connects - 1) for writer in self._writers)

    @property
    def refusal(self) -> str:
        """What the server said at the latest failed transaction; empty when there was none."""
        return next((writer.refusal for writer in self._writers if writer.refusal), "")

    def _end(self) -> None:
        self._stopping.set()
        for writer in self._writers:
            if writer.ident is not None:
                writer.join()

    def _raise(self) -> None:
        for writer in self._writers:
            if writer.error is not None:
                raise writer.error


class _Writer(threading.Thread):
    def __init__(self, dsn: str, seed: int, pause: float, stopping: threading.Event) -> None:
        super().__init__(name=f"writer-{seed}", daemon=True)
        self._dsn = dsn
        self._pause = pause
        self._stopping = stopping
        self.random = random.Random(seed)  # noqa: S311 - choices, not secrets
        self.accounts: list[int] = []
        self.threads = 1
        self.committed = 0
        self.failed = 0
        self.held_back = 0
        self.connects = 0
        self.refusal = ""
        self.error: Exception | None = None

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with psycopg.connect(
                    self._dsn, autocommit=True, connect_timeout=5, application_name=self.name
                ) as connection:
                    self.connects += 1
                    self._write(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self._stopping.wait(_RECONNECT_AFTER)  # a restart: come back
            except Exception as error:  # noqa: BLE001 - kept for stop(), which raises it
                self.error = error
                return

    def _write(self, connection: psycopg.Connection) -> None:
        connection.execute("set statement_timeout = '30s'")
        self.accounts = [
            n for (n,) in connection.execute("select id from public.accounts order by 1")
        ]
        row = connection.execute("select max(id) from public.threads").fetchone()
        self.threads = row[0] if row else 1
        while not self._stopping.wait(self._pause):
            work = self.random.choices(_WORK, weights=_WEIGHTS)[0]
            try:
                with connection.transaction(force_rollback=self.random.random() < 0.03):
                    work(self, connection)
                self.committed += 1
            except psycopg.errors.ReadOnlySqlTransaction:
                self.held_back += 1
                self._stopping.wait(_RECONNECT_AFTER)
                if _stays_read_only(connection):
                    return  # the session began while writes were stopped: begin another
            except psycopg.Error as error:
                if connection.broken or isinstance(error, psycopg.InterfaceError):
                    raise
                self.failed += 1
                self.refusal = str(error).splitlines()[0]


def _stays_read_only(connection: psycopg.Connection) -> bool:
    row = connection.execute("show default_transaction_read_only").fetchone()
    return row is not None and row[0] == "on"


def _transfer(writer: _Writer, connection: psycopg.Connection) -> None:
    source, target = writer.random.sample(writer.accounts, 2)
    connection.execute(
        "select public.transfer(%s, %s, %s, %s)",
        (source, target, writer.random.randint(1, 5000), writer.name),
    )


def _event(writer: _Writer, connection: psycopg.Connection) -> None:
    connection.execute(
        "insert into public.events (happened_at, kind, visitor, page, detail)"
        " select clock_timestamp(), %s, %s, %s, '{\"live\": true}' from generate_series(1, %s)",
        (
            writer.random.choice(["view", "click", "buy"]),
            writer.random.randint(1, 500),
            f"/live/{writer.random.randint(1, 99)}",
            writer.random.randint(1, 4),
        ),
    )


def _message(writer: _Writer, connection: psycopg.Connection) -> None:
    connection.execute(
        "insert into public.messages (thread_id, body, written_at)"
        " values (%s, %s, clock_timestamp())",
        (
            writer.random.randint(1, writer.threads),
            "written live " * writer.random.choice([1, 5, 400]),
        ),
    )


def _edit(writer: _Writer, connection: psycopg.Connection) -> None:
    connection.execute(
        "update public.messages set edited_at = clock_timestamp(), reactions[1] = reactions[1] + 1"
        " where id = (select id from public.messages where id >= %s order by id limit 1)",
        (writer.random.randint(1, 2000),),
    )


def _delete(_: _Writer, connection: psycopg.Connection) -> None:
    connection.execute(
        "delete from public.messages where id = (select id from public.messages"
        " where body like 'written live%%' order by id desc limit 1 for update skip locked)"
    )


def _cart(writer: _Writer, connection: psycopg.Connection) -> None:
    visitor = writer.random.randint(1, 50)
    # Two writers in the same carts would lock their rows in different orders.
    connection.execute("select pg_advisory_xact_lock(hashtext('carts'), %s)", (visitor,))
    if writer.random.random() < 0.2:
        connection.execute(
            "delete from public.carts where id = (select id from public.carts where visitor = %s"
            " order by id limit 1 for update skip locked)",
            (visitor,),
        )
    connection.execute(
        "update public.carts set contents = contents || '[{\"n\": 1}]' where visitor = %s"
        " and jsonb_array_length(contents) < 20",
        (visitor,),
    )
    connection.execute("insert into public.carts (visitor) values (%s)", (visitor,))


_WORK: tuple[_Work, ...] = (_transfer, _event, _message, _edit, _delete, _cart)
_WEIGHTS = (40, 25, 12, 10, 3, 10)
