"""How calls share connections: reused one after the other, separate for each proxy, none left behind in memory."""

import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from g4f_websim import Websim
from tests.support.calls import HELLO, call_websim
from tests.support.fast_server import FastServer, socks_proxy
from tests.support.interpreter import run_python
from tests.support.limits import MAX_SECONDS, POLL_SECONDS, wait_until
from tests.support.loopback import HOST

USER, QUOTED_PASSWORD = "user", "p%40ss"
PASSWORD = "p@ss"

# The proxies of the tests, with the connections to the site for a number of calls, and how many of them stay open.
PROXIES = {"none": lambda calls: (1, 1), "http": lambda calls: (1, 1), "socks5": lambda calls: (calls, 0)}

CALLS = 20
CONSECUTIVE_CALLS = f"""
import asyncio, sys
from tests.support.calls import HELLO, call_websim

async def main():
    for _ in range({CALLS}):
        await call_websim(None, HELLO, proxy=sys.argv[1] or None)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def server(counting_server, monkeypatch) -> FastServer:
    monkeypatch.setattr(Websim, "url", counting_server.url)
    return counting_server


@pytest.fixture(scope="module")
def http_proxy(tmp_path_factory) -> Iterator[str]:
    """The URL of an HTTP proxy that requires a password."""
    port = tmp_path_factory.mktemp("proxy") / "port"
    options = ["--hostname", HOST, "--port", "0", "--port-file", port, "--basic-auth", f"{USER}:{PASSWORD}"]
    workers = ["--num-acceptors", "1", "--num-workers", "1", "--log-level", "ERROR"]
    process = subprocess.Popen([sys.executable, "-m", "proxy", *options, *workers])
    try:
        wait_until(lambda: port.exists() and port.read_text().strip())
        yield f"http://{USER}:{QUOTED_PASSWORD}@{HOST}:{port.read_text().strip()}"
    finally:
        process.terminate()
        process.wait(MAX_SECONDS)


@pytest.fixture(scope="module")
def socks5_proxy() -> Iterator[str]:
    """The URL of a SOCKS5 proxy that requires a password."""
    with socks_proxy(PASSWORD) as host:
        yield f"socks5://{USER}:{QUOTED_PASSWORD}@{host}"


@pytest.fixture
def proxy(request) -> str | None:
    """The URL of the proxy whose name is the parameter."""
    return None if request.param == "none" else request.getfixturevalue(f"{request.param}_proxy")


async def expect_counts(server: FastServer, connections: int, still_open: int, requests: int) -> None:
    """Wait until the server has noticed all closed connections, which takes longer through a proxy."""
    expected = {"connections": connections, "open": still_open, "requests": requests}
    deadline = time.monotonic() + MAX_SECONDS
    while (counts := server.counts()) != expected:
        assert counts["open"] > still_open, counts
        assert time.monotonic() < deadline, counts
        await asyncio.sleep(POLL_SECONDS)


@pytest.mark.parametrize(("proxy", "counts"), PROXIES.items(), ids=PROXIES, indirect=["proxy"])
async def test_chats_and_images_share_connection_but_not_through_socks_proxy(server, proxy, counts):
    for _ in range(CALLS):
        await call_websim("gemini-2.5-flash", HELLO, proxy=proxy)
        await call_websim("flux", HELLO, proxy=proxy)
    await expect_counts(server, *counts(2 * CALLS), 2 * CALLS)


@pytest.mark.parametrize("scheme", ["https"])
@pytest.mark.parametrize(("proxy", "counts"), PROXIES.items(), ids=PROXIES, indirect=["proxy"])
async def test_calls_share_tls_handshake_but_not_through_socks_proxy(server, proxy, counts):
    # Of the warnings, only a resource that was left open matters here.
    options = ("-X", "dev", "-W", "ignore", "-W", "default::ResourceWarning", "-c", CONSECUTIVE_CALLS, proxy or "")
    _, errors = run_python(*options, WEBSIM_URL=server.url)
    # asyncio's development mode reports slow steps, and this machine may be busy.
    assert [line for line in errors.splitlines() if not line.startswith("Executing <")] == []
    await expect_counts(server, counts(CALLS)[0], 0, CALLS)


async def test_hundred_calls_at_once_open_hundred_connections_at_most(server):
    for _ in range(3):
        await asyncio.gather(*(call_websim(None, HELLO) for _ in range(100)))
    assert server.counts()["connections"] <= 100


async def test_many_calls_through_socks_proxy_at_once_close_their_connections(server, socks5_proxy):
    await asyncio.gather(*(call_websim(None, HELLO, proxy=socks5_proxy) for _ in range(24)))
    await expect_counts(server, 24, 0, 24)


async def test_cancelled_call_through_socks_proxy_closes_its_session(socks5_proxy, caplog):
    for steps in range(8):
        call = asyncio.create_task(call_websim(None, HELLO, proxy=socks5_proxy))
        for _ in range(steps):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
    del call
    gc.collect()
    assert caplog.messages == []


@pytest.mark.parametrize(("proxy", "connections"), [("http", 2), ("socks5", 4)], indirect=["proxy"])
async def test_calls_with_and_without_proxy_share_no_connection(server, proxy, connections):
    for _ in range(3):
        await call_websim(None, HELLO, proxy=proxy)
        await call_websim(None, HELLO)
    assert server.counts()["connections"] == connections
