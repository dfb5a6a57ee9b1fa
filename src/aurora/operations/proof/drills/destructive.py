"""The drill of a destructive transaction: found in the change log, its table put back."""

from psycopg import sql

from aurora.engines.logical.checksum import sum_query
from aurora.engines.logical.names import Connection, pin_output, quoted, shown
from aurora.engines.logical.snapshot import hold_snapshot
from aurora.operations.proof.drills.common import backed_up, must, own_repository, yes
from aurora.operations.proof.drills.drill import Scenario, Step
from aurora.operations.proof.drills.sandbox import Ran, Sandbox, StepFailed
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.units import format_count

# What the runbook writes, and a sandbox has otherwise.
TABLE = "public.orders"
XID = "4711"
COPY = "orders_before"
_LARGEST = 256 << 20  # bytes of a table that a drill may spoil


def _prepare_destructive(box: Sandbox) -> None:
    box.restore_source()
    with open_control(box.source, what="target") as conn:
        with translated("target", doing="choosing a table"):
            conn.execute(
                "CREATE TABLE IF NOT EXISTS public.aurora_drill"
                " (id int PRIMARY KEY, note text NOT NULL)"
            )
            conn.execute(
                "INSERT INTO public.aurora_drill"
                " SELECT i, 'row ' || i FROM pg_catalog.generate_series(1, 1000) i"
                " ON CONFLICT DO NOTHING"
            )
            schema, name = _table_to_spoil(conn)
    box.facts["table"] = (schema, name)
    box.words |= {TABLE: shown(schema, name), COPY: "aurora_drill_before"}
    own_repository(box)
    for command in ("aurora source prepare --yes", "aurora backup create"):
        must(box, command)


def _table_to_spoil(conn: Connection) -> tuple[str, str]:
    """The largest table with a key that nothing refers to and no trigger watches."""
    row = conn.execute(
        """
        SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND NOT c.relispartition AND c.relpersistence = 'p'
          AND n.nspname NOT IN ('pg_catalog', 'information_schema')
          AND pg_catalog.pg_table_size(c.oid) BETWEEN 8192 AND %s
          AND EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint f
                          WHERE f.confrelid = c.oid AND f.conrelid <> c.oid)
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                          WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid
                          OR h.inhrelid = c.oid)
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid
                          AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
        ORDER BY pg_catalog.pg_table_size(c.oid) DESC, 1, 2 LIMIT 1""",
        [_LARGEST],
    ).fetchone()
    return (str(row[0]), str(row[1])) if row else ("public", "aurora_drill")


def _spoil(box: Sandbox) -> None:
    """Good work, a DELETE without WHERE, and good work after it that must not be lost."""
    schema, name = box.facts["table"]
    note = "UPDATE public.aurora_drill SET note = note || %s WHERE id %% 7 = %s"
    with open_control(box.source, what="target") as conn:
        with translated("target", doing="spoiling the table"):
            pin_output(conn)
            if name != "aurora_drill":
                conn.execute(note.encode(), ["!", 1])
            box.facts["before"] = _sum(box, conn)
            conn.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(schema, name)))
            if name != "aurora_drill":
                conn.execute(note.encode(), ["?", 2])


def _sum(box: Sandbox, conn: Connection, table: tuple[str, str] | None = None) -> tuple[str, str]:
    schema, name = box.facts["table"]
    if "columns" not in box.facts:
        with hold_snapshot(box.source, side="target") as held:
            found = next(t for t in held.tables if (t.schema, t.name) == (schema, name))
        box.facts["columns"] = found.columns
    query = sum_query(quoted(*(table or (schema, name))), box.facts["columns"])
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return str(row[0]), str(row[1])


def _found_transaction(box: Sandbox, ran: Ran) -> str:
    """The one that deleted every row."""
    table, rows = box.words[TABLE], int(box.facts["before"][0])
    for line in ran.lines:
        changes = (line.get("tables") or {}).get(table) or {}
        if int(changes.get("deleted", 0)) == rows > 0:
            box.words[XID] = str(line["xid"])
            return f"xid {line['xid']} deleted {format_count(rows)} rows of {table}"
    raise StepFailed(f"no transaction of the log deleted the {rows} rows of {table}")


def _as_before(box: Sandbox, table: tuple[str, str] | None) -> str:
    with open_control(box.source, what="target") as conn:
        with translated("target", doing="counting"):
            pin_output(conn)
            now = _sum(box, conn, table)
            row = conn.execute(
                "SELECT count(*) FROM public.aurora_drill WHERE note LIKE '%?'"
            ).fetchone()
    if now != box.facts["before"]:
        raise StepFailed(
            f"{now[0]} rows with checksum {now[1]}, before the accident it were "
            f"{box.facts['before'][0]} with {box.facts['before'][1]}"
        )
    later = int(str(row[0])) if row else 0
    if box.facts["table"][1] != "aurora_drill" and not later:
        raise StepFailed("work done after the accident in another table is gone")
    return f"{format_count(int(now[0]))} rows, checksum as before the accident"


def _copy_as_before(box: Sandbox, _ran: Ran) -> str:
    return _as_before(box, (box.facts["table"][0], "aurora_drill_before"))


def _table_as_before(box: Sandbox, _ran: Ran) -> str:
    return _as_before(box, None)


DESTRUCTIVE = Scenario(
    name="destructive-transaction",
    title="Somebody ran a DELETE without WHERE",
    card="At noon somebody ran a DELETE on production and forgot the WHERE. Other tables are in "
    "use and must keep what was written since. You have the change log.",
    runbook="destructive-transaction.md",
    prepare=_prepare_destructive,
    accident=_spoil,
    steps=(
        Step(
            "Bring the log up to now",
            "aurora backup create --type incremental",
            check=backed_up,
        ),
        Step(
            "Find the transaction",
            "aurora log show --table public.orders",
            check=_found_transaction,
        ),
        Step(
            "Look at the table as it was before, beside it",
            "aurora backup restore-table public.orders --before-xid 4711 --as orders_before",
            options=yes,
            check=_copy_as_before,
        ),
        Step(
            "Put its rows back",
            "aurora backup restore-table public.orders --before-xid 4711 --replace",
            options=yes,
            check=_table_as_before,
            recovered=True,
        ),
        Step("A new backup at once", "aurora backup create", check=backed_up),
    ),
    checklist=(
        "whoever noticed it knew whom to call, at that hour",
        "it was decided, and by whom, whether to stop writes first (docs/incident.md)",
        "good rows that were written to the table after the accident were thought of",
    ),
)
