"""Connecting to real servers: every driver, every kind of refusal, poolers."""

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from psycopg import sql

from aurora import clock
from aurora.errors import (
    AuroraError,
    SourcePrivilege,
    SourceUnreachable,
    SourceUnsupported,
    TargetUnfit,
    UsageError,
)
from aurora.postgres.conninfo import ConnInfo, needs_password
from aurora.postgres.embedded import EmbeddedServer
from aurora.postgres.errors import translated
from aurora.postgres.server import inspect_server, open_control, require_usable
from aurora.wiring import Aurora
from tests.fixtures.postgres import NewDatabase, NewServer

EVERY_MAJOR = (14, 15, 16, 17, 18)


@pytest.mark.pg_majors(*EVERY_MAJOR)
def test_the_facts_of_every_supported_major_are_read(
    pg_major: int, new_database: NewDatabase
) -> None:
    """Columns that came and went between majors do not matter."""
    info = ConnInfo.parse(new_database())
    with open_control(info) as conn:
        facts = inspect_server(conn)
        pinned = {
            name: conn.execute(f"SHOW {name}").fetchone()
            for name in ("statement_timeout", "lock_timeout", "client_encoding", "search_path")
        }
    require_usable(facts)
    assert facts.database == info.dbname
    assert facts.major == pg_major
    assert facts.version.startswith(str(pg_major))
    assert facts.role.superuser
    assert facts.role.reads_all_data
    assert facts.system_identifier
    assert facts.timeline == 1
    assert facts.locale_provider == "c"
    assert facts.database_size
    assert pinned == {
        "statement_timeout": ("0",),
        "lock_timeout": ("0",),
        "client_encoding": ("UTF8",),
        "search_path": ("pg_catalog",),
    }


def test_timeouts_of_the_role_are_switched_off(new_database: NewDatabase) -> None:
    """A role's statement_timeout would end a long backup."""
    info = ConnInfo.parse(new_database())
    with psycopg.connect(info.dsn(), autocommit=True) as conn:
        conn.execute(
            sql.SQL("ALTER DATABASE {} SET statement_timeout = '50ms'").format(
                sql.Identifier(info.dbname)
            )
        )
    with open_control(info) as conn:
        conn.execute("SELECT pg_sleep(0.2)")


def test_socket_and_tcp_work_with_both_drivers(pg: EmbeddedServer) -> None:
    """psycopg by conninfo, asyncpg by arguments, from one description."""
    for dsn in (pg.dsn(), pg.socket_dsn()):
        info = ConnInfo.parse(dsn)
        with open_control(info) as conn:
            row = conn.execute("SELECT 1").fetchone()
        assert row == (1,)
        assert asyncio.run(_ask_asyncpg(info)) == "1"


async def _ask_asyncpg(info: ConnInfo) -> str:
    conn = await asyncpg.connect(**info.asyncpg_arguments())  # type: ignore[call-overload]
    try:
        return str(await conn.fetchval("SELECT 1"))
    finally:
        await conn.close()


def test_options_and_hostaddr_reach_asyncpg(pg: EmbeddedServer) -> None:
    """What asyncpg lacks is translated."""
    info = ConnInfo.parse(pg.dsn()).with_options(
        host="no-such-host.invalid", hostaddr="127.0.0.1", options="-c geqo=off"
    )

    async def ask() -> str:
        conn = await asyncpg.connect(**info.asyncpg_arguments())  # type: ignore[call-overload]
        try:
            return str(await conn.fetchval("SHOW geqo"))
        finally:
            await conn.close()

    assert asyncio.run(ask()) == "off"


def test_each_refusal_has_its_class_and_its_hint(pg: EmbeddedServer) -> None:
    """And no message repeats the password."""
    info = ConnInfo.parse(pg.dsn())
    cases: list[tuple[ConnInfo, type[AuroraError]]] = [
        (info.with_password("hunter2"), SourcePrivilege),
        (info.without_secrets(), SourcePrivilege),
        (info.with_dbname("not there"), SourceUnsupported),
        (info.with_options(port="1"), SourceUnreachable),
        (info.with_options(host="no-such-host.invalid"), SourceUnreachable),
        (info.with_options(sslmode="require"), SourceUnsupported),
    ]
    for case, kind in cases:
        with pytest.raises(kind) as caught:
            open_control(case)
        told = f"{caught.value.message} {caught.value.hint}"
        assert caught.value.hint
        assert "hunter2" not in told
        assert str(info.password) not in told


