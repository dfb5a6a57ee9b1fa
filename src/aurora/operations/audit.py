"""The audit trail of a repository: who did what with it, when, and how it ended.

One call records something::

    record(repository, "restore", "ok", {"backup": "…", "target": "…"}, spool=directory)

It never fails the run that it tells of: a record is written to the spool, a directory of this
machine, first; what cannot be put on the storage now stays there and goes with the next one.
Facts are plain JSON and hold no secret: passwords in connection strings are masked here as
well, and numbers with a fraction become decimal strings, for canonical JSON has none.
"""

import fcntl
import getpass
import json
import os
import secrets
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

from aurora import clock
from aurora.errors import AuroraError, UsageError
from aurora.events import EventSink, Warned, discard
from aurora.postgres.conninfo import redact
from aurora.repository.door import Repository
from aurora.repository.mirror import MirrorView
from aurora.repository.trail import Link, Record, RecordName, TrailReport
from aurora.storage.base import Storage
from aurora.version import __version__

Kind = Literal[
    "run",  # a backup was made, copied or healed
    "restore",
    "verify",
    "prune",
    "key",
    "configuration",
    "drill",
    "recovery-test",
    "incident",
]
KINDS: tuple[str, ...] = get_args(Kind)
OK = "ok"

_MAX_TEXT = 16 * 1024  # characters of one string among the facts
_MAX_ITEMS = 20_000  # of one list among the facts
_MAX_BODY = 16 * 2**20  # bytes of a record
_SPOOLED = ".json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the trail, for reading."""

    name: str  # of the object
    id: str
    sequence: int
    at: datetime  # when it happened
    kind: str
    operation: str  # such as "backup create"
    outcome: str
    database: str
    host: str
    user: str
    facts: dict[str, Any]
    attachments: dict[str, str] = field(default_factory=dict)  # file name -> text

    @classmethod
    def of(cls, record: Record) -> "Entry":
        body = record.body
        return cls(
            name=record.link.name,
            id=str(body["id"]),
            sequence=record.sequence,
            at=clock.parse(str(body["at"])),
            kind=str(body["kind"]),
            operation=str(body.get("operation", "")),
            outcome=str(body["outcome"]),
            database=str(body.get("database", "")),
            host=str(body.get("host", "")),
            user=str(body.get("user", "")),
            facts=dict(body.get("facts", {})),
            attachments=dict(body.get("attachments", {})),
        )

    def document(self) -> dict[str, Any]:
        """For ``--json``; attachments by name and length only."""
        return {
            "name": self.name,
            "id": self.id,
            "sequence": self.sequence,
            "at": clock.isoformat(self.at),
            "kind": self.kind,
            "operation": self.operation,
            "outcome": self.outcome,
            "database": self.database,
            "host": self.host,
            "user": self.user,
            "facts": self.facts,
            "attachments": {name: len(text) for name, text in self.attachments.items()},
        }


def record(
    repository: Repository | None,
    kind: Kind,
    outcome: str,
    facts: Mapping[str, Any],
    *,
    operation: str = "",
    database: str = "",
    attachments: Mapping[str, str] | None = None,
    spool: Path | None = None,
    sink: EventSink = discard,
) -> str:
    """Record that something was done; the record's id, 16 hex digits.

    Args:
        repository: opened, on the storage to record on; None where it could not be opened:
            the record waits in the spool.
        outcome: ``ok``, ``failed``, ``cancelled``, or a word of the operation's own.
        facts: what a reader needs to know: JSON, no secrets.
        operation: the command, such as ``backup create``.
        attachments: whole texts to keep with it, such as a report, by file name.
        spool: where what cannot be put now is kept, ``Spool`` of this machine.

    A storage or a disk that fails is told to *sink*, never raised.
    """
    if kind not in KINDS:
        raise UsageError(f"no kind of audit record is called {kind!r}")
    record_id = secrets.token_hex(8)
    body: dict[str, Any] = {
        "at": clock.isoformat(clock.now()),
        "aurora": __version__,
        "database": database,
        "facts": plain(facts),
        "host": socket.gethostname(),
        "id": record_id,
        "kind": kind,
        "operation": operation,
        "outcome": outcome,
        "user": _user(),
    }
    if attachments:
        body["attachments"] = {name: _clean(text) for name, text in attachments.items()}
    body = _bounded(body)
    waiting = Spool(spool) if spool is not None else None
    if waiting is not None and waiting.keep(body, repository, sink):
        if repository is not None:
            waiting.upload(repository, sink)
        return record_id
    if repository is None:
        sink(_unrecorded("there is no repository to record it in"))
        return record_id
    try:
        _append(repository, body)
    except AuroraError as error:
        sink(_unrecorded(error.message))
    return record_id


