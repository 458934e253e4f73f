"""Proxies: a call succeeds through each kind; if a proxy fails, the error names it and says why and what to do."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

import pytest
import trustme
from g4f.errors import ResponseError, ResponseStatusError

from g4f_websim import Websim
from tests.support.calls import HELLO, call_websim
from tests.support.interpreter import run_python
from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST
from tests.support.raw_server import OK_RESPONSE, http_response, raw_server
from tests.support.tls import server_context

HTTP_SITE = "http://websim.example"
HTTPS_SITE = "https://websim.example"
# An address for documentation (RFC 5737), and how SOCKS encodes it.
IP_SITE = "http://192.0.2.7"
IP_ADDRESS = bytes([192, 0, 2, 7])

PROXY_LOGIN = "put the right user and password into the URL of the proxy, as in http://user:password@host:3128"

# What SOCKS proxies reply (RFC 1928 and 1929).
NO_METHOD_ACCEPTED = b"\x05\xff"
PASSWORD_METHOD, PASSWORD_ACCEPTED, PASSWORD_REFUSED = b"\x05\x02", b"\x01\x00", b"\x01\x01"
NO_LOGIN_METHOD = b"\x05\x00"
HOST_UNREACHABLE, CONNECTION_REFUSED, SOCKS5_CONNECTED = (bytes([5, code, 0, 1, *bytes(6)]) for code in (4, 5, 0))
SOCKS4_REFUSED, SOCKS4_CONNECTED = (bytes([0, code, *bytes(6)]) for code in (0x5B, 0x5A))
SOCKS5_RESPONSE = [NO_LOGIN_METHOD, SOCKS5_CONNECTED, OK_RESPONSE]
SOCKS4_RESPONSE = [SOCKS4_CONNECTED, OK_RESPONSE]

CALL_THROUGH_PROXY = """
import asyncio, sys
from tests.support.calls import HELLO, call_websim
print(*asyncio.run(call_websim(None, HELLO, proxy=sys.argv[1])))
"""


@pytest.fixture(autouse=True)
def unreachable_site(monkeypatch):
    """Let Websim's site be one that only proxies reach."""
    monkeypatch.setattr(Websim, "backoff", 0.001)
    monkeypatch.setattr(Websim, "url", HTTP_SITE)


@pytest.fixture
def log(caplog):
    """The log, in which each retry is a message."""
    caplog.set_level("INFO", "g4f_websim")
    return caplog


@asynccontextmanager
async def socks_script(*connections: list[bytes], messages: list[bytes] | None = None) -> AsyncIterator[str]:
    """Run a SOCKS proxy that sends one reply for each message, and yield its host and port.

    Args:
        connections: the replies on each connection; those of the last one are used for all later connections too.
        messages: a list to which the received messages are added.
    """
    scripts = list(connections)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            replies = scripts.pop(0) if len(scripts) > 1 else scripts[0]
            if not replies:
                return
            for reply in replies:
                message = await reader.read(1000)
                if messages is not None:
                    messages.append(message)
                writer.write(reply)
                await writer.drain()
            # Closing a socket with unread data resets the connection, and the last reply could be lost.
            with suppress(OSError):
                await reader.read()

    async with await asyncio.start_server(serve, HOST, 0) as listener:
        yield f"{HOST}:{listener.sockets[0].getsockname()[1]}"


async def call_through(proxy: str) -> list[str]:
    return await asyncio.wait_for(call_websim(None, HELLO, proxy=proxy), MAX_SECONDS)


async def error_of(proxy: str) -> Exception:
    """Return the error of a call through a proxy that fails; it names the proxy."""
    with pytest.raises((ResponseError, ResponseStatusError)) as raised:
        await call_through(proxy)
    assert raised.value.reason == "proxy_failed"
    host = Websim.url.partition("://")[2]
    assert re.match(f"(No response|Response 407) from {host}: ", str(raised.value))
    assert f"proxy {re.split('//|@', proxy)[-1]} " in str(raised.value)
    return raised.value


@pytest.mark.parametrize(
    ("scheme", "site", "replies", "address"),
    [
        ("socks4", IP_SITE, SOCKS4_RESPONSE, IP_ADDRESS),
        ("socks5", IP_SITE, SOCKS5_RESPONSE, IP_ADDRESS),
        ("socks5h", HTTP_SITE, SOCKS5_RESPONSE, b"websim.example"),
    ],
)
async def test_call_succeeds_through_socks_proxy_that_first_closes_a_connection(
    monkeypatch, log, scheme, site, replies, address
):
    monkeypatch.setattr(Websim, "url", site)
    messages = []
    async with socks_script([], replies, messages=messages) as host:
        assert await call_through(f"{scheme}://{host}") == ["fine"]
    *_, connect, request = messages
    assert address in connect
    assert request.startswith(b"POST /api/")
    assert len(log.messages) == 1


