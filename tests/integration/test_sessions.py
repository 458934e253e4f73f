"""How connections are shared: no more than there are calls at once, through proxies too, and the idle ones closed."""

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest
import trustme
from g4f.errors import ResponseError

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from g4f_websim.pool import MAX_SOCKS_PROXIES
from tests.support.calls import HELLO, ask
from tests.support.fast_server import HOST, FastServer, fast_server, socks_proxy
from tests.support.paths import ROOT

USER, PASSWORD = "user", "p%40ss"
PLAIN_PASSWORD = "p@ss"
PATIENCE_SECONDS = 30
POLL_SECONDS = 0.01

CALLS = 20
IN_A_ROW = f"""
import asyncio, sys
from tests.support.calls import HELLO, ask

async def main():
    for _ in range({CALLS}):
        await ask(None, HELLO, proxy=sys.argv[1] or None)

asyncio.run(main())
"""

# Of the loop itself Python's development mode complains, and rightly so.
IN_A_LOOP_NEVER_CLOSED = """
import asyncio, threading, warnings
from tests.support.calls import HELLO, ask

def work():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(ask(None, HELLO))

warnings.resetwarnings()
warnings.filterwarnings("ignore", "unclosed event loop")
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.fixture
def server(monkeypatch) -> Iterator[FastServer]:
    with fast_server() as server:
        monkeypatch.setattr(Websim, "url", server.url)
        yield server


@pytest.fixture
def tls_server(monkeypatch, tmp_path) -> Iterator[FastServer]:
    """A server with a certificate that the processes started from here on trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with fast_server(tmp_path / "server.pem") as server:
        monkeypatch.setenv("WEBSIM_URL", server.url)
        yield server


@contextmanager
def http_proxy(folder: Path) -> Iterator[str]:
    """Run an HTTP proxy that asks for a password, and yield its host and port."""
    port = folder / "port"
    options = ["--hostname", HOST, "--port", "0", "--port-file", port, "--basic-auth", f"{USER}:{PLAIN_PASSWORD}"]
    workers = ["--num-acceptors", "1", "--num-workers", "1", "--log-level", "ERROR"]
    process = subprocess.Popen([sys.executable, "-m", "proxy", *options, *workers])
    try:
        wait_until(lambda: port.exists() and port.read_text().strip())
        yield f"{HOST}:{port.read_text().strip()}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(params=["http", "socks5"])
def proxy(request, tmp_path) -> Iterator[str]:
    """The address of a proxy in a process of its own, with user and password."""
    with http_proxy(tmp_path) if request.param == "http" else socks_proxy(PLAIN_PASSWORD) as host:
        yield f"{request.param}://{USER}:{PASSWORD}@{host}"


def wait_until(condition: Callable[[], object]) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while not condition():
        assert monotonic() < deadline
        sleep(POLL_SECONDS)


async def ask_at_once(calls: int, proxy: Callable[[int], str | None] = lambda number: None) -> None:
    await asyncio.gather(*(ask(None, HELLO, proxy=proxy(number)) for number in range(calls)))


def run(script: str, *arguments: str) -> str:
    """Run a script in an interpreter of its own, and return what it complains of."""
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDEVMODE": "1"}
    return subprocess.run(command, env=environment, check=True, stderr=subprocess.PIPE, text=True).stderr


async def test_a_thousand_calls_in_a_row_share_a_connection(server):
    for _ in range(1000):
        await ask(None, HELLO)
    assert server.counts() == {"connections": 1, "open": 1, "requests": 1000}


async def test_chats_and_pictures_share_a_connection(server):
    await ask("gemini-2.5-flash", HELLO)
    await ask("flux", HELLO)
    assert server.counts()["connections"] == 1


async def test_a_hundred_calls_at_once_open_a_hundred_connections_at_most(server):
    for _ in range(3):
        await ask_at_once(100)
    assert server.counts()["connections"] <= 100


def test_calls_in_a_row_over_tls_share_a_handshake(tls_server):
    assert run(IN_A_ROW, "") == ""
    assert tls_server.counts() == {"connections": 1, "open": 0, "requests": CALLS}


def test_over_tls_a_loop_that_is_never_closed_is_no_trouble_at_exit(tls_server):
    assert run(IN_A_LOOP_NEVER_CLOSED) == ""


