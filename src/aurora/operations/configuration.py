"""Writing aurora.toml, secrets' files and npm scripts: whole or not at all, nothing replaced."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aurora.errors import UsageError

SECRETS_DIRECTORY = "aurora.secrets"

_VERBS = (
    "create", "list", "status", "verify", "restore", "restore-full", "restore-table",
    "restore-point", "validate", "test-recovery",
)  # fmt: skip
NPM_SCRIPTS = {f"backup:{verb}": f"aurora backup {verb}" for verb in _VERBS}

_HEAD = """\
# Aurora's configuration. No secret is ever written here, only where it is:
# {env = "NAME"}, {file = "PATH"} or {command = "PROGRAM ARGUMENTS"}.
# Paths count from the directory of this file. Everything that can be set:
# docs/configuration.md. AURORA_SECTION_FIELD in the environment wins over this file.
"""

Reference = Mapping[str, str]  # one of env, file, command -> what it is


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageDraft:
    """One storage section of the file to be written."""

    url: str
    passphrase: Reference | None = None
    credentials: Mapping[str, Reference | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What aurora.toml is going to say."""

    dsn: str  # without its password
    name: str
    password: Reference | None
    primary: StorageDraft
    secondary: StorageDraft | None

    def toml(self) -> str:
        """The text of the file."""
        lines = [_HEAD, "[source]", f"dsn = {_string(self.dsn)}", f"name = {_string(self.name)}"]
        if self.password:
            lines.append(f"password = {_inline(self.password)}")
        else:
            lines.append(
                '# password = {file = "…"}   or AURORA_SOURCE_PASSWORD_FILE, …_COMMAND, '
                "PGPASSWORD, ~/.pgpass; else it is asked for"
            )
        lines += ["", *_storage("primary", self.primary)]
        if self.secondary is not None:
            lines += ["", *_storage("secondary", self.secondary)]
        lines += [
            "",
            "[backup]",
            "# jobs = 4                # connections that read side by side",
            '# lock_timeout = "10 s"   # longest wait for a locked table',
            '# skip = ["public.logs"]  # tables whose rows are left out',
        ]
        return "\n".join(lines) + "\n"


def write_new(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file that is not there yet: durable and whole when this returns.

    Raises UsageError where it exists, or cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            Path(path).hardlink_to(temporary)  # unlike a rename, never replaces
        finally:
            Path(temporary).unlink()
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already", hint="It was left as it is.") from error
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {(error.strerror or 'failed').lower()}",
            hint="Check the directory's permissions and free space.",
        ) from error


def keep_secret(base: Path, name: str, value: str) -> Path:
    """Put *value* into ``aurora.secrets/name`` (0600 in 0700, ignored by git); returns the path.

    Raises UsageError where that file holds something else.
    """
    directory = base / SECRETS_DIRECTORY
    path = directory / name
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        if path.exists():
            if path.read_text(encoding="utf-8").rstrip("\n") == value:
                return path
            raise UsageError(
                f"{path} exists already and holds another secret",
                hint="It was left as it is. Move it away if it is of no use, then run init again.",
            )
    except OSError as error:
        raise UsageError(f"cannot write {path}: {(error.strerror or 'failed').lower()}") from error
    ignore = directory / ".gitignore"
    if not ignore.exists():
        write_new(ignore, "*\n")
    write_new(path, f"{value}\n", mode=0o600)
    return path


def add_npm_scripts(directory: Path) -> tuple[Sequence[str], Sequence[str]]:
    """Add the ``backup:*`` scripts to ``package.json`` in *directory*, made where absent.

    Returns the names added, and those left alone because they say something else.
    Order and indentation of the file are kept.
    """
    path = directory / "package.json"
    text = path.read_text(encoding="utf-8") if path.exists() else '{\n  "private": true\n}\n'
    try:
        package = json.loads(text)
        if not isinstance(package, dict) or not isinstance(package.get("scripts", {}), dict):
            raise TypeError
    except (ValueError, TypeError):
        raise UsageError(
            f"{path} is not a package description", hint="It was left as it is."
        ) from None
    scripts = package.setdefault("scripts", {})
    added = [name for name in NPM_SCRIPTS if name not in scripts]
    other = [name for name, line in NPM_SCRIPTS.items() if scripts.get(name, line) != line]
    if added:
        scripts.update({name: NPM_SCRIPTS[name] for name in added})
        indent = re.search(r"^([ \t]+)\"", text, re.MULTILINE)
        end = "\n" if text.endswith("\n") else ""
        new = json.dumps(package, indent=indent[1] if indent else 2, ensure_ascii=False) + end
        _replace(path, new)
    return added, other


def _replace(path: Path, text: str) -> None:
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        Path(temporary).replace(path.resolve())  # through a symbolic link, not over it
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _storage(section: str, draft: StorageDraft) -> list[str]:
    lines = [f"[{section}]", f"url = {_string(draft.url)}"]
    if draft.passphrase:
        lines.append(f"passphrase = {_inline(draft.passphrase)}")
    else:
        prefix = "AURORA" if section == "primary" else "AURORA_SECONDARY"
        lines.append(
            f'# passphrase = {{file = "…"}}   or {prefix}_PASSPHRASE_FILE, …_COMMAND in the '
            "environment; else it is asked for"
        )
    if draft.credentials:
        lines += ["", f"[{section}.credentials]"]
        for key, value in draft.credentials.items():
            lines.append(f"{key} = {_string(value) if isinstance(value, str) else _inline(value)}")
    return lines


def _inline(reference: Reference) -> str:
    return "{" + ", ".join(f"{key} = {_string(value)}" for key, value in reference.items()) + "}"


def _string(text: str) -> str:
    """A TOML basic string; JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
