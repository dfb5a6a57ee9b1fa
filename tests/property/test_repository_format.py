"""Properties of the format: what goes in comes out, and nothing else does."""

import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurora.errors import ObjectDamaged
from aurora.repository import canonical, outer, signed
from aurora.repository.derive import MasterKey
from aurora.repository.envelope import SessionKey, open_sealed, padme, seal
from aurora.repository.keys import RecoveryCode, new_recovery_code
from aurora.repository.layout import CONTENT_TYPES, ObjectType, is_safe
from aurora.repository.outer import OuterKey, OuterNames, unwrap, wrap
from aurora.repository.refs import Previous, RefObject, Refs, read_refs, write_refs
from tests.unit.test_repository_kit import EPOCH

REPOSITORY = bytes(16)
KEY = bytes(range(32))
NAMES = OuterNames(MasterKey(REPOSITORY, KEY))

names = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=60).filter(
    lambda step: step not in (".", "..")
)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
keys = st.binary(min_size=32, max_size=32)
sids = st.binary(min_size=16, max_size=16)
sealed_types = st.sampled_from([*CONTENT_TYPES, ObjectType.BACKUP])
contents = st.one_of(
    st.binary(max_size=3000),
    st.tuples(st.binary(max_size=9), st.integers(0, 3000)).map(lambda pair: pair[0] * pair[1]),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(contents, paths, sealed_types, keys, sids, st.integers(-5, 9))
def test_sealed_and_opened(
    payload: bytes, name: str, kind: ObjectType, key: bytes, sid: bytes, level: int
) -> None:
    """Any payload, under any name, key and level."""
    session = SessionKey(sid, key)
    stored = seal(
        payload, kind=kind, name=name, repository_id=REPOSITORY, session=session, level=level
    )
    opened = open_sealed(stored, kind=kind, name=name, repository_id=REPOSITORY, session=session)
    assert opened == payload
    assert len(stored) <= 68 + padme(12 + len(payload)) + 16


@given(contents, st.data())
def test_any_alteration_is_refused(payload: bytes, data: st.DataObject) -> None:
    """A piece replaced, removed or inserted anywhere."""
    session = SessionKey(bytes(16), KEY)
    where = {"kind": ObjectType.CHUNK, "name": "chunks/x", "repository_id": REPOSITORY}
    stored = bytes(seal(payload, session=session, **where))  # type: ignore[arg-type]
    start = data.draw(st.integers(0, len(stored)))
    end = data.draw(st.integers(start, min(len(stored), start + 50)))
    altered = stored[:start] + data.draw(st.binary(max_size=50)) + stored[end:]
    if altered != stored:
        with pytest.raises(ObjectDamaged):
            open_sealed(altered, session=session, **where)  # type: ignore[arg-type]


@given(st.binary(max_size=300))
def test_no_bytes_crash_a_reader(stored: bytes) -> None:
    """Whatever a storage returns, the error is ObjectDamaged."""
    session = SessionKey(bytes(16), KEY)
    with pytest.raises(ObjectDamaged):
        open_sealed(
            stored, kind=ObjectType.LOG, name="log/x", repository_id=REPOSITORY, session=session
        )
    with pytest.raises(ObjectDamaged):
        signed.read_clear(stored, name="keys/x")
    with pytest.raises(ObjectDamaged):
        read_refs(stored, name="refs/db/x", repository_id=REPOSITORY, mac_key=None)
    with pytest.raises(ObjectDamaged):
        unwrap(stored, name="x", repository_id=REPOSITORY, outer=OuterKey(bytes(16), KEY))


@given(st.binary(min_size=1, max_size=500), paths, keys)
def test_wrapped_and_unwrapped(stored: bytes, name: str, key: bytes) -> None:
    """The second envelope adds the same number of bytes to everything."""
    used = OuterKey(bytes(16), key)
    wrapped = wrap(stored, name=name, repository_id=REPOSITORY, outer=used)
    assert unwrap(wrapped, name=name, repository_id=REPOSITORY, outer=used) == stored
    assert len(wrapped) == len(stored) + outer.OVERHEAD
    with pytest.raises(ObjectDamaged):
        unwrap(wrapped, name=name + "x", repository_id=REPOSITORY, outer=used)


@given(paths)
def test_names_of_the_secondary(name: str) -> None:
    """There and back, within what storages take."""
    stored = NAMES.encode(name)
    assert NAMES.decode(stored) == name
    assert is_safe(stored)
    assert all(len(step) <= 180 for step in stored.split("/"))


@given(paths)
def test_foreign_names_decode_to_nothing(stored: str) -> None:
    """No text by chance is a name."""
    assert NAMES.decode(stored) is None


@given(json_values)
def test_canonical_json(value: Any) -> None:
    """The text that Python's own encoder gives, and its inverse."""
    text = canonical.dumps(value)
    own = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert text == own.encode()
    assert canonical.loads(text) == value


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=5), keys, paths)
@settings(max_examples=50)
def test_signed_documents(document: dict[str, Any], key: bytes, name: str) -> None:
    """Proven by their key and under their name only."""
    document = {k: v for k, v in document.items() if k not in ("mac", "sha256")}
    place = {"name": name, "repository_id": REPOSITORY}
    stored = signed.write_clear(document, mac_key=key, **place)  # type: ignore[arg-type]
    read = signed.read_clear(stored, name=name)
    signed.prove_clear(read, mac_key=key, **place)  # type: ignore[arg-type]
    assert {k: v for k, v in read.items() if k != "mac"} == document
    for other in ({"name": name + "x"}, {"repository_id": b"\1" * 16}, {"mac_key": b"\1" * 32}):
        with pytest.raises(ObjectDamaged):
            signed.prove_clear(read, **{"mac_key": key, **place, **other})  # type: ignore[arg-type]


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=1, max_size=8))
def test_recovery_codes(bits: bytes, salt: bytes) -> None:
    """Any 128 bits print and read back, however they are typed."""
    code = new_recovery_code(bits)
    assert len(code) == 35
    assert RecoveryCode(code.upper().replace("-", "")).key(salt) == RecoveryCode(code).key(salt)
    assert RecoveryCode(code)._bits() == bits


hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
objects = st.builds(RefObject, paths, st.integers(1, 2**40), hashes)


@given(
    st.lists(objects, max_size=20),
    hashes,
    st.integers(1, 2**40),
    st.none() | st.builds(Previous, names, st.integers(1, 99), hashes),
)
@settings(max_examples=50)
def test_refs(held: list[RefObject], digest: str, sequence: int, previous: Previous | None) -> None:
    """Written and read; with the key proven, without it still checked for damage."""
    refs = Refs(
        database="db",
        backup="b",
        type="full",
        created_at=EPOCH,
        sequence=sequence,
        previous=previous,
        manifest=RefObject("backups/db/b", 7, digest),
        objects=held,
    )
    stored = write_refs(refs, repository_id=REPOSITORY, mac_key=KEY)
    for key in (KEY, None):
        read = read_refs(stored, name="refs/db/b", repository_id=REPOSITORY, mac_key=key)
        assert read.objects == sorted(held)
        assert (read.sequence, read.previous, read.manifest) == (sequence, previous, refs.manifest)
    for altered in (
        {"mac_key": bytes(32)},
        {"name": "refs/db/c"},
        {"repository_id": b"\1" * 16},
    ):
        place: dict[str, Any] = {"name": "refs/db/b", "repository_id": REPOSITORY, "mac_key": KEY}
        with pytest.raises(ObjectDamaged):
            read_refs(stored, **{**place, **altered})
