"""Requests: retries and their delays, timeouts, size limits, and the errors of a whole call."""

import asyncio
import logging
import re
import sys
from time import monotonic

import pytest
from g4f.errors import MissingAuthError, MissingRequirementsError, RateLimitError, ResponseError, ResponseStatusError

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from g4f_websim.errors import TimeoutError as WebsimTimeoutError
from g4f_websim.transport import attempts
from g4f_websim.transport.post import MAX_BYTES_IN_ONE_PIECE
from tests.support.calls import HELLO, call_websim
from tests.support.raw_server import Step, http_response

FAR_FUTURE = "Fri, 31 Dec 9999 23:59:59 GMT"

MAX_BODY_BYTES = 32 * 1024 * 1024
DEFAULT_BACKOFF = Websim.backoff

RETRYABLE_STATUSES = [408, 425, 429, 502, 503, 504]
OTHER_STATUSES = [400, 401, 402, 403, 404, 405, 407, 409, 413, 422, 424, 426, 428, 430, 451, 500, 501, 505]


@pytest.fixture
def delays(monkeypatch):
    """The seconds that were passed to `asyncio.sleep`, which lets other tasks run but does not wait."""
    seconds = []
    real_sleep = asyncio.sleep

    async def sleep(delay: float) -> None:
        seconds.append(delay)
        await real_sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return seconds


def retry_after(value: str, status: int = 503) -> bytes:
    return http_response(status=status, headers=[("Retry-After", value)])


@pytest.mark.parametrize(("status", "model"), [*((status, None) for status in RETRYABLE_STATUSES), (503, "flux")])
async def test_retries_transient_status(websim_server, status, model):
    websim_server.inject(Fault(status=status), times=2)
    assert await call_websim(model, HELLO)
    assert len(websim_server.requests) == 3


@pytest.mark.parametrize("status", [429, 503])
async def test_raises_last_error_after_max_attempts(websim_server, status):
    websim_server.inject(Fault(status=status, body=b"first"), times=2)
    websim_server.inject(Fault(status=status, body=b"last"), times=2)
    with pytest.raises(ResponseStatusError, match=rf"^Response {status} from 127.0.0.1:\d+: .*\(last\)") as raised:
        await call_websim(None, HELLO)
    assert isinstance(raised.value, RateLimitError) is (status == 429)
    assert len(websim_server.requests) == 3


@pytest.mark.parametrize("status", [200, 201, 299])
async def test_accepts_any_status_of_success(websim_server, status):
    websim_server.inject(Fault(status=status, body=b'{"content": "Hi"}'))
    assert await call_websim(None, HELLO) == ["Hi"]


@pytest.mark.parametrize(("status", "model"), [*((status, None) for status in OTHER_STATUSES), (400, "flux")])
async def test_raises_other_statuses_at_once(websim_server, status, model):
    websim_server.inject(Fault(status=status, body=b"for a reason"))
    kinds = (ResponseStatusError, MissingAuthError)
    with pytest.raises(kinds, match=rf"^Response {status} from 127.0.0.1:\d+: .*\(for a reason\): ") as raised:
        await call_websim(model, HELLO)
    assert not isinstance(raised.value, RateLimitError)
    assert raised.value.status == status
    assert len(websim_server.requests) == 1


async def test_chat_text_that_mentions_rate_limit_is_not_an_error(websim_server):
    websim_server.reply("Rate limit exceeded means: too often")
    assert await call_websim(None, HELLO) == ["Rate limit exceeded means: too often"]


@pytest.mark.parametrize("max_attempts", [1, 0])
async def test_max_attempts_below_2_sends_one_request(websim_server, monkeypatch, max_attempts):
    monkeypatch.setattr(Websim, "max_attempts", max_attempts)
    websim_server.inject(Fault(status=503))
    with pytest.raises(ResponseStatusError):
        await call_websim(None, HELLO)
    assert len(websim_server.requests) == 1


