"""Aurora from Python: one function for each command, which the command line itself calls.

::

    from aurora import Aurora, create_backup, restore

    aurora = Aurora.load("aurora.toml")
    report = create_backup(aurora)
    restore(aurora, report.backup_id, target="postgresql://…/new_database")

Each takes an :class:`~aurora.wiring.Aurora` and options, tells an event sink what it does,
returns a report, and raises :class:`~aurora.errors.AuroraError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aurora.api.audit import audit_entries, audit_entry, record, recorded, verify_audit
    from aurora.api.backups import (
        create_backup,
        heal_backups,
        list_backups,
        list_with_marks,
        replicate,
        verify_all,
        verify_backup,
    )
    from aurora.api.changelog import mark_point, prepare_source, transactions
    from aurora.api.common import reports_directory
    from aurora.api.drilling import drill, drills, next_drill
    from aurora.api.incident_recovery import (
        FINISHED_BEFORE,
        recover_rows,
        recover_table,
        recover_whole,
        rehearse,
        require_how,
        save_lost_rows,
    )
    from aurora.api.incident_talk import (
        close_incident,
        communicate,
        incident_report,
        remind_of_stopped_writes,
        start_incident,
    )
    from aurora.api.incidents import (
        assess,
        incident_records,
        plan_resume_writes,
        plan_stop_writes,
        recovery_point,
        resume_writes,
        stop_writes,
        touches,
    )
    from aurora.api.keys import (
        add_key,
        list_keys,
        prove_key,
        recovery_sheet_of,
        remove_key,
        rotate_key,
    )
    from aurora.api.objects import restore_objects, save_object
    from aurora.api.overview import status
    from aurora.api.proof import last_test, run_recovery_test, validate
    from aurora.api.restores import (
        plan_point,
        plan_restore,
        plan_table,
        restore,
        restore_options,
        restore_point,
        restore_table,
    )
    from aurora.api.retention import (
        hold_backup,
        plan_prune,
        plan_rewind,
        prune,
        prune_places,
        release_backup,
        run_prune,
        run_rewind,
        undelete_backup,
    )
    from aurora.api.security import audit_security
    from aurora.api.setup import doctor, init
    from aurora.api.streaming import stream
    from aurora.repository.sealed import new_identity

__all__ = [
    "FINISHED_BEFORE",
    "add_key",
    "assess",
    "audit_entries",
    "audit_entry",
    "audit_security",
    "close_incident",
    "communicate",
    "create_backup",
    "doctor",
    "drill",
    "drills",
    "heal_backups",
    "hold_backup",
    "incident_records",
    "incident_report",
    "init",
    "last_test",
    "list_backups",
    "list_keys",
    "list_with_marks",
    "mark_point",
    "new_identity",
    "next_drill",
    "plan_point",
    "plan_prune",
    "plan_restore",
    "plan_resume_writes",
    "plan_rewind",
    "plan_stop_writes",
    "plan_table",
    "prepare_source",
    "prove_key",
    "prune",
    "prune_places",
    "record",
    "recorded",
    "recover_rows",
    "recover_table",
    "recover_whole",
    "recovery_point",
    "recovery_sheet_of",
    "rehearse",
    "release_backup",
    "remind_of_stopped_writes",
    "remove_key",
    "replicate",
    "reports_directory",
    "require_how",
    "restore",
    "restore_objects",
    "restore_options",
    "restore_point",
    "restore_table",
    "resume_writes",
    "rotate_key",
    "run_prune",
    "run_recovery_test",
    "run_rewind",
    "save_lost_rows",
    "save_object",
    "start_incident",
    "status",
    "stop_writes",
    "stream",
    "touches",
    "transactions",
    "undelete_backup",
    "validate",
    "verify_all",
    "verify_audit",
    "verify_backup",
]

# On first use: a command needs few of them, and most of what stands behind them is large.
_HOMES = {
    "FINISHED_BEFORE": "aurora.api.incident_recovery",
    "add_key": "aurora.api.keys",
    "assess": "aurora.api.incidents",
    "audit_entries": "aurora.api.audit",
    "audit_entry": "aurora.api.audit",
    "audit_security": "aurora.api.security",
    "close_incident": "aurora.api.incident_talk",
    "communicate": "aurora.api.incident_talk",
    "create_backup": "aurora.api.backups",
    "doctor": "aurora.api.setup",
    "drill": "aurora.api.drilling",
    "drills": "aurora.api.drilling",
    "heal_backups": "aurora.api.backups",
    "hold_backup": "aurora.api.retention",
    "incident_records": "aurora.api.incidents",
    "incident_report": "aurora.api.incident_talk",
    "init": "aurora.api.setup",
    "last_test": "aurora.api.proof",
    "list_backups": "aurora.api.backups",
    "list_keys": "aurora.api.keys",
    "list_with_marks": "aurora.api.backups",
    "mark_point": "aurora.api.changelog",
    "new_identity": "aurora.repository.sealed",
    "next_drill": "aurora.api.drilling",
    "plan_point": "aurora.api.restores",
    "plan_prune": "aurora.api.retention",
    "plan_restore": "aurora.api.restores",
    "plan_resume_writes": "aurora.api.incidents",
    "plan_rewind": "aurora.api.retention",
    "plan_stop_writes": "aurora.api.incidents",
    "plan_table": "aurora.api.restores",
    "prepare_source": "aurora.api.changelog",
    "prove_key": "aurora.api.keys",
    "prune": "aurora.api.retention",
    "prune_places": "aurora.api.retention",
    "record": "aurora.api.audit",
    "recorded": "aurora.api.audit",
    "recover_rows": "aurora.api.incident_recovery",
    "recover_table": "aurora.api.incident_recovery",
    "recover_whole": "aurora.api.incident_recovery",
    "recovery_point": "aurora.api.incidents",
    "recovery_sheet_of": "aurora.api.keys",
    "rehearse": "aurora.api.incident_recovery",
    "release_backup": "aurora.api.retention",
    "remind_of_stopped_writes": "aurora.api.incident_talk",
    "remove_key": "aurora.api.keys",
    "replicate": "aurora.api.backups",
    "reports_directory": "aurora.api.common",
    "require_how": "aurora.api.incident_recovery",
    "restore": "aurora.api.restores",
    "restore_objects": "aurora.api.objects",
    "restore_options": "aurora.api.restores",
    "restore_point": "aurora.api.restores",
    "restore_table": "aurora.api.restores",
    "resume_writes": "aurora.api.incidents",
    "rotate_key": "aurora.api.keys",
    "run_prune": "aurora.api.retention",
    "run_recovery_test": "aurora.api.proof",
    "run_rewind": "aurora.api.retention",
    "save_lost_rows": "aurora.api.incident_recovery",
    "save_object": "aurora.api.objects",
    "start_incident": "aurora.api.incident_talk",
    "status": "aurora.api.overview",
    "stop_writes": "aurora.api.incidents",
    "stream": "aurora.api.streaming",
    "touches": "aurora.api.incidents",
    "transactions": "aurora.api.changelog",
    "undelete_backup": "aurora.api.retention",
    "validate": "aurora.api.proof",
    "verify_all": "aurora.api.backups",
    "verify_audit": "aurora.api.audit",
    "verify_backup": "aurora.api.backups",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
