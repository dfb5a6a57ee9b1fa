"""Throw-away servers, for real, on every major that the tests have."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

from aurora.errors import TargetRefused, TargetUnfit
from aurora.postgres import embedded
from aurora.postgres.embedded import EmbeddedServer, find_embedded
from aurora.postgres.tools import find_tools, inspect_tools, run_tool
from tests.fixtures.postgres import NewDatabase, NewServer, server_bin_dir

FAST = {"fsync": "off", "shared_buffers": "16MB"}


def show(server: EmbeddedServer, setting: str) -> str:
    with psycopg.connect(server.dsn()) as conn:
        row = conn.execute("SELECT current_setting(%s)", [setting]).fetchone()
        assert row is not None
        return str(row[0])


@pytest.mark.pg_majors(14, 15, 16, 17, 18)
def test_each_major_starts_with_what_logical_backups_need(pg: EmbeddedServer) -> None:
    with psycopg.connect(pg.dsn()) as conn:
        row = conn.execute(
            "SELECT current_setting('server_version_num')::int / 10000,"
            " current_setting('wal_level'), current_setting('data_checksums'),"
            " current_setting('max_locks_per_transaction'), current_setting('TimeZone'),"
            " datcollate, pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'postgres'"
        ).fetchone()
    assert row == (pg.major, "logical", "on", "256", "UTC", "C.UTF-8", "UTF8")


@pytest.mark.pg_majors(15, 16, 17, 18)
@pytest.mark.parametrize(
    "extension", ["pgcrypto", "hstore", "uuid-ossp", "postgres_fdw", "dblink", "amcheck"]
)
def test_extensions_find_their_libraries(
    pg: EmbeddedServer, new_database: NewDatabase, extension: str
) -> None:
    with psycopg.connect(new_database()) as conn:
        conn.execute(f'CREATE EXTENSION "{extension}"'.encode())


@pytest.mark.pg_majors(15, 16, 17, 18)
def test_logical_replication_connects(pg: EmbeddedServer, new_database: NewDatabase) -> None:
    # The library that does it is loaded by the server and must find the right libpq.
    source, target = new_database(), new_database()
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("CREATE TABLE t AS SELECT generate_series(1, 10) AS n")
        conn.execute("CREATE PUBLICATION p FOR TABLE t")
        conn.execute(
            "SELECT pg_create_logical_replication_slot('s' || pg_backend_pid(), 'pgoutput')"
        )
        slot = conn.execute("SELECT 's' || pg_backend_pid()").fetchone()
    assert slot is not None
    with psycopg.connect(target, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (n int)")
        conn.execute(
            f"CREATE SUBSCRIPTION sub_{slot[0]} CONNECTION '{source}' PUBLICATION p"
            f" WITH (create_slot = false, slot_name = '{slot[0]}')".encode()
        )
        deadline = time.monotonic() + 30
        while conn.execute("SELECT count(*) FROM t").fetchone() != (10,):
            assert time.monotonic() < deadline, "the rows did not arrive"
            time.sleep(0.05)


@pytest.mark.pg_majors(15, 16, 17, 18)
def test_its_programs_dump_and_restore(pg: EmbeddedServer, new_database: NewDatabase) -> None:
    tools = find_tools(at_least=pg.major, need_tls=True)
    assert tools.major == pg.major
    source, target = new_database(), new_database()
    with psycopg.connect(source) as conn:
        conn.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    dump = run_tool(tools, "pg_dump", ["--format=custom"], dsn=source).stdout
    name = target.rpartition("/")[2]
    run_tool(tools, "pg_restore", ["--dbname", name], dsn=target, stdin=dump, error=TargetRefused)
    with psycopg.connect(target) as conn:
        assert conn.execute("SELECT sum(n) FROM t").fetchone() == (500500,)
    with pytest.raises(TargetRefused, match="already exists"):
        run_tool(
            tools, "pg_restore", ["--dbname", name], dsn=target, stdin=dump, error=TargetRefused
        )


def test_the_wheel_has_no_tls_and_the_test_servers_have() -> None:
    wheel = inspect_tools(find_embedded())
    assert wheel is not None
    assert not wheel.tls
    theirs = inspect_tools(server_bin_dir(17))
    assert theirs is not None
    assert theirs.tls


def test_the_wheel_serves_by_default_and_needs_the_password() -> None:
    with EmbeddedServer(settings=FAST) as server:
        assert server.bin_dir.name == "bin"
        assert server.major >= 18
        assert show(server, "fsync") == "off"
        with psycopg.connect(server.socket_dsn()) as conn:
            assert conn.info.host == str(server.socket_dir)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.dsn(password="wrong"))
        assert server.password not in repr(server)
        assert server.password not in server.log()


def test_trust_needs_no_password_at_all() -> None:
    with EmbeddedServer(settings=FAST, password="", superuser="some one") as server:
        with psycopg.connect(server.dsn()) as conn:
            assert conn.execute("SELECT current_user").fetchone() == ("some one",)


def test_closing_leaves_nothing_behind() -> None:
    server = EmbeddedServer(settings=FAST)
    with server:
        run_dir, pid = server.run_dir, server.pid
        watcher = server._watcher
        assert watcher is not None
    assert not run_dir.exists()
    assert not server.running
    for process in (pid, watcher.pid):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_an_own_data_directory_is_kept_and_served_again(open_dir: Path) -> None:
    data_dir = open_dir / "cluster"
    with EmbeddedServer(settings=FAST, data_dir=data_dir, password="secret one") as server:
        with psycopg.connect(server.dsn()) as conn:
            conn.execute("CREATE TABLE kept ()")
    assert (data_dir / "PG_VERSION").exists()
    with EmbeddedServer(settings=FAST, data_dir=data_dir, password="secret one") as server:
        with psycopg.connect(server.dsn()) as conn:
            conn.execute("SELECT FROM kept")


def test_a_restart_applies_settings_and_keeps_the_port(new_server: NewServer) -> None:
    server = new_server()
    port = server.port
    server.settings["wal_level"] = "replica"
    server.restart()
    assert server.port == port
    assert show(server, "wal_level") == "replica"


def test_committed_rows_survive_a_kill(new_server: NewServer) -> None:
    server = new_server(fsync="on")
    with psycopg.connect(server.dsn()) as conn:
        conn.execute("CREATE TABLE t AS SELECT 1 AS n")
        conn.commit()
        conn.execute("INSERT INTO t VALUES (2)")
        server.kill9()
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    assert not server.running
    server.start()
    with psycopg.connect(server.dsn()) as conn:
        assert conn.execute("SELECT n FROM t").fetchall() == [(1,)]


def test_a_wrong_setting_is_told_with_the_log(new_server: NewServer) -> None:
    with pytest.raises(TargetUnfit, match="did not start") as raised:
        new_server(no_such_setting="1")
    assert "no_such_setting" in raised.value.hint


def test_a_failed_initdb_leaves_no_directory(open_dir: Path) -> None:
    server = EmbeddedServer(settings=FAST, data_dir=open_dir / "data", superuser="pg_reserved")
    with pytest.raises(TargetUnfit, match="initdb"):
        server.start()
    server.close()
    assert list(open_dir.iterdir()) == []


def test_a_directory_without_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetUnfit, match="no working PostgreSQL server"):
        EmbeddedServer(bin_dir=tmp_path)


def test_a_taken_port_is_told(new_server: NewServer) -> None:
    port = new_server().port
    other = EmbeddedServer(bin_dir=server_bin_dir(17), settings=FAST, port=port)
    with pytest.raises(TargetUnfit) as raised:
        other.start()
    other.close()
    assert "could not bind" in raised.value.hint


def test_a_port_taken_in_between_is_tried_again(
    new_server: NewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = new_server().port
    free = embedded._free_port()
    ports = iter([taken, free])
    monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
    assert new_server().port == free


def test_a_server_started_in_a_thread_outlives_the_thread() -> None:
    server = EmbeddedServer(settings=FAST)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    assert show(server, "fsync") == "off"
    server.close()


@pytest.mark.parametrize("ending", ["exit", "kill"])
def test_the_server_ends_with_the_process_that_started_it(ending: str) -> None:
    program = (
        "from aurora.postgres.embedded import EmbeddedServer\n"
        "server = EmbeddedServer(settings={'fsync': 'off'})\n"
        "server.start()\n"
        "print(server.pid, server.run_dir, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pid, run_dir = process.stdout.readline().split()
        if ending == "kill":
            process.send_signal(signal.SIGKILL)
        else:
            process.stdin.write("\n")
            process.stdin.flush()
        process.wait(30)
    deadline = time.monotonic() + 30
    while runs(int(pid)) or Path(run_dir).exists():
        assert time.monotonic() < deadline, "something is left"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A container's init may not reap what it inherits: such a process is dead all the same.
    status = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return status.stdout.strip()[:1] not in ("", "Z")


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to do this")


@as_root
def test_root_copies_programs_that_the_server_user_cannot_reach(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    wheel = find_embedded().parent.parent
    for source in (wheel, wheel.with_name(wheel.name + ".libs")):
        subprocess.run(["cp", "-a", source, hidden / source.name], check=True)
    bin_dir = hidden / wheel.name / "pginstall" / "bin"
    with EmbeddedServer(bin_dir=bin_dir, settings=FAST) as server:
        assert hidden not in server.bin_dir.parents
        assert server.bin_dir.stat().st_uid == 0
        assert show(server, "fsync") == "off"


@as_root
def test_root_is_told_of_a_data_directory_out_of_reach(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    server = EmbeddedServer(settings=FAST, data_dir=hidden / "data")
    with pytest.raises(TargetUnfit, match="cannot enter"):
        server.start()
    server.close()
    assert list(hidden.iterdir()) == []
