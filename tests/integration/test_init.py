"""`aurora init` on a real server and real directories, as a user runs it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import aurora
from aurora.cli.app import main
from aurora.config import load_settings
from aurora.errors import StorageUnavailable, UsageError
from aurora.operations import init as operation
from aurora.operations.findings import Level
from aurora.postgres.conninfo import ConnInfo
from aurora.repository.door import Repository
from aurora.repository.keys import WEAK_KDF_FOR_TESTS, RecoveryCode
from aurora.repository.mirror import MirrorView
from aurora.storage.local import LocalStorage
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.stores import S3Server

Run = Callable[..., tuple[int, list[dict[str, object]], str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory with two passphrases in files."""
    for name in list(os.environ):
        if name.startswith("AURORA_") and name != "AURORA_PG_BIN":
            monkeypatch.delenv(name)
    (tmp_path / "one").write_text("correct horse battery\n")
    (tmp_path / "two").write_text("staple and paper clip\n")
    monkeypatch.chdir(tmp_path)
    for module in ("door", "mirror_view"):  # a slow derivation proves nothing here
        monkeypatch.setattr(f"aurora.repository.{module}.Kdf", lambda: WEAK_KDF_FOR_TESTS)
    monkeypatch.setenv("AURORA_PASSPHRASE_FILE", "one")
    monkeypatch.setenv("AURORA_SECONDARY_PASSPHRASE_FILE", "two")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line with --json: exit code, lines of output, standard error."""

    def run(*words: str) -> tuple[int, list[dict[str, object]], str]:
        code = main([*words, "--json"])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return run


def arguments(dsn: str) -> list[str]:
    """The usual command."""
    return ["init", "--source", dsn, "--primary", "./a", "--secondary", "./b", "--yes"]


def test_init_makes_both_repositories_and_the_file(new_database: NewDatabase, run: Run) -> None:
    """Afterwards both open with their passphrases and with their recovery codes."""
    dsn = new_database()
    info = ConnInfo.parse(dsn)
    code, lines, err = run(*arguments(dsn), "--npm")
    assert (code, err) == (0, "")
    summary = lines[-1]
    assert summary["message_type"] == "summary"
    assert summary["created"] == ["primary", "secondary"]
    ids = summary["repository_ids"]
    assert isinstance(ids, dict)
    assert list(ids) == ["primary", "secondary"]
    codes = summary["recovery_codes"]
    assert isinstance(codes, dict)

    text = Path("aurora.toml").read_text()
    for secret in (str(info.password), "correct horse", "staple", *codes.values()):
        assert secret not in text
    settings = load_settings(Path("aurora.toml"))
    assert settings.source.dsn == info.uri()
    assert settings.source.name == info.dbname.replace("_", "_")
    assert settings.primary.passphrase is not None
    assert settings.primary.passphrase.file == "one"

    kept = Path("aurora.secrets/source-password")
    assert kept.read_text() == f"{info.password}\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert (kept.parent / ".gitignore").read_text() == "*\n"
    assert any(line.get("code") == "password-moved" for line in lines)

    storage = LocalStorage(Path("a").absolute())
    by_code = Repository.open(storage, RecoveryCode(codes["primary"]))
    assert [slot.kind for slot in by_code.slots()].count("recovery-code") == 1
    view = MirrorView.open(LocalStorage(Path("b").absolute()), RecoveryCode(codes["secondary"]))
    twin = Repository.open(view, RecoveryCode(codes["primary"]))
    assert twin.repository_id == by_code.repository_id

    scripts = json.loads(Path("package.json").read_text())["scripts"]
    assert len(scripts) == 10
    assert scripts["backup:create"] == "aurora backup create"


def test_init_from_python(new_database: NewDatabase) -> None:
    """Without a terminal: what the checks found comes before anything is written."""
    dsn, codes = new_database(), dict[str, str]()

    def stop(checked: operation.Plan) -> None:
        assert not checked.errors
        raise UsageError("not yet")

    def begin(confirm: Callable[[operation.Plan], None] | None) -> operation.Report:
        return aurora.init(
            source=dsn, primary="./a", secondary="./b", reveal=codes.__setitem__, confirm=confirm
        )

    with pytest.raises(UsageError, match="not yet"):
        begin(stop)
    assert not Path("aurora.toml").exists()
    report = begin(None)
    assert list(report.created) == list(codes) == ["primary", "secondary"]
    found = list(aurora.doctor(aurora.Aurora.load(Path("aurora.toml"))))
    assert not [one for one in found if one.level is Level.ERROR]
    assert begin(None).created == ()


def test_a_second_init_changes_nothing(new_database: NewDatabase, run: Run) -> None:
    """With the same arguments, or without any: the file tells them."""
    dsn = new_database()
    run(*arguments(dsn))
    before = _contents()
    for words in (arguments(dsn), ["init"]):
        code, lines, _ = run(*words)
        assert code == 0
        assert (lines[-1]["created"], lines[-1]["config_written"]) == ([], False)
        assert lines[-1]["recovery_codes"] == {}
    assert _contents() == before


def _contents() -> dict[Path, bytes]:
    """Every file below this directory, but for the leases of the copying runs."""
    files = (path for path in Path().rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.parent.name != "leases"}


def test_other_arguments_than_the_files_are_refused(new_database: NewDatabase, run: Run) -> None:
    """The file is never changed; the difference is named."""
    dsn = new_database()
    run(*arguments(dsn))
    before = Path("aurora.toml").read_bytes()
    code, _, err = run("init", "--primary", "./elsewhere")
    assert code == 2
    assert "url under [primary] is ./a" in json.loads(err)["message"]
    assert Path("aurora.toml").read_bytes() == before
    assert not Path("elsewhere").exists()


def test_init_goes_on_after_it_was_cut_off(
    new_database: NewDatabase, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made is kept, and a recovery code that nobody saw is replaced by a new one."""
    dsn = new_database()

    def fail(*args: object, **kwargs: object) -> None:
        raise StorageUnavailable("the line went dead", hint="Run it again.")

    with monkeypatch.context() as patch:
        patch.setattr(operation, "replicate", fail)
        code, _, _ = run(*arguments(dsn))
    assert code == StorageUnavailable.exit_code
    assert not Path("aurora.toml").exists()
    code, lines, _ = run(*arguments(dsn))
    assert code == 0
    assert lines[-1]["created"] == []
    codes = lines[-1]["recovery_codes"]
    assert isinstance(codes, dict)
    storage = LocalStorage(Path("a").absolute())
    Repository.open(storage, RecoveryCode(codes["primary"]))
    MirrorView.open(LocalStorage(Path("b").absolute()), RecoveryCode(codes["secondary"]))


