"""The configuration: ``aurora.toml`` and ``AURORA_*`` read into frozen settings."""

from aurora.config.load import load_settings
from aurora.config.secrets import SecretRef
from aurora.config.settings import (
    BackupSettings,
    RestoreSettings,
    Settings,
    SourceSettings,
    StorageSettings,
)

__all__ = [
    "BackupSettings",
    "RestoreSettings",
    "SecretRef",
    "Settings",
    "SourceSettings",
    "StorageSettings",
    "load_settings",
]
