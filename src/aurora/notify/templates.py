"""Messages as ``string.Template`` files: the first line is the title, the rest the body.

A file of an event's name in the user's directory wins over the one that ships. A template
that is broken or names what is not there never keeps a message from being sent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

SUFFIX = ".txt"
FALLBACK = "problem"


@dataclass(frozen=True, slots=True)
class Message:
    """A message ready to be sent."""

    title: str
    body: str


class Templates:
    """The shipped templates, with the user's over them."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory

    def fill(self, event: str, facts: Mapping[str, str]) -> Message:
        """The message of *event*; what the template names and *facts* lack stays as it is."""
        own = self._own(event)
        text = own if own is not None else shipped(event)
        filled = Template(text).safe_substitute(facts)
        title, _, body = filled.partition("\n")
        lines = [line.rstrip() for line in body.strip("\n").splitlines()]
        return Message(title.strip(), "\n".join(lines).strip())

    def complaints(self) -> Iterator[str]:
        """What is wrong with the user's templates, one line each."""
        for path in sorted(self._directory.glob(f"*{SUFFIX}")) if self._directory else ():
            try:
                template = Template(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError):
                yield f"{path} cannot be read: the shipped one is used"
                continue
            if not template.is_valid():
                yield f"{path}: a $ that is no name; write $$ for a dollar sign"
            elif path.stem not in names():
                yield f"{path}: there is no event of this name"

    def _own(self, event: str) -> str | None:
        if self._directory is None:
            return None
        try:
            text = (self._directory / f"{event}{SUFFIX}").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        return text if text.strip() else None


def shipped(event: str) -> str:
    """The text of a shipped template; that of a problem where there is none."""
    place = resources.files("aurora.notify") / "templates"
    file = place / f"{event}{SUFFIX}"
    if not file.is_file():
        file = place / f"{FALLBACK}{SUFFIX}"
    return file.read_text(encoding="utf-8")


def names() -> list[str]:
    """The events that have a shipped template."""
    place = resources.files("aurora.notify") / "templates"
    return sorted(one.name.removesuffix(SUFFIX) for one in place.iterdir()
                  if one.name.endswith(SUFFIX))  # fmt: skip
