"""The fixture `websim_server` in the tests of an application, as its users write them."""

import base64
from pathlib import Path

import pytest
from g4f.client import Client

from g4f_websim import Websim
from tests.support.calls import HELLO, JWT, call_websim
from tests.support.limits import MAX_SECONDS
from tests.support.responses import PNG_MAGIC

pytest_plugins = ["pytester"]

CONFTEST = 'pytest_plugins = ["g4f_websim.testing"]\n'
TESTS_OF_APPLICATION = '''
import os
from g4f.client import Client
from g4f_websim import Websim
from g4f_websim.testing import Fault


def settings():
    return Websim.url, Websim.backoff, os.environ.get("WEBSIM_URL"), os.environ.get("G4F_PROXY")


BEFORE = settings()


def reply_to(question):
    """Return the reply of an application to a question."""
    messages = [{"role": "user", "content": question}]
    return Client(provider=Websim).chat.completions.create(messages).choices[0].message.content


def test_returns_reply(websim_server):
    websim_server.reply("42")
    assert reply_to("What is 6 * 7?") == "42"
    request = websim_server.requests[-1]
    assert request.path == "/api/v1/inference/run_chat_completion"
    assert request.json["messages"] == [{"role": "user", "content": "What is 6 * 7?"}]
    assert request.header("content-type") == "application/json"


def test_survives_rate_limit(websim_server):
    websim_server.inject(Fault(status=429), times=2)
    websim_server.reply("42")
    assert reply_to("What is 6 * 7?") == "42"
    assert len(websim_server.requests) == 3


def test_settings_inside(websim_server):
    assert settings() == (websim_server.url, 0.001, websim_server.url, None)


def test_settings_after():
    assert settings() == BEFORE == ("https://websim.com", 2.0, None, "http://proxy.example:3128")
'''


def test_fixture_works_in_tests_of_an_application(pytester, monkeypatch):
    # The plugins of other packages take long to import.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("G4F_PROXY", "http://proxy.example:3128")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_application=TESTS_OF_APPLICATION)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=MAX_SECONDS)
    result.assert_outcomes(passed=4)


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
