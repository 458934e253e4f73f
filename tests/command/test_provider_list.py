"""The list of providers that g4f downloads from its own site: downloaded, cached, or replaced by a minimal list."""

import socket
import sys
import threading
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from g4f.client.factory import AbstractClientFactory

from g4f_websim.command import provider_list

LIST = b'{"providers": {}}'
MESSAGE = "g4f's list of providers could not be downloaded from its site"


class Site(BaseHTTPRequestHandler):
    """g4f's site: it responds with the body of its server, and counts the requests."""

    def do_GET(self):
        self.server.requests.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args):
        """Print nothing."""


@pytest.fixture
def site(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.body, server.requests = LIST, []
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        point_g4f_at(monkeypatch, server.server_port)
        yield server
        server.shutdown()


def point_g4f_at(monkeypatch, port):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(AbstractClientFactory, "_live_providers_url", f"http://127.0.0.1:{port}/providers.json")


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    folder = tmp_path / "empty"
    monkeypatch.setenv("G4F_CACHE_DIR", str(folder))
    return folder


def load(monkeypatch):
    """Use the provider list as a new process would; return whether it is g4f's own, and the list."""
    with monkeypatch.context() as process:
        process.setattr(AbstractClientFactory, "_live_providers", {})
        with provider_list.provider_list() as is_from_g4f:
            return is_from_g4f, AbstractClientFactory._live_providers


def expect_minimal_list(monkeypatch, capsys):
    is_from_g4f, providers = load(monkeypatch)
    assert (is_from_g4f, "default" in providers["providers"]) == (False, True)
    assert capsys.readouterr().err.count(MESSAGE) == 1


def test_downloads_list_once_a_day(monkeypatch, site, empty_cache, capsys):
    assert [load(monkeypatch) for _ in range(2)] == [(True, {"providers": {}})] * 2
    assert site.requests == ["/providers.json"]
    assert Path(empty_cache, ".models", str(date.today()), "providers.json").is_file()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"error": 1}', b'["providers"]', b"0", b"\xff", b""], ids=ascii)
def test_continues_without_list_if_site_sends_something_else(monkeypatch, site, capsys, body):
    site.body = body
    for _ in range(2):  # g4f may have cached the body
        expect_minimal_list(monkeypatch, capsys)


def test_continues_without_list_if_site_cannot_be_reached(monkeypatch, capsys, closed_port):
    before = AbstractClientFactory._live_providers
    point_g4f_at(monkeypatch, closed_port)
    expect_minimal_list(monkeypatch, capsys)
    assert AbstractClientFactory._live_providers is before


def test_gives_up_on_silent_site(monkeypatch, capsys):
    monkeypatch.setattr(provider_list, "DOWNLOAD_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_g4f_at(monkeypatch, silent.getsockname()[1])
        expect_minimal_list(monkeypatch, capsys)


def test_does_nothing_for_g4f_without_list(monkeypatch, site):
    monkeypatch.setitem(sys.modules, "g4f.client.factory", None)
    with provider_list.provider_list() as is_from_g4f:
        assert is_from_g4f
    assert site.requests == []
