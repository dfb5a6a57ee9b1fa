"""Bad input on the real command line: one clean message, the right exit code, no secret."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aurora.postgres.conninfo import ConnInfo
from aurora.repository.config import read_config
from aurora.repository.reader import ObjectReader
from aurora.storage.local import LocalStorage
from tests.fixtures.faults import (
    BACKUP_ID,
    Line,
    Workplace,
    command_lines,
    eventually,
    rows_of,
    run_sql,
)
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import NewTarget

pytest_plugins = ["tests.fixtures.backups", "tests.fixtures.stands"]


@pytest.fixture
def backed_up(workplace: Workplace) -> Workplace:
    """With three backups, the last one is ``latest``."""
    for _ in range(3):
        workplace.project.backup(workplace.dsn, mirrored=True)
    return workplace


BAD_WORDS: list[tuple[list[str], int, str]] = [
    (["backup", "verify", "nosuchbackup"], 10, "nosuchbackup"),
    (["backup", "restore", "20"], 2, "means 3 backups"),
    (["backup", "restore", "latest"], 51, "holds"),
    (["backup", "restore", "latest", "--in-place"], 2, "--yes"),
    (["backup", "restore-table", "nosuchtable", "latest"], 10, "no table nosuchtable"),
    (["backup", "restore-table", "orders", "latest"], 51, "there already"),
    (["backup", "restore-table", "orders", "latest", "--replace"], 2, "--yes"),
    (["backup", "restore-table", "orders", "latest", "--as", "x", "--replace"], 2, "exclude"),
    (["backup", "verify", "latest", "--subset", "3/2"], 2, "subset"),
    (["backup", "verify", "latest", "--subset", "all"], 2, "subset"),
    (["backup", "verify", "latest", "--level", "deep"], 2, "level"),
    (["backup", "verify", "latest", "--budget", "soon"], 2, "soon"),
    (["backup", "verify", "latest", "--storage", "third"], 2, "third"),
    (["backup", "list", "--storage", "third"], 2, "third"),
    (["backup", "create", "--type", "half"], 2, "half"),
    (["backup", "create", "--jobs", "0"], 2, "jobs"),
    (["backup", "create", "--skip", "no.such"], 2, "no.such"),
    (["backup", "restore", "latest", "--target", "postgresql://x@:y/z"], 2, "connection string"),
    (["backup", "restore", "latest", "--target", "postgresql://u:hunter2@127.0.0.1:1/d"], 50, ""),
    (["--config", "nowhere.toml", "backup", "list"], 2, "nowhere.toml"),
    (["backup", "bake"], 2, "bake"),
]


def test_bad_words(backed_up: Workplace) -> None:
    """Each ends with its code, says why on standard error, changes nothing."""
    before = rows_of(backed_up.dsn)
    for words, code, said in BAD_WORDS:
        done = backed_up.run(*words, "--json")
        told = (words, done.code, done.out, done.err)
        assert done.code == code, told
        error = done.error
        assert said in f"{error['message']} {error['hint']}", told
        assert error["hint"] or error["code"] == "usage", told
        assert "hunter2" not in done.out + done.err
        # Whatever came before is JSON; a summary would say that it was done.
        assert "summary" not in {line["message_type"] for line in done.lines}, told
    for words, code, said in BAD_WORDS[:3]:
        done = backed_up.run(*words)
        assert (done.code, done.out) == (code, "")
        assert said in done.err
        assert done.err.startswith("error: ")
    assert rows_of(backed_up.dsn) == before
    assert len(backed_up.project.repository.backups()) == 3
    good = backed_up.run("backup", "create", "--json")
    assert (good.code, good.err) == (0, "")
    assert BACKUP_ID.fullmatch(good.lines[-1]["backup_id"])


def test_a_wrong_passphrase(backed_up: Workplace, new_target: NewTarget) -> None:
    """On either storage: 12, and with the right one all goes on."""
    for name, words in (("one", ["backup", "list"]), ("two", ["backup", "replicate"])):
        secret = backed_up.directory / name
        right = secret.read_text()
        secret.write_text("a wrong passphrase\n")
        done = backed_up.run(*words, "--json")
        assert (done.code, done.error["code"]) == (12, "wrong-key")
        assert done.error["hint"]
        secret.write_text(right)
    target = new_target()
    done = backed_up.run("backup", "restore", "latest", "--target", target, "--json")
    assert (done.code, done.err) == (0, "")
    assert rows_of(target) == rows_of(backed_up.dsn)
    assert backed_up.run("backup", "create").code == 0


def test_a_wrong_secondary_passphrase_leaves_a_backup(backed_up: Workplace) -> None:
    """The primary's backup is made; 3, and the warning says why."""
    (backed_up.directory / "two").write_text("a wrong passphrase\n")
    done = backed_up.run("backup", "create", "--json")
    assert done.code == 3
    summary = done.lines[-1]
    assert (summary["complete"], summary["replicated"]) == (True, False)
    assert any("not-replicated" in line.values() for line in done.lines)
    (backed_up.directory / "two").write_text("another passphrase for tests\n")
    assert backed_up.run("backup", "replicate").code == 0
    assert len(backed_up.project.repository_on_mirror.backups()) == 4


