"""aurora.toml: read in layers, refused where it is wrong or holds a secret."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from aurora.config import SecretRef, load_settings
from aurora.config.settings import SECTIONS, slug
from aurora.errors import UsageError


@pytest.fixture(autouse=True)
def no_aurora_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer has set does not change these tests."""
    for name in list(os.environ):
        if name.startswith("AURORA_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file with something under every section."""
    path = tmp_path / "aurora.toml"
    path.write_text(
        """
[source]
dsn = "postgresql://app@db.example.org/shop"
password = {command = "pass show shop"}

[primary]
url = "./primary"
passphrase = {file = "secrets/primary"}

[primary.credentials]
access_key_id = "AKIA"
secret_access_key = {env = "KEY"}

[secondary]
url = "s3://bucket/x"

[backup]
chunk_size = "4 MiB"
lock_timeout = "1 min"
skip = ["public.log"]
"""
    )
    return path


def test_every_section_is_read(config: Path) -> None:
    """Human sizes and durations are parsed once; references stay references."""
    settings = load_settings(config)
    assert settings.source.password == SecretRef(command="pass show shop")
    assert settings.primary.credentials == {
        "access_key_id": "AKIA",
        "secret_access_key": SecretRef(env="KEY"),
    }
    assert settings.secondary is not None
    assert settings.backup.chunk_size == 4 << 20
    assert settings.backup.lock_timeout == 60
    assert settings.backup.skip == ("public.log",)
    assert settings.base == config.parent


def test_the_order_is_flag_environment_file_default(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer wins over the one below, field by field."""
    assert load_settings(config).backup.compression_level == 1
    monkeypatch.setenv("AURORA_BACKUP_CHUNK_SIZE", "2M")
    monkeypatch.setenv("AURORA_BACKUP_JOBS", "3")
    monkeypatch.setenv("AURORA_BACKUP_SKIP", "a.b, c.d")
    settings = load_settings(config, {"backup": {"jobs": 5}})
    assert settings.backup.chunk_size == 2 << 20
    assert settings.backup.jobs == 5
    assert settings.backup.skip == ("a.b", "c.d")
    assert settings.backup.lock_timeout == 60


def test_settings_do_not_change(config: Path) -> None:
    """They are shared between threads."""
    settings = load_settings(config)
    with pytest.raises(ValidationError):
        settings.backup.jobs = 9


def test_without_a_file_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container needs no file."""
    monkeypatch.setenv("AURORA_SOURCE_DSN", "postgresql://u:pw@h/d")
    monkeypatch.setenv("AURORA_PRIMARY_URL", "s3://b")
    settings = load_settings(None)
    assert (settings.source.dsn, settings.primary.url) == ("postgresql://u:pw@h/d", "s3://b")


@pytest.mark.parametrize(
    "text,message,hint",
    [
        ("[sorce]\n", "unknown key sorce", "Did you mean source?"),
        ("[backup]\nchunksize = 1\n", "unknown key backup.chunksize", "Did you mean chunk_size?"),
        ("[backup]\nzzz = 1\n", "unknown key backup.zzz", "Known are chunk_size"),
        ('[backup]\nchunk_size = "big"\n', "[backup] chunk_size: not a size", "configuration.md"),
        ("[backup]\njobs = 0\n", "[backup] jobs: input should be greater", "configuration.md"),
        ('[source]\npassword = {fil = "x"}\n', "unknown key source.password.fil", "file?"),
        (
            '[source]\npassword = {file = "x", env = "Y"}\n',
            "exactly one of env, file and command",
            "configuration.md",
        ),
        ('[source]\nname = "My App"\n', "use a-z, 0-9", "configuration.md"),
        ("[source\n", "is not valid TOML", ""),
        ("source = 5\n", "[source]", "configuration.md"),
    ],
)
def test_what_is_wrong_is_named_with_a_way_out(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    """The key, the file, and the nearest key that is known."""
    path = tmp_path / "aurora.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert hint in caught.value.hint


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    """The first thing that a new user meets."""
    with pytest.raises(UsageError) as caught:
        load_settings(tmp_path / "aurora.toml")
    assert "aurora init" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        '[source]\ndsn = "postgresql://u:hunter2@h/d"\n',
        "[source]\ndsn = \"host=h password='hunter2'\"\n",
        '[source]\npassword = "hunter2"\n',
        '[primary]\npassphrase = "hunter2"\n',
        '[primary]\nurl = "s3://key:hunter2@bucket/x"\n',
        '[primary]\nurl = "s3://bucket/x?secret_access_key=hunter2"\n',
        '[secondary.credentials]\nsecret_access_key = "hunter2"\n',
        '[secondary.credentials]\nsas_token = "hunter2"\n',
    ],
)
def test_a_secret_in_the_file_is_refused(tmp_path: Path, text: str) -> None:
    """With the three ways to refer to it; and without repeating it."""
    path = tmp_path / "aurora.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings(path)
    assert "holds a secret" in caught.value.message
    assert "hunter2" not in caught.value.message + caught.value.hint
    assert "{env =" in caught.value.hint


def test_a_typing_error_in_a_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that silently does nothing would be found when it is too late."""
    monkeypatch.setenv("AURORA_BACKUP_JOSB", "4")
    with pytest.raises(UsageError) as caught:
        load_settings(None)
    assert caught.value.hint == "Did you mean AURORA_BACKUP_JOBS?"


def test_a_wrong_value_in_a_variable_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the file, which is right."""
    monkeypatch.setenv("AURORA_BACKUP_CHUNK_SIZE", "enormous")
    with pytest.raises(UsageError, match=r"^AURORA_BACKUP_CHUNK_SIZE: not a size"):
        load_settings(None)


def test_secrets_and_foreign_variables_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Amazon has an Aurora as well."""
    for name in (
        "AURORA_PASSPHRASE",
        "AURORA_SOURCE_PASSWORD",
        "AURORA_SOURCE_PASSWORD_COMMAND",
        "AURORA_SECONDARY_PASSPHRASE_FILE",
        "AURORA_PRIMARY_SECRET_ACCESS_KEY",
        "AURORA_DEBUG",
        "AURORA_DB_HOST",
    ):
        monkeypatch.setenv(name, "xyzzy")
    assert "xyzzy" not in load_settings(None).model_dump_json()


@pytest.mark.parametrize("lasts, good", [("1 d", True), ("60 d", True), ("5 min", False),
                                         ("11000 d", False)])  # fmt: skip
def test_a_lock_lasts_days(config: Path, lasts: str, good: bool) -> None:
    """A typing mistake is told in words, before it locks a bucket for thirty years."""
    text = config.read_text()
    lock = f'object_lock = "{lasts}"\nobject_lock_mode = "compliance"\n'
    config.write_text(text.replace("[secondary]\n", f"[secondary]\n{lock}"))
    if good:
        assert load_settings(config).secondary.object_lock_mode == "compliance"  # type: ignore[union-attr]
        return
    with pytest.raises(UsageError, match="at least and ten years at most"):
        load_settings(config)


@pytest.mark.parametrize(
    "name,label",
    [("shop", "shop"), ("My App", "my-app"), ("Bücher_2", "b-cher_2"), ("日本", "database")],
)
def test_labels_are_plain(name: str, label: str) -> None:
    """They become parts of object names."""
    assert slug(name) == label


def test_every_setting_is_in_the_documentation() -> None:
    """With each field and default where the reader looks for it."""
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for section, model in SECTIONS.items():
        assert f"`{section}`" in text
        for field in model.model_fields:
            assert f"| `{field}` |" in text, f"[{section}] {field} is not documented"


def test_the_example_in_the_documentation_is_valid(tmp_path: Path) -> None:
    """It is what people copy."""
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    example = text.split("```toml\n")[1].split("```")[0]
    path = tmp_path / "aurora.toml"
    path.write_text(example)
    settings = load_settings(path)
    assert settings.source.name == "shop"
    assert settings.secondary is not None
