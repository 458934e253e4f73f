"""Decide when the next request may be sent to a server that limits its rate.

A gate is in one of four states:

- Free: requests are sent at once. A refused call waits for its own delay only.
- Paused: the refusals look like a limit, and nothing is sent until the delay is over.
- Probing: the delay is over, and one request is sent. If the server refuses it, another pause follows.
- Paced: the server accepted the probe. The next requests follow at the interval at which it accepted requests before.
  The interval shrinks while the server accepts requests, until the gate is free again.

The caller passes the time, and nothing here waits; rate_limit.py contains the queue.
"""

import math
import random
from collections import deque
from enum import Enum, auto

# The longest pause, whatever Retry-After says: one wrong response must not stop a program for a day.
MAX_PAUSE = 900.0
# A delay that the server did not choose is up to 25 % longer at random: clients that were refused together separate.
JITTER = 0.25
# This many refusals without Retry-After are a limit. An overloaded server also refuses single requests at random.
REFUSALS = 3
# Without Retry-After, the next pause is longer by this factor: a probe of a long limit costs a call one attempt.
PAUSE_FACTOR = 1.6
# If at most this many requests are refused for each accepted one, the server has room for all of them after the pause.
FREE_SHARE = 0.5
# Without Retry-After, the server accepts requests again after half of the last pause, on average.
GUESSED_SHARE = 0.5
# The interval is half as long after as many accepted requests as in the last paced round, within these limits: few
# requests measure an interval badly, and many would keep it for too long.
MIN_GROWTH, MAX_GROWTH = 5, 12
# For each accepted request two more may be sent, until this many. An interval below MIN_INTERVAL is no limit.
SENT_PER_ACCEPTED, MAX_IN_FLIGHT, MIN_INTERVAL = 2, 64, 0.02
# The last accepted requests from which an interval is measured.
MEASURED_REQUESTS = 100
# The seconds without a waiting call after which the gate is free again.
QUIET_TIME = 30.0


class State(Enum):
    """The state of a gate; see the module."""

    FREE = auto()
    PAUSED = auto()
    PROBING = auto()
    PACED = auto()


