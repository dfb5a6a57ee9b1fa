"""A whole project with its files by the command line: there, back, and into another project."""

import json
from pathlib import Path
from typing import Any

import pytest

from aurora.storage.local import LocalStorage
from aurora.storage.supabase_rest import SupabaseRest
from aurora.testing.hosted import as_role
from tests.fixtures.faults import Done, Workplace
from tests.fixtures.hosted import HostedServers, NewProject
from tests.fixtures.hosted_app import make_app
from tests.fixtures.projects import Project
from tests.fixtures.storage_projects import StorageProject
from tests.fixtures.storage_server import StorageServer

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.hosted"]


class Ground:
    """Two projects on two servers with their Storages, and a directory with an aurora.toml."""

    def __init__(self, tmp_path: Path, servers: HostedServers, new_project: NewProject) -> None:
        self.made: list[StorageProject] = []
        for letter in ("a", "b"):
            dsn = new_project(servers.get(17, letter, supautils=True))
            blobs = tmp_path / f"blobs-{letter}"
            blobs.mkdir()
            server = StorageServer(as_role(dsn, "supabase_storage_admin"), blobs)
            (tmp_path / f"key-{letter}").write_text(f"{server.secret_key}\n")
            self.made.append(
                StorageProject(dsn, as_role(dsn, "supabase_admin"), server,
                               SupabaseRest(server.url, server.service_key))
            )  # fmt: skip
        self.source, self.target = self.made
        for name in ("one", "two"):
            (tmp_path / name).write_text(f"a passphrase for tests {name}\n")
        (tmp_path / "one").write_text("a passphrase for tests\n")
        (tmp_path / "two").write_text("another passphrase for tests\n")
        for path in tmp_path.iterdir():
            if path.is_file():
                path.chmod(0o600)
        project = Project.create(LocalStorage(tmp_path / "a"), LocalStorage(tmp_path / "b"))
        self.place = Workplace(tmp_path, self.source.dsn, project)
        self.configure()

    def configure(self, *, source_key: bool = True, target_key: bool = True) -> None:
        """Write aurora.toml."""
        self.place.point(self.source.dsn)
        path = self.place.directory / "aurora.toml"
        text = path.read_text()
        if source_key:
            keys = f'storage_url = "{self.source.server.url}"\nstorage_key = {{file = "key-a"}}\n'
            text = text.replace("[source]\n", f"[source]\n{keys}")
        if target_key:
            text += f'\n[target]\nstorage_url = "{self.target.server.url}"\n'
            text += 'storage_key = {file = "key-b"}\n'
        path.write_text(text)

    def run(self, *words: str, code: int = 0) -> Done:
        """A command that ends so, and shows no key."""
        done = self.place.run(*words)
        assert done.code == code, done.out + done.err
        for one in self.made:
            assert one.server.secret_key not in done.out + done.err
        return done


@pytest.fixture
def ground(tmp_path: Path, hosted_servers: HostedServers, new_project: NewProject) -> Any:
    """The ground, cleared after the test."""
    made = Ground(tmp_path, hosted_servers, new_project)
    yield made
    for one in made.made:
        one.client.close()
        one.server.close()


def give_bytes(source: StorageProject) -> None:
    """The app's rows were made by SQL: put the bytes that they tell of, and let ids stay."""
    for (bucket, name), row in source.rows().items():
        data = f"bytes of {bucket}/{name}".encode()
        source.put(bucket, name, data, content_type=row[7], user_metadata=json.dumps(row[5] or {}))


def last(done: Done) -> dict[str, Any]:
    """The summary of a command with --json."""
    return dict(json.loads(done.out.splitlines()[-1]))


