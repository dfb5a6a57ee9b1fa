"""The settings themselves: every field, its unit, its default and what it means.

Descriptions here are the reference: docs/configuration.md says the same in prose.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from aurora.config.secrets import SecretRef
from aurora.schedule import Rule, parse_rule
from aurora.units import parse_duration, parse_size

Size = Annotated[int, BeforeValidator(parse_size)]  # bytes
Duration = Annotated[float, BeforeValidator(parse_duration)]  # seconds
Due = Annotated[
    Rule, BeforeValidator(lambda text: text if isinstance(text, Rule) else parse_rule(str(text)))
]
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


# Credentials that AURORA_PRIMARY_… and AURORA_SECONDARY_… may hold, as aurora.storage names them.
CREDENTIALS = (
    "access_key_id",
    "secret_access_key",
    "session_token",
    "account_key",
    "sas_token",
    "service_account_key",
    "anon_key",
    "service_key",
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
    storage_url: str = Field(
        default="",
        description="URL or reference of the Supabase project whose Storage belongs to the "
        "source; by default the project that dsn names",
    )
    storage_key: SecretRef | None = Field(
        default=None, description="where its service_role or secret key is"
    )

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
    collector_credentials: dict[str, SecretRef | str] = Field(
        default_factory=dict,
        description="other credentials, which may delete; those above need not then",
    )
    object_lock: Duration | None = Field(
        default=None,
        description="how long nothing that is put can be deleted for good; S3 only",
    )
    object_lock_mode: Literal["governance", "compliance"] = Field(
        default="governance",
        description="whether an account with the right to bypass may still delete, or nobody",
    )
    price: float | None = Field(
        default=None, ge=0, description="what it costs a GB (10^9 bytes) and month, in any currency"
    )

    @field_validator("object_lock")
    @classmethod
    def _lasting(cls, value: float | None) -> float | None:
        if value is not None and not 86400 <= value <= 3650 * 86400:
            raise ValueError('a lock lasts a day ("1 d") at least and ten years at most')
        return value


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
    enabled: bool = Field(
        default=False, description="`aurora run` keeps a stream instead of hourly incrementals"
    )
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


class SecondaryRetention(_Section):
    """How long the secondary keeps backups: by default twice as long as the primary."""

    incremental: Duration | None = None
    full: Duration | None = None
    sealed: Duration | None = None
    safety: Duration | None = None
    window: Duration | None = None


class RetentionSettings(_Section):
    """How long backups are kept. Only time counts, by the storage's clock."""

    incremental: Duration = Field(default=24 * 3600.0, ge=0, description="incrementals")
    full: Duration = Field(default=7 * 86400.0, ge=0, description="fulls")
    sealed: Duration = Field(default=30 * 86400.0, ge=0, description="sealed backups")
    safety: Duration = Field(default=7 * 86400.0, ge=0, description="safety backups of restores")
    window: Duration = Field(
        default=24 * 3600.0, ge=0, description="how far back every point stays recoverable"
    )
    undelete: Duration = Field(
        default=48 * 3600.0, ge=48 * 3600, description="how long a removed backup can be had back"
    )
    secondary: SecondaryRetention = Field(
        default_factory=SecondaryRetention, description="the same for the secondary"
    )

    def of(self, place: str, field: str) -> float:
        """How long *place* keeps a type of backup, in seconds."""
        on_primary: float = getattr(self, field)
        if place == "primary":
            return on_primary
        own: float | None = getattr(self.secondary, field)
        return 2 * on_primary if own is None else own

    @model_validator(mode="after")
    def _secondary_is_no_shorter(self) -> "RetentionSettings":
        for field in SecondaryRetention.model_fields:
            if self.of("secondary", field) < getattr(self, field):
                # What it let go would be copied there again from the primary, for ever.
                raise ValueError(f"secondary.{field} is shorter than {field} on the primary")
        return self


class ObjectsSettings(_Section):
    include: bool = Field(
        default=True, description="whether the Storage's objects belong to a backup"
    )
    jobs: Annotated[int, Field(ge=1, le=64)] = Field(
        default=8, description="objects that are read or written side by side"
    )
    max_rate: Size | None = Field(
        default=None, ge=1024, description="bytes a second that are read from the Storage at most"
    )
    skip: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = Field(
        default=(), description="buckets that are left out: names, or patterns such as cache-*"
    )
    checkpoint_interval: Duration = Field(
        default=60.0,
        gt=0,
        description="how often a long copy is saved, so that an interrupted one goes on",
    )


