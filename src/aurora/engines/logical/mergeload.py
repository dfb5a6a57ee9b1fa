"""Loading a base together with what the change log made of it.

Tables that the log did not touch load as in any restore. Of the others, the base's rows
whose key was touched are left out while they stream by, and the final rows follow in a
COPY of their own. What final rows need of base rows (TOAST that no update changed) is kept
in a file on the way.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from aurora.engines.base import BufferSource, Progress, Table, TableData
from aurora.engines.logical.carry import Recast
from aurora.engines.logical.copyin import (
    CopyRows,
    Load,
    copy_rows,
    fetch_ahead,
    load_tables,
    plan_loads,
)
from aurora.engines.logical.lastrows import Changed, CountedTable, KeyedTable, Log, digest
from aurora.engines.logical.names import Connection, quoted, shown
from aurora.engines.logical.partitions import gated, gates
from aurora.engines.logical.spool import nameless
from aurora.errors import Cancelled, IntegrityError, ObjectDamaged
from aurora.postgres.errors import translated

_BATCH = 256 << 10  # bytes of final rows handed to COPY at once


@dataclass(slots=True)
class MergedRows:
    """Loads *data* changed by *changed*, and counts what the tables hold then.

    Args:
        data: what the base (or a later re-read) holds of each table.
        changed: what the log made of the tables that it touched, by oid.
        log: gives a message of the log.
        directory: for what must be kept meanwhile; private.
        recasts: how the base's rows become rows of the tables, where their shape changed.
    """

    data: Sequence[TableData]
    changed: Mapping[int, Changed]
    source: BufferSource
    log: Log
    directory: Path
    jobs: int
    encoding: str
    progress: Progress
    recasts: Mapping[int, Recast] = field(default_factory=dict)
    final_rows: int = 0
    _filters: dict[int, "KeyedFilter | CountedFilter | RecastFilter"] = field(default_factory=dict)
    _added: dict[int, int] = field(default_factory=dict)

    def load(
        self, dsn: str, tables: Sequence[Table], cancel: threading.Event
    ) -> Sequence[TableData]:
        """Fill *tables*; what each must hold afterwards. An :data:`aurora…build.LoadRows`.

        Raises:
            TargetError, IntegrityError, StorageError, Cancelled.
        """

        def run(loads: Sequence[Load], copy: CopyRows) -> None:
            load_tables(
                dsn, loads, self.source, jobs=self.jobs, encoding=self.encoding,
                progress=self.progress, cancel=cancel, copy=copy,
            )  # fmt: skip

        return self._load(tables, run)

    def load_on(
        self, conn: Connection, tables: Sequence[Table], cancel: threading.Event
    ) -> Sequence[TableData]:
        """The same by one connection, in the transaction that it is in. A ``tablerows.Rows``."""

        def run(loads: Sequence[Load], copy: CopyRows) -> None:
            with ThreadPoolExecutor(3, thread_name_prefix="fetch") as fetchers:
                for load in loads:
                    with translated("target", doing=f"loading {_name(load.table)}"):
                        copy(conn, load, self.source, fetchers, cancel)
                    self.progress(load.bytes, _name(load.table))

        return self._load(tables, run)

    def _load(
        self, tables: Sequence[Table], run: Callable[[Sequence[Load], CopyRows], None]
    ) -> Sequence[TableData]:
        there = {table.oid: table for table in tables}
        changed = {oid: one for oid, one in self.changed.items() if one.touched}
        self._filters = {
            oid: filter_of(one, self.directory, self.recasts.get(oid))
            for oid, one in changed.items()
            if oid in there
        }
        for oid, recast in self.recasts.items():
            if oid in there and oid not in changed and not recast.is_plain:
                self._filters[oid] = RecastFilter(recast)
        base = [d for d in self.data if d.oid not in changed or not changed[d.oid].truncated]
        run(plan_loads(tables, base), self._copy_base)
        for rows in self._filters.values():
            rows.finish()
        through = gates(tables)
        run(
            [
                Load(gated(there[oid], through.get(oid)), ())
                for oid in self._filters
                if oid in changed
            ],
            self._copy_final,
        )
        self.final_rows = sum(self._added.values())
        return [self._expected(d) for d in self._with_new(changed) if d.oid in there]

    def close(self) -> None:
        """Let go of files."""
        for rows in self._filters.values():
            rows.close()

    def _with_new(self, changed: Mapping[int, Changed]) -> list[TableData]:
        held = {d.oid for d in self.data}
        return [*self.data, *(TableData(oid, 0, "", 0) for oid in changed if oid not in held)]

    def _expected(self, data: TableData) -> TableData:
        rows = self._filters.get(data.oid)
        if rows is None:
            return data
        return msgspec.structs.replace(
            data, rows=rows.kept + self._added.get(data.oid, 0), sum="", extents=()
        )

    def _copy_base(
        self,
        conn: Connection,
        load: Load,
        source: BufferSource,
        fetchers: ThreadPoolExecutor,
        cancel: threading.Event,
    ) -> None:
        rows = self._filters.get(load.table.oid)
        if rows is None or not rows.filters or not load.table.copy_columns:
            copy_rows(conn, load, source, fetchers, cancel)
            if rows is not None:
                rows.attempt(load).kept = load.rows
            return
        attempt = rows.attempt(load)
        blocks = whole_lines(fetch_ahead(load.extents, source, fetchers))
        taken = _copy_in(conn, load.table, (rows.keep(block, attempt) for block in blocks), cancel)
        if attempt.seen != load.rows:
            raise IntegrityError(
                f"the rows of {_name(load.table)} are {attempt.seen}, the backup says {load.rows}"
            )
        _require(load.table, taken, attempt.kept)

    def _copy_final(
        self,
        conn: Connection,
        load: Load,
        _source: BufferSource,
        _fetchers: ThreadPoolExecutor,
        cancel: threading.Event,
    ) -> None:
        table = self.changed[load.table.oid]
        rows = self._filters[load.table.oid]
        if isinstance(table, KeyedTable):
            assert isinstance(rows, KeyedFilter)
            lines = table.lines(self.log, rows.column)
        else:
            lines = table.lines(self.log)
        counted = _Counted(lines)
        taken = _copy_in(conn, load.table, batches(counted), cancel)
        _require(load.table, taken, counted.count)
        self._added[load.table.oid] = counted.count


def filter_of(
    table: Changed, directory: Path, recast: Recast | None = None
) -> "KeyedFilter | CountedFilter":
    """What decides which rows of the base stay."""
    if isinstance(table, CountedTable):
        return CountedFilter(table, recast)
    return KeyedFilter(table, directory, recast)


@dataclass(slots=True)
class Attempt:
    """One COPY of filtered rows."""

    seen: int = 0
    kept: int = 0
    taken: Counter[bytes] = field(default_factory=Counter)  # surplus rows that it left out


class _Filter:
    """Remembers what each COPY of the base's rows did; one that is repeated counts once."""

    filters = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: dict[int, Attempt] = {}

    @property
    def kept(self) -> int:
        """Rows of the base that stay."""
        return sum(attempt.kept for attempt in self._attempts.values())

    def attempt(self, load: Load) -> Attempt:
        """Begin a COPY of *load*, perhaps again."""
        with self._lock:
            before = self._attempts.pop(id(load), None)
            if before is not None:
                self._give_back(before)
            made = self._attempts[id(load)] = Attempt()
        return made

    def close(self) -> None:
        """Let go of files."""

    def _give_back(self, attempt: Attempt) -> None:
        """What a failed COPY had taken."""


