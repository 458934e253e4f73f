"""A server with a rate limit, in a process of its own, that records when it accepts and refuses requests."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.request import urlopen

from aiohttp import web

from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST
from tests.support.server_process import serve_until_stopped, server_process

RESPONSE = {"role": "assistant", "content": "Yes.", "url": "https://websim.example/cat.png"}


@dataclass(frozen=True)
class Limit:
    """A rate limit: a fixed window, a token bucket, or a number of requests in flight.

    Attributes:
        kind: `window`, `bucket` or `in_flight`.
        requests: the requests in a window, the tokens in a full bucket, or the requests in flight.
        period: the length of a window in seconds, or the seconds in which a bucket gains one token.
        latency: seconds that an accepted request takes.
        retry_after: whether a refusal has a `Retry-After` header, in decimal seconds.
    """

    kind: str
    requests: int
    period: float = 0.0
    latency: float = 0.005
    retry_after: bool = True

    def best_seconds(self, calls: int) -> float:
        """Return the shortest possible time for a number of calls that all start now."""
        rounds = -(-calls // self.requests)
        match self.kind:
            case "window":
                return (rounds - 1) * self.period + self.latency
            case "bucket":
                return max(0, calls - self.requests) * self.period + self.latency
            case _:
                return rounds * self.latency


class _Limiter:
    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._in_flight = 0
        self._window_end = 0.0
        self._left = float(limit.requests)
        self._filled = time.monotonic()
        self.accepted: list[float] = []
        self.refused: list[float] = []

    async def handle(self, request: web.Request) -> web.Response:
        await request.read()
        now = time.monotonic()
        delay = self._delay(now)
        if delay is not None:
            self.refused.append(now)
            headers = {"Retry-After": f"{delay:.3f}"} if self._limit.retry_after else {}
            return web.json_response({"error": "Too many requests"}, status=429, headers=headers)
        self.accepted.append(now)
        self._in_flight += 1
        await asyncio.sleep(self._limit.latency)
        self._in_flight -= 1
        return web.json_response(RESPONSE)

    async def report(self, request: web.Request) -> web.Response:
        return web.json_response({"accepted": self.accepted, "refused": self.refused})

    def _delay(self, now: float) -> float | None:
        """Return None if the request is accepted, or else the seconds after which to come back."""
        match self._limit.kind:
            case "window":
                return self._delay_of_window(now)
            case "bucket":
                return self._delay_of_bucket(now)
            case _:
                return self._delay_of_in_flight()

    def _delay_of_window(self, now: float) -> float | None:
        if now >= self._window_end:
            self._window_end, self._left = now + self._limit.period, self._limit.requests
        if not self._left:
            return self._window_end - now
        self._left -= 1
        return None

    def _delay_of_bucket(self, now: float) -> float | None:
        self._left = min(self._limit.requests, self._left + (now - self._filled) / self._limit.period)
        self._filled = now
        if self._left < 1:
            return (1 - self._left) * self._limit.period
        self._left -= 1
        return None

    def _delay_of_in_flight(self) -> float | None:
        return None if self._in_flight < self._limit.requests else self._limit.latency


@dataclass(frozen=True)
class LimitedServer:
    """A running server; see `limited_server`."""

    url: str

    def report(self) -> dict[str, list[float]]:
        """Return the times, by the monotonic clock, at which requests were `accepted` and `refused`."""
        with urlopen(self.url, timeout=MAX_SECONDS) as response:
            return json.load(response)


@contextmanager
def limited_server(limit: Limit) -> Iterator[LimitedServer]:
    """Serve any POST on a free loopback port, within a rate limit."""
    with server_process(__name__, json.dumps(vars(limit))) as port:
        yield LimitedServer(f"http://{HOST}:{port}")


async def _serve(limit: Limit) -> None:
    limiter = _Limiter(limit)
    app = web.Application()
    app.router.add_post("/{path:.*}", limiter.handle)
    app.router.add_get("/", limiter.report)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, backlog=1024).start()
    await serve_until_stopped(runner.addresses[0][1])


if __name__ == "__main__":
    asyncio.run(_serve(Limit(**json.loads(sys.argv[1]))))
