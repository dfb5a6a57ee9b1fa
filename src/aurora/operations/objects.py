"""The objects of a project's Storage as part of a backup.

The order is what makes them fit the snapshot. Copy what is there before the snapshot is
taken, so that nothing is held open meanwhile; list them again under the snapshot; and read
the few that are new when the snapshot is released. Bytes never change under one version, so
what was copied ahead is right whatever happened since. What was replaced or deleted between
the snapshot and its reading is told by name.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from aurora.engines.base import Buffer, Stored
from aurora.engines.logical.names import pin_output
from aurora.engines.logical.snapshot import HeldSnapshot
from aurora.engines.supabase import rows
from aurora.engines.supabase.catalogue import Catalogue, Held
from aurora.engines.supabase.collect import Beginnings, Collector, Key
from aurora.engines.supabase.documents import (
    LOST,
    ObjectPage,
    ObjectProblem,
    PageRef,
    StoragePart,
)
from aurora.errors import AuroraError, IntegrityError, UnsupportedRepository
from aurora.events import EventSink, Noted, Warned
from aurora.operations.content import Backup
from aurora.operations.objects_checkpoint import Checkpoints
from aurora.operations.objects_index import Index, beginnings_in, held_in, write_page
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.repository.door import Ref, Repository
from aurora.repository.ids import APART, STREAM
from aurora.repository.layout import ObjectType
from aurora.repository.writer import Writer
from aurora.storage.limit import Rate
from aurora.storage.retry import Patience
from aurora.storage.supabase_rest import SupabaseRest
from aurora.units import format_count, format_size, plural

DEFAULT_JOBS = 8
_PAGE = msgspec.json.Decoder(ObjectPage)  # before any thread needs it: aurora.repository.refs
_SHOWN = 50  # problems that a manifest and a report name
_WORTH_SAVING = 6  # reading took so many parts of the time between two checkpoints
_LOOKED_AT = 100  # backups that are asked for an earlier index


@dataclass(frozen=True, slots=True)
class SourceObjects:
    """Whether and how the source's Storage is read. ``client`` None: no key is configured."""

    wanted: bool = False
    client: SupabaseRest | None = None
    jobs: int = DEFAULT_JOBS
    max_rate: int | None = None  # bytes a second
    skip: tuple[str, ...] = ()  # names of buckets, or patterns of them
    own: tuple[str, ...] = ()  # buckets that hold these very backups
    patience: Patience = field(default_factory=lambda: Patience(budget=60.0))  # with one object
    checkpoint_interval: float = 60.0  # seconds between two; longer where much is to be copied


@dataclass(slots=True)
class ObjectsReport:
    """What a backup run did with the Storage's objects."""

    objects: int = 0  # in the snapshot
    bytes: int = 0
    read: int = 0  # objects
    read_bytes: int = 0
    lost: int = 0
    newer: int = 0
    left_out: str = ""  # why none are in the backup
    problems: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether the backup has every object as the snapshot's row has it."""
        return not (self.left_out or self.lost or self.newer)


class Keeper(Protocol):
    """Where a run puts objects' bytes and the pages that list them. Threads share it."""

    def put_bytes(self, data: Buffer) -> Stored: ...
    def put_page(self, page: ObjectPage) -> Stored: ...
    def may_name(self, stored: Stored) -> bool:
        """Whether the backup may name what an earlier one stored."""

    def checkpoints(self, repository: Repository, url: str, sink: EventSink) -> Checkpoints | None:
        """What runs that died left of this Storage, and where this run leaves the like."""


