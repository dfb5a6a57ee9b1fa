"""What several drills share: checks of what a command said, and what only a sandbox says."""

import secrets

from aurora.operations.proof.drills.sandbox import Ran, Sandbox, StepFailed
from aurora.postgres.conninfo import ConnInfo
from aurora.units import format_count, listed, plural

# What runbooks write, and a sandbox has otherwise.
BACKUP = "bbyvf"
TARGET = "postgresql://admin@new.example.org/shop"


def same_rows(box: Sandbox, ran: Ran) -> str:
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


def is_whole(_box: Sandbox, ran: Ran) -> str:
    if not ran.summary.get("ok"):
        raise StepFailed(f"{len(ran.summary.get('bad', []))} objects are bad")
    return f"{plural(int(ran.summary['checked_objects']), 'object')} opened and followed"


def has_backups(box: Sandbox, ran: Ran) -> str:
    found = [one["id"] for one in ran.summary.get("backups", [])]
    if box.facts["backup"] not in found:
        raise StepFailed(f"the newest full backup {box.facts['backup']} is not listed")
    return f"{plural(len(found), 'backup')}, the newest full {box.facts['backup']}"


def healed(_box: Sandbox, ran: Ran) -> str:
    if ran.summary.get("failed"):
        raise StepFailed(f"{len(ran.summary['failed'])} objects have no good copy")
    healed = len(ran.summary.get("primary", []))
    if not healed:
        raise StepFailed("nothing was healed")
    return f"{plural(healed, 'object')} back on the primary"


def backed_up(_box: Sandbox, ran: Ran) -> str:
    if not ran.summary.get("complete") or ran.summary.get("replicated") is False:
        raise StepFailed(f"the backup is not whole: {ran.message}")
    return f"backup {ran.summary['backup_id']}"


def found_bad(_box: Sandbox, ran: Ran) -> str:
    bad = ran.summary.get("bad", [])
    if not bad:
        raise StepFailed(f"the damage was not noticed: {ran.message}")
    return f"{plural(len(bad), 'object')} missing or damaged, each named"


def into_target(box: Sandbox) -> list[str]:
    return ["--target", without_password(box, box.new_target())]


def moved(_box: Sandbox) -> list[str]:
    return ["--accept-new-source"]  # the sandbox's source is a restored one


def yes(_box: Sandbox) -> list[str]:
    return ["--yes"]


def without_password(box: Sandbox, dsn: str) -> str:
    info = ConnInfo.parse(dsn)
    box.environment["PGPASSWORD"] = info.password or ""
    return info.without_secrets().uri()


def name_target(box: Sandbox) -> str:
    """A new server for the runbook's ``new.example.org``."""
    box.words[TARGET] = without_password(box, box.new_target())
    return "a new server is there, empty"


def own_repository(box: Sandbox) -> None:
    """A new repository in the sandbox, with a passphrase of its own."""
    path = box.write_secret("passphrase", secrets.token_urlsafe(24))
    box.environment["AURORA_PASSPHRASE_FILE"] = str(path)
    info = ConnInfo.parse(box.source)
    box.environment["PGPASSWORD"] = info.password or ""
    box.words |= {"SOURCE": info.without_secrets().uri(), "PRIMARY": str(box.primary.directory)}
    box.words["NAME"] = box.materials.database
    must(
        box,
        "aurora init --source SOURCE --primary PRIMARY --no-secondary --name NAME --yes"
        " --recovery-code-file codes",
    )


def must(box: Sandbox, command: str) -> Ran:
    ran = box.run(command)
    if ran.code != 0:
        raise StepFailed(f"`{command}` in the sandbox: {ran.message or ran.code}")
    return ran
