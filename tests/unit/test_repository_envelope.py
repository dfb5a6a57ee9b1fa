"""The envelope: opens in one place only, and refuses everything else."""

import os
import struct
from unittest import mock

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aurora.errors import IntegrityError, ObjectDamaged, UsageError
from aurora.repository import envelope
from aurora.repository.envelope import SessionKey, open_sealed, padme, seal
from aurora.repository.layout import ObjectType
from aurora.storage.base import MAX_OBJECT

REPOSITORY = bytes(range(16))
SESSION = SessionKey(bytes(range(16, 32)), bytes(range(32, 64)))
NAME = f"chunks/ab/{'ab' * 32}-10111213"


def sealed(payload: bytes, name: str = NAME) -> bytearray:
    """*payload* sealed as a chunk of the test's session."""
    return seal(
        payload, kind=ObjectType.CHUNK, name=name, repository_id=REPOSITORY, session=SESSION
    )


def opened(
    stored: bytes | bytearray,
    *,
    kind: ObjectType = ObjectType.CHUNK,
    name: str = NAME,
    repository_id: bytes = REPOSITORY,
    session: SessionKey = SESSION,
) -> bytes:
    """*stored* opened, where it belongs unless told otherwise."""
    return open_sealed(stored, kind=kind, name=name, repository_id=repository_id, session=session)


def test_every_bit_counts() -> None:
    """A flip of any bit of any byte is refused."""
    stored = sealed(b"twenty rows of a table")
    assert opened(stored) == b"twenty rows of a table"
    for at in range(len(stored)):
        for bit in range(8):
            altered = bytearray(stored)
            altered[at] ^= 1 << bit
            with pytest.raises(ObjectDamaged) as info:
                opened(altered)
            assert info.value.context["name"] == NAME


def test_every_length_counts() -> None:
    """Cut anywhere, or longer by a byte, it is refused."""
    stored = sealed(b"twenty rows of a table")
    for length in range(len(stored)):
        with pytest.raises(ObjectDamaged):
            opened(stored[:length])
    with pytest.raises(ObjectDamaged):
        opened(stored + b"\0")


def test_it_opens_in_its_own_place_only() -> None:
    """Another name, type, repository, session id or key: refused."""
    stored = sealed(b"rows")
    with pytest.raises(ObjectDamaged):
        opened(stored, name=NAME.replace("/ab/", "/ac/"))
    with pytest.raises(ObjectDamaged):
        opened(stored, kind=ObjectType.TABLE)
    with pytest.raises(ObjectDamaged):
        opened(stored, repository_id=bytes(16))
    with pytest.raises(ObjectDamaged):
        opened(stored, session=SessionKey(bytes(16), SESSION.key))
    with pytest.raises(ObjectDamaged):
        opened(stored, session=SessionKey(SESSION.sid, bytes(32)))


def test_one_payload_is_never_sealed_alike() -> None:
    """A fresh nonce each time, so the two differ from the header on."""
    first, second = sealed(b"rows"), sealed(b"rows")
    assert first[:24] == second[:24]
    assert first[24:36] != second[24:36]
    assert first[68:] != second[68:]


def test_incompressible_payloads_are_stored_raw() -> None:
    """Random bytes grow by the overhead and the padding alone."""
    payload = os.urandom(100_000)
    stored = sealed(payload)
    assert len(stored) == envelope.HEADER_BYTES + padme(envelope.INNER_BYTES + 100_000) + 16
    assert opened(stored) == payload
    assert len(sealed(b"a" * 100_000)) < 300


def test_sizes_hide_the_exact_length() -> None:
    """Padmé: few sizes, little waste."""
    lengths = range(100_000, 130_000)
    assert len({padme(length) for length in lengths}) < 20
    assert all(length <= padme(length) <= length * 1.031 for length in lengths)
    assert all(padme(length) <= max(length + 1, length * 1.12) for length in range(1, 5000))


@pytest.mark.parametrize("payload", [b"", b"a", b"ab" * 5, memoryview(b"abc"), bytearray(b"x")])
def test_small_payloads(payload: bytes) -> None:
    """Even nothing is something, and any buffer does."""
    assert opened(sealed(payload)) == payload


@pytest.mark.parametrize("level", [-5, 1, 3, 19])
def test_levels(level: int) -> None:
    """The level changes the size, never what is opened."""
    payload = b"row\t1\n" * 10_000
    stored = seal(
        payload,
        kind=ObjectType.CHUNK,
        name=NAME,
        repository_id=REPOSITORY,
        session=SESSION,
        level=level,
    )
    assert opened(stored) == payload


def _forge(inner: bytes) -> bytes:
    """What somebody with the keys, but no manners, could seal."""
    stored = sealed(b"x")
    header = bytes(stored[:68])
    key = envelope._object_key(SESSION, ObjectType.CHUNK, REPOSITORY, NAME)[0]
    return header + AESGCM(key).encrypt(header[24:36], inner, header + REPOSITORY + NAME.encode())


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    """Neither a lying header nor an honest gigabyte reaches the decompressor."""
    frame = zstandard.ZstdCompressor().compress(bytes(80 * 2**20))
    for raw in (10, 80 * 2**20):
        inner = struct.pack(">B3sII", 1, bytes(3), raw, 0) + frame
        with (
            mock.patch.object(envelope, "_decompressor", side_effect=AssertionError("inflated")),
            pytest.raises(ObjectDamaged),
        ):
            opened(_forge(inner))


@pytest.mark.parametrize(
    "inner",
    [
        struct.pack(">B3sII", 0, bytes(3), 5, 0) + b"four",
        struct.pack(">B3sII", 2, bytes(3), 4, 0) + b"four",
        struct.pack(">B3sII", 0, b"\0\0\1", 4, 0) + b"four",
        struct.pack(">B3sII", 0, bytes(3), 4, 2**31) + b"four",
        struct.pack(">B3sII", 1, bytes(3), 4, 0) + b"four",
        struct.pack(">B3sII", 1, bytes(3), 4, 0) + zstandard.compress(b"four") * 2,
    ],
)
def test_nonsense_inside_is_refused(inner: bytes) -> None:
    """A right tag does not excuse wrong sizes or codecs."""
    with pytest.raises(ObjectDamaged):
        opened(_forge(inner))


def test_too_much_is_refused() -> None:
    """Nothing that no storage would take is sealed, whether raw or packed."""
    with pytest.raises(UsageError, match="too much"):
        sealed(bytes(envelope.MAX_RAW + 1))
    with pytest.raises(UsageError, match="too much"):
        sealed(os.urandom(MAX_OBJECT - 50))


def test_a_machine_that_computes_wrongly_is_noticed() -> None:
    """What was sealed is opened again before it leaves."""
    with (
        mock.patch.object(envelope, "AESGCM", _Flaky),
        pytest.raises(IntegrityError, match="own check"),
    ):
        sealed(b"rows")


class _Flaky:
    """An AES-GCM on bad memory: it flips a bit of what it encrypts."""

    def __init__(self, key: bytes) -> None:
        self._inner = AESGCM(key)

    def encrypt_into(self, nonce: bytes, data: bytes, associated: bytes, into: memoryview) -> int:
        """As AESGCM, with one bit wrong."""
        written = self._inner.encrypt_into(nonce, data, associated, into)
        into[3] ^= 1
        return written

    def decrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """As AESGCM."""
        return self._inner.decrypt(nonce, data, associated)
