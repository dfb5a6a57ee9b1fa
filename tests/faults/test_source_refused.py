"""A source or a role that cannot be backed up, or that sets traps, is told before the long work."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aurora.errors import SourceChanged, SourcePrivilege, SourceUnsupported, UsageError
from aurora.events import Event, PhaseBegun
from aurora.operations.backup import BackupOptions, create_backup
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.embedded import EmbeddedServer
from aurora.postgres.unprivileged import give_tree, identity
from tests.fixtures.faults import Stand, eventually, refused, rows_of, run_sql
from tests.fixtures.policy import missing
from tests.fixtures.postgres import NewServer
from tests.fixtures.processes import free_port, listening, running
from tests.fixtures.projects import NewRole, NewTarget

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]

HIDDEN = """
CREATE SCHEMA secret;
CREATE TABLE secret.plans (a int);
INSERT INTO secret.plans VALUES (1);
CREATE TABLE "My Salaries" (a int);
CREATE TABLE bonus (a int);
REVOKE ALL ON ALL TABLES IN SCHEMA public, secret FROM PUBLIC;
"""


def as_role(dsn: str, role: str) -> str:
    """The same database for a role of the fixture ``new_role``."""
    return ConnInfo.parse(dsn).with_options(user=role, password="p").dsn()


def test_tables_that_the_role_may_not_read(stand: Stand, new_role: NewRole) -> None:
    """All are named at once, before a row is read; left out by name, the rest is backed up."""
    role = new_role(f"reader_{os.getpid()}")
    run_sql(stand.dsn, HIDDEN)
    run_sql(stand.dsn, f"GRANT SELECT ON customers, orders TO {role};"
                       f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}")  # fmt: skip
    dsn = as_role(stand.dsn, role)
    heard: list[Event] = []
    repository = stand.project.repository
    with refused(SourcePrivilege, exit_code=21) as caught:
        options = BackupOptions(database="app")
        create_backup(dsn, repository, options, open_mirror=None, sink=heard.append)
    for name in ("secret.plans", 'public."My Salaries"', "public.bonus"):
        assert name in caught[0].message
    assert "--skip" in caught[0].hint
    assert not [event for event in heard if isinstance(event, PhaseBegun)]
    assert stand.listed() == [stand.good]
    with pytest.raises(UsageError, match="nosuch"):
        stand.project.backup(dsn, skip=("public.nosuch",))
    report = stand.project.backup(
        dsn, skip=("secret.plans", "public.My Salaries", "public.bonus"), mirrored=True
    )
    assert len(report.skipped) == 3
    rows = rows_of(stand.dsn)
    shown = {name: rows[name] for name in ("public.customers", "public.orders")}
    stand.restores_as(report.backup_id, shown)
    stand.all_is_well()


def test_rows_that_row_security_hides(stand: Stand, new_role: NewRole) -> None:
    """A backup of a part of the rows would look whole: refused; the owner's own is not."""
    role = new_role(f"reader_{os.getpid()}", "LOGIN IN ROLE pg_read_all_data")
    run_sql(stand.dsn, "ALTER TABLE orders ENABLE ROW LEVEL SECURITY;"
                       "CREATE POLICY few ON orders USING (id < 10)")  # fmt: skip
    with refused(SourcePrivilege, r"public\.orders.*row security", exit_code=21) as caught:
        stand.project.backup(as_role(stand.dsn, role))
    assert "BYPASSRLS" in caught[0].hint
    assert stand.listed() == [stand.good]
    run_sql(stand.dsn, f"ALTER ROLE {role} BYPASSRLS")
    report = stand.project.backup(as_role(stand.dsn, role))
    stand.restores_as(report.backup_id, rows_of(stand.dsn))
    stand.all_is_well()


