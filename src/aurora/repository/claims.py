"""Claims: which of several hosts runs a job that is due, agreed on by a storage alone.

Every object has a new name and none is changed, so nothing depends on conditional puts. A
*contender* (one try of one host) puts ``….want``, then lists. It takes the job if nobody has
taken it and every other contender has given up; where a smaller one is in the running it
gives up itself. Of two contenders the one whose ``want`` came later lists the other's, so
never do both take. Once anybody has taken in a *round*, nobody else ever takes in it.

One that died in between would block the others: whoever shows no new mark for ``dead``
seconds of the observer's own time counts as dead. A contender therefore takes nothing, and a
taker trusts itself no longer, ``trust`` seconds after its last mark; no two clocks are
compared. A dead taker's job is claimed anew, in the next round.

Where a listing shows a new object late, two hosts may both take: ``settle`` is how long to
wait for it. A job that is done twice costs time and nothing else.
"""

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Literal

from aurora import clock
from aurora.errors import AuroraError, IntegrityError
from aurora.repository import signed
from aurora.repository.layout import FORMAT, ObjectType, check_database
from aurora.repository.leases import elapsed_clock
from aurora.storage.base import ObjectInfo, Storage

KEPT = timedelta(days=8)
"""Claims older than this by the storage's clock are deleted by whoever claims next."""

_TIME = "%Y%m%dT%H%M%SZ"
_TAIL = re.compile(
    r"([a-z_]{1,32})/(\d{8}T\d{6}Z)\.(\d{1,4})"
    r"/([0-9a-f]{16})([0-9a-f]{8})\.(want|lost|take|beat(\d{1,6})|done|free)\Z"
)

Kind = Literal["want", "lost", "take", "beat", "done", "free"]


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds."""

    settle: float = 1.0  # between the want and the look at the others
    poll: float = 0.5
    patience: float = 20.0  # longest wait for others to give up; then it is tried again later
    beat: float = 60.0  # how often a taker says that it is alive
    trust: float = 240.0
    dead: float = 600.0


class Answer(Enum):
    """Whether a job may be run."""

    MINE = "mine"
    DONE = "done"  # by somebody, maybe by this host before
    ELSEWHERE = "elsewhere"  # another host is at it; ask again later


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """One object of a claim."""

    round: int
    host: str  # 16 hex digits, one for each installation
    nonce: str  # 8 hex digits, one for each try
    kind: Kind = "want"
    number: int = 0  # of a beat

    @property
    def contender(self) -> str:
        return self.host + self.nonce

    @property
    def tail(self) -> str:
        """The last steps of its name."""
        number = str(self.number) if self.kind == "beat" else ""
        return f"{self.round}/{self.contender}.{self.kind}{number}"


@dataclass(frozen=True, slots=True)
class Put:
    """A step of the protocol: put this mark."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class Look:
    """A step: list all marks of the due time; answered with them."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A step: let time pass."""

    seconds: float


@dataclass(slots=True)
class Seen:
    """What one host has seen of the others, by its own clock; kept between tries."""

    marks: dict[tuple[str, int, str], tuple[int, float]] = field(default_factory=dict)

    def is_dead(self, key: tuple[str, int, str], count: int, now: float, dead: float) -> bool:
        """Whether a contender has shown no new mark for long."""
        before, since = self.marks.get(key, (-1, now))
        if before != count:
            self.marks[key] = (count, now)
            return False
        return now - since > dead


@dataclass(frozen=True, slots=True)
class Table:
    """The marks of one round."""

    marks: tuple[Mark, ...]

    @classmethod
    def of(cls, marks: Iterable[Mark], number: int) -> "Table":
        return cls(tuple(one for one in marks if one.round == number))

    def has(self, contender: str, *kinds: Kind) -> bool:
        return any(one.contender == contender and one.kind in kinds for one in self.marks)

    def progress(self, contender: str) -> int:
        """A number that grows with each new mark, also where old beats were deleted."""
        own = [one for one in self.marks if one.contender == contender]
        return sum(one.kind != "beat" for one in own) + max(
            (one.number + 1 for one in own if one.kind == "beat"), default=0
        )

    def having(self, kind: Kind) -> list[str]:
        """The contenders that put such a mark."""
        return sorted({one.contender for one in self.marks if one.kind == kind})

    @property
    def is_closed(self) -> bool:
        """Whether somebody took, ever: then nobody else does in this round."""
        return any(one.kind == "take" for one in self.marks)

    @property
    def open(self) -> list[str]:
        """Contenders that have neither given up nor taken."""
        return [one for one in self.having("want") if not self.has(one, "lost", "take")]


