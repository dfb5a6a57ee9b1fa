"""Validation: a restored database against its backup, beyond its rows.

Rows and order-independent checksums, sequences, constraints and indexes, policies, roles,
extensions, grants, and what the user asserts. Where rows differ they are shown one by one, up
to a limit. Nothing in the database is changed.
"""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aurora import clock
from aurora.engines.base import Snapshot, TableData
from aurora.engines.logical.amcheck import amcheck_schema, run_amcheck
from aurora.engines.logical.checks import CheckReport, check_database
from aurora.engines.logical.difference import TableDifference, differing_rows
from aurora.engines.logical.export import progress_of
from aurora.engines.logical.names import shown
from aurora.engines.logical.partitions import Unit, units
from aurora.engines.logical.schema import Archive
from aurora.engines.logical.structure import compare_globals, compare_structure
from aurora.engines.logical.system import dump_globals
from aurora.errors import AuroraError
from aurora.events import EventSink, PhaseBegun, PhaseEnded
from aurora.operations.content import Backup, RepositorySource
from aurora.operations.proof.assertions import Assertion, run_assertions
from aurora.operations.proof.checks import (
    Check,
    Outcome,
    judged,
    of_error,
    outcome_of,
    passed,
    skipped,
    tally,
    timed,
)
from aurora.operations.proof.evidence import table
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import inspect_server, open_control
from aurora.units import format_count, format_duration, plural

ROWS = "rows and checksums"


@dataclass(frozen=True, slots=True)
class ValidateOptions:
    """How to validate."""

    jobs: int = 2
    chunk_bytes: int = 8 << 20
    assertions: tuple[Assertion, ...] = ()
    timeout: float = 300.0  # seconds for one assertion
    differences: int = 20  # rows of one table that are shown
    without_extensions: tuple[str, ...] = ()
    disposable: bool = False  # the database is thrown away: the extension amcheck may be made
    with_roles: bool = True
    now: bool = True  # the backup's newest state: assertions apply, not the invariants alone


@dataclass(frozen=True, slots=True)
class Expected:
    """What the database must hold."""

    backup: Backup
    snapshot: Snapshot  # the backup's own, or a recovered point's
    data: Sequence[TableData]
    rows: Check | None = None  # where the rows were compared already
    sequences: bool = True

    @classmethod
    def of(cls, backup: Backup, *, rows: Check | None = None) -> "Expected":
        return cls(backup, backup.snapshot, () if rows else backup.data(), rows)


@dataclass(slots=True)
class ValidateReport:
    """What a validation found."""

    backup_id: str
    target: str
    state_of: str
    begun_at: str
    checks: list[Check] = field(default_factory=list)
    differences: list[TableDifference] = field(default_factory=list)
    seconds: float = 0.0
    path: str = ""

    @property
    def outcome(self) -> Outcome:
        return outcome_of(self.checks)

    @property
    def verdict(self) -> str:
        """The outcome in words that blame nobody: whoever restored may have worked since."""
        return "differs" if self.outcome is Outcome.BAD else str(self.outcome)

    def document(self) -> dict[str, Any]:
        return {
            "kind": "validate",
            "backup_id": self.backup_id,
            "target": self.target,
            "state_of": self.state_of,
            "begun_at": self.begun_at,
            "outcome": self.verdict,
            "tally": tally(self.checks),
            "checks": [check.document() for check in self.checks],
            "differences": [
                {
                    "table": one.table,
                    "counts": one.counts,
                    "error": one.error,
                    "rows": [
                        {"kind": r.kind, "key": r.key, "backup": r.backup, "found": r.found}
                        for r in one.rows
                    ],
                }
                for one in self.differences
            ],
            "seconds": round(self.seconds, 3),
        }

    def markdown(self) -> str:
        lines = [
            f"# Validation of {self.target}: {self.verdict}",
            "",
            f"- backup: `{self.backup_id}`, state of {self.state_of}",
            f"- begun {self.begun_at}, {format_duration(self.seconds)}",
            f"- {tally(self.checks)}",
            "",
            *checks_markdown(self.checks),
        ]
        for one in self.differences:
            lines += ["", f"## Rows of {one.table} that differ: {one.words}", ""]
            lines += table(
                ("", "row", "in the backup", "in the database"),
                ((r.kind, r.key, r.backup, r.found) for r in one.rows),
            )
        return "\n".join(lines) + "\n"


