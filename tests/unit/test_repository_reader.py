"""Reading from the other storage where the first one fails: what is said of it."""

from aurora.events import Event, Warned
from aurora.repository.reader import ObjectReader
from aurora.storage.memory import MemoryStorage


def test_a_storage_that_is_lost_is_not_told_object_by_object() -> None:
    """Every object comes; the first few are named, each once, and then that there are more."""
    lost, other = MemoryStorage(), MemoryStorage()
    names = [f"refs/app/{number}" for number in range(100)]
    for name in names:
        other.put(name, name.encode())
    told: list[Event] = []
    reader = ObjectReader(lost, fallback=other, sink=told.append)

    for name in [*names, *names]:
        assert reader.fetch(name, bytes) == name.encode()

    messages = [one.message for one in told if isinstance(one, Warned)]
    assert len(messages) == len(told) == 6
    assert [name for name in names if any(f"{name} was read" in one for one in messages)] == (
        names[:5]
    )
    assert messages[-1].startswith("more objects were read from the secondary")