def contend(
    me: Mark, label: str, seen: Seen, timing: Timing, elapsed: Callable[[], float]
) -> Generator[Put | Look | Wait, tuple[Mark, ...], tuple[Answer, Mark]]:
    """The protocol as steps, without any input or output of its own.

    *me* tells host and nonce. Returns the answer and the mark ``take`` where it is ``MINE``.
    """
    marks = yield Look()
    number = max((one.round for one in marks), default=0)
    found = _standing(Table.of(marks, number), me, (label, number), seen, timing, elapsed)
    if found is not None:
        return found, me
    number += int(Table.of(marks, number).is_closed)
    begun = elapsed()
    mine = Mark(number, me.host, me.nonce)

    def mark(kind: Kind) -> Mark:
        return Mark(number, me.host, me.nonce, kind)

    yield Put(mine)
    yield Wait(timing.settle)
    while True:
        table = Table.of((yield Look()), number)
        # Earlier tries of this host are over: it makes one at a time.
        others = [one for one in table.open if not one.startswith(me.host)]
        alive = [
            one
            for one in others
            if not seen.is_dead((label, number, one), table.progress(one), elapsed(), timing.dead)
        ]
        late = elapsed() - begun > timing.patience or not table.has(mine.contender, "want")
        if table.is_closed or late or any(one < mine.contender for one in alive):
            yield Put(mark("lost"))
            return Answer.ELSEWHERE, mine
        if not alive:
            break
        yield Wait(timing.poll)
    yield Put(mark("take"))
    if elapsed() - begun > timing.trust:
        # Somebody may have taken this try for dead meanwhile.
        yield Put(mark("free"))
        return Answer.ELSEWHERE, mine
    return Answer.MINE, mark("take")


def _standing(
    table: Table,
    me: Mark,
    place: tuple[str, int],
    seen: Seen,
    timing: Timing,
    elapsed: Callable[[], float],
) -> Answer | None:
    """What a round that somebody took says; None where the job may be claimed."""
    for holder in table.having("take"):
        if table.has(holder, "done"):
            return Answer.DONE
        # Given back, or taken by this host, which was killed at it.
        if table.has(holder, "free") or holder.startswith(me.host):
            continue
        key = (*place, holder)
        if not seen.is_dead(key, table.progress(holder), elapsed(), timing.dead):
            return Answer.ELSEWHERE
    return None


class Claim:
    """A job that is this host's to run. Beat it while the job runs, then end it."""

    def __init__(self, put: Callable[[Mark], None], delete: Callable[[list[Mark]], None],
                 mark: Mark, timing: Timing, elapsed: Callable[[], float]) -> None:  # fmt: skip
        self._put = put
        self._delete = delete
        self._mark = mark
        self._timing = timing
        self._elapsed = elapsed
        self._beat_at = elapsed()
        self._tried_at = self._beat_at
        self._beats = 0

    def beat(self) -> None:
        """Say that it is alive, as often as that is due; an error is tried again."""
        now = self._elapsed()
        if now - self._beat_at < self._timing.beat or now - self._tried_at < self._timing.poll:
            return
        self._tried_at = now
        try:
            self._put(self._of("beat", self._beats))
            self._beats += 1
            self._beat_at = now
            if self._beats > 1:
                self._delete([self._of("beat", self._beats - 2)])
        except AuroraError:
            return

    def is_fresh(self) -> bool:
        """Whether no other host may take it for dead: else the job has to be stopped."""
        return self._elapsed() - self._beat_at < self._timing.trust

    def end(self, *, done: bool) -> None:
        """The job is done, well or badly; or it was stopped and anybody may go on with it.

        Failing to say so is harmless: it then looks as if this host had died.
        """
        try:
            self._put(self._of("done" if done else "free"))
            if self._beats:
                self._delete([self._of("beat", self._beats - 1)])
        except AuroraError:
            return

    def _of(self, kind: Kind, number: int = 0) -> Mark:
        return Mark(self._mark.round, self._mark.host, self._mark.nonce, kind, number)


