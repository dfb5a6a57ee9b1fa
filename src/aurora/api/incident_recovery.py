"""Recovery as a step of an incident: rows put back, a table, the whole; rehearsed if wanted."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from aurora import clock
from aurora.api.audit import recorded
from aurora.api.common import held
from aurora.api.incident_holds import hold_retention
from aurora.api.incident_settle import about_to, keyless_done, settle
from aurora.api.incidents import entered, recovery_point, refresh_log, resume_writes
from aurora.api.restores import restore_options, restore_point, restore_table
from aurora.engines.logical.targets import Target
from aurora.errors import AuroraError, UsageError
from aurora.events import EventSink, Noted, Warned, discard
from aurora.operations.incident import rows as rows_operation
from aurora.operations.incident.aside import Saved, save_aside
from aurora.operations.incident.effects import Effect
from aurora.operations.incident.fence import way_in
from aurora.operations.incident.logkeys import LogKeys
from aurora.operations.incident.proposal import Proposal, target_of
from aurora.operations.incident.record import Doing, Incident, Incidents, new_id, whoami
from aurora.operations.incident.rows import RowsPlan, RowsReport
from aurora.operations.incident.writes import stopping_incident
from aurora.operations.point import find_point
from aurora.operations.recover import RecoveryPlan
from aurora.operations.reports import RestoreReport
from aurora.operations.restore_table_plan import TableOptions, TablePlan
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.embedded import EmbeddedServer
from aurora.wiring import Aurora

How = Literal["rows", "table", "whole"]
FINISHED_BEFORE = "restored by a run that died afterwards"
"""The outcome of a recovery that was found done when it was asked for again."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A recovery tried on a throw-away server."""

    seconds: float
    rows: int
    outcome: str

    def document(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "rows": self.rows, "outcome": self.outcome}


def recover_rows(
    aurora: Aurora,
    *,
    tables: Sequence[str] = (),
    target: Target | None = None,
    bad: Sequence[int] = (),
    incident: str | None = None,
    storage: str = "primary",
    by: str = "",
    confirm: Callable[[RowsPlan], None] | None = None,
    sink: EventSink = discard,
) -> tuple[RowsPlan, RowsReport | None]:
    """Put back into the live database the rows that bad transactions deleted or overwrote.

    Args:
        tables: only these, ``schema.table``.
        target: just before the damage; that of the incident's record by default.
        confirm: gets the plan before a live row is changed, and may raise. None: only plan.

    Raises: see :func:`aurora.operations.incident.rows.run_rows`.
    """
    book, chosen = entered(aurora, incident)
    who = by or whoami()
    directory = book.directory(chosen) if chosen else _scratch(book)
    dsn = way_in(aurora.source_dsn(), directory)
    with book.doing(chosen, "recover", by=who, alone=True, how="rows") as doing:
        settle(aurora, book, chosen, dsn, by=who, sink=sink)
        chosen = book.find(chosen.id) if chosen else None  # with what that found
        marker = rows_operation.marker_of(dsn)
        refresh_log(aurora, sink)
        moment, xids = _decided(aurora, chosen, target, bad, storage, sink)
        repository = aurora.open_for_reading(storage, sink=sink)
        point = find_point(repository, aurora.database, moment, sink=sink)

        def copy_table(name: str, as_name: str) -> None:
            options = TableOptions(as_name=as_name)
            restore_table(
                aurora, name, moment=moment, target=dsn, options=options, storage=storage,
                sink=sink,
            )  # fmt: skip

        def about_to_commit(xid: str, report: RowsReport) -> None:
            known = Effect("rows", ConnInfo.parse(dsn).redacted(), xid=xid,
                           document=document(report))  # fmt: skip
            about_to(doing, known)

        def document(report: RowsReport) -> dict[str, Any]:
            return {**plan.document(), **report.document(), "target": str(moment),
                    "bad": list(xids), "keyless": plan.keyless}  # fmt: skip

        facts = {"incident": chosen.id if chosen else "", "target": str(moment), "bad": list(xids)}
        try:
            with (
                recorded(aurora, "restore", "incident recover", sink, **facts) as note,
                _scratch_of(doing) as scratch,
                LogKeys(scratch, xids, tables) as keys,
                held(repository),
            ):
                note.repository = repository
                keys.collect(repository, aurora.database, point, sink=sink)
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                plan = rows_operation.plan_rows(
                    dsn, point, keys, directory, marker=marker, copy_table=copy_table,
                    done=keyless_done(chosen, xids), sink=sink,
                )  # fmt: skip
                if confirm is None:
                    note.write = False
                    return plan, None
                confirm(plan)
                begun = time.monotonic()
                report = rows_operation.run_rows(plan, before_commit=about_to_commit, sink=sink)
                report.seconds = time.monotonic() - begun
                note.facts |= report.document()
        finally:
            rows_operation.clear(dsn)
        if plan.changes:
            _write(aurora, doing, "rows", document(report), _told(report), sink)
        else:
            _write(aurora, doing, "", {}, "nothing is left to put back", sink)
    return plan, report


