"""Recovery as a step of an incident: rows put back, a table, the whole; rehearsed if wanted."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aurora import clock
from aurora.api.audit import recorded
from aurora.api.common import held
from aurora.api.incidents import incident_records, recovery_point, refresh_log
from aurora.api.restores import restore_options, restore_point, restore_table
from aurora.engines.logical.targets import Target
from aurora.errors import UsageError
from aurora.events import EventSink, Noted, discard
from aurora.operations.incident import rows as rows_operation
from aurora.operations.incident.aside import Saved, save_aside
from aurora.operations.incident.logkeys import LogKeys
from aurora.operations.incident.proposal import Proposal, target_of
from aurora.operations.incident.record import Incident, Incidents, new_id, whoami
from aurora.operations.incident.rows import RowsPlan, RowsReport
from aurora.operations.incident.stop import way_in
from aurora.operations.point import find_point
from aurora.operations.reports import RestoreReport
from aurora.operations.restore_table import TableOptions, TablePlan
from aurora.postgres.embedded import EmbeddedServer
from aurora.wiring import Aurora

How = Literal["rows", "table", "whole"]


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
    book, chosen, who = _current(aurora, incident, by)
    directory = book.directory(chosen) if chosen else _scratch(book)
    dsn = way_in(aurora.source_dsn(), directory)
    marker = rows_operation.marker_of(dsn)
    refresh_log(aurora, sink)
    moment, xids = _decided(aurora, chosen, target, bad, storage, sink)
    repository = aurora.open_for_reading(storage, sink=sink)
    point = find_point(repository, aurora.database, moment, sink=sink)

    def copy_table(name: str, as_name: str) -> None:
        options = TableOptions(as_name=as_name)
        restore_table(
            aurora, name, moment=moment, target=dsn, options=options, storage=storage, sink=sink
        )

    facts = {"incident": chosen.id if chosen else "", "target": str(moment), "bad": list(xids)}
    try:
        with (
            recorded(aurora, "restore", "incident recover", sink, **facts) as note,
            tempfile.TemporaryDirectory(prefix="aurora-keys-") as scratch,
            LogKeys(Path(scratch), xids, tables) as keys,
            held(repository),
        ):
            note.repository = repository
            keys.collect(repository, aurora.database, point, sink=sink)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            plan = rows_operation.plan_rows(
                dsn, point, keys, directory, marker=marker, copy_table=copy_table, sink=sink
            )
            if confirm is None:
                note.write = False
                return plan, None
            confirm(plan)
            begun = time.monotonic()
            report = rows_operation.run_rows(plan, sink=sink)
            report.seconds = time.monotonic() - begun
            note.facts |= report.document()
    finally:
        rows_operation.clear(dsn)
    document = {**plan.document(), **report.document(), "target": str(moment)}
    _write(book, chosen, "rows", document, who, _told(report))
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
    book, chosen, who = _current(aurora, incident, by)
    moment, _ = _decided(aurora, chosen, target, (), storage, sink)
    dsn = into or way_in(aurora.source_dsn(), book.directory(chosen) if chosen else book.root)
    report = restore_table(
        aurora, table, moment=moment, target=dsn, options=options, storage=storage,
        confirm=confirm, sink=sink,
    )  # fmt: skip
    _restored(book, chosen, "table", report, who)
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

    Over the live one the rows that good transactions wrote since are saved aside first.
    """
    book, chosen, who = _current(aurora, incident, by)
    moment, _ = _decided(aurora, chosen, target, (), storage, sink)

    def agreed(plan: Any) -> None:
        if confirm is not None:
            confirm(plan)
        if save_lost and plan.restore.mode == "swap" and into is None and chosen is not None:
            save_lost_rows(aurora, incident=chosen.id, target=moment, storage=storage, sink=sink)

    options = restore_options(aurora, in_place=in_place)
    report = restore_point(
        aurora, moment, target=into, options=options, storage=storage, confirm=agreed, sink=sink
    )
    _restored(book, chosen, "whole", report, who)
    return report


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
    book, chosen, who = _current(aurora, incident, "")
    directory = (book.directory(chosen) if chosen else _scratch(book)) / "saved"
    moment, xids = _decided(aurora, chosen, target, bad, storage, sink)
    repository = aurora.open_for_reading(storage, sink=sink)
    point = find_point(repository, aurora.database, moment, sink=sink)
    saved = save_aside(
        repository, aurora.database, point, way_in(aurora.source_dsn(), directory.parent),
        directory, bad=xids, form=form, sink=sink,
    )  # fmt: skip
    if chosen is not None:
        with book.held(chosen) as mine:
            rows = {one.table: one.rows for one in saved}
            mine.note("recover", f"rows saved aside: {sum(rows.values())}", by=who, rows=rows)
            mine.files += [f"saved/{one.path.name}" for one in saved
                           if f"saved/{one.path.name}" not in mine.files]  # fmt: skip
            book.save(mine)
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
    book, chosen, who = _current(aurora, incident, by)
    moment, _ = _decided(aurora, chosen, target, (), storage, sink)
    with EmbeddedServer(settings={"fsync": "off", "max_wal_size": "4GB"}) as server:
        sink(Noted(f"rehearsing on a throw-away PostgreSQL {server.tools.version}"))
        report = restore_point(
            aurora, moment, target=server.dsn("rehearsal"), storage=storage,
            options=restore_options(aurora, accept_refusals=True), sink=sink,
        )  # fmt: skip
    found = Rehearsal(report.seconds, report.rows, report.outcome)
    _write(
        book, chosen, "rehearsal", {**found.document(), "target": str(moment)}, who,
        f"rehearsed on a throw-away server: {report.rows} rows in {report.seconds:.1f} s",
    )  # fmt: skip
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


def _current(
    aurora: Aurora, incident: str | None, by: str
) -> tuple[Incidents, Incident | None, str]:
    book = incident_records(aurora)
    found = book.find(incident) if incident else book.current()
    return book, found, by or whoami()


def _scratch(book: Incidents) -> Path:
    """For files of a step without an incident."""
    return book.root / new_id(clock.now())


def _write(
    book: Incidents,
    chosen: Incident | None,
    how: str,
    document: dict[str, Any],
    who: str,
    told: str,
) -> None:
    if chosen is None:
        return
    with book.held(chosen) as mine:
        mine.recoveries.append({"how": how, "at": clock.isoformat(clock.now()), **document})
        mine.note("recover", told, by=who)
        for name in ("put-back.sql", "conflicts.csv"):
            if (book.directory(mine) / name).exists() and name not in mine.files:
                mine.files.append(name)
        book.save(mine)


def _restored(
    book: Incidents, chosen: Incident | None, how: str, report: RestoreReport, who: str
) -> None:
    document = {name: value for name, value in report.document().items() if name != "tables"}
    told = f"{how} recovered to {report.recovered_to}: {report.rows} rows, {report.outcome}"
    if report.restored_as:
        told += f", as {report.restored_as}"
    _write(book, chosen, how, document, who, told)


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
