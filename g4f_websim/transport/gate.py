"""Decide when the next request may be sent to a server that limits its rate. Nothing here waits.

A gate is in one of four states:

- Free: requests are sent at once. A refused call waits for its own delay only.
- Paused: the refusals look like a limit, and nothing is sent until the delay is over.
- Probing: the delay is over, and one request is sent. If the server refuses it, another pause follows.
- Paced: the server accepted the probe. The other requests follow at the interval at which it accepted requests before.
  The interval shrinks while the server accepts requests, until the gate is free again.
"""

import math
import random
from collections import deque
from enum import Enum

from ..errors import MAX_RETRY_AFTER

# A delay that the server did not choose is up to 25 % longer, so that refused clients do not return together.
JITTER = 0.25
# The number of refusals in a row, without Retry-After, that close a free or a paced gate. An overloaded server also
# refuses single requests at random.
FREE_REFUSALS = 3
PACED_REFUSALS = 2
# If a free gate closed, but the server refused at most so many requests for each one that it accepted, the alarm was
# false: the server has room for all of them.
FREE_SHARE = 0.8
# Each false alarm doubles the number of refusals that close a free gate, until it is so many times as large.
MAX_FACTOR = 8
# Without Retry-After, a pause is at least half as long as the server has refused requests, because each probe costs a
# call one attempt.
PAUSE_SHARE = 0.5
# On average, the server accepts requests again after half of such a pause.
GUESSED_SHARE = 0.5
# The number of accepted requests after which the interval is half as long.
HALVING = 10
# How many more requests a paced gate lets through for each accepted one.
ALLOWED_PER_ACCEPTED = 2
# A paced gate is free again when it would let through more than MAX_ALLOWED requests, less than MIN_INTERVAL seconds
# apart, or when no call has waited for QUIET_TIME seconds.
MAX_ALLOWED = 64
MIN_INTERVAL = 0.02
QUIET_TIME = 30.0
# The interval is measured from at most so many accepted requests.
MEASURED_REQUESTS = 100


State = Enum("State", ["FREE", "PAUSED", "PROBING", "PACED"])