def recover_table(
    aurora: Aurora,
    table: str,
    options: TableOptions,
    *,
    target: Target | None = None,
    into: str | None = None,
    incident: str | None = None,
    storage: str = "primary",
    by: str = "",
    confirm: Callable[[TablePlan], None] | None = None,
    sink: EventSink = discard,
) -> RestoreReport:
    """One table to the incident's point: made, swapped, or beside. See :func:`restore_table`."""
    book, chosen = entered(aurora, incident)
    who = by or whoami()
    own = into or aurora.source_dsn()
    dsn = into or way_in(own, book.directory(chosen) if chosen else book.root)
    with book.doing(chosen, "recover", by=who, alone=True, how="table", table=table) as doing:
        took = settle(aurora, book, chosen, own, by=who, sink=sink)
        moment, _ = _decided(aurora, chosen, target, (), storage, sink)
        wanted = {"table": table, "as": options.as_name or "", "replaced": options.replace,
                  "asked": str(moment)}  # fmt: skip
        if (before := _same_again(took, "table", wanted)) is not None:
            return before
        effect = Effect("table", ConnInfo.parse(own).redacted(), begun=False)

        def agreed(plan: TablePlan) -> None:
            nonlocal effect
            if confirm is not None:
                confirm(plan)
            effect = replace(
                effect, restore_id=plan.restore_id,
                document={**wanted, **_known(plan.restore_id, plan.backup.entry.id, moment),
                          "restored_as": ".".join(plan.new_name or ())},
            )  # fmt: skip
            about_to(doing, effect)

        report = restore_table(
            aurora, table, moment=moment, target=dsn, options=options, storage=storage,
            confirm=agreed,
            before_commit=lambda xid: about_to(doing, replace(effect, begun=True, xid=xid)),
            sink=sink,
        )  # fmt: skip
        _restored(aurora, doing, "table", report, sink)
    return report


def recover_whole(
    aurora: Aurora,
    *,
    in_place: bool = False,
    target: Target | None = None,
    into: str | None = None,
    save_lost: bool = True,
    incident: str | None = None,
    storage: str = "primary",
    by: str = "",
    confirm: Callable[[Any], None] | None = None,
    sink: EventSink = discard,
) -> RestoreReport:
    """The whole database to the incident's point, elsewhere or (with *in_place*) over the live one.

    Over the live one the rows that good transactions wrote since are saved aside first. What takes
    its place has no fence: where writes were stopped, they go on, and the record says so.
    """
    book, chosen = entered(aurora, incident)
    who, dsn = by or whoami(), into or aurora.source_dsn()
    with book.doing(chosen, "recover", by=who, alone=True, how="whole") as doing:
        took = settle(aurora, book, chosen, dsn, by=who, sink=sink)
        moment, _ = _decided(aurora, chosen, target, (), storage, sink)
        if (before := _same_again(took, "whole", {"asked": str(moment)})) is not None:
            _writes_go_on(aurora, book, chosen, into, before, by=who, sink=sink)
            return before

        def agreed(plan: RecoveryPlan) -> None:
            if confirm is not None:
                confirm(plan)
            restore = plan.restore
            if save_lost and restore.mode == "swap" and into is None and chosen is not None:
                save_lost_rows(
                    aurora, incident=chosen.id, target=moment, storage=storage, sink=sink
                )
            afterwards = {"swap": restore.old_name, "new": restore.state.name}
            old = restore.old_name if restore.mode == "swap" else ""
            about_to(doing, Effect(
                "whole", ConnInfo.parse(dsn).redacted(), restore_id=restore.restore_id,
                database=afterwards.get(restore.mode, ""),
                document={**_known(restore.restore_id, restore.backup.entry.id, moment),
                          "old_database": old},
            ))  # fmt: skip

        options = restore_options(aurora, in_place=in_place)
        report = restore_point(
            aurora, moment, target=into, options=options, storage=storage, confirm=agreed,
            sink=sink,
        )  # fmt: skip
        _restored(aurora, doing, "whole", report, sink)
    _writes_go_on(aurora, book, chosen, into, report, by=who, sink=sink)
    return report


