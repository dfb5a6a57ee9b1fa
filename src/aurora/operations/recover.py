"""Recovery to a point in time: a full, and what the change log made of it up to the target.

The plan says which full and which transactions; running it reads the log once, keeps the
last writer of every row, and builds the database as any restore does: aside, checked, then
put in place.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from aurora.engines.base import Snapshot, Table, TableData
from aurora.engines.logical.export import progress_of
from aurora.engines.logical.merge import KEYS_IN_MEMORY, Merge
from aurora.engines.logical.mergeload import MergedRows
from aurora.engines.logical.names import shown
from aurora.engines.logical.segments import precedes
from aurora.engines.logical.spool import Spool
from aurora.engines.logical.targets import (
    Resolution,
    Target,
    Transaction,
    shown_time,
)
from aurora.errors import UsageError
from aurora.events import EventSink, Noted, PhaseBegun, PhaseEnded
from aurora.operations.content import RepositorySource
from aurora.operations.log_history import Link, micros, resolve_target
from aurora.operations.reports import RestoreReport
from aurora.operations.restore import (
    Content,
    RestoreOptions,
    RestorePlan,
    plan_restore,
    run_restore,
)
from aurora.repository.door import Repository
from aurora.units import format_count, format_size, plural

KIND = "restore-point"


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """What a recovery is going to do, to be shown before it does it."""

    target: Target
    restore: RestorePlan  # of the full
    resolution: Resolution
    chain: tuple[Link, ...]  # incrementals of the run, oldest first
    wanted: tuple[tuple[Link, int], ...]  # segments to read
    streamed: frozenset[int]  # oids of tables that the log carries
    reread: Mapping[str, str]  # other tables, and the moment that their rows are of
    data: tuple[TableData, ...] = field(repr=False)
    snapshot: Snapshot = field(repr=False)
    notices: tuple[str, ...] = ()
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
        return self.restore.backup.snapshot.source.snapshot_at

    def facts(self) -> list[tuple[str, str]]:
        """Lines for a person."""
        found, backup = self.resolution, self.restore.backup
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
        lines += [("as of a re-read", f"{name}: rows of {at}") for name, at in self.reread.items()]
        lines += [("notice", notice) for notice in self.notices]
        return lines + self.restore.facts()[2:]

    def document(self) -> dict[str, object]:
        """For ``--json``."""
        found = self.resolution
        return {
            "target": str(self.target),
            "backup_id": self.restore.backup.entry.id,
            "state_of": self.state_of,
            "segments": [link.segments.segments[number].object for link, number in self.wanted],
            "log_bytes": self.log_bytes,
            "last_applied": _described(found.cut),
            "first_left_out": _described(found.after),
            "lost_transactions": found.lost,
            "reread": dict(self.reread),
            "notices": list(self.notices),
            "mode": self.restore.mode,
            "database": self.restore.state.name,
        }


def plan_recovery(
    repository: Repository,
    database: str,
    target: Target,
    dsn: str,
    options: RestoreOptions,
    *,
    full: str = "",
    notices: Sequence[str] = (),
    sink: EventSink,
) -> RecoveryPlan:
    """Find the full and the transactions for *target*, look at the target server. Changes nothing.

    Args:
        full: id of the full to start from; by default the newest that serves.

    Raises:
        RepositoryNotFound: there is no change log, or no such transaction in it.
        UsageError: the target cannot be met exactly; the nearest that can are in the hint.
        TargetNotEmpty, TargetUnfit, TargetUnreachable: see :func:`restore.plan_restore`.
    """
    resolution, links = resolve_target(repository, database, target, sink, full=full)
    base = next(link for link in links if link.backup.entry.id == resolution.base.backup)
    chain = _chain(resolution, links)
    wanted = tuple(_wanted(resolution, base, chain))
    before, after = _around(resolution, base, chain)
    streamed = _streamed(base, chain, resolution)
    data, reread = _rows(base, before, streamed)
    snapshot = msgspec.structs.replace(
        base.backup.snapshot,
        sequences=after.backup.snapshot.sequences,
        large_objects=before[-1].backup.snapshot.large_objects,
        vault=before[-1].backup.snapshot.vault,
    )
    return RecoveryPlan(
        target, plan_restore(base.backup, dsn, options), resolution, chain, wanted, streamed,
        reread, tuple(data), snapshot, tuple(notices),
    )  # fmt: skip


def run_recovery(
    plan: RecoveryPlan,
    *,
    make_safety_backup: Callable[[], str] | None,
    sink: EventSink,
) -> RestoreReport:
    """Do what the plan says.

    Raises:
        UsageError: a table changed its shape within the log, or the disk has no room for it.
        ObjectDamaged: the log and the full do not fit one another.
        See :func:`restore.run_restore` for the rest. The target serves as before.
    """
    with tempfile.TemporaryDirectory(prefix="aurora-log-") as name:
        directory = Path(name)
        _require_room(plan, directory)
        with ExitStack() as stack:
            spool = Spool(directory)
            stack.callback(spool.close)
            merge = _read_log(plan, spool, directory, stack, sink)
            rows = MergedRows(
                plan.data,
                merge.changed,
                RepositorySource(plan.restore.backup.repository),
                spool.message,
                directory,
                plan.restore.options.jobs,
                plan.snapshot.source.database.encoding,
                progress_of("loading rows", sink),
            )
            stack.callback(rows.close)

            def load(
                dsn: str, tables: Sequence[Table], cancel: threading.Event
            ) -> Sequence[TableData]:
                sink(PhaseBegun("loading rows", sum(d.bytes for d in plan.data)))
                held = rows.load(dsn, tables, cancel)
                told = f"{format_count(sum(d.rows for d in held))} rows, "
                sink(PhaseEnded("loading rows", f"{told}{rows.final_rows:,} out of the log"))
                return held

            notes = tuple(_notes(plan, merge))
            content = Content(KIND, plan.state_of, plan.snapshot, load, notes)
            return run_restore(
                plan.restore, make_safety_backup=make_safety_backup, sink=sink, content=content
            )


def _read_log(
    plan: RecoveryPlan, spool: Spool, directory: Path, stack: ExitStack, sink: EventSink
) -> Merge:
    tables = {t.oid: t for t in plan.snapshot.tables if t.oid in plan.streamed}
    merge = Merge(
        tables,
        frozenset(t.oid for t in plan.snapshot.tables) - plan.streamed,
        frozenset(plan.snapshot.skipped),
        plan.resolution.base.sees,
        plan.resolution.cut.commit_lsn if plan.resolution.cut else 0,
        spool.keep,
        directory,
        plan.keys_in_memory,
    )
    stack.callback(merge.close)
    phase = "reading the change log"
    sink(PhaseBegun(phase, plan.log_bytes))
    progress = progress_of(phase, sink)
    for link, number in plan.wanted:
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
    sink(Noted(f"{plural(figures.known, 'transaction')} of the log were in the full already"))
    return merge


def _notes(plan: RecoveryPlan, merge: Merge) -> list[str]:
    touched = sum(1 for table in merge.changed.values() if table.touched)
    notes = [
        f"recovered to {plan.target}: {plural(merge.figures.transactions, 'transaction')} applied, "
        f"the last {plan.resolution.cut or 'none'}",
        f"of {plural(touched, 'table')} that the log changed the number of rows was checked; of "
        "the others the checksums too",
    ]
    notes += [
        f"{name} has no replica identity that the log can carry: its rows are of {at}"
        for name, at in plan.reread.items()
    ]
    return [*plan.notices, *notes]


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
    after = later[0] if later else base
    before = [base]
    for link in behind:
        reached = place.reaches(link.log.to_lsn, micros(link.log.to_at))
        if reached or (link is after and _nothing_after(resolution, link)):
            before.append(link)
    return before, after


def _nothing_after(resolution: Resolution, link: Link) -> bool:
    if resolution.place.at is not None:
        return False
    return resolution.after is None or resolution.after.commit_lsn >= link.log.to_lsn


def _streamed(base: Link, chain: Sequence[Link], resolution: Resolution) -> frozenset[int]:
    """Tables that every part of the log from the full to the target carries whole."""
    found = set(base.log.keyed)
    reached = max(resolution.cut.commit_lsn if resolution.cut else 0, resolution.base.lsn)
    for link in chain:
        if link.log.to_lsn >= resolution.base.lsn:
            found &= set(link.log.keyed)
            if link.log.to_lsn >= reached:
                break
    rows = {table.oid for table in base.backup.snapshot.tables if table.has_rows}
    return frozenset(int(oid) for oid in found) & rows


def _rows(
    base: Link, before: Sequence[Link], streamed: frozenset[int]
) -> tuple[list[TableData], dict[str, str]]:
    """The rows to begin with: the full's, or for tables outside of the log the last re-read."""
    rows = {d.oid: d for d in base.backup.data()}
    at = dict.fromkeys(rows, base.backup.snapshot.source.snapshot_at)
    for link in before[1:]:
        others = {d.oid for d in link.backup.body.data} - streamed
        for found in link.backup.data(others) if others else ():
            rows[found.oid] = found
            at[found.oid] = link.backup.snapshot.source.snapshot_at
    names = {t.oid: shown(t.schema, t.name) for t in base.backup.snapshot.tables if t.has_rows}
    told = {names[oid]: at[oid] for oid in rows if oid in names and oid not in streamed}
    return [d for oid, d in rows.items() if oid in names or oid in at], dict(sorted(told.items()))


def _require_room(plan: RecoveryPlan, directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < plan.log_bytes * 5 // 4:
        raise UsageError(
            f"the change log up to the target needs {format_size(plan.log_bytes * 5 // 4)} of "
            f"temporary disk space, there are {format_size(free)}",
            hint=f"Nothing was changed. Make room at {directory.parent}, or point TMPDIR at a "
            "larger disk.",
        )


def _described(found: Transaction | None) -> dict[str, object] | None:
    if found is None:
        return None
    lsn = f"{found.commit_lsn >> 32:X}/{found.commit_lsn & 0xFFFFFFFF:X}"
    return {"xid": found.xid, "at": shown_time(found.at), "lsn": lsn}
