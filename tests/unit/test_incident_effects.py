"""What a recovery was about to change, as its record holds it."""

from aurora.operations.incident.effects import Effect
from aurora.operations.incident.record import Running


def test_a_record_of_an_earlier_version_is_read() -> None:
    """It named the table that is there afterwards, and no transaction: nobody can say any more."""
    effect = {"how": "table", "target": "db", "relation": ["public", "then"], "restore_id": "r1"}
    dead = Running("run", "recover", "somebody", "2026-11-25T12:00:00Z", {"effect": effect})

    found = Effect.of(dead)

    assert (found.how, found.restore_id, found.begun, found.xid) == ("table", "r1", True, "")
    assert found.took("never asked") is None
