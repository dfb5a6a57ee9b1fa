"""Drills: rehearsed disasters, and the scenarios there are."""

from pathlib import Path

from aurora.api.audit import audit_entries, recorded
from aurora.api.common import reports_directory
from aurora.api.proof import server_for_tests
from aurora.errors import AuroraError, UsageError
from aurora.events import EventSink, discard
from aurora.operations.proof import evidence
from aurora.operations.proof.drills.drill import DrillReport, Scenario, run_drill
from aurora.operations.proof.drills.sandbox import Materials, clean
from aurora.operations.proof.drills.scenarios import SCENARIOS, find_scenario
from aurora.repository.door import Repository
from aurora.repository.mirror import MirrorView
from aurora.storage.base import Storage
from aurora.wiring import Aurora


def drills() -> list[Scenario]:
    """The scenarios that can be played."""
    return list(SCENARIOS.values())


def next_drill(aurora: Aurora, *, sink: EventSink = discard) -> str:
    """The scenario that was played longest ago, or never, of those that can be played here.

    Raises: what opening the primary raises.
    """
    names = [one.name for one in drills() if aurora.has_secondary or not one.needs_secondary]
    for entry in audit_entries(aurora, kinds=["drill"], newest_first=False, sink=sink):
        played = str(entry.facts.get("scenario"))
        if played in names:
            names.remove(played)
            names.append(played)
    return names[0]


def drill(
    aurora: Aurora,
    name: str | None = None,
    *,
    recovery_code: Path | None = None,
    secondary_recovery_code: Path | None = None,
    sink: EventSink = discard,
) -> DrillReport:
    """Play a scenario in a sandbox; the report says how it went.

    The source is not connected to, and the storages are only read, but for the record in the
    audit trail.

    Args:
        name: of the scenario; by default that of :func:`next_drill`.
        recovery_code: a file with the code from the recovery sheet, to try it for real.
        secondary_recovery_code: the same of the secondary.

    Raises: see :func:`aurora.operations.proof.drills.drill.run_drill`.
    """
    scenario = find_scenario(name or next_drill(aurora, sink=sink))
    with recorded(aurora, "drill", "drill run", sink, scenario=scenario.name) as note:
        materials = _materials(
            aurora, scenario, _read(recovery_code), _read(secondary_recovery_code), sink
        )
        note.repository = _to_record_in(aurora, materials)
        report = run_drill(
            scenario,
            materials,
            server_dsn=server_for_tests(aurora),
            without_extensions=aurora.settings.test_recovery.without_extensions,
            rto_goal=aurora.settings.goals.rto,
            sink=sink,
        )
        secrets = {
            "passphrase": materials.passphrase,
            "secondary": materials.secondary_passphrase,
            "code": materials.code,
            "secondary code": materials.secondary_code,
        }
        stem = f"drill-{scenario.name}-{report.drill_id}"
        files = {
            file: clean(text, secrets)
            for file, text in evidence.texts(stem, report.document(), report.markdown()).items()
        }
        report.path = str(evidence.write(reports_directory(aurora), files))
        document = report.document()
        note.outcome = str(report.outcome)
        note.facts |= {
            fact: document[fact]
            for fact in ("drill_id", "verdict", "rto_seconds", "rto_goal_seconds", "server",
                         "runbook", "seconds")
        }  # fmt: skip
        note.facts |= {
            "backup": report.backup_id,
            "steps": {one.step.title: str(one.check.status) for one in report.played},
            "files": evidence.hashes(files),
        }
        note.attachments |= files
    return report


def _to_record_in(aurora: Aurora, materials: Materials) -> Repository | None:
    if materials.primary is not None:
        return materials.repository
    try:
        return aurora.open_primary()
    except AuroraError:
        return None  # it waits on this machine: perhaps the primary is lost in earnest


def _read(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the recovery code cannot be read from {path}: {error}") from error


def _materials(
    aurora: Aurora, scenario: Scenario, code: str | None, other: str | None, sink: EventSink
) -> Materials:
    if scenario.needs_secondary and not aurora.has_secondary:
        raise UsageError(
            f"the drill {scenario.name} is about a secondary storage, and none is configured",
            hint="Set url under [secondary] in aurora.toml. Without one, that day ends worse.",
        )
    view: MirrorView | None = None
    secondary: Storage | None = None
    if scenario.needs_secondary:
        secondary, view = aurora.storage("secondary"), aurora.open_secondary_view()
    repository: Repository
    if view is not None and not scenario.needs_primary:
        repository, primary = aurora.open_secondary(sink=sink), None
    else:
        repository, primary = aurora.open_primary(), aurora.storage("primary")
    return Materials(
        aurora.database,
        repository,
        primary,
        secondary,
        view,
        passphrase=_passphrase(aurora, "primary"),
        secondary_passphrase=_passphrase(aurora, "secondary") if view is not None else None,
        code=code,
        secondary_code=other,
        jobs=aurora.settings.restore.jobs,
    )


def _passphrase(aurora: Aurora, place: str) -> str | None:
    try:
        return aurora.passphrase("secondary" if place == "secondary" else "primary")
    except AuroraError:
        return None  # opened by a recovery code
