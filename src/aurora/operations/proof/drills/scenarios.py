"""The disasters that can be played. Each follows its runbook, command by command."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from psycopg import sql

from aurora.engines.logical.checksum import sum_query
from aurora.engines.logical.names import Connection, pin_output, quoted, shown
from aurora.engines.logical.snapshot import hold_snapshot
from aurora.errors import UsageError
from aurora.operations.findings import listed
from aurora.operations.proof.drills.drill import Scenario, Step
from aurora.operations.proof.drills.sandbox import Ran, Sandbox, StepFailed
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import open_control
from aurora.units import format_count, plural

# What runbooks write, and a sandbox has otherwise.
BACKUP = "bbyvf"
TARGET = "postgresql://admin@new.example.org/shop"
TABLE, XID, COPY = "public.orders", "4711", "orders_before"
_LARGEST = 256 << 20  # bytes of a table that a drill may spoil


def find_scenario(name: str) -> Scenario:
    """Raises UsageError where there is none of that name."""
    if name not in SCENARIOS:
        raise UsageError(
            f"no drill is called {name[:60]!r}", hint=f"There are {listed(SCENARIOS)}."
        )
    return SCENARIOS[name]


# Checks of what a command said.


def _same_rows(box: Sandbox, ran: Ran) -> str:
    """Every row of the backup came back."""
    backup = box.facts.get("rows_expected")
    rows = int(ran.summary.get("rows", -1))
    if not str(ran.summary.get("outcome", "")).startswith("restored"):
        raise StepFailed(f"the restore ended as {ran.summary.get('outcome') or ran.message}")
    if backup is not None and rows != backup:
        raise StepFailed(f"{rows} rows came back, the backup holds {backup}")
    wrong = [t["table"] for t in ran.summary.get("tables", []) if not t["same"]]
    if wrong:
        raise StepFailed(f"rows differ in {listed(wrong)}")
    return f"{format_count(rows)} rows, every table equal to the backup"


def _is_whole(_box: Sandbox, ran: Ran) -> str:
    if not ran.summary.get("ok"):
        raise StepFailed(f"{len(ran.summary.get('bad', []))} objects are bad")
    return f"{plural(int(ran.summary['checked_objects']), 'object')} opened and followed"


def _has_backups(box: Sandbox, ran: Ran) -> str:
    found = [one["id"] for one in ran.summary.get("backups", [])]
    if box.facts["backup"] not in found:
        raise StepFailed(f"the newest full backup {box.facts['backup']} is not listed")
    return f"{plural(len(found), 'backup')}, the newest full {box.facts['backup']}"


def _healed(_box: Sandbox, ran: Ran) -> str:
    if ran.summary.get("failed"):
        raise StepFailed(f"{len(ran.summary['failed'])} objects have no good copy")
    healed = len(ran.summary.get("primary", []))
    if not healed:
        raise StepFailed("nothing was healed")
    return f"{plural(healed, 'object')} back on the primary"


def _backed_up(_box: Sandbox, ran: Ran) -> str:
    if not ran.summary.get("complete") or ran.summary.get("replicated") is False:
        raise StepFailed(f"the backup is not whole: {ran.message}")
    return f"backup {ran.summary['backup_id']}"


def _found_bad(_box: Sandbox, ran: Ran) -> str:
    bad = ran.summary.get("bad", [])
    if not bad:
        raise StepFailed(f"the damage was not noticed: {ran.message}")
    return f"{plural(len(bad), 'object')} missing or damaged, each named"


# What only a sandbox has to say besides.


def _into_target(box: Sandbox) -> list[str]:
    return ["--target", _without_password(box, box.new_target())]


def _moved(_box: Sandbox) -> list[str]:
    return ["--accept-new-source"]  # the sandbox's source is a restored one


def _yes(_box: Sandbox) -> list[str]:
    return ["--yes"]


def _without_password(box: Sandbox, dsn: str) -> str:
    info = ConnInfo.parse(dsn)
    box.environment["PGPASSWORD"] = info.password or ""
    return info.without_secrets().uri()


def _name_target(box: Sandbox) -> str:
    """A new server for the runbook's ``new.example.org``."""
    box.words[TARGET] = _without_password(box, box.new_target())
    return "a new server is there, empty"


