"""Proxies: a call succeeds through each kind; if a proxy fails, the error names it and says why and what to do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

import pytest
import trustme
from g4f.errors import ResponseError, ResponseStatusError

from g4f_websim import Websim
from tests.support.calls import HELLO, call_websim
from tests.support.fast_server import socks_proxy
from tests.support.interpreter import run_python
from tests.support.loopback import HOST
from tests.support.raw_server import OK_RESPONSE, RawServer, http_response, raw_server
from tests.support.tls import server_context

HTTP_SITE = "http://websim.example"
HTTPS_SITE = "https://websim.example"
# An address for documentation (RFC 5737), and how SOCKS encodes it.
IP_SITE = "http://192.0.2.7"
IP_ADDRESS = bytes([192, 0, 2, 7])
SOCKS_SCHEMES = ["socks4", "socks5", "socks5h"]

CHECK_PROXY = "use another proxy or none, or check that it runs and that its URL is right"
PROXY_LOGIN = "put the right user and password into the URL of the proxy, as in http://user:password@host:3128"

NO_METHOD_ACCEPTED = b"\x05\xff"
PASSWORD_METHOD = b"\x05\x02"
NO_LOGIN_METHOD = b"\x05\x00"
HOST_UNREACHABLE = b"\x05\x04\x00\x01" + bytes(6)
SOCKS5_CONNECTED = b"\x05\x00\x00\x01" + bytes(6)
SOCKS4_REFUSED = b"\x00\x5b" + bytes(6)
SOCKS4_CONNECTED = b"\x00\x5a" + bytes(6)


CALL_THROUGH_PROXY = """
import asyncio, sys
from tests.support.calls import HELLO, call_websim
print(*asyncio.run(call_websim(None, HELLO, proxy=sys.argv[1])))
"""


@pytest.fixture(autouse=True)
def http_site(monkeypatch):
    monkeypatch.setattr(Websim, "backoff", 0.001)
    monkeypatch.setattr(Websim, "url", HTTP_SITE)


@pytest.fixture
def https_site(monkeypatch):
    monkeypatch.setattr(Websim, "url", HTTPS_SITE)


@pytest.fixture
async def http_proxy() -> AsyncIterator[RawServer]:
    async with raw_server() as server:
        yield server


@asynccontextmanager
async def socks_script(*replies: bytes, messages: list[bytes] | None = None) -> AsyncIterator[str]:
    """Run a SOCKS proxy that sends one reply for each message, and yield its host and port.

    Args:
        replies: the replies.
        messages: a list to which the received messages are added.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
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


async def error_of(proxy: str) -> Exception:
    with pytest.raises((ResponseError, ResponseStatusError)) as raised:
        await asyncio.wait_for(call_websim(None, HELLO, proxy=proxy), 20)
    assert raised.value.reason == "proxy_failed"
    return raised.value


@pytest.mark.parametrize(
    ("scheme", "site", "replies", "address"),
    [
        ("socks4", IP_SITE, [SOCKS4_CONNECTED], IP_ADDRESS),
        ("socks5", IP_SITE, [NO_LOGIN_METHOD, SOCKS5_CONNECTED], IP_ADDRESS),
        ("socks5h", HTTP_SITE, [NO_LOGIN_METHOD, SOCKS5_CONNECTED], b"websim.example"),
    ],
    ids=SOCKS_SCHEMES,
)
async def test_call_succeeds_through_socks_proxy(monkeypatch, scheme, site, replies, address):
    monkeypatch.setattr(Websim, "url", site)
    messages = []
    async with socks_script(*replies, OK_RESPONSE, messages=messages) as host:
        assert await call_websim(None, HELLO, proxy=f"{scheme}://{host}") == ["fine"]
    *_, connect, request = messages
    assert address in connect
    assert request.startswith(b"POST /api/")


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


@pytest.mark.parametrize("site", [HTTP_SITE, HTTPS_SITE])
@pytest.mark.parametrize("scheme", ["http", *SOCKS_SCHEMES])
async def test_error_names_dead_proxy(monkeypatch, closed_port, scheme, site):
    monkeypatch.setattr(Websim, "url", site)
    error = await error_of(f"{scheme}://{HOST}:{closed_port}")
    start = f"No response from websim.example: no connection through the proxy {HOST}:{closed_port} ("
    assert str(error).startswith(start)
    assert str(error).endswith(f": {CHECK_PROXY}")
    assert (error.status, error.retry_after) == (None, None)


