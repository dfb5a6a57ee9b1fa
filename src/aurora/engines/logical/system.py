"""What lies outside one database: roles, memberships, settings; and a database's own properties.

Roles are read by ``pg_dumpall --globals-only`` and kept as its SQL text. Password
*verifiers* (SCRAM) come along only where the role may read them, which takes a
superuser; a clear-text password is nowhere to be had. Statements are applied one by one:
what a managed server forbids is a line in the report, never a failure halfway.
"""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import make_conninfo

from aurora.engines.base import DatabaseFacts
from aurora.engines.logical.grants import grant_statements
from aurora.engines.logical.names import Connection, literal, quoted
from aurora.engines.logical.schema import needs_tls
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.server import ServerFacts, settled_for_programs
from aurora.postgres.tools import find_tools, run_tool

# Settings whose value is a list of names, quoted where they must be.
# Source: GUC_LIST_QUOTE in PostgreSQL's guc tables.
_LIST_SETTINGS = {
    "local_preload_libraries", "search_path", "session_preload_libraries",
    "shared_preload_libraries", "temp_tablespaces", "unix_socket_directories",
}  # fmt: skip

_IDENTIFIER = r'("(?:[^"]|"")*"|[^\s;"]+)'
_ATTRIBUTES = re.compile(
    rf"(?P<head>ALTER ROLE {_IDENTIFIER} WITH)(?P<words>( [A-Z]+\b)+?)"
    r"(?P<rest>( CONNECTION LIMIT | PASSWORD | VALID UNTIL ).*)?$",
    re.DOTALL,
)
_GRANTOR = re.compile(rf" GRANTED BY {_IDENTIFIER}$")
_RIGHTS = {"SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS"}


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a list of statements."""

    done: int
    refused: tuple[str, ...]  # "statement: reason", without any password
    kept: tuple[str, ...]  # roles that were there already and stayed as they were


def dump_globals(dsn: str, facts: ServerFacts, *, cancel: threading.Event | None = None) -> bytes:
    """The cluster's roles, memberships and settings as SQL text."""
    tools = find_tools(at_least=facts.major, need_tls=needs_tls(dsn), programs=("pg_dumpall",))
    info = ConnInfo.parse(dsn).settled()
    args = ["--globals-only", "--no-password", f"--dbname={make_conninfo('', dbname=info.dbname)}"]
    if facts.encoding != "SQL_ASCII":
        args.append("--encoding=UTF8")
    if not facts.role.superuser:
        args.append("--no-role-passwords")
    text = run_tool(
        tools, "pg_dumpall", args, dsn=settled_for_programs(info).dsn(), cancel=cancel
    ).stdout
    # psql's guard is random each time; without it unchanged roles are the same bytes.
    return re.sub(rb"^\\(un)?restrict \w+\n", b"", text, flags=re.MULTILINE)


def statements(text: str) -> Iterator[str]:
    """The statements of a globals script, without comments and psql's own commands."""
    pending: list[str] = []
    quote = ""
    for line in text.split("\n"):
        if not pending and (not line.strip() or line.startswith(("--", "\\"))):
            continue
        pending.append(line)
        quote = _open_quote(line, quote)
        if not quote and line.rstrip().endswith(";"):
            yield "\n".join(pending).strip().rstrip(";")
            pending.clear()


def _open_quote(line: str, quote: str) -> str:
    for character in line:
        if quote:
            if character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
    return quote


def apply_globals(conn: Connection, text: str) -> Applied:
    """Make the roles of *text* on the target, without changing those that are there.

    A role that exists keeps its attributes and password: the connected superuser must not
    lose its rights half-way. Its memberships and settings are completed.
    """
    existing = {str(row[0]) for row in conn.execute("SELECT rolname FROM pg_catalog.pg_roles")}
    created: set[str] = set()
    done, refused, kept = 0, [], []
    for statement in (part for whole in statements(text) for part in _parts(whole)):
        role = role_of(statement)
        if statement.startswith(("SET ", "SELECT pg_catalog.set_config")):
            continue
        if statement.startswith("CREATE ROLE"):
            if role in existing:
                kept.append(role)
                continue
            created.add(role)
        elif _ATTRIBUTES.match(statement) and role not in created:
            continue
        try:
            _run(conn, statement)
            done += 1
        except psycopg.Error as error:
            refused.append(f"{_without_values(statement)}: {error.diag.message_primary}")
            if statement.startswith("CREATE ROLE"):
                created.discard(role)
    return Applied(done, tuple(refused), tuple(kept))


