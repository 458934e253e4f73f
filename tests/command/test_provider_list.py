"""The list of providers that g4f downloads from its own site: downloaded, cached, or replaced by a minimal list."""

import socket
import threading
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from g4f.client.factory import AbstractClientFactory

from g4f_websim.command import provider_list
from tests.support.limits import MAX_SECONDS

LIST = b'{"providers": {}}'
# How long a thread of a test that fails may live.
MESSAGE = "g4f's list of providers could not be downloaded from its site"


class Site(BaseHTTPRequestHandler):
    """g4f's site: it responds with the status and the body of its server, and counts the requests."""

    def do_GET(self):
        self.server.requests.append(self.headers["User-Agent"])
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args):
        """Print nothing."""


@pytest.fixture
def site(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.status, server.body, server.requests = 200, LIST, []
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


def today(folder):
    return Path(folder, ".models", str(date.today()), "providers.json")


@contextmanager
def expect_minimal_list(empty_cache, capsys):
    """Use the provider list, and check that g4f uses a minimal list and keeps no file of it."""
    before = AbstractClientFactory._live_providers
    with provider_list.provider_list() as is_from_site:
        assert not is_from_site
        assert "default" in AbstractClientFactory._live_providers["providers"]
        yield
    assert AbstractClientFactory._live_providers is before
    assert not today(empty_cache).exists()
    assert MESSAGE in capsys.readouterr().err


def test_downloads_list_once_a_day(site, empty_cache, capsys):
    for _ in range(2):
        with provider_list.provider_list() as is_from_site:
            assert is_from_site
    assert today(empty_cache).read_bytes() == LIST
    assert site.requests == ["g4f-websim"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'["providers"]', b"0", b"\xff", b""], ids=ascii)
def test_ignores_response_without_list(site, empty_cache, capsys, body):
    site.body = body
    with expect_minimal_list(empty_cache, capsys):
        assert len(site.requests) == 1


@pytest.mark.parametrize("status", [403, 404, 500])
def test_ignores_list_with_error_status(site, empty_cache, capsys, status):
    site.status = status
    with expect_minimal_list(empty_cache, capsys):
        assert len(site.requests) == 1


def test_survives_unreachable_site(monkeypatch, empty_cache, capsys, closed_port):
    point_g4f_at(monkeypatch, closed_port)
    with expect_minimal_list(empty_cache, capsys):
        pass


def test_gives_up_on_silent_site(monkeypatch, empty_cache, capsys):
    monkeypatch.setattr(provider_list, "DOWNLOAD_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_g4f_at(monkeypatch, silent.getsockname()[1])
        with expect_minimal_list(empty_cache, capsys):
            pass


def test_gives_up_on_slow_name_resolution(monkeypatch, empty_cache, capsys):
    released = threading.Event()
    monkeypatch.setattr(provider_list, "DOWNLOAD_SECONDS", 0.1)
    monkeypatch.setattr(provider_list, "urlopen", lambda request, timeout: released.wait(MAX_SECONDS))
    with expect_minimal_list(empty_cache, capsys):
        released.set()


def test_does_nothing_for_g4f_without_cache_folder(monkeypatch, site):
    monkeypatch.delattr("g4f.config.get_cache_dir")
    with provider_list.provider_list() as is_from_site:
        assert is_from_site
    assert site.requests == []
