"""Choosing among installed client programs, and running them."""

import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora.errors import Cancelled, SourceError, TargetRefused, UsageError
from aurora.postgres import tools as module
from aurora.postgres.tools import (
    SEARCH_VARIABLE,
    ToolSet,
    find_tools,
    inspect_tools,
    library_env,
    run_tool,
)

PASSWORD = "s3cret/w:rd@%"
DSN = "postgresql://someone:s3cret%2Fw%3Ard%40%25@db.example:6543/shop?sslmode=require"


def install(
    directory: Path, version: str, *, tls: bool = True, names: tuple[str, ...] = ("pg_restore",)
) -> Path:
    """Programs that claim to be of this version, in a bin directory."""
    bin_dir = directory / "bin"
    bin_dir.mkdir(parents=True)
    refusal = "" if tls else "sslmode value invalid when SSL support is not compiled in"
    for name in ("pg_dump", *names):
        program = bin_dir / name
        program.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "{name} (PostgreSQL) {version}" && exit\n'
            f'echo "{refusal}" >&2; exit 1\n'
        )
        program.chmod(0o755)
    return bin_dir


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any PostgreSQL program."""
    monkeypatch.delenv(SEARCH_VARIABLE, raising=False)
    monkeypatch.setattr(module, "_path_dirs", lambda: iter(()))
    monkeypatch.setattr(module, "_usual_dirs", lambda: iter(()))
    monkeypatch.setattr(module, "_wheel_dirs", lambda: iter(()))


@pytest.fixture
def three(nowhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Majors 15, 17 (two minors) and 18, the last without TLS; returns where they are."""
    found = [
        install(tmp_path / "a", "18.6", tls=False),
        install(tmp_path / "b", "17.2 (Debian 17.2-1)"),
        install(tmp_path / "c", "15.19"),
        install(tmp_path / "d", "17.11"),
    ]
    monkeypatch.setattr(module, "_usual_dirs", lambda: iter(found))
    return tmp_path


@pytest.mark.parametrize(
    "at_least, prefer, expected",
    [
        (14, None, "15.19"),
        (15, None, "15.19"),
        (16, None, "17.11"),
        (18, None, "18.6"),
        (14, 17, "17.11"),
        (16, 15, "17.11"),
        (14, 16, "15.19"),
    ],
)
def test_the_oldest_that_is_new_enough_is_chosen(
    three: Path, at_least: int, prefer: int | None, expected: str
) -> None:
    assert find_tools(at_least=at_least, prefer=prefer).version == expected


def test_tls_narrows_the_choice(three: Path) -> None:
    assert find_tools(at_least=15, need_tls=True).version == "15.19"
    with pytest.raises(UsageError, match="with TLS") as raised:
        find_tools(at_least=18, need_tls=True)
    assert "18.6" in raised.value.hint
    assert "without TLS" in raised.value.hint


def test_the_hint_tells_what_was_found(three: Path) -> None:
    with pytest.raises(UsageError, match="19 or newer") as raised:
        find_tools(at_least=19)
    assert "15.19" in raised.value.hint
    assert SEARCH_VARIABLE in raised.value.hint


