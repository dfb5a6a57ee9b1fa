"""Which rows transactions of the log touched: their keys, into files, table by table.

One pass over the part of the log that matters. A key is a line of COPY text, so that it can
be copied into a table as it is. Memory stays flat: keys go to files.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from aurora.engines.logical import pgoutput
from aurora.engines.logical.lastrows import Shape, copy_fields, escape, new_row
from aurora.engines.logical.pgoutput import Values, read_values
from aurora.engines.logical.segments import FrameReader
from aurora.events import EventSink, discard
from aurora.operations.log import log_parts
from aurora.operations.point import Point
from aurora.repository.door import Ref, Repository

_NEW, _KEY, _OLD = ord("N"), ord("K"), ord("O")
BAD, MOVED, GOOD, ROWS = "bad", "moved", "good", "rows"


@dataclass(slots=True)
class TableKeys:
    """What was collected of one table."""

    shape: Shape
    counts: dict[str, int] = field(default_factory=dict)
    truncated: bool = False  # by a bad transaction
    updated_whole: int = 0  # rows updated by a bad transaction, of a table without a key

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Empty for a table that has no key in the log."""
        if self.shape.identity == "f":
            return ()
        return tuple(self.shape.columns[i] for i in self.shape.keys)


class LogKeys:
    """Collects into *directory*. Use it as a context manager.

    Files by table and kind: ``bad`` keys that bad transactions touched, ``moved`` keys that
    they gave to rows that had another, ``good`` keys that others touched later, and ``rows``:
    whole old rows, of tables without a key.
    """

    def __init__(self, directory: Path, bad: Collection[int], only: Collection[str] = ()) -> None:
        self._directory, self._bad, self._only = directory, frozenset(bad), frozenset(only)
        self._stack = ExitStack()
        self._files: dict[tuple[int, str], BinaryIO] = {}
        self._relations: dict[int, bytes] = {}
        self._begin: pgoutput.Begin | None = None
        self._reached = 0  # where the last transaction that was taken in ends
        self.tables: dict[int, TableKeys] = {}

    def __enter__(self) -> "LogKeys":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def path(self, oid: int, kind: str) -> Path:
        """The file of one kind of keys; it need not be there."""
        return self._directory / f"{kind}-{oid}"

    def collect(
        self, repository: Repository, database: str, point: Point, *, sink: EventSink = discard
    ) -> None:
        """Read from the point to the end of its log.

        Raises ObjectMissing, ObjectDamaged, StorageError.
        """
        run, cut = point.resolution.run, point.resolution.cut
        if run is None:
            return
        parts = {part.backup for part in run.parts}
        self._reached = cut.end_lsn if cut else 0
        floor = self._reached
        for backup_id, log in log_parts(repository, database, sink):
            if backup_id not in parts or (log.to_lsn and log.to_lsn <= floor):
                continue
            frames = FrameReader()
            for segment in log.segments:
                for message in frames.read(repository.read(Ref(segment.object, segment.raw))):
                    self._take(message)
        for file in self._files.values():
            file.flush()

    def _take(self, message: bytes) -> None:
        kind = message[0]
        if kind == pgoutput.RELATION:
            self._relations[pgoutput.relation_of(message)] = message
        elif kind == pgoutput.BEGIN:
            self._begin = pgoutput.read_begin(message)
        elif kind == pgoutput.COMMIT:
            self._reached = max(self._reached, pgoutput.read_commit(message).end_lsn)
        elif self._begin is not None and self._begin.final_lsn >= self._reached:
            self._change(kind, message, is_bad=self._begin.xid in self._bad)

    def _table(self, oid: int) -> TableKeys | None:
        found = self.tables.get(oid)
        if found is None:
            message = self._relations.get(oid)
            if message is None:
                return None
            shape = Shape.of(message)
            if self._only and shape.name not in self._only:
                return None
            found = self.tables[oid] = TableKeys(shape)
        return found

    def _change(self, kind: int, message: bytes, *, is_bad: bool) -> None:
        if kind == pgoutput.TRUNCATE:
            for oid in pgoutput.read_truncate(message).relations:
                if is_bad and (table := self._table(oid)) is not None:
                    table.truncated = True
            return
        if kind not in pgoutput.ROW_KINDS:
            return
        oid = pgoutput.relation_of(message)
        table = self._table(oid)
        if table is None:
            return
        if not table.key_columns:
            self._whole(oid, table, kind, message, is_bad=is_bad)
            return
        for line, moved in _keys(table.shape, kind, message):
            self._write(oid, table, BAD if is_bad else GOOD, line)
            if is_bad and moved:
                self._write(oid, table, MOVED, line)

    def _whole(
        self, oid: int, table: TableKeys, kind: int, message: bytes, *, is_bad: bool
    ) -> None:
        if not is_bad:
            return
        if kind == pgoutput.DELETE:
            old, _ = read_values(message, 6)
            self._write(oid, table, ROWS, b"\t".join(copy_fields(table.shape, old)))
        elif kind == pgoutput.UPDATE:
            table.updated_whole += 1

    def _write(self, oid: int, table: TableKeys, kind: str, line: bytes) -> None:
        file = self._files.get((oid, kind))
        if file is None:
            file = self._stack.enter_context(self.path(oid, kind).open("wb"))
            self._files[oid, kind] = file
        file.write(line + b"\n")
        table.counts[kind] = table.counts.get(kind, 0) + 1


def _keys(shape: Shape, kind: int, message: bytes) -> Iterator[tuple[bytes, bool]]:
    """The keys that a change touches; True for one that the row did not have before."""
    if kind == pgoutput.DELETE:
        yield _line(shape, read_values(message, 6)[0]), False
        return
    row = new_row(message)
    now = _line(shape, row)
    if kind == pgoutput.UPDATE and message[5] in (_KEY, _OLD):
        was = _line(shape, read_values(message, 6)[0])
        yield was, False
        yield now, was != now
        return
    yield now, False


def _line(shape: Shape, row: Values) -> bytes:
    return b"\t".join(
        [escape(value) if isinstance(value := row[i], bytes) else rb"\N" for i in shape.keys]
    )
