"""Where each secret is: what the environment says, over what the file says."""

from collections.abc import Mapping
from typing import Literal

from aurora.config.secrets import SecretRef, reference_from_environment
from aurora.config.settings import CREDENTIALS, Settings, StorageSettings

Place = Literal["primary", "secondary"]
PREFIX: Mapping[Place, str] = {"primary": "AURORA", "secondary": "AURORA_SECONDARY"}
"""What the variables of a storage's passphrase and recovery code begin with."""


def password_reference(settings: Settings) -> SecretRef | None:
    """Where the source's password is: ``AURORA_SOURCE_PASSWORD`` … over the file."""
    return reference_from_environment("AURORA_SOURCE_PASSWORD") or settings.source.password


def passphrase_reference(place: Place, settings: StorageSettings) -> SecretRef | None:
    """Where a repository's passphrase is: ``AURORA_PASSPHRASE`` … over the file."""
    return reference_from_environment(f"{PREFIX[place]}_PASSPHRASE") or settings.passphrase


def code_reference(place: Place) -> SecretRef | None:
    """Where a recovery code is, which no file names: ``AURORA_RECOVERY_CODE`` …."""
    return reference_from_environment(f"{PREFIX[place]}_RECOVERY_CODE")


def credential_references(place: Place, settings: StorageSettings) -> dict[str, SecretRef | str]:
    """Where a storage's credentials are: ``AURORA_PRIMARY_ACCESS_KEY_ID`` … over the file."""
    return {**settings.credentials, **_from_outside(f"AURORA_{place}")}


def collector_references(place: Place, settings: StorageSettings) -> dict[str, SecretRef | str]:
    """Those that may delete: ``AURORA_PRIMARY_COLLECTOR_ACCESS_KEY_ID`` … over the file."""
    return {**settings.collector_credentials, **_from_outside(f"AURORA_{place}_COLLECTOR")}


def _from_outside(prefix: str) -> dict[str, SecretRef | str]:
    return {
        key: reference
        for key in CREDENTIALS
        if (reference := reference_from_environment(f"{prefix}_{key}".upper()))
    }
