"""Which entries of a schema archive go into a project, when, and which do not.

What the platform made is in the target already, made by the target's own version of it.
It is told from people's things by the schema that it lies in, by its owner, and by looking
whether the target's own schema, dumped by the same tool, has it.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from aurora.engines.base import Snapshot
from aurora.engines.logical.schema import Described
from aurora.engines.logical.system import plain_name
from aurora.engines.supabase.rules import (
    MANAGED,
    STAGING,
    is_fresh_owner,
    is_passing,
    is_platform_function,
    managed_schemas,
)

Key = tuple[str, str, str]  # kind, schema, name

_PUBLICATION = re.compile(r'ALTER PUBLICATION ("(?:[^"]|"")+"|\S+) ADD ')
_FUNCTION_OF_TRIGGER = re.compile(r'EXECUTE (?:FUNCTION|PROCEDURE) ("(?:[^"]|"")+"|[^\s."(]+)\.')
_REFERRED = re.compile(r'REFERENCES ("(?:[^"]|"")+"|[^\s."(]+)\.')
_AS_SOMEBODY = re.compile(
    r'SET SESSION AUTHORIZATION ("(?:[^"]|"")+"|\S+);\n(.*?)RESET SESSION AUTHORIZATION;',
    re.DOTALL,
)
_ABOUT = ("COMMENT", "ACL", "SECURITY LABEL")
_OTHER_VERSION = "of another version of the service, or made by hand"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL that runs in the last transaction, and what to call it."""

    title: str  # POLICY on storage.objects: Avatars are public
    sql: str


@dataclass(slots=True)
class Sorted:
    """Where every entry of an archive goes."""

    kept: set[int] = field(default_factory=set)  # dump ids: restored as everywhere
    last: list[Statement] = field(default_factory=list)  # in the last transaction, in this order
    watching: list[Statement] = field(default_factory=list)  # event triggers: after those
    left_out: list[tuple[str, str]] = field(default_factory=list)  # what, and why
    managed: frozenset[str] = frozenset()  # schemas of the platform in the archive

    @property
    def policies(self) -> list[Statement]:
        """Those on the services' tables."""
        return [one for one in self.last if one.title.startswith("POLICY ")]


def sort_entries(
    archive: Sequence[Described],
    target: Sequence[Described],
    snapshot: Snapshot,
    *,
    installed: Collection[str],
    schemas: Collection[str],
) -> Sorted:
    """Sort the entries of *archive* for a project whose schema is *target*.

    Args:
        installed: extensions of the target.
        schemas: schemas of the target.
    """
    return _Sorter(target, snapshot, frozenset(installed), frozenset(schemas)).sort(archive)


def services_in(archive: Sequence[Described]) -> frozenset[str]:
    """The schemas of an archive that are the platform's."""
    return managed_schemas({d.name: d.owner for d in archive if d.entry.kind == "SCHEMA"})


def belongs_to_user(one: Described, managed: Collection[str] = MANAGED) -> bool:
    """Whether an entry of a project's own schema is something that a fresh one has not."""
    if one.entry.kind in (*_ABOUT, "DEFAULT ACL", "EXTENSION"):
        return False
    if one.entry.kind == "SCHEMA":
        known = (*managed, "public", "extensions", STAGING)
        return one.name not in known and not is_fresh_owner(one.owner)
    if one.schema in managed:
        return one.entry.kind == "POLICY" and one.schema != "cron"  # the services make none
    if one.schema == STAGING or (one.schema == "extensions" and is_platform_function(one.name)):
        return False
    if one.entry.kind == "PUBLICATION":
        return not one.name.startswith("supabase_")
    if one.entry.kind in ("PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA"):
        return False
    return not is_fresh_owner(one.owner)