class RecastFilter(_Filter):
    """Leaves nothing out; the rows take another shape."""

    def __init__(self, recast: Recast) -> None:
        super().__init__()
        self._recast = recast

    def keep(self, block: bytes, attempt: Attempt) -> bytes:
        """A block's lines in their new shape."""
        lines = block.split(b"\n")
        lines.pop()
        attempt.seen += len(lines)
        return _block(lines, attempt, self._recast)

    def finish(self) -> None:
        """All of the base went by."""


class KeyedFilter(_Filter):
    """Leaves out the base's rows whose key was touched, and keeps columns that are needed."""

    def __init__(self, table: KeyedTable, directory: Path, recast: Recast | None = None) -> None:
        super().__init__()
        self._recast = recast
        self._table = table
        self._needed = table.needed()
        self._held = Columns(directory / f"columns-{table.table.oid}") if self._needed else None
        self._key = key_of_line(table.base_keys, table.base_columns)

    def keep(self, block: bytes, attempt: Attempt) -> bytes:
        """Those of a block's lines that stay."""
        key_of, last = self._key, self._table.last
        lines = block.split(b"\n")
        lines.pop()
        if self._needed:
            for line in lines:
                if (key := key_of(line)) in self._needed:
                    self._hold(key, line)
        kept = [line for line in lines if key_of(line) not in last]
        attempt.seen += len(lines)
        return _block(kept, attempt, self._recast)

    def _hold(self, key: bytes, line: bytes) -> None:
        assert self._held is not None
        fields = line.split(b"\t")
        for number in self._needed[key]:
            self._held.put(key, number, fields[number])

    def finish(self) -> None:
        """All of the base went by. Raises ObjectDamaged where a needed row was not there."""
        lacking = [key for key in self._needed if self._held is None or key not in self._held]
        if lacking:
            raise _not_in_base(self._table.table)

    def close(self) -> None:
        if self._held is not None:
            self._held.close()

    def column(self, key: bytes, number: int) -> bytes:
        """A column of a base row."""
        assert self._held is not None
        return self._held.get(key, number)


