"""Running PostgreSQL for root, who may not run it: as whom, and where that user can reach.

For everybody else these functions do nothing.
"""

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from typing import TypedDict

from aurora.errors import TargetUnfit

_CANDIDATES = ("postgres", "nobody", "daemon")
_LONGEST_PLACE = 70  # bytes; the name of a socket below it has to stay under 107


class Identity(TypedDict, total=False):
    """The arguments of subprocess that change who a program runs as."""

    user: int
    group: int
    extra_groups: list[int]


@functools.cache
def server_user() -> pwd.struct_passwd | None:
    """The user that servers run as; None when it is simply us.

    Raises:
        TargetUnfit: we are root, and there is nobody else.
    """
    if os.geteuid() != 0:
        return None
    for name in _CANDIDATES:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise TargetUnfit(
        "PostgreSQL does not run as root, and there is no unprivileged user to run it as",
        hint="Nothing was started. Run Aurora as another user, or add a user 'postgres'.",
    )


def identity() -> Identity:
    """How to start a program as the server user."""
    user = server_user()
    if user is None:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def give(path: Path) -> None:
    """Make the server user the owner of *path* (of a link itself, not of what it names)."""
    user = server_user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def give_tree(top: Path) -> None:
    """Make the server user the owner of *top* and all below, unless *top* is its own already."""
    user = server_user()
    if user is None or top.stat().st_uid == user.pw_uid:
        return
    for directory, subdirectories, files in os.walk(top):
        for name in (*subdirectories, *files):
            give(Path(directory, name))
    give(top)  # last: it says that the rest is done


def check_reachable(path: Path) -> None:
    """Raise TargetUnfit where the server user cannot enter *path*, as far as that exists."""
    blocked = _blocked_at(path)
    user = server_user()
    if blocked is not None and user is not None:
        raise TargetUnfit(
            f"the user {user.pw_name}, who runs PostgreSQL for root, cannot enter {blocked}",
            hint="Nothing was started. Choose a data directory in a place open to that user, such "
            "as /var/tmp, or run as a user that is not root.",
        )


def _blocked_at(path: Path) -> Path | None:
    """The first directory on the way into *path* that the server user may not enter, if any."""
    user = server_user()
    if user is None:
        return None
    for directory in reversed((path.absolute() / "inside").parents):
        if not directory.exists():
            break
        status = directory.stat()
        if status.st_uid == user.pw_uid:
            enterable = status.st_mode & 0o100
        elif status.st_gid == user.pw_gid:
            enterable = status.st_mode & 0o010
        else:
            enterable = status.st_mode & 0o001
        if not enterable:
            return directory
    return None


def scratch_directory(purpose: str) -> Path:
    """A new directory of ours (mode 711), which the server user can pass through.

    In the system's temporary directory, unless the server user cannot reach that or its
    path is too long for the name of a socket.
    """
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp makes a new one
        fits = len(os.fsencode(place)) <= _LONGEST_PLACE and Path(place).is_dir()
        if fits and _blocked_at(Path(place)) is None:
            directory = Path(tempfile.mkdtemp(prefix=f"aurora-{purpose}-", dir=place))
            if server_user() is not None:
                directory.chmod(0o711)
            return directory
    raise TargetUnfit(
        "there is no temporary directory that PostgreSQL can use",
        hint="Nothing was started. Set TMPDIR to a short path open to all users.",
    )


@functools.cache
def runnable(bin_dir: Path) -> Path:
    """*bin_dir*, or, where the server user cannot reach it, a copy of its installation.

    The copy is ours, so that the server user cannot change what we start next; it is
    removed when this process ends.
    """
    bin_dir = bin_dir.resolve()
    if _blocked_at(bin_dir) is None:
        return bin_dir
    copy = scratch_directory("bin")
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    prefix = bin_dir.parent
    shutil.copytree(prefix, copy / prefix.parent.name / prefix.name, symlinks=True)
    # Wheels keep the shared libraries beside the package, and find them by that path.
    bundled = prefix.parent.with_name(prefix.parent.name + ".libs")
    if bundled.is_dir():
        shutil.copytree(bundled, copy / bundled.name)
    return copy / prefix.parent.name / prefix.name / bin_dir.name
