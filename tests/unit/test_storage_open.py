"""Addresses: each form is read, each mistake is named, no secret is shown."""

from pathlib import Path

import pytest

from aurora.errors import UsageError
from aurora.storage.addresses import Provider, common_fate, parse_address, provider_of
from aurora.storage.local import LocalStorage
from aurora.storage.objects import ObjectStorage
from aurora.storage.open import open_storage
from aurora.storage.readonly import ReadOnlyStorage
from aurora.storage.retry import RetryingStorage

KEYS = {"access_key_id": "AK", "secret_access_key": "very-secret"}


@pytest.mark.parametrize(
    "url, path",
    [
        ("/srv/backup", "/srv/backup"),
        ("/srv/../srv/backup/", "/srv/backup"),
        ("file:///srv/backup", "/srv/backup"),
        ("file://localhost/srv/backup", "/srv/backup"),
        ("FILE:/srv/backup", "/srv/backup"),
        ("file:///srv/with%20space", "/srv/with space"),
        ("/srv/with%20percent", "/srv/with%20percent"),
        ("backup", "/base/backup"),
        ("./backup", "/base/backup"),
        ("../backup", "/backup"),
        ("file:backup/x", "/base/backup/x"),
        ("file://backup/x", "/base/backup/x"),
        ("file://./backup", "/base/backup"),
        ("~/backup", str(Path("~/backup").expanduser())),
    ],
)
def test_directories(url: str, path: str) -> None:
    """Paths and file URLs; a relative one counts from the base directory."""
    storage = open_storage(url, {}, base_directory="/base", retries=False)
    assert isinstance(storage, LocalStorage)
    assert storage.directory == Path(path)
    again = open_storage(storage.url, retries=False)
    assert again.url == storage.url


@pytest.mark.parametrize(
    "url, canonical",
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://bucket/a/b/?region=eu-west-1", "s3://bucket/a/b?region=eu-west-1"),
        (
            "s3://b-1/p?region=x&endpoint=https://h:9000/storage/v1/s3/&path_style=1",
            "s3://b-1/p?endpoint=https://h:9000/storage/v1/s3/&path_style=1&region=x",
        ),
        ("s3://bucket/p?endpoint=http://127.0.0.1:9", "s3://bucket/p?endpoint=http://127.0.0.1:9"),
        (
            "s3://bucket?endpoint=http://nas.lan:9&allow_http=1",
            "s3://bucket?allow_http=1&endpoint=http://nas.lan:9",
        ),
        ("az://container/p?account=acc", "az://container/p?account=acc"),
        ("azure://container?account=acc", "az://container?account=acc"),
    ],
)
def test_object_stores(url: str, canonical: str) -> None:
    """Each form has one canonical address, which opens the same storage again."""
    keys = {"account_key": "c2VjcmV0"} if "account=" in url else KEYS
    storage = open_storage(url, keys, retries=False)
    assert isinstance(storage, ObjectStorage)
    assert storage.url == canonical
    assert open_storage(canonical, keys, retries=False).url == canonical
    assert "very-secret" not in repr(storage) + repr(vars(storage))


