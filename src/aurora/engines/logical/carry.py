"""Rows across a change of the schema: those of before in the shape of after.

A column is known by its number in its table (``attnum``), which no rename changes and no
other column ever gets. So a row of before is a row of after with the columns that are gone
left out and, for those that came, what the server itself shows in old rows: the constant
default of that moment, which the marker of the change carries, or NULL.

Only what is proven so is carried. A table that was rewritten, a column of another type, a
table that was made, a change of a kind that is not listed here: each is refused by name.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from aurora.engines.base import Column, Table
from aurora.engines.logical.ddl import Change
from aurora.engines.logical.lastrows import escape

# Commands that change no row but by what is looked at below, table by table and type by type.
_CARRIED = frozenset(
    [f"{verb} {kind}" for verb in ("CREATE", "ALTER", "DROP")
     for kind in ("TABLE", "INDEX", "VIEW", "MATERIALIZED VIEW", "FUNCTION", "PROCEDURE",
                  "ROUTINE", "AGGREGATE", "TRIGGER", "POLICY", "RULE", "SEQUENCE", "SCHEMA",
                  "STATISTICS", "DOMAIN", "TYPE")]
    + ["CREATE TABLE AS", "SELECT INTO", "DROP OWNED", "REASSIGN OWNED", "CREATE EXTENSION"]
)  # fmt: skip


@dataclass(frozen=True)
class Recast:
    """How rows of *old* become rows of *new*.

    A row's fields are counted in *slots*: those of *old* in their order, then those that came.
    """

    old: Table
    new: Table
    out: tuple[int, ...]  # the slots of new's columns
    added: Mapping[int, bytes]  # COPY text of those that came, in rows of before, by slot

    @cached_property
    def is_plain(self) -> bool:
        """Whether only names changed."""
        return self.out == tuple(range(len(self.old.copy_columns)))

    def slots(self, *, after: bool) -> tuple[int, ...]:
        """The slots of a row of before or *after*, column by column."""
        return self.out if after else tuple(range(len(self.old.copy_columns)))

    def columns(self, *, after: bool) -> tuple[str, ...]:
        return (self.new if after else self.old).copy_columns

    def joined(self, fields: Mapping[int, bytes]) -> bytes:
        """A line of *new* out of fields by slot; what lacks is what old rows show there."""
        return b"\t".join([fields[s] if s in fields else self.added[s] for s in self.out])

    def line(self, line: bytes) -> bytes:
        """A line of *old* as one of *new*."""
        return self.joined(dict(enumerate(line.split(b"\t"))))


def not_carried(changes: Iterable[Change]) -> str:
    """Why none of the tables can be carried over *changes*; "" where some may be."""
    for change in changes:
        if change.plain:
            return "the marker of a schema change was made without a look at the catalog"
        if "PUBLICATION" in change.tag:
            return "what is published changed"
        if change.tag not in _CARRIED:
            return f"{change.tag} is not carried"
    return ""


def recast(
    old: Table, new: Table, changes: Sequence[Change], rewritten: Collection[int]
) -> Recast | str:
    """How *old*'s rows become *new*'s, or why they cannot."""
    if new.oid in rewritten:
        return "was rewritten"
    if (old.kind, old.persistence) != (new.kind, new.persistence):
        return "is of another kind"
    if (old.extension, old.condition) != (new.extension, new.condition):
        return "belongs to an extension in another way"
    before = {column.number: column for column in old.columns}
    slots = {column.number: i for i, column in enumerate(_copied(old))}
    out: list[int] = []
    added: dict[int, bytes] = {}
    for column in _copied(new):
        was = before.get(column.number)
        if was is None:
            found = _missing(new.oid, column.number, changes)
            if len(found) > 1:
                return f"has a column {column.name} whose default is told in two ways"
            slot = len(slots) + len(added)
            added[slot] = escape(_element(found.pop()).encode()) if found else rb"\N"
            out.append(slot)
        elif was.generated or was.type != column.type:
            return f"has a column {column.name} of another type"
        else:
            out.append(slots[column.number])
    if any(c.generated and c.number in slots for c in new.columns):
        return "has a column that is computed now"
    if not out or not slots:
        return "has, or had, no columns"
    return Recast(old, new, tuple(out), added)


def _copied(table: Table) -> list[Column]:
    return [column for column in table.columns if not column.generated]


def _missing(oid: int, number: int, changes: Iterable[Change]) -> set[str]:
    """What markers say that old rows hold in a column: one value, or none."""
    told = (change.missing.get(str(oid), {}).get(str(number)) for change in changes)
    return {text for text in told if text is not None}


def _element(array: str) -> str:
    """The one element of an array as PostgreSQL writes it: ``{abc}`` or ``{"a,\\"b"}``."""
    inside = array[1:-1]
    if not inside.startswith('"'):
        return inside
    found, quoted = [], inside[1:-1]
    at = 0
    while at < len(quoted):
        at += quoted[at] == "\\"
        found.append(quoted[at])
        at += 1
    return "".join(found)


def types_changed(
    before: Mapping[str, str], after: Mapping[str, str], changes: Iterable[Change]
) -> str:
    """Which type's values may read otherwise now, in words; "" where none may.

    Args:
        before, after: the statements that make each type, by name.

    New values of an enum are carried: as many as there were ALTER TYPE, and nothing else.
    """
    grown = 0
    for name, text in before.items():
        now = after.get(name, text)
        if now == text:
            continue
        labels, more = _labels(text), _labels(now)
        rest = iter(more)
        if not labels or not all(label in rest for label in labels):
            return f"the type {name} changed"
        grown += len(more) - len(labels)
    if grown != sum(1 for change in changes if change.tag == "ALTER TYPE"):
        return "a type changed in a way that is not carried"
    return ""


def _labels(text: str) -> list[str]:
    """The values of an enum in the order that the statement has; empty for other types."""
    head, mark, inside = text.partition(" AS ENUM (")
    if not mark or "CREATE TYPE" not in head:
        return []
    return [line.strip().rstrip(",") for line in inside.partition(");")[0].splitlines()
            if line.strip()]  # fmt: skip
