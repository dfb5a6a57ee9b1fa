"""``gs://``: obstore's own Google client against the XML API, its objects kept by SeaweedFS."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from aurora.errors import ObjectMissing, StorageDenied, StorageUnfit, UsageError
from aurora.storage.base import ObjectExists, Storage
from aurora.storage.exposure import Exposure, anonymous_look
from aurora.storage.open import open_storage
from aurora.storage.probe import Level, probe
from aurora.testing.storage_conformance import StorageConformance
from tests.fixtures.gcs import GcsServer, gcs_server
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.stores import S3Server
from tests.integration.test_cli_object_stores import Shell

pytestmark = pytest.mark.s3

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def bucket(gcs: GcsServer) -> str:
    """One bucket for all."""
    return gcs.new_bucket()


def gcs_storage(server: GcsServer, bucket: str, **changes: str) -> Storage:
    """A storage without retries, below a prefix that nothing is under."""
    account = json.loads(server.service_account_key) | changes
    return open_storage(
        f"gs://{bucket}/deep/p{next(_numbers)}?endpoint={server.endpoint}",
        {"service_account_key": json.dumps(account)},
        retries=False,
    )


class TestGcs(StorageConformance):
    """What every storage does."""

    @pytest.fixture
    def storage(self, gcs: GcsServer, bucket: str) -> Storage:
        """An empty prefix."""
        return gcs_storage(gcs, bucket)


def _attempts(storage: Storage) -> list[Callable[[], object]]:
    return [
        lambda: storage.get("config"),
        lambda: storage.head("config"),
        lambda: list(storage.list("")),
        lambda: storage.put("config", b"1"),
        lambda: storage.put("config", b"1", create_only=True),
        lambda: storage.delete(["config"]),
    ]


def test_probe(gcs: GcsServer, bucket: str) -> None:
    """Good, with conditional puts, which go by Google's own header; nothing is left there."""
    storage = gcs_storage(gcs, bucket)
    report = probe(storage)
    assert [found for found in report.findings if found.level is not Level.OK] == []
    assert report.create_only is True
    assert list(storage.list("")) == []


def test_delete_goes_on_behind_absent_names(gcs: GcsServer, bucket: str) -> None:
    """Google answers 404 to the delete of what is not there; the others go all the same."""
    storage = gcs_storage(gcs, bucket)
    names = [f"gc/{i:03}" for i in range(30)]
    for name in names[3::2]:
        storage.put(name, b"1")
    storage.delete(names)
    assert list(storage.list("")) == []


def test_several_pages(gcs: GcsServer, bucket: str) -> None:
    """1100 objects are more than one page; each comes once."""
    storage = gcs_storage(gcs, bucket)
    names = {f"chunks/{i:04}" for i in range(1100)}
    for name in names:
        storage.put(name, b"1")
    found = [info.name for info in storage.list("chunks/")]
    assert len(found) == 1100
    assert set(found) == names


def test_missing_bucket_is_not_a_missing_object(gcs: GcsServer) -> None:
    """For every operation."""
    for attempt in _attempts(gcs_storage(gcs, "no-such-bucket-here")):
        with pytest.raises(StorageUnfit, match="no-such-bucket-here") as caught:
            attempt()
        assert "Aurora does not create buckets" in caught.value.hint


def test_a_wrong_account_is_denied_everywhere(gcs: GcsServer, bucket: str) -> None:
    """A key that the project does not know; the refusal shows nothing of it."""
    for attempt in _attempts(gcs_storage(gcs, bucket, client_email="stranger@example.com")):
        with pytest.raises(StorageDenied) as caught:
            attempt()
        shown = f"{caught.value.message} {caught.value.hint} {caught.value.context}"
        assert "PRIVATE" not in shown
        assert "Bearer" not in shown
        assert not caught.value.retryable


