"""A whole project with its files by the command line: there, back, and into another project."""

import pytest

from aurora.engines.supabase.rows import chosen_buckets
from aurora.wiring import Aurora
from tests.fixtures.hosted_app import make_app
from tests.fixtures.storage_ground import Ground, give_bytes, last

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.hosted", "tests.fixtures.objects"]


def test_whole_project_into_a_fresh_one(depot: Ground) -> None:
    """Rows and bytes of every object agree in the other project; the report says so."""
    make_app(depot.source.dsn, policies=True)
    give_bytes(depot.source)
    for number in range(40):
        depot.source.put("avatars", f"more/{number}", b"x" * number, content_type="image/png")
    made = last(depot.run("backup", "create", "--json"))
    assert made["objects"]["lost"] == made["objects"]["newer"] == 0
    assert made["objects"]["objects"] == len(depot.source.truth)
    done = last(
        depot.run("backup", "restore-full", "latest", "--target", depot.target.dsn, "--yes",
                   "--json")
    )  # fmt: skip
    assert done["objects"]["uploaded"] == len(depot.source.truth)
    assert done["objects"]["failed"] == done["objects"]["rows_without_bytes"] == []
    assert {"part": "files in Storage", "outcome": "restored"}.items() <= next(
        part for part in done["parts"] if part["part"] == "files in Storage"
    ).items()
    assert depot.target.contents() == depot.source.sums()
    assert depot.target.rows() == depot.source.rows()
    ids = "SELECT bucket_id, name, id FROM storage.objects ORDER BY 1, 2"
    assert depot.target.sql(ids) == depot.source.sql(ids)
    again = last(depot.run("backup", "restore-bucket", "*", "latest", "--target",
                            depot.target.dsn, "--yes", "--json"))  # fmt: skip
    assert (again["uploaded"], again["already_right"]) == (0, len(depot.source.truth))


def test_without_the_targets_key(depot: Ground) -> None:
    """The database is restored, the files are told to be lacking, the exit code is 3."""
    make_app(depot.source.dsn, policies=True)
    give_bytes(depot.source)
    depot.run("backup", "create")
    depot.configure(target_key=False)
    done = depot.run(
        "backup", "restore-full", "latest", "--target", depot.target.dsn, "--yes", code=3
    )
    assert "no key of the target's Storage was given" in done.out
    assert "restore-bucket '*'" in done.out
    depot.configure()
    depot.run("backup", "restore-bucket", "*", "latest", "--target", depot.target.dsn, "--yes")
    assert depot.target.contents() == depot.source.sums()


def test_a_lost_file(depot: Ground) -> None:
    """Deleted by mistake, brought back into the project, and to a file; a wrong name is told."""
    depot.source.bucket("docs")
    depot.source.put("docs", "a/plan.txt", b"the plan", content_type="text/plain")
    depot.source.put("docs", "b.txt", b"b")
    depot.run("backup", "create")
    depot.source.client.remove("docs", ["a/plan.txt"])
    assert last(depot.run("backup", "create", "--json"))["objects"]["objects"] == 1
    first = last(depot.run("backup", "list", "--json"))["backups"][0]["id"]
    done = depot.run("backup", "restore-object", "docs/a/plan.txt", "latest", "--yes", code=2)
    assert "has no object docs/a/plan.txt" in done.err
    depot.run("backup", "restore-object", "docs/a/plan.txt", first, "--output", "out.txt")
    assert (depot.place.directory / "out.txt").read_bytes() == b"the plan"
    refused = depot.run("backup", "restore-object", "docs/a/plan.txt", first, code=2)
    assert "needs a confirmation" in refused.err
    depot.configure(target_key=False)  # the source itself
    depot.run("backup", "restore-object", "docs/a/plan.txt", first, "--yes")
    assert depot.source.contents() == depot.source.sums()
    shown = depot.run("audit", "show").out
    assert "restore-object" in shown


def test_without_the_sources_key(depot: Ground) -> None:
    """The backup is made, says what it lacks, exit code 3; doctor says it beforehand."""
    depot.source.bucket("docs")
    depot.source.put("docs", "o", b"12345")
    depot.configure(source_key=False)
    doctor = depot.place.run("doctor")
    assert "no key to read them is configured" in doctor.out
    done = depot.run("backup", "create", code=3)
    assert "the backup lacks 1 object of its Storage" in done.err + done.out
    path = depot.place.directory / "aurora.toml"
    path.write_text(path.read_text() + "\n[objects]\ninclude = false\n")
    depot.run("backup", "create")


def test_backups_in_the_projects_own_storage(depot: Ground) -> None:
    """The bucket that holds them is no part of them, or they would grow with each run."""
    server = depot.source.server
    depot.source.bucket("docs")
    depot.source.put("docs", "o", b"12345")
    (depot.place.directory / "aurora.toml").unlink()
    key = depot.place.directory / "key-a"
    environment = {
        "AURORA_PRIMARY_SERVICE_KEY_FILE": str(key),
        "AURORA_SOURCE_STORAGE_KEY_FILE": str(key),
        "AURORA_SOURCE_STORAGE_URL": server.url,
        "AURORA_SOURCE_DSN": depot.source.dsn,
        "AURORA_PRIMARY_URL": f"supabase+{server.url}/aurora/shop",
    }
    (depot.place.directory / "aurora.toml").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        source = Aurora.load(depot.place.directory / "aurora.toml").source_objects()
    assert source.own == ("aurora",)
    taken, left = chosen_buckets([{"id": "aurora"}, {"id": "docs"}], source.skip, source.own)
    assert taken == ["docs"]
    assert left == ["aurora: these backups are in it"]
