"""Websim through g4f's clients, sync and async, selected by its class or by its name."""

import asyncio
import base64
import json

import g4f
import pytest
from g4f.client import AsyncClient, Client
from g4f.errors import RateLimitError, ResponseError
from g4f.Provider import IterListProvider, RetryProvider

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from tests.support.calls import HELLO, JWT, PNG_URI
from tests.support.responses import LONG_RATE_LIMIT, PNG_MAGIC, REPLY, text_of, text_of_stream

OTHER_REPLY = "reply of the other provider"
BY_CLASS_AND_NAME = pytest.mark.parametrize("provider", [Websim, "Websim"], ids=["class", "name"])


@BY_CLASS_AND_NAME
def test_client_uses_its_provider(websim_server, provider):
    assert text_of(Client(provider=provider).chat.completions.create(HELLO)) == REPLY


@BY_CLASS_AND_NAME
def test_client_uses_provider_of_call(websim_server, provider):
    assert text_of(Client().chat.completions.create(HELLO, model="gemini-2.5-pro", provider=provider)) == REPLY


@BY_CLASS_AND_NAME
async def test_async_client_uses_provider_of_client_or_call(websim_server, provider):
    assert text_of(await AsyncClient(provider=provider).chat.completions.create(HELLO)) == REPLY
    assert text_of(await AsyncClient().chat.completions.create(HELLO, provider=provider)) == REPLY


def test_client_streams(websim_server):
    assert text_of_stream(Client(provider=Websim).chat.completions.create(HELLO, stream=True)) == REPLY


async def test_async_client_streams(websim_server):
    chunks = AsyncClient(provider="Websim").chat.completions.create(HELLO, stream=True)
    assert text_of_stream([chunk async for chunk in chunks]) == REPLY


def test_model_prefix_selects_provider(websim_server):
    assert g4f.ChatCompletion.create("Websim:gemini-2.5-pro", HELLO) == REPLY


@BY_CLASS_AND_NAME
def test_chat_completion_returns_text_and_stream(websim_server, provider):
    assert g4f.ChatCompletion.create("gemini-1.5-pro", HELLO, provider=provider) == REPLY
    assert "".join(g4f.ChatCompletion.create("gemini-1.5-pro", HELLO, provider=provider, stream=True)) == REPLY


async def test_async_chat_completion_returns_text_and_stream(websim_server):
    assert await g4f.ChatCompletion.create_async("gemini-1.5-pro", HELLO, provider=Websim) == REPLY
    chunks = g4f.ChatCompletion.create_async("gemini-1.5-pro", HELLO, provider=Websim, stream=True)
    assert [chunk async for chunk in chunks] == [REPLY]


def test_sync_client_works_inside_running_loop(websim_server):
    async def notebook_cell():
        return text_of(Client(provider=Websim).chat.completions.create(HELLO))

    assert asyncio.run(notebook_cell()) == REPLY


def test_sends_input_image(websim_server):
    Client(provider=Websim).chat.completions.create(HELLO, image=PNG_URI)
    content = websim_server.requests[-1].json["messages"][-1]["content"]
    assert content[-1] == {"type": "image_url", "image_url": {"url": PNG_URI}}


def test_sends_api_key_of_client_only_if_websim_token(websim_server):
    Client(provider=Websim, api_key=JWT).chat.completions.create(HELLO)
    Client(provider=Websim, api_key="sk-1234567890").chat.completions.create(HELLO)
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


def test_openai_size_selects_aspect_ratio(websim_server):
    Client(provider=Websim).images.generate("a cat", model="flux", size="1080x1920", response_format="url")
    assert websim_server.requests[-1].json["aspect_ratio"] == "9:16"


def test_returns_image_as_base64(websim_server):
    response = Client(provider=Websim).images.generate("a cat", response_format="b64_json")
    assert base64.b64decode(response.data[0].b64_json).startswith(PNG_MAGIC)


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
    fails = False

    @classmethod
    async def create_async_generator(cls, model, messages, **kwargs):
        if cls.fails:
            raise ResponseError("the other provider failed")
        yield OTHER_REPLY


@pytest.mark.parametrize("kind", [IterListProvider, RetryProvider])
def test_fallback_provider_replies_when_websim_fails(websim_server, kind):
    websim_server.inject(Fault(status=429), times=3)
    assert text_of(Client(provider=kind([Websim, Other], False)).chat.completions.create(HELLO)) == OTHER_REPLY
    assert len(websim_server.requests) == 3


def test_fallback_provider_replies_at_once_when_delay_is_too_long(websim_server):
    websim_server.inject(LONG_RATE_LIMIT)
    providers = IterListProvider([Websim, Other], False)
    assert text_of(Client(provider=providers).chat.completions.create(HELLO)) == OTHER_REPLY
    assert len(websim_server.requests) == 1


def test_websim_replies_as_fallback_provider(websim_server, monkeypatch):
    monkeypatch.setattr(Other, "fails", True)
    assert text_of(Client(provider=IterListProvider([Other, Websim], False)).chat.completions.create(HELLO)) == REPLY


def test_client_raises_error(websim_server):
    websim_server.inject(Fault(status=429), times=3)
    with pytest.raises(RateLimitError):
        Client(provider=Websim).chat.completions.create(HELLO)
