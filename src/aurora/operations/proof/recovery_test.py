"""The recovery test: restore into a server that is thrown away, check, measure, report.

The newest full backup is restored as it is, and every row compared with what was counted on
the source when it was made. Then the database is recovered to a random point of the change
log, where the rows of the transactions on both sides show that the point was met exactly.
A full test also goes from one full along the log to the next and compares checksums there.
"""

import random
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from aurora import clock
from aurora.engines.logical.checks import CheckReport, TableCheck, check_database
from aurora.errors import AuroraError, CheckFailed, RepositoryNotFound
from aurora.events import EventSink
from aurora.operations.content import Backup
from aurora.operations.point import Point
from aurora.operations.proof.assertions import Assertion
from aurora.operations.proof.canary import canaries
from aurora.operations.proof.checks import (
    Check,
    Outcome,
    failed,
    judged,
    of_error,
    passed,
    skipped,
    timed,
)
from aurora.operations.proof.evidence import new_id
from aurora.operations.proof.points import crossing, random_point
from aurora.operations.proof.recovery_report import TestReport, Trial
from aurora.operations.proof.server import Needs, TestServer, throwaway
from aurora.operations.proof.stopwatch import Stopwatch
from aurora.operations.proof.validate import (
    ROWS,
    Expected,
    ValidateOptions,
    rows_check,
    validate,
)
from aurora.operations.recover import RecoveryPlan, run_recovery
from aurora.operations.reports import RestoreReport
from aurora.operations.restore import run_restore
from aurora.operations.restore_plan import RestoreOptions, plan_restore
from aurora.operations.window import recovery_window
from aurora.repository.door import Repository
from aurora.repository.verify import Level, verify
from aurora.units import format_duration, plural

NEWEST, POINT, CROSSING = "newest full backup", "random point", "from one full to the next"
T = TypeVar("T")
_FOREIGN = ("EXTENSION", "TABLESPACE", "could not access file", "could not load library")


@dataclass(frozen=True, slots=True)
class TestOptions:
    """How to test."""

    __test__ = False  # for pytest, which takes the name for a test's

    jobs: int = 2
    chunk_bytes: int = 8 << 20
    server_dsn: str | None = field(default=None, repr=False)
    without_extensions: tuple[str, ...] = ()
    rto_goal: float | None = None  # seconds
    assertions: tuple[Assertion, ...] = ()
    timeout: float = 300.0  # seconds for one assertion
    point: bool = True  # also recover to a random point
    full: bool = False  # also from one full to the next
    seed: int | None = None  # of the random point


def run_test(
    repository: Repository,
    database: str,
    options: TestOptions,
    *,
    storage: str = "primary",
    on_server: Callable[[TestServer], None] = lambda _: None,
    sink: EventSink,
) -> TestReport:
    """Test whether *database* can be recovered. What is wrong is reported, not raised.

    Args:
        storage: where *repository* reads, for the report.
        on_server: hears of the server as soon as it runs.

    Raises:
        RepositoryNotFound: there is no full backup to test.
        UsageError: the server that is given is the source itself.
        Cancelled.
    """
    now = clock.now()
    seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
    report = TestReport(new_id("t", now), database, storage, options.full, seed, now)
    report.rto_goal = options.rto_goal
    watch = Stopwatch(sink)
    try:
        report.recoverable_to = recovery_window(repository, database, sink=sink).to_at
        backup = _newest(repository, database)
    except RepositoryNotFound:
        raise
    except AuroraError as error:
        report.trials.append(Trial(NEWEST, checks=[of_error("reading the backup", error)]))
        report.ended_at = clock.now()
        return report
    needs = Needs.of(backup.snapshot, without=options.without_extensions)
    try:
        with throwaway(needs, dsn=options.server_dsn, sink=watch) as server:
            report.server = f"PostgreSQL {server.version}" + ("" if server.own else ", given")
            on_server(server)
            _run_trials(repository, database, backup, server, options, report, watch, sink)
    except AuroraError as error:
        if error.code in ("usage", "cancelled"):
            raise
        report.trials.append(Trial("test server", checks=[of_error("a server to test on", error)]))
    report.ended_at = clock.now()
    return report


