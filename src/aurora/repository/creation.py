"""How a repository comes to be, and how a secret opens it."""

import os

from aurora import clock
from aurora.errors import ObjectDamaged, UsageError
from aurora.repository import keys, slots
from aurora.repository.config import Role, read_config, write_config
from aurora.repository.damage import damaged
from aurora.repository.derive import KEY_BYTES, MasterKey
from aurora.repository.keys import Kdf, KeyFile, Passphrase, RecoveryCode, Secret
from aurora.repository.layout import CONFIG, PROBE, REPOSITORY_ID_BYTES, ObjectType
from aurora.repository.once import put_once
from aurora.repository.reader import ObjectReader
from aurora.storage.base import Storage


def unlock(reader: ObjectReader, secret: Secret, role: Role) -> MasterKey:
    """The master key of the repository behind *reader*; see :meth:`Repository.open`."""
    config = read_config(reader, role=role)
    foreign: ObjectDamaged | None = None
    for master in slots.unlock(reader, config.repository_id, secret):
        try:
            config.prove(master.mac_key)
        except ObjectDamaged as error:
            foreign = error
        else:
            return master
    raise foreign or damaged(CONFIG, "no key slot belongs to it")


def create_keys(
    storage: Storage, *, passphrase: str, kdf: Kdf, key_file: KeyFile | None
) -> tuple[MasterKey, str]:
    """The key slots of a new repository: its master key and recovery code."""
    _require_empty(storage)
    master = MasterKey(os.urandom(REPOSITORY_ID_BYTES), os.urandom(KEY_BYTES))
    code = keys.new_recovery_code()
    secrets: list[tuple[Secret, str]] = [
        (Passphrase(passphrase), "passphrase"),
        (RecoveryCode(code), "printed recovery code"),
    ]
    if key_file is not None:
        secrets.append((key_file, "key file"))
    for secret, label in secrets:
        name, stored = slots.write_slot(
            master, secret, kdf=kdf, label=label, created_at=clock.now()
        )
        put_once(storage, name, stored)
    return master, code


def finish_creation(storage: Storage, master: MasterKey, role: Role) -> None:
    """Put the config, which makes the repository exist."""
    stored = write_config(
        repository_id=master.repository_id,
        role=role,
        created_at=clock.now(),
        mac_key=master.mac_key,
    )
    put_once(storage, CONFIG, stored)
    # Some storages overwrite silently: of two who create at once, one must notice.
    if storage.get(CONFIG) != stored:
        raise _occupied(storage, CONFIG)


def _require_empty(storage: Storage) -> None:
    # The slots of a creation that was interrupted before its config are harmless, and so is
    # what a trial of the storage could not delete.
    leftovers = (ObjectType.SLOT.prefix, ObjectType.OUTER.prefix, PROBE)
    for info in storage.list(""):
        if not info.name.startswith(leftovers):
            raise _occupied(storage, info.name)


def _occupied(storage: Storage, name: str) -> UsageError:
    return UsageError(
        f"{storage.url} is not empty: there is an object {name}",
        hint="Nothing was changed. A repository needs a place of its own: give another "
        "directory or prefix, or leave `init` out if this is your repository.",
        context={"name": name},
    )
