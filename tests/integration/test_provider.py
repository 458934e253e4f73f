"""Websim itself: its attributes, which of the two requests a call is, project ids, several pictures."""

import re
import subprocess
import sys

import g4f.debug
import pytest
from g4f.errors import CloudflareError, NoMediaResponseError, RateLimitError
from g4f.Provider.base_provider import AsyncGeneratorProvider, ProviderModelMixin

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from tests.support.calls import HELLO, JWT, ask

CHAT_PATH = "/api/v1/inference/run_chat_completion"
IMAGE_PATH = "/api/v1/inference/run_image_generation"
CHAT_MODELS = ["gemini-1.5-pro", "gemini-1.5-flash", "gemini-2.5-pro", "gemini-2.5-flash"]

ATTRIBUTES = {
    "label": "Websim",
    "url": "https://websim.com",
    "login_url": "https://websim.com",
    "chat_api_endpoint": f"https://websim.com{CHAT_PATH}",
    "image_api_endpoint": f"https://websim.com{IMAGE_PATH}",
    "working": True,
    "supports_stream": True,
    "supports_system_message": True,
    "supports_message_history": True,
    "needs_auth": False,
    "use_nodriver": False,
    "use_stream_timeout": False,
    "default_model": "gemini-1.5-pro",
    "default_vision_model": "gemini-1.5-pro",
    "default_image_model": "flux",
    "image_models": ["flux"],
    "models": [*CHAT_MODELS, "flux"],
    "vision_models": CHAT_MODELS,
    "max_tries": 3,
    "backoff": 2.0,
    "max_wait": 60.0,
}


@pytest.mark.parametrize(("name", "value"), ATTRIBUTES.items())
def test_each_attribute_has_its_value(name, value):
    assert getattr(Websim, name) == value


def test_websim_is_a_provider_of_g4fs():
    assert issubclass(Websim, AsyncGeneratorProvider)
    assert issubclass(Websim, ProviderModelMixin)
    assert Websim.get_models() == Websim.models


@pytest.mark.parametrize(
    ("value", "url"), [("http://127.0.0.1:8080/", "http://127.0.0.1:8080"), ("", "https://websim.com")]
)
def test_the_address_comes_from_the_environment_at_import(monkeypatch, value, url):
    monkeypatch.setenv("WEBSIM_URL", value)
    program = "from g4f_websim import Websim; print(Websim.url, Websim.image_api_endpoint)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [url, url + IMAGE_PATH]


