"""Real writers and real collectors at once, each call in a random order, deaths anywhere.

The second net is taken away: nothing is too young to be deleted. What is left is the protocol.
"""

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

import pytest

from aurora.errors import RepositoryLocked
from aurora.repository.collector import collect
from aurora.repository.door import Repository
from aurora.repository.keys import Passphrase
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import MirrorView, replicate
from aurora.repository.verify import Level, verify
from aurora.storage.base import Buffer, ObjectInfo, Storage
from aurora.storage.memory import MemoryStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Killed, Kind
from tests.fixtures.clocks import TestClock
from tests.unit.test_repository_kit import (
    OUTER_PASSPHRASE,
    backup,
    commit,
    create,
    create_mirror,
    names,
    payloads,
    reopen,
    restore,
)

CONTENTS = [payload for seed in range(3) for payload in payloads(seed, count=2, size=600)]
NO_AGE = timedelta(0)


class Turns:
    """Lets one call through at a time, chosen by chance among those that wait."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._changed = threading.Condition()
        self._waiting: list[object] = []
        self._running = False

    def take(self) -> None:
        """Wait for a turn."""
        me = object()
        with self._changed:
            self._waiting.append(me)
            # Others get a moment to come and be chosen instead.
            self._changed.wait(0.0005)
            while self._running or self._chance.choice(self._waiting) is not me:
                self._changed.wait(0.001)
            self._waiting.remove(me)
            self._running = True

    def give_back(self) -> None:
        """The call is done."""
        with self._changed:
            self._running = False
            self._changed.notify_all()


class InTurn:
    """*inner*, by turns."""

    def __init__(self, inner: Storage, turns: Turns) -> None:
        self._inner = inner
        self._turns = turns
        self.url = inner.url

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """As the inner storage, in its turn."""
        self._do(lambda: self._inner.put(name, data, create_only=create_only))

    def get(self, name: str) -> bytes:
        """As the inner storage, in its turn."""
        found: list[bytes] = []
        self._do(lambda: found.append(self._inner.get(name)))
        return found[0]

    def head(self, name: str) -> ObjectInfo:
        """As the inner storage, in its turn."""
        found: list[ObjectInfo] = []
        self._do(lambda: found.append(self._inner.head(name)))
        return found[0]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As the inner storage, in its turn."""
        found: list[ObjectInfo] = []
        self._do(lambda: found.extend(self._inner.list(prefix)))
        return iter(found)

    def delete(self, names: Iterable[str]) -> None:
        """One name a turn: a bulk delete is not one step either."""
        for name in names:
            self._do(lambda name=name: self._inner.delete([name]))  # type: ignore[misc]

    def _do(self, work: Callable[[], None]) -> None:
        self._turns.take()
        try:
            work()
        finally:
            self._turns.give_back()