async def test_call_succeeds_through_https_proxy(tmp_path):
    authority = trustme.CA()
    authority_file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(authority_file)
    async with raw_server(tls=server_context(authority, HOST)) as proxy:
        # A process of its own, because aiohttp reads the trusted authorities when it is imported.
        variables = {"WEBSIM_URL": HTTP_SITE, "SSL_CERT_FILE": str(authority_file)}
        printed, _ = await asyncio.to_thread(run_python, "-c", CALL_THROUGH_PROXY, proxy.url, **variables)
    assert printed == "fine\n"
    (request,) = proxy.requests
    assert request.head.startswith(f"POST {HTTP_SITE}/api/".encode())


@pytest.mark.parametrize("is_https", [False, True], ids=["http site", "https site"])
@pytest.mark.parametrize("scheme", ["http", "https", "socks4", "socks5", "socks5h"])
async def test_call_through_dead_proxy_is_retried_and_never_bypasses_it(
    server, monkeypatch, closed_port, log, scheme, is_https
):
    await call_websim(None, HELLO)
    monkeypatch.setattr(Websim, "url", HTTPS_SITE if is_https else server.url)
    error = await error_of(f"{scheme}://{HOST}:{closed_port}")
    assert "check that it runs and that its URL is right" in str(error)
    assert len(server.requests) == 1
    assert (error.status, error.retry_after) == (None, None)
    assert [line.rpartition("before ")[2] for line in log.messages] == ["attempt 2 of 3", "attempt 3 of 3"]


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_error_names_proxy_with_unknown_host_name(no_host_names, scheme):
    assert "unknown host" in str(await error_of(f"{scheme}://proxy.invalid:3128"))


@pytest.mark.parametrize(
    ("site", "status", "requests", "words"),
    [
        (HTTP_SITE, 407, 1, rf"^Response 407 .* needs a login \(hello\): {PROXY_LOGIN}$"),
        (HTTPS_SITE, 407, 1, rf"^No response .* needs a login.*: {PROXY_LOGIN}$"),
        *(
            (HTTPS_SITE, status, requests, rf"\({status} Any\): ")
            for status, requests in ((403, 1), (502, 3), (503, 3))
        ),
    ],
)
async def test_error_says_why_http_proxy_fails(server, monkeypatch, site, status, requests, words):
    monkeypatch.setattr(Websim, "url", site)
    server.respond = lambda request: [http_response(b"hello", status)]
    error = await error_of(f"http://{server.host}")
    assert re.search(words, str(error))
    assert ("needs a login" in str(error)) is (status == 407)
    assert error.status == (407 if site == HTTP_SITE else None)
    assert len(server.requests) == requests


async def test_call_succeeds_through_http_proxy_after_a_temporary_failure(server):
    server.play([http_response(status=503)], [OK_RESPONSE])
    assert await call_through(f"http://{server.host}") == ["fine"]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("scheme", "login", "replies", "needs_login"),
    [
        ("socks5", "", [NO_METHOD_ACCEPTED], True),
        ("socks5", "", [PASSWORD_METHOD], True),
        ("socks5", "user:wrong@", [PASSWORD_METHOD, PASSWORD_REFUSED], True),
        ("socks5", "user:right@", [PASSWORD_METHOD, PASSWORD_ACCEPTED, CONNECTION_REFUSED], False),
        ("socks5h", "", [NO_LOGIN_METHOD, HOST_UNREACHABLE], False),
        ("socks4", "", [SOCKS4_REFUSED], False),
    ],
    ids=["no method", "password required", "wrong password", "refused", "unreachable", "refused by socks4"],
)
async def test_error_says_why_socks_proxy_fails(monkeypatch, log, scheme, login, replies, needs_login):
    monkeypatch.setattr(Websim, "url", IP_SITE)
    async with socks_script(replies) as host:
        error = await error_of(f"{scheme}://{login}{host}")
    assert ("needs a login" in str(error), str(error).endswith(f": {PROXY_LOGIN}")) == (needs_login, needs_login)
    assert not needs_login or not log.messages
    assert not re.search("wrong@|right@|wrong$", str(error))
