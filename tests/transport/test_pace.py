"""How fast requests may be sent after a rate limit; the tests pass the times, so nothing waits."""

import math
import random

import pytest
from g4f_websim.transport.pace import GROWTH_TIME, QUIET_TIME, Pace

from g4f_websim.transport import pace as pace_module

BACKOFF = 2.0
# The time from a request to its response.
LATENCY = 0.25


@pytest.fixture
def pace() -> Pace:
    return Pace()


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: low)


@pytest.fixture
def no_growth_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "GROWTH_TIME", math.inf)


def due(pace: Pace, now: float, is_last_attempt: bool = False) -> float:
    pace.end_if_quiet(now)
    pace.call_waits(now)
    return pace.due(now, is_last_attempt)


def send(pace: Pace, now: float, count: int = 1) -> None:
    for _ in range(count):
        pace.sent(now, False)


def accept(pace: Pace, sent_at: float, count: int = 1, latency: float = LATENCY) -> None:
    for _ in range(count):
        pace.accepted(sent_at + latency, sent_at)


def refuse(pace: Pace, sent_at: float, retry_after: float | None = None, now: float | None = None) -> None:
    pace.refused(sent_at if now is None else now, sent_at, retry_after, BACKOFF)


def refuse_burst(pace: Pace, accepted: int, refused: int, retry_after: float | None, now: float = 0.0) -> float:
    """Send a burst of which the server accepts some, and return the time at which the first request may follow."""
    send(pace, now, accepted + refused)
    accept(pace, now, accepted)
    for _ in range(refused):
        refuse(pace, now, retry_after, now + LATENCY)
    return due(pace, now + LATENCY)


def start_round(pace: Pace, accepted: int = 4, retry_after: float = 10.0 - LATENCY) -> float:
    """Refuse a burst and accept the first request after the pause, and return the time of that request, 10."""
    probe = refuse_burst(pace, accepted, 1, retry_after)
    send(pace, probe)
    accept(pace, probe)
    return probe


def send_when_due(pace: Pace, now: float, count: int) -> float:
    """Send requests that the server accepts, each as soon as it is due, and return the time of the last one."""
    for _ in range(count):
        now = max(now, due(pace, now))
        send(pace, now)
        accept(pace, now)
    return now


# Before the first refusal


def test_no_request_waits_before_the_first_refusal(pace):
    for now in (0.0, 0.0, 1.0, 1000.0):
        assert not pace.limited
        assert (due(pace, now), pace.interval()) == (now, 0)
        send(pace, now)
        accept(pace, now)


def test_request_without_response_does_not_limit(pace):
    send(pace, 0)
    pace.failed(0)
    assert not pace.limited


# The pause


def test_pause_lasts_as_long_as_retry_after_says(pace):
    send(pace, 0)
    refuse(pace, 0, retry_after=7)
    assert pace.limited
    assert due(pace, 0) == 7


def test_pause_without_retry_after_is_backoff_and_up_to_25_percent_longer():
    pauses = set()
    for _ in range(100):
        pace = Pace()
        send(pace, 0)
        refuse(pace, 0)
        pauses.add(due(pace, 0))
    assert len(pauses) == 100
    assert BACKOFF <= min(pauses) < max(pauses) <= 1.25 * BACKOFF


def pauses_in_a_row(pace: Pace, count: int, retry_after: float | None) -> list[float]:
    """Refuse a request, and then each first request after a pause; return the pauses."""
    now, pauses = 0.0, []
    for _ in range(count):
        send(pace, now)
        refuse(pace, now, retry_after)
        pauses.append(due(pace, now) - now)
        now = due(pace, now)
    return pauses


@pytest.mark.usefixtures("no_jitter")
def test_each_further_pause_without_retry_after_is_1_5_times_as_long(pace):
    assert pauses_in_a_row(pace, 4, None) == [BACKOFF * factor for factor in (1, 1.5, 2.25, 3.375)]


@pytest.mark.usefixtures("no_jitter")
def test_pause_without_retry_after_is_the_backoff_again_in_the_next_round(pace):
    pauses_in_a_row(pace, 3, None)
    now = 100.0
    send(pace, now)
    accept(pace, now)
    now = send_when_due(pace, now, 3)
    send(pace, now)
    refuse(pace, now)
    assert due(pace, now) == now + BACKOFF


