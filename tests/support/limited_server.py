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

from tests.support.limiter import Limit, Limiter
from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST
from tests.support.server_process import serve_until_stopped, server_process

RESPONSE = {"role": "assistant", "content": "Yes.", "url": "https://websim.example/cat.png"}


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
    limiter = Limiter(limit)

    async def respond(request: web.Request) -> web.Response:
        await request.read()
        delay = limiter.admit(time.monotonic()) if request.path.endswith(limit.path) else None
        if delay is not None:
            headers = {"Retry-After": f"{delay:.3f}"} if limit.retry_after else {}
            return web.json_response({"error": "Too many requests"}, status=429, headers=headers)
        limiter.in_flight += 1
        try:
            await asyncio.sleep(limit.latency)
        finally:
            limiter.in_flight -= 1
        return web.json_response(RESPONSE)

    async def report(request: web.Request) -> web.Response:
        return web.json_response({"accepted": limiter.accepted, "refused": limiter.refused})

    app = web.Application()
    app.router.add_post("/{path:.*}", respond)
    app.router.add_get("/", report)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, backlog=1024).start()
    await serve_until_stopped(runner.addresses[0][1])


if __name__ == "__main__":
    asyncio.run(_serve(Limit(**json.loads(sys.argv[1]))))
