"""Connections: every event loop owns a pool, and all requests in that event loop share it.

Only the event loop refers to its pool. What ends an event loop properly (`asyncio.run`, uvicorn, g4f) closes the pool
with `loop.shutdown_asyncgens()`. The garbage collector or the exit of the interpreter closes the sockets of any other
event loop, without a message.
"""

import asyncio
import atexit
import os
import socket
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakSet

from aiohttp import AddrInfoType, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from g4f.requests.aiohttp import get_connector
from g4f.requests.defaults import DEFAULT_HEADERS

# What the web application sends with every request.
HEADERS = {**DEFAULT_HEADERS, "accept": "*/*", "content-type": "application/json", "websim-flags": ""}

# The seconds that one attempt may take, and how many of these it may take to connect, through a proxy too.
ATTEMPT_TIMEOUT = 300.0
CONNECT_TIMEOUT = 30.0

# aiohttp refuses a response with longer header lines; Cloudflare and proxies may add cookies and policies to it.
MAX_HEADER_BYTES = 64 * 1024

# The requests in flight in an event loop. The timeout of an attempt would include waiting for aiohttp's own limit.
MAX_REQUESTS = 100

# The seconds for which the end of an event loop waits until the sockets are closed.
CLOSE_TIMEOUT = 1.0

_ATTRIBUTE = "_g4f_websim_pool"


@dataclass(slots=True)
class Exchange:
    """A request under way.

    Attributes:
        status: the HTTP status, once the response begins.
        is_shared: whether the request may reuse a connection.
        opened: whether a connection was opened for the request.
    """

    status: int | None = None
    is_shared: bool = False
    opened: bool = False


# The request that the running task sends. aiohttp connects in other tasks, which inherit the variable.
current_exchange: ContextVar[Exchange] = ContextVar("current_exchange")


def _open_socket(address: AddrInfoType) -> socket.socket:
    """Open a socket for aiohttp, and mark the request that needs a new connection."""
    current_exchange.get().opened = True
    family, kind, protocol, *_ = address
    return socket.socket(family, kind, protocol)


class _Connector(TCPConnector):
    """A connector that may be left to the garbage collector: aiohttp reports no error, and closes nothing."""

    def __init__(self) -> None:
        super().__init__(limit=0, socket_factory=_open_socket)
        self._owner = asyncio.get_running_loop()

    @property
    def closed(self) -> bool:
        """Whether no request can be sent; aiohttp logs an error when a session that is not closed is collected."""
        return super().closed or not self._owner.is_running()

    def __del__(self, _warnings: Any = None) -> None:
        pass


@dataclass
class Pool:
    """The connections of an event loop.

    Attributes:
        slots: limits the number of requests in flight.
    """

    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_REQUESTS))
    process_id: int = field(default_factory=os.getpid)
    thread: threading.Thread = field(default_factory=threading.current_thread)
    # Closes the session; the event loop itself refers to it only weakly.
    closer: AsyncGenerator[None, None] | None = None

    @property
    def keeps_connections(self) -> bool:
        """Whether the event loop refers to the pool, so that the next request finds it."""
        return self.closer is not None

    @cached_property
    def session(self) -> ClientSession:
        """aiohttp's session, which keeps connections."""
        return new_session()


# The event loops of asyncio that have a pool.
_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

# A forked child must not close its parent's connections, nor reuse their file numbers while the selector has them.
_inherited: list[Pool] = []


def shared_pool() -> Pool:
    """Return the pool of the running event loop; the first request creates it."""
    loop = asyncio.get_running_loop()
    pool: Pool | None = getattr(loop, _ATTRIBUTE, None)
    if pool:
        if pool.process_id == os.getpid():
            return pool
        _inherited.append(pool)
    pool = Pool()
    with suppress(AttributeError):  # an event loop with slots; each of its requests opens a connection
        setattr(loop, _ATTRIBUTE, pool)
        if type(loop).__module__.startswith("asyncio."):
            _loops.add(loop)
        pool.closer = _close_with_loop(loop, pool)
        _start_without_finalizer(pool.closer)
    return pool


async def _close_with_loop(loop: asyncio.AbstractEventLoop, pool: Pool) -> AsyncGenerator[None, None]:
    """Close a pool when `loop.shutdown_asyncgens()` closes this generator."""
    try:
        yield
    finally:
        # The garbage collector closes this generator too, after an event loop that was not shut down.
        if loop.is_running() and pool.process_id == os.getpid():
            setattr(loop, _ATTRIBUTE, None)
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await pool.session.close()


def _start_without_finalizer(generator: AsyncGenerator[None, None]) -> None:
    """Run a generator to its `yield`, so that `shutdown_asyncgens` closes it, but without the finalizer of asyncio.

    When an event loop is collected with the generator, the finalizer would warn that `aclose` was never awaited.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=None)
    try:
        started = anext(generator)
    finally:
        sys.set_asyncgen_hooks(*hooks)
    with suppress(StopIteration):  # the generator yields without waiting
        started.__await__().send(None)


@atexit.register
def _close_loops() -> None:
    """Close the event loops that ended threads have left open: the interpreter would close their files in any order.

    Other event loops stay open: exit handlers that run later may need those of the main thread, threads that are still
    alive need theirs, and those that a forked child inherits belong to its parent.
    """
    for loop in list(_loops):
        pool: Pool | None = getattr(loop, _ATTRIBUTE, None)
        if pool is None or pool.process_id != os.getpid() or loop.is_running():
            continue
        if pool.thread is not threading.main_thread() and not pool.thread.is_alive():
            loop.close()


def new_session(socks_proxy: str | None = None) -> ClientSession:
    """Return an aiohttp session with connections of its own, which the caller closes.

    Args:
        socks_proxy: URL of a SOCKS proxy for all connections of the session.

    Raises:
        MissingRequirementsError: `aiohttp_socks` is not installed.
    """
    return ClientSession(
        headers=HEADERS,
        connector=get_connector(proxy=socks_proxy) if socks_proxy else _Connector(),
        # A cookie that one caller receives must not be sent with the requests of another.
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(total=ATTEMPT_TIMEOUT, connect=CONNECT_TIMEOUT),
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
