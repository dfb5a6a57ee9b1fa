"""Retrying: what may pass is tried again, nothing else, and nothing is done twice."""

from collections.abc import Iterator

import httpx
import pytest

from aurora.errors import (
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
    StorageUnfit,
)
from aurora.events import Event, Warned
from aurora.storage.base import ObjectExists, ObjectInfo
from aurora.storage.memory import MemoryStorage
from aurora.storage.retry import RETRY_AFTER, Patience, RetryingStorage, again
from aurora.storage.supabase_rest import SupabaseRest
from aurora.testing.faulty_storage import Fault, FaultyStorage, Killed, Kind


def patient(inner: FaultyStorage, pauses: list[float] | None = None) -> RetryingStorage:
    """Retries without really waiting."""
    kept = pauses if pauses is not None else []
    return RetryingStorage(inner, Patience(budget=60), sleep=kept.append)


def filled(*names: str) -> MemoryStorage:
    """A storage that holds *names*."""
    storage = MemoryStorage()
    for name in names:
        storage.put(name, name.encode())
    return storage


@pytest.mark.parametrize("operation", ["put", "get", "head", "list", "delete"])
@pytest.mark.parametrize("kind", [Kind.BEFORE, Kind.AFTER])
def test_each_operation_survives_passing_errors(operation: str, kind: Kind) -> None:
    """Three failures in a row, before or after the effect, are not seen by the caller."""
    inner = filled("a")
    faulty = FaultyStorage(inner, [Fault(kind, operation, times=3)])
    storage = patient(faulty)
    if operation == "put":
        storage.put("b", b"new")
        assert inner.get("b") == b"new"
    elif operation == "get":
        assert storage.get("a") == b"a"
    elif operation == "head":
        assert storage.head("a").size == 1
    elif operation == "list":
        assert [info.name for info in storage.list("")] == ["a"]
    else:
        storage.delete(iter(["a"]))
        assert not inner.objects
    faulty.assert_all_used()


def test_a_pause_that_the_server_asks_for_is_kept() -> None:
    """At least so long; beyond the budget there is no use in waiting."""
    pauses: list[float] = []
    asked = iter([7, 3])

    def attempt() -> str:
        if (wanted := next(asked, None)) is not None:
            raise StorageUnavailable("slow down", context={RETRY_AFTER: wanted})
        return "done"

    assert again(attempt, Patience(budget=60, first=0.01), sleep=pauses.append) == "done"
    assert pauses == [7.0, 3.0]
    asked = iter([61])
    with pytest.raises(StorageUnavailable):
        again(attempt, Patience(budget=60), sleep=pauses.append)
    assert len(pauses) == 2


def test_supabase_says_how_long_to_wait() -> None:
    """In the header of a 429; a refusal for good has no such thing."""
    client = SupabaseRest("http://127.0.0.1:9", "a key")
    for status, told in ((429, 3), (503, 3), (403, None)):
        answer = httpx.Response(status, headers={"Retry-After": "3"}, json={})
        assert client._refusal(answer, "look").context.get(RETRY_AFTER) == told
    client.close()


@pytest.mark.parametrize("kind", [StorageDenied, StorageFull, StorageUnfit, StorageError])
def test_permanent_errors_come_at_once(kind: type[StorageError]) -> None:
    """A refusal is told after one call and no pause."""
    pauses: list[float] = []
    faulty = FaultyStorage(filled(), [Fault(Kind.BEFORE, times=9, error=kind("no"))])
    storage = patient(faulty, pauses)
    with pytest.raises(kind):
        storage.put("a", b"1")
    with pytest.raises(kind):
        storage.get("a")
    assert len(faulty.calls) == 2
    assert pauses == []


def test_missing_object_is_told_at_once() -> None:
    """ObjectMissing is an answer, not a failure."""
    faulty = FaultyStorage(filled())
    with pytest.raises(ObjectMissing):
        patient(faulty).get("a")
    assert len(faulty.calls) == 1


def test_death_is_not_retried() -> None:
    """What is no StorageError, a signal above all, passes straight through."""
    faulty = FaultyStorage(filled(), [Fault(Kind.DIE, "put")])
    with pytest.raises(Killed):
        patient(faulty).put("a", b"1")
    assert len(faulty.calls) == 1