def entries(
    repository: Repository,
    *,
    kinds: Collection[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    newest_first: bool = True,
    sink: EventSink = discard,
) -> Iterator[Entry]:
    """The trail's records, each read as it is asked for; damaged ones are told to *sink*.

    Raises:
        StorageError, and what opening the repository's storage raises.
    """

    def wanted(name: RecordName) -> bool:
        # A record may have waited in a spool: what was put later can tell of earlier.
        return since is None or name.at >= since.replace(microsecond=0)

    def told(name: str, error: AuroraError) -> None:
        sink(Warned("audit-damaged", f"audit record {name} cannot be read: {error.message}"))

    for one in repository.trail().records(newest_first=newest_first, wanted=wanted, on_damage=told):
        entry = Entry.of(one)
        if kinds is not None and entry.kind not in kinds:
            continue
        if (since and entry.at < since) or (until and entry.at > until):
            continue
        yield entry


def find(repository: Repository, text: str) -> Entry:
    """The record whose id, number or name is *text*. Raises UsageError, IntegrityError."""
    trail = repository.trail()
    found = [
        one
        for one in trail.names()
        if text == one.name
        or (len(text) >= 4 and one.id.startswith(text))
        or (text.isdecimal() and len(text) < 10 and one.sequence == int(text))
    ]
    if len({one.id for one in found}) != 1:
        how = "no audit record is" if not found else f"{len(found)} audit records are"
        raise UsageError(
            f"{how} called {text[:80]}", hint="`aurora audit show` lists numbers and ids."
        )
    return Entry.of(trail.read(found[0].name))


def verify(
    repository: Repository,
    *,
    open_mirror: Callable[[], Storage] | None = None,
    spool: Path | None = None,
    sink: EventSink = discard,
) -> TrailReport:
    """Look at the whole trail: does every record open, is every one that is named there?

    Args:
        open_mirror: opens the secondary, whose copies tell what was removed here.
        spool: this machine's, which remembers the newest records that it saw.

    Raises:
        StorageError.
    """
    waiting = Spool(spool) if spool is not None else None
    remembered = waiting.remembered(repository) if waiting else ()
    other = None
    if open_mirror is not None:
        try:
            other = repository.trail(open_mirror())
        except AuroraError as error:
            sink(Warned("secondary-not-asked", f"the secondary was not asked: {error.message}"))
    report = repository.trail().examine(remembered=remembered, other=other)
    if waiting is not None and report.ok:
        waiting.remember(repository, report.heads)
    return report


class Spool:
    """What this machine still has to record, and the newest records that it has seen.

    One directory (mode 0700): a file ``<id>.json`` for each record that waits, and
    ``seen.json``. Losing it loses what waits, and the memory of the newest records.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def keep(self, body: Mapping[str, Any], repository: Repository | None, sink: EventSink) -> bool:
        """Write a record down, durably; False, and *sink* is told, where the disk refuses."""
        kept = {
            "body": body,
            "repository": repository.repository_id.hex() if repository is not None else None,
        }
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_file(self.directory / f"{body['id']}{_SPOOLED}", json.dumps(kept))
        except OSError as error:
            sink(
                Warned(
                    "audit-spool",
                    f"{self.directory} cannot be written: {error.strerror}",
                    hint="What cannot be put on the storage at once is not recorded then.",
                )
            )
            return False
        return True

    def waiting(self) -> list[Path]:
        """The files of records that wait, oldest first."""
        found = [path for path in self.directory.glob(f"*{_SPOOLED}") if path.name != _SEEN]
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def upload(self, repository: Repository, sink: EventSink) -> None:
        """Put what waits for this repository on its storage; what fails goes on waiting."""
        try:
            with _alone(self.directory):
                self._upload(repository)
        except AuroraError as error:
            number = len(self.waiting())
            sink(
                Warned(
                    "audit-waiting",
                    f"{number} audit records wait on this machine: {error.message}",
                    hint="The next run puts them on the storage.",
                )
            )
        except OSError as error:
            sink(Warned("audit-spool", f"{self.directory} cannot be read: {error.strerror}"))

    def remember(self, repository: Repository, heads: Collection[Link]) -> None:
        """Keep in mind the newest records. Raises OSError."""
        known = {
            "repository": repository.repository_id.hex(),
            "heads": [head.document() for head in sorted(heads)],
        }
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_file(self.directory / _SEEN, json.dumps(known))

    def remembered(self, repository: Repository) -> tuple[Link, ...]:
        """The newest records of this repository that this machine has seen."""
        try:
            known = json.loads((self.directory / _SEEN).read_text())
            if known["repository"] != repository.repository_id.hex():
                return ()
            return tuple(Link(str(one["name"]), str(one["sha256"])) for one in known["heads"])
        except (OSError, ValueError, KeyError, TypeError):
            return ()

    def _upload(self, repository: Repository) -> None:
        heads: list[Link] = []
        try:
            for path in self.waiting():
                try:
                    kept = json.loads(path.read_text())
                    body = dict(kept["body"])
                    record_id = str(body["id"])
                except (ValueError, KeyError, TypeError):
                    path.replace(path.with_suffix(".unreadable"))  # a full disk cut it off
                    continue
                if kept.get("repository") in (None, repository.repository_id.hex()):
                    heads = [_append(repository, body, record_id)]
                    path.unlink(missing_ok=True)
        finally:
            if heads and not isinstance(repository.storage, MirrorView):
                self.remember(repository, heads)


_SEEN = "seen.json"


def plain(value: Any) -> Any:
    """*value* as facts may hold it: JSON without fractions, passwords masked, long texts cut."""
    match value:
        case None | bool():
            return value
        case int():
            return value if abs(value) < 2**63 else str(value)
        case float():
            return format(value, ".6f").rstrip("0").rstrip(".")
        case str() | PurePath():
            text = _clean(str(value))
            return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
        case datetime():
            return clock.isoformat(value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            items = sorted(value) if isinstance(value, set | frozenset) else value
            cut = [plain(item) for item in items[:_MAX_ITEMS]]
            return cut + [f"and {len(value) - _MAX_ITEMS} more"] * (len(value) > _MAX_ITEMS)
        case _:
            raise UsageError(f"an audit record cannot hold a {type(value).__name__}")


def _clean(text: str) -> str:
    """Without passwords, and without what UTF-8 cannot say."""
    return redact(text).encode(errors="replace").decode()


def _append(repository: Repository, body: Mapping[str, Any], record_id: str | None = None) -> Link:
    place = "secondary" if isinstance(repository.storage, MirrorView) else "primary"
    return repository.trail().append(
        {**body, "storage": place}, record_id=record_id or str(body["id"])
    )


def _bounded(body: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(body, ensure_ascii=False).encode(errors="replace"))
    if size <= _MAX_BODY:
        return body
    note = f"left out: the record was {size} bytes"
    smaller = {key: value for key, value in body.items() if key != "attachments"}
    if "attachments" in body and len(json.dumps(smaller)) <= _MAX_BODY:
        smaller["attachments"] = dict.fromkeys(body["attachments"], note)
        return smaller
    return {**smaller, "facts": {"note": note}}


def _unrecorded(why: str) -> Warned:
    return Warned(
        "not-recorded",
        f"this run is not in the audit trail: {why}",
        hint="What was done is done. `aurora audit show` lists what is recorded.",
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # a container's user without a name


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """No other process of this machine uploads from *directory* meanwhile."""
    with (directory / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_file(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