def _writes_go_on(
    aurora: Aurora,
    book: Incidents,
    chosen: Incident | None,
    into: str | None,
    report: RestoreReport,
    *,
    by: str,
    sink: EventSink,
) -> None:
    """Bring the record of the stopped writes up to date, where the live database was replaced."""
    if into is not None or not report.old_database:
        return
    stopping = stopping_incident(book)
    if chosen is None or stopping is None or stopping.id != chosen.id:
        return
    try:
        resume_writes(aurora, incident=chosen.id, by=by, sink=sink)
    except AuroraError as error:
        told = f"writes go on, and the record does not say so: {error.message}"
        sink(Warned("writes-go-on", told, "Run `aurora incident resume-writes`."))


def save_lost_rows(
    aurora: Aurora,
    *,
    target: Target | None = None,
    bad: Sequence[int] = (),
    form: str = "csv",
    incident: str | None = None,
    storage: str = "primary",
    sink: EventSink = discard,
) -> list[Saved]:
    """Save aside the live rows that going back would lose, as files of the incident."""
    book, chosen = entered(aurora, incident)
    with book.doing(chosen, "save-lost", by=whoami()) as doing, _scratch_of(doing) as scratch:
        directory = (book.directory(chosen) if chosen else _scratch(book)) / "saved"
        moment, xids = _decided(aurora, chosen, target, bad, storage, sink)
        repository = aurora.open_for_reading(storage, sink=sink)
        point = find_point(repository, aurora.database, moment, sink=sink)
        saved = save_aside(
            repository, aurora.database, point, way_in(aurora.source_dsn(), directory.parent),
            directory, scratch=scratch, bad=xids, form=form, sink=sink,
        )  # fmt: skip
        with doing.record() as mine:
            if mine is not None:
                rows = {one.table: one.rows for one in saved}
                told = f"rows saved aside: {sum(rows.values())}"
                mine.note("save-lost", told, by=doing.by, rows=rows)
                mine.files += [f"saved/{one.path.name}" for one in saved
                               if f"saved/{one.path.name}" not in mine.files]  # fmt: skip
    return saved


def rehearse(
    aurora: Aurora,
    *,
    target: Target | None = None,
    incident: str | None = None,
    storage: str = "primary",
    by: str = "",
    sink: EventSink = discard,
) -> Rehearsal:
    """Recover the whole to the incident's point on a throw-away server, and measure it."""
    book, chosen = entered(aurora, incident)
    with book.doing(chosen, "rehearse", by=by or whoami()) as doing:
        moment, _ = _decided(aurora, chosen, target, (), storage, sink)
        with EmbeddedServer(settings={"fsync": "off", "max_wal_size": "4GB"}) as server:
            sink(Noted(f"rehearsing on a throw-away PostgreSQL {server.tools.version}"))
            report = restore_point(
                aurora, moment, target=server.dsn("rehearsal"), storage=storage,
                options=restore_options(aurora, accept_refusals=True), sink=sink,
            )  # fmt: skip
        found = Rehearsal(report.seconds, report.rows, report.outcome)
        told = f"rehearsed on a throw-away server: {report.rows} rows in {report.seconds:.1f} s"
        document = {**found.document(), "target": str(moment)}
        _write(aurora, doing, "rehearsal", document, told, sink)
    return found