async def test_calls_through_a_proxy_with_a_password_share_a_connection(server, proxy):
    for _ in range(CALLS):
        await ask(None, HELLO, proxy=proxy)
    assert server.counts() == {"connections": 1, "open": 1, "requests": CALLS}


def test_calls_over_tls_through_a_proxy_with_a_password_share_a_handshake(tls_server, proxy):
    run(IN_A_ROW, proxy)
    assert tls_server.counts()["connections"] == 1
    assert tls_server.counts()["requests"] == CALLS


async def test_calls_with_and_without_a_proxy_share_no_connection(server, proxy):
    for _ in range(3):
        await ask(None, HELLO, proxy=proxy)
        await ask(None, HELLO)
    assert server.counts()["connections"] == 2


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_no_call_goes_around_its_proxy(server, monkeypatch, unused_tcp_port, scheme):
    monkeypatch.setattr(Websim, "max_tries", 1)
    await ask(None, HELLO)
    with pytest.raises(ResponseError, match="no connection"):
        await ask(None, HELLO, proxy=f"{scheme}://{HOST}:{unused_tcp_port}")
    assert server.counts()["requests"] == 1


@pytest.fixture
def proxies() -> Iterator[Callable[[int], str]]:
    """Return a function that returns as many different SOCKS proxies as there are numbers."""
    with socks_proxy(PLAIN_PASSWORD) as host:
        yield lambda number: f"socks5://user{number}:{PASSWORD}@{host}"


async def test_idle_socks_proxies_beyond_the_limit_are_closed(server, proxies):
    for number in range(3 * MAX_SOCKS_PROXIES):
        await ask(None, HELLO, proxy=proxies(number))
    assert server.counts()["connections"] == 3 * MAX_SOCKS_PROXIES
    wait_until(lambda: server.counts()["open"] <= MAX_SOCKS_PROXIES)


async def test_a_socks_proxy_closed_for_idleness_is_opened_again(server, proxies):
    for number in [*range(MAX_SOCKS_PROXIES + 2), 0]:
        assert await ask(None, HELLO, proxy=proxies(number))


async def test_socks_proxies_in_use_beyond_the_limit_stay_open(server, proxies, monkeypatch):
    monkeypatch.setattr(Websim, "max_tries", 1)
    await ask_at_once(3 * MAX_SOCKS_PROXIES, proxies)
    assert server.counts()["requests"] == 3 * MAX_SOCKS_PROXIES


async def test_many_socks_proxies_may_be_opened_at_once_when_others_are_idle(server, proxies):
    for number in range(MAX_SOCKS_PROXIES):
        await ask(None, HELLO, proxy=proxies(number))
    await ask_at_once(MAX_SOCKS_PROXIES, lambda number: proxies(MAX_SOCKS_PROXIES + number))
    assert server.counts()["requests"] == 2 * MAX_SOCKS_PROXIES


async def test_a_socks_proxy_asked_for_twice_at_once_is_opened_once(server, proxies, caplog):
    for number in range(MAX_SOCKS_PROXIES + 1):
        await ask(None, HELLO, proxy=proxies(number))
    await ask_at_once(2, lambda number: proxies(MAX_SOCKS_PROXIES + 1))
    gc.collect()
    assert caplog.messages == []


async def test_a_call_cancelled_while_it_closes_idle_socks_proxies_forgets_none(server, proxies, caplog):
    for number in range(MAX_SOCKS_PROXIES + 1):
        await ask(None, HELLO, proxy=proxies(number))
    call = asyncio.create_task(ask(None, HELLO, proxy=proxies(MAX_SOCKS_PROXIES + 1)))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    gc.collect()
    assert call.cancelled()
    assert caplog.messages == []


async def test_a_cookie_reaches_no_other_call(websim_server):
    websim_server.inject(Fault(headers={"Set-Cookie": "who=somebody"}, body=b'{"content": "Hi"}'))
    await ask(None, HELLO)
    await ask(None, HELLO)
    assert [request.header("cookie") for request in websim_server.requests] == [None, None]


def test_a_loop_that_is_gone_leaves_nothing_in_memory(server):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask(None, HELLO))
    loop.close()
    memory = weakref.ref(loop)
    del loop
    gc.collect()
    assert memory() is None
