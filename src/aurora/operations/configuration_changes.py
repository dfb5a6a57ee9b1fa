"""Whether the configuration is another than at the last run, told without its secrets."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aurora.postgres.conninfo import redact

_FILE = "configuration.json"
# What a flag of one run may set is no change of the configuration.
_OF_A_RUN = frozenset({"backup.jobs", "restore.jobs", "base"})
# Shown as changed, never with their values: they are secrets or hold some.
_SECRET = ("password", "passphrase", "credentials", "token", "key", "secret", "ping.", "targets")


def configuration_changes(directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What changed since the last call, by setting: old and new value; {} where nothing did.

    The first call only remembers. Raises OSError.

    Args:
        directory: where the last seen settings are kept; values of secrets as hashes.
        settings: the settings as nested JSON.
    """
    now = dict(_flat(settings, ""))
    path = directory / _FILE
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        before = None
    except ValueError:
        before = None  # cut off by a full disk
    if before == now:
        return {}
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(now, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
    if not isinstance(before, dict):
        return {}
    names = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    return {name: {"before": before.get(name), "now": now.get(name)} for name in names}


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value and not _is_secret(name):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
        return
    if name in _OF_A_RUN or value in (None, [], {}, ""):
        return
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    if _is_secret(name):
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        yield name, f"(not shown, {digest})"
    else:
        yield name, redact(text)


def _is_secret(name: str) -> bool:
    return any(word in name for word in _SECRET)
