"""One table, or a partition tree, out of a backup into a database that lives.

Everything happens in one transaction on one connection: the table's rows change for
everybody at its commit, after they were compared with the backup, or not at all.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psycopg

from aurora.engines.base import (
    BufferSource,
    Column,
    RowsSum,
    SchemaArchive,
    Table,
    TableData,
    total_rows,
)
from aurora.engines.logical.checksum import row_hash, rows_sum, sum_query
from aurora.engines.logical.copyin import Load, copy_rows
from aurora.engines.logical.entries import attaches, attaches_index
from aurora.engines.logical.foreignkeys import dangling
from aurora.engines.logical.names import Connection, literal, quoted, shown
from aurora.engines.logical.partitions import gated, gates, units
from aurora.engines.logical.schema import Archive, Entry
from aurora.errors import CheckFailed, TargetRefused
from aurora.postgres.errors import translated

# Entries without which the table is not the table; others may be refused and are told.
_ESSENTIAL = {"TABLE", "TABLE ATTACH", "DEFAULT", "CONSTRAINT", "INDEX", "ROW SECURITY", "POLICY"}

_VIEWS = ("VIEW", "MATERIALIZED VIEW")
_ABOUT = ("ACL", "COMMENT", "SECURITY LABEL")

_LOCK_TRIES = 60
_LOCK_TRY_MS = 400  # below deadlock_timeout: it is we who give way
_LOCK_PAUSE = 0.6  # seconds
_ROW_LOCK_TIMEOUT = "60s"  # for what COPY waits for: rows that others are changing


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


Rows = Callable[[Connection, Sequence[Table], threading.Event], Sequence[TableData]]
"""Loads rows into tables, in the transaction that the connection is in; what each must hold
then, ``sum`` "" where only the number is known."""


def stored_rows(data: Sequence[TableData], source: BufferSource) -> Rows:
    """The rows that a backup holds."""

    def load(
        conn: Connection, tables: Sequence[Table], cancel: threading.Event
    ) -> Sequence[TableData]:
        through = gates(tables)
        by_oid = {table.oid: gated(table, through.get(table.oid)) for table in tables}
        with ThreadPoolExecutor(3, thread_name_prefix="fetch") as fetchers:
            for found in data:
                if not found.extents:
                    continue
                load = Load(by_oid[found.oid], found.extents)
                doing = f"loading {shown(load.table.schema, load.table.name)}"
                with translated("target", doing=doing):
                    copy_rows(conn, load, source, fetchers, cancel)
        return data

    return load


def check_rows(conn: Connection, tables: Sequence[Table], data: Sequence[TableData]) -> None:
    """Compare what the transaction sees in *tables* with *data*. Raises CheckFailed."""
    for unit in units(tables, data):
        found = [
            read_sum(conn, f"ONLY {quoted(table.schema, table.name)}", table.columns)
            for table in unit.members
        ]
        if not unit.matches(found):
            raise CheckFailed(
                f"the rows loaded into {shown(unit.table.schema, unit.table.name)} are not the "
                f"backup's ({total_rows(found).rows} rows, expected {unit.rows})",
                hint="Nothing was changed.",
            )


def read_sum(conn: Connection, relation: str, columns: Sequence[Column]) -> RowsSum:
    """Rows and checksum of a relation as this transaction sees it."""
    with translated("target", doing="reading the rows back"):
        row = conn.execute(sum_query(relation, columns).encode()).fetchone()
    return rows_sum(*row) if row else RowsSum()


@dataclass(frozen=True, slots=True)
class Existing:
    """The table that is there, and what a swap of its rows has to put aside and back."""

    table: Table
    partitioned: bool
    incoming: tuple[tuple[str, str, str], ...]  # (table as SQL, constraint, definition)
    involved: tuple[str, ...]  # the other tables of those keys, as SQL
    triggers: tuple[tuple[str, str, str], ...]  # (table as SQL, trigger, tgenabled)
    rules: tuple[tuple[str, str, str], ...]
    forced_security: tuple[str, ...]  # tables as SQL
    comments: tuple[tuple[str, str, str], ...] = ()  # (table as SQL, constraint, comment)
    as_replica: bool = False  # others own some of it: nothing is altered, keys are looked at

    @property
    def relation(self) -> str:
        """Its own rows as SQL: with its partitions', without those of tables that inherit."""
        return relation_of(self.table, partitioned=self.partitioned)


