"""The server of `g4f-websim api`, asked over HTTP by the clients that people use."""

import base64
import json
import os
import signal
from contextlib import contextmanager, suppress

import anthropic
import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI

from g4f_websim import Websim
from g4f_websim.emulator import Emulator, Fault
from g4f_websim.endpoints import CHAT_PATH, IMAGE_PATH
from tests.support.calls import HELLO, JWT, PNG_URI
from tests.support.processes import ANSWER, API, MODULE, PNG_MAGIC, SCRIPT, make_home, server

SECRET = "the-secret-of-the-g4f-server"
WITH_SECRET = {"g4f-api-key": SECRET}

# Refused for good, where the server tries thrice, without a wait.
TRIES = Websim.max_tries
RATE_LIMITED = Fault(status=429, headers={"Retry-After": "0"})

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL_OF_WEATHER = {"tool_calls": [{"name": "weather", "arguments": {"city": "Paris"}}]}


@pytest.fixture(scope="module")
def emulator():
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def api(emulator, tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("api"))
    with server(*API, "--g4f-api-key", SECRET, home=home, WEBSIM_URL=emulator.url) as started:
        yield started


@pytest.fixture(scope="module", params=[SCRIPT, MODULE], ids=["script", "module"])
def offline_api_with_two_workers(request, tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("workers"))
    with server("--offline", *API, "--workers", "2", command=request.param, home=home) as started:
        started.wait_for_output("Application startup complete", times=2)
        yield started


@pytest.fixture(autouse=True)
def nothing_from_other_tests(emulator):
    emulator.reset()


def client_of_openai(api, base="/v1", api_key=SECRET):
    return openai.OpenAI(base_url=api.url + base, api_key=api_key, default_headers=WITH_SECRET, max_retries=0)


def client_of_anthropic(api):
    return anthropic.Anthropic(base_url=api.url, api_key=SECRET, default_headers=WITH_SECRET, max_retries=0)


def client_of_langchain(api):
    return ChatOpenAI(
        base_url=f"{api.url}/v1", api_key=SECRET, default_headers=WITH_SECRET, model="gemini-2.5-pro", max_retries=0
    )


def answer_with(content):
    return Fault(body=json.dumps({"role": "assistant", "content": content}).encode())


def get(api, path):
    return httpx.get(api.url + path, headers=WITH_SECRET).raise_for_status()


def test_the_client_of_openai_chats(api, emulator):
    with client_of_openai(api) as client:
        completion = client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO)
    assert completion.choices[0].message.content == ANSWER
    assert emulator.requests[-1].json["messages"] == HELLO


def test_the_client_of_openai_streams(api):
    with client_of_openai(api) as client:
        chunks = list(client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER


def test_the_client_of_openai_shows_a_picture(api, emulator):
    shown = {"type": "image_url", "image_url": {"url": PNG_URI}}
    content = [{"type": "text", "text": "What is this?"}, shown]
    with client_of_openai(api) as client:
        client.chat.completions.create(model="gemini-2.5-pro", messages=[{"role": "user", "content": content}])
    assert shown in emulator.requests[-1].json["messages"][-1]["content"]


def test_the_client_of_openai_makes_a_picture_of_a_size(api, emulator):
    with client_of_openai(api, "/api/Websim") as client:
        made = client.images.generate(model="flux", prompt="a cat", size="1024x1792", response_format="url")
    assert httpx.get(made.data[0].url).content.startswith(PNG_MAGIC)
    asked = emulator.requests[-1].json
    assert (asked["prompt"], asked["width"], asked["height"], asked["aspect_ratio"]) == ("a cat", 1024, 1792, "9:16")


def test_the_client_of_openai_gets_a_picture_as_base64(api):
    with client_of_openai(api, "/api/Websim") as client:
        made = client.images.generate(model="flux", prompt="a cat", response_format="b64_json")
    assert base64.b64decode(made.data[0].b64_json).startswith(PNG_MAGIC)


def test_the_server_keeps_a_picture_where_no_format_is_asked(api, emulator):
    emulator.inject(Fault(body=json.dumps({"url": PNG_URI}).encode()))
    with client_of_openai(api, "/api/Websim") as client:
        made = client.images.generate(model="flux", prompt="a cat")
    assert made.data[0].url.startswith(f"{api.url}/media/")
    assert httpx.get(made.data[0].url, headers=WITH_SECRET).content.startswith(PNG_MAGIC)


def test_the_client_of_openai_is_told_to_call_a_tool(api, emulator):
    emulator.inject(answer_with(json.dumps(CALL_OF_WEATHER)))
    with client_of_openai(api) as client:
        completion = client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO, tools=[WEATHER])
    (call,) = completion.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})


