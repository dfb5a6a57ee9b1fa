"""What one transaction of the change log did to single rows, and whether a database shows it.

Rows are taken from the log as ``pgoutput`` printed them and asked of a database by key, so
that a recovery can be proven without trusting its own reckoning.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psycopg

from aurora.engines.logical import pgoutput
from aurora.engines.logical.names import Connection, quoted, shown
from aurora.engines.logical.pgoutput import Relation, Unchanged, Values

_ROWS = 200  # of one transaction that are looked at

Key = tuple[int, tuple[bytes | None, ...]]  # relation, values of its key


@dataclass(slots=True)
class Footprint:
    """What one transaction did to rows that have a key."""

    relations: dict[int, Relation] = field(default_factory=dict)
    first: dict[Key, int] = field(default_factory=dict)  # the kind of its first change
    last: dict[Key, Values | None] = field(default_factory=dict)  # the row it left; None: none
    truncated: set[int] = field(default_factory=set)

    def see(self, message: bytes, tables: frozenset[int]) -> None:
        """Take in one message of the transaction; rows of other tables are passed over."""
        match pgoutput.parse(message):
            case Relation() as relation:
                self.relations[relation.oid] = relation
            case pgoutput.Truncate(oids):
                self.truncated |= set(oids)
            case pgoutput.Insert(oid, new) if oid in tables:
                self._note(oid, new, pgoutput.INSERT, new)
            case pgoutput.Update(oid, old, _, new) if oid in tables:
                if old is not None:
                    self._note(oid, old, pgoutput.DELETE, None)
                self._note(oid, new, pgoutput.INSERT if old else pgoutput.UPDATE, new)
            case pgoutput.Delete(oid, old) if oid in tables:
                self._note(oid, old, pgoutput.DELETE, None)
            case _:
                pass

    def _note(self, oid: int, values: Values, kind: int, left: Values | None) -> None:
        relation = self.relations.get(oid)
        if relation is None or relation.identity == "f":
            return  # without a key of its own the rows cannot be told apart
        key = tuple(
            value
            for value, column in zip(values, relation.columns, strict=False)
            if column.is_key and not isinstance(value, Unchanged)
        )
        if not key or (len(self.last) >= _ROWS and (oid, key) not in self.last):
            return
        self.first.setdefault((oid, key), kind)
        self.last[oid, key] = left


def rows_not_left(conn: Connection, done: Footprint, looked: list[int]) -> Iterator[str]:
    """Rows that are not as the last transaction applied left them."""
    for (oid, key), left in done.last.items():
        relation = done.relations[oid]
        if oid in done.truncated:
            continue
        looked[0] += 1
        found = _find(conn, relation, key)
        if left is None and found is not None:
            yield f"{_row(relation, key)} was deleted and is there"
        elif left is not None and found is None:
            yield f"{_row(relation, key)} is not there"
        elif left is not None and found is not None and not _equal(found, left):
            yield f"{_row(relation, key)} is not as that transaction left it"


def rows_beyond(
    conn: Connection, undone: Footprint, before: Footprint, looked: list[int]
) -> Iterator[str]:
    """Rows that show something of the first transaction that was left out."""
    for (oid, key), kind in undone.first.items():
        relation = undone.relations[oid]
        if oid in undone.truncated or oid in before.truncated:
            continue
        looked[1] += 1
        found = _find(conn, relation, key)
        if kind == pgoutput.INSERT and found is not None:
            yield f"{_row(relation, key)} was inserted and is there"
        elif kind != pgoutput.INSERT and found is None:
            yield f"{_row(relation, key)} was changed or deleted, and is not there before it"


def _find(
    conn: Connection, relation: Relation, key: tuple[bytes | None, ...]
) -> list[bytes | None] | None:
    """The row with this key as pgoutput would print it, or None."""
    columns = ", ".join(quoted(column.name) for column in relation.columns)
    keys = [column.name for column in relation.columns if column.is_key]
    where = " AND ".join(f"{quoted(name)} = ${at}" for at, name in enumerate(keys, start=1))
    query = f"SELECT {columns} FROM ONLY {quoted(relation.schema, relation.name)} WHERE {where}"
    result = conn.pgconn.exec_params(query.encode(), list(key))
    if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
        raise psycopg.errors.lookup(
            (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"XX000").decode()
        )(result.error_message.decode(errors="replace"))
    if not result.ntuples:
        return None
    return [result.get_value(0, at) for at in range(result.nfields)]


def _equal(found: Sequence[bytes | None], left: Values) -> bool:
    return all(
        isinstance(wanted, Unchanged) or value == wanted
        for value, wanted in zip(found, left, strict=False)
    )


def _row(relation: Relation, key: tuple[bytes | None, ...]) -> str:
    names = [column.name for column in relation.columns if column.is_key]
    told = ", ".join(
        f"{name}={'NULL' if value is None else value.decode(errors='replace')[:60]}"
        for name, value in zip(names, key, strict=False)
    )
    return f"{shown(relation.schema, relation.name)} ({told})"