class CountedFilter(_Filter):
    """Leaves out as many equal rows of the base as the log says are gone."""

    def __init__(self, table: CountedTable, recast: Recast | None = None) -> None:
        super().__init__()
        self._table = table
        self._recast = recast if recast and not recast.is_plain else None
        self._surplus = Counter(table.surplus())
        self.filters = bool(self._surplus or self._recast)

    def keep(self, block: bytes, attempt: Attempt) -> bytes:
        """Those of a block's lines that stay."""
        lines = block.split(b"\n")
        lines.pop()
        if self._recast:
            lines = [self._recast.line(line) for line in lines]
        kept = []
        for line in lines:
            key = digest(line)
            if self._surplus.get(key, 0) > 0 and self._take(key, attempt):
                continue
            kept.append(line)
        attempt.seen += len(lines)
        return _block(kept, attempt)

    def _take(self, key: bytes, attempt: Attempt) -> bool:
        # Workers share what is to go; one whose COPY must be repeated has given it back.
        with self._lock:
            if self._surplus[key] <= 0:
                return False
            self._surplus[key] -= 1
            attempt.taken[key] += 1
            return True

    def _give_back(self, attempt: Attempt) -> None:
        self._surplus.update(attempt.taken)

    def finish(self) -> None:
        """All of the base went by. Raises ObjectDamaged where rows to go were not there."""
        if any(count > 0 for count in self._surplus.values()):
            raise _not_in_base(self._table.table)


def _block(lines: list[bytes], attempt: Attempt, recast: Recast | None = None) -> bytes:
    """The lines that stay, as a block for COPY."""
    attempt.kept += len(lines)
    if not lines:
        return b""
    if recast and not recast.is_plain:
        lines = [recast.line(line) for line in lines]
    return b"\n".join([*lines, b""])


class Columns:
    """Columns of base rows, in a file."""

    def __init__(self, path: Path) -> None:
        self._file = nameless(path)
        self._lock = threading.Lock()
        self._at: dict[tuple[bytes, int], tuple[int, int]] = {}
        self._keys: set[bytes] = set()
        self._size = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def put(self, key: bytes, number: int, value: bytes) -> None:
        with self._lock:
            self._file.seek(self._size)
            self._file.write(value)
            self._at[key, number] = (self._size, len(value))
            self._keys.add(key)
            self._size += len(value)

    def close(self) -> None:
        self._file.close()

    def get(self, key: bytes, number: int) -> bytes:
        with self._lock:
            at, length = self._at[key, number]
            self._file.seek(at)
            return self._file.read(length)


def key_of_line(keys: tuple[int, ...], columns: int) -> Callable[[bytes], bytes]:
    """What takes the key out of a line of COPY text."""
    if keys == (0,):
        if columns == 1:
            return bytes
        return lambda line: line[: line.index(b"\t")]
    most = keys[-1] + 1
    if len(keys) == 1:
        only = keys[0]
        return lambda line: line.split(b"\t", most)[only]

    def key(line: bytes) -> bytes:
        fields = line.split(b"\t", most)
        return b"\t".join([fields[i] for i in keys])

    return key


def whole_lines(buffers: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks that end with a line's end."""
    rest: list[bytes] = []
    for data in buffers:
        cut = data.rfind(b"\n") + 1
        if not cut:
            rest.append(data)
            continue
        rest.append(data[:cut])
        yield b"".join(rest) if len(rest) > 1 else rest[0]
        rest = [data[cut:]] if cut < len(data) else []
    if rest:
        raise ObjectDamaged("rows of a table end in the middle of one")


class _Counted:
    """Counts the lines that go through."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.count += 1
            yield line


def batches(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines joined to blocks of a good size for COPY."""
    waiting: list[bytes] = []
    size = 0
    for line in lines:
        waiting.append(line)
        size += len(line) + 1
        if size >= _BATCH:
            waiting.append(b"")
            yield b"\n".join(waiting)
            waiting, size = [], 0
    if waiting:
        waiting.append(b"")
        yield b"\n".join(waiting)


def _copy_in(
    conn: Connection, table: Table, blocks: Iterable[bytes], cancel: threading.Event
) -> int:
    """One COPY of blocks of lines; how many rows the server took."""
    columns = ", ".join(quoted(column) for column in table.copy_columns)
    name = quoted(table.schema, table.name)
    with conn.cursor() as cursor:
        with cursor.copy(f"COPY {name} ({columns}) FROM STDIN".encode()) as copy:
            for block in blocks:
                if cancel.is_set():
                    raise Cancelled("stopped while loading rows")
                if block:
                    copy.write(block)
        return cursor.rowcount


def _require(table: Table, taken: int, given: int) -> None:
    if taken != given:
        raise IntegrityError(
            f"{_name(table)} took {taken} rows of {given}",
            hint="The rows were not kept. A trigger or rule of the target may drop rows.",
        )


def _name(table: Table) -> str:
    return shown(table.schema, table.name)


def _not_in_base(table: Table) -> ObjectDamaged:
    return ObjectDamaged(
        f"the change log changes rows of {_name(table)} that the full does not hold",
        hint="Nothing was put in place. Recover from another full, and report this.",
    )
