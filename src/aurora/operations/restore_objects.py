"""Restoring objects of a project's Storage: one, a bucket, or all of them.

What is already right at the target is left alone, so a restore that was interrupted goes on
where it was when it is run again. Nothing is ever deleted.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from aurora.engines.logical.names import pin_output
from aurora.engines.logical.threads import run_threads
from aurora.engines.supabase import rows
from aurora.engines.supabase.documents import NEWER, ObjectEntry, ObjectPage
from aurora.engines.supabase.rows import ObjectRow
from aurora.engines.supabase.upload import Uploader, fix_rows
from aurora.errors import (
    AuroraError,
    Cancelled,
    IntegrityError,
    StorageError,
    TargetError,
    UsageError,
)
from aurora.events import Advanced, EventSink, PhaseBegun, PhaseEnded, Warned, discard
from aurora.operations.content import Backup
from aurora.operations.objects import pages
from aurora.operations.objects_read import Packs, find_object, require_bytes, require_storage
from aurora.operations.point import Point
from aurora.operations.reports import ObjectsRestored, PartResult, RestoreReport
from aurora.postgres.server import open_control
from aurora.storage.limit import Rate
from aurora.storage.supabase_rest import SupabaseRest
from aurora.units import format_size, plural

PHASE = "restoring Storage objects"
_FIX_BATCH = 500
_SHOWN = 200  # names in a report


@dataclass(frozen=True, slots=True)
class ObjectsPlan:
    """What a restore of objects is going to do."""

    backup: Backup
    client: SupabaseRest
    others: tuple[Backup, ...] = ()  # where rows decide: they may have the version of a row
    bucket: str = ""  # this one alone; "" for all
    path: str = ""  # this object alone: bucket/name
    dsn: str = ""  # the project's database, where rows are set; "" for none
    rows_decide: bool = False  # only objects that have a row in that database
    jobs: int = 8
    max_rate: int | None = None  # bytes a second

    def facts(self) -> list[tuple[str, str]]:
        """Lines for a person."""
        part = self.backup.body.storage
        assert part is not None
        what = self.path or (f"bucket {self.bucket}" if self.bucket else "all buckets")
        return [
            ("backup", self.backup.entry.id),
            ("state of", self.backup.snapshot.source.snapshot_at),
            ("objects", what),
            ("target", self.client.url),
            ("replaced", "objects of the same name that differ; none is deleted"),
            ("rows", "owner, times and metadata are set in its database" if self.dsn else
                     "owner and times are the target's own (no database was given)"),
        ]  # fmt: skip


def plan_objects(plan: ObjectsPlan) -> ObjectsPlan:
    """Check that it can be done. Changes nothing.

    Raises UsageError, StorageError where the project's Storage does not answer.
    """
    require_storage(plan.backup)
    part = plan.backup.body.storage
    assert part is not None
    names = [str(bucket["id"]) for bucket in part.buckets]
    if plan.bucket and plan.bucket not in names:
        raise UsageError(
            f"backup {plan.backup.entry.id} has no bucket {plan.bucket[:100]}",
            hint=f"It has {', '.join(names) or 'none'}.",
        )
    if plan.path:
        require_bytes(find_object(plan.backup, plan.path)[1])
    plan.client.buckets()
    return plan


def run_objects(
    plan: ObjectsPlan, *, sink: EventSink = discard, cancel: threading.Event | None = None
) -> ObjectsRestored:
    """Do what the plan says. Failures of single objects are in the report.

    Raises StorageError (the project's Storage, or the repository's), TargetError, Cancelled.
    """
    return _Restore(plan, sink, cancel or threading.Event()).run()


class _Restore:
    def __init__(self, plan: ObjectsPlan, sink: EventSink, cancel: threading.Event) -> None:
        self._plan = plan
        self._sink = sink
        self._cancel = cancel
        self._packs = Packs(plan.backup.repository, keep=plan.jobs + 2)
        self._uploader = Uploader(plan.client, Rate(plan.max_rate), sink)
        self._lock = threading.RLock()
        self._done_bytes = 0
        self._to_fix: list[ObjectEntry] = []
        self.report = ObjectsRestored(plan.backup.entry.id, plan.client.url)

    def run(self) -> ObjectsRestored:
        begun = time.monotonic()
        part = self._plan.backup.body.storage
        assert part is not None
        self._sink(PhaseBegun(PHASE, part.bytes if not self._plan.path else None))
        for bucket in part.buckets:
            plain = str(bucket.get("type") or "STANDARD") == "STANDARD"
            wanted = plain and self._wants_bucket(str(bucket["id"]))
            if wanted and self._uploader.make_bucket(bucket):
                self.report.buckets_made.append(str(bucket["id"]))
        if not self._plan.path:
            self.report.notes += [
                f"not in the backup: bucket {what}"
                for what in part.skipped
                if self._wants_bucket(what.partition(":")[0])
            ]
        entries = self._entries()

        def work() -> None:
            while (found := self._next(entries)) is not None:
                self._restore(*found)

        try:
            run_threads(work, self._plan.jobs, name="objects", cancel=self._cancel)
        finally:
            self.report.notes += self._uploader.finish()
        self._fix(last=True)
        self.report.seconds = time.monotonic() - begun
        self._sink(
            PhaseEnded(
                PHASE,
                f"{plural(self.report.uploaded, 'object')} uploaded, "
                f"{format_size(self.report.uploaded_bytes)}; "
                f"{self.report.already_right} were right already",
            )
        )
        for line in (*self.report.failed, *self.report.rows_without_bytes)[:_SHOWN]:
            self._sink(Warned("object-not-restored", line))
        return self.report

    def _left_out(self) -> set[str]:
        part = self._plan.backup.body.storage
        return {what.partition(":")[0] for what in part.skipped} if part is not None else set()

    def _wants_bucket(self, name: str) -> bool:
        wanted = self._plan.bucket or self._plan.path.partition("/")[0]
        return not wanted or name == wanted

    def _entries(self) -> Iterator[tuple[ObjectPage, ObjectEntry]]:
        if self._plan.path:
            yield find_object(self._plan.backup, self._plan.path)
        elif self._plan.rows_decide and self._plan.dsn:
            yield from self._entries_with_rows()
        else:
            for page, entry in _entries_of(self._plan.backup):
                if self._wants_bucket(entry.bucket):
                    yield page, entry

    def _entries_with_rows(self) -> Iterator[tuple[ObjectPage, ObjectEntry]]:
        """Those of the backup that have a row in the target; both are in one order."""
        with open_control(self._plan.dsn, what="target") as conn:
            if not rows.has_storage(conn):
                self.report.notes.append("the target's database has no schema of a Storage")
                return
            pin_output(conn)
            conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            names = [str(one["id"]) for one in rows.read_buckets(conn)]
            left = self._left_out()
            wanted = [name for name in names if self._wants_bucket(name) and name not in left]
            there = rows.read_objects(conn, wanted)
            row = next(there, None)
            for key, found in _grouped(self._plan.backup, *self._plan.others):
                while row is not None and _key(row) < key:
                    self._note(self.report.rows_without_bytes, row.bucket, row.name, _NO_OBJECT)
                    row = next(there, None)
                bucket, name = found[0][1].key
                if row is not None and _key(row) == key:
                    yield _of_version(row, found)
                    row = next(there, None)
                elif self._wants_bucket(bucket):
                    self._note(self.report.bytes_without_rows, bucket, name, _NO_ROW)
            while row is not None:
                self._note(self.report.rows_without_bytes, row.bucket, row.name, _NO_OBJECT)
                row = next(there, None)

    def _next(
        self, entries: Iterator[tuple[ObjectPage, ObjectEntry]]
    ) -> tuple[ObjectPage, ObjectEntry] | None:
        with self._lock:
            if self._cancel.is_set():
                raise Cancelled("stopped while Storage objects were restored")
            return next(entries, None)

    def _restore(self, page: ObjectPage, entry: ObjectEntry) -> None:
        with self._lock:
            self.report.objects += 1
            self.report.bytes += entry.size
        if entry.is_lost:
            why = f"not in the backup: {entry.note.partition(': ')[2]}"
            return self._note(self.report.lost, entry.bucket, entry.name, why)
        if entry.note == NEWER:
            self._note(
                self.report.newer, entry.bucket, entry.name, "the bytes are of another version"
            )
        try:
            right = self._uploader.is_there(entry)
            if not right:
                self._uploader.put(entry, lambda: self._packs.chunks(page, entry))
        except (IntegrityError, StorageError) as error:
            return self._note(self.report.failed, entry.bucket, entry.name, error.message)
        with self._lock:
            self.report.already_right += right
            self.report.uploaded += not right
            self.report.uploaded_bytes += 0 if right else entry.size
            self._done_bytes += entry.size
            done = self._done_bytes
            self._to_fix.append(entry)
        self._sink(Advanced(PHASE, done, f"{entry.bucket}/{entry.name}"))
        self._fix()
        return None

    def _fix(self, *, last: bool = False) -> None:
        """Set the rows of what was restored, some hundred at a time."""
        with self._lock:
            if not self._to_fix or (len(self._to_fix) < _FIX_BATCH and not last):
                return
            batch, self._to_fix = self._to_fix, []
        if not self._plan.dsn:
            return
        try:
            with open_control(self._plan.dsn, what="target") as conn:
                count = fix_rows(conn, batch)
        except TargetError as error:
            with self._lock:
                told = f"owner and times of objects are the target's own: {error.message}"
                if told not in self.report.notes:
                    self.report.notes.append(told)
            return
        with self._lock:
            self.report.rows_set += count

    def _note(self, found: list[str], bucket: str, name: str, why: str) -> None:
        with self._lock:
            if len(found) < _SHOWN:
                found.append(f"{bucket}/{name}: {why}")
            elif len(found) == _SHOWN:
                found.append("and more")


_NO_OBJECT = "its row is there, the backup has no such object"
_NO_ROW = "the backup has it, the database has no row for it"
_Found = tuple[ObjectPage, ObjectEntry]


def _key(one: ObjectEntry | ObjectRow) -> tuple[bytes, bytes]:
    return one.bucket.encode(), one.name.encode()


def restore_with_rows(
    backups: Sequence[Backup],
    client: SupabaseRest | None,
    dsn: str,
    report: RestoreReport,
    *,
    jobs: int,
    max_rate: int | None,
    sink: EventSink,
) -> None:
    """After a database was restored: bring the objects that its rows point at.

    *backups* hold objects (the first one's are preferred, the others may have the version of
    a row). The database stays restored whatever happens here; *report* tells.
    """
    held = [backup for backup in backups if backup.body.storage is not None]
    if not held:
        return
    part = held[0].body.storage
    assert part is not None
    if client is None:
        left = ObjectsRestored(held[0].entry.id, "")
        left.left_out = (
            f"{plural(part.objects, 'Storage object')} ({format_size(part.bytes)}): no key of the "
            "target's Storage was given"
        )
        report.notes.append(
            f"not restored: {left.left_out}. Give AURORA_TARGET_STORAGE_KEY_FILE and run "
            f"`aurora backup restore-bucket '*' {held[0].entry.id}`"
        )
        report.objects = left if report.parts else None  # a plain server has no Storage
        return
    plan = ObjectsPlan(
        held[0], client, tuple(held[1:]), dsn=dsn, rows_decide=True, jobs=jobs, max_rate=max_rate
    )
    try:
        report.objects = run_objects(plan_objects(plan), sink=sink)
    except AuroraError as error:
        report.objects = ObjectsRestored(held[0].entry.id, client.url)
        report.objects.left_out = f"the Storage objects: {error.message}"
        report.notes.append(
            f"not all Storage objects were restored: {error.message}. Run `aurora backup "
            f"restore-bucket '*' {held[0].entry.id}`, which goes on where this stopped"
        )
    done = report.objects
    told = (
        f"{plural(done.objects, 'object')}, {format_size(done.bytes)}; {done.uploaded} uploaded, "
        f"{done.already_right} right already"
    )
    files = PartResult("files in Storage", "restored" if done.is_complete else "partly", told)
    if report.parts:
        others = [one for one in report.parts if one.part != files.part]
        report.parts = [*others, files]


def around(point: Point) -> list[Backup]:
    """The backups with objects next to a point in time, the earlier one first.

    An object that was uploaded and replaced between two backups is in neither.
    """
    every = [point.backup, *(link.backup for link in point.chain)]
    numbers = {id(link): number for number, link in enumerate(point.chain, 1)}
    reach = max((numbers.get(id(link), 0) for link, _ in point.wanted), default=0)
    earlier = [one for one in every[: max(reach, 1)] if one.body.storage is not None]
    later = [one for one in every[max(reach, 1) :] if one.body.storage is not None]
    return [*earlier[-1:], *later[:1]]


def _entries_of(backup: Backup) -> Iterator[_Found]:
    for page in pages(backup):
        for entry in page.entries:
            yield page, entry


def _grouped(*backups: Backup) -> Iterator[tuple[tuple[bytes, bytes], list[_Found]]]:
    """What the backups have under each name, in order."""
    merged = heapq.merge(*map(_entries_of, backups), key=lambda found: _key(found[1]))
    for key, group in itertools.groupby(merged, key=lambda found: _key(found[1])):
        yield key, list(group)


def _of_version(row: ObjectRow, found: list[_Found]) -> _Found:
    """The one whose bytes are those of the row; marked where none is surely."""
    for page, entry in found:
        same = entry.version == row.version if row.version else False
        # An object that this restore brought earlier has a version of the target's own.
        alike = bool(entry.etag) and (entry.etag, entry.size) == (row.etag, row.size)
        if (same or alike) and not entry.note:
            return page, entry
    page, entry = next((one for one in found if not one[1].is_lost), found[0])
    return page, entry if entry.note else msgspec.structs.replace(entry, note=NEWER)
