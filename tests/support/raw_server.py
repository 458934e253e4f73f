"""A raw TCP or TLS server on loopback that sends exactly the given bytes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from itertools import count, repeat
from typing import Any

from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST

MAX_KEPT_REQUESTS = 20

# The steps of an event loop in which asyncio makes a transport for an accepted connection, tells the protocol, and
# starts the coroutine that serves it.
ACCEPT_STEPS = 3
# The steps in which a client in the same event loop reads what was sent to it.
RECEIVE_STEPS = 2

# The value of SO_LINGER that makes close() send RST instead of FIN.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Step(Enum):
    """A step of a script other than sending bytes.

    Attributes:
        STALL: wait until the client closes the connection.
        RESET: close the connection by RST instead of FIN.
        KEEP: read the next request; after a script without this step, the connection is closed.
    """

    STALL = auto()
    RESET = auto()
    KEEP = auto()


Script = Iterable[bytes | Step]


@dataclass(frozen=True)
class Request:
    """A received request.

    Attributes:
        head: everything before the body.
        body: the body.
        connection: the number of its connection, from 1.
        number: its number on that connection, from 1.
    """

    head: bytes
    body: bytes
    connection: int
    number: int


def http_response(
    body: bytes = b"", status: int = 200, headers: Iterable[tuple[str, str]] = (), length: int | None = None
) -> bytes:
    """Return a complete response.

    Args:
        body: the body.
        status: the HTTP status.
        headers: further headers.
        length: the value of content-length; None means the length of the body.
    """
    fields = [("Content-Length", str(len(body) if length is None else length)), ("Connection", "close"), *headers]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status} Any\r\n{head}\r\n".encode("latin-1") + body


def chunked(chunks: Iterable[bytes], end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a chunked response; with an empty `end` it is incomplete."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


@dataclass(frozen=True)
class Endless:
    """A script that sends `start` once, then `piece` without end."""

    start: bytes
    piece: bytes

    def __iter__(self) -> Iterator[bytes]:
        yield self.start
        yield from repeat(self.piece)


OK_BODY = '{"role": "assistant", "content": "fine"}'
OK_RESPONSE = http_response(OK_BODY.encode(), headers=[("Content-Type", "application/json")])


@dataclass
class RawServer:
    """A running server, see `raw_server`.

    Attributes:
        respond: returns the script for a request.
        requests: the last requests received, oldest first.
    """

    respond: Callable[[Request], Script]
    scheme: str = "http"
    port: int = 0
    requests: deque[Request] = field(default_factory=partial(deque, maxlen=MAX_KEPT_REQUESTS), repr=False)
    _scripts: deque[Script] = field(default_factory=deque, repr=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _connections: Iterator[int] = field(default_factory=partial(count, 1))

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def play(self, *scripts: Script) -> None:
        """Use these scripts for the next requests, one each; `respond` is called again after the last one."""
        self._scripts.extend(scripts)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        connection = next(self._connections)
        try:
            for number in count(1):
                request = Request(*await _read(reader), connection, number)
                self.requests.append(request)
                script = self._scripts.popleft() if self._scripts else self.respond(request)
                if not await _play(script, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def wait_until_idle(self) -> None:
        """Wait until all connections are closed."""
        async with asyncio.timeout(MAX_SECONDS):
            while self._tasks:
                await asyncio.wait(self._tasks)

    async def stop(self) -> None:
        """Cancel the scripts that are still running, and those of the connections that asyncio is just accepting."""
        for _ in range(ACCEPT_STEPS):
            await asyncio.sleep(0)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def raw_server(
    respond: Callable[[Request], Script] = lambda request: [OK_RESPONSE], tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Serve on a free loopback port.

    Args:
        respond: returns the script for a request.
        tls: the TLS context of the server; None means plain TCP.
    """
    server = RawServer(respond, "https" if tls else "http")
    listener = await asyncio.start_server(server.serve, HOST, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        # Accept no more connections. The listener stays open until the accepted ones are served, because asyncio cannot
        # attach a connection to a closed listener and would leave its socket open.
        for listening in listener.sockets:
            asyncio.get_running_loop().remove_reader(listening)
        await server.stop()
        listener.close()


@contextmanager
def raw_server_in_thread(*scripts: Script, tls: ssl.SSLContext | None = None) -> Iterator[RawServer]:
    """Run a raw server in a thread of its own, for a test that blocks its thread.

    Args:
        scripts: the scripts for the first requests, one each.
        tls: the TLS context of the server; None means plain TCP.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(MAX_SECONDS)

    stack = AsyncExitStack()
    try:
        server = call(stack.enter_async_context(raw_server(tls=tls)))
        server.play(*scripts)
        yield server
    finally:
        call(stack.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(MAX_SECONDS)
        loop.close()


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    return head, await reader.readexactly(int(fields.get(b"content-length", 0)))


async def _play(script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Play a script, and return whether the connection is kept."""
    for step in script:
        if step is Step.STALL:
            await reader.read()
        elif step is Step.RESET:
            await _let_client_receive()
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()
        elif step is Step.KEEP:
            return True
        else:
            writer.write(step)
            await writer.drain()
    return False


async def _let_client_receive() -> None:
    """Let a client in this event loop read what was sent to it: RST discards what it has not read."""
    for _ in range(RECEIVE_STEPS):
        await asyncio.sleep(0)
