"""The server of `g4f-websim api` over HTTP, with popular client libraries."""

import base64
import itertools
import json
import os
import signal
from contextlib import contextmanager, suppress

import anthropic
import httpx
import openai
import pytest

from g4f_websim import Websim
from g4f_websim.emulator import Fault
from g4f_websim.wire.endpoints import CHAT_PATH, IMAGE_PATH
from tests.support.calls import HELLO, JWT, PNG_URI, make_token
from tests.support.processes import API, MODULE, SCRIPT, SECONDS_TO_STOP, make_home, server
from tests.support.responses import LONG_RATE_LIMIT, PNG_MAGIC, REPLY, text_of, text_of_stream

# The server sends its requests to the emulator in every test, also in those that do not name it.
pytestmark = pytest.mark.usefixtures("emulator")

SECRET = "the-secret-of-the-g4f-server"
WITH_SECRET = {"g4f-api-key": SECRET}

NUMBERS = itertools.count(2)

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
WEATHER_CALL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Paris"}}]}


@pytest.fixture(scope="module")
def api(shared_emulator, tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("api"))
    with server(*API, "--g4f-api-key", SECRET, home=home, WEBSIM_URL=shared_emulator.url) as started:
        yield started


@pytest.fixture(scope="module", params=[SCRIPT, MODULE], ids=["script", "module"])
def offline_api_with_two_workers(request, tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("workers"))
    with server("--offline", *API, "--workers", "2", command=request.param, home=home) as started:
        started.wait_for_output("Application startup complete", times=2)
        yield started


def openai_client(api, base="/v1", api_key=SECRET):
    return openai.OpenAI(base_url=api.url + base, api_key=api_key, default_headers=WITH_SECRET, max_retries=0)


def anthropic_client(api, api_key=SECRET):
    return anthropic.Anthropic(base_url=api.url, api_key=api_key, default_headers=WITH_SECRET, max_retries=0)


def langchain_client(api):
    reason = "langchain-openai has requirements without wheels for Python 3.15"
    langchain_openai = pytest.importorskip("langchain_openai", reason=reason)
    return langchain_openai.ChatOpenAI(
        base_url=f"{api.url}/v1", api_key=SECRET, default_headers=WITH_SECRET, model="gemini-2.5-pro", max_retries=0
    )


def own_login():
    """Return a new token: calls with another login do not wait for its rate limit."""
    return make_token(sub=str(next(NUMBERS)))


def chat_response(content):
    return Fault(body=json.dumps({"role": "assistant", "content": content}).encode())


def get(api, path):
    return httpx.get(api.url + path, headers=WITH_SECRET).raise_for_status()


def test_openai_client_chats(api, emulator):
    with openai_client(api) as client:
        completion = client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO)
    assert text_of(completion) == REPLY
    assert emulator.requests[-1].json["messages"] == HELLO


def test_openai_client_streams(api):
    with openai_client(api) as client:
        chunks = list(client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO, stream=True))
    assert text_of_stream(chunks) == REPLY


def test_openai_client_sends_image(api, emulator):
    image_part = {"type": "image_url", "image_url": {"url": PNG_URI}}
    content = [{"type": "text", "text": "What is this?"}, image_part]
    with openai_client(api) as client:
        client.chat.completions.create(model="gemini-2.5-pro", messages=[{"role": "user", "content": content}])
    assert image_part in emulator.requests[-1].json["messages"][-1]["content"]


def test_openai_client_generates_image_of_size(api, emulator):
    with openai_client(api, "/api/Websim") as client:
        response = client.images.generate(model="flux", prompt="a cat", size="1024x1792", response_format="url")
    assert httpx.get(response.data[0].url).content.startswith(PNG_MAGIC)
    sent = emulator.requests[-1].json
    assert (sent["prompt"], sent["width"], sent["height"], sent["aspect_ratio"]) == ("a cat", 1024, 1792, "9:16")


def test_openai_client_receives_image_as_base64(api):
    with openai_client(api, "/api/Websim") as client:
        response = client.images.generate(model="flux", prompt="a cat", response_format="b64_json")
    assert base64.b64decode(response.data[0].b64_json).startswith(PNG_MAGIC)


def test_server_stores_image_by_default(api, emulator):
    emulator.inject(Fault(body=json.dumps({"url": PNG_URI}).encode()))
    with openai_client(api, "/api/Websim") as client:
        response = client.images.generate(model="flux", prompt="a cat")
    assert response.data[0].url.startswith(f"{api.url}/media/")
    assert httpx.get(response.data[0].url, headers=WITH_SECRET).content.startswith(PNG_MAGIC)


