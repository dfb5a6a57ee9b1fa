"""A point in time of one source: which full, which part of the change log, and their rows.

What every recovery stands on, of a database, a system or one table. Finding a point reads
little; :func:`merged` reads the log once and keeps the last writer of every row.
"""

import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from aurora.engines.base import Progress, Sequence_, Snapshot, TableData
from aurora.engines.logical.carry import Recast
from aurora.engines.logical.export import progress_of
from aurora.engines.logical.merge import KEYS_IN_MEMORY, Merge, MergeFigures
from aurora.engines.logical.mergeload import MergedRows
from aurora.engines.logical.names import shown
from aurora.engines.logical.segments import precedes
from aurora.engines.logical.spool import Spool
from aurora.engines.logical.targets import (
    Resolution,
    Target,
    Transaction,
    shown_lsn,
    shown_time,
)
from aurora.errors import UsageError
from aurora.events import EventSink, Noted, PhaseBegun, PhaseEnded
from aurora.operations.carried import Carried, carry, places
from aurora.operations.content import Backup, RepositorySource, moved_on
from aurora.operations.log_history import Link, micros, resolve_target
from aurora.repository.door import Repository
from aurora.units import format_size, plural

_UNSEEN = (
    "the source could not be asked after the last changes were stored: that its schema was still "
    "the same is assumed, and sequences may be behind: compare them with the rows"
)


@dataclass(frozen=True, slots=True)
class Point:
    """A recovery target that can be met exactly, and what it is met with."""

    target: Target
    backup: Backup  # the full
    schema: Backup  # whose schema it is then
    resolution: Resolution
    chain: tuple[Link, ...]  # incrementals of the run, oldest first
    wanted: tuple[tuple[Link, int], ...]  # segments to read
    streamed: frozenset[int]  # oids of tables that the log carries
    reread: Mapping[str, str]  # other tables, and the moment that their rows are of
    data: tuple[TableData, ...] = field(repr=False)
    snapshot: Snapshot = field(repr=False)
    notices: tuple[str, ...] = ()
    recasts: Mapping[int, Recast] = field(default_factory=dict)  # tables of another shape by then
    refused: Mapping[int, str] = field(default_factory=dict)  # tables not carried: oid, and why
    keys_in_memory: int = KEYS_IN_MEMORY  # keys that the merge holds before it goes to disk

    @property
    def log_bytes(self) -> int:
        return sum(link.segments.segments[number].raw for link, number in self.wanted)

    @property
    def state_of(self) -> str:
        """The moment that is restored, in words."""
        cut = self.resolution.cut
        if self.target.at is not None:
            return str(self.target)
        if cut is not None:
            return f"{shown_time(cut.at)} (xid {cut.xid})"
        return self.backup.snapshot.source.snapshot_at

    def require(self, oids: Collection[int] | None = None) -> None:
        """All tables, or *oids*, can be given exactly. Raises UsageError with the nearest."""
        names = {t.oid: shown(t.schema, t.name) for t in self.snapshot.tables}
        found = [
            f"{names[oid]} {why}"
            for oid, why in self.refused.items()
            if oids is None or oid in oids
        ]
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            nearest = self.resolution.nearest
            raise UsageError(
                f"{self.target} cannot be met exactly: the schema changed since the full "
                f"{self.backup.entry.id}, and {'; '.join(found[:5])}{more}",
                hint=f"Nothing was changed. The {'; the '.join(nearest)}."
                " Other tables can be restored to that point one by one (restore-table --at).",
                context={"nearest": list(nearest), "tables": found},
            )

    def reread_of(self, oids: Collection[int] | None = None) -> dict[str, str]:
        """Tables that the log does not carry, and the moment of their rows; of *oids* only."""
        tables = {shown(t.schema, t.name): t.oid for t in self.snapshot.tables}
        return {
            name: at for name, at in self.reread.items() if oids is None or tables[name] in oids
        }

    def facts(self, oids: Collection[int] | None = None) -> list[tuple[str, str]]:
        """Lines for a person; re-reads of *oids* only."""
        found, backup = self.resolution, self.backup
        incrementals = len({link.backup.entry.id for link, _ in self.wanted})
        lost = "nothing: the log ends there"
        if found.lost:
            run_end = shown_time(found.run.to_at) if found.run else ""
            lost = f"{plural(found.lost, 'transaction')} after it, up to {run_end}"
        lines = [
            ("recover to", str(self.target)),
            ("full", f"{backup.entry.id}, state of {backup.snapshot.source.snapshot_at}"),
            ("change log", f"{plural(len(self.wanted), 'segment')} of "
                           f"{plural(incrementals, 'incremental')}, "
                           f"{format_size(self.log_bytes)}"),
            ("last applied", str(found.cut) if found.cut else "no transaction of the log"),
            ("first left out", str(found.after) if found.after else "none"),
            ("lost", lost),
        ]  # fmt: skip
        if found.schema:
            lines.append(("schema", f"as {found.schema} found it: it changed since the full"))
        reread = self.reread_of(oids)
        lines += [("as of a re-read", f"{name}: rows of {at}") for name, at in reread.items()]
        return [*lines, *(("notice", notice) for notice in self.notices)]

    def document(self, oids: Collection[int] | None = None) -> dict[str, object]:
        """For ``--json``."""
        found = self.resolution
        return {
            "target": str(self.target),
            "backup_id": self.backup.entry.id,
            "state_of": self.state_of,
            "segments": [link.segments.segments[number].object for link, number in self.wanted],
            "log_bytes": self.log_bytes,
            "last_applied": _described(found.cut),
            "first_left_out": _described(found.after),
            "lost_transactions": found.lost,
            "schema_of": self.schema.entry.id,
            "reread": self.reread_of(oids),
            "notices": list(self.notices),
        }

    def notes(self, merged: "Merged", oids: Collection[int] | None = None) -> list[str]:
        """What a report says of a recovery to here."""
        touched = sum(1 for table in merged.rows.changed.values() if table.touched)
        notes = [
            f"recovered to {self.target}: "
            f"{plural(merged.figures.transactions, 'transaction')} applied, "
            f"the last {self.resolution.cut or 'none'}",
            f"of {plural(touched, 'table')} that the log changed the number of rows was checked; "
            "of the others the checksums too",
        ]
        if self.resolution.schema:
            notes.append(
                "the schema changed between the full and the target: it is as "
                f"{self.schema.entry.id} found it, and rows were carried over the change"
            )
        notes += [
            f"{name} has no replica identity that the log can carry: its rows are of {at}"
            for name, at in self.reread_of(oids).items()
        ]
        return [*self.notices, *notes]