class Claims:
    """The claims of one database's jobs in one repository, as one host makes them."""

    def __init__(
        self,
        storage: Storage,
        *,
        repository_id: bytes,
        mac_key: bytes,
        database: str,
        host: str,
        timing: Timing | None = None,
        elapsed: Callable[[], float] = elapsed_clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """*host*: 16 hex digits, this installation's alone."""
        self._storage = storage
        self._repository_id = repository_id
        self._mac_key = mac_key
        self._prefix = f"{ObjectType.CLAIM.prefix}{check_database(database)}/"
        self._host = host
        self._timing = timing or Timing()
        self._elapsed = elapsed
        self._sleep = sleep
        self._seen = Seen()
        self._known: dict[str, bool] = {}  # name -> whether it is genuine

    def acquire(self, job: str, due: datetime) -> tuple[Answer, Claim | None]:
        """Claim the run of *job* that is due at *due*; the claim where it is ours.

        Raises:
            StorageError: nothing is known; the job must not be run.
        """
        label = f"{job}/{due.strftime(_TIME)}"
        me = Mark(0, self._host, secrets.token_hex(4))
        result, mark = self._drive(
            contend(me, label, self._seen, self._timing, self._elapsed), job, label
        )
        if result is not Answer.MINE:
            return result, None

        def put(one: Mark) -> None:
            self._put(label, one)

        def delete(marks: list[Mark]) -> None:
            self._storage.delete([self._name(label, one) for one in marks])

        return result, Claim(put, delete, mark, self._timing, self._elapsed)

    def _drive(
        self,
        steps: Generator[Put | Look | Wait, tuple[Mark, ...], tuple[Answer, Mark]],
        job: str,
        label: str,
    ) -> tuple[Answer, Mark]:
        answer: tuple[Mark, ...] = ()
        try:
            step = next(steps)
            while True:
                if isinstance(step, Put):
                    self._put(label, step.mark)
                elif isinstance(step, Wait):
                    self._sleep(step.seconds)
                else:
                    answer = self._marks(job, label)
                step = steps.send(answer)
        except StopIteration as end:
            result: tuple[Answer, Mark] = end.value
            return result

    def _name(self, label: str, mark: Mark) -> str:
        return f"{self._prefix}{label}.{mark.tail}"

    def _put(self, label: str, mark: Mark) -> None:
        name = self._name(label, mark)
        document: signed.Document = {
            "format": FORMAT,
            "kind": "claim",
            "put_at": clock.isoformat(clock.now()),
            "repository": self._repository_id.hex(),
        }
        self._storage.put(name, self._signed(document, name))

    def _signed(self, document: signed.Document, name: str) -> bytes:
        return signed.write_clear(
            document, name=name, repository_id=self._repository_id, mac_key=self._mac_key
        )

    def _marks(self, job: str, label: str) -> tuple[Mark, ...]:
        """The genuine marks of one due time; old ones of the job are deleted on the way."""
        found: list[Mark] = []
        others: list[ObjectInfo] = []
        for info in self._storage.list(f"{self._prefix}{job}/"):
            parts = _TAIL.match(info.name.removeprefix(self._prefix))
            if parts is None:
                continue
            if f"{parts[1]}/{parts[2]}" != label:
                others.append(info)
            elif self._is_genuine(info.name):
                found.append(_mark(parts))
        newest = max((one.modified_at for one in others), default=None)
        old = [one.name for one in others if newest and newest - one.modified_at > KEPT]
        if old:
            # On a storage that nothing may be deleted from they stay: they are small.
            with contextlib.suppress(AuroraError):
                self._storage.delete(old)
        return tuple(found)

    def _is_genuine(self, name: str) -> bool:
        """Whether an owner of the master key put it: nobody else keeps a job from running."""
        if name not in self._known:
            try:
                document = signed.read_clear(self._storage.get(name), name=name)
                signed.prove_clear(
                    document, name=name, repository_id=self._repository_id, mac_key=self._mac_key
                )
                self._known[name] = True
            except IntegrityError:
                self._known[name] = False
        return self._known[name]


def _mark(parts: re.Match[str]) -> Mark:
    kind: Kind = "beat" if parts[6].startswith("beat") else parts[6]  # type: ignore[assignment]
    return Mark(int(parts[3]), parts[4], parts[5], kind, int(parts[7] or 0))
