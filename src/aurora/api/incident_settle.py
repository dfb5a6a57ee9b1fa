"""Recoveries of an incident whose runs died: what became of them, told in its record."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from aurora import clock
from aurora.api.audit import record
from aurora.errors import AuroraError
from aurora.events import EventSink, Noted, Warned
from aurora.operations.content import Backup
from aurora.operations.incident.effects import Effect
from aurora.operations.incident.record import Doing, Incident, Incidents, Running
from aurora.postgres.conninfo import ConnInfo
from aurora.repository.ids import SAFETY
from aurora.wiring import Aurora

_LOOKED_AT = 5  # newest safety backups


def about_to(doing: Doing, effect: Effect) -> None:
    """Write down what is about to take effect."""
    doing.know(effect=asdict(effect))


def settle(
    aurora: Aurora,
    book: Incidents,
    chosen: Incident | None,
    dsn: str,
    *,
    by: str,
    sink: EventSink,
) -> list[Effect]:
    """Find out what became of recoveries of *dsn* whose runs died; those that took effect.

    Raises TargetError; RepositoryLocked while such a transaction still goes on.
    """
    if chosen is None:
        return []
    with book.held(chosen, patience=60.0) as held:
        took: list[Effect] = []
        for dead in list(held.unsettled):
            effect = Effect.of(dead)
            if effect.target != ConnInfo.parse(dsn).redacted():
                continue
            found = effect.took(dsn)
            safety = _safety_backup(aurora, dsn, effect)
            _tell(held, dead, effect, found, safety, by, sink)
            if found:
                took.append(effect)
                facts = {"incident": held.id, "how": effect.how, **effect.document}
                record(aurora, None, "restore", "ok", {**facts, "found_later": True},
                       operation="incident recover", sink=sink)  # fmt: skip
            held.unsettled.remove(dead)
            book.save(held)
        return took


def _tell(
    held: Incident,
    dead: Running,
    effect: Effect,
    found: bool | None,
    safety: str,
    by: str,
    sink: EventSink,
) -> None:
    run = f"the run of {dead.begun_at[:19]} that died"
    kept = f"; its safety backup is {safety}" if safety else ""
    if found:
        document: dict[str, Any] = {**effect.document, "safety_backup": safety} if safety else (
            effect.document
        )  # fmt: skip
        held.recoveries.append({"how": effect.how, "at": clock.isoformat(clock.now()),
                                "found_later": True, **document})  # fmt: skip
        told = f"{run} had done its work: {effect.how} recovered{kept}"
        held.note("recover", told, by=by)
        sink(Noted(told))
        return
    told = (
        f"{run} changed nothing{kept}" if found is False else
        f"whether {run} changed anything cannot be told{kept}; look at the data"
    )  # fmt: skip
    held.note("interrupted", told, by=by)
    sink(Noted(told) if found is False else Warned("recovery-unsure", told))


def _safety_backup(aurora: Aurora, dsn: str, effect: Effect) -> str:
    """The safety backup that the dead run made, by the label that names its restore."""
    if not effect.restore_id:
        return ""
    try:
        repository = aurora.open_primary()
        label = aurora.safety_database(dsn, ConnInfo.parse(dsn).dbname)
        made = [one for one in repository.backups(label) if one.type == SAFETY]
        for entry in reversed(made[-_LOOKED_AT:]):
            if effect.restore_id in Backup(repository, entry).body.label:
                return entry.id
    except AuroraError:
        return ""  # it is for the record alone
    return ""


def keyless_done(chosen: Incident | None, xids: Sequence[int]) -> frozenset[str]:
    """Tables without a key whose rows were put back already after one of these transactions."""
    return frozenset(
        name
        for one in (chosen.recoveries if chosen else ())
        if one["how"] == "rows" and set(one.get("bad", ())) & set(xids)
        for name in one.get("keyless", ())
    )
