"""Calls through the real provider to servers that limit their rate; times are scaled down from seconds."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from g4f.client import Client
from g4f.errors import RateLimitError

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from g4f_websim.transport import connections
from g4f_websim.transport.log import log_once
from tests.support.calls import HELLO, call_websim, make_token
from tests.support.limited_server import RESPONSE, LimitedServer, limited_server
from tests.support.limiter import Limit
from tests.support.limits import MAX_SECONDS
from tests.support.raw_server import OK_RESPONSE, Step, http_response
from tests.support.responses import LONG_RATE_LIMIT

BACKOFF = 0.05


@pytest.fixture
def limited(request, monkeypatch):
    """A server with the limit that is the parameter of the test."""
    with limited_server(request.param) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        monkeypatch.setattr(Websim, "backoff", BACKOFF)
        yield server


def limits(limit: Limit) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("limited", [limit], ids=[limit.kind], indirect=True)


def assert_accepted(server: LimitedServer, calls: int) -> None:
    """Check that the server accepted one request for each call, and refused some."""
    report = server.report()
    assert len(report["accepted"]) == calls
    assert report["refused"]


# Without Retry-After a call may use up its attempts on a busy machine; test_rate_limit.py has that in virtual time.
@limits(Limit("window", 5, 0.2))
async def test_every_call_of_a_burst_succeeds(limited):
    responses = await asyncio.wait_for(asyncio.gather(*(call_websim(None, HELLO) for _ in range(20))), MAX_SECONDS)
    assert responses == [[RESPONSE["content"]]] * 20
    assert_accepted(limited, 20)


@limits(Limit("window", 5, 0.2))
async def test_every_image_of_a_burst_is_returned(limited):
    images = await asyncio.wait_for(asyncio.gather(*(call_websim("flux", HELLO, n=4) for _ in range(5))), MAX_SECONDS)
    assert [len(image.get_list()) for (image,) in images] == [4] * 5
    assert_accepted(limited, 20)


# Calls that did not share the queue would use up their three attempts.
@limits(Limit("window", 2, 0.2))
def test_sync_clients_in_threads_share_the_queue(limited):
    def call(number: int) -> str:
        return Client(provider=Websim).chat.completions.create(HELLO).choices[0].message.content

    with ThreadPoolExecutor(12) as executor:
        assert list(executor.map(call, range(12))) == [RESPONSE["content"]] * 12
    assert_accepted(limited, 12)


# In one event loop 100 requests are sent at the same time; the others must not use up an attempt during the pause.
@limits(Limit("window", 100, 0.3))
async def test_calls_that_wait_for_a_connection_also_wait_for_the_pause(limited, caplog):
    caplog.set_level(logging.INFO, "g4f_websim")
    log_once.cache_clear()  # another test may have logged the message
    await asyncio.wait_for(asyncio.gather(*(call_websim(None, HELLO) for _ in range(300))), MAX_SECONDS)
    assert_accepted(limited, 300)
    assert len(limited.report()["refused"]) < 300
    assert caplog.messages.count("100 requests are in flight in this event loop: other calls wait") == 1


# One request at a time: the last call waits longer than an attempt may take.
@limits(Limit("none", latency=0.4))
async def test_timeout_of_an_attempt_begins_when_the_request_is_sent(limited, monkeypatch):
    monkeypatch.setattr(connections, "MAX_REQUESTS", 1)
    monkeypatch.setattr(connections, "ATTEMPT_TIMEOUT", 1.5)
    responses = await asyncio.gather(*(call_websim(None, HELLO) for _ in range(5)))
    assert len(responses) == 5


async def test_rate_limit_of_one_login_does_not_slow_another(websim_server):
    logins = [make_token(sub=name) for name in ("limited", "other")]
    websim_server.inject(LONG_RATE_LIMIT)
    for _ in range(2):
        with pytest.raises(RateLimitError) as raised:
            await call_websim(None, HELLO, api_key=logins[0])
        assert raised.value.retry_after == pytest.approx(900, abs=10)
    assert len(websim_server.requests) == 1
    for api_key in (logins[1], None):
        assert await asyncio.wait_for(call_websim(None, HELLO, api_key=api_key), MAX_SECONDS)
    assert len(websim_server.requests) == 3


async def test_timeout_counts_the_time_in_the_queue(websim_server):
    websim_server.inject(Fault(status=429, headers={"Retry-After": "30"}))
    with pytest.raises(TimeoutError, match=" within 1 s because of its rate limit: "):
        await asyncio.wait_for(call_websim(None, HELLO, timeout=1), MAX_SECONDS)
    assert len(websim_server.requests) == 1


async def test_max_wait_limits_all_delays_of_a_call_together(server, monkeypatch):
    # Each delay takes 1 s to 1.25 s.
    monkeypatch.setattr(Websim, "max_wait", 1.6)
    server.respond = lambda request: [http_response(status=429, headers=[("Retry-After", "1")])]
    with pytest.raises(RateLimitError, match=r"longer than Websim.max_wait \(1.6 s\)"):
        await call_websim(None, HELLO)
    assert len(server.requests) == 2


async def test_call_that_is_cancelled_after_a_rate_limit_does_not_delay_others(server):
    arrived = asyncio.Event()
    server.play([http_response(status=429, headers=[("Retry-After", "0.1")])])
    server.respond = lambda request: arrived.set() or [Step.STALL]
    call = asyncio.create_task(call_websim(None, HELLO))
    await arrived.wait()
    call.cancel()
    await asyncio.wait([call])
    server.respond = lambda request: [OK_RESPONSE]
    assert await asyncio.wait_for(call_websim(None, HELLO), MAX_SECONDS) == ["fine"]