def _newest(repository: Repository, database: str) -> Backup:
    entries = [one for one in repository.backups(database) if one.type == "full"]
    if not entries:
        raise RepositoryNotFound(
            f"there is no full backup of {database} to test",
            hint="Run `aurora backup create`.",
        )
    return Backup(repository, entries[-1])


def _run_trials(
    repository: Repository,
    database: str,
    backup: Backup,
    server: TestServer,
    options: TestOptions,
    report: TestReport,
    watch: Stopwatch,
    sink: EventSink,
) -> None:
    def whole(dsn: str, _trial: Trial, told: EventSink) -> RestoreReport:
        plan = plan_restore(backup, dsn, _restoring(options))
        return run_restore(plan, make_safety_backup=None, sink=told)

    trial = Trial(NEWEST, backup.entry.id, state_of=backup.snapshot.source.snapshot_at)
    report.trials.append(trial)
    _try(trial, server, options, watch, whole, lambda rows: Expected.of(backup, rows=rows))
    if options.point:
        chance = random.Random(report.seed)  # noqa: S311 - a fair choice, no secret
        point = _found(report, POINT, lambda: random_point(repository, database, chance, sink=sink))
        if point is not None:
            _try_point(point, POINT, server, options, report, Stopwatch(sink))
    if options.full:
        trial.checks.append(timed("every stored object", lambda: _every_object(backup, sink)))
        found = _found(report, CROSSING, lambda: crossing(repository, database, sink=sink))
        if found is not None:
            other = Backup(repository, repository.resolve(found.full, database))
            _try_point(found.point, CROSSING, server, options, report, Stopwatch(sink), other)


def _every_object(backup: Backup, sink: EventSink) -> Check:
    """All that the backup names is there and opens: rows, and files of Supabase Storage."""
    assert isinstance(backup.repository, Repository)
    found = verify(backup.repository, backup.entry, Level.FULL, sink=sink)
    told = f"{plural(found.checked_objects, 'object')} opened and followed"
    if backup.body.storage is not None:
        told += ", the files of Supabase Storage among them"
    return judged("every stored object", told, [f"{b.problem}: {b.name}" for b in found.bad])


def _found(report: TestReport, what: str, look: Callable[[], T | None]) -> T | None:
    """What *look* finds; where it finds nothing, or fails, the report says so."""
    try:
        found = look()
    except AuroraError as error:
        report.trials.append(Trial(what, checks=[of_error("finding the point", error)]))
        return None
    if found is None:
        why = "no incremental backup with transactions to go to"
        if what == CROSSING:
            why = "no two full backups with one change log behind both"
        report.trials.append(Trial(what, checks=[skipped(what, why)], left_out=True))
    return found


def _restoring(options: TestOptions) -> RestoreOptions:
    return RestoreOptions(
        jobs=options.jobs,
        chunk_bytes=options.chunk_bytes,
        safety=False,
        accept_refusals=True,
        with_roles=True,
    )


def _try_point(
    point: Point,
    what: str,
    server: TestServer,
    options: TestOptions,
    report: TestReport,
    watch: Stopwatch,
    like: Backup | None = None,
) -> None:
    """Recover to *point*; its rows must be those of the full *like*, where one is given."""

    def recover(dsn: str, trial: Trial, told: EventSink) -> RestoreReport:
        plan = RecoveryPlan(point, plan_restore(point.backup, dsn, _restoring(options)))
        done = run_recovery(plan, make_safety_backup=None, sink=told)
        if like is None:
            trial.checks.append(timed("canaries", lambda: canaries(dsn, point)))
        else:
            trial.checks.append(timed("checksums", lambda: _compare(dsn, point, like, options)))
        return done

    trial = Trial(what, point.backup.entry.id, str(point.resolution.cut or point.target))
    trial.state_of = point.state_of
    report.trials.append(trial)

    def expected(rows: Check) -> Expected:
        return Expected(point.backup, point.snapshot, (), rows)

    _try(trial, server, options, watch, recover, expected, now=False)


