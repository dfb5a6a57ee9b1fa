"""An incremental: what changed since the newest backup, taken from the change log.

The order is what makes it exact. Drain the slot to a position that was read first; store
the segments; take a snapshot of its own for what the log does not carry; commit the
manifest; and only then acknowledge. A run that dies before the commit left nothing, one
that dies after it left an acknowledgement to be made up by the next: the next drain begins
where the newest manifest ends, whatever the slot offers.

Beside a stream there is nothing to drain: the stream is asked to store what it has, and its
pieces are gathered. They are in the incremental then, and are removed.

Where the log does not lead on from the newest backup, a full is made instead, and says why.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from aurora import clock
from aurora.engines.base import Buffer, LogPart, Segment, Snapshot, Stored, TableData
from aurora.engines.logical import slot as slots
from aurora.engines.logical.ddl import markers_of
from aurora.engines.logical.export import ExportOptions, export
from aurora.engines.logical.fingerprint import fingerprint
from aurora.engines.logical.names import Connection
from aurora.engines.logical.peek import PeekSession, open_log
from aurora.engines.logical.pgoutput import format_lsn
from aurora.engines.logical.receiver import LogSession, SlotBusy, SlotGone
from aurora.engines.logical.segments import SegmentBuilder, SegmentUploads
from aurora.engines.logical.slot import LogNames
from aurora.engines.logical.snapshot import HeldSnapshot
from aurora.engines.supabase.vault import read_secrets
from aurora.errors import AuroraError, SourceChanged, SourceUnreachable
from aurora.events import Advanced, EventSink, Noted, PhaseBegun, PhaseEnded, Warned
from aurora.operations.backup import (
    BackupOptions,
    BackupReport,
    LogReport,
    accept_source,
    bring_to_mirror,
    create_backup,
)
from aurora.operations.content import WriterStore, remembered_sums, write_body
from aurora.operations.log_chain import remove_gathered, segments_of
from aurora.operations.log_state import (
    INCREMENTAL,
    LogSource,
    Place,
    acknowledge,
    break_in,
    left_out,
    look_at_log,
    newest_place,
    open_anchor,
    schema_break,
    slot_break,
    tables_read_again,
)
from aurora.operations.objects import ObjectsRun, WriterKeeper
from aurora.operations.stream_lock import ask_stream, stream_runs
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.repository.door import Ref, Repository
from aurora.repository.ids import new_backup_id
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import MirrorView
from aurora.repository.writer import Writer
from aurora.units import format_count, format_size, plural
from aurora.version import __version__

_DRAIN = "draining the change log"
_BUSY_SECONDS = 30.0
_TRIES = 5


class _MustBeFull(Exception):
    """The log does not lead on; the text says why. Never leaves this module."""


class _Moved(Exception):
    """A stream began, ended or gathered between two steps: look again. Never leaves this module."""


@dataclass(slots=True)
class _Drained:
    segments: tuple[Segment, ...]
    to_lsn: int
    to_at: str
    streamed: bool = False  # a stream stored it, and acknowledged it


def create_incremental(
    dsn: str,
    repository: Repository,
    options: BackupOptions,
    *,
    open_mirror: Callable[[], MirrorView] | None,
    sink: EventSink,
    before_acknowledge: Callable[[], None] = lambda: None,
    or_full: bool = True,
) -> BackupReport:
    """Make an incremental backup, or a full where the log does not lead on from the newest.

    ``report.type`` says which; ``report.reason`` why it became a full.

    Args:
        before_acknowledge: called between commit and acknowledgement, for tests.
        or_full: with False no full is made instead; SourceChanged says why one would be.

    Raises:
        SourceError, StorageError, RepositoryError, UsageError, Cancelled: no backup was made,
            nothing was acknowledged, and every earlier backup is untouched.
    """
    begun = time.monotonic()
    try:
        report = _beside_streams(dsn, repository, options, sink, before_acknowledge)
    except (_MustBeFull, SlotGone) as why:
        reason = why.message if isinstance(why, SlotGone) else str(why)
        if not or_full:
            raise SourceChanged(
                f"the change log does not lead on: {reason}",
                hint="What is in the log so far can be used. A full backup begins it anew.",
            ) from why
        sink(Noted(f"making a full backup: {reason}"))
        return create_full(
            dsn, repository, options, open_mirror=open_mirror, sink=sink, reason=reason
        )
    report.seconds = time.monotonic() - begun
    if open_mirror is not None:
        entry = repository.resolve(report.backup_id, options.database)
        bring_to_mirror(repository, open_mirror, entry, report, sink)
    return report


def create_full(
    dsn: str,
    repository: Repository,
    options: BackupOptions,
    *,
    open_mirror: Callable[[], MirrorView] | None,
    sink: EventSink,
    reason: str = "",
) -> BackupReport:
    """A full, with its place in the change log where the source has one.

    Raises as :func:`aurora.operations.backup.create_backup`.
    """
    anchor = open_anchor(dsn, repository, options.database, skip=options.skip, sink=sink)
    return create_backup(
        dsn, repository, options, open_mirror=open_mirror, sink=sink, anchor=anchor, reason=reason
    )


def _beside_streams(
    dsn: str,
    repository: Repository,
    options: BackupOptions,
    sink: EventSink,
    before_acknowledge: Callable[[], None],
) -> BackupReport:
    for _ in range(_TRIES):
        try:
            return _incremental(dsn, repository, options, sink, before_acknowledge)
        except _Moved:
            continue
    raise SourceUnreachable(
        "a stream on the source came and went each time that the backup looked",
        hint="Look at its output: it may begin and fail again and again. Then run it again.",
    )


def _incremental(
    dsn: str,
    repository: Repository,
    options: BackupOptions,
    sink: EventSink,
    before_acknowledge: Callable[[], None],
) -> BackupReport:
    names = LogNames.of(options.database)
    cancel = threading.Event()
    with open_control(dsn) as conn:
        by_stream = ask_stream(conn, names, sink)
        place = _require_log(conn, dsn, names, repository, options, sink)
        with (
            repository.write(options.database, level=options.level) as writer,
            ObjectsRun(
                dsn, WriterKeeper(writer), repository, options.database, options.objects,
                sink=sink, cancel=cancel,
            ) as objects,
        ):  # fmt: skip
            try:
                kept = (Ref(one.object, one.raw) for one in segments_of(place.pieces))
                if not all(writer.is_reusable(ref) for ref in kept):
                    raise _Moved  # gathered after the place was read: other segments hold it now
                objects.copy_ahead()
                drained = _gathered(place, by_stream) if by_stream else _drain(
                    conn, dsn, names, place, writer, sink, cancel
                )  # fmt: skip
                report, log = _commit(
                    dsn, names, place, drained, writer, objects, options, sink, cancel
                )
            except BaseException:
                cancel.set()
                raise
    before_acknowledge()
    if drained.streamed:
        assert report.log is not None
        report.log.acknowledged = True
    else:
        _acknowledge(dsn, names, log, report, sink)
    # A piece that a stream gathered over a full's place tells of the time before that full too.
    inside = [one for one in (*place.pieces, *place.stale) if one.log.from_lsn >= log.from_lsn]
    remove_gathered(repository, inside, sink)
    return report


def _require_log(
    conn: Connection,
    dsn: str,
    names: LogNames,
    repository: Repository,
    options: BackupOptions,
    sink: EventSink,
) -> Place:
    """The backup that the log leads on from. Raises _MustBeFull with the reason."""
    with translated("source", doing="looking at the change log"):
        slot = slots.read_slot(conn, names.slot)
    if broken := slot_break(slot, names, conn.info.dbname):
        raise _MustBeFull(broken)
    now: LogSource = look_at_log(conn, dsn, names)
    place = newest_place(repository, options.database, sink)
    if place is None:
        held = repository.backups(options.database)
        raise _MustBeFull(
            "no full backup was made since the slot is there" if held else "there is no full yet"
        )
    if all(entry.id != place.log.base for entry in repository.backups(options.database)):
        raise _MustBeFull(f"the full {place.log.base} that it would lean on is gone")
    if now.slot is None:
        raise _MustBeFull(slot_break(None, names, conn.info.dbname))
    why = break_in(place, now) or schema_break(place, now) or left_out(place, options.skip)
    if why:
        raise _MustBeFull(why)
    return place


def _gathered(place: Place, asked: tuple[int, str]) -> _Drained:
    """What the stream stored, up to what it was asked for. Raises _MustBeFull."""
    position, at = asked
    if place.to_lsn < position:
        raise SourceUnreachable(
            f"the stream acknowledged {format_lsn(position)}, and the repository shows its log up "
            f"to {format_lsn(place.to_lsn)} only",
            hint="Does the stream write to this repository? If the storage lists late, run again.",
        )
    return _Drained((), place.to_lsn, max(at, place.to_at, key=clock.parse), streamed=True)


def _drain(
    conn: Connection,
    dsn: str,
    names: LogNames,
    place: Place,
    writer: Writer,
    sink: EventSink,
    cancel: threading.Event,
) -> _Drained:
    """Everything committed up to now, sealed in segments; nothing is acknowledged."""

    def put(payload: Buffer) -> Stored:
        ref = writer.put(ObjectType.LOG, payload)
        return Stored(ref.name, ref.raw)

    with translated("source", doing="reading the log's position"):
        target, at = slots.flush_position(conn)
    start = place.to_lsn
    sink(PhaseBegun(_DRAIN, max(target - start, 0)))
    uploads = SegmentUploads(put)

    def seal(payload: bytes, segment: Segment) -> None:
        uploads.take(payload, segment)
        position = max(segment.end_lsn, segment.first_lsn)
        if position > start:
            sink(Advanced(_DRAIN, min(position, target) - start))

    def nudge() -> None:
        with translated("source", doing="writing to the log"):
            slots.emit_mark(conn, "drain")

    builder = SegmentBuilder(seal)
    try:
        with _started(dsn, conn, names, start) as session:
            reached = session.drain(
                target, builder.add, has_room=uploads.has_room, nudge=nudge, stopped=cancel.is_set
            )
        builder.finish()
    except BaseException:
        uploads.abandon()
        raise
    segments = uploads.finish()
    count = sum(segment.transactions for segment in segments)
    size = sum(segment.raw for segment in segments)
    sink(
        PhaseEnded(
            _DRAIN,
            f"{plural(count, 'transaction')}, {format_size(size)} in "
            f"{plural(len(segments), 'segment')}, up to {format_lsn(reached)}",
        )
    )
    return _Drained(segments, reached, clock.isoformat(at))


def _started(dsn: str, conn: Connection, names: LogNames, start: int) -> LogSession | PeekSession:
    """A session that streams from *start*; waits for the walsender of a run that was killed.

    Raises _Moved where a stream has the slot, or had it.
    """
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        session = open_log(dsn)
        try:
            session.start(names.slot, names.publications, start)
            with translated("source", doing="looking at the slot"):
                slot = slots.read_slot(conn, names.slot)
            if slot is not None and slot.confirmed_lsn > start:
                raise _Moved
            return session
        except SlotBusy:
            session.close()
            with translated("source", doing="looking for a stream"):
                if stream_runs(conn, names):
                    raise _Moved from None
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        except BaseException:
            session.close()
            raise


def _commit(
    dsn: str,
    names: LogNames,
    place: Place,
    drained: _Drained,
    writer: Writer,
    objects: ObjectsRun,
    options: BackupOptions,
    sink: EventSink,
    cancel: threading.Event,
) -> tuple[BackupReport, LogPart]:
    remembered = place.backup.data()
    store = WriterStore(writer, remembered_sums(place.backup.snapshot.tables, remembered))

    markers = ""

    def accept(held: HeldSnapshot) -> None:
        nonlocal markers
        accept_source(held, place.backup, options)
        objects.see(held)
        with translated("source", doing="looking at the schema"):
            if fingerprint(held.connection, names.publications) != place.log.fingerprint:
                raise _MustBeFull("the schema changed while the log was drained")
            markers = markers_of(held.connection, names)

    snapshot, data = export(
        dsn,
        store,
        ExportOptions(
            jobs=options.jobs,
            chunk_bytes=options.chunk_bytes,
            lock_timeout=options.lock_timeout,
            skip=place.backup.snapshot.skipped,
            before={table.oid: table for table in remembered},
            only=tables_read_again(place),
            large_objects=True,
            read_vault=read_secrets,
        ),
        accept=accept,
        sink=sink,
        cancel=cancel,
    )
    storage, named = objects.finish()
    sink(PhaseBegun("making durable"))
    writer.flush()
    created_at = clock.now()
    log = _log_part(place, drained, data, markers)
    report = _report(snapshot, data, log, options)
    manifest, more = write_body(
        writer,
        snapshot,
        data,
        aurora=__version__,
        label=options.label,
        partial=True,
        figures={"rows": report.rows, "bytes": report.bytes_read, "tables": report.tables,
                 "transactions": sum(segment.transactions for segment in log.segments)},
        log=log,
        storage=storage,
    )  # fmt: skip
    entry = writer.commit(
        backup_id=new_backup_id(INCREMENTAL, created_at),
        type=INCREMENTAL,
        created_at=created_at,
        manifest=manifest,
        uses=[
            *store.uses(),
            *(Ref(one.object, one.raw) for one in log.segments),
            *more,
            *named,
        ],
    )
    objects.committed()
    report.take_objects(objects)
    report.committed(entry, writer.stats)
    sink(PhaseEnded("making durable", f"backup {entry.id} is complete on the primary"))
    return report, log


def _log_part(place: Place, drained: _Drained, data: list[TableData], markers: str) -> LogPart:
    before = place.log
    return LogPart(
        slot=before.slot,
        system_identifier=before.system_identifier,
        timeline=before.timeline,
        database_oid=before.database_oid,
        base=before.base,
        parent=place.backup.entry.id,
        from_lsn=before.to_lsn,
        to_lsn=max(drained.to_lsn, place.to_lsn),
        to_at=drained.to_at,
        segments=(*segments_of(place.pieces), *drained.segments),
        fingerprint=before.fingerprint,
        markers=markers,
        keyed=before.keyed,
        unkeyed=tuple(sorted(table.oid for table in data)),
    )


def _report(
    snapshot: Snapshot, data: list[TableData], log: LogPart, options: BackupOptions
) -> BackupReport:
    return BackupReport(
        type=INCREMENTAL,
        database=options.database,
        snapshot_at=snapshot.source.snapshot_at,
        tables=len(data),
        rows=sum(table.rows for table in data),
        bytes_read=sum(table.bytes for table in data),
        log=LogReport.of(log),
    )


def _acknowledge(
    dsn: str, names: LogNames, log: LogPart, report: BackupReport, sink: EventSink
) -> None:
    assert report.log is not None
    try:
        acknowledge(dsn, names, log.to_lsn)
        report.log.acknowledged = True
    except AuroraError as error:
        report.log.acknowledged = False
        told = f"the backup is made, but the source could not be told: {error.message}"
        report.warnings.append(told)
        sink(Warned("log-not-acknowledged", told, "The next run makes up for it."))


def described(report: BackupReport) -> str:
    """What a backup holds of the log, for people; "" where it has no place in one."""
    log = report.log
    if log is None:
        return ""
    if report.type != INCREMENTAL:
        return f"its place in the change log: {format_lsn(log.to_lsn)}; incrementals lean on it"
    return (
        f"{plural(log.transactions, 'transaction')} ({format_size(log.segment_bytes)}) from "
        f"{format_lsn(log.from_lsn)} to {format_lsn(log.to_lsn)}; "
        f"{plural(log.tables_streamed, 'table')} streamed, "
        f"{format_count(log.tables_read_again)} read again; parent {log.parent}"
    )
