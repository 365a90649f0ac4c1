"""Tools for dates and times, which a language model neither knows nor counts reliably."""

import calendar
import datetime
import difflib
import functools
import re
import zoneinfo
from typing import Annotated, Any

from pydantic import Field

from palaver import InvalidInput, tool

MAX_CHARACTERS = 64
_OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+-])(\d{1,2})(?::?([0-5]\d))?", re.IGNORECASE)
_UTC_NAMES = {"utc", "gmt", "z", ""}

TimeZone = Annotated[
    str,
    Field(
        max_length=MAX_CHARACTERS,
        description=(
            "Name such as Europe/Berlin, a city such as Tokyo, or an offset such as UTC+2. Ask the "
            "person where it matters and is not known"
        ),
    ),
]
Moment = Annotated[
    str,
    Field(
        max_length=MAX_CHARACTERS,
        description="Date 2026-03-31, date and time 2026-03-31T14:30, or the words now and today",
    ),
]
Count = Annotated[int, Field(ge=-4_000_000, le=4_000_000)]


@tool(read_only=True, parallel=True)
def current_time(time_zone: TimeZone = "UTC") -> dict[str, Any]:
    """Tell the current date, weekday and time in a time zone."""
    return _describe(_now(find_time_zone(time_zone)))


@tool(read_only=True, parallel=True)
def date_difference(start: Moment, end: Moment, time_zone: TimeZone = "UTC") -> dict[str, Any]:
    """Count the time from one date or time to another.

    Times without an offset are those of the time zone. Raises `InvalidInput`.
    """
    zone = find_time_zone(time_zone)
    first, last = _parse(start, zone), _parse(end, zone)
    try:
        # Times of one zone would be subtracted without regard to its changes of the clock.
        passed = last.astimezone(datetime.UTC) - first.astimezone(datetime.UTC)
        sign = 1 if passed >= datetime.timedelta() else -1
        earlier, later = (first, last) if sign == 1 else (last, first)
        later = later.astimezone(earlier.tzinfo)
    except OverflowError:
        raise InvalidInput("A time is not in the years 1 to 9999.") from None
    months = _count_months(earlier, later)
    rest = later - _add_months(earlier, months)
    return {
        "days": sign * (later.date() - earlier.date()).days,
        "years_months_days": [sign * part for part in (*divmod(months, 12), rest.days)],
        "hours": round(passed.total_seconds() / 3600, 4),
        "start": _describe(first),
        "end": _describe(last),
    }


@tool(read_only=True, parallel=True)
def add_to_date(
    start: Moment,
    *,
    years: Count = 0,
    months: Count = 0,
    weeks: Count = 0,
    days: Count = 0,
    hours: Count = 0,
    minutes: Count = 0,
    time_zone: TimeZone = "UTC",
) -> dict[str, Any]:
    """Add a duration to a date or time, or subtract it with negative numbers.

    One month after 31 January is the last day of February. Days are those of the calendar, hours
    those that pass, also where the clocks change. Raises `InvalidInput`.
    """
    moment = _parse(start, find_time_zone(time_zone))
    try:
        moment = _add_months(moment, 12 * years + months)
        moment += datetime.timedelta(weeks=weeks, days=days)
        passed = datetime.timedelta(hours=hours, minutes=minutes)
        moment = (moment.astimezone(datetime.UTC) + passed).astimezone(moment.tzinfo)
    except (OverflowError, ValueError):
        raise InvalidInput("The result is not in the years 1 to 9999.") from None
    return _describe(moment)


def find_time_zone(name: str) -> datetime.tzinfo:
    """Return a time zone by its name, a city of it, or its offset. Raises `InvalidInput`."""
    wanted = name.strip().replace(" ", "_")
    if wanted.lower() in _UTC_NAMES:
        return datetime.UTC
    if (offset := _OFFSET.fullmatch(name.strip())) and int(offset[2]) < 24:
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        return datetime.timezone(datetime.timedelta(minutes=int(f"{offset[1]}{minutes}")))
    try:
        return zoneinfo.ZoneInfo(wanted)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return zoneinfo.ZoneInfo(_find_name(name, wanted))


def _find_name(name: str, wanted: str) -> str:
    """Return the name of a time zone that is written in another case, or named by its city. Raises
    `InvalidInput`."""
    known = _names()
    found = known.get(wanted.casefold())
    if found is None:
        cities = [each for key, each in known.items() if key.endswith(f"/{wanted.casefold()}")]
        found = min(cities, default=None, key=lambda each: (len(each), each))
    if found is None:
        near = difflib.get_close_matches(wanted.casefold(), known, n=3)
        hint = f" Did you mean {', '.join(known[each] for each in near)}?" if near else ""
        raise InvalidInput(f"{name!r} is not a time zone such as Europe/Berlin.{hint}")
    return found


@functools.cache
def _names() -> dict[str, str]:
    """Return the names of all time zones, by their names in lower case."""
    return {each.casefold(): each for each in zoneinfo.available_timezones()}


def _now(zone: datetime.tzinfo) -> datetime.datetime:
    return datetime.datetime.now(zone)


def _parse(text: str, zone: datetime.tzinfo) -> datetime.datetime:
    word = text.strip().casefold()
    if word == "now":
        return _now(zone)
    if word == "today":
        return _now(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
        return moment if moment.tzinfo else moment.replace(tzinfo=zone)
    except ValueError as error:
        raise InvalidInput(
            f"{text!r} is not a date such as 2026-03-31 or 2026-03-31T14:30 ({error})."
        ) from error


def _add_months(moment: datetime.datetime, months: int) -> datetime.datetime:
    """Return the same day of another month, or its last day. Raises `ValueError`."""
    years, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    if not datetime.MINYEAR <= years <= datetime.MAXYEAR:
        raise ValueError(f"year {years}")
    last = calendar.monthrange(years, month + 1)[1]
    return moment.replace(year=years, month=month + 1, day=min(moment.day, last))


def _count_months(earlier: datetime.datetime, later: datetime.datetime) -> int:
    """Return the number of whole months between two times."""
    months = (later.year - earlier.year) * 12 + later.month - earlier.month
    return months - (_add_months(earlier, months) > later)


def _describe(moment: datetime.datetime) -> dict[str, Any]:
    return {
        "date": moment.date().isoformat(),
        "time": moment.strftime("%H:%M:%S"),
        "weekday": calendar.day_name[moment.weekday()],
        "time_zone": str(moment.tzinfo),
        "utc_offset": moment.strftime("%z"),
    }
