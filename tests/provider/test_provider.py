"""`Websim`: its attributes, which request a call sends, project ids, tokens, and several images."""

import asyncio
import itertools
import logging
import math
import re

import pytest
from g4f.errors import CloudflareError, NoMediaResponseError, RateLimitError, ResponseError
from g4f.Provider.base_provider import AsyncGeneratorProvider, ProviderModelMixin
from g4f.providers.response import ImageResponse
from g4f.requests.defaults import DEFAULT_HEADERS

from g4f_websim import Websim, provider
from g4f_websim.emulator import Fault
from g4f_websim.transport import attempts
from tests.support.calls import HELLO, JWT, PNG_URI, call_websim, make_token
from tests.support.interpreter import run_python
from tests.support.limits import MAX_SECONDS
from tests.support.responses import CHALLENGE_PAGE, REPLY

CHAT_PATH = "/api/v1/inference/run_chat_completion"
IMAGE_PATH = "/api/v1/inference/run_image_generation"
CHAT_PAGE = "/@ISWEARIAMNOTADDICTEDTOPILLOW/zelos-ai-assistant"
IMAGE_PAGE = "/@ISWEARIAMNOTADDICTEDTOPILLOW/ai-image-prompt-generator"
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
    "max_attempts": 3,
    "backoff": 2.0,
    "max_wait": 60.0,
}

OTHER_KEYS = {
    "OpenAI key": "sk-1234567890",
    "four parts": f"{JWT}.x",
    "token of another provider": {"Other": JWT},
    "dict with another key": {"Websim": "sk-1234567890"},
    "empty": "",
    "None": None,
    "number": 7,
    "list": [JWT],
}


@pytest.fixture(autouse=True)
def forget_reported_keys():
    log_once.cache_clear()


@pytest.mark.parametrize(("name", "value"), ATTRIBUTES.items(), ids=ATTRIBUTES)
def test_attribute_has_documented_value(name, value):
    assert getattr(Websim, name) == value


def test_is_a_provider_of_g4f():
    assert issubclass(Websim, AsyncGeneratorProvider)
    assert issubclass(Websim, ProviderModelMixin)
    assert Websim.get_models() == Websim.models


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080\r\n", "http://127.0.0.1:8080"),
        ("", "https://websim.com"),
    ],
)
def test_reads_url_from_environment_at_import(monkeypatch, value, url):
    monkeypatch.setenv("WEBSIM_URL", value)
    program = "from g4f_websim import Websim; print(Websim.url, Websim.image_api_endpoint)"
    printed, _ = run_python("-c", program)
    assert printed.split() == [url, url + IMAGE_PATH]


async def test_subclass_has_its_own_url(websim_server, monkeypatch, closed_port):
    class LocalWebsim(Websim):
        url = websim_server.url

    monkeypatch.setattr(Websim, "url", f"http://127.0.0.1:{closed_port}")
    assert [chunk async for chunk in LocalWebsim.create_async_generator(None, HELLO)]
    assert LocalWebsim.login_url == websim_server.url


async def test_subclass_is_named_in_api_keys(websim_server):
    class LocalWebsim(Websim):
        pass

    for api_key in ({"LocalWebsim": JWT}, {"Websim": JWT}):
        assert [chunk async for chunk in LocalWebsim.create_async_generator(None, HELLO, api_key=api_key)]
    assert [request.header("authorization") for request in websim_server.requests] == [f"Bearer {JWT}", None]


async def test_trailing_slash_of_url_is_ignored(websim_server, monkeypatch):
    url = websim_server.url
    monkeypatch.setattr(Websim, "url", f"{url}/")
    await call_websim(None, HELLO)
    (request,) = websim_server.requests
    assert (request.path, request.header("origin"), Websim.login_url) == (CHAT_PATH, url, url)


async def test_attributes_are_read_at_call_time(websim_server, monkeypatch):
    monkeypatch.setattr(Websim, "chat_api_endpoint", Websim.image_api_endpoint)
    monkeypatch.setattr(Websim, "image_models", ["sketch"])
    await call_websim("sketch", HELLO)
    with pytest.raises(Exception, match="Response 400 .*prompt is missing"):
        await call_websim("gemini-1.5-pro", HELLO)
    assert [request.path for request in websim_server.requests] == [IMAGE_PATH, IMAGE_PATH]
    with pytest.raises(ValueError, match="^model: Websim's image model is sketch, not 'flux'$"):
        await call_websim("flux", HELLO)


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
async def test_model_and_prompt_select_request(websim_server, model, prompt, path):
    await call_websim(model, HELLO, prompt=prompt)
    assert [request.path for request in websim_server.requests] == [path]