def find_point(
    repository: Repository,
    database: str,
    target: Target,
    *,
    full: str = "",
    notices: Sequence[str] = (),
    sink: EventSink,
) -> Point:
    """The full and the transactions that meet *target*.

    Args:
        full: id of the full to start from; by default the newest that serves.
        notices: sentences for the plan and the report.

    Raises:
        RepositoryNotFound: there is no change log, or no such transaction or name in it.
        UsageError: the target cannot be met exactly; the nearest that can are in the hint.
    """
    resolution, links = resolve_target(repository, database, target, sink, full=full)
    base = next(link for link in links if link.backup.entry.id == resolution.base.backup)
    chain = _chain(resolution, links)
    wanted = tuple(_wanted(resolution, base, chain))
    before, after = _around(resolution, base, chain)
    streamed = _streamed(base, chain, resolution)
    last = before[-1].backup.snapshot
    again = [link for link in links if link.backup.entry.id == resolution.archive]
    schema = max([before[-1], *again], key=lambda link: link.log.to_lsn)
    carried = Carried({}, {})
    if resolution.schema:
        # Re-reads of a later shape are none of the full's tables'.
        before = [one for one in before if one.log.fingerprint == base.log.fingerprint]
        last = before[-1].backup.snapshot
        schema = next(link for link in links if link.backup.entry.id == resolution.schema)
        carried = carry(base, schema, resolution, streamed)
        streamed &= frozenset(t.oid for t in schema.backup.snapshot.tables)
        after = schema  # it is not before the target
    # Owners and extensions of a later schema may be later too.
    facts = schema.backup.snapshot if resolution.schema else last
    unseen = [_UNSEEN] if after.is_piece and not after.log.fingerprint else []
    data, reread = _rows(base, schema, before, streamed)
    sequences, behind = _sequences(schema, before[-1], _read_at(after, before[-1], chain))
    snapshot = msgspec.structs.replace(
        schema.backup.snapshot,
        sequences=sequences,
        large_objects=last.large_objects,
        vault=last.vault,
        globals=facts.globals,
        source=msgspec.structs.replace(base.backup.snapshot.source, database=facts.source.database),
    )
    return Point(
        target, base.backup, schema.backup, resolution, chain, wanted, streamed, reread,
        tuple(data), snapshot, (*notices, *unseen, *behind), carried.recasts, carried.refused,
    )  # fmt: skip