def test_openai_client_receives_tool_call(api, emulator):
    emulator.inject(chat_response(json.dumps(WEATHER_CALL)))
    with openai_client(api) as client:
        completion = client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO, tools=[WEATHER])
    (call,) = completion.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})


def test_sends_tools_in_messages(api, emulator):
    with openai_client(api) as client:
        client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO, tools=[WEATHER])
    assert "The weather in a city" in str(emulator.requests[-1].json["messages"])


def test_anthropic_client_chats(api):
    with anthropic_client(api) as client:
        message = client.messages.create(model="gemini-2.5-pro", max_tokens=100, messages=HELLO)
    assert message.content[0].text == REPLY


def test_langchain_chats(api):
    assert langchain_client(api).invoke("Hello").content == REPLY


def test_langchain_streams(api):
    assert "".join(chunk.content for chunk in langchain_client(api).stream("Hello")) == REPLY


def test_model_prefix_selects_websim_for_image(api, emulator):
    with openai_client(api) as client:
        completion = client.chat.completions.create(
            model="Websim:flux", messages=[{"role": "user", "content": "a cat"}]
        )
    assert f"{emulator.url}/offline/" in text_of(completion)
    assert (emulator.requests[-1].path, emulator.requests[-1].json["prompt"]) == (IMAGE_PATH, "a cat")


def test_model_prefix_selects_websim_for_chat(api, emulator):
    with openai_client(api) as client:
        completion = client.chat.completions.create(model="Websim:gemini-2.5-pro", messages=HELLO)
    assert text_of(completion) == REPLY
    assert emulator.requests[-1].path == CHAT_PATH


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_openai_client_raises_rate_limit(api, emulator, stream):
    emulator.inject(LONG_RATE_LIMIT)
    with openai_client(api, api_key=own_login()) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO, stream=stream)
    assert len(emulator.requests) == 1


def test_anthropic_client_raises_rate_limit(api, emulator):
    emulator.inject(LONG_RATE_LIMIT)
    with anthropic_client(api, own_login()) as client, pytest.raises(anthropic.RateLimitError):
        client.messages.create(model="gemini-2.5-pro", max_tokens=100, messages=HELLO)
    assert len(emulator.requests) == 1


def test_api_key_of_g4f_server_is_not_sent_to_websim(api, emulator):
    with openai_client(api) as chats, openai_client(api, "/api/Websim") as images:
        chats.chat.completions.create(model="gemini-2.5-pro", messages=HELLO)
        chats.chat.completions.create(model="gemini-2.5-pro", messages=HELLO, tools=[WEATHER])
        images.images.generate(model="flux", prompt="a cat", response_format="url")
    assert len(emulator.requests) == 3
    assert SECRET not in str(emulator.requests)


def test_sends_websim_token(api, emulator):
    with openai_client(api, api_key=JWT) as client:
        client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO)
    assert emulator.requests[-1].header("authorization") == f"Bearer {JWT}"


def test_lists_websim_once(api):
    names = [provider["id"] for provider in get(api, "/v1/providers").json()]
    assert names.count("Websim") == 1


def test_describes_websim(api, emulator):
    description = get(api, "/v1/providers/Websim").json()
    assert (description["id"], description["url"], description["image_models"]) == ("Websim", emulator.url, ["flux"])


def test_lists_models(api):
    models = get(api, "/api/Websim/models").json()["data"]
    assert {model["id"]: model["image"] for model in models} == {name: name == "flux" for name in Websim.models}


def test_reports_that_websim_is_healthy(api):
    health = get(api, "/api/Websim/health").json()
    assert (health["status"], health["ok"]) == (200, True)


@contextmanager
def suspended(worker):
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


def from_each_worker(api, send):
    """Yield the response of each worker: one is suspended while the other responds."""
    for worker in api.wait_for_output(r"Started server process \[(\d+)\]", times=2)[:2]:
        with suspended(int(worker)):
            yield send()


def test_each_worker_lists_websim(offline_api_with_two_workers):
    api = offline_api_with_two_workers
    providers = from_each_worker(api, lambda: api.get("/v1/providers/Websim"))
    assert [provider["id"] for provider in providers] == ["Websim"] * 2


def test_each_worker_uses_websim_by_default(offline_api_with_two_workers):
    assert list(from_each_worker(offline_api_with_two_workers, offline_api_with_two_workers.chat)) == [REPLY] * 2


def test_terminated_server_deletes_its_folder(tmp_path):
    home = make_home(tmp_path)
    with server("--offline", *API, home=home) as started:
        assert any(home.joinpath("tmp").glob("g4f-websim-*"))
        started.process.terminate()
        started.process.wait(SECONDS_TO_STOP)
    assert not list(home.joinpath("tmp").iterdir())
