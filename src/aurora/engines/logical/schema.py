"""The schema, by PostgreSQL's own tools: ``pg_dump`` out, ``pg_restore`` in.

The archive is pg_dump's custom format without rows. What pg_restore could not do is
returned statement by statement, so that a report can tell it line by line.
"""

import re
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.conninfo import make_conninfo

from aurora.engines.base import SchemaArchive
from aurora.engines.logical.names import FENCE_EVENT_TRIGGER, FENCE_SCHEMA, FENCE_TRIGGER
from aurora.errors import (
    SourceChanged,
    SourceError,
    SourcePrivilege,
    TargetError,
    TargetUnreachable,
)
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.server import settled_for_programs
from aurora.postgres.tools import ToolSet, find_tools, lost_connection, run_tool

# Set by newer tools on servers that do not know it; they say so and go on.
_HARMLESS = (
    'unrecognized configuration parameter "transaction_timeout"',
    'schema "public" already exists',
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an archive's listing."""

    dump_id: int
    class_id: int
    oid: int
    kind: str  # TABLE, INDEX, CONSTRAINT, FK CONSTRAINT, ACL, …
    tag: str  # what follows: schema, name and owner, separated by blanks
    line: str = field(repr=False)

    @property
    def key(self) -> str:
        """How :class:`SchemaArchive` names it among its members."""
        return f"{self.class_id}:{self.oid}"


@dataclass(frozen=True, slots=True)
class Described:
    """An entry with its names told apart, and its SQL text."""

    entry: Entry
    name: str  # "users users_pkey" for what is on a table, "TABLE users" for a grant
    schema: str  # "" for what is in none
    owner: str
    sql: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A statement that the target refused while a schema was restored."""

    entry: str  # the archive's entry, such as "EXTENSION pg_cron"
    error: str
    statement: str

    def __str__(self) -> str:
        return f"{self.entry or self.statement[:80]}: {self.error}"


def needs_tls(dsn: str) -> bool:
    """Whether a tool without TLS could not make this connection."""
    mode = ConnInfo.parse(dsn).settled().options.get("sslmode", "prefer")
    return mode in ("require", "verify-ca", "verify-full")


def dump_schema(
    dsn: str,
    *,
    server_major: int,
    snapshot: str = "",
    encoding: str,
    skip: Sequence[str] = (),
    lock_timeout: float = 10.0,
    cancel: threading.Event | None = None,
) -> tuple[int, bytes]:
    """pg_dump's major version and its archive of the whole schema, under *snapshot* if given.

    The text in it is UTF-8, unless the database's *encoding* says that nobody knows.

    Raises:
        UsageError: no fitting pg_dump is installed.
        SourceChanged: a session has a table locked, or waits to do so.
        SourceError: pg_dump failed.
    """
    tools = find_tools(at_least=server_major, need_tls=needs_tls(dsn))
    args = [
        "--format=custom", "--compress=0", "--schema-only", "--no-password",
        f"--lock-wait-timeout={int(lock_timeout * 1000)}",
    ]  # fmt: skip
    if snapshot:
        args.append(f"--snapshot={snapshot}")
    args.append(f"--encoding={'SQL_ASCII' if encoding == 'SQL_ASCII' else 'UTF8'}")
    args += [f"--exclude-table={_pattern(name)}" for name in skip]
    pieces: list[bytes] = []
    try:
        run_tool(
            tools,
            "pg_dump",
            args,
            dsn=settled_for_programs(ConnInfo.parse(dsn)).dsn(),
            stdout=pieces.append,
            cancel=cancel,
        )
    except SourceError as error:
        if "permission denied" in error.message:
            raise SourcePrivilege(error.message, hint=error.hint) from error
        if "due to statement timeout" in error.message or "lock timeout" in error.message:
            raise SourceChanged(
                f"pg_dump waited {lock_timeout:g} s for a table that another session has locked, "
                "or waits to change",
                hint="Nothing was backed up. That session can go on now; run the backup again.",
            ) from error
        raise
    return tools.major, undated(b"".join(pieces))


def undated(archive: bytes) -> bytes:
    """The archive as if made on 1 January 2000: an unchanged schema is the same bytes.

    The header is ``PGDMP``, the format's version (three bytes), sizes of int and offset,
    the kind, the compression (a byte since 1.15, an int before), and the date as seven ints
    from second to daylight saving. An int is a sign byte and its bytes, lowest first.
    """
    major, minor, size = archive[5], archive[6], archive[8]
    if not archive.startswith(b"PGDMP") or major != 1 or size != 4:
        return archive
    start = 11 + (1 if minor >= 15 else 1 + size)
    date = b"".join(b"\0" + value.to_bytes(size, "little") for value in (0, 0, 0, 1, 0, 100, 0))
    return archive[:start] + date + archive[start + len(date) :]


def _pattern(name: str) -> str:
    """A psql pattern that means exactly *name* (``schema.table``, quoted where needed)."""
    parts = re.findall(r'"(?:[^"]|"")*"|[^.]+', name)
    return ".".join(p if p.startswith('"') else f'"{p}"' for p in parts)


class Archive:
    """A schema archive in a private temporary file, for as many uses as needed.

    Args:
        only: dump ids of the entries that are taken for all there is; None: all.
    """

    def __init__(
        self,
        archive: SchemaArchive,
        content: bytes,
        directory: Path,
        *,
        only: frozenset[int] | None = None,
    ) -> None:
        self.document = archive
        self._only = only
        self.path = directory / "schema.dump"
        self.path.write_bytes(content)
        self.path.chmod(0o600)
        self.directory = directory

    def listing(self) -> list[Entry]:
        """All entries in the order of restore, but for the fence of an incident."""
        listed = run_tool(self._tools(), "pg_restore", ["--list", str(self.path)])
        entries = []
        for line in listed.stdout.decode("utf-8", "replace").splitlines():
            match = re.match(r"(\d+); (\d+) (\d+) (.*)$", line)
            if match and (self._only is None or int(match[1]) in self._only):
                kind, tag = _kind(match[4])
                entries.append(Entry(int(match[1]), int(match[2]), int(match[3]), kind, tag, line))
        return [entry for entry in entries if not _is_of_fence(entry)]

    def script(self, entries: Iterable[Entry]) -> str:
        """The SQL text of *entries* alone; bytes that are no UTF-8 stand as surrogates."""
        args = ["--file=-", f"--use-list={self._list_file(entries)}", str(self.path)]
        return run_tool(self._tools(), "pg_restore", args).stdout.decode(errors="surrogateescape")

    def described(self) -> list[Described]:
        """Every entry with its names and its SQL, in the order of restore."""
        listing = {entry.dump_id: entry for entry in self.listing()}
        args = ["--verbose", "--file=-", str(self.path)]
        text = run_tool(self._tools(), "pg_restore", args).stdout.decode(errors="surrogateescape")
        text = _END.sub("", text)
        heads = [
            head
            for head in _HEAD.finditer(text)
            if int(head["id"]) in listing
            and (int(head["class"]), int(head["oid"]))
            == (listing[int(head["id"])].class_id, listing[int(head["id"])].oid)
        ]
        ends = [*(head.start() for head in heads[1:]), len(text)]
        return [
            Described(
                listing[int(head["id"])],
                head["name"],
                "" if head["schema"] == "-" else head["schema"],
                "" if head["owner"] == "-" else head["owner"],
                text[head.end() : end].strip(),
            )
            for head, end in zip(heads, ends, strict=True)
        ]

    def restore(
        self,
        dsn: str,
        *,
        target_major: int,
        section: str | None = None,
        entries: Iterable[Entry] | None = None,
        jobs: int = 1,
        cancel: threading.Event | None = None,
    ) -> list[Refusal]:
        """Run the entries of *section* (``pre-data``, ``post-data``), or *entries*, on the target.

        Goes on after a refused statement.

        Returns: what was refused.

        Raises:
            TargetError: pg_restore could not connect or read the archive.
        """
        args = [
            # As a connection string of its own: "a=b" would be read as one.
            f"--dbname={make_conninfo('', dbname=ConnInfo.parse(dsn).dbname)}",
            "--no-password", f"--jobs={jobs}",
        ]  # fmt: skip
        if section:
            args.append(f"--section={section}")
        if entries is None and self._only is not None:
            entries = self.listing()
        if entries is not None:
            args.append(f"--use-list={self._list_file(entries)}")
        done = run_tool(
            self._tools(need_tls=needs_tls(dsn), prefer=target_major),
            "pg_restore",
            [*args, str(self.path)],
            dsn=settled_for_programs(ConnInfo.parse(dsn), what="target").dsn(),
            cancel=cancel,
            error=TargetError,
            accept=(0, 1),
        )
        if done.status != 0 and lost_connection(done.stderr):
            # Told like a refused statement, and all that comes after it is missing too.
            raise TargetUnreachable(
                "the connection to the target was lost while the schema was restored",
                hint="Nothing of the live data was touched. Run the restore again.",
            )
        refusals = parse_refusals(done.stderr)
        if done.status != 0 and not refusals and "errors ignored on restore" not in done.stderr:
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            raise TargetError(
                f"pg_restore failed: {said[-1]}",
                hint="The schema could not be restored; nothing of the live data was touched.",
            )
        return refusals

    def _tools(self, *, need_tls: bool = False, prefer: int | None = None) -> ToolSet:
        return find_tools(
            at_least=self.document.tool, prefer=prefer, need_tls=need_tls, programs=("pg_restore",)
        )

    def _list_file(self, entries: Iterable[Entry]) -> Path:
        with tempfile.NamedTemporaryFile(
            "w", dir=self.directory, suffix=".list", delete=False
        ) as file:
            file.writelines(f"{entry.line}\n" for entry in entries)
        return Path(file.name)


# What pg_restore --verbose writes before each entry; an entry's own lines end with "--".
_HEAD = re.compile(
    r"^--\n-- TOC entry (?P<id>\d+) \(class (?P<class>\d+) OID (?P<oid>\d+)\)\n"
    r"(?:-- Dependencies: [\d ]*\n)?"
    r"-- Name: (?P<name>.*); Type: (?P<type>[^;\n]+); Schema: (?P<schema>.*); "
    r"Owner: (?P<owner>.*?)(?:; Tablespace: [^\n]*)?\n(?:-- Data Pos: \d+\n)?--\n",
    re.MULTILINE,
)

_END = re.compile(
    r"(?:-- Completed on [^\n]*\n\n)?--\n-- PostgreSQL database dump complete\n.*\Z", re.DOTALL
)

# Entry kinds of more than one word; the listing separates everything by blanks.
_KINDS = (
    "FK CONSTRAINT", "CHECK CONSTRAINT", "SEQUENCE OWNED BY", "SEQUENCE SET", "TABLE ATTACH",
    "INDEX ATTACH", "ROW SECURITY", "DEFAULT ACL", "MATERIALIZED VIEW DATA", "MATERIALIZED VIEW",
    "FOREIGN TABLE", "FOREIGN DATA WRAPPER", "FOREIGN SERVER", "SERVER", "USER MAPPING",
    "EVENT TRIGGER", "TEXT SEARCH CONFIGURATION", "TEXT SEARCH DICTIONARY", "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE", "OPERATOR CLASS", "OPERATOR FAMILY", "ACCESS METHOD", "TABLE DATA",
    "PUBLICATION TABLES IN SCHEMA", "PUBLICATION TABLE", "SHELL TYPE", "PROCEDURAL LANGUAGE",
    "DATABASE PROPERTIES", "BLOB METADATA", "LARGE OBJECT", "STATISTICS DATA", "SECURITY LABEL",
)  # fmt: skip


_OF_FENCE = re.compile(
    rf"{FENCE_SCHEMA} (?:FUNCTION )?refuse(?:_ddl)?\(\) |- (?:SCHEMA )?{FENCE_SCHEMA} |"
    rf"- (?:EVENT TRIGGER )?{FENCE_EVENT_TRIGGER} "
)
_FENCE_KINDS = ("FUNCTION", "SCHEMA", "EVENT TRIGGER", "COMMENT", "ACL")


def _is_of_fence(entry: Entry) -> bool:
    """Whether the entry makes what `aurora incident stop-writes` had put up on the source."""
    if entry.kind == "TRIGGER":
        return f" {FENCE_TRIGGER} " in entry.tag
    return entry.kind in _FENCE_KINDS and _OF_FENCE.match(entry.tag) is not None


def _kind(text: str) -> tuple[str, str]:
    for kind in _KINDS:
        if text.startswith(kind + " "):
            return kind, text[len(kind) + 1 :]
    kind, _, tag = text.partition(" ")
    return kind, tag


_REFUSAL = re.compile(
    r"^pg_restore: error: (?:could not execute query: )?(?:ERROR:  )?(?P<error>.*?)$"
    r"(?P<more>(?:\n(?!pg_restore: |Command was: ).*)*)"
    r"(?:\nCommand was: (?P<command>.*(?:\n(?!pg_restore: ).*)*))?",
    re.MULTILINE,
)
_ENTRY = re.compile(r"^pg_restore: from TOC entry \d+; \d+ \d+ (?P<entry>.*)$", re.MULTILINE)


def parse_refusals(stderr: str) -> list[Refusal]:
    """pg_restore's report of refused statements, without the harmless ones."""
    entries = [(found.start(), found["entry"]) for found in _ENTRY.finditer(stderr)]
    refusals: list[Refusal] = []
    harmless = 0
    for found in _REFUSAL.finditer(stderr):
        if any(words in found["error"] for words in _HARMLESS):
            harmless += 1
            continue
        entry = next((name for at, name in reversed(entries) if at < found.start()), "")
        detail = " ".join(line.strip() for line in found["more"].splitlines() if "HINT" not in line)
        error = f"{found['error']} {detail}".strip()
        refusals.append(Refusal(entry, error, (found["command"] or "").strip()))
    # Nothing that was refused may get lost because it was told in words unknown here.
    counted = re.search(r"errors ignored on restore: (\d+)", stderr)
    untold = int(counted[1]) - len(refusals) - harmless if counted else 0
    if untold > 0:
        refusals.append(Refusal(f"{untold} more statements", "refused, reasons unknown", ""))
    return refusals