def test_an_account_that_may_not_delete(seaweedfs: S3Server) -> None:
    """As for backups: everything but deletes; the probe says so, and that it is right."""
    with gcs_server(seaweedfs) as server:
        server.denied = {"DELETE"}
        storage = gcs_storage(server, server.new_bucket())
        storage.put("a", b"1", create_only=True)
        with pytest.raises(ObjectExists):
            storage.put("a", b"2", create_only=True)
        with pytest.raises(StorageDenied):
            storage.delete(["a"])
        assert storage.get("a") == b"1"
        report = probe(storage)
        assert report.ok
        found = report.finding("probe-delete")
        assert found is not None
        assert (found.level, found.message) == (Level.WARNING, "these credentials cannot delete")


def test_strangers_see_nothing(gcs: GcsServer, bucket: str) -> None:
    """The look without credentials is refused by this bucket."""
    url = f"gs://{bucket}?endpoint={gcs.endpoint}"
    assert anonymous_look(url) == Exposure(lists=False, reads=False)


def test_environment_does_not_mix_into_given_credentials(
    gcs: GcsServer, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What lies about in the environment is not used beside an explicit key, or refused."""
    stranger = json.loads(gcs.service_account_key) | {"client_email": "stranger@example.com"}
    (tmp_path / "stranger.json").write_text(json.dumps(stranger))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "stranger.json"))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(stranger))
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://127.0.0.1:1")
    storage = gcs_storage(gcs, bucket)
    storage.put("a", b"1")
    assert storage.get("a") == b"1"
    for name in ("GOOGLE_BEARER_TOKEN", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "stranger.json"))
        with pytest.raises(UsageError, match=name) as caught:
            gcs_storage(gcs, bucket)
        assert f"Unset {name}" in caught.value.hint
        monkeypatch.delenv(name)


def test_credentials_from_the_environment(
    gcs: GcsServer, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a key of its own it uses the usual variable, a file."""
    path = tmp_path / "account.json"
    path.write_text(gcs.service_account_key)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(path))
    storage = open_storage(f"gs://{bucket}/env?endpoint={gcs.endpoint}", retries=False)
    storage.put("a", b"1")
    assert storage.get("a") == b"1"
    with pytest.raises(ObjectMissing):
        storage.get("b")


def test_a_whole_project_with_its_secondary_there(
    gcs: GcsServer, bucket: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    """init, backup, verify, and a restore from the secondary alone, as a user types them."""
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE public.notes (id int PRIMARY KEY, body text)")
        conn.execute(
            "INSERT INTO notes SELECT g, repeat(md5(g::text), 40) FROM generate_series(1, 9000) g"
        )
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"a passphrase for storage {name}\n")
    (tmp_path / "account.json").write_text(gcs.service_account_key)
    run = Shell(tmp_path, {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AURORA_PG_BIN": os.environ.get("AURORA_PG_BIN", ""),
        "AURORA_PASSPHRASE_FILE": str(tmp_path / "one"),
        "AURORA_SECONDARY_PASSPHRASE_FILE": str(tmp_path / "two"),
        "AURORA_SECONDARY_SERVICE_ACCOUNT_KEY_FILE": str(tmp_path / "account.json"),
    })  # fmt: skip
    run(
        "init", "--yes", "--source", dsn, "--primary", str(tmp_path / "primary"),
        "--secondary", f"gs://{bucket}/aurora?endpoint={gcs.endpoint}",
    )  # fmt: skip
    made = run("backup", "create")[-1]
    assert (made["complete"], made["replicated"], made["rows"]) == (True, True, 9000)
    found = run("backup", "verify", made["backup_id"], "--storage", "secondary")[-1]
    assert (found["ok"], found["level"]) == (True, "full")
    (tmp_path / "primary").rename(tmp_path / "gone")
    target = dsn.rpartition("/")[0] + "/from_gcs"
    run("backup", "restore", made["backup_id"], "--storage", "secondary", "--target", target)
    with psycopg.connect(target, autocommit=True) as conn:
        rows = conn.execute("SELECT count(*), sum(length(body)) FROM notes").fetchone()
    assert rows == (9000, 9000 * 1280)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("DROP DATABASE from_gcs")
