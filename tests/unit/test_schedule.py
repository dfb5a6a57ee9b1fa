"""When something is due: words, cron lines, catching up; always in UTC."""

from datetime import UTC, datetime, timedelta

import pytest

from aurora.schedule import parse_rule

NOW = datetime(2026, 11, 25, 8, 10, 30, tzinfo=UTC)  # a Wednesday


@pytest.mark.parametrize(
    "text, cron, words, following",
    [
        ("hourly", "0 * * * *", "every hour", "2026-11-25 09:00"),
        ("hourly at :15", "15 * * * *", "at minute 15 of every hour", "2026-11-25 08:15"),
        ("every 15 min", "*/15 * * * *", "every 15 minutes", "2026-11-25 08:15"),
        ("every 6 h", "0 */6 * * *", "every 6 hours", "2026-11-25 12:00"),
        ("daily", "0 0 * * *", "every day at 00:00", "2026-11-26 00:00"),
        ("Daily at 3:30", "30 3 * * *", "every day at 03:30", "2026-11-26 03:30"),
        ("weekly on sunday at 00:00", "0 0 * * sunday", "at 00:00 on Sunday", "2026-11-29 00:00"),
        ("monthly on 3 at 05:00", "0 5 3 * *", "at 05:00 on day 3 of the month",
         "2026-12-03 05:00"),
        ("quarterly", "0 0 1 1,4,7,10 *",
         "at 00:00 on day 1 of the month in January, April, July and October", "2027-01-01 00:00"),
        ("@daily", "0 0 * * *", "every day at 00:00", "2026-11-26 00:00"),
        ("0 0 29 2 *", "0 0 29 2 *", "at 00:00 on day 29 of the month in February",
         "2028-02-29 00:00"),
    ],
)  # fmt: skip
def test_a_rule(text: str, cron: str, words: str, following: str) -> None:
    """Its cron line, its words, and when it is next due."""
    rule = parse_rule(text)
    assert (rule.cron, rule.words()) == (cron, words)
    assert str(rule.next_after(NOW))[:16] == following


@pytest.mark.parametrize("sunday", ["0", "7", "sun", "sunday"])
def test_cron_numbers_days_from_sunday(sunday: str) -> None:
    """As cron does, whatever the library below counts from."""
    rule = parse_rule(f"0 0 * * {sunday}")
    assert rule.next_after(NOW) == datetime(2026, 11, 29, tzinfo=UTC)


def test_days_of_month_or_of_week() -> None:
    """Where both are given, either is enough, as in cron."""
    days = [
        one.day for one in parse_rule("0 0 13 * fri").upcoming(datetime(2026, 12, 5, tzinfo=UTC), 3)
    ]
    assert days == [11, 13, 18]


def test_ranges_over_the_weeks_end() -> None:
    """Friday to Sunday is three days."""
    days = {one.strftime("%a") for one in parse_rule("0 0 * * fri-sun").upcoming(NOW, 6)}
    assert days == {"Fri", "Sat", "Sun"}


@pytest.mark.parametrize("text", ["off", "never", ""])
def test_off(text: str) -> None:
    rule = parse_rule(text)
    assert (rule.is_on, rule.next_after(NOW), rule.latest_until(NOW)) == (False, None, None)
    assert rule.words() == "off"


@pytest.mark.parametrize(
    "text, why",
    [
        ("sometimes", "not a schedule"),
        ("61 * * * *", "0 to 59"),
        ("0 0 31 2 *", "never due"),
        ("every 7 min", "does not divide an hour"),
        ("monthly on 31", "not in every month"),
        ("daily at 25:00", "not a time of day"),
        ("weekly on caturday", "not a day of the week"),
        ("*/0 * * * *", "not a minute"),
        ("0 0 * * * *", "not a schedule"),
    ],
)
def test_what_is_no_rule(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_rule(text)


@pytest.mark.parametrize("text", ["hourly", "daily at 03:30", "monthly on 3", "0 0 29 2 *"])
def test_the_latest_due_time(text: str) -> None:
    """It is the last that is not after the moment, and the next follows it."""
    rule = parse_rule(text)
    latest = rule.latest_until(NOW)
    assert latest is not None
    assert latest <= NOW < rule.upcoming(latest, 1)[0]
    assert rule.latest_until(latest) == latest


def test_missed() -> None:
    """What was due since, and at the very end of the range."""
    rule = parse_rule("hourly")
    assert rule.missed(NOW - timedelta(minutes=10), NOW) == 0
    assert rule.missed(NOW - timedelta(minutes=11), NOW) == 1
    assert rule.missed(NOW - timedelta(hours=3), NOW) == 3
    assert rule.missed(NOW - timedelta(days=3), NOW, at_most=5) == 5


def test_a_year_without_an_hour_twice_or_never() -> None:
    """UTC has no daylight saving time: 365 days of 24 hours."""
    rule, moment, count = parse_rule("hourly"), datetime(2026, 1, 1, tzinfo=UTC), 0
    before = moment
    while (following := rule.next_after(before)) is not None and following.year == 2026:
        assert following - before == timedelta(hours=1)
        before, count = following, count + 1
    assert count == 365 * 24 - 1
