"""The detector on a live stream: it is shown every segment, and tells what looks like an accident.

It never acts and never stops the stream: what goes wrong in here ends the lookout alone.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aurora.engines.logical.pgoutput import format_lsn
from aurora.errors import AuroraError
from aurora.events import EventSink, Warned
from aurora.operations.incident.detector import Detector, Limits, Suspicion
from aurora.operations.log import TransactionReader

Alarm = Callable[[Suspicion], None]
TOLD = ("critical", "high")  # milder ones are for `assess`


@dataclass(slots=True)
class Lookout:
    """Give :meth:`see` to a stream.

    Args:
        sizes: gives the rows of each table, once, when the first segment comes.
        alarm: is told what is at least high; its AuroraErrors become warnings.
    """

    sizes: Callable[[], Mapping[str, int]]
    limits: Limits
    alarm: Alarm
    sink: EventSink
    _detector: Detector | None = None
    _reader: TransactionReader = field(default_factory=TransactionReader)
    _seen: int = 0  # the end of the last transaction: a stream that begins again repeats some

    def see(self, payload: bytes) -> None:
        """Take in a segment, as it will be stored."""
        if self._detector is None:
            self._detector = Detector(self._known_sizes(), self.limits)
        try:
            for one in self._reader.read(payload):
                if one.end_lsn <= self._seen:
                    continue
                self._seen = one.end_lsn
                for told in self._detector.see(one):
                    if told.severity in TOLD:
                        self._tell(told)
        except (ValueError, IndexError, struct.error):
            # The stream broke off within a message and began again before it.
            self._reader = TransactionReader()

    def _known_sizes(self) -> Mapping[str, int]:
        try:
            return self.sizes()
        except AuroraError as error:
            self.sink(Warned("anomaly-sizes", f"tables' sizes are not known: {error.message}"))
            return {}

    def _tell(self, told: Suspicion) -> None:
        self.sink(
            Warned(
                "anomaly",
                f"unusual changes: {told.reasons[0]} (transaction {told.xid}, LSN "
                f"{format_lsn(told.lsn)})",
                "Nothing was changed. Look at it: aurora incident assess",
            )
        )
        try:
            self.alarm(told)
        except (AuroraError, OSError) as error:
            self.sink(Warned("anomaly-alarm", f"the alarm could not be raised: {error}"))
