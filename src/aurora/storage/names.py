"""What every storage checks before it looks at its disk or its wire.

One alphabet and one set of sizes for all storages: a name that one of them takes,
all of them take, so a repository can be copied anywhere.
"""

import re

from aurora.errors import ObjectDamaged, StorageError
from aurora.storage.base import MAX_OBJECT, Buffer

_NAME = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*\Z")
_MAX_NAME = 512  # characters; S3 takes 1024 with the prefix, file systems 255 a step
_MAX_STEP = 200


def check_name(name: str) -> str:
    """Return *name*, or raise StorageError when it is no object name.

    A step of ``.`` or ``..`` would leave the prefix on a local directory and be
    folded away by some HTTP clients, so neither is a name.
    """
    steps = name.split("/")
    if (
        not _NAME.match(name)
        or len(name) > _MAX_NAME
        or any(step in (".", "..") or len(step) > _MAX_STEP for step in steps)
    ):
        raise StorageError(f"not an object name: {name[:80]!r}", context={"name": name})
    return name


def check_prefix(prefix: str) -> str:
    """Return *prefix*, or raise StorageError when it is neither empty nor ends in ``/``."""
    if prefix:
        if not prefix.endswith("/"):
            raise StorageError(f"a prefix ends with a slash: {prefix[:80]!r}")
        check_name(prefix[:-1])
    return prefix


def check_data(name: str, data: Buffer) -> memoryview:
    """A flat view of *data*; StorageError when it is empty or over 64 MiB."""
    view = memoryview(data).cast("B")
    if not 0 < view.nbytes <= MAX_OBJECT:
        raise StorageError(
            f"an object holds 1 byte to {MAX_OBJECT} bytes, {name} has {view.nbytes}",
            context={"name": name, "size": view.nbytes},
        )
    return view


def check_size(name: str, size: int) -> int:
    """Return *size*, or raise ObjectDamaged when no object can be so large.

    Asked before anything is read: what lies there may be larger than the memory.
    """
    if size > MAX_OBJECT:
        raise ObjectDamaged(
            f"object {name} is damaged: it has {size} bytes, none has more than {MAX_OBJECT}",
            context={"name": name, "size": size},
        )
    return size
