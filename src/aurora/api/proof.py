"""Proof that backups can be recovered: recovery tests and validation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from aurora import clock
from aurora.api.audit import record, recorded
from aurora.api.common import held, keyed, memory_of, opened, reports_directory, state_directory
from aurora.engines.logical.names import shown
from aurora.engines.logical.targets import Target, parse_lsn
from aurora.errors import AuroraError, UsageError
from aurora.events import EventSink, Warned, discard
from aurora.operations.content import Backup
from aurora.operations.point import find_point
from aurora.operations.proof import evidence
from aurora.operations.proof.assertions import Assertion, read_assertions
from aurora.operations.proof.last import ProofState
from aurora.operations.proof.recovery_report import TestReport
from aurora.operations.proof.recovery_test import TestOptions, run_test
from aurora.operations.proof.validate import Expected, ValidateOptions, ValidateReport
from aurora.operations.proof.validate import validate as run_validate
from aurora.operations.reports import RestoreReport
from aurora.postgres.conninfo import ConnInfo
from aurora.repository.door import Repository
from aurora.wiring import Aurora

_EVIDENCE = ("test_id", "verdict", "rto_seconds", "rpo_seconds", "recoverable_to", "server")


def run_recovery_test(
    aurora: Aurora,
    *,
    full: bool = False,
    point: bool = True,
    storage: str | None = None,
    seed: int | None = None,
    sink: EventSink = discard,
) -> TestReport:
    """Restore into a server that is thrown away, check, measure; the report says how it ended.

    Args:
        full: from the secondary alone where there is one, and along the log from one full to
            the next; what a monthly test does.
        point: also recover to a random point of the change log.
        storage: ``primary`` or ``secondary``; by default the primary, with *full* the secondary.
        seed: of the random point, to go to the same one again.

    Raises: see :func:`aurora.operations.proof.recovery_test.run_test`, and what opening the
        repository raises.
    """
    place = storage or ("secondary" if full and aurora.has_secondary else "primary")
    state = ProofState(state_directory(aurora))
    _tell_killed(aurora, state, sink)
    options = _test_options(aurora, full=full, point=point, seed=seed)
    with recorded(
        aurora, "recovery-test", "backup test-recovery", sink, storage=place, full=full
    ) as note:
        repository = note.repository = _opened(aurora, place, sink)
        memory_of(aurora).warn(repository, aurora.database, sink)
        try:
            with held(repository):
                report = run_test(
                    repository,
                    aurora.database,
                    options,
                    storage=place,
                    on_server=lambda server: state.begin("", server.scratch),
                    sink=sink,
                )
        finally:
            state.end()
        files = evidence.texts(
            f"test-recovery-{report.test_id}", report.document(), report.markdown()
        )
        report.path = str(evidence.write(reports_directory(aurora), files))
        document = report.document()
        state.note("test", {**document, "path": report.path})
        note.outcome = str(report.outcome)
        note.facts |= {name: document[name] for name in _EVIDENCE}
        note.facts |= {
            "backup": document["backup_id"],
            "seed": report.seed,
            "rto_goal_seconds": report.rto_goal,
            "trials": [
                {k: v for k, v in trial.document().items() if k != "checks"}
                for trial in report.trials
            ],
            "files": evidence.hashes(files),
        }
        note.attachments |= files
    return report


def validate(
    aurora: Aurora,
    backup_id: str | None = None,
    *,
    target: str | None = None,
    storage: str = "primary",
    sink: EventSink = discard,
) -> ValidateReport:
    """Compare a database with a backup: rows, schema, roles, the user's assertions.

    Without *target* and *backup_id*: what was restored last on this machine. With a *target*
    alone: it against the newest full backup.

    Raises:
        UsageError: nothing was restored here, or it was a recovery test, whose database is gone.
        TargetError: the database cannot be reached.
    """
    if backup_id is None and target is None:
        dsn, expected, backup_id = _last_restored(aurora, storage, sink)
    else:
        dsn = target or aurora.source_dsn()
        _, backup = opened(aurora, backup_id or "latest:full", storage, sink)
        expected = Expected.of(backup)
    options = _validate_options(aurora)
    with recorded(
        aurora, "verify", "backup validate", sink,
        backup=expected.backup.entry.id, target=ConnInfo.parse(dsn).redacted(),
    ) as note:  # fmt: skip
        note.repository = keyed(expected.backup.repository)
        with held(expected.backup.repository):
            report = run_validate(dsn, expected, options, sink=sink)
        stem = f"validate-{clock.now():%Y%m%dT%H%M%SZ}"
        files = evidence.texts(stem, report.document(), report.markdown())
        report.path = str(evidence.write(reports_directory(aurora), files))
        note.outcome = report.verdict
        document = report.document()
        note.facts |= {name: document[name] for name in ("tally", "state_of", "seconds")}
        note.facts["files"] = evidence.hashes(files)
        note.attachments |= files
    return report


def last_test(aurora: Aurora) -> dict[str, Any] | None:
    """The report of the recovery test that was done last here, if that came after any restore."""
    newest = ProofState(state_directory(aurora)).newest()
    return newest.facts if newest is not None and newest.kind == "test" else None


def remember_restore(
    aurora: Aurora, dsn: str, report: RestoreReport, *, storage: str, lsn: str = ""
) -> None:
    """Note a whole restore, for :func:`validate`. No password is kept.

    Args:
        lsn: of the last transaction of the change log that was applied, for a point in time.
    """
    info = ConnInfo.parse(dsn)
    ProofState(state_directory(aurora)).note(
        "restore",
        {
            "restore_id": report.restore_id,
            "backup_id": report.backup_id,
            "kind": report.kind,
            "target": info.without_secrets().uri(),
            "storage": storage,
            "lsn": lsn,
            "report": str(Path(report.path).with_suffix(".json")) if report.path else "",
        },
    )


def _last_restored(aurora: Aurora, storage: str, sink: EventSink) -> tuple[str, Expected, str]:
    newest = ProofState(state_directory(aurora)).newest()
    if newest is None or newest.kind != "restore":
        raise UsageError(
            "nothing was restored on this machine that could be validated"
            if newest is None
            else "a recovery test came last: its database is gone, it was validated then",
            hint="Name a database with --target, and a backup if it is not the newest full. The "
            "report of a recovery test holds its validation.",
        )
    facts = newest.facts
    dsn = _with_password(aurora, str(facts["target"]))
    repository, backup = opened(aurora, str(facts["backup_id"]), storage, sink)
    if not facts.get("lsn") or not isinstance(repository, Repository):
        return dsn, Expected.of(backup), backup.entry.id
    return dsn, _expected_at(aurora, repository, backup, facts, sink), backup.entry.id


def _expected_at(
    aurora: Aurora, repository: Repository, backup: Backup, facts: dict[str, Any], sink: EventSink
) -> Expected:
    """What a database that was recovered to a point must hold: its rows by number.

    What the log changed is known by number alone, and what sequences were set to, from the
    report of the recovery.
    """
    point = find_point(
        repository,
        aurora.database,
        Target(lsn=parse_lsn(str(facts["lsn"]))),
        full=backup.entry.id,
        sink=sink,
    )
    try:
        report = json.loads(Path(str(facts["report"])).read_text(encoding="utf-8"))
        rows = {str(one["table"]): int(one["rows_found"]) for one in report["tables"]}
        positions = {name: (int(at), bool(given)) for name, (at, given) in
                     report.get("positions", {}).items()}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"the report of the last restore cannot be read: {facts.get('report')}",
            hint="Name a database with --target, and a full backup to compare it with.",
        ) from error
    names = {table.oid: shown(table.schema, table.name) for table in point.snapshot.tables}
    data = [
        msgspec.structs.replace(one, rows=rows.get(names[one.oid], one.rows), sum="")
        if one.oid in point.streamed
        else one
        for one in point.data
        if one.oid in names
    ]
    sequences = tuple(
        msgspec.structs.replace(one, last_value=at, is_called=given)
        for one in point.snapshot.sequences
        for at, given in [
            positions.get(shown(one.schema, one.name), (one.last_value, one.is_called))
        ]
    )
    snapshot = msgspec.structs.replace(point.snapshot, sequences=sequences)
    return Expected(backup, snapshot, data)


def _with_password(aurora: Aurora, uri: str) -> str:
    """The remembered target with the source's password, where it is the source's server."""
    info = ConnInfo.parse(uri)
    try:
        source = aurora.source()
    except AuroraError:
        return info.dsn()
    same = source.without_secrets().with_dbname("x").uri() == info.with_dbname("x").uri()
    return info.with_password(source.password).dsn() if same and source.password else info.dsn()


def _opened(aurora: Aurora, place: str, sink: EventSink) -> Repository:
    """What *place* itself holds: a test must not be helped by the other storage."""
    if place not in ("primary", "secondary"):
        raise UsageError(f"no storage is called {place!r}", hint="primary or secondary.")
    return aurora.open_primary() if place == "primary" else aurora.open_secondary(sink=sink)


def _test_options(aurora: Aurora, *, full: bool, point: bool, seed: int | None) -> TestOptions:
    settings = aurora.settings
    return TestOptions(
        jobs=settings.restore.jobs,
        chunk_bytes=settings.backup.chunk_size,
        server_dsn=server_for_tests(aurora),
        without_extensions=settings.test_recovery.without_extensions,
        rto_goal=settings.goals.rto,
        assertions=_assertions(aurora),
        timeout=settings.validation.timeout,
        point=point,
        full=full,
        seed=seed,
    )


def _validate_options(aurora: Aurora) -> ValidateOptions:
    settings = aurora.settings
    return ValidateOptions(
        jobs=settings.restore.jobs,
        chunk_bytes=settings.backup.chunk_size,
        assertions=_assertions(aurora),
        timeout=settings.validation.timeout,
        differences=settings.validation.differences,
        without_extensions=settings.test_recovery.without_extensions,
    )


def _assertions(aurora: Aurora) -> tuple[Assertion, ...]:
    settings = aurora.settings.validation
    found: Sequence[Assertion] = read_assertions(
        aurora.settings.base, settings.assertions, settings.invariants
    )
    return tuple(found)


def server_for_tests(aurora: Aurora) -> str | None:
    """The server that is given for tests and drills; None: one is started."""
    settings = aurora.settings.test_recovery
    if not settings.server_dsn:
        return None
    info = ConnInfo.parse(settings.server_dsn)
    if settings.password is not None:
        password = settings.password.resolve(
            "the password of the server for recovery tests", base=aurora.settings.base
        )
        info = info.with_password(password)
    return info.dsn()


def _tell_killed(aurora: Aurora, state: ProofState, sink: EventSink) -> None:
    """Tell of a test that was killed before it could say anything."""
    killed = state.killed()
    if killed is None:
        return
    sink(
        Warned(
            "test-killed",
            "an earlier recovery test was killed; what it left was removed",
            hint="Its outcome is inconclusive. This one begins anew.",
        )
    )
    record(
        aurora, None, "recovery-test", "inconclusive",
        {"message": "the test was killed before its end", "pid": killed.get("pid")},
        operation="backup test-recovery", sink=sink,
    )  # fmt: skip
