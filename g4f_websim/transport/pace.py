"""Learn how fast a server accepts requests. The caller passes the time; nothing here waits.

There is no limit until the first refusal. From then on:

- A pause is the time after a refusal in which nothing is sent.
- A probe is the one request that is sent after a pause. If it is refused, another pause follows.
- A silence is the time from a refusal until the next accepted probe is sent.
- A round is the time from an accepted probe, or from the first request, to the next refusal. Its requests are sent at
  an interval: the time from the beginning of the last round until the server accepts requests again, divided by the
  requests accepted in that round. The interval shrinks while requests are accepted, slowly at first.

No more requests are in flight at once than the server accepted at once. The limit ends after a quiet time.

A call on its last attempt is sent later: after another request was accepted, or after the longest silence so far, and
no faster than the average of the last round.
"""

import math
import random

# Seconds after which the limit ends if no call has had to wait.
QUIET_TIME = 30.0

# The constants below were chosen by simulating servers with windows, token buckets and limits on requests in flight.
# The requests accepted until the interval is half as long: in the first round, whose interval is a guess, and later.
FIRST_GROWTH = 5.0
GROWTH = 24.0
# The seconds until the interval is half as long even if few were accepted: another process may have used up the limit.
GROWTH_TIME = 30.0
# The requests accepted, per request in flight, until twice as many may be in flight.
CONCURRENCY_GROWTH = 50.0
# A guessed delay is up to 25 % longer at random, so that clients that were refused together do not return together.
JITTER = 0.25
# Without Retry-After each further pause is longer by this factor.
PAUSE_FACTOR = 1.5
# With Retry-After a pause lasts at least this many intervals: the interval of a round of few requests is inaccurate.
MIN_PAUSE_INTERVALS = 2.0
# If the server refuses again after Retry-After, a pause is at least this part of the backoff, then 3, 7, 15
# times as much.
MIN_PAUSE_BACKOFFS = 0.25
# A guessed pause is half over, on average, when the server accepts requests again.
GUESSED_PAUSE_SHARE = 0.5
# A last attempt waits for this many guessed pauses, and goes no faster than the average interval times this margin.
LAST_ATTEMPT_PAUSES = 1.5
LAST_ATTEMPT_MARGIN = 1.1


