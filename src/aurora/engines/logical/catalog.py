"""What a database contains, read from its catalogs.

Everything here is a plain read in whatever transaction the connection is in; the
snapshot calls it before and after locking, to see that nothing changed in between.
"""

from collections.abc import Container, Iterable, Sequence
from typing import Any, cast

from aurora.engines.base import Column, DatabaseFacts, Sequence_, Table
from aurora.engines.logical.names import Connection, quoted

# Relations of extensions are made by CREATE EXTENSION; only the rows of those that
# pg_extension_config_dump() names are the user's.
_TABLES = """
WITH config AS (
    SELECT e.extname, c.oid AS relid, c.condition
    FROM pg_catalog.pg_extension e,
         LATERAL unnest(e.extconfig, e.extcondition) AS c(oid, condition)
), member AS (
    SELECT d.objid FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'e'
)
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind, pg_catalog.pg_get_userbyid(c.relowner),
       c.relpersistence, c.relispartition, c.relispopulated,
       COALESCE(config.extname, ''), COALESCE(config.condition, ''),
       CASE WHEN c.oid::bigint = ANY (%(measure)s) THEN pg_catalog.pg_table_size(c.oid) ELSE 0 END,
       CASE WHEN c.oid::bigint = ANY (%(measure)s)
            THEN pg_catalog.pg_relation_size(c.oid) ELSE 0 END,
       COALESCE(am.amname = 'heap', false),
       COALESCE((SELECT array_agg(i.inhparent::bigint ORDER BY i.inhseqno)
                 FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid), '{}'),
       pg_catalog.has_table_privilege(c.oid, 'SELECT')
         AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
       c.relkind = 'r' AND pg_catalog.row_security_active(c.oid),
       c.reltype::bigint,
       -- enums, and arrays, ranges and rows that may hold them, hash by oids
       EXISTS (SELECT FROM pg_catalog.pg_partitioned_table p
               JOIN pg_catalog.pg_opclass o ON o.oid = ANY (p.partclass::oid[])
               JOIN pg_catalog.pg_type y ON y.oid = o.opcintype AND y.typtype = 'p'
               WHERE p.partrelid = c.oid AND p.partstrat = 'h')
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
LEFT JOIN config ON config.relid = c.oid
WHERE c.relkind IN ('r', 'p', 'm', 'f')
  AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND n.nspname !~ '^pg_(temp|toast_temp)_'
  AND (config.relid IS NOT NULL OR c.oid NOT IN (SELECT objid FROM member))
ORDER BY c.oid
"""

_COLUMNS = """
SELECT a.attrelid::bigint, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnum,
       a.attgenerated <> '', a.attidentity::text, a.attnotnull,
       COALESCE(NOT o.collisdeterministic, false)
FROM pg_catalog.pg_attribute a
LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm', 'f')
  AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY a.attrelid, a.attnum
"""

_SEQUENCES = """
SELECT c.oid::bigint, n.nspname, c.relname, COALESCE(d.refobjid::bigint, 0),
       pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
         AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
       COALESCE(d.deptype = 'i', false)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_depend d
  ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
 AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')
WHERE c.relkind = 'S' AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                  WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid
                    AND e.deptype = 'e'
                    AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension x
                                    WHERE c.oid = ANY (x.extconfig)))
ORDER BY c.oid
"""

