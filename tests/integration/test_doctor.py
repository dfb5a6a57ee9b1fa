"""`aurora doctor` on a real server: what is wrong is named, with what to do."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from aurora.cli.app import main
from aurora.operations.source_checks import check_source
from aurora.postgres.conninfo import ConnInfo
from aurora.repository.keys import WEAK_KDF_FOR_TESTS
from tests.fixtures.postgres import NewDatabase

Doctor = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory."""
    for name in list(os.environ):
        if name.startswith("AURORA_") and name != "AURORA_PG_BIN":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for module in ("door", "mirror_view"):  # a slow derivation proves nothing here
        monkeypatch.setattr(f"aurora.repository.{module}.Kdf", lambda: WEAK_KDF_FOR_TESTS)
    monkeypatch.setenv("AURORA_PASSPHRASE", "correct horse battery")
    monkeypatch.setenv("AURORA_SECONDARY_PASSPHRASE", "staple and paper clip")


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run it: exit code, and findings by their codes."""

    def run() -> tuple[int, dict[str, dict[str, Any]]]:
        capsys.readouterr()
        code = main(["doctor", "--json"])
        summary = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert summary["message_type"] == "summary"
        return code, {finding["code"]: finding for finding in summary["findings"]}

    return run


@pytest.fixture
def database(new_database: NewDatabase) -> str:
    """A database that init has prepared."""
    dsn = new_database()
    words = ["init", "--source", dsn, "--primary", "./a", "--secondary", "./b", "--yes"]
    assert main([*words, "--json"]) == 0
    return dsn


@pytest.fixture
def plain_role(new_database: NewDatabase) -> Iterator[tuple[str, ConnInfo]]:
    """A database's DSN for its owner, and as a role that has no rights yet."""
    dsn, role = new_database(), f"reader_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(role)))
        yield dsn, ConnInfo.parse(dsn).with_options(user=role, password="x")
        conn.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


def test_after_init_everything_is_in_place(database: str, doctor: Doctor) -> None:
    """Ready; two directories of one machine are a warning only."""
    code, found = doctor()
    assert code == 0
    assert {name for name, one in found.items() if one["level"] != "ok"} == {"storages-share-fate"}
    for name in (
        "config", "source-version", "source-tls", "source-role", "source-privileges",
        "source-clock", "tools", "primary-probe", "primary-opens", "primary-slots",
        "secondary-probe", "secondary-opens", "secondary-slots", "secondary-backups",
    ):  # fmt: skip
        assert found[name]["level"] == "ok"


