"""What a status amounts to: verdict, warnings with what to do, and how bad it is. Pure."""

from collections.abc import Iterator

from aurora.engines.logical.slot import LogNames
from aurora.operations.coverage import Covered, shown_share
from aurora.operations.findings import Finding, Level, failed, warning
from aurora.operations.log_state import slot_break
from aurora.operations.slot_health import Danger
from aurora.operations.status import Goals, StatusOptions, StatusReport, TypeStatus, shown_moment
from aurora.operations.status_storage import StorageLook
from aurora.units import format_duration, listed, plural

_RANK = {Level.OK: 0, Level.WARNING: 1, Level.ERROR: 2}


def judge(report: StatusReport, options: StatusOptions) -> StatusReport:
    """Complete *report* with findings, level and verdict; the worst findings come first."""
    report.findings += [
        *_of_window(report),
        *_of_backups(report.backups),
        *_of_rpo(report, options.goals),
        *_of_slot(report),
        *_of_storages(report),
        *_of_measured(report, options.goals),
        *_of_drills(report, options.goals),
        *_of_coverage(report, options),
    ]
    if report.key_slots_unproven:
        report.findings.append(
            warning(
                "keys-unproven",
                f"never proven to open anything: {listed(report.key_slots_unproven)}",
                "Try each once with `aurora key test`, before the day that it is needed.",
            )
        )
    report.findings.sort(key=lambda one: -_RANK[one.level])
    report.level = report.findings[0].level if report.findings else Level.OK
    report.verdict = verdict(report)
    return report


def verdict(report: StatusReport) -> str:
    """The first line of the screen."""
    window = report.window
    if window.from_at is None or window.to_at is None:
        return "NOT RECOVERABLE: " + (
            "the repository cannot be opened" if not report.window_of else "there is no backup yet"
        )
    place = "" if report.window_of == "primary" else f" from the {report.window_of}"
    reach = (
        f"to {shown_moment(window.to_at)}"
        if window.from_at == window.to_at
        else f"from {shown_moment(window.from_at)} to {shown_moment(window.to_at)}"
    )
    gaps = f" with {plural(len(window.gaps), 'gap')}" if window.gaps else ""
    proven = (
        "no restore was ever proven"
        if report.measured is None
        else f"last proven restore {ago((report.at - report.measured.at).total_seconds())}"
    )
    return f"recoverable{place} {reach}{gaps}, RPO now {rpo_words(report)}, {proven}"


def rpo_words(report: StatusReport) -> str:
    """``0 s``, ``42 s``, ``at most 12 min 03 s``."""
    if report.rpo.seconds is None:
        return "unknown"
    told = format_duration(report.rpo.seconds) if report.rpo.seconds else "0 s"
    return told if report.rpo.exact else f"at most {told}"


def ago(seconds: float) -> str:
    """An age for people."""
    return f"{format_duration(max(seconds, 0))} ago"


def _of_window(report: StatusReport) -> Iterator[Finding]:
    if report.window_of and not report.window.spans:
        yield failed(
            "no-backup",
            f"there is no backup of {report.database} that can be restored",
            f"The repository holds backups of {', '.join(report.others)}: if this is the same "
            "database, set name under [source] to that label."
            if report.others
            else "Run `aurora backup create` now, then `aurora run` or a scheduler of your own.",
        )
    for gap in report.window.gaps if report.slot is not None else ():
        yield warning(
            "window-gap",
            f"no moment between {shown_moment(gap.from_at)} and {shown_moment(gap.to_at)} can be "
            "recovered",
            "The log does not lead from one full to the next there; `aurora log show` tells what "
            "is known. Nothing to do for the past: make incrementals often.",
        )


def _of_backups(types: list[TypeStatus]) -> Iterator[Finding]:
    for one in types:
        create = f"`aurora backup create --type {one.type}`"
        if one.missed and one.age_seconds is None:
            yield warning(
                f"never-{one.type}",
                f"there is no {one.type} backup, though it was due ({one.due})",
                f"Run {create}, and let `aurora run` or a scheduler of your own go on.",
            )
        elif one.missed and one.age_seconds is not None:
            missed = "once" if one.missed == 1 else f"{one.missed} times"
            make = warning if one.missed == 1 else failed
            yield make(
                f"late-{one.type}",
                f"the newest {one.type} backup is {format_duration(one.age_seconds)} old; it was "
                f"due {missed} since ({one.due})",
                f"See whether `aurora run` is running and what it says of {one.type}; run "
                f"{create} by hand to see the error.",
            )


def _of_rpo(report: StatusReport, goals: Goals) -> Iterator[Finding]:
    rpo = report.rpo
    if report.source_error:
        yield warning(
            "source-unreachable",
            f"the source cannot be asked: {report.source_error}",
            "What is said of its change log and of RPO is a bound. `aurora doctor` says more.",
        )
    if rpo.seconds is not None and rpo.seconds > goals.rpo:
        told = format_duration(rpo.seconds)
        yield warning(
            "rpo-missed",
            f"up to {told} of changes would be lost now; the goal is {format_duration(goals.rpo)}",
            "Run `aurora backup create --type incremental` now; see why the last ones did not run.",
        )


