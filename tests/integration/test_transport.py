"""How it travels: tries and waits, the bounds of a call, and errors that say what to do."""

import asyncio
import sys
from time import monotonic

import g4f.debug
import pytest
from g4f.errors import (
    MissingAuthError,
    MissingRequirementsError,
    RateLimitError,
    ResponseError,
    ResponseStatusError,
)

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from g4f_websim.transport import MAX_BYTES_IN_ONE_GO
from tests.support.calls import HELLO, ask
from tests.support.raw_server import Step, http

PAST = "Mon, 02 Jan 2006 15:04:05 GMT"
FUTURE = "Fri, 31 Dec 9999 23:59:59 GMT"

MAX_BODY_BYTES = 32 * 1024 * 1024
# A wait that should have been cut short is not sat out.
PATIENCE_SECONDS = 10

TRIED_AGAIN = [408, 425, 429, 502, 503, 504]
NOT_TRIED_AGAIN = [400, 401, 403, 404, 407, 409, 413, 422, 424, 426, 428, 430, 451, 500, 501, 505]


@pytest.fixture
def waits(monkeypatch):
    """The waits that were told through g4f's log."""
    lines = []
    monkeypatch.setattr(g4f.debug, "logging", True)
    monkeypatch.setattr(g4f.debug, "log_handler", lambda *text, file=None: lines.append(" ".join(map(str, text))))
    return lines


@pytest.fixture
async def stalled_call(server):
    """A call without a timeout, which has arrived and is not answered."""
    arrived = asyncio.Event()

    def stall(request):
        arrived.set()
        return [Step.STALL]

    server.respond = stall
    call = asyncio.create_task(ask(None, HELLO))
    await arrived.wait()
    return call


def retry_after(value: str, status: int = 429) -> Fault:
    return Fault(status=status, headers={"Retry-After": value})


@pytest.mark.parametrize("model", [None, "flux"])
@pytest.mark.parametrize("status", TRIED_AGAIN)
async def test_a_refusal_that_may_pass_is_tried_again(websim_server, model, status):
    websim_server.inject(Fault(status=status), times=2)
    assert await ask(model, HELLO)
    assert len(websim_server.requests) == 3


@pytest.mark.parametrize("status", TRIED_AGAIN)
async def test_the_last_refusal_is_raised_after_max_tries(websim_server, status):
    websim_server.inject(Fault(status=status), times=4)
    with pytest.raises(ResponseStatusError, match=f"Response {status}"):
        await ask(None, HELLO)
    assert len(websim_server.requests) == 3


@pytest.mark.parametrize("status", [200, 201, 299])
async def test_an_answer_may_have_any_status_of_success(websim_server, status):
    websim_server.inject(Fault(status=status, body=b'{"content": "Hi"}'))
    assert await ask(None, HELLO) == ["Hi"]


@pytest.mark.parametrize("status", NOT_TRIED_AGAIN)
async def test_any_other_refusal_is_raised_at_once(websim_server, status):
    websim_server.inject(Fault(status=status, body=b"for a reason"))
    with pytest.raises((ResponseStatusError, MissingAuthError), match=f"Response {status}: .*127.0.0.1"):
        await ask(None, HELLO)
    assert len(websim_server.requests) == 1


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (302, "if Websim has moved, set WEBSIM_URL"),
        (400, "look at what was sent"),
        (401, "log in with a Websim token as api_key or in WEBSIM_API_KEY"),
        (403, "log in with a Websim token as api_key or in WEBSIM_API_KEY, or try from another network"),
        (404, "if Websim has moved, set WEBSIM_URL"),
        (407, "look at the proxy's user and password"),
        (413, "send less"),
        (429, "wait a while, log in, or use another provider"),
        (499, "look at what was sent"),
        (500, "try again later or use another provider"),
        (503, "try again later or use another provider"),
    ],
)
async def test_a_refusal_says_what_to_do(websim_server, status, advice):
    websim_server.inject(Fault(status=status), times=3)
    with pytest.raises((ResponseStatusError, MissingAuthError)) as raised:
        await ask(None, HELLO)
    assert str(raised.value).endswith(f": {advice})")


@pytest.mark.parametrize("status", [200, 400, 403, 500])
async def test_a_body_that_speaks_of_a_rate_limit_is_one(websim_server, status):
    websim_server.inject(Fault(status=status, body=b'{"error": "Rate limit exceeded"}'), times=3)
    with pytest.raises(RateLimitError, match=f"Response {status}: .*Rate limit exceeded"):
        await ask(None, HELLO)
    assert len(websim_server.requests) == 3


async def test_an_answer_may_speak_of_a_rate_limit(websim_server):
    websim_server.inject(Fault(body=b'{"content": "Rate limit exceeded means: too often"}'))
    assert await ask(None, HELLO) == ["Rate limit exceeded means: too often"]


async def test_a_connection_that_broke_before_the_answer_is_tried_again(websim_server):
    websim_server.inject(Fault(disconnect=True), times=2)
    assert await ask(None, HELLO)
    assert len(websim_server.requests) == 3


