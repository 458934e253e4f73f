"""Fixtures that run a program in a process of its own, against a server that counts connections and requests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.fast_server import FastServer, fast_server
from tests.support.interpreter import run_python
from tests.support.tls import write_certificates

# Imported first, because it ignores the warnings that other packages issue when they are imported.
START = "from tests.support import loops; loops.set_up()\n"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of `write_certificates`."""
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def counting_servers(certificates: tuple[Path, Path]) -> Iterator[dict[str, FastServer]]:
    """The servers of all tests, by their schemes."""
    _, server_file = certificates
    with fast_server() as plain, fast_server(server_file) as tls:
        yield {"http": plain, "https": tls}


@pytest.fixture
def scheme() -> str:
    """The scheme of `counting_server`; a test with another one is parametrized."""
    return "http"


@pytest.fixture
def counting_server(
    scheme: str,
    counting_servers: dict[str, FastServer],
    certificates: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> FastServer:
    """A server that receives the requests of the programs and counts connections and requests."""
    authority_file, _ = certificates
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file))
    server = counting_servers[scheme]
    server.reset()
    return server


@pytest.fixture
def run_program(counting_server: FastServer) -> Callable[..., str]:
    """A function that runs a program and returns its output; the program must print no warning and no error.

    With `dev=True`, Python also warns of resources that were left to the garbage collector.
    """

    def run_quietly(program: str, dev: bool = False) -> str:
        options = ("-X", "dev", "-W", "error::ResourceWarning") if dev else ()
        printed, errors = run_python(*options, "-c", START + dedent(program), WEBSIM_URL=counting_server.url)
        assert errors == ""
        return printed.strip()

    return run_quietly