class Gate:
    """The gate of one server. Requests are identified by the time at which they are sent.

    Attributes:
        state: the state.
        retry_at: when the server accepts requests again, if it said so in `Retry-After`, else minus infinity.
    """

    def __init__(self) -> None:
        self._accepted: deque[float] = deque(maxlen=MEASURED_REQUESTS)  # of this round: when each was sent
        self._round_start = self._last_accepted = self._last_sent = self._busy = -math.inf
        self._closed_at = self._resume = self._available = -math.inf
        self._pause = self._backoff = self._next_slot = 0.0
        self._allowed = 0
        self._state_before = State.FREE
        self._free()

    def _free(self) -> None:
        self.state = State.FREE
        self._measured = 0.0  # the interval that was measured; 0 if none
        self._growth = self._count = 0  # accepted requests in the last paced round, and in this one
        self._accepted.clear()
        self._end_pause()

    def _end_pause(self) -> None:
        self.retry_at = -math.inf
        self._pauses = self._refused = 0
        self._suspect: list[float] = []  # refused requests without a later accepted one: when each was sent

    @property
    def interval(self) -> float:
        """The seconds between two requests; 0 if requests need not be apart."""
        growth = min(max(self._growth, MIN_GROWTH), MAX_GROWTH)
        return self._measured / (1 + (self._count / growth) ** 3)

    @property
    def is_open(self) -> bool:
        """Whether the gate is free or paced, so that refused calls wait for their own delay."""
        return self.state in (State.FREE, State.PACED)

    def due(self, now: float, is_last_attempt: bool) -> float:
        """Return the time at which the next request may be sent, for a call that waits."""
        if self.state is not State.FREE and now - max(self._busy, self._resume) > QUIET_TIME:
            self._free()
        if self.state is State.FREE:
            return now
        due = self._resume
        if self.state is State.PACED:
            # An interval that is too short costs a call on its last attempt the response, others an attempt.
            due = self._next_slot + (self._measured if is_last_attempt else 0.0)
        if self.state is State.PROBING or (self.state is State.PACED and self._allowed < 1):
            # A request may never get a response: its caller was cancelled, or its event loop stopped.
            due = max(due, self._last_sent + max(self._pause, self._backoff))
        if due > now:
            self._busy = due
        return due

    def sent(self, now: float) -> None:
        """Record that a request is sent."""
        self._last_sent = now
        if self.state is State.PAUSED:
            self.state = State.PROBING
        elif self.state is State.PACED:
            self._allowed -= 1
            # A late request does not delay the next one, but requests make up for one interval at most.
            self._next_slot = max(self._next_slot, now - self.interval) + self.interval

    def failed(self, sent_at: float) -> None:
        """Record that a request ended without a response."""
        if self.state is State.PROBING and sent_at >= self._resume:
            self.state = State.PAUSED  # which is over: the next request is the probe
        elif self.state is State.PACED:
            self._allowed += 1

    def accepted(self, sent_at: float) -> None:
        """Record a response other than a refusal."""
        self._last_accepted = max(self._last_accepted, sent_at)
        self._suspect = [refused for refused in self._suspect if refused > sent_at]
        if not self.is_open:
            if sent_at >= self._resume:
                self._open(sent_at)
            elif not self._suspect:  # it was sent later than all refused requests
                self.state = self._state_before
                self._end_pause()
        if sent_at < self._round_start:
            return
        self._accepted.append(sent_at)
        self._count += 1
        if self.state is State.PACED:
            self._allowed += SENT_PER_ACCEPTED
            if self._allowed > MAX_IN_FLIGHT and self.interval < MIN_INTERVAL:
                self._free()

    def _open(self, sent_at: float) -> None:
        """Send the other requests, now that a probe is accepted."""
        if self._state_before is State.FREE and self._refused <= FREE_SHARE * len(self._accepted):
            self._free()
            return
        if self._accepted:
            # The fastest pace, up to now, at which the server accepted requests: the last one, the last two, and so on.
            times = enumerate(sorted(self._accepted, reverse=True), 1)
            self._measured = max(0.0, min((self._available - time) / number for number, time in times))
        self.state = State.PACED
        self._growth = self._count if self._state_before is State.PACED else 0
        self._count = 0
        self._round_start, self._allowed = sent_at, 0
        self._next_slot = sent_at + self._measured
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
        if sent_at > self._last_accepted:
            self._suspect.append(sent_at)
            self._refused += 1
            is_limit = not self.is_open or retry_after is not None or len(self._suspect) >= REFUSALS
            if is_limit and sent_at > self._closed_at:
                self._close(now, retry_after, backoff)
                return
        if not self.is_open and retry_after is not None and now + retry_after > self._resume:
            # Another request of the same burst.
            self._resume = self._available = self.retry_at = now + min(retry_after, MAX_PAUSE)
        elif self.state is State.PACED:
            self._allowed += 1

    def _close(self, now: float, retry_after: float | None, backoff: float) -> None:
        if self.is_open:
            self._state_before, self._refused = self.state, len(self._suspect)
        self.state = State.PAUSED
        if retry_after is None:
            self._pause = min(backoff * PAUSE_FACTOR**self._pauses * random.uniform(1, 1 + JITTER), MAX_PAUSE)
            self._available, self.retry_at = now + (1 - GUESSED_SHARE) * self._pause, -math.inf
        else:
            # Several processes return together when Retry-After is over, and all but one may be refused again.
            extra = random.uniform(0, backoff / 2 * (2.0 ** min(self._pauses, 10) - 1))
            self._pause = min(retry_after + extra, MAX_PAUSE)
            self._available = self.retry_at = now + retry_after
        self._pauses += 1
        self._backoff, self._closed_at, self._resume = backoff, now, now + self._pause
