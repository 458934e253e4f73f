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
# The number of refusals in a row that count as a limit, in the states free and paced, if they have no Retry-After. An
# overloaded server also refuses single requests at random.
FREE_REFUSALS, PACED_REFUSALS = 3, 2
# If a free gate closed, and the server refused at most so many requests for each one that it accepted, the alarm was
# false: the server has room for all of them. Each false alarm doubles the number of refusals for the next one.
FREE_SHARE, MAX_FACTOR = 1.3, 8
# Without Retry-After a pause is at least half as long as the server has refused requests, because each probe costs a
# call one attempt. On average, the server accepts requests again after half of the last pause.
PAUSE_SHARE = 0.5
GUESSED_SHARE = 0.5
# The number of accepted requests after which the interval is half as long.
HALVING = 10
# Each accepted request allows two more. The gate is free again when more than MAX_ALLOWED may be sent with less than
# MIN_INTERVAL seconds between them, or when no call has waited for QUIET_TIME seconds.
ALLOWED_PER_ACCEPTED, MAX_ALLOWED, MIN_INTERVAL, QUIET_TIME = 2, 64, 0.02, 30.0
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
        # When requests were sent: the last one, the last one that was accepted, and those accepted in this round.
        self._last_sent = self._last_accepted = -math.inf
        self._accepted: deque[float] = deque(maxlen=MEASURED_REQUESTS)
        # When this round began, when the gate last closed, and the latest time until which a call had to wait.
        self._round_start = self._closed_at = self._waited_until = -math.inf
        # The pause: when it ends, and when the server presumably accepts requests again. The seconds after which a
        # request without a response is given up. The state to which the gate returns if the refusals were no limit.
        self._resume = self._available = -math.inf
        self._patience = 0.0
        self._open_state = State.FREE
        # The pace: when the next request may be sent, and how many requests may be sent before one is accepted.
        self._next_slot, self._allowed = 0.0, 0
        # How many times as many refusals as at first count as a limit, if the gate is free.
        self._factor = 1
        self._become_free()

    def _become_free(self) -> None:
        self.state = State.FREE
        # The seconds between two requests at the measured pace, and those from a refusal to the next accepted request.
        self._measured = self._silence = 0.0
        self._count = 0  # accepted requests in this round
        self._accepted.clear()
        self._end_pause()

    def _end_pause(self) -> None:
        self.retry_at = -math.inf
        self._refused = 0  # requests since the first refusal
        # When each refused request was sent, apart from those sent earlier than an accepted one.
        self._suspect: list[float] = []

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
        if self.state is not State.FREE and now - max(self._waited_until, self._resume) > QUIET_TIME:
            self._become_free()
        if self.state is State.FREE:
            return now
        due = self._resume
        if self.state is State.PACED:
            due = min(self._next_slot, self._last_sent + max_interval)
        if self.state is State.PROBING or (self.state is State.PACED and self._allowed < 1):
            # A request whose event loop has ended never gets a response.
            due = max(due, self._last_sent + self._patience)
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
        if self.state is State.PROBING and sent_at >= self._resume:
            self.state = State.PAUSED  # until now: the next request is the probe

    def accepted(self, sent_at: float) -> None:
        """Record a response other than a refusal."""
        self._last_accepted = max(self._last_accepted, sent_at)
        if self._suspect:  # also whenever the gate is not open
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
        if not self.is_open and sent_at >= self._resume:
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
            # The fastest pace up to now: that of the last accepted request, of the last two, of the last three ...
            times = enumerate(sorted(self._accepted, reverse=True), 1)
            self._measured = max(0.0, min((self._available - time) / number for number, time in times))
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
        if not self.is_open and retry_after is not None and now + retry_after > self._resume:
            # The request belongs to the burst before the pause.
            self._resume = self._available = self.retry_at = now + retry_after

    def _close(self, now: float, retry_after: float | None, backoff: float) -> None:
        if self.is_open:
            self._open_state, self._refused = self.state, len(self._suspect)
        self.state = State.PAUSED
        if retry_after is None:
            refused_for = now - self._suspect[0]
            pause = max(backoff, PAUSE_SHARE * refused_for) * random.uniform(1, 1 + JITTER)
            pause = min(pause, MAX_RETRY_AFTER)
            self._available, self.retry_at = now + (1 - GUESSED_SHARE) * pause, -math.inf
        else:
            pause = retry_after
            self._available = self.retry_at = now + retry_after
        self._resume, self._patience = now + pause, max(pause, backoff)
        self._closed_at = max(now, self._last_sent)
