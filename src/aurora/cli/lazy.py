"""Groups of commands that import a verb when it is asked for.

A run needs one verb. Importing them all, with every operation behind them, takes longer than
many a run.
"""

from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a command is: a function, or a :class:`typer.Typer` of its own.

    Args:
        home: ``module:name``.
        help: of a group; of a function only the short one for the list of commands.
    """

    home: str
    help: str | None = None

    def load(self, name: str) -> Any:
        """The command, under this name."""
        module, _, attribute = self.home.partition(":")
        found = getattr(import_module(module), attribute)
        holder = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=name, help=self.help)
        else:
            holder.command(name, short_help=self.help)(found)
            holder.callback()(lambda: None)  # else the only command of a group is the group
        group: Any = typer.main.get_command(holder)
        return group.commands[name]


class _Commands(UserDict[str, Any]):
    """By name, in the order of the help; what was looked at is a command, the rest a verb."""

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        if isinstance(found, Verb):
            found = self[name] = found.load(name)
        return found


def group_of(verbs: Mapping[str, Verb]) -> type[TyperGroup]:
    """A class for ``typer.Typer(cls=…)`` whose commands are *verbs*, in this order."""

    class LazyGroup(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = _Commands({**verbs, **self.commands})

    return LazyGroup
