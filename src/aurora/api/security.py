"""The security audit."""

from datetime import datetime

from aurora import clock
from aurora.api.audit import audit_entries, recorded, verify_audit
from aurora.api.common import reports_directory
from aurora.api.keys import list_keys
from aurora.errors import AuroraError
from aurora.events import EventSink, Noted, discard
from aurora.operations.findings import Level, of_error
from aurora.operations.keys import KeySlot
from aurora.operations.proof import evidence
from aurora.operations.proof.security import Habits, SecurityReport, examine_security
from aurora.repository.trail import TrailReport
from aurora.wiring import Aurora

SAMPLE = 200  # objects of each storage


def audit_security(
    aurora: Aurora, *, sample: int = SAMPLE, sink: EventSink = discard
) -> SecurityReport:
    """Look at secrets, rights, exposure, encryption, keys, tests and versions; what to do.

    Args:
        sample: how many objects of each storage are looked into.

    What cannot be looked at is a finding, never raised.
    """
    report = SecurityReport(_label(aurora), clock.now())
    with recorded(aurora, "verify", "audit security", sink) as note:
        slots: list[KeySlot] = []
        trail: TrailReport | None = None
        habits: Habits | None = None
        try:
            note.repository = aurora.open_primary()
            sink(Noted("looking at the key slots"))
            slots = list_keys(aurora)
            sink(Noted("looking at the audit trail"))
            trail = verify_audit(aurora, sink=sink)
            habits = _habits(aurora, sink)
        except AuroraError as error:
            report.findings.append(of_error(error))
        report.findings += examine_security(
            aurora,
            base=aurora.settings.base,
            slots=slots,
            trail=trail,
            habits=habits,
            sample=sample,
        )
        stem = f"security-{report.at:%Y%m%dT%H%M%SZ}"
        files = evidence.texts(stem, report.document(), report.markdown())
        report.path = str(evidence.write(reports_directory(aurora), files))
        note.outcome = report.outcome
        note.facts |= {
            "verdict": report.verdict,
            "errors": [one.code for one in report.findings if one.level is Level.ERROR],
            "warnings": [one.code for one in report.findings if one.level is Level.WARNING],
            "files": evidence.hashes(files),
        }
        note.attachments |= files
    return report


def _habits(aurora: Aurora, sink: EventSink) -> Habits:
    """When each kind of test was last done and good."""
    last: dict[str, datetime] = {}
    for one in audit_entries(
        aurora, kinds=["recovery-test", "drill", "verify"], newest_first=False, sink=sink
    ):
        if one.outcome != "ok":
            continue
        if one.operation == "backup verify":
            last["verification"] = one.at
        elif one.kind == "drill":
            last["drill"] = one.at
        elif one.kind == "recovery-test":
            last["test"] = one.at
            if one.facts.get("full"):
                last["full"] = one.at
    return Habits(
        recovery_test=last.get("test"),
        full_test=last.get("full"),
        drill=last.get("drill"),
        verification=last.get("verification"),
        goal=aurora.settings.goals.proven,
        drilled=aurora.settings.goals.drilled,
    )


def _label(aurora: Aurora) -> str:
    try:
        return aurora.database
    except AuroraError:
        return "-"