def test_a_target_gets_the_targets_errors(pg: EmbeddedServer) -> None:
    """The side that is asked for decides the exit code."""
    with pytest.raises(TargetUnfit):
        open_control(ConnInfo.parse(pg.dsn()).with_password("x"), what="target")


def test_whether_a_password_is_needed_is_asked_of_the_server(pg: EmbeddedServer) -> None:
    """Only then is somebody asked for it."""
    info = ConnInfo.parse(pg.dsn())
    assert needs_password(info.without_secrets())
    assert not needs_password(info)
    assert not needs_password(info.with_options(port="1"))


def test_a_password_file_of_libpq_is_enough(
    pg: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGPASSFILE works for both drivers without our doing."""
    info = ConnInfo.parse(pg.dsn())
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"{info.host}:{info.port}:*:{info.options['user']}:{info.password}\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    bare = info.without_secrets()
    open_control(bare).close()
    assert asyncio.run(_ask_asyncpg(bare)) == "1"


def test_a_role_without_rights_still_gives_facts(new_database: NewDatabase) -> None:
    """What it may not look at is None."""
    info = ConnInfo.parse(new_database())
    role = f"plain_{os.getpid()}"
    with psycopg.connect(info.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(role)))
        try:
            conn.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
            conn.execute("REVOKE EXECUTE ON FUNCTION pg_control_checkpoint() FROM PUBLIC")
            with open_control(info.with_options(user=role, password="x")) as plain:
                facts = inspect_server(plain)
        finally:
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    assert (facts.system_identifier, facts.timeline) == (None, None)
    assert facts.role.name == role
    assert not facts.role.superuser
    assert not facts.role.reads_all_data


def test_a_standby_is_refused(new_server: NewServer, open_dir: Path) -> None:
    """Its locks are not those that a consistent backup needs."""
    server = new_server()
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("SELECT 1")
    server.stop()
    signal_file = server.data_dir / "standby.signal"
    signal_file.touch()
    stat = server.data_dir.stat()
    os.chown(signal_file, stat.st_uid, stat.st_gid)
    server.start()
    with open_control(server.dsn()) as conn:
        facts = inspect_server(conn)
    with pytest.raises(SourceUnsupported, match="standby"):
        require_usable(facts)


def _certificate(directory: Path, name: str) -> None:
    """A self-signed certificate for *name*: ``server.crt``, ``server.key``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = clock.now() - timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "server.crt").write_bytes(certificate.public_bytes(pem))
    (directory / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def test_certificates_are_verified_by_both_drivers(new_server: NewServer, tmp_path: Path) -> None:
    """sslmode=verify-full with a root certificate; another name or root is refused."""
    server = new_server()
    _certificate(server.data_dir, "localhost")
    stat = server.data_dir.stat()
    for name in ("server.crt", "server.key"):
        os.chown(server.data_dir / name, stat.st_uid, stat.st_gid)
        (server.data_dir / name).chmod(0o600)
    root = tmp_path / "root.crt"
    root.write_bytes((server.data_dir / "server.crt").read_bytes())
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET ssl = on")
    server.restart()
    plain = ConnInfo.parse(server.dsn())
    good = plain.with_options(
        host="localhost", hostaddr="127.0.0.1", sslmode="verify-full", sslrootcert=str(root)
    )
    with open_control(good) as conn:
        assert inspect_server(conn).tls
    assert asyncio.run(_ask_asyncpg(good)) == "1"
    other = tmp_path / "other.crt"
    _certificate(tmp_path, "localhost")
    (tmp_path / "server.crt").rename(other)
    for bad in (good.with_options(host="127.0.0.1"), good.with_options(sslrootcert=str(other))):
        with pytest.raises(SourceUnreachable) as caught:
            open_control(bad)
        assert "sslrootcert" in caught.value.hint
        with pytest.raises(SourceUnreachable), translated("source"):
            asyncio.run(_ask_asyncpg(bad))


class TransactionPooler:
    """A pooler in transaction mode over one server connection, made of the wire protocol.

    Like the real ones it answers the start itself, with a process id of its own, and lends
    the server connection to a client until the server is ready and out of a transaction.
    """

    def __init__(self, dsn: str) -> None:
        self._server = psycopg.connect(dsn, autocommit=True)
        self._backend = socket.socket(fileno=os.dup(self._server.pgconn.socket))
        self._backend.settimeout(None)
        self._lent = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self._backend.close()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            while True:  # the start, after refusing TLS and GSS
                (size, code) = struct.unpack("!II", _exactly(client, 8))
                _exactly(client, size - 8)
                if code >> 16 == 3:
                    break
                client.sendall(b"N")
            version = str(self._server.info.parameter_status("server_version")).encode()
            for kind, body in (
                (b"R", struct.pack("!I", 0)),
                (b"S", b"server_version\0" + version + b"\0"),
                (b"S", b"client_encoding\0UTF8\0"),
                (b"K", struct.pack("!II", 4242, 7)),
                (b"Z", b"I"),
            ):
                client.sendall(kind + struct.pack("!I", len(body) + 4) + body)
            while True:
                try:
                    message = _message(client)
                except ConnectionError:
                    return
                if message[:1] == b"X":
                    return
                with self._lent:
                    self._transaction(client, message)

    def _transaction(self, client: socket.socket, message: bytes) -> None:
        while True:
            self._backend.sendall(message)
            while message[:1] not in (b"Q", b"S"):
                message = _message(client)
                self._backend.sendall(message)
            while True:
                answer = _message(self._backend)
                client.sendall(answer)
                if answer[:1] == b"Z":
                    break
            if answer[-1:] == b"I":
                return
            message = _message(client)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return data


def _message(sock: socket.socket) -> bytes:
    head = _exactly(sock, 5)
    (size,) = struct.unpack("!I", head[1:])
    return head + _exactly(sock, size - 4)


@pytest.fixture
def pooler(pg: EmbeddedServer) -> Iterator[TransactionPooler]:
    """A transaction pooler before ``pg``."""
    pooler = TransactionPooler(pg.dsn())
    yield pooler
    pooler.close()


def test_a_pooler_in_transaction_mode_is_refused_with_the_reason(
    pg: EmbeddedServer, pooler: TransactionPooler
) -> None:
    """Even where one server connection is all it has; and nothing is SET through it."""
    info = ConnInfo.parse(pg.dsn()).with_options(port=str(pooler.port))
    with psycopg.connect(info.dsn(), autocommit=True) as conn:
        before = conn.execute("SHOW search_path").fetchone()
        with pytest.raises(SourceUnsupported) as caught:
            open_control(info)
        assert conn.execute("SHOW search_path").fetchone() == before
    assert "pooler in transaction mode" in caught.value.message
    assert "5432" in caught.value.hint


def test_the_source_of_a_configuration_is_reached(
    pg: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the file to a connection, the password from a file beside it."""
    info = ConnInfo.parse(pg.dsn())
    (tmp_path / "pw").write_text(f"{info.password}\n")
    config = tmp_path / "aurora.toml"
    config.write_text(f'[source]\ndsn = "{info.uri()}"\npassword = {{file = "pw"}}\n')
    open_control(Aurora.load(config).source()).close()
    config.write_text(f'[source]\ndsn = "{info.uri()}"\n')
    asked: list[str] = []

    def ask(question: str) -> str | None:
        asked.append(question)
        return info.password

    aurora = Aurora.load(config, ask=ask)
    open_control(aurora.source_dsn()).close()
    open_control(aurora.source_dsn()).close()
    assert asked == [f"Password of {info.redacted()}"]
    with pytest.raises(UsageError):
        Aurora.load(tmp_path / "none.toml")
