"""The fence: statements that keep everybody from writing, and that leave no trace when gone.

A statement trigger on every table refuses INSERT, UPDATE, DELETE and TRUNCATE with SQLSTATE
25006, also for owners, superusers and SECURITY DEFINER functions, and also under
``session_replication_role = replica`` (it is ENABLE ALWAYS). An event trigger refuses DDL
where the server lets one be made. Grants stay as they are. Where roles are named, or a table
could not be locked, writing is revoked from roles instead.

The session that knows the token passes: that is how Aurora itself puts rows back.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aurora.engines.logical.names import (
    FENCE_EVENT_TRIGGER,
    FENCE_SCHEMA,
    FENCE_TRIGGER,
    Connection,
    literal,
    quoted,
    shown,
)
from aurora.operations.incident.undo import TableBefore
from aurora.postgres.conninfo import ConnInfo

SCHEMA = FENCE_SCHEMA
TRIGGER = FENCE_TRIGGER  # triggers fire in the order of their names
EVENT_TRIGGER = FENCE_EVENT_TRIGGER
PASS = "aurora.way_in"  # the setting that holds the token
WAY_IN = "way-in"  # the file that holds it, beside the undo file
READ_ONLY = "default_transaction_read_only"

_WRITES = {"a": "INSERT", "w": "UPDATE", "d": "DELETE", "D": "TRUNCATE"}
_ALL = {**_WRITES, "r": "SELECT", "x": "REFERENCES", "t": "TRIGGER", "m": "MAINTAIN"}
_ITEM = re.compile(r'^("(?:[^"]|"")*"|[^=]*)=([a-zA-Z*]*)/(.*)$', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Grant:
    """One ``aclitem``."""

    grantee: str  # "" is PUBLIC
    plain: tuple[str, ...]  # letters
    grantable: tuple[str, ...]
    grantor: str

    @property
    def letters(self) -> str:
        return "".join((*self.plain, *self.grantable))

    @property
    def to(self) -> str:
        return quoted(self.grantee) if self.grantee else "PUBLIC"

    def only(self, letters: Iterable[str]) -> "Grant":
        wanted = set(letters)
        return Grant(
            self.grantee,
            tuple(x for x in self.plain if x in wanted),
            tuple(x for x in self.grantable if x in wanted),
            self.grantor,
        )


def parse_acl(items: Iterable[str]) -> list[Grant]:
    """The grants of an ACL, in its order. Raises ValueError."""
    return [_parse_item(item) for item in items]


def _parse_item(item: str) -> Grant:
    found = _ITEM.match(item)
    if found is None:
        raise ValueError(f"not an ACL item: {item}")
    plain: list[str] = []
    grantable: list[str] = []
    for letter, star in re.findall(r"([a-zA-Z])(\*?)", found[2]):
        (grantable if star else plain).append(letter)
    return Grant(_name(found[1]), tuple(plain), tuple(grantable), _name(found[3]))


def _name(text: str) -> str:
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def setup_statements(incident: str, token: str, since: str) -> list[str]:
    """The schema and the function that refuses."""
    message = f"writes to this database are stopped since {since} (incident {incident})"
    return [
        f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}",
        f"COMMENT ON SCHEMA {SCHEMA} IS {literal(_told(incident))}",
        _function("refuse", "trigger", "RETURN NULL;", token, message),
        _function("refuse_ddl", "event_trigger", "RETURN;", token, message),
    ]


def _told(incident: str) -> str:
    return (
        f"Aurora has stopped writes to this database: incident {incident}. "
        "`aurora incident resume-writes` takes this away again."
    )


def _function(name: str, returns: str, passes: str, token: str, message: str) -> str:
    # ANALYZE, publications and the like change no row; backups and the change log need them.
    ddl = (
        "  IF tg_tag LIKE '%PUBLICATION' OR tg_tag IN ('COMMENT', 'SECURITY LABEL') THEN RETURN;"
        " END IF;\n"
        if returns == "event_trigger"
        else ""
    )
    body = (
        "BEGIN\n"
        f"  IF pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(COALESCE("
        f"pg_catalog.current_setting('{PASS}', true), ''), 'UTF8')), 'hex') = "
        f"'{token_hash(token)}' THEN {passes} END IF;\n"
        f"{ddl}"
        f"  RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = {literal(message)},\n"
        "    HINT = 'Try again later. Reading works as before.';\n"
        "END"
    )
    return (
        f"CREATE OR REPLACE FUNCTION {SCHEMA}.{name}() RETURNS {returns} LANGUAGE plpgsql "
        f"AS {literal(body)}"
    )


def opening_statements() -> list[str]:
    """The same functions, refusing nobody: writes go on at once, without a lock on any table."""
    return [
        f"CREATE OR REPLACE FUNCTION {SCHEMA}.refuse() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN RETURN NULL; END'",
        f"CREATE OR REPLACE FUNCTION {SCHEMA}.refuse_ddl() RETURNS event_trigger LANGUAGE plpgsql "
        "AS 'BEGIN RETURN; END'",
    ]


def brake_statement(database: str) -> str:
    return f"ALTER DATABASE {quoted(database)} SET {READ_ONLY} = on"


def release_statement(database: str, before: Sequence[str]) -> str:
    """Give the database's own setting back as it was."""
    for setting in before:
        name, _, value = setting.partition("=")
        if name == READ_ONLY:
            return f"ALTER DATABASE {quoted(database)} SET {READ_ONLY} = {literal(value)}"
    return f"ALTER DATABASE {quoted(database)} RESET {READ_ONLY}"


