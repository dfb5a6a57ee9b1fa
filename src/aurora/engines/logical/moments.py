"""Moments and places of a log, as people and servers write them."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from aurora import clock
from aurora.errors import UsageError

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z")


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as a person wrote it."""

    text: str
    when: datetime  # naive where it was written without a zone
    is_date: bool  # a date alone: its first moment

    @property
    def zoned(self) -> bool:
        return self.when.tzinfo is not None

    def micros(self, zone: tzinfo | None = UTC) -> int:
        """Microseconds since 2000; *zone* where it has none, None for this machine's own.

        Raises UsageError where it is outside of what a calendar has.
        """
        try:
            aware = self.when
            if not self.zoned:
                aware = aware.astimezone() if zone is None else aware.replace(tzinfo=zone)
            return to_micros(aware.astimezone(UTC))
        except (OverflowError, OSError, ValueError) as error:
            raise _no_time(self.text) from error


def parse_moment(text: str) -> Moment:
    """An ISO 8601 time, with or without zone. Raises UsageError.

    A blank may stand for the T, and one before the zone; ``UTC`` for Z.
    """
    plain = re.sub(r"\s*(?:UTC|GMT)$", "Z", text.strip().upper())
    plain = re.sub(r"\s+(?=[+-]\d\d(?::?\d\d)?$|Z$)", "", plain)
    try:
        when = datetime.fromisoformat(plain)
    except ValueError as error:
        raise _no_time(text) from error
    moment = Moment(text.strip(), when, re.fullmatch(r"[\dW-]+", plain) is not None)
    moment.micros()
    return moment


def _no_time(text: str) -> UsageError:
    return UsageError(
        f"not a time: {text[:60]!r}",
        hint="Nothing was changed. Write it as 2024-01-09T12:00:00Z, or with an offset as "
        "2024-01-09 12:00:00+02:00.",
    )


def parse_lsn(text: str) -> int:
    """``0/16B3748`` as a number. Raises UsageError."""
    found = _LSN.match(text.strip())
    if found is None:
        raise UsageError(f"not an LSN: {text[:40]!r}", hint="An LSN looks like 0/16B3748.")
    return int(found[1], 16) << 32 | int(found[2], 16)


def shown_lsn(lsn: int) -> str:
    """An LSN as the server writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def to_micros(moment: datetime) -> int:
    """An aware time as microseconds since 2000."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def shown_time(micros: int) -> str:
    """ISO 8601 in UTC."""
    return clock.isoformat(_EPOCH + timedelta(microseconds=micros))
