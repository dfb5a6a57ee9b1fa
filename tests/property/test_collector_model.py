"""The collector's protocol, every interleaving of it: no backup ever names what is gone.

A storage that can put, get, list and delete, each at once and seen by all from then on.
Writers commit backups of one content, retention removes any of them at any time, collectors
mark, publish, wait, look again, delete and retire. Whoever is at work may die at any step; a
collector comes again and goes on with any list that it finds. The explorer visits every state
that can be reached, and each protocol that leaves something out is shown to lose a backup.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest

OLD = "old"
FIRST = "X.0"  # the content as the old backup's run stored it


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is done, and what is left out."""

    lease_first: bool = True  # a writer puts its lease before it looks
    reads_lists: bool = True  # a writer reuses nothing that a candidate list names
    fresh_names: bool = True  # a second upload is a second name
    publishes: bool = True  # a collector puts its list before anything else
    waits: bool = True  # for leases that were there when the list was put
    looks_again: bool = True
    retires_last: bool = True
    fences: bool = True  # a writer commits only while its lease is there
    only_named: bool = True  # a writer reuses only what a backup names
    copies: bool = False  # writers copy to a secondary, where a content has one name for ever
    alone: bool = False  # collectors claim the storage, and give way to each other
    checks_list: bool = True  # a collector looks whether its list is still there, then deletes


class Published(NamedTuple):
    """A candidate list on the storage."""

    id: int
    names: frozenset[str]
    before: frozenset[int]  # writers whose lease was there when it was put


class State(NamedTuple):
    """All there is: the storage, and where each actor stands."""

    objects: frozenset[str]
    backups: frozenset[tuple[str, str]]  # id, the name it needs
    lists: frozenset[Published]
    leases: frozenset[int]
    writers: tuple[tuple[Any, ...], ...]
    collectors: tuple[tuple[Any, ...], ...]
    claims: frozenset[int]  # of collectors
    rounds: tuple[int, ...]  # that each collector has begun
    next_list: int
    removals: int  # that retention may still do


Step = tuple[str, State]


def lost(state: State) -> str:
    """What a backup names and is not there, in words."""
    for backup, name in sorted(state.backups):
        if name not in state.objects:
            return f"{backup} needs {name}"
    return ""


def writer(  # noqa: C901, PLR0912 - one table of steps reads straighter than its pieces
    number: int, state: State, protocol: Protocol
) -> Iterator[Step]:
    """One run that backs up the content."""
    at, *held = state.writers[number]

    def go(*where: Any, **changes: Any) -> State:
        now = (*state.writers[:number], where, *state.writers[number + 1 :])
        return state._replace(writers=now, **changes)

    mine = state.leases | {number}
    if at == "begin":
        if protocol.lease_first:
            yield "puts its lease", go("leased", leases=mine)
        else:
            yield "does not put its lease yet", go("leased")
    elif at == "leased":
        refused = frozenset(n for one in state.lists for n in one.names)
        yield "reads gc/", go("read", refused if protocol.reads_lists else frozenset())
    elif at == "read":
        named = frozenset(name for _, name in state.backups)
        leases = state.leases if protocol.lease_first else mine
        if protocol.copies:
            yield from _copies(held[0], state, lambda *where: go(*where, leases=leases))
            if FIRST in held[0]:
                yield "leaves it for another time", go("done", leases=leases - {number})
        else:
            stored = named & state.objects if protocol.only_named else state.objects
            yield "reads refs, lists", go("ready", stored - held[0], leases=leases)
    elif at == "ready":
        for name in sorted(held[0]):
            yield f"reuses {name}", go("has", name)
        is_fresh = protocol.fresh_names and not protocol.copies
        name = f"X.{number + 1}" if is_fresh else FIRST
        yield f"puts {name}", go("has", name, objects=state.objects | {name})
    elif at == "has":
        if number in state.leases or not protocol.fences:
            made = (f"backup {number + 1}", held[0])
            yield "commits", go("committed", backups=state.backups | {made})
        else:
            yield "is fenced", go("dead")
    elif at == "committed":
        yield "ends its lease", go("done", leases=state.leases - {number})
    if at not in ("begin", "done", "dead"):
        yield "dies", go("dead")


def _copies(refused: frozenset[str], state: State, go: Callable[..., State]) -> Iterator[Step]:
    """What a copying run does with its listing: it relies on what is there, named or not."""
    if FIRST in refused:
        return
    if FIRST in state.objects:
        yield "finds it there", go("has", FIRST)
    else:
        yield "finds it missing", go("ready", frozenset())


def expiries(state: State, protocol: Protocol) -> Iterator[Step]:
    """A lease runs out only when nobody trusts it any more: its holder does for half the time."""
    for number in state.leases:
        if state.writers[number][0] == "dead" or not protocol.fences:
            yield f"lease {number} runs out", state._replace(leases=state.leases - {number})


