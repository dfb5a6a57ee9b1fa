"""The audit trail: records that name those before them, on a storage that may be tampered with."""

import threading
from datetime import UTC, datetime

import pytest

from aurora import clock
from aurora.errors import ObjectDamaged
from aurora.repository import canonical, envelope
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import replicate
from aurora.repository.trail import Link, RecordName, Trail, bring_records
from aurora.storage.memory import MemoryStorage
from tests.unit.test_repository_kit import create, create_mirror, flip


def _trail(records: int = 0) -> tuple[MemoryStorage, Trail, list[Link]]:
    storage = MemoryStorage()
    trail = create(storage).trail()
    return storage, trail, [trail.append({"n": n}) for n in range(records)]


def test_each_record_names_the_one_before() -> None:
    """Numbers go up, the first has none before it, and the newest is the only head."""
    _, trail, links = _trail(12)
    found = list(trail.records(newest_first=False))
    assert [one.sequence for one in found] == list(range(1, 13))
    assert [one.previous for one in found] == [(), *((link,) for link in links[:-1])]
    report = trail.examine()
    assert (report.ok, report.records, report.heads, report.forks) == (True, 12, links[-1:], 0)


def test_a_record_is_sealed() -> None:
    """The storage sees no fact of it."""
    storage, trail, _ = _trail()
    trail.append({"table": "a very secret table"})
    assert all(b"secret table" not in stored for stored, _ in storage.objects.values())


def test_two_hosts_at_once_make_a_fork_that_the_next_record_joins() -> None:
    """Both saw the same head; nothing is lost and nothing is a fault."""
    storage, trail, _ = _trail(2)
    second = create_trail_seeing(storage, trail, hidden=1)
    second.append({"host": "b"})
    forked = trail.examine()
    assert (forked.ok, forked.forks, len(forked.heads)) == (True, 1, 2)
    trail.append({"host": "c"})
    joined = trail.examine()
    assert (joined.ok, joined.records, joined.forks, len(joined.heads)) == (True, 4, 1, 1)


def create_trail_seeing(storage: MemoryStorage, trail: Trail, *, hidden: int) -> Trail:
    """A trail on *storage* as a host sees it whose listings lack the newest records."""
    late = {one.name for one in trail.names()[-hidden:]}

    class Late:
        def __getattr__(self, name: str) -> object:
            return getattr(storage, name)

        def list(self, prefix: str) -> object:
            return (info for info in storage.list(prefix) if info.name not in late)

    other = Trail.__new__(Trail)
    other.__dict__.update(trail.__dict__)
    other.storage = Late()  # type: ignore[assignment]
    return other


def test_many_writers_at_once_lose_nothing() -> None:
    """Every record is there and is reached from the heads."""
    _, trail, _ = _trail(1)
    threads = [threading.Thread(target=trail.append, args=({"n": n},)) for n in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    trail.append({"last": True})
    report = trail.examine()
    assert (report.ok, report.records, len(report.heads)) == (True, 10, 1)


@pytest.mark.parametrize("number", [1, 3, 5])
def test_an_altered_record_is_named(number: int) -> None:
    """Any flipped byte: it does not open, and the others stay readable."""
    storage, trail, links = _trail(5)
    name = links[number - 1].name
    flip(storage, name)
    report = trail.examine()
    assert set(report.altered) == {name}
    assert report.removed == {}
    told: list[str] = []
    assert len(list(trail.records(on_damage=lambda one, _: told.append(one)))) == 4
    assert told == [name]


def test_a_removed_record_is_named_by_the_one_after_it() -> None:
    """And by what this machine remembers, where it was the newest."""
    storage, trail, links = _trail(5)
    storage.delete([links[1].name, links[4].name])
    report = trail.examine(remembered=[links[4]])
    assert report.removed == {
        links[1].name: f"named by {links[2].name}",
        links[4].name: "seen by this machine",
    }


def test_a_record_exchanged_by_a_holder_of_the_key_is_noticed() -> None:
    """Who has the key can seal another story under the name, but not with the hash seen."""
    storage, trail, links = _trail(3)
    told = trail.read(links[1].name)
    storage.objects.pop(links[1].name)
    forged = envelope.seal(
        canonical.dumps({**told.body, "n": "another story"}),
        kind=ObjectType.AUDIT,
        name=links[1].name,
        repository_id=trail._repository_id,
        session=trail._key,
    )
    storage.put(links[1].name, forged)
    assert trail.read(links[1].name).body["n"] == "another story"
    found = trail.examine().altered
    assert found == {links[1].name: f"it is another record than the one named by {links[2].name}"}


def test_the_secondary_tells_what_was_removed_here() -> None:
    """All records are gone from the primary, also the newest; its copies say so, and return."""
    storage, trail, links = _trail(3)
    mirror = create_mirror(MemoryStorage())
    replicate(storage, mirror)
    storage.delete([link.name for link in links])
    other = Trail.__new__(Trail)
    other.__dict__.update({**trail.__dict__, "storage": mirror})
    report = trail.examine(other=other)
    assert set(report.removed) == {link.name for link in links}
    assert sorted(bring_records(mirror, storage)) == sorted(link.name for link in links)
    assert trail.examine(other=other).ok


def test_a_record_moved_to_another_name_does_not_open() -> None:
    """The name is in the key."""
    storage, trail, links = _trail(1)
    parsed = RecordName.parse(links[0].name)
    assert parsed is not None
    other = RecordName(parsed.sequence, parsed.at, "0" * 16).name
    storage.put(other, storage.get(links[0].name))
    with pytest.raises(ObjectDamaged):
        trail.read(other)


def test_a_record_put_again_by_its_id_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spool that was cut off between put and delete uploads nothing twice."""
    _, trail, _ = _trail(1)
    first = trail.append({"n": 1}, record_id="a" * 16)
    assert trail.append({"n": 1}, record_id="a" * 16) == first
    assert len(trail.names()) == 2


def test_the_trail_goes_on_over_months_and_wrong_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet quarter, and a host that lives in the past: each record names what it saw."""
    _, trail, links = _trail()
    for month, year in ((1, 2026), (2, 2026), (6, 2026), (7, 1999), (6, 2026)):
        moment = datetime(year, month, 28, tzinfo=UTC)
        monkeypatch.setattr(clock, "now", lambda moment=moment: moment)
        links.append(trail.append({"month": month}))
    report = trail.examine()
    assert (report.ok, report.records) == (True, 5)
    sequences = [one.sequence for name in links if (one := RecordName.parse(name.name))]
    assert sequences == [1, 2, 3, 4, 4]  # the last one did not see the one of 1999: a fork
    assert report.forks == 1


def test_names_that_are_no_records_are_told() -> None:
    """Somebody else's object below audit/ harms nothing."""
    storage, trail, _ = _trail(1)
    storage.put("audit/notes.txt", b"hello")
    report = trail.examine()
    assert (report.ok, report.strangers) == (True, ["audit/notes.txt"])
    assert RecordName.parse("audit/2026-13/00000001-20261301T000000Z-0000000000000000") is None
    assert all(name.startswith(ObjectType.AUDIT.prefix) for name in report.strangers)
