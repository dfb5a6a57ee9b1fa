"""Rows to and from files, block by block."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from aurora.engines.logical.names import Connection, literal, quoted

_BLOCK = 256 << 10
_QUOTE = re.compile(rb"\x01(\x01?)")


def copy_file(conn: Connection, into: str, path: Path) -> None:
    """COPY text from a file into ``table (columns)``; nothing where there is no file."""
    if not path.exists():
        return
    with conn.cursor().copy(f"COPY {into} FROM STDIN".encode()) as copy, path.open("rb") as file:
        while block := file.read(_BLOCK):
            copy.write(block)


def lines_of(conn: Connection, query: str) -> Iterator[bytes]:
    """The one text column of *query*, each row with a line's end.

    CSV with a quote that no text holds but by accident; the server sends row by row.
    """
    with conn.cursor().copy(
        f"COPY ({query}) TO STDOUT (FORMAT csv, QUOTE E'\\x01')".encode()
    ) as copy:
        for row in copy:
            yield _QUOTE.sub(rb"\1", bytes(row))


def statements_of(
    conn: Connection, relation: str, columns: Sequence[str], source: str
) -> Iterator[bytes]:
    """An INSERT for each row of *source* (``… c``), a line each."""
    names = ", ".join(quoted(name) for name in columns)
    head = f"INSERT INTO {relation} ({names}) OVERRIDING SYSTEM VALUE VALUES ("
    values = " || ', ' || ".join(value_of(name) for name in columns)
    yield from lines_of(conn, f"SELECT {literal(head)} || {values} || ');' FROM {source}")


def value_of(name: str, row: str = "c") -> str:
    """An expression that gives a column's value as a literal."""
    return f"pg_catalog.quote_nullable({row}.{quoted(name)}::text)"
