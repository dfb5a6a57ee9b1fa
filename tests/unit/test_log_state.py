"""Whether a change log leads on from a backup, and how Aurora's objects are called."""

from typing import Any, cast

import msgspec
import pytest

from aurora.engines.base import LogPart
from aurora.engines.logical.receiver import System
from aurora.engines.logical.slot import LogNames, SlotState
from aurora.operations.content import Backup
from aurora.operations.log_state import LogSource, Place, break_in, schema_break, slot_break

SLOT = SlotState("aurora_app", "pgoutput", "app", 0, 50, 100, "reserved", None, 9, 5, False, "")  # noqa: FBT003
LOG = LogPart("aurora_app", "77", 1, 5, "full", "", 90, 100, "2026-01-01T00:00:00Z",
              fingerprint="aa")  # fmt: skip
NOW = LogSource(SLOT, System("77", 1, 500, "app"), 5, "aa")


def place(log: LogPart) -> Place:
    """A backup that ends there."""
    return Place(cast("Backup", None), log)


def test_a_log_that_leads_on() -> None:
    assert break_in(place(LOG), NOW) == ""
    assert schema_break(place(LOG), NOW) == ""
    assert slot_break(SLOT, LogNames.of("app"), "app") == ""
    behind = msgspec.structs.replace(LOG, to_lsn=120)  # its acknowledgement was lost
    assert break_in(place(behind), NOW) == ""


@pytest.mark.parametrize(
    "changed, why",
    [
        ({"slot": "aurora_other"}, "of another slot, aurora_other"),
        ({"system_identifier": "78"}, "another server"),
        ({"timeline": 2}, "from timeline 2 to 1: a failover or a restore"),
        ({"database_oid": 6}, "made anew"),
        ({"to_lsn": 99}, "somebody else has read the slot aurora_app, up to 0/64"),
    ],
)
def test_what_breaks_it(changed: dict[str, Any], why: str) -> None:
    assert why in break_in(place(msgspec.structs.replace(LOG, **changed)), NOW)


def test_names_fit_a_slot() -> None:
    assert LogNames.of("my-app.2") == LogNames(
        "aurora_my_app_2", "aurora_my_app_2_keyed", "aurora_my_app_2_unkeyed"
    )
    long, other = LogNames.of("a" * 63), LogNames.of("a" * 62 + "b")
    assert long.slot != other.slot
    assert max(len(name) for name in (long.slot, *long.publications)) <= 63