@pytest.mark.parametrize("max_tries", [1, 0])
async def test_tries_are_set_on_the_class(websim_server, monkeypatch, max_tries):
    monkeypatch.setattr(Websim, "max_tries", max_tries)
    websim_server.inject(Fault(status=503))
    with pytest.raises(ResponseStatusError):
        await ask(None, HELLO)
    assert len(websim_server.requests) == 1


async def test_each_wait_is_told_with_its_length_and_its_reason(websim_server, monkeypatch, waits):
    monkeypatch.setattr(Websim, "backoff", 0.1)
    websim_server.inject(Fault(status=503, body=b"too busy"))
    await ask(None, HELLO)
    (line,) = [line for line in waits if "waiting" in line]
    assert line.startswith("Websim: Response 503: too busy")
    assert "waiting 0.1 s before try 2 of 3" in line


@pytest.mark.parametrize("value", ["0", "0.0", "00", PAST, "Mon, 02 Jan 2006 15:04:05 -0000"])
async def test_retry_after_may_ask_for_no_wait(websim_server, monkeypatch, waits, value):
    monkeypatch.setattr(Websim, "backoff", 1000.0)
    websim_server.inject(retry_after(value))
    assert await ask(None, HELLO)
    assert any("waiting 0.0 s" in line for line in waits)


@pytest.mark.parametrize(
    "value", ["soon", "-5", "nan", "inf", "1e999", "", "9" * 400, "5 seconds", "Fri, 99 Foo 99999 99:99:99 GMT", "٣"]
)
async def test_a_retry_after_that_says_nothing_is_as_none(websim_server, waits, value):
    websim_server.inject(Fault(status=503, headers={"Retry-After": value}))
    assert await ask(None, HELLO)
    assert len(websim_server.requests) == 2


@pytest.mark.parametrize("value", ["61", "9" * 30, FUTURE])
async def test_a_retry_after_beyond_max_wait_is_raised_at_once(websim_server, value):
    websim_server.inject(retry_after(value))
    with pytest.raises(RateLimitError):
        await ask(None, HELLO)
    assert len(websim_server.requests) == 1


@pytest.mark.parametrize(("value", "wait"), [("3600", "3600 s"), ("99.6", "100 s"), ("1" + "0" * 300, "1e.300 s")])
async def test_a_rate_limit_says_how_long_to_wait(websim_server, value, wait):
    websim_server.inject(Fault(status=429, headers={"Retry-After": value}, body=b"word " * 100))
    with pytest.raises(RateLimitError, match=f"wait {wait}, log in, or use another provider") as raised:
        await ask(None, HELLO)
    assert len(str(raised.value)) <= len("Response 429: ") + 300


async def test_retry_after_is_waited_for(websim_server, monkeypatch, waits):
    monkeypatch.setattr(Websim, "max_wait", 0.2)
    websim_server.inject(retry_after("0.1"))
    assert await ask(None, HELLO)
    assert any("waiting 0.1 s" in line for line in waits)


async def test_a_timeout_bounds_an_answer_that_does_not_come(websim_server):
    websim_server.inject(Fault(delay=30))
    with pytest.raises(TimeoutError, match=r"no answer within 0.2 s \(127.0.0.1:\d+: try again"):
        await ask(None, HELLO, timeout=0.2)


async def test_a_timeout_bounds_the_waits_too(websim_server, monkeypatch):
    monkeypatch.setattr(Websim, "backoff", 30.0)
    websim_server.inject(Fault(status=503))
    with pytest.raises(TimeoutError, match="no answer within 0.2 s"):
        await asyncio.wait_for(ask(None, HELLO, timeout=0.2), PATIENCE_SECONDS)
    # On a slow machine not even the first came in time; a second would be one too many.
    assert len(websim_server.requests) <= 1


async def test_a_timeout_is_g4fs_as_well(websim_server):
    websim_server.inject(Fault(delay=30))
    with pytest.raises(g4f.errors.TimeoutError):
        await ask("flux", HELLO, timeout=0.2)


@pytest.mark.parametrize("timeout", [None, 0, 30])
async def test_a_call_within_its_time_answers(websim_server, timeout):
    assert await ask(None, HELLO, timeout=timeout)


async def test_calls_end_each_in_its_own_time(websim_server):
    websim_server.inject(Fault(delay=30), times=3)
    ended = []

    async def end_of_a_call(timeout):
        with pytest.raises(TimeoutError) as raised:
            await ask(None, HELLO, timeout=timeout)
        ended.append(str(raised.value).split(" (")[0])

    await asyncio.gather(*map(end_of_a_call, (0.3, 0.1, 0.2)))
    assert ended == ["no answer within 0.1 s", "no answer within 0.2 s", "no answer within 0.3 s"]


async def test_without_a_timeout_a_try_ends_after_300_seconds(stalled_call, monkeypatch):
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: monotonic() + 290)
    await asyncio.wait([stalled_call], timeout=0.05)
    assert not stalled_call.done()
    monkeypatch.setattr(loop, "time", lambda: monotonic() + 301)
    with pytest.raises(TimeoutError, match="no answer within 300 s"):
        await stalled_call


