"""Connections: one pooled aiohttp session for each event loop, closed together with the event loop.

The first request in an event loop opens the session, and all requests in that event loop share its connections.
`loop.close()` is extended on that one loop object: it aborts the idle connections, runs one pass of the event loop so
that the transports close their sockets, and then always closes the event loop. Closing does not wait for a server and
starts no thread; a task that is still pending makes at most one more step.
"""

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

from aiohttp import BaseConnector, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, hdrs
from g4f.requests.aiohttp import get_connector
from g4f.requests.defaults import DEFAULT_HEADERS

# aiohttp's type for the names of headers. Names of type str are converted for each request.
_HeaderName = type(hdrs.ACCEPT)

# What the web application sends with every request. As headers of the session, aiohttp merges them once.
_HEADERS = {**DEFAULT_HEADERS, "accept": "*/*", "content-type": "application/json", "websim-flags": ""}
HEADERS = {_HeaderName(name): value for name, value in _HEADERS.items()}

# The timeouts of one attempt, in seconds: in total, and to connect.
ATTEMPT_TIMEOUT = 300.0
CONNECT_TIMEOUT = 30.0

_ATTRIBUTE = "_g4f_websim_session"

_lock = threading.Lock()
_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


# Whether the running task opened a connection for its request, rather than reusing one.
connection_is_new: ContextVar[bool] = ContextVar("connection_is_new", default=False)


class _Connector(TCPConnector):
    """A connector that records whether a request opened a connection."""

    async def _create_connection(self, *args: Any, **kwargs: Any) -> Any:
        connection_is_new.set(True)
        return await super()._create_connection(*args, **kwargs)


def shared_session() -> ClientSession:
    """Return the session of the running event loop; the first request opens it."""
    loop = asyncio.get_running_loop()
    session: ClientSession | None = getattr(loop, _ATTRIBUTE, None)
    if session is None or session.closed:
        is_first = session is None
        session = new_session()
        setattr(loop, _ATTRIBUTE, session)
        if is_first:
            loop.close = partial(_close, loop, loop.close)  # type: ignore[method-assign]
            with _lock:
                _loops.add(loop)
    return session


def new_session(socks_proxy: str | None = None) -> ClientSession:
    """Open a session that the caller closes.

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
        timeout=ClientTimeout(total=ATTEMPT_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
    )


def _close(loop: asyncio.AbstractEventLoop, close_loop: Callable[[], None]) -> None:
    """Close the connections of an event loop, then the event loop."""
    try:
        _close_connections(loop)
    finally:
        close_loop()
    # A pending call may have opened a session in its last step. It has no connection yet.
    session: ClientSession = getattr(loop, _ATTRIBUTE)
    if session.connector:
        session.connector._close()


def _close_connections(loop: asyncio.AbstractEventLoop) -> None:
    session: ClientSession = getattr(loop, _ATTRIBUTE)
    connector = session.connector
    if connector is None or connector.closed or loop.is_running() or loop.is_closed():
        return
    # The public close() creates a task that needs several passes of the event loop.
    connector._close(abort_ssl=True)
    # Another event loop may run in this thread: a coroutine or the garbage collector can close a loop.
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        _run_one_pass(loop)
    finally:
        asyncio._set_running_loop(running)


def _run_one_pass(loop: asyncio.AbstractEventLoop) -> None:
    """Run the callbacks that are ready, among them those that close the sockets."""
    loop.stop()
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt) as error:
        # A pending task called sys.exit(). close() must not end the program, so the other callbacks run.
        loop.stop()
        loop.run_forever()
        if not isinstance(error, SystemExit):
            raise


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
        session: ClientSession = getattr(loop, _ATTRIBUTE)
        # The reference keeps the garbage collector from closing the connections.
        _inherited.append(session.connector)
        session.detach()


atexit.register(_close_all_connections)
if hasattr(os, "register_at_fork"):  # pragma: no branch  # not on Windows
    os.register_at_fork(after_in_child=_leave_connections_to_parent)