class Gate:
    """The gate of one server. A request is identified by the time at which it is sent.

    A round begins when a probe is accepted, and ends when the next probe is.

    Attributes:
        state: one of the four states; see the module.
        retry_at: when the server accepts requests again, if it said so in `Retry-After`, else minus infinity.
    """

    def __init__(self) -> None:
        self._last_sent = -math.inf
        self._last_accepted = -math.inf  # when the last request that was accepted was sent
        self._round_start = -math.inf
        self._accepted: deque[float] = deque(maxlen=MEASURED_REQUESTS)  # when those of this round were sent
        self._closed_at = -math.inf
        self._waited_until = -math.inf  # the latest time until which a call had to wait
        self._factor = 1  # how many times as many refusals as at first close a free gate
        # The pause.
        self._pause_end = -math.inf
        self._available_at = -math.inf  # when the server presumably accepts requests again
        self._response_timeout = 0.0  # the seconds after which a request without a response is given up
        self._open_state = State.FREE  # the state before the pause
        # The pace.
        self._next_slot = 0.0  # when the next request may be sent
        self._allowed = 0  # the requests that may be sent before one more is accepted
        self._become_free()

    def _become_free(self) -> None:
        self.state = State.FREE
        self._measured = 0.0  # the seconds between two requests at the measured pace
        self._silence = 0.0  # the seconds from a refusal to the next request that is accepted
        self._count = 0  # the requests accepted in this round
        self._accepted.clear()
        self._end_pause()

    def _end_pause(self) -> None:
        self.retry_at = -math.inf
        self._refused = 0  # the requests refused since the gate closed, and those because of which it closed
        self._suspect: list[float] = []  # when refused requests were sent, except those sent before an accepted one

    @property
    def is_open(self) -> bool:
        """Whether the gate is free or paced, so that refused calls wait for their own delay."""
        return self.state in (State.FREE, State.PACED)

    @property
    def _interval(self) -> float:
        # Slow at first, then fast, like the window of TCP's CUBIC.
        return self._measured / (1 + (self._count / HALVING) ** 3)

    def due(self, now: float, is_last_attempt: bool, max_interval: float = math.inf) -> float:
        """Return the time at which the next request may be sent.

        Args:
            now: the time.
            is_last_attempt: whether its call fails if it is refused; it is sent later than others.
            max_interval: the longest interval in seconds while the gate is paced.
        """
        if self.state is not State.FREE and now - max(self._waited_until, self._pause_end) > QUIET_TIME:
            self._become_free()
        if self.state is State.FREE:
            return now
        due = self._pause_end
        if self.state is State.PACED:
            due = min(self._next_slot, self._last_sent + max_interval)
        if self.state is State.PROBING or (self.state is State.PACED and self._allowed < 1):
            # A request whose event loop has ended never gets a response.
            due = max(due, self._last_sent + self._response_timeout)
        if is_last_attempt:
            due += self._measured if self.state is State.PACED else 0.0
            if self._suspect and self.retry_at == -math.inf:
                due = max(due, self._suspect[0] + self._silence)
        if due > now:
            self._waited_until = due
        return due

    def sent(self, now: float) -> float:
        """Record that a request is sent, and return the time that identifies it."""
        if now <= self._last_sent:  # two requests in one tick of the clock
            now = math.nextafter(self._last_sent, math.inf)
        self._last_sent = now
        if self.state is State.PAUSED:
            self.state = State.PROBING
        elif self.state is State.PACED:
            self._allowed -= 1
            # A late request does not delay the next one, but requests make up for one interval at most.
            self._next_slot = max(self._next_slot, now - self._interval) + self._interval
        return now

    def failed(self, sent_at: float) -> None:
        """Record that a request ended without a response."""
        self._allowed += 1
        if self.state is State.PROBING and sent_at >= self._pause_end:
            self.state = State.PAUSED  # the pause is over, so the next request is the probe

    def accepted(self, sent_at: float) -> None:
        """Record a response other than a refusal."""
        self._last_accepted = max(self._last_accepted, sent_at)
        if self._suspect:  # the gate is closed, or a refused request may be a sign of a limit
            self._reconsider(sent_at)
        if sent_at >= self._round_start:
            self._accepted.append(sent_at)
            self._count += 1
            self._allowed += ALLOWED_PER_ACCEPTED
            if self.state is State.PACED and self._allowed > MAX_ALLOWED and self._interval < MIN_INTERVAL:
                self._become_free()

    def _reconsider(self, sent_at: float) -> None:
        """Drop the suspicion of requests that were sent earlier than an accepted one, and open the gate if possible."""
        first_refused = self._suspect[0]
        self._suspect = [refused for refused in self._suspect if refused > sent_at]
        if not self.is_open and sent_at >= self._pause_end:
            self._silence = max(self._silence, sent_at - first_refused)
            self._begin_round(sent_at)
        elif not self.is_open and not self._suspect:  # it was sent later than all refused requests
            self.state = self._open_state
            self._end_pause()

    def _begin_round(self, sent_at: float) -> None:
        """Open the gate, because the probe sent at `sent_at` is accepted."""
        if self._open_state is State.FREE and self._refused <= FREE_SHARE * len(self._accepted):
            self._factor = min(2 * self._factor, MAX_FACTOR)
            self._become_free()
            return
        self._factor = 1
        if self._accepted:
            # The fastest pace that the server allowed: one request since the last, two since the last but one ...
            times = enumerate(sorted(self._accepted, reverse=True), 1)
            self._measured = max(0.0, min((self._available_at - time) / number for number, time in times))
        self.state = State.PACED
        self._round_start, self._next_slot = sent_at, sent_at + self._measured
        self._count = self._allowed = 0
        self._accepted.clear()
        self._end_pause()

    def refused(self, now: float, sent_at: float, retry_after: float | None, backoff: float) -> None:
        """Record a refusal.

        Args:
            now: the time.
            sent_at: the time at which the request was sent.
            retry_after: the seconds in the header `Retry-After`, if any.
            backoff: the seconds to wait otherwise.
        """
        self._allowed += 1
        if retry_after is not None:
            retry_after = min(retry_after, MAX_RETRY_AFTER)
        if sent_at > self._last_accepted:
            self._suspect.append(sent_at)
            self._refused += 1
            is_free = self.state is State.FREE
            refusals = 1 if retry_after is not None else FREE_REFUSALS if is_free else PACED_REFUSALS
            if is_free:
                refusals *= self._factor
            is_limit = not self.is_open or len(self._suspect) >= refusals
            if is_limit and sent_at > self._closed_at:
                self._close(now, retry_after, backoff)
                return
        if not self.is_open and retry_after is not None and now + retry_after > self._pause_end:
            # The request belongs to the burst before the pause.
            self._pause_end = self._available_at = self.retry_at = now + retry_after

    def _close(self, now: float, retry_after: float | None, backoff: float) -> None:
        if self.is_open:
            self._open_state, self._refused = self.state, len(self._suspect)
        self.state = State.PAUSED
        if retry_after is None:
            refused_for = now - self._suspect[0]
            pause = max(backoff, PAUSE_SHARE * refused_for) * random.uniform(1, 1 + JITTER)
            pause = min(pause, MAX_RETRY_AFTER)
            self._available_at, self.retry_at = now + (1 - GUESSED_SHARE) * pause, -math.inf
        else:
            pause = retry_after
            self._available_at = self.retry_at = now + retry_after
        self._pause_end, self._response_timeout = now + pause, max(pause, backoff)
        self._closed_at = max(now, self._last_sent)
