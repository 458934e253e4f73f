"""`offline()`: where it points g4f, what it restores, and how g4f saves and returns images in it."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path

import g4f.config
import g4f.debug
import httpx
import pytest
from g4f.client import ClientFactory
from g4f.client.factory import AbstractClientFactory
from g4f.cookies import CookiesConfig
from g4f.errors import ProviderNotFoundError
from g4f.image import copy_images

from g4f_websim import Websim
from g4f_websim.offline import offline, write_provider_list
from tests.support.calls import CALLS_WEBSIM, HELLO, call_websim
from tests.support.interpreter import run_python
from tests.support.limits import MAX_SECONDS
from tests.support.processes import API, make_home, run_command, server
from tests.support.responses import PNG_MAGIC, REPLY

VARIABLES = ("WEBSIM_URL", "G4F_CACHE_DIR", "G4F_CONFIG_DIR", "G4F_PROXY")
WAITS_OFFLINE = """
import os, threading
from g4f_websim.offline import offline
with offline():
    print(os.environ["G4F_CACHE_DIR"], flush=True)
    threading.Event().wait(60)
"""


def settings():
    """Return all that `offline()` replaces."""
    return {
        "environment": dict(os.environ),
        "url": Websim.url,
        "version_check": g4f.debug.version_check,
        "cookies": CookiesConfig.cookies_dir,
        "config": (g4f.config.CONFIG_DIR, g4f.config.COOKIES_DIR),
        "providers": (ClientFactory._live_providers, AbstractClientFactory._live_providers),
        "is_safe_url": copy_images.is_safe_url,
        "SIGTERM": signal.getsignal(signal.SIGTERM),
    }


async def test_points_websim_at_emulator_also_in_child_processes(monkeypatch, closed_port):
    monkeypatch.setenv("G4F_PROXY", f"http://127.0.0.1:{closed_port}")
    with offline() as emulator:
        assert await call_websim(messages=HELLO) == [REPLY]
        printed, _ = run_python("-c", CALLS_WEBSIM)
        assert printed.strip() == REPLY
        assert len(emulator.requests) == 2


@pytest.mark.parametrize("factory", [ClientFactory, AbstractClientFactory])
def test_g4f_needs_no_provider_list_from_its_site_on_any_day(monkeypatch, tmp_path, closed_port, factory):
    monkeypatch.setattr(factory, "_live_providers_url", f"http://127.0.0.1:{closed_port}/providers.json")
    with offline(), monkeypatch.context() as inside:
        inside.setenv("G4F_CACHE_DIR", str(tmp_path / "empty"))  # as on a day without a list
        with pytest.raises(ProviderNotFoundError):
            factory.create_provider("Typo", "Typo")


@pytest.mark.parametrize("variables", [{}, dict.fromkeys(VARIABLES, "http://proxy.example:3128")], ids=["unset", "set"])
def test_restores_everything_also_after_an_error(monkeypatch, variables):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(g4f.debug, "version_check", True)
    monkeypatch.setattr(AbstractClientFactory, "_live_providers", {})
    before = settings()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="of the caller"), offline():
            inside = settings()
            folder = Path(os.environ["G4F_CACHE_DIR"])
            assert folder.is_dir()
            raise RuntimeError("of the caller")
        assert not [name for name in before if inside[name] == before[name]]
        assert settings() == before
        assert not folder.exists()


def test_blocks_can_be_nested_and_overlap():
    before = settings()
    with ExitStack() as outermost, ExitStack() as first_block:
        first = first_block.enter_context(offline())
        with offline() as nested:
            assert Websim.url == nested.url
        assert Websim.url == first.url
        second = outermost.enter_context(offline())
        first_block.close()
        assert Websim.url == os.environ["WEBSIM_URL"] == second.url
    assert settings() == before


def test_keeps_own_sigterm_handler():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with offline():
        inside = signal.getsignal(signal.SIGTERM)
    after = signal.signal(signal.SIGTERM, before)
    assert inside is after is signal.SIG_IGN


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without a signal")
def test_deletes_its_folder_at_sigterm():
    with subprocess.Popen([sys.executable, "-c", WAITS_OFFLINE], stdout=subprocess.PIPE, text=True) as process:
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert not folder.exists()


# Images


def test_command_saves_image_and_writes_nothing_into_folders_of_g4f(tmp_path):
    home = make_home(tmp_path)
    before = set(home.rglob("*"))
    done = run_command("--offline", "client", "-m", "flux", "a cat", "-O", "cat.png", home=home)
    assert done.returncode == 0, done.stderr
    assert set(home.rglob("*")) - before == {home / "cat.png"}
    assert home.joinpath("cat.png").read_bytes().startswith(PNG_MAGIC)


@pytest.fixture(scope="module")
def offline_api(tmp_path_factory):
    with server("--offline", *API, home=make_home(tmp_path_factory.mktemp("api"))) as api:
        yield api


@pytest.mark.parametrize("response_format", [None, "url", "b64_json"])
def test_api_returns_image(offline_api, response_format):
    body = {"prompt": "a cat", "model": "flux", "response_format": response_format}
    url = f"{offline_api.url}/api/Websim/images/generations"
    (image,) = httpx.post(url, json=body, timeout=MAX_SECONDS).raise_for_status().json()["data"]
    encoded = image.get("b64_json")
    png = base64.b64decode(encoded) if encoded else httpx.get(image["url"]).content
    assert png.startswith(PNG_MAGIC)


def test_gui_serves_saved_image(offline_api):
    body = {"provider": "Websim", "model": "flux", "messages": HELLO}
    response = httpx.post(f"{offline_api.url}/backend-api/v2/conversation", json=body, timeout=MAX_SECONDS)
    (url,) = re.findall(r'"urls": \["(/media/[^"]+)"', response.text)
    assert httpx.get(offline_api.url + url).content.startswith(PNG_MAGIC)


def test_accepts_images_from_emulator_only():
    with offline() as emulator:
        assert copy_images.is_safe_url(f"{emulator.url}/offline/1x1/000000000000.png")
        assert not copy_images.is_safe_url(f"{emulator.url}0/offline/1x1/000000000000.png")
        assert not copy_images.is_safe_url("http://127.0.0.1/cat.png")
        assert copy_images.is_safe_url("https://1.1.1.1/cat.png")


def test_works_with_g4f_without_is_safe_url(monkeypatch):
    monkeypatch.delattr(copy_images, "is_safe_url")
    with offline():
        assert not hasattr(copy_images, "is_safe_url")


# The list of providers


def test_writes_provider_list_for_today_and_tomorrow_and_keeps_existing_one(tmp_path):
    days = (date.today(), date.today() + timedelta(days=1))
    today, tomorrow = (tmp_path / ".models" / str(day) / "providers.json" for day in days)
    today.parent.mkdir(parents=True)
    today.write_text("{}")
    for _ in range(2):
        write_provider_list(tmp_path)
        assert today.read_text() == "{}"
        assert json.loads(tomorrow.read_text()).keys() == {"providers", "defaultModels"}