def trigger_statements(table: TableBefore) -> list[str]:
    """In one transaction: it takes SHARE ROW EXCLUSIVE, which waits for open writes."""
    name = quoted(table.schema, table.name)
    return [
        f"CREATE TRIGGER {quoted(TRIGGER)} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE "
        f"ON {name} FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.refuse()",
        f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER {quoted(TRIGGER)}",
    ]


def event_trigger_statements() -> list[str]:
    return [
        f"CREATE EVENT TRIGGER {EVENT_TRIGGER} ON ddl_command_start "
        f"EXECUTE FUNCTION {SCHEMA}.refuse_ddl()",
        f"ALTER EVENT TRIGGER {EVENT_TRIGGER} ENABLE ALWAYS",
    ]


def revoke_statements(table: TableBefore, roles: Sequence[str]) -> list[str]:
    """Take writing away from *roles*; with none, from everybody but the owner.

    Columns one by one: a REVOKE on the table would write down its default ACL, and nothing
    can take that back.
    """
    name = quoted(table.schema, table.name)
    statements = [
        f"REVOKE {', '.join(_WRITES.values())} ON TABLE {name} FROM {grant.to}"
        for grant in _ours(table, table.acl or (), roles)
    ]
    for column, acl in table.columns.items():
        part = quoted(column)
        statements += [
            f"REVOKE INSERT ({part}), UPDATE ({part}) ON TABLE {name} FROM {grant.to}"
            for grant in _ours(table, acl, roles)
        ]
    return statements


def _ours(table: TableBefore, acl: Iterable[str], roles: Sequence[str]) -> list[Grant]:
    """The rights to write in *acl* that the owner gave to *roles*, or to anybody else."""
    return [
        grant.only(_WRITES)
        for grant in parse_acl(acl)
        if grant.grantor == table.owner and grant.grantee != table.owner
        and set(grant.letters) & set(_WRITES) and (not roles or grant.grantee in roles)
    ]  # fmt: skip


def regrant_statements(table: TableBefore, roles: Sequence[str]) -> list[str]:
    """What :func:`revoke_statements` took, given back."""
    name = f"TABLE {quoted(table.schema, table.name)}"
    statements = [
        text for grant in _ours(table, table.acl or (), roles) for text in _grants(grant, name)
    ]
    for column, acl in table.columns.items():
        for grant in _ours(table, acl, roles):
            statements += _grants(grant, name, column)
    return statements


def reorder_statements(table: TableBefore) -> list[str]:
    """Make the ACL anew, item by item in its old order: equal to the byte.

    A role whose last right was revoked stands at the end of the list when it comes back.
    Empty where somebody but the owner has granted: that cannot be made anew by the owner.
    """
    name = f"TABLE {quoted(table.schema, table.name)}"
    whole = parse_acl(table.acl or ())
    columns = {column: parse_acl(acl) for column, acl in table.columns.items()}
    everything = [*whole, *(grant for acl in columns.values() for grant in acl)]
    if any(grant.grantor != table.owner for grant in everything):
        return []
    owner_first = not whole or whole[0].grantee == table.owner
    again = [grant for grant in whole if not (owner_first and grant.grantee == table.owner)]
    statements = [f"REVOKE ALL ON {name} FROM {grant.to}" for grant in again]
    for column, acl in columns.items():
        part = quoted(column)
        statements += [f"REVOKE ALL ({part}) ON {name} FROM {grant.to}" for grant in acl]
    for grant in again:
        statements += _grants(grant, name)
    for column, acl in columns.items():
        for grant in acl:
            statements += _grants(grant, name, column)
    return statements