class WriterKeeper:
    """Into a repository's shared objects. Remembers which of them the backup names."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def put_bytes(self, data: Buffer) -> Stored:
        ref = self._writer.put(ObjectType.OBJECT, data)
        return Stored(ref.name, ref.raw)

    def put_page(self, page: ObjectPage) -> Stored:
        return write_page(self._writer, page)

    def may_name(self, stored: Stored) -> bool:
        return self._writer.is_reusable(Ref(stored.object, stored.raw))

    def checkpoints(self, repository: Repository, url: str, sink: EventSink) -> Checkpoints:
        return Checkpoints(self._writer, repository, url, sink)


class ObjectsRun:
    """The Storage's part of one backup run. A context manager: it keeps a file on disk.

    *repository*: whose earlier backups may hold the bytes; None where nothing is shared.
    """

    def __init__(
        self,
        dsn: str,
        keeper: Keeper,
        repository: Repository | None,
        database: str,
        source: SourceObjects,
        *,
        sink: EventSink,
        cancel: threading.Event,
    ) -> None:
        self.report = ObjectsReport()
        self._dsn = dsn
        self._keeper = keeper
        self._repository = repository
        self._database = database
        self._source = source
        self._sink = sink
        self._cancel = cancel
        self._buckets: list[dict[str, Any]] = []
        self._skipped: list[str] = []
        self._listed = False
        self._silent = ""  # why the Storage is not asked for objects at all
        self._directory = tempfile.TemporaryDirectory(prefix="aurora-objects-")
        self._catalogue = Catalogue(Path(self._directory.name))
        self._checkpoints: Checkpoints | None = None
        self._begun: dict[Key, Held] = {}  # beginnings of large objects

    def __enter__(self) -> "ObjectsRun":
        return self

    def __exit__(self, *_: object) -> None:
        self._catalogue.close()
        self._directory.cleanup()

    @property
    def is_told(self) -> bool:
        """Whether there is anything to report."""
        return self._listed or bool(self.report.left_out)

    def copy_ahead(self) -> None:
        """Read what is new so far, before the snapshot is taken. Raises SourceError, …"""
        if not self._source.wanted:
            return
        with open_control(self._dsn) as conn, translated("source", doing="listing its Storage"):
            if not rows.has_storage(conn):
                return
            pin_output(conn)
            if self._source.client is None:
                return
            taken, _ = rows.chosen_buckets(
                rows.read_buckets(conn), self._source.skip, self._source.own
            )
            self._silent = self._why_silent(self._source.client, taken)
            if not self._silent:
                conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                self._catalogue.want(rows.read_objects(conn, taken))
                conn.execute("COMMIT")
        self._remember(self._source.client.url)
        if not self._silent:
            self._collect(ahead=True)

    def see(self, held: HeldSnapshot) -> None:
        """List the objects of the snapshot. Raises SourceError."""
        conn = held.connection
        if not self._source.wanted or not rows.has_storage(conn):
            return
        count, size = rows.count_objects(conn)
        self._buckets = rows.read_buckets(conn)
        if self._source.client is None:
            if count:
                self.report.left_out = (
                    f"{plural(count, 'object')} of its Storage ({format_size(size)}): no key of "
                    "the project's Storage is configured"
                )
            return
        taken, self._skipped = rows.chosen_buckets(
            self._buckets, self._source.skip, self._source.own
        )
        self._skipped += [f"{what}: not covered" for what in rows.uncovered(conn)]
        self._catalogue.want(rows.read_objects(conn, taken))
        self._listed = True

    def finish(self) -> tuple[StoragePart | None, list[Ref]]:
        """Read what is still to be read; the manifest's part, and what it uses.

        Raises StorageError and the like of the repository; the Storage's own failures are
        in the report.
        """
        if not self._listed:
            self._tell()
            return None, []
        if self._silent:
            for row in self._catalogue.to_read():
                why = Held(0, "", (), f"{LOST}: {self._silent}")
                self._catalogue.hold(row.bucket, row.name, row.identity, why)
        else:
            self._collect()
        assert self._source.client is not None
        index = Index(self._keeper.put_page)
        part = self._write(self._source.client.url, index)
        self._tell()
        return part, index.uses()

    def committed(self) -> None:
        """The backup holds what was copied: nobody needs to go on from less."""
        if self._checkpoints is not None and self._listed:
            self._checkpoints.remove()

    def _why_silent(self, client: SupabaseRest, taken: list[str]) -> str:
        """Why the Storage cannot be asked for these buckets' objects; "" where it can.

        Asked once, before thousands of refusals.
        """
        try:
            seen = {str(bucket.get("id")) for bucket in client.buckets()}
        except AuroraError as error:
            return error.message
        if hidden := sorted(set(taken) - seen):
            return (
                f"the Storage at {client.url} has no bucket {hidden[0]}: is it another project's?"
            )
        return ""

    def _remember(self, url: str) -> None:
        """Hold what was copied before, as far as it may be named again.

        By the newest backup, and by runs since then that did not come to an end.
        """
        if self._repository is None:
            return
        checkpoints = self._keeper.checkpoints(self._repository, url, self._sink)
        if checkpoints is None:
            return
        self._checkpoints = checkpoints
        before = newest_with_objects(self._repository, self._database)
        if before is not None:
            self._hold_all_of(before)
        held = 0
        for one in checkpoints.since(before.entry if before else None):
            self._hold_all_of(one)
            held += one.body.storage.objects if one.body.storage else 0
        if held:
            self._sink(Noted(f"going on with a copy that was interrupted: {plural(held, 'object')}"
                             " and more were copied already"))  # fmt: skip

    def _hold_all_of(self, before: Backup) -> None:
        try:
            for page in pages(before):
                good = [self._keeper.may_name(pack) for pack in page.packs]
                self._catalogue.hold_all(
                    held_in(page, entry)
                    for entry in page.entries
                    if not entry.note and all(good[piece.pack] for piece in entry.pieces)
                )
                self._begun |= dict(beginnings_in(page, good))
        except IntegrityError as error:
            self._sink(
                Warned(
                    "objects-index-unreadable",
                    f"the list of objects in {before.entry.id} cannot be read: {error.message}",
                    f"Run `aurora backup verify {before.entry.id}`. What it held is read again.",
                )
            )

    def _collect(self, *, ahead: bool = False) -> None:
        """Read what is wanted and not held; *ahead*: before the database, which takes its time."""
        assert self._source.client is not None
        begun = time.monotonic()
        done = Collector(
            self._source.client,
            self._catalogue,
            self._keeper.put_bytes,
            self._source.jobs,
            Rate(self._source.max_rate),
            self._sink,
            self._cancel,
            self._source.patience,
            save=self._save if self._checkpoints is not None else None,
            save_every=self._source.checkpoint_interval,
            begun=self._begun,
            fetch=self._checkpoints.fetch if self._checkpoints is not None else None,
        ).run()
        self.report.read += done.objects
        self.report.read_bytes += done.bytes
        if done.gave_up:
            self._sink(
                Warned(
                    "objects-not-read",
                    f"reading the Storage was given up: {done.gave_up}",
                    "What was read before is kept; the rest is told as lost below.",
                )
            )
        if (
            ahead
            and self._checkpoints
            and time.monotonic() - begun > self._source.checkpoint_interval / 6
        ):
            self._save(())

    def _save(self, beginnings: Beginnings) -> None:
        assert self._checkpoints is not None
        self._checkpoints.save(itertools.chain(self._catalogue.take_fresh(), beginnings))

    def _write(self, url: str, index: Index) -> StoragePart:
        """The pages, and what is told of all of them."""
        problems: list[ObjectProblem] = []
        for row, held in self._catalogue.all():
            entry = index.add(row, held)
            if entry.note:
                self.report.lost += entry.is_lost
                self.report.newer += not entry.is_lost
                if len(problems) < _SHOWN:
                    problems.append(ObjectProblem(entry.bucket, entry.name, _told(entry.note)))
        pages_ = index.finish()
        self.report.objects, self.report.bytes = index.objects, index.bytes
        self.report.problems = [str(problem) for problem in problems]
        return StoragePart(
            url=url,
            buckets=tuple(self._buckets),
            pages=pages_,
            objects=self.report.objects,
            bytes=self.report.bytes,
            lost=self.report.lost,
            newer=self.report.newer,
            problems=tuple(problems),
            skipped=tuple(self._skipped),
        )

    def _tell(self) -> None:
        report = self.report
        if report.left_out:
            self._sink(
                Warned(
                    "objects-left-out",
                    f"the backup lacks {report.left_out}",
                    "Give the key by AURORA_SOURCE_STORAGE_KEY_FILE (or _COMMAND, or storage_key "
                    "under [source] in aurora.toml), or say that they are not wanted with "
                    "include = false under [objects].",
                )
            )
        for skipped in self._skipped:
            self._sink(Warned("bucket-skipped", f"left out of the backup: bucket {skipped}"))
        for problem in report.problems:
            self._sink(Warned("object-problem", problem))
        if more := report.lost + report.newer - len(report.problems):
            self._sink(Warned("object-problem", f"and {format_count(more)} more objects"))
        if self._listed:
            self._sink(
                Noted(
                    f"{plural(report.objects, 'Storage object')}, {format_size(report.bytes)}; "
                    f"{format_count(report.read)} read, the others were held"
                )
            )


def _told(note: str) -> str:
    return {"newer": "replaced since the snapshot; the backup has the later bytes"}.get(
        note, note.removeprefix("lost: ")
    )


def newest_with_objects(repository: Repository, database: str) -> Backup | None:
    """The newest readable backup that holds objects of the Storage."""
    looked = 0
    for entry in reversed(repository.backups(database)):
        if entry.type in (*APART, STREAM):
            continue
        looked += 1
        if looked > _LOOKED_AT:
            return None
        try:
            backup = Backup(repository, entry)
        except (IntegrityError, UnsupportedRepository):
            continue  # told by whoever needs that backup itself
        if backup.body.storage is not None:
            return backup
    return None


def pages(backup: Backup, wanted: Callable[[PageRef], bool] | None = None) -> Iterator[ObjectPage]:
    """The pages of a backup in order (those that are *wanted*), one at a time.

    Raises ObjectMissing, ObjectDamaged, StorageError.
    """
    part = backup.body.storage
    for ref in part.pages if part is not None else ():
        if wanted is None or wanted(ref):
            text = backup.repository.read(Ref(ref.object, ref.raw))
            yield _PAGE.decode(text)
