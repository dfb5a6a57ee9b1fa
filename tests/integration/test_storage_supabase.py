"""A bucket of Supabase Storage as the storage of a repository, against the stand-in."""

import itertools

import pytest

from aurora.errors import ObjectMissing, StorageDenied, StorageUnavailable, StorageUnfit, UsageError
from aurora.operations.objects_checks import check_objects
from aurora.operations.storage_checks import check_apart_from_source
from aurora.postgres.conninfo import ConnInfo
from aurora.repository.verify import Level, verify
from aurora.storage.addresses import common_fate, parse_address, provider_of
from aurora.storage.base import Storage
from aurora.storage.open import open_storage
from aurora.storage.probe import Level as Found
from aurora.storage.probe import probe
from aurora.testing.storage_conformance import StorageConformance
from tests.fixtures.faults import run_sql
from tests.fixtures.projects import Project
from tests.fixtures.storage_projects import NewStorageProject, StorageProject
from tests.fixtures.storage_server import Answer, Hook, Request, StorageServer

pytest_plugins = [
    "tests.fixtures.backups",
    "tests.fixtures.hosted",
    "tests.fixtures.objects",
    "tests.fixtures.stands",
]

_numbers = itertools.count(1)
WAYS = ("rest", "rest-jwt", "s3-jwt", "s3-keys")


def credentials(server: StorageServer, way: str) -> dict[str, str]:
    """What a configuration would hold."""
    return {
        "rest": {"service_key": server.secret_key},
        "rest-jwt": {"service_key": server.service_key},
        "s3-jwt": {"anon_key": server.anon_key, "service_key": server.service_key},
        "s3-keys": {
            "access_key_id": server.access_key_id,
            "secret_access_key": server.secret_access_key,
        },
    }[way]


def address(server: StorageServer, bucket: str = "backups", prefix: str = "/deep/prefix") -> str:
    """The bucket's address."""
    return f"supabase+http://127.0.0.1:{server.port}/{bucket}{prefix}"


def opened(
    server: StorageServer, way: str, bucket: str = "backups", prefix: str | None = None
) -> Storage:
    """A storage without retries, so that a test sees the first answer."""
    prefix = f"/p{next(_numbers)}/deep" if prefix is None else prefix
    return open_storage(address(server, bucket, prefix), credentials(server, way), retries=False)


@pytest.fixture
def source(new_storage_project: NewStorageProject) -> StorageProject:
    """A project with an empty private bucket."""
    made = new_storage_project()
    made.bucket("backups")
    return made


class TestRest(StorageConformance):
    """By the REST API, with a secret key of the new style."""

    @pytest.fixture
    def storage(self, source: StorageProject) -> Storage:
        """An empty prefix."""
        return opened(source.server, "rest")


class TestS3WithJwt(StorageConformance):
    """By the S3 endpoint, with what every app has in its environment."""

    create_only_works = False

    @pytest.fixture
    def storage(self, source: StorageProject) -> Storage:
        """An empty prefix."""
        return opened(source.server, "s3-jwt")


@pytest.mark.parametrize("way", WAYS)
def test_probe(source: StorageProject, way: str) -> None:
    """The probe finds each way good and leaves nothing behind."""
    storage = opened(source.server, way)
    report = probe(storage)
    assert [f for f in report.findings if f.level is not Found.OK] == []
    assert report.create_only is way.startswith("rest")
    assert list(storage.list("")) == []


@pytest.mark.parametrize("way", WAYS)
def test_public_bucket_is_refused(source: StorageProject, way: str) -> None:
    """Before anything is written or read."""
    source.bucket("open", public=True)
    storage = opened(source.server, way, "open", "")
    for attempt in (
        lambda: storage.put("a", b"1"),
        lambda: storage.get("a"),
        lambda: list(storage.list("")),
    ):
        with pytest.raises(StorageUnfit, match="open is public"):
            attempt()
    assert source.rows() == {}


@pytest.mark.parametrize("way", ["rest", "s3-jwt"])
def test_bucket_is_made_private(source: StorageProject, way: str) -> None:
    """By the first write; a look alone makes nothing."""
    storage = opened(source.server, way, "new-one")
    with pytest.raises(StorageUnfit, match="new-one does not exist"):
        storage.get("config")
    storage.put("config", b"1")
    assert source.sql("SELECT public FROM storage.buckets WHERE id = 'new-one'") == [(False,)]
    assert storage.get("config") == b"1"


