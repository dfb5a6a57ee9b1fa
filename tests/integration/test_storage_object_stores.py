"""ObjectStorage against real servers: SeaweedFS speaks S3, Azurite speaks Azure Blob."""

import itertools

import pytest

from aurora.errors import ObjectMissing, StorageDenied, StorageUnavailable, StorageUnfit
from aurora.storage.base import Storage
from aurora.storage.open import open_storage
from aurora.storage.probe import Level, probe
from aurora.testing.storage_conformance import StorageConformance
from tests.fixtures.stores import AzureServer, S3Server

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def bucket(seaweedfs: S3Server) -> str:
    """One bucket for all: SeaweedFS sets volumes aside for each and runs out of them."""
    return seaweedfs.new_bucket()


def new_prefix() -> str:
    """A prefix that nothing is under."""
    return f"p{next(_numbers)}"


def s3_storage(server: S3Server, bucket: str, prefix: str = "r", **changes: str) -> Storage:
    """A storage without retries, so that a test sees the first answer."""
    credentials = {"access_key_id": server.access_key, "secret_access_key": server.secret_key}
    return open_storage(
        f"s3://{bucket}/{prefix}?endpoint={server.endpoint}&region={server.region}",
        credentials | changes,
        retries=False,
    )


def azure_storage(server: AzureServer, container: str, key: str = "") -> Storage:
    """A storage without retries, so that a test sees the first answer."""
    return open_storage(
        f"az://{container}/deep/prefix?account={server.account}&endpoint={server.endpoint}",
        {"account_key": key or server.key},
        retries=False,
    )


@pytest.mark.s3
class TestS3(StorageConformance):
    """SeaweedFS."""

    @pytest.fixture
    def storage(self, seaweedfs: S3Server, bucket: str) -> Storage:
        """An empty prefix."""
        return s3_storage(seaweedfs, bucket, new_prefix())


@pytest.mark.azure
class TestAzure(StorageConformance):
    """Azurite."""

    @pytest.fixture
    def storage(self, azurite: AzureServer) -> Storage:
        """An empty container."""
        return azure_storage(azurite, azurite.new_container())


@pytest.mark.s3
def test_without_a_prefix(seaweedfs: S3Server) -> None:
    """A repository may be at the top of its bucket."""
    storage = s3_storage(seaweedfs, seaweedfs.new_bucket(), "")
    # Making a bucket through SeaweedFS's filer may leave an object in it.
    storage.delete([info.name for info in storage.list("")])
    assert list(storage.list("")) == []
    for name in ("config", "chunks/ab/x", "chunksy"):
        storage.put(name, name.encode())
    assert {info.name for info in storage.list("")} == {"config", "chunks/ab/x", "chunksy"}
    assert [info.name for info in storage.list("chunks/")] == ["chunks/ab/x"]
    assert storage.get("chunks/ab/x") == b"chunks/ab/x"
    storage.delete(["config", "chunks/ab/x"])
    assert [info.name for info in storage.list("")] == ["chunksy"]


@pytest.mark.s3
def test_probe_of_a_real_server(seaweedfs: S3Server, bucket: str) -> None:
    """The probe finds SeaweedFS good, with conditional puts, and leaves nothing there."""
    storage = s3_storage(seaweedfs, bucket, new_prefix())
    report = probe(storage)
    assert [f for f in report.findings if f.level is not Level.OK] == []
    assert report.create_only is True
    assert list(storage.list("")) == []


@pytest.mark.s3
def test_probe_of_a_wrong_bucket_and_secret(seaweedfs: S3Server, bucket: str) -> None:
    """A refusal is one finding, with the hint that the error has."""
    for storage in (
        s3_storage(seaweedfs, bucket, secret_access_key="wrong"),
        s3_storage(seaweedfs, bucket, access_key_id="wrong"),
    ):
        report = probe(storage)
        found = report.finding("probe-write")
        assert found is not None
        assert found.level is Level.ERROR
        assert found.hint
        assert report.finding("probe-read") is None


@pytest.mark.azure
def test_probe_of_azure(azurite: AzureServer) -> None:
    """As with S3."""
    storage = azure_storage(azurite, azurite.new_container())
    report = probe(storage)
    assert [f for f in report.findings if f.level is not Level.OK] == []
    assert report.create_only is True
    assert list(storage.list("")) == []


@pytest.mark.s3
def test_prefixes_do_not_see_one_another(seaweedfs: S3Server, bucket: str) -> None:
    """Two repositories in one bucket are strangers, also when one name begins the other."""
    one, two = s3_storage(seaweedfs, bucket, "twin"), s3_storage(seaweedfs, bucket, "twins")
    one.put("x", b"1")
    two.put("y", b"2")
    assert [info.name for info in one.list("")] == ["x"]
    assert [info.name for info in two.list("")] == ["y"]
    with pytest.raises(ObjectMissing):
        one.get("y")


