"""Rate limits of servers; the caller passes the time, so they work over sockets and in virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """A rate limit.

    Attributes:
        kind: `window` (requests in a period), `bucket` (tokens, one more in each period), `in_flight` (requests at the
            same time), `random` (refuses a share of the requests), `first` (refuses the first requests), `outage`
            (accepts some requests, then none until the period is over), or `none`.
        requests: the requests in a window or in flight, the tokens in a full bucket, the requests that are refused
            first or accepted before the outage, or the percentage that is refused at random.
        period: seconds; for `random` and `first` the seconds in `Retry-After`.
        latency: seconds that an accepted request takes.
        retry_after: whether a refusal has a `Retry-After` header.
        path: the end of the path of limited requests; others are accepted.
    """

    kind: str
    requests: int = 1
    period: float = 0.0
    latency: float = 0.005
    retry_after: bool = True
    path: str = ""

    def best_seconds(self, calls: int) -> float:
        """Return the shortest possible time for a number of calls that all start now."""
        rounds = -(-calls // self.requests)
        match self.kind:
            case "window":
                return (rounds - 1) * self.period + self.latency
            case "bucket":
                return max(0, calls - self.requests) * self.period + self.latency
            case "in_flight":
                return rounds * self.latency
            case "first" | "outage":
                return self.period + self.latency
            case _:
                return self.latency

    def capacity(self, calls: int, seconds: float) -> int:
        """Return how many of a number of calls the server can accept within a time."""
        accepted = {
            "window": -(-seconds // self.period) * self.requests if self.period else calls,
            "bucket": self.requests + seconds // self.period if self.period else calls,
            "in_flight": seconds // self.latency * self.requests,
        }
        return int(min(calls, accepted.get(self.kind, calls)))


class Limiter:
    """A server's count of the requests under a `Limit`; it records when they were `accepted` and `refused`."""

    def __init__(self, limit: Limit, seed: int = 1) -> None:
        self._limit = limit
        self._random = random.Random(seed)
        self._start: float | None = None
        self._left = float(limit.requests)
        self.in_flight = 0
        self.accepted: list[float] = []
        self.refused: list[float] = []

    def admit(self, now: float) -> float | None:
        """Return None if a request is accepted, or else the seconds after which to come back."""
        delay = self._delay(now)
        (self.accepted if delay is None else self.refused).append(now)
        return delay

    def _delay(self, now: float) -> float | None:
        limit = self._limit
        if self._start is None:
            self._start = now
        match limit.kind:
            case "window" if now >= self._start + limit.period:
                self._start, self._left = now, limit.requests
            case "bucket":
                self._left = min(limit.requests, self._left + (now - self._start) / limit.period)
                self._start = now
                if self._left < 1:
                    return (1 - self._left) * limit.period
            case "in_flight":
                return None if self.in_flight < limit.requests else limit.latency
            case "random":
                return limit.period if self._random.random() * 100 < limit.requests else None
            case "first":
                self._left -= 1
                return limit.period if self._left >= 0 else None
            case "outage" if now >= self._start + limit.period:
                return None
            case "none":
                return None
        if self._left < 1:
            return self._start + limit.period - now
        self._left -= 1
        return None