@dataclass(slots=True)
class Merged:
    """The rows at a point, ready to be loaded."""

    rows: MergedRows
    figures: MergeFigures


@contextmanager
def merged(
    point: Point,
    *,
    only: Collection[int] | None = None,
    jobs: int = 1,
    progress: Progress,
    sink: EventSink,
) -> Iterator[Merged]:
    """Read the log up to *point*; of the tables *only*, by oid, where they are given.

    Raises:
        UsageError: a table changed its shape within the log, or the disk has no room for it.
        ObjectDamaged: the log and the full do not fit one another.
        ObjectMissing, StorageError.
    """
    with tempfile.TemporaryDirectory(prefix="aurora-log-") as name, ExitStack() as stack:
        directory = Path(name)
        _require_room(point, directory)
        spool = Spool(directory)
        stack.callback(spool.close)
        merge = _read_log(point, only, spool, directory, stack, sink)
        rows = MergedRows(
            [d for d in point.data if only is None or d.oid in only],
            merge.changed,
            RepositorySource(point.backup.repository),
            spool.message,
            directory,
            jobs,
            point.snapshot.source.database.encoding,
            progress,
            {oid: one for oid, one in point.recasts.items() if only is None or oid in only},
        )
        stack.callback(rows.close)
        yield Merged(rows, merge.figures)


def _read_log(
    point: Point,
    only: Collection[int] | None,
    spool: Spool,
    directory: Path,
    stack: ExitStack,
    sink: EventSink,
) -> Merge:
    wanted = point.streamed if only is None else point.streamed & frozenset(only)
    recasts = {oid: one for oid, one in point.recasts.items() if oid in wanted}
    merge = Merge(
        {t.oid: t for t in point.snapshot.tables if t.oid in wanted},
        frozenset(t.oid for t in (*point.backup.snapshot.tables, *point.snapshot.tables)) - wanted,
        frozenset(point.snapshot.skipped),
        point.resolution.base.sees,
        point.resolution.cut.commit_lsn if point.resolution.cut else 0,
        spool.keep,
        directory,
        point.keys_in_memory,
        recasts,
        {oid: places(point.resolution, oid) for oid in recasts},
    )
    stack.callback(merge.close)
    phase = "reading the change log"
    sink(PhaseBegun(phase, point.log_bytes))
    progress = progress_of(phase, sink)
    for link, number in point.wanted:
        payload = link.segments.payload(number)
        merge.feed(payload, spool.append(payload))
        progress(len(payload), link.backup.entry.id)
        if merge.done:
            break
    merge.finish()
    figures = merge.figures
    sink(
        PhaseEnded(
            phase,
            f"{plural(figures.transactions, 'transaction')}, {plural(figures.changes, 'change')}",
        )
    )
    if figures.known:
        sink(Noted(f"{plural(figures.known, 'transaction')} of the log in the full already"))
    return merge


def _chain(resolution: Resolution, links: Sequence[Link]) -> tuple[Link, ...]:
    """The incrementals of the run, in its order."""
    if resolution.run is None:
        return ()
    by_id = {link.backup.entry.id: link for link in links if link.log.parent}
    return tuple(by_id[p.backup] for p in resolution.run.parts if p.backup in by_id)


def _wanted(
    resolution: Resolution, base: Link, chain: Sequence[Link]
) -> Iterator[tuple[Link, int]]:
    """Segments up to the cut, without those at the beginning that the full holds whole."""
    cut = resolution.cut
    if cut is None:
        return
    oldest = int(base.backup.snapshot.source.snapshot.split(":")[0]) & 0xFFFFFFFF
    begun = False
    for link in chain:
        first = 0
        if not begun:
            first = _first_unseen(link, oldest)
            begun = first < len(link.segments.segments)
        for number in range(first, len(link.segments.segments)):
            yield link, number
            if link.segments.segments[number].end_lsn > cut.commit_lsn:
                return


def _first_unseen(link: Link, oldest: int) -> int:
    segments = link.segments.segments
    for number, one in enumerate(segments):
        if one.max_xid and not precedes(one.max_xid, oldest):
            while number and link.segments.continued(number - 1):  # begin with a whole message
                number -= 1  # noqa: PLW2901 - the search ends here
            return number
    return len(segments)


