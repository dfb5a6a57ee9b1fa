"""What one run of a command costs: wall time, CPU of client and server, memory.

On shared cores wall time is noisy; CPU seconds are much less so. The server's are read
from ``/proc``: those of the postmaster, of the children that it has waited for, and of the
children that live.
"""

import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Command:
    """One process to run; its output goes to /dev/null, or line by line to ``watch``."""

    args: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    watch: Callable[[str, int], None] | None = None  # a line, and the process id


@dataclass(slots=True)
class Run:
    """One measured run. Seconds, and bytes of memory."""

    wall: float
    client_cpu: float
    server_cpu: float
    max_rss: int
    phases: list["Phase"] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run, in seconds."""

    name: str
    wall: float
    client_cpu: float
    server_cpu: float


class BenchFailed(Exception):
    """A command of the benchmark failed; its last words are in the message."""


def server_cpu(postmaster: int) -> float:
    """CPU seconds of a server since its start; 0 without one."""
    if not postmaster:
        return 0.0
    numbers = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    living = [found for found in map(_stat, numbers) if found[1] == postmaster]
    return _stat(postmaster)[0] + sum(cpu for cpu, _ in living)


def process_cpu(pid: int) -> float:
    """CPU seconds of a process so far, and of its children that have ended."""
    return _stat(pid)[0]


def _stat(pid: int) -> tuple[float, int]:
    """CPU seconds of a process and its dead children, and its parent."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0, 0
    fields = text.rpartition(")")[2].split()  # the name may hold blanks
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS, int(fields[1])


def run_together(commands: Sequence[Command], *, postmaster: Callable[[], int], log: Path) -> Run:
    """Run *commands* side by side until all have ended.

    Raises:
        BenchFailed: one of them ended with another status than 0.
    """
    server_before = server_cpu(postmaster())
    begun = time.monotonic()
    with log.open("wb") as stderr:
        started = [(command, *_start(command, stderr)) for command in commands]
        cpu, rss, failed = 0.0, 0, ""
        for command, process, reader in started:
            if reader is not None:
                reader.join()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu += usage.ru_utime + usage.ru_stime
            rss = max(rss, usage.ru_maxrss * 1024)
            if process.returncode:
                failed = f"{shlex.join(map(str, command.args))[:200]}: {process.returncode}"
    wall = time.monotonic() - begun
    if failed:
        said = log.read_text(errors="replace").strip().splitlines()[-12:]
        raise BenchFailed("\n".join([f"failed with status: {failed}", *said]))
    return Run(wall, cpu, server_cpu(postmaster()) - server_before, rss)


def _start(
    command: Command, stderr: IO[bytes]
) -> tuple[subprocess.Popen[bytes], threading.Thread | None]:
    process = subprocess.Popen(
        [str(arg) for arg in command.args],
        env={**os.environ, **command.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if command.watch else subprocess.DEVNULL,
        stderr=stderr, user=command.user, group=command.user, cwd="/",
    )  # fmt: skip
    if command.watch is None:
        return process, None
    reader = threading.Thread(target=_read_lines, args=(process, command.watch))
    reader.start()
    return process, reader


def _read_lines(process: subprocess.Popen[bytes], watch: Callable[[str, int], None]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            watch(line.decode(), process.pid)


def disk_usage(top: Path) -> int:
    """Bytes of all files below *top*, by their lengths."""
    return sum(path.stat().st_size for path in top.rglob("*") if path.is_file())
