"""A server closes an idle connection while a request is sent: the request is sent again over a new connection."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from time import monotonic

import pytest
from aiohttp.client_proto import ResponseHandler
from g4f.errors import ResponseError, ResponseStatusError

from g4f_websim import Websim
from tests.support.calls import HELLO, call_websim
from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST
from tests.support.raw_server import reset

BODY = b'{"content": "Hi"}'
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"

# A call that waits for the backoff takes longer than a call may take here.
BACKOFF = 60.0

LARGE_TEXT = "x" * 4_000_000


class Connection:
    """One connection of the server.

    Args:
        number: counts the connections, from 1.
        writer: the side of the connection that the server writes to.
    """

    def __init__(self, number: int, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self._writer = writer

    async def send(self, data: bytes = RESPONSE) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()

    async def reset(self) -> None:
        reset(self._writer)


class Server:
    """A server that keeps its connections open.

    Attributes:
        respond: called with the connection and the number of the request on that connection, from 1.
        requests: the number of requests received by each connection.
    """

    def __init__(self) -> None:
        self.respond: Callable = send_response
        self.requests: Counter[int] = Counter()
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        connection = Connection(len(self._writers), writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(length.partition(b":")[2]))
                self.requests[connection.number] += 1
                await self.respond(connection, self.requests[connection.number])
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    def close_connections(self) -> None:
        for writer in self._writers:
            writer.close()


async def send_response(connection: Connection, request: int) -> None:
    await connection.send()


def fail_later_requests(fail: Callable) -> Callable:
    """Return a `respond` that fails all requests but the first of a connection."""

    async def respond(connection: Connection, request: int) -> None:
        await (connection.send() if request == 1 else fail(connection))

    return respond


@pytest.fixture
async def server(monkeypatch) -> AsyncIterator[Server]:
    """The server, and a `Websim` with a backoff that no test waits for."""
    server = Server()
    listener = await asyncio.start_server(server.serve, HOST, 0)
    monkeypatch.setattr(Websim, "url", f"http://{HOST}:{listener.sockets[0].getsockname()[1]}")
    monkeypatch.setattr(Websim, "backoff", BACKOFF)
    yield server
    listener.close()
    server.close_connections()
    await listener.wait_closed()


@pytest.fixture
def client_received(monkeypatch) -> asyncio.Event:
    """An event that is set when the client receives data."""
    received = asyncio.Event()
    data_received = ResponseHandler.data_received

    def set_event(handler: ResponseHandler, data: bytes) -> None:
        data_received(handler, data)
        received.set()

    monkeypatch.setattr(ResponseHandler, "data_received", set_event)
    return received


async def open_idle_connections(server: Server, count: int) -> None:
    """Send `count` requests at once, so that each opens a connection."""
    all_arrived = asyncio.Barrier(count)

    async def respond(connection: Connection, request: int) -> None:
        await all_arrived.wait()
        await connection.send()

    server.respond = respond
    await asyncio.gather(*(call_websim(None, HELLO) for _ in range(count)))
    assert server.requests == dict.fromkeys(range(1, count + 1), 1)


async def call_in_time(messages: Sequence = HELLO) -> list[str]:
    return await asyncio.wait_for(call_websim(None, messages), MAX_SECONDS)


CLOSINGS = pytest.mark.parametrize("closing", [Connection.close, Connection.reset], ids=["closed", "reset"])


@CLOSINGS
@pytest.mark.parametrize("max_attempts", [1, 3])
async def test_resends_over_new_connection(server, monkeypatch, closing, max_attempts):
    monkeypatch.setattr(Websim, "max_attempts", max_attempts)
    await open_idle_connections(server, 1)
    server.respond = fail_later_requests(closing)
    assert await call_in_time() == ["Hi"]
    assert server.requests == {1: 2, 2: 1}


@CLOSINGS
async def test_resends_once_although_many_idle_connections_are_stale(server, monkeypatch, closing):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    await open_idle_connections(server, 4)
    server.respond = fail_later_requests(closing)
    for _ in range(4):
        assert await call_in_time() == ["Hi"]
    assert server.requests == {1: 2, 2: 2, 3: 2, 4: 2, 5: 1, 6: 1, 7: 1, 8: 1}


@CLOSINGS
async def test_concurrent_calls_resend_over_new_connections(server, monkeypatch, closing):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    await open_idle_connections(server, 4)
    server.respond = fail_later_requests(closing)
    assert await asyncio.gather(*(call_in_time() for _ in range(4))) == [["Hi"]] * 4
    assert server.requests.total() == 12


async def test_resends_large_request_whole(server, monkeypatch):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    await open_idle_connections(server, 1)
    server.respond = fail_later_requests(Connection.reset)
    assert await call_in_time([{"role": "user", "content": LARGE_TEXT}]) == ["Hi"]
    assert server.requests == {1: 2, 2: 1}


@CLOSINGS
async def test_resends_only_once(server, monkeypatch, closing):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    await open_idle_connections(server, 1)
    server.respond = lambda connection, request: closing(connection)
    with pytest.raises(ResponseError):
        await call_in_time()
    assert server.requests == {1: 2, 2: 1}


@CLOSINGS
async def test_resending_is_not_an_attempt(server, monkeypatch, closing):
    monkeypatch.setattr(Websim, "max_attempts", 2)
    monkeypatch.setattr(Websim, "backoff", 0.001)
    await open_idle_connections(server, 1)

    async def respond(connection: Connection, request: int) -> None:
        await (connection.send(BUSY) if request == 1 else closing(connection))

    server.respond = respond
    with pytest.raises(ResponseStatusError, match="Response 503"):
        await call_in_time()
    # Two requests over the first connection, then one for each attempt.
    assert server.requests == {1: 2, 2: 1, 3: 1}


@CLOSINGS
async def test_failure_of_new_connection_is_an_attempt(server, monkeypatch, closing):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    server.respond = lambda connection, request: closing(connection)
    with pytest.raises(ResponseError):
        await call_in_time()
    assert server.requests == {1: 1}


@CLOSINGS
async def test_failure_of_new_connection_waits_for_backoff(server, monkeypatch, closing):
    monkeypatch.setattr(Websim, "backoff", 0.2)

    async def respond(connection: Connection, request: int) -> None:
        await (closing(connection) if connection.number == 1 else connection.send())

    server.respond = respond
    start = monotonic()
    assert await call_in_time() == ["Hi"]
    assert monotonic() - start >= 0.2
    assert server.requests == {1: 1, 2: 1}


@pytest.mark.parametrize("end", [1, 7, RESPONSE.index(b"\r\n\r\n"), len(RESPONSE) - 1])
async def test_does_not_resend_after_part_of_response(server, monkeypatch, client_received, end):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    await open_idle_connections(server, 1)

    async def fail(connection: Connection) -> None:
        client_received.clear()
        await connection.send(RESPONSE[:end])
        await client_received.wait()
        await connection.close()

    server.respond = fail_later_requests(fail)
    with pytest.raises(ResponseError):
        await call_in_time()
    assert server.requests == {1: 2}


async def test_does_not_resend_after_reset_in_body(server, monkeypatch, client_received):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    await open_idle_connections(server, 1)

    async def fail(connection: Connection) -> None:
        client_received.clear()
        await connection.send(RESPONSE[:-1])
        await client_received.wait()
        await connection.reset()

    server.respond = fail_later_requests(fail)
    with pytest.raises(ResponseError):
        await call_in_time()
    assert server.requests == {1: 2}
