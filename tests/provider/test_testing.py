"""The fixture `websim_server`: its settings, and the image that a test chooses. test_readme.py runs a whole example."""

import base64
from pathlib import Path

import pytest
from g4f.client import Client

from g4f_websim import Websim
from tests.support.calls import HELLO, JWT, call_websim
from tests.support.limits import MAX_SECONDS
from tests.support.responses import PNG_MAGIC

pytest_plugins = ["pytester"]

TESTS_OF_APPLICATION = """
import os
from g4f_websim import Websim

def settings():
    return Websim.url, Websim.backoff, os.environ.get("WEBSIM_URL"), os.environ.get("G4F_PROXY")

BEFORE = settings()

def test_inside(websim_server):
    assert settings() == (websim_server.url, 0.001, websim_server.url, None)

def test_after():
    assert settings() == BEFORE == ("https://websim.com", 2.0, None, "http://proxy.example:3128")
"""


def test_settings_are_restored_after_a_test(pytester, monkeypatch):
    # The plugins of other packages take long to import.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("G4F_PROXY", "http://proxy.example:3128")
    pytester.makeconftest('pytest_plugins = ["g4f_websim.testing"]')
    pytester.makepyfile(TESTS_OF_APPLICATION)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=MAX_SECONDS)
    result.assert_outcomes(passed=2)


@pytest.fixture
def own_settings(monkeypatch):
    for name, value in (("WEBSIM_PROJECT_ID", "own"), ("WEBSIM_API_KEY", JWT), ("G4F_PROXY", "malformed value")):
        monkeypatch.setenv(name, value)


async def test_settings_of_the_developer_do_not_apply(own_settings, websim_server):
    assert await call_websim(None, HELLO)
    (request,) = websim_server.requests
    assert request.json["project_id"] != "own"
    assert request.header("authorization") is None


def test_client_saves_or_returns_chosen_image(websim_server):
    image = PNG_MAGIC + b"of the test"
    images = Client(provider=Websim).images
    websim_server.reply_image(image)
    images.generate("a cat", model="flux")
    (file,) = Path("generated_media").iterdir()
    assert file.read_bytes() == image
    websim_server.reply_image(image)
    response = images.generate("a cat", response_format="b64_json")
    assert base64.b64decode(response.data[0].b64_json) == image
