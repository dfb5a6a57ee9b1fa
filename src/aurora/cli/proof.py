"""`aurora backup test-recovery` and `aurora backup validate`."""

from typing import Annotated

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.render import surface
from aurora.errors import CheckFailed
from aurora.operations.proof.checks import Outcome, raise_unless_ok, tally, told
from aurora.operations.proof.recovery_report import TestReport
from aurora.operations.proof.validate import ValidateReport
from aurora.units import format_duration

Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]


def recovery_test(
    context: typer.Context,
    full: Annotated[
        bool,
        typer.Option("--full", help="From the secondary alone, and from one full to the next."),
    ] = False,
    no_point: Annotated[
        bool, typer.Option("--no-point", help="The newest full backup only, no random point.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Go to the same random point again as the test it names.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Read from this alone: primary or secondary.")
    ] = None,
    json: Json = False,
) -> None:
    """Restore into a server that is thrown away, check everything, measure RTO and RPO.

    Restores the newest full backup and a random point of the change log. Exit code 44: the
    backup is bad; 4: slower than the goal; 54: something is missing here; 5: nothing can be told.
    """
    with surface(json) as shown:
        report = api.run_recovery_test(
            run.load(context, sink=shown.sink),
            full=full,
            point=not no_point,
            storage=storage,
            seed=seed,
            sink=shown.sink,
        )
        document = {"operation": "backup test-recovery", **report.document(), "path": report.path}
        shown.summary(document, _test_lines(report))
    raise_unless_ok(report.outcome, f"recovery test {report.test_id}: {report.verdict}",
                    report.path)  # fmt: skip


def _test_lines(report: TestReport) -> list[str]:
    lines = []
    for trial in report.trials:
        head = f"{trial.what}" + (f" {trial.backup_id}" if trial.backup_id else "")
        took = f", recovered in {format_duration(trial.rto)}" if trial.rto else ""
        lines.append(f"{head}" + (f", to {trial.target}" if trial.target else "") + took)
        lines += [f"  {line}" for check in trial.checks for line in told(check)]
    measured = []
    if report.rto is not None:
        measured.append(f"RTO {format_duration(report.rto)}")
    if report.rpo is not None:
        measured.append(f"RPO {format_duration(report.rpo)} when the test began")
    return [
        *lines,
        *([", ".join(measured)] if measured else []),
        f"evidence {report.path}, recorded in the audit trail",
        f"recovery test {report.test_id}: {report.outcome}, {tally(report.checks)}",
    ]


def validate(
    context: typer.Context,
    backup_id: Annotated[
        str | None,
        typer.Argument(help="The backup to compare with; by default what was restored last."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Connection string of the database; by default the source.")
    ] = None,
    storage: Annotated[str, typer.Option(help="Read from: primary or secondary.")] = "primary",
    json: Json = False,
) -> None:
    """Compare a restored database with its backup: rows, checksums, schema, roles, assertions.

    Without arguments: what was restored or tested last on this machine. Exit code 43 when it
    differs.
    """
    with surface(json) as shown:
        aurora = run.load(context, sink=shown.sink)
        if backup_id is None and target is None and (tested := api.last_test(aurora)):
            path = str(tested.get("path", ""))
            shown.summary(
                {"operation": "backup validate", **tested},
                [
                    "a recovery test came last; its database was validated then, and is gone",
                    f"recovery test {tested.get('test_id')}: {tested.get('verdict')}",
                ],
            )
            told_then = f"the last recovery test: {tested.get('verdict')}"
            raise_unless_ok(Outcome(str(tested["outcome"])), told_then, path)
            return

        report = api.validate(aurora, backup_id, target=target, storage=storage, sink=shown.sink)
        document = {"operation": "backup validate", **report.document(), "path": report.path}
        shown.summary(document, _lines(report))
    if report.outcome is Outcome.BAD:
        raise CheckFailed(
            f"{report.target} differs from what {report.backup_id} holds: {_first(report)}",
            hint="Nothing was changed. If the database was used since it was restored, that is "
            f"how it should be; the report has every difference. Report: {report.path}",
        )
    raise_unless_ok(report.outcome, f"{report.target}: {_first(report)}", report.path)


def _lines(report: ValidateReport) -> list[str]:
    lines = [line for check in report.checks for line in told(check)]
    for one in report.differences:
        lines.append(f"rows of {one.table} that differ: {one.words}")
        lines += [f"  {row}" for row in one.rows]
        hidden = sum(one.counts.values()) - len(one.rows)
        if hidden > 0:
            lines.append(f"  and {hidden} more ([validate] differences shows more)")
    return [
        *lines,
        f"report {report.path}",
        f"{report.target} against {report.backup_id}: {report.verdict}, {tally(report.checks)}",
    ]


def _first(report: ValidateReport) -> str:
    wrong = [check for check in report.checks if check.problems]
    return f"{wrong[0].name}: {wrong[0].problems[0]}" if wrong else str(report.outcome)