def _compare(dsn: str, point: Point, like: Backup, options: TestOptions) -> Check:
    """The recovered rows of every streamed table against what the full counted on the source."""
    data = [one for one in like.data() if one.oid in point.streamed]
    snapshot = msgspec.structs.replace(like.snapshot, sequences=())
    checked = check_database(
        dsn, snapshot, data, jobs=options.jobs, chunk_bytes=options.chunk_bytes,
        progress=lambda *_: None, cancel=threading.Event(),
    )  # fmt: skip
    check = rows_check(checked, exact=f"what {like.entry.id} counted on the source")
    check.name = "checksums at the next full"
    return check


def _try(
    trial: Trial,
    server: TestServer,
    options: TestOptions,
    watch: Stopwatch,
    restore: Callable[[str, Trial, EventSink], RestoreReport],
    expected: Callable[[Check], Expected],
    *,
    now: bool = True,
) -> None:
    """One restore with everything that is checked of it; the database is dropped after."""
    dsn = server.new_database()
    try:
        done = restore(dsn, trial, watch)
        trial.rto = watch.elapsed
        trial.rows, trial.bytes = done.rows, done.bytes
        rows = _rows_of(done, trial)
        trial.checks.insert(0, _refused(done, server, options, expected(rows).backup))
        found = validate(
            dsn,
            expected(rows),
            ValidateOptions(
                jobs=options.jobs,
                chunk_bytes=options.chunk_bytes,
                assertions=options.assertions,
                timeout=options.timeout,
                without_extensions=options.without_extensions,
                disposable=True,
                now=now,
            ),
            sink=watch,
        )
        trial.checks += found.checks
        asked = ("assertion ", "invariant ")
        trial.rto += sum(c.seconds for c in found.checks if c.name.startswith(asked))
        if options.rto_goal is not None:
            trial.checks.append(_in_time(trial, options.rto_goal))
    except CheckFailed as error:
        report = error.context.get("report")
        trial.checks.append(
            _rows_of(report, trial) if isinstance(report, RestoreReport) else of_error(ROWS, error)
        )
    except AuroraError as error:
        if error.code == "cancelled":
            raise
        trial.checks.append(of_error("restore", error))
    finally:
        trial.phases = watch.phases()
        server.drop_databases()


def _rows_of(done: RestoreReport, trial: Trial) -> Check:
    """The restore's own comparison of every row, as a check."""
    checked = CheckReport(
        [TableCheck(t.table, t.rows_expected, t.rows_found, t.same) for t in done.tables],
        done.sequences,
        list(done.problems),
    )
    exact = "the recorded source" if trial.what == NEWEST else "what full and log say"
    return rows_check(checked, exact=exact)


def _refused(
    done: RestoreReport, server: TestServer, options: TestOptions, backup: Backup
) -> Check:
    """Statements of the schema that the server refused: nothing of a backup may get lost."""
    name = "every statement applied"
    if not done.refusals:
        return passed(name, "the server refused nothing")
    told = f"{plural(len(done.refusals), 'statement')} refused: {done.refusals[0]}"
    if options.without_extensions:
        why = f"extensions left out on request: {', '.join(options.without_extensions)}"
        return skipped(name, f"{why}; {told}")
    if any(word in refusal for refusal in done.refusals for word in _FOREIGN):
        return failed(name, told, done.refusals, blame=Outcome.ENVIRONMENT)
    same = server.major == backup.snapshot.source.version_num // 10000
    blame = Outcome.BAD if same else Outcome.INCONCLUSIVE
    return failed(name, told, done.refusals, blame=blame)


def _in_time(trial: Trial, goal: float) -> Check:
    told = f"recovered in {format_duration(trial.rto)}, the goal is {format_duration(goal)}"
    if trial.rto > goal:
        return failed("recovery time", told, blame=Outcome.SLOW)
    return passed("recovery time", told)
