"""The connections of each event loop: opened by its first request, shared by all of its requests, closed with it.

A connection belongs to the loop that opened it and must be closed before that loop is. g4f's sync client makes a
loop for every call, an API server keeps one for ever, and some bots close theirs by hand or not at all; what they
have in common is `loop.close` and the interpreter's exit, so these two close the pool.
"""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from g4f.requests.aiohttp import get_connector
from g4f.requests.defaults import DEFAULT_HEADERS

# What the web application sends with every request. As the sessions' own, aiohttp sorts them in once.
HEADERS = {**DEFAULT_HEADERS, "accept": "*/*", "content-type": "application/json", "websim-flags": ""}

# How long a whole try may take is for `use` to say.
TO_CONNECT = ClientTimeout(total=None, sock_connect=30.0)

# A connector serves one SOCKS proxy alone; beyond this many, those that are idle are closed.
MAX_SOCKS_PROXIES = 8

# How long closing may take before what is left is dropped.
CLOSE_SECONDS = 1.0

_ATTRIBUTE = "_g4f_websim_pool"


class Pool:
    """The sessions of one event loop: one for direct and HTTP proxy connections, one for each SOCKS proxy.

    One timer watches over all requests, where one each would cost a tenth of a small one.

    Attributes:
        sessions: those that are open, by SOCKS proxy, None for the one without.
        users: the tasks that use them, each with its SOCKS proxy and with the loop's time at which it is cancelled.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._close_loop = loop.close
        self._timer: asyncio.TimerHandle | None = None
        self._next_look = math.inf
        self.sessions: dict[str | None, ClientSession] = {}
        self.users: dict[asyncio.Task[Any], tuple[str | None, float]] = {}
        loop.close = self._close_with_loop  # type: ignore[method-assign]
        setattr(loop, _ATTRIBUTE, self)
        _pools.add(self)

    @classmethod
    def of_running_loop(cls) -> Pool:
        """Return the pool of the running loop, a new one in a new loop."""
        loop = asyncio.get_running_loop()
        return getattr(loop, _ATTRIBUTE, None) or cls(loop)

    async def open(self, socks_proxy: str | None) -> ClientSession:
        """Open the session for `socks_proxy`, or the one for all else where it is None."""
        if socks_proxy not in self.sessions and len(self.sessions) > MAX_SOCKS_PROXIES:
            await self._close(lambda proxy: bool(proxy) and proxy not in {used for used, _ in self.users.values()})
        if socks_proxy not in self.sessions:
            connector = get_connector(proxy=socks_proxy) if socks_proxy else TCPConnector()
            # No cookie of one caller's may reach the next.
            self.sessions[socks_proxy] = ClientSession(
                headers=HEADERS, timeout=TO_CONNECT, connector=connector, cookie_jar=DummyCookieJar()
            )
        return self.sessions[socks_proxy]

    def use(self, socks_proxy: str | None, seconds: float) -> Any:
        """Enter the running task among the users, which it is to leave in so many seconds, and return it."""
        task: Any = asyncio.current_task()
        until = self._loop.time() + seconds
        self.users[task] = socks_proxy, until
        if until < self._next_look:
            self._look_at(until)
        return task

    def _look_at(self, time: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._next_look = time
        self._timer = self._loop.call_at(time, self._cancel_overdue) if self.users else None

    def _cancel_overdue(self) -> None:
        now = self._loop.time()
        for task in [task for task, (_, until) in self.users.items() if until <= now]:
            del self.users[task]
            task.cancel()
        self._look_at(min((until for _, until in self.users.values()), default=math.inf))

    async def _close(self, which: Callable[[str | None], bool]) -> None:
        # One at a time: during each wait others may come into use, or this be cancelled.
        while chosen := list(filter(which, self.sessions)):
            await self.sessions.pop(chosen[0]).close()

    def _close_with_loop(self) -> None:
        self.close_connections()
        self._close_loop()

    def close_connections(self) -> None:
        """Close every connection, unless the loop runs, or is closed and they with it."""
        if self.sessions and not self._loop.is_running() and not self._loop.is_closed():
            closing = asyncio.wait_for(self._close(lambda proxy: True), CLOSE_SECONDS)
            with suppress(asyncio.TimeoutError), ThreadPoolExecutor() as elsewhere:
                if asyncio._get_running_loop():
                    # Another loop runs in this thread, and two cannot.
                    elsewhere.submit(self._loop.run_until_complete, closing).result()
                else:
                    self._loop.run_until_complete(closing)

    def leave_to_parent(self) -> None:
        """Touch no connection again: in a forked child they are the parent's, and so is the loop's selector."""
        for session in self.sessions.values():
            _inherited.append(session.connector)
            session.detach()
        self.sessions.clear()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_inherited: list[Any] = []


def _close_all() -> None:
    for pool in list(_pools):
        pool.close_connections()


def _leave_all_to_parent() -> None:
    for pool in list(_pools):
        pool.leave_to_parent()


atexit.register(_close_all)
with suppress(AttributeError):  # Windows has none, and no fork
    os.register_at_fork(after_in_child=_leave_all_to_parent)