# Primary storage lost.


def _prepare_primary_lost(box: Sandbox) -> None:
    box.copy_secondary()
    box.restore_source()
    box.use_newest()
    box.configure(secondary=True)
    box.give_passphrases()


def _nothing(_box: Sandbox) -> None:
    """The primary is an empty directory from the start."""


def _says_lost(_box: Sandbox, ran: Ran) -> str:
    found = [one for one in ran.summary.get("findings", []) if one.get("level") == "error"]
    told = [str(one.get("message")) for one in found if "primary" in str(one)]
    if not told:
        raise StepFailed("doctor does not say that the primary is lost")
    return told[0]


PRIMARY_LOST = Scenario(
    name="primary-storage-lost",
    title="The primary storage is lost",
    card="The provider of the primary storage closed the account overnight. Everything on it is "
    "gone. The database serves. The secondary is there.",
    runbook="primary-storage-lost.md",
    prepare=_prepare_primary_lost,
    accident=_nothing,
    needs_secondary=True,
    steps=(
        Step("Is it really gone?", "aurora doctor", expect=(0, 1), check=_says_lost),
        Step(
            "What does the secondary hold?",
            "aurora backup list --storage secondary",
            check=_has_backups,
        ),
        Step("Is it whole?", "aurora backup verify bbyvf --storage secondary", check=_is_whole),
        Step(
            "Restore from the secondary alone",
            "aurora backup restore bbyvf --storage secondary",
            options=_into_target,
            check=_same_rows,
            recovered=True,
        ),
        Step("Fill the primary again", "aurora backup heal all", check=_healed),
        Step("Prove it", "aurora backup verify latest", check=_is_whole),
        Step("Go on", "aurora backup create", options=_moved, check=_backed_up),
    ),
    checklist=(
        "somebody other than the author of the set-up could open the secondary's console",
        "the contract and the support contact of both storage providers are at hand",
        "it was known who decides on a new primary, and who pays for it",
    ),
)


# Repository host lost.


def _prepare_host_lost(box: Sandbox) -> None:
    box.copy_secondary()
    box.use_newest()
    _name_target(box)
    box.facts["source"] = box.facts["target"]
    given = box.materials
    missing = [
        place
        for place, code in (("primary", given.code), ("secondary", given.secondary_code))
        if code is None
    ]
    if missing:
        box.facts["skipped"] = {
            "the recovery sheet": f"the {' and the '.join(missing)} code were not given "
            "(--recovery-code-file, --secondary-recovery-code-file); passphrases were used"
        }


def _write_configuration(box: Sandbox) -> str:
    box.configure(secondary=True)
    box.give_passphrases()
    return "aurora.toml from the recovery sheet, and the secrets"


HOST_LOST = Scenario(
    name="repository-host-lost",
    title="The machine that runs Aurora burnt, with the primary and the database on it",
    card="The server room burnt. The database, the machine that ran the backups and the primary "
    "storage are gone. There is the secondary, and the recovery sheet from the safe.",
    runbook="repository-host-lost.md",
    prepare=_prepare_host_lost,
    accident=_nothing,
    needs_secondary=True,
    steps=(
        Step("Install Aurora, write aurora.toml", act=_write_configuration),
        Step("What is there?", "aurora backup list --storage secondary", check=_has_backups),
        Step(
            "Restore the whole system onto a new server",
            "aurora backup restore-full bbyvf --storage secondary "
            "--target postgresql://admin@new.example.org/shop",
            expect=(0, 3),
            check=_same_rows,
            recovered=True,
        ),
        Step("Make a new primary of the secondary", "aurora backup heal all", check=_healed),
        Step("Prove it", "aurora backup verify latest", check=_is_whole),
        Step(
            "Go on, from the new server",
            "aurora backup create --accept-new-source",
            check=_backed_up,
        ),
    ),
    checklist=(
        "the recovery sheet was found, by somebody who had not put it there",
        "the storages' access keys were found without the lost machine",
        "name, address and size of the database server to order are written down",
        "who changes the application's address, and how long that takes, is known",
    ),
)


