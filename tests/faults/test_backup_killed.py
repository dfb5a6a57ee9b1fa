"""kill -9 at every write of a backup: what is listed restores, the next run succeeds."""

import json
import shutil
from pathlib import Path

import pytest

from aurora.repository.verify import Level, verify
from aurora.storage.local import LocalStorage
from tests.fixtures.faults import CHANGE, CHUNK, Stand, rows_of, run_program, run_sql
from tests.fixtures.projects import NewTarget, Project

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

# One process that has everything imported; a child of its own dies at each put in turn.
PROGRAM = """
import json, os, shutil, sys, traceback
from aurora.events import discard
from aurora.operations.backup import BackupOptions, create_backup
from aurora.storage.local import LocalStorage
from aurora.testing.faulty_storage import Fault, FaultyStorage, Kind
from tests.fixtures.projects import Project

given = json.load(sys.stdin)

def run(directory, side, nth):
    storages = {name: LocalStorage(f"{directory}/{name}") for name in "ab"}
    storages[side] = FaultyStorage(storages[side], [Fault(Kind.SIGKILL, "put", nth)])
    project = Project(storages["a"], storages["b"])
    create_backup(
        given["dsn"], project.repository,
        BackupOptions(database="app", chunk_bytes=given["chunk"]),
        open_mirror=lambda: project.mirror, sink=discard,
    )

ends = []
for nth in range(1, 200):
    directory = f"{given['directory']}/{given['side']}{nth}"
    shutil.copytree(f"{given['directory']}/good", directory)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(directory, given["side"], nth)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if ends[-1] != -9:
        break
print(json.dumps(ends))
"""


@pytest.mark.parametrize("side", ["a", "b"])
def test_killed_at_every_write(shop: str, tmp_path: Path, new_target: NewTarget, side: str) -> None:
    """Of the primary (a), then of the secondary (b)."""
    # Few chunks: each is a write, and all are alike.
    run_sql(shop, "DELETE FROM orders WHERE id > 300")
    good = tmp_path / "good"
    stand = Stand(
        Project.create(LocalStorage(good / "a"), LocalStorage(good / "b")), shop, new_target
    )
    stand.begin()
    rows = rows_of(shop)
    done = run_program(PROGRAM, dsn=shop, directory=str(tmp_path), side=side, chunk=CHUNK)
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert set(ends[:-1]) == {-9}
    assert ends[-1] == 0, done.stderr
    assert len(ends) >= 6

    outcomes = []
    for nth in range(1, len(ends)):
        directory = tmp_path / f"{side}{nth}"
        left = Stand(
            Project(LocalStorage(directory / "a"), LocalStorage(directory / "b")),
            shop, new_target, stand.good, stand.before,
        )  # fmt: skip
        repository = left.project.repository
        listed = repository.backups()
        outcomes.append(len(listed))
        assert listed[0].id == stand.good
        assert all(entry.damage is None for entry in listed)
        assert verify(repository, listed, Level.FULL).ok, nth
        mirrored = left.project.repository_on_mirror
        assert verify(mirrored, mirrored.backups(), Level.FULL).ok, nth
        report = left.backup()
        assert (report.complete, report.replicated) == (True, True)
        if nth % 4 == 0 or nth == len(ends) - 1:
            left.restores_as(stand.good, stand.before)
            for entry in listed[1:]:
                left.restores_as(entry.id, rows, from_mirror=nth % 8 == 0)
            left.restores_as(report.backup_id, rows)
        shutil.rmtree(directory)
    # The manifest's put is the commit: before it there is one backup, after it two.
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == ({1, 2} if side == "a" else {2})
    run_sql(shop, CHANGE)
    stand.all_is_well()
