"""The catalog's fingerprint: equal where the change log alone carries the database on.

Two backups whose fingerprints differ have a schema change between them, which a log of
rows does not say. The fingerprint also holds the two publications' own rows, because a
table that somebody took out of one and put back lacks its changes in between, and each
column's row version, because a type that was changed and changed back rewrote the table.
Owners, grants and comments are not in it: they do not touch rows.
"""

import hashlib
from collections.abc import Sequence

from aurora.engines.logical.names import Connection

# The user's namespaces; what belongs to an extension is known by the extension's version.
_USERS = (
    "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'aurora_fence',"
    " 'aurora_recovery')"
    " AND n.nspname !~ '^pg_(temp|toast_temp)_'"
)
_OWN = (
    "NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = '{}'::regclass"
    " AND e.objid = {}.oid AND e.deptype = 'e')"
)

# Writes that are stopped and resumed (`aurora incident`) leave the log's schema as it is.
_NO_FENCE = (
    "NOT EXISTS (SELECT FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace fn"
    " ON fn.oid = f.pronamespace WHERE f.oid = t.{} AND fn.nspname = 'aurora_fence')"
)

_PARTS = {
    "schemas": f"SELECT n.oid::text, n.nspname FROM pg_catalog.pg_namespace n WHERE {_USERS}",
    "relations": f"""
        SELECT c.oid::text, c.relnamespace::text, c.relname, c.relkind, c.relpersistence,
               c.relreplident, c.reloftype::text, c.reloptions::text, c.relrowsecurity::text,
               c.relforcerowsecurity::text, c.relam::text, c.relispartition::text,
               pg_catalog.pg_get_expr(c.relpartbound, c.oid), pg_catalog.pg_get_partkeydef(c.oid),
               CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END,
               (SELECT string_agg(i.inhparent::text, ',' ORDER BY i.inhseqno)
                FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND c.relpersistence <> 't'
          AND {_USERS}""",
    "columns": f"""
        SELECT a.attrelid::text, a.attnum::text, a.attname, a.atttypid::text, a.atttypmod::text,
               a.attnotnull::text, a.attgenerated, a.attidentity, a.attcollation::text,
               a.attisdropped::text, pg_catalog.pg_get_expr(d.adbin, d.adrelid),
               CASE WHEN c.relkind = 'r' THEN a.xmin::text END
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attnum > 0 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
          AND c.relpersistence <> 't' AND {_USERS}""",
    "constraints": f"""
        SELECT o.oid::text, o.conrelid::text, o.contypid::text, o.conname,
               pg_catalog.pg_get_constraintdef(o.oid), o.convalidated::text
        FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_namespace n ON n.oid = o.connamespace
        WHERE {_USERS}""",
    "indexes": f"""
        SELECT i.indexrelid::text, i.indrelid::text, pg_catalog.pg_get_indexdef(i.indexrelid),
               i.indisprimary::text, i.indisreplident::text, i.indisvalid::text,
               i.indimmediate::text
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relpersistence <> 't' AND {_USERS}""",
    "triggers": f"""
        SELECT t.oid::text, t.tgenabled, pg_catalog.pg_get_triggerdef(t.oid)
        FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE NOT t.tgisinternal AND {_USERS} AND {_NO_FENCE.format("tgfoid")}""",
    "rules": f"""
        SELECT r.oid::text, r.ev_enabled, pg_catalog.pg_get_ruledef(r.oid)
        FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE r.rulename <> '_RETURN' AND {_USERS}""",
    "policies": """
        SELECT p.oid::text, p.polrelid::text, p.polname, p.polcmd, p.polpermissive::text,
               p.polroles::text, pg_catalog.pg_get_expr(p.polqual, p.polrelid),
               pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) FROM pg_catalog.pg_policy p""",
    "functions": f"""
        SELECT p.oid::text, p.proname, p.pronamespace::text, md5(pg_catalog.row_to_json(p)::text)
        FROM (SELECT oid, proname, pronamespace, prolang, procost, prorows, prokind, prosecdef,
                     proleakproof, proisstrict, proretset, provolatile, proparallel, prorettype,
                     proargtypes, proallargtypes, proargmodes, proargnames,
                     proargdefaults::text AS defaults, prosrc, probin, proconfig,
                     to_jsonb(q) -> 'prosqlbody' AS body
              FROM pg_catalog.pg_proc q) p
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE {_USERS} AND {_OWN.format("pg_catalog.pg_proc", "p")}""",
    "types": f"""
        SELECT t.oid::text, t.typname, t.typnamespace::text, t.typtype, t.typbasetype::text,
               t.typtypmod::text, t.typnotnull::text, t.typdefault, t.typcollation::text,
               (SELECT string_agg(e.enumlabel, E'\\x01' ORDER BY e.enumsortorder)
                FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid)
        FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
        WHERE t.typtype IN ('e', 'd', 'r', 'b') AND t.typelem = 0 AND {_USERS}
          AND {_OWN.format("pg_catalog.pg_type", "t")}""",
    "sequences": f"""
        SELECT s.seqrelid::text, s.seqtypid::text, s.seqstart::text, s.seqincrement::text,
               s.seqmax::text, s.seqmin::text, s.seqcache::text, s.seqcycle::text
        FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relpersistence <> 't' AND {_USERS}""",
    "statistics": f"""
        SELECT s.oid::text, pg_catalog.pg_get_statisticsobjdef(s.oid)
        FROM pg_catalog.pg_statistic_ext s
        JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace WHERE {_USERS}""",
    "extensions": """
        SELECT e.oid::text, e.extname, e.extversion, e.extnamespace::text
        FROM pg_catalog.pg_extension e""",
    "event triggers": f"""
        SELECT t.oid::text, t.evtname, t.evtevent, t.evtfoid::text, t.evtenabled, t.evttags::text
        FROM pg_catalog.pg_event_trigger t WHERE {_NO_FENCE.format("evtfoid")}""",
    "publications": """
        SELECT p.oid::text, p.pubname, p.puballtables::text, p.pubinsert::text, p.pubupdate::text,
               p.pubdelete::text, p.pubtruncate::text, p.pubviaroot::text
        FROM pg_catalog.pg_publication p WHERE p.pubname = ANY (%(publications)s)""",
    "published": """
        SELECT p.pubname, r.oid::text, r.prrelid::text, r.xmin::text
        FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
        WHERE p.pubname = ANY (%(publications)s)""",
}


def fingerprint(conn: Connection, publications: Sequence[str] = ()) -> str:
    """32 hex digits. Equal for equal schemas of the same database; see the module."""
    total = hashlib.blake2b(digest_size=16)
    for part, query in _PARTS.items():
        row = conn.execute(
            f"SELECT md5(COALESCE(string_agg(q::text, E'\\n' ORDER BY q::text COLLATE \"C\"), ''))"
            f" FROM ({query}) q".encode(),
            {"publications": list(publications)},
        ).fetchone()
        total.update(f"{part}={row[0] if row else ''};".encode())
    return total.hexdigest()
