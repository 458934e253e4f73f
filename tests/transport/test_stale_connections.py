"""A server closes an idle connection while a request is sent: the request is sent again over a new connection."""

import asyncio
import json
from collections import Counter

import pytest
from g4f.errors import ResponseError, ResponseStatusError

from g4f_websim import Websim
from tests.support.calls import call_websim
from tests.support.limits import MAX_SECONDS
from tests.support.raw_server import Step

BODY = b'{"content": "Hi"}'
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
KEPT = [RESPONSE, Step.KEEP]

LARGE_TEXT = "x" * 4_000_000

CLOSINGS = pytest.mark.parametrize("closing", [[], [Step.RESET]], ids=["closed", "reset"])


@pytest.fixture
def server(server, monkeypatch):
    """A raw server that keeps its connections; a call has one attempt."""
    monkeypatch.setattr(Websim, "max_attempts", 1)
    server.respond = lambda request: KEPT
    return server


def requests_of(server) -> dict[int, int]:
    """Return the number of requests of each connection."""
    return Counter(request.connection for request in server.requests)


async def call_in_time(text: str = "Hello") -> list[str]:
    # A call that waits for the default backoff takes longer.
    return await asyncio.wait_for(call_websim(None, [{"role": "user", "content": text}]), MAX_SECONDS)


async def open_idle_connections(server, count: int) -> None:
    await asyncio.gather(*(call_in_time() for _ in range(count)))
    assert requests_of(server) == dict.fromkeys(range(1, count + 1), 1)


def fail_later_requests(server, script) -> None:
    """Let all requests but the first of a connection get `script`."""
    server.respond = lambda request: KEPT if request.number == 1 else script


@CLOSINGS
@pytest.mark.parametrize("max_attempts", [1, 3])
async def test_resends_over_new_connection_without_a_delay(server, monkeypatch, closing, max_attempts):
    monkeypatch.setattr(Websim, "max_attempts", max_attempts)
    monkeypatch.setattr(Websim, "backoff", 2.0 * MAX_SECONDS)
    await open_idle_connections(server, 1)
    fail_later_requests(server, closing)
    assert await call_in_time(LARGE_TEXT) == ["Hi"]
    assert requests_of(server) == {1: 2, 2: 1}
    assert json.loads(server.requests[-1].body)["messages"][0]["content"] == LARGE_TEXT


@CLOSINGS
@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
async def test_each_call_resends_once_although_many_idle_connections_are_stale(server, closing, at_once):
    await open_idle_connections(server, 4)
    fail_later_requests(server, closing)
    if at_once:
        assert await asyncio.gather(*(call_in_time() for _ in range(4))) == [["Hi"]] * 4
    else:
        assert [await call_in_time() for _ in range(4)] == [["Hi"]] * 4
    assert requests_of(server) == {1: 2, 2: 2, 3: 2, 4: 2, 5: 1, 6: 1, 7: 1, 8: 1}


@CLOSINGS
async def test_resends_only_once(server, closing):
    await open_idle_connections(server, 1)
    server.respond = lambda request: closing
    with pytest.raises(ResponseError):
        await call_in_time()
    assert requests_of(server) == {1: 2, 2: 1}


@CLOSINGS
async def test_resends_only_once_in_all_attempts(server, monkeypatch, closing):
    monkeypatch.setattr(Websim, "max_attempts", 2)
    await open_idle_connections(server, 2)
    server.respond = lambda request: [BUSY, Step.KEEP] if request.connection == 3 else closing
    with pytest.raises(ResponseError):
        await call_in_time()
    assert requests_of(server) == {1: 2, 2: 2, 3: 1}


@CLOSINGS
async def test_resending_is_not_an_attempt(server, monkeypatch, closing):
    monkeypatch.setattr(Websim, "max_attempts", 2)
    await open_idle_connections(server, 1)
    server.respond = lambda request: [BUSY, Step.KEEP] if request.number == 1 else closing
    with pytest.raises(ResponseStatusError, match="Response 503"):
        await call_in_time()
    # Two requests over the first connection, then one for each attempt.
    assert requests_of(server) == {1: 2, 2: 1, 3: 1}


@CLOSINGS
async def test_failure_of_new_connection_is_an_attempt(server, monkeypatch, caplog, closing):
    caplog.set_level("INFO", "g4f_websim")
    server.respond = lambda request: closing if request.connection <= 2 else KEPT
    with pytest.raises(ResponseError):
        await call_in_time()
    assert (requests_of(server), caplog.messages) == ({1: 1}, [])
    monkeypatch.setattr(Websim, "max_attempts", 2)
    assert await call_in_time() == ["Hi"]
    assert requests_of(server) == {1: 1, 2: 1, 3: 1}
    assert [line.endswith("before attempt 2 of 2") for line in caplog.messages] == [True]


@pytest.mark.parametrize(
    ("end", "closing"),
    [*((end, []) for end in (1, 7, RESPONSE.index(b"\r\n\r\n"), len(RESPONSE) - 1)), (len(RESPONSE) - 1, [Step.RESET])],
)
async def test_does_not_resend_after_part_of_response(server, end, closing):
    await open_idle_connections(server, 1)
    fail_later_requests(server, [RESPONSE[:end], *closing])
    with pytest.raises(ResponseError):
        await call_in_time()
    assert requests_of(server) == {1: 2}
