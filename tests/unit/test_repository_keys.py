"""What opens a repository, and what must not."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from aurora.errors import AuroraError, ObjectDamaged, UsageError, WrongKey
from aurora.repository import canonical, signed
from aurora.repository.derive import MasterKey
from aurora.repository.door import Repository
from aurora.repository.keys import (
    WEAK_KDF_FOR_TESTS,
    Kdf,
    KeyFile,
    Passphrase,
    RecoveryCode,
    new_recovery_code,
)
from aurora.repository.slots import write_slot
from aurora.storage.memory import MemoryStorage
from tests.unit.test_repository_kit import EPOCH, PASSPHRASE, create, names, reopen


def test_each_secret_opens() -> None:
    """Passphrase, recovery code and key file reach the same contents."""
    storage, key_file = MemoryStorage(), KeyFile(os.urandom(32))
    made, code = Repository.create(
        storage, passphrase=PASSPHRASE, kdf=WEAK_KDF_FOR_TESTS, key_file=key_file
    )
    for secret in (Passphrase(PASSPHRASE), RecoveryCode(code), key_file):
        assert Repository.open(storage, secret).repository_id == made.repository_id
    assert sorted(slot.kind for slot in made.slots()) == [
        "key-file",
        "passphrase",
        "recovery-code",
    ]


@pytest.mark.parametrize(
    "secret",
    [Passphrase("wrong"), Passphrase(PASSPHRASE + " "), RecoveryCode(new_recovery_code())],
)
def test_a_wrong_secret(secret: Passphrase | RecoveryCode) -> None:
    """WrongKey, exit code 12, and no word of the secret in it."""
    storage = MemoryStorage()
    create(storage)
    with pytest.raises(WrongKey) as info:
        Repository.open(storage, secret)
    assert info.value.exit_code == 12
    assert secret.text not in f"{info.value!r} {info.value.hint} {info.value.context}"


def test_secrets_are_not_shown() -> None:
    """No repr holds one."""
    code = new_recovery_code()
    shown = repr((Passphrase("hunter2"), RecoveryCode(code), KeyFile(b"\x07" * 32)))
    shown += repr(MasterKey(bytes(16), b"master-key-master-key-master-key"))
    assert "hunter2" not in shown
    assert code not in shown
    assert "07" not in shown
    assert "master-key-m" not in shown


def test_a_passphrase_is_normalized() -> None:
    """The same letters typed on another system are the same passphrase."""
    storage = MemoryStorage()
    Repository.create(storage, passphrase="caf\u00e9 \uff11", kdf=WEAK_KDF_FOR_TESTS)
    Repository.open(storage, Passphrase("cafe\u0301 1"))


def test_a_recovery_code_is_read_leniently() -> None:
    """Case, hyphens, spaces and the classical misreadings do not matter."""
    code = new_recovery_code(bytes(16))
    assert code == new_recovery_code(bytes(16))
    assert [len(group) for group in code.split("-")] == [5] * 6
    sloppy = code.upper().replace("0", "O").replace("1", "l").replace("-", " ")
    assert RecoveryCode(sloppy).key(b"salt") == RecoveryCode(code).key(b"salt")


def test_a_typo_is_told_from_a_wrong_code() -> None:
    """Every change of one letter, and every exchange of neighbours, is seen as a typo."""
    code = new_recovery_code(bytes(range(16)))
    wrong = [
        code[:at] + other + code[at + 1 :]
        for at, letter in enumerate(code)
        if letter != "-"
        for other in "0123456789abcdefghjkmnpqrstvwxyz"
        if other != letter
    ]
    plain = code.replace("-", "")
    wrong += [
        plain[:at] + plain[at + 1] + plain[at] + plain[at + 2 :]
        for at in range(len(plain) - 1)
        if plain[at] != plain[at + 1]
    ]
    for text in [*wrong, code[:-1], code + "a", "u" * 30, ""]:
        with pytest.raises(UsageError):
            RecoveryCode(text).key(b"salt")


def test_a_short_key_file_is_refused(tmp_path: Path) -> None:
    """31 bytes are no key file, and a missing file says which."""
    with pytest.raises(UsageError, match="31 bytes"):
        KeyFile(bytes(31)).key(b"salt")
    with pytest.raises(UsageError, match="nothing-here"):
        KeyFile.read(tmp_path / "nothing-here")
    path = tmp_path / "key"
    path.write_bytes(bytes(range(32)))
    assert KeyFile.read(path).data == bytes(range(32))


@pytest.mark.parametrize(
    "kdf", [Kdf(iterations=2), Kdf(memory_kib=32 * 1024), replace(WEAK_KDF_FOR_TESTS, lanes=2)]
)
def test_weak_parameters_are_refused(kdf: Kdf) -> None:
    """Only the value meant for tests may be weak."""
    if kdf.allow_weak:
        kdf = replace(kdf, allow_weak=False)
    with pytest.raises(UsageError):
        Repository.create(MemoryStorage(), passphrase=PASSPHRASE, kdf=kdf)


def test_an_empty_passphrase_is_refused() -> None:
    """It would protect nothing."""
    with pytest.raises(UsageError):
        Repository.create(MemoryStorage(), passphrase="", kdf=WEAK_KDF_FOR_TESTS)


@pytest.mark.parametrize(
    "member,value",
    [
        ("memory_kib", 2**31),
        ("memory_kib", 1),
        ("memory_kib", True),
        ("iterations", 10**6),
        ("iterations", 0),
        ("lanes", 10**6),
        ("salt", "00"),
        ("name", "md5"),
    ],
)
def test_a_hostile_slot_costs_nothing(member: str, value: object) -> None:
    """Parameters out of bounds are refused before any memory is asked for."""
    storage = MemoryStorage()
    create(storage)
    for name in names(storage, "keys/"):
        document = signed.read_clear(storage.get(name), name=name)
        if document["type"] == "passphrase":
            document["kdf"][member] = value
            storage.put(name, _unsigned(document))
    with pytest.raises(ObjectDamaged, match="key derivation"):
        reopen(storage)


def test_a_slot_of_the_storage_is_refused() -> None:
    """Somebody who can write to the storage cannot make a key for it."""
    storage = MemoryStorage()
    repository = create(storage)
    forged = MasterKey(repository.repository_id, os.urandom(32))
    name, stored = write_slot(
        forged, Passphrase("intruder"), kdf=WEAK_KDF_FOR_TESTS, label="", created_at=EPOCH
    )
    storage.put(name, stored)
    with pytest.raises(ObjectDamaged):
        Repository.open(storage, Passphrase("intruder"))
    reopen(storage)
    foreign = [slot for slot in repository.slots() if not slot.genuine]
    assert [f"keys/{slot.id}" for slot in foreign] == [name]


def test_a_slot_without_the_owners_mac_is_refused() -> None:
    """Though it wraps the right key and its checksum fits."""
    storage = MemoryStorage()
    create(storage)
    for name in names(storage, "keys/"):
        document = signed.read_clear(storage.get(name), name=name)
        storage.put(name, _unsigned({**document, "mac": "00" * 32}))
    with pytest.raises(ObjectDamaged, match="MAC"):
        reopen(storage)


def test_a_clear_document_has_one_text_only() -> None:
    """White space, another order, or a member twice: refused, though the meaning is the same."""
    storage = MemoryStorage()
    create(storage)
    name = names(storage, "keys/")[0]
    good = storage.get(name)
    signed.read_clear(good, name=name)
    again = b'"id":"' + name.removeprefix("keys/").encode() + b'"'
    for text in (
        good.rstrip(),
        good + b"\n",
        good.replace(b",", b", ", 1),
        good.replace(again, again + b"," + again),
        good.replace(b'"label"', b'"\\u006cabel"'),
    ):
        assert text != good
        with pytest.raises(ObjectDamaged, match="canonical"):
            signed.read_clear(text, name=name)


def test_a_copied_slot_is_refused() -> None:
    """A slot under another name, or of another repository, does not open."""
    storage, other = MemoryStorage(), MemoryStorage()
    create(storage)
    create(other)
    slot = names(storage, "keys/")[0]
    storage.put("keys/0000000000000000", storage.get(slot))
    assert sum(1 for one in reopen(storage).slots() if not one.genuine) == 1
    for name in names(other, "keys/"):
        other.delete([name])
    for name in names(storage, "keys/"):
        other.put(name, storage.get(name))
    with pytest.raises(AuroraError):
        reopen(other)


def test_a_damaged_slot_is_not_called_a_wrong_passphrase() -> None:
    """The user must not doubt the passphrase when the object is broken."""
    storage = MemoryStorage()
    create(storage)
    for name in names(storage, "keys/"):
        storage.put(name, storage.get(name).replace(b'"wrapped"', b'"wrappee"'))
    with pytest.raises(ObjectDamaged, match="keys/"):
        reopen(storage)


def test_slots_are_added_and_removed() -> None:
    """A new passphrase opens, a removed one does not, the last slot stays."""
    storage = MemoryStorage()
    repository = create(storage)
    first = [slot.id for slot in repository.slots()]
    repository.add_slot(Passphrase("second"), label="laptop", kdf=WEAK_KDF_FOR_TESTS)
    assert {slot.label for slot in repository.slots()} >= {"laptop"}
    for slot in first:
        repository.remove_slot(slot)
    with pytest.raises(WrongKey):
        reopen(storage)
    opened = Repository.open(storage, Passphrase("second"))
    with pytest.raises(UsageError, match="last"):
        opened.remove_slot(opened.slots()[0].id)
    with pytest.raises(UsageError, match="no key slot"):
        opened.remove_slot("nonsense")


def _unsigned(document: signed.Document) -> bytes:
    """A document as the storage would forge it: checksum right, MAC as it was."""
    bare = {key: value for key, value in document.items() if key != "sha256"}
    import hashlib

    digest = hashlib.sha256(canonical.dumps(bare)).hexdigest()
    return canonical.dumps({**bare, "sha256": digest}) + b"\n"
