"""Evidence: one report as JSON for programs, Markdown for people, HTML for those who file it."""

import hashlib
import html
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from aurora import clock

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 } th, td { border: 1px solid #bbb;
       padding: .25rem .6rem; text-align: left; vertical-align: top }
code { background: #f2f2f2; padding: 0 .2rem } h1, h2 { line-height: 1.2 }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #161616 }
       code { background: #2a2a2a } th, td { border-color: #555 } }
@media print { body { max-width: none } }
""".strip()


def new_id(prefix: str, moment: datetime) -> str:
    """``t20261123T160742Z-k3q9``: sorts by time."""
    letters = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(4))
    return f"{prefix}{moment:%Y%m%dT%H%M%SZ}-{letters}"


def texts(stem: str, document: Mapping[str, Any], markdown: str) -> dict[str, str]:
    """The three forms by file name: ``<stem>.json``, ``.md`` and ``.html``."""
    title = markdown.lstrip().splitlines()[0].lstrip("# ")
    return {
        f"{stem}.json": json.dumps(document, indent=2, ensure_ascii=False, default=_plain) + "\n",
        f"{stem}.md": markdown,
        f"{stem}.html": page(title, markdown),
    }


def page(title: str, markdown: str) -> str:
    """A page of HTML that stands alone; raw HTML in the Markdown stays text."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )


def write(directory: Path, files: Mapping[str, str]) -> Path:
    """Write the three forms, each whole or not at all; the path of the Markdown. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    markdown = directory
    for name, text in files.items():
        path = directory / name
        temporary = path.with_name(f"{name}.new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
        markdown = path if path.suffix == ".md" else markdown
    return markdown


def hashes(files: Mapping[str, str]) -> dict[str, str]:
    """File name -> SHA-256, so that a file found later can be compared with the audit trail."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return lines


def cell(value: object) -> str:
    """Text that cannot end a cell, or mean something in Markdown."""
    text = str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return text.replace("`", "'").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return clock.isoformat(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)