def test_pauses_grow_if_retry_after_is_too_short(pace):
    assert pauses_in_a_row(pace, 4, 0.0) == [BACKOFF * part for part in (0, 0.25, 0.75, 1.75)]
    assert pauses_in_a_row(Pace(), 4, 9.0) == [9, 9, 9, 9]


def test_pause_lasts_at_least_two_intervals(pace):
    start = start_round(pace, accepted=4)
    now = due(pace, start)
    send(pace, now)
    refuse(pace, now, retry_after=0.1)
    assert due(pace, now) == now + 2 * 2.5


def test_later_refusal_of_same_burst_prolongs_pause(pace):
    send(pace, 0, 3)
    refuse(pace, 0, retry_after=5, now=1)
    refuse(pace, 0, retry_after=8, now=2)
    assert due(pace, 2) == 10
    refuse(pace, 0, retry_after=1, now=3)
    refuse(pace, 0, now=3)
    assert due(pace, 3) == 10


# The first request after the pause


def test_sends_one_request_first_and_others_after_its_response(pace):
    first = refuse_burst(pace, accepted=4, refused=6, retry_after=10)
    send(pace, first)
    assert due(pace, first) == first + 10
    accept(pace, first)
    assert due(pace, first + LATENCY) < first + 10


def test_sends_another_request_after_the_backoff_if_the_first_gets_no_response(pace):
    first = refuse_burst(pace, accepted=4, refused=6, retry_after=0.5)
    send(pace, first)
    pace.failed(first)
    assert due(pace, first) == first + BACKOFF


def test_response_to_earlier_request_does_not_end_the_pause(pace):
    send(pace, 0, 2)
    refuse(pace, 0, retry_after=10)
    accept(pace, 0)
    assert due(pace, 1) == 10
    send(pace, 10)
    assert due(pace, 10) == 20


# The interval


def test_interval_is_elapsed_time_divided_by_accepted_requests(pace):
    start = start_round(pace, accepted=4)
    assert start == 10
    assert due(pace, start) - start == pytest.approx(10 / 4, rel=0.01)


@pytest.mark.usefixtures("no_jitter")
def test_interval_includes_half_of_a_pause_without_retry_after(pace):
    send(pace, 0, 5)
    accept(pace, 0, 4)
    refuse(pace, 0, now=8.0)
    start = due(pace, 8.0)
    send(pace, start)
    accept(pace, start)
    assert due(pace, start) - start == pytest.approx((8.0 + BACKOFF / 2) / 4, rel=0.01)


def test_interval_of_a_burst_without_accepted_request_is_the_pause(pace):
    start = start_round(pace, accepted=0)
    assert due(pace, start) - start == pytest.approx(10, rel=0.01)


def test_first_interval_does_not_include_idle_hours(pace):
    send(pace, 0)
    accept(pace, 0)
    start = refuse_burst(pace, accepted=4, refused=1, retry_after=10 - LATENCY, now=7200)
    send(pace, start)
    accept(pace, start)
    assert due(pace, start) - start == pytest.approx(10 / 4, rel=0.01)


def test_late_response_to_earlier_round_does_not_change_interval(pace):
    send(pace, 0)
    start = start_round(pace, accepted=4)
    before = due(pace, start)
    accept(pace, 0, latency=11)
    assert due(pace, start) == before


def test_interval_shrinks_while_requests_are_accepted(pace):
    now = start_round(pace, accepted=4)
    intervals = []
    for _ in range(12):
        before, now = now, send_when_due(pace, now, 1)
        intervals.append(now - before)
    assert intervals == sorted(intervals, reverse=True)
    assert intervals[0] == pytest.approx(2.5, rel=0.01)
    # After five accepted requests of the first round it is half as long.
    assert intervals[4] == pytest.approx(2.5 / 2, rel=0.01)


def second_round(pace: Pace) -> float:
    """Start a second round, after 30 seconds with 10 accepted requests, and return the time of its first request."""
    now = send_when_due(pace, start_round(pace, accepted=4), 9)
    send(pace, now)
    refuse(pace, now, retry_after=40 - now)
    assert due(pace, now) == 40
    send(pace, 40)
    accept(pace, 40)
    return 40.0


