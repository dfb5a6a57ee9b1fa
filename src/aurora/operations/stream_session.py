"""One session of a stream: from where the log ends until something fails or it is stopped."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aurora.engines.base import Buffer, Segment
from aurora.engines.logical.segments import CUT_BYTES, SegmentBuilder
from aurora.operations.stream_keeper import Keeper
from aurora.operations.stream_watch import Marks, Watch

_COMMIT_BYTES = 64 << 20  # received before a piece is committed without waiting
_IDLE_BYTES = 16 << 20  # of WAL that the slot may hold back for want of a stored position


@dataclass(slots=True)
class SessionFollower:
    """Cuts what is received into segments and pieces. Called by the receiver's thread alone.

    A :class:`aurora.engines.logical.receiver.Follower`.
    """

    keeper: Keeper
    watch: Watch
    marks: Marks
    stop: Callable[[], bool]
    told: Callable[[int, int], None]  # received, and proven to be kept
    interval: float
    idle: float
    segment_bytes: int = CUT_BYTES
    wants_boundary: bool = False
    _builder: SegmentBuilder = field(init=False)
    _cut_at: int = 0  # position of the last cut
    _cut_time: float = field(default_factory=time.monotonic)
    _since: float = 0.0  # when the oldest of what waits was received
    _sealed: int = 0  # bytes since the last cut

    def __post_init__(self) -> None:
        self._builder = SegmentBuilder(self._seal, cut_bytes=self.segment_bytes)
        self._cut_at = self.keeper.durable

    def take(self, lsn: int, message: Buffer) -> None:
        self._builder.add(lsn, message)

    def has_room(self) -> bool:
        return self.keeper.has_room()

    def at(self, position: int, *, in_transaction: bool, asked: bool) -> int:
        """Cut where it is time to."""
        self.keeper.check()
        if self.watch.error is not None:
            raise self.watch.error
        now = time.monotonic()
        waits = bool(self._sealed) or not self._builder.is_empty
        if not waits:
            self._since = 0.0
        elif not self._since:
            self._since = now
        due = asked or self._is_due(now, position) or self.stop()
        self.wants_boundary = due and in_transaction
        if due and not in_transaction and (waits or position > self._cut_at):
            self._builder.finish()
            self._cut(position)
            waits = False
        durable = self.keeper.durable
        kept = not waits and durable >= self._cut_at and not in_transaction
        self.told(position, position if kept else durable)
        return durable

    def stopped(self) -> bool:
        return self.stop()

    def finish(self, received: int) -> None:
        """Cut what there is of whole transactions, up to *received*, where the stream ended."""
        if self._builder.finish_whole() and (self._sealed or received > self._cut_at):
            self._cut(received)

    def _is_due(self, now: float, position: int) -> bool:
        if self._since:
            return now - self._since >= self.interval or self._sealed >= _COMMIT_BYTES
        quiet = now - self._cut_time
        behind = position - self._cut_at
        return behind > 0 and (
            quiet >= self.idle or (behind >= _IDLE_BYTES and quiet >= self.interval)
        )

    def _cut(self, position: int) -> None:
        self.keeper.cut(position, self.marks.at(position))
        self._cut_at, self._cut_time = position, time.monotonic()
        self._since, self._sealed = 0.0, 0

    def _seal(self, payload: bytes, segment: Segment) -> None:
        self._sealed += len(payload)
        self.keeper.take(payload, segment)
