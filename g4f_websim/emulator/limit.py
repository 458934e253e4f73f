"""Limit the number of requests that the emulator accepts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SECONDS_PER_UNIT = {"s": 1, "m": 60}
_LIMIT = re.compile(r"([1-9][0-9]*)/([0-9]*\.?[0-9]+)([sm])")

# The delay in seconds if too many requests are in flight. One of them may end at any moment, so this is the shortest
# delay that a Retry-After header can express.
IN_FLIGHT_DELAY = 1.0


@dataclass(frozen=True)
class RateLimit:
    """A limit on requests. The emulator responds with status 429 to requests beyond it.

    Attributes:
        requests: the number of requests accepted in each period; None means any number.
        period: the length of a period in seconds. A period starts with the first request after the end of the previous
            one.
        max_in_flight: the number of requests accepted at the same time; None means any number.
        retry_after: whether a response with status 429 has a `Retry-After` header.
    """

    requests: int | None = None
    period: float = 1.0
    max_in_flight: int | None = None
    retry_after: bool = True

    @classmethod
    def parse(cls, text: str) -> RateLimit:
        """Return the limit that a text describes, such as `10/10s` (10 seconds) or `100/1m` (1 minute).

        Raises:
            ValueError: the text does not have this form.
        """
        match = isinstance(text, str) and _LIMIT.fullmatch(text)
        period = float(match[2]) * _SECONDS_PER_UNIT[match[3]] if match else 0
        if not match or not period:
            raise ValueError(f"a limit is REQUESTS/PERIOD, such as 10/10s or 100/1m, not {text!r}")
        return cls(int(match[1]), period)


class Limiter:
    """Count requests, and refuse those beyond a `RateLimit`. The clock returns the current time in seconds."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._in_flight = 0
        self.reset()

    def reset(self) -> None:
        """End the current period."""
        self._period_end = float("-inf")
        self._accepted = 0

    @contextmanager
    def admit(self) -> Iterator[float | None]:
        """Accept or refuse a request. An accepted request is in flight until the block ends.

        Yields:
            None if the request is accepted, or else the seconds after which the client may repeat the request.
        """
        limit, now = self._limit, self._clock()
        if now >= self._period_end:
            self._period_end = now + limit.period
            self._accepted = 0
        if limit.max_in_flight is not None and self._in_flight >= limit.max_in_flight:
            yield IN_FLIGHT_DELAY
        elif limit.requests is not None and self._accepted >= limit.requests:
            yield self._period_end - now
        else:
            self._accepted += 1
            self._in_flight += 1
            try:
                yield None
            finally:
                self._in_flight -= 1
