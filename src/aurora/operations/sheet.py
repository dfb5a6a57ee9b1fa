"""The recovery sheet: what a person needs to get everything back with nothing else at hand.

Plain text to be printed and kept where the backup host cannot burn with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aurora import clock
from aurora.operations.keys import KeySlot
from aurora.version import __version__

_WIDTH = 78
_BLANK = "_" * 41


@dataclass(frozen=True, slots=True)
class SheetFacts:
    """What the sheet says. No secrets but the recovery codes, where they are given."""

    database: str
    source: str  # redacted
    storages: Mapping[str, str]  # place -> address
    repositories: Mapping[str, str]  # place -> repository id
    slots: Sequence[KeySlot]
    recipients: Sequence[str]
    credentials: Mapping[str, Sequence[str]]  # place -> names of the variables that it takes
    codes: Mapping[str, str] = field(default_factory=dict, repr=False)  # place -> recovery code


def recovery_sheet(facts: SheetFacts) -> str:
    """The sheet, in lines of at most 78 characters where addresses allow it."""
    lines = [
        "=" * _WIDTH,
        f"AURORA RECOVERY SHEET   database {facts.database}",
        f"made {clock.isoformat(clock.now())} by Aurora {__version__}",
        "=" * _WIDTH,
        "Keep it offline, away from the backup host. Whoever has a recovery code and",
        "can read the storage has every backup on it.",
        "",
        f"Source      {facts.source}",
    ]
    for place, url in facts.storages.items():
        lines += [
            "",
            f"{place.upper()} STORAGE",
            f"  address        {url}",
            f"  repository     {facts.repositories[place]}",
            f"  recovery code  {facts.codes.get(place, _BLANK)}",
            f"  access keys    kept at {'_' * 30}",
        ]
        lines += [f"  slot {one.id}  {_slot(one)}" for one in facts.slots if one.place == place]
    if facts.recipients:
        lines += ["", "SEALED BACKUPS open with the identity of"]
        lines += [f"  {one}" for one in facts.recipients]
        lines += [f"  identity files kept at {'_' * 30}"]
    lines += ["", *_steps(facts), "=" * _WIDTH, ""]
    return "\n".join(lines)


def _slot(one: KeySlot) -> str:
    made = f"{one.created_at:%Y-%m-%d}" if one.created_at else "?"
    proven = f"proven {one.proven_at[:10]}" if one.proven_at else "NEVER PROVEN"
    return f"{one.kind}, made {made}, {proven}"


def _steps(facts: SheetFacts) -> list[str]:
    place = "secondary" if "secondary" in facts.storages else "primary"
    lines = [
        "TO RECOVER ON A NEW MACHINE",
        "  1. Install Python 3.11 or newer, PostgreSQL's client programs, and Aurora.",
        "  2. In an empty directory write aurora.toml:",
        "",
        "       [source]",
        f'       name = "{facts.database}"',
    ]
    for name, url in facts.storages.items():
        lines += [f"       [{name}]", f'       url = "{url}"']
    lines += [
        "",
        "  3. Write each recovery code into a file of its own and set",
        "       AURORA_RECOVERY_CODE_FILE=…            (primary)",
    ]
    if "secondary" in facts.storages:
        lines += ["       AURORA_SECONDARY_RECOVERY_CODE_FILE=…  (secondary)"]
    for name, variables in facts.credentials.items():
        if variables:
            lines += [f"     and the {name}'s access keys: {', '.join(variables)}"]
    lines += [
        "  4. aurora backup list",
        "     aurora backup restore-full latest --target postgresql://…/new_database",
    ]
    if place == "secondary":
        lines += [
            "     Where the primary is lost, the same with --storage secondary.",
        ]
    lines += [
        '  5. Nothing else works? docs/format.md, "Restore by hand"; sealed backups:',
        "     docs/sealed.md. Print both and keep them with this sheet.",
    ]
    return lines