def _of_slot(report: StatusReport) -> Iterator[Finding]:
    newest = report.window.newest
    if not report.source_reachable:
        return
    if report.slot is None:
        if newest is not None:
            names = LogNames(newest.log.slot, "", "")
            yield failed(
                "log-slot",
                slot_break(None, names, ""),
                "Until then every incremental becomes a full. Run `aurora source prepare`.",
            )
        return
    if report.slot.is_lost:
        names = LogNames(report.slot.name, "", "")
        yield failed(
            "log-slot",
            slot_break(report.slot, names, report.slot.database),
            "Then run `aurora backup create`: a new log begins with a full.",
        )
        return
    health = report.health
    if health is not None and health.danger is not Danger.NONE:
        make = failed if health.danger >= Danger.DROP else warning
        yield make(
            "log-slot-behind",
            f"the slot {report.slot.name} is behind: {'; '.join(health.reasons)}",
            "Run `aurora backup create --type incremental` now: what it keeps can fill the "
            "source's disk, and before that it is given up and the next backup must be a full.",
        )


def _of_storages(report: StatusReport) -> Iterator[Finding]:
    for one in report.storages:
        if one.error:
            told = {finding.message for finding in report.findings}
            if not any(one.error in message for message in told):
                hint = one.hint or "`aurora doctor` says more."
                yield failed(f"{one.place}-storage", f"{one.place}: {one.error}", hint)
        elif one.behind:
            yield _behind(one)
    if len(report.storages) == 1:
        yield warning(
            "no-secondary",
            "there is no secondary storage: one accident can take every backup",
            "Add [secondary] to aurora.toml, at another provider, and run `aurora init` again.",
        )


def _behind(one: StorageLook) -> Finding:
    return warning(
        "secondary-behind",
        f"secondary: {plural(one.behind or 0, 'backup')} not there yet",
        "Run `aurora backup replicate`.",
    )


def _of_measured(report: StatusReport, goals: Goals) -> Iterator[Finding]:
    last, good = report.last_test, report.measured
    test = "Run `aurora backup test-recovery`, or restore into an empty database."
    if not report.window.spans:
        return
    if last is not None and not last.ok:
        make = failed if last.speaks_against else warning
        yield make(
            "restore-failed",
            f"the last {last.kind}, {ago((report.at - last.at).total_seconds())}, says: "
            f"{last.detail}",
            "Its report is in aurora.reports and in `aurora audit show`. Mend the cause and test "
            "again.",
        )
    if good is None:
        yield warning("never-proven", "no restore of these backups was ever proven", test)
        return
    age = (report.at - good.at).total_seconds()
    if age > goals.proven:
        yield warning("proven-long-ago", f"the last proven restore was {ago(age)}", test)
    if goals.rto is not None and good.seconds > goals.rto:
        yield warning(
            "rto-missed",
            f"the last recovery took {format_duration(good.seconds)}; the goal is "
            f"{format_duration(goals.rto)}",
            "More jobs, a nearer server or storage, or another goal under [goals].",
        )


def _of_drills(report: StatusReport, goals: Goals) -> Iterator[Finding]:
    """People have to have done it: a first drill is due when the first backup is that old."""
    since = report.last_drill.at if report.last_drill else report.window.from_at
    if since is None or (report.at - since).total_seconds() <= goals.drilled:
        return
    told = f"the last drill that went well was {ago((report.at - since).total_seconds())}"
    yield warning(
        "drill-overdue",
        told if report.last_drill else "no drill was ever done",
        "Run `aurora drill run`: a rehearsed disaster, in a sandbox, with people.",
    )


def _of_coverage(report: StatusReport, options: StatusOptions) -> Iterator[Finding]:
    for place, covered in report.covered.items():
        if covered.bad:
            yield failed(
                f"{place}-damaged",
                f"{place}: {plural(covered.bad, 'object')} found damaged and not healed since",
                "Run `aurora backup heal all`, then `aurora backup verify all`.",
            )
        yield from _old_coverage(report, place, covered, options.goals)


def _old_coverage(
    report: StatusReport, place: str, covered: Covered, goals: Goals
) -> Iterator[Finding]:
    oldest = covered.oldest_at
    if oldest is not None and (report.at - oldest).total_seconds() > goals.verified:
        share = f" ({shown_share(covered.share)} verified at least once)" if covered.share else ""
        yield warning(
            f"{place}-verified-long-ago",
            f"{place}: some objects were last verified "
            f"{ago((report.at - oldest).total_seconds())}{share}",
            "Give verification more time: verify_budget under [schedule].",
        )