# Which table each catalog row of a schema archive's listing belongs to.
_MEMBERS = """
SELECT 'pg_class'::regclass::oid::bigint, i.indexrelid::bigint, i.indrelid::bigint
  FROM pg_catalog.pg_index i WHERE i.indrelid::bigint = ANY (%(oids)s)
UNION ALL SELECT 'pg_constraint'::regclass::oid::bigint, oid::bigint, conrelid::bigint
  FROM pg_catalog.pg_constraint WHERE conrelid::bigint = ANY (%(oids)s)
UNION ALL SELECT 'pg_trigger'::regclass::oid::bigint, oid::bigint, tgrelid::bigint
  FROM pg_catalog.pg_trigger WHERE tgrelid::bigint = ANY (%(oids)s) AND NOT tgisinternal
UNION ALL SELECT 'pg_policy'::regclass::oid::bigint, oid::bigint, polrelid::bigint
  FROM pg_catalog.pg_policy WHERE polrelid::bigint = ANY (%(oids)s)
UNION ALL SELECT 'pg_attrdef'::regclass::oid::bigint, oid::bigint, adrelid::bigint
  FROM pg_catalog.pg_attrdef WHERE adrelid::bigint = ANY (%(oids)s)
UNION ALL SELECT 'pg_rewrite'::regclass::oid::bigint, oid::bigint, ev_class::bigint
  FROM pg_catalog.pg_rewrite WHERE ev_class::bigint = ANY (%(oids)s) AND rulename <> '_RETURN'
UNION ALL SELECT 'pg_statistic_ext'::regclass::oid::bigint, oid::bigint, stxrelid::bigint
  FROM pg_catalog.pg_statistic_ext WHERE stxrelid::bigint = ANY (%(oids)s)
UNION ALL SELECT 'pg_publication_rel'::regclass::oid::bigint, oid::bigint, prrelid::bigint
  FROM pg_catalog.pg_publication_rel WHERE prrelid::bigint = ANY (%(oids)s)
UNION ALL SELECT 'pg_class'::regclass::oid::bigint, d.objid::bigint, d.refobjid::bigint
  FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.deptype IN ('a', 'i') AND d.refobjid::bigint = ANY (%(oids)s)
UNION ALL SELECT 'pg_class'::regclass::oid::bigint, o, o FROM unnest(%(oids)s::bigint[]) AS o
"""

_DATABASE = """
SELECT d.datname, pg_catalog.pg_get_userbyid(d.datdba), pg_catalog.pg_encoding_to_char(d.encoding),
       d.datcollate, d.datctype, COALESCE(to_jsonb(d) ->> 'datlocprovider', 'c'),
       COALESCE(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', ''),
       COALESCE(to_jsonb(d) ->> 'daticurules', ''),
       COALESCE(pg_catalog.shobj_description(d.oid, 'pg_database'), ''), d.datconnlimit,
       COALESCE((SELECT array_agg(a::text) FROM unnest(d.datacl) a), '{}')
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""

_DATABASE_SETTINGS = """
SELECT COALESCE(r.rolname, ''), c.setting
FROM pg_catalog.pg_db_role_setting s
JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase AND d.datname = pg_catalog.current_database()
LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
CROSS JOIN LATERAL unnest(s.setconfig) WITH ORDINALITY AS c(setting, place)
WHERE NOT (s.setrole = 0 AND c.setting = 'default_transaction_read_only=on'
           AND pg_catalog.to_regnamespace('aurora_fence') IS NOT NULL)  -- of an incident
ORDER BY 1, c.place
"""

_EXTENSIONS = """
SELECT e.extname, e.extversion, n.nspname FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql' ORDER BY 1
"""


class Catalog:
    """The relations of a database at one look.

    Attributes:
        tables: every relation with rows or with children, by oid.
        unreadable: names of relations that the role may not read, with the reason.
        fingerprint: what two looks compare; a rewrite changes it too.
    """

    def __init__(
        self, tables: Sequence[Table], unreadable: dict[int, str], fingerprint: frozenset[object]
    ) -> None:
        self.tables = tuple(tables)
        self.unreadable = unreadable
        self.fingerprint = fingerprint
        self.by_oid = {table.oid: table for table in self.tables}


def read_catalog(conn: Connection, *, measure: Iterable[int] = ()) -> Catalog:
    """All user relations. *conn* may be in a transaction or not.

    Args:
        measure: oids of the tables whose size is wanted. Asking for it waits for whoever has
            the table locked, so they should be locked by us.
    """
    columns: dict[int, list[Column]] = {}
    for relid, name, type_, number, generated, identity, not_null, odd in _rows(conn, _COLUMNS):
        columns.setdefault(relid, []).append(
            Column(
                name,
                type_,
                number,
                generated=generated,
                identity=identity,
                not_null=not_null,
                odd_collation=odd,
            )
        )
    block_size = int(_rows(conn, "SELECT current_setting('block_size')")[0][0])
    tables: list[Table] = []
    unreadable: dict[int, str] = {}
    for row in _rows(conn, _TABLES, {"measure": list(measure)}):
        (oid, schema, name, kind, owner, persistence, is_partition, populated, extension) = row[:9]
        (condition, sized, main, heap, parents, readable, secured, _, reshuffles) = row[9:]
        tables.append(
            Table(
                oid, schema, name, kind, owner, tuple(columns.get(oid, ())),
                persistence=persistence, parents=tuple(parents), is_partition=is_partition,
                extension=extension, condition=condition, populated=populated,
                sized=sized or 0, blocks=(main or 0) // block_size, block_size=block_size,
                heap=heap, reshuffles=reshuffles,
            )
        )  # fmt: skip
        if readable is False:  # None: dropped since the snapshot, as the locks will find
            unreadable[oid] = "no SELECT privilege"
        elif secured:
            unreadable[oid] = "its row security hides rows from this role"
    fingerprint: frozenset[object] = frozenset(
        (t.oid, t.schema, t.name, t.kind, t.columns, t.parents) for t in tables
    )
    return Catalog(tables, unreadable, fingerprint)


def read_sequences(conn: Connection, *, left_out: Container[int] = ()) -> list[Sequence_]:
    """Every sequence with its position now: sequences know no snapshot.

    The identities of *left_out* tables go with them; pg_dump keeps their other sequences.
    """
    readable = [
        row for row in _rows(conn, _SEQUENCES) if row[4] and not (row[5] and row[3] in left_out)
    ]
    found: list[Sequence_] = []
    for start in range(0, len(readable), 200):
        batch = readable[start : start + 200]
        query = " UNION ALL ".join(
            f"SELECT {index}, last_value, is_called FROM {quoted(row[1], row[2])}"
            for index, row in enumerate(batch)
        )
        for index, last_value, is_called in _rows(conn, query):
            oid, schema, name, table = batch[index][:4]
            found.append(Sequence_(oid, schema, name, last_value, is_called, table=table))
    return found


def unreadable_sequences(conn: Connection, *, left_out: Container[int] = ()) -> list[str]:
    """Names of the sequences whose position the role may not read, but for *left_out* tables'."""
    return [
        f"{schema}.{name}"
        for _, schema, name, table, readable, _ in _rows(conn, _SEQUENCES)
        if readable is False and table not in left_out
    ]


