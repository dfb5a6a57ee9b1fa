"""The benchmark's database: one large table of mixed columns, some small ones.

Rows are made by seeded random numbers, so every run has the same. Text is cut from a soup
of words in Zipf's frequencies, keys and hashes are random, amounts and times vary: the
result compresses about as an application's rows do, not as constants would.

    python data.py DSN TABLE FIRST COUNT      (a process of its own makes some rows)
"""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

LARGE_ROW_BYTES = 360  # a row of the large table on disk, about
_WORDS = 6000
_SOUP_WORDS = 1_500_000
_STATUSES = ("pending", "paid", "shipped", "delivered", "cancelled", "refunded")
_AGENTS = ("web", "ios", "android", "api", "pos")
_START = datetime(2023, 1, 1, tzinfo=UTC)
_BATCH = 2000

_TABLES = """
CREATE TABLE orders (
    id bigint NOT NULL, order_uuid uuid NOT NULL, customer_id uuid NOT NULL,
    created_at timestamptz NOT NULL, updated_at timestamptz, status text NOT NULL,
    amount numeric(12,2) NOT NULL, tax numeric(14,6), quantity integer NOT NULL,
    is_gift boolean NOT NULL, payload jsonb NOT NULL, title varchar(80) NOT NULL, note text);
CREATE TABLE sessions (
    id bigint NOT NULL, user_id uuid NOT NULL, started_at timestamptz NOT NULL,
    seconds double precision NOT NULL, address inet NOT NULL, agent text NOT NULL);
CREATE TABLE customers (
    id uuid NOT NULL, name text NOT NULL, email text NOT NULL, joined date NOT NULL,
    profile jsonb NOT NULL);
CREATE TABLE articles (id integer NOT NULL, title text NOT NULL, body text NOT NULL);
"""
_LITTLE = 24  # tables of some dozen rows, as every schema has them
_INDEXES = """
ALTER TABLE orders ADD PRIMARY KEY (id);
CREATE INDEX orders_customer ON orders (customer_id, created_at);
CREATE INDEX orders_created ON orders (created_at);
ALTER TABLE sessions ADD PRIMARY KEY (id);
CREATE INDEX sessions_user ON sessions (user_id);
ALTER TABLE customers ADD PRIMARY KEY (id);
ALTER TABLE articles ADD PRIMARY KEY (id);
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many rows each table gets."""

    orders: int
    sessions: int
    customers: int
    articles: int


def shape(n_bytes: int) -> Shape:
    """Rows for a database of *n_bytes* of table data: 87 % orders, 1 % sessions."""
    return Shape(
        orders=round(n_bytes * 0.87 / LARGE_ROW_BYTES),
        sessions=round(n_bytes * 0.01 / 86),
        customers=round(n_bytes * 0.06 / 222),
        articles=round(n_bytes * 0.06 / 3710),
    )


def build(dsn: str, wanted: Shape, *, indexes: bool = True) -> None:
    """Fill the empty database at *dsn*: two processes make the rows of the large table."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(_TABLES)
        for number in range(_LITTLE):
            conn.execute(
                f"CREATE TABLE setting_{number} AS SELECT i AS id, md5(i::text) AS value"
                f" FROM generate_series(1, {10 + number * 7}) i"
            )
        half = wanted.orders // 2
        parts = [
            ("orders", 1, half),
            ("orders", half + 1, wanted.orders - half),
        ]
        _run_parts(dsn, parts)
        _run_parts(dsn, [("customers", 1, wanted.customers), ("articles", 1, wanted.articles)])
        _run_parts(dsn, [("sessions", 1, wanted.sessions)])
        if indexes:
            conn.execute("SET maintenance_work_mem = '256MB'")
            conn.execute(_INDEXES)
        conn.execute("VACUUM (ANALYZE)")
        conn.execute("CHECKPOINT")


def multiply(dsn: str, times: int) -> None:
    """The large table *times* as long: the same rows with other keys, no indexes."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("DROP INDEX orders_customer, orders_created")
        conn.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
        row = conn.execute("SELECT max(id) FROM orders").fetchone()
        count = int(row[0]) if row else 0
        columns = conn.execute(
            "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute"
            " WHERE attrelid = 'orders'::regclass AND attnum > 1"
        ).fetchone()
        rest = columns[0] if columns else ""
        for number in range(1, times):
            conn.execute(
                f"INSERT INTO orders SELECT id + {number * count}, {rest} FROM orders"
                f" WHERE id <= {count}"
            )
        conn.execute("VACUUM (ANALYZE)")
        conn.execute("CHECKPOINT")