def retention(state: State) -> Iterator[Step]:
    """Any backup may be removed at any time; the worst retention there can be."""
    if state.removals:
        for one in sorted(state.backups):
            left = state.backups - {one}
            yield f"removes {one[0]}", state._replace(backups=left, removals=state.removals - 1)


def collector(  # noqa: C901, PLR0912 - likewise
    number: int, state: State, protocol: Protocol, rounds: Sequence[int]
) -> Iterator[Step]:
    """One that collects, dies, and comes again."""
    at, *held = state.collectors[number]

    def go(*where: Any, **changes: Any) -> State:
        now = (*state.collectors[:number], where, *state.collectors[number + 1 :])
        if where == ("idle",):
            changes.setdefault("claims", state.claims - {number})
        return state._replace(collectors=now, **changes)

    named = frozenset(name for _, name in state.backups)
    if protocol.alone and at in ("idle", "claimed", "dead"):
        has_work = state.lists or state.rounds[number] < rounds[number]
        yield from _claims(number, state, go) if at != "idle" or has_work else ()
    elif at in ("idle", "alone"):
        for one in state.lists:
            yield f"goes on with list {one.id}", go("published", one)
        if state.rounds[number] < rounds[number]:
            begun = tuple(r + (n == number) for n, r in enumerate(state.rounds))
            yield "reads all refs", go("marking", named, rounds=begun)
    elif at == "marking":
        garbage = state.objects - held[0]
        if garbage and protocol.publishes:
            yield "lists, marks", go("marked", garbage)
        elif garbage:
            yield "lists, marks", go("deleting", Published(-1, garbage, frozenset()), garbage)
        else:
            yield "finds nothing", go("idle")
    elif at == "marked":
        made = Published(state.next_list, held[0], state.leases)
        lists = state.lists | {made}
        yield "publishes", go("published", made, lists=lists, next_list=state.next_list + 1)
    elif at == "published":
        if not protocol.waits or not (held[0].before & state.leases):
            yield "finds no lease", go("waited", held[0])
        else:
            yield "finds leases, ends", go("idle")
    elif at == "waited":
        doomed = held[0].names - named if protocol.looks_again else held[0].names
        lists = state.lists if protocol.retires_last else state.lists - {held[0]}
        then = "looked" if protocol.checks_list and protocol.publishes else "deleting"
        yield "looks again", go(then, held[0], doomed, lists=lists)
    elif at == "looked":
        if held[0] in state.lists or not protocol.retires_last:
            yield "finds its list", go("deleting", *held)
        else:
            yield "finds its list gone", go("idle")
    elif at == "deleting":
        doomed = held[1] & state.objects
        for name in sorted(doomed):
            left = state.objects - {name}
            yield f"deletes {name}", go("deleting", held[0], doomed - {name}, objects=left)
        if not doomed:
            yield "retires its list", go("idle", lists=state.lists - {held[0]})
    if at not in ("idle", "dead"):
        yield "dies", go("dead" if protocol.alone else "idle")


def _claims(number: int, state: State, go: Callable[..., State]) -> Iterator[Step]:
    """Put a claim, then look for others': of two, at most one sees none."""
    at = state.collectors[number][0]
    if at == "idle":
        yield "claims the storage", go("claimed", claims=state.claims | {number})
    elif at == "claimed" and state.claims == {number}:
        yield "is alone", go("alone")
    elif at == "claimed":
        yield "gives way", go("idle", claims=state.claims - {number})
    else:
        yield "is long dead: its claim runs out", go("idle", claims=state.claims - {number})


def moves(state: State, protocol: Protocol, rounds: Sequence[int]) -> Iterator[Step]:
    """All that can happen next."""
    for number in range(len(state.writers)):
        for what, then in writer(number, state, protocol):
            yield f"writer {number + 1} {what}", then
    for number in range(len(state.collectors)):
        for what, then in collector(number, state, protocol, rounds):
            yield f"collector {number + 1} {what}", then
    for what, then in retention(state):
        yield f"retention {what}", then
    yield from expiries(state, protocol)


@dataclass(slots=True)
class Explored:
    """What an exploration found."""

    states: int = 0
    loss: str = ""
    path: tuple[str, ...] = ()  # the shortest way to it
    final: int = 0  # states in which nothing more can happen


