"""`Websim`: its attributes, the two requests, their headers and ids, and one or several images."""

import logging
import math
import re
from dataclasses import replace

import pytest
from g4f.errors import NoMediaResponseError
from g4f.Provider.base_provider import AsyncGeneratorProvider, ProviderModelMixin
from g4f.providers.response import ImageResponse
from g4f.requests.defaults import DEFAULT_HEADERS

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from tests.support.calls import HELLO, JWT, PNG_URI, call_websim
from tests.support.interpreter import run_python
from tests.support.responses import REPLY, image_at

CHAT_PATH = "/api/v1/inference/run_chat_completion"
IMAGE_PATH = "/api/v1/inference/run_image_generation"
CHAT_PAGE = "/@ISWEARIAMNOTADDICTEDTOPILLOW/zelos-ai-assistant"
IMAGE_PAGE = "/@ISWEARIAMNOTADDICTEDTOPILLOW/ai-image-prompt-generator"
CHAT_MODELS = ["gemini-1.5-pro", "gemini-1.5-flash", "gemini-2.5-pro", "gemini-2.5-flash"]

CHAT_ID, IMAGE_ID = "[a-z0-9]{3}_[a-z0-9]{16}", "[a-z0-9]{7}_[a-z0-9]{12}"

ATTRIBUTES = {
    "label": "Websim",
    "url": "https://websim.com",
    "login_url": "https://websim.com",
    "chat_api_endpoint": f"https://websim.com{CHAT_PATH}",
    "image_api_endpoint": f"https://websim.com{IMAGE_PATH}",
    **dict.fromkeys(("working", "supports_stream", "supports_system_message", "supports_message_history"), True),
    **dict.fromkeys(("needs_auth", "use_nodriver", "use_stream_timeout"), False),
    **dict.fromkeys(("default_model", "default_vision_model"), "gemini-1.5-pro"),
    "default_image_model": "flux",
    "image_models": ["flux"],
    "models": [*CHAT_MODELS, "flux"],
    "vision_models": CHAT_MODELS,
    "max_attempts": 3,
    "backoff": 2.0,
    "max_wait": 60.0,
}


def test_attributes_have_documented_values():
    assert {name: getattr(Websim, name) for name in ATTRIBUTES} == ATTRIBUTES
    assert issubclass(Websim, AsyncGeneratorProvider)
    assert issubclass(Websim, ProviderModelMixin)
    assert Websim.get_models() == Websim.models


@pytest.mark.parametrize(
    ("value", "url"), [("http://127.0.0.1:8080/\r\n", "http://127.0.0.1:8080"), ("", "https://websim.com")]
)
def test_reads_url_from_environment_at_import(value, url):
    program = "from g4f_websim import Websim; print(Websim.url, Websim.image_api_endpoint)"
    printed, _ = run_python("-c", program, WEBSIM_URL=value)
    assert printed.split() == [url, url + IMAGE_PATH]


async def test_subclass_has_its_own_url_and_keys(websim_server, monkeypatch, closed_port):
    class LocalWebsim(Websim):
        url = f"{websim_server.url}/"

    monkeypatch.setattr(Websim, "url", f"http://127.0.0.1:{closed_port}")
    for api_key in ({"LocalWebsim": JWT}, {"Websim": JWT}):
        assert [chunk async for chunk in LocalWebsim.create_async_generator(None, HELLO, api_key=api_key)] == [REPLY]
    assert LocalWebsim.login_url == websim_server.url
    assert [request.header("origin") for request in websim_server.requests] == [websim_server.url] * 2
    assert [request.header("authorization") for request in websim_server.requests] == [f"Bearer {JWT}", None]


async def test_attributes_are_read_at_call_time(websim_server, monkeypatch):
    monkeypatch.setattr(Websim, "chat_api_endpoint", Websim.image_api_endpoint)
    monkeypatch.setattr(Websim, "image_models", ["sketch"])
    await call_websim("sketch", HELLO)
    with pytest.raises(Exception, match="Response 400 .*prompt"):
        await call_websim("gemini-1.5-pro", HELLO)
    assert [request.path for request in websim_server.requests] == [IMAGE_PATH, IMAGE_PATH]
    with pytest.raises(ValueError, match="^model: Websim's image model is sketch, not 'flux'$"):
        await call_websim("flux", HELLO)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        *[("max_attempts", -1), ("max_attempts", "3"), ("backoff", -1.0), ("backoff", math.nan), ("max_wait", None)],
        ("url", "ftp://websim.com"),
    ],
)
async def test_rejects_malformed_attribute(websim_server, monkeypatch, attribute, value):
    monkeypatch.setattr(Websim, attribute, value)
    shown = re.escape(repr(value).replace("websim.com", "***"))
    with pytest.raises(ValueError, match=rf"Websim\.{attribute}: .*, not {shown}$"):
        await call_websim(None, HELLO)
    assert not websim_server.requests


async def test_max_wait_may_be_infinite(websim_server, monkeypatch):
    monkeypatch.setattr(Websim, "max_wait", math.inf)
    assert await call_websim(None, HELLO)


# Requests


