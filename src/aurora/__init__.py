"""Aurora: backup and recovery of PostgreSQL and Supabase projects, from outside the server.

What is named here is the public interface; see :mod:`aurora.api`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aurora.version import __version__

if TYPE_CHECKING:
    from aurora.api import (
        audit_entries,
        audit_security,
        create_backup,
        doctor,
        drill,
        heal_backups,
        hold_backup,
        init,
        list_backups,
        mark_point,
        plan_prune,
        prune,
        release_backup,
        replicate,
        restore,
        restore_options,
        restore_point,
        restore_table,
        run_recovery_test,
        status,
        stream,
        undelete_backup,
        validate,
        verify_all,
        verify_audit,
        verify_backup,
    )
    from aurora.engines.logical.targets import Target
    from aurora.errors import AuroraError
    from aurora.operations.restore_table_plan import TableOptions
    from aurora.wiring import Aurora

__all__ = [
    "Aurora",
    "AuroraError",
    "TableOptions",
    "Target",
    "__version__",
    "audit_entries",
    "audit_security",
    "create_backup",
    "doctor",
    "drill",
    "heal_backups",
    "hold_backup",
    "init",
    "list_backups",
    "mark_point",
    "plan_prune",
    "prune",
    "release_backup",
    "replicate",
    "restore",
    "restore_options",
    "restore_point",
    "restore_table",
    "run_recovery_test",
    "status",
    "stream",
    "undelete_backup",
    "validate",
    "verify_all",
    "verify_audit",
    "verify_backup",
]

_HOMES = {
    "Aurora": "aurora.wiring",
    "AuroraError": "aurora.errors",
    "TableOptions": "aurora.operations.restore_table_plan",
    "Target": "aurora.engines.logical.targets",
}


def __getattr__(name: str) -> Any:
    # On first use: a program that only wants an error class need not load the drivers.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "aurora.api")), name)
