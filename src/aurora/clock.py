"""Time: aware UTC everywhere, ISO 8601 on every surface."""

from datetime import UTC, datetime


def now() -> datetime:
    """This machine's time, in UTC."""
    return datetime.now(UTC)


def isoformat(moment: datetime) -> str:
    """``2026-11-23T15:37:42Z``, with microseconds only where there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse(text: str) -> datetime:
    """The inverse of :func:`isoformat`. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time without zone: {text}")
    return moment.astimezone(UTC)
