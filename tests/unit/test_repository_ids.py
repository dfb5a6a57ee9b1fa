"""Backup ids: made, parsed, and found from what a person types."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import pytest

from aurora.errors import RepositoryNotFound, UsageError
from aurora.repository.ids import new_backup_id, parse_backup_id, resolve
from aurora.repository.layout import (
    ObjectType,
    check_database,
    content_name,
    is_safe,
    lease_name,
    parse_content,
    parse_dated,
    parse_lease,
    parse_session,
    session_name,
)

WHEN = datetime(2026, 11, 23, 15, 37, 42, tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    """As little of a backup as resolving needs."""

    id: str

    @property
    def type(self) -> str:
        """The middle of the id."""
        return parse_backup_id(self.id).type

    @property
    def created_at(self) -> datetime:
        """The beginning of the id."""
        return parse_backup_id(self.id).created_at


ENTRIES = [
    Entry("20261122T030000Z-full-kqzmw"),
    Entry("20261123T030000Z-full-abcmw"),
    Entry("20261123T140000Z-incremental-defgh"),
    Entry("20261123T150000Z-incremental-nkqzm"),
]


def test_an_id_tells_time_and_type() -> None:
    """Made in any zone, written in UTC, read back."""
    made = new_backup_id("full", WHEN.astimezone(timezone(timedelta(hours=2))), letters="kqzm")
    assert made == "20261123T153742Z-full-kqzm"
    parsed = parse_backup_id(made)
    assert (parsed.created_at, parsed.type, parsed.letters) == (WHEN, "full", "kqzm")


def test_ids_sort_by_time_and_differ() -> None:
    """Text order is time order, and two of one second differ."""
    ids = [new_backup_id("full", WHEN + timedelta(seconds=n)) for n in range(5)]
    assert ids == sorted(ids)
    assert len({new_backup_id("full", WHEN) for _ in range(50)}) > 45


@pytest.mark.parametrize(
    "text",
    ["", "x", "20261123T153742Z-full", "20261399T153742Z-full-kqzm", "20261123T153742Z-full-klom"],
)
def test_other_texts_are_no_ids(text: str) -> None:
    """Impossible dates and ambiguous letters are refused."""
    with pytest.raises(UsageError):
        parse_backup_id(text)


@pytest.mark.parametrize(
    "text,wanted",
    [
        ("20261122T030000Z-full-kqzmw", 0),
        ("20261122", 0),
        ("kqzmw", 0),
        ("abcmw", 1),
        ("fgh", 2),
        ("latest", 3),
        ("latest:full", 1),
        ("latest:incremental", 3),
    ],
)
def test_resolve(text: str, wanted: int) -> None:
    """Exact, beginning, trailing letters and latest, in any order of the entries."""
    assert resolve(text, ENTRIES) is ENTRIES[wanted]
    assert resolve(text, ENTRIES[::-1]) is ENTRIES[wanted]


def test_an_ambiguous_text_lists_the_candidates() -> None:
    """The user can copy the right one from the error."""
    with pytest.raises(UsageError, match="20261122T030000Z-full-kqzmw, 20261123T030000Z") as info:
        resolve("mw", ENTRIES)
    assert info.value.context["candidates"] == [ENTRIES[0].id, ENTRIES[1].id]


@pytest.mark.parametrize("text", ["", "2025", "zzz", "latest:sealed", "full"])
def test_nothing_found(text: str) -> None:
    """The error names what there is."""
    with pytest.raises(RepositoryNotFound) as info:
        resolve(text, ENTRIES)
    assert ENTRIES[-1].id in info.value.hint


def test_latest_of_nothing() -> None:
    """An empty repository says so."""
    with pytest.raises(RepositoryNotFound) as info:
        resolve("latest", [])
    assert "It holds no backup of this database" in info.value.hint


def test_names_are_read_back() -> None:
    """Every name that is built parses to its parts, and to nothing else."""
    payload_id, sid = "ab" * 32, bytes(range(16))
    name = content_name(ObjectType.CHUNK, payload_id, "00010203")
    assert name == f"chunks/ab/{payload_id}-00010203"
    parsed = parse_content(name)
    assert parsed is not None
    assert (parsed.type, parsed.payload_id) == (ObjectType.CHUNK, payload_id)
    assert parse_content(name.replace("/ab/", "/cd/")) is None
    assert parse_content(name.replace("chunks", "backups")) is None
    assert parse_session(session_name(sid)) == sid
    assert parse_lease(lease_name(sid, 7)) == (sid, "7")
    assert parse_lease(lease_name(sid, "done")) == (sid, "done")
    assert parse_dated("backups/db/x") == ("db", "x")
    assert parse_dated("chunks/db/x") is None
    assert parse_dated("backups/../x") is None


@pytest.mark.parametrize("label", ["production", "a", "app_1.main-eu", "0"])
def test_labels(label: str) -> None:
    """Slugs are labels."""
    assert check_database(label) == label


@pytest.mark.parametrize("label", ["", ".", "..", "A", "a/b", "-a", "a b", "ä", "a" * 65, "a\n"])
def test_other_labels(label: str) -> None:
    """Nothing that could leave its place or differ by case."""
    with pytest.raises(UsageError):
        check_database(label)


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/..", "a b", "a\n", "a" * 513])
def test_unsafe_names(name: str) -> None:
    """A name read from a document may not lead anywhere else."""
    assert not is_safe(name)
