"""Restores and recovery tests that were done: what is known of the time a recovery takes.

Read from the reports beside aurora.toml, and from the audit trail, which tells of other hosts
as well. Of the trail only what is new is read; the rest is in ``aurora.state/measured.json``.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from aurora import clock
from aurora.events import EventSink, discard
from aurora.operations import audit
from aurora.repository.door import Repository

WHOLE = ("restore", "restore-full", "restore-point", "test-recovery", "drill")
"""Kinds that bring a whole database back, and so prove something."""
JUDGED = ("backup-bad", "failed")
"""Verdicts that speak against the backup; others speak of where it was tried."""
_OVERLAP = timedelta(hours=1)  # a record may wait in a spool before it is put
_KEPT = 50
_KINDS = frozenset({"restore", "recovery-test", "drill"})
_REPORTS = ("restore*.json", "test-recovery*.json", "drill*.json")


@dataclass(frozen=True, slots=True)
class Measured:
    """One recovery that was done and checked, or failed."""

    kind: str
    at: datetime
    ok: bool
    seconds: float  # RTO as measured
    backup_id: str = ""
    detail: str = ""  # the verdict: ok, backup-bad, environment, inconclusive, too-slow, failed

    @property
    def is_whole(self) -> bool:
        """Whether a whole database was brought back, so that it proves something."""
        return self.kind in WHOLE

    @property
    def speaks_against(self) -> bool:
        """Whether it failed for a reason that lies in the backup."""
        return not self.ok and self.detail in JUDGED


def reported(directory: Path) -> Iterator[Measured]:
    """What this machine's reports say; anything unreadable is left out."""
    paths = [path for form in _REPORTS for path in directory.glob(form)]
    for path in sorted(paths):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found = _of_facts(str(document["kind"]), str(document["outcome"]), document)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if found is not None:
            yield found


class _Book(msgspec.Struct):
    read_to: datetime | None = None
    found: list[Measured] = []


def recorded(
    repository: Repository, directory: Path, *, since: datetime, sink: EventSink = discard
) -> list[Measured]:
    """What the audit trail says, of all hosts: from *since* on, and what was read before.

    Raises:
        StorageError: the trail cannot be read.
    """
    path = directory / "measured.json"
    book = _load(path)
    begin = since if book.read_to is None else max(book.read_to - _OVERLAP, since)
    known = {(one.at, one.kind) for one in book.found}
    newest = book.read_to
    for entry in audit.entries(repository, kinds=_KINDS, since=begin, sink=sink):
        newest = max(newest or entry.at, entry.at)
        found = _of_facts(_kind(entry), entry.outcome, {"ended_at": entry.at, **entry.facts})
        if found is not None and (found.at, found.kind) not in known:
            book.found.append(found)
    found_all = sorted(book.found, key=lambda one: one.at)
    drill = last_drill(found_all)  # it may be older than many a test
    book.found = ([drill] if drill in found_all[:-_KEPT] else []) + found_all[-_KEPT:]
    book.read_to = newest
    _store(path, book)
    return book.found


def _kind(entry: audit.Entry) -> str:
    facts = entry.facts.get("kind")
    if isinstance(facts, str):
        return facts
    return "test-recovery" if entry.kind == "recovery-test" else entry.operation.split(" ")[-1]


def _of_facts(kind: str, outcome: str, facts: Mapping[str, Any]) -> Measured | None:
    """None for what says nothing: a restore that was refused or stopped before it could fail."""
    verdict = _verdict(kind, outcome, facts)
    if not verdict:
        return None
    moment = facts.get("ended_at") or facts["begun_at"]
    seconds = facts.get("rto_seconds") or facts.get("seconds") or 0.0
    return Measured(
        kind=kind,
        at=moment if isinstance(moment, datetime) else clock.parse(str(moment)),
        ok=verdict == "ok",
        seconds=float(seconds),
        backup_id=str(facts.get("backup_id") or facts.get("backup") or ""),
        detail=verdict,
    )


def _verdict(kind: str, outcome: str, facts: Mapping[str, Any]) -> str:
    if not kind.startswith("restore"):
        return "ok" if outcome in ("ok", "passed") else outcome
    if outcome in ("ok", "incomplete") or outcome.startswith("restored"):
        return "ok"
    error = str(facts.get("error", ""))
    if outcome == "failed its checks" or error in ("check-failed", "object-damaged",
                                                   "object-missing", "integrity"):  # fmt: skip
        return "failed"
    return ""


def newest(found: Iterable[Measured]) -> tuple[Measured | None, Measured | None]:
    """The last proven restore, and the last one whatever it said."""
    whole = sorted((one for one in found if one.is_whole), key=lambda one: one.at)
    good = next((one for one in reversed(whole) if one.ok), None)
    return good, whole[-1] if whole else None


def last_drill(found: Iterable[Measured]) -> Measured | None:
    """The last drill that went well."""
    drills = [one for one in found if one.kind == "drill" and one.ok]
    return max(drills, key=lambda one: one.at, default=None)


def _load(path: Path) -> _Book:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Book)
    except (OSError, msgspec.MsgspecError):
        return _Book()


def _store(path: Path, book: _Book) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(book))
        temporary.replace(path)
    except OSError:
        return  # then it is read again
