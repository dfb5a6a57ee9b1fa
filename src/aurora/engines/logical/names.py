"""Names and literals in SQL text, and sessions whose output does not vary."""

import psycopg
from psycopg import sql

Connection = psycopg.Connection[tuple[object, ...]]

# Everything that changes what COPY prints is pinned, so that equal rows are equal bytes:
# on any server, for any role's own settings, in every backup. The same values that
# pg_dump pins, for the same reason.
OUTPUT_SETTINGS = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
    "lc_monetary": "C",
    "array_nulls": "on",
    "search_path": "",
    "row_security": "off",
    "quote_all_identifiers": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
    "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}


FENCE_SCHEMA = "aurora_fence"
FENCE_TRIGGER = "00_aurora_fence"
FENCE_EVENT_TRIGGER = "aurora_fence"
"""What keeps writes from a database during an incident. A backup made meanwhile has it in its
schema; no restore may bring it back, or nobody could write to what was restored."""


def output_settings(version_num: int) -> dict[str, str]:
    """The settings to pin on a server of *version_num*."""
    settings = dict(OUTPUT_SETTINGS)
    if version_num >= 170000:
        settings["transaction_timeout"] = "0"
    return settings


def pin_output(conn: Connection) -> None:
    """Pin a psycopg session. One round trip."""
    conn.execute(settings_sql(conn.info.server_version))


def settings_sql(version_num: int) -> str:
    """``SELECT set_config(…), …`` for all pinned settings."""
    calls = ", ".join(
        f"pg_catalog.set_config('{name}', '{value}', false)"
        for name, value in output_settings(version_num).items()
    )
    return f"SELECT {calls}"


def quoted(*parts: str) -> str:
    """``"schema"."table"``: always quoted, so that no word is ever a keyword."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def literal(text: str) -> str:
    """A string literal that means the same under any standard_conforming_strings."""
    return sql.Literal(text).as_string(None)


def shown(schema: str, name: str) -> str:
    """A table's name for people: quoted only where it must be."""
    return f"{_plain(schema)}.{_plain(name)}"


def _plain(part: str) -> str:
    simple = part.isascii() and part.replace("_", "a").isalnum() and part == part.lower()
    return part if simple and not part[:1].isdigit() else quoted(part)
