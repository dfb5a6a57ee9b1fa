"""One table, or a partition tree, out of a backup into a database that lives.

Everything happens in one transaction on one connection: the table's rows change for
everybody at its commit, after they were compared with the backup, or not at all.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psycopg

from aurora.engines.base import (
    SchemaArchive,
    Table,
    TableData,
)
from aurora.engines.logical.entries import attaches, attaches_index
from aurora.engines.logical.names import Connection, quoted, shown
from aurora.engines.logical.replacing import insist
from aurora.engines.logical.schema import Archive, Entry
from aurora.engines.logical.tablerows import Rows, check_rows, check_tree, through
from aurora.errors import TargetRefused
from aurora.postgres.errors import translated

# Entries without which the table is not the table; others may be refused and are told.
_ESSENTIAL = {"TABLE", "TABLE ATTACH", "DEFAULT", "CONSTRAINT", "INDEX", "ROW SECURITY", "POLICY"}

_VIEWS = ("VIEW", "MATERIALIZED VIEW")
_ABOUT = ("ACL", "COMMENT", "SECURITY LABEL")


@dataclass(slots=True)
class TableOutcome:
    """What one table's restore gave."""

    rows: int = 0
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


_HEADER = re.compile(
    r"^--\n-- Name: (?P<name>.*); Type: (?P<type>[A-Z ]+); Schema: (?P<schema>.*); Owner: .*\n--\n",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Part:
    """One entry of a script."""

    kind: str
    schema: str
    name: str
    sql: str


def split_script(script: str, kinds: Sequence[str]) -> list[Part] | None:
    """The script of entries of these *kinds* taken apart; the settings before them come first.

    None where the heads are not theirs: a comment may hold what looks like the head of an
    entry, and what follows there must never be run. One entry alone is whatever follows the
    first head.
    """
    heads = list(_HEADER.finditer(script))
    if len(kinds) == 1:
        del heads[1:]
    elif [head["type"].strip() for head in heads] != list(kinds):
        return None
    starts = [0, *(head.end() for head in heads)]
    ends = [*(head.start() for head in heads), len(script)]
    texts = [script[start:end] for start, end in zip(starts, ends, strict=True)]
    # psql's guard encloses the entries. Timeouts stay as they are: no lock is waited for without
    # end, and older servers do not know them all.
    texts[0] = re.sub(r"(?m)^(\\restrict .*|SET \w+_timeout = 0;)$", "", texts[0])
    texts[-1] = re.sub(r"\n\\unrestrict \w+\s*\Z", "\n", texts[-1])
    named = [(head["type"].strip(), head["schema"], head["name"]) for head in heads]
    return [
        Part(*words, text)
        for words, text in zip([("SETTINGS", "", ""), *named], texts, strict=True)
        if text.strip()
    ]


def script_parts(archive: Archive, entries: Sequence[Entry]) -> Iterator[Part]:
    """The script of *entries* in its parts."""
    together = split_script(archive.script(entries), [entry.kind for entry in entries])
    if together is not None:
        yield from together
        return
    for entry in entries:
        yield from split_script(archive.script([entry]), [entry.kind]) or ()


def create_tables(
    conn: Connection,
    archive: Archive,
    entries: Sequence[Entry],
    others: Sequence[Entry],
    tables: Sequence[Table],
    rows: "Rows",
    cancel: threading.Event,
) -> TableOutcome:
    """Make *tables* with all that belongs to them, in the transaction *conn* is in.

    *others* are entries of other objects that may fail (views, foreign keys that refer here).

    Raises:
        TargetRefused: an essential statement failed.
        CheckFailed: the loaded rows are not the backup's.
    """
    outcome = TableOutcome()
    before, after = _halves(entries, archive.document, tables[0])
    _run_script(conn, archive, before, outcome, essential=True)
    data = rows(conn, tables, cancel)
    outcome.rows = sum(found.rows for found in data)
    check_rows(conn, tables, data)
    _run_script(conn, archive, after, outcome, essential=True)
    made = _run_script(conn, archive, others, outcome, essential=False)
    if made:
        outcome.notes.append(f"also restored what hangs on it: {', '.join(made)}")
    return outcome


def _halves(
    entries: Sequence[Entry], archive: SchemaArchive, root: Table
) -> tuple[list[Entry], list[Entry]]:
    """What comes before the rows and what after; last the root joins a parent that is there.

    It must have its indexes by then, or the parent gives it new ones; they join by themselves.
    """
    kinds = {"SCHEMA", "TABLE", "SEQUENCE", "SEQUENCE OWNED BY", "DEFAULT", "TABLE ATTACH"}
    joins = [e for e in entries if attaches(e, root)]
    early = [e for e in entries if e.kind in kinds and e not in joins]
    late = [
        e
        for e in entries
        if e.kind not in kinds and not (joins and attaches_index(e, entries, archive, root))
    ]
    return early, late + joins


def _run_script(
    conn: Connection,
    archive: Archive,
    entries: Sequence[Entry],
    outcome: TableOutcome,
    *,
    essential: bool,
) -> list[str]:
    """Run the entries one by one; what was made, for people.

    What is there already is left as it is. Raises TargetRefused for an essential one.
    """
    if not entries:
        return []
    made: list[str] = []
    kept: list[Part] = []  # views that were there: their grants and comments are the user's
    for part in script_parts(archive, entries):
        if any(_is_of_view(part, view) for view in kept):
            continue
        try:
            insist(conn, part.sql)
            if part.kind in (*_VIEWS, "FK CONSTRAINT"):
                made.append(f"{part.kind.lower()} {part.name}")
        except (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject) as error:
            if essential and part.kind in _ESSENTIAL:
                raise _refused(part, error) from error
            if part.kind in _VIEWS:
                kept.append(part)
        except psycopg.Error as error:
            if conn.closed or (essential and part.kind in _ESSENTIAL):
                raise _refused(part, error) from error
            said = error.diag.message_primary
            outcome.refusals.append(f"{part.kind} {part.name}: {said}")
    return made


def _is_of_view(part: Part, view: Part) -> bool:
    """Whether it grants or says something about *view*."""
    if part.kind not in _ABOUT or part.schema != view.schema:
        return False
    return any(
        part.name in (f"TABLE {form}", f"{view.kind} {form}")
        or part.name.startswith(f"COLUMN {form}.")
        for form in (view.name, quoted(view.name))
    )


def _refused(part: Part, error: psycopg.Error) -> TargetRefused:
    return TargetRefused(
        f"the target refused {part.kind.lower()} {part.name}: {error.diag.message_primary}",
        hint="Nothing was changed. What the table needs (types, functions, other tables, roles) "
        "must be there first, or restore the whole database.",
    )


def create_copy(
    conn: Connection,
    schema: str,
    name: str,
    table: Table,
    tables: Sequence[Table],
    rows: Rows,
    cancel: threading.Event,
) -> Sequence[TableData]:
    """A plain table *name* with the rows of *tables*, readable by its owner alone.

    It has the columns and types, no defaults, indexes, constraints or policies; row
    security without a policy and revoked default grants keep an API from serving it.

    Returns: what was loaded.
    """
    full = quoted(schema, name)
    columns = ", ".join(f"{quoted(c.name)} {c.type}" for c in table.columns if not c.generated)
    with translated("target", doing=f"making {shown(schema, name)}"):
        conn.execute(f"CREATE TABLE {full} ({columns})".encode())
        grantees = conn.execute(
            "SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC'"
            " ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END"
            " FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a"
            " WHERE c.oid = %s::regclass AND a.grantee <> c.relowner",
            (full,),
        ).fetchall()
        for (grantee,) in grantees:
            conn.execute(f"REVOKE ALL ON {full} FROM {grantee}".encode())
        conn.execute(f"ALTER TABLE {full} ENABLE ROW LEVEL SECURITY".encode())
    new = Table(table.oid, schema, name, "r", table.owner, table.columns)
    data = rows(conn, [through(new, t) for t in tables], cancel)
    check_tree(conn, new, full, tables, data)
    return data
