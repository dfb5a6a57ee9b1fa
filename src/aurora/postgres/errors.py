"""Errors of psycopg, asyncpg and the operating system, re-worded by SQLSTATE.

Every door to PostgreSQL wraps its calls in :func:`translated`, so that nothing but an
:class:`aurora.errors.AuroraError` leaves and no text holds a password or a row's values.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import asyncpg
import psycopg

from aurora.errors import (
    AuroraError,
    SourceChanged,
    SourceError,
    SourcePrivilege,
    SourceUnreachable,
    SourceUnsupported,
    TargetRefused,
    TargetUnfit,
    TargetUnreachable,
)
from aurora.postgres.conninfo import redact

Side = Literal["source", "target"]
Kind = Literal["unreachable", "privilege", "unsupported", "changed", "refused", "room"]

_CLASSES: dict[Side, dict[Kind, type[AuroraError]]] = {
    "source": {
        "unreachable": SourceUnreachable,
        "privilege": SourcePrivilege,
        "unsupported": SourceUnsupported,
        "changed": SourceChanged,
        "refused": SourceError,
        "room": SourceError,
    },
    "target": {
        "unreachable": TargetUnreachable,
        "privilege": TargetUnfit,
        "unsupported": TargetUnfit,
        "changed": TargetRefused,
        "refused": TargetRefused,
        "room": TargetUnfit,
    },
}

# SQLSTATE, or its first two characters -> what kind of failure, and what to do next.
_HINTS: dict[str, tuple[Kind, str]] = {
    "08": (
        "unreachable",
        "The connection was lost. Check the network and the server's log, then run again; "
        "nothing half-done counts.",
    ),
    "08P01": (
        "unreachable",
        "The server or a pooler broke the protocol. Connect to the server directly or through "
        "a pooler in session mode.",
    ),
    "0A000": ("unsupported", "The server does not support this; check its version and settings."),
    "28000": (
        "privilege",
        "The server does not let this user in. Check the user's name, pg_hba.conf, and whether "
        "the server demands TLS (sslmode=require).",
    ),
    "28P01": (
        "privilege",
        "Check the password. For the source it comes from AURORA_SOURCE_PASSWORD(_FILE, _COMMAND), "
        "[source] password in aurora.toml, PGPASSWORD or ~/.pgpass. On a Supabase pooler the "
        "user is postgres.<project-ref>.",
    ),
    "3D000": ("unsupported", "Check the database's name at the end of the connection string."),
    "42501": (
        "privilege",
        "Grant the role what it lacks (for reading everything: GRANT pg_read_all_data TO role), "
        "or use a role that has it. `aurora doctor` lists what is missing.",
    ),
    "53100": ("room", "The server's disk is full. Free space there, then run again."),
    "53200": ("room", "The server is out of memory. Lower --jobs or give the server more."),
    "53300": (
        "unreachable",
        "The server has no connection slot left. Lower --jobs, close idle clients or raise "
        "max_connections, then run again.",
    ),
    "55P03": (
        "changed",
        "Another session holds the table locked. Wait for it to end or raise "
        "[backup] lock_timeout, then run again.",
    ),
    "55006": ("refused", "Other sessions use it. Close them, then run again."),
    "40P01": ("changed", "The server broke a deadlock. Run again."),
    "40001": ("changed", "A concurrent change got in the way. Run again."),
    "42P01": ("changed", "The table is gone: the schema changed meanwhile. Run again."),
    "57014": (
        "refused",
        "A timeout or an administrator cancelled the statement. Look for a statement_timeout "
        "that a pooler or a supervisor enforces, then run again.",
    ),
    "57P01": ("unreachable", "An administrator ended the connection. Run again."),
    "57P02": ("unreachable", "The server crashed and recovers. Wait for it, then run again."),
    "57P03": ("unreachable", "The server is starting up or shutting down. Try again soon."),
    "57P05": ("unreachable", "The server closes idle sessions (idle_session_timeout). Run again."),
    "25P03": ("unreachable", "The server ended an idle transaction. Run again."),
    "25P04": ("unreachable", "The server's transaction_timeout ended the transaction. Raise it."),
    "25006": ("unsupported", "The server is read-only: a standby, or set to read-only."),
    "58030": ("refused", "The server could not read or write a file. Look at its log and disk."),
    "XX001": ("refused", "The server found damaged data on its own disk. Look at its log."),
    "XX002": ("refused", "An index on the server is damaged. REINDEX it, then run again."),
    "XX": ("refused", "The server reports an internal error. Look at its log."),
}
_UNREACHABLE = (
    "Check host, port and network, that the server runs and that it accepts TCP connections "
    "from here. A direct Supabase host has only an IPv6 address: without IPv6 use the session "
    "pooler's address (port 5432)."
)
_NO_PASSWORD = (
    "Give the password by AURORA_SOURCE_PASSWORD_FILE, AURORA_SOURCE_PASSWORD_COMMAND, "
    "AURORA_SOURCE_PASSWORD, [source] password in aurora.toml, PGPASSWORD or ~/.pgpass."
)
# libpq gives no SQLSTATE for failures while connecting: the server's own words are matched.
_WORDS: tuple[tuple[str, str], ...] = (
    ("password authentication failed", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("too many clients", "53300"),
    ("remaining connection slots", "53300"),
    ("too many connections", "53300"),
    ("the database system is", "57P03"),
    ("terminating connection due to administrator", "57P01"),
)


def translate(error: BaseException, side: Side, *, doing: str = "") -> AuroraError:
    """The :class:`AuroraError` that says what *error* means.

    *doing* says what was tried, lower case (``"reading table public.a"``).
    """
    if isinstance(error, AuroraError):
        return error
    state = _sqlstate(error)
    said = redact(_first_line(error))
    if not state:
        state = _state_from_words(said)
    kind, hint = _meaning(error, state, said)
    message = ": ".join(part for part in (doing, said) if part)
    context = {"sqlstate": state} if state else {}
    return _CLASSES[side][kind](message or f"the {side} failed", hint=hint, context=context)


@contextmanager
def translated(side: Side, *, doing: str = "") -> Iterator[None]:
    """Let nothing but AuroraError out of the block; foreign errors become its cause."""
    try:
        yield
    except AuroraError:
        raise
    except (
        psycopg.Error,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
    ) as error:
        raise translate(error, side, doing=doing) from error


def is_disconnect(error: BaseException) -> bool:
    """Whether the connection is gone, so that a new one may help."""
    state = _sqlstate(error)
    if state:
        return state.startswith("08") or state in {"57P01", "57P02", "57P03", "57P05", "25P03"}
    return isinstance(
        error,
        ConnectionError
        | TimeoutError
        | psycopg.OperationalError
        | asyncpg.ConnectionDoesNotExistError
        | asyncpg.ConnectionFailureError
        | asyncpg.InternalClientError,  # lost between two steps of asyncpg's own
    )


def _meaning(error: BaseException, state: str, said: str) -> tuple[Kind, str]:
    if state:
        found = _HINTS.get(state) or _HINTS.get(state[:2])
        return found or ("refused", "")
    if "no password supplied" in said or "password is required" in said:
        return "privilege", _NO_PASSWORD
    if "server does not support SSL" in said or "rejected SSL upgrade" in said:
        return "unsupported", "The server offers no TLS. Remove sslmode or set sslmode=prefer."
    if "certificate" in said.lower():
        return "unreachable", (
            "The server's certificate could not be verified. Point sslrootcert at the right "
            "root certificate, or use the host name that the certificate carries."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "room", "The disk is full. Free space, then run again."
    if "does not exist" in said and "database" in said:
        return _HINTS["3D000"]
    if 'role "' in said and "does not exist" in said:
        return "privilege", "Check the user's name in the connection string."
    if isinstance(error, psycopg.OperationalError | OSError | asyncpg.InterfaceError):
        return "unreachable", _UNREACHABLE
    return "refused", ""


def _sqlstate(error: BaseException) -> str:
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) and len(state) == 5 else ""


def _state_from_words(said: str) -> str:
    return next((state for words, state in _WORDS if words in said), "")


def _first_line(error: BaseException) -> str:
    """The primary message only: details and context may hold rows of the user's data."""
    if isinstance(error, psycopg.Error):
        primary = error.diag.message_primary
        text = primary or _of_connection(str(error))
    elif isinstance(error, asyncpg.PostgresError):
        text = str(getattr(error, "message", None) or error)
    elif isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if isinstance(error.filename, str) else ""
        text = place + error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.splitlines()[0].split()) if text.strip() else type(error).__name__


def _of_connection(text: str) -> str:
    """libpq's several lines about one or many attempts, as the one line that matters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    attempts = [line for line in lines if "failed:" in line or "FATAL:" in line]
    line = attempts[-1] if attempts else (lines[0] if lines else "")
    line = line.removeprefix("connection failed: ").removeprefix("- ")
    line = re.sub(r"^(?:host: .*?, port: .*?, hostaddr: .*?: )", "", line)
    # Which address it was is told by the caller's own words.
    line = re.sub(r"^connection (?:to server )?(?:at|on socket) .*? failed: ", "", line)
    return re.sub(r"^(?:FATAL|ERROR|fe_sendauth):\s+", "", line)
