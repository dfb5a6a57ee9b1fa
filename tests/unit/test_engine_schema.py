"""pg_dump's archive and what pg_restore says about it."""

import pytest

from aurora.engines.logical.build import steps
from aurora.engines.logical.schema import Entry, parse_refusals, undated

OUTPUT = """\
pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 2; 3079 16386 EXTENSION pg_cron (no owner)
pg_restore: error: could not execute query: ERROR:  extension "pg_cron" is not available
DETAIL:  Could not open extension control file.
HINT:  The extension must first be installed.
Command was: CREATE EXTENSION IF NOT EXISTS pg_cron;


pg_restore: from TOC entry 7; 2615 2200 SCHEMA public me
pg_restore: error: could not execute query: ERROR:  schema "public" already exists
Command was: CREATE SCHEMA public;

pg_restore: from TOC entry 9; 1259 1 VIEW public v me
pg_restore: error: could not execute query: ERROR:  column "x" does not exist
LINE 2:  SELECT x
                ^
Command was: CREATE VIEW public.v AS
 SELECT x;


pg_restore: warning: errors ignored on restore: {count}
"""


def test_refusals_are_told_one_by_one() -> None:
    """Each with its entry, reason and statement; the harmless ones are left out."""
    found = parse_refusals(OUTPUT.format(count=3))

    assert [refusal.entry for refusal in found] == [
        "EXTENSION pg_cron (no owner)",
        "VIEW public v me",
    ]
    assert "pg_cron" in found[0].error
    assert "Could not open" in found[0].error
    assert found[1].statement == "CREATE VIEW public.v AS\n SELECT x;"


def test_no_refusal_is_lost() -> None:
    """What is counted but told in words that we do not know is told as a number."""
    found = parse_refusals(OUTPUT.format(count=5))

    assert str(found[-1]).startswith("2 more statements")
    assert parse_refusals("") == []


@pytest.mark.parametrize("minor", [14, 15, 16])
def test_archives_of_one_schema_are_the_same_bytes(minor: int) -> None:
    """The date goes, everything else stays."""
    compression = b"\x00" * (1 if minor >= 15 else 5)
    head = b"PGDMP" + bytes([1, minor, 0, 4, 8, 1]) + compression

    def dated(second: int) -> bytes:
        date = b"".join(
            b"\0" + value.to_bytes(4, "little") for value in (second, 30, 12, 24, 5, 124, 0)
        )
        return head + date + b"the rest"

    assert undated(dated(1)) == undated(dated(59)) != dated(1)
    assert undated(dated(1)).startswith(head)
    assert undated(dated(1)).endswith(b"the rest")
    assert len(undated(dated(1))) == len(dated(1))
    assert undated(b"something else entirely") == b"something else entirely"


def test_indexes_of_partitions_are_attached_alone() -> None:
    """After what they are made of, before what refers to the whole; in the archive's order."""
    kinds = ["TABLE", "CONSTRAINT", "INDEX", "INDEX ATTACH", "INDEX ATTACH", "FK CONSTRAINT"]
    entries = [Entry(number, 0, 0, kind, "", "") for number, kind in enumerate(kinds)]
    before, alone, after = steps(entries)
    assert [one.kind for one in before] == kinds[:3]
    assert [one.kind for one in alone] == kinds[3:5]
    assert [one.kind for one in after] == kinds[5:]
    assert steps(entries[:3]) == [entries[:3]]
