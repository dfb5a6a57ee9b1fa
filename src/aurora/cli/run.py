"""`aurora run`: the daemon. Runs what is due, serves metrics, until it is told to stop."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from aurora.cli import context as run_context
from aurora.cli.render import Surface, surface
from aurora.errors import RepositoryLocked
from aurora.events import Noted
from aurora.wiring import HASTY


def run(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Run backups, tests, verification and retention when they are due, and tell of them.

    Ends with SIGTERM or Ctrl-C, in order: what runs is stopped, and is run again by the next.
    """
    from aurora.scheduler.child import FileLock  # noqa: PLC0415 - slow to import
    from aurora.scheduler.serve import Server  # noqa: PLC0415
    from aurora.scheduler.setup import LongLived, check_secrets, set_up  # noqa: PLC0415

    with surface(json) as shown:
        path = run_context.config_path(context)
        aurora = LongLived.load(path, sink=shown.sink, patience=HASTY)
        check_secrets(aurora)
        lock = FileLock(aurora.settings.base / "aurora.state" / "run.lock")
        if not lock.acquire():
            raise RepositoryLocked(
                f"another `aurora run` is at work with {path}",
                hint="One is enough. On another host another one may run: they share the work.",
            )
        daemon = set_up(aurora, path, has_command, shown.sink)
        server = Server(aurora.settings.metrics.listen, daemon)
        server.start()
        daemon.start()
        shown.sink(Noted(f"aurora runs for {aurora.database}{server.told}"))
        try:
            daemon.worker.wait()
        except KeyboardInterrupt:
            _stop(shown, daemon, server)
        except BaseException:
            _stop(shown, daemon, server)
            raise
        shown.summary({"operation": "run", "database": aurora.database}, ["stopped in order"])


def _stop(shown: Surface, daemon: Any, server: Any) -> None:
    busy = daemon.worker.busy
    waiting = f"; waiting for {', '.join(busy)} to end in order" if busy else ""
    shown.sink(Noted(f"stopping{waiting}"))
    daemon.stop()
    server.stop()


def has_command(words: Sequence[str]) -> bool:
    """Whether this version has a command of these words, up to the first option."""
    from aurora.cli.app import app  # noqa: PLC0415 - it imports this module

    command: Any = typer.main.get_command(app)
    options = {word for word in words if word.startswith("--")}
    for word in words:
        if not hasattr(command, "commands"):
            break
        command = command.commands.get(word)
        if command is None:
            return False
    known = {name for one in command.params for name in one.opts}
    return not hasattr(command, "commands") and options <= known