# A destructive transaction.


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
    _own_repository(box)
    for command in ("aurora source prepare --yes", "aurora backup create"):
        _must(box, command)


def _own_repository(box: Sandbox) -> None:
    """A new repository in the sandbox, with a passphrase of its own."""
    path = box.write_secret("passphrase", secrets.token_urlsafe(24))
    box.environment["AURORA_PASSPHRASE_FILE"] = str(path)
    info = ConnInfo.parse(box.source)
    box.environment["PGPASSWORD"] = info.password or ""
    box.words |= {"SOURCE": info.without_secrets().uri(), "PRIMARY": str(box.primary.directory)}
    box.words["NAME"] = box.materials.database
    _must(
        box,
        "aurora init --source SOURCE --primary PRIMARY --no-secondary --name NAME --yes"
        " --recovery-code-file codes",
    )


def _must(box: Sandbox, command: str) -> Ran:
    ran = box.run(command)
    if ran.code != 0:
        raise StepFailed(f"`{command}` in the sandbox: {ran.message or ran.code}")
    return ran


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
            check=_backed_up,
        ),
        Step(
            "Find the transaction",
            "aurora log show --table public.orders",
            check=_found_transaction,
        ),
        Step(
            "Look at the table as it was before, beside it",
            "aurora backup restore-table public.orders --before-xid 4711 --as orders_before",
            options=_yes,
            check=_copy_as_before,
        ),
        Step(
            "Put its rows back",
            "aurora backup restore-table public.orders --before-xid 4711 --replace",
            options=_yes,
            check=_table_as_before,
            recovered=True,
        ),
        Step("A new backup at once", "aurora backup create", check=_backed_up),
    ),
    checklist=(
        "whoever noticed it knew whom to call, at that hour",
        "it was decided, and by whom, whether to stop writes first (docs/incident.md)",
        "good rows that were written to the table after the accident were thought of",
    ),
)


# Ransomware.


def _prepare_ransomware(box: Sandbox) -> None:
    box.copy_primary()
    box.copy_secondary()
    box.use_newest()
    _name_target(box)
    box.facts["source"] = box.facts["target"]
    box.configure(secondary=True)
    box.give_passphrases()


def _encrypt_and_delete(box: Sandbox) -> None:
    """Two of three contents are deleted, the third is overwritten; the newest log too."""
    top = box.primary.directory
    files = sorted(path for kind in ("chunks", "tables", "log") for path in (top / kind).rglob("*"))
    contents = [path for path in files if path.is_file()]
    for number, path in enumerate(contents):
        if number % 3:
            path.unlink()
        else:
            path.chmod(0o600)
            path.write_bytes(os.urandom(min(path.stat().st_size, 4096)))
    box.facts["harmed"] = len(contents)


RANSOMWARE = Scenario(
    name="ransomware",
    title="Ransomware encrypted and deleted the primary's objects",
    card="An attacker had the credentials of the primary storage for a night: most objects are "
    "deleted, the others are overwritten. The database server is encrypted too. They did not have "
    "the secondary's credentials.",
    runbook="ransomware.md",
    prepare=_prepare_ransomware,
    accident=_encrypt_and_delete,
    needs_primary=True,
    needs_secondary=True,
    steps=(
        Step("See the damage", "aurora backup verify latest", expect=(40,), check=_found_bad),
        Step(
            "Is the secondary whole?",
            "aurora backup verify latest --storage secondary",
            check=_is_whole,
        ),
        Step(
            "Restore from the secondary alone, onto a clean server",
            "aurora backup restore-full bbyvf --storage secondary "
            "--target postgresql://admin@new.example.org/shop",
            expect=(0, 3),
            check=_same_rows,
            recovered=True,
        ),
        Step("Heal the primary", "aurora backup heal all", check=_healed),
        Step("Prove it", "aurora backup verify latest", check=_is_whole),
    ),
    checklist=(
        "the credentials of storages and source were changed first, from a clean machine",
        "nobody who could reach the primary could reach the secondary",
        "the time when the attacker came in was found, and a backup from before it chosen",
        "whom the law wants told, and by when, is known",
    ),
)


