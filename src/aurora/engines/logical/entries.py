"""Which entries of a schema archive make a table, and which belong to other things.

Most entries name a catalog row, and the archive's document knows the table of each. Grants,
comments, attachments and the ownership of sequences name none: they are found by their
words, which are put together here exactly as ``pg_dump`` does from the names that are
known. Taking its line apart would fail, since each name in it may hold blanks.

``pg_dump`` quotes names in what is about something else, where SQL would need it, which
depends on the version's keywords; so both forms are looked for.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import product

from aurora.engines.base import SchemaArchive, Table
from aurora.engines.logical.names import quoted
from aurora.engines.logical.schema import Archive, Entry

_ABOUT = ("ACL", "COMMENT", "SECURITY LABEL")
_NAMED_ON_TABLE = ("CONSTRAINT ", "TRIGGER ", "POLICY ", "RULE ")
_NAMED_ALONE = ("INDEX", "SEQUENCE", "STATISTICS")
_VIEWS = ("TABLE", "VIEW")  # what grants and comments call a view


def entries_of(
    listing: Sequence[Entry], archive: SchemaArchive, tables: Sequence[Table]
) -> list[Entry]:
    """The archive's entries that make *tables*, in the order of restore."""
    by_oid = {table.oid: table for table in tables}
    own: set[int] = set()
    subjects: set[str] = set()  # tags of what a grant or comment may be about
    partners: set[tuple[str, str]] = set()  # kind and tag
    for table in tables:
        subjects |= set(_tags_of_table(table))
    for entry in listing:
        table_of = by_oid.get(archive.members.get(entry.key, 0))
        if entry.kind == "ROW SECURITY":  # it names the table's row, but not which catalog's
            table_of = by_oid.get(entry.oid)
        if table_of is None or not entry.oid:
            continue
        own.add(entry.dump_id)
        words = _words(entry, table_of)
        if entry.kind in _NAMED_ALONE:
            subjects |= set(_tags(table_of, entry.kind + " {}", words))
        if entry.kind == "INDEX":
            partners.add(("INDEX ATTACH", entry.tag))
        elif entry.kind == "SEQUENCE":
            partners.add(("SEQUENCE OWNED BY", entry.tag))
        elif entry.kind == "CONSTRAINT":
            constraint = words.removeprefix(f"{_line(table_of.name)} ")
            partners.add(("INDEX ATTACH", _tag(table_of, constraint)))
    return [
        entry
        for entry in listing
        if entry.dump_id in own
        or (entry.kind, entry.tag) in partners
        or any(attaches(entry, table) for table in tables)
        or (entry.kind in _ABOUT and _is_about(entry, subjects, tables))
    ]


def dependents_of(
    listing: Sequence[Entry], archive: SchemaArchive, oids: set[int], tables: Sequence[Table]
) -> list[Entry]:
    """What a ``DROP … CASCADE`` of *oids* took too, in the order of restore.

    That is the foreign keys of other tables and the views that stand on them, with grants
    and comments. *tables* are all of the backup.
    """
    views = views_on(archive, oids)
    filled = [table for table in tables if table.oid in views]  # materialized: they have indexes
    chosen = {entry.dump_id for entry in entries_of(listing, archive, filled)}
    tags = _tags_of_keys(listing, archive, oids, tables)
    for entry in listing:
        if entry.kind == "VIEW" and entry.oid in views:
            chosen.add(entry.dump_id)
            tags |= set(_tags_of_view(entry.tag))
    return [
        entry
        for entry in listing
        if entry.dump_id in chosen
        or (entry.kind in _ABOUT and entry.tag in tags)
        or (entry.kind == "FK CONSTRAINT" and _refers(entry, archive, oids))
    ]


def views_on(archive: SchemaArchive, oids: set[int]) -> set[int]:
    """The views that read *oids*, or read a view that does."""
    reads = {int(key.partition(":")[2]): read for key, read in archive.views.items()}
    found: set[int] = set()
    while more := {
        view for view, read in reads.items() if view not in found and (oids | found) & set(read)
    }:
        found |= more
    return found


def _refers(entry: Entry, archive: SchemaArchive, oids: set[int]) -> bool:
    """Whether it is another table's foreign key to one of *oids*."""
    return archive.references.get(entry.key) in oids and archive.members.get(entry.key) not in oids


def _tags_of_keys(
    listing: Sequence[Entry], archive: SchemaArchive, oids: set[int], tables: Sequence[Table]
) -> set[str]:
    """The tags of the comments on those foreign keys."""
    by_oid = {table.oid: table for table in tables}
    found: set[str] = set()
    for entry in listing:
        table = by_oid.get(archive.members.get(entry.key, 0))
        if table is not None and _refers(entry, archive, oids):
            name = _words(entry, table).removeprefix(f"{_line(table.name)} ")
            found |= set(_tags(table, "CONSTRAINT {} ON {}", name, table.name))
    return found