def test_exchanged_storages(backed_up: Workplace) -> None:
    """The two URLs swapped: 13, nothing written to either."""
    config = backed_up.directory / "aurora.toml"
    right = config.read_text()
    before = [sorted(i.name for i in LocalStorage(backed_up.directory / d).list("")) for d in "ab"]
    config.write_text(right.replace("./a", "./x").replace("./b", "./a").replace("./x", "./b"))
    for words in (["backup", "create"], ["backup", "list"], ["backup", "verify", "latest"]):
        done = backed_up.run(*words, "--json")
        assert done.code in (12, 13), done.err
        assert done.error["hint"]
    after = [sorted(i.name for i in LocalStorage(backed_up.directory / d).list("")) for d in "ab"]
    assert after == before
    swapped_keys = config.read_text().replace('"one"', '"x"').replace('"two"', '"one"')
    config.write_text(swapped_keys.replace('"x"', '"two"'))
    done = backed_up.run("backup", "create", "--json")
    assert (done.code, done.error["code"]) == (13, "repository-unsupported")
    assert "exchanged" in done.error["hint"]
    config.write_text(right)
    assert backed_up.run("backup", "create").code == 0


def test_a_newer_format(backed_up: Workplace, new_target: NewTarget) -> None:
    """13 and nothing is written; made old again, the last good backup restores."""
    config = backed_up.directory / "a" / "config"
    right = config.read_bytes()
    config.unlink()
    config.write_bytes(right.replace(b'"format":1', b'"format":2'))
    before = sorted(i.name for i in LocalStorage(backed_up.directory / "a").list(""))
    for words in (["backup", "create"], ["backup", "list"], ["backup", "heal", "latest"]):
        done = backed_up.run(*words, "--json")
        assert (done.code, done.error["code"]) == (13, "repository-unsupported"), done.err
        assert "newer" in done.error["hint"]
    assert sorted(i.name for i in LocalStorage(backed_up.directory / "a").list("")) == before
    config.unlink()
    config.write_bytes(right)
    target = new_target()
    assert backed_up.run("backup", "restore", "latest", "--target", target).code == 0
    assert rows_of(target) == rows_of(backed_up.dsn)
    assert backed_up.run("backup", "create").code == 0