# The key holder is away.


def _prepare_key_holder(box: Sandbox) -> None:
    if box.materials.code is not None and box.materials.primary is not None:
        box.copy_primary()
        box.use_newest()
        _name_target(box)
        box.facts["source"] = box.facts["target"]
        box.configure(secondary=False)
        box.facts["code"] = box.materials.code
        return
    box.restore_source()
    _own_repository(box)
    box.words[BACKUP] = box.facts["backup"] = _must(box, "aurora backup create").summary[
        "backup_id"
    ]
    box.facts["code"] = _code_in(box.machine / "codes")
    _name_target(box)
    box.facts["skipped"] = {
        "your own recovery code": "it was not given (--recovery-code-file): a code of a repository "
        "made in the sandbox was tried instead"
    }


def _code_in(path: Path) -> str:
    lines = path.read_text().splitlines()
    codes = [line.strip() for line in lines if line.strip().count("-") == 5]
    if not codes:
        raise StepFailed("init wrote no recovery code")
    return codes[0].split()[-1]


def _lose_passphrase(box: Sandbox) -> None:
    box.environment.pop("AURORA_PASSPHRASE_FILE", None)
    (box.machine / "passphrase").unlink(missing_ok=True)


def _type_code(box: Sandbox) -> str:
    path = box.write_secret("recovery-code", box.facts["code"])
    box.environment["AURORA_RECOVERY_CODE_FILE"] = str(path)
    return "the code is in a file of mode 0600"


def _choose_passphrase(box: Sandbox) -> str:
    path = box.write_secret("new-passphrase", secrets.token_urlsafe(24))
    box.environment["AURORA_NEW_PASSPHRASE_FILE"] = str(path)
    return "a new passphrase is chosen"


def _use_new_passphrase(box: Sandbox) -> str:
    box.environment.pop("AURORA_RECOVERY_CODE_FILE")
    box.environment["AURORA_PASSPHRASE_FILE"] = box.environment.pop("AURORA_NEW_PASSPHRASE_FILE")
    return "the recovery code is put away"


KEY_HOLDER_AWAY = Scenario(
    name="key-holder-away",
    title="The person who knows the passphrase is away",
    card="The database is lost. The passphrase was known to one person, who cannot be reached. "
    "There is the recovery sheet in the safe.",
    runbook="key-holder-away.md",
    prepare=_prepare_key_holder,
    accident=_lose_passphrase,
    steps=(
        Step(
            "Without the passphrase nothing opens",
            "aurora backup list",
            expect=(2, 12),
            check=lambda _box, ran: ran.message,
        ),
        Step("Fetch the recovery sheet and type its code into a file", act=_type_code),
        Step("Is it the right code?", "aurora key test recovery-code"),
        Step("What is there?", "aurora backup list", check=_has_backups),
        Step(
            "Restore",
            "aurora backup restore-full bbyvf --target postgresql://admin@new.example.org/shop",
            expect=(0, 3),
            check=_same_rows,
            recovered=True,
        ),
        Step("A new passphrase", "aurora key add passphrase", act=_choose_passphrase),
        Step("Does it open?", "aurora backup verify latest", act=_use_new_passphrase,
             check=_is_whole),
    ),
    checklist=(
        "two people know where the recovery sheet is, and may take it",
        "the safe could be opened without the key holder",
        "who is told that the code was used is written down",
    ),
)  # fmt: skip

SCENARIOS: Mapping[str, Scenario] = {
    one.name: one for one in (PRIMARY_LOST, HOST_LOST, DESTRUCTIVE, RANSOMWARE, KEY_HOLDER_AWAY)
}
