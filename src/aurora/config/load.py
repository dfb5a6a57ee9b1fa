"""From flags, environment and file to :class:`Settings`, with errors a person can act on.

Order: flag over ``AURORA_SECTION_FIELD`` over aurora.toml over default. A secret that is
written into the file is refused, and so is a key that is not known.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from aurora.config.secrets import SecretRef
from aurora.config.settings import CREDENTIALS, SECTIONS, Settings
from aurora.errors import UsageError
from aurora.postgres.conninfo import ConnInfo

Overrides = Mapping[str, Mapping[str, Any]]

COLLECTOR = "collector_"
_SECRET_VARIABLES = frozenset(
    {
        *("password", "passphrase", "recovery_code", "storage_key"),
        *CREDENTIALS,
        *(COLLECTOR + name for name in CREDENTIALS),
    }
)
_SECRET_WORDS = ("secret", "password", "passphrase", "token", "key", "credential")
_PLAIN_CREDENTIALS = frozenset({"access_key_id", "account_name", "client_id", "tenant_id"})
_BY_REFERENCE = 'Refer to it instead: {env = "NAME"}, {file = "PATH"} or {command = "PROGRAM"}.'


def load_settings(
    path: Path | None, overrides: Overrides | None = None, *, base: Path | None = None
) -> Settings:
    """Read the settings. ``path`` None means: environment and *overrides* alone.

    Relative paths in them count from *base*, by default the directory of *path*.

    Touches no network and resolves no secret.

    Raises:
        UsageError: no file there, not TOML, an unknown or unfit value, a secret in it.
    """
    written = _read(path) if path is not None else {}
    _refuse_secrets(written, path)
    environment = _from_environment(os.environ)
    given = {name: dict(section) for name, section in (overrides or {}).items()}
    base = base or (path.absolute().parent if path is not None else Path.cwd())

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic calls by name
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            layers = (given, environment, written)
            return (init_settings, *(_Layer(settings_cls, layer) for layer in layers))

    try:
        return Layered(base=base)
    except ValidationError as error:
        raise _explain(error, path, environment, given) from None


class _Layer(PydanticBaseSettingsSource):
    """One layer of values, already as nested dictionaries."""

    def __init__(self, settings_cls: type[BaseSettings], values: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._values = values

    def get_field_value(self, _field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self._values)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"no configuration at {path}",
            hint="Run `aurora init --source DSN --primary URL --secondary URL` to make one, "
            "or name another file with --config.",
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or '').lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not valid TOML: {error}",
            hint="Nothing was done. See docs/configuration.md.",
        ) from None


def _from_environment(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """``AURORA_BACKUP_CHUNK_SIZE=8M`` -> ``{"backup": {"chunk_size": "8M"}}``.

    Secrets (``AURORA_SOURCE_PASSWORD`` and its like) are no settings and stay out.
    """
    found: dict[str, dict[str, Any]] = {}
    for variable, value in variables.items():
        text = variable.removeprefix("AURORA_").lower()
        section = next((name for name in SECTIONS if text.startswith(f"{name}_")), "")
        field = text[len(section) + 1 :]
        if not variable.startswith("AURORA_") or not section or not field:
            continue
        if field.removesuffix("_file").removesuffix("_command") in _SECRET_VARIABLES:
            continue
        plain = [name for name in SECTIONS[section].model_fields if not _is_secret(section, name)]
        table, _, inner = field.partition("_")
        if inner in _fields_within(section, table):
            found.setdefault(section, {}).setdefault(table, {})[inner] = value
            continue
        if field not in plain:
            nearest = difflib.get_close_matches(field, plain, 1, 0.5)
            raise UsageError(
                f"the environment variable {variable} sets nothing",
                hint=f"Did you mean AURORA_{section.upper()}_{nearest[0].upper()}?"
                if nearest
                else f"[{section}] knows {', '.join(plain)}.",
            )
        found.setdefault(section, {})[field] = value
    return found


def _fields_within(section: str, table: str) -> list[str]:
    """The fields of a table inside of a section, as ``[retention.secondary]`` is."""
    field = SECTIONS[section].model_fields.get(table)
    kind = field.annotation if field else None
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _is_secret(section: str, field: str) -> bool:
    annotation = str(SECTIONS[section].model_fields[field].annotation)
    return SecretRef.__name__ in annotation


def _refuse_secrets(written: Mapping[str, Any], path: Path | None) -> None:
    for name, section in written.items():
        if isinstance(section, Mapping) and (found := _secret_in(name, section)):
            raise UsageError(f"{path} holds a secret: {found}", hint=_BY_REFERENCE)


def _secret_in(name: str, section: Mapping[str, Any]) -> str | None:
    """Where a section of the file holds a secret itself, for people."""
    for field in ("password", "passphrase", "storage_key"):
        if isinstance(section.get(field), str):
            return f"[{name}] {field}"
    if found := _password_in_dsn(name, section):
        return found
    if isinstance(section.get("url"), str) and _url_holds_secret(section["url"]):
        return f"a credential in [{name}] url"
    if found := _secret_address_in(name, section):
        return found
    for table in ("credentials", "collector_credentials"):
        credentials = section.get(table)
        for key, value in credentials.items() if isinstance(credentials, Mapping) else ():
            if isinstance(value, str) and key not in _PLAIN_CREDENTIALS:
                return f"[{name}.{table}] {key}"
    return None


def _password_in_dsn(name: str, section: Mapping[str, Any]) -> str | None:
    for field in ("dsn", "server_dsn"):
        if isinstance(dsn := section.get(field), str) and dsn:
            info = ConnInfo.parse(dsn)
            if info.options != info.without_secrets().options:
                return f"a password in [{name}] {field}"
    return None


def _secret_address_in(name: str, section: Mapping[str, Any]) -> str | None:
    """The addresses of notices and pings are secrets as a whole: whoever has one can use it."""
    targets = section.get("targets") if name == "notify" else None
    for one in targets if isinstance(targets, list) else ():
        if isinstance(one, Mapping) and isinstance(one.get("url"), str):
            return "[[notify.targets]] url"
    for key, value in section.items() if name == "ping" else ():
        if isinstance(value, str) and "//" in value:
            return f"[ping] {key}"
    return None


def _url_holds_secret(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    keys = [key.lower() for key in parse_qs(parts.query)]
    return bool(parts.password) or any(
        word in key for key in keys for word in _SECRET_WORDS if key not in _PLAIN_CREDENTIALS
    )


def _explain(
    error: ValidationError,
    path: Path | None,
    environment: Mapping[str, Mapping[str, Any]],
    given: Overrides,
) -> UsageError:
    """The first thing wrong, where it stands, and the nearest name that is known."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = [str(part) for part in first["loc"]]
    section, field = where[0], where[1] if len(where) > 1 else ""
    if field and field in given.get(section, {}):
        place = f"--{field.replace('_', '-')}"
    elif field and field in environment.get(section, {}):
        place = f"AURORA_{section}_{field}".upper()
    else:
        place = f"{path}: [{section}] {field}".rstrip()
    if first["type"] == "extra_forbidden":
        known = list(SECTIONS) if len(where) == 1 else list(SECTIONS[section].model_fields)
        wrong = where[-1]
        if len(where) > 2:
            known = list(SecretRef.model_fields)
        nearest = difflib.get_close_matches(wrong, known, 1, 0.5)
        return UsageError(
            f"{path}: unknown key {'.'.join(where)}",
            hint=f"Did you mean {nearest[0]}?" if nearest else f"Known are {', '.join(known)}.",
        )
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    return UsageError(f"{place}: {reason}", hint="See docs/configuration.md.")
