"""The tools for dates and times."""

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.test_tools import CONTEXT

from palaver import InvalidInput, Tool
from palaver_plugins.tools.dates import (
    add_to_date,
    current_time,
    date_difference,
    find_time_zone,
)


async def call(tool: Tool, **arguments: object) -> dict[str, object]:
    """Call a tool as a model does."""
    result: dict[str, object] = json.loads(await tool.run(tool.validate(arguments), CONTEXT))
    return result


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("Tokyo", "Asia/Tokyo"),
        ("new york", "America/New_York"),
        ("America/New York", "America/New_York"),
        ("UTC", "UTC"),
        ("", "UTC"),
        ("Z", "UTC"),
        ("UTC+2", "UTC+02:00"),
        ("GMT-03:30", "UTC-03:30"),
        ("+0530", "UTC+05:30"),
    ],
)
def test_a_time_zone_has_a_name_a_city_or_an_offset(name: str, found: str) -> None:
    assert str(find_time_zone(name)) == found


@pytest.mark.parametrize(
    "name", ["Atlantis", "America", "../etc/passwd", "UTC+99", "/etc/localtime", "\0"]
)
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="is not a time zone"):
        find_time_zone(name)


def test_a_misspelled_time_zone_is_corrected() -> None:
    with pytest.raises(InvalidInput, match=r"Did you mean Europe/Berlin"):
        find_time_zone("Europe/Berlim")


async def test_the_current_time_is_that_of_the_zone() -> None:
    before = datetime.datetime.now(datetime.UTC)
    told = await call(current_time, time_zone="UTC+9")
    moment = datetime.datetime.fromisoformat(f"{told['date']}T{told['time']}{told['utc_offset']}")
    assert before.replace(microsecond=0) <= moment <= datetime.datetime.now(datetime.UTC)
    assert told["utc_offset"] == "+0900"


@pytest.mark.parametrize(
    ("start", "end", "days", "parts"),
    [
        ("2026-01-31", "2026-03-01", 29, [0, 1, 1]),
        ("2024-02-29", "2026-02-28", 730, [2, 0, 0]),
        ("2026-03-01", "2026-01-31", -29, [0, -1, -1]),
        ("2026-03-01", "2026-03-01", 0, [0, 0, 0]),
        ("2000-01-01", "2026-11-29", 9829, [26, 10, 28]),
        ("0001-01-01", "9999-12-31", 3652058, [9998, 11, 30]),
    ],
)
async def test_days_between_dates(start: str, end: str, days: int, parts: list[int]) -> None:
    told = await call(date_difference, start=start, end=end)
    assert told["days"] == days
    assert told["years_months_days"] == parts


async def test_hours_are_those_that_pass_where_the_clocks_change() -> None:
    times = {"start": "2026-03-28T12:00", "end": "2026-03-29T12:00"}
    assert (await call(date_difference, **times, time_zone="Europe/Berlin"))["hours"] == 23
    assert (await call(date_difference, **times))["hours"] == 24
    mixed = {"start": "2026-03-01T00:00+02:00", "end": "2026-03-01T00:00Z"}
    assert (await call(date_difference, **mixed))["hours"] == 2


@pytest.mark.parametrize(
    ("duration", "date", "weekday"),
    [
        ({"months": 1}, "2026-02-28", "Saturday"),
        ({"years": -2, "months": 1}, "2024-02-29", "Thursday"),
        ({"weeks": 1, "days": 1}, "2026-02-08", "Sunday"),
        ({"days": -31}, "2025-12-31", "Wednesday"),
        ({"hours": 24, "minutes": -1}, "2026-01-31", "Saturday"),
    ],
)
async def test_a_duration_is_added(duration: dict[str, int], date: str, weekday: str) -> None:
    told = await call(add_to_date, start="2026-01-31", **duration)
    assert (told["date"], told["weekday"]) == (date, weekday)


async def test_a_day_of_the_calendar_may_have_23_hours() -> None:
    start = {"start": "2026-03-28T12:00", "time_zone": "Europe/Berlin"}
    assert (await call(add_to_date, **start, days=1))["time"] == "12:00:00"
    assert (await call(add_to_date, **start, hours=24))["time"] == "13:00:00"


@pytest.mark.parametrize("text", ["tomorrow", "31.03.2026", "2026-02-30", "", "2026-13-01", "\0"])
async def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a date such as"):
        await call(add_to_date, start=text, days=1)


@given(
    st.dates().map(str),
    *[st.integers(-4_000_000, 4_000_000)] * 3,
    st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Apia"]),
)
def test_any_duration_is_added_or_refused(
    start: str, months: int, days: int, minutes: int, zone: str
) -> None:
    try:
        told = add_to_date(start, months=months, days=days, minutes=minutes, time_zone=zone)
    except InvalidInput:
        return
    assert datetime.date.fromisoformat(told["date"])


@given(st.datetimes().map(str), st.datetimes().map(str), st.sampled_from(["UTC", "Africa/Cairo"]))
def test_any_two_times_have_a_difference(start: str, end: str, zone: str) -> None:
    try:
        told = date_difference(start, end, zone)
    except InvalidInput:
        return
    back = date_difference(end, start, zone)
    assert told["hours"] == -back["hours"]
    assert told["years_months_days"] == [-part for part in back["years_months_days"]]