def relation_of(table: Table, *, partitioned: bool) -> str:
    """The rows of *table* as SQL names them."""
    name = quoted(table.schema, table.name)
    return name if partitioned else f"ONLY {name}"


# A key that refers to a partition's parent guards the partition too; it is dropped and made
# at its root, where it was made.
_INCOMING = """
WITH RECURSIVE up AS (
    SELECT oid, conparentid FROM pg_catalog.pg_constraint
    WHERE contype = 'f' AND confrelid = ANY (%s::oid[])
  UNION
    SELECT p.oid, p.conparentid FROM pg_catalog.pg_constraint p JOIN up ON p.oid = up.conparentid
)
SELECT c.conrelid::regclass::text, c.conname, pg_catalog.pg_get_constraintdef(c.oid),
       COALESCE(pg_catalog.obj_description(c.oid, 'pg_constraint'), ''), c.confrelid::regclass::text
FROM pg_catalog.pg_constraint c JOIN up USING (oid) WHERE c.conparentid = 0 ORDER BY c.oid
"""
# Parents first, and disabled ones too: what is done to a parent's trigger reaches its
# partitions, whose own state is then set again.
_TRIGGERS = """
SELECT t.tgrelid::regclass::text, t.tgname, t.tgenabled::text FROM pg_catalog.pg_trigger t
WHERE NOT t.tgisinternal AND t.tgrelid = ANY (%s::oid[])
ORDER BY pg_catalog.array_position(%s::oid[], t.tgrelid), t.tgname
"""
_RULES = """
SELECT r.ev_class::regclass::text, r.rulename, r.ev_enabled::text FROM pg_catalog.pg_rewrite r
WHERE r.rulename <> '_RETURN' AND r.ev_enabled <> 'D' AND r.ev_class = ANY (%s::oid[])
"""
_FORCED = """
SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
WHERE c.relforcerowsecurity AND c.oid = ANY (%s::oid[])
"""


def look_at_existing(
    conn: Connection, table: Table, tree: Sequence[int], *, partitioned: bool
) -> Existing:
    """What hangs on *table*, which is locked: nothing more may come to hang on it.

    *tree* are the oids of it and of its partitions on the target, parents first.
    """

    def rows(query: str) -> list[tuple[str, ...]]:
        oids = [list(tree)] * query.count("%s")
        return [tuple(map(str, row)) for row in conn.execute(query.encode(), oids)]

    with translated("target", doing=f"looking at {shown(table.schema, table.name)}"):
        incoming = rows(_INCOMING)
        return Existing(
            table,
            partitioned,
            incoming=tuple((a, b, c) for a, b, c, _, _ in incoming),
            involved=tuple(dict.fromkeys(t for a, _, _, _, e in incoming for t in (e, a))),
            triggers=tuple((a, b, c) for a, b, c in rows(_TRIGGERS)),
            rules=tuple((a, b, c) for a, b, c in rows(_RULES)),
            forced_security=tuple(a for (a,) in rows(_FORCED)),
            comments=tuple((a, b, d) for a, b, _, d, _ in incoming if d),
            as_replica=is_in_others_hands(conn, table.schema, table.name),
        )


# Its owner alone may put triggers and rules aside; that of who refers to it, the keys.
_ALTERED_BY_OTHERS = """
WITH tree AS (
    SELECT %(table)s::regclass::oid AS oid
    UNION SELECT relid FROM pg_catalog.pg_partition_tree(%(table)s::regclass)
), altered AS (
    SELECT tgrelid AS oid FROM pg_catalog.pg_trigger
     WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgrelid IN (SELECT oid FROM tree)
    UNION SELECT ev_class FROM pg_catalog.pg_rewrite
     WHERE rulename <> '_RETURN' AND ev_enabled <> 'D' AND ev_class IN (SELECT oid FROM tree)
    UNION SELECT oid FROM pg_catalog.pg_class
     WHERE relforcerowsecurity AND oid IN (SELECT oid FROM tree)
    UNION SELECT unnest(ARRAY[conrelid, confrelid]) FROM pg_catalog.pg_constraint
     WHERE contype = 'f' AND confrelid IN (SELECT oid FROM tree)
)
SELECT EXISTS (SELECT FROM altered JOIN pg_catalog.pg_class c USING (oid)
               WHERE NOT pg_catalog.pg_has_role(c.relowner, 'USAGE'))
"""