@pytest.mark.usefixtures("no_growth_with_time")
def test_interval_of_later_rounds_shrinks_more_slowly(pace):
    now = second_round(pace)
    before = send_when_due(pace, now, 4)
    assert send_when_due(pace, before, 1) - before == pytest.approx(3, rel=0.01)
    before = send_when_due(pace, before, 18)
    assert send_when_due(pace, before, 1) - before == pytest.approx(3 / 2, rel=0.01)


def test_interval_shrinks_with_time_if_few_requests_are_accepted(pace):
    send(pace, 0)
    refuse(pace, 0, retry_after=GROWTH_TIME)
    send(pace, GROWTH_TIME)
    accept(pace, GROWTH_TIME)
    now = send_when_due(pace, GROWTH_TIME, 1)
    assert now == pytest.approx(2 * GROWTH_TIME, rel=0.01)
    assert due(pace, now) - now == pytest.approx(GROWTH_TIME / 2, rel=0.02)


def test_interval_is_reported_after_a_whole_round(pace):
    start_round(pace)
    assert pace.interval() == 0
    pace = Pace()
    now = second_round(pace)
    assert pace.interval() == pytest.approx(3, rel=0.01)
    now = due(pace, now)
    send(pace, now)
    refuse(pace, now, retry_after=10)
    assert pace.interval() == 0


def test_interval_leaves_out_the_time_by_which_the_pause_exceeds_retry_after(pace):
    start = start_round(pace)
    refused_at = due(pace, start)
    send(pace, refused_at)
    refuse(pace, refused_at, retry_after=0.5)
    resumed_at = due(pace, refused_at)
    assert resumed_at - refused_at == pytest.approx(2 * 2.5)
    send(pace, resumed_at)
    accept(pace, resumed_at)
    assert pace.interval() == pytest.approx(refused_at + 0.5 - start, rel=0.01)


def test_late_request_does_not_delay_the_next_one(pace):
    start = start_round(pace)
    on_time = due(pace, start)
    send(pace, on_time + 1)
    assert due(pace, on_time + 1) - on_time == pytest.approx(2.5, rel=0.01)


@pytest.mark.usefixtures("no_growth_with_time")
def test_requests_do_not_make_up_for_more_than_one_interval(pace):
    late = due(pace, start_round(pace)) + 20
    send(pace, late)
    assert due(pace, late) == late
    send(pace, late)
    assert due(pace, late) - late == pytest.approx(2.5, rel=0.01)


# The last attempt of a call


@pytest.mark.usefixtures("no_jitter")
def test_last_attempt_waits_longer_than_a_pause_without_retry_after(pace):
    send(pace, 0)
    refuse(pace, 0)
    assert due(pace, 0, is_last_attempt=False) == BACKOFF
    assert due(pace, 0, is_last_attempt=True) == 1.5 * BACKOFF


def test_last_attempt_waits_as_long_as_retry_after_says(pace):
    send(pace, 0)
    refuse(pace, 0, retry_after=7)
    assert due(pace, 0, is_last_attempt=True) == 7


def test_last_attempt_waits_for_the_average_interval(pace):
    start = start_round(pace, accepted=4)
    now = send_when_due(pace, start, 5)
    early, cautious = due(pace, now, is_last_attempt=False), due(pace, now, is_last_attempt=True)
    assert early < cautious
    # Six requests of this round were sent, one of them first.
    assert cautious == pytest.approx(start + 1.1 * 2.5 * 6)


def test_last_attempt_waits_no_longer_than_a_pause_and_an_interval(pace):
    start = start_round(pace, accepted=4)
    now = send_when_due(pace, start, 30)
    assert due(pace, now, is_last_attempt=True) == pytest.approx(now + 10 - LATENCY + 2.5, rel=0.01)


def test_last_attempt_waits_as_long_as_the_longest_earlier_silence(pace):
    start = start_round(pace, accepted=4)
    send(pace, start + 2)
    refuse(pace, start + 2)
    assert due(pace, start + 2) < start + 5
    assert due(pace, start + 2, is_last_attempt=True) == pytest.approx(start + 2 + 10, rel=0.02)


