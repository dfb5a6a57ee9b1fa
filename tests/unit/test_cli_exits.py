"""How a run ends: exit codes, one clean message, no traceback, no secret."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aurora import errors
from aurora.cli import exits, prompts
from aurora.cli.app import main
from aurora.errors import AuroraError, Cancelled, UsageError

EVERY = [
    one
    for one in vars(errors).values()
    if inspect.isclass(one) and issubclass(one, AuroraError)
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and no settings of the developer's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in list(os.environ):
        if name.startswith("AURORA_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("kind", EVERY)
def test_each_error_ends_with_its_exit_code(
    kind: type[AuroraError], capsys: pytest.CaptureFixture[str]
) -> None:
    """Message and hint on standard error, nothing on standard output."""
    code = exits.report(kind("it failed", hint="Do this."), as_json=False)
    out, err = capsys.readouterr()
    assert (code, out) == (kind.exit_code, "")
    assert err == "error: it failed\nDo this.\n"


@pytest.mark.parametrize("kind", EVERY)
def test_each_error_is_an_object_for_programs(
    kind: type[AuroraError], capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line of standard error with --json."""
    context = {"choices": ["a", "b"], "count": 2, "report": object()}
    exits.report(kind("it failed", hint="Do this.", context=context), as_json=True)
    assert json.loads(capsys.readouterr().err) == {
        "message_type": "exit_error",
        "code": kind.code,
        "exit_code": kind.exit_code,
        "message": "it failed",
        "hint": "Do this.",
        "context": {"choices": ["a", "b"], "count": 2},
    }


def test_a_mistake_of_ours_goes_into_a_crash_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No traceback on the screen; the file holds no password and no variables."""
    try:
        hidden = "swordfish"
        raise ZeroDivisionError(f"postgresql://u:{hidden}@h/d password={hidden}")
    except ZeroDivisionError as error:
        code = exits.report(error, as_json=False)
    err = capsys.readouterr().err
    assert code == 1
    assert "Traceback" not in err
    assert "swordfish" not in err
    (report,) = tmp_path.glob("aurora-crash-*.txt")
    assert str(report) in err
    assert report.stat().st_mode & 0o777 == 0o600
    text = report.read_text()
    assert "ZeroDivisionError" in text
    assert "swordfish" not in text


def test_with_debug_the_traceback_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For those who work on Aurora."""
    monkeypatch.setenv("AURORA_DEBUG", "1")
    exits.report(AuroraError("it failed"), as_json=False)
    assert "AuroraError: it failed" in capsys.readouterr().err


def test_an_interrupt_is_a_cancellation(capsys: pytest.CaptureFixture[str]) -> None:
    """130, as every shell expects."""
    assert exits.report(KeyboardInterrupt(), as_json=False) == 130
    assert "stopped" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["bogus"],
        ["init", "--bogus"],
        ["doctor", "extra"],
        ["init", "--source"],
        ["--config"],
        ["doctor"],
        ["init"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and a way out; as an object with --json."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert main([*words, "--json"]) == 2
    told = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (told["message_type"], told["code"], told["exit_code"]) == ("exit_error", "usage", 2)
    assert told["hint"]


def test_the_version_and_the_help_need_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """No configuration, no server."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("aurora ")
    assert main(["--help"]) == 0
    assert "doctor" in capsys.readouterr().out
    assert main([]) == 2
    assert "Usage: aurora" in capsys.readouterr().err


def test_termination_by_a_signal_is_orderly(tmp_path: Path) -> None:
    """SIGTERM runs what Ctrl-C runs, so leases and connections are given back."""
    program = (
        "import sys, time\n"
        "from aurora.cli import exits\n"
        "try:\n"
        "    with exits.stopped_by_signals():\n"
        "        print('ready', flush=True)\n"
        "        try:\n"
        "            time.sleep(60)\n"
        "        finally:\n"
        "            print('closed', flush=True)\n"
        "except KeyboardInterrupt as error:\n"
        "    sys.exit(exits.report(error, as_json=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert out == "closed\n"
    assert process.returncode == 130
    assert json.loads(err)["code"] == "cancelled"


def test_without_a_terminal_a_confirmation_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says that --yes would do; and with it nothing is asked."""
    monkeypatch.setattr(prompts, "interactive", lambda: False)
    prompts.confirm_by_typing("shop", action="replace shop", yes=True)
    for ask in (prompts.confirm_by_typing, prompts.confirm):
        with pytest.raises(UsageError) as caught:
            ask("shop", action="replace the database shop", yes=False)
        assert "--yes" in caught.value.hint
    assert prompts.ask_secret("Passphrase") is None


@pytest.mark.parametrize(
    "typed,passes", [("shop\n", True), ("shop2\n", False), ("\n", False), ("", False)]
)
def test_only_the_name_itself_confirms(
    monkeypatch: pytest.MonkeyPatch, typed: str, *, passes: bool
) -> None:
    """Anything else changes nothing."""

    class Terminal:
        def readline(self) -> str:
            return typed

    monkeypatch.setattr(prompts, "interactive", lambda: True)
    monkeypatch.setattr("sys.stdin", Terminal())
    if passes:
        prompts.confirm_by_typing("shop", action="replace shop", yes=False)
        return
    with pytest.raises(Cancelled) as caught:
        prompts.confirm_by_typing("shop", action="replace shop", yes=False)
    assert "Nothing was changed" in caught.value.hint


def test_a_wrong_choice_is_told_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    """What may be chosen, without the words of the library that checks it."""
    assert main(["key", "add", "holiday"]) == UsageError.exit_code
    told = capsys.readouterr().err
    assert "'holiday' is not one of 'passphrase', 'recovery-code', 'key-file'" in told
    assert "Value error" not in told
