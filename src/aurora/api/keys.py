"""Key slots of both storages, and the recovery sheet."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aurora.api.audit import Recording, recorded
from aurora.config.references import credential_references
from aurora.errors import AuroraError, UsageError
from aurora.events import EventSink, discard
from aurora.operations import keys as operation
from aurora.operations.keys import KeySlot, Place, Proofs, Ring, Rotation
from aurora.operations.sheet import SheetFacts, recovery_sheet
from aurora.repository.door import Repository
from aurora.repository.keys import Kdf, KeyFile, Passphrase, RecoveryCode, Secret, new_recovery_code
from aurora.wiring import Aurora

NewSecret = Passphrase | KeyFile | None
"""A secret to add; None for a new recovery code."""


def list_keys(aurora: Aurora) -> list[KeySlot]:
    """The key slots of both storages. The secrets in use are proven by this.

    Raises: as opening both repositories does.
    """
    found: list[KeySlot] = []
    for place in _places(aurora):
        repository = aurora.open_owned(place)
        operation.prove(place, repository, aurora.secret(place), _proofs(aurora))
        found += operation.list_slots(place, repository, _proofs(aurora))
    return found


def prove_key(aurora: Aurora, secret: Secret, *, storage: Place = "primary") -> list[str]:
    """Ids of the slots that *secret* opens, noted as proven. Raises WrongKey."""
    with _recorded(aurora, "key test", storage) as note:
        found = operation.prove(storage, aurora.open_owned(storage), secret, _proofs(aurora))
        note.facts["slots"] = found
    return found


def add_key(
    aurora: Aurora,
    secret: NewSecret,
    *,
    storage: Place = "primary",
    label: str = "",
    kdf: Kdf | None = None,
    reveal: Callable[[str], None] | None = None,
    sink: EventSink = discard,
) -> str:
    """Add a way to open a storage's repository; the slot's id.

    Args:
        secret: None makes a recovery code, which *reveal* gets before the slot is made.
    """
    made: Secret
    if secret is None:
        code = new_recovery_code()
        (reveal or _nobody_looks)(code)
        made = RecoveryCode(code)
    else:
        made = secret
    with _recorded(aurora, "key add", storage, sink) as note:
        slot_id = operation.add(_ring(aurora, storage, sink), made, label=label, kdf=kdf or Kdf())
        note.facts["slots"] = [slot_id]
    return slot_id


def remove_key(
    aurora: Aurora, slot_id: str, *, storage: Place = "primary", sink: EventSink = discard
) -> None:
    """Remove a key slot, by its id or a unique beginning. Raises UsageError for the last one."""
    with _recorded(aurora, "key remove", storage, sink) as note:
        note.facts["slots"] = [operation.remove(_ring(aurora, storage, sink), slot_id)]


def rotate_key(
    aurora: Aurora,
    new: Passphrase | None,
    *,
    storage: Place = "primary",
    kdf: Kdf | None = None,
    reveal: Callable[[str], None] | None = None,
    sink: EventSink = discard,
) -> Rotation:
    """Replace the passphrase in use by *new*; with None every recovery code by a new one.

    Args:
        reveal: gets a new recovery code before anything is changed, and may raise.
    """
    old = None if new is None else Passphrase(aurora.passphrase(storage))
    with _recorded(aurora, "key rotate", storage, sink) as note:
        done = operation.rotate(
            _ring(aurora, storage, sink),
            old=old,
            new=new,
            kdf=kdf or Kdf(),
            reveal=reveal or _nobody_looks,
        )
        note.facts |= {"kind": done.kind, "added": done.added, "removed": done.removed}
    return done


def recovery_sheet_of(aurora: Aurora, *, new_codes: bool = False, sink: EventSink = discard) -> str:
    """The recovery sheet; with *new_codes* fresh recovery codes are made and stand on it.

    Codes made before are never removed by this.
    """
    codes: dict[str, str] = {}
    repositories: dict[Place, Repository] = {p: aurora.open_owned(p) for p in _places(aurora)}
    if new_codes:
        for place in repositories:
            add_key(
                aurora, None, storage=place, label="on the recovery sheet",
                reveal=lambda code, place=place: codes.__setitem__(place, code),  # type: ignore[misc]
                sink=sink,
            )  # fmt: skip
    settings = aurora.settings
    storages = {"primary": settings.primary, "secondary": settings.secondary}
    return recovery_sheet(
        SheetFacts(
            database=aurora.database,
            source=aurora.source().redacted() if settings.source.dsn else "not configured",
            storages={p: aurora.storage(p).url for p in repositories},
            repositories={p: one.repository_id.hex() for p, one in repositories.items()},
            slots=list_keys(aurora),
            recipients=settings.sealed.recipients,
            credentials={
                p: [f"AURORA_{p}_{key}".upper() for key in credential_references(p, found)]
                for p in repositories
                if (found := storages[p]) is not None
            },
            codes=codes,
        )
    )


def _nobody_looks(_code: str) -> None:
    raise UsageError("nobody would see the new recovery code", hint="Give reveal=….")


@contextmanager
def _recorded(
    aurora: Aurora, name: str, storage: Place, sink: EventSink = discard
) -> Iterator[Recording]:
    """Record the work in the trail, which the primary's key seals: also for the secondary."""
    with recorded(aurora, "key", name, sink, storage=storage) as note:
        with contextlib.suppress(AuroraError):  # then the record waits in the spool
            note.repository = aurora.open_primary()
        yield note


def _ring(aurora: Aurora, place: Place, sink: EventSink) -> Ring:
    return Ring(
        place,
        aurora.open_owned(place),
        _proofs(aurora),
        aurora.open_secondary_view if place == "primary" and aurora.has_secondary else None,
        sink,
    )


def _places(aurora: Aurora) -> tuple[Place, ...]:
    return ("primary", "secondary") if aurora.has_secondary else ("primary",)


def _proofs(aurora: Aurora) -> Proofs:
    return Proofs(Path(aurora.settings.base, "aurora.state"))