# Requests in flight at once


def accept_four_at_once(pace: Pace, now: float = 0.0) -> float:
    """Send ten requests of which four are accepted, after the others were refused; return the time of the next one."""
    send(pace, now, 10)
    for _ in range(6):
        refuse(pace, now, retry_after=1, now=now + 0.01)
    accept(pace, now, 4)
    now = due(pace, now + LATENCY)
    send(pace, now)
    accept(pace, now)
    return now + LATENCY


def send_without_response(pace: Pace, now: float, count: int) -> float:
    for _ in range(count):
        now = max(now, due(pace, now))
        send(pace, now)
    return now


def test_learns_concurrency_from_burst_and_does_not_exceed_it(pace):
    now = accept_four_at_once(pace)
    interval = due(pace, now) - now
    pace._latency = 60.0  # so long that only the number in flight matters
    last = send_without_response(pace, now, 4)
    assert last < now + 60
    assert due(pace, last) == last + 60
    accept(pace, last)
    assert due(pace, last) <= last + max(interval, 1)


def test_failed_request_lets_another_one_be_sent(pace):
    now = accept_four_at_once(pace)
    pace._latency = 60.0
    last = send_without_response(pace, now, 4)
    pace.failed(last)
    assert due(pace, last) < last + 60


def test_failed_request_from_before_the_quiet_time_does_not_let_another_one_be_sent(pace):
    send(pace, 0, 4)
    now = accept_four_at_once(pace, QUIET_TIME + 1)
    for _ in range(4):
        pace.failed(0)
    pace._latency = 60.0
    last = send_without_response(pace, now, 4)
    assert due(pace, last) == last + 60


def test_response_from_before_the_quiet_time_does_not_change_interval(pace):
    send(pace, 0)
    now = accept_four_at_once(pace, QUIET_TIME + 1)
    before = due(pace, now)
    accept(pace, 0, latency=now)
    assert due(pace, now) == before


def test_requests_whose_responses_are_never_reported_do_not_block_others(pace):
    now = accept_four_at_once(pace)
    # Nobody will report the responses to these requests.
    last = send_without_response(pace, now, 4)
    assert due(pace, last) <= last + 1
    for _ in range(20):
        now = send_when_due(pace, last, 1)
        assert now <= last + 1
        last = now


def test_concurrency_may_grow_while_requests_are_accepted(pace):
    now = send_when_due(pace, accept_four_at_once(pace), 300)
    pace._latency = 60.0
    assert send_without_response(pace, now, 8) < now + 60


def test_concurrency_is_unlimited_if_no_response_came_during_the_pause(pace):
    start = start_round(pace, accepted=4)
    pace._latency = 60.0
    last = send_without_response(pace, start, 10)
    assert due(pace, last) < last + 60


# The end of the limit


def test_quiet_time_ends_the_limit(pace):
    now = send_when_due(pace, start_round(pace), 3)
    due(pace, now)
    assert due(pace, now + QUIET_TIME + 1) == now + QUIET_TIME + 1
    assert not pace.limited


def test_long_retry_after_outlasts_quiet_time(pace):
    send(pace, 0)
    refuse(pace, 0, retry_after=300)
    assert due(pace, 2 * QUIET_TIME) == 300
    assert due(pace, 300 + QUIET_TIME - 1) == 300
    assert pace.limited
    assert due(pace, 400) == 400
    assert not pace.limited


def test_limit_does_not_end_while_calls_wait(pace):
    now = start_round(pace, accepted=1)
    for _ in range(20):
        now += QUIET_TIME / 2
        due(pace, now)
    assert pace.limited


def test_limit_after_quiet_time_ignores_earlier_rounds(pace):
    now = second_round(pace) + 2 * QUIET_TIME
    assert due(pace, now) == now
    start = refuse_burst(pace, accepted=4, refused=1, retry_after=10 - LATENCY, now=now)
    assert start == now + 10
    send(pace, start)
    accept(pace, start)
    assert pace.interval() == 0
    assert due(pace, start) - start == pytest.approx(10 / 4, rel=0.01)