@pytest.mark.parametrize("way", WAYS)
def test_more_than_a_page(source: StorageProject, way: str) -> None:
    """A listing of 1,100 objects is whole."""
    storage = opened(source.server, way, prefix="/many")
    storage.put("chunks/a", b"x")
    source.sql(
        "INSERT INTO storage.objects (bucket_id, name, version, metadata) SELECT 'backups',"
        " 'many/chunks/' || i, 'v' || i, '{\"size\": 1, \"eTag\": \"e\"}'"
        " FROM generate_series(1, 1100) i"
    )
    names = {info.name for info in storage.list("chunks/")}
    assert names == {"chunks/a"} | {f"chunks/{number}" for number in range(1, 1101)}


def test_server_without_flat_listings(source: StorageProject) -> None:
    """An older one lists level by level."""
    storage = opened(source.server, "rest")

    def refuse(request: Request) -> Answer | None:
        if request.path.startswith("/object/list-v2/"):
            return Answer(404, b'{"message":"Route not found","error":"Not Found"}')
        return None

    source.server.hooks.append(refuse)
    names = {"config", "chunks/aa/1", "chunks/aa/2", "chunks/bb/1", "refs/x"}
    for name in names:
        storage.put(name, b"1")
    assert {info.name for info in storage.list("")} == names
    assert {info.name for info in storage.list("chunks/")} == {n for n in names if "chunks" in n}


def test_delete_that_is_forbidden_is_told(source: StorageProject) -> None:
    """A policy lets the key write and read, and not delete; Supabase answers as if it had."""
    source.sql(
        "CREATE POLICY a ON storage.objects FOR SELECT TO authenticated USING (true);"
        "CREATE POLICY b ON storage.objects FOR INSERT TO authenticated WITH CHECK (true);"
        "CREATE POLICY c ON storage.objects FOR UPDATE TO authenticated USING (true);"
        "CREATE POLICY d ON storage.buckets FOR SELECT TO authenticated USING (true)"
    )
    key = source.server.token("authenticated")
    for given in ({"service_key": key}, {"service_key": key, "anon_key": source.server.anon_key}):
        prefix = f"/p{next(_numbers)}"
        storage = open_storage(address(source.server, prefix=prefix), given, retries=False)
        storage.put("a", b"1")
        with pytest.raises(StorageDenied, match="said that it deleted a, and still has it"):
            storage.delete(["a", "absent"])
        assert storage.get("a") == b"1"


def test_key_that_sees_nothing(source: StorageProject) -> None:
    """The anon key finds no bucket; a listing is never taken for an empty repository."""
    storage = open_storage(
        address(source.server), {"service_key": source.server.anon_key}, retries=False
    )
    with pytest.raises(StorageUnfit):
        list(storage.list(""))


@pytest.mark.parametrize(
    "given",
    [
        {"service_key": "sb_secret_wrong"},
        {"service_key": "eyJ.not.valid"},
        {"access_key_id": "s3-access", "secret_access_key": "wrong"},
        {"anon_key": "wrong", "service_key": "eyJ.not.valid"},
    ],
)
def test_wrong_keys(source: StorageProject, given: dict[str, str]) -> None:
    """Denied, for good, and no key is shown."""
    storage = open_storage(address(source.server), given, retries=False)
    with pytest.raises((StorageDenied, StorageUnfit)) as caught:
        storage.get("config")
    shown = f"{caught.value.message} {caught.value.hint} {caught.value.context} {storage!r}"
    assert not any(value in shown for value in given.values() if len(value) > 9)
    assert caught.value.retryable is False


def test_expired_token(source: StorageProject) -> None:
    """Denied, not unavailable."""
    key = source.server.token("service_role", seconds=-5)
    storage = open_storage(address(source.server), {"service_key": key}, retries=False)
    with pytest.raises(StorageDenied, match="exp"):
        storage.get("config")


def test_size_limit_of_the_project(source: StorageProject) -> None:
    """An object above it is refused with what to do, and is no object."""
    source.server.size_limit = 1000
    for way in WAYS:
        storage = opened(source.server, way)
        storage.put("small", b"x" * 1000)
        with pytest.raises(StorageUnfit) as caught:
            storage.put("large", b"x" * 1001)
        assert "limit" in caught.value.hint
        with pytest.raises(ObjectMissing):
            storage.get("large")


def always(answer: Answer) -> Hook:
    """A hook that answers everything so."""
    return lambda _: answer


def test_server_that_is_down(source: StorageProject) -> None:
    """Errors that may pass can be tried again."""
    storage = opened(source.server, "rest")
    storage.put("a", b"1")
    for answer in (
        Answer(503, b"<html>bad gateway</html>"),
        Answer(400, b'{"statusCode":"429","message":"slow down","error":"x"}'),
        Answer(200, b"x" * 100, cut=10),
    ):
        source.server.hooks[:] = [always(answer)]
        with pytest.raises(StorageUnavailable):
            storage.get("a")
    source.server.hooks.clear()
    assert storage.get("a") == b"1"