def _tags_of_view(tag: str) -> Iterator[str]:
    """Tags of grants and comments; the view's own tag is ``schema name owner``, all unknown."""
    words = tag.split(" ")
    for one in range(1, len(words) - 1):
        for two in range(one + 1, len(words)):
            schema, name, owner = words[:one], words[one:two], words[two:]
            for kind, form in product(_VIEWS, _forms(" ".join(name))):
                yield " ".join([*schema, kind, form, *owner])


def entries_of_schema(listing: Sequence[Entry], archive: Archive, schema: str) -> list[Entry]:
    """What makes *schema* itself, with its grants and comment."""
    start = f"- {_line(schema)} "
    for entry in listing:
        if entry.kind != "SCHEMA" or not entry.tag.startswith(start):
            continue
        if f"\n-- Name: {_line(schema)}; Type: SCHEMA;" in archive.script([entry]):
            owner = entry.tag.removeprefix(start)
            about = {f"- SCHEMA {name} {owner}" for name in _forms(schema)}
            return [entry, *(e for e in listing if e.kind in _ABOUT and e.tag in about)]
    return []


def is_event_trigger(entry: Entry) -> bool:
    """Whether the entry makes an event trigger, or is about one."""
    return entry.kind == "EVENT TRIGGER" or (
        entry.kind in _ABOUT and entry.tag.startswith("- EVENT TRIGGER ")
    )


_MARKER = re.compile(r"(aurora_\w+) mark_schema_change\(\) ")


def without_markers(listing: Sequence[Entry]) -> list[Entry]:
    """The listing without what marks schema changes on the source (see ``ddl.py``).

    A restored database has no change log yet, and few roles may make event triggers.
    """
    found = [_MARKER.match(entry.tag) for entry in listing if entry.kind == "FUNCTION"]
    schemas = "|".join(re.escape(match[1]) for match in found if match)
    if not schemas:
        return list(listing)
    own = re.compile(
        rf"(?:{schemas}) (?:FUNCTION )?mark_schema_change\(\) |- (?:SCHEMA )?(?:{schemas}) |"
        rf"- (?:EVENT TRIGGER )?(?:{schemas})_(?:ddl|drop|rewrite) "
    )
    kinds = ("FUNCTION", "SCHEMA", "EVENT TRIGGER", *_ABOUT)
    return [entry for entry in listing if not (entry.kind in kinds and own.match(entry.tag))]


def attaches(entry: Entry, table: Table) -> bool:
    """Whether the entry makes *table* a partition of its parent."""
    return entry.kind == "TABLE ATTACH" and entry.tag == _tag(table, table.name)


def attaches_index(
    entry: Entry, listing: Sequence[Entry], archive: SchemaArchive, table: Table
) -> bool:
    """Whether the entry makes one of *table*'s own indexes a part of its parent's."""
    if entry.kind != "INDEX ATTACH":
        return False
    for one in listing:
        if one.kind in ("INDEX", "CONSTRAINT") and archive.members.get(one.key) == table.oid:
            name = _words(one, table).removeprefix(f"{_line(table.name)} ")
            if entry.tag == _tag(table, name):
                return True
    return False


def _tags_of_table(table: Table) -> Iterator[str]:
    yield from _tags(table, "TABLE {}", table.name)
    if table.kind == "m":
        yield from _tags(table, "MATERIALIZED VIEW {}", table.name)
    for column in table.columns:
        yield from _tags(table, "COLUMN {}.{}", table.name, column.name)


def _is_about(entry: Entry, subjects: set[str], tables: Sequence[Table]) -> bool:
    if entry.tag in subjects:
        return True
    return any(
        _words(entry, table).startswith(_NAMED_ON_TABLE)
        and _words(entry, table).endswith(tuple(f" ON {name}" for name in _forms(table.name)))
        for table in tables
    )


def _tags(table: Table, words: str, *names: str) -> Iterator[str]:
    """Tags of *words* with the names in either form."""
    for forms in product(*map(_forms, names)):
        yield _tag(table, words.format(*forms))


def _forms(name: str) -> tuple[str, str]:
    return _line(name), _line(quoted(name))


def _tag(table: Table, words: str) -> str:
    """The tag of something in the table's schema that the table's owner owns."""
    return _line(f"{table.schema} {words} {table.owner}")


def _words(entry: Entry, table: Table) -> str:
    """A tag without schema and owner; empty where they are not the table's."""
    start, end = f"{_line(table.schema)} ", f" {_line(table.owner)}"
    if not (entry.tag.startswith(start) and entry.tag.endswith(end)):
        return ""
    return entry.tag[len(start) : -len(end)]


def _line(name: str) -> str:
    """A name as it stands in a listing: line ends are blanks there."""
    return name.replace("\n", " ").replace("\r", " ")
