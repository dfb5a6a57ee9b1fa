"""The continuous stream of the change log."""

import threading
from collections.abc import Callable

from aurora.api.anomalies import lookout
from aurora.api.audit import recorded
from aurora.api.backups import create_backup
from aurora.api.common import memory_of
from aurora.events import EventSink, discard
from aurora.operations import stream as stream_operation
from aurora.operations.backup import BackupReport
from aurora.operations.stream import StreamOptions, StreamState
from aurora.operations.stream_fulls import MakeFull
from aurora.wiring import Aurora


def stream(
    aurora: Aurora,
    *,
    stop: threading.Event | None = None,
    on_status: Callable[[StreamState], None] = lambda _: None,
    sink: EventSink = discard,
) -> StreamState:
    """Store the source's change log as it is written, until *stop* is set.

    Args:
        stop: may be set from any thread; then what has come is stored and this returns.
        on_status: gets the state about once a second.

    Raises: see :func:`aurora.operations.stream.stream`.
    """

    def full(_why: str, hear: EventSink) -> BackupReport:
        return create_backup(aurora, sink=hear)

    with recorded(aurora, "run", "stream", sink) as note:
        note.repository = aurora.open_primary()
        memory_of(aurora).check(note.repository, aurora.database)
        state = _stream(aurora, full, stop or threading.Event(), on_status, sink)
        note.facts |= {
            "transactions": state.transactions,
            "pieces": state.pieces,
            "log_bytes": state.log_bytes,
            "stored_bytes": state.stored_bytes,
            "safe_at": state.safe_at,
        }
    return state


def _stream(
    aurora: Aurora,
    full: MakeFull,
    stop: threading.Event,
    on_status: Callable[[StreamState], None],
    sink: EventSink,
) -> StreamState:
    settings = aurora.settings.stream
    return stream_operation.stream(
        aurora.source_dsn(),
        aurora.open_primary,
        StreamOptions(
            database=aurora.database,
            level=aurora.settings.backup.compression_level,
            skip=aurora.settings.backup.skip,
            interval=settings.interval,
            idle=settings.idle,
            max_wal=settings.max_wal,
            new_slot=settings.new_slot,
            settle=settings.settle,
            observe=lookout(aurora, sink).see,
        ),
        make_full=full,
        stop=stop,
        on_status=on_status,
        sink=sink,
    )