async def test_chat_sends_messages(websim_server):
    conversation = [{"role": "system", "content": "Grüße, 世界 🌍"}, *HELLO]
    await call_websim("gemini-1.5-pro", conversation, response_format={"type": "json_object"}, media=[PNG_URI])
    body = websim_server.requests[-1].json
    assert body.keys() == {"project_id", "messages", "json"}
    assert body["messages"][0] == conversation[0]
    assert body["messages"][1]["content"] == [
        {"type": "text", "text": "Hello"},
        {"type": "image_url", "image_url": {"url": PNG_URI}},
    ]


async def test_image_sends_prompt_and_options(websim_server):
    options = {"aspect_ratio": "16:9", "seed": 7, "transparent": True}
    await call_websim("flux", None, prompt="a cat", size="640x480", width=320, media=[PNG_URI], **options)
    body = websim_server.requests[-1].json
    assert body.pop("project_id")
    assert body == {"prompt": "a cat", "width": 320, "height": 480, "image_inputs": [{"url": PNG_URI}], **options}


@pytest.mark.parametrize(("model", "page"), [(None, CHAT_PAGE), ("flux", IMAGE_PAGE)])
async def test_sends_headers_of_web_application(websim_server, model, page):
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


@pytest.mark.parametrize(
    ("for_image", "shape"), [(False, "[a-z0-9]{3}_[a-z0-9]{16}"), (True, "[a-z0-9]{7}_[a-z0-9]{12}")]
)
def test_generates_project_id(for_image, shape):
    ids = {Websim.generate_project_id(for_image=for_image) for _ in range(100)}
    assert len(ids) == 100
    assert [project_id for project_id in ids if not re.fullmatch(shape, project_id)] == []


async def test_warns_of_conversation_that_ends_with_assistant(websim_server, caplog):
    await call_websim(None, [*HELLO, {"role": "assistant", "content": "Hi"}])
    assert "the last message is the assistant's" in caplog.text


@pytest.mark.parametrize(("model", "shape"), [(None, ".{3}_.{16}"), ("flux", ".{7}_.{12}")])
async def test_sends_generated_project_id(websim_server, model, shape):
    await call_websim(model, HELLO)
    assert re.fullmatch(shape, websim_server.requests[-1].json["project_id"])


async def test_sends_project_id_of_environment(websim_server, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "https://websim.com/p/vno75_2x4ii3ayx8wmmw")
    await call_websim(None, HELLO)
    assert websim_server.requests[-1].json["project_id"] == "vno75_2x4ii3ayx8wmmw"


async def test_project_id_argument_overrides_environment(websim_server, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "no/id")
    await call_websim(None, HELLO, project_id="mine")
    assert websim_server.requests[-1].json["project_id"] == "mine"


async def test_rejects_project_id_of_environment(websim_server, monkeypatch):
    monkeypatch.setenv("WEBSIM_PROJECT_ID", "no/id")
    with pytest.raises(ValueError, match="^WEBSIM_PROJECT_ID: .* not 'no/id'"):
        await call_websim(None, HELLO)
    assert not websim_server.requests


