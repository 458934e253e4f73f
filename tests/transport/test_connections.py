"""How calls share connections: reused one after the other, separate for each proxy, none left behind in memory."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest
from g4f.errors import ResponseError

from g4f_websim import Websim
from tests.support.calls import HELLO, call_websim
from tests.support.fast_server import FastServer, socks_proxy
from tests.support.interpreter import run_python
from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST, refusing_socket

USER, QUOTED_PASSWORD = "user", "p%40ss"
PASSWORD = "p@ss"
POLL_SECONDS = 0.01

CALLS = 20
CONSECUTIVE_CALLS = f"""
import asyncio, sys
from tests.support.calls import HELLO, call_websim

async def main():
    for _ in range({CALLS}):
        await call_websim(None, HELLO, proxy=sys.argv[1] or None)

asyncio.run(main())
"""


@pytest.fixture
def server(counting_servers, monkeypatch) -> FastServer:
    server = counting_servers["http"]
    monkeypatch.setattr(Websim, "url", server.url)
    server.reset()
    return server


@pytest.fixture
def tls_server(counting_servers, certificates, monkeypatch) -> FastServer:
    """A server with a certificate that this process's children trust."""
    server = counting_servers["https"]
    authority_file, _ = certificates
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
    monkeypatch.setenv("WEBSIM_URL", server.url)
    server.reset()
    return server


@contextmanager
def http_proxy(folder: Path) -> Iterator[str]:
    """Run an HTTP proxy that requires a password, and yield its host and port."""
    port = folder / "port"
    options = ["--hostname", HOST, "--port", "0", "--port-file", port, "--basic-auth", f"{USER}:{PASSWORD}"]
    workers = ["--num-acceptors", "1", "--num-workers", "1", "--log-level", "ERROR"]
    process = subprocess.Popen([sys.executable, "-m", "proxy", *options, *workers])
    try:
        wait_until(lambda: port.exists() and port.read_text().strip())
        yield f"{HOST}:{port.read_text().strip()}"
    finally:
        process.terminate()
        process.wait(MAX_SECONDS)


@pytest.fixture(scope="module")
def http_proxy_url(tmp_path_factory) -> Iterator[str]:
    with http_proxy(tmp_path_factory.mktemp("proxy")) as host:
        yield f"http://{USER}:{QUOTED_PASSWORD}@{host}"


@pytest.fixture(scope="module")
def socks_proxy_url() -> Iterator[str]:
    with socks_proxy(PASSWORD) as host:
        yield f"socks5://{USER}:{QUOTED_PASSWORD}@{host}"


@pytest.fixture
def retries(monkeypatch, debug_lines) -> list[str]:
    """The lines of the debug log, one for each retry. A retry comes after milliseconds."""
    monkeypatch.setattr(Websim, "backoff", 0.001)
    return debug_lines


def wait_until(condition: Callable[[], object]) -> None:
    deadline = monotonic() + MAX_SECONDS
    while not condition():
        assert monotonic() < deadline, f"not within {MAX_SECONDS} s"
        sleep(POLL_SECONDS)


def wait_until_closed(server: FastServer) -> None:
    """Wait until the server has noticed that all connections were closed, which takes longer through a proxy."""
    wait_until(lambda: server.counts()["open"] == 0)


async def call_at_once(calls: int, proxy: str | None = None) -> None:
    await asyncio.gather(*(call_websim(None, HELLO, proxy=proxy) for _ in range(calls)))


def warnings_of(script: str, *arguments: str) -> str:
    """Run a script in an interpreter of its own, and return its ResourceWarnings and errors."""
    # Of the warnings, only a resource that was left open matters here.
    options = ("-X", "dev", "-W", "ignore", "-W", "default::ResourceWarning")
    _, errors = run_python(*options, "-c", script, *arguments)
    # asyncio's development mode reports slow steps, and this machine may be busy.
    return "\n".join(line for line in errors.splitlines() if not line.startswith("Executing <"))


# Direct connections


async def test_thousand_consecutive_calls_share_connection(server):
    for _ in range(1000):
        await call_websim(None, HELLO)
    assert server.counts() == {"connections": 1, "open": 1, "requests": 1000}


async def test_chats_and_images_share_connection(server):
    await call_websim("gemini-2.5-flash", HELLO)
    await call_websim("flux", HELLO)
    assert server.counts()["connections"] == 1


async def test_hundred_calls_at_once_open_hundred_connections_at_most(server):
    for _ in range(3):
        await call_at_once(100)
    assert server.counts()["connections"] <= 100