def checks_markdown(checks: Sequence[Check]) -> list[str]:
    """A table of checks, and the problems of each below it."""
    lines = table(
        ("check", "result", "", "took"),
        ((c.name, str(c.status), c.detail, format_duration(c.seconds)) for c in checks),
    )
    for check in checks:
        if check.problems:
            lines += ["", f"**{check.name}**", "", *(f"- {one}" for one in check.problems[:100])]
            if len(check.problems) > 100:
                lines.append(f"- and {len(check.problems) - 100} more, in the JSON")
    return lines


def validate(
    dsn: str, expected: Expected, options: ValidateOptions, *, sink: EventSink
) -> ValidateReport:
    """Compare the database at *dsn* with what is *expected*. What differs is reported.

    Raises:
        TargetError, SourceError: the database cannot be reached at all.
    """
    backup = expected.backup
    report = ValidateReport(
        backup.entry.id,
        ConnInfo.parse(dsn).redacted(),
        expected.snapshot.source.snapshot_at,
        clock.isoformat(clock.now()),
    )
    begun = clock.now()
    with open_control(dsn, what="target") as conn, translated("target", doing="looking at it"):
        facts = inspect_server(conn)
    major = backup.snapshot.source.version_num // 10000
    if expected.rows is not None:
        report.checks.append(expected.rows)
    else:
        report.checks += _rows(dsn, expected, options, report, sink)
    sink(PhaseBegun("comparing the schema"))
    report.checks += _structure(dsn, expected.backup, options, major)
    if options.with_roles:
        same = facts.major == major
        report.checks.append(timed("roles", lambda: _roles(dsn, backup, same_major=same)))
    report.checks.append(timed("extension versions", lambda: _versions(dsn, expected, options)))
    sink(PhaseEnded("comparing the schema", tally(report.checks)))
    report.checks += _assertions(dsn, options, sink)
    report.checks.append(timed("amcheck", lambda: _amcheck(dsn, options, sink)))
    report.seconds = (clock.now() - begun).total_seconds()
    return report


def _assertions(dsn: str, options: ValidateOptions, sink: EventSink) -> list[Check]:
    """The user's assertions; one skipped check where there is none."""
    wanted = [one for one in options.assertions if one.invariant or options.now]
    if not wanted:
        why = "none is configured under [validate]"
        if options.assertions:
            why = "assertions are about the newest state; no invariant is configured"
        return [skipped("assertions", why)]
    sink(PhaseBegun("asking the assertions", len(wanted), "assertions"))
    try:
        checks = run_assertions(dsn, wanted, timeout=options.timeout)
    except AuroraError as error:
        return [of_error("assertions", error)]
    sink(PhaseEnded("asking the assertions", tally(checks)))
    return checks


def rows_check(checked: CheckReport, *, exact: str = "the recorded source") -> Check:
    """The comparison of rows as one check."""
    same = sum(1 for one in checked.tables if one.same)
    detail = (
        f"{format_count(checked.rows)} rows, {same} of {plural(len(checked.tables), 'table')} "
        f"equal to {exact}, {plural(checked.sequences, 'sequence')}"
    )
    return judged(ROWS, detail, checked.problems)


def _rows(
    dsn: str,
    expected: Expected,
    options: ValidateOptions,
    report: ValidateReport,
    sink: EventSink,
) -> Iterator[Check]:
    sizes = sum(t.sized for t in expected.snapshot.tables if t.has_rows)
    sink(PhaseBegun("checking every row", sizes))
    found: list[CheckReport] = []

    def look() -> Check:
        found.append(
            check_database(
                dsn,
                expected.snapshot,
                expected.data,
                jobs=options.jobs,
                chunk_bytes=options.chunk_bytes,
                progress=progress_of("checking every row", sink),
                cancel=threading.Event(),
            )
        )
        return rows_check(found[0])

    check = timed(ROWS, look)
    sink(PhaseEnded("checking every row", check.detail))
    yield check
    if found and options.differences:
        report.differences = list(_differences(dsn, expected, found[0], options, sink))


