"""Limit how many requests the emulator accepts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SECONDS = {"s": 1, "m": 60}
_LIMIT = re.compile(r"([1-9][0-9]*)/([0-9]*\.?[0-9]+)([sm])")

# A request under way may end at any moment, so this is only the shortest delay that Retry-After can name.
IN_FLIGHT_DELAY = 1.0


@dataclass(frozen=True)
class RateLimit:
    """A limit on requests. The emulator answers requests beyond it with 429.

    Args:
        requests: The number of requests accepted in each period; None means any number.
        period: The length of a period in seconds. A period starts with the first request after the last period.
        max_in_flight: The number of requests accepted at the same time; None means any number.
        retry_after: Whether a refusal names the seconds to wait in a `Retry-After` header.
    """

    requests: int | None = None
    period: float = 1.0
    max_in_flight: int | None = None
    retry_after: bool = True

    @classmethod
    def parse(cls, text: str) -> RateLimit:
        """Return the limit that a text such as `10/10s` describes.

        Args:
            text: The number of requests, a slash, and the period in seconds (`s`) or minutes (`m`).

        Raises:
            ValueError: The text has another form.
        """
        match = _LIMIT.fullmatch(text)
        period = float(match[2]) * _SECONDS[match[3]] if match else 0
        if not match or not period:
            raise ValueError(f"a limit is REQUESTS/PERIOD, such as 10/10s or 100/1m, not {text!r}")
        return cls(int(match[1]), period)


class Limiter:
    """The requests counted against a `RateLimit`.

    Args:
        limit: The limit.
        clock: A function that returns the time in seconds.
    """

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
        """Yield None if a request is accepted, else the seconds after which to send it again."""
        delay = self._delay()
        if delay is not None:
            yield delay
            return
        self._accepted += 1
        self._in_flight += 1
        try:
            yield None
        finally:
            self._in_flight -= 1

    def _delay(self) -> float | None:
        now = self._clock()
        if now >= self._period_end:
            self._period_end = now + self._limit.period
            self._accepted = 0
        if self._limit.max_in_flight is not None and self._in_flight >= self._limit.max_in_flight:
            return IN_FLIGHT_DELAY
        if self._limit.requests is not None and self._accepted >= self._limit.requests:
            return self._period_end - now
        return None
