"""Secrets by reference: an environment variable, a file, or a command; never the value.

A reference is safe to store, show and log. :meth:`SecretRef.resolve` fetches the value
when it is needed. Commands run without a shell, with a time limit.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, model_validator

from aurora.errors import UsageError

COMMAND_TIMEOUT_S = 60.0


class SecretRef(BaseModel):
    """Where a secret is: exactly one of ``env``, ``file`` and ``command``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env: str | None = None
    file: str | None = None
    command: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "SecretRef":
        if sum(part is not None for part in (self.env, self.file, self.command)) != 1:
            raise ValueError("write exactly one of env, file and command")
        return self

    def __str__(self) -> str:
        if self.env is not None:
            return f"environment variable {self.env}"
        return f"file {self.file}" if self.file is not None else f"command {self.command!r}"

    def resolve(self, name: str, *, base: Path | None = None, lines: bool = False) -> str:
        """The secret itself, without its trailing newline.

        *name* says what it is, for errors (``"the primary passphrase"``). Relative
        paths count from *base*, which is also the command's working directory. Only with
        *lines* may the secret have several lines.

        Raises:
            UsageError: it is not there, is empty, or the command failed.
        """
        if self.env is not None:
            value = _from_environment(self.env, name)
        elif self.file is not None:
            value = _from_file(Path(base or ".", Path(self.file).expanduser()), name)
        else:
            value = _from_command(self.command or "", name, base)
        value = value.removesuffix("\n").removesuffix("\r")
        if not value:
            raise UsageError(f"{name} is empty", hint=f"It was read from {self}.")
        if not lines and ("\n" in value or "\0" in value):
            raise UsageError(
                f"{name} has more than one line", hint=f"It was read from {self}; write one line."
            )
        return value


def reference_from_environment(
    prefix: str, environment: Mapping[str, str] | None = None
) -> SecretRef | None:
    """``PREFIX_FILE``, ``PREFIX_COMMAND`` or ``PREFIX`` itself, looked for in this order."""
    variables = os.environ if environment is None else environment
    if path := variables.get(f"{prefix}_FILE"):
        # Paths in the environment count from where the user stands, not from aurora.toml.
        return SecretRef(file=str(Path(path).expanduser().absolute()))
    if command := variables.get(f"{prefix}_COMMAND"):
        return SecretRef(command=command)
    return SecretRef(env=prefix) if variables.get(prefix) else None


def _from_environment(variable: str, name: str) -> str:
    value = os.environ.get(variable)
    if value is None:
        raise UsageError(
            f"{name} is not there: the environment variable {variable} is not set",
            hint="Set it, or refer to a file or a command instead.",
        )
    return value


def _from_file(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{name} cannot be read from {path}: {(error.strerror or 'no such file').lower()}",
            hint="Check the path and that this user may read the file.",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} in {path} is not UTF-8 text") from error


def _from_command(command: str, name: str, base: Path | None) -> str:
    # The hint names the command's first word only: people do write secrets into arguments.
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"the command for {name} has an unclosed quote") from error
    if not words:
        raise UsageError(f"the command for {name} is empty")
    try:
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            cwd=base,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"the command for {name} did not end within {COMMAND_TIMEOUT_S:.0f} seconds",
            hint=f"Run {words[0]!r} by hand and see what it waits for.",
        ) from None
    except OSError as error:
        raise UsageError(
            f"the command for {name} cannot be run: {words[0]}: {(error.strerror or '').lower()}",
            hint="It is run without a shell; write `sh -c '…'` where you need one.",
        ) from error
    if done.returncode != 0:
        raise UsageError(
            f"the command for {name} failed with exit code {done.returncode}",
            hint=f"Run {words[0]!r} by hand; what it printed as an error stands above.",
        )
    try:
        return done.stdout.decode()
    except UnicodeDecodeError:
        raise UsageError(f"the command for {name} printed something that is not UTF-8") from None
