"""Secrets by reference: found where they are said to be, or refused with a reason."""

import os
import sys
from pathlib import Path

import pytest

from aurora.config import SecretRef, Settings, SourceSettings, StorageSettings
from aurora.config import secrets as module
from aurora.config.references import credential_references
from aurora.config.secrets import reference_from_environment
from aurora.errors import UsageError, WrongKey
from aurora.postgres.conninfo import ConnInfo
from aurora.storage.later import Later
from aurora.wiring import Aurora, default_label


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer has set does not change these tests."""
    for name in list(os.environ):
        if name.startswith(("AURORA_", "PG")):
            monkeypatch.delenv(name)


def test_a_secret_is_fetched_from_each_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trailing newline is no part of it; spaces are."""
    (tmp_path / "file").write_text("from file \n")
    monkeypatch.setenv("THE_SECRET", "from environment")
    assert SecretRef(file="file").resolve("x", base=tmp_path) == "from file "
    assert SecretRef(env="THE_SECRET").resolve("x") == "from environment"
    assert SecretRef(command="printf 'a b\\n'").resolve("x") == "a b"


def test_commands_run_without_a_shell(tmp_path: Path) -> None:
    """What a shell would do with it does not happen; relative to the file's directory."""
    (tmp_path / "pw").write_text("here\n")
    assert SecretRef(command="cat pw").resolve("x", base=tmp_path) == "here"
    assert SecretRef(command="echo $HOME;ls").resolve("x") == "$HOME;ls"


@pytest.mark.parametrize(
    "reference,message",
    [
        (SecretRef(env="NOT_SET_AT_ALL"), "is not set"),
        (SecretRef(file="/nonexistent/file"), "no such file"),
        (SecretRef(file="/"), "is a directory"),
        (SecretRef(command="false"), "exit code 1"),
        (SecretRef(command="/nonexistent/program"), "cannot be run"),
        (SecretRef(command="echo 'open"), "unclosed quote"),
        (SecretRef(command=" "), "is empty"),
        (SecretRef(command="true"), "is empty"),
        (SecretRef(command="printf 'a\\nb\\n'"), "more than one line"),
        (SecretRef(command="printf '\\377'"), "not UTF-8"),
    ],
)
def test_a_secret_that_is_not_there_says_why(reference: SecretRef, message: str) -> None:
    """A usage error that names what was looked for."""
    with pytest.raises(UsageError) as caught:
        reference.resolve("the primary passphrase")
    assert message in caught.value.message
    assert "the primary passphrase" in caught.value.message


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password manager that waits for a click must not hold a backup for ever."""
    monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", 0.2)
    with pytest.raises(UsageError, match="did not end"):
        SecretRef(command=f"{sys.executable} -c 'import time; time.sleep(60)'").resolve("x")


def test_the_arguments_of_a_command_stay_out_of_errors() -> None:
    """People do write secrets into them."""
    with pytest.raises(UsageError) as caught:
        SecretRef(command="false hunter2").resolve("x")
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_a_key_of_several_lines_is_allowed_where_it_is_asked_for(tmp_path: Path) -> None:
    """Google's service account key is a JSON text."""
    (tmp_path / "key").write_text('{\n "a": 1\n}\n')
    assert SecretRef(file="key").resolve("x", base=tmp_path, lines=True) == '{\n "a": 1\n}'


def test_the_environment_names_a_file_a_command_or_the_secret() -> None:
    """In this order."""
    every = {"P_FILE": "/f", "P_COMMAND": "c", "P": "s"}
    assert reference_from_environment("P", every) == SecretRef(file="/f")
    assert reference_from_environment("P", {"P_COMMAND": "c", "P": "s"}) == SecretRef(command="c")
    assert reference_from_environment("P", {"P": "s"}) == SecretRef(env="P")
    assert reference_from_environment("P", {}) is None


def _aurora(**changes: object) -> Aurora:
    settings = Settings(
        source=SourceSettings(dsn="postgresql://u@127.0.0.1:1/d"),
        primary=StorageSettings(url="/p"),
        secondary=StorageSettings(url="/s"),
    )
    return Aurora(settings, **changes)  # type: ignore[arg-type]


def test_a_passphrase_is_asked_for_once() -> None:
    """And only where nothing supplies it."""
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return "typed"

    aurora = _aurora(ask=ask)
    assert [aurora.passphrase("primary") for _ in range(3)] == ["typed"] * 3
    assert asked == ["Passphrase of the primary repository"]


def test_the_environment_wins_over_the_file_and_each_storage_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AURORA_PASSPHRASE is the primary's."""
    monkeypatch.setenv("AURORA_PASSPHRASE", "one")
    monkeypatch.setenv("AURORA_SECONDARY_PASSPHRASE_COMMAND", "echo two")
    aurora = _aurora()
    assert (aurora.passphrase("primary"), aurora.passphrase("secondary")) == ("one", "two")


@pytest.mark.parametrize("place", ["primary", "secondary"])
def test_a_passphrase_that_nobody_gives_lists_the_ways(place: str) -> None:
    """For cron, where nobody can be asked."""
    with pytest.raises(UsageError) as caught:
        _aurora().passphrase(place)  # type: ignore[arg-type]
    prefix = "AURORA_PASSPHRASE" if place == "primary" else "AURORA_SECONDARY_PASSPHRASE"
    for way in (f"{prefix}_FILE", f"{prefix}_COMMAND", f"[{place}]", "terminal"):
        assert way in caught.value.hint


def test_the_sources_password_joins_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment; the settings hold none."""
    monkeypatch.setenv("AURORA_SOURCE_PASSWORD", "sesame")
    aurora = _aurora()
    assert ConnInfo.parse(aurora.source_dsn()).password == "sesame"
    assert "sesame" not in repr(aurora.settings) + repr(aurora.source())


def test_credentials_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over what the file refers to, field by field."""
    monkeypatch.setenv("AURORA_PRIMARY_SECRET_ACCESS_KEY_FILE", "/key")
    written = StorageSettings(
        url="s3://b", credentials={"access_key_id": "A", "secret_access_key": SecretRef(env="K")}
    )
    assert credential_references("primary", written) == {
        "access_key_id": "A",
        "secret_access_key": SecretRef(file="/key"),
    }


@pytest.mark.parametrize(
    "dsn,label",
    [
        ("postgresql://u@h/Shop", "shop"),
        ("postgresql://postgres@db.abcdefghijklmnopqrst.supabase.co/postgres",
         "abcdefghijklmnopqrst"),
        ("postgresql://postgres.abcdefghijklmnopqrst@aws-0-eu.pooler.supabase.com/postgres",
         "abcdefghijklmnopqrst"),
        ("postgresql://first.last@h/db", "db"),
    ],
)  # fmt: skip
def test_a_supabase_project_is_labelled_by_its_reference(dsn: str, label: str) -> None:
    """All of their databases are called postgres."""
    assert default_label(ConnInfo.parse(dsn)) == label


def test_a_safety_backup_of_another_database_has_its_own_label() -> None:
    """Backups of two databases never mix."""
    aurora = _aurora()
    assert aurora.safety_database("postgresql://u@127.0.0.1:1/other", "d") == aurora.database
    assert aurora.safety_database("postgresql://u@127.0.0.1:1/d", "other") != aurora.database


def test_a_fallback_is_opened_once_and_its_failure_stays() -> None:
    """Each try would take a slow key derivation."""
    tries = []

    def opening() -> object:
        tries.append(1)
        raise WrongKey("no")

    later = Later(opening)  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(WrongKey):
            later.get("x")
    assert len(tries) == 1