# Each row: the model, the arguments, the beginning of the message.
REJECTED = {
    "model": (7, {}, "model: a name"),
    "image model of another service": ("dall-e-3", {}, "model: Websim's image model is flux, not 'dall-e-3'"),
    "other image model": ("flux-pro", {}, "model: Websim's image model is flux, not 'flux-pro'"),
    "messages": (None, {"messages": []}, "messages: a message with content, as in messages="),
    "chat prompt": ("any", {"prompt": 7}, "prompt: text, not 7"),
    "media": (None, {"media": ["cat.png"]}, r"media\[0\]: an image"),
    "response_format": (None, {"response_format": "json_object"}, "response_format: .* not 'json_object'"),
    "project_id": (None, {"project_id": "a/b"}, "project_id: 1 to 64"),
    "timeout": (None, {"timeout": -1}, "timeout: seconds"),
    "proxy": (None, {"proxy": "127.0.0.1:3128"}, "proxy: a URL like"),
    "prompt": ("flux", {"prompt": " "}, "prompt: a description"),
    "aspect_ratio": ("flux", {"aspect_ratio": "16:0"}, "aspect_ratio: W:H"),
    "n": ("flux", {"n": 11}, "n: 1 to 10 images"),
    "n of 5000 digits": ("flux", {"n": 10**5000}, "n: 1 to 10 images"),
    "width": ("flux", {"width": 0}, "width: pixels"),
    "height": ("flux", {"height": 10**5000}, "height: pixels"),
    "size": ("flux", {"size": "large"}, "size: WIDTHxHEIGHT"),
    "seed": ("flux", {"seed": "7"}, "seed: an integer"),
    "transparent": ("flux", {"transparent": "no"}, "transparent: True or False"),
}


@pytest.mark.parametrize(("model", "arguments", "message"), REJECTED.values(), ids=REJECTED)
async def test_rejects_argument_before_anything_is_sent(websim_server, model, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        await call_websim(model, **{"messages": HELLO, **arguments})
    assert not websim_server.requests


@pytest.mark.parametrize("url", ["websim.com", "ftp://websim.com", "https://", "http://[", "http://127.0.0.1:0"])
async def test_rejects_malformed_url(monkeypatch, url):
    monkeypatch.setattr(Websim, "url", url)
    with pytest.raises(ValueError, match="^WEBSIM_URL or Websim.url: a URL like https://websim.com ") as raised:
        await call_websim(None, HELLO)
    assert re.search(r", not '((http|ftp)://)?\*\*\*'$", str(raised.value))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("max_attempts", -1), ("max_attempts", "3"), ("backoff", -1.0), ("backoff", math.nan), ("max_wait", None)],
)
async def test_rejects_malformed_attribute(websim_server, monkeypatch, attribute, value):
    monkeypatch.setattr(Websim, attribute, value)
    with pytest.raises(ValueError, match=rf"^Websim\.{attribute}: .*, as in .*, not {value!r}$"):
        await call_websim(None, HELLO)
    assert not websim_server.requests


async def test_max_wait_may_be_infinite(websim_server, monkeypatch):
    monkeypatch.setattr(Websim, "max_wait", math.inf)
    assert await call_websim(None, HELLO)


async def test_ignores_other_arguments_of_g4f(websim_server, closed_port):
    others = {
        "stream": True,
        "stream_timeout": 1,
        "max_tokens": 5,
        "stop": ["x"],
        "base_url": f"http://127.0.0.1:{closed_port}",
        "conversation": None,
        "ignored": [],
        "download_media": True,
        "tools": [],
        "temperature": 1,
    }
    await call_websim(None, HELLO, **others)
    assert websim_server.requests[-1].json.keys() == {"project_id", "messages"}


@pytest.mark.parametrize(
    "api_key", [JWT, f"{JWT}\n", {"Websim": JWT, "Other": "sk-1234"}], ids=["text", "line", "dict"]
)
async def test_sends_token(websim_server, api_key):
    await call_websim(None, HELLO, api_key=api_key)
    assert websim_server.requests[-1].header("authorization") == f"Bearer {JWT}"


@pytest.mark.parametrize("api_key", OTHER_KEYS.values(), ids=OTHER_KEYS)
async def test_does_not_send_other_keys(websim_server, api_key):
    await call_websim(None, HELLO, api_key=api_key)
    assert websim_server.requests[-1].header("authorization") is None


@pytest.mark.parametrize("model", [None, "flux"])
@pytest.mark.parametrize("api_key", OTHER_KEYS.values(), ids=OTHER_KEYS)
async def test_sends_token_of_environment_without_own_token(websim_server, monkeypatch, model, api_key):
    monkeypatch.setenv("WEBSIM_API_KEY", JWT)
    await call_websim(model, HELLO, api_key=api_key)
    assert websim_server.requests[-1].header("authorization") == f"Bearer {JWT}"


async def test_token_argument_overrides_environment(websim_server, monkeypatch):
    monkeypatch.setenv("WEBSIM_API_KEY", make_token(sub="2"))
    await call_websim(None, HELLO, api_key=JWT)
    assert websim_server.requests[-1].header("authorization") == f"Bearer {JWT}"


