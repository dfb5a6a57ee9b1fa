"""The merge on hand-made logs: what decides a row, message by message."""

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aurora.engines.base import Column, Table
from aurora.engines.logical.copyin import Load
from aurora.engines.logical.lastrows import CountedTable, KeyedTable, escape
from aurora.engines.logical.merge import Merge
from aurora.engines.logical.mergeload import CountedFilter, KeyedFilter, key_of_line, whole_lines
from aurora.engines.logical.spool import CONTINUED, HEADER, Spool, ends_continued, scan
from aurora.errors import ObjectDamaged, UsageError
from tests.fixtures.postgres import NewDatabase

U = object()  # unchanged TOAST
TEXT, INT = 25, 23


def table(oid: int = 1, columns: tuple[str, ...] = ("id", "v", "big")) -> Table:
    found = tuple(Column(name, "text", i + 1) for i, name in enumerate(columns))
    return Table(oid, "public", f"t{oid}", "r", "me", found)


def relation(
    oid: int = 1,
    identity: str = "d",
    columns: tuple[tuple[str, int], ...] = (("id", INT), ("v", TEXT), ("big", TEXT)),
    keys: tuple[int, ...] = (0,),
) -> bytes:
    told = b"R" + struct.pack(">I", oid) + b"public\0" + f"t{oid}".encode() + b"\0"
    told += identity.encode() + struct.pack(">H", len(columns))
    for number, (name, type_) in enumerate(columns):
        flag = 1 if number in keys or identity == "f" else 0
        told += bytes([flag]) + name.encode() + b"\0" + struct.pack(">Ii", type_, -1)
    return told


def row(*values: object) -> bytes:
    told = struct.pack(">H", len(values))
    for value in values:
        if value is None:
            told += b"n"
        elif value is U:
            told += b"u"
        else:
            data = str(value).encode()
            told += b"t" + struct.pack(">I", len(data)) + data
    return told


def change(kind: str, *, old: bytes = b"", new: bytes = b"", oid: int = 1) -> bytes:
    """*old* begins with its own letter, K or O."""
    return kind.encode() + struct.pack(">I", oid) + old + (b"N" + new if new else b"")


def insert(*values: object) -> bytes:
    return change("I", new=row(*values))


def update(*values: object, old: bytes = b"") -> bytes:
    return change("U", old=old, new=row(*values))


def delete(*values: object, kind: str = "K") -> bytes:
    return change("D", old=kind.encode() + row(*values))


def transaction(xid: int, lsn: int, *messages: bytes) -> list[bytes]:
    return [
        b"B" + struct.pack(">QqI", lsn, 0, xid),
        *messages,
        b"C" + struct.pack(">BQQq", 0, lsn, lsn + 8, 0),
    ]


def frames(*messages: bytes, lsn: int = 5) -> bytes:
    return b"".join(HEADER.pack(len(message), lsn) + message for message in messages)


NewLog = Callable[..., "Log"]


class Log:
    """A spool with a merge over it."""

    def __init__(self, directory: Path, seen: set[int] | None = None, cut: int = 1 << 40) -> None:
        self.directory = directory
        self.spool = Spool(directory)
        self.rows: KeyedFilter | None = None
        visible = seen or set()
        self.merge = Merge(
            {1: table(), 2: table(2)}, frozenset({9}), frozenset(), visible.__contains__, cut,
            self.spool.keep, directory,
        )  # fmt: skip

    def close(self) -> None:
        names = list(self.directory.iterdir())
        assert not names, "what a killed process would leave, unencrypted"
        self.spool.close()
        self.merge.close()
        if self.rows is not None:
            self.rows.close()

    def feed(self, *messages: bytes) -> "Log":
        return self.payload(frames(*messages))

    def payload(self, payload: bytes) -> "Log":
        self.merge.feed(payload, self.spool.append(payload))
        return self

    def result(self, base: list[str], oid: int = 1) -> Counter[str]:
        """What the table holds, with *base* as lines."""
        self.merge.finish()
        changed = self.merge.changed.get(oid)
        text = "".join(line + "\n" for line in base).encode()
        if changed is None:
            return Counter(base)
        if isinstance(changed, KeyedTable):
            rows = self.rows = KeyedFilter(changed, self.directory)
            kept = b"" if changed.truncated else rows.keep(text, rows.attempt(Load(table(), ())))
            rows.finish()
            lines = list(changed.lines(self.spool.message, rows.column))
        else:
            counted = CountedFilter(changed)
            attempt = counted.attempt(Load(table(), ()))
            kept = b"" if changed.truncated else counted.keep(text, attempt)
            counted.finish()
            lines = list(changed.lines(self.spool.message))
        return Counter([*kept.decode().splitlines(), *(line.decode() for line in lines)])