def test_a_repository_that_does_not_open_is_left_alone(
    new_database: NewDatabase, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's passphrase: exit code 12, and no file is written."""
    dsn = new_database()
    run(*arguments(dsn))
    Path("aurora.toml").unlink()
    monkeypatch.delenv("AURORA_PASSPHRASE_FILE")
    monkeypatch.setenv("AURORA_PASSPHRASE", "something else entirely")
    code, _, err = run(*arguments(dsn))
    told = json.loads(err)
    assert (code, told["code"]) == (12, "wrong-key")
    assert "AURORA_PASSPHRASE_FILE" in told["hint"]
    assert not Path("aurora.toml").exists()


def test_recovery_codes_go_to_a_file_where_one_is_named(
    new_database: NewDatabase, run: Run
) -> None:
    """Then they are nowhere else; and an existing file is not overwritten."""
    dsn = new_database()
    code, lines, _ = run(*arguments(dsn), "--recovery-code-file", "codes")
    assert code == 0
    assert "recovery_codes" not in lines[-1]
    assert Path("codes").stat().st_mode & 0o777 == 0o600
    primary = Path("codes").read_text().splitlines()[0].removeprefix("primary: ")
    Repository.open(LocalStorage(Path("a").absolute()), RecoveryCode(primary))
    code, _, err = run("init", "--recovery-code-file", "codes")
    assert code == 2
    assert "exists already" in err


def test_people_see_the_codes_in_frames(
    new_database: NewDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    """Findings, codes, the next step, and a last line of fact."""
    assert main(arguments(new_database())) == 0
    out, err = capsys.readouterr()
    assert out.count("RECOVERY CODE") == 2
    assert "Next: aurora backup create" in out
    assert "moved to" in err
    assert out.splitlines()[-1].startswith("aurora.toml written")


@pytest.mark.parametrize(
    "words,message",
    [
        (["--primary", "./a", "--secondary", "./b"], "--source"),
        (["--source", "DSN", "--secondary", "./b"], "--primary"),
        (["--source", "DSN", "--primary", "./a"], "--secondary"),
        (["--source", "DSN", "--primary", "./a", "--secondary", "./a", "--yes"], "same place"),
        (["--source", "DSN", "--primary", "./a", "--secondary", "./a/b", "--yes"], "same place"),
        (["--source", "DSN", "--primary", "./a", "--secondary", "./b"], "confirmation"),
        (["--source", "DSN", "--primary", "ftp://x/y", "--secondary", "./b"], "ftp"),
        (["--source", "mysql://x", "--primary", "./a", "--secondary", "./b"], "connection string"),
        (["--source", "postgresql://u@127.0.0.1:1/d", "--primary", "./a", "--secondary", "./b",
          "--yes"], "Connection refused"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    new_database: NewDatabase, run: Run, words: list[str], message: str
) -> None:
    """A usage error with the reason; no file, no repository."""
    dsn = new_database()
    code, _, err = run("init", *[dsn if word == "DSN" else word for word in words])
    assert code == 2
    assert message in json.loads(err.splitlines()[-1])["message"]
    assert not Path("aurora.toml").exists()
    assert not Path("aurora.secrets").exists()
    assert not Path("a/config").exists()


def test_without_a_secondary_only_on_demand(new_database: NewDatabase, run: Run) -> None:
    """With a loud warning."""
    code, lines, _ = run(
        "init", "--source", new_database(), "--primary", "./a", "--no-secondary", "--yes"
    )
    assert code == 0
    assert lines[-1]["created"] == ["primary"]
    assert any(line.get("code") == "no-secondary" for line in lines)
    assert load_settings(Path("aurora.toml")).secondary is None


def test_a_missing_passphrase_is_told_before_anything_else(
    new_database: NewDatabase, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after the probes."""
    monkeypatch.delenv("AURORA_SECONDARY_PASSPHRASE_FILE")
    code, lines, err = run(*arguments(new_database()))
    assert (code, lines) == (2, [])
    assert "AURORA_SECONDARY_PASSPHRASE_FILE" in json.loads(err)["hint"]


def test_the_configuration_may_live_elsewhere(new_database: NewDatabase, run: Run) -> None:
    """Relative addresses are those of where the user stands."""
    Path("etc").mkdir()
    dsn = new_database()
    code, _, _ = run("--config", "etc/my.toml", *arguments(dsn))
    assert code == 0
    assert Path("a/config").exists()
    assert load_settings(Path("etc/my.toml")).primary.url == Path("a").absolute().as_uri()
    assert run("--config", "etc/my.toml", "init")[0] == 0


def test_npm_scripts_join_an_existing_file_without_disturbing_it(
    new_database: NewDatabase, run: Run
) -> None:
    """Order and indentation stay; a script of the user's own stays and is named."""
    text = (
        '{\n    "name": "shop",\n    "scripts": {\n        "test": "true",\n'
        '        "backup:list": "mine"\n    },\n    "license": "MIT"\n}\n'
    )
    Path("package.json").write_text(text)
    _, lines, _ = run(*arguments(new_database()), "--npm")
    new = Path("package.json").read_text()
    assert list(json.loads(new)) == ["name", "scripts", "license"]
    assert json.loads(new)["scripts"]["backup:list"] == "mine"
    assert len(json.loads(new)["scripts"]) == 11
    assert new.startswith('{\n    "name": "shop",\n')
    assert [line["message"] for line in lines if line.get("code") == "npm-script-kept"] == [
        "package.json has another script backup:list; it was left alone"
    ]


@pytest.mark.s3
def test_an_object_store_gets_its_credentials_from_the_environment(
    new_database: NewDatabase, run: Run, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file refers to the variables; doctor then opens it by them."""
    monkeypatch.setenv("AURORA_PRIMARY_ACCESS_KEY_ID", seaweedfs.access_key)
    monkeypatch.setenv("AURORA_PRIMARY_SECRET_ACCESS_KEY", seaweedfs.secret_key)
    url = f"s3://{seaweedfs.new_bucket()}/x?endpoint={seaweedfs.endpoint}&path_style=1"
    words = ["--source", new_database(), "--primary", url, "--secondary", "./b", "--yes"]
    code, lines, err = run("init", *words)
    assert (code, err) == (0, "")
    findings = lines[-1]["findings"]
    assert isinstance(findings, list)
    assert "storages-apart" in {finding["code"] for finding in findings}
    text = Path("aurora.toml").read_text()
    assert 'secret_access_key = {env = "AURORA_PRIMARY_SECRET_ACCESS_KEY"}' in text
    assert seaweedfs.secret_key not in text
    code, lines, _ = run("doctor")
    assert (code, lines[-1]["verdict"]) == (0, "ready")
    monkeypatch.setenv("AURORA_PRIMARY_SECRET_ACCESS_KEY", "not the key")
    code, lines, _ = run("doctor")
    assert code == 1