class TargetSettings(_Section):
    storage_url: str = Field(
        default="",
        description="URL or reference of the Supabase project whose Storage objects are "
        "restored to; by default the project that --target names, or the source's",
    )
    storage_key: SecretRef | None = Field(
        default=None, description="where its service_role or secret key is"
    )


class SealedSettings(_Section):
    recipients: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = Field(
        default=(), description="public keys (age1…, ssh-ed25519 …) that can open sealed backups"
    )
    chunk_size: Size = Field(
        default=16 << 20, ge=64 << 10, le=32 << 20, description="raw rows a part"
    )


class RestoreSettings(_Section):
    jobs: Jobs = Field(
        default_factory=default_jobs, description="connections that load side by side"
    )


def _due(text: str) -> Any:
    return Field(default_factory=lambda: parse_rule(text))


class ScheduleSettings(_Section):
    """When what is done; all in UTC."""

    incremental: Due = _due("hourly")
    full: Due = _due("daily at 00:00")
    sealed: Due = _due("weekly on sunday at 00:00")
    recovery_test: Due = _due("weekly on monday at 03:00")
    restore_test: Due = _due("monthly on 2 at 03:00")
    drill: Due = _due("quarterly on 3 at 09:00")
    replicate: Due = _due("hourly at :30")
    verify: Due = _due("daily at 05:00")
    verify_budget: Duration = Field(
        default=1800.0, gt=0, description="how long a daily verification may take, each storage"
    )
    prune: bool = Field(default=True, description="apply retention after each backup")
    grace: Duration = Field(
        default=900.0, ge=0, description="how late a run may be before it counts as missed"
    )
    retries: int = Field(default=3, ge=0, le=20, description="tries after one that failed")
    retry_delay: Duration = Field(
        default=60.0, gt=0, description="wait before the first retry; four times as long each time"
    )
    stop_timeout: Duration = Field(
        default=120.0, gt=0, description="how long a run that is stopped may take to end in order"
    )
    claim_settle: Duration = Field(
        default=1.0,
        ge=0,
        description="wait after a claim before others' are listed; longer where listings lag",
    )


class GoalSettings(_Section):
    """What recovery has to keep to: warned of where it is missed."""

    rpo: Duration = Field(default=2 * 3600.0, gt=0, description="data that may be lost, as time")
    rto: Duration | None = Field(default=None, description="time that a recovery may take")
    proven: Duration = Field(
        default=8 * 86400.0, gt=0, description="how old the last proven restore may get"
    )
    drilled: Duration = Field(
        default=100 * 86400.0, gt=0, description="how long ago the last drill may be"
    )
    verified: Duration = Field(
        default=35 * 86400.0, gt=0, description="within which every object is to be verified"
    )


class ValidateSettings(_Section):
    """What must be true of restored data, beyond being what was backed up."""

    assertions: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = Field(
        default=(), description="SQL files, each a query that answers true of the newest state"
    )
    invariants: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = Field(
        default=(), description="SQL files, each a query that answers true at every moment"
    )
    timeout: Duration = Field(default=300.0, gt=0, description="how long one of them may take")
    differences: int = Field(
        default=20, ge=0, le=10_000, description="differing rows of one table that are shown"
    )


class RecoveryTestSettings(_Section):
    """Where recovery tests restore to."""

    server_dsn: str = Field(
        default="",
        description="a server to test on, without its password; by default one is started here",
    )
    password: SecretRef | None = Field(default=None, description="where that server's password is")
    without_extensions: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = Field(
        default=(), description="extensions that a test may do without; counted as skipped"
    )


class NotifyTarget(_Section):
    """Where notices go: an Apprise address, by reference, since it holds a secret."""

    url: SecretRef
    severity: Literal["info", "warning", "error"] = "warning"
    events: tuple[str, ...] = ("*",)
    digest: bool = True


class NotifySettings(_Section):
    targets: tuple[NotifyTarget, ...] = Field(default=(), description="Apprise addresses")
    digest: Due = _due("daily at 08:00")
    remind: Duration = Field(
        default=86400.0, gt=0, description="how often what stays bad is told again"
    )
    templates: str = Field(
        default="aurora.templates", description="directory of edited message templates"
    )


