"""The probe: each way in which a storage may fall short has its own finding."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from aurora import clock
from aurora.errors import StorageDenied, StorageUnavailable
from aurora.storage.base import Buffer, ObjectInfo, Storage
from aurora.storage.local import LocalStorage
from aurora.storage.memory import MemoryStorage
from aurora.storage.probe import Level, ProbeReport, file_system, probe
from aurora.storage.readonly import ReadOnlyStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Kind


def probed(storage: Storage) -> ProbeReport:
    """A probe that does not wait and moves little."""
    return probe(storage, sleep=lambda _: None, large=100_000)


def levels(report: ProbeReport) -> dict[str, str]:
    """The findings that are not fine."""
    return {f.code: f.level.value for f in report.findings if f.level is not Level.OK}


def test_good_storage_passes_and_is_left_clean() -> None:
    """Nothing to complain about, nothing left behind."""
    storage = MemoryStorage()
    storage.put("config", b"1")
    report = probe(storage)
    assert report.ok
    assert levels(report) == {}
    assert report.create_only is True
    assert report.skew is not None
    assert abs(report.skew) < timedelta(seconds=5)
    assert list(storage.objects) == ["config"]
    assert "16 MiB" in (report.finding("probe-large") or report.findings[0]).message


def test_local_directory(tmp_path: Path) -> None:
    """A directory passes too, with the name of its file system."""
    report = probed(LocalStorage(tmp_path))
    assert report.ok
    found = report.finding("probe-durability")
    assert found is not None
    assert file_system(tmp_path)
    assert file_system(tmp_path) in found.message
    assert list(LocalStorage(tmp_path).list("")) == []


def test_memory_file_system_is_warned_about() -> None:
    """A repository in tmpfs is gone with the next restart."""
    shared = Path("/dev/shm")
    if file_system(shared) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    report = probed(LocalStorage(shared / "aurora-probe-test" / "never"))
    (shared / "aurora-probe-test/never/probe").rmdir()
    (shared / "aurora-probe-test/never").rmdir()
    (shared / "aurora-probe-test").rmdir()
    assert levels(report) == {"probe-durability": "warning"}


class Altered(MemoryStorage):
    """A storage with one bad habit."""

    habit = ""

    def __init__(self, habit: str) -> None:
        super().__init__()
        self.habit = habit

    def put(self, name: str, data: Buffer, *, create_only: bool = False) -> None:
        """Ignores the condition, or lowers the name."""
        if self.habit == "lower":
            name = name.lower()
        super().put(name, data, create_only=create_only and self.habit != "unconditional")

    def get(self, name: str) -> bytes:
        """Answers for everything, or forbids what is not there."""
        if name not in self.objects and self.habit == "answers":
            return b"<html>Welcome</html>"
        if name not in self.objects and self.habit == "forbids":
            raise StorageDenied("forbidden")
        data = super().get(name)
        return data[:50_000] if self.habit == "truncates" else data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Shows nothing."""
        return iter(()) if self.habit == "empty" else super().list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        """Does nothing, or refuses."""
        if self.habit == "undeletable":
            raise StorageDenied("forbidden")
        if self.habit != "keeps":
            super().delete(names)


@pytest.mark.parametrize(
    "habit, wanted",
    [
        ("lower", {"probe-names": "error"}),
        ("answers", {"probe-missing": "error"}),
        ("forbids", {"probe-missing": "error"}),
        ("truncates", {"probe-large": "error"}),
        ("empty", {"probe-list": "error", "probe-names": "error"}),
        ("keeps", {"probe-delete": "warning"}),
        ("undeletable", {"probe-delete": "warning"}),
        ("unconditional", {}),
    ],
)
def test_bad_habits(habit: str, wanted: dict[str, str]) -> None:
    """Silent refusals and half truths are found out, each under its own code."""
    report = probed(Altered(habit))
    assert levels(report) == wanted
    assert report.ok == ("error" not in wanted.values())
    assert report.create_only is (habit != "unconditional")
    for finding in report.findings:
        assert finding.level is Level.OK or finding.hint


def test_lagging_listing_is_a_warning() -> None:
    """A new object that shows up in the second listing is no loss, but is told."""
    faulty = FaultyStorage(MemoryStorage(), [Fault(Kind.LAG, "list", times=3)])
    report = probed(faulty)
    assert levels(report) == {"probe-list": "warning"}
    faulty.assert_all_used()


@pytest.mark.parametrize(
    "minutes, warned", [(-10, True), (10, True), (-4, False), (4, False), (-1441, True)]
)
def test_clock_skew(minutes: int, warned: bool) -> None:
    """A clock ten minutes off is noticed, four minutes are let pass."""
    report = probe(
        MemoryStorage(),
        now=lambda: clock.now() + timedelta(minutes=minutes),
        sleep=lambda _: None,
        large=1000,
    )
    assert levels(report) == ({"probe-clock": "warning"} if warned else {})
    assert report.skew is not None
    assert abs(report.skew + timedelta(minutes=minutes)) < timedelta(seconds=5)
    if warned:
        found = report.finding("probe-clock")
        assert found is not None
        assert f"{abs(minutes)} minutes" in found.message
        assert ("ahead of" if minutes > 0 else "behind") in found.message


def test_unwritable_storage_is_one_error() -> None:
    """Where nothing can be written, that alone is said, in the storage's own words."""
    report = probed(ReadOnlyStorage(MemoryStorage()))
    assert not report.ok
    assert levels(report)["probe-write"] == "error"
    assert report.finding("probe-read") is None
    assert report.create_only is None


def test_every_failing_call_is_survived() -> None:
    """Whichever call fails, a report comes back and names an error."""
    counter = FaultyStorage(MemoryStorage())
    assert probed(counter).ok
    for nth in counter.nths():
        faulty = FaultyStorage(
            MemoryStorage(), [Fault(Kind.BEFORE, nth=nth, error=StorageUnavailable("gone"))]
        )
        report = probed(faulty)
        faulty.assert_all_used()
        assert not report.ok, nth


def test_leavings_of_killed_probes_are_cleared() -> None:
    """Probe objects older than 48 hours go; fresh ones, another probe's, stay."""
    storage = MemoryStorage()
    for name, hours in (("probe/old", 49), ("probe/fresh", 47)):
        storage.put(name, b"1")
        data, info = storage.objects[name]
        modified = info.modified_at - timedelta(hours=hours)
        storage.objects[name] = (data, replace(info, modified_at=modified))
    assert probed(storage).ok
    assert list(storage.objects) == ["probe/fresh"]
