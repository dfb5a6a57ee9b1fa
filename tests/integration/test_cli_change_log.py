"""The commands of the change log, as a person runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.looks import run_script, run_sql
from tests.fixtures.postgres import NewDatabase

Run = subprocess.CompletedProcess[str]


@pytest.fixture
def workplace(new_database: NewDatabase, tmp_path: Path) -> tuple[Path, str]:
    """A directory with an aurora.toml, and its source."""
    dsn = new_database()
    run_script(dsn, "CREATE TABLE keyed (id int PRIMARY KEY); CREATE TABLE bare (x int)")
    made = aurora(
        tmp_path, "init", "--source", dsn, "--primary", "./repo", "--no-secondary", "--name", "app",
        "--yes", "--recovery-code-file", "codes",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return tmp_path, dsn


def aurora(directory: Path, *words: str) -> Run:
    environment = {**os.environ, "AURORA_PASSPHRASE": "a passphrase for tests"}
    return subprocess.run(
        [sys.executable, "-m", "aurora", *words], cwd=directory, env=environment, text=True,
        capture_output=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def summary(run: Run) -> dict[str, object]:
    assert run.returncode == 0, run.stderr + run.stdout
    last = json.loads(run.stdout.splitlines()[-1])
    assert last["message_type"] == "summary"
    assert isinstance(last, dict)
    return last


def test_prepare_backup_show_undo(workplace: tuple[Path, str]) -> None:
    directory, dsn = workplace
    unsure = aurora(directory, "source", "prepare")
    assert unsure.returncode == 2
    assert 'CREATE PUBLICATION "aurora_app_keyed" FOR TABLE ONLY "public"."keyed"' in unsure.stdout
    assert "Nothing was changed" in unsure.stderr

    prepared = summary(aurora(directory, "source", "prepare", "--yes", "--json"))
    assert prepared["streamed"] == ["public.keyed"]
    again = aurora(directory, "source", "prepare")
    assert again.returncode == 0
    assert "was prepared already" in again.stdout

    full = summary(aurora(directory, "backup", "create", "--json"))
    run_script(dsn, "INSERT INTO keyed VALUES (1), (2); INSERT INTO bare VALUES (1)")
    made = summary(aurora(directory, "backup", "create", "--type", "incremental", "--json"))
    assert made["type"] == "incremental"
    log = made["log"]
    assert isinstance(log, dict)
    assert (log["parent"], log["acknowledged"]) == (full["backup_id"], True)

    shown = aurora(directory, "log", "show", "--json", "--from", "2020-01-01T00:00:00Z")
    assert summary(shown)["rows"] == 3
    first = json.loads(shown.stdout.splitlines()[0])
    assert first["message_type"] == "transaction"
    assert first["tables"]["public.keyed"]["inserted"] == 2
    told = aurora(directory, "log", "show", "--table", "public.keyed").stdout
    assert "public.keyed +2; public.bare +1" in told
    assert summary(aurora(directory, "log", "show", "--json", "--to", "2020-01-01"))["rows"] == 0
    assert aurora(directory, "log", "show", "--from", "yesterday").returncode == 2

    assert "1 table streamed" in aurora(directory, "doctor").stdout
    removed = summary(aurora(directory, "source", "prepare", "--undo", "--yes", "--json"))
    assert len(removed["statements"]) == 3  # type: ignore[arg-type]
    became = aurora(directory, "backup", "create", "--type", "incremental")
    assert became.returncode == 0
    assert "a full, not an incremental: the slot aurora_app is not on the source" in became.stdout


def test_statements_of_many_tables_can_be_read(workplace: tuple[Path, str]) -> None:
    """Several tables a line, and all of them: this is what a person agrees to."""
    directory, dsn = workplace
    names = [f"a_table_with_a_rather_long_name_{number:02}" for number in range(30)]
    run_script(dsn, ";".join(f"CREATE TABLE {name} (id int PRIMARY KEY)" for name in names))

    shown = aurora(directory, "source", "prepare").stdout.partition("run on the source:")[2]

    assert max(map(len, shown.splitlines())) < 250, shown
    (statement,) = (one for one in shown.split(";") if "_keyed" in one and "_unkeyed" not in one)
    run_script(dsn, statement)
    published = run_sql(dsn, "SELECT tablename FROM pg_publication_tables")
    assert {str(name) for (name,) in published} == {"keyed", *names}


def test_a_restore_point_from_mark_to_recovery(workplace: tuple[Path, str], tmp_path: Path) -> None:
    """Marked, carried by the log, shown, recovered to; without a log it is refused."""
    directory, dsn = workplace
    nowhere = aurora(directory, "backup", "mark", "too early")
    assert nowhere.returncode == 22
    assert "Nothing was marked" in nowhere.stderr
    assert aurora(directory, "source", "prepare", "--yes").returncode == 0
    assert aurora(directory, "backup", "create").returncode == 0
    run_script(dsn, "INSERT INTO keyed VALUES (1)")
    marked = summary(aurora(directory, "backup", "mark", "before deploy", "--json"))
    assert marked["name"] == "before deploy"
    run_script(dsn, "DELETE FROM keyed")
    assert aurora(directory, "backup", "mark", "bad\nname").returncode == 2
    assert aurora(directory, "backup", "create", "--type", "incremental").returncode == 0

    told = aurora(directory, "log", "show").stdout
    assert f"xid {marked['xid']}" in told
    trail = aurora(directory, "audit", "show").stdout
    assert "backup mark" in trail
    assert "source prepare" in trail
    assert "[restore point before deploy]" in told
    point = ("backup", "restore-point", "--name", "before deploy", "--target", f"{dsn}_pit")
    planned = summary(aurora(directory, *point, "--dry-run", "--json"))
    assert planned["target"] == "restore point before deploy"
    last = planned["last_applied"]
    assert isinstance(last, dict)
    assert last["xid"] == marked["xid"]
    assert summary(aurora(directory, *point, "--json"))["outcome"] == "restored"
    try:
        assert run_sql(f"{dsn}_pit", "SELECT id FROM keyed") == [(1,)]
    finally:
        run_sql(dsn, f'DROP DATABASE "{dsn.rsplit("/", 1)[1]}_pit"')
    table = ("backup", "restore-table", "keyed", "--name", "before deploy")
    planned = summary(aurora(directory, *table, "--as", "was", "--dry-run", "--json"))
    assert (planned["mode"], planned["restored_as"]) == ("copy", "public.was")
    made = summary(aurora(directory, *table, "--as", "was", "--json"))
    assert made["recovered_to"] == "restore point before deploy"
    assert run_sql(dsn, "SELECT id FROM was") == [(1,)]
    assert aurora(directory, "backup", "restore-table", "keyed", "--as", "x").returncode == 2
    whole = ("backup", "restore-full", "latest:full", "--name", "before deploy", "--dry-run")
    assert "restore point before deploy" in aurora(directory, *whole).stdout
    unknown = aurora(directory, "backup", "restore-point", "--name", "befor", "--json")
    assert unknown.returncode == 10
    error = json.loads(unknown.stderr.splitlines()[-1])
    assert "before deploy" in error["context"]["choices"][0]
    run_sql(dsn, "SELECT pg_drop_replication_slot('aurora_app')")


def test_a_time_without_zone(workplace: tuple[Path, str]) -> None:
    """Without a terminal it is UTC, and the plan says so; two targets are one too many."""
    directory, dsn = workplace
    assert aurora(directory, "source", "prepare", "--yes").returncode == 0
    assert aurora(directory, "backup", "create").returncode == 0
    run_script(dsn, "INSERT INTO keyed VALUES (1)")
    now = run_sql(dsn, "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', "
                       "'YYYY-MM-DD HH24:MI:SS.US')")[0][0]  # fmt: skip
    assert aurora(directory, "backup", "create", "--type", "incremental").returncode == 0
    point = ("backup", "restore-point", "--dry-run", "--target", f"{dsn}_pit")
    assert "is taken for UTC" in aurora(directory, *point, now).stdout
    with_zone = aurora(directory, *point, f"{now}Z")
    assert with_zone.returncode == 0
    assert "is taken for UTC" not in with_zone.stdout
    assert "before the first full" in aurora(directory, *point, "2024-01-09T12:00:00Z").stderr
    assert "in the future" in aurora(directory, *point, "2924-01-09T12:00:00Z").stderr
    assert aurora(directory, *point, now, "--latest").returncode == 2
    assert aurora(directory, *point).returncode == 2
    run_sql(dsn, "SELECT pg_drop_replication_slot('aurora_app')")
