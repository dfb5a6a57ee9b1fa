"""Sessions: the random data key of each run, wrapped under the master key.

Keys of data are never derived from anything and never used by two runs, so no counter has
to be remembered: a lying storage or two hosts at once cannot make a nonce repeat.
"""

import os
import threading
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aurora import clock
from aurora.errors import ObjectMissing
from aurora.repository import signed
from aurora.repository.damage import damaged
from aurora.repository.derive import KEY_BYTES, MasterKey
from aurora.repository.envelope import NONCE_BYTES, TAG_BYTES, SessionKey, parse_header
from aurora.repository.layout import (
    FORMAT,
    SID_BYTES,
    ObjectType,
    parse_content,
    parse_session,
    session_name,
    sid8,
)
from aurora.repository.reader import ObjectReader

EPOCH = 1
"""The epoch of new wrappings; rotating it re-wraps all sessions (not in this version)."""


def write_session(
    master: MasterKey, session: SessionKey, *, created_at: datetime, nonce: bytes | None = None
) -> bytes:
    """The stored bytes of ``sessions/<sid>``. ``nonce`` is for test vectors."""
    nonce = nonce or os.urandom(NONCE_BYTES)
    name = session_name(session.sid)
    wrapped = AESGCM(master.wrap_key(EPOCH)).encrypt(
        nonce, session.key, _associated(master, session.sid, EPOCH)
    )
    document: signed.Document = {
        "created_at": clock.isoformat(created_at),
        "epoch": EPOCH,
        "format": FORMAT,
        "kind": "session",
        "nonce": nonce.hex(),
        "repository": master.repository_id.hex(),
        "sid": session.sid.hex(),
        "wrapped": wrapped.hex(),
    }
    return signed.write_clear(
        document, name=name, repository_id=master.repository_id, mac_key=master.mac_key
    )


def read_session(stored: bytes, *, name: str, master: MasterKey) -> SessionKey:
    """The session key in *stored*. Raises ObjectDamaged."""
    document = signed.read_clear(stored, name=name)
    signed.prove_clear(
        document, name=name, repository_id=master.repository_id, mac_key=master.mac_key
    )
    try:
        sid = bytes.fromhex(document["sid"])
        nonce, wrapped = bytes.fromhex(document["nonce"]), bytes.fromhex(document["wrapped"])
        epoch = int(document["epoch"])
        if len(nonce) != NONCE_BYTES or len(wrapped) != KEY_BYTES + TAG_BYTES:
            raise ValueError("wrong sizes")
        key = AESGCM(master.wrap_key(epoch)).decrypt(
            nonce, wrapped, _associated(master, sid, epoch)
        )
    except (KeyError, TypeError, ValueError, OverflowError, InvalidTag) as error:
        raise damaged(name, "its wrapped key does not open") from error
    return SessionKey(sid, key)


class Sessions:
    """The sessions of one repository, each read once. Threads may share it."""

    def __init__(self, reader: ObjectReader, master: MasterKey) -> None:
        self._reader = reader
        self._master = master
        self._held: dict[bytes, SessionKey] = {}
        self._lock = threading.Lock()

    def get(self, sid: bytes) -> SessionKey:
        """The key of session *sid*. Raises ObjectMissing, ObjectDamaged, StorageError."""
        with self._lock:
            held = self._held.get(sid)
        if held is None:
            name = session_name(sid)
            held = self._reader.fetch(
                name, lambda stored: read_session(stored, name=name, master=self._master)
            )
            with self._lock:
                self._held[sid] = held
        return held

    def of(self, sealed: bytes, *, name: str) -> SessionKey:
        """The key that opens the sealed object *name*.

        Raises:
            ObjectDamaged: the header cannot be that object's.
            ObjectMissing: the session itself is gone.
        """
        sid = parse_header(sealed, name=name).sid
        content = parse_content(name)
        if content is not None and content.sid8 != sid8(sid):
            raise damaged(name, "its header names another session")
        try:
            return self.get(sid)
        except ObjectMissing:
            # Is the session gone, or is it the header that lies about its name?
            if content is not None and self._another(sid):
                raise damaged(name, "its header names a session that never was") from None
            raise

    def _another(self, sid: bytes) -> bool:
        known = (
            parse_session(i.name) for i in self._reader.storage.list(ObjectType.SESSION.prefix)
        )
        return any(other[: len(sid) // 4] == sid[: len(sid) // 4] for other in known if other)


def new_session() -> SessionKey:
    """A session with a fresh id and a fresh key."""
    return SessionKey(os.urandom(SID_BYTES), os.urandom(KEY_BYTES))


def _associated(master: MasterKey, sid: bytes, epoch: int) -> bytes:
    return b"aurora/1/session\0" + master.repository_id + sid + epoch.to_bytes(4, "big")
