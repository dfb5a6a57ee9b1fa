"""Verification: is what a backup needs there, unaltered, and does it open?

Three levels, each holding the one before. ``names`` takes one listing; ``ciphertext``
reads every object and compares it with the SHA-256 in the refs, without any key; ``full``
opens every object, proves its identity, and follows the manifest.
"""

import enum
import hashlib
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aurora.errors import IntegrityError, ObjectMissing, UsageError
from aurora.events import Advanced, EventSink, PhaseBegun, PhaseEnded, discard
from aurora.repository import signed
from aurora.repository.catalog import BackupEntry
from aurora.repository.damage import damaged, missing
from aurora.repository.door import ClosedRepository, Repository
from aurora.repository.layout import (
    CONFIG,
    ObjectType,
    parse_content,
    parse_part,
    parse_session,
    part_name,
)
from aurora.repository.presence import stored_sizes
from aurora.repository.refs import RefObject, Refs
from aurora.repository.sealed_door import INDEX, SealedRepository
from aurora.repository.structure import RefWalk
from aurora.repository.uploads import UploadPool

PHASE = "verify"


class Level(enum.StrEnum):
    """How deep a verification looks."""

    NAMES = "names"
    CIPHERTEXT = "ciphertext"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class BadObject:
    """An object that is missing or not what was written."""

    name: str
    problem: str  # "missing" or "damaged"
    detail: str
    backups: tuple[str, ...] = ()  # "<database>/<id>" of all that need it; all, for key slots


@dataclass(slots=True)
class VerifyReport:
    """What a verification looked at and found."""

    level: Level
    checked_objects: int = 0
    checked_bytes: int = 0  # stored bytes read; 0 at level ``names``
    needed_objects: int = 0  # of the backups verified, whether or not in the subset
    bad: list[BadObject] = field(default_factory=list)
    ended_early: bool = False  # the time budget ran out; the rest was not looked at
    looked_at: list[str] = field(default_factory=list)  # objects that were read, good or bad
    needed: frozenset[str] = frozenset()  # every object of the backups verified

    @property
    def ok(self) -> bool:
        """Whether nothing bad was found in what was looked at."""
        return not self.bad

    def touched_backups(self) -> list[str]:
        """``<database>/<id>`` of every backup that needs a bad object."""
        return sorted({backup for one in self.bad for backup in one.backups})


def verify(
    repository: ClosedRepository,
    entries: BackupEntry | Iterable[BackupEntry],
    level: Level | str = Level.CIPHERTEXT,
    *,
    subset: tuple[int, int] | None = None,
    budget_seconds: float | None = None,
    checked_at: Mapping[str, float] | None = None,
    sink: EventSink = discard,
    workers: int = 8,
) -> VerifyReport:
    """Verify one or more backups on the repository's own storage.

    ``subset=(n, t)`` looks at the n-th of t parts (1 <= n <= t), always the same objects.
    With *budget_seconds* the objects are taken in random order until the time is over, so
    that repeated runs cover everything; with *checked_at* (name -> when it was last looked
    at) those that were not looked at for longest come first.

    Raises:
        UsageError: level ``full`` without an opened repository, or an impossible subset.
        StorageError: the storage could not be read; damage is reported, never raised.
    """
    level = Level(level)
    if level is Level.FULL and not isinstance(repository, Repository | SealedRepository):
        raise UsageError("full verification needs an opened repository")
    if subset is not None and not 1 <= subset[0] <= subset[1]:
        raise UsageError(f"no subset {subset[0]}/{subset[1]}", hint="Use 1/7 to 7/7, say.")
    chosen = [entries] if isinstance(entries, BackupEntry) else list(entries)
    run = _Run(repository, level, subset, budget_seconds, sink)
    run.checked_at = checked_at or {}
    run.check(chosen, workers)
    return run.report


