"""Delays between attempts: what `Retry-After` means, and the backoff without it."""

import email.utils
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from multidict import CIMultiDict

from g4f_websim.transport.attempts import delay_after
from g4f_websim.transport.retry_after import parse_retry_after


def parse(value: str, **headers: str) -> float | None:
    return parse_retry_after(CIMultiDict({"retry-after": value, **headers}))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *[("0", 0), ("0.0", 0), ("00", 0), ("7", 7), (" 7 ", 7), ("007", 7), ("1.5", 1.5), ("900", 900), ("901", 900)],
        *[("Mon, 02 Jan 2006 15:04:05 GMT", 0), ("Mon, 02 Jan 2006 15:04:05 -0000", 0)],
    ],
)
def test_reads_seconds_and_dates_in_the_past_and_caps_them(value, seconds):
    assert parse(value) == seconds


# The clock of this machine may be wrong: a point in time is measured against the header `Date`, here of 2001.
DATE = datetime(2001, 9, 9, 2, tzinfo=UTC)
IN_50_SECONDS = DATE + timedelta(seconds=50)


@pytest.mark.parametrize(
    "value",
    [
        email.utils.format_datetime(IN_50_SECONDS, usegmt=True),
        email.utils.format_datetime(IN_50_SECONDS.astimezone(timezone(timedelta(hours=-7)))),
        str(int(IN_50_SECONDS.timestamp())),
        f"{IN_50_SECONDS.timestamp():.2f}",
        str(int(IN_50_SECONDS.timestamp() * 1000)),
    ],
    ids=["GMT", "time zone", "epoch seconds", "epoch seconds with fraction", "epoch milliseconds"],
)
def test_measures_a_point_in_time_against_date_or_the_clock(value):
    assert parse(value, date=email.utils.format_datetime(DATE, usegmt=True)) == 50
    assert parse(value) == parse(value, date="yesterday") == 0


@pytest.mark.parametrize("seconds, expected", [(50, 50), (86400, 900), (-5, 0)])
def test_measures_a_point_in_time_against_the_clock_without_date(seconds, expected):
    time = datetime.now(UTC) + timedelta(seconds=seconds)
    for value in (email.utils.format_datetime(time), str(time.timestamp()), str(int(time.timestamp() * 1000))):
        assert parse(value) == pytest.approx(expected, abs=5)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-5",
        "nan",
        "inf",
        "1e999",
        pytest.param("9" * 400, id="400 digits"),
        "5 seconds",
        "1.",
        ".5",
        "٣",
        "Fri, 99 Foo 99999 99:99:99 GMT",
    ],
)
def test_ignores_malformed_retry_after(value):
    assert parse(value) is None


def test_retry_after_may_be_missing():
    assert parse_retry_after({}) is None


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 2), (2, 4), (3, 8), (4, 16)])
def test_backoff_doubles_and_is_up_to_25_percent_longer(attempt, seconds):
    delays = {delay_after(attempt, None, backoff=2.0) for _ in range(100)}
    assert len(delays) == 100
    assert [delay for delay in delays if not seconds <= delay <= seconds * 1.25] == []


def test_backoff_of_many_attempts_does_not_overflow():
    delay = delay_after(10**9, None, backoff=2.0)
    assert math.isfinite(delay)
