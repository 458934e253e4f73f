"""How `g4f-websim check` explains connections that fail, with and without a proxy."""

import re
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import trustme

from g4f_websim import Websim
from g4f_websim.command import check
from g4f_websim.emulator import Fault
from tests.support.check import MARKER, SET_PROXY, USE_DEFAULT, run_in_shell
from tests.support.limits import MAX_SECONDS
from tests.support.loopback import HOST
from tests.support.raw_server import raw_server_in_thread
from tests.support.tls import server_context

# The connection


def test_advises_to_open_the_site_that_refuses_connections(run_check, monkeypatch, closed_port):
    monkeypatch.setattr(Websim, "url", f"http://{HOST}:{closed_port}")
    result = run_check("--report")
    assert [line.split("  ")[-1] for line in result.requests] == ["no connection", "no connection"]
    assert re.fullmatch(r"No response from 127.0.0.1:\d+: no connection \(.*\)", result.cause)
    assert "run g4f-websim check" not in result.text
    assert result.advice.startswith(f"Open {Websim.url} in a browser, to see whether this machine reaches it.")
    assert result.to_paste == [SET_PROXY, USE_DEFAULT]


def test_names_the_variable_with_a_proxy_for_other_programs(run_check, monkeypatch, closed_port):
    monkeypatch.setattr(Websim, "url", f"http://{HOST}:{closed_port}")
    monkeypatch.setenv("https_proxy", f"http://user:{MARKER}@127.0.0.1:3128")
    result = run_check()
    assert "https_proxy is not used. If you need a proxy:" in result.advice
    assert result.to_paste == ['export G4F_PROXY="$https_proxy"', USE_DEFAULT]


def test_does_not_propose_a_malformed_proxy_for_other_programs(run_check, monkeypatch, closed_port):
    monkeypatch.setattr(Websim, "url", f"http://{HOST}:{closed_port}")
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    assert run_check().to_paste == [SET_PROXY, USE_DEFAULT]


def test_reports_a_closed_connection_after_one_request(websim_server, run_check):
    websim_server.inject(Fault(disconnect=True), times=2)
    result = run_check()
    assert "the connection was closed" in result.cause
    assert len(websim_server.requests) == 2


def test_does_not_advise_a_proxy_if_one_is_set(other_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    monkeypatch.setenv("G4F_PROXY", other_server.url)
    other_server.inject(Fault(disconnect=True), times=2)
    assert run_check().to_paste == [USE_DEFAULT]


def test_ends_a_request_without_a_response_after_the_timeout(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(check, "TIMEOUT", 0.02)
    websim_server.inject(Fault(delay=5), times=2)
    result = run_check()
    assert [line.split("  ")[-1] for line in result.requests] == ["no response within 0.02 s"] * 2
    assert result.cause == f"No response from {websim_server.url.removeprefix('http://')} within 0.02 s"


def test_advises_http_for_a_server_without_tls(websim_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", websim_server.url.replace("http:", "https:"))
    result = run_check()
    assert result.advice == "The server does not speak https. Use http:"
    assert result.to_paste == [f"export WEBSIM_URL={websim_server.url}"]


def test_advises_to_check_the_clock_if_the_certificate_is_not_valid(run_check, monkeypatch):
    with raw_server_in_thread(tls=server_context(trustme.CA(), HOST)) as server:
        monkeypatch.setattr(Websim, "url", server.url)
        result = run_check()
    assert "the certificate is not valid" in result.cause
    assert result.advice.startswith("Check the clock and WEBSIM_URL")


# The proxy


@contextmanager
def tunnel(reply: bytes) -> Iterator[str]:
    """Run an HTTP proxy that opens tunnels, and yield its URL.

    Args:
        reply: what any site sends through the tunnel in reply to the first bytes of TLS.
    """

    class Handler(socketserver.StreamRequestHandler):
        timeout = MAX_SECONDS

        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            self.connection.recv(65536)
            self.wfile.write(reply)

    with socketserver.TCPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(MAX_SECONDS)


def test_names_the_proxy_that_refuses_connections(websim_server, run_check, monkeypatch, closed_port):
    proxy = f"{HOST}:{closed_port}"
    monkeypatch.setenv("G4F_PROXY", f"http://user:{MARKER}@{proxy}")
    result = run_check()
    assert f"no connection through the proxy {proxy} (" in result.cause
    assert result.to_paste == [SET_PROXY, "unset G4F_PROXY"]
    assert not websim_server.requests


def test_names_the_https_proxy_that_does_not_speak_tls(websim_server, other_server, run_check, monkeypatch):
    proxy = other_server.url.replace("http://", f"https://user:{MARKER}@")
    monkeypatch.setenv("G4F_PROXY", proxy)
    result = run_check("--report")
    assert f"no connection through the proxy {other_server.url.removeprefix('http://')}" in result.cause
    assert "If it is one of the many proxies whose URL begins with http://:" in result.advice
    assert result.to_paste[1:] == ["export G4F_PROXY=https://<host>:<port>", "unset G4F_PROXY"]
    assert run_in_shell(result.to_paste[0], "G4F_PROXY") == proxy.replace("https:", "http:")
    assert not websim_server.requests


def test_names_the_https_proxy_whose_certificate_is_not_valid(websim_server, run_check, monkeypatch):
    with raw_server_in_thread(tls=server_context(trustme.CA(), HOST)) as proxy:
        monkeypatch.setenv("G4F_PROXY", proxy.url)
        result = run_check()
    assert f"no connection through the proxy {proxy.host}" in result.cause
    assert result.to_paste == ["export G4F_PROXY=https://<host>:<port>", "unset G4F_PROXY"]
    assert not websim_server.requests


def test_names_the_site_that_does_not_speak_tls_behind_a_proxy(run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "https://websim.example")
    with tunnel(b"220 mail.example ready\r\n") as proxy:
        monkeypatch.setenv("G4F_PROXY", proxy)
        result = run_check()
    assert result.to_paste == ["export WEBSIM_URL=http://websim.example"]


def test_does_not_blame_the_proxy_if_a_tunnel_is_closed(run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "https://websim.example")
    with tunnel(b"") as proxy:
        monkeypatch.setenv("G4F_PROXY", proxy)
        result = run_check()
    assert "No response from websim.example: no connection" in result.cause
    assert result.to_paste == [USE_DEFAULT]


def test_advises_the_form_of_a_proxy_url_with_a_login(other_server, run_check, monkeypatch):
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    monkeypatch.setenv("G4F_PROXY", other_server.url)
    other_server.inject(Fault(status=407, body=b""), times=2)
    result = run_check()
    host = other_server.url.removeprefix("http://")
    assert result.cause.startswith(f"The proxy {host} needs a login.")
    assert result.advice.startswith("Put its user and password into its URL:")
    assert result.to_paste == [f"export G4F_PROXY=http://<user>:<password>@{host}", "unset G4F_PROXY"]


def test_names_the_package_for_a_socks_proxy(run_check, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp_socks", None)
    monkeypatch.setenv("G4F_PROXY", "socks5://proxy.example:1080")
    monkeypatch.setattr(Websim, "url", "http://websim.example")
    result = run_check()
    assert result.cause == "No response from websim.example: a SOCKS proxy needs one more package"
    assert result.to_paste == ["pip install aiohttp_socks"]
