"""What must be right about the storages: their promises, their room, their distance."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from aurora.errors import UsageError
from aurora.operations.findings import Finding, Level, failed, good, warning
from aurora.postgres.conninfo import ConnInfo, supabase_project
from aurora.storage.addresses import common_fate, parse_address, provider_of
from aurora.storage.base import Storage
from aurora.storage.probe import probe
from aurora.units import format_size

# Told in full even when all is well: what differs between good storages.
_TELLING = frozenset({"probe-durability", "probe-large"})
_SCARCE = 1 << 30  # bytes


def check_storage(
    place: str, storage: Storage, *, needed: int | None = None, chunk_bytes: int = 8 << 20
) -> Iterator[Finding]:
    """Probe one storage. *needed*: bytes that a full backup may take, if known.

    *chunk_bytes*: the raw rows of a chunk; an object of that size must fit.

    Raises StorageError where it cannot be used at all.
    """
    report = probe(storage, needed=sealed_size(chunk_bytes))
    telling: list[str] = []
    for finding in report.findings:
        if finding.level is Level.OK:
            telling += [finding.message] if finding.code in _TELLING else []
        else:
            yield replace(
                finding, code=f"{place}-{finding.code}", message=f"{place}: {finding.message}"
            )
    if report.ok:
        told = "".join(f"; {fact}" for fact in telling)
        yield good(f"{place}-probe", f"{place} {storage.url} keeps what it promises{told}")
    else:
        yield failed(
            f"{place}-unfit",
            f"{place} {storage.url} cannot keep a repository",
            "See the errors above.",
        )
    yield from _room(place, storage, needed)


def sealed_size(chunk_bytes: int) -> int:
    """Bytes that a chunk of rows may take when nothing of it can be compressed."""
    return chunk_bytes + chunk_bytes // 32 + 4096


def check_apart_from_source(place: str, storage: Storage, source: ConnInfo) -> Iterator[Finding]:
    """Whether the backups would be lost together with what they are backups of."""
    found = provider_of(storage.url)
    project, host = supabase_project(source), source.settled().options.get("host", "")
    if not found.account or found.account not in (project, host):
        return
    yield warning(
        f"{place}-with-source",
        f"THE {place.upper()} IS IN THE SOURCE'S OWN PROJECT ({found.account}): whoever deletes, "
        "pauses or loses the project loses the database and these backups together",
        "Keep backups in another project, better at another provider. If you keep it so, the "
        "other storage must be elsewhere.",
    )


def check_together(primary: Storage, secondary: Storage) -> Iterator[Finding]:
    """What one accident could take from both. Raises UsageError where they are one place."""
    one, two = parse_address(primary.url), parse_address(secondary.url)
    same_home = (one.kind, one.bucket, one.endpoint) == (two.kind, two.bucket, two.endpoint)
    if same_home and _nested(one.prefix, two.prefix):
        raise UsageError(
            "the primary and the secondary storage are the same place, or one inside the other",
            hint="Give each a directory or prefix of its own; better, another provider.",
        )
    facts = common_fate(primary.url, secondary.url)
    if not facts:
        yield good("storages-apart", "primary and secondary are at different providers")
        return
    yield warning(
        "storages-share-fate",
        f"one accident can take both storages: {'; '.join(facts)}",
        "Put the secondary at another provider, in another account and region.",
    )


def _nested(one: str, two: str) -> bool:
    first, second = f"{one.strip('/')}/", f"{two.strip('/')}/"
    return first.startswith(second) or second.startswith(first) or "/" in (first, second)


def _room(place: str, storage: Storage, needed: int | None) -> Iterator[Finding]:
    address = parse_address(storage.url)
    if address.kind != "file":
        return
    directory = Path(address.prefix)
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    message = f"{place}: {format_size(free)} free on the disk of {address.prefix}"
    if needed is not None and free < needed:
        yield warning(
            "storage-room",
            f"{message}, the source has {format_size(needed)}",
            "A full backup takes less than the source, but check that it fits; free space, or "
            "use a larger disk.",
        )
    elif free < _SCARCE:
        yield failed("storage-room", message, "Free space on that disk.")
    else:
        yield good("storage-room", message)
