"""The change log boiled down to final rows: the last writer of each key.

One pass over the log decodes keys alone and remembers, for every key that was touched,
where in the log its last row lies, or that it is gone. Only those last rows are parsed,
when they are loaded. What a row leaves unchanged outside of it (``u`` for TOAST) comes from
the row's previous image in the log, or from the base's row under its old key.

Tables with REPLICA IDENTITY FULL have no key: of them each distinct row is counted, up for
an insert and down for a delete, and rows below zero are taken out of the base.

A transaction is applied if and only if its xid is not visible in the base's snapshot, once,
and up to the cut. Rows are compared as COPY text, byte for byte.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aurora.engines.base import Table
from aurora.engines.logical import pgoutput
from aurora.engines.logical.carry import Recast
from aurora.engines.logical.lastrows import Changed, CountedTable, KeyedTable, Shape
from aurora.engines.logical.recastrows import RecastCounted, RecastKeyed
from aurora.engines.logical.spool import CONTINUED, HEADER
from aurora.errors import ObjectDamaged, UsageError

KEYS_IN_MEMORY = 4_000_000  # about 200 bytes each


@dataclass(slots=True)
class MergeFigures:
    """What a pass over the log found."""

    transactions: int = 0  # applied
    known: int = 0  # left out: the base has them
    changes: int = 0
    spilled: int = 0  # tables whose state did not fit into memory


@dataclass(slots=True)
class Merge:
    """Takes the log in, segment by segment, and holds what became of each table.

    Args:
        tables: the streamed tables by oid, as the base has them.
        others: oids whose changes are not wanted: they were read again.
        skipped: names of tables that the base leaves out.
        sees: whether the base's snapshot saw a transaction.
        cut: commit LSN of the last transaction to apply.
        keep: puts a message that lay in several segments into the log, and says where.
        directory: for the state of tables once it has outgrown *keys_in_memory*.
        recasts: how rows of the base become rows of *tables*, where those are of a later schema.
        changes: for each table that is recast, where in the log the marks of its changes
            stand. No row of it may change between the first and the last of them.
    """

    tables: Mapping[int, Table]
    others: frozenset[int]
    skipped: frozenset[str]
    sees: Callable[[int], bool]
    cut: int
    keep: Callable[[bytes], int]
    directory: Path
    keys_in_memory: int = KEYS_IN_MEMORY
    recasts: Mapping[int, Recast] = field(default_factory=dict)
    changes: Mapping[int, frozenset[int]] = field(default_factory=dict)
    changed: dict[int, Changed] = field(default_factory=dict)
    figures: MergeFigures = field(default_factory=MergeFigures)
    done: bool = False  # the cut is reached
    _reached: int = 0
    _open: int = 0  # commit LSN of the transaction that the log is in
    _applying: bool = False
    _ignored: set[int] = field(default_factory=set)
    _live: dict[int, Changed] = field(default_factory=dict)  # rows of these need no other look
    _passed: set[int] = field(default_factory=set)  # of the changes
    _relations: dict[int, bytes] = field(default_factory=dict)
    _pieces: list[bytes] = field(default_factory=list)  # of a message that segments part

    def feed(self, data: bytes, at: int) -> None:
        """Take in a segment's frames; *at* is where they lie in the whole log.

        Raises:
            UsageError: a table is not what it is in the base.
            ObjectDamaged: a transaction without end, an update of a row that was never there.
        """
        offset, size = 0, len(data)
        unpack, table_of, number_of = HEADER.unpack_from, self._live.get, int.from_bytes
        rows, seen = pgoutput.ROW_KINDS, 0
        while offset < size and not self.done:
            length, _ = unpack(data, offset)
            offset += 12
            end = offset + (length & ~CONTINUED)
            if length & CONTINUED or (self._pieces and not self._is_prefix(data, offset)):
                self._piece(data[offset:end], last=not length & CONTINUED)
            elif data[offset] not in rows:
                self._control(data, offset, end)
            elif self._applying:
                table = table_of(number_of(data[offset + 1 : offset + 5], "big"))
                if table is None:
                    self._row(data, offset, end, at + offset)
                else:
                    table.see(data[offset], data, offset + 5, end, at + offset)
                    seen += 1
            offset = end
        self.figures.changes += seen
        self._spill()

    @staticmethod
    def _is_prefix(data: bytes, offset: int) -> bool:
        """Whether a frame is one of those that a segment begins with for its own sake."""
        return bool(HEADER.unpack_from(data, offset - HEADER.size)[1] == 0)

    def _piece(self, piece: bytes, *, last: bool) -> None:
        self._pieces.append(piece)
        if last:
            message = b"".join(self._pieces)
            self._pieces.clear()
            if self._applying and message[0] in pgoutput.ROW_KINDS:
                self._row(message, 0, len(message), self.keep(message))
            else:
                self._control(message, 0, len(message))

    def _row(self, data: bytes, offset: int, end: int, position: int) -> None:
        oid = int.from_bytes(data[offset + 1 : offset + 5], "big")
        table = self._live.get(oid) or (None if oid in self._ignored else self._begin(oid))
        if table is not None:
            table.see(data[offset], data, offset + 5, end, position)
            self.figures.changes += 1

    def _spill(self) -> None:
        """Move the largest tables to disk until the rest is small enough."""
        waiting = sorted(self.changed.items(), key=lambda item: item[1].in_memory)
        while waiting and sum(table.in_memory for _, table in waiting) > self.keys_in_memory:
            oid, table = waiting.pop()
            table.spill(self.directory / f"keys-{oid}")
            self.figures.spilled += 1

    def close(self) -> None:
        """Let go of files."""
        for table in self.changed.values():
            table.close()

    def finish(self) -> None:
        """Call it after the last segment. Raises ObjectDamaged where a transaction has no end."""
        if self._open and not self.done:
            raise _no_end(self._open)

    def _control(self, data: bytes, offset: int, end: int) -> None:
        kind = data[offset]
        if kind == pgoutput.BEGIN:
            self._begin_transaction(pgoutput.read_begin(data[offset:end]))
        elif kind == pgoutput.COMMIT:
            self._reached = max(self._reached, self._open)
            self._open, self._applying = 0, False
        elif kind == pgoutput.RELATION:
            message = data[offset:end]
            oid = pgoutput.relation_of(message)
            self._relations[oid] = message
            known = self._live.get(oid)
            if known is not None and Shape.of(message) != known.shape:
                if oid not in self.recasts:
                    raise _drifted(known.shape.name)
                del self._live[oid]
        elif kind == pgoutput.MESSAGE and self._applying and self.changes:
            self._pass(pgoutput.read_message(data[offset:end]).lsn)
        elif kind == pgoutput.TRUNCATE and self._applying:
            for oid in pgoutput.read_truncate(data[offset:end]).relations:
                table = self.changed.get(oid) or (
                    None if oid in self._ignored else self._begin(oid)
                )
                if table is not None:
                    table.truncate()

    def _pass(self, place: int) -> None:
        """A change of the schema: its tables are looked at again at their next row."""
        for oid, places in self.changes.items():
            if place in places:
                self._passed.add(place)
                self._live.pop(oid, None)

    def _begin_transaction(self, begin: pgoutput.Begin) -> None:
        if self._open:
            raise _no_end(self._open)
        if begin.final_lsn > self.cut:
            self.done = True
            return
        self._open = begin.final_lsn
        if begin.final_lsn > self._reached:
            known = self.sees(begin.xid)
            self._applying = not known
            self.figures.known += known
            self.figures.transactions += not known

    def _begin(self, oid: int) -> Changed | None:
        """The state of a table that the log touches for the first time; None: not wanted."""
        if oid in self.others:
            self._ignored.add(oid)
            return None
        message = self._relations.get(oid)
        if message is None:
            raise ObjectDamaged(f"the change log does not say what relation {oid} is")
        shape = Shape.of(message)
        if shape.name in self.skipped:
            self._ignored.add(oid)
            return None
        table = self.tables.get(oid)
        if table is None or (shape.identity != "f" and not shape.keys):
            raise _drifted(shape.name)
        if oid in self.recasts:
            made = self._recast(table, shape)
        elif table.copy_columns != shape.columns:
            raise _drifted(shape.name)
        else:
            made = CountedTable(table, shape) if shape.identity == "f" else KeyedTable(table, shape)
        self.changed[oid] = self._live[oid] = made
        return made

    def _recast(self, table: Table, shape: Shape) -> Changed:
        """The state of a table whose rows are of before the changes, or of after them."""
        recast, places = self.recasts[table.oid], self.changes[table.oid]
        after = places <= self._passed
        between = not after and not places.isdisjoint(self._passed)
        if between or shape.columns != recast.columns(after=after):
            raise _drifted(shape.name)
        known = self.changed.get(table.oid)
        if known is None:
            if shape.identity == "f":
                return RecastCounted(table, shape, recast, after=after)
            keyed = RecastKeyed(table, shape, recast, after=after)
            if not keyed.fits:
                raise _drifted(shape.name)
            return keyed
        assert isinstance(known, RecastKeyed | RecastCounted)
        if (shape.identity == "f") != isinstance(known, RecastCounted) or not known.enter(
            shape, after=after
        ):
            raise _drifted(shape.name)
        return known


def _no_end(lsn: int) -> ObjectDamaged:
    return ObjectDamaged(
        f"the transaction of commit LSN {lsn >> 32:X}/{lsn & 0xFFFFFFFF:X} has no end in the log",
        hint="Nothing was put in place. Run `aurora backup verify` on the incrementals.",
    )


def _drifted(name: str) -> UsageError:
    return UsageError(
        f"the columns or the identity of {name} changed between the full and the target",
        hint="Nothing was put in place. Recover to a point before that, or after the next full.",
        context={"table": name},
    )
