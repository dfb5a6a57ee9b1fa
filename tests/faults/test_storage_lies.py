"""A real S3 server behind a proxy that lies: nothing is lost, and what cannot be right is told."""

import contextlib
import http.client
import itertools
import random
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from aurora.errors import IntegrityError, ObjectDamaged, ObjectMissing, StorageUnavailable
from aurora.repository.verify import Level, verify
from aurora.storage.addresses import parse_address
from aurora.storage.base import Storage
from aurora.storage.memory import MemoryStorage
from aurora.storage.objects import ObjectStorage
from aurora.storage.open import Patience
from aurora.storage.probe import probe
from aurora.storage.retry import RetryingStorage
from tests.fixtures.faults import CHANGE, CHUNK, rows_of, run_sql
from tests.fixtures.projects import NewTarget, Project
from tests.fixtures.stores import S3Server

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

_numbers = itertools.count(1)
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your rate</Message></Error>"


@dataclass(slots=True)
class Exchange:
    """One request and the server's answer, before the client gets it."""

    method: str
    path: str  # with its query
    body: bytes = field(repr=False)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = field(default=b"", repr=False)  # the answer's body

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type=2" in self.path


Lie = Callable[[Exchange], None]


class LyingServer:
    """A proxy before an S3 server. ``before`` may answer in its place, ``after`` may alter."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.before: Callable[[Exchange], bool] = lambda _: False
        self.after: Lie = lambda _: None
        self.lies = 0
        liar = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Silence."""

            def do_GET(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                one = Exchange(self.command, self.path, self.rfile.read(length))
                if not liar.before(one):
                    liar.ask(one, dict(self.headers.items()))
                    liar.after(one)
                self.send_response(one.status)
                one.headers.setdefault("content-length", str(len(one.data)))
                if self.command != "HEAD" and one.status != 204:
                    one.headers["content-length"] = str(len(one.data))
                for name, value in one.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(one.data)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = int(self._http.server_address[1])
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._http.shutdown()
        self._http.server_close()

    def ask(self, one: Exchange, headers: dict[str, str]) -> None:
        """The server's true answer. The signature covers the host's name, which stays."""
        there = urlsplit(self.server.endpoint)
        link = http.client.HTTPConnection(there.hostname or "", there.port, timeout=30)
        with contextlib.closing(link):
            link.putrequest(one.method, one.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                link.putheader(name, value)
            link.endheaders(one.body or None)
            answer = link.getresponse()
            one.data, one.status = answer.read(), answer.status
            one.headers = {
                name.lower(): value
                for name, value in answer.getheaders()
                if name.lower() not in ("connection", "transfer-encoding", "date", "server")
            }


@pytest.fixture
def liar(seaweedfs: S3Server) -> Iterator[LyingServer]:
    """A proxy that tells the truth until told otherwise."""
    made = LyingServer(seaweedfs)
    yield made
    made.close()


@pytest.fixture(scope="module")
def bucket(seaweedfs: S3Server) -> str:
    """One bucket for all."""
    return seaweedfs.new_bucket()


@pytest.fixture
def storage(liar: LyingServer, bucket: str) -> Storage:
    """A prefix of its own, by the proxy, with quick retries."""
    return RetryingStorage(bare(liar, bucket), Patience(budget=20, first=0.05, longest=0.2))


def bare(liar: LyingServer, bucket: str) -> ObjectStorage:
    """The same without retries."""
    keys = {
        "access_key_id": liar.server.access_key,
        "secret_access_key": liar.server.secret_key,
    }
    where = f"s3://{bucket}/lies{next(_numbers)}?endpoint=http://127.0.0.1:{liar.port}"
    return ObjectStorage(parse_address(where), keys, timeout=20)


@pytest.fixture
def project(storage: Storage) -> Project:
    """A repository whose primary is behind the proxy."""
    return Project.create(storage, MemoryStorage("secondary"))


def is_whole(project: Project, *, backups: int) -> None:
    """Fail unless so many backups are there, every byte of them proven."""
    entries = project.repository.backups("app")
    assert len(entries) == backups
    report = verify(project.repository, entries, Level.FULL)
    assert report.ok, report.bad


def names_in(listing: bytes) -> list[str]:
    """The names that a page of a listing tells."""
    return re.findall(r"<Key>([^<]+)</Key>", listing.decode())


def without(listing: bytes, unwanted: Callable[[str], bool]) -> bytes:
    """The page without some of its entries."""

    def keep(found: re.Match[bytes]) -> bytes:
        (name,) = names_in(found[0])
        return b"" if unwanted(name) else found[0]

    return re.sub(rb"<Contents>.*?</Contents>", keep, listing, flags=re.DOTALL)


@pytest.mark.s3
def test_conditions_are_ignored(liar: LyingServer, project: Project, shop: str) -> None:
    """If-None-Match overwrites: the probe says so, and two runs at once lose nothing."""

    def overwrite(one: Exchange) -> None:
        # What an overwriting server does: the object goes, and the same put is done again.
        if one.method == "PUT" and one.status == 412:
            path = urlsplit(one.path).path
            delete = urllib.request.Request(f"{liar.server.filer}/buckets{path}", method="DELETE")
            with urllib.request.urlopen(delete):
                liar.lies += 1
            liar.ask(one, asked[threading.get_ident()])

    asked: dict[int, dict[str, str]] = {}
    ask = liar.ask

    def remember(one: Exchange, headers: dict[str, str]) -> None:
        asked[threading.get_ident()] = headers
        ask(one, headers)

    liar.ask = remember  # type: ignore[method-assign]
    liar.after = overwrite
    assert probe(project.primary).create_only is False
    assert liar.lies == 1
    failures: list[BaseException] = []

    def back_up() -> None:
        try:
            project.backup(shop, chunk_bytes=CHUNK)
        except BaseException as error:  # noqa: BLE001 - told by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=back_up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    is_whole(project, backups=3)


@pytest.mark.s3
def test_stale_listing(liar: LyingServer, project: Project, shop: str) -> None:
    """A listing that is behind hides the last backup: it costs uploads, and loses nothing."""
    project.backup(shop, chunk_bytes=CHUNK)
    known: set[str] = set()

    def learn(one: Exchange) -> None:
        if one.is_listing:
            known.update(names_in(one.data))

    liar.after = learn
    list(project.primary.list(""))

    def stale(one: Exchange) -> None:
        if one.is_listing:
            liar.lies += 1
            one.data = without(one.data, lambda name: name not in known)

    liar.after = stale
    run_sql(shop, CHANGE)
    first = project.backup(shop, chunk_bytes=CHUNK)
    run_sql(shop, CHANGE)
    second = project.backup(shop, chunk_bytes=CHUNK)
    assert liar.lies
    liar.after = lambda _: None
    is_whole(project, backups=3)
    found = {entry.id for entry in project.repository.backups("app")}
    assert {first.backup_id, second.backup_id} <= found


@pytest.mark.s3
def test_listing_out_of_order_and_twice(
    liar: LyingServer, project: Project, shop: str, new_target: NewTarget
) -> None:
    """No order is relied on, and a name that comes twice is one object."""

    def shuffle(one: Exchange) -> None:
        if not one.is_listing:
            return
        entries = re.findall(rb"<Contents>.*?</Contents>", one.data, flags=re.DOTALL)
        if len(entries) > 1:
            liar.lies += 1
            mixed = [*entries, entries[0]]
            random.Random(liar.lies).shuffle(mixed)
            rest = re.sub(rb"<Contents>.*?</Contents>", b"", one.data, flags=re.DOTALL)
            one.data = rest.replace(
                b"</ListBucketResult>", b"".join(mixed) + b"</ListBucketResult>"
            )

    liar.after = shuffle
    project.backup(shop, chunk_bytes=CHUNK, mirrored=True)
    run_sql(shop, CHANGE)
    report = project.backup(shop, chunk_bytes=CHUNK, mirrored=True)
    assert report.replicated
    assert liar.lies
    is_whole(project, backups=2)
    target = new_target()
    project.restore(target)
    assert rows_of(target) == rows_of(shop)


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["chunks/", "refs/", "backups/", "sessions/"])
def test_truncated_body_with_status_200(
    liar: LyingServer, project: Project, shop: str, kind: str
) -> None:
    """Shorter, and called whole: never taken for the object, healed by the next backup's own."""
    project.backup(shop, chunk_bytes=CHUNK, mirrored=True)

    def cut(one: Exchange) -> None:
        if one.method == "GET" and f"/{kind}" in one.path and one.status in (200, 206):
            liar.lies += 1
            one.data = one.data[: len(one.data) // 2]
            one.headers.pop("content-range", None)

    liar.after = cut
    entry = project.repository_on_mirror.resolve("latest", "app")
    report = verify(project.repository, entry, Level.FULL)
    assert not report.ok
    assert all(kind in one.name for one in report.bad if one.problem == "damaged") or report.bad
    assert liar.lies
    # A run against such a server either makes a whole backup or says why not.
    run_sql(shop, CHANGE)
    with contextlib.suppress(IntegrityError):
        project.backup(shop, chunk_bytes=CHUNK)
    liar.after = lambda _: None
    is_whole(project, backups=len(project.repository.backups("app")))
    project.backup(shop, chunk_bytes=CHUNK)
    is_whole(project, backups=len(project.repository.backups("app")))


@pytest.mark.s3
def test_restore_from_a_truncating_primary(
    liar: LyingServer, project: Project, shop: str, new_target: NewTarget
) -> None:
    """Refused for the primary alone; with the secondary beside it the rows are right."""
    project.backup(shop, chunk_bytes=CHUNK, mirrored=True)

    def cut(one: Exchange) -> None:
        if one.method == "GET" and "/chunks/" in one.path and one.status in (200, 206):
            one.data = one.data[:-1]
            one.headers.pop("content-range", None)

    liar.after = cut
    with pytest.raises((ObjectDamaged, StorageUnavailable)):
        project.restore(new_target())
    target = new_target()
    project.restore(target, from_mirror=True)
    assert rows_of(target) == rows_of(shop)


@pytest.mark.s3
def test_put_that_stores_less(liar: LyingServer, project: Project, shop: str) -> None:
    """Answered with 200 and not stored: no backup is made of it, the earlier one stands."""
    project.backup(shop, chunk_bytes=CHUNK)
    run_sql(shop, CHANGE)
    kept: list[str] = []

    def swallow(one: Exchange) -> bool:
        if one.method == "PUT" and "/chunks/" in one.path and not kept:
            kept.append(one.path)
            one.headers["etag"] = '"d41d8cd98f00b204e9800998ecf8427e"'
            return True
        return False

    liar.before = swallow
    with pytest.raises(ObjectMissing, match="said that it stored"):
        project.backup(shop, chunk_bytes=CHUNK)
    assert kept
    is_whole(project, backups=1)
    project.backup(shop, chunk_bytes=CHUNK)
    is_whole(project, backups=2)


@pytest.mark.s3
def test_slow_down(liar: LyingServer, project: Project, shop: str) -> None:
    """Every third request is refused for its rate, in both of the usual ways: the run goes on."""
    count = itertools.count(1)

    def refuse(one: Exchange) -> bool:
        number = next(count)
        if number % 3:
            return False
        liar.lies += 1
        one.status, one.data = (503, _SLOW_DOWN) if number % 2 else (429, b"")
        return True

    liar.before = refuse
    project.backup(shop, chunk_bytes=CHUNK)
    assert liar.lies > 10
    liar.before = lambda _: False
    is_whole(project, backups=1)


@pytest.mark.s3
def test_slow_down_for_ever(liar: LyingServer, bucket: str) -> None:
    """An error that may pass, told as such, and never as an absent object."""

    def refuse(one: Exchange) -> bool:
        one.status, one.data = 503, _SLOW_DOWN
        return True

    liar.before = refuse
    storage = bare(liar, bucket)
    for attempt in (
        lambda: storage.put("a", b"1"),
        lambda: storage.get("a"),
        lambda: storage.head("a"),
        lambda: list(storage.list("")),
        lambda: storage.delete(["a"]),
    ):
        with pytest.raises(StorageUnavailable) as caught:
            attempt()
        assert caught.value.retryable


@pytest.mark.s3
def test_wrong_etags(liar: LyingServer, project: Project, shop: str, new_target: NewTarget) -> None:
    """Nothing is concluded from an ETag."""

    def alter(one: Exchange) -> None:
        if "etag" in one.headers:
            liar.lies += 1
            one.headers["etag"] = f'"{random.Random(liar.lies).randbytes(16).hex()}-7"'
        if one.is_listing:
            one.data = re.sub(rb"<ETag>[^<]*</ETag>", b"<ETag>&#34;wrong&#34;</ETag>", one.data)

    liar.after = alter
    project.backup(shop, chunk_bytes=CHUNK, mirrored=True)
    assert liar.lies
    is_whole(project, backups=1)
    target = new_target()
    project.restore(target)
    assert rows_of(target) == rows_of(shop)


@pytest.mark.s3
def test_another_objects_bytes(liar: LyingServer, project: Project, shop: str) -> None:
    """A server that mixes two objects up: each says which one it is not."""
    project.backup(shop, chunk_bytes=CHUNK)
    chunks = [info.name for info in project.primary.list("chunks/")]
    wrong = project.primary.get(chunks[0])

    def mix_up(one: Exchange) -> None:
        if one.method == "GET" and chunks[1] in one.path:
            one.data = wrong
            one.headers.pop("content-range", None)

    liar.after = mix_up
    report = verify(project.repository, project.repository.resolve("latest", "app"), Level.FULL)
    assert [one.name for one in report.bad] == [chunks[1]]
