"""The disasters that can be played. Each follows its runbook, command by command."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from aurora.errors import UsageError
from aurora.operations.proof.drills.common import (
    BACKUP,
    backed_up,
    found_bad,
    has_backups,
    healed,
    into_target,
    is_whole,
    moved,
    must,
    name_target,
    own_repository,
    same_rows,
)
from aurora.operations.proof.drills.destructive import DESTRUCTIVE
from aurora.operations.proof.drills.drill import Scenario, Step
from aurora.operations.proof.drills.sandbox import Ran, Sandbox, StepFailed
from aurora.units import listed


def find_scenario(name: str) -> Scenario:
    """Raises UsageError where there is none of that name."""
    if name not in SCENARIOS:
        raise UsageError(
            f"no drill is called {name[:60]!r}", hint=f"There are {listed(SCENARIOS)}."
        )
    return SCENARIOS[name]


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
            check=has_backups,
        ),
        Step("Is it whole?", "aurora backup verify bbyvf --storage secondary", check=is_whole),
        Step(
            "Restore from the secondary alone",
            "aurora backup restore bbyvf --storage secondary",
            options=into_target,
            check=same_rows,
            recovered=True,
        ),
        Step("Fill the primary again", "aurora backup heal all", check=healed),
        Step("Prove it", "aurora backup verify latest", check=is_whole),
        Step("Go on", "aurora backup create", options=moved, check=backed_up),
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
    name_target(box)
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
        Step("What is there?", "aurora backup list --storage secondary", check=has_backups),
        Step(
            "Restore the whole system onto a new server",
            "aurora backup restore-full bbyvf --storage secondary "
            "--target postgresql://admin@new.example.org/shop",
            expect=(0, 3),
            check=same_rows,
            recovered=True,
        ),
        Step("Make a new primary of the secondary", "aurora backup heal all", check=healed),
        Step("Prove it", "aurora backup verify latest", check=is_whole),
        Step(
            "Go on, from the new server",
            "aurora backup create --accept-new-source",
            check=backed_up,
        ),
    ),
    checklist=(
        "the recovery sheet was found, by somebody who had not put it there",
        "the storages' access keys were found without the lost machine",
        "name, address and size of the database server to order are written down",
        "who changes the application's address, and how long that takes, is known",
    ),
)


# Ransomware.


def _prepare_ransomware(box: Sandbox) -> None:
    box.copy_primary()
    box.copy_secondary()
    box.use_newest()
    name_target(box)
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
        Step("See the damage", "aurora backup verify latest", expect=(40,), check=found_bad),
        Step(
            "Is the secondary whole?",
            "aurora backup verify latest --storage secondary",
            check=is_whole,
        ),
        Step(
            "Restore from the secondary alone, onto a clean server",
            "aurora backup restore-full bbyvf --storage secondary "
            "--target postgresql://admin@new.example.org/shop",
            expect=(0, 3),
            check=same_rows,
            recovered=True,
        ),
        Step("Heal the primary", "aurora backup heal all", check=healed),
        Step("Prove it", "aurora backup verify latest", check=is_whole),
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
        name_target(box)
        box.facts["source"] = box.facts["target"]
        box.configure(secondary=False)
        box.facts["code"] = box.materials.code
        return
    box.restore_source()
    own_repository(box)
    box.words[BACKUP] = box.facts["backup"] = must(box, "aurora backup create").summary["backup_id"]
    box.facts["code"] = _code_in(box.machine / "codes")
    name_target(box)
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
        Step("What is there?", "aurora backup list", check=has_backups),
        Step(
            "Restore",
            "aurora backup restore-full bbyvf --target postgresql://admin@new.example.org/shop",
            expect=(0, 3),
            check=same_rows,
            recovered=True,
        ),
        Step("A new passphrase", "aurora key add passphrase", act=_choose_passphrase),
        Step("Does it open?", "aurora backup verify latest", act=_use_new_passphrase,
             check=is_whole),
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