async def test_other_key_is_logged_once(websim_server, monkeypatch, caplog, debug_lines):
    monkeypatch.setenv("WEBSIM_API_KEY", "sk-of-the-environment")
    caplog.set_level(logging.INFO, "g4f_websim")
    for _ in range(3):
        await call_websim(None, HELLO, api_key="sk-of-the-caller")
    lines = [
        "api_key is not a Websim token (a JSON Web Token): not sent",
        "WEBSIM_API_KEY is not a Websim token (a JSON Web Token): not sent",
    ]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("INFO", line) for line in lines]
    assert [line for line in debug_lines if "token" in line] == [f"Websim: {line}" for line in lines]
    assert "sk-of" not in caplog.text


async def test_text_is_one_chunk(websim_server):
    assert await call_websim(None, HELLO, stream=True) == [REPLY]


async def test_image_is_an_image_response(websim_server):
    websim_server.inject(Fault(body=b'{"url": "/images/a.png"}'))
    (image,) = await call_websim("flux", HELLO, prompt="a cat")
    assert type(image) is ImageResponse
    assert (image.get_list(), image.alt) == ([f"{websim_server.url}/images/a.png"], "a cat")


@pytest.mark.parametrize("n", [None, 1, 3, 10])
async def test_several_images_are_one_response(websim_server, n):
    (image,) = await call_websim("flux", HELLO, n=n)
    assert len(image.get_list()) == len(websim_server.requests) == (n or 1)


async def test_images_are_in_the_order_of_the_requests(websim_server, monkeypatch):
    send, numbers, second_received = attempts.send, itertools.count(1), asyncio.Event()

    async def send_first_after_second(number, *arguments):
        if number == 1:
            await second_received.wait()
        url = await send(*arguments)
        second_received.set()
        return url

    monkeypatch.setattr(attempts, "send", lambda *arguments: send_first_after_second(next(numbers), *arguments))
    for number in (2, 1):
        websim_server.inject(Fault(body=b'{"url": "https://example.com/%d.png"}' % number))
    (image,) = await asyncio.wait_for(call_websim("flux", HELLO, n=2), MAX_SECONDS)
    assert image.get_list() == ["https://example.com/1.png", "https://example.com/2.png"]


async def test_returns_images_that_succeeded_and_logs_failures(websim_server, caplog, debug_lines):
    for number in (1, 2, 3):
        websim_server.inject(Fault(body=b'{"url": "https://example.com/%d.png"}' % number, delay=0.2 - number * 0.05))
    websim_server.inject(Fault(status=400, body=b"this one failed"), times=2)
    websim_server.inject(Fault(status=400, body=b"another failed"))
    (image,) = await call_websim("flux", HELLO, n=6)
    assert sorted(image.get_list()) == [f"https://example.com/{number}.png" for number in (1, 2, 3)]
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


async def test_health_check_does_not_send_key(server):
    health = await Websim.get_health(api_key="sk-of-another-service")
    assert health["ok"]
    assert health["url"] == server.url
    (request,) = server.requests
    assert b"sk-of" not in request.head


@pytest.mark.parametrize(
    ("model", "fault", "kind", "reason"),
    [
        (None, Fault(status=429), RateLimitError, "rate_limited"),
        (None, Fault(status=403, body=CHALLENGE_PAGE.encode()), CloudflareError, "bot_challenge"),
        (None, Fault(status=403, headers={"cf-mitigated": "challenge"}), CloudflareError, "bot_challenge"),
        (None, Fault(body=b"<html><title>Welcome</title></html>"), ResponseError, "api_moved"),
        ("flux", Fault(body=b'{"image": "cat"}'), NoMediaResponseError, "api_changed"),
    ],
    ids=["rate limit", "challenge page", "challenge header", "page", "other field"],
)
async def test_error_has_class_and_attributes(websim_server, monkeypatch, model, fault, kind, reason):
    monkeypatch.setattr(Websim, "max_attempts", 1)
    websim_server.inject(fault)
    with pytest.raises(kind) as raised:
        await call_websim(model, HELLO)
    assert (raised.value.status, raised.value.retry_after, raised.value.reason) == (fault.status, None, reason)
