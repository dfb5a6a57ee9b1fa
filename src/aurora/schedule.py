"""When something is due: simple words or a cron line, always in UTC; pure.

``hourly``, ``every 15 min``, ``daily at 03:30``, ``weekly on sunday at 00:00``, ``monthly on 1
at 05:00``, ``quarterly``, ``off``, or the five fields of cron. Every rule is a cron line in the
end, so any scheduler can run it. In UTC there is no hour that comes twice or never.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september",
          "october", "november", "december")  # fmt: skip
HELP = (
    "write off, hourly, every 15 min, daily at 03:30, weekly on sunday at 00:00, "
    "monthly on 1 at 05:00, quarterly at 07:00, or five cron fields"
)
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_LAST_DAY = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_APS_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = timedelta(days=366 * 9)  # 29 February, over a century without one

# By cron line: a due time and the one after it. Who asks what is due asks again soon.
_around: dict[str, tuple[datetime, datetime]] = {}


@dataclass(frozen=True, slots=True)
class Rule:
    """One schedule. ``cron`` is its line of five fields, "" where it is off."""

    text: str
    cron: str

    @property
    def is_on(self) -> bool:
        return bool(self.cron)

    def next_after(self, moment: datetime) -> datetime | None:
        """The first due time after *moment*; None where it is off."""
        if not self.cron:
            return None
        known = _around.get(self.cron)
        if known is not None and known[0] <= moment < known[1]:
            return known[1]
        # Triggers answer with a time at or after what they are asked about.
        asked = moment.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
        found = [one.get_next_fire_time(None, asked) for one in _triggers(self.cron)]
        times: list[datetime] = [one.astimezone(UTC) for one in found if one is not None]
        return min(times, default=None)

    def latest_until(self, moment: datetime) -> datetime | None:
        """The last due time at or before *moment*; None where it is off or never was due."""
        known = _around.get(self.cron)
        if known is not None and known[0] <= moment < known[1]:
            return known[0]
        reach = timedelta(hours=1)
        while self.cron and reach <= _LONGEST:
            found = self.next_after(moment - reach - timedelta(seconds=1))
            latest = None
            while found is not None and found <= moment:
                latest, found = found, self.next_after(found)
            if latest is not None:
                if found is not None:
                    _around[self.cron] = (latest, found)
                return latest
            reach *= 4
        return None

    def missed(self, done: datetime | None, moment: datetime, *, at_most: int = 9) -> int:
        """How often it was due after *done* and up to *moment*; counted to *at_most*."""
        if done is None:
            return 1 if self.latest_until(moment) is not None else 0
        return sum(1 for one in self.upcoming(done, at_most) if one <= moment)

    def upcoming(self, moment: datetime, count: int) -> list[datetime]:
        """The next *count* due times after *moment*."""
        found: list[datetime] = []
        one = self.next_after(moment)
        while one is not None and len(found) < count:
            found.append(one)
            one = self.next_after(one)
        return found

    def words(self) -> str:
        """The rule in words, for people."""
        return describe(self.cron) if self.cron else "off"


def parse_rule(text: str) -> Rule:
    """The rule that *text* writes. Raises ValueError."""
    plain = " ".join(text.lower().replace(",", ", ").split()).replace(", ", ",")
    if plain in ("off", "never", "no", ""):
        return Rule("off", "")
    for pattern, build in _WORDS:
        if found := pattern.fullmatch(plain):
            cron = build(found.groupdict())
            break
    else:
        cron = _NICKNAMES.get(plain, plain)
    return Rule(plain, _checked(cron, text))


def _checked(cron: str, text: str) -> str:
    fields = cron.split()
    if len(fields) != 5:
        raise ValueError(f"not a schedule: {text!r}; {HELP}")
    values = [
        _values(field, name, low, high)
        for field, name, (low, high) in zip(fields, _FIELDS, _RANGES, strict=True)
    ]
    if fields[4] == "*" and min(values[2]) > max(_LAST_DAY[month] for month in values[3]):
        raise ValueError(f"{text!r} is never due")
    return " ".join(fields)


def _values(field: str, name: str, low: int, high: int) -> set[int]:
    """The numbers that one field of cron stands for. Raises ValueError."""
    found: set[int] = set()
    for part in field.split(","):
        match = re.fullmatch(r"(?:(\*)|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:/(\d+))?", part)
        if match is None:
            raise ValueError(f"not a {name} of cron: {field!r}; {HELP}")
        every, first, last, step = match.groups()
        start = low if every else _number(first, name)
        end = high if every or (step and not last) else _number(last or first, name)
        if end == low == 0 < start and name == _FIELDS[4]:
            end = 7  # fri-sun
        if not low <= start <= end <= high or step == "0":
            raise ValueError(f"not a {name} of cron: {field!r} ({low} to {high})")
        found.update(range(start, end + 1, int(step or 1)))
    return found


def _number(text: str, name: str) -> int:
    if text.isdigit():
        return int(text)
    known = {_FIELDS[3]: MONTHS, _FIELDS[4]: DAYS}.get(name, ())
    for place, word in enumerate(known):
        if text in (word, word[:3]):
            return place + (name == _FIELDS[3])
    raise ValueError(f"not a {name}: {text!r}; {HELP}")


def _clock(found: dict[str, Any]) -> str:
    """``minute hour`` of ``at 03:30``, midnight where it is not said."""
    hour, minute = int(found.get("hour") or 0), int(found.get("minute") or 0)
    if hour > 23 or minute > 59:
        raise ValueError(f"not a time of day: {hour:02d}:{minute:02d}")
    return f"{minute} {hour}"


def _every(found: dict[str, Any]) -> str:
    count, unit = int(found["count"]), found["unit"]
    whole = 60 if unit.startswith("m") else 24
    if not count or whole % count:
        raise ValueError(
            f"every {count} {unit} does not divide {'an hour' if whole == 60 else 'a day'}"
        )
    if whole == 60:
        return "0 * * * *" if count == 60 else f"*/{count} * * * *"
    return "0 0 * * *" if count == 24 else f"0 */{count} * * *"


def _monthly(found: dict[str, Any], months: str) -> str:
    day = int(found.get("day") or 1)
    if not 1 <= day <= 28:
        raise ValueError(f"day {day} is not in every month: 1 to 28")
    return f"{_clock(found)} {day} {months} *"


def _hourly(found: dict[str, Any]) -> str:
    minute = int(found.get("minute") or 0)
    if minute > 59:
        raise ValueError(f"not a minute: {minute}")
    return f"{minute} * * * *"


_AT = r"(?: at (?P<hour>\d{1,2}):(?P<minute>\d{2}))?"
_DAY = r"(?: on (?:day )?(?P<day>\d{1,2})(?:st|nd|rd|th)?)?"
_WORDS: tuple[tuple[re.Pattern[str], Callable[[dict[str, Any]], str]], ...] = (
    (re.compile(r"hourly(?: at :?(?P<minute>\d{1,2}))?"), _hourly),
    (re.compile(r"every (?P<count>\d+) ?(?P<unit>m|min|minutes|h|hours)"), _every),
    (re.compile("daily" + _AT), lambda found: f"{_clock(found)} * * *"),
    (
        re.compile(r"weekly(?: on (?P<days>[a-z]+(?:,[a-z]+)*))?" + _AT),
        lambda found: f"{_clock(found)} * * {found.get('days') or 'sun'}",
    ),
    (re.compile("monthly" + _DAY + _AT), lambda found: _monthly(found, "*")),
    (re.compile("quarterly" + _DAY + _AT), lambda found: _monthly(found, "1,4,7,10")),
)


@lru_cache(maxsize=256)
def _triggers(cron: str) -> tuple[Any, ...]:
    """APScheduler's triggers for a cron line: two where days of month *or* week are due."""
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 - slow to import

    minute, hour, day, month, weekday = cron.split()
    # Its own numbers begin at Monday, cron's at Sunday: by name they agree.
    names = ",".join(sorted(_APS_DAYS[one % 7] for one in _values(weekday, _FIELDS[4], 0, 7)))
    months = ",".join(map(str, sorted(_values(month, _FIELDS[3], 1, 12))))
    common = {"minute": minute, "hour": hour, "month": months, "second": 0, "timezone": UTC}
    if day != "*" and weekday != "*":
        return (
            CronTrigger(day=day, **common),
            CronTrigger(day_of_week=names, **common),
        )
    if weekday != "*":
        return (CronTrigger(day_of_week=names, **common),)
    return (CronTrigger(day=day, **common),)


