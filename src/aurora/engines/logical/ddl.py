"""Markers of schema changes: event triggers on the source that write into its change log.

The log holds rows, no DDL. A marker stands at the exact place of each schema change, as a
message of the very transaction that makes it, so it is undone with it. Up to the first one
the schema is known to be that of the backup before.

What a marker's function does for the user is nothing; what it must never do is make the
user's statement fail. So it only looks at the catalog and writes one message: no table of
its own, no EXCEPTION block (a subtransaction for each DDL), no name that a search_path
could bend. It is SECURITY DEFINER because a hardened server may keep its users from
``pg_logical_emit_message()``. With ``SET aurora.plain_ddl_markers = on`` it does not even
look at the catalog. Whoever switches the triggers off leaves a trace in their catalog rows:
:func:`markers_of` tells another text then, and nothing is concluded from silence.
"""

import hashlib
from typing import Any, cast

import msgspec

from aurora.engines.logical.marks import CHANGE, PREFIX, REWRITE
from aurora.engines.logical.names import Connection, quoted
from aurora.engines.logical.slot import LogNames

_FUNCTION = "mark_schema_change"
_EVENTS = {"ddl": "ddl_command_end", "drop": "sql_drop", "rewrite": "table_rewrite"}
_VERSION = 1  # of the function; part of its text, so that another one is not taken for it

# Which tables' columns a change may touch, with all that inherit them. And what old rows hold
# in a column that was added with a constant default: it is in no row and, after the next
# rewrite, in no catalog.
_BODY = f"""
DECLARE
    told jsonb := jsonb_build_object('tag', TG_TAG);
    touched oid[] := ARRAY[]::oid[];
    missing jsonb;
BEGIN -- {_VERSION}
    IF COALESCE(current_setting('aurora.plain_ddl_markers', true), '') = 'on' THEN
        told := told || jsonb_build_object('plain', true);
    ELSIF TG_EVENT = 'table_rewrite' THEN
        PERFORM pg_logical_emit_message(true, '{PREFIX}',
            '{REWRITE}' || pg_event_trigger_table_rewrite_oid()::text);
        RETURN;
    ELSIF TG_EVENT = 'sql_drop' THEN
        IF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d
                       WHERE NOT d.is_temporary) THEN
            RETURN;
        END IF;
        SELECT COALESCE(array_agg(DISTINCT d.objid), touched) INTO touched
        FROM pg_event_trigger_dropped_objects() d
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid <> 0;
    ELSE
        IF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c
                       WHERE c.schema_name IS DISTINCT FROM 'pg_temp') THEN
            RETURN;
        END IF;
        IF TG_TAG = 'ALTER TABLE' THEN
            WITH RECURSIVE tree AS (
                SELECT c.objid AS oid FROM pg_event_trigger_ddl_commands() c
                WHERE c.classid = 'pg_class'::regclass
              UNION
                SELECT i.inhrelid FROM pg_inherits i JOIN tree ON tree.oid = i.inhparent
            )
            SELECT COALESCE(array_agg(tree.oid), touched) INTO touched FROM tree;
            SELECT jsonb_object_agg(t.oid, t.columns) INTO missing FROM (
                SELECT a.attrelid AS oid,
                       jsonb_object_agg(a.attnum, a.attmissingval::text) AS columns
                FROM pg_attribute a
                WHERE a.attrelid = ANY (touched) AND a.atthasmissing AND NOT a.attisdropped
                GROUP BY a.attrelid
            ) t;
        END IF;
    END IF;
    IF touched <> ARRAY[]::oid[] THEN
        told := told || jsonb_build_object('tables', to_jsonb(touched::bigint[]));
    END IF;
    IF missing IS NOT NULL THEN
        told := told || jsonb_build_object('missing', missing);
    END IF;
    PERFORM pg_logical_emit_message(true, '{PREFIX}', '{CHANGE}' || told::text);
END
"""
_SETTINGS = (
    "search_path = pg_catalog, pg_temp", "datestyle = 'ISO, YMD'", "intervalstyle = postgres",
    "timezone = 'UTC'", "extra_float_digits = 1", "bytea_output = hex", "lc_monetary = 'C'",
    "quote_all_identifiers = off",
)  # fmt: skip