class IncidentSettings(_Section):
    reminder: Duration = Field(
        default=1800.0, description="how often to remind while writes are stopped; 0 never"
    )
    canaries: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = Field(
        default=(), description="tables that nobody changes, schema.table each: a change is alarm"
    )
    deleted_rows: int = Field(
        default=1000, ge=1, description="rows deleted at once from which on it is told"
    )
    deleted_share: float = Field(
        default=0.2, gt=0, le=1, description="share of a table deleted at once, likewise"
    )
    status_page: str = Field(
        default="", description="address of the storage for the static status page"
    )
    status_page_title: str = Field(default="", description="its title")
    status_page_credentials: dict[str, SecretRef | str] = Field(
        default_factory=dict, description="that storage's credentials, each by reference"
    )
    statuspage_page: str = Field(default="", description="Atlassian Statuspage: the page's id")
    statuspage_key: SecretRef | None = Field(default=None, description="where its API key is")
    statuspage_components: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = Field(
        default=(), description="ids of the components that an incident touches"
    )
    statuspage_url: str = Field(
        default="https://api.statuspage.io/v1", description="another address of its API"
    )
    webhook: SecretRef | None = Field(
        default=None, description="where the address is that updates are posted to as JSON"
    )
    stakeholders: tuple[NotifyTarget, ...] = Field(
        default=(), description="Apprise addresses that hear of incidents"
    )


class PingSettings(_Section):
    """Dead man's switches: for each job the check's address, by reference."""

    daemon: SecretRef | None = Field(default=None, description="pinged while all is well")
    daemon_every: Duration = Field(default=300.0, ge=10, description="how often that is")
    incremental: SecretRef | None = None
    full: SecretRef | None = None
    sealed: SecretRef | None = None
    recovery_test: SecretRef | None = None
    restore_test: SecretRef | None = None
    drill: SecretRef | None = None
    replicate: SecretRef | None = None
    verify: SecretRef | None = None
    prune: SecretRef | None = None


class MetricsSettings(_Section):
    listen: str = Field(
        default="127.0.0.1:9464", description="address:port of /metrics and /healthz; off for none"
    )
    refresh: Duration = Field(default=300.0, ge=5, description="how old the figures may be")

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value != "off" and not (host and port.isdigit() and int(port) < 65536):
            raise ValueError("write ADDRESS:PORT, for example 127.0.0.1:9464, or off")
        return value


class Settings(BaseSettings):
    """All settings. Built by :func:`aurora.config.load_settings`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    source: SourceSettings = Field(default_factory=SourceSettings)
    primary: StorageSettings = Field(default_factory=StorageSettings)
    secondary: StorageSettings | None = None
    backup: BackupSettings = Field(default_factory=BackupSettings)
    stream: StreamSettings = Field(default_factory=StreamSettings)
    sealed: SealedSettings = Field(default_factory=SealedSettings)
    restore: RestoreSettings = Field(default_factory=RestoreSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    objects: ObjectsSettings = Field(default_factory=ObjectsSettings)
    target: TargetSettings = Field(default_factory=TargetSettings)
    incident: IncidentSettings = Field(default_factory=IncidentSettings)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    goals: GoalSettings = Field(default_factory=GoalSettings)
    # The section is called validate, which pydantic keeps for a method.
    validation: ValidateSettings = Field(default_factory=ValidateSettings, alias="validate")
    test_recovery: RecoveryTestSettings = Field(default_factory=RecoveryTestSettings)
    notify: NotifySettings = Field(default_factory=NotifySettings)
    ping: PingSettings = Field(default_factory=PingSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    base: Path = Field(default=Path(), exclude=True, description="directory of aurora.toml")


SECTIONS: dict[str, type[_Section]] = {
    "source": SourceSettings,
    "primary": StorageSettings,
    "secondary": StorageSettings,
    "backup": BackupSettings,
    "stream": StreamSettings,
    "sealed": SealedSettings,
    "restore": RestoreSettings,
    "retention": RetentionSettings,
    "objects": ObjectsSettings,
    "target": TargetSettings,
    "incident": IncidentSettings,
    "schedule": ScheduleSettings,
    "goals": GoalSettings,
    "validate": ValidateSettings,
    "test_recovery": RecoveryTestSettings,
    "notify": NotifySettings,
    "ping": PingSettings,
    "metrics": MetricsSettings,
}


def slug(database: str) -> str:
    """A label for a database: its name in a-z, 0-9, - and _ (``My App`` -> ``my-app``)."""
    text = re.sub(r"[^a-z0-9_]+", "-", database.lower()).strip("-_")[:63].rstrip("-_")
    return text or "database"