def _run_parts(dsn: str, parts: list[tuple[str, int, int]]) -> None:
    makers = [
        subprocess.Popen([sys.executable, __file__, dsn, table, str(first), str(count)])
        for table, first, count in parts
    ]
    statuses = [maker.wait() for maker in makers]
    if any(statuses):
        raise RuntimeError("the rows could not be made")


def table_bytes(dsn: str) -> dict[str, int]:
    """Bytes on disk of each table, TOAST included and indexes not."""
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(
            "SELECT relname, pg_table_size(oid) FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
    return {str(name): int(size) for name, size in rows}


class _Soup:
    """Text of made-up words; the slices of it are what varies."""

    def __init__(self) -> None:
        rng = random.Random(7)
        letters = "eeeeaaaiioouttnnssrrlldhcmpgbfvkwyxz"
        words = ["".join(rng.choices(letters, k=rng.randint(2, 10))) for _ in range(_WORDS)]
        weights = [1 / (rank + 3) for rank in range(_WORDS)]
        self.text = " ".join(rng.choices(words, weights, k=_SOUP_WORDS))
        self.end = len(self.text) - 8000

    def cut(self, rng: random.Random, length: int) -> str:
        start = int(rng.random() * self.end)
        return self.text[start : start + length]


def _orders(soup: _Soup, rng: random.Random, ident: int) -> str:
    bits = rng.getrandbits
    created = _START + timedelta(seconds=ident * 20 + rng.random() * 5000)
    updated = r"\N" if bits(2) == 0 else str(created + timedelta(seconds=rng.random() * 1e6))
    payload = (
        f'{{"sku": "{bits(40):010x}", "agent": "{_AGENTS[bits(8) % 5]}", '
        f'"score": {rng.random():.4f}, "tags": ["{soup.cut(rng, 7)}", "{soup.cut(rng, 9)}"], '
        f'"ip": "{bits(8)}.{bits(8)}.{bits(8)}.{bits(8)}"}}'
    )
    note = r"\N" if bits(2) == 0 else soup.cut(rng, int(rng.expovariate(1 / 90)) % 1500)
    amount = rng.expovariate(1 / 60)
    return (
        f"{ident}\t{bits(128):032x}\t{bits(17) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"
        f"\t{created}\t{updated}\t{_STATUSES[min(bits(4), 5)]}\t{amount:.2f}\t{amount * 0.19:.6f}"
        f"\t{1 + bits(3)}\t{'t' if bits(4) == 0 else 'f'}\t{payload}\t"
        f"{soup.cut(rng, 12 + bits(5))}\t{note}\n"
    )


def _sessions(_soup: _Soup, rng: random.Random, ident: int) -> str:
    bits = rng.getrandbits
    started = _START + timedelta(seconds=ident * 60 + rng.random() * 600)
    return (
        f"{ident}\t{bits(128):032x}\t{started}\t{rng.expovariate(0.01)}"
        f"\t{bits(8)}.{bits(8)}.{bits(8)}.{bits(8)}\t{_AGENTS[bits(8) % 5]}\n"
    )


def _customers(soup: _Soup, rng: random.Random, ident: int) -> str:
    profile = {"about": soup.cut(rng, 60), "level": rng.getrandbits(3), "seen": ident * 37}
    joined = _START + timedelta(days=rng.getrandbits(10))
    return (
        f"{rng.getrandbits(128):032x}\t{soup.cut(rng, 14)}\t{rng.getrandbits(40):x}@example.org"
        f"\t{joined:%Y-%m-%d}\t{json.dumps(profile)}\n"
    )


def _articles(soup: _Soup, rng: random.Random, ident: int) -> str:
    return f"{ident}\t{soup.cut(rng, 40)}\t{soup.cut(rng, 500 + int(rng.random() * 7000))}\n"


_MAKERS: dict[str, Callable[[_Soup, random.Random, int], str]] = {
    "orders": _orders,
    "sessions": _sessions,
    "customers": _customers,
    "articles": _articles,
}


def _batches(table: str, first: int, count: int) -> Iterator[str]:
    soup, rng, make = _Soup(), random.Random(f"{table} {first}"), _MAKERS[table]
    for start in range(first, first + count, _BATCH):
        end = min(start + _BATCH, first + count)
        yield "".join([make(soup, rng, ident) for ident in range(start, end)])


def _copy(dsn: str, table: str, first: int, count: int) -> None:
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        with cursor.copy(f"COPY {table} FROM STDIN") as copy:
            for batch in _batches(table, first, count):
                copy.write(batch)


if __name__ == "__main__":
    _copy(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