def test_people_get_a_verdict_at_the_end(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a finding, what to do under it, and the fact last."""
    capsys.readouterr()
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith("ready: 0 errors, 1 warning, ")
    (line,) = [number for number, text in enumerate(out) if text.startswith("warning")]
    assert out[line + 1].startswith("         -> ")


def test_an_unreachable_source_is_an_error_and_the_rest_is_still_looked_at(
    database: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1; the hint says what to check."""
    monkeypatch.setenv("AURORA_SOURCE_DSN", "postgresql://u@127.0.0.1:1/d")
    code, found = doctor()
    assert code == 1
    assert found["source-unreachable"]["level"] == "error"
    assert found["source-unreachable"]["hint"]
    assert found["primary-opens"]["level"] == "ok"


@pytest.mark.parametrize(
    "break_it,code",
    [
        (lambda: shutil.rmtree("a"), "repository-not-found"),
        (lambda: Path("a/config").unlink(), "repository-not-found"),
        (lambda: Path("a/config").write_bytes(b"{}"), "object-damaged"),
        (lambda: shutil.rmtree("b"), "secondary-missing"),
    ],
)
def test_a_broken_repository_is_an_error(
    database: str, doctor: Doctor, break_it: Callable[[], object], code: str
) -> None:
    """With what to do."""
    break_it()
    exit_code, found = doctor()
    assert exit_code == 1
    assert found[code]["level"] == "error"
    assert found[code]["hint"]


def test_a_wrong_passphrase_is_an_error(
    database: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of either storage."""
    monkeypatch.setenv("AURORA_SECONDARY_PASSPHRASE", "wrong one entirely")
    code, found = doctor()
    assert code == 1
    assert found["wrong-key"]["message"].startswith("secondary: ")


def test_a_secret_that_others_may_read_is_a_risk(database: str, doctor: Doctor) -> None:
    """The file that holds it is named, with the command that closes it."""
    Path("aurora.secrets/source-password").chmod(0o644)
    _, found = doctor()
    assert found["secret-readable"]["level"] == "warning"
    assert "chmod 600" in found["secret-readable"]["hint"]


def test_backups_of_another_database_under_this_name_are_noticed(
    database: str,
    new_database: NewDatabase,
    doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before they are mixed."""
    assert main(["backup", "create", "--json"]) == 0
    _, found = doctor()
    assert found["source-same"]["level"] == "ok"
    assert found["secondary-backups"]["message"] == "secondary: 1 backup"
    monkeypatch.setenv("AURORA_SOURCE_DSN", new_database())
    code, found = doctor()
    assert code == 0
    assert found["source-changed"]["level"] == "warning"
    assert "--accept-new-source" in found["source-changed"]["hint"]


def test_a_backup_that_the_secondary_lacks_is_told(database: str, doctor: Doctor) -> None:
    """With the command that copies it."""
    assert main(["--config", "aurora.toml", "backup", "create", "--json"]) == 0
    for kept in Path("b").iterdir():
        if kept.name not in ("config", "keys", "outer"):  # what makes it open
            shutil.rmtree(kept)
    _, found = doctor()
    assert found["secondary-behind"]["level"] == "warning"
    assert "aurora backup replicate" in found["secondary-behind"]["hint"]


def test_one_key_slot_is_a_risk(database: str, doctor: Doctor) -> None:
    """A lost slot is noticed on both storages."""
    for directory in ("a", "b"):
        for path in sorted(Path(directory, "keys").iterdir()):
            if b"recovery-code" in path.read_bytes():
                path.unlink()
    _, found = doctor()
    assert found["primary-one-slot"]["level"] == "warning"
    assert found["secondary-one-slot"]["level"] == "warning"


def test_each_thing_that_the_role_may_not_read_is_named(
    plain_role: tuple[str, ConnInfo],
) -> None:
    """Tables, row security, sequences, large objects; each with the statement that helps."""
    dsn, info = plain_role
    with psycopg.connect(dsn, autocommit=True) as conn:
        role = sql.Identifier(info.options["user"])
        conn.execute("CREATE TABLE closed (id int); CREATE TABLE open (id int)")
        conn.execute("CREATE TABLE guarded (id int); CREATE SEQUENCE counted")
        conn.execute("ALTER TABLE guarded ENABLE ROW LEVEL SECURITY")
        conn.execute("CREATE SCHEMA hidden CREATE TABLE inside (id int)")
        conn.execute(sql.SQL("GRANT SELECT ON open, guarded, hidden.inside TO {}").format(role))
        conn.execute("SELECT lo_from_bytea(4711, 'x'); SELECT lo_from_bytea(4712, 'y')")
        conn.execute(sql.SQL("GRANT SELECT ON LARGE OBJECT 4712 TO {}").format(role))
        found = {finding.code: finding for finding in check_source(info, jobs=1)}
        tables = found["source-tables-unreadable"]
        assert "2 of 4 tables: public.closed, hidden.inside" in tables.message
        assert tables.details == ("public.closed", "hidden.inside")
        assert "pg_read_all_data" in tables.hint
        assert "public.guarded" in found["source-row-security"].message
        assert "BYPASSRLS" in found["source-row-security"].hint
        assert "public.counted" in found["source-sequences-unreadable"].message
        assert "1 large object (one is 4711)" in found["source-large-objects-unreadable"].message
        assert "source-privileges" not in found

        skip = {"public.closed", "hidden.inside", "public.guarded"}
        left = {finding.code for finding in check_source(info, jobs=1, skip=skip)}
        assert not left & {"source-tables-unreadable", "source-row-security"}

        # The hints are right: with them nothing is left.
        conn.execute(sql.SQL("GRANT pg_read_all_data TO {}").format(role))
        conn.execute(sql.SQL("ALTER ROLE {} BYPASSRLS").format(role))
        conn.execute(sql.SQL("GRANT SELECT ON LARGE OBJECT 4711 TO {}").format(role))
        found = {finding.code: finding for finding in check_source(info, jobs=1)}
        assert "source-privileges" in found
        assert {finding.level for finding in found.values()} == {"ok"}


def test_a_source_short_of_connections_is_a_warning(new_database: NewDatabase) -> None:
    """Before a backup takes the last ones away from the application."""
    info = ConnInfo.parse(new_database())
    found = {finding.code: finding for finding in check_source(info, jobs=99)}
    assert found["source-connections"].level == "warning"


def test_a_clock_that_is_off_is_a_warning(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes: backups are right all the same, their times are not."""
    from datetime import timedelta

    from aurora import clock
    from aurora.operations import source_checks

    class Slow:
        @staticmethod
        def now() -> object:
            return clock.now() - timedelta(minutes=10)

    monkeypatch.setattr(source_checks, "clock", Slow)
    found = {f.code: f for f in check_source(ConnInfo.parse(new_database()), jobs=1)}
    assert found["source-clock"].level == "warning"
    assert "10 min" in found["source-clock"].message


def test_without_pg_dump_of_its_version_the_source_cannot_be_backed_up(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint names the package."""
    from aurora.errors import UsageError
    from aurora.operations import source_checks

    def none(**wanted: object) -> None:
        raise UsageError("no PostgreSQL client programs", hint="Install postgresql-client.")

    monkeypatch.setattr(source_checks, "find_tools", none)
    found = {f.code: f for f in check_source(ConnInfo.parse(new_database()), jobs=1)}
    assert found["tools-missing"].level == "error"
