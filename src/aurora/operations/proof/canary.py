"""Canaries: proof by single rows that a recovery ends exactly where it was asked to.

The user's own transactions are the canaries. Of the last transaction that a recovery applied,
every row must be there as that transaction left it; of the first that it left out, none.
"""

from collections.abc import Sequence

from aurora.engines.logical import pgoutput
from aurora.engines.logical.footprint import Footprint, rows_beyond, rows_not_left
from aurora.engines.logical.names import pin_output
from aurora.engines.logical.segments import FrameReader
from aurora.engines.logical.targets import Transaction
from aurora.operations.log_history import Link
from aurora.operations.point import Point
from aurora.operations.proof.checks import Check, judged, skipped
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.units import plural

_NAME = "canaries around the point"


def canaries(dsn: str, point: Point) -> Check:
    """Look for the rows around the point that was recovered to, in the database at *dsn*."""
    cut, after = point.resolution.cut, point.resolution.after
    by_oid = {table.oid: table for table in point.snapshot.tables}
    tables = frozenset(oid for oid in point.streamed if oid in by_oid)
    before = footprint(point.chain, cut, tables) if cut else Footprint()
    beyond = footprint(point.chain, after, tables) if after else Footprint()
    if not before.last and not beyond.first:
        return skipped(_NAME, "no transaction beside the point changed a row with a key")
    problems: list[str] = []
    looked = [0, 0]
    with open_control(dsn, what="target") as conn:
        with translated("target", doing="looking for canaries"):
            pin_output(conn)
            problems += [
                f"of {cut}, the last transaction applied: {problem}"
                for problem in rows_not_left(conn, before, looked)
            ]
            problems += [
                f"of {after}, which must not be there: {problem}"
                for problem in rows_beyond(conn, beyond, before, looked)
            ]
    if not any(looked):
        return skipped(_NAME, "no row beside the point can be looked for by its key")
    told = f"{plural(looked[0], 'row')} of the last transaction before it are as it left them"
    if after is None:
        told += "; nothing comes after it"
    else:
        told += f", {plural(looked[1], 'row')} of the first after it are as they were"
    return judged(_NAME, told, problems)


def footprint(chain: Sequence[Link], transaction: Transaction, tables: frozenset[int]) -> Footprint:
    """What *transaction* did, out of the segments that hold it."""
    for link in chain:
        for number, segment in enumerate(link.segments.segments):
            inside = segment.first_lsn <= transaction.commit_lsn < segment.end_lsn
            if inside and transaction in link.segments.transactions(number):
                return _read(link, number, transaction.xid, tables)
    return Footprint()


def _read(link: Link, number: int, xid: int, tables: frozenset[int]) -> Footprint:
    first = number
    while first > 0 and (link.segments.continued(first - 1) or not _begins(link, first, xid)):
        first -= 1
    found = Footprint()
    reader = FrameReader()
    current = 0
    for at in range(first, number + 1):
        for message in reader.read(link.segments.payload(at)):
            if message[0] == pgoutput.BEGIN:
                current = pgoutput.read_begin(message).xid
            elif message[0] == pgoutput.COMMIT:
                if current == xid:
                    return found
                current = 0
            elif current == xid or message[0] == pgoutput.RELATION:
                found.see(bytes(message), tables)
    return found


def _begins(link: Link, number: int, xid: int) -> bool:
    """Whether the segment holds the Begin of *xid*."""
    return any(
        message[0] == pgoutput.BEGIN and pgoutput.read_begin(message).xid == xid
        for message in FrameReader().read(link.segments.payload(number))
    )