class _Sorter:
    def __init__(
        self,
        target: Sequence[Described],
        snapshot: Snapshot,
        installed: frozenset[str],
        schemas: frozenset[str],
    ) -> None:
        self._there: dict[Key, Described] = {_key(one): one for one in target}
        self._installed = installed
        self._schemas = schemas
        self._references = snapshot.archive.references
        self._tables = snapshot.tables
        self._managed: frozenset[str] = frozenset()
        self._managed_oids: set[int] = set()
        self._found = Sorted()
        self._publications: set[str] = set()  # that are made
        self._late: set[str] = set()  # names of comments on what comes last

    def sort(self, archive: Sequence[Described]) -> Sorted:
        self._managed = self._found.managed = services_in(archive)
        self._managed_oids = {t.oid for t in self._tables if t.schema in self._managed}
        for one in archive:
            self._place(one)
        return self._found

    def _place(self, one: Described) -> None:
        places: dict[str, Callable[[Described], None]] = {
            "SCHEMA": self._place_schema,
            "EXTENSION": self._place_extension,
            "EVENT TRIGGER": self._place_event_trigger,
            "PUBLICATION": self._place_publication,
            "PUBLICATION TABLE": self._place_membership,
            "PUBLICATION TABLES IN SCHEMA": self._place_membership,
            "DEFAULT ACL": self._place_default_acl,
            "ACL": self._place_acl,
            "COMMENT": self._place_comment,
            "SECURITY LABEL": self._place_comment,
        }
        if place := places.get(one.entry.kind):
            place(one)
        elif one.schema in self._managed:
            self._place_managed(one)
        elif self._refers_to_service(one):
            table, _, name = one.name.partition(" ")
            self._late.add(f"CONSTRAINT {name} ON {table}")
            self._at_last(one)
        else:
            self._keep(one, unless=self._is_platforms(one))

    def _refers_to_service(self, one: Described) -> bool:
        """A foreign key to rows that come last."""
        referred = self._references.get(one.entry.key)
        return one.entry.kind == "FK CONSTRAINT" and referred in self._managed_oids

    def _keep(self, one: Described, *, unless: bool) -> None:
        if not unless:
            self._found.kept.add(one.entry.dump_id)

    def _leave(self, one: Described, why: str) -> None:
        where = f"{one.schema}." if one.schema else ""
        self._found.left_out.append((f"{one.entry.kind} {where}{one.name}", why))

    def _at_last(self, one: Described) -> None:
        self._found.last.append(Statement(_title(one), one.sql))

    def _is_platforms(self, one: Described) -> bool:
        """Of a schema that people share with the platform: ``extensions``, rarely ``public``."""
        return _key(one) in self._there or (
            one.schema == "extensions"
            and (is_fresh_owner(one.owner) or is_platform_function(one.name))
        )

    def _place_schema(self, one: Described) -> None:
        if one.name in self._managed and one.name not in self._schemas:
            self._leave(one, "the target has no such service")
        else:
            self._keep(one, unless=one.name in self._schemas)

    def _place_extension(self, one: Described) -> None:
        self._keep(one, unless=one.name in self._installed)

    def _place_event_trigger(self, one: Described) -> None:
        if _key(one) in self._there or is_fresh_owner(one.owner):
            return
        self._found.watching.append(Statement(_title(one), one.sql))

    def _place_publication(self, one: Described) -> None:
        if one.name.startswith("aurora_"):
            self._leave(one, "of Aurora's change log: `aurora source prepare` makes it")
            return
        if _key(one) not in self._there and not is_fresh_owner(one.owner):
            self._found.kept.add(one.entry.dump_id)
            self._publications.add(one.name)

    def _place_membership(self, one: Described) -> None:
        match = _PUBLICATION.match(one.sql)
        publication = plain_name(match[1]) if match else ""
        if publication.startswith("aurora_") or _key(one) in self._there:
            return
        if one.schema not in self._managed:
            self._keep(one, unless=False)
            return
        peoples = not publication.startswith("supabase_") or publication == "supabase_realtime"
        if peoples and not is_passing(one.schema, one.name.removeprefix(f"{publication} ")):
            self._at_last(one)

    def _place_default_acl(self, one: Described) -> None:
        if not is_fresh_owner(one.owner):
            self._keep(one, unless=False)
            return
        if _key(one) not in self._there:
            self._leave(one, f"of {one.owner}: the platform's own")

    def _place_acl(self, one: Described) -> None:
        kind, _, name = one.name.partition(" ")
        managed = one.schema in self._managed or (kind == "SCHEMA" and name in self._managed)
        if not managed and not (is_fresh_owner(one.owner) and _key(one) in self._there):
            if one.schema != "extensions" or not is_fresh_owner(one.owner):
                self._keep(one, unless=False)
            return
        there = self._there.get(_key(one))
        known = set(there.sql.splitlines()) if there else set()
        for grant in _granted_by_users(one.sql):
            if grant not in known and not is_passing(one.schema, name):
                self._found.last.append(Statement(f"GRANT on {_where(one, name)}", grant))

    def _place_comment(self, one: Described) -> None:
        kind, _, name = one.name.partition(" ")
        if kind == "EXTENSION" or _key(one) in self._there:
            return
        if one.name in self._late:
            self._at_last(one)
            return
        if one.name.startswith("EVENT TRIGGER "):
            subject = f"EVENT TRIGGER {plain_name(one.name.removeprefix('EVENT TRIGGER '))}"
            if any(subject == statement.title for statement in self._found.watching):
                self._found.watching.append(Statement(_title(one), one.sql))
            return
        if one.name.startswith("PUBLICATION "):
            subject = plain_name(one.name.removeprefix("PUBLICATION "))
            self._keep(one, unless=subject not in self._publications)
            return
        managed = one.schema in self._managed or (
            kind == "SCHEMA" and plain_name(name) in self._managed
        )
        if managed:
            if not is_passing(one.schema, name):
                self._leave(one, "only the owner of the service's table may comment on it")
        else:
            self._keep(one, unless=self._is_platforms(one))

    def _place_managed(self, one: Described) -> None:
        if _key(one) in self._there or is_passing(one.schema, one.name):
            return
        match one.entry.kind:
            case "POLICY" if one.schema != "cron":
                self._at_last(one)
            case "TRIGGER" if _schema_in(_FUNCTION_OF_TRIGGER, one.sql) not in self._managed:
                self._at_last(one)
            case "FK CONSTRAINT" if _schema_in(_REFERRED, one.sql) not in self._managed:
                self._at_last(one)
            case _ if one.schema not in self._schemas:
                pass  # told with the schema
            case _:
                self._leave(one, _OTHER_VERSION)


def _key(one: Described) -> Key:
    return one.entry.kind, one.schema, one.name


def _title(one: Described) -> str:
    if one.entry.kind in ("POLICY", "TRIGGER", "FK CONSTRAINT"):
        table, _, name = one.name.partition(" ")
        return f"{one.entry.kind} on {one.schema}.{table}: {name}"
    return f"{one.entry.kind} {_where(one, one.name)}"


def _where(one: Described, name: str) -> str:
    return f"{one.schema}.{name}" if one.schema else name


def _schema_in(pattern: re.Pattern[str], sql: str) -> str:
    match = pattern.search(sql)
    return plain_name(match[1]) if match else ""


def _granted_by_users(sql: str) -> Iterator[str]:
    """The grants in an ACL that another than the owner gave: pg_dump runs them as that role."""
    for block in _AS_SOMEBODY.finditer(sql):
        if not is_fresh_owner(plain_name(block[1])):
            yield from (line for line in block[2].splitlines() if line.startswith("GRANT "))