@pytest.mark.s3
def test_listing_of_several_pages(seaweedfs: S3Server, bucket: str) -> None:
    """1200 objects are more than one page of 1000; each comes once."""
    storage = s3_storage(seaweedfs, bucket, new_prefix())
    names = {f"chunks/{i:04}" for i in range(1200)}
    for name in names:
        storage.put(name, b"1")
    found = [info.name for info in storage.list("chunks/")]
    assert len(found) == 1200
    assert set(found) == names


@pytest.mark.s3
def test_missing_bucket_is_not_a_missing_object(seaweedfs: S3Server) -> None:
    """Opening a repository in a mistyped bucket must not look like an empty bucket."""
    storage = s3_storage(seaweedfs, "no-such-bucket-here")
    for look in (storage.get, storage.head):
        with pytest.raises(StorageUnfit) as caught:
            look("config")
        assert "no-such-bucket-here" in caught.value.message
        assert "Aurora does not create buckets" in caught.value.hint
    with pytest.raises(StorageUnfit):
        list(storage.list(""))


@pytest.mark.azure
def test_missing_container_is_not_a_missing_object(azurite: AzureServer) -> None:
    """As with S3, for every operation."""
    storage = azure_storage(azurite, "no-such-container")
    for attempt in (
        lambda: storage.get("config"),
        lambda: storage.head("config"),
        lambda: list(storage.list("")),
        lambda: storage.put("config", b"1"),
        lambda: storage.delete(["config"]),
    ):
        with pytest.raises(StorageUnfit) as caught:
            attempt()
        assert "no-such-container" in caught.value.message


@pytest.mark.s3
def test_wrong_secret_is_denied_everywhere(seaweedfs: S3Server, bucket: str) -> None:
    """A refusal is permanent, says so, and shows neither key nor secret."""
    for changes in ({"secret_access_key": "wrong-secret"}, {"access_key_id": "wrong-key"}):
        storage = s3_storage(seaweedfs, bucket, **changes)
        for attempt in (
            lambda storage=storage: storage.get("config"),
            lambda storage=storage: storage.head("config"),
            lambda storage=storage: list(storage.list("")),
            lambda storage=storage: storage.put("config", b"1"),
            lambda storage=storage: storage.delete(["config"]),
        ):
            with pytest.raises(StorageDenied) as caught:
                attempt()
            assert not caught.value.retryable
            shown = f"{caught.value.message} {caught.value.hint} {caught.value.context}"
            assert "wrong-secret" not in shown + repr(storage)
            assert caught.value.hint


@pytest.mark.azure
def test_wrong_azure_key_is_denied_everywhere(azurite: AzureServer) -> None:
    """As with S3."""
    key = "d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXkgd3Jvbmcga2V5IQ=="
    storage = azure_storage(azurite, azurite.new_container(), key)
    for attempt in (
        lambda: storage.get("config"),
        lambda: storage.head("config"),
        lambda: list(storage.list("")),
        lambda: storage.put("config", b"1"),
        lambda: storage.delete(["config"]),
    ):
        with pytest.raises(StorageDenied):
            attempt()


@pytest.mark.s3
def test_environment_does_not_mix_into_given_credentials(
    seaweedfs: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session token that lies about in the environment is not added to explicit keys."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "somebody else's")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    storage = s3_storage(seaweedfs, bucket)
    storage.put("a", b"1")
    assert storage.get("a") == b"1"


@pytest.mark.s3
def test_credentials_from_the_environment(
    seaweedfs: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials of its own it uses the provider's usual variables."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_key)
    storage = open_storage(f"s3://{bucket}/r?endpoint={seaweedfs.endpoint}", retries=False)
    storage.put("a", b"1")
    assert storage.get("a") == b"1"


def test_no_server(free_port: int) -> None:
    """A refused connection may pass, so it is unavailable and can be tried again."""
    storage = open_storage(
        f"s3://bucket/r?endpoint=http://127.0.0.1:{free_port}",
        {"access_key_id": "k", "secret_access_key": "s"},
        retries=False,
    )
    for attempt in (
        lambda: storage.get("a"),
        lambda: storage.put("a", b"1"),
        lambda: list(storage.list("")),
        lambda: storage.delete(["a"]),
    ):
        with pytest.raises(StorageUnavailable) as caught:
            attempt()
        assert caught.value.retryable


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    from tests.fixtures.processes import free_port as find

    return find()