@pytest.mark.parametrize(
    "url, words",
    [
        ("", "empty"),
        ("  ", "empty"),
        ("/srv/\0x", "null"),
        ("file:", "no directory"),
        ("file://", "no directory"),
        ("ftp://host/x", "'ftp'"),
        ("https://host/x", "'https'"),
        ("s3:///prefix", "bucket"),
        ("s3://b", "bucket"),
        ("s3://bu cket", "bucket"),
        ("s3://bucket:80/x", "bucket"),
        ("s3://bucket/x#part", "bucket"),
        ("s3://bucket/a/../b", "prefix"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/ä", "prefix"),
        ("s3://AK:very-secret@bucket/x", "credentials"),
        ("s3://bucket?endpoint=https://AK:very-secret@host", "credentials"),
        ("s3://bucket?regoin=x", "regoin"),
        ("s3://bucket?region=x&region=y", "repeated"),
        ("s3://bucket?region", "cannot be read"),
        ("s3://bucket?path_style=maybe", "path_style"),
        ("s3://bucket?endpoint=ftp://x", "endpoint"),
        ("s3://bucket?endpoint=host:9000", "endpoint"),
        ("s3://bucket?endpoint=https://", "endpoint"),
        ("s3://bucket?endpoint=https://h:x", "endpoint"),
        ("s3://bucket?endpoint=http://minio.lan:9000", "plain http"),
        ("s3://bucket?endpoint=http://127.0.0.1.evil.com", "plain http"),
        ("s3://bucket?endpoint=http://minio.lan:9000&allow_http=0", "plain http"),
        ("az://container", "account"),
        ("gs://bucket?account=x", "account"),
    ],
)
def test_bad_addresses(url: str, words: str) -> None:
    """Each mistake is a usage error that names it, hints at what is right, hides secrets."""
    with pytest.raises(UsageError) as caught:
        open_storage(url)
    assert words in caught.value.message
    assert "very-secret" not in caught.value.message + caught.value.hint
    if "repeated" not in words:
        assert caught.value.hint


@pytest.mark.parametrize(
    "url, credentials, words",
    [
        ("s3://bucket", {"access_key_id": "AK"}, "belong together"),
        ("s3://bucket", {"access_key": "very-secret"}, "access_key"),
        ("s3://bucket", KEYS | {"session_token": " "}, "session_token"),
        ("az://container?account=a", KEYS, "access_key_id"),
        ("az://container?account=a", {"account_key": "very-secret !"}, "wrong form"),
        ("gs://bucket", {"service_account_key": "very-secret"}, "wrong form"),
        ("/srv/backup", KEYS, "no credentials"),
    ],
)
def test_bad_credentials(url: str, credentials: dict[str, str], words: str) -> None:
    """A credential that cannot be right is told before any request, and never shown."""
    with pytest.raises(UsageError) as caught:
        open_storage(url, credentials)
    assert words in caught.value.message
    assert "very-secret" not in f"{caught.value.message}{caught.value.hint}{caught.value.context}"


def test_wrapping(tmp_path: Path) -> None:
    """Retries are the default; a limit goes below them, read-only above."""
    assert isinstance(open_storage(str(tmp_path)), RetryingStorage)
    assert isinstance(open_storage(str(tmp_path), read_only=True), ReadOnlyStorage)
    limited = open_storage(str(tmp_path), bytes_per_second=10**9, connections=2)
    limited.put("a", b"1")
    assert repr(limited).startswith("RetryingStorage(LimitedStorage(LocalStorage(")
    assert limited.url == tmp_path.as_uri()


def test_canonical_address_of_a_directory_with_odd_characters() -> None:
    """What a path needs to have escaped is escaped, so that it can be read back."""
    assert parse_address("/srv/a b?c#d").url == "file:///srv/a%20b%3Fc%23d"
    assert parse_address("file:///srv/a%20b%3Fc%23d").prefix == "/srv/a b?c#d"


@pytest.mark.parametrize(
    "url, provider",
    [
        ("s3://b-1?region=eu-west-1", Provider("aws", "", "eu-west-1", "b-1")),
        (
            "s3://b-1?endpoint=https://s3.eu-west-3.amazonaws.com",
            Provider("aws", "", "eu-west-3", "b-1"),
        ),
        (
            "s3://b-1?endpoint=https://abcdef.storage.supabase.co/storage/v1/s3&region=eu-west-1",
            Provider("supabase", "abcdef", "eu-west-1", "b-1"),
        ),
        (
            "s3://b-1?endpoint=https://abcdef.supabase.co/storage/v1/s3",
            Provider("supabase", "abcdef", "", "b-1"),
        ),
        (
            f"s3://b-1?endpoint=https://{'0' * 32}.r2.cloudflarestorage.com&region=auto",
            Provider("cloudflare", "0" * 32, "auto", "b-1"),
        ),
        (
            "s3://b-1?endpoint=https://s3.us-west-004.backblazeb2.com",
            Provider("backblaze", "", "us-west-004", "b-1"),
        ),
        (
            "s3://b-1?endpoint=https://minio.example.com:9000",
            Provider("minio.example.com", "minio.example.com", "", "b-1"),
        ),
        ("gs://b-1?region=eu", Provider("gcs", "", "eu", "b-1")),
        ("az://c-1?account=acc&region=weu", Provider("azure", "acc", "weu", "c-1")),
        (
            "az://c-1?account=acc&endpoint=https://acc.blob.core.windows.net",
            Provider("azure", "acc", "", "c-1"),
        ),
    ],
)
def test_providers(url: str, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provider, account or project, region and bucket are read from the address."""
    monkeypatch.delenv("AWS_REGION", raising=False)
    assert provider_of(url) == provider


def test_common_fate(tmp_path: Path) -> None:
    """Two storages that one accident can take are told apart from two that it cannot."""
    project = "s3://b-{}?endpoint=https://abc.supabase.co/storage/v1/s3"
    other = "s3://b-1?endpoint=https://xyz.storage.supabase.co/storage/v1/s3"
    assert any("project (abc)" in f for f in common_fate(project.format(1), project.format(2)))
    assert common_fate(project.format(1), other) == ["both are at one provider (supabase)"]
    assert any("one bucket" in fact for fact in common_fate(project.format(1), project.format(1)))
    assert common_fate(project.format(1), "gs://b-1") == []
    assert common_fate("/srv/a", "s3://b-1") == []
    assert common_fate(str(tmp_path / "a"), str(tmp_path / "b")) == [
        "both are directories of this machine",
        "both are on one file system",
    ]