@pytest.fixture
def new_log(tmp_path: Path) -> Iterator[NewLog]:
    """``new_log()``: a Log, closed after the test."""
    made: list[Log] = []

    def make(**options: Any) -> Log:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Log(directory, **options))
        return made[-1]

    yield make
    for log in made:
        log.close()


BASE = ["1\ta\tbig1", "2\tb\tbig2", "3\tc\tbig3"]


def test_last_writer_wins(new_log: NewLog) -> None:
    """Inserts, updates, deletes, an insert of a key that was deleted."""
    log = new_log().feed(
        relation(),
        *transaction(10, 100, insert(4, "d", "x"), update(1, "A", "y"), delete(2, None, None)),
        *transaction(11, 200, insert(2, "again", None), delete(4, None, None)),
    )
    assert log.result(BASE) == Counter(["1\tA\ty", "2\tagain\t\\N", BASE[2]])


def test_what_the_base_saw_is_left_out(new_log: NewLog) -> None:
    """By xid, not by place; each commit once; nothing behind the cut."""
    first = transaction(10, 100, update(1, "seen", "y"))
    second = transaction(11, 200, update(2, "not seen", "y"))
    log = new_log(seen={10}, cut=250).feed(
        relation(), *first, *second, *first, *second,
        *transaction(12, 300, delete(3, None, None)),
    )  # fmt: skip
    assert log.result(BASE) == Counter([BASE[0], "2\tnot seen\ty", BASE[2]])
    assert log.merge.done
    assert (log.merge.figures.transactions, log.merge.figures.known) == (1, 1)


def test_toast_that_no_update_sent(new_log: NewLog) -> None:
    """From the base under the old key, over chains of keys; from an earlier image."""
    log = new_log().feed(
        relation(),
        *transaction(10, 100, update(1, "A", U), update(1, "B", U)),
        *transaction(
            11, 200,
            update(20, "two", U, old=b"K" + row(2, None, None)),
            update(21, "three", U, old=b"K" + row(20, None, None)),
            insert(5, "e", "fresh"),
            update(5, "f", U),
            update(6, "g", U, old=b"K" + row(5, None, None)),
        ),
    )  # fmt: skip
    assert log.result(BASE) == Counter(["1\tB\tbig1", "21\tthree\tbig2", BASE[2], "6\tg\tfresh"])


def test_toast_of_a_row_that_is_nowhere(new_log: NewLog) -> None:
    """The full and the log do not fit: said, not guessed."""
    log = new_log().feed(relation(), *transaction(10, 100, update(7, "A", U)))
    with pytest.raises(ObjectDamaged, match="does not hold"):
        log.result(BASE)
    gone = new_log()
    with pytest.raises(ObjectDamaged, match="neither it nor the full"):
        gone.feed(relation(), *transaction(10, 100, delete(1, None, None), update(1, "A", U)))


def test_truncate_forgets_the_base(new_log: NewLog) -> None:
    """And what came before it."""
    emptied = b"T" + struct.pack(">IBI", 1, 0, 1)
    log = new_log().feed(
        relation(), *transaction(10, 100, insert(4, "d", "x"), emptied, insert(5, "e", "y"))
    )
    assert log.result(BASE) == Counter(["5\te\ty"])


def test_equal_rows_are_counted(new_log: NewLog) -> None:
    """REPLICA IDENTITY FULL, duplicates, TOAST out of the old row."""
    told = ["1\ta\tx", "1\ta\tx", "1\ta\tx", "2\t\\N\ty"]
    log = new_log().feed(
        relation(identity="f"),
        *transaction(
            10, 100,
            delete(1, "a", "x", kind="O"),
            update(1, "b", U, old=b"O" + row(1, "a", "x")),
            update(2, None, U, old=b"O" + row(2, None, "y")),
            insert(3, "c", "z"), insert(3, "c", "z"), delete(3, "c", "z", kind="O"),
        ),
    )  # fmt: skip
    assert isinstance(log.merge.changed[1], CountedTable)
    assert log.result(told) == Counter(["1\ta\tx", "1\tb\tx", "2\t\\N\ty", "3\tc\tz"])


def test_tables_of_no_concern(new_log: NewLog) -> None:
    """Changes of tables that were read again; a table that nobody knows is drift."""
    log = new_log().feed(relation(9), *transaction(10, 100, change("I", new=row(1, 2, 3), oid=9)))
    assert log.result(BASE) == Counter(BASE)
    with pytest.raises(UsageError, match="changed between"):
        new_log().feed(relation(7), *transaction(10, 100, change("I", new=row(1, 2, 3), oid=7)))