def is_in_others_hands(conn: Connection, schema: str, name: str) -> bool:
    """Whether others own what a swap of the table's rows would have to alter."""
    row = conn.execute(_ALTERED_BY_OTHERS.encode(), {"table": quoted(schema, name)}).fetchone()
    return bool(row and row[0])


_ENABLE = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS", "D": "DISABLE"}


def replace_rows(
    conn: Connection,
    existing: Existing,
    tables: Sequence[Table],
    rows: Rows,
    cancel: threading.Event,
) -> Sequence[TableData]:
    """Swap the table's rows for the backup's, in the transaction *conn* is in.

    Since :func:`lock_for_replacing` nobody else writes. Readers see the old rows until the
    commit (they wait only where foreign keys refer to the table). Triggers and rules do not
    fire; foreign keys of others are put aside and back, which checks them.

    Returns: what was loaded.

    Raises:
        TargetRefused: a foreign key of another table does not hold with the backup's rows.
        CheckFailed.
    """
    name = quoted(existing.table.schema, existing.table.name)
    if existing.as_replica:
        return _replace_as_replica(conn, existing, tables, rows, cancel)
    aside = existing.incoming or existing.rules or existing.forced_security
    with translated("target", doing=f"replacing the rows of {name}"):
        if aside:
            locked = (existing.relation, *existing.involved)
            insist(conn, *(f"LOCK TABLE {one} IN ACCESS EXCLUSIVE MODE" for one in locked))
        _execute(conn, _put_aside(existing))
        conn.execute(f"DELETE FROM {existing.relation}".encode())
        through = [_through(existing.table, table) for table in tables]
        data = rows(conn, through, cancel)
        _check_tree(conn, existing.table, existing.relation, tables, data)
        conn.execute("SET CONSTRAINTS ALL IMMEDIATE")  # no table with a check ahead is altered
        _put_back(conn, existing)
    return data


def _replace_as_replica(
    conn: Connection,
    existing: Existing,
    tables: Sequence[Table],
    rows: Rows,
    cancel: threading.Event,
) -> Sequence[TableData]:
    """The same on a table of another owner, such as a service's of Supabase.

    In the replica role no trigger fires, those that keep foreign keys among them: so the keys
    are looked at before the commit, and whoever refers to the table is locked until then.
    """
    name = quoted(existing.table.schema, existing.table.name)
    with translated("target", doing=f"replacing the rows of {name}"):
        others = [one for one in existing.involved if one != name]
        insist(conn, *(f"LOCK TABLE {one} IN SHARE ROW EXCLUSIVE MODE" for one in others))
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute(f"DELETE FROM {existing.relation}".encode())
        data = rows(conn, [_through(existing.table, table) for table in tables], cancel)
        conn.execute("SET LOCAL session_replication_role = DEFAULT")
        _check_tree(conn, existing.table, existing.relation, tables, data)
        for broken in dangling(conn, [name]):
            raise TargetRefused(
                f"the backup's rows would leave {broken}",
                hint="Nothing was changed. Restore the table beside the existing one with "
                "--as NAME and put rows back by hand, or restore the other table first.",
                context={"constraint": broken.constraint, "table": broken.table},
            )
    return data


def lock_for_replacing(conn: Connection, table: Table, *, partitioned: bool) -> None:
    """Let nobody else write to the table until the end of the transaction; readers go on."""
    with translated("target", doing=f"locking {shown(table.schema, table.name)}"):
        insist(conn, f"LOCK TABLE {relation_of(table, partitioned=partitioned)} IN EXCLUSIVE MODE")


