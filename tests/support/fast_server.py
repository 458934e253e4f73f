"""Two servers that run in processes of their own: a fast HTTP server and a SOCKS5 proxy.

The HTTP server sends the same JSON for every POST and counts its connections; GET returns the counts as JSON, and
DELETE starts the counts again.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST
from tests.support.server_process import serve_until_stopped, server_process

BACKLOG = 1024
CHUNK_BYTES = 65536

# The authentication method "username/password" (RFC 1928, section 3).
SOCKS_PASSWORD_METHOD = 2

# A valid response to a chat request and to an image request of Websim, and to a chat request of OpenAI's API.
MESSAGE = {"role": "assistant", "content": "Yes, at once."}
OPENAI = {"id": "1", "object": "chat.completion", "created": 1, "model": "none"}
OPENAI |= {"choices": [{"index": 0, "finish_reason": "stop", "message": MESSAGE}]}
RESPONSE_BODY = json.dumps({**MESSAGE, "url": "https://websim.example/cat.png", **OPENAI}).encode()

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass
class _Counts:
    connections: int = 0
    open: int = 0
    requests: int = 0


class _Connection(asyncio.Protocol):
    """One connection. It is counted from its first POST on, so that reading the counts does not change them."""

    counts = _Counts()

    def __init__(self) -> None:
        self._received = bytearray()
        self._counted_in: _Counts | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._counted_in:
            self._counted_in.open -= 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._end_of_request()) is not None:
            method = bytes(self._received[:4])
            del self._received[:end]
            if method == b"DELE":
                _Connection.counts = _Counts()
            body = self._count() if method == b"POST" else json.dumps(vars(self.counts)).encode()
            self._transport.write(_response(body))

    def _end_of_request(self) -> int | None:
        """Return the offset at which the first received request ends, or None if it is incomplete."""
        end = self._received.find(_END_OF_HEAD)
        if end < 0:
            return None
        head = self._received[:end].lower()
        start = head.find(_LENGTH)
        length = int(head[start + len(_LENGTH) :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        end += len(_END_OF_HEAD) + length
        return end if len(self._received) >= end else None

    def _count(self) -> bytes:
        if self._counted_in is not self.counts:
            self._counted_in = self.counts
            self.counts.connections += 1
            self.counts.open += 1
        self.counts.requests += 1
        return RESPONSE_BODY


def _response(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


async def _serve(certificate: str | None = None) -> None:
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, HOST, 0, ssl=context, backlog=BACKLOG)
    await serve_until_stopped(server.sockets[0].getsockname()[1])


async def _serve_socks(password: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError, OSError):
            await _relay(reader, writer, password.encode())

    server = await asyncio.start_server(serve, HOST, 0)
    await serve_until_stopped(server.sockets[0].getsockname()[1])


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, password: bytes) -> None:
    """Check the password of a client (RFC 1929) and connect it to an IPv4 address (RFC 1928)."""
    _, count = await reader.readexactly(2)
    if SOCKS_PASSWORD_METHOD not in await reader.readexactly(count):
        writer.write(b"\x05\xff")
        return
    writer.write(bytes([5, SOCKS_PASSWORD_METHOD]))
    _, length = await reader.readexactly(2)
    await reader.readexactly(length)
    (length,) = await reader.readexactly(1)
    accepted = await reader.readexactly(length) == password
    writer.write(b"\x01\x00" if accepted else b"\x01\x01")
    if accepted:
        *_, a, b, c, d, high, low = await reader.readexactly(10)
        try:
            from_server, to_server = await asyncio.open_connection(f"{a}.{b}.{c}.{d}", high << 8 | low)
        except OSError:
            writer.write(b"\x05\x05\x00\x01" + bytes(6))  # connection refused
            return
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer), suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()


@dataclass(frozen=True)
class FastServer:
    """A running server, see `fast_server`."""

    scheme: str
    port: int

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"

    def counts(self) -> dict[str, int]:
        """Return the numbers of connections that sent a POST, of those that are still open, and of POST requests."""
        return self._request("GET")

    def reset(self) -> None:
        """Start the counts again, for the next test; connections that are still open are not counted any more."""
        self._request("DELETE")

    def _request(self, method: str) -> dict[str, int]:
        kind = HTTPSConnection if self.scheme == "https" else HTTPConnection
        with closing(kind(HOST, self.port, timeout=MAX_SECONDS)) as connection:
            connection.request(method, "/")
            return json.load(connection.getresponse())


@contextmanager
def fast_server(certificate: Path | None = None) -> Iterator[FastServer]:
    """Serve on a free loopback port.

    Args:
        certificate: a PEM file with a key and its chain for TLS; None means plain HTTP.
    """
    with server_process(__name__, "http", *([str(certificate)] if certificate else [])) as port:
        yield FastServer("https" if certificate else "http", port)


@contextmanager
def socks_proxy(password: str) -> Iterator[str]:
    """Run a SOCKS5 proxy that requires a password but accepts any user name, and yield its host and port."""
    with server_process(__name__, "socks", password) as port:
        yield f"{HOST}:{port}"


_SERVERS = {"http": _serve, "socks": _serve_socks}

if __name__ == "__main__":
    asyncio.run(_SERVERS[sys.argv[1]](*sys.argv[2:]))