def test_a_repository_of_another_source(
    backed_up: Workplace, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """Another database under the same label: refused, unless it is said to have moved."""
    before = rows_of(backed_up.dsn)
    backed_up.point(new_database())
    done = backed_up.run("backup", "create", "--json")
    assert (done.code, done.error["code"]) == (13, "repository-unsupported")
    assert "--accept-new-source" in done.error["hint"]
    assert len(backed_up.project.repository.backups()) == 3
    target = new_target()
    assert backed_up.run("backup", "restore", "latest", "--target", target).code == 0
    assert rows_of(target) == before
    assert backed_up.run("backup", "create", "--accept-new-source").code == 0
    assert backed_up.run("backup", "create").code == 0
    done = backed_up.run("doctor", "--json")
    assert "source-changed" not in done.out


def test_doctor_tells_of_another_source(backed_up: Workplace, new_database: NewDatabase) -> None:
    """Before the backup that would be refused."""
    backed_up.point(new_database())
    done = backed_up.run("doctor", "--json")
    assert "source-changed" in done.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_backup(
    backed_up: Workplace, line_to: Callable[..., tuple[Line, str]], number: int,
    new_target: NewTarget,
) -> None:  # fmt: skip
    """130, no session is left on the server, the lease is ended, the next run succeeds."""
    _, slow = line_to(backed_up.dsn, rate=150_000)
    backed_up.point(slow)
    process = backed_up.start("backup", "create", "--json")
    eventually(lambda: reading(backed_up.dsn), within=20)
    process.send_signal(number)
    begun = time.monotonic()
    done = backed_up.finish(process)
    assert (done.code, done.error["code"]) == (130, "cancelled")
    assert time.monotonic() - begun < 10
    begun_leases, ended = backed_up.ended_leases()
    assert begun_leases == ended
    eventually(lambda: not others(backed_up.dsn))
    assert len(backed_up.project.repository.backups()) == 3
    backed_up.point(backed_up.dsn)
    target = new_target()
    assert backed_up.run("backup", "restore", "latest", "--target", target).code == 0
    assert backed_up.run("backup", "create").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_restore(
    backed_up: Workplace, line_to: Callable[..., tuple[Line, str]], number: int
) -> None:
    """130; the live database is as it was, nothing is left beside it."""
    rows = rows_of(backed_up.dsn)
    line, slow = line_to(backed_up.dsn, rate=400_000)
    process = backed_up.start(
        "backup", "restore", "latest", "--in-place", "--yes", "--json", "--target", slow,
        "--no-safety-backup",
    )  # fmt: skip
    eventually(lambda: databases_beside(backed_up.dsn), within=20)
    time.sleep(0.3)
    process.send_signal(number)
    done = backed_up.finish(process)
    assert (done.code, done.error["code"]) == (130, "cancelled")
    line.close()
    eventually(lambda: not databases_beside(backed_up.dsn))
    assert rows_of(backed_up.dsn) == rows
    begun_leases, ended = backed_up.ended_leases()
    assert begun_leases == ended
    done = backed_up.run("backup", "restore", "latest", "--in-place", "--yes", "--json")
    assert (done.code, done.err) == (0, "")
    assert rows_of(backed_up.dsn) == rows


def reading(dsn: str) -> list[tuple[object, ...]]:
    """Sessions that copy rows out of the database."""
    return run_sql(
        dsn,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND query LIKE '%COPY%FROM ONLY%' AND pid <> pg_backend_pid()",
    )


def others(dsn: str) -> list[tuple[object, ...]]:
    """Other client sessions in the database."""
    return run_sql(
        dsn,
        "SELECT application_name, query FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database() AND backend_type = 'client backend'",
    )


def databases_beside(dsn: str) -> list[tuple[object, ...]]:
    """Databases that a restore of this one made and that are not in place."""
    name = ConnInfo.parse(dsn).dbname
    return run_sql(dsn, f"SELECT datname FROM pg_database WHERE datname ~ '^{name}_aurora'")


def test_no_password_in_any_process(
    backed_up: Workplace, line_to: Callable[..., tuple[Line, str]], new_target: NewTarget
) -> None:
    """Neither a DSN's password given with --target, nor the source's, reaches a child's words,
    the output or the report."""
    target = ConnInfo.parse(new_target())
    line, _ = line_to(target.dsn(), rate=400_000)
    password = str(target.password)
    through = target.with_options(port=str(line.port)).dsn()
    process = backed_up.start("backup", "restore", "latest", "--target", through, "--json")
    seen: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            # The first one is what the user typed: that is the user's own.
            seen.extend(line for line in command_lines(process.pid) if "-m aurora" not in line)
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = backed_up.finish(process)
    over.set()
    watcher.join()
    assert done.code == 0, done.err
    assert any("pg_restore" in line for line in seen), "no child was seen"
    assert not [line for line in seen if password in line]
    reports = list((backed_up.directory / "aurora.reports").iterdir())
    assert len(reports) == 2
    for report in reports:
        backed_up.assert_no_secret(report.read_text())
    for stored in Path(backed_up.directory, "a").rglob("*"):
        if stored.is_file():
            assert password.encode() not in stored.read_bytes()


def test_without_a_source(backed_up: Workplace, new_target: NewTarget) -> None:
    """The source is gone for good: listing, verifying and restoring elsewhere need it not."""
    rows = rows_of(backed_up.dsn)
    config = backed_up.directory / "aurora.toml"
    port = ConnInfo.parse(backed_up.dsn).options["port"]
    config.write_text(config.read_text().replace(f":{port}/", ":1/"))
    done = backed_up.run("backup", "create", "--json")
    assert (done.code, done.error["code"]) == (20, "source-unreachable")
    assert backed_up.run("backup", "list").code == 0
    assert backed_up.run("backup", "verify", "latest").code == 0
    target = new_target()
    assert backed_up.run("backup", "restore", "latest", "--target", target).code == 0
    assert rows_of(target) == rows
    assert read_config(ObjectReader(LocalStorage(backed_up.directory / "a"))).role == "primary"