def describe(cron: str) -> str:
    """A cron line in words: ``at 00:00 on Sunday``."""
    minute, hour, day, month, weekday = cron.split()
    when = [_time_of_day(minute, hour)]
    days = []
    if day != "*":
        days.append(f"day {_joined(day)} of the month")
    if weekday != "*":
        numbers = sorted({one % 7 for one in _values(weekday, _FIELDS[4], 0, 7)})
        days.append(_and([DAYS[one].capitalize() for one in numbers]))
    if days:
        when.append("on " + " or ".join(days))
    elif minute.isdigit() and hour.isdigit():
        when.insert(0, "every day")
    if month != "*":
        months = sorted(_values(month, _FIELDS[3], 1, 12))
        when.append("in " + _and([MONTHS[one - 1].capitalize() for one in months]))
    return " ".join(when)


def _time_of_day(minute: str, hour: str) -> str:
    if minute.isdigit() and hour.isdigit():
        return f"at {int(hour):02d}:{int(minute):02d}"
    if minute.isdigit() and re.fullmatch(r"\d+(,\d+)+", hour):
        return "at " + _and([f"{int(one):02d}:{int(minute):02d}" for one in hour.split(",")])
    every = re.fullmatch(r"\*/(\d+)", minute)
    told = (
        f"every {every[1]} minutes"
        if every
        else "every minute"
        if minute == "*"
        else f"at minute {_joined(minute)}"
    )
    if hour == "*":
        return "every hour" if minute == "0" else told + ("" if every or minute == "*" else
                                                          " of every hour")  # fmt: skip
    hours = re.fullmatch(r"\*/(\d+)", hour)
    if hours:
        return f"every {hours[1]} hours" + ("" if minute == "0" else f", {told}")
    return f"{told} of hour {_joined(hour)}"


def _joined(field: str) -> str:
    return _and([part.replace("-", " to ") for part in field.split(",")])


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