def test_a_token_comes_from_the_environment_at_import(monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", JWT)
    program = "from g4f_websim import provider; print(provider.TOKEN)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == JWT


async def test_a_subclass_may_aim_elsewhere(websim_server):
    class Elsewhere(Websim):
        url = websim_server.url

    Websim.url = "http://127.0.0.1:9"
    assert [chunk async for chunk in Elsewhere.create_async_generator(None, HELLO)]
    assert Elsewhere.login_url == websim_server.url


async def test_a_slash_at_the_end_of_the_address_changes_nothing(websim_server, monkeypatch):
    url = websim_server.url
    monkeypatch.setattr(Websim, "url", f"{url}/")
    await ask(None, HELLO)
    (request,) = websim_server.requests
    assert (request.path, request.header("origin"), Websim.login_url) == (CHAT_PATH, url, url)


async def test_an_assignment_changes_what_is_sent_and_where(websim_server, monkeypatch):
    monkeypatch.setattr(Websim, "chat_api_endpoint", Websim.image_api_endpoint)
    monkeypatch.setattr(Websim, "image_models", ["sketch"])
    await ask("sketch", HELLO)
    with pytest.raises(Exception, match="the body must be a JSON object with project_id, prompt"):
        await ask("flux", HELLO)
    assert [request.path for request in websim_server.requests] == [IMAGE_PATH, IMAGE_PATH]


@pytest.mark.parametrize(
    ("model", "prompt", "path"),
    [
        ("flux", None, IMAGE_PATH),
        ("Websim:flux", None, IMAGE_PATH),
        (None, "a cat", IMAGE_PATH),
        ("", "a cat", IMAGE_PATH),
        ("auto", "a cat", IMAGE_PATH),
        ("Websim:", "a cat", IMAGE_PATH),
        (None, None, CHAT_PATH),
        ("", None, CHAT_PATH),
        ("auto", None, CHAT_PATH),
        ("gemini-1.5-pro", "a cat", CHAT_PATH),
        ("Websim:gemini-2.5-pro", None, CHAT_PATH),
        ("any-other-name", None, CHAT_PATH),
    ],
)
async def test_the_model_and_the_prompt_say_which_request_it_is(websim_server, model, prompt, path):
    await ask(model, HELLO, prompt=prompt)
    assert [request.path for request in websim_server.requests] == [path]


@pytest.mark.parametrize(
    ("for_image", "shape"), [(False, "[a-z0-9]{3}_[a-z0-9]{16}"), (True, "[a-z0-9]{7}_[a-z0-9]{12}")]
)
def test_a_generated_project_id_has_websims_shape(for_image, shape):
    ids = {Websim.generate_project_id(for_image=for_image) for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(shape, project_id) for project_id in ids)


@pytest.mark.parametrize(("model", "shape"), [(None, ".{3}_.{16}"), ("flux", ".{7}_.{12}")])
async def test_without_a_project_id_one_is_generated(websim_server, model, shape):
    await ask(model, HELLO)
    assert re.fullmatch(shape, websim_server.requests[-1].json["project_id"])


async def test_the_environment_names_the_project(websim_server, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "vno75_2x4ii3ayx8wmmw")
    await ask(None, HELLO)
    assert websim_server.requests[-1].json["project_id"] == "vno75_2x4ii3ayx8wmmw"


async def test_the_argument_names_the_project_before_the_environment(websim_server, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "no/id")
    await ask(None, HELLO, project_id="mine")
    assert websim_server.requests[-1].json["project_id"] == "mine"


async def test_a_bad_project_id_in_the_environment_is_refused(websim_server, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "no/id")
    with pytest.raises(ValueError, match="project_id: .* not 'no/id'"):
        await ask(None, HELLO)


async def test_what_g4f_passes_besides_is_ignored(websim_server):
    besides = {
        "stream": True,
        "stream_timeout": 1,
        "max_tokens": 5,
        "stop": ["x"],
        "base_url": "http://127.0.0.1:9",
        "conversation": None,
        "ignored": [],
        "download_media": True,
        "tools": [],
        "temperature": 1,
    }
    await ask(None, HELLO, **besides)
    assert websim_server.requests[-1].json.keys() == {"project_id", "messages"}


async def test_an_answer_is_one_chunk(websim_server):
    (answer,) = await ask(None, HELLO, stream=True)
    assert answer == "This is the offline Websim; no model was asked. You said: Hello"


@pytest.mark.parametrize("n", [1, 3, 10])
async def test_several_pictures_come_as_one_response(websim_server, n):
    (picture,) = await ask("flux", HELLO, n=n)
    assert len(picture.get_list()) == len(websim_server.requests) == n


async def test_the_pictures_that_came_are_handed_over_and_the_failures_logged(websim_server, monkeypatch):
    lines = []
    monkeypatch.setattr(g4f.debug, "logging", True)
    monkeypatch.setattr(g4f.debug, "log_handler", lambda *text, file=None: lines.append(" ".join(map(str, text))))
    for number in (1, 2, 3):
        websim_server.inject(Fault(body=b'{"url": "https://example.com/%d.png"}' % number, delay=0.2 - number * 0.05))
    websim_server.inject(Fault(status=400, body=b"not this one"))
    (picture,) = await ask("flux", HELLO, n=4)
    assert sorted(picture.get_list()) == [f"https://example.com/{number}.png" for number in (1, 2, 3)]
    assert any("1 of 4 pictures failed" in line and "not this one" in line for line in lines)


async def test_the_first_failure_is_raised_where_no_picture_came(websim_server):
    websim_server.inject(Fault(body=b"{}"), times=2)
    with pytest.raises(NoMediaResponseError):
        await ask("flux", HELLO, n=2)


async def test_each_picture_has_tries_of_its_own(websim_server):
    websim_server.inject(Fault(status=503), times=3)
    (picture,) = await ask("flux", HELLO, n=2)
    assert len(picture.get_list()) == 2
    assert len(websim_server.requests) == 5


async def test_the_health_of_the_site_is_asked_without_anybodys_key(websim_server):
    health = await Websim.get_health(api_key="sk-of-somebody-else")
    assert health["ok"]
    assert health["url"] == websim_server.url


async def test_a_rate_limit_is_g4fs(websim_server):
    websim_server.inject(Fault(status=429), times=3)
    with pytest.raises(RateLimitError, match="Response 429: .*wait a while"):
        await ask(None, HELLO)


async def test_a_page_of_cloudflares_is_told_apart(websim_server):
    websim_server.inject(Fault(status=403, body=b"<html><title>Just a moment...</title></html>"))
    with pytest.raises(CloudflareError, match="Response 403: an HTML page: <title>Just a moment"):
        await ask(None, HELLO)
