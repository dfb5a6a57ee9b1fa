"""``python -m aurora.demo``: back up, break and recover a database, in a minute or two.

Ends with code 0 when everything went well, 1 when something did not, 2 when it could not
begin, 130 on Ctrl-C. The server never outlives it.
"""

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import psycopg

from aurora.demo.narrator import Act, Narrator
from aurora.demo.stage import Stage
from aurora.demo.story import Story
from aurora.errors import AuroraError, Cancelled


def main(arguments: list[str] | None = None) -> int:
    """Tell the story; returns the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    narrator = Narrator()
    try:
        return _perform(options.directory, options.megabytes, narrator, keep=options.keep)
    except KeyboardInterrupt:
        narrator.note("Interrupted. The server and the writers are stopped.")
        return Cancelled.exit_code
    except AuroraError as error:
        narrator.verdict(f"{error.message}. {error.hint}".strip(), good=False)
        return error.exit_code


def _perform(directory: Path, megabytes: float, narrator: Narrator, *, keep: bool) -> int:
    began = time.monotonic()
    narrator.opening(
        "This makes a database, backs it up while it is written to, destroys a part of it,",
        "and gets everything back. All of it stays in " + str(directory.absolute()) + ".",
    )
    with Stage(directory, narrator, keep=keep) as stage:
        story = Story(stage, narrator, megabytes=megabytes)
        complete = _tell(story, narrator)
        narrator.closing(story.acts, seconds=time.monotonic() - began)
        _say_what_is_left(stage, narrator, keep=keep)
    return 0 if complete and all(act.good for act in story.acts) else 1


def _tell(story: Story, narrator: Narrator) -> bool:
    try:
        story.tell()
    except AuroraError as error:
        _note_failure(story.acts, narrator, error.message, error.hint)
    except (psycopg.Error, OSError) as error:
        _note_failure(story.acts, narrator, f"{type(error).__name__}: {error}")
    else:
        return True
    return False


def _note_failure(acts: list[Act], narrator: Narrator, message: str, hint: str = "") -> None:
    narrator.verdict(message.strip(), good=False)
    if hint:
        narrator.note(hint)
    if acts:
        acts[-1].good = False
        acts[-1].facts = message.strip().splitlines()[0]


def _say_what_is_left(stage: Stage, narrator: Narrator, *, keep: bool) -> None:
    server = "and the stopped server's files" if keep else "and no server any more"
    narrator.note(
        f"{stage.directory} now holds aurora.toml, the passphrases, both storages, the reports of"
        f" the restores, {server}. The next demo removes it. To look around:"
    )
    exports = [f"{name}={Path(path).name}" for name, path in stage.passphrases.items()]
    words = [*exports, sys.executable, "-m", "aurora", "backup", "list"]
    narrator.command(f"cd {shlex.quote(str(stage.directory))} && {' '.join(words)}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aurora.demo",
        description="Back up, break and recover a sample database, with the real commands.",
    )
    parser.add_argument(
        "--megabytes", type=float, default=200, help="size of the sample's tables (default 200)"
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("demo-run"), help="where (default ./demo-run)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the server's files too, not only the storages"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
