"""Where everything of a repository lives: object names of format 1, built and parsed.

A name is used once and never again. A sealed, content-addressed object is named by the
keyed id of its content and by the session that wrote it, so a second upload of the same
content is a second name. docs/format.md, "The tree", is normative.
"""

import enum
import re
from dataclasses import dataclass

from aurora.errors import UsageError

FORMAT = 1
"""The format number that this code writes, and the newest that it reads."""

REPOSITORY_ID_BYTES = 16
SID_BYTES = 16


class ObjectType(enum.StrEnum):
    """The first step of an object's name."""

    CONFIG = "config"
    SLOT = "keys"
    OUTER = "outer"  # on a secondary: the wrapped outer key
    SESSION = "sessions"
    CHUNK = "chunks"
    TABLE = "tables"
    LOG = "log"
    OBJECT = "objects"
    SEALED = "sealed"  # parts of sealed backups: age files
    BACKUP = "backups"
    REFS = "refs"
    LEASE = "leases"
    CANDIDATES = "gc"
    AUDIT = "audit"
    CLAIM = "claims"
    HOLD = "holds"
    REMOVAL = "removals"
    LOCKS = "locks"  # until when a storage with object lock keeps what each backup needs

    @property
    def prefix(self) -> str:
        """What a listing of all objects of this type starts with."""
        return f"{self.value}/"


CONFIG = ObjectType.CONFIG.value

PROBE = "probe/"
"""Below it a trial of the storage (``aurora doctor``) puts its own; no part of a repository."""

UNLOCKED = (
    ObjectType.LEASE.prefix, ObjectType.CANDIDATES.prefix, ObjectType.CLAIM.prefix,
    ObjectType.REMOVAL.prefix, ObjectType.LOCKS.prefix, PROBE,
)  # fmt: skip
"""Prefixes of what Aurora itself deletes within days and no restore needs: never locked."""

CONTENT_TYPES = (ObjectType.CHUNK, ObjectType.TABLE, ObjectType.LOG, ObjectType.OBJECT)
"""The sealed types that are named by their content."""

TYPE_CODES = {
    ObjectType.CHUNK: 1,
    ObjectType.TABLE: 2,
    ObjectType.LOG: 3,
    ObjectType.OBJECT: 4,
    ObjectType.BACKUP: 5,
    ObjectType.AUDIT: 6,
}
"""One byte of the envelope's header, of the key derivation and of the content id."""

_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_CONTENT = re.compile(r"(chunks|tables|log|objects)/([0-9a-f]{2})/([0-9a-f]{64})-([0-9a-f]{8})\Z")
_SAFE = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*\Z")
_PART = re.compile(r"sealed/([a-z0-9][a-z0-9._-]{0,63})/([0-9A-Za-z-]{1,64})/([a-z0-9.]{1,64})\Z")
_SESSION = re.compile(r"sessions/([0-9a-f]{32})\Z")
_LEASE = re.compile(r"leases/([0-9a-f]{32})\.(\d{1,9}|done)\Z")
_HOLD = re.compile(r"holds/([^/]+)/([^/.]+)\.([0-9a-f]{16})(\.released)?\Z")
_REMOVAL = re.compile(r"removals/([^/]+)/([0-9a-f]{16})(?:\.([^/.]+))?\Z")
_MAX_NAME = 512


@dataclass(frozen=True, slots=True)
class ContentName:
    """The parts of ``chunks/ab/<64 hex>-<sid8>`` and its like."""

    type: ObjectType
    payload_id: str  # 64 hex digits: the keyed BLAKE3 id of type and payload
    sid8: str  # the first 8 hex digits of the writing session's id


def content_name(kind: ObjectType, payload_id: str, sid8: str) -> str:
    """The name under which the session *sid8* stores the content *payload_id*."""
    return f"{kind.value}/{payload_id[:2]}/{payload_id}-{sid8}"


def parse_content(name: str) -> ContentName | None:
    """The inverse of :func:`content_name`; None for any other name."""
    found = _CONTENT.match(name)
    if found is None or found[2] != found[3][:2]:
        return None
    return ContentName(ObjectType(found[1]), found[3], found[4])