class Pace:
    """The pace of the requests to one server.

    Attributes:
        limited: whether requests have to wait.
    """

    def __init__(self) -> None:
        self._reset(-math.inf)

    def _reset(self, now: float) -> None:
        """Start again without a limit."""
        self.limited = False
        self._reset_at = now
        self._last_busy = now  # when a call last had to wait
        self._latency = 0.0  # the seconds that the slowest response took
        self._in_flight = 0
        self._concurrency = 0  # how many requests the server accepted at once; 0 if unknown
        # A round begins with an accepted request and ends with a refusal.
        self._rounds = 0
        self._round_start = now
        self._round_interval = 0.0  # the interval at the start of the round
        self._last_sent = now
        self._sent = self._accepted = 0
        # From the refusal until a request is accepted, pauses alternate with probes.
        self._probing = False
        self._silence_start = now
        self._silence = 0.0  # the longest so far
        self._pauses = 0
        self._pause = self._backoff = 0.0
        self._guessed = False  # whether the server sent no Retry-After
        self._resume = now  # the end of the pause
        self._available = now  # when the server accepts requests again; the pause may be longer
        self._next_probe = now

    def end_if_quiet(self, now: float) -> None:
        """End the limit if no call had to wait for a while."""
        if now - max(self._last_busy, self._resume) > QUIET_TIME:
            self._reset(now)

    def call_waits(self, now: float) -> None:
        """Record that a call has to wait."""
        self._last_busy = now

    def due(self, now: float, is_last_attempt: bool) -> float:
        """Return the time at which the next request may be sent, for a call that waits."""
        if not self.limited:
            return now
        if self._probing:
            if not (is_last_attempt and self._guessed):
                return self._next_probe
            extra = (LAST_ATTEMPT_PAUSES - 1) * self._pause
            return max(self._next_probe + extra, self._silence_start + self._silence)
        if self._is_busy():
            # Wait as long as the slowest response took: a request whose caller was cancelled gets no response.
            return max(self._next_slot(is_last_attempt), self._last_sent + self._latency)
        return self._next_slot(is_last_attempt)

    def interval(self) -> float:
        """Return the seconds between two requests; 0 until a whole round has measured them."""
        return self._current_interval() if self._rounds > 1 and not self._probing else 0.0

    def sent(self, now: float, is_last_attempt: bool) -> None:
        """Record that a request is sent."""
        if not self.limited:
            if now - self._round_start > QUIET_TIME:
                # Count recent requests only, so that the first interval is not that of an idle hour.
                self._reset(now)
        elif self._probing:
            # If the first request gets no response, another one goes.
            self._next_probe = now + max(self._pause, self._backoff)
        else:
            self._sent += 1
            # A late request does not delay the next one, but requests make up for one interval at most.
            self._last_sent = max(self._next_slot(is_last_attempt), now - self._current_interval())
        self._in_flight += 1

    def failed(self, sent_at: float) -> None:
        """Record that the request sent at `sent_at` ended without a response."""
        if sent_at >= self._reset_at:
            self._in_flight -= 1

    def accepted(self, now: float, sent_at: float) -> None:
        """Record a response, other than a refusal, to the request sent at `sent_at`."""
        if sent_at < self._reset_at:
            return
        self._in_flight -= 1
        if now - sent_at > self._latency:
            self._latency = now - sent_at
        if self._probing:
            if sent_at >= self._resume:
                self._start_round(now, sent_at)
                return
            self._concurrency = max(self._concurrency, self._in_flight + 1)
        if sent_at >= self._round_start:
            self._accepted += 1

    def refused(self, now: float, sent_at: float, retry_after: float | None, backoff: float) -> None:
        """Record a refusal of the request sent at `sent_at`.

        Args:
            now: the time.
            sent_at: the time at which the request was sent.
            retry_after: the seconds in the header `Retry-After`, if any.
            backoff: the seconds to wait otherwise.
        """
        self.failed(sent_at)
        if self.limited and sent_at < self._resume:
            # The request was sent before the pause began: its refusal says nothing new about the pace.
            resume = now + (retry_after or 0.0)
            if resume > self._resume:
                self._pause += resume - self._resume
                self._resume = self._available = resume
                self._next_probe = max(self._next_probe, resume)
            return
        self.limited = True
        if not self._probing:
            self._probing = True
            self._silence_start = now
            self._rounds += 1
            self._pauses = self._concurrency = 0
        self._guessed, self._backoff = retry_after is None, backoff
        self._pause = self._choose_pause(retry_after, backoff)
        self._pauses += 1
        self._resume = self._next_probe = now + self._pause
        self._available = self._resume if retry_after is None else now + retry_after

    def _choose_pause(self, retry_after: float | None, backoff: float) -> float:
        if retry_after is None:
            return backoff * PAUSE_FACTOR**self._pauses * random.uniform(1, 1 + JITTER)
        at_least = MIN_PAUSE_BACKOFFS * backoff * (2.0**self._pauses - 1)
        return max(retry_after, at_least, MIN_PAUSE_INTERVALS * self._round_interval)

    def _start_round(self, now: float, sent_at: float) -> None:
        """Measure the interval of the round that ended with a pause, now that a request is accepted again."""
        elapsed = self._available - self._round_start - GUESSED_PAUSE_SHARE * self._guessed * self._pause
        self._round_interval = elapsed / max(1, self._accepted)
        self._silence = max(self._silence, sent_at - self._silence_start)
        self._probing = False
        self._round_start, self._sent, self._accepted = sent_at, 1, 1
        self._last_sent = max(now - self._round_interval, sent_at)

    def _is_busy(self) -> bool:
        """Return whether as many requests are in flight as the server accepted at once, if that is known."""
        growth = _growth(self._accepted, CONCURRENCY_GROWTH * max(1, self._concurrency))
        return self._concurrency > 0 and self._in_flight + 1 > self._concurrency * growth

    def _next_slot(self, is_last_attempt: bool) -> float:
        due = self._last_sent + self._current_interval()
        if not is_last_attempt:
            return due
        average = self._round_start + LAST_ATTEMPT_MARGIN * self._round_interval * self._sent
        return max(due, min(average, self._last_sent + self._silence + self._round_interval))

    def _current_interval(self) -> float:
        by_requests = _growth(self._accepted, FIRST_GROWTH if self._rounds == 1 else GROWTH)
        return self._round_interval / max(by_requests, _growth(self._last_sent - self._round_start, GROWTH_TIME))


def _growth(amount: float, scale: float) -> float:
    """Return a factor that stays near 1, is 2 when `amount` is `scale`, and then grows fast, like TCP's CUBIC."""
    return 1.0 + (amount / scale) ** 3
