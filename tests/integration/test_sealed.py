"""Sealed backups: made with public keys alone, opened with an identity, or by public tools."""

import os
import subprocess
from pathlib import Path

import psycopg
import pyrage
import pytest

from aurora.engines.supabase import documents
from aurora.errors import CheckFailed, ObjectDamaged, UsageError, WrongKey
from aurora.events import discard
from aurora.operations.backup import BackupOptions, BackupReport
from aurora.operations.content import Backup
from aurora.operations.objects import SourceObjects, pages
from aurora.operations.objects_read import Packs
from aurora.operations.restore import run_restore
from aurora.operations.restore_plan import RestoreOptions, plan_restore
from aurora.operations.restore_table import run_restore_table
from aurora.operations.restore_table_plan import TableOptions, plan_restore_table
from aurora.operations.seal import create_sealed
from aurora.operations.verify import verify_backup
from aurora.postgres.embedded import EmbeddedServer
from aurora.postgres.tools import find_tools
from aurora.repository.layout import part_name
from aurora.repository.sealed import Identities, Recipients, new_identity
from aurora.repository.sealed_door import SealedRepository
from aurora.repository.verify import Level
from aurora.storage.base import Storage
from tests.fixtures.looks import compare, run_sql
from tests.fixtures.projects import LABEL, NewTarget, Project
from tests.fixtures.storage_projects import NewStorageProject

pytest_plugins = [
    "tests.fixtures.sample",
    "tests.fixtures.backups",
    "tests.fixtures.hosted",
    "tests.fixtures.objects",
]

CHUNK = 256 << 10


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """An identity file."""
    path = tmp_path / "identity.txt"
    new_identity(path)
    return path


def public(identity: Path) -> str:
    """Its public key, as the comment in the file says it."""
    return identity.read_text().splitlines()[0].removeprefix("# public key: ")


def seal(
    project: Project,
    dsn: str,
    *identities: Path,
    mirrored: bool = False,
    objects: SourceObjects | None = None,
) -> BackupReport:
    """A sealed backup in small parts, with *objects* of a Storage where they are given."""
    return create_sealed(
        dsn,
        project.repository,
        BackupOptions(database=LABEL, chunk_bytes=CHUNK, objects=objects or SourceObjects()),
        recipients=Recipients.parse(public(one) for one in identities),
        open_mirror=(lambda: project.mirror) if mirrored else None,
        sink=discard,
    )


def opened(storage: Storage, identity: Path, backup_id: str = "latest") -> Backup:
    """A sealed backup, opened with nothing but the identity."""
    repository = SealedRepository(storage, Identities.read([identity]))
    return Backup(repository, repository.resolve(backup_id, LABEL))


@pytest.mark.pg_majors(15, 17)
def test_restored_with_the_identity_alone(
    project: Project, sample_database: str, new_target: NewTarget, identity: Path
) -> None:
    """From either storage, without any key of the repository, the database is the same."""
    made = seal(project, sample_database, identity, mirrored=True)
    assert made.complete
    assert made.replicated

    for storage in (project.primary, project.mirror):
        target = new_target()
        plan = plan_restore(opened(storage, identity), target, RestoreOptions())
        report = run_restore(plan, make_safety_backup=None, sink=discard)
        assert (report.outcome, report.refusals, report.problems) == ("restored", [], [])
        compare(sample_database, target)


def test_one_table(project: Project, sample_database: str, identity: Path) -> None:
    """A table comes out of a sealed backup as out of any other."""
    before = run_sql(sample_database, "SELECT count(*), sum(total) FROM public.orders")
    seal(project, sample_database, identity)
    run_sql(sample_database, "DROP TABLE public.orders CASCADE")

    backup = opened(project.primary, identity)
    plan = plan_restore_table(backup, "public.orders", sample_database, TableOptions())
    report = run_restore_table(plan, make_safety_backup=lambda _: "", sink=discard)

    assert report.problems == []
    assert run_sql(sample_database, "SELECT count(*), sum(total) FROM public.orders") == before


