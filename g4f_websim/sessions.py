"""Connections: one pooled aiohttp session for each event loop, closed together with the event loop.

The first request in an event loop opens the session, and all requests in that event loop share its connections.
`loop.close()` is extended on that one loop object: it aborts the idle connections, runs one pass of the event loop so
that the transports close their sockets, and then always closes the event loop. Closing never waits for a server,
starts no thread, and lets tasks that were left pending make at most one more step.
"""

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from aiohttp import BaseConnector, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, TraceConfig
from g4f.requests.aiohttp import get_connector

# Limits of one attempt, in seconds (specification, section 5).
ATTEMPT_TIMEOUT = 300.0
CONNECT_TIMEOUT = 30.0

_ATTRIBUTE = "_g4f_websim_session"

_lock = threading.Lock()
_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


class ConnectionUse:
    """Record whether a request was sent over a reused connection; pass it as `trace_request_ctx` of the request."""

    reused = False


def shared_session() -> ClientSession:
    """Return the session of the running event loop; the first request opens it."""
    loop = asyncio.get_running_loop()
    session: ClientSession | None = getattr(loop, _ATTRIBUTE, None)
    if session is None or session.closed:
        if session is None:
            loop.close = partial(_close, loop, loop.close)  # type: ignore[method-assign]
            with _lock:
                _loops.add(loop)
        session = new_session()
        setattr(loop, _ATTRIBUTE, session)
    return session


def new_session(socks_proxy: str | None = None) -> ClientSession:
    """Open a session that the caller closes.

    Args:
        socks_proxy: URL of a SOCKS proxy for all connections of the session.

    Raises:
        MissingRequirementsError: `aiohttp_socks` is not installed.
    """
    trace = TraceConfig()
    trace.on_connection_reuseconn.append(_record_reuse)
    return ClientSession(
        connector=get_connector(proxy=socks_proxy) if socks_proxy else TCPConnector(),
        # A cookie that one caller receives must not be sent with the requests of another.
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(total=ATTEMPT_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
        trace_configs=[trace],
    )


async def _record_reuse(session: ClientSession, context: Any, params: Any) -> None:
    context.trace_request_ctx.reused = True


def _close(loop: asyncio.AbstractEventLoop, close_loop: Callable[[], None]) -> None:
    """Close the connections of an event loop, then the event loop."""
    try:
        _close_connections(loop)
    finally:
        close_loop()


def _close_connections(loop: asyncio.AbstractEventLoop) -> None:
    session: ClientSession | None = getattr(loop, _ATTRIBUTE, None)
    connector = session.connector if session else None
    if connector is None or connector.closed or loop.is_running() or loop.is_closed():
        return
    # The public close() creates a task that needs several passes of the event loop.
    connector._close(abort_ssl=True)
    loop.call_soon(loop.stop)
    # Another event loop may run in this thread: a coroutine or the garbage collector can close a loop.
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        # A pending task that calls sys.exit() in its last step must not interrupt the closing.
        with suppress(SystemExit):
            loop.run_forever()
    finally:
        asyncio._set_running_loop(running)


def _close_all_connections() -> None:
    """Close the connections of event loops that were never closed, when the interpreter exits."""
    with _lock:
        loops = list(_loops)
    for loop in loops:
        _close_connections(loop)


_inherited: list[BaseConnector | None] = []


def _leave_connections_to_parent() -> None:
    """Forget all sessions in a forked child: closing them would close the connections of the parent process."""
    global _lock
    _lock = threading.Lock()
    for loop in list(_loops):
        session: ClientSession | None = getattr(loop, _ATTRIBUTE, None)
        if session:
            # The reference keeps the garbage collector from closing the connections.
            _inherited.append(session.connector)
            session.detach()


atexit.register(_close_all_connections)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leave_connections_to_parent)
