"""What a run imports: its own verb, and what stands behind that."""

import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
import typer

from aurora import api
from aurora.cli.app import VERBS
from aurora.cli.backup import VERBS as BACKUP_VERBS
from aurora.cli.lazy import Verb, group_of


@pytest.mark.parametrize(
    "words,without",
    [
        (("backup", "create"), ("operations.restore", "operations.incident", "operations.proof")),
        (("backup", "restore-table"), ("operations.incident", "operations.proof", "scheduler")),
        (("key", "list"), ("operations.incident", "operations.restore")),
    ],
)
def test_a_run_imports_its_own_verb(words: tuple[str, ...], without: tuple[str, ...]) -> None:
    program = (
        "import sys; from aurora.cli.app import main; main([*sys.argv[1:], '--help']);"
        "print(*sorted(sys.modules), sep='\\n')"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "aurora.wiring" in told
    for name in without:
        assert f"aurora.{name}" not in told, name


def test_every_function_of_the_interface_is_where_it_is_said_to_be() -> None:
    """Also after all of it was imported: a module must not hide a function of its name."""
    for name in api.__all__:
        getattr(api, name)
    assert all(callable(getattr(api, name)) for name in api.__all__ if name.islower())
    with pytest.raises(AttributeError, match="no_such"):
        api.no_such  # noqa: B018


@pytest.mark.parametrize("verb", [*VERBS.values(), *BACKUP_VERBS.values()])
def test_every_verb_is_there(verb: Verb) -> None:
    module, _, name = verb.home.partition(":")
    assert getattr(import_module(module), name)


def test_a_lazy_group_has_its_verbs_in_order_and_its_own() -> None:
    app = typer.Typer(cls=group_of({"list": Verb("aurora.cli.listing:list_backups", "Look.")}))
    app.command("other")(lambda: None)
    app.callback()(lambda: None)
    group: Any = typer.main.get_command(app)
    assert list(group.commands) == ["list", "other"]
    assert group.commands["list"].short_help == "Look."
    assert group.commands.get("none") is None