def explore(
    protocol: Protocol,
    *,
    writers: int,
    rounds: Sequence[int] = (1,),
    removals: int = 1,
    at_end: Callable[[State], None] = lambda _: None,
) -> Explored:
    """Visit every state, breadth first, until a backup is lost.

    *rounds* are how often each collector begins anew; one with none only goes on with lists.
    """
    first = State(
        objects=frozenset({FIRST}),
        backups=frozenset({(OLD, FIRST)}),
        lists=frozenset(),
        leases=frozenset(),
        claims=frozenset(),
        writers=(("begin",),) * writers,
        collectors=(("idle",),) * len(rounds),
        rounds=(0,) * len(rounds),
        next_list=1,
        removals=removals,
    )
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    waiting = deque([first])
    found = Explored()
    while waiting:
        state = waiting.popleft()
        found.states += 1
        if loss := lost(state):
            found.loss = loss
            found.path = tuple(_way(state, came_from))
            return found
        is_final = True
        for what, then in moves(state, protocol, rounds):
            is_final = False
            if then not in came_from:
                came_from[then] = (state, what)
                waiting.append(then)
        if is_final:
            found.final += 1
            at_end(state)
    return found


def _way(state: State, came_from: dict[State, tuple[State, str] | None]) -> list[str]:
    steps = []
    while (origin := came_from[state]) is not None:
        state, what = origin
        steps.append(what)
    return steps[::-1]


GOOD = Protocol()
COPYING = Protocol(copies=True, alone=True)
LOOSE = Protocol(only_named=False)  # safe with one collector, see below
ONE = {"writers": 1}
TWO = {"writers": 2}
HELPED = {"writers": 2, "rounds": (1, 0)}  # a second collector goes on with the first one's list
SIMPLER: dict[str, tuple[Protocol, dict[str, Any]]] = {
    "mark and sweep": (Protocol(publishes=False, waits=False, looks_again=False), ONE),
    "the lease after the listing": (replace(GOOD, lease_first=False), TWO),
    "the lists not read": (replace(GOOD, reads_lists=False), TWO),
    "leases not waited for": (replace(GOOD, waits=False), ONE),
    "no second look": (replace(GOOD, looks_again=False), ONE),
    "names used twice": (replace(GOOD, fresh_names=False), ONE),
    "no fence at the commit": (replace(GOOD, fences=False), ONE),
    "the list not looked for before the deletes": (replace(GOOD, checks_list=False), HELPED),
    # That a writer reuses only what a backup names makes this one safe; without that, it is not.
    "the list retired before the deletes": (replace(LOOSE, retires_last=False), ONE),
    "two collectors at once where names are fixed": (replace(COPYING, alone=False), HELPED),
}


def _is_clean(state: State) -> None:
    """At the end no list, no lease and no claim is left, so nothing is kept off for ever."""
    assert not state.lists
    assert not state.leases
    assert not state.claims


@pytest.mark.parametrize("protocol", [GOOD, LOOSE, COPYING], ids=["good", "loose", "copying"])
def test_no_backup_is_lost(protocol: Protocol) -> None:
    """Two writers, retention, a collector, all of whom may die anywhere: in no state at all."""
    found = explore(protocol, writers=2, at_end=_is_clean)
    assert (found.loss, found.path) == ("", ())
    assert found.final > 10


def test_no_backup_is_lost_to_two_collectors() -> None:
    """Both go on with each other's lists; on a secondary one gives way."""
    for protocol in (GOOD, COPYING):
        found = explore(protocol, writers=1, rounds=(1, 1), at_end=_is_clean)
        assert (found.loss, found.path) == ("", ())


@pytest.mark.parametrize("name", SIMPLER)
def test_a_simpler_protocol_loses_a_backup(name: str) -> None:
    """Each step is there for a reason: without it the explorer finds the way to a loss."""
    protocol, size = SIMPLER[name]
    found = explore(protocol, **size)
    assert " needs " in found.loss, f"{found.states} states"
    assert found.path


@pytest.mark.long
@pytest.mark.parametrize(
    "protocol, size",
    [
        (GOOD, {"writers": 3}),
        (GOOD, {"writers": 2, "rounds": (2,), "removals": 2}),
        (GOOD, {"writers": 2, "rounds": (1, 0), "removals": 2}),
        (GOOD, {"writers": 2, "rounds": (1, 1)}),
        (GOOD, {"writers": 1, "rounds": (2, 1), "removals": 2}),
        (COPYING, {"writers": 3, "rounds": (2,), "removals": 2}),
        (COPYING, {"writers": 2, "rounds": (1, 1), "removals": 2}),
    ],
)
def test_no_backup_is_lost_in_larger_worlds(protocol: Protocol, size: dict[str, Any]) -> None:
    """Up to some millions of states."""
    found = explore(protocol, **size, at_end=_is_clean)
    assert (found.loss, found.path) == ("", ())


@pytest.mark.long
def test_reusing_what_no_backup_names_needs_a_lone_collector() -> None:
    """Why a writer reuses only what a backup names."""
    found = explore(LOOSE, writers=2, rounds=(1, 0), removals=2)
    assert " needs " in found.loss
