"""Sizes, durations and lists: what people write, parsed once at the edge, and back again.

Inside Aurora a size is an ``int`` of bytes and a duration a ``float`` of seconds.
"""

import re
from collections.abc import Iterable

_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "kb": 1000,
    "kib": 1 << 10,
    "m": 1 << 20,
    "mb": 1000**2,
    "mib": 1 << 20,
    "g": 1 << 30,
    "gb": 1000**3,
    "gib": 1 << 30,
    "t": 1 << 40,
    "tb": 1000**4,
    "tib": 1 << 40,
}
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|s|m|h|d|w)\s*")


def parse_size(text: str | int) -> int:
    """``"8 MiB"``, ``"1.5 GB"``, ``"4096"`` or a number -> bytes. Raises ValueError.

    Single letters are binary (``8M`` is 8 MiB), as PostgreSQL's own settings are.
    """
    if isinstance(text, int):
        if text < 0:
            raise ValueError("a size is not negative")
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _SIZE_UNITS:
        raise ValueError(f"not a size: {text!r}; write one like '8 MiB' or '2 GB'")
    return round(float(match[1]) * _SIZE_UNITS[match[2].lower()])


def format_size(n_bytes: int) -> str:
    """Bytes for people, in binary units: ``1.30 GiB``, ``512 B``."""
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{n_bytes} B" if unit == "B" else f"{_three_digits(size)} {unit}"
        size /= 1024
    return f"{_three_digits(size)} TiB"


def parse_duration(text: str | float) -> float:
    """``"30 s"``, ``"1h 30m"``, ``"2 d"`` or a number -> seconds. Raises ValueError."""
    if isinstance(text, int | float):
        if text < 0:
            raise ValueError("a duration is not negative")
        return float(text)
    rest, seconds = text.strip(), 0.0
    if re.fullmatch(r"\d+(\.\d+)?", rest):
        return float(rest)
    if not rest:
        raise ValueError("an empty duration; write one like '30 s' or '5 min'")
    while rest:
        match = _DURATION_PART.match(rest)
        if match is None:
            raise ValueError(f"not a duration: {text!r}; write one like '30 s' or '5 min'")
        seconds += float(match[1]) * _SECONDS[match[2]]
        rest = rest[match.end() :]
    return seconds


def format_duration(seconds: float) -> str:
    """Seconds for people: ``0.4 s``, ``42 s``, ``3 min 05 s``, ``2 h 07 min``, ``3 d 04 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def format_count(count: int) -> str:
    """``4200000`` -> ``4,200,000``."""
    return f"{count:,}"


def plural(count: int, noun: str) -> str:
    """``1 table``, ``4,200 tables``. Only for nouns that take an s."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def listed(names: Iterable[str], *, at_most: int = 20) -> str:
    """``a, b, c and 4 more``."""
    every = list(names)
    shown = ", ".join(every[:at_most])
    return shown if len(every) <= at_most else f"{shown} and {len(every) - at_most} more"


def _three_digits(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
