"""Try a storage before anything depends on it: does it do what it says?

Providers that speak one protocol differ in what they honour, and some refuse silently: a
listing is empty, a delete does nothing. So each promise is tried and then looked at. All
objects are named ``probe/…`` and are gone afterwards, where deleting is allowed.
"""

import enum
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aurora import clock
from aurora.errors import AuroraError, ObjectMissing, StorageDenied, StorageUnfit
from aurora.storage.base import ObjectExists, Storage

_PREFIX = "probe/"
_LARGE = 16 * 2**20  # bytes
_SKEW = timedelta(minutes=5)
_LAG_SECONDS = 5.0
_STALE = timedelta(hours=48)
_ALPHABET = "abcdefghijklmnopqrstuvwxyz.ABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789_"
_VANISHING = {"tmpfs": "memory", "ramfs": "memory", "overlay": "a container's own layer"}


class Level(enum.StrEnum):
    """How a finding weighs."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried. ``code`` is stable; ``hint`` says what to do.

    ``details`` are for programs: one by one what the message tells a few of.
    """

    code: str
    level: Level
    message: str
    hint: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What :func:`probe` found, in the order it was tried."""

    url: str
    findings: tuple[Finding, ...]
    create_only: bool | None  # conditional puts: honoured, ignored, or not tried
    skew: timedelta | None  # the storage's clock less ours, None when not measured

    @property
    def ok(self) -> bool:
        """Whether a repository may be kept here; warnings do not forbid it."""
        return all(finding.level is not Level.ERROR for finding in self.findings)

    def finding(self, code: str) -> Finding | None:
        """The finding with this code, if it was tried."""
        return next((finding for finding in self.findings if finding.code == code), None)


def probe(
    storage: Storage,
    *,
    now: Callable[[], datetime] = clock.now,
    sleep: Callable[[float], None] = time.sleep,
    large: int = _LARGE,
    needed: int = 0,
) -> ProbeReport:
    """Try *storage*; takes a few seconds and moves twice *large* bytes. Raises nothing of its own.

    *needed*: bytes of the objects that are going to be most of what is stored.
    A storage that can't even be written to gives one error finding.
    """
    return _Probe(storage, now, sleep, max(large, needed), needed).run()


class _Probe:
    """One run. Each step notes what it found; a step that fails does not stop the others."""

    def __init__(
        self,
        storage: Storage,
        now: Callable[[], datetime],
        sleep: Callable[[float], None],
        large: int,
        needed: int,
    ) -> None:
        self._storage = storage
        self._now = now
        self._sleep = sleep
        self._large = large
        self._needed = needed
        self._findings: list[Finding] = []
        self._create_only: bool | None = None
        self._skew: timedelta | None = None
        self._stem = f"{_PREFIX}{secrets.token_hex(6)}-"
        self._written: list[str] = []

    def run(self) -> ProbeReport:
        """All steps; the others make no sense where nothing can be written."""
        self._durability()
        if self._try("probe-write", self._write):
            for code, step in (
                ("probe-read", self._read),
                ("probe-missing", self._missing),
                ("probe-list", self._list),
                ("probe-create-only", self._create),
                ("probe-names", self._names),
                ("probe-large", self._large_object),
                ("probe-clock", self._clock),
            ):
                self._try(code, step)
        if self._written:
            self._try("probe-delete", self._delete)
        return ProbeReport(self._storage.url, tuple(self._findings), self._create_only, self._skew)

    def _try(self, code: str, step: Callable[[], Finding]) -> bool:
        try:
            finding = step()
        except AuroraError as error:
            finding = Finding(code, Level.ERROR, error.message, error.hint)
        self._findings.append(finding)
        return finding.level is not Level.ERROR

    def _put(self, suffix: str, data: bytes, *, create_only: bool = False) -> str:
        name = self._stem + suffix
        self._written.append(name)  # before the try: a put that failed may have happened
        self._storage.put(name, data, create_only=create_only)
        return name

    def _write(self) -> Finding:
        self._put("small", b"aurora probe")
        return Finding("probe-write", Level.OK, "an object can be written")

    def _read(self) -> Finding:
        if self._storage.get(self._stem + "small") != b"aurora probe":
            return Finding(
                "probe-read",
                Level.ERROR,
                "an object read back is not what was written",
                "Do not keep backups here: something on the way alters data.",
            )
        return Finding("probe-read", Level.OK, "an object reads back as it was written")

    def _missing(self) -> Finding:
        try:
            self._storage.get(self._stem + "absent")
        except ObjectMissing:
            return Finding("probe-missing", Level.OK, "an absent object is told to be absent")
        except StorageDenied as error:
            return Finding(
                "probe-missing",
                Level.ERROR,
                f"an absent object cannot be told from a forbidden one: {error.message}",
                "Allow these credentials to list the bucket (S3: s3:ListBucket).",
            )
        return Finding(
            "probe-missing",
            Level.ERROR,
            "the storage answers for an object that was never written",
            "Something other than the storage answers at this address, perhaps a proxy.",
        )

    def _list(self) -> Finding:
        name = self._put("listed", b"aurora probe")
        waited = 0.0
        while name not in {info.name for info in self._storage.list(_PREFIX)}:
            if waited >= _LAG_SECONDS:
                return Finding(
                    "probe-list",
                    Level.ERROR,
                    "an object just written is not in the listing",
                    "Some storages give an empty listing instead of a refusal: allow these "
                    "credentials to list. Without listings no backup can be found again.",
                )
            self._sleep(0.5)
            waited += 0.5
        if waited:
            return Finding(
                "probe-list",
                Level.WARNING,
                f"the listing showed a new object only after {waited:.1f} s",
                "Backups are safe here. Do not run prune from another machine within minutes "
                "of a backup.",
            )
        return Finding("probe-list", Level.OK, "the listing shows an object at once")

    def _create(self) -> Finding:
        code = "probe-create-only"
        name = self._put("once", b"first", create_only=True)
        try:
            self._storage.put(name, b"second", create_only=True)
        except ObjectExists:
            kept = self._storage.get(name) == b"first"
            self._create_only = kept
            if kept:
                return Finding(code, Level.OK, "conditional puts are honoured")
            message = "a conditional put was refused and yet took effect"
            return Finding(code, Level.ERROR, message, "Report this to the provider.")
        self._create_only = False
        # No warning: nobody can change it, and no name is ever used twice.
        return Finding(code, Level.OK, "conditional puts are ignored; Aurora does not rely on them")

    def _names(self) -> Finding:
        name = self._put(_ALPHABET, b"aurora probe")
        listed = {info.name for info in self._storage.list(_PREFIX)}
        if name not in listed or self._storage.get(name) != b"aurora probe":
            return Finding(
                "probe-names",
                Level.ERROR,
                "the storage alters names",
                "Names need letters of both cases, digits, dot, hyphen, underscore and slash.",
            )
        return Finding("probe-names", Level.OK, "all characters of names are kept")

    def _large_object(self) -> Finding:
        data = os.urandom(self._large)
        begun = time.perf_counter()
        try:
            name = self._put("large", data)
        except StorageUnfit as error:
            return self._too_large(error)
        written = time.perf_counter()
        same = self._storage.get(name) == data
        read = time.perf_counter()
        size = self._large / 2**20
        if not same:
            message = f"an object of {size:.0f} MiB does not read back as it was written"
            return Finding("probe-large", Level.ERROR, message, "Do not keep backups here.")
        return Finding(
            "probe-large",
            Level.OK,
            f"an object of {size:.0f} MiB: {size / (written - begun):.0f} MiB/s written, "
            f"{size / (read - written):.0f} MiB/s read",
        )

    def _too_large(self, error: StorageUnfit) -> Finding:
        """The storage refuses an object for its size: find the size that it takes."""
        size = self._large
        while size > 2**20:
            size = max(size // 2, 2**20)
            try:
                self._put("smaller", os.urandom(size))
            except StorageUnfit:
                continue
            break
        else:
            raise error
        fits = self._needed <= size
        taken = f"{size / 2**20:.0f} MiB"
        return Finding(
            "probe-large",
            Level.WARNING if fits and self._needed else Level.ERROR,
            f"objects of {self._large / 2**20:.0f} MiB are refused, of {taken} taken",
            "Raise the limit for the size of a file, of the bucket and of the project, to 64 MiB"
            + ("." if fits else f"; or set chunk_size under [backup] below {taken}."),
        )

    def _clock(self) -> Finding:
        before = self._now()
        told = self._storage.head(self._put("clock", b"aurora probe")).modified_at
        self._skew = skew = told - (before + (self._now() - before) / 2)
        self._clear_stale(told)
        if abs(skew) <= _SKEW:
            return Finding("probe-clock", Level.OK, "this clock and the storage's agree")
        minutes = abs(skew).total_seconds() / 60
        side = "behind" if skew > timedelta(0) else "ahead of"
        return Finding(
            "probe-clock",
            Level.WARNING,
            f"this machine's clock is {minutes:.0f} minutes {side} the storage's",
            "Set it (NTP): object stores refuse requests from 15 minutes on, and recovery "
            "targets and schedules are off by as much.",
        )

    def _delete(self) -> Finding:
        code = "probe-delete"
        try:
            self._storage.delete(self._written)
        except StorageDenied:
            return Finding(code, Level.WARNING, "these credentials cannot delete", _APPEND_ONLY)
        left = {info.name for info in self._storage.list(_PREFIX)} & set(self._written)
        for name in self._written:
            try:
                self._storage.head(name)
                left.add(name)
            except ObjectMissing:
                continue
        if left:
            message = f"{len(left)} deleted objects are still there, without an error"
            return Finding(code, Level.WARNING, message, _APPEND_ONLY)
        return Finding(code, Level.OK, "deleting deletes")

    def _clear_stale(self, storage_now: datetime) -> None:
        """What probes that were killed left behind is deleted along with ours."""
        self._written.extend(
            info.name
            for info in self._storage.list(_PREFIX)
            if info.modified_at < storage_now - _STALE
        )

    def _durability(self) -> None:
        if not self._storage.url.startswith("file://"):
            return
        kind = file_system(Path(unquote(urlsplit(self._storage.url).path)))
        if kind in _VANISHING:
            self._findings.append(
                Finding(
                    "probe-durability",
                    Level.WARNING,
                    f"the directory is in {_VANISHING[kind]} ({kind})",
                    "It is lost with the next restart. Use a directory on a disk or a mounted "
                    "volume.",
                )
            )
        else:
            message = f"each write is synced to the file system ({kind or 'of unknown kind'})"
            self._findings.append(Finding("probe-durability", Level.OK, message))


_APPEND_ONLY = (
    "That protects backups from whoever takes over this machine, and it is right for a host "
    "that only backs up. Run prune elsewhere, with credentials that may delete. The objects "
    "under probe/ stay until then."
)


def file_system(path: Path) -> str:
    """The kind of file system that *path* is or will be on (``ext4``), empty if unknown."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        device = path.stat().st_dev
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in reversed(lines):  # a later mount covers an earlier one
        fields, _, source = line.partition(" - ")
        if fields.split(" ")[2] == wanted:
            return source.split(" ")[0]
    return ""