def _decided(
    aurora: Aurora,
    chosen: Incident | None,
    target: Target | None,
    bad: Sequence[int],
    storage: str,
    sink: EventSink,
) -> tuple[Target, Sequence[int]]:
    """The point and the bad transactions: as given, of the record, or proposed now."""
    known = chosen.point if chosen else {}
    if target is None and known:
        return target_of(known), bad or known["bad"]
    if target is not None and target.before_xid is not None and bad:
        return target, bad
    if target is not None and target.before_xid is None and not bad:
        if not known:
            return target, bad
        return target, known["bad"]
    found: Proposal = recovery_point(
        aurora, target, bad=bad, incident=chosen.id if chosen else None, storage=storage, sink=sink
    )
    return found.target, found.bad


def _scratch(book: Incidents) -> Path:
    """For files of a step without an incident."""
    return book.root / new_id(clock.now())


@contextmanager
def _scratch_of(doing: Doing) -> Iterator[Path]:
    """For keys and rows on their way. A killed run leaves it to the incident's next step."""
    if (own := doing.scratch()) is not None:
        yield own
        return
    with tempfile.TemporaryDirectory(prefix="aurora-keys-") as name:
        yield Path(name)


def _known(restore_id: str, backup_id: str, moment: Target) -> dict[str, Any]:
    """What is told of a recovery before it is over."""
    return {"restore_id": restore_id, "backup_id": backup_id, "recovered_to": str(moment),
            "asked": str(moment), "outcome": "restored"}  # fmt: skip


def _same_again(
    took: Sequence[Effect], how: str, wanted: Mapping[str, object]
) -> RestoreReport | None:
    """The report of a run that died when all was done, where it did what is asked for now."""
    for one in took:
        known = one.document
        if one.how == how and all(known.get(name) == value for name, value in wanted.items()):
            return RestoreReport(
                restore_id=one.restore_id, backup_id=str(known["backup_id"]), kind=how,
                target=one.target, state_of="", begun_at="",
                recovered_to=str(known["recovered_to"]), outcome=FINISHED_BEFORE,
                table=str(known.get("table", "")), restored_as=str(known.get("restored_as", "")),
                old_database=str(known.get("old_database", "")),
            )  # fmt: skip
    return None


def _write(
    aurora: Aurora, doing: Doing, how: str, document: dict[str, Any], told: str, sink: EventSink
) -> None:
    """The end of a recovery, into the record; without *how* nothing was recovered."""
    with doing.record() as mine:
        if mine is None:
            return
        if how:
            mine.recoveries.append({"how": how, "at": clock.isoformat(clock.now()), **document})
        mine.note("rehearse" if how == "rehearsal" else "recover", told, by=doing.by)
        for name in ("put-back.sql", "conflicts.csv"):
            if (doing.book.directory(mine) / name).exists() and name not in mine.files:
                mine.files.append(name)
        hold_retention(aurora, doing.book, mine, by=doing.by, sink=sink)


def _restored(
    aurora: Aurora, doing: Doing, how: str, report: RestoreReport, sink: EventSink
) -> None:
    document = {name: value for name, value in report.document().items() if name != "tables"}
    told = f"{how} recovered to {report.recovered_to}: {report.rows} rows, {report.outcome}"
    if report.restored_as:
        told += f", as {report.restored_as}"
    _write(aurora, doing, how, document, told, sink)


def _told(report: RowsReport) -> str:
    return (
        f"rows put back: {report.inserted} inserted, {report.updated} updated, {report.removed} "
        f"removed; {report.conflicts} conflicts left alone"
    )


def require_how(how: str) -> How:
    """Raises UsageError for what is no way to recover."""
    if how not in ("rows", "table", "whole"):
        raise UsageError(f"no way to recover is called {how[:20]!r}", hint="rows, table or whole.")
    return how  # type: ignore[return-value]
