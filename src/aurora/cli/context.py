"""What the root options of `aurora` say, handed to every command."""

from pathlib import Path

import typer

from aurora.cli.prompts import ask_secret
from aurora.events import EventSink, discard
from aurora.storage.open import Patience
from aurora.wiring import DEFAULT_CONFIG, Aurora


def config_path(context: typer.Context) -> Path:
    """The file that ``--config`` names, aurora.toml in the working directory by default."""
    path = context.find_root().params.get("config")
    return Path(path) if path else DEFAULT_CONFIG


def load(
    context: typer.Context,
    overrides: dict[str, dict[str, object]] | None = None,
    *,
    sink: EventSink = discard,
    patience: Patience | None = None,
) -> Aurora:
    """The configured Aurora, asking on the terminal for secrets that nothing supplies."""
    given = {
        section: kept
        for section, fields in (overrides or {}).items()
        if (kept := {name: value for name, value in fields.items() if value is not None})
    }
    return Aurora.load(
        config_path(context), overrides=given, ask=ask_secret, sink=sink, patience=patience
    )