async def test_logs_each_retry(websim_server, monkeypatch, caplog, debug_lines):
    caplog.set_level(logging.INFO, "g4f_websim")
    monkeypatch.setattr(Websim, "backoff", 0.1)
    websim_server.inject(Fault(status=503, body=b"too busy"))
    await call_websim(None, HELLO)
    ((name, level, message),) = caplog.record_tuples
    assert (name, level) == ("g4f_websim", logging.INFO)
    assert re.match(r"Response 503 from 127.0.0.1:\d+: the server failed \(too busy\): ", message)
    assert message.endswith("; waiting 0.1 s before attempt 2 of 3")
    assert f"Websim: {message}" in debug_lines


async def test_logs_slow_response(websim_server, monkeypatch, caplog):
    monkeypatch.setattr(attempts, "SLOW_SECONDS", 0.01)
    caplog.set_level(logging.INFO, "g4f_websim")
    websim_server.inject(Fault(delay=0.05))
    await call_websim(None, HELLO)
    (message,) = caplog.messages
    assert re.fullmatch(r"127.0.0.1:\d+ took 0 s to respond", message)


async def test_default_delays_are_2_and_4_seconds_and_up_to_25_percent_longer(server, monkeypatch, delays):
    monkeypatch.setattr(Websim, "backoff", DEFAULT_BACKOFF)
    server.respond = lambda request: [http_response(status=503)]
    with pytest.raises(ResponseStatusError):
        await call_websim(None, HELLO)
    assert len(server.requests) == 3
    first, second = delays
    assert 2 <= first <= 2.5
    assert 4 <= second <= 5


async def test_waits_as_long_as_retry_after_says(server, monkeypatch, delays):
    monkeypatch.setattr(Websim, "backoff", 1000.0)
    server.play([retry_after("7")], [retry_after("0")])
    assert await call_websim(None, HELLO)
    assert delays == [7, 0]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("value", ["61", "9" * 30, FAR_FUTURE])
async def test_raises_at_once_if_retry_after_exceeds_max_wait(server, caplog, value, status):
    caplog.set_level(logging.INFO, "g4f_websim")
    server.play([retry_after(value, status)])
    with pytest.raises(ResponseStatusError) as raised:
        await call_websim(None, HELLO)
    assert isinstance(raised.value, RateLimitError) is (status == 429)
    assert raised.value.retry_after > 60
    assert len(server.requests) == 1
    assert "longer than" in (str(raised.value) if status == 429 else caplog.messages[0])


async def test_waits_longer_if_max_wait_allows_it(server, monkeypatch, delays):
    monkeypatch.setattr(Websim, "max_wait", 3600.0)
    server.play([retry_after("3600")])
    assert await call_websim(None, HELLO)
    assert delays == [900]


@pytest.mark.parametrize("seconds", [None, 0, 30])
async def test_timeout_does_not_limit_a_fast_response(websim_server, seconds):
    assert await call_websim(None, HELLO, timeout=seconds)


