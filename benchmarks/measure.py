"""What one run of a command costs: wall time, CPU of client and server, memory.

On shared cores wall time is noisy; CPU seconds are much less so. The server's are read
from ``/proc``: those of the postmaster, of the children that it has waited for, and of the
children that live.
"""

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Command:
    """One process to run. ``stdout`` None: to /dev/null."""

    args: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    stdout: Path | None = None


@dataclass(slots=True)
class Run:
    """One measured run. Seconds, and bytes of memory."""

    wall: float
    client_cpu: float
    server_cpu: float
    max_rss: int
    phases: dict[str, float] = field(default_factory=dict)  # wall seconds by phase
    facts: dict[str, object] = field(default_factory=dict)


class BenchFailed(Exception):
    """A command of the benchmark failed; its last words are in the message."""


def server_cpu(postmaster: int) -> float:
    """CPU seconds of a server since its start; 0 without one."""
    if not postmaster:
        return 0.0
    pids = [postmaster]
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and _stat(int(path.name))[1] == postmaster:
            pids.append(int(path.name))
    return sum(_stat(pid)[0] for pid in pids)


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
    started: list[tuple[Command, subprocess.Popen[bytes]]] = []
    with log.open("wb") as stderr:
        for command in commands:
            with (command.stdout or Path(os.devnull)).open("wb") as out:
                process = subprocess.Popen(
                    [str(arg) for arg in command.args],
                    env={**os.environ, **command.env},
                    stdin=subprocess.DEVNULL, stdout=out, stderr=stderr,
                    user=command.user, group=command.user, cwd="/",
                )  # fmt: skip
            started.append((command, process))
        cpu, rss = 0.0, 0
        failed = ""
        for command, process in started:
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


def disk_usage(top: Path) -> int:
    """Bytes of all files below *top*, by their lengths."""
    return sum(path.stat().st_size for path in top.rglob("*") if path.is_file())
