"""Sizes and durations: what people write, and what they read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    plural,
)


@pytest.mark.parametrize(
    "text,n_bytes",
    [
        ("8 MiB", 8 << 20),
        ("8MiB", 8 << 20),
        ("8M", 8 << 20),
        ("8 mb", 8_000_000),
        ("1.5 GiB", 3 << 29),
        ("2g", 2 << 30),
        ("4096", 4096),
        ("0", 0),
        (4096, 4096),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str | int, n_bytes: int) -> None:
    """Binary and decimal units, with or without a space, or plain bytes."""
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "eight", "8 XiB", "-1", "8 MiB extra", "1e3", -5])
def test_a_size_that_is_none_is_refused(text: str | int) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@pytest.mark.parametrize(
    "text,seconds",
    [
        ("30 s", 30),
        ("30", 30),
        (30, 30),
        ("5 min", 300),
        ("5m", 300),
        ("1h 30m", 5400),
        ("2 d", 172800),
        ("250 ms", 0.25),
        ("1w", 604800),
    ],
)
def test_durations_are_read_as_people_write_them(text: str | int, seconds: float) -> None:
    """One unit or several in a row; seconds without a unit."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "5 x", "-3 s", "5 min and more", -1])
def test_a_duration_that_is_none_is_refused(text: str | int) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    "n_bytes,text",
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (15 << 20, "15.0 MiB"),
        (310 << 20, "310 MiB"),
        (1 << 40, "1.00 TiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_sizes_are_told_with_three_digits(n_bytes: int, text: str) -> None:
    """Enough to compare, no more."""
    assert format_size(n_bytes) == text


@pytest.mark.parametrize(
    "seconds,text",
    [
        (0.04, "0.0 s"),
        (9.949, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (273600, "3 d 04 h"),
    ],
)
def test_durations_are_told_in_two_units(seconds: float, text: str) -> None:
    """A rounding never shows 60 seconds."""
    assert format_duration(seconds) == text


@given(st.integers(0, 1 << 50))
def test_a_size_survives_being_told_and_read_again(n_bytes: int) -> None:
    """Within the three digits that are shown."""
    assert parse_size(format_size(n_bytes)) == pytest.approx(n_bytes, rel=0.01, abs=1)


def test_a_count_agrees_with_its_noun() -> None:
    """One table, two tables."""
    assert (plural(1, "table"), plural(0, "table"), plural(4200, "table")) == (
        "1 table",
        "0 tables",
        "4,200 tables",
    )
