"""The settings themselves: every field, its unit, its default and what it means.

Descriptions here are the reference: docs/configuration.md says the same in prose.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from aurora.config.secrets import SecretRef
from aurora.units import parse_duration, parse_size

Size = Annotated[int, BeforeValidator(parse_size)]  # bytes
Duration = Annotated[float, BeforeValidator(parse_duration)]  # seconds
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


# Credentials that AURORA_PRIMARY_… and AURORA_SECONDARY_… may hold, as aurora.storage names them.
CREDENTIALS = (
    "access_key_id",
    "secret_access_key",
    "session_token",
    "account_key",
    "sas_token",
    "service_account_key",
)


def default_jobs() -> int:
    """One per processor, 8 at most: more only takes connections from the source."""
    return max(1, min(os.cpu_count() or 1, 8))


def _jobs(value: Any) -> Any:
    return default_jobs() if value == "auto" else value


def _patterns(value: Any) -> Any:
    """From the environment a list comes as one text with commas."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Jobs = Annotated[int, BeforeValidator(_jobs), Field(ge=1, le=64)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceSettings(_Section):
    dsn: str = Field(
        default="", description="connection string of the source, without its password"
    )
    name: str = Field(
        default="",
        description="label of the database in the repository; by default from its own name",
    )
    password: SecretRef | None = Field(default=None, description="where the source's password is")

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if value and not _NAME.fullmatch(value):
            raise ValueError("use a-z, 0-9, - and _ only, at most 63, beginning with a-z or 0-9")
        return value


class StorageSettings(_Section):
    url: str = Field(default="", description="address of the storage; paths count from aurora.toml")
    passphrase: SecretRef | None = Field(default=None, description="where its passphrase is")
    credentials: dict[str, SecretRef | str] = Field(
        default_factory=dict, description="the storage's credentials, each by reference"
    )


class BackupSettings(_Section):
    chunk_size: Size = Field(
        default=8 << 20, ge=64 << 10, le=32 << 20, description="raw rows a chunk"
    )
    compression_level: int = Field(default=1, ge=1, le=19, description="zstd level")
    jobs: Jobs = Field(
        default_factory=default_jobs, description="connections that read side by side"
    )
    lock_timeout: Duration = Field(
        default=10.0, gt=0, description="longest wait for a table's lock"
    )
    skip: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = Field(
        default=(), description="tables whose rows are left out: schema.table each"
    )


class StreamSettings(_Section):
    interval: Duration = Field(
        default=10.0, ge=0.1, le=3600, description="a change waits at most this long to be stored"
    )
    idle: Duration = Field(
        default=300.0,
        ge=1,
        description="how often a position is stored while nothing changes",
    )
    max_wal: Size = Field(
        default=5 << 30,
        ge=64 << 20,
        description="WAL that the slot may keep on the source; at 80 % it is given up",
    )
    new_slot: bool = Field(
        default=True, description="make a slot that was lost anew, and a full with it"
    )
    settle: Duration = Field(
        default=20.0, ge=0, description="rest after a schema change before the full that it needs"
    )


class RestoreSettings(_Section):
    jobs: Jobs = Field(
        default_factory=default_jobs, description="connections that load side by side"
    )


class Settings(BaseSettings):
    """All settings. Built by :func:`aurora.config.load_settings`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    source: SourceSettings = Field(default_factory=SourceSettings)
    primary: StorageSettings = Field(default_factory=StorageSettings)
    secondary: StorageSettings | None = None
    backup: BackupSettings = Field(default_factory=BackupSettings)
    stream: StreamSettings = Field(default_factory=StreamSettings)
    restore: RestoreSettings = Field(default_factory=RestoreSettings)
    base: Path = Field(default=Path(), exclude=True, description="directory of aurora.toml")


SECTIONS: dict[str, type[_Section]] = {
    "source": SourceSettings,
    "primary": StorageSettings,
    "secondary": StorageSettings,
    "backup": BackupSettings,
    "stream": StreamSettings,
    "restore": RestoreSettings,
}


def slug(database: str) -> str:
    """A label for a database: its name in a-z, 0-9, - and _ (``My App`` -> ``my-app``)."""
    text = re.sub(r"[^a-z0-9_]+", "-", database.lower()).strip("-_")[:63].rstrip("-_")
    return text or "database"