async def test_calls_have_their_own_timeouts(websim_server):
    websim_server.inject(Fault(delay=30), times=4)
    calls = [call_websim(model, HELLO, timeout=seconds) for model in ("", "flux") for seconds in (0.1, 0.2)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [WebsimTimeoutError] * 4
    assert [re.search("within (.*) s", str(error))[1] for error in errors] == ["0.1", "0.2"] * 2


async def test_attempt_ends_after_300_seconds_without_a_timeout(server, monkeypatch):
    loop = asyncio.get_running_loop()
    received = asyncio.Event()
    server.respond = lambda request: received.set() or [Step.STALL]
    call = asyncio.create_task(call_websim(None, HELLO))
    await received.wait()
    monkeypatch.setattr(loop, "time", lambda: monotonic() + 290)
    await asyncio.wait([call], timeout=0.05)
    assert not call.done()
    monkeypatch.setattr(loop, "time", lambda: monotonic() + 301)
    with pytest.raises(TimeoutError, match=" within 300 s: "):
        await call


async def test_attempt_to_connect_ends_after_30_seconds(server, monkeypatch):
    loop = asyncio.get_running_loop()
    connecting = asyncio.Event()

    async def connect(*arguments):
        connecting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(loop, "sock_connect", connect)
    monkeypatch.setattr(Websim, "max_attempts", 1)
    call = asyncio.create_task(call_websim(None, HELLO))
    await connecting.wait()
    monkeypatch.setattr(loop, "time", lambda: monotonic() + 29)
    await asyncio.wait([call], timeout=0.05)
    assert not call.done()
    # aiohttp rounds long timeouts up to a whole second.
    monkeypatch.setattr(loop, "time", lambda: monotonic() + 32)
    with pytest.raises(ResponseError, match=f"^No response from {server.host}: no connection"):
        await call


async def test_reads_body_of_maximum_size(websim_server):
    text = "x" * (MAX_BODY_BYTES - len('{"content": ""}'))
    websim_server.inject(Fault(body=f'{{"content": "{text}"}}'.encode()))
    assert await call_websim(None, HELLO) == [text]


@pytest.mark.parametrize(
    "body", [b"x" * (MAX_BODY_BYTES + 1), "😀".encode() * (MAX_BODY_BYTES // 8 + 1)], ids=["ASCII", "emoji"]
)
async def test_rejects_larger_body(websim_server, body):
    websim_server.inject(Fault(body=body))
    with pytest.raises(
        ResponseError, match=r"^Response 200 from 127.0.0.1:\d+: a response of more than 32 MiB"
    ) as raised:
        await call_websim(None, HELLO)
    assert (raised.value.status, raised.value.reason) == (200, "broken_response")


@pytest.mark.parametrize("size", [MAX_BYTES_IN_ONE_PIECE, 2 * MAX_BYTES_IN_ONE_PIECE])
async def test_sends_large_request_completely_in_each_attempt(websim_server, recwarn, size):
    websim_server.inject(Fault(status=503))
    text = "x" * size
    await call_websim(None, [{"role": "user", "content": text}])
    assert [request.json["messages"][0]["content"] for request in websim_server.requests] == [text, text]
    assert len(recwarn) == 0


@pytest.mark.parametrize(
    ("status", "location", "summary"),
    [
        (299, "/", "a response without the field content; its fields: none"),
        (300, "", "a redirect to http://127.0.0.1"),
        (399, "", "a redirect to http://127.0.0.1"),
        (308, "https://a.example/x", "a redirect to https://a.example/x, .*set WEBSIM_URL=https://a.example"),
    ],
)
async def test_redirect_is_an_error_and_is_not_followed(websim_server, status, location, summary):
    websim_server.inject(Fault(status=status, headers={"Location": location}, body=b"{}"))
    message = rf"^Response {status} from 127.0.0.1:\d+: {summary}"
    with pytest.raises((ResponseError, ResponseStatusError), match=message):
        await call_websim(None, HELLO)
    assert len(websim_server.requests) == 1


async def test_refused_connection_names_host_and_advice(websim_server, monkeypatch, closed_port):
    monkeypatch.setattr(Websim, "url", f"http://127.0.0.1:{closed_port}")
    message = rf"^No response from 127.0.0.1:{closed_port}: no connection \(Connection refused\): check the network"
    with pytest.raises(ResponseError, match=message) as raised:
        await call_websim(None, HELLO)
    assert (raised.value.status, raised.value.retry_after, raised.value.reason) == (None, None, "no_connection")


async def test_https_to_an_http_port_advises_http(websim_server, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim_server.url.replace("http:", "https:"))
    message = r"^No response from 127.0.0.1:\d+: no connection .*does not speak https: write http:// in WEBSIM_URL"
    with pytest.raises(ResponseError, match=message) as raised:
        await call_websim(None, HELLO)
    assert raised.value.reason == "no_connection"


async def test_socks_proxy_without_its_package_names_the_package(websim_server, monkeypatch, closed_port):
    monkeypatch.setitem(sys.modules, "aiohttp_socks", None)
    message = r"^No response from 127.0.0.1:\d+: a SOCKS proxy needs one more package: pip install aiohttp_socks$"
    with pytest.raises(MissingRequirementsError, match=message):
        await call_websim(None, HELLO, proxy=f"socks5://127.0.0.1:{closed_port}")
    assert not websim_server.requests