def test_websim_is_told_of_the_tools(api, emulator):
    with client_of_openai(api) as client:
        client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO, tools=[WEATHER])
    assert "The weather in a city" in str(emulator.requests[-1].json["messages"])


def test_the_client_of_anthropic_chats(api):
    with client_of_anthropic(api) as client:
        message = client.messages.create(model="gemini-2.5-pro", max_tokens=100, messages=HELLO)
    assert message.content[0].text == ANSWER


def test_langchain_chats(api):
    assert client_of_langchain(api).invoke("Hello").content == ANSWER


def test_langchain_streams(api):
    assert "".join(chunk.content for chunk in client_of_langchain(api).stream("Hello")) == ANSWER


def test_a_prefix_of_the_model_names_websim_for_a_picture(api, emulator):
    with client_of_openai(api) as client:
        completion = client.chat.completions.create(
            model="Websim:flux", messages=[{"role": "user", "content": "a cat"}]
        )
    assert f"{emulator.url}/offline/" in completion.choices[0].message.content
    assert (emulator.requests[-1].path, emulator.requests[-1].json["prompt"]) == (IMAGE_PATH, "a cat")


def test_a_prefix_of_the_model_names_websim_for_a_chat(api, emulator):
    with client_of_openai(api) as client:
        completion = client.chat.completions.create(model="Websim:gemini-2.5-pro", messages=HELLO)
    assert completion.choices[0].message.content == ANSWER
    assert emulator.requests[-1].path == CHAT_PATH


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_rate_limit_reaches_the_client_of_openai(api, emulator, stream):
    emulator.inject(RATE_LIMITED, times=TRIES)
    with client_of_openai(api) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO, stream=stream)
    assert len(emulator.requests) == TRIES


def test_a_rate_limit_reaches_the_client_of_anthropic(api, emulator):
    emulator.inject(RATE_LIMITED, times=TRIES)
    with client_of_anthropic(api) as client, pytest.raises(anthropic.RateLimitError):
        client.messages.create(model="gemini-2.5-pro", max_tokens=100, messages=HELLO)


def test_the_servers_secret_never_reaches_websim(api, emulator):
    with client_of_openai(api) as chats, client_of_openai(api, "/api/Websim") as draws:
        chats.chat.completions.create(model="gemini-2.5-pro", messages=HELLO)
        chats.chat.completions.create(model="gemini-2.5-pro", messages=HELLO, tools=[WEATHER])
        draws.images.generate(model="flux", prompt="a cat", response_format="url")
    assert len(emulator.requests) == 3
    assert SECRET not in str(emulator.requests)


def test_a_token_of_websims_reaches_it(api, emulator):
    with client_of_openai(api, api_key=JWT) as client:
        client.chat.completions.create(model="gemini-2.5-pro", messages=HELLO)
    assert emulator.requests[-1].header("authorization") == f"Bearer {JWT}"


def test_websim_is_listed_once(api):
    names = [provider["id"] for provider in get(api, "/v1/providers").json()]
    assert names.count("Websim") == 1


def test_the_server_describes_websim(api, emulator):
    described = get(api, "/v1/providers/Websim").json()
    assert (described["id"], described["url"], described["image_models"]) == ("Websim", emulator.url, ["flux"])


def test_the_server_lists_the_models(api):
    models = get(api, "/api/Websim/models").json()["data"]
    assert {model["id"]: model["image"] for model in models} == {name: name == "flux" for name in Websim.models}


def test_the_server_tells_that_websim_is_healthy(api):
    health = get(api, "/api/Websim/health").json()
    assert (health["status"], health["ok"]) == (200, True)


@contextmanager
def asleep(worker):
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


def from_each_worker(api, ask):
    """Return what is answered while one worker sleeps, and while the other does."""
    for worker in api.wait_for_output(r"Started server process \[(\d+)\]", times=2)[:2]:
        with asleep(int(worker)):
            yield ask()


def test_each_worker_knows_websim(offline_api_with_two_workers):
    api = offline_api_with_two_workers
    assert [seen["id"] for seen in from_each_worker(api, lambda: api.get("/v1/providers/Websim"))] == ["Websim"] * 2


def test_each_worker_asks_websim_where_no_provider_is_named(offline_api_with_two_workers):
    assert list(from_each_worker(offline_api_with_two_workers, offline_api_with_two_workers.chat)) == [ANSWER] * 2


def test_a_terminated_server_leaves_no_folder_behind(tmp_path):
    home = make_home(tmp_path)
    with server("--offline", *API, home=home) as started:
        assert any(home.joinpath("tmp").glob("g4f-websim-*"))
        started.process.terminate()
        started.process.wait()
    assert not list(home.joinpath("tmp").iterdir())