def _parts(statement: str) -> Iterator[str]:
    """A role's attributes one by one where a managed server may forbid a single one.

    What a role lacks is left out: a new role lacks it anyway, and only a superuser may even
    say NOSUPERUSER.
    """
    match = _ATTRIBUTES.match(statement)
    if match is None:
        yield statement
        return
    words = match["words"].split()
    plain = [word for word in words if word.removeprefix("NO") not in _RIGHTS]
    yield " ".join([match["head"], *plain]) + (match["rest"] or "")
    yield from (f"{match['head']} {word}" for word in words if word in _RIGHTS)


def _run(conn: Connection, statement: str) -> None:
    try:
        conn.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        mine = _GRANTOR.sub("", statement)  # only a superuser grants in another's name
        if mine == statement:
            raise
        conn.execute(mine.encode())


def role_names(text: str) -> list[str]:
    """The roles that a globals script makes."""
    return [role_of(s) for s in statements(text) if s.startswith("CREATE ROLE")]


def roles_without_password(text: str) -> list[str]:
    """Login roles of the script that come without a password verifier."""
    return [
        role_of(statement)
        for statement in statements(text)
        if re.match(r"ALTER ROLE .* WITH ", statement)
        and re.search(r"\bLOGIN\b", statement)
        and " PASSWORD " not in statement
    ]


def role_of(statement: str) -> str:
    """The role that a statement makes, changes or comments on; "" for others."""
    match = re.match(rf"(?:CREATE|ALTER|COMMENT ON) ROLE {_IDENTIFIER}", statement)
    return plain_name(match[1]) if match else ""


def plain_name(name: str) -> str:
    """An identifier as it stands in the catalog."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _without_values(statement: str) -> str:
    """For a report: no password, and no value of a setting, which may be a secret too."""
    told = re.sub(r"PASSWORD '(?:[^']|'')*'", "PASSWORD '…'", statement)
    return re.sub(
        rf"(?s)^(ALTER .*? SET (?:{_IDENTIFIER})(?:\.{_IDENTIFIER})* TO ).*", r"\1…", told
    )


def create_database_sql(name: str, facts: DatabaseFacts, *, target_version: int) -> str:
    """``CREATE DATABASE`` with the source's encoding and locale.

    Raises nothing: whether the target knows the locale is for the target to say.
    """
    parts = [
        f"CREATE DATABASE {quoted(name)} WITH TEMPLATE = template0",
        f"ENCODING = {literal(facts.encoding)}",
    ]
    if target_version >= 150000 and facts.provider != "c":
        builtin = facts.provider == "b"
        parts.append(f"LOCALE_PROVIDER = {'builtin' if builtin else 'icu'}")
        if facts.locale:
            parts.append(
                f"{'BUILTIN_LOCALE' if builtin else 'ICU_LOCALE'} = {literal(facts.locale)}"
            )
        if facts.icu_rules and target_version >= 160000:
            parts.append(f"ICU_RULES = {literal(facts.icu_rules)}")
    elif target_version >= 150000:
        parts.append("LOCALE_PROVIDER = libc")
    parts += [f"LC_COLLATE = {literal(facts.collate)}", f"LC_CTYPE = {literal(facts.ctype)}"]
    return " ".join(parts)


def database_statements(name: str, facts: DatabaseFacts) -> list[str]:
    """What gives database *name* the properties in *facts*: owner, grants, settings; no comment."""
    target = f"DATABASE {quoted(name)}"
    found = []
    if facts.connection_limit >= 0:
        found.append(f"ALTER {target} CONNECTION LIMIT {facts.connection_limit}")
    for role, setting in facts.settings:
        key, _, value = setting.partition("=")
        words = _list_items(value) if key in _LIST_SETTINGS else [value]
        written = ", ".join(map(literal, words or [""]))
        subject = f"ROLE {quoted(role)} IN {target}" if role else target
        found.append(f"ALTER {subject} SET {quoted(*key.split('.'))} TO {written}")
    if facts.acl:
        found += grant_statements(target, facts.acl, facts.owner)
    found.append(f"ALTER {target} OWNER TO {quoted(facts.owner)}")
    return found


def _list_items(value: str) -> list[str]:
    """The names in the value of a list setting: what stands there is never SQL of ours."""
    items = re.findall(r'\s*(?:("(?:[^"]|"")*")|([^",\s][^,\s]*))\s*(?:,|$)', value)
    return [plain or name[1:-1].replace('""', '"') for name, plain in items]


def apply_each(conn: Connection, wanted: list[str]) -> Applied:
    """Run statements one by one; refused ones are told, not raised."""
    done, refused = 0, []
    for statement in wanted:
        try:
            conn.execute(statement.encode())
            done += 1
        except psycopg.Error as error:
            refused.append(f"{_without_values(statement)}: {error.diag.message_primary}")
    return Applied(done, tuple(refused), ())