def slot_name(slot_id: str) -> str:
    """The name of one key slot."""
    return f"{ObjectType.SLOT.value}/{slot_id}"


def session_name(sid: bytes) -> str:
    """The name of the object that wraps the data key of session *sid* (16 bytes)."""
    return f"{ObjectType.SESSION.value}/{sid.hex()}"


def parse_session(name: str) -> bytes | None:
    """The session id in a name of a session object; None for any other name."""
    found = _SESSION.match(name)
    return bytes.fromhex(found[1]) if found else None


def sid8(sid: bytes) -> str:
    """The 8 hex digits by which content names tell their session."""
    return sid[:4].hex()


def lease_name(sid: bytes, mark: int | str) -> str:
    """``leases/<sid>.<n>`` for heartbeat *mark*, ``leases/<sid>.done`` for the end."""
    return f"{ObjectType.LEASE.value}/{sid.hex()}.{mark}"


def parse_lease(name: str) -> tuple[bytes, str] | None:
    """Session id and mark (``"0"``, ``"1"``, ... or ``"done"``); None for any other name."""
    found = _LEASE.match(name)
    return (bytes.fromhex(found[1]), found[2]) if found else None


def backup_name(database: str, backup: str) -> str:
    """The name of a manifest. Its presence is the commit."""
    return f"{ObjectType.BACKUP.value}/{database}/{backup}"


def refs_name(database: str, backup: str) -> str:
    """The name of the refs of a backup."""
    return f"{ObjectType.REFS.value}/{database}/{backup}"


def part_name(database: str, backup: str, part: str) -> str:
    """The name of one part of a sealed backup."""
    return f"{ObjectType.SEALED.value}/{database}/{backup}/{part}"


def parse_part(name: str) -> tuple[str, str, str] | None:
    """Database, backup id and part; None for any other name."""
    found = _PART.match(name)
    return (found[1], found[2], found[3]) if found else None


def parse_dated(name: str) -> tuple[str, str] | None:
    """Database and backup id of a manifest's or refs' name; None for any other name."""
    steps = name.split("/")
    if len(steps) != 3 or steps[0] not in (ObjectType.BACKUP, ObjectType.REFS):
        return None
    database, backup = steps[1:]
    return (database, backup) if _LABEL.match(database) and _SAFE.match(backup) else None


def hold_name(database: str, backup: str, hold_id: str) -> str:
    """The name of a hold: 16 hex digits tell it from others on the same backup."""
    return f"{ObjectType.HOLD.value}/{database}/{backup}.{hold_id}"


def release_name(hold: str) -> str:
    """The name of what ends the hold of that name."""
    return f"{hold}.released"


def parse_hold(name: str) -> tuple[str, str, bool] | None:
    """Database, backup, and whether it is a release; None for any other name."""
    found = _HOLD.match(name)
    if found is None or not _LABEL.match(found[1]):
        return None
    return found[1], found[2], found[4] is not None


def removal_name(database: str, removal_id: str) -> str:
    """The name of a list of backups that are to be removed."""
    return f"{ObjectType.REMOVAL.value}/{database}/{removal_id}"


def undo_name(removal: str, backup: str) -> str:
    """The name of what takes *backup* out of the removal of that name."""
    return f"{removal}.{backup}"


def parse_removal(name: str) -> tuple[str, str] | None:
    """Database, and the backup that is taken out or ``""``; None for any other name."""
    found = _REMOVAL.match(name)
    if found is None or not _LABEL.match(found[1]):
        return None
    return found[1], found[3] or ""


def is_safe(name: str) -> bool:
    """Whether *name* can be an object's name at all; names read from objects are asked."""
    return (
        len(name) <= _MAX_NAME
        and _SAFE.match(name) is not None
        and not any(step in (".", "..") for step in name.split("/"))
    )


def check_database(label: str) -> str:
    """Return *label*, or raise UsageError when it cannot label a database."""
    if not _LABEL.match(label):
        raise UsageError(
            f"not a database label: {label[:80]!r}",
            hint="Use 1 to 64 lower-case letters, digits, dots, underscores and hyphens, "
            "beginning with a letter or digit, for example production.",
        )
    return label