def _around(resolution: Resolution, base: Link, chain: Sequence[Link]) -> tuple[list[Link], Link]:
    """Backups whose re-reads are not later than the target; and the first not before it.

    An incremental's re-reads come a moment after what it drained: they count as the
    target's own state where the target is not before that, or nothing was drained in between.
    """
    place, cut = resolution.place, resolution.cut
    behind = [link for link in chain if link.log.to_lsn >= resolution.base.lsn]
    later = [
        link
        for link in behind
        if not place.exceeds(link.log.to_lsn, micros(link.log.to_at))
        and link.log.to_lsn >= (cut.commit_lsn if cut else 0)
    ]
    seen = [link for link in later if link.log.fingerprint]  # else nobody could ask the source
    after = seen[0] if seen else later[0] if later else base
    before = [base]
    for link in behind:
        if link.is_piece:
            continue
        reached = place.reaches(link.log.to_lsn, micros(link.log.to_at))
        if reached or (link is after and _nothing_after(resolution, link)):
            before.append(link)
    return before, after


def _nothing_after(resolution: Resolution, link: Link) -> bool:
    if resolution.place.at is not None:
        return False
    return resolution.after is None or resolution.after.commit_lsn >= link.log.to_lsn


def _read_at(after: Link, before: Link, chain: Sequence[Link]) -> tuple[Sequence_, ...]:
    """The positions that *after* knows: pieces of a stream tell only those that moved."""
    found = before.backup.snapshot.sequences
    for link in chain:
        if link.log.to_lsn >= before.log.to_lsn:
            if link.is_piece:
                found = moved_on(found, link.backup.body.sequences)
            else:
                found = link.backup.snapshot.sequences
        if link is after:
            return found
    return found if after.is_piece else after.backup.snapshot.sequences


def _sequences(
    base: Link, before: Link, positions: tuple[Sequence_, ...]
) -> tuple[tuple[Sequence_, ...], list[str]]:
    """Positions of the sequences that the schema has: the first reading after the target.

    One that is gone by then stands where it was found last, and a notice says so.
    """
    read = {one.oid: one for one in positions}
    last = {one.oid: one for one in before.backup.snapshot.sequences}
    found, notices = [], []
    for one in base.backup.snapshot.sequences:
        there = read.get(one.oid)
        if there is None:
            there = last.get(one.oid, one)
            notices.append(
                f"the sequence {shown(one.schema, one.name)} was dropped after the target: it "
                f"stands where it was at {before.backup.snapshot.source.snapshot_at}"
            )
        found.append(
            msgspec.structs.replace(one, last_value=there.last_value, is_called=there.is_called)
        )
    return tuple(found), notices


def _streamed(base: Link, chain: Sequence[Link], resolution: Resolution) -> frozenset[int]:
    """Tables that every part of the log from the full to the target carries whole.

    A part that found another schema says nothing of the time before the change.
    """
    found = set(base.log.keyed)
    reached = max(resolution.cut.commit_lsn if resolution.cut else 0, resolution.base.lsn)
    for link in chain:
        if link.log.to_lsn >= resolution.base.lsn:
            if link.log.fingerprint == base.log.fingerprint:
                found &= set(link.log.keyed)
            if link.log.to_lsn >= reached:
                break
    rows = {table.oid for table in base.backup.snapshot.tables if table.has_rows}
    return frozenset(int(oid) for oid in found) & rows


def _rows(
    base: Link, schema: Link, before: Sequence[Link], streamed: frozenset[int]
) -> tuple[list[TableData], dict[str, str]]:
    """The rows to begin with: the full's, or for tables outside of the log the last re-read."""
    rows = {d.oid: d for d in base.backup.data()}
    at = dict.fromkeys(rows, base.backup.snapshot.source.snapshot_at)
    for link in before[1:]:
        others = {d.oid for d in link.backup.body.data} - streamed
        for found in link.backup.data(others) if others else ():
            rows[found.oid] = found
            at[found.oid] = link.backup.snapshot.source.snapshot_at
    names = {t.oid: shown(t.schema, t.name) for t in schema.backup.snapshot.tables if t.has_rows}
    told = {names[oid]: at[oid] for oid in rows if oid in names and oid not in streamed}
    return [d for oid, d in rows.items() if oid in names], dict(sorted(told.items()))


def _require_room(point: Point, directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < point.log_bytes * 5 // 4:
        raise UsageError(
            f"the change log up to the target needs {format_size(point.log_bytes * 5 // 4)} of "
            f"temporary disk space, there are {format_size(free)}",
            hint=f"Nothing was changed. Make room at {directory.parent}, or point TMPDIR at a "
            "larger disk.",
        )


def _described(found: Transaction | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {"xid": found.xid, "at": shown_time(found.at), "lsn": shown_lsn(found.commit_lsn)}
