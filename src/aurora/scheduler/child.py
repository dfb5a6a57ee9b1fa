"""A job as a child process: a crash, a leak or a kill of one leaves the daemon and the others.

The child is the ordinary command with ``--json``; its last line says what it did. It holds a
lock on a file for as long as it lives: also a daemon that was killed and started again sees
that its child of before is still ending.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from aurora import errors
from aurora.errors import AuroraError
from aurora.postgres.conninfo import redact

_TAIL_BYTES = 8192
_POLL_SECONDS = 0.2
_LOG_BYTES = 1 << 20


@dataclass(slots=True)
class ChildResult:
    """How a child ended."""

    exit_code: int  # negative: minus the signal
    seconds: float
    summary: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    tail: str = ""  # the end of what it said
    stopped: bool = False  # because the daemon was told to stop, or lost its claim

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def message(self) -> str:
        """One line: what went wrong, or what was done."""
        if self.error:
            return str(self.error.get("message", ""))
        if self.exit_code < 0:
            name = signal.Signals(-self.exit_code).name
            return f"it was ended by {name}"
        if self.exit_code:
            told = [str(one.get("message")) for one in self.warnings[-1:]]
            return told[0] if told else f"it ended with exit code {self.exit_code}"
        return ""

    @property
    def hint(self) -> str:
        return str(self.error.get("hint", "")) if self.error else ""

    @property
    def may_pass(self) -> bool:
        """Whether trying again may help: a lost connection may come back, a wrong key does not."""
        if self.exit_code < 0:
            return True
        kind = _BY_CODE.get(str(self.error.get("code", "")))
        return kind is None or kind.retryable or kind in _WORTH_A_RETRY


def _kinds(root: type[AuroraError]) -> Iterator[type[AuroraError]]:
    yield root
    for one in root.__subclasses__():
        yield from _kinds(one)


_BY_CODE = {kind.code: kind for kind in _kinds(AuroraError)}
# Not retryable at once, but a later try may find it otherwise.
_WORTH_A_RETRY = (AuroraError, errors.SourceError, errors.StorageError, errors.StorageFull,
                  errors.TargetError, errors.Incomplete, errors.Inconclusive,
                  errors.EnvironmentUnfit)  # fmt: skip


class FileLock:
    """A lock on a file, held by whoever has it open; it ends with the last such process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def acquire(self) -> bool:
        """False where somebody else holds it. Raises AuroraError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("ab")
        except OSError as error:
            raise AuroraError(
                f"cannot write {self._path}: {(error.strerror or 'failed').lower()}",
                hint="The daemon needs a directory that it may write to beside aurora.toml.",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def fileno(self) -> int:
        assert self._file is not None
        return self._file.fileno()

    def release(self) -> None:
        """Close it here; a child that inherited it still holds it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def run_child(
    words: Sequence[str],
    *,
    config: Path,
    log: Path,
    lock: FileLock,
    stop: threading.Event,
    stop_timeout: float,
    alive: Callable[[], bool] = lambda: True,
    on_message: Callable[[str, dict[str, Any]], None] = lambda _kind, _message: None,
) -> ChildResult:
    """Run ``aurora --config CONFIG WORDS --json`` to its end.

    *on_message* gets each of its JSON lines, by message type.

    When *stop* is set, or *alive* (asked several times a second) says no, it gets SIGTERM and
    ends in order; after *stop_timeout* seconds SIGKILL.
    """
    begun = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    _shorten(log)
    reading, writing = os.pipe()
    with log.open("ab") as said:
        start = said.tell()
        command = [sys.executable, "-m", "aurora.cli.child", str(reading), str(stop_timeout),
                   "--config", str(config), *words, "--json"]  # fmt: skip
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said,
                pass_fds=(reading, lock.fileno()), start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        try:
            with child:
                result = ChildResult(0, 0.0)
                reader = threading.Thread(
                    target=_read, args=(child.stdout, result, on_message), daemon=True
                )
                reader.start()
                try:
                    result.stopped = _wait(child, stop, stop_timeout, alive)
                except BaseException:  # a signal to us, without a worker that would set stop
                    _end(child, stop_timeout)
                    raise
                reader.join()
                result.exit_code = child.returncode
        finally:
            os.close(writing)
    result.seconds = time.monotonic() - begun
    result.tail = _tail(log, start)
    result.error = _last_error(result.tail) if result.exit_code else {}
    return result


def _wait(
    child: subprocess.Popen[bytes],
    stop: threading.Event,
    stop_timeout: float,
    alive: Callable[[], bool],
) -> bool:
    """Wait for its end; whether it had to be told to."""
    told_at: float | None = None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_POLL_SECONDS)
            return told_at is not None
        if told_at is None:
            if stop.is_set() or not alive():
                told_at = time.monotonic()
                child.terminate()
        elif time.monotonic() - told_at > stop_timeout:
            child.kill()


def _end(child: subprocess.Popen[bytes], stop_timeout: float) -> None:
    """In order if it can, at once if it cannot."""
    child.terminate()
    try:
        child.wait(stop_timeout)
    except BaseException:
        child.kill()
        raise


def _read(
    stream: Any, result: ChildResult, on_message: Callable[[str, dict[str, Any]], None]
) -> None:
    for line in stream:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        kind = message.get("message_type") if isinstance(message, dict) else None
        if isinstance(kind, str):
            on_message(kind, message)
        if kind == "summary":
            result.summary = message
        elif kind == "warning":
            result.warnings = [*result.warnings[-19:], message]


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - _TAIL_BYTES))
        return redact(file.read().decode(errors="replace"))


def _last_error(tail: str) -> dict[str, Any]:
    for line in reversed(tail.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and found.get("message_type") == "exit_error":
            return found
    return {}


def _shorten(log: Path) -> None:
    """Keep the log of a job from growing for ever: one earlier one is kept."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".old"))
