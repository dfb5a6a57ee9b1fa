"""Order-independent checksum of a table's rows, computed where the rows are.

The checksum of a set of rows is the sum modulo 2^64 of a 64-bit hash of each row. It does
not depend on the order of rows, nor on how they are divided among ranges or partitions;
with the number of rows it tells any lost, doubled or altered row, with a chance of 2^-64
to miss one. It is no defence against an adversary: stored data is authenticated elsewhere.

The server computes it (``hash_record_extended``, PostgreSQL 14), so that neither a backup
nor the check of a restore sends a row twice over the wire. PostgreSQL's extended hash
functions of built-in types do not change between versions, because hash partitions stand
on them; types whose hash depends on oids or on a library (enums, composites, what
extensions bring) or that have none are hashed as text.
"""

import re
from collections.abc import Sequence

from aurora.engines.base import Column, RowsSum
from aurora.engines.logical.names import quoted

ROW_HASH = 1  # kept with each backup: sums of another kind cannot be compared
_MASK = 0xFFFFFFFFFFFFFFFF

# Types that hash by value alone, the same on every server. interval is not among them: its
# hash calls a month 30 days.
_STABLE = {
    "smallint", "integer", "bigint", "real", "double precision", "numeric", "boolean", "uuid",
    "bytea", "date", "time without time zone", "timestamp without time zone",
    "timestamp with time zone", "inet", "cidr", "macaddr", "macaddr8", "oid", "jsonb",
    "text", "character varying", "character", "name", '"char"',
}  # fmt: skip


def row_hash(columns: Sequence[Column]) -> str:
    """SQL for the 64-bit hash of a row's stored columns, in their order."""
    stored = [_hashed(column) for column in columns if not column.generated]
    if not stored:
        return "0"
    return f"pg_catalog.hash_record_extended(ROW({', '.join(stored)}), 0)"


def rows_kind(columns: Sequence[Column]) -> str:
    """What rows of equal COPY text must share to have equal sums: types, and how they are hashed.

    A 1 has one hash as an integer, another as a numeric or a text.
    """
    types = [column.type for column in columns if not column.generated]
    return f"{row_hash(columns)} {types}"


def _hashed(column: Column) -> str:
    name = quoted(column.name)
    base = re.sub(r"\([\d,-]*\)", "", column.type)
    if base in _STABLE and not column.odd_collation:
        return name
    # concat() prints with the type's output function, as COPY does. A cast to text would not:
    # xml keeps its encoding declaration there, and users define casts of their own.
    return f'pg_catalog.concat(pg_catalog.num_nulls({name}), {name}) COLLATE "C"'


def sum_query(relation: str, columns: Sequence[Column], where: str = "") -> str:
    """SQL that gives the number of rows and the sum of their hashes, as text."""
    return (
        f"SELECT pg_catalog.count(*), COALESCE(pg_catalog.sum({row_hash(columns)}), 0)"
        f"::pg_catalog.text FROM {relation} {where}"
    )


def rows_sum(count: object, total: object) -> RowsSum:
    """The answer to a :func:`sum_query`."""
    return RowsSum(int(str(count)), f"{int(str(total)) & _MASK:016x}")