def test_whole_project_into_a_fresh_one(ground: Ground) -> None:
    """Rows and bytes of every object agree in the other project; the report says so."""
    make_app(ground.source.dsn, policies=True)
    give_bytes(ground.source)
    for number in range(40):
        ground.source.put("avatars", f"more/{number}", b"x" * number, content_type="image/png")
    made = last(ground.run("backup", "create", "--json"))
    assert made["objects"]["lost"] == made["objects"]["newer"] == 0
    assert made["objects"]["objects"] == len(ground.source.truth)
    done = last(
        ground.run("backup", "restore-full", "latest", "--target", ground.target.dsn, "--yes",
                   "--json")
    )  # fmt: skip
    assert done["objects"]["uploaded"] == len(ground.source.truth)
    assert done["objects"]["failed"] == done["objects"]["rows_without_bytes"] == []
    assert {"part": "files in Storage", "outcome": "restored"}.items() <= next(
        part for part in done["parts"] if part["part"] == "files in Storage"
    ).items()
    assert ground.target.contents() == ground.source.sums()
    assert ground.target.rows() == ground.source.rows()
    ids = "SELECT bucket_id, name, id FROM storage.objects ORDER BY 1, 2"
    assert ground.target.sql(ids) == ground.source.sql(ids)
    again = last(ground.run("backup", "restore-bucket", "*", "latest", "--target",
                            ground.target.dsn, "--yes", "--json"))  # fmt: skip
    assert (again["uploaded"], again["already_right"]) == (0, len(ground.source.truth))


def test_without_the_targets_key(ground: Ground) -> None:
    """The database is restored, the files are told to be lacking, the exit code is 3."""
    make_app(ground.source.dsn, policies=True)
    give_bytes(ground.source)
    ground.run("backup", "create")
    ground.configure(target_key=False)
    done = ground.run(
        "backup", "restore-full", "latest", "--target", ground.target.dsn, "--yes", code=3
    )
    assert "no key of the target's Storage was given" in done.out
    assert "restore-bucket '*'" in done.out
    ground.configure()
    ground.run("backup", "restore-bucket", "*", "latest", "--target", ground.target.dsn, "--yes")
    assert ground.target.contents() == ground.source.sums()


def test_a_lost_file(ground: Ground) -> None:
    """Deleted by mistake, brought back into the project, and to a file; a wrong name is told."""
    ground.source.bucket("docs")
    ground.source.put("docs", "a/plan.txt", b"the plan", content_type="text/plain")
    ground.source.put("docs", "b.txt", b"b")
    ground.run("backup", "create")
    ground.source.client.remove("docs", ["a/plan.txt"])
    assert last(ground.run("backup", "create", "--json"))["objects"]["objects"] == 1
    first = last(ground.run("backup", "list", "--json"))["backups"][0]["id"]
    done = ground.run("backup", "restore-object", "docs/a/plan.txt", "latest", "--yes", code=2)
    assert "has no object docs/a/plan.txt" in done.err
    ground.run("backup", "restore-object", "docs/a/plan.txt", first, "--output", "out.txt")
    assert (ground.place.directory / "out.txt").read_bytes() == b"the plan"
    refused = ground.run("backup", "restore-object", "docs/a/plan.txt", first, code=2)
    assert "needs a confirmation" in refused.err
    ground.configure(target_key=False)  # the source itself
    ground.run("backup", "restore-object", "docs/a/plan.txt", first, "--yes")
    assert ground.source.contents() == ground.source.sums()
    shown = ground.run("audit", "show").out
    assert "restore-object" in shown


def test_without_the_sources_key(ground: Ground) -> None:
    """The backup is made, says what it lacks, exit code 3; doctor says it beforehand."""
    ground.source.bucket("docs")
    ground.source.put("docs", "o", b"12345")
    ground.configure(source_key=False)
    doctor = ground.place.run("doctor")
    assert "no key to read them is configured" in doctor.out
    done = ground.run("backup", "create", code=3)
    assert "the backup lacks 1 object of its Storage" in done.err + done.out
    path = ground.place.directory / "aurora.toml"
    path.write_text(path.read_text() + "\n[objects]\ninclude = false\n")
    ground.run("backup", "create")