def read_members(conn: Connection, oids: Sequence[int]) -> dict[str, int]:
    """Which table each dependent catalog row belongs to, keyed ``"classid:oid"``."""
    found = conn.execute(_MEMBERS, {"oids": list(oids)}).fetchall()
    return {f"{classid}:{oid}": int(cast(int, table)) for classid, oid, table in found}


def read_references(conn: Connection) -> dict[str, int]:
    """Foreign keys, keyed as the members are, and the oid of the table they refer to."""
    found = _rows(
        conn,
        "SELECT 'pg_constraint'::regclass::oid::bigint, oid::bigint, confrelid::bigint"
        " FROM pg_catalog.pg_constraint WHERE contype = 'f'",
    )
    return {f"{classid}:{oid}": table for classid, oid, table in found}


def read_views(conn: Connection) -> dict[str, tuple[int, ...]]:
    """Views and materialized views, keyed as the members are, and what they read."""
    found = _rows(
        conn,
        "SELECT 'pg_class'::regclass::oid::bigint, v.oid::bigint,"
        " array_agg(DISTINCT d.refobjid::bigint)"
        " FROM pg_catalog.pg_rewrite r"
        " JOIN pg_catalog.pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')"
        " JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace"
        " JOIN pg_catalog.pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid"
        "  AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid"
        " WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') GROUP BY 1, 2",
    )
    return {f"{classid}:{oid}": tuple(reads) for classid, oid, reads in found}


def read_not_valid(conn: Connection) -> list[str]:
    """Constraints that were never validated, as ``schema.table: name``."""
    return [
        str(row[0])
        for row in _rows(
            conn,
            "SELECT n.nspname || '.' || c.relname || ': ' || o.conname"
            " FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_class c ON c.oid = o.conrelid"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " WHERE NOT o.convalidated AND n.nspname <> 'pg_catalog' ORDER BY 1",
        )
    ]


def read_database(conn: Connection) -> DatabaseFacts:
    """The database's own properties, settings and extensions."""
    row = _rows(conn, _DATABASE)[0]
    return DatabaseFacts(
        name=row[0], owner=row[1], encoding=row[2], collate=row[3], ctype=row[4],
        provider=row[5], locale=row[6], icu_rules=row[7], comment=row[8],
        connection_limit=row[9], acl=tuple(row[10]),
        settings=tuple((role, setting) for role, setting in _rows(conn, _DATABASE_SETTINGS)),
        extensions=tuple((n, v, s) for n, v, s in _rows(conn, _EXTENSIONS)),
    )  # fmt: skip


def _rows(
    conn: Connection, query: str, values: dict[str, object] | None = None
) -> list[tuple[Any, ...]]:
    return cast("list[tuple[Any, ...]]", conn.execute(query.encode(), values).fetchall())
