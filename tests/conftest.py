"""Fixtures for all tests. Tests write nothing into the folders of the user."""

import asyncio
import atexit
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Some variables are read when g4f and the package are imported, so they are set before the imports below.
_FOLDER = tempfile.mkdtemp(prefix="g4f-websim-tests-")
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
# websim-cli keeps its token in the home folder.
os.environ |= dict.fromkeys(("G4F_CONFIG_DIR", "G4F_CACHE_DIR", "HOME", "USERPROFILE"), _FOLDER)
SETTINGS = ("WEBSIM_URL", "WEBSIM_PROJECT_ID", "WEBSIM_API_KEY", "G4F_PROXY")
# The HTTP clients in the tests use the proxies in these variables.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
for _name in (*SETTINGS, *PROXIES):
    os.environ.pop(_name, None)

import g4f.debug  # noqa: E402

from g4f_websim import Websim  # noqa: E402
from g4f_websim.emulator import Emulator  # noqa: E402
from g4f_websim.offline import write_provider_list  # noqa: E402
from g4f_websim.transport.rate_limit import forget_limits  # noqa: E402
from tests.support.loopback import refusing_socket  # noqa: E402
from tests.support.raw_server import raw_server  # noqa: E402

pytest_plugins = ["g4f_websim.testing", "tests.support.check", "tests.support.programs"]

write_provider_list(Path(_FOLDER))
# g4f would look for a new version on the internet, in a thread that prints at any moment.
g4f.debug.version_check = False


@pytest.fixture(autouse=True)
def isolate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start each test in an empty folder, without the user's settings and without the rate limits of other tests."""
    monkeypatch.chdir(tmp_path)
    forget_limits()
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def shared_emulator() -> Iterator[Emulator]:
    """An emulator for all tests of a module, for servers that are started with its URL."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(shared_emulator: Emulator) -> Emulator:
    """The emulator of the module, without the requests and replies of other tests."""
    shared_emulator.reset()
    return shared_emulator


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch):
    """A raw server that receives the requests of Websim, which retries after a millisecond."""
    async with raw_server() as server:
        monkeypatch.setattr(Websim, "url", server.url)
        monkeypatch.setattr(Websim, "backoff", 0.001)
        yield server


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A loopback port that refuses connections during the test."""
    with refusing_socket() as bound:
        yield bound.getsockname()[1]


@pytest.fixture
async def no_host_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look-up of a host name fail at once, without the resolver of this machine."""

    async def fail(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown host")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)


@pytest.fixture
def debug_lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that were written to g4f's debug log."""
    lines: list[str] = []
    monkeypatch.setattr(g4f.debug, "logging", True)
    monkeypatch.setattr(g4f.debug, "log_handler", lambda *text, file=None: lines.append(" ".join(map(str, text))))
    return lines


@pytest.fixture
def delay_began(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """An event that is set when Websim logs that it waits before the next attempt."""
    event = asyncio.Event()
    monkeypatch.setattr(g4f.debug, "log", lambda *text, **options: event.set())
    return event
