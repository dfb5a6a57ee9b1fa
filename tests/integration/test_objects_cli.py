"""A whole project with its files by the command line: there, back, and into another project."""

import pytest

from aurora.engines.supabase.rows import chosen_buckets
from aurora.wiring import Aurora
from tests.fixtures.hosted_app import make_app
from tests.fixtures.storage_ground import Ground, give_bytes, last

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.hosted", "tests.fixtures.objects"]


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


def test_backups_in_the_projects_own_storage(ground: Ground) -> None:
    """The bucket that holds them is no part of them, or they would grow with each run."""
    server = ground.source.server
    ground.source.bucket("docs")
    ground.source.put("docs", "o", b"12345")
    (ground.place.directory / "aurora.toml").unlink()
    key = ground.place.directory / "key-a"
    environment = {
        "AURORA_PRIMARY_SERVICE_KEY_FILE": str(key),
        "AURORA_SOURCE_STORAGE_KEY_FILE": str(key),
        "AURORA_SOURCE_STORAGE_URL": server.url,
        "AURORA_SOURCE_DSN": ground.source.dsn,
        "AURORA_PRIMARY_URL": f"supabase+{server.url}/aurora/shop",
    }
    (ground.place.directory / "aurora.toml").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        source = Aurora.load(ground.place.directory / "aurora.toml").source_objects()
    assert source.own == ("aurora",)
    taken, left = chosen_buckets([{"id": "aurora"}, {"id": "docs"}], source.skip, source.own)
    assert taken == ["docs"]
    assert left == ["aurora: these backups are in it"]
