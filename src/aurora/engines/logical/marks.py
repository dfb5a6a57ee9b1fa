"""What Aurora writes into the change log for itself: restore points, and where the schema changed.

A mark is a transactional message of the prefix ``aurora``, so it stands at its place among
the commits, and is not there if its transaction rolled back. Its first word says what it is.
"""

import re
from typing import Final

from aurora.errors import UsageError

PREFIX: Final = "aurora"
CHANGE: Final = "ddl "  # then JSON, see ``ddl.py``
REWRITE: Final = "rewrite "  # then the oid of the table that is about to be rewritten
_POINT: Final = "point "
_TAG = re.compile(r'"tag": *"([A-Z ]+)"')
_LONGEST = 63  # as pg_create_restore_point() has it
_NAME = re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?")


def point_mark(name: str) -> str:
    """The text that marks a restore point. Raises UsageError where *name* is none."""
    if not _NAME.fullmatch(name) or len(name.encode()) > _LONGEST:
        raise UsageError(
            f"not a name for a restore point: {name[:70]!r}",
            hint=f"Use up to {_LONGEST} bytes of printable text, such as before-migration-42. "
            "Nothing was marked.",
        )
    return f"{_POINT}{name}"


def point_of(text: str) -> str:
    """The name of the restore point that *text* marks; "" where it marks none."""
    return text.removeprefix(_POINT) if text.startswith(_POINT) else ""


# Commands after which rows and their columns are what they were, and the fingerprint too.
_HARMLESS = frozenset(
    ("GRANT", "REVOKE", "COMMENT", "SECURITY LABEL", "REFRESH MATERIALIZED VIEW",
     "ALTER DEFAULT PRIVILEGES", "REINDEX")
)  # fmt: skip


def changes_schema(text: str) -> bool:
    """Whether *text* marks a change of the schema."""
    if not text.startswith(CHANGE):
        return False
    found = _TAG.search(text)
    return found is None or found[1] not in _HARMLESS


def is_kept(text: str) -> bool:
    """Whether a segment's description tells of it: what is looked for without reading the log."""
    return text.startswith((_POINT, CHANGE, REWRITE))
