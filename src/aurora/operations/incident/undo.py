"""The undo file: how the database was before writes were stopped, signed, off the server.

Text that a person can read. It is written and synced before anything is changed, and what
takes writes back reads nothing else. Its MAC takes the repository's key: a file that
somebody has edited is refused, because it says which grants to make.
"""

import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from aurora.errors import ObjectDamaged, UsageError
from aurora.operations.incident.record import write_durably
from aurora.repository import canonical

UNDO = "undo.json"  # the file, in the directory of its incident
Sign = Callable[[bytes], str]
"""The MAC of a text under the repository's key, as hex digits."""


class TableBefore(msgspec.Struct, frozen=True):
    """A table and its grants, as the catalog spells them."""

    oid: int
    schema: str
    name: str
    kind: str  # pg_class.relkind: r or p
    owner: str
    acl: list[str] | None  # relacl, item by item; None: the default
    columns: dict[str, list[str]]  # attacl of the columns that have one
    writers: list[str]  # roles that may write it


class Session(msgspec.Struct, frozen=True):
    """A client's session when the file was written."""

    pid: int
    role: str
    application: str
    address: str
    state: str
    since: str  # start of its transaction, "" where none is open
    writes: bool  # its transaction has written


class UndoFile(msgspec.Struct, frozen=True):
    """The state before, and of what."""

    incident: str
    made_at: str
    made_by: str
    server: str  # address without secrets
    system_identifier: str
    database: str
    database_oid: int
    lsn: str
    roles: list[dict[str, Any]]  # name and attributes of every role that may log in or write
    settings: list[str]  # of the database: name=value, as pg_db_role_setting has them
    role_settings: list[dict[str, Any]]
    default_acl: list[dict[str, Any]]
    tables: list[TableBefore]
    sessions: list[Session]
    revoke_from: list[str]  # roles that were named; empty: the fence is for everybody
    event_triggers: bool
    format: int = 1


def write_undo(path: Path, undo: UndoFile, sign: Sign | None) -> None:
    """Write *undo* durably. Raises OSError."""
    document = msgspec.to_builtins(undo)
    mac = sign(canonical.dumps(document)) if sign else ""
    text = json.dumps({**document, "mac": mac}, indent=1, ensure_ascii=False)
    write_durably(path, text.encode() + b"\n")


def read_undo(path: Path, sign: Sign | None, *, accept_unsigned: bool = False) -> UndoFile:
    """The undo file at *path*, its MAC proven.

    Raises:
        UsageError: no such file, or it is not signed and *accept_unsigned* is not given.
        ObjectDamaged: it was altered.
    """
    try:
        document = json.loads(path.read_bytes())
        mac = str(document.pop("mac"))
        undo = msgspec.convert(document, UndoFile)
    except FileNotFoundError as error:
        raise UsageError(f"no undo file at {path}") from error
    except (OSError, ValueError, KeyError, AttributeError, msgspec.ValidationError) as error:
        raise ObjectDamaged(
            f"{path} does not read as an undo file", hint=_BY_HAND, context={"name": str(path)}
        ) from error
    if accept_unsigned:
        return undo
    if sign is None or not mac:
        raise UsageError(
            f"the undo file {path} cannot be proven: "
            + ("it was made without a key" if sign else "the repository's key is not at hand"),
            hint="Read it, and give --accept-unsigned if it says what was. Nothing was changed.",
        )
    if not hmac.compare_digest(sign(canonical.dumps(document)), mac):
        raise ObjectDamaged(
            f"the undo file {path} was altered: its MAC is wrong",
            hint=_BY_HAND,
            context={"name": str(path)},
        )
    return undo


_BY_HAND = (
    "Nothing was changed. A copy is in the repository's audit trail. docs/incident.md says how "
    "to take the fence away by hand."
)
