"""Aurora from Python: one function for each command, which the command line itself calls.

::

    from aurora import Aurora, create_backup, restore

    aurora = Aurora.load("aurora.toml")
    report = create_backup(aurora)
    restore(aurora, report.backup_id, target="postgresql://…/new_database")

Each takes an :class:`~aurora.wiring.Aurora` and options, tells an event sink what it does,
returns a report, and raises :class:`~aurora.errors.AuroraError`.
"""

from aurora.api.backups import (
    create_backup,
    heal_backups,
    list_backups,
    replicate,
    verify_backup,
)
from aurora.api.changelog import prepare_source, transactions
from aurora.api.common import reports_directory
from aurora.api.restores import (
    plan_point,
    restore,
    restore_options,
    restore_point,
    restore_table,
)
from aurora.api.stream import stream

__all__ = [
    "create_backup",
    "heal_backups",
    "list_backups",
    "plan_point",
    "prepare_source",
    "replicate",
    "reports_directory",
    "restore",
    "restore_options",
    "restore_point",
    "restore_table",
    "stream",
    "transactions",
    "verify_backup",
]
