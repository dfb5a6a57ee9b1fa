"""The documentation against the program: commands, options, exit codes, links, addresses."""

import inspect
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import aurora
import aurora.api
from aurora import errors
from aurora.cli import jsonlines
from aurora.cli.app import app
from aurora.errors import AuroraError

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = ROOT / "docs" / "commands.md"
PLACEHOLDERS = {"N": "2", "n/t": "1/7", "KIND": "recovery-code"}

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^]]+\]\(([^)\s]+)\)")
INLINE = re.compile(r"`(aurora [^`]+)`")
ENDS_COMMAND = {"|", "||", "&&", "&", ";", ">", "2>"}
# Written apart, so that this file does not hold what it looks for.
REGISTRIES = [f"{name}.{top}" for name, top in (("pypi", "org"), ("pythonhosted", "org"),
              ("registry.npmjs", "org"), ("registry.yarnpkg", "com"))]  # fmt: skip
MACHINE = re.compile("|".join(f"(?<![\\w.~])/{place}/" for place in ("work", "root", "var/tmp")))


def _leaves(group: Any, words: tuple[str, ...] = ("aurora",)) -> Iterator[tuple[str, Any]]:
    """Every command of the app: its words and the command."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


ROOT_COMMAND: Any = typer.main.get_command(app)
EVERY_COMMAND = list(_leaves(ROOT_COMMAND))
NAMES = {"aurora backup", *(words for words, _ in EVERY_COMMAND)}  # told of, not told to run


def _sections(page: Path) -> dict[str, str]:
    """Title of a heading without its backquotes -> the text below it."""
    parts = re.split(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title.replace("`", ""): text for title, text in zip(parts[1::2], parts[2::2])}  # noqa: B905


def _options(command: Any) -> list[str]:
    return [name for one in command.params for name in one.opts if name.startswith("--")]


@pytest.mark.parametrize("words, command", EVERY_COMMAND, ids=[one[0] for one in EVERY_COMMAND])
def test_every_command_and_option_is_told(words: str, command: Any) -> None:
    """Each has a section of its own that names all of its options, and no other."""
    section = _sections(COMMANDS)[words]
    told = set(re.findall(r"^\| `(--[a-z-]+)", section, flags=re.MULTILINE))
    assert told == set(_options(command)) - {"--help"}


def test_the_options_before_a_command_are_told() -> None:
    """--config and its like."""
    text = COMMANDS.read_text(encoding="utf-8")
    assert [name for name in _options(ROOT_COMMAND) if f"`{name}" not in text] == []


def _error_classes() -> list[type[AuroraError]]:
    return [
        one
        for one in vars(errors).values()
        if inspect.isclass(one) and issubclass(one, AuroraError)
    ]


@pytest.mark.parametrize("kind", _error_classes())
def test_every_exit_code_is_told(kind: type[AuroraError]) -> None:
    """In one row with the error's code."""
    row = re.compile(rf"^\| {kind.exit_code} \| [^|]*`{kind.code}`", re.MULTILINE)
    assert row.search(COMMANDS.read_text(encoding="utf-8"))


def test_every_message_type_is_told() -> None:
    """Those that JSON lines are written with, and the one on standard error."""
    written = set(re.findall(r'_write\("(\w+)"', inspect.getsource(jsonlines)))
    text = COMMANDS.read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \| standard", text, re.MULTILINE))
    assert rows == written | {"exit_error"}


PYTHON_ROW = re.compile(r"^\| `(\w+)\((.*?)\)` \|", re.MULTILINE)


@pytest.mark.parametrize(
    "name, told", PYTHON_ROW.findall((ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
)
def test_every_python_function_told_is_there(name: str, told: str) -> None:
    """With these parameters, in this order."""
    home = aurora if name in aurora.__all__ else aurora.api
    parameters = list(inspect.signature(getattr(home, name)).parameters)
    assert [one for one in told.split(", ") if one != "*"] == parameters


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_resolves(page: Path) -> None:
    """To a file of this project, and to a heading of it."""
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name}: {target}"
        assert there.is_relative_to(ROOT), f"{page.name}: {target}"
        assert not anchor or anchor in _anchors(there), f"{page.name}: {target}"


def _command_lines(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    for block in FENCE.findall(text):
        joined = block.replace("\\\n", " ")
        for line in joined.splitlines():
            bare = re.sub(r"^\s*\$ ", "", line)
            if re.match(r"([A-Z_]+=\S+ )*aurora [^=]", bare):
                yield bare[bare.index("aurora ") :]
    prose = re.sub(r"^#.*$", "", FENCE.sub("", text), flags=re.MULTILINE)
    yield from (line for line in INLINE.findall(prose) if line not in NAMES)


def _words(line: str) -> list[str]:
    """The words of a command line; optional parts of a synopsis are taken as given."""
    lexer = shlex.shlex(re.sub(r"\[|\]", " ", line), posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in lexer:
        if word in ENDS_COMMAND:
            break
        words.append(PLACEHOLDERS.get(word, word))
    return words[1:]


def _parse(words: list[str]) -> None:
    """Parse to the last word, run nothing. Raises what Typer raises."""
    command, name, parent = ROOT_COMMAND, "aurora", None
    while True:
        context = command.make_context(name, list(words), parent=parent)
        if not hasattr(command, "commands"):
            return
        rest = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, rest)
        parent = context


SHOWN = [
    pytest.param(line, id=f"{page.name}:{line[:60]}")
    for page in PAGES
    for line in dict.fromkeys(_command_lines(page))
    if "…" not in line
]


@pytest.mark.parametrize("line", SHOWN)
def test_every_command_line_shown_parses(line: str) -> None:
    """Against the real program, so no page shows an option that is not there."""
    _parse(_words(line))


def _texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue


def test_no_file_holds_an_address_of_this_machine_or_of_a_registry() -> None:
    """A checkout works anywhere, and installs from where its user says."""
    found = [
        f"{name}: {word}"
        for name, text in _texts()
        for word in (str(ROOT), *REGISTRIES)
        if word in text
    ]
    found += [f"{name}: {hit[0]}" for name, text in _texts() if (hit := MACHINE.search(text))]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_stay_short(page: Path) -> None:
    """Somebody reads them on a bad day. What is looked up, not read, grows with the program."""
    if page.name not in ("commands.md", "configuration.md", "format.md", "CHANGELOG.md"):
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 220