def test_sequences_that_the_role_may_not_read(stand: Stand, new_role: NewRole) -> None:
    """A sequence left behind would give the same number twice after a restore."""
    role = new_role(f"reader_{os.getpid()}")
    run_sql(stand.dsn, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    with refused(SourcePrivilege, "orders_id_seq", exit_code=21):
        stand.project.backup(as_role(stand.dsn, role))
    assert stand.listed() == [stand.good]
    stand.all_is_well()


TRAPS = (
    "statement_timeout = '1ms'",
    "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '1ms'",
    "default_transaction_read_only = on",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "search_path = nowhere",
    "row_security = off",
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = 'sql_standard'",
    "TimeZone = 'Asia/Kathmandu'",
    "bytea_output = 'escape'",
    "extra_float_digits = -15",
    "client_encoding = 'LATIN1'",
    "standard_conforming_strings = off",
    "quote_all_identifiers = on",
    "synchronize_seqscans = on",
    "xmloption = document",
    "array_nulls = off",
    "client_min_messages = error",
    "session_replication_role = replica",
)


def test_traps_in_the_roles_settings(
    stand: Stand, pg: EmbeddedServer, new_role: NewRole, new_target: NewTarget
) -> None:
    """Timeouts, read-only, odd formats set for the role: backup and restore pass, rows equal."""
    run_sql(stand.dsn, """
        CREATE TABLE odd (t timestamptz, d date, i interval, b bytea, f float8, u text, a int[]);
        INSERT INTO odd VALUES ('2026-11-23 10:00+05:45', '2026-02-03', '1 mon -2 days',
            '\\x00ff5c', 0.1 + 0.2, E'\\u20ac \\\\ x', '{1,NULL}');
    """)  # fmt: skip
    plain = stand.backup()
    role = new_role(f"trapped_{os.getpid()}", "LOGIN SUPERUSER")
    for trap in TRAPS:
        run_sql(stand.dsn, f"ALTER ROLE {role} SET {trap}")
    trapped = stand.project.backup(as_role(stand.dsn, role), chunk_bytes=64 << 10, mirrored=True)
    assert trapped.bytes_new < plain.bytes_read / 10, "the same rows were other bytes"
    rows = rows_of(stand.dsn)
    stand.restores_as(trapped.backup_id, rows)
    target = new_target()
    report = stand.project.restore(as_role(target, role), trapped.backup_id)
    assert (report.outcome, report.refusals) == ("restored", [])
    assert rows_of(target) == rows
    again = stand.project.restore(as_role(target, role), stand.good, in_place=True, safety=False)
    assert again.outcome == "restored"
    assert rows_of(target) == stand.before
    stand.all_is_well()


@contextmanager
def pgbouncer(dsn: str, mode: str, directory: Path) -> Iterator[str]:
    """Debian's PgBouncer before the server, as an unprivileged user; the DSN through it."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "-y", "-q", "pgbouncer"]
        subprocess.run(install, capture_output=True, check=False, timeout=120)
        program = shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        missing("PgBouncer", "install the package pgbouncer")
    info = ConnInfo.parse(dsn)
    port = free_port()
    (directory / "users").write_text(f'"{info.options["user"]}" "{info.password}"\n')
    (directory / "bouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={info.options['port']}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {directory / 'users'}\n"
        f"pool_mode = {mode}\nmax_client_conn = 50\ndefault_pool_size = 4\n"
        f"ignore_startup_parameters = extra_float_digits\n"
    )
    give_tree(directory)
    user = identity()
    command = [str(program), str(directory / "bouncer.ini")]
    if user:
        name = pwd.getpwuid(user["user"]).pw_name
        command = ["setpriv", f"--reuid={name}", f"--regid={user['group']}", "--clear-groups",
                   *command]  # fmt: skip
    with running(lambda _: command, answers=lambda: listening(port)):
        yield info.with_options(port=str(port)).dsn()


def test_a_pooler_in_transaction_mode(stand: Stand, open_dir: Path) -> None:
    """Refused with the reason and the way out; in session mode it does."""
    with pgbouncer(stand.dsn, "transaction", open_dir) as dsn:
        with refused(SourceUnsupported, "pooler in transaction mode", exit_code=22) as caught:
            stand.project.backup(dsn)
        assert "session mode" in caught[0].hint
    assert stand.listed() == [stand.good]
    shutil.rmtree(open_dir)
    open_dir.mkdir(mode=0o755)
    with pgbouncer(stand.dsn, "session", open_dir) as dsn:
        report = stand.project.backup(dsn)
        stand.restores_as(report.backup_id, rows_of(stand.dsn))
    stand.all_is_well()


def test_a_standby(stand: Stand, pg: EmbeddedServer, new_server: NewServer, open_dir: Path) -> None:
    """A real one, made by pg_basebackup, streaming: refused, and the primary goes on."""
    data = open_dir / "data"
    data.mkdir(mode=0o700)
    info = ConnInfo.parse(pg.dsn())
    environment = info.as_environment({"PATH": os.defpath, **pg.tools.env})
    subprocess.run(
        [str(pg.bin_dir / "pg_basebackup"), "-D", str(data), "-R", "-X", "stream", "-c", "fast"],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    os.chown(open_dir, 0, 0) if os.geteuid() == 0 else None
    standby = new_server(pg.major, data_dir=data, **pg.settings)
    name = ConnInfo.parse(stand.dsn).dbname
    dsn = ConnInfo.parse(stand.dsn).with_options(port=str(standby.port)).dsn()
    eventually(lambda: run_sql(dsn, "SELECT pg_is_in_recovery()") == [(True,)])
    with refused(SourceUnsupported, "standby", exit_code=22) as caught:
        stand.project.backup(dsn)
    assert name
    assert "primary" in caught[0].hint
    assert stand.listed() == [stand.good]
    standby.close()
    stand.all_is_well()


def test_a_server_without_room_for_locks(
    stand: Stand, new_server: NewServer, new_target: NewTarget
) -> None:
    """More tables than the lock table holds: told with the setting to raise."""
    server = new_server(max_locks_per_transaction="10", max_connections="10", autovacuum="off",
                        max_prepared_transactions="0", max_wal_senders="0", wal_level="minimal",
                        max_replication_slots="0")  # fmt: skip
    run_sql(server.dsn(), "CREATE DATABASE many")
    for start in range(0, 1200, 20):
        run_sql(server.dsn("many"), ";".join(f"CREATE TABLE t{n} (a int)"
                                             for n in range(start, start + 20)))  # fmt: skip
    with pytest.raises((SourceUnsupported, SourceChanged)) as caught:
        stand.project.backup(server.dsn("many"), accept_new_source=True)
    assert caught.value.exit_code == 22
    assert "max_locks_per_transaction" in caught.value.hint
    stand.all_is_well()