def test_another_shape_is_drift(new_log: NewLog) -> None:
    """Other columns than the base's, from the beginning or later on."""
    other = relation(columns=(("id", INT), ("v", TEXT), ("large", TEXT)))
    with pytest.raises(UsageError, match="changed between"):
        new_log().feed(other, *transaction(10, 100, insert(1, "a", "b")))
    with pytest.raises(UsageError, match="changed between"):
        new_log().feed(relation(), *transaction(10, 100, insert(1, "a", "b"), other))


def test_a_transaction_without_end(new_log: NewLog) -> None:
    """The log is not whole."""
    log = new_log().feed(relation(), *transaction(10, 100, insert(4, "d", "x"))[:-1])
    with pytest.raises(ObjectDamaged, match="no end"):
        log.merge.finish()


def test_messages_and_transactions_parted_by_segments(new_log: NewLog) -> None:
    """A message in three segments, whose pieces look like other messages."""
    big = "BCRIUDT" * 40
    messages = transaction(10, 100, insert(4, "d", big), update(4, "e", U))
    begin, huge, *rest = messages
    pieces = [huge[:100], huge[100:200], huge[200:]]
    head = HEADER.pack(len(relation()), 0) + relation()
    first = frames(begin) + HEADER.pack(len(pieces[0]) | CONTINUED, 7) + pieces[0]
    second = HEADER.pack(len(pieces[1]) | CONTINUED, 7) + pieces[1]
    third = head + HEADER.pack(len(pieces[2]), 7) + pieces[2] + frames(*rest)

    log = new_log().payload(first).payload(second).payload(third)

    assert log.result(BASE) == Counter([*BASE, f"4\te\t{big}"])
    assert [ends_continued(payload) for payload in (first, second, third)] == [True, True, False]
    begun = scan(first, continuing=False)
    assert (begun.found, begun.begins, begun.open_xid) == ((), True, 10)
    assert scan(second, continuing=True).found == ()
    ended = scan(third, continuing=True)
    assert not ended.first_is_known
    known = scan(third, continuing=True, open_xid=10)
    assert [found.xid for found in known.found] == [10]


def test_state_on_disk_is_the_same(new_log: NewLog) -> None:
    """However few keys fit into memory."""
    log = new_log()
    log.merge.keys_in_memory = 1
    log.feed(relation(), *transaction(10, 100, insert(4, "d", "x"), update(1, "A", U)))
    log.feed(*transaction(11, 200, update(40, "D", U, old=b"K" + row(4, None, None))))
    log.feed(*transaction(12, 300, delete(2, None, None)))
    assert log.merge.figures.spilled == 1
    assert log.result(BASE) == Counter(["1\tA\tbig1", BASE[2], "40\tD\tx"])


def test_escapes_are_the_servers(new_database: NewDatabase) -> None:
    """Byte for byte what COPY writes, for every character that a text may hold."""
    texts = [chr(code) for code in range(1, 256)] + ["\\N", "\\.", "a\\tb\t", "", "é☃\v\f\b"]
    with psycopg.connect(new_database()) as conn:
        conn.execute("CREATE TEMP TABLE t (i int, v text)")
        with conn.cursor() as cursor:
            cursor.executemany("INSERT INTO t VALUES (%s, %s)", list(enumerate(texts)))
            with cursor.copy("COPY (SELECT v FROM t ORDER BY i) TO STDOUT") as copy:
                copied = b"".join(bytes(block) for block in copy).split(b"\n")[:-1]
    assert copied == [escape(text.encode()) for text in texts]


@pytest.mark.parametrize(
    "keys,columns,line,expected",
    [
        ((0,), 1, b"k", b"k"),
        ((0,), 3, b"k\ta\tb", b"k"),
        ((1,), 3, b"a\tk\tb", b"k"),
        ((2,), 3, b"a\tb\tk", b"k"),
        ((0, 2), 4, b"k\ta\tl\tb", b"k\tl"),
    ],
)
def test_keys_of_lines(keys: tuple[int, ...], columns: int, line: bytes, expected: bytes) -> None:
    """Wherever the key's columns stand."""
    assert key_of_line(keys, columns)(line) == expected


def test_lines_parted_by_buffers() -> None:
    """Put together again; an end in the middle of a row is damage."""
    assert b"".join(whole_lines([b"a\tb", b"c\n", b"d\ne", b"f", b"\n"])) == b"a\tbc\nd\nef\n"
    assert all(block.endswith(b"\n") for block in whole_lines([b"a", b"b\nc", b"\n"]))
    with pytest.raises(ObjectDamaged):
        list(whole_lines([b"a\n", b"b"]))
