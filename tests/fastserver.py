"""A server in a process of its own, as fast as asyncio goes: every POST gets the same JSON, and it counts connections.

A GET is answered with the counts, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
# A chat's answer and a picture's in one.
ANSWER = b'{"role": "assistant", "content": "Yes, at once.", "url": "https://websim.example/cat.png"}'

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"


class _Counts:
    connections = 0
    open = 0
    requests = 0


class _Connection(asyncio.Protocol):
    """One connection; it counts from its first POST on, so that reading the counts does not change them."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._counted = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        _Counts.open -= self._counted

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._end_of_request()) is not None:
            is_post = self._received.startswith(b"POST")
            del self._received[:end]
            self._transport.write(_response(self._count() if is_post else _counts()))

    def _end_of_request(self) -> int | None:
        """Return where the first request received ends, None while it is incomplete."""
        end = self._received.find(_END_OF_HEAD)
        if end < 0:
            return None
        head = self._received[:end].lower()
        start = head.find(_LENGTH)
        length = int(head[start + len(_LENGTH) :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        end += len(_END_OF_HEAD) + length
        return end if len(self._received) >= end else None

    def _count(self) -> bytes:
        if not self._counted:
            self._counted = True
            _Counts.connections += 1
            _Counts.open += 1
        _Counts.requests += 1
        return ANSWER


def _counts() -> bytes:
    return json.dumps({"connections": _Counts.connections, "open": _Counts.open, "requests": _Counts.requests}).encode()


def _response(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


async def _serve(certificate: str | None = None) -> None:
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(_Connection, HOST, 0, ssl=context, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


@dataclass(frozen=True)
class FastServer:
    """A server under way; see `fast_server`."""

    scheme: str
    port: int

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"

    def counts(self) -> dict[str, int]:
        """Return how many connections made a POST, how many of those are open, and how many POSTs there were."""
        kind = HTTPSConnection if self.scheme == "https" else HTTPConnection
        with closing(kind(HOST, self.port)) as connection:
            connection.request("GET", "/")
            return json.load(connection.getresponse())


@contextmanager
def fast_server(certificate: Path | None = None) -> Iterator[FastServer]:
    """Serve on a free loopback port.

    Args:
        certificate: a PEM file with a key and its chain, to serve TLS; None for plain HTTP.
    """
    command = [sys.executable, __file__, *([str(certificate)] if certificate else [])]
    # It ends with its standard input, however this process ends.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield FastServer("https" if certificate else "http", int(process.stdout.readline()))


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
