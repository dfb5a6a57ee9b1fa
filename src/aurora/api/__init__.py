"""Aurora from Python: one function for each command, which the command line itself calls.

::

    from aurora import Aurora, create_backup, restore

    aurora = Aurora.load("aurora.toml")
    report = create_backup(aurora)
    restore(aurora, report.backup_id, target="postgresql://…/new_database")

Each takes an :class:`~aurora.wiring.Aurora` and options, tells an event sink what it does,
returns a report, and raises :class:`~aurora.errors.AuroraError`.
"""

from aurora.api.audit import audit_entries, audit_entry, record, recorded, verify_audit
from aurora.api.backups import (
    create_backup,
    heal_backups,
    list_backups,
    replicate,
    verify_backup,
)
from aurora.api.changelog import mark_point, prepare_source, transactions
from aurora.api.common import reports_directory
from aurora.api.overview import status
from aurora.api.restores import (
    plan_point,
    plan_restore,
    plan_table,
    restore,
    restore_options,
    restore_point,
    restore_table,
)
from aurora.api.stream import stream

__all__ = [
    "audit_entries",
    "audit_entry",
    "create_backup",
    "heal_backups",
    "list_backups",
    "mark_point",
    "plan_point",
    "plan_restore",
    "plan_table",
    "prepare_source",
    "record",
    "recorded",
    "replicate",
    "reports_directory",
    "restore",
    "restore_options",
    "restore_point",
    "restore_table",
    "status",
    "stream",
    "transactions",
    "verify_audit",
    "verify_backup",
]