@pytest.mark.parametrize("scheme", ["http", *SOCKS_SCHEMES])
async def test_retries_dead_proxy(caplog, closed_port, scheme):
    caplog.set_level("INFO", "g4f_websim")
    await error_of(f"{scheme}://{HOST}:{closed_port}")
    assert [record.getMessage().rpartition("before ")[2] for record in caplog.records] == [
        "attempt 2 of 3",
        "attempt 3 of 3",
    ]


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_error_names_proxy_with_unknown_host_name(no_host_names, scheme):
    error = await error_of(f"{scheme}://proxy.invalid:3128")
    assert str(error).startswith(
        "No response from websim.example: no connection through the proxy proxy.invalid:3128 ("
    )
    assert "unknown host" in str(error)


async def test_error_says_that_http_proxy_needs_login_for_http_site(http_proxy):
    http_proxy.respond = lambda request: [http_response(b"login first", 407)]
    error = await error_of(http_proxy.url)
    assert str(error) == (
        f"Response 407 from websim.example: the proxy {http_proxy.host} needs a login (login first): {PROXY_LOGIN}"
    )
    assert isinstance(error, ResponseStatusError)
    assert error.status == 407
    assert len(http_proxy.requests) == 1


async def test_error_says_that_http_proxy_needs_login_for_https_site(http_proxy, https_site):
    http_proxy.respond = lambda request: [http_response(status=407)]
    error = await error_of(http_proxy.url)
    assert str(error).startswith(f"No response from websim.example: the proxy {http_proxy.host} needs a login")
    assert str(error).endswith(f": {PROXY_LOGIN}")
    assert len(http_proxy.requests) == 1


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (502, 3), (503, 3)])
async def test_error_names_http_proxy_that_cannot_connect_to_https_site(http_proxy, https_site, status, attempts):
    http_proxy.respond = lambda request: [http_response(status=status)]
    error = await error_of(http_proxy.url)
    start = f"No response from websim.example: no connection through the proxy {http_proxy.host}"
    assert str(error) == f"{start} ({status} Any): {CHECK_PROXY}"
    assert len(http_proxy.requests) == attempts


async def test_retries_temporary_failure_behind_http_proxy(http_proxy):
    http_proxy.play([http_response(status=503)], [OK_RESPONSE])
    assert await call_websim(None, HELLO, proxy=http_proxy.url) == ["fine"]
    assert len(http_proxy.requests) == 2


@pytest.mark.parametrize("login", ["", "user:wrong@"], ids=["no password", "wrong password"])
async def test_error_says_that_socks_proxy_needs_login(caplog, login):
    caplog.set_level("INFO", "g4f_websim")
    with socks_proxy("right") as host:
        error = await error_of(f"socks5://{login}{host}")
    assert str(error).startswith(f"No response from websim.example: the proxy {host} needs a login")
    assert str(error).endswith(f": {PROXY_LOGIN}")
    assert "wrong" not in str(error)
    assert not caplog.records


@pytest.mark.parametrize("reply", [NO_METHOD_ACCEPTED, PASSWORD_METHOD], ids=["none accepted", "password required"])
async def test_error_says_that_socks_proxy_rejects_anonymous_client(reply):
    async with socks_script(reply) as host:
        error = await error_of(f"socks5://{host}")
    assert f"the proxy {host} needs a login" in str(error)


@pytest.mark.parametrize(
    ("scheme", "replies"),
    [("socks5h", [NO_LOGIN_METHOD, HOST_UNREACHABLE]), ("socks4", [SOCKS4_REFUSED])],
    ids=["socks5h", "socks4"],
)
async def test_error_names_socks_proxy_that_cannot_connect(monkeypatch, closed_port, scheme, replies):
    # A SOCKS4 proxy needs an IP address.
    site = f"{HOST}:{closed_port}"
    monkeypatch.setattr(Websim, "url", f"http://{site}")
    async with socks_script(*replies) as host:
        error = await error_of(f"{scheme}://{host}")
    assert str(error).startswith(f"No response from {site}: no connection through the proxy {host} (")
    assert str(error).endswith(f": {CHECK_PROXY}")


@pytest.mark.parametrize(
    "proxy",
    ["127.0.0.1:3128", "ftp://user:pass@127.0.0.1", "http://user:pass@127.0.0.1:99999", "user:pass@127.0.0.1:3128"],
)
@pytest.mark.parametrize("variable", ["proxy", "G4F_PROXY"])
async def test_malformed_proxy_is_not_shown(monkeypatch, variable, proxy):
    if variable == "G4F_PROXY":
        monkeypatch.setenv("G4F_PROXY", proxy)
    with pytest.raises(ValueError, match=rf"^{variable}: a URL like http://.*, not '((http|ftp)://)?\*\*\*'$"):
        await call_websim(None, HELLO, proxy=proxy)


async def test_error_names_dead_site_behind_socks_proxy(monkeypatch, closed_port):
    monkeypatch.setattr(Websim, "url", f"http://{HOST}:{closed_port}")
    with socks_proxy("right") as host:
        error = await error_of(f"socks5://user:right@{host}")
    assert f"no connection through the proxy {host} (" in str(error)