class World:
    """One repository, and those who are at work on it at once."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = TestClock()
        self.storage = MemoryStorage("primary", now=self.clock)
        self.turns = Turns(self.chance)
        self.known: dict[str, list[bytes]] = {}
        self.errors: list[BaseException] = []
        repository = create(self.storage)
        for _ in range(3):
            chosen = self.some()
            self.known[backup(repository, chosen).id] = chosen
        self.clock.turn(days=3)

    def some(self) -> list[bytes]:
        return self.chance.sample(CONTENTS, self.chance.randint(1, 4))

    def door(self) -> Storage:
        """A way to the storage that may close at any call, for good."""
        deaths = []
        if self.chance.random() < 0.4:
            kind = self.chance.choice([Kind.DIE, Kind.DIE_AFTER])
            deaths = [Fault(kind, nth=self.chance.randint(1, 45))]
        return InTurn(FaultyStorage(self.storage, deaths), self.turns)

    def write(self, door: Storage, contents: list[bytes]) -> None:
        writer = reopen(door).write("db", workers=1)
        try:
            refs = [writer.put(ObjectType.CHUNK, content) for content in contents]
            self.known[commit(writer, refs).id] = contents
        except Killed:
            writer._lease.stop()  # a dead process sends no heartbeats, and ends nothing
            raise

    def collect(self, door: Storage, expired: list[tuple[str, str]]) -> None:
        repository = reopen(door)
        collect(repository.ground(), repository.catalog_alone(), expired=expired, min_age=NO_AGE)

    def together(self, *work: Callable[[], None]) -> None:
        """Run all at once; a death is no error."""

        def guarded(one: Callable[[], None]) -> None:
            try:
                one()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001 - told by the test itself
                self.errors.append(error)

        threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def round(self) -> None:
        listed = [(e.database, e.id) for e in reopen(self.storage).backups()]
        work: list[Callable[[], None]] = []
        for _ in range(self.chance.randint(1, 3)):
            door, contents = self.door(), self.some()
            work.append(lambda door=door, contents=contents: self.write(door, contents))  # type: ignore[misc]
        for _ in range(self.chance.randint(1, 2)):
            door = self.door()
            expired = self.chance.sample(listed, self.chance.randint(0, max(0, len(listed) - 1)))
            work.append(lambda door=door, expired=expired: self.collect(door, expired))  # type: ignore[misc]
        self.together(*work)
        assert self.errors == []
        self.check()
        self.clock.turn(hours=self.chance.choice([0, 0, 1, 25]))

    def check(self, repository: Repository | None = None) -> None:
        """Every backup that is listed is whole, and says what was put into it."""
        repository = repository or reopen(self.storage)
        entries = repository.backups()
        report = verify(repository, entries, Level.FULL, workers=1)
        assert report.bad == []
        for entry in entries:
            if entry.id in self.known:
                assert restore(repository, entry) == self.known[entry.id]

    def end(self) -> None:
        """When all have ended or died, two runs a day apart leave nothing but what is needed."""
        self.clock.turn(hours=25)
        for _ in range(2):
            self.collect(self.storage, [])
        repository = reopen(self.storage)
        needed = {"config", *names(self.storage, "keys/")}
        for entry in repository.backups():
            needed |= {one.name for one in repository.refs(entry).all_objects()}
            needed.add(entry.refs_name)
        left = {name for name in self.storage.objects if not name.startswith("leases/")}
        assert left == needed
        self.check()


def _live(seed: int, rounds: int) -> None:
    world = World(seed)
    for _ in range(rounds):
        world.round()
    world.end()


@pytest.mark.parametrize("seed", range(6))
def test_writers_and_collectors_at_once(seed: int) -> None:
    """No backup that is listed is ever damaged, and garbage is gone in the end."""
    _live(seed, rounds=3)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_writers_and_collectors_at_once_for_longer(seed: int) -> None:
    """The same, many times."""
    _live(seed, rounds=8)


@pytest.mark.parametrize("seed", range(3))
def test_copying_and_collecting_at_once(seed: int) -> None:
    """On a secondary, where a content that is copied again has the name that it had."""
    world = World(seed)
    secondary = MemoryStorage("secondary", now=world.clock)
    create_mirror(secondary)

    def view(storage: Storage) -> MirrorView:
        return MirrorView.open(storage, Passphrase(OUTER_PASSPHRASE))

    def door() -> Storage:
        deaths = []
        if world.chance.random() < 0.4:
            deaths = [Fault(Kind.DIE, nth=world.chance.randint(4, 60))]
        return InTurn(FaultyStorage(secondary, deaths), world.turns)

    def copy(outside: Storage) -> None:
        replicate(world.storage, view(outside), workers=1)

    def clear(outside: Storage, expired: list[tuple[str, str]]) -> None:
        there = reopen(view(outside))
        try:
            collect(there.ground(), there.catalog_alone(), expired=expired, min_age=NO_AGE)
        except RepositoryLocked:
            return  # another one is at work, or died just now

    copy(secondary)
    for _ in range(3):
        there = reopen(view(secondary))
        listed = [(e.database, e.id) for e in there.backups()]
        chosen = world.some()
        world.known[backup(reopen(world.storage), chosen).id] = chosen
        expired = world.chance.sample(listed, world.chance.randint(0, len(listed) - 1))
        # The primary lets go first: what it still has would be copied again.
        world.collect(world.storage, expired)
        one, two, three = door(), door(), door()
        world.together(
            lambda one=one: copy(one),  # type: ignore[misc]
            lambda two=two, expired=expired: clear(two, expired),  # type: ignore[misc]
            lambda three=three, expired=expired: clear(three, expired),  # type: ignore[misc]
        )
        assert world.errors == []
        world.check(reopen(view(secondary)))
        world.clock.turn(hours=world.chance.choice([0, 2, 25]))
    world.clock.turn(hours=25)
    for _ in range(2):
        copy(secondary)
        clear(secondary, [])
    there = reopen(view(secondary))
    world.check(there)
    assert {e.id for e in reopen(world.storage).backups()} <= {e.id for e in there.backups()}
