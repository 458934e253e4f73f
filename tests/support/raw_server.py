"""A raw TCP or TLS server on loopback: it reads a request, plays back whatever bytes it is given, and closes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from itertools import repeat

HOST = "127.0.0.1"
KEPT_REQUESTS = 20

# SO_LINGER, on for 0 seconds: closing sends RST, where it would send FIN.
AT_ONCE = struct.pack("ii", 1, 0)


class Step(Enum):
    """What a script does besides sending bytes."""

    STALL = auto()
    RESET = auto()


Script = Iterable[bytes | Step]


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    head: bytes
    body: bytes


def http(
    body: bytes = b"", status: int = 200, headers: Iterable[tuple[str, str]] = (), length: int | None = None
) -> bytes:
    """Return a whole response, whose content-length is true unless it is given."""
    fields = [("Content-Length", str(len(body) if length is None else length)), ("Connection", "close"), *headers]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status} Any\r\n{head}\r\n".encode("latin-1") + body


def chunked(chunks: Iterable[bytes], end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a response in chunks, which is cut off where its end is empty."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


@dataclass(frozen=True)
class Endless:
    """A script that sends `start`, then `piece` for ever."""

    start: bytes
    piece: bytes

    def __iter__(self) -> Iterator[bytes]:
        yield self.start
        yield from repeat(self.piece)


FINE = '{"role": "assistant", "content": "fine"}'
FINE_ANSWER = http(FINE.encode(), headers=[("Content-Type", "application/json")])


@dataclass
class RawServer:
    """A server under way; see `raw_server`.

    Attributes:
        respond: makes the script for a request.
        requests: the requests that came, newest last; of very many, the newest.
    """

    respond: Callable[[Request], Script]
    scheme: str = "http"
    port: int = 0
    requests: deque[Request] = field(default_factory=partial(deque, maxlen=KEPT_REQUESTS), repr=False)
    _scripts: deque[Script] = field(default_factory=deque, repr=False)
    _players: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def play(self, *scripts: Script) -> None:
        """Answer the next requests with these scripts, before `respond` is asked again."""
        self._scripts.extend(scripts)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._players.add(task)
        try:
            request = await _read(reader)
            self.requests.append(request)
            await _play(self._scripts.popleft() if self._scripts else self.respond(request), writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._players.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def stop(self) -> None:
        """End the scripts that are still played."""
        players = tuple(self._players)
        for player in players:
            player.cancel()
        await asyncio.gather(*players, return_exceptions=True)


@asynccontextmanager
async def raw_server(
    respond: Callable[[Request], Script] = lambda request: [FINE_ANSWER], tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Serve on a free loopback port.

    Args:
        respond: makes the script for a request.
        tls: the server's side of TLS, None for plain TCP.
    """
    server = RawServer(respond, "https" if tls else "http")
    listener = await asyncio.start_server(server.serve, HOST, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.stop()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    return Request(head, await reader.readexactly(int(fields.get(b"content-length", 0))))


async def _play(script: Script, writer: asyncio.StreamWriter) -> None:
    for step in script:
        if step is Step.STALL:
            await asyncio.Event().wait()
        elif step is Step.RESET:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            writer.transport.abort()
            return
        else:
            writer.write(step)
            await writer.drain()