class _Run:
    def __init__(
        self,
        repository: ClosedRepository,
        level: Level,
        subset: tuple[int, int] | None,
        budget_seconds: float | None,
        sink: EventSink,
    ) -> None:
        self.report = VerifyReport(level)
        self._repository = repository
        self._storage = repository.storage
        self._catalog = repository.catalog_alone()
        self._subset = subset
        self.checked_at: Mapping[str, float] = {}
        self._is_shuffled = budget_seconds is not None
        self._deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
        self._sink = sink
        self._walk = RefWalk()
        self._bad: dict[str, tuple[str, str]] = {}  # name -> problem, detail
        self._lock = threading.Lock()

    def check(self, entries: Sequence[BackupEntry], workers: int) -> None:
        refs = [one for entry in entries if (one := self._read_refs(entry)) is not None]
        needed = {one.name: one for each in refs for one in each.all_objects()}
        self.report.needed_objects = len(needed)
        self.report.needed = frozenset(needed)
        present = self._compare_listing(needed)
        if self.report.level is Level.NAMES:
            self.report.checked_objects = len(needed)
        else:
            self._check_unnamed()
            self._read_objects(present, workers)
        if self.report.level is Level.FULL:
            self._check_structure(refs)
        self._tell(refs)

    def _read_refs(self, entry: BackupEntry) -> Refs | None:
        try:
            return self._catalog.refs(entry.database, entry.id)
        except IntegrityError as error:
            self._note(entry.refs_name, error)
            return None

    def _compare_listing(self, needed: dict[str, RefObject]) -> list[RefObject]:
        """Note what a listing lacks or shows in another size; return the others."""
        sizes = stored_sizes(self._storage, needed)
        for name, one in needed.items():
            size = sizes.get(name)
            if size is None:
                self._note(name, missing(name))
            elif size != one.size:
                self._note(name, damaged(name, f"it has {size} bytes instead of {one.size}"))
        return [one for name, one in needed.items() if sizes.get(name) == one.size]

    def _check_unnamed(self) -> None:
        """Config and key slots: no backup opens without them, and no refs name them."""
        for name in (CONFIG, *(i.name for i in self._storage.list(ObjectType.SLOT.prefix))):
            try:
                stored = self._storage.get(name)
                document = signed.read_clear(stored, name=name)
                if not _is_named(document, name):
                    raise damaged(name, "it is another object")
                ours = document.get("repository") == self._repository.repository_id.hex()
                if isinstance(self._repository, Repository) and ours:
                    self._repository.prove(name, stored)
            except IntegrityError as error:
                self._note(name, error)

    def _read_objects(self, present: list[RefObject], workers: int) -> None:
        chosen = [one for one in present if self._is_chosen(one)]
        if self._is_shuffled:
            random.shuffle(chosen)
            chosen.sort(key=lambda one: self.checked_at.get(one.name, 0.0))
        self._sink(PhaseBegun(PHASE, sum(one.size for one in chosen)))
        pool = UploadPool(workers=workers)
        try:
            # Manifests and tables first: they promise what the others must hold.
            for part in (True, False):
                for one in chosen:
                    if _is_description(one.name) is part:
                        if self._is_over():
                            break
                        pool.submit(one.size, lambda one=one: self._read(one))  # type: ignore[misc]
                pool.drain()
        finally:
            pool.close()
        self._sink(PhaseEnded(PHASE, f"{self.report.checked_objects} objects"))

    def _read(self, one: RefObject) -> None:
        try:
            stored = self._storage.get(one.name)
            if hashlib.sha256(stored).hexdigest() != one.sha256:
                raise damaged(one.name, "its bytes are not those that the refs name")
            if self.report.level is Level.FULL:
                self._open(one.name, stored)
        except IntegrityError as error:
            # A good object does not open without its session: then that is the bad one.
            culprit = str(error.context.get("name", ""))
            self._note(culprit if parse_session(culprit) else one.name, error)
        with self._lock:
            self.report.looked_at.append(one.name)
            self.report.checked_objects += 1
            self.report.checked_bytes += one.size
            done = self.report.checked_bytes
        self._sink(Advanced(PHASE, done, one.name))

    def _open(self, name: str, stored: bytes) -> None:
        assert isinstance(self._repository, Repository | SealedRepository)
        payload = self._repository.prove(name, stored)
        with self._lock:
            promised = self._walk.promised(name)
        if promised is not None and promised != len(payload):
            raise damaged(name, f"it holds {len(payload)} bytes instead of {promised}")
        if _is_description(name):
            with self._lock:
                self._walk.add(name, payload)

    def _check_structure(self, refs: list[Refs]) -> None:
        """Everything that a manifest or a table names must be in the backup's refs."""
        for each in refs:
            named = {one.name for one in each.objects}
            index = part_name(each.database, each.backup, INDEX)
            for root in (each.manifest.name, index):
                for wanted in sorted(self._walk.reachable(root) - named):
                    error = damaged(root, f"it names {wanted}, which its refs do not")
                    self._note(root, error)

    def _is_chosen(self, one: RefObject) -> bool:
        if self._subset is None or _is_description(one.name):
            return True
        part, parts = self._subset
        digest = hashlib.sha256(one.name.encode()).digest()
        return int.from_bytes(digest[:8], "big") % parts == part - 1

    def _is_over(self) -> bool:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self.report.ended_early = True
        return self.report.ended_early

    def _note(self, name: str, error: IntegrityError) -> None:
        problem = "missing" if isinstance(error, ObjectMissing) else "damaged"
        with self._lock:
            self._bad.setdefault(name, (problem, error.message))

    def _tell(self, verified: list[Refs]) -> None:
        """Turn what was noted into a report that names every backup that is touched."""
        if not self._bad:
            return
        read = {(one.database, one.backup): one for one in verified}
        unread = [name for name in self._catalog.names() if name not in read]
        needs = {f"{database}/{backup}": _needs(refs) for (database, backup), refs in read.items()}
        for (database, backup), refs in self._catalog.read_all(unread):
            needs[f"{database}/{backup}"] = _needs(refs)
        self.report.bad = [
            BadObject(
                name,
                problem,
                detail,
                tuple(sorted(label for label in needs if _is_needed(name, label, needs[label]))),
            )
            for name, (problem, detail) in sorted(self._bad.items())
        ]


def _needs(refs: Refs | IntegrityError) -> set[str]:
    return {one.name for one in refs.all_objects()} if isinstance(refs, Refs) else set()


def _is_needed(name: str, label: str, needs: set[str]) -> bool:
    return (
        name in needs
        or name in (CONFIG, f"{ObjectType.REFS.value}/{label}")
        or name.startswith(ObjectType.SLOT.prefix)
    )


def _is_named(document: signed.Document, name: str) -> bool:
    """Whether a config or a key slot is the one that *name* promises; no key is needed."""
    if document.get("kind") == "config":
        return name == CONFIG
    return name == f"{ObjectType.SLOT.prefix}{document.get('id', '')}"


def _is_description(name: str) -> bool:
    content, part = parse_content(name), parse_part(name)
    if part is not None:
        return part[2] == INDEX
    return content is None or content.type is ObjectType.TABLE