def _grants(grant: Grant, target: str, column: str = "") -> list[str]:
    part = f" ({quoted(column)})" if column else ""
    found = []
    for letters, how in ((grant.plain, ""), (grant.grantable, " WITH GRANT OPTION")):
        if letters:
            rights = ", ".join(f"{_ALL[letter]}{part}" for letter in letters)
            found.append(f"GRANT {rights} ON {target} TO {grant.to}{how}")
    return found


_TABLES = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, pg_get_userbyid(c.relowner),
       c.relacl::text[],
       COALESCE((SELECT jsonb_object_agg(a.attname, a.attacl::text[])
                 FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
                 AND a.attacl IS NOT NULL AND NOT a.attisdropped), '{}'),
       pg_catalog.pg_has_role(c.relowner, 'USAGE')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'aurora_fence')
  AND n.nspname !~ '^pg_(temp|toast_temp)_'
ORDER BY n.nspname, c.relname
"""

# Of each table, who may write it; pg_… are the predefined roles, which nobody logs in as.
_WRITERS = """
SELECT c.oid::bigint, array_agg(r.rolname::text ORDER BY r.rolname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
     pg_catalog.pg_roles r
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'aurora_fence')
  AND n.nspname !~ '^pg_(temp|toast_temp)_' AND r.rolname !~ '^pg_'
  AND (pg_catalog.has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
       OR pg_catalog.has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE'))
GROUP BY c.oid
"""


def read_tables(conn: Connection) -> tuple[list[TableBefore], set[int]]:
    """All user tables with their grants; and the oids of those that this role owns."""
    writers: dict[int, list[str]] = {
        int(str(oid)): list(names)  # type: ignore[call-overload]
        for oid, names in conn.execute(_WRITERS.encode()).fetchall()
    }
    tables, owned = [], set()
    for row in conn.execute(_TABLES.encode()).fetchall():
        oid, schema, name, kind, owner, acl, columns, mine = row
        number = int(str(oid))
        tables.append(
            TableBefore(
                number, str(schema), str(name), str(kind), str(owner),
                None if acl is None else list(acl),  # type: ignore[call-overload]
                dict(columns), writers.get(number, []),  # type: ignore[call-overload]
            )
        )  # fmt: skip
        if mine:
            owned.add(number)
    return tables, owned


def fenced_tables(conn: Connection) -> dict[int, str]:
    """The tables that stand behind the fence now: oid -> trigger's quoted table."""
    rows = conn.execute(
        b"SELECT t.tgrelid::bigint, n.nspname, c.relname FROM pg_catalog.pg_trigger t"
        b" JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid"
        b" JOIN pg_catalog.pg_namespace f ON f.oid = p.pronamespace AND f.nspname = 'aurora_fence'"
        b" JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid"
        b" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        b" WHERE NOT t.tgisinternal AND t.tgenabled = 'A'"
    ).fetchall()
    return {int(str(oid)): quoted(str(schema), str(name)) for oid, schema, name in rows}


def is_there(conn: Connection, what: str) -> bool:
    """Whether the fence's ``schema`` or ``event trigger`` is in the database."""
    query = {
        "schema": "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace"
        " WHERE nspname = 'aurora_fence')",
        "event trigger": "SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger t JOIN"
        " pg_catalog.pg_proc p ON p.oid = t.evtfoid JOIN pg_catalog.pg_namespace n ON"
        " n.oid = p.pronamespace WHERE n.nspname = 'aurora_fence')",
    }[what]
    row = conn.execute(query.encode()).fetchone()
    return bool(row and row[0])


def shown_table(table: TableBefore) -> str:
    return shown(table.schema, table.name)


def way_in(dsn: str, directory: Path) -> str:
    """*dsn* with what lets its sessions through the fence; as it is where there is no fence."""
    path = directory / WAY_IN
    if not path.exists():
        return dsn
    info = ConnInfo.parse(dsn)
    options = f"{info.options.get('options', '')} -c {PASS}={path.read_text().strip()}"
    return info.with_options(options=options.strip()).dsn()