def marker_statements(conn: Connection, names: LogNames) -> list[str]:
    """What makes the markers as they should be; nothing where they are so."""
    if markers_of(conn, names):
        return []
    schema = quoted(names.schema)
    function = f"{schema}.{_FUNCTION}()"
    found = _dropped(conn, names, schema=False)
    if not _has_schema(conn, names):
        found.append(f"CREATE SCHEMA {schema}")
    found.append(
        f"CREATE FUNCTION {function} RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER\n"
        + "".join(f"    SET {setting}\n" for setting in _SETTINGS)
        + f"AS $aurora${_BODY}$aurora$"
    )
    for event, name in names.event_triggers.items():
        found.append(
            f"CREATE EVENT TRIGGER {quoted(name)} ON {_EVENTS[event]} EXECUTE FUNCTION {function}"
        )
        # Also in sessions with session_replication_role = replica.
        found.append(f"ALTER EVENT TRIGGER {quoted(name)} ENABLE ALWAYS")
    return found


def marker_drop_statements(conn: Connection, names: LogNames) -> list[str]:
    """What removes them."""
    return _dropped(conn, names, schema=True)


def _dropped(conn: Connection, names: LogNames, *, schema: bool) -> list[str]:
    there = _rows(
        conn,
        "SELECT evtname FROM pg_catalog.pg_event_trigger WHERE evtname = ANY (%s) ORDER BY 1",
        (list(names.event_triggers.values()),),
    )
    found = [f"DROP EVENT TRIGGER {quoted(name)}" for (name,) in there]
    if _rows(
        conn,
        "SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n"
        " ON n.oid = p.pronamespace WHERE n.nspname = %s AND p.proname = %s",
        (names.schema, _FUNCTION),
    ):
        found.append(f"DROP FUNCTION {quoted(names.schema)}.{_FUNCTION}()")
    if schema and _has_schema(conn, names):
        found.append(f"DROP SCHEMA {quoted(names.schema)}")
    return found


def _has_schema(conn: Connection, names: LogNames) -> bool:
    query = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s"
    return bool(_rows(conn, query, (names.schema,)))


_MARKERS = """
SELECT t.evtname, t.oid::bigint, t.xmin::text, t.evtenabled::text, p.oid::bigint, p.xmin::text,
       p.prosrc
FROM pg_catalog.pg_event_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.evtfoid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_roles r ON r.oid = t.evtowner AND r.rolsuper
WHERE t.evtname = ANY (%s) AND n.nspname = %s AND p.proname = %s AND t.evttags IS NULL
ORDER BY t.evtname
"""


def markers_of(conn: Connection, names: LogNames) -> str:
    """A text that stays the same while the markers stand untouched; "" where they do not.

    Nor where they belong to no superuser: hosted Supabase lets its ``postgres`` create event
    triggers, which then do not fire for superusers and the platform's own roles (supautils).
    Every change of a trigger or of the function gives their rows another ``xmin``, also one
    that is taken back.
    """
    rows = _rows(conn, _MARKERS, (list(names.event_triggers.values()), names.schema, _FUNCTION))
    if len(rows) != len(_EVENTS) or any(row[3] != "A" or row[6] != _BODY for row in rows):
        return ""
    told = ";".join(":".join(map(str, row[:6])) for row in rows)
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


class Change(msgspec.Struct, frozen=True):
    """A marker's content.

    ``tables`` are the oids of those whose columns it may have touched. ``missing`` has, by
    table oid and column number, what old rows hold in columns that were added with a constant
    default: an array of one element, as PostgreSQL writes it.
    """

    tag: str
    tables: tuple[int, ...] = ()
    missing: dict[str, dict[str, str]] = {}
    plain: bool = False  # it did not look at the catalog


_CHANGE = msgspec.json.Decoder(Change)  # before any thread needs it


def read_change(text: str) -> Change:
    """What a mark says of a schema change; a tag ``?`` where it cannot be read."""
    try:
        return _CHANGE.decode(text.removeprefix(CHANGE).encode())
    except msgspec.DecodeError:
        return Change("?", plain=True)


def _rows(conn: Connection, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    return cast("list[tuple[Any, ...]]", conn.execute(query.encode(), values).fetchall())


def may_mark(conn: Connection) -> bool:
    """Whether this role makes event triggers that fire for everybody: a superuser."""
    return bool(_rows(conn, "SELECT FROM pg_catalog.pg_roles WHERE rolname = current_user AND"
                            " rolsuper", ()))  # fmt: skip
