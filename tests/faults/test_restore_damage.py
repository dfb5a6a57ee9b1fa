"""One object of each kind is damaged on the primary, and what each command makes of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aurora import api
from aurora.errors import AuroraError, RepositoryNotFound
from aurora.events import Event, Warned
from aurora.storage.local import LocalStorage
from aurora.wiring import Aurora
from tests.fixtures.faults import CHANGE, Workplace, require_clear, rows_of, run_sql
from tests.fixtures.projects import NewTarget

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

KINDS = ["config", "keys", "sessions", "chunks", "tables", "refs", "backups"]
DAMAGES: dict[str, Callable[[Path, Path], None]] = {}


def damage(work: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    """Register a way to damage one file, with another one of its kind at hand."""
    DAMAGES[work.__name__] = work
    return work


@damage
def flipped(one: Path, _other: Path) -> None:
    """One bit in the middle differs."""
    content = bytearray(one.read_bytes())
    content[len(content) // 2] ^= 8
    replace(one, bytes(content))


@damage
def truncated(one: Path, _other: Path) -> None:
    """The end is missing."""
    replace(one, one.read_bytes()[:-20])


@damage
def missing(one: Path, _other: Path) -> None:
    """It is gone."""
    one.unlink()


@damage
def renamed(one: Path, _other: Path) -> None:
    """It has another name of the same form."""
    last = one.name[-1]
    one.rename(one.with_name(one.name[:-1] + ("b" if last != "b" else "c")))


@damage
def swapped(one: Path, other: Path) -> None:
    """It holds what another one should, and that one what it should."""
    first, second = one.read_bytes(), other.read_bytes()
    replace(one, second)
    replace(other, first)


def replace(path: Path, content: bytes) -> None:
    """Stored objects may be read-only."""
    path.unlink()
    path.write_bytes(content)


@pytest.fixture
def aurora(workplace: Workplace) -> Aurora:
    """The shop backed up twice to two storages; the second one shares most of the first."""
    opened = Aurora.load(workplace.directory / "aurora.toml")
    api.create_backup(opened)
    run_sql(workplace.dsn, CHANGE)
    api.create_backup(opened)
    return Aurora.load(workplace.directory / "aurora.toml")


def needed(aurora: Aurora, kind: str) -> list[str]:
    """Names of that kind that the last backup needs; what both backups need comes first."""
    if kind == "config":
        return ["config"]
    repository = aurora.open_primary()
    if kind == "keys":
        return sorted(info.name for info in repository.storage.list("keys/"))
    old, new = repository.backups()
    if kind in ("refs", "backups"):
        both = [(e.refs_name, e.manifest_name) for e in (new, old)]
        return [names[kind == "backups"] for names in both]
    mine = {one.name for one in repository.refs(new).objects if one.name.startswith(f"{kind}/")}
    shared = {one.name for one in repository.refs(old).objects} & mine
    size = {one.name: one.size for one in repository.refs(new).objects}
    largest_first = sorted(shared, key=lambda name: -size[name])  # rows, not roles
    return largest_first + sorted(mine - shared)


CASES = [(kind, how) for how in ("flipped", "missing", "swapped") for kind in KINDS]
CASES += [(kind, how) for how in ("truncated", "renamed") for kind in ("keys", "chunks", "backups")]


@pytest.mark.parametrize("kind, how", CASES)
def test_damage_on_the_primary(
    aurora: Aurora, workplace: Workplace, new_target: NewTarget, kind: str, how: str
) -> None:
    """verify names it, restore reads the secondary's copy, heal brings it back, the next run
    succeeds; without the secondary a restore is right or refused."""
    names = needed(aurora, kind)
    victim, other = names[0], (names[1:] or needed(aurora, "chunks"))[0]
    if kind == "config":
        other = needed(aurora, "keys")[0]
    root = workplace.directory / "a"
    rows = rows_of(workplace.dsn)
    backup_id = aurora.open_primary().resolve("latest", "app").id
    lost_slot = kind == "keys" and how in ("missing", "renamed")
    newest_is_hidden = kind in ("refs", "backups") and how in ("missing", "renamed")
    DAMAGES[how](root / victim, root / other)

    # verify names object, tables and backups
    if kind not in ("config", "keys") and not newest_is_hidden:
        found = api.verify_backup(aurora, backup_id)
        named = {bad.name: bad for bad in found.report.bad}
        assert victim in named
        assert f"app/{backup_id}" in named[victim].backups
        assert named[victim].problem == ("missing" if how in ("missing", "renamed") else "damaged")
        if kind in ("chunks", "tables"):
            assert found.tables[victim], "no table is named"
    elif kind == "config":
        with pytest.raises(AuroraError) as refused:
            api.verify_backup(aurora, backup_id)
        assert refused.value.exit_code in (10, 13, 41, 42)
        assert "no repository at" in refused.value.message or "config" in refused.value.message

    # the secondary's copy stands in, with a warning
    told: list[Event] = []
    target = new_target()
    report = api.restore(aurora, backup_id, target=target, sink=told.append)
    assert (report.outcome, report.problems) == ("restored", [])
    assert rows_of(target) == rows
    warned = {event.code for event in told if isinstance(event, Warned)}
    if kind != "keys":
        assert "read-from-secondary" in warned or newest_is_hidden

    # without the secondary: the right rows, or a clear refusal
    alone = alone_of(workplace)
    second = new_target()
    try:
        api.restore(alone, backup_id, target=second)
    except AuroraError as error:
        require_clear(error, 10, 12, 13, 40, 41, 42)
    else:
        assert rows_of(second) == rows

    # heal, and all is as it was
    [healed] = api.heal_backups(aurora, backup_id)
    assert healed.secondary == []
    if lost_slot:  # it may have been removed on purpose: it does not come back by itself
        assert victim not in healed.primary
        return
    assert healed.failed == {}
    assert victim in healed.primary
    fresh = Aurora.load(workplace.directory / "aurora.toml")
    found = api.verify_backup(fresh, backup_id)
    assert found.report.ok, found.report.bad
    again = api.create_backup(fresh)
    assert (again.complete, again.replicated) == (True, True)
    assert api.verify_backup(fresh, again.backup_id).report.ok


def alone_of(workplace: Workplace) -> Aurora:
    """The same configuration without a secondary."""
    text = (workplace.directory / "aurora.toml").read_text()
    begin, end = text.index("[secondary]"), text.index("[backup]")
    (workplace.directory / "alone.toml").write_text(text[:begin] + text[end:])
    return Aurora.load(workplace.directory / "alone.toml")


@pytest.mark.parametrize("kind", KINDS)
def test_loss_on_the_secondary(aurora: Aurora, workplace: Workplace, kind: str) -> None:
    """verify of the secondary names it, heal brings it back from the primary."""
    victim = needed(aurora, kind)[0]
    stored = aurora.open_secondary_view().stored_name(victim)
    (workplace.directory / "b" / stored).unlink()
    if kind == "keys":  # a lost slot comes back by the mirror run
        assert api.replicate(aurora).copied_objects >= 1  # with records of the audit trail
        assert (workplace.directory / "b" / stored).is_file()
        assert api.verify_backup(aurora, "latest", storage="secondary").report.ok
        return
    if kind != "config":
        entry = aurora.open_primary().resolve("latest", "app")
        if kind == "backups":
            assert entry.id not in {e.id for e in aurora.open_secondary().backups()}
        else:
            report = api.verify_backup(aurora, entry.id, storage="secondary").report
            assert [bad.name for bad in report.bad] == [victim]
    [healed] = api.heal_backups(aurora, "latest")
    assert (healed.failed, healed.primary) == ({}, [])
    assert victim in healed.secondary
    assert api.verify_backup(aurora, "latest", storage="secondary").report.ok


def test_the_primary_is_gone(aurora: Aurora, workplace: Workplace, new_target: NewTarget) -> None:
    """All of it: the secondary lists, verifies and restores; the primary is told missing."""
    rows = rows_of(workplace.dsn)
    (workplace.directory / "a").rename(workplace.directory / "gone")
    opened = Aurora.load(workplace.directory / "aurora.toml")
    with pytest.raises(RepositoryNotFound) as refused:
        api.create_backup(opened)
    assert (refused.value.exit_code, bool(refused.value.hint)) == (10, True)
    target = new_target()
    assert api.restore(opened, "latest", target=target, storage="secondary").problems == []
    assert rows_of(target) == rows
    assert api.verify_backup(opened, "latest", storage="secondary").report.ok
    assert len(list(LocalStorage(workplace.directory / "b").list(""))) > 10
