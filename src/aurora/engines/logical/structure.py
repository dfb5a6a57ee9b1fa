"""Whether a database has every object of a backup's schema, with the same definition.

Both sides are listed by ``pg_dump``'s own archive: the backup's, and one made of the database
now. Where both come from the same major version, the definitions are compared as text too.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aurora.engines.base import SchemaArchive
from aurora.engines.logical.entries import without_markers
from aurora.engines.logical.names import Connection
from aurora.engines.logical.onetable import split_script
from aurora.engines.logical.schema import Archive, Entry, dump_schema
from aurora.engines.logical.system import statements
from aurora.postgres.errors import translated
from aurora.postgres.server import inspect_server, open_control

_NO_OBJECTS = {"ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE", "DATABASE PROPERTIES"}
GROUPS: Mapping[str, frozenset[str]] = {
    "constraints and indexes": frozenset({
        "CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT", "INDEX", "INDEX ATTACH", "STATISTICS",
    }),
    "policies": frozenset({"POLICY", "ROW SECURITY"}),
    "extensions": frozenset({"EXTENSION"}),
    "grants": frozenset({"ACL", "DEFAULT ACL"}),
}  # fmt: skip
OTHERS = "tables, functions and other objects"


@dataclass(slots=True)
class Structure:
    """One group of objects: how many the backup has, and what differs."""

    count: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class StructureReport:
    """What a comparison of two schemas found, by group of objects."""

    groups: dict[str, Structure]
    definitions: bool  # whether they were compared, not the names alone


def compare_structure(
    dsn: str, expected: Archive, *, source_major: int, ignore: Sequence[str] = ()
) -> StructureReport:
    """Compare the schema of the database at *dsn* with a backup's.

    Args:
        ignore: extensions that the backup has and the database need not.

    Raises:
        TargetError, SourceError, UsageError: the database cannot be dumped.
    """
    with tempfile.TemporaryDirectory(prefix="aurora-") as directory:
        found, major = _archive_of(dsn, Path(directory))
        wanted_list, found_list = _objects(expected), _objects(found)
        report = StructureReport(
            {name: Structure() for name in (*GROUPS, OTHERS)},
            definitions=major == source_major and found.document.tool == expected.document.tool,
        )
        wanted, there = Counter(map(_name, wanted_list)), Counter(map(_name, found_list))
        for (kind, tag), number in wanted.items():
            group = report.groups[_group(kind)]
            group.count += number
            if number > there[kind, tag] and not _is_ignored(kind, tag, ignore):
                group.problems.append(f"{kind} {tag} is not there")
        for kind, tag in there - wanted:
            report.groups[_group(kind)].problems.append(f"{kind} {tag} is not in the backup")
        if report.definitions:
            same = {name for name in wanted if wanted[name] == there[name]}
            for kind, words in _differing(expected, wanted_list, found, found_list, same):
                report.groups[_group(kind)].problems.append(words)
    return report


def compare_globals(conn: Connection, expected: str, found: str, *, same_major: bool) -> list[str]:
    """What the roles of a backup have and those of the connected server lack, in words.

    The role that is connected and the server's first one are left out: a restore must not
    touch them.
    """
    with translated("target", doing="looking at the roles"):
        rows = conn.execute(
            "SELECT rolname FROM pg_catalog.pg_roles"
            " WHERE oid = 10 OR rolname IN (current_user, session_user)"
        ).fetchall()
    own = {str(row[0]) for row in rows}
    there = set(_facts_of(found))
    lacking = [fact for fact in _facts_of(expected) if fact not in there and fact[1] not in own]
    if not same_major:  # memberships and settings are written otherwise
        lacking = [fact for fact in lacking if fact[0] in ("role", "attribute")]
    return [" ".join(fact[2:]) or f"role {fact[1]} is not there" for fact in lacking]


_ROLE = r'("(?:[^"]|"")*"|[^\s;"]+)'
_ALTER = re.compile(rf"ALTER ROLE {_ROLE} WITH (.*)", re.DOTALL)
_GRANT = re.compile(rf"GRANT {_ROLE} TO {_ROLE}")
_SETTING = re.compile(rf"ALTER ROLE {_ROLE} (IN DATABASE|SET) ")
_WORD = re.compile(r"\b(SUPERUSER|CREATEROLE|CREATEDB|LOGIN|REPLICATION|BYPASSRLS|NOINHERIT)\b")


def _facts_of(text: str) -> Iterable[tuple[str, ...]]:
    """(kind, role, words for people); never a password."""
    for statement in statements(text):
        if statement.startswith("CREATE ROLE"):
            yield ("role", _plain(statement.split(None, 2)[2]))
        elif found := _ALTER.match(statement):
            role = _plain(found[1])
            attributes = found[2].partition(" PASSWORD ")[0]
            for word in _WORD.findall(attributes):
                yield ("attribute", role, f"role {role} is not {word}")
        elif found := _GRANT.match(statement):
            group, member = _plain(found[1]), _plain(found[2])
            yield ("member", member, f"role {member} is not a member of {group}")
        elif found := _SETTING.match(statement):
            role = _plain(found[1])
            name = statement.partition(" SET ")[2].partition(" ")[0]
            yield ("setting", role, f"role {role} lacks its setting of {name}")


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _archive_of(dsn: str, directory: Path) -> tuple[Archive, int]:
    with open_control(dsn, what="target") as conn:
        with translated("target", doing="taking a snapshot"):
            facts = inspect_server(conn)
            conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            row = conn.execute("SELECT pg_catalog.pg_export_snapshot()").fetchone()
        tool, content = dump_schema(
            dsn,
            server_major=facts.major,
            snapshot=str(row[0]) if row else "",
            encoding=facts.encoding,
        )
    return Archive(SchemaArchive(tool, ()), content, directory), facts.major


def _objects(archive: Archive) -> list[Entry]:
    """What is to be there; a restore leaves out what marks schema changes on the source."""
    listing = without_markers(archive.listing())
    return [entry for entry in listing if entry.kind not in _NO_OBJECTS]


def _name(entry: Entry) -> tuple[str, str]:
    return entry.kind, entry.tag


def _group(kind: str) -> str:
    return next((name for name, kinds in GROUPS.items() if kind in kinds), OTHERS)


def _is_ignored(kind: str, tag: str, ignore: Sequence[str]) -> bool:
    words = tag.split()
    if kind == "EXTENSION":
        return any(name in words for name in ignore)
    return kind == "COMMENT" and any(
        words[1:2] == ["EXTENSION"] and words[2:3] == [name] for name in ignore
    )


def _differing(
    expected: Archive,
    wanted: Sequence[Entry],
    found: Archive,
    there: Sequence[Entry],
    same: set[tuple[str, str]],
) -> Iterable[tuple[str, str]]:
    """(kind, words) of every object that both have with different definitions."""
    one = _definitions(expected, [entry for entry in wanted if _name(entry) in same])
    other = _definitions(found, [entry for entry in there if _name(entry) in same])
    for name, text in one.items():
        if other.get(name, text) != text:
            kind, schema, tag = name
            where = "" if schema == "-" else f"{schema}."
            yield kind, f"{kind} {where}{tag} has another definition"


def _definitions(archive: Archive, entries: Sequence[Entry]) -> dict[tuple[str, str, str], str]:
    parts = split_script(archive.script(entries), [entry.kind for entry in entries])
    found: dict[tuple[str, str, str], list[str]] = {}
    for part in parts or ():
        if part.kind != "SETTINGS":
            text = "\n".join(
                line for line in part.sql.splitlines() if line and not line.startswith("SET ")
            )
            found.setdefault((part.kind, part.schema, part.name), []).append(text)
    return {name: "\n".join(sorted(texts)) for name, texts in found.items()}