def test_named_directories_come_first(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = install(three / "named", "18.1")
    monkeypatch.setenv(SEARCH_VARIABLE, f"{three / 'absent'}{os.pathsep}{named}")
    assert find_tools(at_least=15).bin_dir == named
    assert find_tools(at_least=15).path("pg_restore") == named / "pg_restore"


def test_named_directories_that_do_not_fit_are_passed_over(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SEARCH_VARIABLE, str(install(three / "named", "14.2")))
    assert find_tools(at_least=15).version == "15.19"


def test_an_installation_without_the_program_is_passed_over(
    nowhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = install(tmp_path / "part", "17.1", names=())
    whole = install(tmp_path / "whole", "18.1", names=("pg_restore", "psql"))
    monkeypatch.setattr(module, "_usual_dirs", lambda: iter((part, whole)))
    assert find_tools(at_least=17, programs=("psql",)).major == 18
    tools = find_tools(at_least=17, programs=("pg_dump",))
    assert tools.major == 17
    with pytest.raises(UsageError, match="psql is not among"):
        tools.path("psql")


def test_debians_chooser_and_broken_programs_are_no_tools(tmp_path: Path) -> None:
    real = install(tmp_path / "real", "17.1")
    chooser = tmp_path / "chooser"
    chooser.mkdir()
    (real / "pg_dump").rename(real / "pg_wrapper")
    (chooser / "pg_dump").symlink_to(real / "pg_wrapper")
    assert inspect_tools(chooser) is None
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "pg_dump").write_text("not a program")
    (broken / "pg_dump").chmod(0o755)
    assert inspect_tools(broken) is None
    (broken / "pg_dump").write_text("#!/bin/sh\necho hello\n")
    inspect_tools.cache_clear()
    assert inspect_tools(broken) is None
    assert inspect_tools(tmp_path / "absent") is None


def test_a_relocated_installation_finds_its_own_libpq(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_dir = install(tmp_path, "17.1")
    assert library_env(bin_dir) == {}
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libpq.so.5").touch()
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert library_env(bin_dir) == {"LD_LIBRARY_PATH": str(tmp_path / "lib")}
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    assert library_env(bin_dir) == {"LD_LIBRARY_PATH": f"{tmp_path / 'lib'}:/elsewhere"}


# Running


@pytest.fixture
def python(tmp_path: Path) -> ToolSet:
    """A tool set whose program "run" runs the Python code it is given."""
    program = tmp_path / "run"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -c "$@"\n')
    program.chmod(0o755)
    return ToolSet(17, 1, tmp_path, tls=True, env={"FROM_TOOLSET": "1"})


def test_the_password_goes_by_the_environment_alone(
    python: ToolSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AURORA_PASSPHRASE", "not for others")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for others")
    monkeypatch.setenv("PGDATABASE", "of the caller")
    code = (
        "import os, pathlib\n"
        "print(pathlib.Path('/proc/self/cmdline').read_bytes()"
        " if os.path.exists('/proc') else '')\n"
        "for item in sorted(os.environ.items()): print(*item, sep='=')\n"
    )
    text = run_tool(python, "run", [code], dsn=DSN).stdout.decode()
    arguments, *variables = text.splitlines()
    assert "s3cret" not in arguments
    assert f"PGPASSWORD={PASSWORD}" in variables
    for expected in (
        "PGHOST=db.example",
        "PGPORT=6543",
        "PGUSER=someone",
        "PGDATABASE=shop",
        "PGSSLMODE=require",
        "FROM_TOOLSET=1",
    ):
        assert expected in variables
    assert "not for others" not in text


def test_a_failure_carries_the_last_lines_without_the_password(python: ToolSet) -> None:
    code = (
        "import os, sys\n"
        "print('run: warning: first', file=sys.stderr)\n"
        "print('run: error: bad password', os.environ['PGPASSWORD'], file=sys.stderr)\n"
        "print('a consequence', file=sys.stderr)\n"
        "sys.exit(3)\n"
    )
    with pytest.raises(TargetRefused, match=r"run 17\.1 failed with status 3") as raised:
        run_tool(python, "run", [code], dsn=DSN, error=TargetRefused)
    assert "run: error: bad password ***" in raised.value.message
    assert "a consequence" in raised.value.hint
    assert PASSWORD not in raised.value.message + raised.value.hint + repr(raised.value)
    assert raised.value.context["status"] == 3
    assert run_tool(python, "run", [code], dsn=DSN, accept=(0, 3)).status == 3


def test_a_silent_failure_and_a_signal_are_told(python: ToolSet) -> None:
    with pytest.raises(SourceError, match="it said nothing"):
        run_tool(python, "run", ["raise SystemExit(1)"])
    with pytest.raises(SourceError, match="killed by signal 9"):
        run_tool(python, "run", ["import os; os.kill(os.getpid(), 9)"])


COPY = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"


def test_buffers_and_streams_go_in_and_out(python: ToolSet, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    pieces = (memoryview(data)[at : at + 100_000] for at in range(0, len(data), 100_000))
    taken: list[bytes] = []
    done = run_tool(python, "run", [COPY], stdin=pieces, stdout=taken.append)
    assert b"".join(taken) == data
    assert done.stdout == b""
    assert run_tool(python, "run", [COPY], stdin=data).stdout == data
    assert run_tool(python, "run", [COPY], stdin=io.BytesIO(data)).stdout == data
    assert run_tool(python, "run", [COPY]).stdout == b""


def test_files_are_handed_over_as_they_are(python: ToolSet, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"content")
    with source.open("rb") as stdin, target.open("wb") as stdout:
        run_tool(python, "run", [COPY], stdin=stdin, stdout=stdout)
    assert target.read_bytes() == b"content"


def test_a_program_that_does_not_read_all_is_judged_by_its_status(python: ToolSet) -> None:
    assert run_tool(python, "run", ["pass"], stdin=b"x" * (1 << 20)).status == 0


class Trouble(Exception):
    pass


def test_trouble_on_either_side_ends_the_program_and_is_raised(python: ToolSet) -> None:
    def failing() -> Iterator[bytes]:
        yield b"first"
        raise Trouble

    def refuse(_: bytes) -> None:
        raise Trouble

    began = time.monotonic()
    with pytest.raises(Trouble):
        run_tool(python, "run", ["import time; time.sleep(60)"], stdin=failing())
    with pytest.raises(Trouble):
        run_tool(
            python, "run", ["import time; print(1, flush=True); time.sleep(60)"], stdout=refuse
        )
    assert time.monotonic() - began < 20


def test_a_cancelled_program_is_interrupted(python: ToolSet, tmp_path: Path) -> None:
    cancel = threading.Event()
    code = (
        "import pathlib, sys, time\n"
        "try:\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    pathlib.Path(sys.argv[1]).write_text('in order'); sys.exit(1)\n"
    )
    said = tmp_path / "said"
    with pytest.raises(Cancelled):
        run_tool(python, "run", [code, str(said)], stdout=lambda _: cancel.set(), cancel=cancel)
    assert said.read_text() == "in order"


def test_a_program_deaf_to_interrupts_is_killed(
    python: ToolSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GRACE", 0.2)
    cancel = threading.Event()
    code = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    with pytest.raises(Cancelled):
        run_tool(python, "run", [code], stdout=lambda _: cancel.set(), cancel=cancel)


def test_only_the_end_of_a_long_stderr_is_kept(python: ToolSet) -> None:
    code = "import sys\nfor n in range(100000): print('line', n, file=sys.stderr)"
    stderr = run_tool(python, "run", [code]).stderr
    assert len(stderr) <= 64 * 1024
    assert stderr.endswith("line 99999\n")


def test_a_connection_string_that_cannot_be_read_is_not_shown(python: ToolSet) -> None:
    with pytest.raises(UsageError) as raised:
        run_tool(python, "run", ["pass"], dsn=f"postgresql://someone:{PASSWORD}@[/shop")
    assert "s3cret" not in str(raised.value) + raised.value.hint