def test_whole_repository(shop: str, source: StorageProject) -> None:
    """Backups, a verification of every byte, and what is shared: as on any storage."""
    source.bucket("mirror")
    primary = opened(source.server, "rest", prefix="")
    project = Project.create(primary, opened(source.server, "s3-jwt", "mirror", ""))
    project.backup(shop, mirrored=True)
    run_sql(shop, "UPDATE orders SET note = note || '!' WHERE id < 10")
    project.backup(shop, mirrored=True)
    entries = project.repository.backups("app")
    assert len(entries) == 2
    assert verify(project.repository, entries, Level.FULL).ok
    assert verify(project.repository_on_mirror, entries, Level.FULL).ok


def test_addresses() -> None:
    """One canonical form each, and no secret or nonsense in them."""
    ref = "abcdefghijklmnopqrst"
    for text, kept in (
        (f"supabase://{ref}/backups", None),
        (f"supabase://{ref}/backups/a/b", None),
        (f"supabase://{ref}/backups/a/?region=eu-west-1", f"supabase://{ref}/backups/a?region=eu-west-1"),
        (f"supabase+https://{ref}.supabase.co/backups", f"supabase://{ref}/backups"),
        ("supabase+https://host.example:8000/backups/x", None),
    ):  # fmt: skip
        assert parse_address(text).url == (kept or text)
        assert parse_address(parse_address(text).url) == parse_address(text)
    for text in (
        f"supabase://{ref}", f"supabase://{ref}/", "supabase://Short/b", "supabase:///b",
        "supabase+http://example.org/b", f"supabase://k:s@{ref}/b", f"supabase://{ref}/b?x=1",
        "supabase+https://host/b#x", "supabase+ftp://host/b",
    ):  # fmt: skip
        with pytest.raises(UsageError):
            parse_address(text)


def test_common_fate() -> None:
    """One project is recognised in each of its forms."""
    ref, other = "abcdefghijklmnopqrst", "bcdefghijklmnopqrstu"
    one = f"supabase://{ref}/backups"
    assert provider_of(one)[:2] == ("supabase", ref)
    s3 = f"s3://bb?endpoint=https://{ref}.storage.supabase.co/storage/v1/s3"
    assert any("one account or project" in fact for fact in common_fate(one, s3))
    assert common_fate(one, f"supabase://{other}/backups2") == [
        "both are at one provider (supabase)"
    ]
    assert common_fate(one, "s3://bb") == []


def test_credentials_are_checked() -> None:
    """Before anything is opened."""
    url = "supabase://abcdefghijklmnopqrst/backups"
    for given in ({}, {"anon_key": "a"}, {"account_key": "a"}, {"access_key_id": "a"}):
        with pytest.raises(UsageError):
            open_storage(url, given)


def test_doctor_on_projects(source: StorageProject, new_storage_project: NewStorageProject) -> None:
    """The source's Storage, with and without its key; a primary in the source's own project."""
    info = ConnInfo.parse(source.dsn)
    codes = [f.code for f in check_objects(source.dsn, source.source())]
    assert codes == ["storage-reads"]
    assert list(check_objects(source.dsn, source.source(client=None))) == []
    source.put("backups", "a", b"1")
    (found,) = check_objects(source.dsn, source.source(client=None))
    assert (found.code, found.level) == ("storage-no-key", Found.WARNING)
    other = new_storage_project()
    (found,) = check_objects(source.dsn, source.source(client=other.client))
    assert (found.code, found.level) == ("storage-other-project", Found.ERROR)
    # The server of the test's database and of its Storage are one host: as self-hosted.
    here = info.with_options(host="127.0.0.1")
    storage = opened(source.server, "rest")
    (found,) = check_apart_from_source("primary", storage, here)
    assert "THE PRIMARY IS IN THE SOURCE'S OWN PROJECT" in found.message
    ref = "abcdefghijklmnopqrst"
    far = open_storage(f"supabase://{ref}/backups", {"service_key": "sb_secret_x"})
    assert list(check_apart_from_source("primary", far, here)) == []
    hosted = ConnInfo.parse(f"postgresql://postgres.{ref}@aws-0-eu.pooler.supabase.com/postgres")
    assert len(list(check_apart_from_source("primary", far, hosted))) == 1


def test_probe_finds_the_limit(source: StorageProject) -> None:
    """An error where chunks do not fit, with the size that does; else a warning."""
    source.server.size_limit = 5 << 20
    storage = opened(source.server, "rest")
    found = probe(storage, needed=9 << 20).finding("probe-large")
    assert found is not None
    assert found.level is Found.ERROR
    assert "of 4 MiB taken" in found.message
    assert "chunk_size" in found.hint
    found = probe(storage, needed=3 << 20).finding("probe-large")
    assert found is not None
    assert found.level is Found.WARNING
    assert list(storage.list("")) == []
