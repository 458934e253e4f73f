"""Websim through g4f's clients, sync and async, selected by its class or by its name."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import g4f
import pytest
from g4f.client import AsyncClient, Client
from g4f.errors import RateLimitError, ResponseError
from g4f.Provider import IterListProvider, RetryProvider

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from tests.support.calls import HELLO, JWT, PNG_URI
from tests.support.interpreter import run_python
from tests.support.responses import LONG_RATE_LIMIT, PNG_MAGIC, REPLY, text_of, text_of_stream

OTHER_REPLY = "reply of the other provider"
BY_CLASS_AND_NAME = pytest.mark.parametrize("provider", [Websim, "Websim"], ids=["class", "name"])


def chat(provider, /, **arguments):
    return Client(provider=provider).chat.completions.create(HELLO, **arguments)


async def async_chat(provider, /, **arguments):
    return await AsyncClient(provider=provider).chat.completions.create(HELLO, **arguments)


async def items_of(stream: AsyncIterator) -> list:
    return [item async for item in stream]


def async_stream(provider) -> list:
    return asyncio.run(items_of(AsyncClient(provider=provider).chat.completions.create(HELLO, stream=True)))


complete, complete_async = g4f.ChatCompletion.create, g4f.ChatCompletion.create_async
CHATS = {
    "Client": lambda provider: text_of(chat(provider)),
    "call of Client": lambda provider: text_of(chat(None, model="gemini-2.5-pro", provider=provider)),
    "stream of Client": lambda provider: text_of_stream(chat(provider, stream=True)),
    "AsyncClient": lambda provider: text_of(asyncio.run(async_chat(provider))),
    "call of AsyncClient": lambda provider: text_of(asyncio.run(async_chat(None, provider=provider))),
    "stream of AsyncClient": lambda provider: text_of_stream(async_stream(provider)),
    "ChatCompletion": lambda provider: complete("gemini-1.5-pro", HELLO, provider=provider),
    "stream of ChatCompletion": lambda provider: "".join(
        complete("gemini-1.5-pro", HELLO, provider=provider, stream=True)
    ),
    "prefix of model": lambda provider: complete("Websim:gemini-2.5-pro", HELLO),
    "async ChatCompletion": lambda provider: asyncio.run(complete_async("gemini-1.5-pro", HELLO, provider=provider)),
    "async stream": lambda provider: "".join(
        asyncio.run(items_of(complete_async("gemini-1.5-pro", HELLO, provider=provider, stream=True)))
    ),
}


@BY_CLASS_AND_NAME
@pytest.mark.parametrize("call", CHATS.values(), ids=CHATS)
def test_chat(websim_server, call, provider):
    assert call(provider) == REPLY
    (request,) = websim_server.requests
    assert request.json["messages"] == HELLO


def test_sync_client_works_inside_running_loop(websim_server):
    # A process of its own, because g4f lets nest_asyncio patch asyncio.
    program = """
import asyncio
from tests.provider.test_client import chat, text_of

async def cell():
    print(text_of(chat("Websim")))

asyncio.run(cell())
"""
    printed, _ = run_python("-c", program, WEBSIM_URL=websim_server.url)
    assert printed.endswith(f"{REPLY}\n")


def test_sends_input_image(websim_server):
    chat(Websim, image=PNG_URI)
    content = websim_server.requests[-1].json["messages"][-1]["content"]
    assert content[-1] == {"type": "image_url", "image_url": {"url": PNG_URI}}


def test_sends_api_key_of_client_only_if_websim_token(websim_server):
    for api_key in (JWT, "sk-1234567890"):
        Client(provider=Websim, api_key=api_key).chat.completions.create(HELLO)
    assert [request.header("authorization") for request in websim_server.requests] == [f"Bearer {JWT}", None]


@pytest.mark.parametrize("model", ["flux", None])
@BY_CLASS_AND_NAME
def test_client_generates_image(websim_server, provider, model):
    response = Client(image_provider=provider).images.generate("a cat", model=model, response_format="url")
    assert response.data[0].url.startswith(websim_server.url)
    assert websim_server.requests[-1].json["prompt"] == "a cat"


async def test_async_client_generates_several_images_of_size(websim_server):
    images = AsyncClient(provider="Websim").images
    response = await images.generate("a cat", n=2, width=1920, height=1080, response_format="url")
    assert len(response.data) == 2
    assert {request.json["aspect_ratio"] for request in websim_server.requests} == {"16:9"}


def test_client_returns_image_of_openai_size_as_base64(websim_server):
    images = Client(provider=Websim).images
    response = images.generate("a cat", model="flux", size="1080x1920", response_format="b64_json")
    assert base64.b64decode(response.data[0].b64_json).startswith(PNG_MAGIC)
    assert websim_server.requests[-1].json["aspect_ratio"] == "9:16"


def test_downloads_image_by_default(websim_server, tmp_path):
    websim_server.inject(Fault(body=json.dumps({"url": PNG_URI}).encode()))
    response = Client(provider=Websim).images.generate("a cat")
    assert response.data[0].url.startswith("/media/")
    (file,) = (tmp_path / "generated_media").iterdir()
    assert file.read_bytes().startswith(PNG_MAGIC)


def test_variation_sends_image(websim_server):
    images = Client(provider=Websim).images
    images.create_variation(image=PNG_URI, model="flux", response_format="url")
    assert websim_server.requests[-1].json["image_inputs"] == [{"url": PNG_URI}]


class Other(Websim):
    """Another provider, with a reply of its own."""

    label = "Other"

    @classmethod
    async def create_async_generator(cls, model, messages, **kwargs):
        yield OTHER_REPLY


class Failing(Other):
    @classmethod
    async def create_async_generator(cls, model, messages, **kwargs):
        raise ResponseError("the other provider failed")
        yield  # makes the function a generator


@pytest.mark.parametrize("kind", [IterListProvider, RetryProvider])
@pytest.mark.parametrize(
    ("fault", "others", "reply", "requests"),
    [
        (Fault(status=429), [Websim, Other], OTHER_REPLY, 3),
        # The delay is too long.
        (LONG_RATE_LIMIT, [Websim, Other], OTHER_REPLY, 1),
        (None, [Failing, Websim], REPLY, 1),
    ],
    ids=["rate limit", "long rate limit", "other fails"],
)
def test_next_provider_replies_when_one_fails(websim_server, monkeypatch, kind, fault, others, reply, requests):
    monkeypatch.setenv("G4F_DISABLE_CIRCUIT_BREAKER", "1")  # g4f skips a provider after three failures
    if fault:
        websim_server.inject(fault, times=3)
    assert text_of(chat(kind(others, False))) == reply
    assert len(websim_server.requests) == requests


def test_client_raises_error(websim_server):
    websim_server.inject(Fault(status=429), times=3)
    with pytest.raises(RateLimitError):
        chat(Websim)