async def test_chat_sends_messages(websim_server):
    answer = {"role": "assistant", "content": " spaces are kept "}
    conversation = [{"role": "system", "content": "Grüße, 世界 🌍"}, *HELLO, answer]
    arguments = {"response_format": {"type": "json_object"}, "media": [PNG_URI], "project_id": "mine"}
    await call_websim("gemini-1.5-pro", conversation, prompt="And this?", **arguments)
    picture = {"type": "image_url", "image_url": {"url": PNG_URI}}
    question = {"role": "user", "content": [{"type": "text", "text": "And this?"}, picture]}
    body = websim_server.requests[-1].json
    assert body == {"project_id": "mine", "messages": [*conversation, question], "json": True}


async def test_image_sends_prompt_and_options_and_is_an_image_response(websim_server):
    options = {"aspect_ratio": "16:9", "seed": 7, "transparent": True}
    arguments = {"size": "640x480", "width": 320, "media": [PNG_URI], "project_id": "mine"}
    websim_server.inject(image_at("/images/a.png"))
    (image,) = await call_websim("flux", None, prompt=" a cat ", **arguments, **options)
    expected = {"project_id": "mine", "prompt": " a cat ", "width": 320, "height": 480}
    assert websim_server.requests[-1].json == {**expected, "image_inputs": [{"url": PNG_URI}], **options}
    assert type(image) is ImageResponse
    assert (image.get_list(), image.alt) == ([f"{websim_server.url}/images/a.png"], " a cat ")


@pytest.mark.parametrize(
    ("model", "page", "project_id"), [(None, CHAT_PAGE, CHAT_ID), ("flux", IMAGE_PAGE, IMAGE_ID)], ids=["chat", "image"]
)
async def test_sends_headers_of_web_application_and_random_project_id(websim_server, model, page, project_id):
    await call_websim(model, HELLO)
    request = websim_server.requests[-1]
    own_headers = {
        "accept": "*/*",
        "content-type": "application/json",
        "origin": websim_server.url,
        "referer": websim_server.url + page,
        "websim-flags": "",
    }
    expected = {**DEFAULT_HEADERS, **own_headers}
    assert {name: request.header(name) for name in expected} == expected
    assert request.header("authorization") is None
    assert [name for name, _ in request.headers if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name)] == []
    assert re.fullmatch(project_id, request.json["project_id"])


@pytest.mark.parametrize(("for_image", "shape"), [(False, CHAT_ID), (True, IMAGE_ID)])
def test_generates_project_id(for_image, shape):
    ids = {Websim.generate_project_id(for_image=for_image) for _ in range(100)}
    assert len(ids) == 100
    assert [project_id for project_id in ids if not re.fullmatch(shape, project_id)] == []
    # Each character may be any letter or digit.
    assert len(set("".join(ids))) == len("abcdefghijklmnopqrstuvwxyz0123456789_")


async def test_warns_of_conversation_that_ends_with_assistant(websim_server, caplog):
    await call_websim(None, [*HELLO, {"role": "assistant", "content": "Hi"}])
    assert "the last message is the assistant's" in caplog.text


async def test_health_check_does_not_send_key(server):
    health = await Websim.get_health(api_key="sk-of-another-service")
    assert (health["ok"], health["url"]) == (True, server.url)
    (request,) = server.requests
    assert b"sk-of" not in request.head


# Several images


IMAGE_URLS = ["https://example.com/1.png", "https://example.com/2.png", "https://example.com/3.png"]


@pytest.mark.parametrize("n", [None, 1, 3, 10])
async def test_several_images_are_one_response(websim_server, n):
    (image,) = await call_websim("flux", HELLO, n=n)
    assert len(image.get_list()) == len(websim_server.requests) == (n or 1)


async def test_images_are_in_the_order_of_the_requests(websim_server):
    for url, delay in zip(IMAGE_URLS, (0.1, 0, 0.05), strict=True):
        websim_server.inject(replace(image_at(url), delay=delay))
    (image,) = await call_websim("flux", HELLO, n=3)
    assert image.get_list() == IMAGE_URLS


async def test_returns_images_that_succeeded_and_logs_failures(websim_server, caplog, debug_lines):
    for url in IMAGE_URLS:
        websim_server.inject(image_at(url))
    for body in (b"this one failed", b"this one failed", b"another failed"):
        websim_server.inject(Fault(status=400, body=body))
    (image,) = await call_websim("flux", HELLO, n=6)
    assert sorted(image.get_list()) == IMAGE_URLS
    ((name, level, message),) = caplog.record_tuples
    assert (name, level) == ("g4f_websim", logging.WARNING)
    assert message.startswith("3 of 6 images failed: Response 400 from ")
    assert (message.count("this one failed"), message.count("another failed")) == (1, 1)
    assert any(line.startswith("Websim: 3 of 6 images failed: ") for line in debug_lines)


async def test_raises_a_failure_if_no_image_succeeded(websim_server):
    websim_server.inject(Fault(body=b"{}"), times=2)
    with pytest.raises(NoMediaResponseError):
        await call_websim("flux", HELLO, n=2)


async def test_each_image_has_its_own_attempts(websim_server):
    websim_server.inject(Fault(status=503), times=3)
    (image,) = await call_websim("flux", HELLO, n=2)
    assert len(image.get_list()) == 2
    assert len(websim_server.requests) == 5
