"""The audit trail: what was done with a repository, in records that name those before them.

A record is a sealed object with a name of its own, ``audit/<month>/<number>-<time>-<id>``. It
holds the SHA-256 of every *head* that its writer saw: of each record that no other record
names. Two hosts may write at once; then two records name the same one, and the next writer
names both. So the trail is a graph with one root rather than a line, and a fork is no fault.
A record that is altered does not open; one that is removed is still named by those after it.
That the newest ones are gone only somebody can tell who remembers them: this machine does, and
the secondary holds copies.
docs/format.md, "The audit trail", is normative.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aurora import clock
from aurora.errors import IntegrityError, ObjectMissing
from aurora.repository import canonical, envelope
from aurora.repository.damage import damaged
from aurora.repository.derive import MasterKey, derive
from aurora.repository.layout import FORMAT, SID_BYTES, ObjectType
from aurora.repository.once import put_once
from aurora.storage.base import Storage

_NAME = re.compile(r"audit/(\d{4}-\d{2})/(\d{8,12})-(\d{8}T\d{6}Z)-([0-9a-f]{16})\Z")
_TIME = "%Y%m%dT%H%M%SZ"
_WINDOW = 8  # a writer looks for heads among the records with the last so many numbers
_READERS = 8
_SID = bytes(SID_BYTES)  # records are of no session


@dataclass(frozen=True, slots=True, order=True)
class RecordName:
    """The parts of a record's name."""

    sequence: int  # one more than the highest number that the writer saw
    at: datetime  # when it was put, by the writer's clock, in whole seconds
    id: str  # 16 hex digits; the same for a record that was put twice

    @property
    def name(self) -> str:
        month = self.at.strftime("%Y-%m")
        return f"audit/{month}/{self.sequence:08}-{self.at.strftime(_TIME)}-{self.id}"

    @classmethod
    def parse(cls, name: str) -> "RecordName | None":
        """None for anything that is not the name of a record."""
        found = _NAME.match(name)
        if found is None:
            return None
        try:
            at = datetime.strptime(found[3], _TIME).replace(tzinfo=UTC)
        except ValueError:
            return None
        parsed = cls(int(found[2]), at, found[4])
        return parsed if parsed.name == name else None


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """A record, as those after it name it."""

    name: str
    sha256: str  # of the stored bytes

    def document(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Record:
    """A record that opened."""

    link: Link
    sequence: int
    previous: tuple[Link, ...]
    body: dict[str, Any]  # what the writer recorded, and what the trail added


@dataclass(slots=True)
class TrailReport:
    """What a look at the whole trail found."""

    records: int = 0
    first_at: str = ""
    last_at: str = ""
    heads: list[Link] = field(default_factory=list)
    forks: int = 0  # records beyond the first that go on from the same one
    altered: dict[str, str] = field(default_factory=dict)  # name -> what is wrong
    removed: dict[str, str] = field(default_factory=dict)  # name -> who says that it was there
    strangers: list[str] = field(default_factory=list)  # names below audit/ that are no records

    @property
    def ok(self) -> bool:
        return not (self.altered or self.removed)


class Trail:
    """The records on one storage (a primary, or a secondary's view). Threads may share it.

    Raises (all of its methods): StorageError.
    """

    def __init__(self, storage: Storage, master: MasterKey) -> None:
        self.storage = storage
        self._repository_id = master.repository_id
        self._key = envelope.SessionKey(
            _SID, derive(master.key, "audit", salt=master.repository_id)
        )

    def append(self, body: Mapping[str, Any], *, record_id: str | None = None) -> Link:
        """Put one more record; durable on return.

        A *record_id* that is there already is not put again: its link is returned.
        """
        now = clock.now().replace(microsecond=0)
        names = self._recent(now)
        record_id = record_id or secrets.token_hex(8)
        for one in names:
            if one.id == record_id:
                return self._link(one.name)
        heads = self._heads(names)
        sequence = _after(heads)
        name = RecordName(sequence, now, record_id).name
        document = {
            **body,
            "format": FORMAT,
            "id": record_id,
            "previous": [head.document() for head in heads],
            "recorded_at": clock.isoformat(now),
            "repository": self._repository_id.hex(),
            "sequence": sequence,
        }
        stored = envelope.seal(
            canonical.dumps(document),
            kind=ObjectType.AUDIT,
            name=name,
            repository_id=self._repository_id,
            session=self._key,
        )
        put_once(self.storage, name, stored)
        return Link(name, hashlib.sha256(stored).hexdigest())

    def names(self) -> list[RecordName]:
        """The names of all records, oldest first."""
        return sorted(self._listed(ObjectType.AUDIT.prefix))

    def read(self, name: str) -> Record:
        """One record, proven. Raises ObjectMissing, ObjectDamaged."""
        return self._open(name, self.storage.get(name))

    def records(
        self,
        *,
        newest_first: bool = True,
        wanted: Callable[[RecordName], bool] = lambda _: True,
        on_damage: Callable[[str, IntegrityError], None] | None = None,
    ) -> Iterator[Record]:
        """All records, in order, each read when it is asked for (a few ahead).

        A damaged one is told to *on_damage* and passed over; a record that was put twice
        comes once.
        """
        names = [one for one in self.names() if wanted(one)]
        if newest_first:
            names.reverse()
        seen: set[str] = set()
        with ThreadPoolExecutor(_READERS, thread_name_prefix="aurora-audit") as pool:
            for at in range(0, len(names), _READERS * 2):
                batch = [one for one in names[at : at + _READERS * 2] if one.id not in seen]
                for one, outcome in zip(batch, pool.map(self._attempt, batch), strict=True):
                    if isinstance(outcome, Record):
                        if one.id not in seen:
                            seen.add(one.id)
                            yield outcome
                    elif on_damage is not None:
                        on_damage(one.name, outcome)

    def examine(
        self, *, remembered: Iterable[Link] = (), other: "Trail | None" = None
    ) -> TrailReport:
        """Look at every record, and at what says that there was one.

        Args:
            remembered: records that this machine has seen.
            other: the secondary's trail; what it holds and this one lacks was removed here,
                unless it was recorded there while the primary was away.
        """
        report = TrailReport()
        held = {info.name for info in self.storage.list(ObjectType.AUDIT.prefix)}
        report.strangers = sorted(name for name in held if RecordName.parse(name) is None)
        links: dict[str, str] = {}
        named: dict[Link, list[str]] = {}
        roots = 0
        for one, outcome in self._every(sorted(held - set(report.strangers))):
            if isinstance(outcome, Record):
                _take(report, outcome, links, named)
                roots += not outcome.previous
            elif not isinstance(outcome, ObjectMissing):
                report.altered[one] = str(outcome.context.get("reason", outcome.message))
        for link, by in named.items():
            self._compare(report, link, links, f"named by {by[0]}")
            report.forks += len(by) - 1
        report.forks += max(roots - 1, 0)
        for link in remembered:
            self._compare(report, link, links, "seen by this machine")
        if other is not None:
            for name in other.only_there(held):
                report.removed.setdefault(name, "the secondary holds it")
        before = {link.name for link in named}
        report.heads = [Link(n, sha) for n, sha in sorted(links.items()) if n not in before]
        return report

    def only_there(self, held: Collection[str]) -> list[str]:
        """Names of records here that are not among *held* and were not written here first."""
        found = [one.name for one in self.names() if one.name not in held]
        return [
            name
            for name, outcome in self._every(found)
            if not (isinstance(outcome, Record) and outcome.body.get("storage") == "secondary")
        ]

    def _compare(
        self, report: TrailReport, link: Link, links: Mapping[str, str], witness: str
    ) -> None:
        there = links.get(link.name)
        if there is None and link.name not in report.altered:
            report.removed.setdefault(link.name, witness)
        elif there is not None and there != link.sha256:
            report.altered[link.name] = f"it is another record than the one {witness}"

    def _recent(self, now: datetime) -> list[RecordName]:
        """The records of this month and the one before; all of them where there are none."""
        months = [now, now.replace(day=1) - timedelta(days=1)]
        found = [
            one for month in months for one in self._listed(f"audit/{month.strftime('%Y-%m')}/")
        ]
        return sorted(found) or self.names()

    def _listed(self, prefix: str) -> list[RecordName]:
        parsed = (RecordName.parse(info.name) for info in self.storage.list(prefix))
        return [one for one in parsed if one is not None]

    def _heads(self, names: Sequence[RecordName]) -> list[Link]:
        """Those of the last records that none of them names."""
        if not names:
            return []
        newest = max(one.sequence for one in names)
        window = [one.name for one in names if one.sequence > newest - _WINDOW]
        links: list[Link] = []
        named: set[str] = set()
        with ThreadPoolExecutor(_READERS, thread_name_prefix="aurora-audit") as pool:
            for name, stored in zip(window, pool.map(self._stored, window), strict=True):
                if stored is None:
                    continue  # gone since the listing; what names it will tell
                links.append(Link(name, hashlib.sha256(stored).hexdigest()))
                try:
                    named |= {link.name for link in self._open(name, stored).previous}
                except IntegrityError:
                    continue  # it is named as it is; `audit verify` tells that it is altered
        return sorted(link for link in links if link.name not in named)

    def _link(self, name: str) -> Link:
        return Link(name, hashlib.sha256(self.storage.get(name)).hexdigest())

    def _stored(self, name: str) -> bytes | None:
        try:
            return self.storage.get(name)
        except ObjectMissing:
            return None

    def _attempt(self, one: RecordName) -> Record | IntegrityError:
        try:
            return self.read(one.name)
        except IntegrityError as error:
            return error

    def _every(self, names: Sequence[str]) -> Iterator[tuple[str, Record | IntegrityError]]:
        parsed = [one for name in names if (one := RecordName.parse(name))]
        with ThreadPoolExecutor(_READERS, thread_name_prefix="aurora-audit") as pool:
            for at in range(0, len(parsed), 256):
                batch = parsed[at : at + 256]
                found = pool.map(self._attempt, batch)
                yield from zip((one.name for one in batch), found, strict=True)

    def _open(self, name: str, stored: bytes) -> Record:
        payload = envelope.open_sealed(
            stored,
            kind=ObjectType.AUDIT,
            name=name,
            repository_id=self._repository_id,
            session=self._key,
        )
        parsed = RecordName.parse(name)
        try:
            body = canonical.loads(payload)
            previous = tuple(Link(one["name"], one["sha256"]) for one in body["previous"])
            recorded = clock.parse(body["recorded_at"])
            says = RecordName(body["sequence"], recorded, body["id"])
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(name, "it is not a record") from error
        if says != parsed or body.get("repository") != self._repository_id.hex():
            raise damaged(name, "it is another record than its name says")
        link = Link(name, hashlib.sha256(stored).hexdigest())
        return Record(link, says.sequence, previous, body)


def bring_records(source: Storage, target: Storage) -> list[str]:
    """Put on *target* the records that only *source* holds; their names. Needs no key.

    Raises:
        StorageError, IntegrityError: a record cannot be read from *source*.
    """
    prefix = ObjectType.AUDIT.prefix
    held = {info.name for info in target.list(prefix)}
    brought = []
    for info in source.list(prefix):
        if info.name not in held and RecordName.parse(info.name):
            put_once(target, info.name, source.get(info.name))
            brought.append(info.name)
    return brought


def _take(
    report: TrailReport, record: Record, links: dict[str, str], named: dict[Link, list[str]]
) -> None:
    name = record.link.name
    links[name] = record.link.sha256
    report.records += 1
    at = str(record.body["recorded_at"])
    report.first_at = min(report.first_at or at, at)
    report.last_at = max(report.last_at, at)
    for link in record.previous:
        named.setdefault(link, []).append(name)
    if record.sequence != _after(record.previous):
        report.altered[name] = "its number does not follow those that it names"


def _after(previous: Iterable[Link]) -> int:
    names = (RecordName.parse(link.name) for link in previous)
    return max((one.sequence for one in names if one), default=0) + 1
