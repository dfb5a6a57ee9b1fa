"""Which tables of a full can be carried over a change of the schema, and which cannot."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aurora.engines.logical.carry import Recast, not_carried, recast, types_changed
from aurora.engines.logical.ddl import read_change
from aurora.engines.logical.marks import REWRITE, changes_schema
from aurora.engines.logical.onetable import script_parts
from aurora.engines.logical.schema import Archive
from aurora.engines.logical.targets import Resolution
from aurora.operations.content import Backup
from aurora.operations.log_history import Link


@dataclass(frozen=True, slots=True)
class Carried:
    """What a change of the schema means for each table, by oid."""

    recasts: Mapping[int, Recast]
    refused: Mapping[int, str]


def carry(base: Link, schema: Link, resolution: Resolution, streamed: frozenset[int]) -> Carried:
    """What becomes of each table of *schema*'s, whose rows begin as *base* holds them."""
    changes = [read_change(m.text) for m in resolution.passed if changes_schema(m.text)]
    rewritten = [int(m.text.removeprefix(REWRITE)) for m in resolution.passed
                 if m.text.startswith(REWRITE)]  # fmt: skip
    why = not_carried(changes)
    if not why and any(change.tag == "ALTER TYPE" for change in changes):
        why = types_changed(_types(base.backup), _types(schema.backup), changes)
    old = {table.oid: table for table in base.backup.snapshot.tables}
    recasts: dict[int, Recast] = {}
    refused: dict[int, str] = {}
    for table in schema.backup.snapshot.tables:
        if not table.has_rows:
            continue
        was = old.get(table.oid)
        key = str(table.oid)
        if why:
            refused[table.oid] = f"may be touched by it: {why}"
        elif was is None:
            refused[table.oid] = "was made since, so its rows are known only from the next full on"
        elif table.oid in streamed and base.log.keyed[key] != schema.log.keyed.get(key):
            refused[table.oid] = "has another replica identity"
        else:
            found = recast(was, table, changes, rewritten)
            if isinstance(found, str):
                refused[table.oid] = found
            elif found.is_plain and was.copy_columns == table.copy_columns:
                continue
            elif places(resolution, table.oid):
                recasts[table.oid] = found
            else:
                refused[table.oid] = "has other columns, and no marker tells since when"
    return Carried(recasts, refused)


def places(resolution: Resolution, oid: int) -> frozenset[int]:
    """Where in the log the columns of a table changed, between the full and the target."""
    return frozenset(
        m.place
        for m in resolution.passed
        if changes_schema(m.text) and oid in read_change(m.text).tables
    )


def _types(backup: Backup) -> dict[str, str]:
    """The statements that make the schema's types, by name."""
    with tempfile.TemporaryDirectory(prefix="aurora-") as directory:
        document = backup.snapshot.archive
        archive = Archive(document, backup.read_all(document.pieces), Path(directory))
        entries = [entry for entry in archive.listing() if entry.kind == "TYPE"]
        parts = script_parts(archive, entries) if entries else ()
        return {f"{p.schema}.{p.name}": p.sql for p in parts if p.kind == "TYPE"}