async def test_a_timeout_leaves_no_cancellation_behind(websim_server):
    websim_server.inject(Fault(delay=30))
    with pytest.raises(TimeoutError):
        await ask(None, HELLO, timeout=0.1)
    assert getattr(asyncio.current_task(), "cancelling", int)() == 0
    assert await ask(None, HELLO)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count how often a task is cancelled")
async def test_a_cancellation_goes_before_a_timeout_of_the_same_moment(stalled_call, monkeypatch):
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: monotonic() + 301)
    loop.call_soon(stalled_call.cancel)
    await asyncio.wait([stalled_call])
    assert stalled_call.cancelled()


async def test_a_body_of_the_largest_size_is_read(websim_server):
    text = "x" * (MAX_BODY_BYTES - len('{"content": ""}'))
    websim_server.inject(Fault(body=f'{{"content": "{text}"}}'.encode()))
    assert await ask(None, HELLO) == [text]


async def test_a_larger_body_is_an_error(websim_server):
    websim_server.inject(Fault(body=b"x" * (MAX_BODY_BYTES + 1)))
    with pytest.raises(ResponseError, match="an answer of more than 32 MiB"):
        await ask(None, HELLO)


@pytest.mark.parametrize("size", [MAX_BYTES_IN_ONE_GO, 2 * MAX_BYTES_IN_ONE_GO])
async def test_a_large_request_is_sent_whole_at_every_try(websim_server, recwarn, size):
    websim_server.inject(Fault(status=503))
    said = "x" * size
    await ask(None, [{"role": "user", "content": said}])
    assert [request.json["messages"][0]["content"] for request in websim_server.requests] == [said, said]
    assert len(recwarn) == 0


async def test_a_redirect_is_not_followed(websim_server):
    websim_server.inject(Fault(status=308, headers={"Location": "https://websim.example/elsewhere"}))
    with pytest.raises(ResponseStatusError, match="308: a redirect to https://websim.example/.*set WEBSIM_URL"):
        await ask(None, HELLO)
    assert len(websim_server.requests) == 1


@pytest.mark.parametrize(
    ("status", "what"), [(299, "an answer without content"), (300, "a redirect to None"), (399, "a redirect to None")]
)
async def test_a_status_from_300_to_399_is_a_redirect(websim_server, status, what):
    websim_server.inject(Fault(status=status, body=b"{}"))
    with pytest.raises((ResponseError, ResponseStatusError), match=f"^Response {status}: {what}"):
        await ask(None, HELLO)


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_the_message_of_a_refusal_is_short(websim_server, status):
    websim_server.inject(Fault(status=status, body=b"word " * 10_000), times=3)
    with pytest.raises(ResponseStatusError) as raised:
        await ask(None, HELLO)
    assert len(str(raised.value)) <= len("Response 429: ") + 300


@pytest.mark.parametrize("url", ["websim.com", "ftp://websim.com", "https://", "http://[", "http://127.0.0.1:0"])
async def test_an_address_that_is_none_is_refused(monkeypatch, url):
    monkeypatch.setattr(Websim, "url", url)
    with pytest.raises(ValueError, match="WEBSIM_URL: an address as https://websim.com"):
        await ask(None, HELLO)


async def test_a_refused_connection_names_the_host_and_what_to_do(websim_server, monkeypatch, unused_tcp_port):
    monkeypatch.setattr(Websim, "url", f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(ResponseError, match=rf"no connection: .* \(127.0.0.1:{unused_tcp_port}: look at the"):
        await ask(None, HELLO)


@pytest.mark.parametrize(
    ("status", "advice"), [(407, "look at the proxy's user and password"), (429, "wait a while, log in")]
)
async def test_a_proxy_that_refuses_to_connect_to_a_tls_server_says_what_to_do(server, monkeypatch, status, advice):
    proxy = server.url
    monkeypatch.setattr(Websim, "url", "https://websim.example")
    server.respond = lambda request: [http(status=status)]
    with pytest.raises(ResponseError, match=rf"no connection: {status}, .* \(websim.example: {advice}"):
        await ask(None, HELLO, proxy=proxy)


async def test_a_socks_proxy_without_its_package_says_which(websim_server, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp_socks", None)
    with pytest.raises(
        MissingRequirementsError, match=r"^a SOCKS proxy needs one more package: pip install aiohttp_socks$"
    ):
        await ask(None, HELLO, proxy="socks5://127.0.0.1:9")
    assert not websim_server.requests


async def test_a_cancelled_call_ends_its_wait(websim_server, monkeypatch):
    monkeypatch.setattr(Websim, "backoff", 1000.0)
    waiting = asyncio.Event()
    monkeypatch.setattr(g4f.debug, "log", lambda *text, **options: waiting.set())
    websim_server.inject(Fault(status=503))
    call = asyncio.create_task(ask(None, HELLO))
    await waiting.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