def insist(conn: Connection, *statements: str) -> None:
    """Run statements that need locks, in short tries, as a part of conn's transaction.

    While a lock is waited for, all that come later queue behind, be it only to read: one
    long try would stop the application for as long as an idle transaction lasts. After a
    try that failed its locks are given back. Raises psycopg errors.
    """
    for attempt in range(_LOCK_TRIES):
        try:
            with conn.transaction():
                conn.execute(f"SET LOCAL lock_timeout = '{_LOCK_TRY_MS}ms'".encode())
                for statement in statements:
                    conn.execute(statement.encode(errors="surrogateescape"))
                conn.execute(f"SET LOCAL lock_timeout = '{_ROW_LOCK_TIMEOUT}'".encode())
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if attempt == _LOCK_TRIES - 1:
                raise
        time.sleep(_LOCK_PAUSE)


def _through(root: Table, table: Table) -> Table:
    """Rows of a partition go in by the root: the target may be partitioned otherwise."""
    return Table(table.oid, root.schema, root.name, table.kind, table.owner, table.columns)


def _put_aside(existing: Existing) -> list[str]:
    # TRIGGER USER would need no list, but putting back would lose ALWAYS and REPLICA.
    return [
        *(
            f"ALTER TABLE {t} DISABLE TRIGGER {quoted(n)}"
            for t, n, state in existing.triggers
            if state != "D"
        ),
        *(f"ALTER TABLE {t} DISABLE RULE {quoted(n)}" for t, n, _ in existing.rules),
        *(f"ALTER TABLE {t} NO FORCE ROW LEVEL SECURITY" for t in existing.forced_security),
        *(f"ALTER TABLE {t} DROP CONSTRAINT {quoted(n)}" for t, n, _ in existing.incoming),
    ]


def _put_back(conn: Connection, existing: Existing) -> None:
    for table, constraint, definition in existing.incoming:
        try:
            conn.execute(
                f"ALTER TABLE {table} ADD CONSTRAINT {quoted(constraint)} {definition}".encode()
            )
        except psycopg.errors.ForeignKeyViolation as error:
            raise TargetRefused(
                f"rows of {table} refer to rows that the backup does not hold "
                f"(foreign key {constraint})",
                hint="Nothing was changed. Restore the table beside the existing one with "
                "--as NAME and put rows back by hand, or restore both tables.",
                context={"constraint": constraint, "table": table},
            ) from error
    _execute(
        conn,
        [
            *(
                f"COMMENT ON CONSTRAINT {quoted(n)} ON {t} IS {literal(comment)}"
                for t, n, comment in existing.comments
            ),
            *(
                f"ALTER TABLE {t} {_ENABLE[state]} TRIGGER {quoted(n)}"
                for t, n, state in existing.triggers
            ),
            *(
                f"ALTER TABLE {t} {_ENABLE[state]} RULE {quoted(n)}"
                for t, n, state in existing.rules
            ),
            *(f"ALTER TABLE {t} FORCE ROW LEVEL SECURITY" for t in existing.forced_security),
        ],
    )


def _execute(conn: Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        conn.execute(statement.encode())


def _check_tree(
    conn: Connection, root: Table, relation: str, tables: Sequence[Table], data: Sequence[TableData]
) -> None:
    """The whole tree at once: rows may lie in other partitions than in the backup."""
    by_oid = {table.oid: table for table in tables}
    columns = by_oid[data[0].oid].columns if data else root.columns
    # Partitions whose columns stand in different orders hash equal rows differently.
    comparable = len({row_hash(by_oid[found.oid].columns) for found in data}) <= 1
    comparable = comparable and all(found.sum for found in data)
    expected = total_rows([RowsSum(found.rows, found.sum or "0") for found in data])
    found = read_sum(conn, relation, columns)
    if found.rows != expected.rows or (comparable and found.sum != expected.sum):
        raise CheckFailed(
            f"the rows loaded into {shown(root.schema, root.name)} are not the backup's "
            f"({found.rows} rows, expected {expected.rows})",
            hint="Nothing was changed. A column's type may have changed since the backup: "
            "restore the table beside the existing one with --as NAME.",
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
    data = rows(conn, [_through(new, t) for t in tables], cancel)
    _check_tree(conn, new, full, tables, data)
    return data