def _differences(
    dsn: str,
    expected: Expected,
    checked: CheckReport,
    options: ValidateOptions,
    sink: EventSink,
) -> Iterator[TableDifference]:
    """The rows that differ, of every table that does and that is there."""
    wrong = {one.table for one in checked.tables if not one.same and one.rows_found is not None}
    source = RepositorySource(expected.backup.repository)
    by_oid = {one.oid: one for one in expected.data}
    for unit in units(expected.snapshot.tables, expected.data):
        name = shown(unit.table.schema, unit.table.name)
        if name not in wrong or not all(part.sum for part in unit.expected):
            continue
        sink(PhaseBegun(f"comparing the rows of {name}"))
        try:
            yield _difference(dsn, unit, by_oid, source, expected, options)
        except AuroraError as error:
            yield TableDifference(name, (), {}, error.message)


def _difference(
    dsn: str,
    unit: Unit,
    by_oid: dict[int, TableData],
    source: RepositorySource,
    expected: Expected,
    options: ValidateOptions,
) -> TableDifference:
    return differing_rows(
        dsn,
        unit.table,
        [by_oid[member.oid] for member in unit.members],
        source,
        limit=options.differences,
        encoding=expected.snapshot.source.database.encoding,
        cancel=threading.Event(),
    )


def _structure(dsn: str, backup: Backup, options: ValidateOptions, major: int) -> Iterator[Check]:
    with tempfile.TemporaryDirectory(prefix="aurora-") as directory:
        try:
            archive = Archive(
                backup.snapshot.archive,
                backup.read_all(backup.snapshot.archive.pieces),
                Path(directory),
            )
            found = compare_structure(
                dsn, archive, source_major=major, ignore=options.without_extensions
            )
        except AuroraError as error:
            yield of_error("schema", error)
            return
    how = "and their definitions" if found.definitions else "by name"
    for name, group in found.groups.items():
        if group.count or group.problems:
            told = f"{format_count(group.count)} compared {how}"
            yield judged(name, told, group.problems)
    if not found.definitions:
        yield skipped("definitions", f"the server is of another major version than {major}")


def _roles(dsn: str, backup: Backup, *, same_major: bool) -> Check:
    expected = backup.read_all(backup.snapshot.globals).decode(errors="replace")
    with open_control(dsn, what="target") as conn:
        with translated("target", doing="looking at the server"):
            facts = inspect_server(conn)
        found = dump_globals(dsn, facts).decode(errors="replace")
        lacking = compare_globals(conn, expected, found, same_major=same_major)
    number = expected.count("CREATE ROLE ")
    return judged("roles", f"{plural(number, 'role')} with attributes and memberships", lacking)


def _versions(dsn: str, expected: Expected, options: ValidateOptions) -> Check:
    with open_control(dsn, what="target") as conn:
        with translated("target", doing="looking at the extensions"):
            there = {
                str(name): str(version)
                for name, version in conn.execute(
                    "SELECT extname, extversion FROM pg_catalog.pg_extension"
                )
            }
    wanted = expected.backup.snapshot.source.database.extensions
    others = [
        f"{name} {there[name]} instead of {version}"
        for name, version, _ in wanted
        if name in there and there[name] != version
    ]
    left_out = [name for name, _, _ in wanted if name in options.without_extensions]
    if left_out:
        return skipped("extension versions", f"left out on request: {', '.join(left_out)}")
    if others:
        return skipped("extension versions", f"others than the source's: {', '.join(others)}")
    return passed("extension versions", f"{plural(len(wanted), 'extension')} as in the source")


def _amcheck(dsn: str, options: ValidateOptions, sink: EventSink) -> Check:
    with open_control(dsn, what="target") as conn:
        schema = amcheck_schema(conn, create=options.disposable)
        if not schema:
            why = "the server does not have it" if options.disposable else "it is not installed"
            return skipped("amcheck", f"{why}; indexes were looked at by the catalog alone")
        sink(PhaseBegun("checking indexes with amcheck"))
        number, problems = run_amcheck(
            conn, schema, progress_of("checking indexes with amcheck", sink)
        )
        sink(PhaseEnded("checking indexes with amcheck", f"{number} looked through"))
    return judged("amcheck", f"{format_count(number)} indexes and tables are sound", problems)
