"""Key care: which secrets open a repository, adding, removing, changing and proving them.

A slot is one wrapped copy of the master key. Changing a secret makes a new slot and removes
the old one; whoever kept a copy of the old slot *and* knows the old secret still has the
master key. What each step protects is said in docs/keys.md and by the commands.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from aurora import clock
from aurora.errors import AuroraError, IntegrityError, UsageError, WrongKey
from aurora.events import EventSink, Warned, discard
from aurora.repository.door import Repository
from aurora.repository.keys import Kdf, Passphrase, RecoveryCode, Secret, new_recovery_code
from aurora.repository.layout import slot_name
from aurora.storage.base import Storage

Place = Literal["primary", "secondary"]
CHANGED = (
    "Who learns the old secret from now on can open nothing with what is on the storage.",
    "Who already had the old secret and could read the storage may have the master key: no "
    "change of a secret takes it back. Then make a new repository (docs/keys.md).",
)


@dataclass(frozen=True, slots=True)
class KeySlot:
    """One key slot, and when its secret was last seen to open it on this machine."""

    place: Place
    id: str
    kind: str  # passphrase, recovery-code, key-file; unknown where it is not ours
    label: str
    created_at: datetime | None
    genuine: bool
    proven_at: str  # ISO; "" for never

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "storage": self.place,
            "id": self.id,
            "kind": self.kind,
            "label": self.label,
            "created_at": clock.isoformat(self.created_at) if self.created_at else None,
            "genuine": self.genuine,
            "proven_at": self.proven_at or None,
        }


@dataclass(slots=True)
class Rotation:
    """What changing a secret did."""

    place: Place
    kind: str
    added: str
    removed: list[str] = field(default_factory=list)


class Proofs:
    """When each slot was last opened on this machine: ``aurora.state/keys.json``."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "keys.json"

    def of(self, slot_id: str) -> str:
        """The moment, ISO; "" for never."""
        return str(self._load().get(slot_id, ""))

    def note(self, slot_ids: Iterable[str]) -> None:
        """They open now. Raises OSError."""
        known = self._load() | dict.fromkeys(slot_ids, clock.isoformat(clock.now()))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
        temporary.replace(self._path)

    def _load(self) -> dict[str, Any]:
        try:
            known = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def list_slots(place: Place, repository: Repository, proofs: Proofs) -> list[KeySlot]:
    """All key slots of one storage."""
    return [
        KeySlot(place, one.id, one.kind, one.label, one.created_at, one.genuine, proofs.of(one.id))
        for one in repository.slots()
    ]


def unproven(slots: Sequence[KeySlot]) -> list[KeySlot]:
    """Slots that nobody was seen to open: a secret that was lost is found out too late."""
    return [one for one in slots if one.genuine and not one.proven_at]


def prove(place: Place, repository: Repository, secret: Secret, proofs: Proofs) -> list[str]:
    """Note which slots *secret* opens. Raises WrongKey where it opens none."""
    found = repository.opened_by(secret)
    if not found:
        kind = type(secret).__name__
        words = {"Passphrase": "passphrase", "RecoveryCode": "recovery code"}.get(kind, "key file")
        raise WrongKey(
            f"this {words} opens no key slot of the {place}",
            hint="The repository still opens with the secret in use. Add a new one with `aurora "
            "key add`, prove it, and remove the slot that nobody can open any more.",
        )
    proofs.note(found)
    return found


@dataclass(frozen=True, slots=True)
class Ring:
    """The key slots of one storage, with the copies of them that the other one keeps.

    The secondary holds the primary's slots under its own envelope. A slot that is made is
    copied there at once, because it may be needed when the primary is gone; one that is
    removed goes there too, or its secret would still open the copy.
    """

    place: Place
    repository: Repository
    proofs: Proofs
    copies: Callable[[], Storage] | None = None  # opens the mirror of a primary
    sink: EventSink = discard

    def copied(self, slot_id: str) -> None:
        """Bring a new slot to the mirror; what fails is warned of."""
        name = slot_name(slot_id)
        self._on_mirror(
            lambda mirror: mirror.put(name, self.repository.storage.get(name)),
            "slot-not-copied",
            f"the key slot {slot_id} is not on the secondary yet",
            "Run `aurora backup replicate` before you rely on it there.",
        )

    def removed(self, slot_id: str) -> None:
        """Remove a slot from both; what fails on the mirror is warned of."""
        self.repository.remove_slot(slot_id)
        self._on_mirror(
            lambda mirror: mirror.delete([slot_name(slot_id)]),
            "slot-copy-kept",
            f"the secondary's copy of the key slot {slot_id} could not be removed",
            "Its old secret still opens the copy, together with a secret of the secondary. Run "
            "the command again when the secondary can be reached and lets you delete.",
        )

    def _on_mirror(self, do: Callable[[Storage], None], code: str, message: str, hint: str) -> None:
        if self.copies is None:
            return
        try:
            do(self.copies())
        except AuroraError as error:
            self.sink(Warned(code, f"{message}: {error.message}", hint))


def add(ring: Ring, secret: Secret, *, label: str, kdf: Kdf) -> str:
    """Add a slot for *secret*, read it back and open it; the slot's id."""
    repository, place = ring.repository, ring.place
    slot_id = repository.add_slot(secret, label=label, kdf=kdf)
    if slot_id not in repository.opened_by(secret):
        raise IntegrityError(
            f"the new key slot {slot_id} on the {place} does not open",
            hint="The older slots were not touched. The storage did not keep what it was given: "
            "run `aurora doctor`.",
        )
    ring.copied(slot_id)
    ring.proofs.note([slot_id])
    return slot_id


def remove(ring: Ring, slot_id: str) -> str:
    """Remove a slot, never the last genuine one; its whole id. Raises UsageError."""
    matches = [one.id for one in ring.repository.slots() if one.id.startswith(slot_id)]
    if len(matches) != 1:
        raise UsageError(
            f"{len(matches) or 'no'} key slots begin with {slot_id[:40]!r}",
            hint="`aurora key list` shows them with their ids.",
        )
    ring.removed(matches[0])
    return matches[0]


def rotate(
    ring: Ring,
    *,
    old: Secret | None,
    new: Secret | None,
    kdf: Kdf,
    reveal: Callable[[str], None],
) -> Rotation:
    """Replace a passphrase, or with *new* None the recovery code.

    The new slot is proven before an old one goes; a run that dies in between leaves both.

    Args:
        old: the passphrase that goes; of recovery codes all go.
        reveal: gets a new recovery code before anything is changed, and may raise.
    """
    repository = ring.repository
    secret = new if new is not None else _new_code(reveal)
    kind = "passphrase" if isinstance(secret, Passphrase) else "recovery-code"
    if old is not None:
        going = repository.opened_by(old)
    else:
        going = [one.id for one in repository.slots() if one.genuine and one.kind == kind]
    if new is not None and repository.opened_by(new):
        raise UsageError(
            "the new passphrase opens the repository already",
            hint="Nothing was changed. Choose another one.",
        )
    label = "passphrase" if kind == "passphrase" else "printed recovery code"
    done = Rotation(ring.place, kind, add(ring, secret, label=label, kdf=kdf))
    for slot_id in going:
        ring.removed(slot_id)
        done.removed.append(slot_id)
    return done


def _new_code(reveal: Callable[[str], None]) -> RecoveryCode:
    code = new_recovery_code()
    reveal(code)
    return RecoveryCode(code)