@pytest.mark.pg_majors(15, 18)
def test_by_hand_with_public_tools(
    project: Project,
    sample_database: str,
    new_target: NewTarget,
    pg: EmbeddedServer,
    identity: Path,
    tmp_path: Path,
) -> None:
    """age, zstd, psql and pg_restore give the same database, by the script in the backup."""
    made = seal(project, sample_database, identity)
    parts = downloaded(project.primary, made.backup_id, tmp_path)
    target = new_target()
    with psycopg.connect(pg.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {target.rpartition('/')[2].partition('?')[0]}".encode())

    script = opened_by_age(parts / "restore.sh.zst.age", identity)
    (tmp_path / "restore.sh").write_bytes(script)
    done = run_by_hand(tmp_path / "restore.sh", identity, target, parts, pg)

    assert done.returncode == 0, done.stderr
    assert f"restored {made.backup_id}: {made.rows} rows" in done.stdout
    compare(sample_database, target)

    victim = min(parts.glob("0*.zst.age"))
    victim.write_bytes(victim.read_bytes()[:-1])
    refused = run_by_hand(tmp_path / "restore.sh", identity, target, parts, pg)
    assert refused.returncode != 0
    assert victim.name in refused.stdout + refused.stderr


def downloaded(storage: Storage, backup_id: str, directory: Path) -> Path:
    """A directory with the parts of a sealed backup."""
    parts = directory / "parts"
    parts.mkdir()
    for info in storage.list(f"sealed/{LABEL}/{backup_id}/"):
        (parts / info.name.rpartition("/")[2]).write_bytes(storage.get(info.name))
    return parts


def opened_by_age(path: Path, identity: Path) -> bytes:
    """What `age -d | zstd -d` gives."""
    sealed = subprocess.run(
        ["age", "-d", "-i", str(identity), str(path)], stdout=subprocess.PIPE, check=True
    )
    return subprocess.run(
        ["zstd", "-dcq"], input=sealed.stdout, stdout=subprocess.PIPE, check=True
    ).stdout


def run_by_hand(
    script: Path, identity: Path, target: str, parts: Path, server: EmbeddedServer
) -> "subprocess.CompletedProcess[str]":
    """Run the script as the docs say, with the server's own psql and pg_restore."""
    tools = find_tools(at_least=server.major, prefer=server.major, programs=("psql", "pg_restore"))
    where = os.pathsep.join([str(tools.path("psql").parent), os.environ["PATH"]])
    return subprocess.run(
        ["sh", str(script), str(identity), target, str(parts)],
        capture_output=True, text=True, check=False, env={**os.environ, **tools.env, "PATH": where},
    )  # fmt: skip


def test_shares_nothing(project: Project, sample_database: str, identity: Path) -> None:
    """Neither a full nor another sealed backup has an object in common with it."""
    full = project.backup(sample_database)
    first = seal(project, sample_database, identity)
    second = seal(project, sample_database, identity)
    repository = project.repository
    named = [
        {one.name for one in repository.refs(repository.resolve(id_, LABEL)).objects}
        for id_ in (full.backup_id, first.backup_id, second.backup_id)
    ]
    assert not named[0] & named[1]
    assert not named[1] & named[2]
    assert repository.resolve("latest", LABEL).id == full.backup_id
    assert project.backup(sample_database).objects_new == 0


def test_several_recipients_and_strangers(
    project: Project, sample_database: str, tmp_path: Path
) -> None:
    """Each recipient opens it alone; nobody else does, the repository's own keys neither."""
    paths = [tmp_path / name for name in ("one", "two", "stranger")]
    for path in paths:
        new_identity(path)
    made = seal(project, sample_database, *paths[:2])
    for path in paths[:2]:
        assert opened(project.primary, path).snapshot.tables
    with pytest.raises(WrongKey, match="not one that the backup was sealed for"):
        opened(project.primary, paths[2])
    with pytest.raises(UsageError, match="sealed") as caught:
        project.opened(made.backup_id)
    assert "--identity" in caught.value.hint


def test_verify_without_and_with_the_identity(
    project: Project, sample_database: str, identity: Path
) -> None:
    """Without it the bytes are compared, with it everything is opened; damage is named."""
    seal(project, sample_database, identity)

    def verified(repository: SealedRepository | None) -> tuple[bool, list[str], list[str]]:
        reader = repository or project.repository
        entry = reader.resolve("latest:sealed", LABEL)
        found = verify_backup(
            reader, entry, Level.FULL, subset=None, budget_seconds=None, sink=discard
        )
        return found.report.ok, [bad.name for bad in found.report.bad], found.recipients

    sealed = SealedRepository(project.primary, Identities.read([identity]))
    assert verified(None) == (True, [], [public(identity)])
    assert verified(sealed) == (True, [], [])

    name = part_name(LABEL, sealed.resolve("latest").id, "000001.zst.age")
    whole = project.primary.get(name)
    project.primary.delete([name])
    project.primary.put(name, whole[:-20] + bytes(20))
    assert verified(None)[:2] == (False, [name])
    assert verified(sealed)[:2] == (False, [name])


def test_a_forged_part_does_not_pass_for_rows(
    project: Project, sample_database: str, new_target: NewTarget, identity: Path
) -> None:
    """Whoever knows the public key can make parts that open; the check of the rows tells."""
    seal(project, sample_database, identity)
    backup = opened(project.primary, identity)
    data = max(backup.data(), key=lambda one: one.bytes)
    extent = data.extents[0]
    key = pyrage.x25519.Recipient.from_str(public(identity))
    frame = pyrage.decrypt(
        project.primary.get(extent.object),
        [pyrage.x25519.Identity.from_str(identity.read_text().splitlines()[1])],
    )
    rows = subprocess.run(["zstd", "-dcq"], input=frame, stdout=subprocess.PIPE, check=True).stdout
    forged = rows.replace(b"1", b"2")
    packed = subprocess.run(
        ["zstd", "-q", "--stream-size", str(len(forged))], input=forged, stdout=subprocess.PIPE,
        check=True,
    ).stdout  # fmt: skip
    project.primary.delete([extent.object])
    project.primary.put(extent.object, pyrage.encrypt(packed, [key]))

    plan = plan_restore(opened(project.primary, identity), new_target(), RestoreOptions())
    with pytest.raises((CheckFailed, ObjectDamaged)):
        run_restore(plan, make_safety_backup=None, sink=discard)


def test_storage_objects_are_sealed_too(
    project: Project, new_storage_project: NewStorageProject, identity: Path
) -> None:
    """The bytes of a project's Storage come out with the identity, and lie in no other object."""
    source = new_storage_project()
    source.fill(40)
    project.backup(source.dsn, objects=source.source())
    made = seal(project, source.dsn, identity, objects=source.source())
    assert made.objects is not None
    assert made.is_complete
    assert made.objects.objects == 40

    backup = opened(project.primary, identity)
    packs = Packs(backup.repository, keep=4)
    found = {
        (entry.bucket, entry.name): b"".join(packs.chunks(page, entry))
        for page in pages(backup)
        for entry in page.entries
    }
    assert found == source.truth
    named = project.repository.refs(project.repository.resolve(made.backup_id, LABEL)).objects
    assert not [one.name for one in named if one.name.startswith(("objects/", "chunks/"))]


def test_storage_files_by_hand(
    project: Project,
    new_storage_project: NewStorageProject,
    identity: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """age and zstd give every file of the Storage, also those that no file can be called like."""
    monkeypatch.setattr(documents, "PAGE_ENTRIES", 8)
    source = new_storage_project()
    source.fill(60)
    source.put("documents", "large", os.urandom(3 << 20))
    source.put("documents", "both", b"a file")
    source.put("documents", "both/and", b"below a name that is a file's")
    source.put("documents", "it's $HOME.txt", b"quoted", user_metadata='{"a": "\\t\\\\"}')
    source.put("documents", "../../escaped", b"not outside")
    source.put("documents", "n" * 300, b"too long")
    made = seal(project, source.dsn, identity, objects=source.source())
    assert made.is_complete
    parts = downloaded(project.primary, made.backup_id, tmp_path)
    script = tmp_path / "files.sh"
    script.write_bytes(opened_by_age(parts / "files.sh.zst.age", identity))

    def by_hand() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["sh", str(script), str(identity), str(parts)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = by_hand()

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = [line.split("\t") for line in (parts / "files.tsv").read_text().splitlines()]
    found = {(row[1], row[2]): (parts / row[0]).read_bytes() for row in rows}
    assert found == source.truth
    plain = {row[0] for row in rows if row[0] == f"files/{row[1]}/{row[2]}"}
    assert len(rows) - len(plain) == 3
    assert {"files/documents/large", "files/documents/it's $HOME.txt"} < plain
    assert not (parts / "escaped").exists()
    assert "is there already" in by_hand().stderr

    for name in ("files", "files.odd"):
        (parts / name).rename(tmp_path / name)
    pages = sorted(parts.glob("files.0*"))
    assert len(pages) > 3
    pages[0].unlink()
    refused = by_hand()
    assert refused.returncode != 0
    assert "lists of files are here" in refused.stderr
