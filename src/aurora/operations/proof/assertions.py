"""What the user says must be true of the data: SQL files, each a query that answers true.

An *assertion* is about the data as it is now ("there is an order of the last day"); an
*invariant* holds at every moment ("no account is below zero"), and so is asked of any point in
time too.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from aurora.errors import UsageError
from aurora.operations.proof.checks import Check, Outcome, failed, passed
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.units import format_duration

_TIMEOUT_STATE, _SYNTAX_STATE = "57014", "42601"


@dataclass(frozen=True, slots=True)
class Assertion:
    """One file: its name, what it says, whether it holds at every moment."""

    name: str
    sql: str
    invariant: bool = False

    @property
    def words(self) -> str:
        """The first comment of the file, or its name."""
        first = self.sql.lstrip().partition("\n")[0]
        return first.lstrip("- ").strip() if first.startswith("--") else self.name


def read_assertions(
    base: Path, assertions: Sequence[str], invariants: Sequence[str]
) -> list[Assertion]:
    """Read the files; paths count from *base*. Raises UsageError."""
    found = []
    for text, invariant in [
        *((one, False) for one in assertions),
        *((one, True) for one in invariants),
    ]:
        path = base / Path(text).expanduser()
        try:
            sql = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the assertion {text} cannot be read: {error}",
                hint="Each entry of assertions and invariants under [validate] is an SQL file; "
                "paths count from the directory of aurora.toml. Nothing was started.",
            ) from error
        if not sql.strip():
            raise UsageError(f"the assertion {text} is empty", hint="Nothing was started.")
        found.append(Assertion(text, sql, invariant=invariant))
    return found


def run_assertions(dsn: str, wanted: Iterable[Assertion], *, timeout: float) -> list[Check]:
    """Ask each on a read-only connection of its own. Raises TargetError."""
    checks = []
    for one in wanted:
        begun = time.monotonic()
        with open_control(dsn, what="target") as conn:
            check = _ask(conn, one, timeout)
        check.seconds = time.monotonic() - begun
        checks.append(check)
    return checks


def _ask(conn: psycopg.Connection[tuple[object, ...]], one: Assertion, timeout: float) -> Check:
    kind = "invariant" if one.invariant else "assertion"
    name = f"{kind} {one.name}"
    with translated("target", doing="preparing an assertion"):
        conn.execute(f"SET statement_timeout = {max(1, int(timeout * 1000))}".encode())
        conn.execute("SET lock_timeout = '10s'")
        conn.execute("RESET search_path")  # names mean what they mean to the application
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        cursor = conn.execute(one.sql.encode())
        while cursor.nextset():  # the last statement answers
            pass
        rows = cursor.fetchmany(1001) if cursor.description else []
    except psycopg.Error as error:
        return _refused(conn, name, error, timeout)
    if not rows:
        return failed(name, f"{one.words}: it answers with no row", ["no row"])
    wrong = [row[0] for row in rows if row[0] is not True]
    if wrong:
        told = ["false" if value is False else f"{value!r}"[:200] for value in wrong[:20]]
        return failed(name, f"{one.words}: not true", told)
    return passed(name, one.words)


def _refused(
    conn: psycopg.Connection[tuple[object, ...]], name: str, error: psycopg.Error, timeout: float
) -> Check:
    state, said = error.sqlstate or "", str(error.diag.message_primary or error).strip()
    if state == _TIMEOUT_STATE:
        told = f"no answer within {format_duration(timeout)}"
        return failed(name, told, [said], blame=Outcome.INCONCLUSIVE)
    if state == _SYNTAX_STATE:
        return failed(name, "it is no SQL", [said], blame=Outcome.INCONCLUSIVE)
    blame = Outcome.ENVIRONMENT if conn.closed else Outcome.BAD
    return failed(name, f"it failed: {said}", [said], blame=blame)
