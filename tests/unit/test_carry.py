"""What is carried over a schema change, and what is refused; see tests/integration too."""

import pytest

from aurora.engines.base import Column, Table
from aurora.engines.logical.carry import Recast, not_carried, recast, types_changed
from aurora.engines.logical.ddl import Change, read_change

ENUM = "CREATE TYPE public.level AS ENUM (\n    {}\n);\n"


def _table(*columns: Column, persistence: str = "p") -> Table:
    return Table(7, "public", "t", "r", "me", columns, persistence)


ID, V, W = Column("id", "integer", 1), Column("v", "text", 2), Column("w", "text", 3)


@pytest.mark.parametrize(
    "change,why",
    [
        (Change("ALTER TABLE"), ""),
        (Change("CREATE INDEX"), ""),
        (Change("ALTER TABLE", plain=True), "without a look"),
        (Change("ALTER PUBLICATION"), "what is published"),
        (Change("ALTER EXTENSION"), "ALTER EXTENSION is not carried"),
        (read_change("ddl nonsense"), "without a look"),
    ],
)
def test_kinds_of_changes(change: Change, why: str) -> None:
    """Only what is listed; what cannot be read is not taken for harmless."""
    told = not_carried([Change("CREATE VIEW"), change])
    assert why in told
    assert bool(told) == bool(why)


def _types(*labels: str) -> dict[str, str]:
    return {"public.level": ENUM.format(",\n    ".join(f"'{label}'" for label in labels))}


@pytest.mark.parametrize(
    "before,after,changes,why",
    [
        ("a b", "a b", 0, ""),
        ("a b", "a x b y", 2, ""),
        ("a b", "a x b", 2, "a type changed"),  # one of the two did something else
        ("a b", "a b", 1, "a type changed"),
        ("a b", "b a", 3, "the type public.level changed"),
        ("a b", "a c", 1, "the type public.level changed"),
    ],
)
def test_types(before: str, after: str, changes: int, why: str) -> None:
    """An enum that only grew, by as many values as there were statements."""
    told = types_changed(
        _types(*before.split()), _types(*after.split()), [Change("ALTER TYPE")] * changes
    )
    assert why in told
    assert bool(told) == bool(why)


def test_a_composite_type_that_changed() -> None:
    """Its values lie in rows as text, place by place."""
    told = types_changed(
        {"public.c": "CREATE TYPE c AS (\n\ta integer\n);"},
        {"public.c": "CREATE TYPE c AS (\n\tb integer\n);"},
        [Change("ALTER TYPE")],
    )
    assert told == "the type public.c changed"


def test_columns_that_go_and_come() -> None:
    """By their numbers; the constant default is what the marker says, else NULL."""
    added = Column("v", "text", 4), Column("n", "text", 5)
    change = Change("ALTER TABLE", missing={"7": {"4": '{"a\\"\\\\\tb,"}'}})
    found = recast(_table(ID, V, W), _table(ID, W, *added), [change], [])
    assert isinstance(found, Recast)
    assert not found.is_plain
    assert found.line(rb"1" + b"\told\tw") == b'1\tw\ta"\\\\\\tb,\t\\N'


def test_names_alone() -> None:
    """Rows stay as they are."""
    swapped = Column("w", "text", 2), Column("v", "text", 3)
    found = recast(_table(ID, V, W), _table(ID, *swapped), [], [])
    assert isinstance(found, Recast)
    assert found.is_plain
    assert found.columns(after=True) == ("id", "w", "v")


@pytest.mark.parametrize(
    "new,rewritten,why",
    [
        (_table(ID, V), [7], "was rewritten"),
        (_table(ID, V, persistence="u"), [], "is of another kind"),
        (_table(ID, Column("v", "bigint", 2)), [], "has a column v of another type"),
        (_table(ID, Column("v", "text", 2, generated=True)), [], "computed now"),
        (_table(), [], "no columns"),
    ],
)
def test_tables_that_are_refused(new: Table, rewritten: list[int], why: str) -> None:
    """With the reason."""
    found = recast(_table(ID, V), new, [], rewritten)
    assert isinstance(found, str)
    assert why in found


def test_a_default_that_is_told_in_two_ways() -> None:
    """One of the two marks is not the server's."""
    changes = [Change("ALTER TABLE", missing={"7": {"4": text}}) for text in ("{a}", "{b}")]
    found = recast(_table(ID), _table(ID, Column("n", "text", 4)), changes, [])
    assert found == "has a column n whose default is told in two ways"