def test_lost_answer_of_create_only_is_recognised() -> None:
    """The second try of a create meets the object of the first, and that is success."""
    inner = filled()
    faulty = FaultyStorage(inner, [Fault(Kind.AFTER, "put")])
    patient(faulty).put("a", b"mine", create_only=True)
    assert inner.get("a") == b"mine"
    assert [call.operation for call in faulty.calls] == ["put", "put", "get"]


def test_anothers_object_is_not_taken_for_ours() -> None:
    """A create that failed once and then meets other bytes says that they are there."""
    inner = filled("a")
    faulty = FaultyStorage(inner, [Fault(Kind.BEFORE, "put")])
    with pytest.raises(ObjectExists):
        patient(faulty).put("a", b"mine", create_only=True)
    assert inner.get("a") == b"a"


def test_first_try_that_meets_equal_bytes_is_still_refused() -> None:
    """Without a lost answer there is nothing to excuse: create_only means new."""
    with pytest.raises(ObjectExists):
        patient(FaultyStorage(filled("a"))).put("a", b"a", create_only=True)


def test_look_after_a_lost_answer_may_fail_too() -> None:
    """The comparison itself is tried again like anything else."""
    inner = filled()
    faulty = FaultyStorage(inner, [Fault(Kind.AFTER, "put"), Fault(Kind.BEFORE, "get", times=2)])
    patient(faulty).put("a", b"mine", create_only=True)
    faulty.assert_all_used()


def test_listing_that_breaks_off_goes_on() -> None:
    """A listing that fails in the middle begins anew and tells nothing twice."""
    inner = filled("a", "b", "c")
    faulty = FaultyStorage(inner, [Fault(Kind.BREAK, "list", times=3)])
    assert [info.name for info in patient(faulty).list("")] == ["a", "b", "c"]
    faulty.assert_all_used()


def test_listing_restart_in_another_order() -> None:
    """No order is promised, so what was told is known by name and not by place."""

    class Shuffled(MemoryStorage):
        turn = 0

        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            self.turn += 1
            found = sorted(super().list(prefix), key=lambda info: info.name)
            return iter(found if self.turn % 2 else found[::-1])

    inner = Shuffled()
    for name in "abcdef":
        inner.put(name, b"1")
    faulty = FaultyStorage(inner, [Fault(Kind.BREAK, "list", times=2)])
    found = [info.name for info in patient(faulty).list("")]
    assert sorted(found) == list("abcdef")


def test_budget_ends_the_trying() -> None:
    """An outage longer than the budget is told, with the storage's own error."""
    faulty = FaultyStorage(filled("a"), [Fault(Kind.BEFORE, "get", times=10**6)])
    storage = RetryingStorage(faulty, Patience(budget=0.2, first=0.01, longest=0.02))
    with pytest.raises(StorageUnavailable):
        storage.get("a")
    assert len(faulty.calls) > 2


def test_pauses_grow_up_to_the_longest() -> None:
    """Pauses are random below a bound that doubles and then stays."""
    pauses: list[float] = []
    faulty = FaultyStorage(filled("a"), [Fault(Kind.BEFORE, "get", times=12)])
    storage = RetryingStorage(
        faulty, Patience(budget=3600, first=1.0, longest=8.0), sleep=pauses.append
    )
    storage.get("a")
    assert len(pauses) == 12
    for i, pause in enumerate(pauses):
        assert 0 <= pause <= min(8.0, 2.0**i)
    assert len(set(pauses)) > 6


def test_each_retry_is_told() -> None:
    """The sink hears of every pause; success alone tells nothing."""
    heard: list[Event] = []
    faulty = FaultyStorage(filled("a"), [Fault(Kind.BEFORE, "get", times=2)])
    storage = RetryingStorage(faulty, sink=heard.append, sleep=lambda _: None)
    storage.get("a")
    storage.get("a")
    assert [type(event) for event in heard] == [Warned, Warned]


def test_many_random_failures() -> None:
    """With a third of all calls failing, before or after, every object arrives whole."""
    inner = filled()
    faulty = FaultyStorage(inner, seed=7, rate=0.33)
    storage = RetryingStorage(faulty, Patience(budget=3600), sleep=lambda _: None)
    for i in range(200):
        storage.put(f"chunks/{i}", b"%d" % i, create_only=True)
    assert {info.name for info in storage.list("chunks/")} == {f"chunks/{i}" for i in range(200)}
    for i in range(200):
        assert storage.get(f"chunks/{i}") == b"%d" % i
    storage.delete(f"chunks/{i}" for i in range(200))
    assert not inner.objects
    assert len(faulty.calls) > 500