def test_consecutive_calls_share_tls_handshake(tls_server):
    assert warnings_of(CONSECUTIVE_CALLS, "") == ""
    wait_until_closed(tls_server)
    assert tls_server.counts() == {"connections": 1, "open": 0, "requests": CALLS}


# Proxies


async def test_calls_through_http_proxy_share_connection(server, http_proxy_url):
    for _ in range(CALLS):
        await call_websim(None, HELLO, proxy=http_proxy_url)
    assert server.counts() == {"connections": 1, "open": 1, "requests": CALLS}


def test_calls_through_http_proxy_share_tls_handshake(tls_server, http_proxy_url):
    assert warnings_of(CONSECUTIVE_CALLS, http_proxy_url) == ""
    wait_until_closed(tls_server)
    assert tls_server.counts() == {"connections": 1, "open": 0, "requests": CALLS}


async def test_each_call_through_socks_proxy_closes_its_connection(server, socks_proxy_url):
    for _ in range(3):
        await call_websim(None, HELLO, proxy=socks_proxy_url)
    wait_until_closed(server)
    assert server.counts()["connections"] == 3


def test_each_call_through_socks_proxy_closes_its_tls_connection(tls_server, socks_proxy_url):
    assert warnings_of(CONSECUTIVE_CALLS, socks_proxy_url) == ""
    wait_until_closed(tls_server)
    assert tls_server.counts() == {"connections": CALLS, "open": 0, "requests": CALLS}


async def test_many_calls_through_socks_proxy_at_once_close_their_connections(server, socks_proxy_url):
    await call_at_once(24, socks_proxy_url)
    wait_until_closed(server)
    assert server.counts()["requests"] == 24


async def test_cancelled_call_through_socks_proxy_closes_its_session(server, socks_proxy_url, caplog):
    for steps in range(8):
        call = asyncio.create_task(call_websim(None, HELLO, proxy=socks_proxy_url))
        for _ in range(steps):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        del call
        gc.collect()
        assert caplog.messages == []


async def test_calls_with_and_without_proxy_share_no_connection(server, http_proxy_url):
    for _ in range(3):
        await call_websim(None, HELLO, proxy=http_proxy_url)
        await call_websim(None, HELLO)
    assert server.counts()["connections"] == 2


async def test_call_without_proxy_does_not_use_socks_proxy(server):
    with socks_proxy(PASSWORD) as host:
        await call_websim(None, HELLO, proxy=f"socks5://{USER}:{QUOTED_PASSWORD}@{host}")
    await call_websim(None, HELLO)
    assert server.counts()["connections"] == 2


@pytest.mark.parametrize("scheme", ["http", "https", "socks4", "socks5", "socks5h"])
async def test_call_never_bypasses_its_proxy(server, monkeypatch, closed_port, scheme):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    await call_websim(None, HELLO)
    with pytest.raises(ResponseError, match=f"through the proxy {HOST}:{closed_port}"):
        await call_websim(None, HELLO, proxy=f"{scheme}://{HOST}:{closed_port}")
    assert server.counts()["requests"] == 1


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
async def test_retries_socks_proxy_that_closes_connection(server, retries, scheme):
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, HOST, 0) as proxy:
        with pytest.raises(ResponseError):
            await call_websim(None, HELLO, proxy=f"{scheme}://{HOST}:{proxy.sockets[0].getsockname()[1]}")
    assert len(retries) == Websim.max_attempts - 1


async def test_call_succeeds_when_socks_proxy_comes_back(server, monkeypatch, socks_proxy_url, delay_began):
    host = socks_proxy_url.rpartition("@")[2]
    monkeypatch.setattr(Websim, "backoff", 0.5)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_proxy, to_proxy = await asyncio.open_connection(*host.split(":"))
        await asyncio.gather(copy(reader, to_proxy), copy(from_proxy, writer))

    with refusing_socket() as bound:
        forwarder = f"{HOST}:{bound.getsockname()[1]}"
        call = asyncio.create_task(call_websim(None, HELLO, proxy=socks_proxy_url.replace(host, forwarder)))
        await delay_began.wait()
        async with await asyncio.start_server(forward, sock=bound):
            assert await call


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_does_not_retry_socks_proxy_that_refuses_password(server, socks_proxy_url, retries):
    with pytest.raises(ResponseError, match="needs a login"):
        await call_websim(None, HELLO, proxy=socks_proxy_url.replace(QUOTED_PASSWORD, "wrong"))
    assert retries == []
